"""The cost of kernels, and the machine parameters that matmul and attention depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.dtypes import bytes_per_element
from cosim.errors import SpecError, nearest
from cosim.hardware.lower import ChipArrays
from cosim.records import Array, array

BOUNDS = ("compute", "memory", "operands", "latency")
COMPUTE, MEMORY, OPERANDS, LATENCY = range(4)


@dataclass(frozen=True, slots=True)
class KernelCost:
    """Cost of one kernel, shape (N,): time without launch [s], its parts, FLOP, bytes by level, what bounds it.

    `time` is the most of the parts plus what cannot overlap. `tiling` names the choice: rows, columns and
    splits of a tile machine; dataflow index and splits of an array; (0, 0, 0) where there is none.
    """

    time: Array
    compute: Array
    memory: Array
    flop: Array
    dram_bytes: Array
    cache_bytes: Array
    bound: NDArray[np.int64]
    tiling: tuple[Array, Array, Array]
    overlaps: bool = True
    """Whether memory runs beside compute; else after it."""

    @property
    def clocked(self) -> Array:
        """Seconds that follow the clock of the cores."""
        alone = np.where(self.bound == MEMORY, 0.0, self.time)
        return alone if self.overlaps else np.minimum(self.compute, self.time)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a matrix kernel sees of a chip in one format; leaves of shape () or (N,).

    `peak` [FLOP/s]; `dram` achievable bandwidth [B/s]; `cache` bytes of the last on-chip level that all
    cores share (all scratch together where there is none), in `partitions` that keep copies, its bandwidth over all
    cores [B/s], and `multicast` cores that one read of it can serve; `feed` the bandwidth of the level that the matrix
    engine reads, over all cores [B/s]; `start` what one more dependent kernel takes [s]; constants of tile kernels by
    name.
    """

    kind: str
    dataflows: tuple[str, ...]
    shadow_weights: bool
    prefetch: bool
    peak: Array
    quality: Array
    dram: Array
    cache: Array
    feed: Array
    cores: Array
    clock: Array
    arrays: Array
    rows: Array
    columns: Array
    kernel: Mapping[str, Array]
    cache_bandwidth: Array
    partitions: Array
    multicast: Array
    start: Array


def machine(chip: ChipArrays, dtype: str) -> Machine:
    """The machine of `chip` for matrix work in `dtype`. Raises SpecError for a format without a rate."""
    peak = rate(chip, dtype)
    on_chip = [level for role, level in chip.memory.items() if role not in ("dram", "host")]
    cache = chip.memory.get("cache") or (on_chip[0] if on_chip else None)
    nearest_level = chip.memory.get("scratch", cache)
    one, zero = array(1.0), array(0.0)
    engine = chip.matrix

    def known(value: Array | None) -> Array:
        return one if value is None else value

    return Machine(
        kind=engine.kind,
        dataflows=engine.dataflows,
        shadow_weights=engine.shadow_weights,
        prefetch=engine.prefetch,
        peak=peak,
        quality=chip.quality.matmul_formats.get(dtype, chip.quality.matmul),
        dram=dram_rate(chip) * chip.kernel.get("dram_share", one),
        cache=zero if cache is None else cache.capacity,
        feed=array(np.inf) if nearest_level is None else nearest_level.bandwidth,
        cores=known(chip.cores),
        clock=known(engine.clock),
        arrays=known(engine.arrays),
        rows=known(engine.rows),
        columns=known(engine.columns),
        kernel=chip.kernel,
        cache_bandwidth=array(np.inf) if cache is None else cache.bandwidth,
        partitions=one if cache is None else cache.partitions,
        multicast=engine.multicast,
        start=chip.launch.gap + chip.launch.latency,
    )


def rate(chip: ChipArrays, dtype: str) -> Array:
    """Peak of the matrix engine in `dtype` [FLOP/s]. Raises SpecError naming the formats that it has."""
    if dtype not in chip.matrix.peak:
        hint = nearest(dtype, chip.matrix.peak)
        raise SpecError(f"{chip.name} has no matrix rate for this format", field="plan.dtype", value=dtype, hint=hint)
    return chip.matrix.peak[dtype]


def dram_rate(chip: ChipArrays) -> Array:
    """Achievable DRAM bandwidth [B/s]: what DRAM gives, or the cache that it passes through where that is slower."""
    given = chip.memory["dram"].bandwidth
    if "cache" in chip.memory:
        given = np.minimum(given, chip.memory["cache"].bandwidth)
    return given * chip.quality.memory


def math_dtype(chip: ChipArrays) -> str:
    """Format of attention math and of the head: bf16, or the widest that a chip known by few peaks has."""
    known = chip.matrix.peak
    wide = [dtype for dtype in ("bf16", "fp16", "tf32", "fp32") if dtype in known]
    return wide[0] if wide else max(known, key=bytes_per_element)


def bound_of(parts: tuple[Array, ...]) -> NDArray[np.int64]:
    """Index of the largest part, ties to the first: what bounds a kernel."""
    stacked = np.stack(np.broadcast_arrays(*parts))
    largest: NDArray[np.int64] = np.argmax(stacked, axis=0).astype(np.int64)
    return largest
