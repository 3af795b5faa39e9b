"""What keeps a die from being larger or having more around it: reticle field, edge for memory, edge for links.

A die is a rectangle of the field's aspect. Memory stacks stand along its two long sides, links leave by the two
short ones; dies of one package share both alike. How many watts and which price are the study's own constraints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.hardware.chip import Chip
from cosim.hardware.lower import Values, lower_chip
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.silicon.area import COUNTED_LINK, DieArea, memory_edge
from cosim.silicon.technology import Technology


@dataclass(frozen=True, slots=True)
class DieLimit:
    """One limit of silicon: its name in results, the unit of the shortfall, how that is said."""

    name: str
    unit: str
    says: str


DIE_LIMITS = (
    DieLimit("reticle", "mm2", "a die is {} mm2 larger than the reticle field"),
    DieLimit("memory_edge", "mm", "lacks {} mm of die edge for memory stacks"),
    DieLimit("link_edge", "mm", "lacks {} mm of die edge for links"),
)


def shortfalls(varied: Varied[Chip], area: DieArea, technology: Technology) -> dict[str, Array]:
    """How far each limit of DIE_LIMITS is passed, in its unit; zero or less where it holds."""
    values, arrays = Values(varied.spec, varied.arrays), lower_chip(varied.spec, varied.arrays)
    given = values.maybe("die.dies")
    dies = array(1.0) if given is None else given
    each = area.total / dies
    # A die that the reticle refuses gets no edge from its excess.
    made = np.minimum(each, technology.reticle.si)
    short = np.sqrt(made / technology.aspect.si)
    long = short * technology.aspect.si
    links = arrays.links[COUNTED_LINK] / technology.link_edge.si
    return {
        "reticle": each - technology.reticle.si,
        "memory_edge": memory_edge(varied, technology) - 2.0 * long * dies,
        "link_edge": links - 2.0 * short * dies,
    }
