"""Matmul on a tile machine (GPU): the best output tile and split of K, over all candidates at once.

    tiles  = ceil(m/tm) ceil(n/tn) split batch          waves = ceil(tiles / cores)
    step   = most of: least time of a 64-deep step, tile FLOP over a core's rate, tile operands over a core's feed
    core   = waves (ceil(k / split / 64) step + prologue)
    DRAM   = A passes over column super-tiles + B passes over row super-tiles + C
    time   = max(core, DRAM / min(dram, busy cores x core_bandwidth)) + reduction of a split

A wave of tiles forms a super-tile gm x gn that shares its operands through the last cache, so passes count
super-tiles. The constants are the chip's, fitted or carried over; `lower.KERNEL_CONSTANTS` defines them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cosim.errors import SpecError
from cosim.records import Array, array, joined, take
from cosim.timing.cost import COMPUTE, LATENCY, MEMORY, OPERANDS, KernelCost, Machine
from cosim.timing.traffic import OUTPUT_BYTES, Resident, saved, written

K_STEP = 64.0
# Every halving of a shape is a shape, so that a smaller product can always be cut into as many tiles.
_SHAPES = [(m, n) for m in (16, 32, 64, 128, 256) for n in (32, 64, 128, 256) if m * n <= 128 * 256]
TILE_M = np.array([shape[0] for shape in _SHAPES], dtype=np.float64)[:, None, None]
TILE_N = np.array([shape[1] for shape in _SHAPES], dtype=np.float64)[:, None, None]
SPLITS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])[None, :, None]
# Points per pass: candidates x points x 8 B stays inside a core's second-level cache.
CHUNK = 256


@dataclass(frozen=True, slots=True)
class _Shape:
    m: Array
    n: Array
    k: Array
    batch: Array
    distinct: Array = field(default_factory=lambda: array(1.0))


def tile_cost(
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    machine: Machine,
    element_bytes: float,
    *,
    resident: Resident = "none",
    output_bytes: float = OUTPUT_BYTES,
    distinct: Array | float = 1.0,
) -> KernelCost:
    """Cost of matmuls of shape (N,) on a tile machine; see the head of this module.

    Raises SpecError where the chip's calibration lacks a constant.
    """
    missing = [name for name in _NEEDED if name not in machine.kernel]
    if missing:
        raise SpecError("a tile machine needs this kernel constant", field=f"calibration.constants.{missing[0]}")
    shape = _Shape(m, n, k, batch, array(distinct))
    total = int(m.shape[0])
    parts = []
    for start in range(0, max(total, 1), CHUNK):
        index = np.arange(start, min(start + CHUNK, total), dtype=np.intp)
        part, local = take(shape, index), take(machine, index)
        parts.append(_chunk(part, local, (element_bytes, output_bytes), resident))
    return joined(parts)


_NEEDED = ("k_step_time", "core_bandwidth", "cache_share", "split_time", "operand_share", "tile_prologue")


def _chunk(shape: _Shape, machine: Machine, sizes: tuple[float, float], resident: Resident) -> KernelCost:
    element_bytes = sizes[0]
    kernel = machine.kernel
    across, down = np.ceil(shape.m / TILE_M), np.ceil(shape.n / TILE_N)
    grid = across * down * shape.batch
    core_rate = machine.peak * machine.quality / machine.cores
    per_step_compute = 2.0 * K_STEP * TILE_M * TILE_N / core_rate
    core_feed = kernel["operand_share"] * machine.feed / machine.cores
    per_step_feed = (TILE_M + TILE_N) * K_STEP * element_bytes / core_feed
    step = np.maximum(np.maximum(per_step_compute, per_step_feed), kernel["k_step_time"])
    steps = np.ceil(shape.k / (K_STEP * SPLITS))
    tiles = grid * SPLITS
    core_time = np.ceil(tiles / machine.cores) * (steps * step + kernel["tile_prologue"])
    dram_bytes = shape.batch * _dram_bytes(shape, across, down, machine, sizes, resident)
    busy = np.minimum(tiles, machine.cores)
    memory = dram_bytes / np.minimum(machine.dram, busy * kernel["core_bandwidth"])
    time = np.maximum(core_time, memory) + np.where(SPLITS > 1.0, kernel["split_time"], 0.0)
    flat = time.reshape(-1, time.shape[-1])
    best = np.argmin(flat, axis=0)
    point = np.arange(flat.shape[1])
    tile, split = np.divmod(best, SPLITS.shape[1])

    def chosen(candidates: Array) -> Array:
        full = np.broadcast_to(candidates, (TILE_M.shape[0], SPLITS.shape[1], flat.shape[1]))
        return full[tile, split, point]

    compute, waiting = chosen(core_time), chosen(memory)
    why = np.where(chosen(per_step_compute) >= chosen(step), COMPUTE, OPERANDS)
    why = np.where(chosen(step) <= kernel["k_step_time"], LATENCY, why)
    operands = (TILE_M + TILE_N) * element_bytes * shape.k * grid
    return KernelCost(
        time=flat[best, point],
        compute=compute,
        memory=waiting,
        flop=2.0 * shape.batch * shape.m * shape.n * shape.k,
        dram_bytes=chosen(dram_bytes),
        cache_bytes=chosen(operands),
        bound=np.where(waiting > compute, MEMORY, why).astype(np.int64),
        tiling=(TILE_M[tile, 0, 0], TILE_N[tile, 0, 0], SPLITS[0, split, 0]),
    )


def _dram_bytes(
    shape: _Shape, across: Array, down: Array, machine: Machine, sizes: tuple[float, float], resident: Resident
) -> Array:
    """Bytes of one product, (tiles, 1, N): operands that fit the cache once, others once per super-tile."""
    element_bytes, output_bytes = sizes
    a, b = shape.m * shape.k * shape.distinct * element_bytes, shape.k * shape.n * element_bytes
    c = shape.m * shape.n * output_bytes
    room = machine.kernel["cache_share"] * machine.cache
    wave = np.minimum(machine.cores, across * down)
    group_m = np.minimum(np.maximum(np.rint(np.sqrt(wave * (TILE_N / TILE_M))), 1.0), across)
    group_n = np.minimum(np.ceil(wave / group_m), down)
    group_m = np.minimum(np.ceil(wave / group_n), across)
    passes_a = np.where(a <= room, 1.0, np.ceil(down / group_n))
    passes_b = np.where(b <= room, 1.0, np.ceil(across / group_m))
    return a * passes_a + b * passes_b - saved(a, b, c, room, resident) + written(c, room, resident)
