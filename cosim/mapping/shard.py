"""From a graph to the ops of one device: every split axis divided by the tensor degree.

Under sequence parallelism a sum over tensor ranks becomes a reduce-scatter, and a gather before the next
product; norms and residuals then work on a slice of the rows.

A piece that cannot be divided further is replicated: key/value heads beyond their number stay whole on
every rank (Axis.shard). Formats are assigned here: linear layers in the plan's, the rest at 16 bits.
"""

from __future__ import annotations

import numpy as np

from cosim.dtypes import bytes_per_element, scale_bytes
from cosim.mapping.context import context_collectives
from cosim.mapping.device import (
    ACTIVATION_BYTES,
    ACTIVATION_DTYPE,
    EXPERT_GATHER,
    EXPERT_SCATTER,
    DeviceAttention,
    DeviceCollective,
    DeviceGraph,
    DeviceMatmul,
    DeviceSaved,
    DeviceVector,
)
from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_tensor, load, sent, travels
from cosim.mapping.schedules import BOTH_ENDS
from cosim.records import Array, array
from cosim.workload.checkpoint import Narrow, weights_dtype
from cosim.workload.ops import Attention, Collective, Graph, Matmul, Routing, Saved, Vector

ONE_NODE = array(np.inf)
"""A node that holds all chips."""
GRANULE_BYTES = 64.0
"""Least that a random read moves: a burst of DDR and of two HBM pseudo channels, two 32-byte sectors of a GPU's cache
(JEDEC burst lengths; vendors' tuning guides) [unverified recollection]."""
WHOLE: Narrow = {}
"""Of a model that names no checkpoint: its linear layers are as narrow as the plan says."""
SLICES = ".slices"
"""Ending of the collective that joins slices of tokens."""
JOINED = ".joined"
"""Ending of the collective among the ranks that share one expert's width."""


def shard(graph: Graph, plan: PlanArrays, node: Array = ONE_NODE, narrow: Narrow = WHOLE) -> DeviceGraph:
    """The graph as one tensor rank of `plan` sees it; `node` chips are near each other.

    `narrow`: what published checkpoints hold narrow, by format; products of other weights run at 16 bits.
    """
    attentions = tuple(_attention(op, plan) for op in graph.attentions)
    return DeviceGraph(
        graph.phase,
        tuple(_matmul(op, plan, narrow) for op in graph.matmuls),
        attentions,
        (*(_vector(op, plan) for op in graph.vectors), *_quantised(graph, plan, narrow)),
        (
            *(each for op in graph.collectives for each in _collectives(op, plan, node)),
            *context_collectives(attentions, plan, backward=False),
        ),
        tuple(_saved(op, plan) for op in graph.saved),
    )


def kv_heads_per_rank(kv_heads: Array, tensor: Array) -> Array:
    """Key/value heads that one tensor rank holds: ceil(kv_heads / tensor)."""
    return np.ceil(kv_heads / tensor)


def quantise(elements: Array, dtype: str, count: Array, recipe: str = "tensor") -> DeviceVector:
    """The kernel that turns 16-bit activations into `dtype`: read for the largest, read again, scale, round, write.

    Under the block recipe a block that is read has all that its scale needs: it is read once, its scales are written.
    The fp8 tables of H100 and L40S show the rate of DRAM at every size: 0.95 and 1.15 of it.
    """
    zero, written = np.zeros_like(elements), elements * (bytes_per_element(dtype) + scale_bytes(dtype, recipe)[0])
    read = (1.0 if recipe == "block" else 2.0) * elements * ACTIVATION_BYTES
    return DeviceVector("quantise", "layer", count, read, written, elements * 4.0, zero, zero, dram_paced=True)


def _quantised(graph: Graph, plan: PlanArrays, narrow: Narrow) -> tuple[DeviceVector, ...]:
    """Quantisation of the attention's output; norm and activation kernels write the narrow format themselves."""
    if bytes_per_element(plan.dtype) >= ACTIVATION_BYTES:
        return ()
    return tuple(
        quantise(op.m * op.k.shard(plan.tensor), plan.dtype, op.count, plan.fp8_recipe)
        for op in graph.matmuls
        if op.split == "k" and op.name == "attention_out" and _is_narrow(op, plan, narrow)
    )


def _is_narrow(op: Matmul, plan: PlanArrays, narrow: Narrow) -> bool:
    """Whether a product is in the plan's formats: linear layers, unless their checkpoint keeps them wide."""
    kept_as = plan.weights_dtype or plan.dtype
    return op.precision == "linear" and (not narrow or weights_dtype(op, kept_as, narrow) == kept_as)


