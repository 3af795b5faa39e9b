"""Memory and counts of one chip in training: saved tensors of live micro-batches, weights, gradients, optimizer.

    live pieces   1F1B: stages behind this one and itself; interleaved: 2 (behind) + (v - 1) p + 1 pieces of 1 / v
    kept          none: every saved tensor; selective: all but the attention core's; full: the layer's input alone,
                  plus what one layer keeps while it is computed again

ZeRO stage 1, 2, 3 divides the optimizer's state, gradients, weights by the data ranks that share them out. Frozen
weights have neither gradients nor state; where nothing is updated there is no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cosim.mapping.adapters import adapters_of
from cosim.mapping.backward import FULL, SELECTIVE
from cosim.mapping.device import DeviceGraph, DeviceMatmul, DeviceVector
from cosim.mapping.memory import Memory
from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_sharers
from cosim.mapping.schedules import PIECES, copies, live_passes
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, at_class, by_group, fullest, in_front
from cosim.mapping.widths import element_bytes
from cosim.records import Array, array


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of one rank: those that every replica holds, and those of routed experts; `layers` they make up.

    `tables` are those of tables that the replicas share out, counted whole.
    """

    shared: Array = field(default_factory=lambda: array(0.0))
    routed: Array = field(default_factory=lambda: array(0.0))
    layers: Array = field(default_factory=lambda: array(0.0))
    tables: Array = field(default_factory=lambda: array(0.0))


def holdings(device: DeviceGraph) -> DeviceGraph:
    """The ops as far as memory asks: parameters and saved tensors, every other number unknown (NaN)."""
    none = array(np.nan)
    matmuls = (
        replace(op, m=none, n=none, k=none, weight_bytes=none, batch=none, distinct=none) for op in device.matmuls
    )
    vectors = (
        DeviceVector(
            op.name, op.group, op.count, *(none,) * 5, op.parameters, op.core, op.has_scales, sharded=op.sharded
        )
        for op in device.vectors
    )
    return DeviceGraph(device.phase, tuple(matmuls), (), tuple(vectors), (), device.saved)


def training_memory(
    device: DeviceGraph,
    stage: Stages,
    plan: PlanArrays,
    software: SoftwareArrays,
    reserved: Array,
    updates: str = "all",
) -> Memory:
    """Memory of a chip of the fullest stage class; `reserved` is what the runtime keeps [B]."""
    held, wide = stage_parameters(device, stage, copies(plan.schedule)), element_bytes(plan, software)
    updated = stage_parameters(updated_part(device, updates), stage, copies(plan.schedule))

    def kept(numbers: Weights, level: float, each: Array | float) -> Array:
        """Bytes of what ZeRO shares out from `level` on."""
        own = ((numbers.shared, plan.sharers), (numbers.routed, expert_sharers(plan)))
        parts = [count * np.where(plan.zero >= level, 1.0 / ranks, 1.0) for count, ranks in own]
        return (parts[0] + parts[1]) * each

    weights = kept(held, 3.0, wide)
    weights = np.minimum(weights + _gathered(device, plan, wide), (held.shared + held.routed) * wide)
    weights = weights + held.tables / plan.replicas * wide
    gradients = kept(updated, 2.0, software.gradient_bytes)
    state = software.optimizer_bytes * (0.0 if updates == "nothing" else 1.0)
    optimizer = kept(updated, 1.0, state) + updated.tables / plan.replicas * state
    live = saved_bytes(device, stage, plan)
    total = weights + gradients + optimizer + live
    most = fullest(stage, total)
    zero = np.zeros_like(total[0])
    held_of = [at_class(kind, most) for kind in (weights, live, gradients, optimizer)]
    return Memory(held_of[0], zero, held_of[1], held_of[2], held_of[3], zero + reserved)


def updated_part(device: DeviceGraph, updates: str) -> DeviceGraph:
    """The ops whose weights have gradients: all, or adapters alone."""
    return adapters_of(device) if updates == "adapters" else device


