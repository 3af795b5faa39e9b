"""Memory and counts of one chip in training: saved tensors of live micro-batches, weights, gradients, optimizer.

    live pieces   1F1B: stages behind this one and itself; interleaved: 2 (behind) + (v - 1) p + 1 pieces of 1 / v
    kept          none: every saved tensor; selective: all but the attention core's; full: the layer's input alone,
                  plus what one layer keeps while it is computed again; modules: all but what they make again, plus
                  that of the one in work; only the first layers of a stage where the plan says how many

ZeRO stage 1, 2, 3 divides the optimizer's state, gradients, weights by the data ranks that share them out. Frozen
weights have neither gradients nor state; where nothing is updated there is no state.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.mapping.adapters import adapters_of
from cosim.mapping.backward import FULL, SELECTIVE
from cosim.mapping.device import DeviceGraph, DeviceVector
from cosim.mapping.memory import Memory
from cosim.mapping.offload import offloads, on_chip
from cosim.mapping.plan import PlanArrays
from cosim.mapping.recompute import largest_again, layers_again, share_dropped
from cosim.mapping.routing import expert_sharers
from cosim.mapping.schedules import PIECES, copies, live_passes
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, at_class, by_group, fullest, in_front
from cosim.mapping.state import stage_state
from cosim.mapping.weights import Weights, group_parameters, stage_parameters
from cosim.mapping.widths import element_bytes
from cosim.mapping.workspace import buffer_bytes, workspace_bytes
from cosim.records import Array, array


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


def reads_shapes(software: SoftwareArrays) -> bool:
    """Whether memory asks for more of ops than `holdings` keeps: factored states, buffers as large as messages."""
    return software.update is not None or bool(np.any(software.message_buffers > 0.0))


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

    tables = held.tables / plan.replicas * wide
    weights = shared_out(held, plan, 3.0) * wide - tables + _gathered(device, plan, wide)
    weights = np.minimum(weights, (held.shared + held.routed) * wide) + tables
    gradients = shared_out(replace(updated, tables=array(0.0)), plan, 2.0) * software.gradient_bytes
    optimizer = state_bytes(device, stage, plan, software, updates)
    live, away = saved_bytes(device, stage, plan), array(0.0)
    if offloads(plan):
        saved, buffer = offloaded_bytes(device, stage, plan)
        read, state = plan.offload_weights * weights, plan.offload_optimizer * optimizer
        weights = on_chip(weights, read, 2.0 * plan.offload_weights * layer_numbers(device) * wide)
        optimizer = on_chip(optimizer, state, 2.0 * state / np.maximum(stage.layers, 1.0))
        live, away = on_chip(live, saved, buffer), saved + read + state
    space = workspace_bytes(live, software)
    total = weights + gradients + optimizer + live + space
    most = fullest(stage, total)
    zero = np.zeros_like(total[0])
    buffers = zero + buffer_bytes(device, plan, software)
    held_of = [at_class(kind, most) for kind in (weights, live, gradients, optimizer)]
    away = np.broadcast_to(away, total.shape)
    host = at_class(away, fullest(stage, away))
    return Memory(
        held_of[0], zero, held_of[1], held_of[2], held_of[3], zero + reserved, buffers, at_class(space, most), host
    )


def state_bytes(device: DeviceGraph, stage: Stages, plan: PlanArrays, software: SoftwareArrays, updates: str) -> Array:
    """Bytes of the optimizer's state on a chip of each stage class (4, P)."""
    if updates == "nothing":
        return np.zeros_like(stage.layers)
    changed = updated_part(device, updates)
    state = stage_state(changed, stage, software, copies(plan.schedule))
    return shared_out(state, plan, 1.0)


def updated_part(device: DeviceGraph, updates: str) -> DeviceGraph:
    """The ops whose weights have gradients: all, or adapters alone."""
    return adapters_of(device) if updates == "adapters" else device


