"""The links of a system: every tier as directed links with capacities and names.

    switch            the port of every chip: up, down
    fat tree          ports, and of every unit the up-links of its switch as one bundle (packets are sprayed over them)
    dragonfly         ports, the local links of every router as one bundle, one bundle for each pair of groups
    bus               one link that all share
    mesh              one link for each ordered pair
    ring, torus       two links a chip and dimension, there and back; a line ends
    hypercube mesh    one link a chip and dimension

Chips count from 0, those of the innermost tier next to each other. A chip has links of its own on every tier. A mesh,
ring, torus or hypercube of units, and a rail-optimised tier, is one network for each place in the units.
Capacity is the wire times the share that collectives reach [B/s]. A fat tree's `oversubscription` narrows what leaves a
unit, not its ports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import TierArrays
from cosim.records import Array
from cosim.timing.way import reached

Index = NDArray[np.int64]
Flags = NDArray[np.bool_]
WIRED = ("mesh", "ring", "torus", "hypercube_mesh")
"""Kinds without a switch: links from unit to unit."""


@dataclass(frozen=True, slots=True)
class TierLinks:
    """One tier of the graph: its units, and the places of its links in the list of all."""

    name: str
    kind: str
    link: str
    size: int
    """Units that it joins."""
    held: int
    """Chips of a unit."""
    chips: int
    """Of the system."""
    shape: tuple[int, ...]
    """Of a ring, torus or hypercube its dimensions; of a dragonfly (routers of a group, groups)."""
    closed: tuple[bool, ...]
    by_place: bool
    """Whether chips of the same place in their units have a network of their own."""
    first: int
    count: int
    engines: bool
    """Whether the last of its links are what the engines of each chip feed."""

    @property
    def span(self) -> int:
        """Chips of what the tier makes."""
        return self.size * self.held

    @property
    def wholes(self) -> int:
        """How often the tier is there."""
        return self.chips // self.span

    def place(self, chips: Index) -> Index:
        """Which unit of its tier a chip lies in."""
        return chips // self.held % self.size

    def along(self, chips: Index, dimension: int) -> Index:
        """Coordinate of a chip's unit; the first dimension runs fastest."""
        before = math.prod(self.shape[:dimension])
        return self.place(chips) // before % self.shape[dimension]

    def moved(self, chips: Index, dimension: int, to: Index) -> Index:
        """Chips of the same place elsewhere along a dimension."""
        before = math.prod(self.shape[:dimension]) * self.held
        return chips + (to - self.along(chips, dimension)) * before


@dataclass(frozen=True, slots=True)
class Graph:
    """All links of a system: tiers, innermost first, and capacity of every link [L], 0 where it has failed."""

    system: str
    chips: int
    tiers: tuple[TierLinks, ...]
    capacity: Array
    there: Flags
    """Whether a place in the list is a link at all: the ends of a line have none."""

    def tier_of(self, link: int) -> TierLinks:
        """The tier that a link belongs to."""
        return next(tier for tier in self.tiers if tier.first <= link < tier.first + tier.count)


def build(system: SystemArrays) -> Graph:
    """The graph of one point (0-d leaves). Raises SpecError for a tier that is not full, or with no bandwidth."""
    sizes = [round(float(tier.size)) for tier in system.tiers]
    chips = math.prod(sizes)
    tiers: list[TierLinks] = []
    capacities, exist = [], []
    first = 0
    for index, (tier, size) in enumerate(zip(system.tiers, sizes, strict=True)):
        held = math.prod(sizes[:index])
        made = _tier(tier, size, held, chips, first)
        own = _capacities(made, tier, float(reached(system, tier)))
        tiers.append(made)
        capacities.append(own)
        exist.append(_there(made))
        first += made.count
    return Graph(system.name, chips, tuple(tiers), np.concatenate(capacities), np.concatenate(exist))


