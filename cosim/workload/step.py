"""The graph of a serving step of any mixture: every weight is read once, for all tokens of the step together.

Products, norms and collectives see all tokens. Attention is a kernel for the pieces of prompts and one for the
sequences that decode. Latent attention expands the cache of prompts and joins its projections in decode, so that a
mixed step runs both forms. Steps of prompts alone and of decodes alone are `prefill_graph` and `decode_graph`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cosim.records import Array, array
from cosim.workload.blocks import (
    attention_ops,
    attention_products,
    cross_attention_block,
    embedding,
    encoder_layers,
    feed_forward,
    head,
    joined,
    norms,
    scaled,
)
from cosim.workload.delta import delta_block
from cosim.workload.hybrid_serving import served_mixer
from cosim.workload.latent import latent_attention, latent_ends, latent_up
from cosim.workload.model import ModelArrays
from cosim.workload.moe import UNIFORM
from cosim.workload.network import has_phase
from cosim.workload.ops import Attention, Graph, Matmul, Vector
from cosim.workload.seq2seq import EncoderArrays, weights_of
from cosim.workload.sparse import index_block
from cosim.workload.tokens import Tokens
from cosim.workload.work import Work


def step_graph(model: ModelArrays, work: Work, *, imbalance: Array = UNIFORM, latent: str = "best") -> Graph:
    """One step over `work`; `latent`: form of latent attention for prompts and decodes, as the plan says.

    Raises SpecError for a model that has no decode.
    """
    has_phase(model, "decode")
    one = array(1.0)
    rows = Tokens("decode", np.maximum(work.tokens, 1e-9), one, one)
    drawn = Tokens("decode", np.maximum(work.sampled, 1e-9), one, one)
    block = _latent_block(model, work, rows, latent) if model.is_latent else _block(model, work, rows)
    delta, mamba, encoder = model.delta, model.mamba, model.encoder
    if delta is not None:
        linear = _recurrent(lambda tokens: delta_block(delta, tokens, model.hidden), work, rows)
        block = joined("serve", (scaled(block, 1.0 - model.linear_share), scaled(linear, model.linear_share)))
    if mamba is not None:
        mixed = _recurrent(lambda tokens: served_mixer(model, mamba, tokens), work, rows)
        block = joined("serve", (scaled(mixed, mamba.mamba), scaled(block, mamba.attention)))
    parts = (
        embedding(model, rows),
        norms(model, rows),
        block,
        *(() if encoder is None else (_heard(model, encoder, work, rows),)),
        feed_forward(model, rows, imbalance),
        _head(model, drawn, work),
    )
    return joined("serve", parts)


def _head(model: ModelArrays, drawn: Tokens, work: Work) -> Graph:
    """Logits of the rows that a token is drawn from; nothing where there are none."""
    graph, count = head(model, drawn), np.where(work.sampled > 0.0, 1.0, 0.0)
    return scaled(graph, count)


def _block(model: ModelArrays, work: Work, rows: Tokens) -> Graph:
    """Products of all tokens around attention of prompts and attention of decodes."""
    graph = attention_products(model, rows)
    attentions = (
        *_counted(attention_ops(model, work.prompts), work.prefills, "prompts"),
        *_counted(attention_ops(model, work.answers), work.decoding, "decodes"),
    )
    return replace(graph, attentions=attentions)


def _recurrent(build: Callable[[Tokens], Graph], work: Work, rows: Tokens) -> Graph:
    """Layers with a state: their products for all tokens, the chunks of prompts, the steps of decodes."""
    around, prompts, answers = build(rows), build(work.prompts), build(work.answers)
    both = {op.name for op in around.matmuls} | {op.name for op in around.vectors}
    chunks = tuple(replace(op, count=op.count * work.prefills) for op in prompts.matmuls if op.name not in both)
    kernels = tuple(replace(op, count=op.count * work.prefills) for op in prompts.vectors if op.name not in both)
    return Graph(
        "serve",
        (*around.matmuls, *chunks),
        _counted(answers.attentions, work.decoding, "decodes"),
        (*around.vectors, *kernels),
        around.collectives,
    )


def _heard(model: ModelArrays, encoder: EncoderArrays, work: Work, rows: Tokens) -> Graph:
    """The encoder over the sequences whose prompts begin, and what all tokens of the decoder take from it.

    Of pieces with `past` tokens before them on average, a share of chunk / (chunk + 2 past) begin a prompt.
    """
    prompts, answers = work.prompts, work.answers
    begins = np.where(work.chunks > 0.0, work.chunk / np.maximum(work.chunk + 2.0 * work.past, 1.0), 1.0)
    begun = replace(prompts, sequences=prompts.sequences * begins)
    none = array(0.0)
    own = scaled(encoder_layers(model, encoder, begun.sequences), work.prefills)
    first = cross_attention_block(model, begun, encoder.tokens, none)
    keys = tuple(replace(op, count=op.count * work.prefills) for op in first.matmuls if op.name == "cross_keys")
    # What no prompt uses lies in memory all the same.
    each = weights_of(encoder_layers(model, encoder, array(1.0)))
    each = each + 2.0 * model.kv_heads * model.head_dim * (model.hidden + float(model.qkv_bias))
    around = cross_attention_block(model, rows, encoder.tokens, each * (1.0 - work.prefills))
    asked = (
        *_counted(cross_attention_block(model, prompts, encoder.tokens, none).attentions, work.prefills, "prompts"),
        *_counted(cross_attention_block(model, answers, encoder.tokens, none).attentions, work.decoding, "decodes"),
    )
    return joined("serve", (own, replace(around, matmuls=(*around.matmuls, *keys), attentions=asked)))


def _latent_block(model: ModelArrays, work: Work, rows: Tokens, latent: str) -> Graph:
    """The same of latent attention: each part in its form."""
    up: list[Matmul] = []
    attentions: list[Attention] = []
    choices: list[Vector] = []
    for name, tokens, count in (("prompts", work.prompts, work.prefills), ("decodes", work.answers, work.decoding)):
        absorbed = latent == "absorbed" or (latent == "best" and name == "decodes")
        # Keys and values are made anew of all that a prompt has in the cache.
        seen = tokens if absorbed else replace(tokens, query=tokens.context)
        forms = latent_up(model, seen, absorbed=absorbed)
        up += [replace(op, name=f"{op.name}.{name}", count=op.count * count) for op in forms]
        attentions += _counted((latent_attention(model, tokens, absorbed=absorbed),), count, name)
        if model.is_indexed:
            index = index_block(model, tokens)
            attentions += _counted(index.attentions, count, name)
            choices += [replace(op, name=f"{op.name}.{name}", count=op.count * count) for op in index.vectors[1:]]
    block = latent_ends(model, rows, tuple(up), tuple(attentions))
    if not model.is_indexed:
        return block
    index = index_block(model, rows)
    vectors = (*block.vectors, index.vectors[0], *choices)
    return replace(block, matmuls=(*block.matmuls, *index.matmuls), vectors=vectors)


def _counted(ops: tuple[Attention, ...], count: Array, name: str) -> tuple[Attention, ...]:
    return tuple(replace(op, name=f"{op.name}.{name}", count=op.count * count) for op in ops)
