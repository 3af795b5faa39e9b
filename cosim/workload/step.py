"""The graph of a serving step of any mixture: every weight is read once, for all tokens of the step together.

Products, norms and collectives see all tokens. Attention is a kernel for the pieces of prompts and one for the
sequences that decode. Latent attention expands the cache of prompts and joins its projections in decode, so that a
mixed step runs both forms. Steps of prompts alone and of decodes alone are `prefill_graph` and `decode_graph`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.records import Array, array
from cosim.workload.blocks import (
    attention_ops,
    attention_products,
    embedding,
    feed_forward,
    head,
    joined,
    norms,
    scaled,
)
from cosim.workload.delta import DeltaArrays, delta_block
from cosim.workload.latent import latent_attention, latent_ends, latent_up
from cosim.workload.model import ModelArrays
from cosim.workload.moe import UNIFORM
from cosim.workload.network import has_phase
from cosim.workload.ops import Attention, Graph, Matmul, Vector
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
    if model.delta is not None:
        linear = scaled(_linear(model.delta, work, rows, model.hidden), model.linear_share)
        block = joined("serve", (scaled(block, 1.0 - model.linear_share), linear))
    parts = (
        embedding(model, rows),
        norms(model, rows),
        block,
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


def _linear(delta: DeltaArrays, work: Work, rows: Tokens, hidden: Array) -> Graph:
    """Linear attention: its products for all tokens, the chunks of prompts, the steps of decodes."""
    around = delta_block(delta, rows, hidden)
    prompts, answers = (delta_block(delta, tokens, hidden) for tokens in (work.prompts, work.answers))
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
