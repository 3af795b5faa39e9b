"""Predictions of measured training steps: each row becomes a training case, rows of one structure one batch.

What a row leaves open is completed as its software does it, and said: see `cosim.validation.training_rows`. Where a
stack is tuned, open degrees are those of the fastest plan that fits. A row that ran did fit: its memory is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from cosim import library
from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.train import best_plan
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays
from cosim.mapping.legal import LIMITS
from cosim.mapping.optimizers import optimized
from cosim.mapping.plan import Plan, PlanArrays, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import Software, load_software
from cosim.mapping.widths import one_format
from cosim.overrides import Varied
from cosim.records import array, map_leaves, stacked, structure
from cosim.validation.cases import Case as Row
from cosim.validation.row_system import CannotAnswerError, Systems, row_system, sized
from cosim.validation.training_rows import (
    UPDATES,
    Degrees,
    Reader,
    check,
    described,
    model_of,
)
from cosim.workload.model import lower_model


@dataclass(frozen=True, slots=True)
class Answer:
    """Predicted and measured value of a row in its own quantity, or the reason of none; what was completed."""

    predicted: float | None
    measured: float | None
    reason: str = ""
    completed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowCase:
    """A row as a case, with what was completed in it."""

    case: Case
    completed: tuple[str, ...]


def answers(rows: Sequence[Row], systems: Systems = load_system) -> list[Answer]:
    """Answers to all rows, in order, on what `systems` reads."""
    reasons: dict[int, str] = {}
    tried: dict[int, list[Answer]] = {}
    together: dict[tuple[object, ...], list[tuple[int, RowCase]]] = {}
    for index, row in enumerate(rows):
        try:
            cases = training_cases(row, systems)
        except CannotAnswerError as error:
            reasons[index] = str(error)
            continue
        for each in cases:
            together.setdefault(structure(each.case), []).append((index, each))
    for batch in together.values():
        result = evaluate(stacked([each.case for _, each in batch]))
        for place, (index, each) in enumerate(batch):
            code = int(result.verdict.code[place])
            reason = f"the plan is not legal here: {LIMITS[code].name}" if code else ""
            value = None if code else float(result.time[place])
            tried.setdefault(index, []).append(Answer(value, None, reason, each.completed))
    return [
        Answer(None, None, reasons[index]) if index in reasons else _answer(row, tried[index])
        for index, row in enumerate(rows)
    ]


def _answer(row: Row, tried: Sequence[Answer]) -> Answer:
    """The fastest of a row's answers, whose `predicted` are seconds, in the quantity of the row."""
    best = min(tried, key=lambda each: np.inf if each.predicted is None else each.predicted)
    value = None if best.predicted is None else in_quantity(best.predicted, row)
    return replace(best, predicted=value, measured=row.number("measured_value"))


def training_case(row: Row) -> tuple[Case, tuple[str, ...]]:
    """The first case of a row and what was completed in it. Raises CannotAnswerError."""
    first = training_cases(row)[0]
    return first.case, first.completed


def training_cases(row: Row, systems: Systems = load_system) -> list[RowCase]:
    """The cases of a row, one for each format that it may mean. Raises CannotAnswerError."""
    check(row)
    reader = Reader(row, _software(row.values.get("software_stack", "")))
    model, degrees = model_of(reader), reader.degrees()
    name, system = _system(reader, degrees, systems)
    software = optimized(reader.software, reader.optimizer())
    system = one_format(system, software)
    formats = reader.formats(tuple(system.chip.matrix.peak))
    for dtype in formats:
        if dtype not in system.chip.matrix.peak:
            raise CannotAnswerError(f"{system.chip.name} has no matrix rate in {dtype}")
    scenario = described(
        Scenario,
        context=reader.whole("seq_len"),
        global_batch=reader.whole("global_batch"),
        updates=UPDATES[reader.given("task")],
    )
    fields = _fields(reader, degrees, int(np.max(system.node_chips)))
    case = Case(
        "train",
        system,
        # Without its name, models of one structure make one batch.
        replace(lower_model(Varied(model)), name=""),
        lower_plan(Varied(described(Plan, **fields))),
        lower_scenario(Varied(scenario)),
        software,
    )
    cases = []
    for dtype in formats:
        said = list(reader.completed) + ([f"precision {dtype}"] if len(formats) > 1 else [])
        plan = replace(case.plan, dtype=dtype)
        if degrees.is_open:
            given = _given(reader, degrees, plan)
            plan = _fastest(replace(case, plan=plan), (name, systems), degrees, given, said)
        cases.append(RowCase(replace(case, plan=plan), tuple(said)))
    return cases


