"""Collectives over tiers: start + steps x hop + bytes / bandwidth, the fastest algorithm the library has.

    ring              2 (k-1) hops, 2 (k-1)/k B past every wire of the ring; where it leaves a unit, all ranks of the
                      unit send together. In a torus one step less than its length for every dimension
    tree              2 log2 k hops (a chain inside the innermost units of several), 2 B
    halving_doubling  2 log2 k hops, 2 (r-1)/r of what is left of B on each tier; k a power of two
    direct            2 hops, 2 (k-1)/k B; inside one tier
    in_network        the start of the switch + (1 + 1/k) B; inside one tier
    hierarchical      reduce-scatter inside, all-reduce across, all-gather inside, one after the other
    all_gather        half of the steps and bytes of the same algorithm, B the whole result, and a copy of its own part
    all_to_all        the busiest of the wires; every further peer adds its part of a hop

B is nccl-tests' `size`, k the ranks of the group, r those of a tier. A collective starts once, as late as the latest of
the tiers that it uses, and takes the fastest protocol. What is legal is what the library of the outermost of them has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.hardware.system import SWITCHED
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.mapping.placement import Placement
from cosim.records import Array, array
from cosim.timing.reach import all_to_all_wire, ring_bandwidth, ring_hops

ALGORITHMS = ("ring", "tree", "halving_doubling", "direct", "in_network", "hierarchical")
ALL_REDUCE = "plan.algorithm.all_reduce"
NEAR = (*SWITCHED, "bus")
"""Kinds of tiers on which a message takes the same wires to any other unit."""
GATHERS = ("ring", "halving_doubling", "direct", "hierarchical")
"""Algorithms that all-gather and reduce-scatter have too."""


@dataclass(frozen=True, slots=True)
class CollectiveCost:
    """Time [s], bytes that each chip puts on its links, and the index in ALGORITHMS of the choice."""

    time: Array
    wire_bytes: Array
    algorithm: Array


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


def all_reduce(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """All-reduce of `size` bytes per rank. Raises SpecError for an algorithm that the tiers have not."""
    way = Way(system, group)
    time, choice = _fastest(way, size, algorithm, ALGORITHMS, twice=True)
    k = group.total
    switched = choice == ALGORITHMS.index("in_network")
    wire = np.where(switched, np.where(k > 1.0, 1.0 + 1.0 / k, 0.0), 2.0 * _ringed(k)) * size
    return CollectiveCost(time, wire, choice)


def all_gather(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """All-gather whose result on each rank has `size` bytes. Raises SpecError as `all_reduce`."""
    time, choice = _fastest(Way(system, group), size, algorithm, GATHERS, twice=False)
    return CollectiveCost(time, _ringed(group.total) * size, choice)


def reduce_scatter(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """Reduce-scatter of `size` bytes on each rank: the all-gather run backwards."""
    return all_gather(size, group, system, algorithm)


def broadcast(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Broadcast of `size` bytes from one rank, in a chain that the pieces run down; a reduce is the same backwards."""
    way = Way(system, group)
    data = size * np.where(group.total > 1.0, 1.0, 0.0)
    time = _sent(way, [_chain(way, t) for t in _tiers(way)], [way.busy(t, data / way.flat(t)) for t in _tiers(way)])
    return CollectiveCost(time, data, np.zeros_like(time))


def barrier(group: Placement, system: SystemArrays) -> CollectiveCost:
    """All ranks wait for each other: an all-reduce of no bytes."""
    return all_reduce(array(0.0), group, system)


