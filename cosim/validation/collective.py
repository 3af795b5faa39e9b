"""Predictions of collectives timed alone, as nccl-tests time them.

A row names a system, an operation, bytes (nccl-tests' `size`), ranks and ranks of each node. A blank system is the
usual node of the accelerator; ranks that need more nodes than the system's file has get as many as they need. A blank
`ranks_per_node` fills nodes. Ranks inside a node lie next to each other, and so do nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cosim import library
from cosim.errors import SpecError, nearest
from cosim.hardware.load import load_system, usual_systems
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.mapping.placement import Placement, placed
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.timing.collective import (
    CollectiveCost,
    all_gather,
    all_reduce,
    broadcast,
    reduce_scatter,
    send_pair,
    uniform_all_to_all,
)
from cosim.validation.cases import Case

Answer = tuple[float | None, str]
"""Seconds, or None with the reason."""
OPS: Mapping[str, Callable[[Array, Placement, SystemArrays], CollectiveCost]] = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "alltoall": uniform_all_to_all,
    "broadcast": broadcast,
    "reduce": broadcast,
    "send_recv": send_pair,
}
"""Operations by their names in measured cases; a reduce takes what a broadcast takes."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Measured collectives of one operation: bytes, ranks and ranks of each node, seconds (N,)."""

    op: str
    size: Array
    ranks: Array
    per_node: Array
    measured: Array


def answers(cases: Sequence[Case]) -> list[Answer]:
    """Seconds of every case, in order; rows that share system and operation are costed in one call."""
    found: list[Answer] = [(None, "")] * len(cases)
    known = library.names("systems")
    usual = usual_systems() if any(not case.values.get("system", "").strip() for case in cases) else {}
    systems: dict[str, System] = {}
    together: dict[tuple[str, str], list[int]] = {}
    for index, case in enumerate(cases):
        name = case.values.get("system", "").strip() or usual.get(case.values["accelerator"].strip(), "")
        reason = _unnamed(case, name, known)
        if not reason:
            if name not in systems:
                systems[name] = load_system(name)
            reason = fault(case, systems[name])
        if reason:
            found[index] = (None, reason)
        else:
            together.setdefault((name, case.values["op"].strip()), []).append(index)
    for (name, op), indices in together.items():
        rows = rows_of(op, [cases[index] for index in indices], systems[name])
        times = predicted(rows, systems[name])
        for index, time in zip(indices, times, strict=True):
            found[index] = (float(time), "")
    return found


def predicted(rows: Rows, system: System, arrays: Mapping[str, Array] | None = None) -> Array:
    """Seconds of every row on a system with numbers replaced by path; as many nodes as the rows need."""
    nodes = np.maximum(np.ceil(rows.ranks / rows.per_node), 1.0)
    lowered = lower_system(Varied(system, {**(arrays or {}), "nodes": nodes}))
    time = OPS[rows.op](rows.size, node_placement(rows.ranks, rows.per_node, lowered), lowered).time
    return np.broadcast_to(time, rows.size.shape)


def node_placement(ranks: Array, per_node: Array, system: SystemArrays) -> Placement:
    """`ranks` with `per_node` of them in each node, next to each other in it."""
    node = system.node_tier + 1
    inner = placed(per_node, array(1.0), system.sizes[:node])
    if node == len(system.tiers):
        return inner
    outer = placed(np.ceil(ranks / per_node), array(1.0), system.sizes[node:])
    return Placement((*inner.ranks, *outer.ranks), (*inner.stride, *outer.stride))


def rows_of(op: str, cases: Sequence[Case], system: System) -> Rows:
    """Columns of cases without a fault."""
    names = ("bytes", "ranks", "measured_s")
    size, ranks, measured = (array([case.number(name) or 0.0 for case in cases]) for name in names)
    per_node = array([case.number("ranks_per_node") or np.inf for case in cases])
    return Rows(op, size, ranks, np.minimum(np.minimum(per_node, ranks), system.node_chips), measured)


def fault(case: Case, system: System) -> str:
    """Why a case of a known system cannot be answered; empty where it can."""
    accelerator = case.values["accelerator"].strip()
    if accelerator and accelerator != system.chip.name:
        return f"system {system.name} has {system.chip.name}, not {accelerator}"
    if case.values["op"].strip() not in OPS:
        return f"unknown op {case.values['op']}"
    size, ranks, per_node = (case.number(name) for name in ("bytes", "ranks", "ranks_per_node"))
    if (
        size is None
        or size <= 0.0
        or ranks is None
        or ranks < 1.0
        or ranks % 1.0
        or (case.number("measured_s") or 0.0) <= 0.0
    ):
        return "bytes, ranks or measured_s are unknown or not positive"
    each = min(ranks, system.node_chips) if per_node is None else per_node
    if each < 1.0 or each % 1.0 or ranks % each or each > system.node_chips:
        return f"{ranks:g} ranks with {each:g} a node do not fit nodes of {system.node_chips:g}"
    if ranks > each and len(system.tiers) <= system.node_tier + 1:
        return f"system {system.name} has no network to {ranks / each:g} nodes"
    return ""


def checked_rows(cases: Sequence[Case], system: System) -> list[Rows]:
    """Cases of one system by operation, for a fit. Raises SpecError for one that has a fault."""
    together: dict[str, list[Case]] = {}
    for case in cases:
        reason = fault(case, system)
        if reason:
            raise SpecError(f"cannot be fitted: {reason}", line=case.line, value=case.id)
        together.setdefault(case.values["op"].strip(), []).append(case)
    return [rows_of(op, own, system) for op, own in together.items()]


def _unnamed(case: Case, name: str, known: Collection[str]) -> str:
    if name in known:
        return ""
    if name:
        return f"system {name} is not in the library ({nearest(name, known)})"
    return f"no system is stated and {case.values['accelerator']} has no usual one"
