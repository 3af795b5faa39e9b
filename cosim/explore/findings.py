"""What a comparison found: winners per goal and precision, three columns of quality, prices, operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.economics.price import Serving, break_even_price, cost_per_million_tokens
from cosim.engines.analytic import Estimates
from cosim.engines.case import Case, device_graph
from cosim.engines.step import OpCost, op_costs
from cosim.engines.training import kernels
from cosim.explore.breakeven import break_even
from cosim.explore.compare import Block, Goal, winner
from cosim.explore.die import chip_of, die_columns
from cosim.explore.experiment import Lengths
from cosim.explore.rows import columns, row
from cosim.hardware.system import System
from cosim.mapping.legal import LIMITS
from cosim.overrides import Varied
from cosim.records import map_leaves, take
from cosim.timing.cost import BOUNDS, math_dtype
from cosim.workload.moe import repeats

Run = tuple[Block, Estimates]


@dataclass(frozen=True, slots=True)
class Finding:
    """The ranking of one goal in one precision: entries best first, those that cannot serve last."""

    goal: Goal
    label: str
    entries: tuple[dict[str, Any], ...]


def findings(
    runs: Sequence[Run], systems: dict[str, Varied[System]], goals: Sequence[Goal], labels: Sequence[str]
) -> list[Finding]:
    """Every goal x precision, in the order of the study."""
    return [_finding(runs, systems, goal, label) for goal in goals for label in labels]


def as_json(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as plain data for run.json."""
    return [
        {
            "goal": f.goal.text,
            "workload": f.goal.workload,
            "phase": f.goal.phase,
            "limit_s": f.goal.limit_s,
            "per": f.goal.per,
            "precision": f.label,
            "entries": f.entries,
        }
        for f in found
    ]


def whole_requests(found: Sequence[Finding], lengths: Lengths) -> list[dict[str, Any]]:
    """Prefill and decode together: every decode goal with the prefill of the same precision.

    Chips are split between the phases as the lengths ask: a chip serves out / (out / decode + in / prefill)
    output tokens/s. Cost per million output tokens adds in / out prefill tokens to each.
    """
    prefill = {
        (f.goal.workload, f.label): {e["system"]: e for e in f.entries} for f in found if f.goal.phase == "prefill"
    }
    rows: list[dict[str, Any]] = []
    for finding in found:
        key = (finding.goal.workload, finding.label)
        if finding.goal.phase != "decode" or key not in prefill:
            continue
        entries = [_whole(e, prefill[key][e["system"]], lengths) for e in finding.entries]
        entries.sort(key=lambda e: -(e["rate"] or 0.0))
        about = {"goal": finding.goal.text, "workload": finding.goal.workload, "precision": finding.label}
        rows.append({**about, "entries": entries})
    return rows


def _whole(decode: dict[str, Any], prefill: dict[str, Any], lengths: Lengths) -> dict[str, Any]:
    """One system: output tokens/s per chip over both phases, share of chips that prefill, USD per M output tokens."""
    known = decode["rate"] is not None and prefill["rate"] is not None
    if not known:
        named = {"system": decode["system"], "confidence": decode["confidence"]}
        return {**named, "rate": None, "prefill_share": None, "usd_per_million": None}
    per_decode, per_prefill = lengths.output / decode["rate"], lengths.input / prefill["rate"]
    costs = (decode["usd_per_million"], prefill["usd_per_million"])
    priced = None not in costs
    ratio = lengths.input / lengths.output
    return {
        "system": decode["system"],
        "confidence": decode["confidence"],
        "rate": lengths.output / (per_decode + per_prefill),
        "prefill_share": per_prefill / (per_decode + per_prefill),
        "usd_per_million": costs[0] + ratio * costs[1] if priced else None,
    }


def operators(block: Block, index: int) -> list[dict[str, Any]]:
    """Every operator of one point: shape, count, tiling, bound, bytes, utilisation, time."""
    case = take(block.case, np.array([index], dtype=np.intp))
    return operator_rows(case)


def operator_rows(case: Case) -> list[dict[str, Any]]:
    """The same for a case of one point."""
    ops = kernels(case) if case.phase == "train" else op_costs(case, device_graph(case))
    return [_operator(op, case) for op in ops]


def _operator(op: OpCost, case: Case) -> dict[str, Any]:
    cost = op.cost
    layers = float(np.max(repeats(case.model, op.group)))
    micro_batches = float(np.max(case.plan.micro_batches))
    chip = case.system.chip
    peak = float(np.max(chip.matrix.peak[op.dtype if op.kind == "matmul" else math_dtype(chip)]))
    time = float(np.max(cost.time))
    flop = float(np.max(cost.flop))
    use = None if op.kind == "vector" else flop / time / peak
    return {
        "name": op.name,
        "kind": op.kind,
        "shape": [float(np.max(d)) for d in op.dims],
        "dtype": op.dtype,
        "count": layers * micro_batches * float(np.max(op.count)),
        "tiling": [float(np.max(t)) for t in cost.tiling],
        "bound": BOUNDS[int(np.max(cost.bound))],
        "flop": flop,
        "dram_bytes": float(np.max(cost.dram_bytes)),
        "on_chip_bytes": float(np.max(cost.cache_bytes)),
        "utilisation": use,
        "time_s": time,
    }