def stage_parameters(device: DeviceGraph, stage: Stages, copies: float = 1.0) -> Weights:
    """Parameters of one rank on a stage of each class (4, P); `copies` of every weight in the pipeline."""
    return stage_weights(group_parameters(device), stage, copies)


def stage_weights(groups: Mapping[str, Weights], stage: Stages, copies: float = 1.0) -> Weights:
    """The same from the parameters of one run of each group."""
    shared = routed = tables = np.zeros_like(stage.layers)
    for group, held in groups.items():
        runs = copies * by_group(stage, group)
        shared, routed = shared + runs * held.shared, routed + runs * held.routed
        tables = tables + runs * held.tables
    return Weights(shared, routed, copies * stage.layers, tables)


def saved_bytes(device: DeviceGraph, stage: Stages, plan: PlanArrays) -> Array:
    """Bytes of saved tensors on a chip of each stage class (4, P), all live micro-batches."""
    full, selective = plan.recompute >= FULL, plan.recompute >= SELECTIVE
    kept: dict[str, Array] = {}
    layer: dict[str, Array] = {}
    for tensor in device.saved:
        size = tensor.count * tensor.size_bytes
        if tensor.group not in {"embed", "head"} and not tensor.boundary:
            layer[tensor.group] = layer.get(tensor.group, 0.0) + size
        dropped = full if not tensor.boundary else array(0.0) > 0.0
        if tensor.core:
            dropped = dropped | selective
        kept[tensor.group] = kept.get(tensor.group, 0.0) + np.where(dropped, 0.0, size)
    per_pass = sum((by_group(stage, group) * size for group, size in kept.items() if group != "head"), 0.0)
    # The head's tensors live from the end of a forward pass to the backward pass that follows it at once.
    total = per_pass * live_micro_batches(stage, plan) + np.ceil(stage.heads) * kept.get("head", 0.0)
    others = [size for group, size in layer.items() if group != "layer"]
    whole_layer = layer.get("layer", 0.0) + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0)
    found: Array = total + np.where(full, whole_layer, 0.0)
    return found


def live_micro_batches(stage: Stages, plan: PlanArrays) -> Array:
    """Micro-batches whose tensors the first stage of each class holds at once (4, P), in whole-stage units."""
    if plan.schedule in PIECES:
        return np.broadcast_to(live_passes(plan), stage.layers.shape)
    behind = plan.pipeline - 1.0 - stages_before(stage)
    pieces = np.where(plan.virtual > 1.0, 2.0 * behind + (plan.virtual - 1.0) * plan.pipeline + 1.0, behind + 1.0)
    return np.minimum(pieces, plan.micro_batches * plan.virtual) / plan.virtual


def stages_before(stage: Stages) -> Array:
    """Stages in front of the first one of each class (4, P)."""
    return in_front(stage.count)


def group_parameters(device: DeviceGraph) -> dict[str, Weights]:
    """Parameters of one rank per run of each group."""
    held: dict[str, Weights] = {}
    owners: tuple[DeviceMatmul | DeviceVector, ...] = (*device.matmuls, *device.vectors)
    for op in owners:
        own, numbers = held.get(op.group, Weights()), op.count * op.parameters
        if isinstance(op, DeviceVector) and op.sharded:
            held[op.group] = replace(own, tables=own.tables + numbers)
            continue
        routed = isinstance(op, DeviceMatmul) and op.routed
        shared = own.shared if routed else own.shared + numbers
        held[op.group] = Weights(shared, own.routed + numbers if routed else own.routed, tables=own.tables)
    return held


def _gathered(device: DeviceGraph, plan: PlanArrays, wide: float) -> Array:
    """Under ZeRO 3 the weights of the layer in hand and of the next are whole on every rank [B]."""
    groups = group_parameters(device)
    common = groups.pop("layer", Weights())
    others = [held.shared + held.routed for name, held in groups.items() if name not in {"embed", "head"}]
    layer = common.shared + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0)
    whole: Array = np.where(plan.zero >= 3.0, 2.0 * layer * wide, 0.0)
    return whole
