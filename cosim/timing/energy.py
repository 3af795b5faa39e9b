"""Energy of a kernel and of a step: FLOP, bytes by level, link bytes; static power is added per step."""

from __future__ import annotations

from cosim.hardware.lower import ChipArrays
from cosim.records import Array
from cosim.timing.cost import KernelCost


def kernel_energy(cost: KernelCost, chip: ChipArrays, dtype: str) -> Array:
    """Dynamic energy of one kernel [J]: FLOP x J/FLOP + DRAM bytes x J/B + on-chip bytes x J/B.

    On-chip bytes are charged at the last shared level. Raises KeyError for a format without an energy, which
    a checked chip never has.
    """
    per_flop = chip.power.energy_per_flop[dtype]
    per_byte = chip.power.energy_per_byte
    return cost.flop * per_flop + cost.dram_bytes * per_byte["dram"] + cost.cache_bytes * chip.near_energy


def link_energy(wire_bytes: Array, chip: ChipArrays) -> Array:
    """Energy of bytes that a chip sends [J]."""
    return wire_bytes * chip.power.energy_per_byte["link"]


def power_floor(dynamic_energy: Array, limit: Array, idle: Array) -> Array:
    """Least time in which a chip may spend `dynamic_energy` [s]: average power stays at the limit.

    limit x t >= dynamic + idle x t. Controllers average over milliseconds, so one step is one window.
    """
    return dynamic_energy / (limit - idle)
