"""Collectives over tiers: start + steps x hop + bytes / bandwidth, the fastest algorithm the library has.

    all_reduce        see `cosim.timing.algorithms`; the fastest that is legal, unless one is named
    all_gather        half of the steps and bytes of the same algorithm, B the whole result, and a copy of its own part
    all_to_all        the busiest of the wires; every further peer adds its part of a hop

B is nccl-tests' `size`, k the ranks of the group, r those of a tier. A collective starts once, as late as the latest of
the tiers that it uses, and takes the fastest protocol. What is legal is what the library of the outermost of them has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.mapping.placement import Placement
from cosim.records import Array, array
from cosim.timing.algorithms import ALGORITHMS, GATHERS, TIMES, is_legal
from cosim.timing.reach import ring_hops
from cosim.timing.way import Way, chain, reached, ringed, sent_over, tiers_of

ALL_REDUCE = "plan.algorithm.all_reduce"


@dataclass(frozen=True, slots=True)
class CollectiveCost:
    """Time [s], bytes that each chip puts on its links, and the index in ALGORITHMS of the choice."""

    time: Array
    wire_bytes: Array
    algorithm: Array


def all_reduce(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """All-reduce of `size` bytes per rank. Raises SpecError for an algorithm that the tiers have not."""
    way = Way(system, group)
    time, choice = _fastest(way, size, algorithm, ALGORITHMS, twice=True)
    k = group.total
    switched = choice == ALGORITHMS.index("in_network")
    wire = np.where(switched, np.where(k > 1.0, 1.0 + 1.0 / k, 0.0), 2.0 * ringed(k)) * size
    return CollectiveCost(time, wire, choice)


def all_gather(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """All-gather whose result on each rank has `size` bytes. Raises SpecError as `all_reduce`."""
    time, choice = _fastest(Way(system, group), size, algorithm, GATHERS, twice=False)
    return CollectiveCost(time, ringed(group.total) * size, choice)


def reduce_scatter(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """Reduce-scatter of `size` bytes on each rank: the all-gather run backwards."""
    return all_gather(size, group, system, algorithm)


def broadcast(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Broadcast of `size` bytes from one rank, in a chain that the pieces run down; a reduce is the same backwards."""
    way = Way(system, group)
    data = size * np.where(group.total > 1.0, 1.0, 0.0)
    time = sent_over(
        way, [chain(way, t) for t in tiers_of(way)], [way.busy(t, data / way.flat(t)) for t in tiers_of(way)]
    )
    return CollectiveCost(time, data, np.zeros_like(time))


def barrier(group: Placement, system: SystemArrays) -> CollectiveCost:
    """All ranks wait for each other: an all-reduce of no bytes."""
    return all_reduce(array(0.0), group, system)


def send_pair(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Send of `size` bytes from one rank of a pair to the other, on the outermost tier that the pair spans."""
    way = Way(system, group)
    time = array(0.0)
    for t in tiers_of(way):
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
    sent = [each * (group.inside(t + 1) - group.inside(t)) for t in tiers_of(way)]
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
    steps, wires = ([value if t == tier else array(0.0) for t in tiers_of(way)] for value in (one, size / rate))
    return sent_over(way, steps, wires)


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
    if np.all(alone):
        nothing = np.zeros(np.broadcast_shapes(alone.shape, size.shape))
        return nothing, nothing
    forced = is_legal(way, named) if named in known else np.asarray(False)
    times, indices = [np.where(alone, 0.0, np.inf) + 0.0 * size], [0.0]
    for name in known:
        if name not in have:
            continue
        legal = is_legal(way, name) & (~forced | (name == named))
        if np.any(legal):
            times.append(np.where(legal, TIMES[name](way, size, 2.0 if twice else 1.0), np.inf))
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
    if named == "fastest" or np.any(is_legal(way, named) | (group.total <= 1.0)):
        return
    tier = next(tier for t, tier in reversed(list(enumerate(way.system.tiers))) if np.any(way.uses(t)))
    hint = "it has " + ", ".join(tier.algorithms)
    if named in tier.algorithms:
        hint += "; direct and in_network serve groups of one tier, halving_doubling powers of two"
    problem = f"tier '{tier.name}' has no such all-reduce for this group"
    raise SpecError(problem, field=ALL_REDUCE, value=named, hint=hint)


def _exchanged(way: Way, sent: list[Array], own: Array) -> CollectiveCost:
    """All-to-all of `sent` bytes to the ranks met on each tier; beyond a tier the same links may carry it too."""
    tiers, steps, wires = way.system.tiers, [], []
    for t, tier in enumerate(tiers):
        through = (
            range(t + 1) if tier.kind == "bus" else [u for u in tiers_of(way) if u >= t and tiers[u].link == tier.link]
        )
        load: Array = sum((sent[u] for u in through), array(0.0))
        peers = way.group.inside(t + 1) - way.group.inside(t)
        further = np.maximum(peers - 1.0, 0.0) * tier.send_share
        first = np.ceil(ring_hops(tier, way.group.ranks[t], way.group.stride[t]) / 2.0) if tier.kind == "torus" else 1.0
        steps.append(np.where(sent[t] > 0.0, first + further, 0.0))
        wires.append(np.where(way.uses(t) | (sent[t] > 0.0), way.exchange(t, load), 0.0))
    time = sent_over(way, steps, wires, own=own)
    total: Array = sum(sent, array(0.0))
    return CollectiveCost(np.where(total > 0.0, time, 0.0), total, np.zeros_like(time))


def _parts(way: Way, tiers: range) -> list[Array]:
    """Share of the peers on some of the tiers that are met on each of them; all on the last where there are none."""
    peers = [way.group.inside(t + 1) - way.group.inside(t) for t in tiers]
    total: Array = sum(peers, array(0.0))
    last = len(peers) - 1
    return [np.where(total > 0.0, n / np.maximum(total, 1.0), float(t == last)) for t, n in enumerate(peers)]
