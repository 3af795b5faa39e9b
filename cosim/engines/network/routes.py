"""Routes between chips as links, many pairs at once; ways round links that have failed.

A pair meets on the innermost tier that holds both. A chip reaches another unit by its own port of that tier. Where
chips of the same place have a network of their own (meshes and tori of units, rails) the bytes first go, inside the
unit, to the chip whose place the receiver has. A tier whose units are wired by the same link of the chip is crossed in
the same way; a port of it is used on the way out and in. Leaves of rails are joined above, which only what lost its
port makes use of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.engines.network.graph import WIRED, Graph, Index, TierLinks
from cosim.engines.network.links import bus, down, ends, joining, name_of, up
from cosim.errors import SpecError
from cosim.hardware.system import SWITCHED
from cosim.records import Array

Piece = tuple[Index, Index, float]


@dataclass(frozen=True, slots=True)
class Loads:
    """What flows put on links: flow, link and bytes on the link per byte of the flow [E], flow by flow."""

    flow: Index
    link: Index
    weight: Array
    flows: int

    @property
    def counts(self) -> Index:
        """Links of every flow."""
        return np.bincount(self.flow, minlength=self.flows)


def gathered(pieces: list[Piece], flows: int) -> Loads:
    """Pieces of (flows, their links, the part of the bytes) as loads, flow by flow."""
    flow = np.concatenate([which for which, _, _ in pieces]) if pieces else np.empty(0, np.int64)
    link = np.concatenate([links for _, links, _ in pieces]) if pieces else np.empty(0, np.int64)
    parts = [np.full(len(which), part) for which, _, part in pieces]
    order = np.argsort(flow, kind="stable")
    weight = np.concatenate(parts)[order] if parts else np.empty(0)
    return Loads(flow[order], link[order], weight, flows)


def routes(graph: Graph, source: Index, target: Index, reach: int | None = None) -> Loads:
    """Links of every pair. A bus carries all that meets inside it of a group that goes as far as tier `reach`."""
    farthest = len(graph.tiers) - 1 if reach is None else reach
    return gathered(list(_pieces(graph, source, target, farthest)), len(source))


def _pieces(graph: Graph, source: Index, target: Index, reach: int) -> Iterator[Piece]:
    left, aim = np.arange(len(source)), target
    for depth in reversed(range(len(graph.tiers))):
        tier = graph.tiers[depth]
        if tier.kind == "bus" and depth <= reach:
            inside = (source // tier.span == target // tier.span) & (source != target)
            which = np.flatnonzero(inside & (source // tier.held == target // tier.held))
            yield which, bus(tier, source[which]), 1.0
        meet = source[left] // tier.held != aim[left] // tier.held
        here = left[meet]
        if not len(here):
            continue
        start, end = source[here], aim[here]
        first = _first_to_the_place(graph, depth)
        middle = start // tier.held * tier.held + end % tier.held if first else start
        for which, links, part in joining(tier, middle, end):
            yield here[which], links, part
        for inner in graph.tiers[:depth]:
            if inner.link == tier.link and inner.kind in SWITCHED:
                yield here, up(inner, middle), 1.0
                yield here, down(inner, end), 1.0
        aim = aim.copy()
        aim[here] = middle
        left = left[source[left] != aim[left]]
    return


def _first_to_the_place(graph: Graph, depth: int) -> bool:
    """Whether bytes go to the receiver's place inside the unit before they leave it."""
    tier = graph.tiers[depth]
    return tier.by_place or any(inner.link == tier.link and inner.kind in WIRED for inner in graph.tiers[:depth])


