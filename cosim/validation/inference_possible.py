"""Measured runs that cannot have been as their rows say: prompts alone ask for more than the chips' peak.

    c requests in flight, each of which begins as another ends, do c / (ttft + (output - 1) tpot) prompts a second
    need = that x prompt x 2 x parameters that a token meets, the head left out, over chips x peak

Both times of a run are needed. A run past its chips' peak had prompts in a cache, or chips or requests that its row
does not tell; no model of it can be right, and none is called wrong by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cosim.validation.cases import Case as Row
from cosim.validation.inference_rows import Asked
from cosim.workload.graph import active_parameters
from cosim.workload.model import ModelArrays

TIMES = ("ttft_s", "tpot_s")
CLOSED = ("in_flight", "apart")
"""Runs that keep a number of requests in flight."""


def impossible(rows: Sequence[Row], wanted: Mapping[int, Asked]) -> dict[int, str]:
    """Why rows cannot have been as they say, by place; `wanted` are those that could be read, by place."""
    runs: dict[str, dict[str, int]] = {}
    for place, each in wanted.items():
        name = rows[place].values.get("point_id", "").strip()
        if name and each.run in CLOSED and each.quantity in TIMES:
            runs.setdefault(name, {})[each.quantity] = place
    found: dict[int, str] = {}
    flop: dict[int, float] = {}
    for places in runs.values():
        if len(places) < len(TIMES):
            continue
        first, further = (rows[places[name]].number("measured_value") or 0.0 for name in TIMES)
        run = wanted[places[TIMES[0]]]
        # Rows of one workload share its model.
        if id(run.case.model) not in flop:
            flop[id(run.case.model)] = flop_per_token(run.case.model)
        need = peak_needed(run, first, further, flop[id(run.case.model)])
        if need > 1.0:
            found |= dict.fromkeys(
                places.values(), f"impossible as it says: prompts take {need:.2f} of the chips' peak"
            )
    return found


def flop_per_token(model: ModelArrays) -> float:
    """Products of one token of a prompt, the head left out: only the last token of a prompt has one."""
    return 2.0 * max(float(active_parameters(model)) - float(model.vocab) * float(model.hidden), 0.0)


def peak_needed(wanted: Asked, ttft: float, tpot: float, flop: float) -> float:
    """Products of prompts over what the chips multiply at their peak, at the rate that the times [s] of a run say."""
    case, demand = wanted.case, wanted.demand
    cycle = ttft + max(float(demand.output) - 1.0, 0.0) * tpot
    chips = float(case.plan.chips) * wanted.workers[1]
    if wanted.prefill is not None:
        chips += float(wanted.prefill.chips) * wanted.workers[0]
    peak = chips * float(case.system.chip.matrix.peak[case.plan.dtype])
    return float(demand.concurrency) / cycle * float(demand.prompt) * flop / peak
