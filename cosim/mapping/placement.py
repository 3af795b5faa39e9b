"""Where the ranks of a group lie on the network tiers.

Serving: tensor ranks innermost, then replicas that share experts, then stages, then other replicas. Training: tensor
ranks, then replicas, then stages, so that gradients stay as near as they can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.mapping.plan import PlanArrays
from cosim.records import Array


@dataclass(frozen=True, slots=True)
class Placement:
    """Ranks of one group on the inner tier and the number of inner groups it spans; inner x outer = ranks."""

    inner: Array
    outer: Array


def tensor_placement(tensor: Array, node: Array) -> Placement:
    """Tensor ranks fill a node of `node` chips before they leave it, and then spread evenly over nodes."""
    outer = np.ceil(tensor / node)
    return Placement(tensor / outer, outer)


def data_placement(tensor: Array, data: Array, node: Array) -> Placement:
    """Replicas in training: ranks of equal tensor index, next to the tensor ranks and inside stages."""
    outer = np.minimum(np.ceil(tensor * data / node), data)
    return Placement(data / outer, outer)


def expert_placement(plan: PlanArrays, node: Array) -> Placement:
    """Ranks that share out the experts: next to each other, tensor ranks first."""
    return tensor_placement(plan.expert, node)


def serving_stage(plan: PlanArrays) -> Array:
    """Ranks of a stage that lie next to each other when serving: the tensor group, or the expert group around it."""
    return np.maximum(plan.tensor, plan.expert)


def expert_data_placement(plan: PlanArrays, node: Array) -> Placement:
    """Copies of an expert: ranks of the same place in their expert group, which lies next to each other."""
    group = plan.expert * np.maximum(plan.tensor / plan.expert, 1.0)
    copies = plan.tensor * plan.data / group
    return data_placement(group, copies, node)


def stage_hops(stage: Array, pipeline: Array, node: Array) -> tuple[Array, Array]:
    """Transfers between neighbouring stages of `stage` chips each: (inside a node, across nodes)."""
    fits = np.mod(node, stage) == 0.0
    across = np.where(fits, np.ceil(stage * pipeline / node) - 1.0, pipeline - 1.0)
    across = np.where(stage * pipeline > node, np.minimum(across, pipeline - 1.0), 0.0)
    return pipeline - 1.0 - across, across


def crosses(boundary: int, stage: int, pipeline: int, node: int) -> bool:
    """Whether the transfer behind stage `boundary` leaves a node, as `stage_hops` counts; the last one returns."""
    if stage * pipeline <= node:
        return False
    return node % stage != 0 or (boundary + 1) * stage % node == 0 or boundary == pipeline - 1
