"""Latent attention (MLA): keys and values from one compressed vector per token, in its two forms.

    expanded   keys and values are made from the latent for every head: prefill and training
    absorbed   the up-projections join query and output, and all heads attend to the latent itself: decode

Both have the same weights; the cache holds kv_latent + rope_dim elements a token, once for all heads, and so whole
on every tensor rank. DeepSeek-V2, arXiv:2405.04434, section 2.1.
"""

from __future__ import annotations

from dataclasses import replace

from cosim.records import array
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Attention, Axis, Collective, Graph, Matmul, Vector, whole
from cosim.workload.sparse import index_block
from cosim.workload.tokens import Tokens


def latent_block(model: ModelArrays, tokens: Tokens, *, absorbed: bool) -> Graph:
    """Down- and up-projections, rotary and cache write, attention in one of its forms, output projection, sum."""
    up = latent_up(model, tokens, absorbed=absorbed)
    attention = latent_attention(model, tokens, absorbed=absorbed)
    if not model.is_indexed:
        return latent_ends(model, tokens, up, (attention,))
    index = index_block(model, tokens)
    block = latent_ends(model, tokens, (*index.matmuls, *up), (*index.attentions, attention))
    return replace(block, vectors=(*block.vectors[:-1], *index.vectors, block.vectors[-1]))


def latent_up(model: ModelArrays, tokens: Tokens, *, absorbed: bool) -> tuple[Matmul, ...]:
    """Products between latents and attention, in one of its forms."""
    return _absorbed(model, tokens) if absorbed else _expanded(model, tokens)


def latent_ends(model: ModelArrays, tokens: Tokens, up: tuple[Matmul, ...], attentions: tuple[Attention, ...]) -> Graph:
    """The block around `up` and `attentions`: projections of all tokens, rotary and cache write, sum."""
    down, norms = _down(model, tokens)
    rope = Axis(model.heads, model.rope_dim)
    # The latent is whole on every tensor rank.
    kept = Axis(array(1.0), model.kept_per_token)
    cache = Vector("rotary_and_cache", "layer", tokens.rows, (rope, kept), 1.0, 1.0, flop=6.0, splits=True)
    value = Axis(model.heads, model.value_dim)
    out = Matmul("attention_out", "layer", tokens.rows, (whole(model.hidden),), value, "k", bias=model.output_bias)
    into = "query_up" if model.compresses_query else "query"
    # Down-projections are whole on every rank: what is summed on the way back are gradients of the latents.
    latents = model.kv_latent + model.rope_dim + (model.query_latent if model.compresses_query else model.hidden)
    summed = Collective(
        "attention_sum",
        "layer",
        "all_reduce",
        tokens.rows,
        model.hidden,
        into=into,
        out_of="attention_out",
        gradient_width=latents,
    )
    return Graph(tokens.phase, (*down, *up, out), attentions, (*norms, cache), (summed,))


def latent_attention(model: ModelArrays, tokens: Tokens, *, absorbed: bool) -> Attention:
    """Attention over the latent by all heads at once, or over each head's keys and values; keys of an index alone."""
    if absorbed:
        heads, keys, values = array(1.0), model.kv_latent + model.rope_dim, model.kv_latent
    else:
        heads, keys, values = model.heads, model.head_dim + model.rope_dim, model.value_dim
    return Attention(
        "attention",
        "layer",
        tokens.phase,
        tokens.sequences,
        tokens.query,
        tokens.context,
        model.heads,
        heads,
        keys,
        model.index_keys if model.is_indexed else model.window,
        model.is_indexed,
        value_dim=values,
        # The latent is key and value at once.
        cached=keys if absorbed else keys + values,
    )


def _down(model: ModelArrays, tokens: Tokens) -> tuple[tuple[Matmul, ...], tuple[Vector, ...]]:
    """Products up to the latents and the query, with the norms between; down-projections are whole on every rank."""
    rows, hidden = tokens.rows, whole(model.hidden)
    latents = (whole(model.kv_latent), whole(model.rope_dim))
    query = Axis(model.heads, model.head_dim + model.rope_dim)
    products = [Matmul("kv_down", "layer", rows, latents, hidden, "none", bias=model.qkv_bias)]
    norms = [_norm("kv_latent_norm", model.kv_latent, tokens)]
    if model.compresses_query:
        small = whole(model.query_latent)
        products.append(Matmul("query_down", "layer", rows, (small,), hidden, "none", bias=model.qkv_bias))
        products.append(Matmul("query_up", "layer", rows, (query,), small, "n"))
        norms.append(_norm("query_latent_norm", model.query_latent, tokens))
    else:
        products.append(Matmul("query", "layer", rows, (query,), hidden, "n"))
    return tuple(products), tuple(norms)


def _norm(name: str, width: object, tokens: Tokens) -> Vector:
    size = array(width)
    return Vector(name, "layer", tokens.rows, (whole(size),), 1.0, 1.0, flop=5.0, parameters=size, scales=True)


def _expanded(model: ModelArrays, tokens: Tokens) -> tuple[Matmul, ...]:
    """Keys and values of every head from the latent."""
    parts = (Axis(model.heads, model.head_dim), Axis(model.heads, model.value_dim))
    return (Matmul("kv_up", "layer", tokens.rows, parts, whole(model.kv_latent), "n"),)


def _absorbed(model: ModelArrays, tokens: Tokens) -> tuple[Matmul, ...]:
    """Query into the latent's space, and the latent's average into values: one small product a head."""
    heads, latent = Axis(model.heads, array(1.0)), whole(model.kv_latent)
    key, value = whole(model.head_dim), whole(model.value_dim)
    return (
        Matmul("key_absorb", "layer", tokens.rows, (latent,), key, "batch", batch=heads),
        Matmul("value_absorb", "layer", tokens.rows, (value,), latent, "batch", batch=heads),
    )