def _tier(tier: TierArrays, size: int, held: int, chips: int, first: int) -> TierLinks:
    shape, closed = tier.shape, tier.closed
    if size == 1:
        shape, closed = (), ()
    elif tier.kind == "ring":
        shape, closed = (size,), (True,)
    elif tier.kind == "hypercube_mesh":
        shape = (2,) * round(math.log2(size)) if size > 1 else ()
    if tier.kind == "dragonfly" and not shape:
        shape = (size, 1)
    full = math.prod(shape)
    if tier.kind in ("torus", "hypercube_mesh") and size > 1 and full != size:
        hint = f"its units fill shape {list(shape)}, {full} of them"
        raise SpecError(f"tier '{tier.name}' is a {tier.kind} of {full} and holds {size}", field="system", hint=hint)
    if not float(tier.bandwidth) > 0.0:
        raise SpecError(f"tier '{tier.name}' has no bandwidth", field="system", value=float(tier.bandwidth))
    by_place = held > 1 and (tier.kind in WIRED or tier.rails)
    engines = tier.engine_rate is not None
    made = TierLinks(
        tier.name, tier.kind, tier.link, size, held, chips, shape, closed, by_place, first, 0, engines=engines
    )
    return replace(made, count=_count(made) + chips * engines)


def _count(tier: TierLinks) -> int:
    chips, units = tier.chips, tier.chips // tier.held
    groups = _groups(tier)
    return {
        "switch": 2 * chips,
        "fat_tree": 2 * chips + (0 if tier.by_place else 2 * units),
        "dragonfly": 2 * chips + 2 * units + tier.wholes * groups * groups,
        "bus": tier.wholes,
        "mesh": tier.wholes * tier.held * tier.size * tier.size,
        "ring": 2 * chips * len(tier.shape),
        "torus": 2 * chips * len(tier.shape),
        "hypercube_mesh": chips * len(tier.shape),
    }[tier.kind]


def _groups(tier: TierLinks) -> int:
    return math.ceil(tier.size / tier.shape[0]) if tier.kind == "dragonfly" else 0


def _capacities(tier: TierLinks, arrays: TierArrays, share: float) -> Array:
    wire = float(arrays.bandwidth) * share
    port = wire * float(arrays.oversubscription)
    units = tier.chips // tier.held
    if tier.kind == "dragonfly":
        groups = _groups(tier)
        between = tier.shape[0] * tier.held * wire / max(groups - 1, 1)
        parts = [(2 * tier.chips, port), (2 * units, tier.held * wire), (tier.wholes * groups * groups, between)]
    elif tier.kind == "fat_tree" and not tier.by_place:
        parts = [(2 * tier.chips, port), (2 * units, tier.held * wire)]
    elif tier.kind == "mesh":
        parts = [(tier.count - tier.chips * tier.engines, wire / max(tier.size - 1, 1))]
    elif tier.kind in WIRED:
        each = len(tier.shape) * (1 if tier.kind == "hypercube_mesh" else 2)
        parts = [(tier.chips * each, wire / max(each, 1))]
    else:
        parts = [(tier.count - tier.chips * tier.engines, wire)]
    if arrays.engine_rate is not None:
        parts.append((tier.chips, float(arrays.engine_rate) * share))
    return np.repeat([value for _, value in parts], [number for number, _ in parts])


def _there(tier: TierLinks) -> Flags:
    links = np.arange(tier.count)
    found = np.ones(tier.count, dtype=bool)
    wires = tier.count - tier.chips * tier.engines
    if tier.kind == "mesh":
        found[:wires] = links[:wires] // tier.size % tier.size != links[:wires] % tier.size
    elif tier.kind == "dragonfly":
        groups = _groups(tier)
        pairs = np.arange(wires - 2 * tier.chips - 2 * tier.chips // tier.held)
        found[wires - len(pairs) : wires] = pairs // groups % groups != pairs % groups
    elif tier.kind in ("ring", "torus"):
        for dimension, length in enumerate(tier.shape):
            at = tier.along(np.arange(tier.chips), dimension)
            for way, end in ((0, length - 1), (1, 0)):
                mine = (np.arange(tier.chips) * len(tier.shape) + dimension) * 2 + way
                found[mine] = (length > 1) & (tier.closed[dimension] | (at != end))
    return found
