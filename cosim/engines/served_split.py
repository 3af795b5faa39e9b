"""A step whose attention and feed-forward layers run on chips of their own, tokens going to and fro in every layer.

    layer   most of: m x attention, m x feed-forward, m x transfer (links work both ways at once),
            attention + feed-forward + 2 x transfer
    step    layers x that + embedding and head on the side of attention
    joules  of the kernels of both sides, and of every token over the links of its chip in every layer, to and fro

for m micro-batches that take turns, times of one micro-batch. Requests are shared out over the attention side; the
feed-forward side sees the tokens of all of them. With two micro-batches both sides always work where they take equally
long and the network keeps up (Step-3, arXiv:2507.19427; MegaScale-Infer, arXiv:2504.02263). Tokens go to one rank of
the feed-forward side, whose ranks dispatch them to experts among themselves. A chip that waits in every layer is taken
to hold its clock: limits of power slow down neither side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cosim.engines.case import Case, device_graph
from cosim.engines.serving_stack import host_seconds
from cosim.engines.step import group_costs, op_costs
from cosim.errors import SpecError
from cosim.mapping.device import ACTIVATION_BYTES
from cosim.records import Array, array, joined, map_leaves, points, take
from cosim.timing.collective import send
from cosim.timing.energy import link_energy
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
    """Seconds of a step (P,), and of one layer and micro-batch: either side, one way of the tokens."""

    time: Array
    attention: Array
    feed_forward: Array
    transfer: Array


def split_of(attention: Case, feed_forward: Case, micro_batches: Array, inside: Array) -> Split:
    """Two cases of phase serve as the sides of a replica whose micro-batches take turns."""
    near, far = (_sided(attention, "attention", micro_batches), _sided(feed_forward, "feed_forward", micro_batches))
    return Split(near, far, inside)


def _sided(case: Case, side: Literal["attention", "feed_forward"], micro_batches: Array) -> Case:
    return replace(case, side=side, plan=replace(case.plan, micro_batches=micro_batches))


def split_step(split: Split, work: Work, busiest: Work | None = None) -> SplitStep:
    """One step over `work`, which the attention side's replicas share out.

    `busiest`: the work of all of them if each had that of the busiest one; None: all have the same.
    """
    model, m = split.attention.model, split.micro_batches
    near = _groups(split.attention, work if busiest is None else busiest)
    far = _groups(split.feed_forward, work)
    moved = _moved(split, work)
    attention = near["layer"]
    runs = {name: repeats(model, name) / model.layers for name in far if name not in ENDS}
    forward = sum((share * far[name] for name, share in runs.items()), array(0.0))
    slowest = np.maximum(np.maximum(attention, forward), moved)
    each = np.maximum(m * slowest, attention + forward + 2.0 * moved)
    ends = m * sum((near.get(name, array(0.0)) for name in ENDS), array(0.0))
    return SplitStep(model.layers * each + ends, attention, forward, moved)


def split_seconds(split: Split, works: Sequence[Work]) -> list[Array]:
    """Seconds of one step of each of `works` with the host of the attention side, (P,) each, all in one call."""
    total, count = max(points(split), *(points(work) for work in works)), len(works)
    whole = joined([map_leaves(work, lambda leaf: np.broadcast_to(leaf, (total,))) for work in works])
    many = take(split, np.tile(np.arange(total, dtype=np.intp), count))
    device = np.broadcast_to(split_step(many, whole).time, (count * total,))
    host = host_seconds(replace(many.attention, work=whole))
    stack = split.attention.stack
    hidden = stack is not None and stack.host_hidden
    return list((np.maximum(device, host) if hidden else device + host).reshape(count, total))


def way_joules(split: Split, tokens: Array) -> tuple[Array, Array]:
    """Joules of a step of so many tokens on the links of either side: each token leaves it once in every layer."""
    model = split.attention.model
    size = tokens * model.hidden * ACTIVATION_BYTES * model.layers
    near, far = (link_energy(size, case.system.chip) for case in split.sides)
    return near, far


def _moved(split: Split, work: Work) -> Array:
    """Seconds of the tokens of a micro-batch from the chips of one side to those of the other, (P,)."""
    size = work.tokens * split.attention.model.hidden * ACTIVATION_BYTES / split.micro_batches
    ways = [_way(case, size / (case.plan.data * case.plan.tensor), split.inside) for case in split.sides]
    return np.maximum(*ways)


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


def _groups(case: Case, work: Work) -> dict[str, Array]:
    """Seconds of one run of each group of the operators of a side, of one micro-batch."""
    count = max(points(case), points(work))
    wide = map_leaves(work, lambda leaf: np.broadcast_to(leaf, (count,)))
    own = replace(take(case, np.zeros(count, dtype=np.intp)) if points(case) < count else case, work=wide)
    device = device_graph(own)
    costs = group_costs(own, device, op_costs(own, device))
    return {group: cost.time for group, cost in costs.items()}
