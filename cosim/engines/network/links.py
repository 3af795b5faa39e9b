"""Which links join two units on one tier, what links are called, which chips they join."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

import numpy as np

from cosim.engines.network.graph import WIRED, Graph, Index, TierLinks
from cosim.errors import SpecError, nearest
from cosim.hardware.system import SWITCHED
from cosim.records import Array

AXES = "xyzuvw"
Hop = tuple[Index, Index, float]
"""Which of the pairs, the link that each of them takes, the part of its bytes that takes it."""


def joining(tier: TierLinks, source: Index, target: Index) -> Iterator[Hop]:
    """Links from `source` to `target`, whose units meet on this tier; of the same place in them where it matters."""
    every = np.arange(len(source))
    yield from ((every, link, 1.0) for link in _joining_all(tier, source, target))
    if tier.kind in ("ring", "torus"):
        yield from _torus(tier, source, target)
    elif tier.kind == "hypercube_mesh":
        yield from _hypercube(tier, source, target)
    elif tier.kind == "dragonfly":
        yield from _dragonfly(tier, source, target)
    if tier.engines:
        yield every, engine(tier, source), 1.0


def up(tier: TierLinks, chips: Index) -> Index:
    """Ports out of chips into a switched tier."""
    return tier.first + chips


def down(tier: TierLinks, chips: Index) -> Index:
    """Ports out of a switched tier into chips."""
    return tier.first + tier.chips + chips


def bus(tier: TierLinks, chips: Index) -> Index:
    """The bus that chips share."""
    return tier.first + chips // tier.span


def engine(tier: TierLinks, chips: Index) -> Index:
    """What the engines of chips feed into a tier."""
    return tier.first + tier.count - tier.chips + chips


def pair(tier: TierLinks, source: Index, target: Index) -> Index:
    """Links of a mesh between units; chips of the same place."""
    network = source // tier.span * tier.held + source % tier.held
    return tier.first + (network * tier.size + tier.place(source)) * tier.size + tier.place(target)


def step(tier: TierLinks, chips: Index, dimension: int, way: int) -> Index:
    """Links of a ring or torus out of chips along a dimension: `way` 0 up, 1 down."""
    return tier.first + (chips * len(tier.shape) + dimension) * 2 + way


def flip(tier: TierLinks, chips: Index, dimension: int) -> Index:
    """Links of a hypercube out of chips along a dimension."""
    return tier.first + chips * len(tier.shape) + dimension


def _joining_all(tier: TierLinks, source: Index, target: Index) -> Iterator[Index]:
    """Links that every pair takes one of."""
    units = tier.first + 2 * tier.chips
    number = tier.chips // tier.held
    if tier.kind in SWITCHED:
        yield up(tier, source)
        if tier.kind == "dragonfly" or (tier.kind == "fat_tree" and not tier.by_place):
            yield units + source // tier.held
            yield units + number + target // tier.held
        yield down(tier, target)
    elif tier.kind == "bus":
        yield bus(tier, source)
    elif tier.kind == "mesh":
        yield pair(tier, source, target)


def _dragonfly(tier: TierLinks, source: Index, target: Index) -> Iterator[Hop]:
    """The bundle between two groups, where the pair lies in two."""
    routers, number = tier.shape[0], tier.chips // tier.held
    groups = -(-tier.size // routers)
    out, into = tier.place(source) // routers, tier.place(target) // routers
    which = np.flatnonzero(out != into)
    bundle = (source // tier.span * groups + out) * groups + into
    yield which, (tier.first + 2 * tier.chips + 2 * number + bundle)[which], 1.0


def _hypercube(tier: TierLinks, source: Index, target: Index) -> Iterator[Hop]:
    """Dimension by dimension."""
    here = source
    for dimension in range(len(tier.shape)):
        to = tier.along(target, dimension)
        which = np.flatnonzero(tier.along(here, dimension) != to)
        yield which, flip(tier, here[which], dimension), 1.0
        here = tier.moved(here, dimension, to)


def _torus(tier: TierLinks, source: Index, target: Index) -> Iterator[Hop]:
    """Dimension by dimension, the shorter way round; half of the bytes each way where both are as long."""
    here = source
    for dimension, length in enumerate(tier.shape):
        at, to = tier.along(here, dimension), tier.along(target, dimension)
        closes = tier.closed[dimension]
        ahead = (to - at) % length if closes else to - at
        back = (at - to) % length if closes else at - to
        forward = (ahead > 0) & ((ahead <= back) | (back < 0))
        backward = (back > 0) & ((back <= ahead) | (ahead < 0))
        both = forward & backward
        for way, goes, far, sign in ((0, forward, ahead, 1), (1, backward, back, -1)):
            for part, chosen in ((1.0, goes & ~both), (0.5, both)):
                yield from _walk(tier, here, dimension, way, sign, np.where(chosen, far, 0), part)
        here = tier.moved(here, dimension, to)


def _walk(tier: TierLinks, here: Index, dimension: int, way: int, sign: int, far: Index, part: float) -> Iterator[Hop]:
    """Steps along a dimension, `far` of them."""
    at = tier.along(here, dimension)
    for done in range(int(far.max(initial=0))):
        which = np.flatnonzero(far > done)
        on = (at[which] + sign * done) % tier.shape[dimension]
        yield which, step(tier, tier.moved(here[which], dimension, on), dimension, way), part


def ends(tier: TierLinks, links: Index) -> tuple[Index, Index]:
    """Chips that links of a tier without a switch lead from and to."""
    own = links - tier.first
    if tier.kind == "mesh":
        network, pairs = own // tier.size**2, own % tier.size**2
        base = network // tier.held * tier.span + network % tier.held
        return base + pairs // tier.size * tier.held, base + pairs % tier.size * tier.held
    each = len(tier.shape) * (1 if tier.kind == "hypercube_mesh" else 2)
    tail, out = own // each, own % each
    head = tail.copy()
    for dimension, length in enumerate(tier.shape):
        for way in range(each // len(tier.shape)):
            mine = out == (dimension if tier.kind == "hypercube_mesh" else 2 * dimension + way)
            to = (tier.along(tail[mine], dimension) + (1, -1)[way]) % length
            head[mine] = tier.moved(tail[mine], dimension, to)
    return tail, head


def name_of(graph: Graph, link: int) -> str:
    """A link by name: `node3.chip5.up`, `cluster0.leaf2.up`, `cube0.x+[1,2,3]`; it starts with what the tier makes."""
    tier = graph.tier_of(link)
    own, depth = link - tier.first, graph.tiers.index(tier)
    wires = tier.count - tier.chips * tier.engines
    if own >= wires:
        return f"{_chip(graph, depth, own - wires)}.engines"
    if tier.kind == "bus":
        return f"{tier.name}{own}.bus"
    if tier.kind in WIRED:
        tail, head = (int(end[0]) for end in ends(tier, np.array([link])))
        whole = f"{tier.name}{tail // tier.span}." + (f"place{tail % tier.held}." if tier.by_place else "")
        return whole + _wire(tier, own, tail, head)
    if own < 2 * tier.chips:
        return f"{_chip(graph, depth, own % tier.chips)}.{'up' if own < tier.chips else 'down'}"
    return _bundle(tier, own - 2 * tier.chips)


def _wire(tier: TierLinks, own: int, tail: int, head: int) -> str:
    if tier.kind == "mesh":
        return f"link[{tail // tier.held % tier.size},{head // tier.held % tier.size}]"
    at = ",".join(str(int(tier.along(np.array([tail]), d)[0])) for d in range(len(tier.shape)))
    if tier.kind == "hypercube_mesh":
        return f"d{own % len(tier.shape)}[{at}]"
    dimension, way = divmod(own % (2 * len(tier.shape)), 2)
    axis = AXES[dimension] if dimension < len(AXES) else f"d{dimension}"
    return f"{axis}{'+-'[way]}[{at}]"


def _bundle(tier: TierLinks, own: int) -> str:
    number = tier.chips // tier.held
    if own >= 2 * number:
        groups = -(-tier.size // tier.shape[0])
        whole, pairs = divmod(own - 2 * number, groups * groups)
        return f"{tier.name}{whole}.group{pairs // groups}-group{pairs % groups}"
    unit, way = own % number, own // number
    what, ways = ("leaf", ("up", "down")) if tier.kind == "fat_tree" else ("router", ("out", "in"))
    return f"{tier.name}{unit // tier.size}.{what}{unit % tier.size}.{ways[way]}"


def _chip(graph: Graph, depth: int, chip: int) -> str:
    """A chip as a tier sees it: what the tier makes, then unit in unit."""
    tier = graph.tiers[depth]
    parts = [f"{tier.name}{chip // tier.span}"]
    for inner in range(depth, 0, -1):
        below = graph.tiers[inner - 1]
        parts.append(f"{below.name}{chip // below.span % graph.tiers[inner].size}")
    return ".".join((*parts, f"chip{chip % graph.tiers[0].size}"))


def degraded(graph: Graph, factors: Mapping[str, float]) -> Array:
    """Capacities where links give a part of themselves, by name or pattern (`*` and `?`); 0 has failed.

    Raises SpecError for a name that no link has, or a factor that is no share.
    """
    capacity = graph.capacity.copy()
    if not factors:
        return capacity
    known = {name_of(graph, int(link)): int(link) for link in np.flatnonzero(graph.there)}
    for pattern, factor in factors.items():
        if not 0.0 <= factor <= 1.0:
            raise SpecError(f"of {pattern} is no share", field="degrade", value=factor, hint="0 has failed, 1 is whole")
        wild = any(sign in pattern for sign in "*?")
        names = fnmatch.filter(known, pattern.replace("[", "[[]")) if wild else [pattern] * (pattern in known)
        if not names:
            hint = nearest(pattern, known)
            raise SpecError("no link has this name", field="degrade", value=pattern, hint=hint)
        capacity[[known[name] for name in names]] *= factor
    return capacity
