"""A system: one kind of chip, the tiers that join them, the server around them."""

from __future__ import annotations

import math
from typing import Literal

from cosim.datum import Bandwidth, Capacity, Count, Factor, Money, MoneyPerEnergy, Power, Ratio, Time
from cosim.hardware.chip import Chip
from cosim.hardware.collectives import CollectiveConstants
from cosim.schema import Frozen, Source

TierKind = Literal["switch", "bus", "mesh", "ring", "torus", "hypercube_mesh", "fat_tree", "dragonfly"]


SWITCHED = ("switch", "fat_tree", "dragonfly")
"""Kinds of tiers that have switches between their units."""


class Tier(Frozen):
    """One level of the network, innermost first. It joins `size` units: chips, or whole tiers of the level below."""

    name: str
    kind: TierKind
    size: Count | None = None
    """Units that it joins. A torus has the product of its shape; the last tier joins what `nodes` leave."""
    link: str
    """Which of the chip's links it uses."""
    collectives: str | None = None
    """Library of collectives whose constants fill what `constants` does not give."""
    constants: CollectiveConstants
    bandwidth: Bandwidth | None = None
    """Per chip and direction, where the tier gives less than the chip's link; of a bus, of all its chips together."""
    efficiency: Ratio | None = None
    """Share of the wire that collectives reach on this tier; None: what the library reaches, or the chip's quality."""
    latency: Time | None = None
    """Of a wire, one way, beyond what the hop of the library holds; None is nothing beyond it."""
    switch_latency: Time | None = None
    """Of one switch, beyond what the hop of the library holds; None is nothing beyond it."""
    radix: Count | None = None
    """Ports of one switch at the speed of the link."""
    oversubscription: Factor | None = None
    """Bandwidth into a unit over what leaves it, 1 where nothing is missing; None is 1."""
    rails: bool = False
    """Chips of the same place in their units meet at one switch (rail-optimised)."""
    shape: tuple[int, ...] = ()
    """Torus only: units along each dimension. Dragonfly only: (routers of a group, groups)."""
    wrap: bool = True
    """Torus only: whether the rings close."""
    wrap_from: Count | None = None
    """Torus only: a dimension closes where its length is a multiple of this; None: `wrap` says so for all."""
    optical: bool = False
    """Torus only: optical switches join blocks of `wrap_from` along each side; no ring closes in less than a block."""
    planes: Count | None = None
    """Separate networks that share out the links of a chip; None is one."""
    switch_power: Power | None = None
    """Of one switch at full load."""
    switch_price: Money | None = None
    cable_power: Power | None = None
    """Of both ends of one cable."""
    cable_price: Money | None = None


class Server(Frozen):
    """What stands around the chips of one node."""

    power: Power
    """Of the node apart from its chips: hosts, switches, fans, conversion."""
    price: Money | None = None
    """Of the node with its chips; None is unknown."""
    memory: Capacity | None = None
    """Of the node's hosts together; None is unknown."""
    storage: Bandwidth | None = None
    """At which the node reads from the storage of its data, others reading too; None is unknown."""


class Facility(Frozen):
    """The building: power usage effectiveness, energy price, years of use."""

    pue: Factor
    energy_price: MoneyPerEnergy
    """Written in USD/kWh."""
    lifetime_years: Factor


class System(Frozen):
    """Chips in tiers. `nodes` counts the units of the tier that makes a node, whatever tiers join them."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    chip: Chip
    nodes: Count
    nodes_are: str | None = None
    """Name of the tier that makes a node, with one `server` around it; None: the first."""
    usual: bool = False
    """Whether it is what is meant where its chip is named alone."""
    tiers: tuple[Tier, ...]
    server: Server
    facility: Facility

    @property
    def node_tier(self) -> int:
        """Index of the tier that makes a node."""
        names = [tier.name for tier in self.tiers]
        return names.index(self.nodes_are) if self.nodes_are in names else 0

    @property
    def node_chips(self) -> float:
        """Chips of a node: the product of its tiers."""
        return math.prod(float(size_of(tier) or 1.0) for tier in self.tiers[: self.node_tier + 1])

    @property
    def chips(self) -> float:
        """Number of chips: those of a node times nodes."""
        return self.node_chips * self.nodes.si


def size_of(tier: Tier) -> float | None:
    """Units that a tier can join: its size, the product of its shape, or None where only `nodes` say it."""
    if tier.size is not None:
        return tier.size.si
    return float(math.prod(tier.shape)) if tier.shape else None


def closed(tier: Tier) -> tuple[bool, ...]:
    """Of each dimension of a torus, whether its ring closes; a ring of two that closes has both wires."""
    if tier.wrap_from is None:
        return tuple(tier.wrap for _ in tier.shape)
    whole = [length % int(tier.wrap_from.si) == 0 for length in tier.shape]
    return tuple(all(whole) if tier.optical else one for one in whole)
