"""What a ring round a group puts on the links of each tier, for one byte that passes every rank.

A group has as many channels as its fullest use of the outermost tier has ports: channel c leaves every unit by its c-th
rank, passes all ranks inside, and comes back to the port that it leaves by.

    switch, fat tree, dragonfly   one byte up and down for each unit, and what lies between
    bus                           one byte for each rank that it holds
    mesh                          1 / (r - 1) on each link between r units: as many rings as a unit has peers
    hypercube mesh                1 / d on each link of the d dimensions that the group spans
    ring, torus                   1 / R on each link of R rings: two of a dimension that closes, one of a line

Ranks that make no box on a torus, or no smaller cube of a hypercube, pass the routes from each to the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cosim.engines.network.graph import WIRED, Graph, Index, TierLinks
from cosim.engines.network.links import bus, engine, flip, joining, pair, step
from cosim.engines.network.routes import Loads, Piece, gathered, routes
from cosim.hardware.system import SWITCHED


def channels(graph: Graph, chips: Index, depth: int) -> int:
    """Ranks that every unit has for the network of a tier: the fewest of all."""
    units = np.unique(chips // graph.tiers[depth].held, return_counts=True)[1]
    return int(units.min())


def round_tier(graph: Graph, depth: int, chips: Index, channel: int) -> Loads:
    """Links of one tier that a channel of a ring round `chips` passes, as loads of one flow."""
    tier = graph.tiers[depth]
    # Places that every unit has come first: a channel then lies on one rail.
    place, often = np.unique(chips % tier.held, return_counts=True)
    rare = np.isin(chips % tier.held, place[often < often.max()])
    chips = chips[np.lexsort((chips, rare, chips // tier.held))]
    unit, start, count = np.unique(chips // tier.held, return_index=True, return_counts=True)
    picks = chips[start + channel % count]
    whole = unit // tier.size
    pieces: list[Piece] = []
    if tier.kind in WIRED:
        for one in np.unique(whole):
            pieces += _wired(graph, depth, picks[whole == one])
    else:
        pieces += _switched(tier, depth, graph, chips, picks)
    return gathered([(np.zeros(len(links), np.int64), links, part) for _, links, part in pieces], 1)


def _switched(tier: TierLinks, depth: int, graph: Graph, chips: Index, picks: Index) -> Iterator[Piece]:
    after = _next(picks // tier.span)
    far = picks != picks[after]
    if not np.any(far):
        return
    source, target = picks[far], picks[after][far]
    if tier.kind == "bus":
        held = bus(tier, chips)
        shared = held[np.isin(held, bus(tier, source))]
        yield shared, shared, 1.0
        if tier.engines:
            yield source, engine(tier, source), 1.0
    elif tier.by_place and np.any(source % tier.held != target % tier.held):
        yield from _routed(graph, depth, source, target)
    else:
        yield from joining(tier, source, target)


def _routed(graph: Graph, depth: int, source: Index, target: Index) -> Iterator[Piece]:
    found = routes(graph, source, target, depth)
    for weight in np.unique(found.weight):
        mine = found.weight == weight
        yield found.flow[mine], found.link[mine], float(weight)


def _next(whole: Index) -> Index:
    """Of each pick the next of the same whole, the first after the last; wholes lie next to each other."""
    after = np.arange(1, len(whole) + 1)
    first = np.unique(whole, return_index=True)[1]
    last = np.append(first[1:], len(whole)) - 1
    after[last] = first
    return after


def _wired(graph: Graph, depth: int, picks: Index) -> Iterator[Piece]:
    """Rings round units that are wired to each other, all in one of the wholes that the tier makes."""
    tier = graph.tiers[depth]
    if len(picks) < 2:
        return
    same = len(np.unique(picks % tier.held)) == 1
    spanned = _box(tier, picks) if same else []
    if same and tier.kind == "mesh":
        ahead, back = (side.ravel() for side in np.meshgrid(picks, picks, indexing="ij"))
        apart = ahead != back
        links = pair(tier, ahead[apart], back[apart])
        yield links, links, 1.0 / (len(picks) - 1)
    elif spanned and tier.kind == "hypercube_mesh":
        for dimension in spanned:
            links = flip(tier, picks, dimension)
            yield links, links, 1.0 / len(spanned)
    elif spanned:
        yield from _box_rings(tier, picks, spanned)
    else:
        yield from _routed(graph, depth, picks, picks[_next(np.zeros(len(picks), np.int64))])
        return
    if tier.engines:
        yield picks, engine(tier, picks), 1.0


def _box(tier: TierLinks, picks: Index) -> list[int]:
    """Dimensions that a group spans where it is a box: all combinations of some coordinates; empty where not."""
    if tier.kind in (*SWITCHED, "mesh"):
        return []
    values = [len(np.unique(tier.along(picks, d))) for d in range(len(tier.shape))]
    return [d for d, n in enumerate(values) if n > 1] if np.prod(values) == len(picks) else []


def _box_rings(tier: TierLinks, picks: Index, spanned: list[int]) -> Iterator[Piece]:
    """Rings along all dimensions of a box at once."""
    lines = []
    for dimension in spanned:
        at = np.unique(tier.along(picks, dimension))
        length = tier.shape[dimension]
        whole = tier.closed[dimension] and len(at) == length
        upward = np.arange(length) if whole else np.arange(at[0], at[-1])
        lines.append((dimension, at[0], upward, upward if whole else upward + 1, 2 if whole else 1))
    rings = sum(line[-1] for line in lines)
    for dimension, origin, upward, downward, _ in lines:
        roots = picks[tier.along(picks, dimension) == origin]
        for way, places in ((0, upward), (1, downward)):
            root, place = (side.ravel() for side in np.meshgrid(roots, places, indexing="ij"))
            links = step(tier, tier.moved(root, dimension, place), dimension, way)
            yield links, links, 1.0 / rings


def ring(graph: Graph, chips: Index, shares: dict[int, float]) -> Loads:
    """Flows of a ring round a group, one a channel; a byte takes 1 / share of the wire on each tier of `shares`."""
    number = channels(graph, chips, max(shares))
    found: dict[tuple[int, int], Loads] = {}
    flow, link, weight = [], [], []
    for channel in range(number):
        for depth, share in shares.items():
            key = (depth, channel % channels(graph, chips, depth))
            if key not in found:
                found[key] = round_tier(graph, depth, chips, channel)
            one = found[key]
            flow.append(np.full(len(one.link), channel))
            link.append(one.link)
            weight.append(one.weight / share)
    return Loads(np.concatenate(flow), np.concatenate(link), np.concatenate(weight), number)
