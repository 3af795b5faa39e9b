"""Collectives over tiers: latency x steps + bytes / bandwidth, the fastest algorithm the library has.

    ring        2 (k-1) hop + 2 (k-1)/k B / bw        a torus: 2 (steps of the dimensions it spans) hop
    tree        2 ceil(log2 k) hop + 2 B / bw
    direct      2 hop + 2 (k-1)/k B / bw              every pair connected
    in_network  in-switch latency + (1 + 1/k) B / (link share)
    all_gather  (k-1) hop + (k-1)/k B / bw            B is the whole result
    all_to_all  hop + the longer of bytes / bw inside and across

B is nccl-tests' `size`, k the ranks; every collective also pays the tier's base latency once. A tier with several
protocols (short start at part of the bandwidth, or later at all of it) takes the fastest for the size. A group that
spans two tiers reduces and scatters inside, all-reduces its share across, and gathers inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays, TierArrays
from cosim.mapping.placement import Placement
from cosim.records import Array, array

ALGORITHMS = ("ring", "tree", "direct", "in_network")


@dataclass(frozen=True, slots=True)
class CollectiveCost:
    """Time [s], bytes that each chip puts on its links, and the index in ALGORITHMS of the inner choice."""

    time: Array
    wire_bytes: Array
    algorithm: Array


def all_reduce(size: Array, group: Placement, system: SystemArrays, algorithm: str = "fastest") -> CollectiveCost:
    """All-reduce of `size` bytes per rank. Raises SpecError for an algorithm that the tier has not."""
    inner, outer = system.tiers[0], system.tiers[-1]
    near, far = reached(system, inner), reached(system, outer)
    alone = group.outer <= 1.0
    within, choice = _best(size, group.inner, inner, near, algorithm, alone=alone)
    share = size / group.inner
    across, _ = _best(share, group.outer, outer, far, "fastest", alone=True)
    switched = np.where(choice == ALGORITHMS.index("in_network"), 1.0 + 1.0 / group.inner, 2.0 * _ringed(group.inner))
    wire = np.where(group.inner > 1.0, switched, 0.0) * size + 2.0 * _ringed(group.outer) * share
    return CollectiveCost(within + across, wire, choice)


def all_gather(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """All-gather whose result on each rank has `size` bytes: across nodes first, then inside."""
    inner, outer = system.tiers[0], system.tiers[-1]
    share = size / group.inner
    time = _gather(size, group.inner, inner, reached(system, inner))
    time = time + _gather(share, group.outer, outer, reached(system, outer))
    wire = _ringed(group.inner) * size + _ringed(group.outer) * share
    return CollectiveCost(time, wire, np.zeros_like(time))


def reduce_scatter(size: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Reduce-scatter of `size` bytes on each rank: inside first, then across; the all-gather run backwards."""
    return all_gather(size, group, system)


def all_to_all(near: Array, far: Array, group: Placement, system: SystemArrays) -> CollectiveCost:
    """Every rank of `group` sends `near` bytes to ranks of its node and `far` bytes beyond it, both at once."""
    inner, outer = system.tiers[0], system.tiers[-1]
    inside = near / (reach(inner, group.inner) * reached(system, inner))
    beyond = far / (reach(outer, group.outer) * reached(system, outer))
    one = array(1.0)
    time = np.maximum(
        np.where(near > 0.0, _sent(one, inside, inner), 0.0), np.where(far > 0.0, _sent(one, beyond, outer), 0.0)
    )
    return CollectiveCost(time, near + far, np.zeros_like(time))


def exposed(time: Array, behind: Array, cores: Array) -> Array:
    """What a collective of `time` adds to work of `behind` [s]: what is longer, and the cores it takes meanwhile."""
    hidden = np.minimum(time, behind)
    return time - hidden + cores * hidden


def send(size: Array, tier: TierArrays, system: SystemArrays) -> Array:
    """Time of one transfer of `size` bytes between two chips of a tier [s]."""
    return _sent(array(1.0), size / (reach(tier, array(2.0)) * reached(system, tier)), tier)


def reached(system: SystemArrays, tier: TierArrays) -> Array:
    """Share of the wire that collectives of a tier reach: its own, or the chip's quality."""
    return system.chip.quality.collective if tier.efficiency is None else tier.efficiency


