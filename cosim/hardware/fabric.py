"""Switches and cables of a tier: how many of a given radix join so many chips.

A folded Clos of radix r, oversubscribed o times at its leaves, which keep r o/(1 + o) ports for ends:

    levels   most ends (o = 1)   switches for E ends, U = E / o              wires between switches
    1        r                   1                                           0
    2        r^2 / 2             E / down + U / r                            U
    3        r^3 / 4             E / down + U / (r/2) + U / r                2 U

every quotient rounded up. Ports that lead to a wider tier over the same links are taken at the top level.

A chip has as many ports as its bandwidth on the tier holds links; planes share them out, one each at the least. Where
a narrower tier of switches has the same links, the ends are what leaves it, and one stage joins up to r units: a Clos
may be told as one tier, or as a tier for every level. Chips of a rail that meet at one switch need no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cosim.hardware.memory import Link
from cosim.hardware.system import SWITCHED, Tier, closed


@dataclass(frozen=True, slots=True)
class Clos:
    """Levels, switches, and wires between switches."""

    levels: int
    switches: float
    wires: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What one instance of a tier is made of; NaN is unknown, and `unknown` says why."""

    levels: float
    switches: float
    cables: float
    unknown: str = ""


def most_ends(radix: float, levels: int, over: float = 1.0) -> float:
    """Ends that a folded Clos of 1, 2 or 3 levels joins."""
    return radix if levels == 1 else _down(radix, over) * radix * (radix // 2 if levels == 3 else 1.0)


def clos(ends: float, radix: float, over: float = 1.0, beyond: float = 0.0) -> Clos | None:
    """The smallest of at most three levels with `beyond` ports free at its top; None where three do not do."""
    if ends + beyond <= radix:
        return Clos(1, 1.0, 0.0)
    up, down = math.ceil(ends / over), _down(radix, over)
    # Of the top level's ports only this share leads down.
    share = up / (up + beyond)
    top = math.ceil((up + beyond) / radix)
    if down >= 1.0 and ends <= most_ends(radix, 2, over) * share:
        return Clos(2, float(math.ceil(ends / down) + top), float(up))
    if down >= 1.0 and ends <= most_ends(radix, 3, over) * share:
        return Clos(3, float(math.ceil(ends / down) + math.ceil(up / (radix // 2)) + top), 2.0 * up)
    return None


def ports(tier: Tier, link: Link) -> float:
    """Ports of a chip in one plane of a tier, at the speed of one link."""
    total = link.rate.si * link.count.si if link.rate and link.count else link.bandwidth.si if link.bandwidth else 0.0
    speed = link.rate.si if link.rate else total
    own = (total if tier.bandwidth is None else tier.bandwidth.si) / speed
    count = planes(tier)
    return own / count if count <= max(own, 1.0) else 1.0


def planes(tier: Tier) -> float:
    """Separate networks of a tier, 1 where nothing is said."""
    return 1.0 if tier.planes is None else tier.planes.si


def over(tier: Tier) -> float:
    """Bandwidth into a unit over what leaves it, 1 where nothing is said."""
    return 1.0 if tier.oversubscription is None else tier.oversubscription.si


def parts(tier: Tier, link: Link, units: float, chips: float, *, leaving: bool = False, beyond: float = 0.0) -> Parts:
    """Switches and cables that join `units` units of `chips` chips each.

    `leaving`: a narrower tier has switches on the same links, and only what leaves those comes here. `beyond`: ports of
    every plane that lead to a wider tier.
    """
    if units <= 1.0:
        return Parts(0.0, 0.0, 0.0)
    if tier.kind not in SWITCHED:
        return _direct(tier, link, units, chips)
    ends = units * chips * ports(tier, link) / (over(tier) if leaving else 1.0)
    if tier.kind == "dragonfly":
        return _dragonfly(tier, units, ends * planes(tier))
    # One stage in planes that are counted is a switch a plane, whatever its radix.
    whole = math.inf if tier.kind == "switch" and tier.planes is not None else None
    radix = whole if tier.radix is None else tier.radix.si
    if radix is None:
        return _unknown("radix is not given")
    return _staged(tier, radix, ends, beyond, (units, chips), leaving=leaving)


def _staged(
    tier: Tier, radix: float, ends: float, beyond: float, members: tuple[float, float], *, leaving: bool
) -> Parts:
    """A Clos for every plane, or one stage side by side: of a `switch`, of rails that meet, above other switches.

    On rails a switch has one chip of each unit; above other switches it has a wire of each unit, as in a Clos.
    """
    count, (units, chips) = planes(tier), members
    groups = chips if tier.rails else 1.0
    meet = units if tier.rails or leaving else units * chips
    fits = (ends + beyond) / groups <= radix if tier.rails and not leaving else leaving and meet <= radix
    if tier.kind == "switch" and meet > radix:
        return _unknown(f"{meet:,.0f} do not meet at one switch of radix {radix:g}")
    if tier.kind == "switch" or fits:
        groups = 1.0 if leaving else groups
        own = groups * max(math.ceil(round((ends + beyond) / groups / radix, 9)), 1.0)
        return Parts(1.0, count * own, float(math.ceil(round(count * ends, 9))))
    found = clos(math.ceil(ends), radix, 1.0 if leaving else over(tier), beyond)
    if found is None:
        return _unknown(f"{math.ceil(ends):,} ends are more than three levels of radix {radix:g} join")
    return Parts(float(found.levels), count * found.switches, count * (math.ceil(ends) + found.wires))


def _down(radix: float, over: float) -> float:
    """Ports of a leaf that lead to ends; one at least leads up."""
    return float(min(math.floor(round(radix * over / (1.0 + over), 9)), radix - 1.0))


def _direct(tier: Tier, link: Link, units: float, chips: float) -> Parts:
    """Chips wired to chips: a cable joins two ports, fewer where a line does not close. A bus has one a unit."""
    if tier.kind == "bus":
        return Parts(0.0, 0.0, units)
    wired = 1.0
    if tier.shape:
        sides = list(zip(tier.shape, closed(tier), strict=True))
        wired = sum(1.0 if closes and length > 1 else 1.0 - 1.0 / length for length, closes in sides) / len(sides)
        units = min(units, math.prod(tier.shape))
    cables = math.ceil(round(units * chips * planes(tier) * ports(tier, link) * wired / 2.0, 9))
    return Parts(0.0, _optical(tier, chips), float(cables))


def _optical(tier: Tier, chips: float) -> float:
    """Optical switches: one for every two opposite wires of the faces of a block, whatever number of blocks."""
    if not tier.optical or tier.wrap_from is None or not all(closed(tier)):
        return 0.0
    return len(tier.shape) * tier.wrap_from.si ** (len(tier.shape) - 1) * chips


def _dragonfly(tier: Tier, units: float, ends: float) -> Parts:
    """A router for every unit; inside a group all are joined, and the global wires leave as the ends come in."""
    if len(tier.shape) != 2:
        return _unknown("a dragonfly needs a shape: (routers of a group, groups)")
    routers = min(float(tier.shape[0]), units)
    groups = math.ceil(units / routers)
    wide = ends / over(tier) if groups > 1 else 0.0
    needed = math.ceil(round((ends + wide) / units / planes(tier) + routers - 1.0, 9))
    if tier.radix is not None and needed > tier.radix.si:
        return _unknown(f"a router needs {needed:g} ports, radix is {tier.radix.si:g}")
    local = groups * routers * (routers - 1.0) / 2.0 * planes(tier)
    return Parts(3.0 if groups > 1 else 2.0, units * planes(tier), float(math.ceil(ends + local + wide / 2.0)))


def _unknown(why: str) -> Parts:
    return Parts(math.nan, math.nan, math.nan, why)
