"""What an update touches on one rank: state of every parameter, passes over gradients, matrices to orthogonalise.

    state      master weight + tensors of the optimizer's rule; where it is factored a mean of each row and column
    matrices   weights of products in layers; embedding, head, norms and biases are others

The second moment of a factored rule is whole where there are no two dimensions. A table is a matrix of rows as wide as
the head's products are deep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.mapping.device import DeviceGraph, DeviceMatmul
from cosim.mapping.optimizers import MEAN_BYTES, RuleArrays, UpdateArrays
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages
from cosim.mapping.weights import Owner, Weights, owners, stage_parameters
from cosim.records import Array, array

ENDS = frozenset({"embed", "head"})


@dataclass(frozen=True, slots=True)
class Touched:
    """Sums over the parameters of a stage of each class (4, P): `reads` are gradient reads, `state` bytes."""

    numbers: Weights
    state: Weights
    reads: Weights
    flop: Weights


def stage_state(device: DeviceGraph, stage: Stages, software: SoftwareArrays, copies: float = 1.0) -> Weights:
    """Bytes of the optimizer's state of all parameters of `device` on a stage of each class (4, P)."""
    update = software.update
    if update is None:
        held = stage_parameters(device, stage, copies)
        each = software.optimizer_bytes
        return Weights(held.shared * each, held.routed * each, held.layers, held.tables * each)
    depth = _table_width(device)
    return stage_parameters(device, stage, copies, lambda op: state_bytes(op, update, depth))


def touched(device: DeviceGraph, stage: Stages, update: UpdateArrays, copies: float = 1.0) -> Touched:
    """What an update of all parameters of `device` reads, writes and computes, before ZeRO shares it out."""
    depth = _table_width(device)
    return Touched(
        stage_parameters(device, stage, copies),
        stage_parameters(device, stage, copies, lambda op: state_bytes(op, update, depth)),
        stage_parameters(device, stage, copies, lambda op: op.parameters * rule_of(op, update).gradient_reads),
        stage_parameters(device, stage, copies, lambda op: op.parameters * rule_of(op, update).flop),
    )


def rule_of(op: Owner, update: UpdateArrays) -> RuleArrays:
    """The rule of an op's parameters."""
    return update.matrices if is_matrix(op) else update.others


def is_matrix(op: Owner) -> bool:
    """Whether its parameters are matrices of a layer."""
    return isinstance(op, DeviceMatmul) and op.group not in ENDS and not op.activations


def matrices_of(op: DeviceMatmul) -> Array:
    """Weights of one run of a product: experts have one each. Biases are beside them."""
    return op.parameters / (op.n * (op.k + op.bias))


def state_bytes(op: Owner, update: UpdateArrays, table_width: Array) -> Array:
    """Bytes of state of one run of an op: master weight, tensors, means of rows and columns."""
    rule = rule_of(op, update)
    held = op.parameters * (update.master + rule.state)
    return held + _means(op, rule, table_width) if rule.factored else held


def _means(op: Owner, rule: RuleArrays, table_width: Array) -> Array:
    """The second moment of a factored rule [B]: means of rows and columns, a whole tensor for what is no matrix."""
    if isinstance(op, DeviceMatmul):
        matrices = matrices_of(op)
        means: Array = matrices * ((op.n + op.k) * MEAN_BYTES + op.n * op.bias * rule.tensor)
        return means
    if op.group == "embed":
        rows = op.parameters / table_width
        return np.where(op.parameters > 0.0, rows + table_width, 0.0) * MEAN_BYTES
    return op.parameters * rule.tensor


def _table_width(device: DeviceGraph) -> Array:
    """Width of a row of the embedding; 1 where nothing is embedded."""
    heads = [op.k for op in owners(device) if isinstance(op, DeviceMatmul) and op.group == "head"]
    return heads[0] if heads else array(1.0)
