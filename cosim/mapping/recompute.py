"""Recompute by module and by layer: which ops run again before the gradients, and which saved tensors are not kept.

A module is a part of a layer whose inputs are kept and whose ops run again: names of Megatron's --recompute-modules,
and `elementwise` and `products`, together the selective checkpoints of torchtitan. Modules overlap: an op runs again
once whatever asks for it.

    core_attention  scores, softmax and their product with the values; the fused kernel
    attention       the block from the norm's output on, its sum over ranks among it
    latent          up-projections of latents with their norms and rotary embedding
    norms           norms in front of the blocks
    activation      between the products of a feed-forward, experts' among them
    mlp, moe        the dense, the routed feed-forward from the norm's output on, with their collectives
    elementwise     norms, rotary embedding, layout and activation; residuals and what follows a block are kept
    products        every second product of weights outside routed experts: half the work of each, half of its output
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cosim.errors import SpecError
from cosim.mapping.device import (
    DeviceAttention,
    DeviceCollective,
    DeviceGraph,
    DeviceMatmul,
    DeviceSaved,
    DeviceVector,
)
from cosim.mapping.plan import MODULES, PlanArrays
from cosim.mapping.stages import Stages, by_group
from cosim.records import Array, array

Op = DeviceMatmul | DeviceAttention | DeviceVector | DeviceCollective
HALF, WHOLE = 0.5, 1.0
_ATTENTION = ("attention",)
_MLP, _MOE = ("mlp",), ("moe",)
OPS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("attention", "products"),
    "query": ("attention", "products"),
    "kv_down": ("attention", "products"),
    "query_down": ("attention", "products"),
    "kv_up": ("attention", "latent", "products"),
    "query_up": ("attention", "latent", "products"),
    "kv_latent_norm": ("attention", "latent", "elementwise"),
    "query_latent_norm": ("attention", "latent", "elementwise"),
    "rotary_and_cache": ("attention", "latent", "elementwise"),
    "attention": ("attention", "core_attention"),
    "attention_window": ("attention", "core_attention"),
    "scores": ("attention", "core_attention"),
    "softmax": ("attention", "core_attention"),
    "score_dropout": ("attention", "core_attention"),
    "context": ("attention", "core_attention"),
    "context_layout": ("attention", "elementwise"),
    "quantise": _ATTENTION,
    "attention_out": ("attention", "products"),
    "attention_sum": _ATTENTION,
    "norm": ("norms", "elementwise"),
    "post_norm": (),
    "residual": (),
    "ffn_in": ("mlp", "products"),
    "activation": ("mlp", "activation", "elementwise"),
    "ffn_out": ("mlp", "products"),
    "ffn_sum": _MLP,
    "router": _MOE,
    "choice": _MOE,
    "permute": _MOE,
    "dispatch": _MOE,
    "expert_in": _MOE,
    "expert_activation": ("moe", "activation", "elementwise"),
    "expert_out": _MOE,
    "combine": _MOE,
    "unpermute": _MOE,
    "shared_in": ("moe", "products"),
    "shared_activation": ("moe", "activation", "elementwise"),
    "shared_out": ("moe", "products"),
    "shared_sum": _MOE,
    "moe_sum": _MOE,
    "latent_in": ("moe", "products"),
    "latent_out": ("moe", "products"),
    "mamba_in": ("products",),
    "convolution": ("elementwise",),
    "scan": (),
    "gated_norm": ("norms", "elementwise"),
    "mamba_out": ("products",),
    "mamba_sum": (),
}
"""Modules of every op of a layer."""
SAVED: Mapping[str, tuple[str, ...]] = {
    "qkv_input": ("norms", "elementwise"),
    "latents": _ATTENTION,
    "qkv": ("attention", "latent", "products"),
    "attention_output": _ATTENTION,
    "attention_sums": ("attention", "core_attention"),
    "softmax": ("attention", "core_attention"),
    "score_mask": ("attention", "core_attention"),
    "dropped_scores": ("attention", "core_attention"),
    "second_norm_input": (),
    "post_norm_input": (),
    "residual_mask": (),
    "ffn_input": ("norms", "elementwise"),
    "activation_input": ("mlp", "products"),
    "activation_output": ("mlp", "activation", "elementwise"),
    "router_input": ("norms", "elementwise"),
    "routed_input": _MOE,
    "expert_activation_input": _MOE,
    "expert_activation_output": ("moe", "activation", "elementwise"),
    "routed_output": _MOE,
    "shared_activation_input": ("moe", "products"),
    "shared_activation_output": ("moe", "activation", "elementwise"),
    "latent_output": _MOE,
    "mamba_input": ("norms", "elementwise"),
    "mamba_projected": ("products",),
    "scan_output": (),
    "mamba_output": ("norms", "elementwise"),
}
"""Modules that make a saved tensor again, so that it is not kept where one of them is asked for."""
_INPUT_OF = {"activation_output": "activation_input"}
"""What an activation is computed from; a plain ReLU keeps its output alone, which then stays."""


def share_again(op: Op, device: DeviceGraph, modules: Iterable[str]) -> float:
    """Share of an op that runs again under `modules`: all, half (`products`) or nothing."""
    base = op.name.partition(".")[0]
    own = OPS.get(base, ())
    if base == "activation" and not _remade(device, "activation_output"):
        own = _MLP
    return _share(own, modules)


def share_dropped(tensor: DeviceSaved, device: DeviceGraph, modules: Iterable[str]) -> float:
    """Share of a saved tensor that is not kept under `modules`; adapters' tensors go with their product."""
    base, _, adapter = tensor.name.partition(".")
    own = OPS.get(base, ()) if adapter else SAVED.get(base, ())
    if not _remade(device, base):
        own = _MLP
    return _share(own, modules)


