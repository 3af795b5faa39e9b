"""One group on the tiers of a system: what wires give it, and what it takes to send over them.

    time = least over protocols of  start + steps x hop + wire seconds / share + own part / local copy

A collective starts once, as late as the latest of the tiers that it uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.mapping.placement import Placement
from cosim.records import Array, array
from cosim.timing.reach import all_to_all_wire, ring_bandwidth, ring_hops


@dataclass(frozen=True, slots=True)
class Way:
    """One group on the tiers: what they give it, by tier."""

    system: SystemArrays
    group: Placement

    def uses(self, tier: int) -> NDArray[np.bool_]:
        """Whether ranks of the group meet on the tier."""
        return np.asarray(self.group.ranks[tier] > 1.0)

    def busy(self, tier: int, seconds: Array) -> Array:
        """Seconds on the wires of a tier, none where the group does not meet on it."""
        return np.where(self.uses(tier), seconds, 0.0)

    def ring(self, tier: int) -> Array:
        """Bandwidth of a ring on the tier, per rank of the tier [B/s]."""
        own, shared = self.system.tiers[tier], self._shared(tier)
        ranks, stride = self.group.ranks[tier], self.group.stride[tier]
        return ring_bandwidth(own, ranks, stride, shared) * reached(self.system, own)

    def flat(self, tier: int) -> Array:
        """The same per rank of the group: where a ring leaves a unit, all ranks of the unit send together."""
        is_bus = self.system.tiers[tier].kind == "bus"
        return self.ring(tier) * (1.0 if is_bus else self.group.inside(tier))

    def exchange(self, tier: int, sent: Array) -> Array:
        """Seconds that an all-to-all of `sent` bytes a rank keeps the wires of a tier busy."""
        own = self.system.tiers[tier]
        ranks, stride = self.group.ranks[tier], self.group.stride[tier]
        return all_to_all_wire(own, ranks, stride, sent, self._shared(tier)) / reached(self.system, own)

    def _shared(self, tier: int) -> Array:
        """Ranks that share a unit beyond the tier, groups beside this one among them."""
        return self.group.inside(tier + 1) * self.group.stride[0]


def reached(system: SystemArrays, tier: TierArrays) -> Array:
    """Share of the wire that collectives of a tier reach: its own, or the chip's quality."""
    return system.chip.quality.collective if tier.efficiency is None else tier.efficiency


def tiers_of(way: Way) -> range:
    """Indices of the tiers, innermost first."""
    return range(len(way.system.tiers))


def chain(way: Way, tier: int) -> Array:
    """Steps of a ring round all ranks that are made on a tier: those inside each of the units that lie beyond it."""
    hops = ring_hops(way.system.tiers[tier], way.group.ranks[tier], way.group.stride[tier])
    return hops * way.group.total / way.group.inside(tier + 1)


def sent_over(
    way: Way,
    steps: list[Array],
    wires: list[Array],
    own: Array | None = None,
    *,
    together: bool = True,
) -> Array:
    """Time of `steps` hops and `wires` seconds at full bandwidth by tier, by the fastest of the protocols [s].

    `own` bytes are copied by the rank itself. Tiers work `together`, or one after the other.
    """
    used = [np.where((steps[t] > 0.0) | (wires[t] > 0.0), 1.0, 0.0) for t in tiers_of(way)]
    first = way.system.tiers[0]
    copy = array(0.0) if own is None or first.copy_share is None else own / (first.bandwidth * first.copy_share)
    best: Array | None = None
    for name in _protocols(way, used):
        start = hops = wire = copied = array(0.0)
        for t, tier in enumerate(way.system.tiers):
            if not np.any(used[t]):
                continue
            found = protocol_of(tier, name)
            if found is None:
                start = np.where(used[t] > 0.0, np.inf, start)
                continue
            start = np.maximum(start, used[t] * found.start)
            hops = hops + used[t] * steps[t] * (found.hop + tier.latency)
            busy = used[t] * wires[t] / found.share
            wire = np.maximum(wire, busy) if together else wire + busy
            copied = np.maximum(copied, used[t] * copy * found.copies)
        time = start + hops + wire + copied
        best = time if best is None else np.minimum(best, time)
    return array(0.0) if best is None else best


def _protocols(way: Way, used: list[Array]) -> Iterator[str]:
    """Names of the protocols of the tiers that are used, each once."""
    tiers = [tier for tier, uses in zip(way.system.tiers, used, strict=True) if np.any(uses)]
    yield from dict.fromkeys(protocol.name for tier in tiers for protocol in tier.protocols)


def protocol_of(tier: TierArrays, name: str) -> ProtocolArrays | None:
    """The protocol of this name; a tier that has one alone sends everything with it."""
    if len(tier.protocols) == 1:
        return tier.protocols[0]
    return next((protocol for protocol in tier.protocols if protocol.name == name), None)


def ringed(ranks: Array) -> Array:
    """(k - 1) / k: the share of the data that leaves a rank."""
    return (ranks - 1.0) / ranks
