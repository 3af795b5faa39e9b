"""Products whose operands have a scale for each block: bytes of the scales, and partial sums that are promoted.

Where the matrix engine knows no scales, a partial sum over `BLOCK` of k leaves it, is multiplied by the scales of its
blocks and added in fp32 by the vector units, while the next block is multiplied (two groups of threads take turns):

    promotion   2 m n ceil(k / 128) FLOP of the vector units
    compute     most of  product + promotion / steps, promotion + product / steps      steps = ceil(k / 128)
    memory      scales of both operands are read once

A chip with a rate in mxfp8 scales by block in its matrix engine: no promotion. DeepSeek-V3 technical report, section
3.3 (Hopper: promotion every 128 of k, beside the products of another group of threads) [unverified recollection].
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.dtypes import BLOCK, NATIVE_BLOCKS, Scales
from cosim.hardware.lower import ChipArrays
from cosim.records import Array
from cosim.timing.cost import COMPUTE, MEMORY, KernelCost, machine


def promotion_flop(m: Array, n: Array, k: Array, batch: Array, chip: ChipArrays) -> Array:
    """FLOP of the vector units for a product in blocks, zero where the matrix engine scales; shape (N,)."""
    if NATIVE_BLOCKS in chip.matrix.peak:
        return np.zeros_like(m)
    return 2.0 * batch * m * n * np.ceil(k / BLOCK)


def in_blocks(
    cost: KernelCost,
    m: Array,
    n: Array,
    k: Array,
    chip: ChipArrays,
    dtype: str,
    *,
    batch: Array,
    distinct: Array,
    scales: Scales,
) -> KernelCost:
    """`cost` of products, dims as in `matmul_cost` (N,), with the scales of their blocks.

    `scales` are bytes of scales per element of A and of B.
    """
    moved = batch * (m * k * distinct * scales[0] + k * n * scales[1])
    promotion = promotion_flop(m, n, k, batch, chip) / chip.vector_peak
    steps = np.ceil(k / BLOCK)
    together = np.maximum(cost.compute + promotion / steps, promotion + cost.compute / steps)
    compute = np.where(promotion > 0.0, together, cost.compute)
    memory = cost.memory + moved / machine(chip, dtype).dram
    longer = _both(cost, compute, memory) - _both(cost, cost.compute, cost.memory)
    slowest = np.where(promotion > cost.compute, COMPUTE, cost.bound)
    return replace(
        cost,
        time=cost.time + longer,
        compute=compute,
        memory=memory,
        dram_bytes=cost.dram_bytes + moved,
        cache_bytes=cost.cache_bytes + moved,
        bound=np.where(memory > compute, MEMORY, np.where(cost.bound == MEMORY, COMPUTE, slowest)).astype(np.int64),
    )


def _both(cost: KernelCost, compute: Array, memory: Array) -> Array:
    """What a kernel takes for both: the longer, or one after the other."""
    return np.maximum(compute, memory) if cost.overlaps else compute + memory


def promotion_energy(m: Array, n: Array, k: Array, batch: Array, chip: ChipArrays) -> Array:
    """Energy of the promotion in a step of a model [J], all of it of the cores."""
    return promotion_flop(m, n, k, batch, chip) * chip.power.energy_per_flop["fp32"] * chip.power.real_data
