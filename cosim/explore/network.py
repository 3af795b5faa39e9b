"""The network of a system as rows: its tiers, shapes that optical switches can give it, all-reduces against size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosim.hardware.fabric import over, planes
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.network import network_facts
from cosim.hardware.shapes import torus_shapes
from cosim.hardware.system import System
from cosim.hardware.tier_facts import TierFacts
from cosim.hardware.topology import held
from cosim.mapping.placement import tensor_placement
from cosim.overrides import Varied
from cosim.records import array
from cosim.timing.algorithms import ALGORITHMS
from cosim.timing.collective import all_reduce

Row = dict[str, Any]
SIZES = tuple(2.0**power for power in (10, 14, 18, 22, 26, 30))
"""1 KiB to 1 GiB [B]."""
FINE_SIZES = tuple(2.0**power for power in range(10, 31))
"""The same range for a figure [B]."""
MOST_SHAPES = 12


def network_rows(varied: Varied[System]) -> dict[str, list[Row]]:
    """Lists of rows: `tiers` innermost first, `network` (the whole, one row), `shapes`, `all_reduce`. Raises SpecError.

    A number that is not known is None, and `unknown` of its row has the reason.
    """
    facts, whole = network_facts(varied)
    lowered = lower_system(varied)
    spec = varied.spec
    tiers = [
        {
            **_facts(fact),
            "joins": counted(fact.units, "chip" if index == 0 else spec.tiers[index - 1].name),
            "node": index == spec.node_tier,
            "link": tier.link,
            "radix": None if tier.radix is None else tier.radix.si,
            "oversubscription": over(tier),
            "planes": planes(tier),
            "rails": tier.rails,
            "shape": list(tier.shape),
            "closed": [bool(ring) for ring in lowered.tiers[index].closed],
        }
        for index, (tier, fact) in enumerate(zip(spec.tiers, facts, strict=True))
    ]
    return {
        "tiers": tiers,
        "network": [_facts(whole)],
        "shapes": _shapes(spec, lowered),
        "all_reduce": all_reduce_rows(lowered, SIZES),
    }


def network_picture(varied: Varied[System]) -> dict[str, Any]:
    """The same for a figure, with its name and chip, and all-reduces of more sizes. Raises SpecError."""
    fine = all_reduce_rows(lower_system(varied), FINE_SIZES)
    spec = varied.spec
    return {**network_rows(varied), "name": spec.name, "chip": spec.chip.name, "all_reduce": fine}


def all_reduce_rows(system: SystemArrays, sizes: Sequence[float]) -> list[Row]:
    """All-reduces of `sizes` bytes over all chips of every tier that joins several units; the last is the system."""
    size, counts = array(sizes), [float(each) for each in held(system.tiers)[1:]]
    counts[-1] = float(system.chips)
    rows: list[Row] = []
    for index, tier in enumerate(system.tiers):
        chips = counts[index]
        if float(tier.size) <= 1.0:
            continue
        cost = all_reduce(size, tensor_placement(array(chips), system.sizes), system)
        times, which = np.broadcast_to(cost.time, size.shape), np.broadcast_to(cost.algorithm, size.shape)
        rows += [
            {
                "tier": tier.name,
                "chips": chips,
                "node": index == system.node_tier,
                "system": chips == counts[-1],
                "bytes": float(each),
                "time_s": float(time),
                "bus_bandwidth": float(each / time * 2.0 * (chips - 1.0) / chips),
                "algorithm": ALGORITHMS[int(name)],
            }
            for each, time, name in zip(size, times, which, strict=True)
        ]
    return rows


def counted(count: float, name: str) -> str:
    """So many of a name: 1 node, 64 leaves, 2 boxes."""
    if count == 1.0:
        return f"1 {name}"
    if name.endswith("f"):
        return f"{count:,g} {name[:-1]}ves"
    return f"{count:,g} {name}{'es' if name.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def _shapes(spec: System, lowered: SystemArrays) -> list[Row]:
    """Shapes of every optical torus for the chips that it has here, best first."""
    rows = []
    for index, tier in enumerate(spec.tiers):
        chips = float(held(lowered.tiers)[index])
        for found in torus_shapes(tier, lowered.tiers[index], chips)[:MOST_SHAPES]:
            shown = {"shape": list(found.shape), "closes": found.closes, "bisection": found.bisection}
            rows.append({"tier": tier.name, **shown, "steps": found.steps})
    return rows


def _facts(fact: TierFacts) -> Row:
    """A tier's numbers by name; None is unknown."""
    names = [name for name in TierFacts.__dataclass_fields__ if name != "unknown"]
    values = {name: getattr(fact, name) for name in names} | {"power": fact.power, "price": fact.price}
    shown = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}
    return {**shown, "unknown": fact.unknown}
