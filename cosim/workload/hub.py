"""Reads a hub `config.json` of the Llama, Qwen2/3 dense and GPT-2/3 families, as plain JSON.

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

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")


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
    described = {"name": name, "title": str(config.get("_name_or_path") or name), **fields}
    return validated(Model, {**described, "source": f"hub configuration {document.path.name}"}, document)


def _need(config: Mapping[str, Any], key: str, document: Document) -> Any:  # noqa: ANN401  # JSON
    if config.get(key) is None:
        raise SpecError("is missing", file=document.path, field=key, hint="a hub configuration has it")
    return config[key]


def _llama_like(config: Mapping[str, Any], family: str, document: Document) -> dict[str, Any]:
    heads, hidden = _need(config, "num_attention_heads", document), _need(config, "hidden_size", document)
    layers = _need(config, "num_hidden_layers", document)
    slides = config.get("sliding_window") if config.get("use_sliding_window", family == "mistral") else None
    # Qwen2 slides only the layers from max_window_layers on; Mistral slides all of them.
    windowed = 0 if slides is None else layers - (config.get("max_window_layers", 0) if family != "mistral" else 0)
    return {
        "layers": layers,
        "hidden": hidden,
        "ffn": _need(config, "intermediate_size", document),
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or hidden // heads,
        "vocab": _need(config, "vocab_size", document),
        "gated": True,
        "norm": "rms",
        "position": "rotary",
        "max_positions": _need(config, "max_position_embeddings", document),
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
        "qkv_bias": family == "qwen2" or bool(config.get("attention_bias", False)),
        "linear_bias": bool(config.get("mlp_bias", False)),
        "qk_norm": family == "qwen3",
        "window": slides if windowed else None,
        "windowed_layers": windowed,
    }


def _gpt2(config: Mapping[str, Any], document: Document) -> dict[str, Any]:
    hidden, heads = _need(config, "n_embd", document), _need(config, "n_head", document)
    return {
        "layers": _need(config, "n_layer", document),
        "hidden": hidden,
        "ffn": config.get("n_inner") or 4 * hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": config.get("head_dim") or hidden // heads,
        "vocab": _need(config, "vocab_size", document),
        "gated": False,
        "norm": "layer",
        "position": "learned",
        "max_positions": _need(config, "n_positions", document),
        "tied_embeddings": bool(config.get("tie_word_embeddings", True)),
        "qkv_bias": True,
        "linear_bias": True,
        "qk_norm": False,
    }
