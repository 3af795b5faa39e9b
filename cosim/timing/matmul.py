"""Matrix multiply on any chip: one entry point, three kinds of engine.

tile machine     cosim.timing.tiles
systolic array   cosim.timing.systolic
roofline         max(FLOP / (peak quality), bytes / (bandwidth quality)), operands read once
"""

from __future__ import annotations

import numpy as np

from cosim.dtypes import bytes_per_element
from cosim.hardware.lower import ChipArrays
from cosim.records import Array, leaves, map_leaves, take
from cosim.timing.cost import KernelCost, Machine, bound_of, machine
from cosim.timing.systolic import systolic_cost
from cosim.timing.tiles import tile_cost
from cosim.timing.traffic import OUTPUT_BYTES, Resident, Sizes
from cosim.timing.unique import unique_rows


def matmul_cost(
    m: Array,
    n: Array,
    k: Array,
    chip: ChipArrays,
    dtype: str,
    *,
    batch: Array | None = None,
    resident: Resident = "none",
    output_bytes: float = OUTPUT_BYTES,
    distinct: Array | None = None,
    fetched: Array | None = None,
    weights: str | None = None,
) -> KernelCost:
    """Cost of C[m,n] = A[m,k] B[k,n], `batch` of them in one kernel, launch not included.

    `m, n, k, batch` of one shape (N,); leaves of `chip` of shape () or (N,). `resident`: see `traffic`.
    `output_bytes` move per element of C: more than two where it is added to what is there [B]. `distinct` (N,) is the
    share of A's elements that DRAM holds, 1 unless patches or products of a batch share them; `fetched` (N,) the share
    of its part of A that a core of a tile machine takes from the cache. `weights` is the format in which DRAM holds B
    where that is another than the products': it is widened on its way to the engine.
    Every unique (dims, machine) is costed once. Raises SpecError when the chip has no rate for `dtype`.
    """
    count = np.ones_like(m) if batch is None else batch
    engine = machine(chip, dtype)
    share = np.ones_like(m) if distinct is None else distinct
    part = np.ones_like(m) if fetched is None else fetched
    columns = [m, n, k, count, share, part, *(leaf for leaf in leaves(engine) if leaf.shape == m.shape)]
    first, inverse = unique_rows(columns)
    sizes = Sizes(bytes_per_element(dtype), output_bytes, bytes_per_element(weights or dtype))
    shape = (m[first], n[first], k[first], count[first])
    cost = _unique_cost(*shape, take(engine, first), sizes, resident, share[first], part[first])
    return map_leaves(cost, lambda leaf: np.broadcast_to(leaf, cost.time.shape).take(inverse))


def _unique_cost(
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    engine: Machine,
    sizes: Sizes,
    resident: Resident,
    distinct: Array,
    fetched: Array,
) -> KernelCost:
    if engine.kind == "tile":
        return tile_cost(m, n, k, batch, engine, sizes, resident=resident, distinct=distinct, fetched=fetched)
    if engine.kind == "systolic":
        return systolic_cost(m, n, k, batch, engine, sizes, resident=resident, distinct=distinct)
    flop = 2.0 * batch * m * n * k
    operands = batch * (m * k + k * n) * sizes.element
    moved = batch * (m * k * distinct * sizes.element + k * n * sizes.weight + m * n * sizes.output)
    compute, memory = flop / (engine.peak * engine.quality), moved / engine.dram
    none = np.zeros_like(flop)
    bound = bound_of((compute, memory))
    return KernelCost(np.maximum(compute, memory), compute, memory, flop, moved, operands, bound, (none, none, none))
