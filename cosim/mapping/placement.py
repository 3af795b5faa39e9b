"""Where the ranks of a group lie on the network tiers.

Serving: tensor ranks innermost, then replicas that share experts, then stages, then other replicas. Training: tensor
ranks, then replicas, then stages, so that gradients stay as near as they can.

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

import numpy as np

from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_group, expert_tensor
from cosim.records import Array, array

MANY = 1e15
"""Units beyond which there are enough for anything."""
Sizes = Sequence[Array]
"""Units that each tier joins, innermost first."""


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


def data_placement(tensor: Array, data: Array, sizes: Sizes, chips: Array | None = None) -> Placement:
    """Replicas in training: ranks of equal tensor index, next to the tensor ranks and inside stages."""
    return placed(data, tensor, sizes, chips)


def context_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share out the tokens of a sequence: of equal tensor index, next to the tensor ranks."""
    return placed(plan.context, plan.tensor, sizes, plan.chips)


def expert_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share out the experts: next to each other, or as far apart as an asked width of experts makes them.

    Where no width is asked, and an expert has several ranks all the same, nothing is sent between them.
    """
    return placed(plan.expert, np.maximum(plan.expert_tensor, 1.0), sizes, plan.chips)


def expert_tensor_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share one expert's width: innermost."""
    return tensor_placement(expert_tensor(plan), sizes, plan.chips)


def serving_stage(plan: PlanArrays) -> Array:
    """Ranks of a stage that lie next to each other when serving: the tensor group, or the expert group around it."""
    return np.maximum(plan.tensor, expert_group(plan))


def expert_data_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Copies of an expert: ranks of the same place in their expert group, which lies next to each other."""
    group = expert_group(plan)
    return data_placement(group, plan.tensor * plan.replicas / group, sizes, plan.chips)


def pair_placement(apart: Array, sizes: Sizes) -> Placement:
    """Two ranks that lie `apart` chips from each other: on the first tier that holds them both."""
    ranks, held, done = [], array(1.0), np.zeros_like(apart, dtype=bool)
    for size in sizes[:-1]:
        held = held * size
        here = (apart < held) & ~done
        ranks.append(np.where(here, 2.0, 1.0))
        done = done | here
    return Placement((*ranks, np.where(done, 1.0, 2.0)), tuple(array(1.0) for _ in sizes))


def stage_hops(stage: Array, pipeline: Array, sizes: Sizes) -> tuple[Array, ...]:
    """Transfers between neighbouring stages of `stage` chips each that end on each tier, innermost first."""
    beyond, held, counts = pipeline - 1.0, array(1.0), []
    for size in sizes[:-1]:
        held = held * size
        leaving = np.minimum(_leaving(stage, pipeline, held), beyond)
        counts.append(beyond - leaving)
        beyond = leaving
    return (*counts, beyond)


def _leaving(stage: Array, pipeline: Array, held: Array) -> Array:
    """Transfers between neighbouring stages that leave a unit of `held` chips."""
    fits = np.mod(held, stage) == 0.0
    across = np.where(fits, np.ceil(stage * pipeline / held) - 1.0, pipeline - 1.0)
    return np.where(stage * pipeline > held, np.minimum(across, pipeline - 1.0), 0.0)


def crosses(boundary: int, stage: int, pipeline: int, node: int) -> bool:
    """Whether the transfer behind stage `boundary` leaves a node, as `stage_hops` counts; the last one returns."""
    if stage * pipeline <= node:
        return False
    return node % stage != 0 or (boundary + 1) * stage % node == 0 or boundary == pipeline - 1
