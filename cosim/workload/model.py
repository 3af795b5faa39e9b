"""The description of a transformer, and its lowering to arrays.

Dimensions are plain numbers here because a model has one origin for all of them, named in `source`.
Covers the Llama, Qwen2/3/3.5, GPT-2/3, OPT, BLOOM, GPT-J, Falcon, PaLM, Nemotron-4, Gemma 3, Mixtral, Grok-1, gpt-oss,
DeepSeek, GLM-5, T5 and Whisper families: dense or a mixture of experts, ordinary, latent (MLA), sparse (DSA) or linear
attention, a decoder alone or behind an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from cosim.datum import Count
from cosim.dtypes import Dtype
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.schema import Frozen
from cosim.workload.checkpoint import Checkpoint, Narrow
from cosim.workload.delta import Delta, DeltaArrays, lower_delta
from cosim.workload.layers import LayerArrays
from cosim.workload.mamba import Mamba, MambaArrays, lower_mamba
from cosim.workload.model_checks import check_model
from cosim.workload.seq2seq import Encoder, EncoderArrays, lower_encoder

Dim = Annotated[int, Field(gt=0, le=10_000_000)]
HALF_BYTES = 2.0
"""Bytes of a number of 16 bits."""


class Model(Frozen):
    """Dimensions and choices of one transformer: a decoder, an encoder, a hybrid with Mamba layers."""

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
    activation: Literal["smooth", "relu", "squared_relu"] = "smooth"
    """Of the feed-forward; smooth is GELU or SiLU, whose kernel takes an exponential."""
    norm: Literal["rms", "layer"]
    post_norms: bool = False
    """A norm of what each block made, before it joins the stream, beside the one before the block (Gemma 3, Grok-1)."""
    parallel_norms: Literal[0, 1, 2] = 0
    """Attention and feed-forward work side by side on the stream, after so many norms of it (GPT-J and PaLM one,
    Falcon-180B one for each); 0: the feed-forward works on what attention made."""
    position: Literal["rotary", "learned", "alibi", "none"]
    """Of these, only a learned table has parameters; the biases of ALiBi are made inside the attention kernel."""
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
    sinks: bool = False
    """One learned logit per head beside the scores (gpt-oss)."""
    experts: Dim | None = None
    """Routed experts of a feed-forward layer; None is a dense model."""
    experts_per_token: Dim = 1
    expert_ffn: Dim | None = None
    """Width of one expert."""
    shared_experts: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Experts, of the same width, that every token passes."""
    dense_layers: Annotated[int, Field(ge=0)] = 0
    """First layers with a dense feed-forward of width `ffn`."""
    dense_between: bool = False
    """The dense layers lie between the routed ones, evenly, instead of in front (Llama 4 Maverick)."""
    router_bias: bool = False
    expert_groups: Dim | None = None
    """Groups of experts that routing chooses among first (DeepSeek: one a node)."""
    groups_per_token: Dim | None = None
    """Most groups whose experts one token may use."""
    query_latent: Dim | None = None
    """MLA: width of the compressed query; None projects it at once."""
    kv_latent: Dim | None = None
    """MLA: width of the compressed key and value, cached in place of both; None is ordinary attention."""
    rope_dim: Dim | None = None
    """MLA: rotary part of a key, shared by all heads; head_dim is the part without position."""
    value_dim: Dim | None = None
    """MLA: width of a head's value."""
    expert_latent: Dim | None = None
    """Width to which tokens are projected before they go to routed experts, and from which back; None is hidden."""
    causal: bool = True
    """Whether tokens see only those before them; if not, an encoder (BERT) that learns to fill in masked tokens."""
    predicted_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the positions that an encoder's head works on: all, or masked ones alone where software picks these."""
    mamba: Mamba | None = None
    """Layers of a hybrid; None is a transformer."""
    delta: Delta | None = None
    """Layers with linear attention in place of attention; None: there are none."""
    output_gate: bool = False
    """What attention made is multiplied by a gate of each element, projected beside the queries."""
    index_heads: Dim | None = None
    """Sparse latent attention (DSA): heads of the index that chooses keys; None is attention to all keys."""
    index_dim: Dim | None = None
    """Width of an index head, and of the index key that every token keeps."""
    index_keys: Dim | None = None
    """Keys that the index leaves to each query."""
    encoder: Encoder | None = None
    """The encoder that every decoder layer attends to; None is a decoder alone."""
    quantised: dict[Dtype, Checkpoint] = {}
    """Published checkpoints by format: what they hold narrow when served. Training has no part in it."""
    published_parameters: Count | None = None
    """The count that the maker states: a check, not an input."""
    published_active_parameters: Count | None = None
    """The same of the weights that one token uses."""

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        check_model(self)
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
    activation: str = "smooth"
    post_norms: bool = False
    parallel_norms: int = 0
    dense_between: bool = False
    sinks: bool = False
    experts: Array = field(default_factory=lambda: array(0.0))
    experts_per_token: Array = field(default_factory=lambda: array(1.0))
    expert_ffn: Array = field(default_factory=lambda: array(0.0))
    shared_experts: Array = field(default_factory=lambda: array(0.0))
    dense_layers: Array = field(default_factory=lambda: array(0.0))
    node_limit: Array = field(default_factory=lambda: array(np.inf))
    """Most groups of ranks, one a node, that a token's experts lie on."""
    query_latent: Array = field(default_factory=lambda: array(0.0))
    kv_latent: Array = field(default_factory=lambda: array(0.0))
    rope_dim: Array = field(default_factory=lambda: array(0.0))
    value_dim: Array = field(default_factory=lambda: array(0.0))
    is_moe: bool = False
    has_dense_layers: bool = False
    has_shared_experts: bool = False
    router_bias: bool = False
    is_latent: bool = False
    compresses_query: bool = False
    expert_latent: Array = field(default_factory=lambda: array(0.0))
    has_expert_latent: bool = False
    causal: bool = True
    predicted_share: Array = field(default_factory=lambda: array(1.0))
    mamba: MambaArrays | None = None
    delta: DeltaArrays | None = None
    output_gate: bool = False
    index_heads: Array = field(default_factory=lambda: array(0.0))
    index_dim: Array = field(default_factory=lambda: array(0.0))
    index_keys: Array = field(default_factory=lambda: array(0.0))
    is_indexed: bool = False
    encoder: EncoderArrays | None = None
    quantised: Narrow = field(default_factory=dict)
    """What checkpoints hold narrow, by format: see `checkpoint.weights_dtype`."""
    network: tuple[LayerArrays, ...] = ()
    """Layers of a network that is no decoder transformer, which then has no other dimensions."""

    @property
    def has_tokens(self) -> bool:
        """Whether its work depends on the number of tokens: no where items have one size."""
        return not self.network or any(layer.of_tokens for layer in self.network)

    @property
    def keeps_cache(self) -> bool:
        """Whether its prompts are followed by answers: no of networks and encoders."""
        return self.causal and not self.network

    @property
    def routed_width(self) -> Array:
        """Width of a token where its routed experts read it."""
        return self.expert_latent if self.has_expert_latent else self.hidden

    @property
    def linear_share(self) -> Array:
        """Share of the layers that have linear attention: a state of one size and no cache."""
        return array(0.0) if self.delta is None else self.delta.layers / self.layers

    @property
    def state_bytes(self) -> Array:
        """Bytes that one sequence keeps of a layer whatever its length, mean of all layers; tensor ranks share them.

        States of linear attention and of Mamba mixers, keys and values of an encoder's tokens at 16 bits.
        """
        mixed = array(0.0) if self.mamba is None else self.mamba.mamba * self.mamba.state_bytes
        linear = array(0.0) if self.delta is None else self.linear_share * self.delta.state_bytes
        heard = array(0.0) if self.encoder is None else 2.0 * self.kv_heads * self.head_dim * self.encoder.tokens
        return linear + mixed + HALF_BYTES * heard

    @property
    def kept_per_token(self) -> Array:
        """Elements that one token leaves in the cache of one key/value head, mean of all layers; an index its key.

        An encoder that serves alone has none.
        """
        if not self.causal:
            return array(0.0)
        if self.is_latent:
            return self.kv_latent + self.rope_dim + self.index_dim
        attention = 1.0 - self.linear_share if self.mamba is None else self.mamba.attention
        return 2.0 * self.head_dim * attention

    @property
    def cache_heads(self) -> Array:
        """Key/value heads that the cache holds: one latent, or kv_heads."""
        return array(1.0) if self.is_latent else self.kv_heads