def _formats(op: Matmul, plan: PlanArrays, narrow: Narrow) -> tuple[str, str | None]:
    """Format of a product, and of its weights where that is another."""
    return (plan.dtype, plan.weights_dtype) if _is_narrow(op, plan, narrow) else (ACTIVATION_DTYPE, None)


def _matmul(op: Matmul, plan: PlanArrays, narrow: Narrow) -> DeviceMatmul:
    if op.routed is not None:
        return _grouped(op, op.routed, plan, narrow)
    dtype, stored = _formats(op, plan, narrow)
    degree_n = plan.tensor if op.split == "n" else array(1.0)
    width: Array = sum((axis.shard(degree_n) for axis in op.n), array(0.0))
    depth = op.k.shard(plan.tensor) if op.split == "k" else op.k.size
    # A tied head multiplies by the embedding table: on one stage that is no second copy.
    apart = (plan.pipeline > 1.0) & (plan.schedule not in BOTH_ENDS)
    copies = np.where(apart | op.owns_weights, 1.0, 0.0)
    if op.activations:
        copies = array(0.0)
    products = array(1.0) if op.batch is None else op.batch.shard(plan.tensor if op.split == "batch" else array(1.0))
    kept = width * depth * copies * products
    scales = scale_bytes(dtype, plan.fp8_recipe)
    return DeviceMatmul(
        name=op.name,
        group=op.group,
        count=op.count,
        m=op.m,
        n=width,
        k=depth,
        dtype=dtype,
        weight_bytes=kept * (bytes_per_element(stored or dtype) + scales[1])
        + width * products * op.bias * ACTIVATION_BYTES,
        parameters=kept + width * products * op.bias,
        batch=products,
        activations=op.activations,
        core=op.core,
        bias=op.bias,
        distinct=op.distinct,
        again=op.again,
        taps=op.taps,
        pixels=op.pixels,
        fetched=op.fetched,
        stored=stored,
        scales=scales,
    )


def _grouped(op: Matmul, routing: Routing, plan: PlanArrays, narrow: Narrow) -> DeviceMatmul:
    """A grouped product on the busiest expert rank: one weight for each expert with work, all of them kept."""
    busy = load(routing, op.m, plan)
    dtype, stored = _formats(op, plan, narrow)
    share = expert_tensor(plan)
    width: Array = sum((axis.shard(share if op.split == "n" else array(1.0)) for axis in op.n), array(0.0))
    depth = op.k.shard(share) if op.split == "k" else op.k.size
    kept = busy.kept * width * depth
    biases = busy.kept * width * op.bias
    scales = scale_bytes(dtype, plan.fp8_recipe)
    return DeviceMatmul(
        name=op.name,
        group=op.group,
        count=op.count,
        m=busy.rows_each,
        n=width,
        k=depth,
        dtype=dtype,
        weight_bytes=kept * (bytes_per_element(stored or dtype) + scales[1]) + biases * ACTIVATION_BYTES,
        parameters=kept + biases,
        batch=busy.active,
        bias=op.bias,
        routed=True,
        stored=stored,
        scales=scales,
    )


def _attention(op: Attention, plan: PlanArrays) -> DeviceAttention:
    local = Attention(
        op.name,
        op.group,
        op.phase,
        op.batch,
        op.query,
        op.context,
        np.ceil(op.heads / plan.tensor),
        kv_heads_per_rank(op.kv_heads, plan.tensor),
        op.head_dim,
        op.window,
        op.windowed,
        op.causal,
        op.count,
        op.value_dim,
        op.cached,
        op.cached_keys,
    )
    return DeviceAttention(op.name, op.group, op.count, local, plan.kv_dtype if op.cached_keys else ACTIVATION_DTYPE)


def _vector(op: Vector, plan: PlanArrays) -> DeviceVector:
    elements = _rows(op, plan) * _width(op, plan)
    parameters = op.parameters + (op.table.shard(plan.tensor) if op.table is not None else 0.0)
    gathered = array(0.0) if op.gathers is None else _rows(op, plan) * op.gathers * _granules(_width(op, plan))
    return DeviceVector(
        op.name,
        op.group,
        op.count,
        elements * op.reads * ACTIVATION_BYTES + gathered,
        elements * op.writes * ACTIVATION_BYTES,
        elements * op.flop,
        elements * op.special,
        parameters * ACTIVATION_BYTES,
        parameters,
        op.core,
        op.scales,
        gathered_bytes=gathered,
        again=op.again,
        forward_only=op.forward_only,
        sharded=op.sharded,
        follows=op.follows,
    )


