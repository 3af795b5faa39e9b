"""Energy of a kernel and of a step: FLOP, bytes by level, link bytes; static power is added per step.

Energies of a chip are those of a benchmark; in a step of a model its cores draw `power.real_data` times as much.
"""

from __future__ import annotations

from cosim.hardware.lower import ChipArrays
from cosim.records import Array
from cosim.timing.cost import KernelCost


def kernel_energy(cost: KernelCost, chip: ChipArrays, dtype: str) -> Array:
    """Dynamic energy of one kernel at the full voltage [J]: FLOP x J/FLOP + DRAM bytes x J/B + on-chip bytes x J/B.

    On-chip bytes are charged at the last shared level. Raises KeyError for a format without an energy, which
    a checked chip never has.
    """
    return core_energy(cost, chip, dtype) + cost.dram_bytes * chip.power.energy_per_byte["dram"]


def core_energy(cost: KernelCost, chip: ChipArrays, dtype: str) -> Array:
    """The part of it that falls with the voltage of the cores: arithmetic and on-chip bytes [J]."""
    return cost.flop * chip.power.energy_per_flop[dtype] + cost.cache_bytes * chip.near_energy


def step_energy(cost: KernelCost, chip: ChipArrays, dtype: str) -> tuple[Array, Array]:
    """Dynamic energy of one kernel in a step of a model, and the part of the cores in it [J]."""
    core = core_energy(cost, chip, dtype)
    more = core * (chip.power.real_data - 1.0)
    return kernel_energy(cost, chip, dtype) + more, core + more


def link_energy(wire_bytes: Array, chip: ChipArrays) -> Array:
    """Energy of bytes that a chip sends [J]."""
    return wire_bytes * chip.power.energy_per_byte["link"]
