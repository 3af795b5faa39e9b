"""What a step of serving over some work takes, as its tables ask: whole and without attention, the host told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from cosim.engines.analytic import step_load, timed_step
from cosim.engines.case import Case, device_graph, micro_batch_graph, stage_classes
from cosim.engines.served_split import Split, split_step
from cosim.engines.serving_stack import issued_seconds
from cosim.engines.step import op_costs, stage_costs
from cosim.records import Array, array, map_leaves, points, take
from cosim.workload.moe import repeats
from cosim.workload.work import Work


class Timed(Protocol):
    """Of a step over each point of some work (..., P), `bare` without its attention; experts see `seen`, if given."""

    def __call__(self, work: Work, seen: Work | None = None, *, bare: bool = False) -> Array:
        """Axes in front of the points are as many each time."""


def split_seconds_of(split: Split, work: Work, seen: Work | None = None, *, bare: bool = False) -> Array:
    """Seconds of a step of a split deployment (P,); its host is no part of it."""
    count = max(leaf.size for leaf in (work.chunk, work.decodes))
    forward, own = (work, None) if seen is None else (seen, work)
    return np.broadcast_to(split_step(split, forward, own, bare=bare).time, (count,))


def seconds_of(case: Case, work: Work, seen: Work | None = None, *, bare: bool = False) -> Array:
    """Seconds of a step of each point of `work`, less its host's (P,)."""
    wide = wide_case(case, work)
    timed, parts = timed_step(wide)
    # A chip that waits for its host draws less: the limit of its power is that of a whole step.
    time = timed["time"] - parts["host"] - (parts["attention"] if bare else 0.0)
    if seen is not None:
        time = time - np.maximum(_experts(wide) - _experts(wide_case(case, seen)), 0.0)
    return np.broadcast_to(time, (points(wide),))


def loads_of(case: Case, work: Work, seen: Work | None = None, *, bare: bool = False) -> Array:
    """What such a step is to the clock of a chip (4, P): the seconds at the full one, those of them that follow it,
    joules that do not follow the voltage of the cores, and that do.

    Of the busiest rank, which draws the same on average where its experts have only what is `seen`.
    """
    wide = wide_case(case, work)
    load = step_load(wide, bare=bare)
    time, share = load.rest + load.clocked, array(1.0)
    if seen is not None:
        fewer = np.maximum(_experts(wide) - _experts(wide_case(case, seen)), 0.0)
        share = np.where(time > 0.0, 1.0 - fewer / np.where(time > 0.0, time, 1.0), 1.0)
    parts = (time, load.clocked, load.fixed, load.core)
    return np.stack([np.broadcast_to(share * each, (points(wide),)) for each in parts])


def wide_case(case: Case, work: Work) -> Case:
    """The case once for each point of `work`."""
    count = max(leaf.size for leaf in (work.chunk, work.decodes))
    whole = map_leaves(work, lambda leaf: np.broadcast_to(leaf, (count,)))
    return replace(take(case, np.zeros(count, dtype=np.intp)), work=whole)


def _experts(case: Case) -> Array:
    """Seconds that kernels of routed experts take in a step; 0 where no data ranks share them out."""
    plan = case.plan
    if not case.model.is_moe or np.all(plan.expert <= plan.tensor):
        return array(0.0)
    graph = micro_batch_graph(case)
    routed = {op.name for op in graph.matmuls if op.routed is not None}
    routed |= {op.name for op in graph.vectors if op.routed is not None}
    ops = op_costs(case, device_graph(case, graph))
    layer = sum((op.count * op.cost.time for op in ops if op.name in routed), array(0.0))
    # Of a pipeline: through all stages, or on one as often as it has micro-batches.
    return repeats(case.model, "moe") * np.maximum(plan.micro_batches / plan.pipeline, 1.0) * layer


def unissued(case: Case) -> Case:
    """The case on a host that issues kernels in no time."""
    return case if case.stack is None else replace(case, stack=replace(case.stack, host_kernel=array(0.0)))


def without_host(case: Case) -> Case:
    """The case on a host that takes no time for steps and sequences."""
    stack = case.stack
    if stack is None:
        launch = replace(case.system.chip.launch, host_step=array(0.0))
        return replace(case, system=replace(case.system, chip=replace(case.system.chip, launch=launch)))
    none = array(0.0)
    bare = replace(stack, host_step=none, host_sequence=none, host_hidden=False, host_kernel=none)
    return replace(case, stack=bare)


def issue_seconds(case: Case, work: Work) -> Array:
    """Seconds in which the host of a replica issues the kernels of a step over `work` one by one."""
    if case.stack is None or not float(case.stack.host_kernel):
        return array(0.0)
    own = wide_case(case, work)
    device, stage = device_graph(own), stage_classes(own)
    return issued_seconds(stage_costs(own, device, op_costs(own, device), stage), stage, case.stack)