def _granules(width: Array) -> Array:
    """Bytes that a row of `width` elements takes from memory when it is read alone: whole granules."""
    return np.ceil(width * ACTIVATION_BYTES / GRANULE_BYTES) * GRANULE_BYTES


def _rows(op: Vector | Saved, plan: PlanArrays) -> Array:
    """Rows on a rank: a slice under sequence parallelism, those of the busiest rank where they are routed."""
    if op.routed is not None:
        return load(op.routed, op.m, plan).rows
    # A sequence that does not divide is padded.
    return np.ceil(op.m / plan.tensor) if op.sequence and plan.sequence_parallel else op.m


def _width(op: Vector | Saved, plan: PlanArrays) -> Array:
    whole = array(1.0)
    degree = whole if not op.splits else plan.tensor if op.routed is None else expert_tensor(plan)
    width: Array = sum((axis.shard(degree) for axis in op.width), array(0.0))
    return width


def _saved(op: Saved, plan: PlanArrays) -> DeviceSaved:
    size = _rows(op, plan) * _width(op, plan) * op.element_bytes
    return DeviceSaved(op.name, op.group, op.count, size, op.core, op.boundary)


def _collectives(op: Collective, plan: PlanArrays, node: Array) -> tuple[DeviceCollective, ...]:
    """What an op sends: itself; under sequence parallelism a sum is scattered, and gathered for the next product."""
    size = op.m * op.width * ACTIVATION_BYTES
    if op.routed is not None:
        # Tokens go out in the format of the products and come back at 16 bits.
        narrow = bytes_per_element(plan.dtype) + scale_bytes(plan.dtype, plan.fp8_recipe)[0]
        narrow = min(narrow, ACTIVATION_BYTES)
        each = op.width * (narrow if op.kind == "dispatch" else ACTIVATION_BYTES)
        near, far = sent(op.routed, op.m, plan, node)
        exchange = DeviceCollective(op.name, op.group, "all_to_all", op.count, near * each, far_bytes=far * each)
        return (exchange, *_of_expert(op, op.routed, each, plan))
    if op.kind == "routed_sum":
        return _routed_sum(op, size, plan)
    if op.kind == "sequence_gather":
        gathered = DeviceCollective(op.name, op.group, "all_gather", op.count, size)
        return (gathered,) if plan.sequence_parallel else ()
    if not plan.sequence_parallel or op.kind != "all_reduce" or not (op.into or op.group == "embed"):
        return (DeviceCollective(op.name, op.group, op.kind, op.count, size),)
    scattered = DeviceCollective(op.name, op.group, "reduce_scatter", op.count, size, beside=op.out_of)
    if not op.into:
        return (scattered,)
    return (scattered, DeviceCollective(f"{op.name}.gather", op.group, "all_gather", op.count, size, beside=op.into))


def _of_expert(op: Collective, routing: Routing, each: Array, plan: PlanArrays) -> tuple[DeviceCollective, ...]:
    """What the ranks of an expert send each other where their number is asked: rows joined before it, sums after it.

    `each` bytes a row. Count 0 where their tensor group has all tokens anyway and sums itself.
    """
    if not np.any(plan.expert_tensor > 1.0):
        return ()
    several = travels(plan) & (plan.expert_tensor > 1.0)
    size = load(routing, op.m, plan).rows * each
    kind = EXPERT_GATHER if op.kind == "dispatch" else EXPERT_SCATTER
    return (DeviceCollective(f"{op.name}{JOINED}", op.group, kind, op.count * np.where(several, 1.0, 0.0), size),)


def _routed_sum(op: Collective, size: Array, plan: PlanArrays) -> tuple[DeviceCollective, ...]:
    """The sum over tensor ranks after routed experts, with count 0 where tokens travelled.

    A rank then sent its slice of the tokens and has it back whole: slices are joined, or stay slices under sequence
    parallelism.
    """
    travelled = travels(plan)
    summed, joined = (op.count * np.where(where, 1.0, 0.0) for where in (~travelled, travelled))
    if plan.sequence_parallel:
        scattered = DeviceCollective(op.name, op.group, "reduce_scatter", summed, size)
        return (scattered, DeviceCollective(f"{op.name}.gather", op.group, "all_gather", summed, size))
    return (
        DeviceCollective(op.name, op.group, "all_reduce", summed, size),
        DeviceCollective(f"{op.name}{SLICES}", op.group, "all_gather", joined, size),
    )
