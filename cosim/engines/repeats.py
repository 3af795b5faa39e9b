"""What repeats over the points of a training case: worked out once for each key, then handed to every point.

    kernels    what one micro-batch runs on a rank     not stages, ZeRO, pieces, how many micro-batches
    rounds     a micro-batch on every stage            of ZeRO what is sent in every micro-batch, no pieces
    ends       traffic of the data ranks, the update   not the micro-batch, nor what it computes again

A key is the whole plan without what the part does not read, so that a number that is new in plans is part of it. Every
part is worked out on points of the case, the first of each key: what a key lacks would show as a difference between
points that are estimated together and alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case
from cosim.mapping.order import USUAL
from cosim.mapping.stages import ends_take_places
from cosim.records import Array, Record, array, leaves, map_leaves, take
from cosim.timing.unique import Index, unique_rows

NOTHING = array(0.0)


@dataclass(frozen=True, slots=True)
class Repeats:
    """`first` [U] are points that stand for all; `place` [P] names the one of them that stands for a point."""

    first: Index
    place: Index
    same: bool = False
    """Whether every point stands for itself: nothing repeats."""

    def chosen(self, record: Record) -> Record:
        """A record over all points at the first ones."""
        return record if self.same else take(record, self.first)

    def handed(self, record: Record) -> Record:
        """A record over the first points as one over all points; what is the same for all stays."""
        count = self.first.size
        if self.same:
            return record
        return map_leaves(
            record, lambda leaf: leaf.take(self.place, axis=-1) if leaf.ndim and leaf.shape[-1] == count else leaf
        )

    def at(self, rows: Index) -> Repeats:
        """The same for some of the points."""
        return self if self.place.size == 1 else Repeats(self.first, self.place[rows])


def repeats(key: Callable[[], object], total: int) -> Repeats:
    """Points that differ in any array of a `key`, a record of `total` points that is asked for more than one."""
    if total > 1:
        columns = {id(leaf): leaf for leaf in leaves(key()) if leaf.ndim and leaf.shape[-1] == total}
        if not columns:
            return Repeats(np.zeros(1, dtype=np.intp), np.zeros(total, dtype=np.intp))
        first, place = unique_rows(list(columns.values()))
        if first.size < total:
            return Repeats(first, place)
    every = np.arange(total, dtype=np.intp)
    return Repeats(every, every, same=True)


def kernel_key(case: Case) -> Case:
    """What kernels depend on. Of stages whether there are several: a tied table is then there twice."""
    plan = case.plan
    staged: Array = np.where(plan.pipeline > 1.0, 1.0, 0.0)
    usual = plan.order == USUAL
    return replace(
        case,
        plan=replace(
            plan,
            # Groups of ranks lie as they can beside all others, and in other orders inside or outside some of them.
            data=plan.chips if usual else plan.data,
            pipeline=staged if usual else plan.pipeline,
            virtual=NOTHING,
            zero=NOTHING,
            shard=NOTHING,
            micro_batches=NOTHING,
        ),
        system=replace(case.system, storage=NOTHING),
        scenario=replace(case.scenario, global_batch=NOTHING, bytes_per_sample=NOTHING),
    )


def round_key(case: Case, kernels: Index) -> tuple[object, ...]:
    """What one micro-batch on all stages depends on; `kernels` [P] names the kernels of a point."""
    plan = case.plan
    sends = plan.zero >= 2.0
    kept = replace(
        plan,
        virtual=_split(case),
        micro_batches=NOTHING,
        zero=np.where(sends, plan.zero, 0.0),
        shard=np.where(sends, plan.shard, np.inf),
    )
    return kept, kernels.astype(np.float64)


def _split(case: Case) -> Array:
    """Of pieces what stages depend on: whether the ends give places of layers to embedding and head."""
    plan = case.plan
    return np.where(ends_take_places(case.model.layers, plan.pipeline, plan.virtual), 1.0, 0.0)


def end_key(case: Case) -> Case:
    """What the ends of a step depend on."""
    plan = case.plan
    usual = plan.order == USUAL
    return replace(
        case,
        plan=replace(
            plan,
            data=plan.replicas if usual else plan.data,
            context=NOTHING if usual else plan.context,
            micro_batch=NOTHING,
            micro_batches=NOTHING,
            virtual=_split(case),
            recompute=NOTHING,
            shard=np.where(plan.zero >= 1.0, plan.shard, np.inf),
        ),
        system=replace(case.system, storage=NOTHING),
        scenario=replace(case.scenario, global_batch=NOTHING, bytes_per_sample=NOTHING),
    )
