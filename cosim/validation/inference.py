"""Predictions of measured inference runs by the closed form: rows of one structure are one batch.

static      a batch of one kind; its first token, its steps, or its rates over all of it
in flight   so many requests at once in a steady state
offered     so many a second
full        as many as memory and the stack hold
limited     the most within the limits of a server scenario
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case
from cosim.engines.served import Demand, Served, apart, in_flight, offered, static_batch
from cosim.engines.served_memory import room
from cosim.errors import InfeasibleError, SpecError
from cosim.records import Array, array, at, points, stacked, structure
from cosim.timing.collective import send
from cosim.validation.cases import Case as Row
from cosim.validation.inference_rows import Asked, asked
from cosim.validation.row_system import CannotAnswerError

ENGINES: dict[str, Callable[[Case, Demand], Served]] = {
    "static": static_batch,
    "in_flight": in_flight,
    "full": in_flight,
    "limited": in_flight,
    "offered": offered,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Predicted and measured value of a row in its own quantity, or the reason of none; what was completed."""

    predicted: float | None
    measured: float | None
    reason: str = ""
    completed: tuple[str, ...] = ()


def answers(rows: Sequence[Row]) -> list[Answer]:
    """Answers to all rows, in order."""
    found: dict[int, Answer] = {}
    together: dict[tuple[object, ...], list[tuple[int, Asked]]] = {}
    for index, row in enumerate(rows):
        try:
            wanted = asked(row)
        except CannotAnswerError as error:
            found[index] = Answer(None, row.number("measured_value"), str(error))
            continue
        for each in _layouts(wanted):
            key = (each.run, structure(each.case), structure(each.demand), structure(each.prefill))
            together.setdefault(key, []).append((index, each))
    tried: dict[int, list[tuple[float, float, Asked]]] = {}
    for batch in together.values():
        for (index, each), served in zip(batch, _served([each for _, each in batch]), strict=True):
            if isinstance(served, str):
                found[index] = Answer(None, rows[index].number("measured_value"), served)
            else:
                tried.setdefault(index, []).append((float(served.rate), in_quantity(served, each), each))
    for index, several in tried.items():
        # A tuned run has the layout of the highest rate.
        _, value, each = max(several, key=lambda one: one[0])
        measured = rows[index].number("measured_value")
        if np.isfinite(value) and value > 0.0:
            found[index] = Answer(value, measured, "", each.completed)
        else:
            found[index] = Answer(None, measured, f"no {each.quantity} follows from this run")
    return [found[index] for index in range(len(rows))]


def _layouts(wanted: Asked) -> list[Asked]:
    """The row in each of the layouts that it may have."""
    if not wanted.layouts:
        return [wanted]
    plan, out = wanted.case.plan, []
    chips = float(plan.tensor * plan.data)
    for tensor in wanted.layouts:
        changed = replace(plan, tensor=array(tensor), data=array(chips / tensor))
        out.append(replace(wanted, case=replace(wanted.case, plan=changed)))
    return out


def _served(batch: Sequence[Asked]) -> list[Served | str]:
    """What each of a batch of one structure sees, or the reason why none of them can be answered."""
    case, demand = stacked([each.case for each in batch]), stacked([each.demand for each in batch])
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            served = _apart(batch, case, demand) if batch[0].run == "apart" else ENGINES[batch[0].run](case, demand)
    except (SpecError, InfeasibleError) as error:
        return [str(error)] * len(batch)
    total = max(points(case), points(demand), len(batch))
    full = Served(**{name: _all(getattr(served, name), total) for name in Served.__slots__})
    return [at(full, place) for place in range(len(batch))]


def _apart(batch: Sequence[Asked], case: Case, demand: Demand) -> Served:
    """Disaggregated rows: the cache of a prompt crosses from worker to worker by the rail of each chip."""
    prefill = replace(case, plan=stacked([each.prefill for each in batch if each.prefill is not None]))
    prefills, decodes = (array([each.workers[place] for each in batch]) for place in (0, 1))
    # A rank hands the cache of its prompt to its peer over the outermost network.
    size = room(case, demand.prompt).per_sequence
    moved = send(size, len(case.system.tiers) - 1, case.system)
    return apart(case, prefill, demand, (prefills, decodes), moved)


def _all(values: Array, total: int) -> Array:
    return np.broadcast_to(values, (total,))


def in_quantity(served: Served, wanted: Asked) -> float:
    """What a run sees in the quantity of its row; rates over all chips."""
    demand = wanted.demand
    prompt, output = float(demand.prompt), float(demand.output)
    rate, ttft = float(served.rate), float(served.ttft)
    batch = float(demand.concurrency)
    if wanted.quantity == "input_tokens_per_s":
        # Prompts alone, whatever answers follow.
        return batch * prompt / ttft if ttft > 0.0 else np.nan
    return {
        "ttft_s": ttft,
        "tpot_s": float(served.tpot),
        "e2e_s": float(served.e2e) * wanted.items,
        "output_tokens_per_s": rate * output,
        "tokens_per_s": rate * (prompt + output),
        "samples_per_s": rate / wanted.items,
    }[wanted.quantity]
