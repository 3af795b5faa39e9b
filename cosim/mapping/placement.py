"""Where the ranks of a group lie on the network tiers.

Serving: tensor ranks innermost, then replicas that share experts, then stages, then other replicas. Training: as the
plan's order says (`cosim.mapping.order`); unless it says otherwise tensor ranks, then replicas, then stages, so that
gradients stay as near as they can. Groups of a stage are counted in the stage's own order, which the pipeline may cut.

A group of k ranks that lie `stride` chips apart takes L = k x stride chips. Of units that hold C chips each it spans

    ceil(L / C)                     where one of L and C divides the other, or where whole groups leave a rest of every
                                    unit free and there are units enough for that
    ceil((L - gcd(L, C)) / C) + 1   otherwise: the worst placed of the groups, which all others wait for

and never more than there are ranks or units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_group, expert_tensor
from cosim.records import Array, array

MANY = 1e15
"""Units beyond which there are enough for anything."""
Sizes = Sequence[Array]
"""Units that each tier joins, innermost first."""
PIPELINE = "pp"


@dataclass(frozen=True, slots=True)
class Placement:
    """Ranks of a group on every tier, innermost first; their product is the group. `stride` is in units of the tier."""

    ranks: tuple[Array, ...]
    stride: tuple[Array, ...]

    @property
    def total(self) -> Array:
        """Ranks of the group."""
        return math.prod(self.ranks, start=array(1.0))

    def inside(self, tier: int) -> Array:
        """Ranks of the group that share a unit which `tier` joins with others."""
        return math.prod(self.ranks[:tier], start=array(1.0))


def placed(ranks: Array, stride: Array, sizes: Sizes, chips: Array | None = None) -> Placement:
    """A group of `ranks` that lie `stride` chips apart, on tiers that join `sizes` units.

    `chips` are those of all groups like it, of which the worst placed counts; None is the group alone.
    """
    on, apart = [], []
    total = math.prod(sizes, start=array(1.0))
    units, held = ranks, array(1.0)
    for size in sizes[:-1]:
        apart.append(np.maximum(stride / held, 1.0))
        held = held * size
        length = ranks * stride
        outer = np.minimum(_spanned(length, held, total / held, length if chips is None else chips), units)
        on.append(units / outer)
        units = outer
    return Placement((*on, units), (*apart, np.maximum(stride / held, 1.0)))


def _spanned(length: Array, held: Array, units: Array, chips: Array) -> Array:
    """Units of `held` chips that a group of `length` chips spans, of `units`, when `chips` are in groups like it."""
    divisor = np.gcd(length.astype(np.int64), held.astype(np.int64)).astype(np.float64)
    least = np.ceil(length / held)
    even = (np.mod(held, length) == 0.0) | (np.mod(length, held) == 0.0)
    # One group lies where it likes; many do while whole ones fit into the units that there are.
    room = np.floor(held / length) * np.floor(np.minimum(units, MANY)) * length
    roomy = (room >= chips) | (chips <= length)
    worst = np.ceil((length - divisor) / held) + 1.0
    return np.where(even | roomy, least, np.maximum(np.minimum(worst, np.ceil(units)), least))


def tensor_placement(tensor: Array, sizes: Sizes, chips: Array | None = None) -> Placement:
    """Tensor ranks fill a node before they leave it, and then spread evenly over nodes."""
    return placed(tensor, array(1.0), sizes, chips)


def stage_ranks(plan: PlanArrays) -> tuple[tuple[Array, Array], ...]:
    """Ranks of a stage as runs (ranks, chips between two of them), innermost first.

    A run is what the order of the plan has next to each other: the pipeline cuts the ranks of a stage in two.
    """
    found: list[tuple[Array, Array]] = []
    apart, follows = array(1.0), False
    for word in plan.order.split("-"):
        degree = _degree(plan, word)
        if word == PIPELINE:
            follows = False
        elif follows:
            found[-1] = found[-1][0] * degree, found[-1][1]
        else:
            found.append((degree, apart))
            follows = True
        apart = apart * degree
    return tuple(found)


def stage_stride(plan: PlanArrays) -> Array:
    """Chips between a rank and its peer in the next stage: all that lies inside the pipeline."""
    inside = plan.order.split("-")
    degrees = (_degree(plan, word) for word in inside[: inside.index(PIPELINE)])
    return math.prod(degrees, start=array(1.0))


def _degree(plan: PlanArrays, word: str) -> Array:
    found: Array = {"tp": plan.tensor, "cp": plan.context, "dp": plan.data, PIPELINE: plan.pipeline}[word]
    return found


def group_placement(
    plan: PlanArrays, first: Array, count: Array, sizes: Sizes, chips: Array | None = None
) -> Placement:
    """`count` ranks of a stage, each `first` places after the one before in the stage's own order.

    Where the pipeline cuts the stage, each of its runs has the part of the group that divides it.
    """
    (ranks, apart), *outer = stage_ranks(plan)
    if not outer:
        return placed(count, apart * first, sizes, chips)
    ((_, further),) = outer
    step = _shared(first, ranks)
    near = _shared(count, ranks / step)
    inner = placed(near, apart * step, sizes, chips)
    return crossed(inner, placed(count / near, further * first / step, sizes, chips))


def _shared(one: Array, other: Array) -> Array:
    """Greatest common divisor of whole numbers."""
    return np.gcd(one.astype(np.int64), other.astype(np.int64)).astype(np.float64)


def crossed(inner: Placement, outer: Placement) -> Placement:
    """A group of groups: each rank of `outer` is a group that lies as `inner` does.

    Where both have ranks their mean distance counts.
    """
    ranks = tuple(near * far for near, far in zip(inner.ranks, outer.ranks, strict=True))
    stride = []
    for tier, (near, far) in enumerate(zip(inner.stride, outer.stride, strict=True)):
        mean = np.where(outer.inside(tier + 1) > 1.0, np.maximum(near, far / inner.inside(tier + 1)), near)
        stride.append(np.where(inner.total > 1.0, mean, far))
    return Placement(ranks, tuple(stride))


def tensor_group(plan: PlanArrays, sizes: Sizes) -> Placement:
    """The tensor ranks of a plan."""
    return group_placement(plan, array(1.0), plan.tensor, sizes, plan.chips)


def context_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share out the tokens of a sequence: of equal tensor index."""
    inside = plan.data if plan.order.index("dp") < plan.order.index("cp") else array(1.0)
    return group_placement(plan, plan.tensor * inside, plan.context, sizes, plan.chips)


