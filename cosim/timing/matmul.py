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
from cosim.timing.traffic import OUTPUT_BYTES, Resident
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
) -> KernelCost:
    """Cost of C[m,n] = A[m,k] B[k,n], `batch` of them in one kernel, launch not included.

    `m, n, k, batch` of one shape (N,); leaves of `chip` of shape () or (N,). `resident`: see `traffic`.
    `output_bytes` move per element of C: more than two where it is added to what is there [B].
    Every unique (dims, machine) is costed once. Raises SpecError when the chip has no rate for `dtype`.
    """
    count = np.ones_like(m) if batch is None else batch
    engine = machine(chip, dtype)
    columns = [m, n, k, count, *(leaf for leaf in leaves(engine) if leaf.shape == m.shape)]
    first, inverse = unique_rows(columns)
    sizes = (bytes_per_element(dtype), output_bytes)
    cost = _unique_cost(m[first], n[first], k[first], count[first], take(engine, first), sizes, resident)
    return map_leaves(cost, lambda leaf: np.broadcast_to(leaf, cost.time.shape).take(inverse))


def _unique_cost(
    m: Array, n: Array, k: Array, batch: Array, engine: Machine, sizes: tuple[float, float], resident: Resident
) -> KernelCost:
    element_bytes, output_bytes = sizes
    if engine.kind == "tile":
        return tile_cost(m, n, k, batch, engine, element_bytes, resident=resident, output_bytes=output_bytes)
    if engine.kind == "systolic":
        return systolic_cost(m, n, k, batch, engine, element_bytes, resident=resident, output_bytes=output_bytes)
    flop = 2.0 * batch * m * n * k
    operands = batch * (m * k + k * n) * element_bytes
    moved = operands + batch * m * n * output_bytes
    compute, memory = flop / (engine.peak * engine.quality), moved / engine.dram
    none = np.zeros_like(flop)
    bound = bound_of((compute, memory))
    return KernelCost(np.maximum(compute, memory), compute, memory, flop, moved, operands, bound, (none, none, none))
