"""Matmul on a tile machine (GPU): the best output tile and split of K, over all candidates at once.

    tiles  = ceil(m/tm) ceil(n/tn) split batch          waves = ceil(tiles / cores)
    step   = most of: least time of a step, tile FLOP over a core's rate, tile operands over a core's scratch
    core   = waves (ceil(k e / split / 128) step + epilogue tm tn / 128^2)           a step is 128 B of k
    cache  = (operands of every tile, one shared by up to `multicast` neighbours, + 2 C) / (bandwidth x cache_feed)
    DRAM   = A passes over column super-tiles + B passes over row super-tiles + C
    time   = most of core, cache, DRAM / bandwidth, plus the reduction of a split

A wave of tiles forms a super-tile gm x gn that shares its operands through the last cache, so passes count
super-tiles. The constants are those of a library of kernels or of the chip; `lower.KERNEL_CONSTANTS` defines them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cosim.errors import SpecError
from cosim.records import Array, array, joined, take
from cosim.timing.cost import COMPUTE, LATENCY, MEMORY, OPERANDS, KernelCost, Machine
from cosim.timing.traffic import Resident, Sizes, saved, written

STEP_BYTES = 128.0
"""Depth of one step of the K loop: 64 elements of 16 bits, 128 of 8; the line of a cache."""
EPILOGUE_TILE = 128.0 * 128.0
"""Elements of the tile that `epilogue_cycles` speaks of."""
HAIR = 1e-6
"""Expected rows of an expert come out this little above a whole number, which is no further tile."""
PARTIAL_BYTES = 4.0
"""Partial sums of a split are fp32."""
# Every halving of a shape is a shape, so that a smaller product can always be cut into as many tiles.
_SHAPES = [(m, n) for m in (16, 32, 64, 128, 256) for n in (32, 64, 128, 256) if m * n <= 128 * 256]
TILE_M = np.array([shape[0] for shape in _SHAPES], dtype=np.float64)[:, None, None]
TILE_N = np.array([shape[1] for shape in _SHAPES], dtype=np.float64)[:, None, None]
SPLITS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])[None, :, None]
# Points per pass: candidates x points x 8 B stays inside a core's second-level cache.
CHUNK = 256
GROUP_ROWS = tuple(2.0**power for power in range(9))
"""Rows of tiles in a group that shares operands through the cache."""


@dataclass(frozen=True, slots=True)
class _Shape:
    m: Array
    n: Array
    k: Array
    batch: Array
    distinct: Array = field(default_factory=lambda: array(1.0))
    fetched: Array = field(default_factory=lambda: array(1.0))


def tile_cost(
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    machine: Machine,
    sizes: Sizes,
    *,
    resident: Resident = "none",
    distinct: Array | float = 1.0,
    fetched: Array | float = 1.0,
) -> KernelCost:
    """Cost of matmuls of shape (N,) on a tile machine; see the head of this module.

    `fetched` is the share of a tile's part of A that a core takes from the cache: less than one of patches, of which
    neighbouring rows have much in common that the core keeps.

    Raises SpecError where the chip's calibration lacks a constant.
    """
    missing = [name for name in NEEDED if name not in machine.kernel]
    if missing:
        hint = "name a library of kernels in the chip's file, as 'kernels: generic-tile'"
        field = f"calibration.constants.{missing[0]}"
        raise SpecError("a tile machine needs this kernel constant", field=field, hint=hint)
    shape = _Shape(m, n, k, batch, array(distinct), array(fetched))
    total = int(m.shape[0])
    parts = []
    for start in range(0, max(total, 1), CHUNK):
        index = np.arange(start, min(start + CHUNK, total), dtype=np.intp)
        part, local = take(shape, index), take(machine, index)
        parts.append(_chunk(part, local, sizes, resident))
    return joined(parts)


NEEDED = ("step_cycles", "epilogue_cycles", "cache_share", "cache_feed")


def _chunk(shape: _Shape, machine: Machine, sizes: Sizes, resident: Resident) -> KernelCost:
    element_bytes = sizes.element
    kernel = machine.kernel
    across, down = np.maximum(np.ceil(shape.m / TILE_M - HAIR), 1.0), np.ceil(shape.n / TILE_N)
    grid = across * down * shape.batch
    core_rate = machine.peak * machine.quality / machine.cores
    per_step_compute = 2.0 * STEP_BYTES / element_bytes * TILE_M * TILE_N / core_rate
    # Every operand byte is written to the scratch memory once and read once.
    per_step_feed = 2.0 * (TILE_M + TILE_N) * STEP_BYTES / (machine.feed / machine.cores)
    least = kernel["step_cycles"] / machine.clock
    step = np.maximum(np.maximum(per_step_compute, per_step_feed), least)
    steps = np.ceil(shape.k * element_bytes / (STEP_BYTES * SPLITS))
    epilogue = kernel["epilogue_cycles"] / machine.clock * (TILE_M * TILE_N / EPILOGUE_TILE)
    core_time = np.ceil(grid * SPLITS / machine.cores) * (steps * step + epilogue)
    # Neighbours share one operand: tiles of a column the weights, tiles of a row the activations.
    # Weights pass the cache as narrow as DRAM holds them.
    taken, weights = TILE_M * shape.fetched, TILE_N * min(sizes.weight / element_bytes, 1.0)
    by_column = taken + weights / np.minimum(machine.multicast, across)
    by_row = taken / np.minimum(machine.multicast, down) + weights
    operands = np.minimum(by_column, by_row) * element_bytes * shape.k * grid
    output = shape.batch * shape.m * shape.n
    through = machine.cache_bandwidth * kernel["cache_feed"]
    # Output lines enter the cache and leave it.
    on_chip_bytes = operands + 2.0 * sizes.output * output
    cache_time = on_chip_bytes / through
    dram_bytes = shape.batch * _dram_bytes(shape, across, down, machine, sizes, resident)
    memory = dram_bytes / machine.dram
    reduction = machine.start + (SPLITS + 1.0) * PARTIAL_BYTES * output / through
    compute = np.maximum(core_time, cache_time)
    time = np.maximum(compute, memory) + np.where(SPLITS > 1.0, reduction, 0.0)
    flat = time.reshape(-1, time.shape[-1])
    best = np.argmin(flat, axis=0)
    point = np.arange(flat.shape[1])
    tile, split = np.divmod(best, SPLITS.shape[1])

    def chosen(candidates: Array) -> Array:
        full = np.broadcast_to(candidates, (TILE_M.shape[0], SPLITS.shape[1], flat.shape[1]))
        return full[tile, split, point]

    on_chip, waiting = chosen(compute), chosen(memory)
    why = np.where(chosen(per_step_compute) >= chosen(step), COMPUTE, OPERANDS)
    why = np.where(chosen(step) <= least, LATENCY, why)
    why = np.where(chosen(cache_time) > chosen(core_time), OPERANDS, why)
    return KernelCost(
        time=flat[best, point],
        compute=on_chip,
        memory=waiting,
        flop=2.0 * output * shape.k,
        dram_bytes=chosen(dram_bytes),
        cache_bytes=chosen(on_chip_bytes),
        bound=np.where(waiting > on_chip, MEMORY, why).astype(np.int64),
        tiling=(TILE_M[tile, 0, 0], TILE_N[tile, 0, 0], SPLITS[0, split, 0]),
    )


def _dram_bytes(shape: _Shape, across: Array, down: Array, machine: Machine, sizes: Sizes, resident: Resident) -> Array:
    """Bytes of one product, (tiles, 1, N): operands that fit the cache once, others once per super-tile.

    A cache in `partitions` that keep a copy each holds that much less; what stays from kernel to kernel are the
    operands of the whole batch.
    """
    a, b = shape.m * shape.k * shape.distinct * sizes.element, shape.k * shape.n * sizes.weight
    c = shape.m * shape.n * sizes.output
    room = machine.kernel["cache_share"] * machine.cache / machine.partitions
    moved = _grouped((a, b), room, np.minimum(machine.cores, across * down), across, down)
    stays = room / shape.batch
    return moved - saved(a, b, c, stays, resident) + written(a, b, c, stays, resident)


def _grouped(operands: tuple[Array, Array], room: Array, wave: Array, across: Array, down: Array) -> Array:
    """Bytes of A and B where a wave of tiles works as one group, at its best shape: each once a group.

    An operand that fits `room` is read once. A larger wave has every shape of a smaller one, so that it reads no more.
    """
    a, b = operands
    least = np.full(np.broadcast_shapes(a.shape, wave.shape), np.inf)
    for rows in GROUP_ROWS:
        columns = np.minimum(np.ceil(wave / rows), down)
        passes_a = np.where(a <= room, 1.0, np.ceil(down / columns))
        passes_b = np.where(b <= room, 1.0, np.ceil(across / np.minimum(rows, across)))
        least = np.where(rows <= wave, np.minimum(least, a * passes_a + b * passes_b), least)
    return least
