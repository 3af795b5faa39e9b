"""Area of a die from its components: units, memories, interfaces, control, each scaled by its own rule.

    matrix     most of MACs per cycle x area of a MAC, over the formats of the engine
    vector     lanes x area of a lane;     registers, scratch, cache   capacity x area of its class
    network    bandwidth of the cache x area of the crossbar
    control    share x (a core's units, and its memories on a tile machine)
    memory     stacks x (PHY, which does not shrink, + controller);     links   bandwidth / density of the PHY
    other      host interface, scheduler, test

Units, control and controllers scale with logic, memories with the bit cell. What is on silicon counts, spares
included. Structure that is not known is a reason, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.lower import ChipArrays, Values, lower_chip
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.silicon.technology import LinkInterface, MemoryInterface, Node, Technology

COUNTED_LINK = "scale_up"
"""The links whose PHY is on the die; network cards and hosts are behind what `other` holds."""


@dataclass(frozen=True, slots=True)
class DieArea:
    """Components of all dies of a package [mm2], shapes () or (P,)."""

    matrix: Array
    vector: Array
    registers: Array
    scratch: Array
    cache: Array
    network: Array
    control: Array
    memory_phy: Array
    memory_control: Array
    links: Array
    other: Array

    @property
    def total(self) -> Array:
        """Sum of the components, in their order [mm2]."""
        parts: Array = sum((getattr(self, field.name) for field in fields(self)), array(0.0))
        return parts


def unknown(chip: Chip, technology: Technology) -> str:
    """Why the area of a chip cannot be said; empty where it can."""
    if chip.matrix.kind == "roofline":
        return f"{chip.name} is known by its peaks only"
    if node_of(chip, technology) is None:
        return f"nothing is known of node '{chip.die.node}'"
    areas = getattr(technology.mac, chip.matrix.kind)
    formats = [dtype for dtype in chip.matrix.rate if dtype not in areas]
    if formats:
        return f"no area is known of a {formats[0]} unit"
    if chip.vector.rate is None:
        return "the number of vector lanes is not known"
    return _unknown_interface(chip, technology)


def _unknown_interface(chip: Chip, technology: Technology) -> str:
    dram = chip.memory["dram"]
    if dram.stacks is None or _memory(chip, technology) is None:
        return f"no area is known of an interface to {dram.technology}, or the number of stacks"
    link = chip.links[COUNTED_LINK].technology
    return f"no area is known of {link}" if _link(chip, technology) is None else ""


def die_area(varied: Varied[Chip], technology: Technology) -> DieArea:
    """Area of the chip's dies with its overrides. Raises SpecError where `unknown` has a reason."""
    chip = varied.spec
    reason = unknown(chip, technology)
    node, memory, link = node_of(chip, technology), _memory(chip, technology), _link(chip, technology)
    if reason or node is None or memory is None or link is None:
        raise SpecError(f"has no known area: {reason}", field="die.area")
    values, arrays = Values(chip, varied.arrays), lower_chip(chip, varied.arrays)
    logic, sram = node.logic.si, node.sram.si
    spare = _over(values.maybe("die.cores"), values.si("cores"))
    stacks = values.si("memory.dram.stacks") * _over(values.maybe("die.stacks"), values.si("memory.dram.stacks"))
    tile = chip.matrix.kind == "tile"
    kind = "tile" if tile else "systolic"
    # Lanes and arrays of every core that is on the die, working or not.
    matrix = _matrix(arrays, technology, kind) * spare * logic
    lanes = values.si("cores") * values.si("vector.rate") / 2.0
    vector = lanes * technology.vector_lane.si * spare * logic
    classes = technology.sram
    held = array(0.0) if chip.vector.registers is None else values.si("vector.registers") * values.si("cores")
    registers = held * classes.registers.si * spare * sram
    near = classes.tile_scratch if tile else classes.array_scratch
    scratch = _capacity(chip, values, "scratch", spare) * near.si * sram
    # A cache with tags and ports beside cores; the shared memory of an array machine is addressed.
    far = classes.cache if tile else classes.array_scratch
    cache = _capacity(chip, values, "cache", spare) * far.si * sram
    crossed = arrays.memory["cache"].bandwidth if "cache" in arrays.memory else array(0.0)
    governed = matrix + vector + (registers + scratch if tile else 0.0)
    bandwidth = arrays.links[COUNTED_LINK]
    return DieArea(
        matrix=matrix,
        vector=vector,
        registers=registers,
        scratch=scratch,
        cache=cache,
        network=crossed * technology.network.si * logic,
        control=getattr(technology.control, kind).si * governed,
        memory_phy=stacks * memory.phy.si,
        memory_control=stacks * memory.control.si * logic,
        links=bandwidth / link.density.si + bandwidth * technology.link_control.si * logic,
        other=array(getattr(technology.other, kind).si * logic),
    )


def node_of(chip: Chip, technology: Technology) -> Node | None:
    """The node of the chip's dies, None where the technology does not know it."""
    return next((node for node in technology.nodes if chip.die.node in node.names), None)


def memory_edge(varied: Varied[Chip], technology: Technology) -> Array:
    """Edge of all dies together that the memory stacks need [mm]. Raises SpecError for an unknown interface."""
    memory = _memory(varied.spec, technology)
    if memory is None:
        raise SpecError("has no known interface", field="memory.dram.technology")
    values = Values(varied.spec, varied.arrays)
    stacks = values.si("memory.dram.stacks")
    return stacks * _over(values.maybe("die.stacks"), stacks) * memory.edge.si


def static_power(varied: Varied[Chip], area: Array, technology: Technology) -> Array:
    """What dies of `area` [mm2] leak and memory stacks draw when nothing is done [W]. Raises SpecError."""
    memory = _memory(varied.spec, technology)
    if memory is None:
        raise SpecError("has no known interface", field="memory.dram.technology")
    stacks = Values(varied.spec, varied.arrays).si("memory.dram.stacks")
    return area * technology.leakage.si + stacks * memory.static.si


def _matrix(arrays: ChipArrays, technology: Technology, kind: str) -> Array:
    """Area of the matrix engines at the reference node: the largest need of any format [mm2]."""
    areas = getattr(technology.mac, kind)
    clock = arrays.matrix.clock
    if clock is None:
        raise SpecError("is unknown for this chip", field="matrix.clock")
    needs = [peak / (2.0 * clock) * areas[dtype].si for dtype, peak in arrays.matrix.peak.items()]
    largest: Array = np.max(np.stack(np.broadcast_arrays(*needs)), axis=0)
    return largest


def _over(on_silicon: Array | None, working: Array) -> Array:
    """What is on silicon over what works, at least 1."""
    return array(1.0) if on_silicon is None else np.maximum(on_silicon / working, 1.0)


def _capacity(chip: Chip, values: Values, role: str, spare: Array) -> Array:
    """Bytes of a level on silicon; a core's own come with every core that is there."""
    usable = values.maybe(f"memory.{role}.capacity")
    if usable is None:
        return array(0.0)
    there = values.maybe(f"memory.{role}.capacity_physical")
    held = usable if there is None else np.maximum(usable, there)
    return held * values.si("cores") * spare if chip.memory[role].shared_by == "core" else held


def _memory(chip: Chip, technology: Technology) -> MemoryInterface | None:
    return next((found for found in technology.memory if chip.memory["dram"].technology in found.names), None)


def _link(chip: Chip, technology: Technology) -> LinkInterface | None:
    return next((found for found in technology.links if chip.links[COUNTED_LINK].technology in found.names), None)
