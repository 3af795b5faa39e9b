"""What follows from how a tier joins its units: steps between the farthest two, bandwidth between two halves.

Of s units with bandwidth U each, one way [B/s]:

    switch, fat tree   floor(s/2) U
    bus                what all share, half of it one way
    mesh               floor(s/2) ceil(s/2) U / (s - 1)
    hypercube mesh     floor(s/2) U / log2 s
    ring, torus        the least over its d dimensions of floor(s/l) wires of U / 2d each, twice that where it closes
    dragonfly          as a mesh of its groups, each with the bandwidth of its routers, at most floor(s/2) U

U is that of all chips of a unit, less what is oversubscribed. A torus of odd length is cut beside its middle. Groups
of a dragonfly have equally many routers: a last one in part has its share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosim.hardware.system import SWITCHED
from cosim.hardware.tiers import TierArrays
from cosim.records import Array, array


def bisection(tier: TierArrays, chips: Array) -> Array:
    """Bandwidth one way between the halves of the units of a tier, each of `chips` chips [B/s].

    0 where there is one unit, NaN for a dragonfly without a shape.
    """
    size, unit = tier.size, tier.bandwidth * chips
    several = np.where(size > 1.0, 1.0, 0.0)
    if tier.kind == "bus":
        return several * tier.bandwidth / 2.0
    if tier.kind == "dragonfly":
        return _of_groups(tier, unit)
    if tier.kind == "mesh":
        return _between(size, unit)
    if tier.kind in ("ring", "torus"):
        return several * _of_lines(tier, unit)
    wires = np.log2(np.maximum(size, 2.0)) if tier.kind == "hypercube_mesh" else 1.0
    return np.floor(size / 2.0) * unit / wires


def steps(tier: TierArrays) -> Array:
    """Steps from unit to unit between the farthest two: 1 through switches, a bus or a mesh."""
    if tier.kind == "hypercube_mesh":
        return np.ceil(np.log2(np.maximum(tier.size, 1.0)))
    if tier.kind not in ("torus", "ring"):
        return np.where(tier.size > 1.0, 1.0, 0.0)
    total = array(0.0)
    for along, closes in dimensions(tier):
        total = total + np.where(closes, np.floor(along / 2.0), along - 1.0)
    return total


def dimensions(tier: TierArrays) -> list[tuple[Array, NDArray[np.bool_]]]:
    """Units along each dimension of a torus or ring, filled in order, and whether it closes (whole ones alone do)."""
    lengths = [array(float(length)) for length in tier.shape] or [tier.size]
    found, before = [], array(1.0)
    for length, ring in zip(lengths, tier.closed or (True,), strict=True):
        along = np.clip(np.ceil(tier.size / before), 1.0, length)
        found.append((along, np.asarray(ring & (along >= length))))
        before = before * length
    return found


def held(tiers: Sequence[TierArrays]) -> list[Array]:
    """Chips of one unit of each tier, innermost first, and of the whole at the end."""
    found = [array(1.0)]
    for tier in tiers:
        found.append(found[-1] * tier.size)
    return found


def system_bisection(tiers: Sequence[TierArrays], chips: Array, rails: Sequence[bool]) -> Array:
    """Least bandwidth one way between two halves of all `chips`, over cuts along each tier [B/s].

    A cut along a tier halves every instance of it. Wider tiers of switches join the halves too, except those that join
    only equal places (`rails`). 0 where a chip is alone; NaN where a tier's own is unknown.
    """
    inside, least = held(tiers), array(np.inf)
    for index, tier in enumerate(tiers):
        instances = chips / inside[index + 1]
        through = instances * bisection(tier, inside[index])
        if tier.kind != "bus":
            through = np.minimum(through, chips / 2.0 * tier.bandwidth)
        for outer, only in zip(tiers[index + 1 :], rails[index + 1 :], strict=True):
            if outer.kind in SWITCHED and not only:
                through = through + np.where(outer.size > 1.0, chips / 2.0 * outer.bandwidth, 0.0)
        least = np.where(tier.size > 1.0, np.minimum(least, through), least)
    return np.where(np.isinf(least), 0.0, least)


def _between(members: Array, each: Array) -> Array:
    """Wires between two halves of a full mesh: those of one half, as far as they lead to the other [B/s]."""
    half = np.floor(members / 2.0)
    return half * (members - half) * each / np.maximum(members - 1.0, 1.0)


def _of_groups(tier: TierArrays, unit: Array) -> Array:
    """Of a dragonfly: between its groups, or between the routers of the only one. NaN where no shape says."""
    if len(tier.shape) != 2:
        return np.where(tier.size > 1.0, np.nan, 0.0) * unit
    routers = np.minimum(float(tier.shape[0]), tier.size)
    groups = np.ceil(tier.size / routers)
    among = np.minimum(_between(groups, unit * tier.size / groups), np.floor(tier.size / 2.0) * unit)
    return np.where(groups > 1.0, among, _between(tier.size, unit))


def _of_lines(tier: TierArrays, unit: Array) -> Array:
    """Of a torus of several units: the least over the dimensions, each cut across its middle."""
    wire = unit / max(len(tier.shape), 1) / 2.0
    least = np.asarray(np.finfo(float).max)
    for along, closes in dimensions(tier):
        wires = np.maximum(np.floor(tier.size / along), 1.0) * np.where(closes, 2.0, 1.0)
        least = np.minimum(least, np.where(along > 1.0, wires * wire, np.finfo(float).max))
    return least