NUMBERS = (
    "layers",
    "hidden",
    "ffn",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab",
    "max_positions",
    "window",
    "windowed_layers",
    "experts",
    "experts_per_token",
    "expert_ffn",
    "shared_experts",
    "query_latent",
    "kv_latent",
    "rope_dim",
    "value_dim",
    "expert_latent",
    "predicted_share",
    "index_heads",
    "index_dim",
    "index_keys",
)
"""Fields of a model that are numbers, which can vary; 0 where it has none."""
KINDS = (
    "gated",
    "norm",
    "position",
    "tied_embeddings",
    "qkv_bias",
    "output_bias",
    "ffn_bias",
    "qk_norm",
    "dropout",
    "activation",
    "post_norms",
    "parallel_norms",
    "sinks",
    "router_bias",
    "causal",
    "output_gate",
)
"""Fields of a model that say of what kind its layers are."""


def lower_model(varied: Varied[Model]) -> ModelArrays:
    """Arrays of a model with its overrides (paths are field names)."""
    model, arrays = varied.spec, varied.arrays

    def number(name: str) -> Array:
        return arrays.get(name, array(getattr(model, name) or 0.0))

    mamba, dense = None if model.mamba is None else lower_mamba(model.mamba, arrays), number("dense_layers")
    if mamba is not None and model.experts is not None:
        # Layers without experts of a hybrid lie between the routed ones.
        dense = number("layers") * (1.0 - mamba.routed)
    numbers: dict[str, Any] = {name: number(name) for name in NUMBERS}
    kinds: dict[str, Any] = {name: getattr(model, name) for name in KINDS}
    return ModelArrays(
        name=model.name,
        **numbers,
        **kinds,
        dense_between=model.dense_between or mamba is not None,
        dense_layers=dense,
        node_limit=arrays.get("groups_per_token", array(model.groups_per_token or np.inf)),
        is_moe=model.experts is not None,
        has_dense_layers=model.dense_layers > 0 or "dense_layers" in arrays,
        has_shared_experts=model.shared_experts > 0 or "shared_experts" in arrays,
        is_latent=model.kv_latent is not None,
        compresses_query=model.query_latent is not None,
        has_expert_latent=model.expert_latent is not None,
        mamba=mamba,
        delta=None if model.delta is None else lower_delta(model.delta, arrays),
        is_indexed=model.index_heads is not None,
        encoder=None if model.encoder is None else lower_encoder(model.encoder, arrays),
        quantised={dtype: checkpoint.parts for dtype, checkpoint in model.quantised.items()},
        has_window=model.window is not None and ("windowed_layers" in arrays or model.windowed_layers > 0),
    )
