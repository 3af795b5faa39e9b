"""Silicon of a system's chip as columns of a result: area and TDP, and each component; unknown is NaN."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from cosim.explore.metrics import DIE_METRICS
from cosim.hardware.chip import Chip
from cosim.hardware.system import System
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.silicon.area import DieArea, die_area, static_power, unknown
from cosim.silicon.power import design_power
from cosim.silicon.technology import load_technology


def chip_of(varied: Varied[System]) -> Varied[Chip]:
    """The chip of a system with those overrides that are its own."""
    own = {path.removeprefix("chip."): a for path, a in varied.arrays.items() if path.startswith("chip.")}
    return Varied(varied.spec.chip, own)


def die_columns(varied: Varied[Chip]) -> dict[str, Array]:
    """Area of all dies [mm2] and the TDP that they need [W], shapes () or (P,); NaN where the area is unknown."""
    technology = load_technology()
    if unknown(varied.spec, technology):
        return {name: array(np.nan) for name in DIE_METRICS}
    area = die_area(varied, technology).total
    return {"area_mm2": area, "tdp_w": design_power(varied, area, technology)}


def die_facts(chip: Chip) -> list[dict[str, str]]:
    """What follows for a chip's die, as `show` lists it: components, total against the published one, TDP."""
    technology = load_technology()
    reason = unknown(chip, technology)
    if reason:
        return [_fact("die.area", "unknown", reason)]
    area = die_area(Varied(chip), technology)
    total = float(area.total)
    rows = [_fact(f"die.area.{f.name}", f"{float(getattr(area, f.name)):.4g} mm2") for f in fields(DieArea)]
    published = chip.die.area
    against = "" if published is None else f"published {published.text}: {total / published.si - 1.0:+.1%}"
    rows.append(_fact("die.area", f"{total:.4g} mm2", against))
    power = float(design_power(Varied(chip), array(total), technology))
    return [
        *rows,
        _fact("power.static", f"{float(static_power(Varied(chip), array(total), technology)):.3g} W"),
        _fact(
            "power.tdp", f"{power:.4g} W", f"limit {chip.power.limit.text}: {power / chip.power.limit.si - 1.0:+.1%}"
        ),
    ]


def _fact(path: str, value: str, note: str = "") -> dict[str, str]:
    return {"path": path, "value": value, "kind": "derived", "source": "technology 'silicon'", "note": note}
