"""The op vocabulary: what one layer, the embedding and the head do, before anything is sharded.

An op is a frozen record with array-valued dimensions. `count` is how often it runs per layer (or once in
`embed` and `head`); layers are never unrolled. An Axis knows how finely a dimension can be split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cosim.records import Array, array

Group = Literal["embed", "layer", "dense", "moe", "head"]
"""What repeats together: every layer; of a mixture of experts also its dense and its routed feed-forward layers."""
Split = Literal["n", "k", "batch", "none"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension of `groups` indivisible pieces of `width` elements: heads x head_dim, vocab x 1."""

    groups: Array
    width: Array

    @property
    def size(self) -> Array:
        """Elements in all."""
        return self.groups * self.width

    def shard(self, degree: Array) -> Array:
        """Elements on the fullest of `degree` ranks; a piece is replicated when there are too few."""
        return np.ceil(self.groups / degree) * self.width


def whole(size: Array) -> Axis:
    """An axis that splits at any element."""
    return Axis(size, array(1.0))


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router spreads tokens: `chosen` of `experts` for each, over at most `nodes` of them (inf: no limit).

    `imbalance` is what the busiest rank gets beyond chance, as a share: 0 for a router that is uniform.
    """

    experts: Array
    chosen: Array
    nodes: Array
    imbalance: Array


@dataclass(frozen=True, slots=True)
class Matmul:
    """C[m, n] = A[m, k] x W[k, n]. `n` may be several parts side by side (query, key, value).

    `split` names the axis that tensor parallelism cuts. `precision` is "linear" (the plan's format) or
    "head" (kept at 16 bits). `owns_weights` is false where the weights are another op's (tied head).
    `batch` products run in one kernel; with `activations` W is no parameter but another op's output (the
    scores of attention), and `core` says that selective recompute runs it again. With `routed` it is a grouped
    product over the experts that tokens chose: m rows before routing, one weight for each expert. `bias` is how many
    numbers a column of C has beside W: 1 a bias, 2 a folded norm. `distinct` is the share of A's elements that are
    read from memory: patches of an image overlap, products of a batch may share A.
    """

    name: str
    group: Group
    m: Array
    n: tuple[Axis, ...]
    k: Axis
    split: Split
    precision: Literal["linear", "head"] = "linear"
    bias: int = 0
    owns_weights: bool = True
    count: Array = field(default_factory=lambda: array(1.0))
    batch: Axis | None = None
    activations: bool = False
    core: bool = False
    routed: Routing | None = None
    distinct: Array = field(default_factory=lambda: array(1.0))
    again: bool = False
    """Whether the way back computes it again by its nature, because its result is not kept."""
    taps: Array = field(default_factory=lambda: array(1.0))
    """Of a convolution: the places of its window, which are part of k."""
    pixels: Array = field(default_factory=lambda: array(1.0))
    """Of a convolution: places of the input for each of the output."""
    fetched: Array = field(default_factory=lambda: array(1.0))
    """Share of A that a core fetches which works on neighbouring rows: patches side by side have all of a row of the
    window in common but what a stride moves it, stride / width."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused attention of `batch` sequences: `query` new tokens each against `context` keys.

    `window` limits the keys of one query when `windowed`. In prefill the queries are the context's own
    tokens and the mask is causal; in decode there is one query per sequence. `value_dim` is the width of values
    where it is not head_dim, `cached` the elements kept per token and key/value head where they are not both. Without
    `cached_keys` keys and values come from the layer before, at 16 bits.
    """

    name: str
    group: Group
    phase: Literal["prefill", "decode", "train"]
    batch: Array
    query: Array
    context: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    window: Array
    windowed: bool = False
    causal: bool = True
    count: Array = field(default_factory=lambda: array(1.0))
    value_dim: Array | None = None
    cached: Array | None = None
    cached_keys: bool = True

    @property
    def values(self) -> Array:
        """Elements of one value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def kept(self) -> Array:
        """Elements kept per token and key/value head."""
        return self.head_dim + self.values if self.cached is None else self.cached


@dataclass(frozen=True, slots=True)
class Vector:
    """Elementwise work on `m` rows of `width`: tensors read and written, FLOP and exponentials per element.

    `width` may be several parts side by side. `parameters` counts weights it owns on every rank (norm
    scales), `table` those that tensor parallelism divides (the embedding). `splits` tells whether it divides
    the width, `sequence` whether sequence parallelism divides the rows. `reads` of the embedding counts the
    rows gathered, not the table; `gathers` are rows of the table read at random for each row of the result, where
    `reads` does not count them. `core`: selective recompute runs it again.
    """

    name: str
    group: Group
    m: Array
    width: tuple[Axis, ...]
    reads: Array | float
    writes: Array | float
    flop: Array | float = 0.0
    special: Array | float = 0.0
    splits: bool = False
    parameters: Array = field(default_factory=lambda: array(0.0))
    table: Axis | None = None
    count: Array = field(default_factory=lambda: array(1.0))
    sequence: bool = False
    core: bool = False
    routed: Routing | None = None
    scales: bool = False
    """Whether `parameters` scale its elements, so that their gradient is a sum over rows."""
    gathers: Array | None = None
    again: bool = False
    """As for Matmul."""
    forward_only: bool = False
    """Whether it has no kernel of its own on the way back."""
    sharded: bool = False
    """Whether the replicas share out its table in training."""
    follows: bool = False
    """Whether it works on what a product just made: `cosim.mapping.compiled`."""


@dataclass(frozen=True, slots=True)
class Collective:
    """Communication over the tensor ranks: m x width elements at 16 bits.

    `all_reduce` sums partial results; `all_gather` joins slices, its bytes those of the whole result.
    `sequence_gather` is one only where sequence parallelism left slices; `routed_sum` sums what experts inside the
    tensor group made, and only joins slices where tokens travelled and came back whole. `into` names the product
    whose input gradient is summed in return when the model is trained. `dispatch` and `combine` carry tokens to the
    ranks of their experts and back: m tokens of `width`, to as many ranks as `routed` says. `table_exchange` is
    between the replicas, which share out a table; its gradients go back where `gradient_width` is not 0.
    """

    name: str
    group: Group
    kind: Literal["all_reduce", "all_gather", "sequence_gather", "routed_sum", "dispatch", "combine", "table_exchange"]
    m: Array
    width: Array
    count: Array = field(default_factory=lambda: array(1.0))
    into: str = ""
    out_of: str = ""
    """The product whose partial results it sums."""
    routed: Routing | None = None
    gradient_width: Array | None = None
    """Width of the input gradient that is summed, where it is not `width`: a latent that every rank holds whole."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A tensor that the forward pass keeps for the backward pass: m rows of `width` at `element_bytes`.

    `splits` and `sequence` as for Vector. `core` tensors are not kept when the attention core is recomputed;
    `boundary` tensors are all that is kept when whole layers are.
    """

    name: str
    group: Group
    m: Array
    width: tuple[Axis, ...]
    element_bytes: float
    splits: bool = False
    sequence: bool = False
    core: bool = False
    boundary: bool = False
    count: Array = field(default_factory=lambda: array(1.0))
    routed: Routing | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """Unique ops of one step with their counts, grouped by kind so that each kind is costed in one call."""

    phase: str
    matmuls: tuple[Matmul, ...] = ()
    attentions: tuple[Attention, ...] = ()
    vectors: tuple[Vector, ...] = ()
    collectives: tuple[Collective, ...] = ()
    saved: tuple[Saved, ...] = ()
