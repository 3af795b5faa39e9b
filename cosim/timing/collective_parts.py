"""What the closed form of a collective is made of: algorithm, protocol, latency, share of the wire, local copy.

The parts come from `cosim.timing.collective` alone, which is asked what a group takes with one algorithm, one protocol
and almost no bytes (its latency), and with and without a local copy. Bytes on wires are not among them: the flows of
the event engine bring these themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cosim.errors import SpecError, nearest
from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import TierArrays
from cosim.mapping.placement import Placement
from cosim.records import array
from cosim.timing import collective
from cosim.timing.algorithms import ALGORITHMS
from cosim.timing.collective import CollectiveCost
from cosim.timing.way import protocol_of

OPS = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast", "send_recv")
TWICE = "all_reduce"
"""The operation that passes its data round twice."""
NOTHING = 1e-9
"""Bytes that cost no time on any wire, yet count as sent [B]."""
PIPELINED = ("alltoall", "broadcast", "send_recv")
"""Operations that have one way to run."""
Cost = Callable[[float, SystemArrays], CollectiveCost]


@dataclass(frozen=True, slots=True)
class Part:
    """One collective of a single start: the protocol's share of what its tiers reach, seconds beside the wire."""

    shares: dict[int, float]
    """By index of the tier."""
    start_s: float
    hops_s: float
    copy_s: float
    protocol: str

    @property
    def latency_s(self) -> float:
        """Seconds before the first byte."""
        return self.start_s + self.hops_s


@dataclass(frozen=True, slots=True)
class Parts:
    """A collective on a group: seconds of the closed form, the algorithm, and its parts, innermost tier first.

    `parts` has one entry, or one for each tier where phases follow each other (hierarchical).
    """

    time_s: float
    algorithm: str
    parts: tuple[Part, ...]


