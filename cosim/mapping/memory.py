"""Memory of one chip by kind, from the ops that it runs: weights, key/value cache, activations, reserve."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cosim.dtypes import bytes_per_element
from cosim.mapping.device import ACTIVATION_BYTES, DeviceGraph, DeviceMatmul, DeviceVector
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.shard import kv_heads_per_rank
from cosim.mapping.stages import Stages, at_class, by_group, fullest
from cosim.records import Array, array
from cosim.workload.model import ModelArrays

KINDS = ("weights", "kv", "activations", "gradients", "optimizer", "other", "buffers", "workspace")
HELD = (*KINDS, "total", "host")
"""What is told of memory: kinds on the chip, their sum, and what of the host's memory a chip takes."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest chip, by kind; shape () or (P,)."""

    weights: Array
    kv: Array
    activations: Array
    gradients: Array
    optimizer: Array
    other: Array
    buffers: Array = field(default_factory=lambda: array(0.0))
    """Of collectives."""
    workspace: Array = field(default_factory=lambda: array(0.0))
    """Of kernels, and what fragments."""
    host: Array = field(default_factory=lambda: array(0.0))
    """In the host's memory, beside the sum."""

    @property
    def total(self) -> Array:
        """Sum of all kinds, in the order of KINDS."""
        total: Array = sum((getattr(self, kind) for kind in KINDS), array(0.0))
        return total


def serving_memory(
    device: DeviceGraph,
    stage: Stages,
    model: ModelArrays,
    plan: PlanArrays,
    scenario: ScenarioArrays,
    reserved: Array,
) -> Memory:
    """Memory of a chip of the fullest stage class when serving; `reserved` is what the runtime keeps [B]."""
    weights = _weights(device, stage)
    kv = _cache(stage, model, plan, scenario)
    live = _activations(device, stage, skips=bool(model.network))
    total = weights + kv + live
    most = fullest(stage, total)
    zero = np.zeros_like(total[0])
    held = [at_class(kind, most) for kind in (weights, kv, live)]
    return Memory(held[0], held[1], held[2], zero, zero, zero + reserved, zero, zero, zero)


def _weights(device: DeviceGraph, stage: Stages) -> Array:
    total = np.zeros_like(stage.layers)
    owners: tuple[DeviceMatmul | DeviceVector, ...] = (*device.matmuls, *device.vectors)
    for op in owners:
        total = total + by_group(stage, op.group) * op.count * op.weight_bytes
    return total


def _cache(stage: Stages, model: ModelArrays, plan: PlanArrays, scenario: ScenarioArrays) -> Array:
    """Tokens x heads of the rank x elements of a token x bytes, per layer; windowed layers keep a window.

    A latent is whole on every tensor rank. What a sequence keeps whatever its length is shared out by them.
    """
    share = model.windowed_layers / model.layers
    tokens = scenario.capacity
    if model.has_window:
        tokens = (1.0 - share) * tokens + share * np.minimum(tokens, model.window)
    heads = kv_heads_per_rank(model.cache_heads, plan.tensor)
    per_layer = tokens * heads * model.kept_per_token * bytes_per_element(plan.kv_dtype)
    return stage.layers * (per_layer + model.state_bytes / plan.tensor) * scenario.batch / plan.data


def _activations(device: DeviceGraph, stage: Stages, *, skips: bool) -> Array:
    """Largest working set of one op plus the residual stream, of the micro-batch in hand.

    Buffers are reused from op to op, so the peak is what one op reads and writes: matmul input and output,
    or a vector kernel's tensors, not the table that it gathers from. `skips`: the description does not say what else
    waits, and the largest tensor that an op makes stands for it.
    """
    peak = np.zeros_like(stage.layers)
    residual = array(0.0)
    for matmul in device.matmuls:
        runs = by_group(stage, matmul.group) > 0.0
        rows = matmul.batch * matmul.m * ACTIVATION_BYTES
        peak = np.maximum(peak, np.where(runs, rows * (matmul.n + matmul.k * matmul.distinct), 0.0))
        residual = np.maximum(residual, rows * matmul.n) if skips else residual
    for vector in device.vectors:
        runs = by_group(stage, vector.group) > 0.0
        held = vector.read_bytes + vector.write_bytes - vector.gathered_bytes
        peak = np.maximum(peak, np.where(runs, held, 0.0))
        if skips:
            residual = np.maximum(residual, vector.write_bytes)
        elif vector.group == "embed":
            residual = vector.write_bytes
    return peak + residual
