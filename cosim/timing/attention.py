"""Fused attention: the slowest of matrix work, exponentials, vector work and bytes bounds it.

    matrix   2 batch heads (key + value width) pairs / (peak quality use)     pairs as the mask lets through
    special  batch heads pairs / exponentials per second
    vector   6 FLOP per score (scale, maximum, subtract, sum, rescale) / vector peak
    bytes    queries and outputs once; keys and values of every cached token the mask reaches, once per group

`use` is what shape costs the engine: rows of a tile that queries fill (grouped heads share them), depth of
an array that head_dim fills, pieces over cores: blocks of queries and splits of the context. Attention math runs
at 16 bits whatever the cache holds (`cost.math_dtype`).
"""

from __future__ import annotations

import numpy as np

from cosim.dtypes import bytes_per_element
from cosim.hardware.lower import ChipArrays
from cosim.records import Array, array
from cosim.timing.attention_tiles import MIN_ROWS, Work, is_tiled, tiled_cost
from cosim.timing.cost import KernelCost, bound_of, dram_rate, machine, math_dtype, rate
from cosim.timing.traffic import Resident
from cosim.workload.graph import attention_flop, visible_pairs
from cosim.workload.ops import Attention

IO_BYTES = 2.0
VECTOR_FLOP_PER_SCORE = 6.0
# Rows of a block of queries and of the smallest split of a context, where a chip has no constants of these kernels: the
# tiles of published FlashAttention-2 and split-KV kernels [unverified recollection].
QUERY_BLOCK = 128.0
CONTEXT_BLOCK = 64.0
# Products of the gradient kernel over those of the forward one: S, dP, dV, dQ, dK over S, O.
BACKWARD_FLOP = 5.0 / 2.0
BACKWARD_VECTOR = 1.5
"""The gradient kernel subtracts and multiplies once more per score."""


def attention_cost(
    op: Attention,
    chip: ChipArrays,
    kv_dtype: str,
    *,
    backward: bool = False,
    narrow: bool = False,
    resident: Resident = "none",
) -> KernelCost:
    """Cost of one fused attention kernel of one rank, launch not included; shapes broadcast to (N,).

    `backward` is the gradient kernel: five products where the forward pass has two, the scores once more. `narrow`
    runs the products in eight bits where the chip's kernels gain by it. `resident`: "repeated" finds on chip what is
    left of earlier rounds of a benchmark.
    """
    if is_tiled(chip):
        work = work_of(op, chip, kv_dtype, backward=backward, narrow=narrow, resident=resident)
        return tiled_cost(work, chip, blocks=op.phase != "decode", latent=op.cached is not None)
    pairs = visible_pairs(op)
    scores = op.batch * op.heads * pairs
    flop = attention_flop(op) * (BACKWARD_FLOP if backward else 1.0)
    use = _rows_in_use(op, chip) * _cores_in_use(op, chip)
    matrix = flop / (rate(chip, math_dtype(chip)) * chip.quality.attention * use)
    special = scores / chip.special_peak
    vector = VECTOR_FLOP_PER_SCORE * scores * (BACKWARD_VECTOR if backward else 1.0) / chip.vector_peak
    compute = np.maximum(np.maximum(matrix, special), vector)
    near, far = _bytes(op, kv_dtype, backward=backward)
    memory = (near + far) / dram_rate(chip)
    time = np.maximum(compute, memory)
    zero, moved = np.zeros_like(time), near + far
    return KernelCost(time, compute, memory, flop, moved, moved, bound_of((compute, memory)), (zero, zero, zero))


def work_of(
    op: Attention, chip: ChipArrays, kv_dtype: str, *, backward: bool, narrow: bool, resident: Resident
) -> Work:
    """The kernel as blocks of queries and steps of keys see it."""
    engine, flop, pairs = machine(chip, math_dtype(chip)), attention_flop(op), visible_pairs(op)
    flop = flop * (BACKWARD_FLOP if backward else 1.0)
    near, far = _bytes(op, kv_dtype, backward=backward)
    room = engine.cache / engine.partitions * chip.kernel.get("cache_share", array(0.0))
    stays = (resident == "repeated") & (near + far <= room)
    gain = chip.kernel.get("narrow_gain", array(1.0)) if narrow else array(1.0)
    return Work(
        groups=op.batch * op.kv_heads,
        per_group=op.heads / op.kv_heads,
        query=op.query,
        context=op.context,
        keys=pairs / op.query,
        reach=np.minimum(op.context, op.window) if op.windowed else op.context,
        products=flop / (op.batch * op.heads * pairs),
        vector=array(VECTOR_FLOP_PER_SCORE * (BACKWARD_VECTOR if backward else 1.0)),
        near=near,
        far=far,
        # Prompts are written by the kernel before; only a cache that is read again and again may stay.
        resident=np.where(stays & (op.phase == "decode"), far, 0.0),
        flop=flop,
        rate=engine.peak * chip.quality.attention * gain,
        dram=dram_rate(chip),
        cache=engine.cache_bandwidth,
        special=chip.special_peak,
        peak=chip.vector_peak,
        depth=array(BACKWARD_FLOP if backward else 1.0),
    )


def _bytes(op: Attention, kv_dtype: str, *, backward: bool) -> tuple[Array, Array]:
    """Bytes of queries and outputs, and of keys and values.

    Backward reads queries, outputs and their gradients, keys and values; it writes the gradients of the three.
    """
    passes = 2.0 if backward else 1.0
    near = passes * op.batch * op.query * op.heads * (op.head_dim + op.values) * IO_BYTES
    return near, passes * cache_bytes(op, kv_dtype)


def cache_bytes(op: Attention, kv_dtype: str) -> Array:
    """Bytes of keys and values read by one kernel: those some query can see, once per key/value head."""
    reach = np.minimum(op.context, op.window + op.query - 1.0) if op.windowed else op.context
    return op.batch * reach * op.kv_heads * op.kept * bytes_per_element(kv_dtype)


def _rows_in_use(op: Attention, chip: ChipArrays) -> Array:
    """Share of the engine's rows and depth that the queries of one key/value head fill."""
    engine = machine(chip, math_dtype(chip))
    rows = op.query * op.heads / op.kv_heads
    if engine.kind == "systolic":
        # A tile of keys is loaded in `rows` cycles and streamed by the queries: few queries wait for loads.
        streamed = rows / np.maximum(rows, engine.rows)
        return streamed * op.head_dim / (np.ceil(op.head_dim / engine.rows) * engine.rows)
    if engine.kind == "tile":
        return rows / (np.ceil(rows / MIN_ROWS) * MIN_ROWS)
    return np.ones_like(rows)


def _pieces(op: Attention) -> Array:
    """Pieces that a kernel can hand to cores: blocks of queries of a key/value head, times splits of its context.

    Not rounded up: kernels balance uneven pieces, and a longer context must never be faster.
    """
    rows = op.query * op.heads / op.kv_heads
    reach = np.minimum(op.context, op.window) if op.windowed else op.context
    return op.batch * op.kv_heads * np.maximum(rows / QUERY_BLOCK, 1.0) * np.maximum(reach / CONTEXT_BLOCK, 1.0)


def _cores_in_use(op: Attention, chip: ChipArrays) -> Array:
    """Share of the cores that have a piece; a roofline chip has no known cores."""
    pieces = _pieces(op)
    return np.ones_like(pieces) if chip.cores is None else np.minimum(pieces / chip.cores, 1.0)
