"""Collectives as bursts of flows. Start, hops, protocol and copy are the closed form's, bytes are flows on links.

    ring, tree, broadcast   one flow a channel, round all ranks: its edges advance together
    direct                  one flow: every rank to all others
    hierarchical            a phase a tier: scatter outward, gather inward, a ring for each port of a unit
    halving_doubling        the same phases with one start
    in_network              one flow up and down the switch
    alltoall, send_recv     a flow for each pair, all at once

A byte that a protocol of share s sends takes 1/s of the wire. `stepwise` makes every step of a ring a flow that waits
for the step before it, for groups inside one tier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.network.flows import Burst
from cosim.engines.network.graph import Graph, Index
from cosim.engines.network.links import down, up
from cosim.engines.network.rings import ring
from cosim.engines.network.routes import Loads, around, routes
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.records import Array, array
from cosim.timing.collective_parts import TWICE, Part, Parts
from cosim.timing.way import reached

STEPWISE_MOST = 256
"""Ranks of a stepwise ring: its steps are their square."""
ROUND = ("ring", "tree", "chain")


@dataclass(frozen=True, slots=True)
class Work:
    """What a schedule is made for: system and links, the collective, its chips in order, when each of them is late."""

    system: SystemArrays
    graph: Graph
    capacity: Array
    name: str
    op: str
    size: float
    chips: Index
    parts: Parts
    start_s: float
    late: Mapping[int, float]
    """Seconds after the start by chip."""
    first: int
    """Place of its first burst among all."""

    @property
    def ranks(self) -> int:
        """Of the group."""
        return len(self.chips)

    @property
    def times(self) -> float:
        """How often the data passes a ring."""
        return 2.0 if self.op == TWICE else 1.0

    def ready_s(self, chips: Index) -> float:
        """When the last of some chips is there."""
        if not self.late:
            return self.start_s
        return self.start_s + max((self.late.get(int(chip), 0.0) for chip in chips), default=0.0)


def schedule(work: Work, *, stepwise: bool = False) -> tuple[Burst, ...]:
    """Bursts of a collective, the last of which ends it. Raises SpecError for what cannot be run that way."""
    algorithm = work.parts.algorithm
    if work.ranks < 2:
        return (replace(_burst(work, _nothing(), 0.0), name=work.name),)
    if stepwise or work.op in ("alltoall", "send_recv"):
        return _steps(work) if stepwise else _pairs(work)
    part = work.parts.parts[0]
    if algorithm in ROUND:
        loads = ring(work.graph, work.chips, part.shares)
        return (_burst(work, loads, _round_bytes(work) / loads.flows, part),)
    if algorithm in ("direct", "in_network"):
        return ((_direct if algorithm == "direct" else _in_network)(work, part),)
    return _phases(work)


def _round_bytes(work: Work) -> float:
    """Bytes that pass every rank of a ring, or of a tree or chain, whose ranks send all of them on."""
    if work.parts.algorithm == "tree":
        return work.times * work.size
    return work.size if work.op == "broadcast" else work.times * (work.ranks - 1) / work.ranks * work.size


def _direct(work: Work, part: Part) -> Burst:
    """Every rank to all others, in one tier."""
    depth = max(part.shares)
    source, target = _all_pairs(work.ranks)
    found = routes(work.graph, work.chips[source], work.chips[target], depth)
    weight = np.bincount(found.link, found.weight, minlength=len(work.capacity)) / (work.ranks - 1)
    link = np.flatnonzero(weight)
    loads = Loads(np.zeros(len(link), np.int64), link, weight[link] / part.shares[depth], 1)
    return _burst(work, loads, work.times * (work.ranks - 1) / work.ranks * work.size, part)


def _in_network(work: Work, part: Part) -> Burst:
    """Each rank sends its data up once and receives the sum once, and a rank's part of it more."""
    depth = max(part.shares)
    tier, arrays = work.graph.tiers[depth], work.system.tiers[depth]
    links = np.concatenate([up(tier, work.chips), down(tier, work.chips)])
    share = float(arrays.in_network / reached(work.system, arrays))
    loads = Loads(np.zeros(len(links), np.int64), links, np.full(len(links), 1.0 / share), 1)
    return _burst(work, loads, (1.0 + 1.0 / work.ranks) * work.size, part)


