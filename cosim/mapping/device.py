"""What one rank runs: products, attention, elementwise kernels, collectives, and the tensors it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from cosim.dtypes import Scales
from cosim.records import Array, array
from cosim.workload.ops import Attention

ACTIVATION_DTYPE = "bf16"
ACTIVATION_BYTES = 2.0
EXPERT_GATHER, EXPERT_SCATTER = "expert_gather", "expert_scatter"
"""Kinds of collectives over the ranks that share one expert's width."""


@dataclass(frozen=True, slots=True)
class DeviceMatmul:
    """A matmul of one rank; `weight_bytes` are what it keeps in memory, `parameters` how many numbers that is.

    `batch` products in one kernel; `output_bytes` move per element of the result. `activations`, `core`: see ops.
    """

    name: str
    group: str
    count: Array
    m: Array
    n: Array
    k: Array
    dtype: str
    weight_bytes: Array
    parameters: Array = field(default_factory=lambda: array(0.0))
    batch: Array = field(default_factory=lambda: array(1.0))
    output_bytes: float = ACTIVATION_BYTES
    activations: bool = False
    core: bool = False
    bias: int = 0
    routed: bool = False
    """Whether its weights are experts: replicated over other ranks than those of the rest."""
    distinct: Array = field(default_factory=lambda: array(1.0))
    """Share of A that is read from memory, see ops."""
    again: bool = False
    taps: Array = field(default_factory=lambda: array(1.0))
    pixels: Array = field(default_factory=lambda: array(1.0))
    fetched: Array = field(default_factory=lambda: array(1.0))
    """Share of its part of A that a core takes from the cache, see ops."""
    stored: str | None = None
    """Format of its weights in memory where that is not the format of the products."""
    scales: Scales = (0.0, 0.0)
    """Bytes of scales of blocks per element of A and of B; none where a tensor has one scale, or the format its own."""


@dataclass(frozen=True, slots=True)
class DeviceAttention:
    """Fused attention of one rank, with its share of the heads; `backward` is its gradient kernel."""

    name: str
    group: str
    count: Array
    op: Attention
    kv_dtype: str
    backward: bool = False


@dataclass(frozen=True, slots=True)
class DeviceVector:
    """Elementwise work of one rank: bytes moved, FLOP, exponentials, bytes of the weights it owns."""

    name: str
    group: str
    count: Array
    read_bytes: Array
    write_bytes: Array
    flop: Array
    special: Array
    weight_bytes: Array
    parameters: Array = field(default_factory=lambda: array(0.0))
    core: bool = False
    has_scales: bool = False
    """Whether it has weights that its gradient sums over rows."""
    dram_paced: bool = False
    """Whether it moves bytes at the rate of DRAM even where they are on chip: its passes wait for each other."""
    gathered_bytes: Array = field(default_factory=lambda: array(0.0))
    """Of `read_bytes` those that lie at random in its weights."""
    again: bool = False
    forward_only: bool = False
    follows: bool = False
    """Whether it works on what a product just made, so that a compiler can run it inside that one."""
    launched: bool = True
    """Whether it is a kernel of its own."""
    sharded: bool = False
    """Whether its parameters are a table that the replicas share out, with gradients of the rows in hand alone."""


@dataclass(frozen=True, slots=True)
class DeviceCollective:
    """Communication over the tensor ranks: bytes as in nccl-tests (`size`).

    `behind` names a kernel that runs meanwhile where the software overlaps the two. Kind `all_to_all` carries
    tokens between expert ranks: `size_bytes` leave the rank inside its node, `far_bytes` beyond it. Kinds that begin
    with `context` are over the ranks that share out a sequence, see `cosim.mapping.context`; `expert_gather` and
    `expert_scatter` over those that share one expert's width.
    """

    name: str
    group: str
    kind: str
    count: Array
    size_bytes: Array
    behind: str = ""
    far_bytes: Array = field(default_factory=lambda: array(0.0))
    beside: str = ""
    """The product that makes or takes its data: software that cuts both into pieces runs them at once."""
    hides: bool = False
    """Whether it runs beside `behind` by its nature, whatever the software overlaps."""


@dataclass(frozen=True, slots=True)
class DeviceSaved:
    """A tensor of one rank and micro-batch kept for the backward pass [B]; `core`, `boundary` as in ops.Saved."""

    name: str
    group: str
    count: Array
    size_bytes: Array
    core: bool
    boundary: bool


@dataclass(frozen=True, slots=True)
class DeviceGraph:
    """Ops of one rank for one micro-batch; counts are per layer or per embedding or head."""

    phase: str
    matmuls: tuple[DeviceMatmul, ...]
    attentions: tuple[DeviceAttention, ...]
    vectors: tuple[DeviceVector, ...]
    collectives: tuple[DeviceCollective, ...]
    saved: tuple[DeviceSaved, ...] = ()
