"""Shapes that optical switches can give a torus: the same chips, other rings.

Blocks of w chips along each side are joined whole, so that every dimension is a multiple of w and closes; what is
within one block is cut from it and stays open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cosim.hardware.system import Tier, closed
from cosim.hardware.tiers import TierArrays
from cosim.hardware.topology import bisection, steps
from cosim.records import array


@dataclass(frozen=True, slots=True)
class TorusShape:
    """A shape, whether its rings close, bandwidth between its halves [B/s], steps between its farthest units."""

    shape: tuple[int, ...]
    closes: bool
    bisection: float
    steps: float


def torus_shapes(spec: Tier, tier: TierArrays, chips: float, units: float | None = None) -> tuple[TorusShape, ...]:
    """Shapes for `units` units of `chips` chips, those of the tier unless told: most bisection, then fewest steps.

    Empty where the torus is not optical, or where blocks do not make the number.
    """
    count = float(tier.size) if units is None else units
    if not spec.optical or spec.wrap_from is None or count != round(count):
        return ()
    found = []
    for shape in legal_shapes(int(count), int(spec.wrap_from.si), len(spec.shape)):
        whole = closed(spec.model_copy(update={"shape": shape}))
        one = replace(tier, size=array(count), most=array(count), shape=shape, closed=whole)
        found.append(TorusShape(shape, all(whole), float(bisection(one, array(chips))), float(steps(one))))
    return tuple(sorted(found, key=lambda each: (-each.bisection, each.steps, each.shape)))


def legal_shapes(units: int, block: int, dimensions: int) -> Iterator[tuple[int, ...]]:
    """Shapes of so many units, shortest side first: whole blocks along every side, or a part of one block."""
    for shape in _factors(units, dimensions, 1):
        if all(length % block == 0 for length in shape) or shape[-1] <= block:
            yield shape


def _factors(product: int, count: int, least: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a number as so many factors, in rising order."""
    if count == 1:
        if product >= least:
            yield (product,)
        return
    for first in range(least, round(product ** (1.0 / count)) + 1):
        if product % first == 0 and math.pow(first, count) <= product * (1.0 + 1e-9):
            for rest in _factors(product // first, count - 1, first):
                yield (first, *rest)