def send_pair(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Send of `size` bytes from one rank of a pair to the other, on the outermost tier that the pair spans."""
    way = Way(system, group)
    time = array(0.0)
    for t in _tiers(way):
        time = np.where(way.uses(t), send(size, t, system), time)
    return CollectiveCost(time, size * (group.total > 1.0), np.zeros_like(time))


def all_to_all(near: Array, far: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Every rank of `group` sends `near` bytes to ranks of its node and `far` bytes beyond it, both at once."""
    way, node = Way(system, group), system.node_tier
    inner, outer = (_parts(way, tiers) for tiers in (range(node + 1), range(node + 1, len(system.tiers))))
    sent = [near * part for part in inner] + [far * part for part in outer]
    if not outer:
        sent[-1] = sent[-1] + far
    return _exchanged(way, sent, array(0.0))


def uniform_all_to_all(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """All-to-all of `size` bytes on each rank, the same part for every rank, its own among them."""
    way = Way(system, group)
    each = size / group.total
    sent = [each * (group.inside(t + 1) - group.inside(t)) for t in _tiers(way)]
    return _exchanged(way, sent, each)


def exposed(time: Array, behind: Array, cores: Array) -> Array:
    """What a collective of `time` adds to work of `behind` [s]: what is longer, and the cores it takes meanwhile."""
    hidden = np.minimum(time, behind)
    return time - hidden + cores * hidden


def taken(cost: CollectiveCost, system: SystemArrays, busy: Array) -> Array:
    """Share of its pace that work loses while a collective runs beside it.

    The cores that the collective uses, or the memory that is missing where the work keeps it `busy` (a share of the
    achievable bandwidth) and the collective's own bytes pass it too: the greater of the two.
    """
    chip = system.chip
    traffic = np.max(np.stack(np.broadcast_arrays(*(tier.memory_traffic for tier in system.tiers))), axis=0)
    memory = chip.memory["dram"].bandwidth * chip.quality.memory
    own = traffic * cost.wire_bytes / memory / np.where(cost.time > 0.0, cost.time, np.inf)
    lost: Array = np.maximum(chip.collective_cores, np.clip(busy + own - 1.0, 0.0, 1.0))
    return lost


def send(size: Array, tier: int, system: SystemArrays) -> Array:
    """Time of one transfer of `size` bytes between two chips that meet on a tier [s]."""
    one, own = array(1.0), system.tiers[tier]
    ranks = tuple(array(2.0) if t == tier else one for t in range(len(system.tiers)))
    way = Way(system, Placement(ranks, tuple(one for _ in ranks)))
    # One of the two sends: a bus is all its own.
    rate = own.bandwidth * reached(system, own) if own.kind == "bus" else way.ring(tier)
    steps, wires = ([value if t == tier else array(0.0) for t in _tiers(way)] for value in (one, size / rate))
    return _sent(way, steps, wires)


def reached(system: SystemArrays, tier: TierArrays) -> Array:
    """Share of the wire that collectives of a tier reach: its own, or the chip's quality."""
    return system.chip.quality.collective if tier.efficiency is None else tier.efficiency


def _tiers(way: Way) -> range:
    return range(len(way.system.tiers))


def _fastest(way: Way, size: Array, named: str, known: tuple[str, ...], *, twice: bool) -> tuple[Array, Array]:
    """Least time over the legal algorithms and its index; 0 for a group of one.

    An algorithm that is named is taken wherever it is legal; a group that it cannot serve takes its fastest, and the
    index says so. Raises SpecError for a name that no tier has.
    """
    have = dict.fromkeys(name for tier in way.system.tiers for name in tier.algorithms)
    if named not in ("fastest", *have):
        hint = "the tiers have " + ", ".join(have)
        raise SpecError("no tier has such a collective", field=ALL_REDUCE, value=named, hint=hint)
    alone = way.group.total <= 1.0
    forced = _legal(way, named) if named in known else np.asarray(False)
    times, indices = [np.where(alone, 0.0, np.inf) + 0.0 * size], [0.0]
    for name in known:
        legal = _legal(way, name) & (~forced | (name == named))
        if np.any(legal):
            times.append(np.where(legal, _TIMES[name](way, size, 2.0 if twice else 1.0), np.inf))
            indices.append(float(ALGORITHMS.index(name)))
    stacked = np.stack(np.broadcast_arrays(*times))
    best = np.argmin(stacked, axis=0)
    least = np.take_along_axis(stacked, np.expand_dims(best, 0), axis=0)[0]
    if np.any(np.isinf(least)):
        hint = "constants.algorithms: [ring] serves every group; direct and in_network serve one tier alone"
        raise SpecError("no algorithm of the libraries serves this group", field="tiers", hint=hint)
    return least, np.array(indices)[best]


def check_algorithm(named: str, group: Placement, system: SystemArrays) -> None:
    """Raises SpecError where an all-reduce of that name serves no group, with the outermost tier and what it has."""
    way = Way(system, group)
    if named == "fastest" or np.any(_legal(way, named) | (group.total <= 1.0)):
        return
    tier = next(tier for t, tier in reversed(list(enumerate(way.system.tiers))) if np.any(way.uses(t)))
    hint = "it has " + ", ".join(tier.algorithms)
    if named in tier.algorithms:
        hint += "; direct and in_network serve groups of one tier, halving_doubling powers of two"
    problem = f"tier '{tier.name}' has no such all-reduce for this group"
    raise SpecError(problem, field=ALL_REDUCE, value=named, hint=hint)


def _legal(way: Way, name: str) -> NDArray[np.bool_]:
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
    data = times * _ringed(way.group.total) * size
    steps = [times * _chain(way, t) for t in _tiers(way)]
    return _sent(way, steps, [way.busy(t, data / way.flat(t)) for t in _tiers(way)], own=size / way.group.total)


def _tree(way: Way, size: Array, times: float) -> Array:
    spread = sum((way.uses(t).astype(float) for t in _tiers(way)), array(0.0)) > 1.0
    steps, inner = [], np.asarray(False)
    for t, ranks in enumerate(way.group.ranks):
        depth: Array = np.ceil(np.log2(np.maximum(ranks, 1.0)))
        chain = ring_hops(way.system.tiers[t], ranks, way.group.stride[t])
        steps.append(times * np.where(spread & way.uses(t) & ~inner, chain, depth))
        inner = inner | way.uses(t)
    return _sent(way, steps, [way.busy(t, times * size / way.flat(t)) for t in _tiers(way)])


def _halving_doubling(way: Way, size: Array, times: float) -> Array:
    steps = [times * np.log2(ranks) for ranks in way.group.ranks]
    wires = [
        times * _ringed(ranks) * size / way.group.inside(t) / way.ring(t) for t, ranks in enumerate(way.group.ranks)
    ]
    return _sent(way, steps, wires, own=size / way.group.total, together=False)


def _direct(way: Way, size: Array, times: float) -> Array:
    data = times * _ringed(way.group.total) * size
    steps = [times * way.uses(t).astype(np.float64) for t in _tiers(way)]
    return _sent(way, steps, [way.busy(t, way.exchange(t, data)) for t in _tiers(way)], own=size / way.group.total)


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
        data = _ringed(ranks) * part / way.ring(t)
        hops = ring_hops(tiers[t], ranks, way.group.stride[t])
        # The two halves of the outermost tier are one collective; those of the others are `times` of their own.
        for repeat, runs in ((1.0, np.where(beyond, times, 0.0)), (times, np.where(beyond, 0.0, 1.0))):
            steps, wires = ([repeat * value if u == t else array(0.0) for u in _tiers(way)] for value in (hops, data))
            once = _sent(way, steps, wires, own=repeat / times * part / ranks)
            time = time + np.where(way.uses(t), runs * once, 0.0)
        beyond = beyond | way.uses(t)
    return time


_TIMES: dict[str, Callable[[Way, Array, float], Array]] = {
    "ring": _ring,
    "tree": _tree,
    "halving_doubling": _halving_doubling,
    "direct": _direct,
    "in_network": _in_network,
    "hierarchical": _hierarchical,
}


def _exchanged(way: Way, sent: list[Array], own: Array) -> CollectiveCost:
    """All-to-all of `sent` bytes to the ranks met on each tier; beyond a tier the same links may carry it too."""
    tiers, steps, wires = way.system.tiers, [], []
    for t, tier in enumerate(tiers):
        through = (
            range(t + 1) if tier.kind == "bus" else [u for u in _tiers(way) if u >= t and tiers[u].link == tier.link]
        )
        load: Array = sum((sent[u] for u in through), array(0.0))
        peers = way.group.inside(t + 1) - way.group.inside(t)
        further = np.maximum(peers - 1.0, 0.0) * tier.send_share
        first = np.ceil(ring_hops(tier, way.group.ranks[t], way.group.stride[t]) / 2.0) if tier.kind == "torus" else 1.0
        steps.append(np.where(sent[t] > 0.0, first + further, 0.0))
        wires.append(np.where(way.uses(t) | (sent[t] > 0.0), way.exchange(t, load), 0.0))
    time = _sent(way, steps, wires, own=own)
    total: Array = sum(sent, array(0.0))
    return CollectiveCost(np.where(total > 0.0, time, 0.0), total, np.zeros_like(time))


def _parts(way: Way, tiers: range) -> list[Array]:
    """Share of the peers on some of the tiers that are met on each of them; all on the last where there are none."""
    peers = [way.group.inside(t + 1) - way.group.inside(t) for t in tiers]
    total: Array = sum(peers, array(0.0))
    last = len(peers) - 1
    return [np.where(total > 0.0, n / np.maximum(total, 1.0), float(t == last)) for t, n in enumerate(peers)]


def _chain(way: Way, tier: int) -> Array:
    """Steps of a ring round all ranks that are made on a tier: those inside each of the units that lie beyond it."""
    hops = ring_hops(way.system.tiers[tier], way.group.ranks[tier], way.group.stride[tier])
    return hops * way.group.total / way.group.inside(tier + 1)


def _sent(
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
    used = [np.where((steps[t] > 0.0) | (wires[t] > 0.0), 1.0, 0.0) for t in _tiers(way)]
    first = way.system.tiers[0]
    copy = array(0.0) if own is None or first.copy_share is None else own / (first.bandwidth * first.copy_share)
    best: Array | None = None
    for name in _protocols(way, used):
        start = hops = wire = copied = array(0.0)
        for t, tier in enumerate(way.system.tiers):
            if not np.any(used[t]):
                continue
            found = _protocol(tier, name)
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


def _protocol(tier: TierArrays, name: str) -> ProtocolArrays | None:
    """The protocol of this name; a tier that has one alone sends everything with it."""
    if len(tier.protocols) == 1:
        return tier.protocols[0]
    return next((protocol for protocol in tier.protocols if protocol.name == name), None)


def _ringed(ranks: Array) -> Array:
    """(k - 1) / k: the share of the data that leaves a rank."""
    return (ranks - 1.0) / ranks
