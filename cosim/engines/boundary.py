"""Transfers between neighbouring stages of a pipeline: how many stay in a node, how many leave it, what each takes."""

from __future__ import annotations

import numpy as np

from cosim.engines.case import Case
from cosim.mapping.placement import stage_hops
from cosim.records import Array, array
from cosim.timing.collective import send


def boundary_transfers(
    size: Array, stage: Array, case: Case, chips: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Transfers inside nodes and beyond them, and the time of one of each [s], arrays (P,).

    `size` bytes go from one chip to its peer in the next stage, `stage` chips further. `chips`: see `stage_hops`.
    Tiers inside a node count with the mean over the transfers that end on them, and so do those beyond.
    """
    counts = stage_hops(stage, case.plan.pipeline, case.system.sizes, chips)
    node = case.system.node_tier
    inside = _kind(size, counts, range(node + 1), case)
    beyond = _kind(size, counts, range(node + 1, len(counts)), case)
    return inside[0], beyond[0], inside[1], beyond[1]


def _kind(size: Array, counts: tuple[Array, ...], tiers: range, case: Case) -> tuple[Array, Array]:
    """Transfers that end on some of the tiers, and their mean time; that of the first of them where there are none."""
    number: Array = sum((counts[t] for t in tiers), array(0.0))
    times = {t: send(size, t, case.system) for t in tiers}
    if not times:
        return number, array(0.0)
    total: Array = sum((counts[t] * time for t, time in times.items()), array(0.0))
    return number, np.where(number > 0.0, total / np.maximum(number, 1.0), next(iter(times.values())))
