"""What kinds of strategy a measured step is of: labels by aspect, from its columns and the defaults of its stack.

ranks        tensor ranks only, pipeline, context ranks, experts: a row may be of several
weights      sharded weights (ZeRO 3, FSDP)
task         LoRA
recompute    none, selective, full: as the stack does it where the row does not say
precision    the row's
"""

from __future__ import annotations

from cosim import library
from cosim.mapping.software import load_software
from cosim.validation.cases import Case as Row
from cosim.validation.row_system import CannotAnswerError
from cosim.validation.training_rows import Reader

ASPECTS = ("strategy", "recompute", "precision")
OPEN = "degrees not said"


def labels(row: Row) -> dict[str, tuple[str, ...]]:
    """Labels of a row by aspect; an aspect that cannot be told has none."""
    return {
        "strategy": tuple(_ranks(row)),
        "recompute": _recompute(row),
        "precision": tuple(filter(None, (row.values.get("precision", "").strip(),))),
    }


def _ranks(row: Row) -> list[str]:
    """Kinds of ranks and sharding, whether the whole model is trained."""
    tensor, pipeline, context = (row.number(name) for name in ("tp", "pp", "cp"))
    experts = (row.number("experts") or 0.0) > 1.0
    found = []
    if tensor is None or pipeline is None:
        found.append(OPEN)
    if (tensor or 1.0) > 1.0 and pipeline == 1.0 and (context or 1.0) == 1.0 and not experts:
        found.append("tensor ranks only")
    if (pipeline or 1.0) > 1.0:
        found.append("pipeline")
    if _is_sharded(row):
        found.append("sharded weights (ZeRO 3, FSDP)")
    if (context or 1.0) > 1.0:
        found.append("context ranks")
    if experts:
        found.append("experts (MoE)")
    if row.values.get("task", "").strip() == "lora":
        found.append("LoRA")
    return found


def _reader(row: Row) -> Reader | None:
    name = row.values.get("software_stack", "")
    return Reader(row, load_software(name)) if name in library.names("software") else None


def _is_sharded(row: Row) -> bool:
    reader = _reader(row)
    try:
        return reader is not None and reader.zero() == 3
    except CannotAnswerError:
        return False


def _recompute(row: Row) -> tuple[str, ...]:
    reader = _reader(row)
    try:
        return () if reader is None else (reader.recompute(),)
    except CannotAnswerError:
        return ()
