"""Energy of a kernel and of a step: FLOP, bytes by level, link bytes; static power is added per step."""

from __future__ import annotations

import numpy as np

from cosim.hardware.lower import ChipArrays
from cosim.records import Array
from cosim.timing.cost import KernelCost


def kernel_energy(cost: KernelCost, chip: ChipArrays, dtype: str) -> Array:
    """Dynamic energy of one kernel [J]: FLOP x J/FLOP + DRAM bytes x J/B + on-chip bytes x J/B.

    A format without an energy of its own is charged as fp32, which every chip has. On-chip bytes are
    charged at the last shared level.
    """
    per_flop = chip.power.energy_per_flop.get(dtype, chip.power.energy_per_flop["fp32"])
    per_byte = chip.power.energy_per_byte
    on_chip = [role for role in chip.memory if role not in ("dram", "host")]
    near = per_byte["cache" if "cache" in per_byte else on_chip[0]] if on_chip else np.float64(0.0)
    return cost.flop * per_flop + cost.dram_bytes * per_byte["dram"] + cost.cache_bytes * near


def link_energy(wire_bytes: Array, chip: ChipArrays) -> Array:
    """Energy of bytes that a chip sends [J]; chips without a figure for links are charged none."""
    per_byte = chip.power.energy_per_byte
    return wire_bytes * per_byte["link"] if "link" in per_byte else np.zeros_like(wire_bytes)


def power_floor(dynamic_energy: Array, limit: Array, idle: Array) -> Array:
    """Least time in which a chip may spend `dynamic_energy` [s]: average power stays at the limit.

    limit x t >= dynamic + idle x t. Controllers average over milliseconds, so one step is one window.
    """
    return dynamic_energy / np.maximum(limit - idle, 1e-9)
