"""Graphs of one serving step, and what they count: parameters and model FLOP."""

from __future__ import annotations

import numpy as np

from cosim.records import Array, array
from cosim.workload.blocks import Tokens, attention_block, embedding, feed_forward_block, head, joined, norms
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Attention, Graph, Matmul


def prefill_graph(model: ModelArrays, sequences: Array, prompt: Array) -> Graph:
    """One pass over `sequences` prompts of `prompt` tokens each; logits of the last token only."""
    return _graph(model, Tokens("prefill", sequences, prompt, prompt))


def decode_graph(model: ModelArrays, sequences: Array, context: Array) -> Graph:
    """One new token for each of `sequences`, against `context` cached tokens."""
    return _graph(model, Tokens("decode", sequences, array(1.0), context))


def parameters(model: ModelArrays) -> Array:
    """Number of weights, counted from the graph's own ops."""
    graph = decode_graph(model, array(1.0), array(1.0))
    total = array(0.0)
    for op in graph.matmuls:
        times = model.layers if op.group == "layer" else array(1.0)
        width = _width(op)
        total = total + times * op.count * ((width * op.k.size if op.owns_weights else 0.0) + width * op.bias)
    for vector in graph.vectors:
        times = model.layers if vector.group == "layer" else array(1.0)
        total = total + times * vector.count * vector.parameters
        total = total + (vector.table.size if vector.table is not None else 0.0)
    return total


def kv_bytes_per_token(model: ModelArrays, element_bytes: float) -> Array:
    """Key/value cache of one token over all layers, unsharded [B]: 2 x layers x kv_heads x head_dim x bytes."""
    return 2.0 * model.layers * model.kv_heads * model.head_dim * element_bytes


def model_flop(model: ModelArrays, graph: Graph) -> Array:
    """FLOP that the mathematics asks for in one step: matmuls, and attention under its mask."""
    total = array(0.0)
    for op in graph.matmuls:
        times = model.layers if op.group == "layer" else array(1.0)
        total = total + times * op.count * 2.0 * op.m * _width(op) * op.k.size
    for attention in graph.attentions:
        total = total + model.layers * attention.count * attention_flop(attention)
    return total


def attention_flop(op: Attention) -> Array:
    """4 x batch x heads x head_dim x (query, key) pairs that the mask lets through."""
    return 4.0 * op.batch * op.heads * op.head_dim * visible_pairs(op)


def visible_pairs(op: Attention) -> Array:
    """(query, key) pairs of one sequence and head under the causal mask and the window.

    The last `query` of `context` tokens attend; query i sees min(i, window) keys, i = position from 1.
    """
    first, last = op.context - op.query + 1.0, op.context
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


def _graph(model: ModelArrays, tokens: Tokens) -> Graph:
    builders = (embedding, norms, attention_block, feed_forward_block, head)
    return joined(tokens.phase, tuple(build(model, tokens) for build in builders))
