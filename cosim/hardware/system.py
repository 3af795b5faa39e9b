"""A system: one kind of chip, the tiers that join them, the server around them."""

from __future__ import annotations

from typing import Literal

from cosim.datum import Bandwidth, Count, Factor, Money, MoneyPerEnergy, Power, Ratio, Time
from cosim.hardware.chip import Chip
from cosim.schema import Frozen, Source

TierKind = Literal["switch", "mesh", "ring", "torus", "fat_tree"]
Algorithm = Literal["ring", "tree", "direct", "in_network"]


class Protocol(Frozen):
    """A way to send that starts later and reaches more of the wire, as NCCL's LL128 and Simple."""

    name: str
    latency: Time
    base_latency: Time
    share: Ratio
    """Of the bandwidth that collectives reach."""


class Tier(Frozen):
    """One level of the network, innermost first."""

    name: str
    kind: TierKind
    size: Count | None = None
    """Chips that the first tier joins. A tier beyond it joins `nodes` of the system and has no size of its own."""
    link: str
    """Which of the chip's links it uses."""
    latency: Time
    """Of one hop."""
    base_latency: Time
    """Start of one collective, whatever its steps."""
    share: Ratio | None = None
    """Of the reached bandwidth that the protocol of these latencies carries; None is all of it."""
    protocols: tuple[Protocol, ...] = ()
    """Further protocols; a message takes the fastest."""
    shape: tuple[int, ...] = ()
    """Torus only: chips along each dimension; the product is `size`."""
    wrap: bool = True
    """Torus only: whether the rings close."""
    algorithms: tuple[Algorithm, ...] = ("ring", "tree")
    """What the chip's own library has on this tier."""
    in_network: Ratio | None = None
    """Share of link bandwidth that in-switch reduction reaches; with `in_network` in `algorithms`."""
    in_network_latency: Time | None = None
    """Time of an in-switch reduction of no bytes."""
    bandwidth: Bandwidth | None = None
    """Per chip and direction, where the tier gives less than the chip's link."""
    efficiency: Ratio | None = None
    """Share of the wire that collectives reach on this tier; None is the chip's `quality.collective`."""


class Server(Frozen):
    """What stands around the chips of one node."""

    power: Power
    """Of the node apart from its chips: hosts, switches, fans, conversion."""
    price: Money | None = None
    """Of the node with its chips; None is unknown."""


class Facility(Frozen):
    """The building: power usage effectiveness, energy price, years of use."""

    pue: Factor
    energy_price: MoneyPerEnergy
    """Written in USD/kWh."""
    lifetime_years: Factor


class System(Frozen):
    """Chips in tiers. `nodes` is the size of everything beyond the first tier."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    chip: Chip
    nodes: Count
    tiers: tuple[Tier, ...]
    server: Server
    facility: Facility

    @property
    def chips(self) -> float:
        """Number of chips: size of the first tier times nodes."""
        inner = self.tiers[0].size
        return self.nodes.si * (1.0 if inner is None else inner.si)