def expert_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share out the experts: next to each other, or as far apart as an asked width of experts makes them.

    Where no width is asked, and an expert has several ranks all the same, nothing is sent between them.
    """
    return group_placement(plan, np.maximum(plan.expert_tensor, 1.0), plan.expert, sizes, plan.chips)


def expert_tensor_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share one expert's width: innermost."""
    return group_placement(plan, array(1.0), expert_tensor(plan), sizes, plan.chips)


def serving_stage(plan: PlanArrays) -> Array:
    """Ranks of a stage that lie next to each other when serving: the tensor group, or the expert group around it."""
    return np.maximum(plan.tensor, expert_group(plan))


def pair_placement(apart: Array, sizes: Sizes) -> Placement:
    """Two ranks that lie `apart` chips from each other: on the first tier that holds them both."""
    ranks, held, done = [], array(1.0), np.zeros_like(apart, dtype=bool)
    for size in sizes[:-1]:
        held = held * size
        here = (apart < held) & ~done
        ranks.append(np.where(here, 2.0, 1.0))
        done = done | here
    return Placement((*ranks, np.where(done, 1.0, 2.0)), tuple(array(1.0) for _ in sizes))


def stage_hops(stage: Array, pipeline: Array, sizes: Sizes, chips: Array | None = None) -> tuple[Array, ...]:
    """Transfers between neighbouring stages `stage` chips apart that end on each tier, innermost first.

    `chips` are those of all pipelines, of which the worst placed counts; None is the pipeline alone.
    """
    beyond, held, counts = pipeline - 1.0, array(1.0), []
    total = math.prod(sizes, start=array(1.0))
    for size in sizes[:-1]:
        held = held * size
        leaving = np.minimum(_leaving(stage, pipeline, held, total / held, chips), beyond)
        counts.append(beyond - leaving)
        beyond = leaving
    return (*counts, beyond)


def _leaving(stage: Array, pipeline: Array, held: Array, units: Array, chips: Array | None) -> Array:
    """Transfers between neighbouring stages that leave a unit of `held` chips, of `units`."""
    length = stage * pipeline
    spanned = _spanned(length, held, units, length if chips is None else chips)
    across = np.where(np.mod(held, stage) == 0.0, spanned - 1.0, pipeline - 1.0)
    return np.where(spanned > 1.0, np.minimum(across, pipeline - 1.0), 0.0)


def crossings(stage: int, pipeline: int, node: int, units: float, chips: int) -> list[bool]:
    """Whether the transfer behind each stage leaves a node, as `stage_hops` counts it; the last one returns.

    `units` are the nodes, `chips` those of all pipelines.
    """
    leaving = int(_leaving(array(stage), array(pipeline), array(node), array(units), array(chips)))
    if leaving == 0:
        return [False] * pipeline
    if node % stage:
        return [True] * pipeline
    found: list[bool] = []
    for start in range(0, node, math.gcd(stage * pipeline, node)):
        on = [(start + number * stage) // node for number in range(pipeline)]
        found = [here != after for here, after in pairwise((*on, on[0]))]
        if sum(found[:-1]) == leaving:
            break
    return found


def crosses(boundary: int, stage: int, pipeline: int, node: int) -> bool:
    """Whether the transfer behind stage `boundary` leaves a node, as `stage_hops` counts; the last one returns."""
    if stage * pipeline <= node:
        return False
    return node % stage != 0 or (boundary + 1) * stage % node == 0 or boundary == pipeline - 1
