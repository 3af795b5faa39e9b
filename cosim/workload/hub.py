"""Reads a hub `config.json` of the Llama, Mixtral, Qwen2/3, gpt-oss, DeepSeek-V3 and GPT-2/3 families, as plain JSON.

The file's own field names are kept apart per family; what a family fixes in code (bias, norm, gate) is
stated here with the architecture it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosim.documents import Document
from cosim.errors import SpecError, nearest
from cosim.schema import validated
from cosim.workload.model import Model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")


def is_hub_config(data: Mapping[str, Any]) -> bool:
    """Whether a JSON document looks like a hub configuration."""
    return "model_type" in data or "architectures" in data


def from_hub(document: Document, name: str) -> Model:
    """The model that a hub configuration describes, called `name`. Raises SpecError for other families."""
    config = document.data
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise SpecError(
            "is not a model family that cosim reads yet",
            file=document.path,
            line=document.line("model_type"),
            field="model_type",
            value=family or None,
            hint=f"{nearest(family, FAMILIES)}; or describe the model: cosim schema workload",
        )
    fields = _gpt2(config, document) if family == "gpt2" else _llama_like(config, family, document)
    fields |= routed_fields(config, family, document)
    described = {"name": name, "title": str(config.get("_name_or_path") or name), **fields}
    return validated(Model, {**described, "source": f"hub configuration {document.path.name}"}, document)


def _whole(config: Mapping[str, Any], key: str, document: Document, default: int | None = None) -> int:
    """A positive whole number of the file, or `default`. Raises SpecError naming the field."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if value is None:
        raise SpecError("is missing", file=document.path, field=key, hint="a hub configuration has it")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError("must be a positive whole number", file=document.path, field=key, value=value)
    return value


def _flag(config: Mapping[str, Any], key: str, document: Document, *, default: bool) -> bool:
    """A true or false of the file, or `default`. Raises SpecError naming the field."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise SpecError("must be true or false", file=document.path, field=key, value=value)
    return value


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int, document: Document) -> int:
    if config.get("head_dim") is None and hidden % heads:
        hint = "give head_dim, or heads that divide the hidden size"
        raise SpecError("is missing and does not follow", file=document.path, field="head_dim", hint=hint)
    return _whole(config, "head_dim", document, hidden // heads)


def _windowed_layers(config: Mapping[str, Any], family: str, layers: int, document: Document) -> int:
    """Layers with a sliding window: all of Mistral's; Qwen2's from max_window_layers on, where it is in use."""
    if config.get("sliding_window") is None:
        return 0
    if family in ("mistral", "mixtral"):
        return layers
    if family == "gpt_oss":
        return sum(kind == "sliding_attention" for kind in config.get("layer_types", ()))
    if not _flag(config, "use_sliding_window", document, default=False):
        return 0
    # 28 is the default of the Qwen2 configuration class in transformers [unverified recollection].
    return max(layers - _whole(config, "max_window_layers", document, 28), 0)


def routed_fields(config: Mapping[str, Any], family: str, document: Document) -> dict[str, Any]:
    """Experts, and latent attention, of the families that have them; nothing for others."""

    def whole(key: str) -> int:
        return _whole(config, key, document)

    if family in ("mixtral", "gpt_oss"):
        given = family == "gpt_oss"
        routed = {"experts": whole("num_local_experts"), "expert_ffn": whole("intermediate_size")}
        biases = {"ffn_bias": given, "router_bias": given, "sinks": given}
        return {**routed, **biases, "experts_per_token": whole("num_experts_per_tok")}
    if family == "qwen3_moe":
        _only(config, "decoder_sparse_step", (None, 1), document)
        _only(config, "mlp_only_layers", (None, []), document)
        routed = {"experts": whole("num_experts"), "expert_ffn": whole("moe_intermediate_size")}
        return {**routed, "experts_per_token": whole("num_experts_per_tok")}
    if family != "deepseek_v3":
        return {}
    _only(config, "moe_layer_freq", (None, 1), document)
    return {
        "experts": whole("n_routed_experts"),
        "experts_per_token": whole("num_experts_per_tok"),
        "expert_ffn": whole("moe_intermediate_size"),
        "shared_experts": 0 if config.get("n_shared_experts") == 0 else whole("n_shared_experts"),
        "dense_layers": 0 if config.get("first_k_dense_replace") == 0 else whole("first_k_dense_replace"),
        "expert_groups": whole("n_group"),
        "groups_per_token": whole("topk_group"),
        "query_latent": None if config.get("q_lora_rank") is None else whole("q_lora_rank"),
        "kv_latent": whole("kv_lora_rank"),
        "rope_dim": whole("qk_rope_head_dim"),
        "value_dim": whole("v_head_dim"),
        "head_dim": whole("qk_nope_head_dim"),
    }


def _only(config: Mapping[str, Any], key: str, known: tuple[object, ...], document: Document) -> None:
    """Refuses a value of `key` that is not modelled. Raises SpecError."""
    if config.get(key) not in known:
        raise SpecError("is not modelled yet", file=document.path, field=key, value=config.get(key))


def _llama_like(config: Mapping[str, Any], family: str, document: Document) -> dict[str, Any]:
    heads, hidden = _whole(config, "num_attention_heads", document), _whole(config, "hidden_size", document)
    layers = _whole(config, "num_hidden_layers", document)
    windowed = _windowed_layers(config, family, layers, document)
    biased = _flag(config, "attention_bias", document, default=False)
    return {
        "layers": layers,
        "hidden": hidden,
        "ffn": _whole(config, "intermediate_size", document),
        "heads": heads,
        "kv_heads": _whole(config, "num_key_value_heads", document, heads),
        "head_dim": 1 if family == "deepseek_v3" else _head_dim(config, hidden, heads, document),
        "vocab": _whole(config, "vocab_size", document),
        "gated": True,
        "norm": "rms",
        "position": "rotary",
        "max_positions": _whole(config, "max_position_embeddings", document),
        "tied_embeddings": _flag(config, "tie_word_embeddings", document, default=False),
        # Qwen2 has a bias on query, key and value alone; attention_bias puts one on the output too.
        "qkv_bias": family == "qwen2" or biased,
        "output_bias": biased,
        "ffn_bias": _flag(config, "mlp_bias", document, default=False),
        "qk_norm": family in ("qwen3", "qwen3_moe"),
        "window": _whole(config, "sliding_window", document) if windowed else None,
        "windowed_layers": windowed,
    }


def _gpt2(config: Mapping[str, Any], document: Document) -> dict[str, Any]:
    hidden, heads = _whole(config, "n_embd", document), _whole(config, "n_head", document)
    return {
        "layers": _whole(config, "n_layer", document),
        "hidden": hidden,
        "ffn": _whole(config, "n_inner", document, 4 * hidden),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": _head_dim(config, hidden, heads, document),
        "vocab": _whole(config, "vocab_size", document),
        "gated": False,
        "norm": "layer",
        "position": "learned",
        "max_positions": _whole(config, "n_positions", document),
        "tied_embeddings": _flag(config, "tie_word_embeddings", document, default=True),
        "qkv_bias": True,
        "output_bias": True,
        "ffn_bias": True,
        "qk_norm": False,
    }
