"""What a tier's wires give a group: bandwidth of a ring over it, and how long an all-to-all keeps them busy.

    switch, fat tree, dragonfly   the whole link
    bus                           the bus over all ranks that share it
    mesh                          the links to the other members
    hypercube mesh                the links of the dimensions that the group spans
    ring, torus                   the links of the dimensions that it spans; an open line is half a ring

An all-to-all on a torus is bound by the middle of its longest dimension: of B bytes on every rank each link carries
B l / 8 round a ring of l, B l / 4 along a line.
"""

from __future__ import annotations

import numpy as np

from cosim.hardware.tiers import TierArrays
from cosim.records import Array, array


def ring_bandwidth(tier: TierArrays, ranks: Array, stride: Array, shared: Array) -> Array:
    """Bandwidth per chip and direction that neighbours in a ring of `ranks` reach on the wire [B/s].

    `stride` is the distance of the ranks in units of the tier; `shared` the ranks of all tiers below, with their own
    strides, that use a bus together with them.
    """
    if tier.kind == "bus":
        return _fed(tier, tier.bandwidth / np.maximum(shared, 1.0))
    if tier.kind == "mesh":
        part = np.minimum((ranks - 1.0) / np.maximum(tier.size - 1.0, 1.0), 1.0)
        return _fed(tier, tier.bandwidth * np.where(ranks > 1.0, part, 1.0))
    if tier.kind == "hypercube_mesh":
        dimensions = np.log2(np.maximum(tier.size, 2.0))
        spanned = np.ceil(np.log2(np.maximum(ranks, 2.0)))
        return _fed(tier, tier.bandwidth * np.minimum(spanned / dimensions, 1.0))
    if tier.kind not in ("torus", "ring"):
        return _fed(tier, tier.bandwidth)
    per_dimension = tier.bandwidth / max(len(_shape(tier)), 1)
    spanned = array(0.0)
    for length, (along, apart, closes) in zip(_shape(tier), _along(tier, ranks, stride), strict=True):
        whole = closes & (along * apart >= length)
        # Groups that lie between the ranks of this one have the same links.
        spanned = spanned + np.where(along > 1.0, np.where(whole, 1.0, 0.5) / apart, 0.0)
    return _fed(tier, per_dimension * np.where(spanned > 0.0, spanned, 1.0))


def ring_hops(tier: TierArrays, ranks: Array, stride: Array) -> Array:
    """Steps around a ring: k - 1, or dimension by dimension in a torus."""
    if tier.kind != "torus":
        return ranks - 1.0
    steps = array(0.0)
    for along, _, _ in _along(tier, ranks, stride):
        steps = steps + along - 1.0
    return steps


def all_to_all_wire(tier: TierArrays, ranks: Array, stride: Array, sent: Array, shared: Array) -> Array:
    """Seconds that the wires of a tier are busy when each rank sends `sent` bytes to the others in equal parts."""
    if tier.kind == "hypercube_mesh":
        dimensions = np.log2(np.maximum(tier.size, 2.0))
        # Half of what a rank holds, its own part among it, crosses each dimension.
        return sent * ranks / np.maximum(ranks - 1.0, 1.0) / 2.0 / _fed(tier, tier.bandwidth) * dimensions
    if tier.kind not in ("torus", "ring"):
        return sent / ring_bandwidth(tier, ranks, stride, shared)
    link = _fed(tier, tier.bandwidth) / max(len(_shape(tier)), 1) / 2.0
    held = sent * ranks / np.maximum(ranks - 1.0, 1.0)
    busy = array(0.0)
    for length, (along, apart, closes) in zip(_shape(tier), _along(tier, ranks, stride), strict=True):
        half = np.floor(along / 2.0) * np.ceil(along / 2.0) * apart
        # Links of a ring carry half of the distance of all pairs; the middle of a line half of all pairs.
        paths = np.where(closes & (along * apart >= length), half / 2.0, half)
        busy = np.maximum(busy, held * paths / along / link)
    return np.where(ranks > 1.0, busy, 0.0)


def _fed(tier: TierArrays, bandwidth: Array) -> Array:
    """No more than the channels or copy engines of a chip feed."""
    return bandwidth if tier.engine_rate is None else np.minimum(bandwidth, tier.engine_rate)


def _shape(tier: TierArrays) -> tuple[Array, ...]:
    return tuple(array(float(length)) for length in tier.shape) if tier.shape else (tier.size,)


def _along(tier: TierArrays, ranks: Array, stride: Array) -> list[tuple[Array, Array, bool]]:
    """Ranks of the group along each dimension, and whether a whole dimension closes; dimensions fill in order."""
    found, before = [], array(1.0)
    closes = tier.closed or (True,)
    for length, ring in zip(_shape(tier), closes, strict=True):
        reached = np.clip(np.ceil(ranks * stride / before), 1.0, length)
        skipped = np.clip(np.ceil(stride / before), 1.0, length)
        found.append((np.ceil(reached / skipped), skipped, ring))
        before = before * length
    return found
