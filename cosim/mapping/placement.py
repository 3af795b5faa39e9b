"""Where the ranks of a group lie on the network tiers.

Serving: tensor ranks innermost, then replicas that share experts, then stages, then other replicas. Training: tensor
ranks, then replicas, then stages, so that gradients stay as near as they can.

A group of k ranks that lie `stride` chips apart spans, of units that hold C chips each, min(ceil(k x stride / C), k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosim.mapping.plan import PlanArrays
from cosim.records import Array, array

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


def placed(ranks: Array, stride: Array, sizes: Sizes) -> Placement:
    """A group of `ranks` that lie `stride` chips apart, on tiers that join `sizes` units."""
    on, apart = [], []
    units, held = ranks, array(1.0)
    for size in sizes[:-1]:
        apart.append(np.maximum(stride / held, 1.0))
        held = held * size
        outer = np.minimum(np.ceil(ranks * stride / held), ranks)
        on.append(units / outer)
        units = outer
    return Placement((*on, units), (*apart, np.maximum(stride / held, 1.0)))


def tensor_placement(tensor: Array, sizes: Sizes) -> Placement:
    """Tensor ranks fill a node before they leave it, and then spread evenly over nodes."""
    return placed(tensor, array(1.0), sizes)


def data_placement(tensor: Array, data: Array, sizes: Sizes) -> Placement:
    """Replicas in training: ranks of equal tensor index, next to the tensor ranks and inside stages."""
    return placed(data, tensor, sizes)


def context_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share out the tokens of a sequence: of equal tensor index, next to the tensor ranks."""
    return placed(plan.context, plan.tensor, sizes)


def expert_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Ranks that share out the experts: next to each other, tensor ranks first."""
    return tensor_placement(plan.expert, sizes)


def serving_stage(plan: PlanArrays) -> Array:
    """Ranks of a stage that lie next to each other when serving: the tensor group, or the expert group around it."""
    return np.maximum(plan.tensor, plan.expert)


def expert_group(plan: PlanArrays) -> Array:
    """Ranks that hold all experts once, next to each other; copies of an expert lie so far apart."""
    group: Array = plan.expert * np.maximum(plan.tensor / plan.expert, 1.0)
    return group


def expert_data_placement(plan: PlanArrays, sizes: Sizes) -> Placement:
    """Copies of an expert: ranks of the same place in their expert group, which lies next to each other."""
    group = expert_group(plan)
    return data_placement(group, plan.tensor * plan.replicas / group, sizes)


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