def _phases(work: Work) -> tuple[Burst, ...]:
    """Tier after tier: outward, and inward again where the data passes twice."""
    parts = work.parts.parts
    alone = len(parts) > 1
    shares = [(depth, share, part) for part in parts for depth, share in part.shares.items()]
    outward = list(range(len(shares)))
    if work.times > 1.0:
        order = [(place, 1.0) for place in outward[:-1]] + [(outward[-1], 2.0)]
        order += [(place, 1.0) for place in reversed(outward[:-1])]
    else:
        order = [(place, 1.0) for place in (outward if work.op == "reduce_scatter" else outward[::-1])]
    found: list[Burst] = []
    for number, (place, times) in enumerate(order):
        depth, share, part = shares[place]
        loads = ring(work.graph, work.chips, {depth: share})
        units = len(np.unique(work.chips // work.graph.tiers[depth].held))
        meet = units / len(np.unique(work.chips // work.graph.tiers[depth].span))
        size = times * (meet - 1.0) / meet * work.size / loads.flows
        burst = _burst(work, loads, size, part)
        if not alone:
            ends = number == len(order) - 1
            burst = replace(burst, latency_s=part.latency_s if not number else 0.0, tail_s=part.copy_s if ends else 0.0)
        after = (work.first + number - 1,) if number else ()
        found.append(replace(burst, name=f"{work.name} {work.graph.tiers[depth].name}", after=after))
    return tuple(found)


def _pairs(work: Work) -> tuple[Burst, ...]:
    """A flow for each pair; those of a late rank in a burst of their own."""
    part = work.parts.parts[0]
    if work.op == "send_recv":
        source, target, size = np.array([0]), np.array([1]), work.size
    else:
        source, target = _all_pairs(work.ranks)
        size = work.size / work.ranks
    sender, receiver = work.chips[source], work.chips[target]
    delay = np.zeros(len(source))
    for chip, seconds in work.late.items():
        delay = np.maximum(delay, np.where((sender == chip) | (receiver == chip), seconds, 0.0))
    reach = max(part.shares)
    outer = _meeting(work.graph, sender, receiver)
    shares = np.array([part.shares.get(depth, 1.0) for depth in range(len(work.graph.tiers))])[outer]
    bursts = []
    for seconds in np.unique(delay):
        mine = np.flatnonzero(delay == seconds)
        found = routes(work.graph, sender[mine], receiver[mine], reach)
        loads = replace(found, weight=found.weight / shares[mine][found.flow])
        bursts.append(replace(_burst(work, loads, size, part), at_s=work.start_s + float(seconds)))
    if len(bursts) == 1:
        return tuple(bursts)
    last = replace(_burst(work, _nothing(), 0.0), after=tuple(work.first + i for i in range(len(bursts))))
    return (*bursts, last)


def _meeting(graph: Graph, source: Index, target: Index) -> Index:
    """Tier on which each pair meets."""
    found = np.zeros(len(source), dtype=np.int64)
    for depth, tier in enumerate(graph.tiers):
        found[source // tier.held != target // tier.held] = depth
    return found


def _steps(work: Work) -> tuple[Burst, ...]:
    """Every step of a ring on one tier: a rank sends a piece on when it has sent the last and has got the next."""
    part = work.parts.parts[0]
    if work.parts.algorithm != "ring" or len(part.shares) > 1 or work.ranks > STEPWISE_MOST:
        hint = f"only a ring of at most {STEPWISE_MOST} ranks inside one tier is run step by step"
        raise SpecError("cannot be run step by step", field="stepwise", value=work.parts.algorithm, hint=hint)
    (depth, share), ranks = next(iter(part.shares.items())), work.ranks
    steps = round(work.times) * (ranks - 1)
    after = np.roll(work.chips, -1)
    found = around(work.graph, work.capacity, routes(work.graph, work.chips, after, depth))
    bursts = []
    for number in range(steps):
        for rank in range(ranks):
            mine = found.flow == rank
            loads = Loads(np.zeros(int(mine.sum()), np.int64), found.link[mine], found.weight[mine] / share, 1)
            both = np.array([work.chips[rank], after[rank]])
            burst = replace(
                _burst(work, loads, work.size / ranks),
                at_s=work.ready_s(both),
                latency_s=part.hops_s / steps + (0.0 if number else part.start_s),
            )
            before = work.first + (number - 1) * ranks
            waits = (before + rank, before + (rank - 1) % ranks) if number else ()
            bursts.append(replace(burst, name=f"{work.name} step {number}", after=waits))
    last = replace(
        _burst(work, _nothing(), 0.0),
        after=tuple(work.first + len(bursts) - 1 - i for i in range(ranks)),
        tail_s=part.copy_s,
    )
    return (*bursts, last)


def _burst(work: Work, loads: Loads, size: float, part: Part | None = None) -> Burst:
    """Flows of `size` bytes each, round failed links. A flow gives way as one connection where it is thinnest."""
    whole = around(work.graph, work.capacity, loads)
    thinnest = np.full(loads.flows, np.inf)
    np.minimum.at(thinnest, whole.flow, whole.weight)
    return Burst(
        name=work.name,
        loads=whole,
        size=np.full(loads.flows, size),
        fair=1.0 / np.where(np.isfinite(thinnest), thinnest, 1.0),
        most=np.full(loads.flows, np.inf),
        at_s=work.ready_s(work.chips),
        latency_s=0.0 if part is None else part.latency_s,
        tail_s=0.0 if part is None else part.copy_s,
    )


def _all_pairs(ranks: int) -> tuple[Index, Index]:
    source, target = np.divmod(np.arange(ranks * ranks), ranks)
    apart = source != target
    return source[apart], target[apart]


def _nothing() -> Loads:
    return Loads(np.empty(0, np.int64), np.empty(0, np.int64), array([]), 0)
