"""From estimates to the columns of a result: the names, units and order that interfaces promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import BREAKDOWN, Estimates
from cosim.engines.case import Case
from cosim.explore.metrics import Die, metric, metric_names
from cosim.explore.mfu import NAMES as MFU
from cosim.mapping.legal import LIMITS
from cosim.mapping.offload import SHARES, share
from cosim.mapping.plan import RECOMPUTES
from cosim.records import Array

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text(Sequence[str]):
    """A column of words: `names[codes[i]]` at each point. Millions of points share a few names."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Text: ...

    def __getitem__(self, index: int | slice) -> str | Text:
        if isinstance(index, slice):
            return Text(self.codes[index], self.names)
        return self.names[int(self.codes[index])]

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return (self.names[code] for code in self.codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # a column is compared by content

    @classmethod
    def joined(cls, parts: Sequence[Text]) -> Text:
        """Columns one after the other, each name once."""
        names = {name: code for code, name in enumerate(dict.fromkeys(name for part in parts for name in part.names))}
        codes = [np.array([names[name] for name in part.names], dtype=np.int32)[part.codes] for part in parts]
        return cls(np.concatenate(codes), tuple(names))

    @classmethod
    def same(cls, word: str, count: int) -> Text:
        """One word at every point."""
        return cls(np.zeros(count, dtype=np.int32), (word,))


def columns(case: Case, result: Estimates, *, quality: str, confidence: str, die: Die) -> Columns:
    """Columns of all points of a case, arrays or Text of length P; `die` as `die_columns` gives it."""
    total = result.time.shape[0]
    phase = case.phase

    def same(word: str) -> Text:
        return Text.same(word, total)

    def full(value: Array) -> Array:
        return np.broadcast_to(value, (total,))

    def number(name: str) -> Array:
        return metric(name, case, result, die)

    trains = case.phase == "train"
    # Networks and encoders keep no cache, and items of a network may have one size.
    caches, long = case.model.keeps_cache and not trains, case.model.has_tokens
    plan, scenario = case.plan, case.scenario
    codes = result.verdict.code.astype(np.int32)
    table: Columns = {
        "system": same(case.system.name),
        "workload": same(case.model.name),
        "phase": same(phase),
        "chips": result.chips,
        "plan.tensor_parallel": full(plan.tensor),
        "plan.pipeline_parallel": full(plan.pipeline),
        "plan.data_parallel": full(plan.data),
        "plan.micro_batches": full(plan.micro_batches),
        "plan.expert_parallel": full(plan.expert),
        "plan.algorithm.all_reduce": same(plan.all_reduce),
        "plan.latent": same(plan.latent if caches else ""),
        "plan.dtype": same(plan.dtype),
        "plan.weights_dtype": same(plan.weights_dtype or ""),
        "plan.kv_dtype": same(plan.kv_dtype if caches else ""),
        **_training(case, total),
        "scenario.batch": _where(not trains, full(scenario.batch)),
        "scenario.global_batch": _where(trains, full(scenario.global_batch)),
        "scenario.updates": same(scenario.updates if trains else ""),
        "scenario.adapter_rank": _where(trains and scenario.updates == "adapters", full(scenario.adapter_rank)),
        "scenario.bytes_per_sample": _where(trains, full(scenario.bytes_per_sample)),
        "scenario.context": _where(long, full(scenario.context)),
        "scenario.expert_imbalance": full(scenario.expert_imbalance),
        "scenario.capacity": _where(caches, full(scenario.capacity)),
        "feasible": result.feasible,
        "limit": Text(codes, tuple(limit.name for limit in LIMITS)),
        "limit_by": np.where(result.feasible, np.nan, result.verdict.shortfall),
        "limit_unit": Text(codes, tuple(limit.unit for limit in LIMITS)),
    }
    table |= {name: number(name) for name in metric_names() if name not in table and "." not in name}
    table |= {name: number(name) for name in MFU}
    table |= {f"memory_bytes.{kind}": value for kind, value in result.memory.items()}
    table["bottleneck"] = bottlenecks(result)
    table |= {f"breakdown_s.{name}": result.breakdown[name] for name in BREAKDOWN}
    return table | {"quality": same(quality), "confidence": same(confidence)}


def _training(case: Case, total: int) -> Columns:
    """Columns of a plan that only training knows."""
    plan, trains = case.plan, case.phase == "train"

    def same(word: str) -> Text:
        return Text.same(word, total)

    def full(value: Array) -> Array:
        return np.broadcast_to(value, (total,))

    return {
        "plan.micro_batch": _where(trains, full(plan.micro_batch)),
        "plan.context_parallel": _where(trains, full(plan.context)),
        "plan.expert_tensor_parallel": _where(
            trains, np.where(plan.expert_tensor > 0.0, full(plan.expert_tensor), np.nan)
        ),
        "plan.context_exchange": same(plan.context_exchange) if trains else same(""),
        "plan.virtual_pipeline": _where(trains, full(plan.virtual)),
        "plan.fp8_recipe": same(plan.fp8_recipe if trains and plan.dtype == "fp8" else ""),
        "plan.order": same(plan.order) if trains else same(""),
        "plan.schedule": same(plan.schedule) if trains else same(""),
        "plan.sequence_parallel": np.full(total, plan.sequence_parallel),
        "plan.zero": _where(trains, full(plan.zero)),
        "plan.shard": _where(trains, _finite(full(plan.shard))),
        "plan.recompute": Text(full(plan.recompute).astype(np.int32), RECOMPUTES) if trains else same(""),
        "plan.recompute_modules": same(",".join(plan.recompute_modules)),
        "plan.recompute_layers": _where(trains, _finite(full(plan.recompute_layers))),
        **{f"plan.offload_{name}": _where(trains, full(share(plan, name))) for name in SHARES},
        "plan.software": same("" if case.software is None else case.software.name),
        **_optimizer(case, total),
    }


def _optimizer(case: Case, total: int) -> Columns:
    """The optimizer that the plan asks for and the format of its state; empty where the software has its own."""
    update = None if case.software is None else case.software.update
    return {
        "plan.optimizer": Text.same("" if update is None else update.name, total),
        "plan.optimizer_dtype": Text.same("" if update is None else update.dtype, total),
    }


def _finite(values: Array) -> Array:
    """The values, unknown where there is no limit."""
    found: Array = np.where(np.isfinite(values), values, np.nan)
    return found


def _where(applies: bool, values: Array) -> Array:  # reads as numpy's where
    """The values, or unknown where the phase does not have them."""
    return values if applies else np.full_like(values, np.nan)


def bottlenecks(result: Estimates) -> Text:
    """The largest exposed share of each point; empty where infeasible."""
    shares = np.stack([result.breakdown[name] for name in BREAKDOWN])
    largest = np.argmax(np.nan_to_num(shares, nan=-1.0), axis=0)
    return Text(np.where(np.isnan(result.time), len(BREAKDOWN), largest).astype(np.int32), (*BREAKDOWN, ""))


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
