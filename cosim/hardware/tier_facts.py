"""A tier in numbers: switches, cables, bandwidth between halves, the way between the farthest, power, price.

What is not known is NaN, with the reason beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from cosim.datum import Datum
from cosim.hardware.fabric import Parts
from cosim.hardware.system import SWITCHED, Tier
from cosim.hardware.tiers import TierArrays
from cosim.hardware.topology import bisection, steps

PRICED = ("switch_power", "cable_power", "switch_price", "cable_price")
_NO_UNITS = "joins one unit: nothing crosses it"


@dataclass(frozen=True, slots=True)
class TierFacts:
    """A tier, or the whole network of a system. Of one instance; what is not known is NaN, with its reason."""

    name: str
    kind: str
    units: float
    """Units that it joins here."""
    chips: float
    """Chips of all of them."""
    instances: float
    """How many of it the system has."""
    bandwidth: float
    """Per chip and direction, less what is oversubscribed; of a bus, of all its chips together [B/s]."""
    bisection: float
    """One way between its halves [B/s]."""
    steps: float
    """Between the farthest chips, from chip to chip."""
    links: float
    """Wires between the farthest chips, those to and between switches among them."""
    latency: float
    """Between the farthest chips, with the fastest hop of the library [s]."""
    levels: float
    """Of switches; 0 where chips are wired up."""
    switches: float
    cables: float
    switch_power: float
    cable_power: float
    switch_price: float
    cable_price: float
    unknown: dict[str, str] = field(default_factory=dict)
    """Reasons of what is NaN, by field."""

    @property
    def power(self) -> float:
        """Of switches and cables [W]."""
        return self.switch_power + self.cable_power

    @property
    def price(self) -> float:
        """Of switches and cables [USD]."""
        return self.switch_price + self.cable_price


def tier_facts(
    tier: Tier, arrays: TierArrays, made: Parts, chips: float, instances: float, below: float = 0.0
) -> TierFacts:
    """Facts of a tier made of `made`, whose units hold `chips` chips and of which there are so many `instances`.

    `below`: levels of switches on the same links inside its units.
    """
    units, far = float(arrays.size), float(steps(arrays))
    unknown = {} if not made.unknown else dict.fromkeys(("levels", "switches", "cables"), made.unknown)
    across = float(bisection(arrays, np.asarray(chips)))
    if math.isnan(across):
        unknown["bisection"] = made.unknown
    wires = _wires(tier, made, far, below)
    if math.isnan(wires):
        unknown["links"] = made.unknown
    latency = _latency(tier, arrays, far, wires)
    if math.isnan(latency):
        unknown["latency"] = made.unknown
    if units <= 1.0:
        across, unknown["bisection"] = math.nan, _NO_UNITS
    sums = {}
    for name in PRICED:
        count = made.switches if name.startswith("switch") else made.cables
        sums[name], why = _sum(name, getattr(tier, name), count, made.unknown)
        unknown |= {name: why} if why else {}
    return TierFacts(
        name=tier.name,
        kind=tier.kind,
        units=units,
        chips=units * chips,
        instances=instances,
        bandwidth=float(arrays.bandwidth),
        bisection=across,
        steps=far,
        links=wires,
        latency=latency,
        levels=made.levels,
        switches=made.switches,
        cables=made.cables,
        unknown=unknown,
        **sums,
    )


def _wires(tier: Tier, made: Parts, far: float, below: float) -> float:
    """Wires between the farthest units: up and down all levels; two to a bus; one a step where chips are wired up."""
    if far == 0.0:
        return 0.0
    if tier.kind == "dragonfly":
        # Into the first router, to the one that has the global wire, over it, to the last router, out of it.
        return math.nan if math.isnan(made.levels) else 5.0 if made.levels == 3.0 else 3.0
    if tier.kind == "bus":
        return 2.0
    levels = 1.0 if tier.kind == "switch" else made.levels
    return 2.0 * (levels + below) if tier.kind in SWITCHED else far


def _latency(tier: Tier, arrays: TierArrays, far: float, wires: float) -> float:
    """A hop and a wire a step; through switches a hop, `latency` once, and a switch at the end of all wires but one."""
    hop = min(float(protocol.hop) for protocol in arrays.protocols)
    wire = 0.0 if tier.latency is None else tier.latency.si
    switch = 0.0 if tier.switch_latency is None else tier.switch_latency.si
    if far == 0.0 or tier.kind not in SWITCHED:
        return far * (hop + wire)
    # Nothing a switch is nothing, however many lie on the way.
    return hop + wire + (0.0 if switch == 0.0 else (wires - 1.0) * switch)


def _sum(name: str, each: Datum | None, count: float, why: str) -> tuple[float, str]:
    """`count` times what one takes, and why it is unknown."""
    if count == 0.0:
        return 0.0, ""
    if each is None:
        return math.nan, f"{name} is not given"
    return each.si * count, why
