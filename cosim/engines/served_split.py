"""A step whose attention and feed-forward layers run on chips of their own, tokens going to and fro in every layer.

    layer   most of: m x attention, m x feed-forward, m x way (links work both ways at once),
            attention + feed-forward + 2 x way
    way     tokens of a micro-batch to the other side, a slice from each tensor rank, gathered by the tensor ranks there
    step    layers x that + embedding and head on the side of attention; ways in layers with a feed-forward alone
    joules  of the kernels of both sides, and of every token over the links of its chip to and fro

for m micro-batches that take turns, no more than there are tokens of a rank, times of one micro-batch. Requests are
shared out over the attention side; the feed-forward side sees the tokens of all of them. With two micro-batches both
sides always work where they take equally long and the network keeps up (Step-3, arXiv:2507.19427; MegaScale-Infer,
arXiv:2504.02263). Tokens go to one rank of the feed-forward side, whose ranks dispatch them to experts among
themselves. A chip that waits in every layer is taken to hold its clock: limits of power slow down neither side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cosim.engines.case import Case, device_graph
from cosim.engines.serving_stack import host_seconds
from cosim.engines.step import GroupCosts, group_costs, op_costs
from cosim.errors import SpecError
from cosim.mapping.device import ACTIVATION_BYTES
from cosim.mapping.placement import tensor_placement
from cosim.records import Array, array, joined, map_leaves, points, take
from cosim.timing.collective import all_gather, send
from cosim.timing.energy import link_energy
from cosim.workload.model import ModelArrays
from cosim.workload.moe import repeats
from cosim.workload.work import Work

ENDS = ("embed", "head")
"""Groups that do not repeat."""


@dataclass(frozen=True, slots=True)
class Split:
    """One replica of phase serve on two sides, each a case of its side with as many micro-batches as take turns.

    `inside` is 1 where both sides lie in one node, else 0: tokens then leave theirs.
    """

    attention: Case
    feed_forward: Case
    inside: Array

    @property
    def sides(self) -> tuple[Case, Case]:
        """Attention first."""
        return self.attention, self.feed_forward

    @property
    def micro_batches(self) -> Array:
        """Micro-batches that take turns between the sides."""
        return self.attention.plan.micro_batches

    @property
    def chips(self) -> Array:
        """Chips of both sides."""
        return self.attention.plan.chips + self.feed_forward.plan.chips


@dataclass(frozen=True, slots=True)
class SplitStep:
    """Seconds of a step (P,), and of one layer and micro-batch: either side, one way of the tokens.

    `issued` are those in which the host of the slower side issues all kernels of the step one by one.
    """

    time: Array
    attention: Array
    feed_forward: Array
    transfer: Array
    issued: Array


def split_of(attention: Case, feed_forward: Case, micro_batches: Array, inside: Array) -> Split:
    """Two cases of phase serve as the sides of a replica whose micro-batches take turns."""
    near, far = (_sided(attention, "attention", micro_batches), _sided(feed_forward, "feed_forward", micro_batches))
    return Split(near, far, inside)


def _sided(case: Case, side: Literal["attention", "feed_forward"], micro_batches: Array) -> Case:
    return replace(case, side=side, plan=replace(case.plan, micro_batches=micro_batches))


def split_step(split: Split, work: Work, busiest: Work | None = None, *, bare: bool = False) -> SplitStep:
    """One step over `work`, which the attention side's replicas share out.

    `busiest`: the work of all of them if each had that of the busiest one; None: all have the same. `bare` leaves out
    attention and states.
    """
    model, own = split.attention.model, work if busiest is None else busiest
    # A batch of fewer tokens is cut into as many parts.
    m = np.clip(own.tokens / split.attention.plan.data, 1.0, split.micro_batches)
    near, far = _groups(split.attention, own, m), _groups(split.feed_forward, work, m)
    moved = forward_share(model) * _moved(split, work, m)
    layer = near["layer"]
    attention = layer.time - layer.attention if bare else layer.time
    runs = {name: repeats(model, name) / model.layers for name in far if name not in ENDS}
    forward = sum((share * far[name].time for name, share in runs.items()), array(0.0))
    slowest = np.maximum(np.maximum(attention, forward), moved)
    each = np.maximum(m * slowest, attention + forward + 2.0 * moved)
    ends = m * sum((near[name].time for name in ENDS if name in near), array(0.0))
    issued = m * np.maximum(*(_kernels(side, model) for side in (near, far))) * _host_kernel(split)
    return SplitStep(model.layers * each + ends, attention, forward, moved, issued)


def _kernels(groups: dict[str, GroupCosts], model: ModelArrays) -> Array:
    """Kernels of a micro-batch on one side."""
    return sum((repeats(model, name) * cost.kernels for name, cost in groups.items()), array(0.0))


def _host_kernel(split: Split) -> Array:
    stack = split.attention.stack
    return array(0.0) if stack is None else stack.host_kernel


def forward_share(model: ModelArrays) -> Array:
    """Share of the layers that have a feed-forward: all, but of a hybrid whose blocks are one part each."""
    return array(1.0) if model.mamba is None else model.mamba.dense + model.mamba.routed


def split_seconds(split: Split, works: Sequence[Work]) -> list[Array]:
    """Seconds of one step of each of `works` with the host of the attention side, (P,) each, all in one call."""
    total, count = max(points(split), *(points(work) for work in works)), len(works)
    whole = joined([map_leaves(work, lambda leaf: np.broadcast_to(leaf, (total,))) for work in works])
    many = take(split, np.tile(np.arange(total, dtype=np.intp), count))
    step, stack = split_step(many, whole), split.attention.stack
    if stack is not None:
        replayed = whole.tokens / many.attention.plan.data <= stack.graph_tokens
        replayed = replayed | (whole.chunks <= 0.0) if stack.graph_decodes else replayed
        step = replace(step, time=np.maximum(step.time, np.where(replayed, 0.0, step.issued)))
    device = np.broadcast_to(step.time, (count * total,))
    host = host_seconds(replace(many.attention, work=whole))
    hidden = stack is not None and stack.host_hidden
    return list((np.maximum(device, host) if hidden else device + host).reshape(count, total))


def way_joules(split: Split, tokens: Array) -> tuple[Array, Array]:
    """Joules of a step of so many tokens on the links of either side: each token leaves it once in every layer."""
    model = split.attention.model
    size = tokens * model.hidden * ACTIVATION_BYTES * model.layers * forward_share(model)
    near, far = (link_energy(size, case.system.chip) for case in split.sides)
    return near, far


def _moved(split: Split, work: Work, micro_batches: Array) -> Array:
    """Seconds of the tokens of a micro-batch from the chips of one side to those of the other, (P,).

    Every tensor rank of the side that receives needs all of them: the mean of the gathers to and fro.
    """
    size = work.tokens * split.attention.model.hidden * ACTIVATION_BYTES / micro_batches
    ways, gathers = [], array(0.0)
    for case in split.sides:
        rank = size / case.plan.data
        ways.append(_way(case, rank / case.plan.tensor, split.inside))
        group = tensor_placement(case.plan.tensor, case.system.sizes)
        gathers = gathers + all_gather(rank, group, case.system).time / 2.0
    return np.maximum(*ways) + gathers


def _way(case: Case, size: Array, inside: Array) -> Array:
    """Seconds of `size` bytes from each chip of a side: inside of its node or out of it. Raises SpecError."""
    system, found = case.system, array(0.0)
    for place, used in ((0, inside > 0.0), (1, inside <= 0.0)):
        if not np.any(used):
            continue
        if system.node_tier + place >= len(system.tiers):
            hint = f"{system.name} has no network between its nodes: both sides must lie in one"
            raise SpecError("has no way between the sides", field="feed_forward.system", value=system.name, hint=hint)
        found = np.where(used, send(size, system.node_tier + place, system), found)
    return found


def _groups(case: Case, work: Work, micro_batches: Array) -> dict[str, GroupCosts]:
    """Cost of one run of each group of the operators of a side, of one micro-batch."""
    count = max(points(case), points(work))
    wide = map_leaves(work, lambda leaf: np.broadcast_to(leaf, (count,)))
    parts = np.broadcast_to(micro_batches, (count,))
    own = take(case, np.zeros(count, dtype=np.intp)) if points(case) < count else case
    own = replace(own, work=wide, plan=replace(own.plan, micro_batches=parts))
    device = device_graph(own)
    return group_costs(own, device, op_costs(own, device))
