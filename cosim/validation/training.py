"""Predictions of measured training steps: each row becomes a training case, rows of one structure one batch.

What a row leaves open is completed as its software does it, and said: the vocabulary of the family, data
parallelism from what is left of the chips, the shape of a plain GPT where the workload is not in the library.
A row that ran did fit: memory is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from cosim import library
from cosim.dtypes import TRAINING_PRECISIONS
from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import LIMITS
from cosim.mapping.plan import RECOMPUTES, Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import Software, load_software, lower_software
from cosim.overrides import Varied
from cosim.records import array, stacked, structure
from cosim.validation.cases import Case as Row
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

QUANTITIES = ("seconds_per_step", "tokens_per_s_per_chip", "samples_per_s")
Spec = TypeVar("Spec", bound=BaseModel)
_DIMS = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim")


class CannotAnswerError(Exception):
    """A row that the model cannot answer; the text says why."""


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
    together: dict[tuple[object, ...], list[tuple[int, Case]]] = {}
    notes: dict[int, tuple[str, ...]] = {}
    for index, row in enumerate(rows):
        try:
            case, notes[index] = training_case(row)
        except CannotAnswerError as error:
            found[index] = Answer(None, None, str(error))
        else:
            together.setdefault(structure(case), []).append((index, case))
    for cases in together.values():
        result = evaluate(stacked([case for _, case in cases]))
        for place, (index, _) in enumerate(cases):
            code = int(result.verdict.code[place])
            reason = f"the plan is not legal here: {LIMITS[code].name}" if code else ""
            value = None if code else _in_quantity(float(result.time[place]), rows[index])
            found[index] = Answer(value, rows[index].number("measured_value"), reason, notes[index])
    return [found[index] for index in range(len(rows))]


def training_case(row: Row) -> tuple[Case, tuple[str, ...]]:
    """The case of a row and what was completed in it. Raises CannotAnswerError."""
    _check(row)
    software = _software(row.values.get("software_stack", ""))
    completed: list[str] = []
    model = _model(row, software, completed)
    degrees = _degrees(row, completed)
    system = _system(row, int(np.prod(list(degrees.values()))))
    plan = _described(
        Plan,
        **degrees,
        micro_batch=_whole(row, "micro_batch"),
        expert_parallel=_whole(row, "ep", 1),
        virtual_pipeline=_whole(row, "virtual_pp", 1),
        sequence_parallel=_choice(row, "sp", ("", "0", "1")) == "1",
        zero=_zero(row, degrees["data_parallel"]),
        recompute=_choice(row, "recompute", RECOMPUTES),
        dtype=_choice(row, "precision", TRAINING_PRECISIONS),
    )
    if plan.dtype not in system.chip.matrix.peak:
        raise CannotAnswerError(f"{system.chip.name} has no matrix rate in {plan.dtype}")
    scenario = _described(Scenario, context=_whole(row, "seq_len"), global_batch=_whole(row, "global_batch"))
    case = Case(
        "train",
        system,
        # Without its name, models of one structure make one batch.
        replace(lower_model(Varied(model)), name=""),
        lower_plan(Varied(plan)),
        lower_scenario(Varied(scenario)),
        lower_software(software),
    )
    return case, tuple(completed)


def _check(row: Row) -> None:
    """What the model does not cover yet, said before anything is built."""
    values = row.values
    if values.get("measured_quantity") not in QUANTITIES or (row.number("measured_value") or 0.0) <= 0.0:
        raise CannotAnswerError("measured quantity or value is unknown")
    if values.get("task", "pretrain") not in ("", "pretrain"):
        raise CannotAnswerError(f"task {values['task']} is not modelled yet")
    if values.get("arch", "dense") not in ("", "dense", "moe", "moe-mla"):
        raise CannotAnswerError(f"architecture {values['arch']} is not trained yet")


def _model(row: Row, software: Software, completed: list[str]) -> Model:
    """The workload of the library with the row's dimensions, or a plain GPT of these."""
    name = row.values.get("workload", "")
    dims = {d: _whole(row, d) for d in _DIMS if row.values.get(d, "").strip()}
    vocab = _whole(row, "vocab") if row.values.get("vocab", "").strip() else None
    length = _whole(row, "seq_len")
    if name in library.names("workloads"):
        known = load_model(name)
        # A table's ffn is the width of an expert where there are any, its head_dim of MLA a sum: the library knows.
        chosen = dims if known.experts is None else {name: dims[name] for name in dims if name == "layers"}
        if "heads" in chosen and known.kv_heads == known.heads:
            # Tables of models whose heads share no keys often leave kv_heads out.
            chosen.setdefault("kv_heads", chosen["heads"])
        chosen = chosen | ({} if vocab is None else {"vocab": vocab})
        longest = max(length, known.max_positions)
        return _described(Model, **{**known.model_dump(), **chosen, "max_positions": longest})
    if row.values.get("arch", "") in ("moe", "moe-mla"):
        raise CannotAnswerError(f"mixture of experts {name or '(blank)'} is not in the library")
    missing = [d for d in _DIMS if d not in dims]
    if missing:
        raise CannotAnswerError(f"workload {name or '(blank)'} is not in the library and {missing[0]} is not given")
    if dims["ffn"] != 4 * dims["hidden"]:
        raise CannotAnswerError(f"workload {name or '(blank)'} is not in the library and is no plain GPT")
    if vocab is None and software.vocabulary is None:
        raise CannotAnswerError("the vocabulary is not given")
    if vocab is None and software.vocabulary is not None:
        vocab = int(software.vocabulary.si)
        completed.append(f"vocab {vocab}")
    completed.append("plain GPT")
    return _described(
        Model,
        name=name or "gpt",
        title=name or "GPT",
        source="row",
        **dims,
        vocab=vocab,
        gated=False,
        norm="layer",
        position="learned",
        max_positions=length,
        tied_embeddings=True,
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
        dropout=True,
    )


