"""Cycles of a matrix product on one systolic array, and the best way to lay it over many.

Source of the exact forms: cycle-level simulation of SCALE-Sim 3.0.0, which they reproduce row by row.
"""

from __future__ import annotations

import numpy as np

from cosim.records import Array, array
from cosim.timing.cost import KernelCost, Machine, bound_of
from cosim.timing.traffic import Resident, Sizes, blocked_traffic

DATAFLOWS = ("ws", "os", "is")


def cycles(
    m: Array, n: Array, k: Array, rows: Array, columns: Array, dataflow: str, *, shadow_weights: bool = False
) -> Array:
    """Cycles from the first to the last of C[m,n] = A[m,k] B[k,n] on one rows x columns array.

    Fill and drain exposed:
        os  ceil(m/R) ceil(n/C) (R + C + k - 2) - 1
        ws  ceil(k/R) ceil(n/C) (2R + C + m - 2) - 1
        is  ceil(k/R) ceil(m/C) (2R + C + n - 2) - 1
    With shadow weights the next fold's stationary operand loads while this one streams:
        ws  R + (folds - 1) max(m, R) + m + R + C - 2, and `is` alike with n for m.
    """
    if dataflow == "os":
        return np.ceil(m / rows) * np.ceil(n / columns) * (rows + columns + k - 2.0) - 1.0
    wide, stream = (n, m) if dataflow == "ws" else (m, n)
    folds = np.ceil(k / rows) * np.ceil(wide / columns)
    if shadow_weights:
        return pipelined_cycles(folds, stream, rows, columns)
    return folds * (2.0 * rows + columns + stream - 2.0) - 1.0


def pipelined_cycles(folds: Array, stream: Array, rows: Array, columns: Array) -> Array:
    """Cycles of `folds` stationary tiles, each streamed by `stream` rows, loads hidden but the first."""
    return rows + (folds - 1.0) * np.maximum(stream, rows) + stream + rows + columns - 2.0


def systolic_cost(
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    machine: Machine,
    sizes: Sizes,
    *,
    resident: Resident = "none",
    distinct: Array | float = 1.0,
) -> KernelCost:
    """Cost of a matmul on all arrays of the chip: the best dataflow and split of the streamed axis.

    Folds are dealt to the arrays; the streamed axis may be cut in powers of two so that all arrays have
    work. DRAM traffic hides behind the arrays where the chip prefetches, else it adds. All numbers of shape (N,). The
    array's own cycles exceed the peak's by its fills; software loses 1 - quality of what is left.
    """
    total_arrays = machine.cores * machine.arrays
    best_cycles, best_flow, best_cut = _best_mapping(m, n, k, batch, machine, total_arrays)
    # `peak` carries the format's rate: relative to two FLOP per element and cycle.
    nominal = 2.0 * total_arrays * machine.rows * machine.columns * machine.clock
    compute = best_cycles / machine.clock * (nominal / machine.peak) / machine.quality
    dram_bytes = batch * blocked_traffic(m, n, k, machine.cache, sizes, resident, distinct, batch)
    memory = dram_bytes / machine.dram
    flop = 2.0 * batch * m * n * k
    # Operands enter from the edge: a stationary tile serves `columns` products per element streamed.
    cache_bytes = batch * sizes.element * (m * k * np.ceil(n / machine.columns) + k * n)
    feed = cache_bytes / machine.feed
    bound = bound_of((compute, memory, feed))
    tiling = (best_flow, best_cut, np.zeros_like(best_cut))
    busy = np.maximum(compute, feed)
    time = np.maximum(busy, memory) if machine.prefetch else busy + memory
    return KernelCost(time, compute, memory, flop, dram_bytes, cache_bytes, bound, tiling, overlaps=machine.prefetch)


def _best_mapping(
    m: Array, n: Array, k: Array, batch: Array, machine: Machine, total_arrays: Array
) -> tuple[Array, Array, Array]:
    """Least cycles over dataflows and cuts, with the index of the dataflow and the cut that give them."""
    rows, columns = machine.rows, machine.columns
    top = int(np.ceil(np.log2(max(float(np.max(total_arrays)), 1.0))))
    cuts = 2.0 ** np.arange(top + 1)
    best: Array | None = None
    flow = cut = array(0.0)
    for index, dataflow in enumerate(DATAFLOWS):
        if dataflow not in machine.dataflows:
            continue
        across, along, stream = {"ws": (k, n, m), "os": (m, n, k), "is": (k, m, n)}[dataflow]
        folds = batch * np.ceil(across / rows) * np.ceil(along / columns)
        for number in cuts[:1] if dataflow == "os" else cuts:
            piece = np.ceil(stream / number)
            each = np.ceil(folds * number / total_arrays)
            if machine.shadow_weights and dataflow != "os":
                spent = pipelined_cycles(each, piece, rows, columns)
            elif dataflow == "os" and machine.shadow_weights:
                # A second set of accumulators, as a second set of weights: outputs drain while the next fold fills.
                spent = each * np.maximum(piece, rows) + rows + columns - 2.0
            elif dataflow == "os":
                spent = each * (rows + columns + piece - 2.0) - 1.0
            else:
                spent = each * (2.0 * rows + columns + piece - 2.0) - 1.0
            # Cuts beyond a point's own arrays are its neighbours' candidates, not its own.
            spent = np.where(number < 2.0 * np.maximum(total_arrays, 1.0), spent, np.inf)
            if best is None:
                best, flow, cut = spent, np.full_like(spent, index), np.full_like(spent, number)
            else:
                better = spent < best
                flow, cut = np.where(better, float(index), flow), np.where(better, number, cut)
                best = np.where(better, spent, best)
    if best is None:
        raise ValueError(f"no known dataflow in {machine.dataflows}")
    return best, flow, cut