def reach(tier: TierArrays, ranks: Array) -> Array:
    """Bandwidth per chip and direction that `ranks` of a tier can use together [B/s].

    A switch gives all of it. In a full mesh only the links to the other members count. In a torus the
    group fills dimension after dimension and uses those it spans; an open line is half a ring.
    """
    if tier.kind == "mesh":
        return tier.bandwidth * np.minimum((ranks - 1.0) / np.maximum(tier.size - 1.0, 1.0), 1.0) + (ranks <= 1.0)
    if tier.kind != "torus":
        return tier.bandwidth
    per_dimension = tier.bandwidth / max(len(tier.shape), 1)
    if not tier.wrap:
        per_dimension = per_dimension / 2.0
    spanned = array(0.0)
    before = 1.0
    for length in tier.shape:
        spanned = spanned + ((ranks > before) & (length > 1))
        before *= length
    return per_dimension * np.maximum(spanned, 1.0)


def _best(
    size: Array, ranks: Array, tier: TierArrays, quality: Array, algorithm: str, *, alone: NDArray[np.bool_] | bool
) -> tuple[Array, Array]:
    """Least time over the tier's algorithms (or the one named) and its index; 0 for a group of one."""
    if algorithm not in ("fastest", *tier.algorithms):
        raise SpecError(
            f"tier '{tier.name}' has no such all-reduce",
            field="plan.algorithm.all_reduce",
            value=algorithm,
            hint="it has " + ", ".join(tier.algorithms),
        )
    names = tier.algorithms if algorithm == "fastest" else (algorithm,)
    if algorithm == "in_network" and not np.all(alone):
        # The switch of one tier cannot reduce for another: a group that leaves it falls back to a ring inside.
        switched, ringed = (_best(size, ranks, tier, quality, name, alone=True) for name in ("in_network", "ring"))
        return np.where(alone, switched[0], ringed[0]), np.where(alone, switched[1], ringed[1])
    bandwidth = reach(tier, ranks) * quality
    times = [
        np.where(alone | (name != "in_network"), _time(name, size, ranks, tier, bandwidth), np.inf) for name in names
    ]
    stacked = np.stack(np.broadcast_arrays(*times))
    best = np.argmin(stacked, axis=0)
    least = np.take_along_axis(stacked, np.expand_dims(best, 0), axis=0)[0]
    indices = np.array([ALGORITHMS.index(name) for name in names], dtype=np.float64)
    return np.where(ranks > 1.0, least, 0.0), indices[best]


def _time(name: str, size: Array, ranks: Array, tier: TierArrays, bandwidth: Array) -> Array:
    if name == "in_network":
        return tier.in_network_latency + (1.0 + 1.0 / ranks) * size / (tier.bandwidth * tier.in_network)
    if name == "tree":
        depth = np.ceil(np.log2(np.maximum(ranks, 2.0)))
        return _sent(2.0 * depth, 2.0 * size / bandwidth, tier)
    steps = _hops(tier, ranks) if name == "ring" else array(1.0)
    return _sent(2.0 * steps, 2.0 * _ringed(ranks) * size / bandwidth, tier)


def _gather(size: Array, ranks: Array, tier: TierArrays, quality: Array) -> Array:
    wire = _ringed(ranks) * size / (reach(tier, ranks) * quality)
    return np.where(ranks > 1.0, _sent(_hops(tier, ranks), wire, tier), 0.0)


def _sent(steps: Array, wire_s: Array, tier: TierArrays) -> Array:
    """Time of `steps` hops and `wire_s` seconds at full bandwidth, by the fastest of the tier's protocols [s]."""
    time = tier.base_latency + steps * tier.latency + wire_s / tier.share
    for other in tier.protocols:
        time = np.minimum(time, other.base_latency + steps * other.latency + wire_s / other.share)
    return time


def _hops(tier: TierArrays, ranks: Array) -> Array:
    """Steps around a ring: k - 1, or dimension by dimension in a torus."""
    if tier.kind != "torus":
        return ranks - 1.0
    steps, before = array(0.0), 1.0
    for length in tier.shape:
        steps = steps + np.clip(np.ceil(ranks / before), 1.0, length) - 1.0
        before *= length
    return steps


def _ringed(ranks: Array) -> Array:
    """(k - 1) / k: the share of the data that leaves a rank."""
    return (ranks - 1.0) / ranks
