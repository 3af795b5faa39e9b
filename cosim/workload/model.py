"""The description of a transformer, and its lowering to arrays.

Dimensions are plain numbers here because a model has one origin for all of them, named in `source`.
Covers the Llama, Qwen2/3 dense and GPT-2/3 families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosim.datum import Count
from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.schema import Frozen

Dim = Annotated[int, Field(gt=0, le=10_000_000)]


class Model(Frozen):
    """Dimensions and choices of one transformer with causal attention."""

    name: str
    title: str
    source: str
    """Where the dimensions come from."""
    layers: Dim
    hidden: Dim
    ffn: Dim
    """Width of the feed-forward layer (of each half when gated)."""
    heads: Dim
    kv_heads: Dim
    head_dim: Dim
    vocab: Dim
    gated: bool
    """Gated feed-forward (two input projections) or plain (one)."""
    norm: Literal["rms", "layer"]
    position: Literal["rotary", "learned"]
    max_positions: Dim
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias on the output projection of attention."""
    ffn_bias: bool = False
    """Bias on the feed-forward."""
    qk_norm: bool = False
    dropout: bool = False
    """Trained with dropout after the embedding, the attention scores and both blocks of a layer."""
    window: Dim | None = None
    """Sliding window in tokens, for `windowed_layers` of the layers."""
    windowed_layers: Annotated[int, Field(ge=0)] = 0
    published_parameters: Count | None = None
    """The count that the maker states: a check, not an input."""

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.heads % self.kv_heads:
            raise SpecError("must be a multiple of kv_heads", field="heads", value=self.heads)
        if self.windowed_layers > self.layers:
            raise SpecError("is more than layers", field="windowed_layers", value=self.windowed_layers)
        if self.windowed_layers and self.window is None:
            raise SpecError("is missing although windowed_layers is set", field="window")
        return self


@dataclass(frozen=True, slots=True)
class ModelArrays:
    """A model as the engines see it: numbers of shape () or (P,), choices as structure."""

    name: str
    layers: Array
    hidden: Array
    ffn: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    vocab: Array
    max_positions: Array
    window: Array
    windowed_layers: Array
    gated: bool
    norm: str
    position: str
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    ffn_bias: bool
    qk_norm: bool
    has_window: bool
    dropout: bool = False


def lower_model(varied: Varied[Model]) -> ModelArrays:
    """Arrays of a model with its overrides (paths are field names)."""
    model, arrays = varied.spec, varied.arrays

    def number(name: str) -> Array:
        value = getattr(model, name)
        return arrays.get(name, array(0.0 if value is None else value))

    return ModelArrays(
        name=model.name,
        layers=number("layers"),
        hidden=number("hidden"),
        ffn=number("ffn"),
        heads=number("heads"),
        kv_heads=number("kv_heads"),
        head_dim=number("head_dim"),
        vocab=number("vocab"),
        max_positions=number("max_positions"),
        window=number("window"),
        windowed_layers=number("windowed_layers"),
        gated=model.gated,
        norm=model.norm,
        position=model.position,
        tied_embeddings=model.tied_embeddings,
        qkv_bias=model.qkv_bias,
        output_bias=model.output_bias,
        ffn_bias=model.ffn_bias,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        has_window=model.window is not None and ("windowed_layers" in arrays or model.windowed_layers > 0),
    )