def _fields(reader: Reader, degrees: Degrees, node_chips: int) -> dict[str, Any]:
    """Fields of the row's plan; degrees that are open stand at one."""
    tensor, data, context = degrees.tensor or 1, degrees.data or 1, degrees.context or 1
    zero, shard = reader.zero(), reader.shard(node_chips)
    return {
        "tensor_parallel": tensor,
        "pipeline_parallel": degrees.pipeline or 1,
        "data_parallel": data,
        "context_parallel": context,
        "micro_batch": degrees.micro_batch or 1,
        "expert_parallel": reader.whole("ep", 1),
        "virtual_pipeline": reader.pieces(degrees.pipeline),
        "sequence_parallel": reader.sequence_parallel(degrees.tensor or 2),
        "zero": zero,
        "shard": None if shard is None or shard >= data * context else shard,
        "recompute": reader.recompute(),
        "recompute_modules": reader.recompute_modules(),
        "fp8_recipe": reader.fp8_recipe(),
    }


def _given(reader: Reader, degrees: Degrees, plan: PlanArrays) -> dict[str, float]:
    """What a search of the open degrees must leave as it is."""
    known = {
        "tensor_parallel": degrees.tensor,
        "pipeline_parallel": degrees.pipeline,
        "data_parallel": degrees.data,
        "context_parallel": degrees.context,
        "micro_batch": degrees.micro_batch,
        "expert_parallel": reader.whole("ep") if reader.given("ep") else None,
        "virtual_pipeline": float(plan.virtual) if reader.given("virtual_pp") else None,
    }
    fixed = {"zero": float(plan.zero), "recompute": float(plan.recompute), "sequence_parallel": 1.0}
    return {name: float(value) for name, value in known.items() if value is not None} | fixed


def _fastest(
    case: Case, system: tuple[str, Systems], degrees: Degrees, given: dict[str, float], said: list[str]
) -> PlanArrays:
    """The fastest plan that agrees with what is given and fits the memory of the chips. Raises CannotAnswerError."""
    machine = replace(sized(*system, degrees.chips, roomy=False), chips=array(degrees.chips))
    if case.software is None:
        raise CannotAnswerError("a search needs the software")
    try:
        found = best_plan(
            one_format(machine, case.software), case.model, case.scenario, case.software, case.plan, given
        )
    except InfeasibleError as error:
        if error.limit != "memory" or degrees.micro_batch is not None or not degrees.are_ranks:
            raise CannotAnswerError(f"no plan was found: {error.limit}") from None
        # It ran, so it did fit: the least micro-batch is the likeliest to.
        said.append("micro_batch 1")
        return case.plan
    plan = map_leaves(found.case.plan, lambda leaf: leaf.reshape(-1)[0])
    names = {"tp": plan.tensor, "pp": plan.pipeline, "cp": plan.context, "dp": plan.data, "ep": plan.expert}
    names |= {"virtual_pp": plan.virtual, "micro_batch": plan.micro_batch}
    chosen = ", ".join(f"{name} {int(value)}" for name, value in names.items())
    said.append(f"fastest of {found.tried} plans: {chosen}")
    return plan


def _system(reader: Reader, degrees: Degrees, systems: Systems) -> tuple[str, SystemArrays]:
    """The row's system, or the usual one of its chip."""
    name, chip = reader.given("system"), reader.given("accelerator")
    return row_system(name, chip, degrees.chips, systems, reader.completed)


@lru_cache(maxsize=64)
def _software(name: str) -> Software:
    if name not in library.names("software"):
        raise CannotAnswerError(f"software stack {name or '(blank)'} is not in the library")
    try:
        return load_software(name)
    except SpecError as error:
        raise CannotAnswerError(str(error)) from None


def in_quantity(seconds: float, row: Row) -> float:
    """A step's time in the quantity of the row, or what was measured in seconds: each conversion is its own inverse."""
    samples = row.number("global_batch") or 0.0
    per_chip = samples * (row.number("seq_len") or 0.0) / (row.number("num_accelerators") or 1.0)
    convert: dict[str, Callable[[float], float]] = {
        "seconds_per_step": lambda s: s,
        "tokens_per_s_per_chip": lambda s: per_chip / s,
        "samples_per_s": lambda s: samples / s,
    }
    return convert[row.values["measured_quantity"]](seconds)
