"""Elementwise kernels: bytes over bandwidth, FLOP over the vector units, exponentials over theirs."""

from __future__ import annotations

import numpy as np

from cosim.hardware.lower import ChipArrays
from cosim.mapping.device import DeviceVector
from cosim.records import Array
from cosim.timing.cost import KernelCost, bound_of, dram_rate


def vector_cost(op: DeviceVector, chip: ChipArrays) -> KernelCost:
    """Cost of one elementwise kernel, launch not included; shapes broadcast to (N,).

    Tensors that fit half of the last on-chip memory (the other half holds the next kernel's operands) were
    left there by the kernel before and stay for the one after: they move at that level's bandwidth and cost
    no DRAM traffic, unless the kernel is no faster than DRAM (`DeviceVector.dram_paced`). Rows gathered at random are
    read from the table: from DRAM, whole granules, at its full rate, unless the table is small enough to stay.
    """
    moved = op.read_bytes + op.write_bytes - op.gathered_bytes
    dram = dram_rate(chip)
    on_chip = [level for role, level in chip.memory.items() if role not in ("dram", "host")]
    if on_chip:
        level = chip.memory.get("cache", on_chip[0])
        stays = moved <= level.capacity / 2.0
        near = level.bandwidth * chip.kernel.get("cache_feed", chip.quality.memory)
        bandwidth = dram if op.dram_paced else np.where(stays, np.maximum(near, dram), dram)
        dram_bytes = np.where(stays, 0.0, moved)
        kept = op.weight_bytes <= level.capacity / 2.0
        table, from_table = np.where(kept, near, dram), np.where(kept, 0.0, op.gathered_bytes)
    else:
        bandwidth, dram_bytes, table, from_table = dram, moved, dram, op.gathered_bytes
    memory = moved / bandwidth + op.gathered_bytes / table
    moved, dram_bytes = moved + op.gathered_bytes, dram_bytes + from_table
    compute = np.maximum(op.flop / chip.vector_peak, op.special / chip.special_peak)
    time = np.maximum(compute, memory)
    zero: Array = np.zeros_like(time)
    return KernelCost(
        time, compute, memory, op.flop + zero, dram_bytes + zero, moved + zero, bound_of((compute, memory)), (zero,) * 3
    )