def _degrees(row: Row, completed: list[str]) -> dict[str, int]:
    """Tensor, pipeline, context and data degrees; data parallelism takes what is left of the chips."""
    chips = _whole(row, "num_accelerators")
    tensor, pipeline, context = _whole(row, "tp"), _whole(row, "pp"), _whole(row, "cp", 1)
    if row.values.get("dp", "").strip():
        data = _whole(row, "dp")
    else:
        data = chips // (tensor * pipeline * context)
        completed.append(f"dp {data}")
    if tensor * pipeline * context * data != chips:
        raise CannotAnswerError("tp x pp x cp x dp is not the number of accelerators")
    return {
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "data_parallel": data,
        "context_parallel": context,
    }


def _zero(row: Row, data: int) -> int:
    """ZeRO stage; full sharding over fewer ranks than all is not modelled yet."""
    text = row.values.get("zero", "").strip()
    stage, _, over = text.partition(":fsdp")
    if text and (stage not in {"0", "1", "2", "3"} or (over and over != str(data))):
        raise CannotAnswerError(f"sharding {text} is not modelled yet")
    return int(stage or 0)


def _system(row: Row, chips: int) -> SystemArrays:
    name, chip = row.values.get("system", ""), row.values.get("accelerator", "")
    if name not in library.names("systems"):
        raise CannotAnswerError(f"system {name or '(blank)'} is not in the library")
    system = _lowered(name, chips)
    if chip and system.chip.name != chip:
        raise CannotAnswerError(f"system {name} has {system.chip.name}, not {chip}")
    return system


@lru_cache(maxsize=256)
def _lowered(name: str, chips: int) -> SystemArrays:
    """The system with nodes for `chips`, and memory without a limit: what ran did fit."""
    spec = load_system(name)
    per_node = spec.chips / spec.nodes.si
    lowered = lower_system(vary_system(Varied(spec), {"nodes": max(int(np.ceil(chips / per_node)), 1)}))
    memory = dict(lowered.chip.memory)
    memory["dram"] = replace(memory["dram"], capacity=array(np.inf))
    return replace(lowered, chip=replace(lowered.chip, memory=memory))


@lru_cache(maxsize=64)
def _software(name: str) -> Software:
    if name not in library.names("software"):
        raise CannotAnswerError(f"software stack {name or '(blank)'} is not in the library")
    try:
        return load_software(name)
    except SpecError as error:
        raise CannotAnswerError(str(error)) from None


def _whole(row: Row, column: str, default: int | None = None) -> int:
    """A positive whole number of the row, or `default` where the column is blank or absent."""
    if default is not None and not row.values.get(column, "").strip():
        return default
    value = row.number(column)
    if value is None or value < 1 or value != round(value):
        shown = row.values.get(column, "").strip()
        raise CannotAnswerError(
            f"{column} {shown} is not a positive whole number" if shown else f"{column} is not given"
        )
    return int(value)


def _described(kind: type[Spec], **fields: Any) -> Spec:  # noqa: ANN401  # whatever the description holds
    """The description, checked. Raises CannotAnswerError that names what is wrong with it."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CannotAnswerError(f"{where or kind.__name__.lower()} is not possible: {first['msg']}") from None


def _choice(row: Row, column: str, known: Sequence[str]) -> str:
    value = row.values.get(column, "").strip()
    if value not in known:
        raise CannotAnswerError(f"{column} {value} is not modelled" if value else f"{column} is not given")
    return value


def _in_quantity(seconds: float, row: Row) -> float:
    """A step's time in the quantity of the row."""
    samples = row.number("global_batch") or 0.0
    per_chip = samples * (row.number("seq_len") or 0.0) / (row.number("num_accelerators") or 1.0)
    convert: dict[str, Callable[[float], float]] = {
        "seconds_per_step": lambda s: s,
        "tokens_per_s_per_chip": lambda s: per_chip / s,
        "samples_per_s": lambda s: samples / s,
    }
    return convert[row.values["measured_quantity"]](seconds)