def _finding(runs: Sequence[Run], systems: dict[str, Varied[System]], goal: Goal, label: str) -> Finding:
    entries = [_entry(runs, name, varied, goal, label) for name, varied in systems.items()]
    ranked = sorted(entries, key=lambda e: -(e["rate"] or 0.0))
    _with_break_even(ranked, runs, goal, label)
    _with_prices(ranked, systems)
    return Finding(goal, label, tuple(ranked))


def _pick(runs: Sequence[Run], system: str, goal: Goal, label: str, quality: str) -> Run | None:
    for block, result in runs:
        if goal.holds(block) and (block.system, block.label, block.quality) == (system, label, quality):
            return block, result
    return None


def _entry(runs: Sequence[Run], system: str, varied: Varied[System], goal: Goal, label: str) -> dict[str, Any]:
    """One system's best at each quality: the whole row at its own, the rate at the others."""
    confidence = varied.spec.chip.confidence
    entry: dict[str, Any] = {"system": system, "confidence": confidence, "rate": None, "why": "", "row": None}
    entry["has_range"] = _pick(runs, system, goal, label, "low") is not None
    for quality in ("own", "equal", "low", "high"):
        run = _pick(runs, system, goal, label, quality)
        rate = None
        if run is None:
            missing = (
                f"no matrix rate in {label}"
                if goal.phase != "train"
                else f"no rate in {label}, no legal plan, or a node beyond the power"
            )
            entry["why"] = entry["why"] or missing if quality == "own" else entry["why"]
        else:
            block, result = run
            best = winner(result, goal)
            if best is not None:
                rate = float(block.rate(result)[best])
            if quality == "own":
                entry["plans"] = block.plans
                if best is None:
                    entry["why"] = _why_not(result, goal)
                else:
                    one = np.array([best], dtype=np.intp)
                    alone = map_leaves(result, lambda leaf, one=one: leaf[one])  # type: ignore[misc]
                    die = die_columns(chip_of(varied))
                    table = columns(take(block.case, one), alone, quality="own", confidence=confidence, die=die)
                    entry["row"], entry["index"] = row(table, 0), best
        entry["rate" if quality == "own" else f"rate_{quality}"] = rate
    return entry


def _why_not(result: Estimates, goal: Goal) -> str:
    """Why no point meets the goal: the limit that most points break, or the fastest step."""
    if result.feasible.any():
        return f"fastest step {np.nanmin(result.time) * 1e3:.3g} ms"
    codes, counts = np.unique(result.verdict.code, return_counts=True)
    limit = LIMITS[int(codes[np.argmax(counts)])]
    return f"infeasible: {limit.name}" if goal.limit_s else ""


def _with_break_even(ranked: list[dict[str, Any]], runs: Sequence[Run], goal: Goal, label: str) -> None:
    """Adds to every entry the quality factor at which it ties: with the leader, or for it with the second."""
    for place, entry in enumerate(ranked):
        rival = ranked[1] if place == 0 and len(ranked) > 1 else ranked[0]
        run = _pick(runs, entry["system"], goal, label, "own")
        if run is None or rival["rate"] is None or rival is entry:
            nothing = {"factor": None, "reason": "no rival", "against": None, "against_confidence": None}
            entry["break_even"] = nothing
            continue
        block, result = run
        found = break_even(block.case, result, goal, rival["rate"] / block.scale)
        against = {"against": rival["system"], "against_confidence": rival["confidence"]}
        entry["break_even"] = {"factor": found.factor, "reason": found.reason, **against}


def _with_prices(ranked: list[dict[str, Any]], systems: dict[str, Varied[System]]) -> None:
    """Adds the cost of a million tokens over the price's range, and the price that matches the cheapest rival."""
    for entry in ranked:
        price = systems[entry["system"]].spec.chip.price
        entry["price"] = None if price is None else {"text": price.text, "kind": price.kind, "note": price.note or ""}
        ends = (None, None, None) if price is None else (price.si, *price.si_range)
        costs = [_cost(entry, systems[entry["system"]].spec, end) for end in ends]
        entry["usd_per_million"], entry["usd_per_million_low"], entry["usd_per_million_high"] = costs
    for entry in ranked:
        rivals = [e for e in ranked if e is not entry and e["usd_per_million"] is not None]
        cheapest = min(rivals, key=lambda e: float(e["usd_per_million"]), default=None)
        entry["break_even_rival"] = None if cheapest is None else cheapest["system"]
        entry["break_even_rival_confidence"] = None if cheapest is None else cheapest["confidence"]
        for end in ("", "_low", "_high"):
            target = None if cheapest is None else cheapest[f"usd_per_million{end}"]
            entry[f"break_even_price{end}_usd"] = _even(entry, systems[entry["system"]].spec, target)


def _cost(entry: dict[str, Any], system: System, price_usd: float | None) -> float | None:
    serving = _serving(entry, system, price_usd)
    return None if serving is None else cost_per_million_tokens(serving)


def _even(entry: dict[str, Any], system: System, target: float | None) -> float | None:
    serving = _serving(entry, system, None)
    return None if serving is None or target is None else break_even_price(serving, target)


def _serving(entry: dict[str, Any], system: System, price_usd: float | None) -> Serving | None:
    """One chip of the system at its best point; None where it cannot serve."""
    if entry["row"] is None:
        return None
    return Serving(
        tokens_per_s=entry["row"]["tokens_per_s_per_chip"],
        energy_per_token_j=1.0 / entry["row"]["tokens_per_j_facility"],
        price_usd=price_usd,
        energy_price_usd_per_j=system.facility.energy_price.si,
        lifetime_years=system.facility.lifetime_years.si,
    )
