"""Power that a package must supply, from the energy of each act and what leaks.

    TDP = leakage + matrix rate x energy of a FLOP + DRAM bandwidth x energy of a byte (and of the cache on its way)
          + link bandwidth x energy of a byte

All engines busy at once, each at what its kernels reach (`quality`), the matrix engine in its most costly format:
what the chip draws when nothing throttles it.
"""

from __future__ import annotations

import numpy as np

from cosim.hardware.lower import ChipArrays
from cosim.records import Array
from cosim.silicon.technology import Technology


def leakage(area: Array, technology: Technology) -> Array:
    """Static power of dies of `area` [mm2] in all [W]."""
    return area * technology.leakage.si


def design_power(chip: ChipArrays, area: Array, technology: Technology) -> Array:
    """TDP that a chip of dies of `area` [mm2] needs [W]; see the head of this module."""
    per_flop, per_byte = chip.power.energy_per_flop, chip.power.energy_per_byte
    quality = chip.quality
    matrix = [
        peak * quality.matmul_formats.get(dtype, quality.matmul) * per_flop[dtype]
        for dtype, peak in chip.matrix.peak.items()
    ]
    hottest: Array = np.max(np.stack(np.broadcast_arrays(*matrix)), axis=0)
    near = per_byte["cache"] if "cache" in chip.memory else np.float64(0.0)
    memory = chip.memory["dram"].bandwidth * quality.memory * (per_byte["dram"] + near)
    links = chip.links["scale_up"] * quality.collective * per_byte["link"]
    return leakage(area, technology) + hottest + memory + links
