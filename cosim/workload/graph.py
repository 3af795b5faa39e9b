"""Graphs of one serving step, and what they count: parameters and model FLOP."""

from __future__ import annotations

import numpy as np

from cosim.records import Array, array
from cosim.workload.blocks import (
    attention_block,
    cross_attention_block,
    embedding,
    encoder_layers,
    feed_forward,
    head,
    joined,
    norms,
    scaled,
    uncached,
)
from cosim.workload.delta import delta_block
from cosim.workload.encoder import pooled
from cosim.workload.hybrid_serving import served_mixer
from cosim.workload.model import ModelArrays
from cosim.workload.moe import UNIFORM, repeats
from cosim.workload.network import has_phase
from cosim.workload.network_graph import network_graph
from cosim.workload.ops import Attention, Graph, Matmul
from cosim.workload.seq2seq import weights_of
from cosim.workload.tokens import Tokens
from cosim.workload.training import training_graph


def prefill_graph(
    model: ModelArrays, sequences: Array, prompt: Array, *, imbalance: Array = UNIFORM, absorbed: bool = False
) -> Graph:
    """One pass over `sequences` prompts of `prompt` tokens each; logits of the last token only.

    `imbalance` of a router and the form of latent attention: see `ops.Routing`, `latent`. Of a network: its layers. Of
    an encoder: all tokens, and its pooler on the first of each.
    """
    if model.network:
        return network_graph(model.network, sequences, prompt)
    return _graph(model, Tokens("prefill", sequences, prompt, prompt), imbalance, absorbed=absorbed)


def decode_graph(
    model: ModelArrays, sequences: Array, context: Array, *, imbalance: Array = UNIFORM, absorbed: bool = True
) -> Graph:
    """One new token for each of `sequences`, against `context` cached tokens. Raises SpecError for a network."""
    has_phase(model, "decode")
    return _graph(model, Tokens("decode", sequences, array(1.0), context), imbalance, absorbed=absorbed)


def parameters(model: ModelArrays) -> Array:
    """Number of weights, counted from the graph's own ops."""
    return _weights(model, active=False)


def active_parameters(model: ModelArrays) -> Array:
    """Weights that one token uses: of routed experts the chosen ones, of an embedding table of its own none.

    One row of the table is read, so a table that is not also the head multiplies nothing.
    """
    return _weights(model, active=True)


def _weights(model: ModelArrays, *, active: bool) -> Array:
    one = array(1.0)
    if model.mamba is not None or not model.causal:
        graph = training_graph(model, one, one, fused=True)
    else:
        once = bool(model.network) or model.encoder is not None
        graph = prefill_graph(model, one, one) if once else decode_graph(model, one, one)
    total = array(0.0)
    for op in graph.matmuls:
        if op.activations:
            continue
        width, products = _width(op), array(1.0) if op.batch is None else op.batch.size
        if op.routed is not None:
            products = op.routed.chosen if active else op.routed.experts
        owned = (width * op.k.size if op.owns_weights else 0.0) + width * op.bias
        total = total + repeats(model, op.group) * op.count * products * owned
    for vector in graph.vectors:
        total = total + repeats(model, vector.group) * vector.count * vector.parameters
        if vector.table is not None and not (active and not model.tied_embeddings):
            total = total + repeats(model, vector.group) * vector.count * vector.table.size
    return total


def kv_bytes_per_token(model: ModelArrays, element_bytes: float) -> Array:
    """Cache of one token over all layers, unsharded [B]: layers x heads x elements x bytes.

    Ordinary attention keeps 2 x head_dim elements for each key/value head, latent attention one latent, linear
    attention none: its state is `ModelArrays.state_bytes` a layer and sequence.
    """
    return model.layers * model.cache_heads * model.kept_per_token * element_bytes


def model_flop(model: ModelArrays, graph: Graph) -> Array:
    """FLOP that the mathematics asks for in one step: matmuls, and attention under its mask."""
    total = array(0.0)
    for op in graph.matmuls:
        products = array(1.0) if op.batch is None else op.batch.size
        if op.routed is not None:
            products = op.routed.chosen
        flop = 2.0 * op.m * _width(op) * op.k.size * products
        total = total + repeats(model, op.group) * op.count * flop
    for attention in graph.attentions:
        total = total + model.layers * attention.count * attention_flop(attention)
    return total


def attention_flop(op: Attention) -> Array:
    """2 x batch x heads x (key + value width) x (query, key) pairs that the mask lets through."""
    return 2.0 * op.batch * op.heads * (op.head_dim + op.values) * visible_pairs(op)


def visible_pairs(op: Attention) -> Array:
    """(query, key) pairs of one sequence and head under the causal mask and the window.

    The last `query` of `context` tokens attend; query i sees min(i, window) keys, i = position from 1.
    """
    # A query before the first key sees that key at least.
    first: Array = np.maximum(op.context - op.query + 1.0, 1.0)
    last = op.context
    if not op.causal:
        keys = np.minimum(op.context, op.window) if op.windowed else op.context
        return op.query * keys
    if not op.windowed:
        return op.query * (first + last) / 2.0
    growing_last = np.minimum(last, op.window)
    growing = np.maximum(growing_last - first + 1.0, 0.0)
    return growing * (first + growing_last) / 2.0 + (op.query - growing) * op.window


def _width(op: Matmul) -> Array:
    return sum((axis.size for axis in op.n), array(0.0))


def _graph(model: ModelArrays, tokens: Tokens, imbalance: Array, *, absorbed: bool) -> Graph:
    return joined(
        tokens.phase,
        (
            embedding(model, tokens),
            norms(model, tokens),
            _mixing(model, tokens, absorbed=absorbed),
            *_heard(model, tokens),
            feed_forward(model, tokens, imbalance),
            head(model, tokens) if model.causal else pooled(model, tokens),
        ),
    )


def _mixing(model: ModelArrays, tokens: Tokens, *, absorbed: bool) -> Graph:
    """Attention of every layer; where some have a state in its place, each of both in its share of the layers."""
    attention = attention_block(model, tokens, absorbed=absorbed)
    if not model.causal:
        return uncached(model, attention)
    if model.mamba is not None:
        mixed = scaled(served_mixer(model, model.mamba, tokens), model.mamba.mamba)
        return joined(tokens.phase, (mixed, scaled(attention, model.mamba.attention)))
    if model.delta is None:
        return attention
    linear = delta_block(model.delta, tokens, model.hidden)
    share = model.linear_share
    return joined(tokens.phase, (scaled(attention, 1.0 - share), scaled(linear, share)))


def _heard(model: ModelArrays, tokens: Tokens) -> tuple[Graph, ...]:
    """The encoder, where it runs, and what every decoder layer takes from it; nothing for a decoder alone."""
    encoder = model.encoder
    if encoder is None:
        return ()
    own, nothing = encoder_layers(model, encoder, tokens.sequences), array(0.0)
    if tokens.phase == "prefill":
        return own, cross_attention_block(model, tokens, encoder.tokens, nothing)
    keys = 2.0 * model.kv_heads * model.head_dim * (model.hidden + float(model.qkv_bias))
    return (cross_attention_block(model, tokens, encoder.tokens, weights_of(own) + keys),)