def around(graph: Graph, capacity: Array, loads: Loads) -> Loads:
    """The same loads with every failed link replaced by the shortest way round it, hop by hop.

    Raises SpecError, which names the tier and the link, where there is none.
    """
    failed = capacity[loads.link] <= 0.0
    if not np.any(failed):
        return loads
    pieces: list[tuple[Index, Index, Array]] = [(loads.flow[~failed], loads.link[~failed], loads.weight[~failed])]
    for link in np.unique(loads.link[failed]):
        way = detour(graph, capacity, int(link))
        mine = loads.link == link
        flow, weight = loads.flow[mine], loads.weight[mine]
        pieces += [(flow, np.full(len(flow), other), weight) for other in way]
    flow, links, weight = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.argsort(flow, kind="stable")
    return Loads(flow[order], links[order], weight[order], loads.flows)


def detour(graph: Graph, capacity: Array, link: int) -> Index:
    """Links from where a failed link starts to where it ends, the fewest. Raises SpecError where none are left.

    The port of a chip into a network of units is replaced by that of the next chip of its unit which has one.
    """
    from scipy.sparse import csgraph

    tier = graph.tier_of(link)
    if tier.kind in SWITCHED and tier.held > 1 and link < tier.first + 2 * tier.chips:
        return _neighbour(graph, capacity, tier, link)
    if tier.kind not in WIRED or link >= tier.first + tier.count - tier.chips * tier.engines:
        raise _cut(graph, tier, link, "no other link of the tier leads there")
    tail, head = (int(end[0]) for end in ends(tier, np.array([link])))
    net, links = _alive(graph, tier, capacity, tail)
    start, goal = (chip // tier.held % tier.size for chip in (tail, head))
    far, before = csgraph.dijkstra(net, indices=start, unweighted=True, return_predecessors=True)
    if not np.isfinite(far[goal]):
        wires = np.arange(tier.first, tier.first + tier.count)
        lost = int(np.sum((capacity[wires] <= 0.0) & graph.there[wires]))
        raise _cut(graph, tier, link, f"{lost} failed links cut the tier in two")
    path = []
    while goal != start:
        path.append(links[int(before[goal]), int(goal)])
        goal = int(before[goal])
    return np.array(path[::-1], dtype=np.int64)


def _neighbour(graph: Graph, capacity: Array, tier: TierLinks, link: int) -> Index:
    """The port of another chip of the unit, and the way to it or from it inside."""
    into, chip = divmod(link - tier.first, tier.chips)
    unit = chip // tier.held * tier.held
    for turn in range(1, tier.held):
        other = unit + (chip - unit + turn) % tier.held
        port = tier.first + into * tier.chips + other
        if capacity[port] > 0.0:
            ends_of = (np.array([other]), np.array([chip])) if into else (np.array([chip]), np.array([other]))
            inside = around(graph, capacity, routes(graph, *ends_of, 0)).link
            return np.append(inside, port)
    raise _cut(graph, tier, link, f"all {tier.held} ports of its unit have failed")


def _alive(graph: Graph, tier: TierLinks, capacity: Array, chip: int) -> tuple[Any, dict[tuple[int, int], int]]:
    """The network of units that a chip is in, of links that work: as a sparse matrix, and the link of each pair."""
    from scipy.sparse import csr_array

    links = np.arange(tier.first, tier.first + tier.count - tier.chips * tier.engines)
    links = links[graph.there[links] & (capacity[links] > 0.0)]
    tails, heads = ends(tier, links)
    mine = (tails // tier.span == chip // tier.span) & (tails % tier.held == chip % tier.held)
    links, at, to = links[mine], tier.place(tails[mine]), tier.place(heads[mine])
    found = {(int(a), int(b)): int(link) for a, b, link in zip(at, to, links, strict=True)}
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(found)), (pairs[0], pairs[1])), shape=(tier.size, tier.size)), found


def _cut(graph: Graph, tier: TierLinks, link: int, reason: str) -> SpecError:
    hint = f"{reason}; give it a part of its bandwidth, or leave its chips out"
    problem = f"tier '{tier.name}': link {name_of(graph, link)} has failed and there is no way round it"
    return SpecError(problem, field="degrade", hint=hint)
