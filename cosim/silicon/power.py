"""Power that a package must supply, from the energy of each act and what it draws at rest.

    TDP = static + matrix rate x energy of a FLOP + DRAM bandwidth x energy of a byte (and of the cache on its way)
          + link bandwidth x energy of a byte

All engines busy at once, each at what its kernels reach (`quality`), the matrix engine in its most costly format.
Operands that cross the cache more often than DRAM are not counted, nor are vector units.
"""

from __future__ import annotations

import numpy as np

from cosim.hardware.chip import Chip
from cosim.hardware.lower import lower_chip
from cosim.overrides import Varied
from cosim.records import Array
from cosim.silicon.area import COUNTED_LINK, static_power
from cosim.silicon.technology import Technology


def design_power(varied: Varied[Chip], area: Array, technology: Technology) -> Array:
    """TDP that a chip of dies of `area` [mm2] needs [W]; see the head of this module. Raises SpecError."""
    chip = lower_chip(varied.spec, varied.arrays)
    per_flop, per_byte, quality = chip.power.energy_per_flop, chip.power.energy_per_byte, chip.quality
    matrix = [
        peak * quality.matmul_formats.get(dtype, quality.matmul) * per_flop[dtype]
        for dtype, peak in chip.matrix.peak.items()
    ]
    hottest: Array = np.max(np.stack(np.broadcast_arrays(*matrix)), axis=0)
    memory = chip.memory["dram"].bandwidth * quality.memory * (per_byte["dram"] + chip.near_energy)
    links = chip.links[COUNTED_LINK] * quality.collective * per_byte["link"]
    return static_power(varied, area, technology) + hottest + memory + links