def group_of(chips: Sequence[int], sizes: Sequence[int]) -> Placement:
    """Placement of a group of chips: units on every tier over units on the next, distance of neighbours."""
    units = np.unique(np.asarray(chips, dtype=np.int64))
    ranks, stride = [], []
    for size in sizes:
        near = np.diff(units)[units[1:] // size == units[:-1] // size]
        outer = np.unique(units // size)
        ranks.append(array(len(units) / len(outer)))
        stride.append(array(float(near.min(initial=size)) if len(near) else 1.0))
        units = outer
    return Placement(tuple(ranks), tuple(stride))


def parts_of(op: str, size: float, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> Parts:
    """Parts of a collective of `size` bytes as nccl-tests count them (0-d). Raises SpecError for an unknown name."""
    if op not in OPS:
        raise SpecError("unknown collective", field="op", value=op, hint=nearest(op, OPS))
    used = [index for index in range(len(system.tiers)) if float(group.ranks[index]) > 1.0]
    if not used:
        return Parts(0.0, "none", ())
    spanned, own = _spanned(system, group, used)
    # A name that only tiers beyond the group have is taken wherever it is legal: not here.
    elsewhere = any(algorithm in tier.algorithms for tier in system.tiers)
    if elsewhere and not any(algorithm in tier.algorithms for tier in spanned.tiers):
        algorithm = "fastest"
    whole = _cost(op, spanned, own, algorithm)(size, spanned)
    if op in PIPELINED:
        name = {"alltoall": "pairwise", "broadcast": "chain", "send_recv": "send"}[op]
    else:
        name = ALGORITHMS[int(whole.algorithm)]
    if name == "hierarchical":
        phases = tuple(_phase(op, size, spanned, own, used, place) for place in range(len(used)))
    else:
        phases = (_part(_cost(op, spanned, own, name), size, spanned, used, name),)
    return Parts(float(whole.time), name, phases)


def _cost(op: str, system: SystemArrays, group: Placement, algorithm: str) -> Cost:
    """The closed form as a function of bytes and system."""
    if op == "send_recv":
        depth = len(system.tiers) - 1
        return lambda size, of: CollectiveCost(collective.send(array(size), depth, of), array(size), array(0.0))
    if op == "alltoall":
        return lambda size, of: collective.uniform_all_to_all(array(size), group, of)
    if op == "broadcast":
        return lambda size, of: collective.broadcast(array(size), group, of)
    call = {
        "all_reduce": collective.all_reduce,
        "all_gather": collective.all_gather,
        "reduce_scatter": collective.reduce_scatter,
    }[op]
    return lambda size, of: call(array(size), group, of, algorithm)


def _spanned(system: SystemArrays, group: Placement, used: list[int]) -> tuple[SystemArrays, Placement]:
    """System and group on the tiers that the group uses; the pace of the local copy stays that of the first tier."""
    first = system.tiers[0]
    tiers = [system.tiers[index] for index in used]
    if first.copy_share is not None:
        tiers[0] = replace(tiers[0], copy_share=first.copy_share * first.bandwidth / tiers[0].bandwidth)
    else:
        tiers[0] = replace(tiers[0], copy_share=None)
    ranks, stride = (tuple(values[index] for index in used) for values in (group.ranks, group.stride))
    return replace(system, tiers=tuple(tiers), node_tier=0), Placement(ranks, stride)


def _part(cost: Cost, size: float, system: SystemArrays, used: list[int], algorithm: str) -> Part:
    """Parts with the protocol that is fastest for `size`."""
    best: Part | None = None
    least = np.inf
    for name in dict.fromkeys(protocol.name for tier in system.tiers for protocol in tier.protocols):
        chosen = [protocol_of(tier, name) for tier in system.tiers]
        alone = tuple(
            replace(tier, protocols=(one,), algorithms=(algorithm,))
            for tier, one in zip(system.tiers, chosen, strict=True)
            if one is not None
        )
        if len(alone) < len(chosen):
            continue
        limited = replace(system, tiers=alone)
        time = float(cost(size, limited).time)
        if time < least:
            least, best = time, _probed(partial(cost, size), partial(cost, NOTHING), limited, used, name)
    if best is None:
        names = ", ".join(tier.name for tier in system.tiers)
        raise SpecError(f"tiers {names} have no protocol in common", field="constants.protocols")
    return best


def _probed(
    full: Callable[[SystemArrays], CollectiveCost],
    empty: Callable[[SystemArrays], CollectiveCost],
    system: SystemArrays,
    used: list[int],
    name: str,
) -> Part:
    """Seconds beside the wire of a system that has one protocol a tier."""
    bare = replace(system, tiers=tuple(replace(tier, copy_share=None) for tier in system.tiers))
    still = replace(system, tiers=tuple(_without_hops(tier) for tier in system.tiers))
    start, latency = float(empty(still).time), float(empty(system).time)
    shares = {index: float(tier.protocols[0].share) for index, tier in zip(used, system.tiers, strict=True)}
    copy = float(full(system).time) - float(full(bare).time)
    return Part(shares, start, latency - start, copy, name)


def _without_hops(tier: TierArrays) -> TierArrays:
    return replace(
        tier, latency=array(0.0), protocols=tuple(replace(protocol, hop=array(0.0)) for protocol in tier.protocols)
    )


def _phase(op: str, size: float, system: SystemArrays, group: Placement, used: list[int], place: int) -> Part:
    """One tier's phase of a hierarchical collective, a ring; the outermost of an all-reduce is a whole one."""
    one = replace(system, tiers=(system.tiers[place],))
    if place:
        first = system.tiers[0]
        pace = None if first.copy_share is None else first.copy_share * first.bandwidth / system.tiers[place].bandwidth
        one = replace(one, tiers=(replace(system.tiers[place], copy_share=pace),))
    ranks = Placement((group.ranks[place],), (group.stride[place],))
    last = place == len(used) - 1
    part = size / float(group.inside(place))
    found = _part(_cost(op if last else "all_gather", one, ranks, "ring"), part, one, [used[place]], "ring")
    # The two passes of an all-reduce copy a rank's own part once, half of it each.
    return replace(found, copy_s=found.copy_s / 2.0) if op == TWICE and not last else found
