"""Linear attention by the gated delta rule, in some layers of a model: a state in place of a growing cache.

Of each value head the state S [key_dim, value_dim] fades by a gate a and learns what it got wrong of one pair:

    S = a S + k (b (v - a S^T k))^T        read by S^T q

    prefill   in chunks of C tokens, as products (`_chunks`)
    decode    one pass over the state: read, faded, corrected, written, all in one kernel (`_step`)

Queries and keys have heads that value heads share; the state and its arithmetic are fp32, products 16 bits.
Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464; the chunked form is Yang et al. 2024, arXiv:2406.06484.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from cosim.errors import SpecError
from cosim.records import Array, array
from cosim.schema import Frozen
from cosim.workload.ops import Attention, Axis, Collective, Graph, Matmul, Vector, whole
from cosim.workload.tokens import Tokens

Width = Annotated[int, Field(gt=0, le=10_000_000)]
FP32 = 2.0
"""An fp32 number in elements of 16 bits."""
HALF_BYTES, FULL_BYTES = 2.0, 4.0
_SIZES = ("layers", "key_heads", "value_heads", "key_dim", "value_dim", "kernel", "chunk")


class Delta(Frozen):
    """The layers of a model that have linear attention in place of attention, and its sizes."""

    layers: Width
    """How many of the model's layers; they are spread over all stages alike."""
    key_heads: Width
    value_heads: Width
    key_dim: Width
    value_dim: Width
    kernel: Width = 4
    """Taps of the convolution over the sequence."""
    chunk: Width = 64
    """Tokens that a prompt's kernel takes at once."""

    @model_validator(mode="after")
    def _divides(self) -> Delta:
        if self.value_heads % self.key_heads:
            raise SpecError("must be a multiple of key_heads", field="value_heads", value=self.value_heads)
        return self


@dataclass(frozen=True, slots=True)
class DeltaArrays:
    """Linear attention as the engines see it."""

    layers: Array
    key_heads: Array
    value_heads: Array
    key_dim: Array
    value_dim: Array
    kernel: Array
    chunk: Array

    @property
    def channels(self) -> Array:
        """Width of queries, keys and values together, which the convolution runs over."""
        return 2.0 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state_bytes(self) -> Array:
        """What a sequence keeps of one layer, however long it is: states at fp32, inputs of the convolution at 16 bits.

        Tensor ranks share out its heads.
        """
        states = self.value_heads * self.key_dim * self.value_dim
        return FULL_BYTES * states + HALF_BYTES * self.channels * (self.kernel - 1.0)


def lower_delta(delta: Delta, arrays: Mapping[str, Array]) -> DeltaArrays:
    """Arrays of linear attention with its overrides (paths are delta.<size>)."""
    return DeltaArrays(**{name: arrays.get(f"delta.{name}", array(getattr(delta, name))) for name in _SIZES})


def delta_block(delta: DeltaArrays, tokens: Tokens, hidden: Array) -> Graph:
    """Products in, convolution, the rule, a gated norm of each head, product out, sum over tensor ranks."""
    rows, wide = tokens.rows, whole(hidden)
    keys, values = Axis(delta.key_heads, delta.key_dim), Axis(delta.value_heads, delta.value_dim)
    gates = Axis(delta.value_heads, array(1.0))
    joint = (keys, keys, values)
    # Queries, keys, values, the gate of the output; the two gates of the rule, a number a head each.
    into = Matmul("delta_in", "layer", rows, (*joint, values, gates, gates), wide, "n")
    out = Matmul("delta_out", "layer", rows, (wide,), values, "k")
    convolution = Vector(
        "convolution",
        "layer",
        rows,
        joint,
        1.0,
        1.0,
        flop=2.0 * delta.kernel + 6.0,
        special=1.0,
        splits=True,
        parameters=delta.channels * delta.kernel,
    )
    # Each head owns the rate of its gate and a bias, the norm one scale a channel of a head.
    norm = Vector(
        "gated_norm",
        "layer",
        rows,
        (values,),
        2.0,
        1.0,
        flop=7.0,
        special=1.0,
        splits=True,
        parameters=2.0 * delta.value_heads + delta.value_dim,
    )
    decodes = tokens.phase == "decode"
    attentions = (_step(delta, tokens),) if decodes else ()
    products, kernels = ((), ()) if decodes else _chunks(delta, tokens)
    summed = Collective("delta_sum", "layer", "all_reduce", rows, hidden, into="delta_in", out_of="delta_out")
    return Graph(tokens.phase, (into, *products, out), attentions, (convolution, *kernels, norm), (summed,))


def _step(delta: DeltaArrays, tokens: Tokens) -> Attention:
    """One token of each sequence against its states, which lie in DRAM: those of all layers fit no cache.

    As a kernel it is attention to key_dim rows of the state. An element of it is read and written at fp32, four of 16
    bits, and costs 8 FLOP: fade and rounding one each, two each for the dots with key and query and the correction.
    """
    heads = delta.value_heads
    row = 2.0 * delta.value_dim
    return Attention(
        "delta_step",
        "layer",
        tokens.phase,
        tokens.sequences,
        tokens.query,
        delta.key_dim,
        heads,
        heads,
        row,
        array(0.0),
        cached_keys=False,
    )


def _chunks(delta: DeltaArrays, tokens: Tokens) -> tuple[tuple[Matmul, ...], tuple[Vector, ...]]:
    """The chunked form over a prompt; per value head and chunk of C tokens (at most all of them):

        keys      K K^T           2 C C K     what keys of a chunk have in common
        solve     (1 + ...)^-1    2 C C C     a triangle, inverted by blocks: at most a product of its size
        pairs     T [V | K]       2 C C (V + K)
        corrected U - W S         2 C K V
        states    K^T U           2 C K V     written at 16 bits for the output
        scores    Q K^T           2 C C K
        output    [scores | Q] [U; S]   2 C V (C + K)

    that is 2 C (3 C K + 2 C V + C C + 3 K V) FLOP. Heads that share keys read them once.
    """
    chunk = np.minimum(delta.chunk, tokens.query)
    chunks = tokens.sequences * np.ceil(tokens.query / chunk)
    keys, values, shared = delta.key_dim, delta.value_dim, delta.key_heads / delta.value_heads

    def product(name: str, m: Array, n: Array, k: Array, distinct: Array) -> Matmul:
        batch = Axis(delta.value_heads, chunks)
        return Matmul(
            f"delta_{name}",
            "layer",
            m,
            (whole(n),),
            whole(k),
            "batch",
            "head",
            batch=batch,
            activations=True,
            distinct=distinct,
        )

    one = array(1.0)
    products = (
        product("keys", chunk, chunk, keys, shared),
        product("solve", chunk, chunk, chunk, one),
        product("pairs", chunk, values + keys, chunk, one),
        product("corrected", chunk, values, keys, one),
        product("states", keys, values, chunk, shared),
        product("scores", chunk, chunk, keys, shared),
        product("output", chunk, values, chunk + keys, one),
    )
    heads = Axis(delta.value_heads, one)
    # Sums of the gates along a chunk, and an exponential for each pair of its tokens.
    decay = Vector(
        "delta_decay",
        "layer",
        tokens.rows,
        (heads,),
        1.0,
        FP32,
        flop=chunk + 5.0,
        special=(chunk + 1.0) / 2.0 + 2.0,
        splits=True,
    )
    kept = Axis(delta.value_heads, keys * values)
    last = Vector("delta_state", "layer", tokens.sequences, (kept,), 0.0, FP32, splits=True)
    return products, (decay, last)
