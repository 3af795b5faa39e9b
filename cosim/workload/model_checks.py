"""What a description of a transformer may not say at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosim.errors import SpecError

if TYPE_CHECKING:
    from cosim.workload.model import Model

ROUTED = (
    "expert_ffn",
    "shared_experts",
    "dense_layers",
    "dense_between",
    "router_bias",
    "expert_groups",
    "groups_per_token",
    "expert_latent",
)
"""What only a mixture of experts has."""


def check_model(model: Model) -> None:
    """Refuses what contradicts itself, and what is not modelled together. Raises SpecError."""
    if model.heads % model.kv_heads:
        raise SpecError("must be a multiple of kv_heads", field="heads", value=model.heads)
    if model.windowed_layers > model.layers:
        raise SpecError("is more than layers", field="windowed_layers", value=model.windowed_layers)
    if model.windowed_layers and model.window is None:
        raise SpecError("is missing although windowed_layers is set", field="window")
    _routes(model)
    _side_by_side(model)
    _mixes(model)
    if model.causal and model.predicted_share < 1.0:
        hint = "a decoder learns every token; causal: false is an encoder"
        raise SpecError("is not part of a decoder", field="predicted_share", value=model.predicted_share, hint=hint)
    _linear(model)
    _indexes(model)
    _held(model)
    _hears(model)
    latent = (model.kv_latent, model.rope_dim, model.value_dim)
    if (any(latent) or model.query_latent) and not all(latent):
        hint = "latent attention needs kv_latent, rope_dim and value_dim"
        raise SpecError("is incomplete", field="kv_latent", value=model.kv_latent, hint=hint)


def _routes(model: Model) -> None:
    """Refuses routing that cannot be. Raises SpecError."""
    if model.experts is None:
        for name in (*ROUTED, *(("experts_per_token",) if model.experts_per_token > 1 else ())):
            if getattr(model, name):
                raise SpecError("is set although experts is not", field=name, value=getattr(model, name))
        return
    if model.expert_ffn is None:
        raise SpecError("is missing although experts is set", field="expert_ffn")
    if model.experts_per_token > model.experts:
        raise SpecError("is more than experts", field="experts_per_token", value=model.experts_per_token)
    if model.dense_layers >= model.layers:
        hint = "a model without routed layers has no experts"
        raise SpecError("leaves no routed layer", field="dense_layers", value=model.dense_layers, hint=hint)
    if model.dense_between and not model.dense_layers:
        raise SpecError("is set although dense_layers is not", field="dense_between", value=model.dense_between)
    if (model.expert_groups or 1) < (model.groups_per_token or 1):
        raise SpecError("is more than expert_groups", field="groups_per_token", value=model.groups_per_token)


def _mixes(model: Model) -> None:
    """Refuses a hybrid that its pattern does not describe. Raises SpecError."""
    if model.mamba is None:
        return
    if len(model.mamba.pattern) != model.layers:
        raise SpecError("is not the number of letters of the pattern", field="layers", value=model.layers)
    if (model.experts is not None) != ("E" in model.mamba.pattern):
        raise SpecError("does not agree with the letters E of the pattern", field="experts", value=model.experts)
    for name in ("parallel_norms", "post_norms", "kv_latent", "dense_layers", "window", "dropout"):
        if getattr(model, name):
            raise SpecError("is not modelled in a hybrid", field=name, value=getattr(model, name))
    if not model.causal:
        raise SpecError("is not modelled in a hybrid", field="causal", value=model.causal)


def _linear(model: Model) -> None:
    """Refuses linear attention in what is not modelled with it. Raises SpecError."""
    if model.output_gate and model.kv_latent:
        raise SpecError("is not modelled with latent attention", field="output_gate", value=True)
    if model.delta is None:
        return
    if model.delta.layers >= model.layers:
        hint = "some layers of the model keep their attention"
        raise SpecError("leaves no layer with attention", field="delta.layers", value=model.delta.layers, hint=hint)
    for name in ("parallel_norms", "post_norms", "kv_latent", "windowed_layers", "dropout", "mamba"):
        if getattr(model, name):
            raise SpecError("is not modelled beside linear attention", field=name)
    if not model.causal:
        raise SpecError("is not modelled beside linear attention", field="causal", value=model.causal)


def _indexes(model: Model) -> None:
    """Refuses an index of keys that is incomplete, or of other than latent attention. Raises SpecError."""
    index = {name: getattr(model, name) for name in ("index_heads", "index_dim", "index_keys")}
    if not any(index.values()):
        return
    for name, value in index.items():
        if value is None:
            raise SpecError("is missing: an index of keys needs it", field=name)
    if model.query_latent is None or model.kv_latent is None or model.windowed_layers:
        hint = "kv_latent and query_latent, and no window"
        raise SpecError("is modelled with latent attention alone", field="index_heads", hint=hint)


def _hears(model: Model) -> None:
    """Refuses an encoder beside what is not modelled with one. Raises SpecError."""
    if model.encoder is None:
        return
    for name in ("experts", "kv_latent", "mamba", "delta", "windowed_layers", "parallel_norms", "post_norms"):
        if getattr(model, name):
            raise SpecError("is not modelled behind an encoder", field=name)
    if not model.causal:
        raise SpecError("is not modelled behind an encoder", field="causal", value=model.causal)


def _held(model: Model) -> None:
    """Refuses parts of a checkpoint that the model has not. Raises SpecError."""
    routed = model.experts is not None
    between = model.mamba is not None and "-" in model.mamba.pattern
    has = {
        "dense": not routed or model.dense_layers > 0 or between,
        "experts": routed,
        "shared_experts": model.shared_experts > 0,
    }
    for dtype, checkpoint in model.quantised.items():
        for part in checkpoint.parts:
            if not has.get(part, True):
                raise SpecError("is not part of this model", field=f"quantised.{dtype}.parts", value=part)


def _side_by_side(model: Model) -> None:
    """Refuses blocks side by side where only blocks in turn are modelled. Raises SpecError."""
    for name in ("post_norms", "experts", "kv_latent"):
        if model.parallel_norms and getattr(model, name):
            hint = f"blocks side by side are modelled without {name}"
            raise SpecError("is not modelled here", field="parallel_norms", value=model.parallel_norms, hint=hint)
