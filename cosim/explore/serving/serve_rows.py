"""Rows of a serving study: one for each deployment that sums up its seeds with intervals, and of several one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cosim.errors import InfeasibleError
from cosim.explore.serving.confidence import student_interval
from cosim.explore.serving.deployed import Deployed
from cosim.explore.serving.serve_file import Deployment
from cosim.explore.serving.split import room_of_forward
from cosim.records import Array, array

Row = dict[str, Any]
SEED, SUMMARY, PHASE = "seed", "summary", "serve"
UNITS = {
    "requests_per_s": "1/s",
    "good_requests_per_s": "1/s",
    "output_tokens_per_s": "token/s",
    "total_tokens_per_s": "token/s",
    "good_tokens_per_s": "token/s",
    "output_tokens_per_s_per_chip": "token/s",
    "good_tokens_per_s_per_chip": "token/s",
    "power_w": "W",
    "tokens_per_j_chip": "token/J",
    "tokens_per_j_facility": "token/J",
    "usd_per_million_tokens": "USD",
    "makespan_s": "s",
    "memory_bytes.weights": "B",
    "memory_bytes.activations": "B",
    "memory_bytes.other": "B",
    "memory_bytes.kv": "B",
    "memory_bytes.gradients": "B",
    "memory_bytes.optimizer": "B",
    "memory_bytes.total": "B",
    "feed_forward.memory_bytes.weights": "B",
    "tokens_per_s_per_chip": "token/s",
    "tokens_per_s_per_user": "token/s",
    "energy_j": "J",
}
_WORDS = (
    "deployment",
    "row",
    "system",
    "feed_forward.system",
    "workload",
    "phase",
    "stack",
    "limit",
    "limit_text",
    "quality",
    "confidence",
)


def about(name: str, deployed: Deployed) -> Row:
    """What a deployment is: columns that all its rows share."""
    case, scheduler, found = deployed.pool.case, deployed.pool.scheduler, deployed.pool.room
    plan = case.plan
    prefill = deployed.prefill
    memory = {
        **{kind: float(getattr(found, kind)) for kind in ("weights", "activations", "other")},
        "kv": max(float(found.left), 0.0),
        "gradients": 0.0,
        "optimizer": 0.0,
    }
    return {
        "deployment": name,
        "system": deployed.system.name,
        "workload": deployed.model.name,
        "phase": PHASE,
        "stack": deployed.asked.stack,
        "replicas": deployed.pool.count,
        "prefill_replicas": 0 if prefill is None else prefill.count,
        "chips_per_replica": deployed.pool.chips,
        **_forward(deployed),
        "plan.tensor_parallel": float(plan.tensor),
        "plan.pipeline_parallel": float(plan.pipeline),
        "plan.data_parallel": float(plan.data) * deployed.pool.count,
        "plan.expert_parallel": float(plan.expert),
        "plan.micro_batches": float(plan.micro_batches),
        "plan.dtype": plan.dtype,
        "plan.weights_dtype": plan.weights_dtype or plan.dtype,
        "plan.kv_dtype": plan.kv_dtype,
        "scheduler.token_budget": scheduler.token_budget,
        "scheduler.max_sequences": scheduler.max_sequences,
        "scheduler.kv_blocks": scheduler.kv_blocks,
        **{f"memory_bytes.{kind}": size for kind, size in memory.items()},
        "memory_bytes.total": sum(memory.values()),
        "feasible": True,
        "limit": "",
        "limit_by": None,
        "limit_text": "",
        "quality": "own",
        "confidence": _confidence(deployed),
    }


def _forward(deployed: Deployed) -> Row:
    """Chips that do feed-forward layers alone: of a replica, their system and degrees; 0 chips where there are none."""
    split, system = deployed.pool.split, deployed.forward_system
    if split is None or system is None:
        return {"feed_forward.chips": 0.0, "feed_forward.system": "", "feed_forward.memory_bytes.weights": 0.0}
    plan = split.feed_forward.plan
    return {
        "feed_forward.chips": deployed.pool.forward_chips,
        "feed_forward.system": system.name,
        "feed_forward.memory_bytes.weights": float(room_of_forward(split).weights),
        "feed_forward.plan.tensor_parallel": float(plan.tensor),
        "feed_forward.plan.data_parallel": float(plan.data),
        "feed_forward.plan.expert_parallel": float(plan.expert),
        "feed_forward.micro_batches": float(split.micro_batches),
    }


def refused(name: str, asked: Deployment, error: InfeasibleError) -> Row:
    """The row of a deployment that breaks a limit."""
    return {
        "deployment": name,
        "row": SUMMARY,
        "system": asked.system or "",
        "workload": asked.workload or "",
        "phase": PHASE,
        "stack": asked.stack,
        "feasible": False,
        "limit": error.limit,
        # By how much is in the words alone.
        "limit_by": None,
        "limit_text": str(error),
    }


def rows_of(name: str, deployed: Deployed, found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of a deployment: one a seed where there are several, then the one that sums them up."""
    shared = about(name, deployed)
    if len(found) == 1:
        return [{**shared, "row": SUMMARY, "seed": 0, **summed_up(found)}]
    each = [{**shared, "row": SEED, "seed": seed, **row} for seed, row in enumerate(found)]
    return [*each, {**shared, "row": SUMMARY, "seed": None, **summed_up(found)}]


def _confidence(deployed: Deployed) -> str:
    """How far the chips are known; of several the least known says."""
    order = ("estimated", "published", "measured")
    return min((side.system.chip.confidence for side in deployed.sides), key=order.index)


def summed_up(rows: Sequence[Mapping[str, Any]], level: float = 0.95) -> Row:
    """Means of figures over seeds; `.low` and `.high` are Student's interval, NaN where there is one seed alone."""
    found: Row = {}
    for name in rows[0]:
        values = array([row[name] for row in rows])
        mean, low, high = _interval(values, level)
        found |= {name: mean, f"{name}.low": low, f"{name}.high": high}
    return found


def _interval(values: Array, level: float) -> tuple[float, float, float]:
    nan = float("nan")
    if not np.all(np.isfinite(values)):
        return nan, nan, nan
    if len(values) < 2:
        return float(values[0]), nan, nan
    found = student_interval(values, level)
    return found.mean, found.low, found.high


def table_of(rows: Sequence[Row]) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """All rows as an Arrow table; a column that a row has not is null in it, NaN too. Units are in the metadata."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    fields, arrays = [], []
    for name in names:
        values = [_known(row.get(name)) for row in rows]
        # What no row knows is a number all the same.
        kind = pa.string() if _is_text(name) else pa.float64() if all(value is None for value in values) else None
        column = pa.array(values, kind)
        unit = unit_of(name)
        fields.append(pa.field(name, column.type, metadata={"unit": unit} if unit else None))
        arrays.append(column)
    return pa.table(arrays, schema=pa.schema(fields))


def unit_of(name: str) -> str:
    """Unit of a column, empty where it has none."""
    base = name.removesuffix(".low").removesuffix(".high")
    if base in UNITS:
        return UNITS[base]
    return "s" if base.split(".")[0].endswith("_s") and "_per_" not in base else ""


def _is_text(name: str) -> bool:
    return name in _WORDS or name.endswith("dtype")


def _known(value: Any) -> Any:  # noqa: ANN401  # a figure, a word or a flag
    """A figure as a float, NaN as unknown; words and flags as they are."""
    if value is None or isinstance(value, str | bool):
        return value
    number = float(value)
    return number if np.isfinite(number) else None
