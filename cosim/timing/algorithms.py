"""Algorithms of all-reduce, all-gather and reduce-scatter: whom they can serve, and what they take.

    ring              2 (k-1) hops, 2 (k-1)/k B past every wire of the ring; where it leaves a unit, all ranks of the
                      unit send together. In a torus one step less than its length for every dimension
    tree              2 log2 k hops (a chain inside the innermost units of several), 2 B
    halving_doubling  2 log2 k hops, 2 (r-1)/r of what is left of B on each tier; k a power of two
    direct            2 hops, 2 (k-1)/k B; inside one tier
    in_network        the start of the switch + (1 + 1/k) B; inside one tier
    hierarchical      reduce-scatter inside, all-reduce across, all-gather inside, one after the other

Gathers take half of the steps and bytes. What is legal is what the library of the outermost tier that a group uses has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cosim.hardware.collectives import Algorithm
from cosim.hardware.system import SWITCHED
from cosim.records import Array, array
from cosim.timing.reach import ring_hops
from cosim.timing.way import Way, chain, ringed, sent_over, tiers_of

ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
NEAR = (*SWITCHED, "bus")
"""Kinds of tiers on which a message takes the same wires to any other unit."""
GATHERS = ("ring", "halving_doubling", "direct", "hierarchical")
"""Algorithms that all-gather and reduce-scatter have too."""


def is_legal(way: Way, name: str) -> NDArray[np.bool_]:
    """Whether the outermost tier that a group uses has the algorithm, and the algorithm can serve the group."""
    group = way.group
    legal, used = np.asarray(False), np.asarray(0)
    for t, tier in enumerate(way.system.tiers):
        legal = np.where(way.uses(t), name in tier.algorithms, legal)
        used = used + way.uses(t)
    if name == "in_network":
        for t, tier in enumerate(way.system.tiers):
            legal = legal & (~way.uses(t) | (tier.kind in SWITCHED))
    if name in ("direct", "in_network"):
        return np.asarray(legal & (used == 1))
    if name == "hierarchical":
        return np.asarray(legal & (used > 1))
    if name in ("tree", "halving_doubling"):
        # Their partners are far apart: over wires from chip to chip a message would need several of them.
        # A tree is a chain in the innermost units of several.
        inner = np.asarray(False)
        for t, tier in enumerate(way.system.tiers):
            chained = (name == "tree") & (used > 1) & ~inner
            legal = legal & (~way.uses(t) | chained | (tier.kind in NEAR))
            inner = inner | way.uses(t)
    if name == "halving_doubling":
        exact = [np.log2(ranks) % 1.0 == 0.0 for ranks in group.ranks]
        return np.asarray(legal & np.logical_and.reduce(np.broadcast_arrays(*exact)))
    return np.asarray(legal & (used > 0))


def _ring(way: Way, size: Array, times: float) -> Array:
    data = times * ringed(way.group.total) * size
    steps = [times * chain(way, t) for t in tiers_of(way)]
    return sent_over(way, steps, [way.busy(t, data / way.flat(t)) for t in tiers_of(way)], own=size / way.group.total)


def _tree(way: Way, size: Array, times: float) -> Array:
    spread = sum((way.uses(t).astype(float) for t in tiers_of(way)), array(0.0)) > 1.0
    steps, inner = [], np.asarray(False)
    for t, ranks in enumerate(way.group.ranks):
        depth: Array = np.ceil(np.log2(np.maximum(ranks, 1.0)))
        chain = ring_hops(way.system.tiers[t], ranks, way.group.stride[t])
        steps.append(times * np.where(spread & way.uses(t) & ~inner, chain, depth))
        inner = inner | way.uses(t)
    return sent_over(way, steps, [way.busy(t, times * size / way.flat(t)) for t in tiers_of(way)])


def _halving_doubling(way: Way, size: Array, times: float) -> Array:
    steps = [times * np.log2(ranks) for ranks in way.group.ranks]
    wires = [
        times * ringed(ranks) * size / way.group.inside(t) / way.ring(t) for t, ranks in enumerate(way.group.ranks)
    ]
    return sent_over(way, steps, wires, own=size / way.group.total, together=False)


def _direct(way: Way, size: Array, times: float) -> Array:
    data = times * ringed(way.group.total) * size
    steps = [times * way.uses(t).astype(np.float64) for t in tiers_of(way)]
    return sent_over(
        way, steps, [way.busy(t, way.exchange(t, data)) for t in tiers_of(way)], own=size / way.group.total
    )


def _in_network(way: Way, size: Array, times: float) -> Array:
    """Only whole all-reduces: a switch that adds up sends the sum to all."""
    del times
    time = array(0.0)
    for t, tier in enumerate(way.system.tiers):
        rate = tier.bandwidth * np.where(tier.in_network > 0.0, tier.in_network, np.inf)
        own = tier.in_network_start + 2.0 * tier.latency + (1.0 + 1.0 / way.group.total) * size / rate
        time = np.where(way.uses(t), own, time)
    return time


def _hierarchical(way: Way, size: Array, times: float) -> Array:
    """Phases one after the other; the outermost tier's two halves are one collective."""
    time, tiers = array(0.0), way.system.tiers
    beyond = np.asarray(False)
    for t in reversed(range(len(tiers))):
        ranks = way.group.ranks[t]
        part = size / way.group.inside(t)
        data = ringed(ranks) * part / way.ring(t)
        hops = ring_hops(tiers[t], ranks, way.group.stride[t])
        # The two halves of the outermost tier are one collective; those of the others are `times` of their own.
        for repeat, runs in ((1.0, np.where(beyond, times, 0.0)), (times, np.where(beyond, 0.0, 1.0))):
            steps, wires = ([repeat * value if u == t else array(0.0) for u in tiers_of(way)] for value in (hops, data))
            once = sent_over(way, steps, wires, own=repeat / times * part / ranks)
            time = time + np.where(way.uses(t), runs * once, 0.0)
        beyond = beyond | way.uses(t)
    return time


TIMES: dict[str, Callable[[Way, Array, float], Array]] = {
    "ring": _ring,
    "tree": _tree,
    "halving_doubling": _halving_doubling,
    "direct": _direct,
    "in_network": _in_network,
    "hierarchical": _hierarchical,
}
