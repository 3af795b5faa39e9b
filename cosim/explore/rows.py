"""From estimates to the columns of a result: the names, units and order that interfaces promise."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosim.engines.analytic import BREAKDOWN, Estimates
from cosim.engines.case import Case
from cosim.mapping.legal import LIMITS
from cosim.mapping.plan import RECOMPUTES
from cosim.records import Array

Columns = dict[str, Any]

UNITS: dict[str, str] = {
    "time_s": "s",
    "tokens_per_s_per_chip": "token/s",
    "tokens_per_s_per_user": "token/s",
    "energy_j": "J",
    "power_w": "W",
    "tokens_per_j_chip": "token/J",
    "tokens_per_j_server": "token/J",
    "tokens_per_j_facility": "token/J",
}


def unit_of(column: str) -> str:
    """Unit of a result column, empty where it has none."""
    if column.startswith("breakdown_s."):
        return "s"
    if column.startswith("memory_bytes."):
        return "B"
    return UNITS.get(column, "")


def columns(case: Case, result: Estimates, *, quality: str, confidence: str) -> Columns:
    """Columns of all points of a case, arrays or lists of length P."""
    total = result.time.shape[0]

    def full(value: Array) -> Array:
        return np.broadcast_to(value, (total,))

    trains = case.phase == "train"
    per_user = _where(not trains, result.tokens / full(case.scenario.batch) / result.time)
    plan, scenario = case.plan, case.scenario
    table: Columns = {
        "system": [case.system.name] * total,
        "workload": [case.model.name] * total,
        "phase": [case.phase] * total,
        "chips": result.chips,
        "plan.tensor_parallel": full(plan.tensor),
        "plan.pipeline_parallel": full(plan.pipeline),
        "plan.data_parallel": full(plan.data),
        "plan.micro_batches": full(plan.micro_batches),
        "plan.expert_parallel": full(plan.expert),
        "plan.dtype": [plan.dtype] * total,
        "plan.kv_dtype": ["" if trains else plan.kv_dtype] * total,
        "plan.micro_batch": _where(trains, full(plan.micro_batch)),
        "plan.virtual_pipeline": _where(trains, full(plan.virtual)),
        "plan.sequence_parallel": [plan.sequence_parallel] * total,
        "plan.zero": _where(trains, full(plan.zero)),
        "plan.recompute": [RECOMPUTES[int(which)] if trains else "" for which in full(plan.recompute)],
        "plan.software": ["" if case.software is None else case.software.name] * total,
        "scenario.batch": _where(not trains, full(scenario.batch)),
        "scenario.global_batch": _where(trains, full(scenario.global_batch)),
        "scenario.context": full(scenario.context),
        "scenario.expert_imbalance": full(scenario.expert_imbalance),
        "scenario.capacity": _where(not trains, full(scenario.capacity)),
        "feasible": result.feasible,
        "limit": [LIMITS[code].name for code in result.verdict.code],
        "limit_by": np.where(result.feasible, np.nan, result.verdict.shortfall),
        "limit_unit": [LIMITS[code].unit for code in result.verdict.code],
        "time_s": result.time,
        "tokens_per_s_per_chip": result.tokens / result.time / result.chips,
        "tokens_per_s_per_user": per_user,
        "mfu": result.utilisation,
    }
    table |= {f"memory_bytes.{kind}": value for kind, value in result.memory.items()}
    table |= {
        "energy_j": result.energy,
        "power_w": result.power,
        "tokens_per_j_chip": result.tokens / result.energy,
        "tokens_per_j_server": result.tokens / result.server_energy,
        "tokens_per_j_facility": result.tokens / result.facility_energy,
        "bottleneck": bottlenecks(result),
    }
    table |= {f"breakdown_s.{name}": result.breakdown[name] for name in BREAKDOWN}
    return table | {"quality": [quality] * total, "confidence": [confidence] * total}


def _where(applies: bool, values: Array) -> Array:  # reads as numpy's where
    """The values, or unknown where the phase does not have them."""
    return values if applies else np.full_like(values, np.nan)


def bottlenecks(result: Estimates) -> list[str]:
    """The largest exposed share of each point; empty where infeasible."""
    shares = np.stack([result.breakdown[name] for name in BREAKDOWN])
    largest = np.argmax(np.nan_to_num(shares, nan=-1.0), axis=0)
    return [BREAKDOWN[i] if ok else "" for i, ok in zip(largest, result.feasible, strict=True)]


def row(table: Columns, index: int) -> dict[str, Any]:
    """One point of the columns as plain Python values; NaN becomes None."""
    return {name: plain(values[index]) for name, values in table.items()}


def plain(value: Any) -> Any:  # noqa: ANN401  # numbers, text, flags
    """A value as JSON knows it: whole floats as int, NaN and infinity as None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        return int(value) if value == round(value) and abs(value) < 1e15 else value
    return value
