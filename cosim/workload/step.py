"""The graph of a serving step of any mixture: every weight is read once, for all tokens of the step together.

Products, norms and collectives see all tokens. Attention is a kernel for the pieces of prompts and one for the
sequences that decode. Latent attention expands the cache of prompts and joins its projections in decode, so that a
mixed step runs both forms. Steps of prompts alone and of decodes alone are `prefill_graph` and `decode_graph`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.records import Array, array
from cosim.workload.blocks import attention_ops, attention_products, embedding, feed_forward, head, joined, norms
from cosim.workload.latent import latent_attention, latent_ends, latent_up
from cosim.workload.model import ModelArrays
from cosim.workload.moe import UNIFORM
from cosim.workload.network import has_phase
from cosim.workload.ops import Attention, Graph, Matmul
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
    parts = (
        embedding(model, rows),
        norms(model, rows),
        block,
        feed_forward(model, rows, imbalance),
        head(model, drawn),
    )
    return joined("serve", parts)


def _block(model: ModelArrays, work: Work, rows: Tokens) -> Graph:
    """Products of all tokens around attention of prompts and attention of decodes."""
    graph = attention_products(model, rows)
    attentions = (
        *_counted(attention_ops(model, work.prompts), work.prefills, "prompts"),
        *_counted(attention_ops(model, work.answers), work.decoding, "decodes"),
    )
    return replace(graph, attentions=attentions)


def _latent_block(model: ModelArrays, work: Work, rows: Tokens, latent: str) -> Graph:
    """The same of latent attention: each part in its form."""
    up: list[Matmul] = []
    attentions: list[Attention] = []
    for name, tokens, count in (("prompts", work.prompts, work.prefills), ("decodes", work.answers, work.decoding)):
        absorbed = latent == "absorbed" or (latent == "best" and name == "decodes")
        # Keys and values are made anew of all that a prompt has in the cache.
        seen = tokens if absorbed else replace(tokens, query=tokens.context)
        forms = latent_up(model, seen, absorbed=absorbed)
        up += [replace(op, name=f"{op.name}.{name}", count=op.count * count) for op in forms]
        attentions += _counted((latent_attention(model, tokens, absorbed=absorbed),), count, name)
    return latent_ends(model, rows, tuple(up), tuple(attentions))


def _counted(ops: tuple[Attention, ...], count: Array, name: str) -> tuple[Attention, ...]:
    return tuple(replace(op, name=f"{op.name}.{name}", count=op.count * count) for op in ops)
