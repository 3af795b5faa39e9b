"""Technology as data: sizes of components at a reference node, how nodes scale them, what limits a die.

One file of the library (`accelerators/technology/silicon.yaml`); a user's own of the same name is found first.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from cosim import library
from cosim.datum import (
    Area,
    AreaPerBandwidth,
    AreaPerByte,
    BandwidthPerArea,
    BandwidthPerLength,
    Datum,
    Factor,
    Length,
    Power,
    PowerPerArea,
    Quantity,
)
from cosim.dtypes import Dtype
from cosim.hardware.load import described
from cosim.schema import Frozen, Source, validated

Share = Annotated[Datum, Quantity("", open_low=False)]


class Node(Frozen):
    """One logic node: area of the same logic and the same memory over that at the reference node."""

    names: tuple[str, ...]
    """As chips write it."""
    logic: Factor
    sram: Factor


class MacAreas(Frozen):
    """Multiplier and adder by format, for each kind of matrix engine."""

    tile: dict[Dtype, Area]
    systolic: dict[Dtype, Area]


class SramAreas(Frozen):
    """On-chip memory by class, with what surrounds its cells."""

    registers: AreaPerByte
    tile_scratch: AreaPerByte
    cache: AreaPerByte
    array_scratch: AreaPerByte


class ByEngine(Frozen):
    """A share for each kind of matrix engine."""

    tile: Share
    systolic: Share


class AreaByEngine(Frozen):
    """An area for each kind of matrix engine."""

    tile: Area
    systolic: Area


class MemoryInterface(Frozen):
    """PHY, controller and die edge of one memory stack."""

    names: tuple[str, ...]
    phy: Area
    control: Area
    edge: Length
    static: Power
    """Of a stack that is not read."""


class LinkInterface(Frozen):
    """Bandwidth per direction that a PHY carries per area."""

    names: tuple[str, ...]
    density: BandwidthPerArea


class Technology(Frozen):
    """Everything that area and power of a die rest on."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    nodes: tuple[Node, ...]
    mac: MacAreas
    vector_lane: Area
    sram: SramAreas
    network: AreaPerBandwidth
    """Crossbar between cores and cache, per bandwidth of the cache."""
    control: ByEngine
    """Of a core, over the sum of its units and memories (tile), over its arrays and lanes (systolic)."""
    memory: tuple[MemoryInterface, ...]
    links: tuple[LinkInterface, ...]
    link_control: AreaPerBandwidth
    link_edge: BandwidthPerLength
    other: AreaByEngine
    leakage: PowerPerArea
    reticle: Area
    aspect: Factor
    """Long side of a die over its short side."""


def load_technology(name: str = "silicon") -> Technology:
    """The technology called `name`, or in the file `name`. Raises SpecError."""
    return _load(library.find("technology", name))


@lru_cache(maxsize=8)
def _load(path: Path) -> Technology:
    data, chain = described(str(path), "technology")
    return validated(Technology, data, chain[0], chain[1:])
