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
from cosim.records import Array
from cosim.timing.cost import KernelCost, bound_of, dram_rate, machine, math_dtype, rate
from cosim.workload.graph import attention_flop, visible_pairs
from cosim.workload.ops import Attention

IO_BYTES = 2.0
VECTOR_FLOP_PER_SCORE = 6.0
# Rows of the smallest matrix instruction (m16n8k16 of the PTX ISA), of a block of queries and of the smallest
# split of a context (the tiles of published FlashAttention-2 and split-KV kernels) [unverified recollection].
MIN_ROWS = 16.0
QUERY_BLOCK = 128.0
CONTEXT_BLOCK = 64.0
# Products of the gradient kernel over those of the forward one: S, dP, dV, dQ, dK over S, O.
BACKWARD_FLOP = 5.0 / 2.0


def attention_cost(op: Attention, chip: ChipArrays, kv_dtype: str, *, backward: bool = False) -> KernelCost:
    """Cost of one fused attention kernel of one rank, launch not included; shapes broadcast to (N,).

    `backward` is the gradient kernel: five products where the forward pass has two, the scores once more.
    """
    pairs = visible_pairs(op)
    scores = op.batch * op.heads * pairs
    flop = attention_flop(op) * (BACKWARD_FLOP if backward else 1.0)
    use = _rows_in_use(op, chip) * _cores_in_use(op, chip)
    matrix = flop / (rate(chip, math_dtype(chip)) * chip.quality.attention * use)
    special = scores / chip.special_peak
    # The gradient kernel subtracts and multiplies once more per score.
    vector = VECTOR_FLOP_PER_SCORE * scores * (1.5 if backward else 1.0) / chip.vector_peak
    compute = np.maximum(np.maximum(matrix, special), vector)
    # Backward reads queries, outputs and their gradients, keys and values; it writes the gradients of the three.
    passes = 2.0 if backward else 1.0
    queries = passes * op.batch * op.query * op.heads * (op.head_dim + op.values) * IO_BYTES
    cached = passes * cache_bytes(op, kv_dtype)
    moved = queries + cached
    memory = queries / dram_rate(chip) + cached / _bandwidth(op, chip)
    time = np.maximum(compute, memory)
    zero = np.zeros_like(time)
    return KernelCost(time, compute, memory, flop, moved, moved, bound_of((compute, memory)), (zero, zero, zero))


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
    return op.batch * op.kv_heads * np.maximum(rows / QUERY_BLOCK, 1.0) * np.maximum(op.context / CONTEXT_BLOCK, 1.0)


def _cores_in_use(op: Attention, chip: ChipArrays) -> Array:
    """Share of the cores that have a piece; a roofline chip has no known cores."""
    pieces = _pieces(op)
    return np.ones_like(pieces) if chip.cores is None else np.minimum(pieces / chip.cores, 1.0)


def _bandwidth(op: Attention, chip: ChipArrays) -> Array:
    """Achievable DRAM bandwidth: a few busy cores of a tile machine cannot saturate it [B/s]."""
    dram = dram_rate(chip)
    if chip.cores is None or "core_bandwidth" not in chip.kernel:
        return dram
    return np.minimum(dram, np.minimum(_pieces(op), chip.cores) * chip.kernel["core_bandwidth"])