def shared_out(numbers: Weights, plan: PlanArrays, level: float) -> Array:
    """What a rank holds of `numbers` that ZeRO shares out from stage `level` on; tables lie on one replica each."""
    own = ((numbers.shared, plan.sharers), (numbers.routed, expert_sharers(plan)))
    parts = [count * np.where(plan.zero >= level, 1.0 / ranks, 1.0) for count, ranks in own]
    return parts[0] + parts[1] + numbers.tables / plan.replicas


def saved_bytes(device: DeviceGraph, stage: Stages, plan: PlanArrays) -> Array:
    """Bytes of saved tensors on a chip of each stage class (4, P), all live micro-batches."""
    kept = kept_bytes(device, stage, plan)
    per_pass = sum((by_group(stage, group) * size for group, size in kept.items() if group != "head"), 0.0)
    # The head's tensors live from the end of a forward pass to the backward pass that follows it at once.
    total = per_pass * live_micro_batches(stage, plan) + np.ceil(stage.heads) * kept.get("head", 0.0)
    whole: dict[str, Array] = {}
    for tensor in device.saved:
        if tensor.group not in {"embed", "head"} and not tensor.boundary:
            whole[tensor.group] = whole.get(tensor.group, 0.0) + tensor.count * tensor.size_bytes
    work = np.where(plan.recompute >= FULL, _one_layer(whole), largest_again(device, plan.recompute_modules))
    found: Array = total + np.where(plan.recompute_layers > 0.0, work, 0.0)
    return found


def kept_bytes(device: DeviceGraph, stage: Stages, plan: PlanArrays) -> dict[str, Array]:
    """Bytes of saved tensors of one run of each group and micro-batch, (P,) or by stage class (4, P)."""
    full, selective, modules = plan.recompute >= FULL, plan.recompute >= SELECTIVE, plan.recompute_modules
    kept: dict[str, Array] = {}
    for tensor in device.saved:
        size = tensor.count * tensor.size_bytes
        dropped = full if not tensor.boundary else array(0.0) > 0.0
        if tensor.core:
            dropped = dropped | selective
        lost = np.maximum(np.where(dropped, 1.0, 0.0), share_dropped(tensor, device, modules))
        again = layers_again(stage, plan, tensor.group)
        kept[tensor.group] = kept.get(tensor.group, 0.0) + size * (1.0 - lost * again)
    return kept


def _one_layer(sizes: dict[str, Array]) -> Array:
    """Of a layer: what all layers have and the most of what kinds of layers have."""
    others = [size for group, size in sizes.items() if group not in {"layer", "embed", "head"}]
    return sizes.get("layer", array(0.0)) + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0)


def offloaded_bytes(device: DeviceGraph, stage: Stages, plan: PlanArrays) -> tuple[Array, Array]:
    """Saved tensors of layers in the host's memory by stage class (4, P) [B], and two layers of them."""
    kept = {group: size for group, size in kept_bytes(device, stage, plan).items() if group not in {"embed", "head"}}
    layers = sum((by_group(stage, group) * size for group, size in kept.items()), array(0.0))
    share = plan.offload_activations
    return share * layers * live_micro_batches(stage, plan), 2.0 * share * _one_layer(kept)


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


def layer_numbers(device: DeviceGraph) -> Array:
    """Parameters of one layer on a rank, of the larger kind."""
    groups = group_parameters(device)
    return _one_layer({group: held.shared + held.routed for group, held in groups.items()})


def _gathered(device: DeviceGraph, plan: PlanArrays, wide: float) -> Array:
    """Under ZeRO 3 the weights of the layer in hand and of the next are whole on every rank [B]."""
    groups = group_parameters(device)
    common = groups.pop("layer", Weights())
    others = [held.shared + held.routed for name, held in groups.items() if name not in {"embed", "head"}]
    layer = common.shared + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0)
    whole: Array = np.where(plan.zero >= 3.0, 2.0 * layer * wide, 0.0)
    return whole
