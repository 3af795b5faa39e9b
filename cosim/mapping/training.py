"""Memory and counts of one chip in training: saved tensors of live micro-batches, weights, gradients, optimizer.

    live pieces   1F1B: stages behind this one and itself; interleaved: 2 (behind) + (v - 1) p + 1 pieces of 1 / v
    kept          none: every saved tensor; selective: all but the attention core's; full: the layer's input alone,
                  plus what one layer keeps while it is computed again; modules: all but what they make again, plus
                  that of the one in work; only the first layers of a stage where the plan says how many

ZeRO stage 1, 2, 3 divides the optimizer's state, gradients, weights by the data ranks that share them out. Frozen
weights have neither gradients nor state; where nothing is updated there is no state.
"""

from __future__ import annotations

import numpy as np

from cosim.mapping.adapters import adapters_of
from cosim.mapping.backward import FULL, SELECTIVE
from cosim.mapping.device import DeviceGraph
from cosim.mapping.memory import Memory
from cosim.mapping.plan import PlanArrays
from cosim.mapping.recompute import largest_again, layers_again, share_dropped
from cosim.mapping.routing import expert_sharers
from cosim.mapping.schedules import PIECES, copies, live_passes
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, at_class, by_group, fullest
from cosim.mapping.state import stage_state
from cosim.mapping.weights import Weights, group_parameters, stage_parameters
from cosim.mapping.widths import element_bytes
from cosim.records import Array, array


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

    weights = shared_out(held, plan, 3.0) * wide
    weights = np.minimum(weights + _gathered(device, plan, wide), (held.shared + held.routed) * wide)
    gradients = shared_out(updated, plan, 2.0) * software.gradient_bytes
    optimizer = _state(device, stage, plan, software, updates)
    live = saved_bytes(device, stage, plan)
    total = weights + gradients + optimizer + live
    most = fullest(stage, total)
    zero = np.zeros_like(total[0])
    held_of = [at_class(kind, most) for kind in (weights, live, gradients, optimizer)]
    return Memory(held_of[0], zero, held_of[1], held_of[2], held_of[3], zero + reserved)


def _state(device: DeviceGraph, stage: Stages, plan: PlanArrays, software: SoftwareArrays, updates: str) -> Array:
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
    """What a rank holds of `numbers` that ZeRO shares out from stage `level` on."""
    own = ((numbers.shared, plan.sharers), (numbers.routed, expert_sharers(plan)))
    parts = [count * np.where(plan.zero >= level, 1.0 / ranks, 1.0) for count, ranks in own]
    return parts[0] + parts[1]


def saved_bytes(device: DeviceGraph, stage: Stages, plan: PlanArrays) -> Array:
    """Bytes of saved tensors on a chip of each stage class (4, P), all live micro-batches."""
    full, selective, modules = plan.recompute >= FULL, plan.recompute >= SELECTIVE, plan.recompute_modules
    kept: dict[str, Array] = {}
    layer: dict[str, Array] = {}
    for tensor in device.saved:
        size = tensor.count * tensor.size_bytes
        if tensor.group not in {"embed", "head"} and not tensor.boundary:
            layer[tensor.group] = layer.get(tensor.group, 0.0) + size
        dropped = full if not tensor.boundary else array(0.0) > 0.0
        if tensor.core:
            dropped = dropped | selective
        lost = np.maximum(np.where(dropped, 1.0, 0.0), share_dropped(tensor, device, modules))
        again = layers_again(stage, plan, tensor.group)
        kept[tensor.group] = kept.get(tensor.group, 0.0) + size * (1.0 - lost * again)
    per_pass = sum((by_group(stage, group) * size for group, size in kept.items() if group != "head"), 0.0)
    # The head's tensors live from the end of a forward pass to the backward pass that follows it at once.
    total = per_pass * live_micro_batches(stage, plan) + np.ceil(stage.heads) * kept.get("head", 0.0)
    others = [size for group, size in layer.items() if group != "layer"]
    whole_layer = layer.get("layer", 0.0) + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0)
    work = np.where(full, whole_layer, largest_again(device, modules))
    found: Array = total + np.where(plan.recompute_layers > 0.0, work, 0.0)
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
    return np.cumsum(stage.count, axis=0) - stage.count


def _gathered(device: DeviceGraph, plan: PlanArrays, wide: float) -> Array:
    """Under ZeRO 3 the weights of the layer in hand and of the next are whole on every rank [B]."""
    groups = group_parameters(device)
    common = groups.pop("layer", Weights())
    others = [held.shared + held.routed for name, held in groups.items() if name not in {"embed", "head"}]
    layer = common.shared + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0)
    whole: Array = np.where(plan.zero >= 3.0, 2.0 * layer * wide, 0.0)
    return whole
