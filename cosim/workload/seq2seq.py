"""The encoder that a decoder listens to (T5, Whisper): run once a sequence, attended to in every decoder layer.

    prefill   the encoder over its own tokens, keys and values of its output for every decoder layer, then the decoder
              over its prompt
    decode    the decoder alone: queries of the new token against the keys that are kept

The encoder has the decoder's width, heads and choices; nothing is masked. Its keys are kept at 16 bits beside the
cache, as many for every token of the answer (`ModelArrays.state_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from cosim.records import Array, array
from cosim.schema import Frozen
from cosim.workload.ops import Attention, Axis, Collective, Graph, Matmul, Vector

Width = Annotated[int, Field(gt=0, le=10_000_000)]
PREFIX = "encoder_"
"""What names of the encoder's operators begin with."""


class Encoder(Frozen):
    """The encoder of an encoder-decoder: of the decoder's width and heads."""

    layers: Width
    tokens: Width
    """What it reads of a sequence: frames of sound, words of the question. scenario.context counts the decoder's."""


@dataclass(frozen=True, slots=True)
class EncoderArrays:
    """An encoder as the engines see it."""

    layers: Array
    tokens: Array


def lower_encoder(encoder: Encoder, arrays: Mapping[str, Array]) -> EncoderArrays:
    """Arrays of an encoder with its overrides (paths are encoder.<size>)."""
    return EncoderArrays(
        **{name: arrays.get(f"encoder.{name}", array(getattr(encoder, name))) for name in ("layers", "tokens")}
    )


def renamed(graph: Graph) -> Graph:
    """The graph as the encoder's: other names, so that its operators are told from the decoder's."""

    def named(name: str) -> str:
        return f"{PREFIX}{name}" if name else ""

    return Graph(
        graph.phase,
        tuple(replace(op, name=named(op.name)) for op in graph.matmuls),
        tuple(replace(op, name=named(op.name), cached_keys=False) for op in graph.attentions),
        tuple(replace(op, name=named(op.name)) for op in graph.vectors),
        tuple(
            replace(op, name=named(op.name), into=named(op.into), out_of=named(op.out_of)) for op in graph.collectives
        ),
    )


def weights_of(graph: Graph) -> Array:
    """Parameters that the graph's operators own, of one run of each group."""
    total = array(0.0)
    for op in graph.matmuls:
        width: Array = sum((axis.size for axis in op.n), array(0.0))
        total = total + op.count * width * (op.k.size + op.bias)
    for vector in graph.vectors:
        total = total + vector.count * vector.parameters
    return total


@dataclass(frozen=True, slots=True)
class Listening:
    """What cross-attention works on: rows of the decoder, sequences, tokens of the encoder; biases as elsewhere."""

    phase: str
    rows: Array
    sequences: Array
    query: Array
    heard: Array


def cross_block(
    asks: Listening, query: Axis, keys: Axis, hidden: Axis, *, biases: tuple[bool, bool], norm: Vector
) -> Graph:
    """Norm, query, attention to the encoder's keys, product out and its sum; `norm` is one norm of the stream.

    A prefill also makes the keys and values of what the encoder made. A step has their weights and the encoder's
    still in memory, as a table that nobody reads (`norm.table`).
    """
    into, out = biases
    matmuls = [
        Matmul("cross_query", "layer", asks.rows, (query,), hidden, "n", bias=into),
        Matmul("cross_out", "layer", asks.rows, (hidden,), query, "k", bias=out),
    ]
    if asks.phase == "prefill":
        heard = asks.sequences * asks.heard
        matmuls.append(Matmul("cross_keys", "layer", heard, (keys, keys), hidden, "n", bias=into))
    attention = Attention(
        "cross_attention",
        "layer",
        "decode" if asks.phase == "decode" else "prefill",
        asks.sequences,
        asks.query,
        asks.heard,
        query.groups,
        keys.groups,
        query.width,
        array(0.0),
        causal=False,
        cached_keys=False,
    )
    summed = Collective(
        "cross_sum", "layer", "all_reduce", asks.rows, hidden.size, into="cross_query", out_of="cross_out"
    )
    return Graph(asks.phase, tuple(matmuls), (attention,), (norm,), (summed,))