def _share(own: tuple[str, ...], modules: Iterable[str]) -> float:
    asked = [name for name in modules if name in own]
    if not asked:
        return 0.0
    return HALF if asked == ["products"] else WHOLE


def _remade(device: DeviceGraph, tensor: str) -> bool:
    """Whether what a tensor is computed from is kept."""
    needed = _INPUT_OF.get(tensor)
    return needed is None or any(saved.name == needed for saved in device.saved)


def largest_again(device: DeviceGraph, modules: tuple[str, ...]) -> Array:
    """Bytes that the module in work makes again in one layer: the most of all that are asked for."""
    most = array(0.0)
    for module in modules:
        by_kind: dict[str, Array] = {}
        for tensor in device.saved:
            size = tensor.count * tensor.size_bytes * share_dropped(tensor, device, (module,))
            by_kind[tensor.group] = by_kind.get(tensor.group, array(0.0)) + size
        common = by_kind.pop("layer", array(0.0))
        others = list(by_kind.values())
        most = np.maximum(most, common + (np.maximum.reduce(np.broadcast_arrays(*others)) if others else 0.0))
    return most


def layers_again(stage: Stages, plan: PlanArrays, group: str) -> Array:
    """Share of a group's runs on a stage of each class (4, P) that lie in layers which recompute: its first ones."""
    if np.all(np.isinf(plan.recompute_layers)) or group in {"embed", "head"}:
        return array(1.0)
    first = np.minimum(plan.recompute_layers, stage.layers)
    dense = first * stage.dense / np.maximum(stage.layers, 1.0) if stage.between else np.minimum(first, stage.dense)
    count = {"layer": first, "dense": dense, "moe": first - dense}[group]
    runs = by_group(stage, group)
    share: Array = np.where(runs > 0.0, count / np.where(runs > 0.0, runs, 1.0), 0.0)
    return share


def check_modules(device: DeviceGraph, plan: PlanArrays) -> None:
    """Refuses a module that no op of the model belongs to, and layers where nothing is computed again: SpecError."""
    ops: tuple[Op, ...] = (*device.matmuls, *device.attentions, *device.vectors)
    own = {module for op in ops for module in OPS.get(op.name.partition(".")[0], ())}
    if not any(op.name == "kv_up" for op in device.matmuls):
        own.discard("latent")
    for module in plan.recompute_modules:
        if module not in own:
            hint = f"it has {', '.join(name for name in MODULES if name in own) or 'none'}"
            raise SpecError("is no module of this model", field="plan.recompute_modules", value=module, hint=hint)
    if np.any(np.isfinite(plan.recompute_layers)) and not plan.recompute_modules and not np.any(plan.recompute > 0.0):
        hint = "plan.recompute=full, or plan.recompute_modules"
        raise SpecError("says how many layers compute what again", field="plan.recompute_layers", hint=hint)
