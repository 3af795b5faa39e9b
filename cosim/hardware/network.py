"""A system's network in numbers: every tier and the whole, each number known or with the reason why it is not.

Between the farthest chips a tier of switches that all chips reach is taken alone, the longer of it and of what lies
inside. Tiers that join equal places only (wired chips, rails of one level) come on top of what lies inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cosim.hardware.fabric import over, parts, ports
from cosim.hardware.lower import lower_system
from cosim.hardware.system import SWITCHED, System, Tier
from cosim.hardware.tier_facts import PRICED, TierFacts, tier_facts
from cosim.hardware.tiers import TierArrays
from cosim.hardware.topology import held, system_bisection
from cosim.overrides import Varied

_SUMMED = ("switches", "cables", *PRICED)
_WAYS = ("steps", "links", "latency")


def network_facts(varied: Varied[System]) -> tuple[tuple[TierFacts, ...], TierFacts]:
    """Every tier, innermost first, and the whole network of one system. Raises SpecError as lowering does."""
    system, lowered = varied.spec, lower_system(varied)
    tiers, chips = lowered.tiers, float(lowered.chips)
    inside = [float(each) for each in held(tiers)]
    alike = [_alike(system, tiers, index) for index in range(len(tiers))]
    facts: list[TierFacts] = []
    for index, (tier, arrays) in enumerate(zip(system.tiers, tiers, strict=True)):
        narrower = [facts[i] for i in alike[index] if i < index]
        wider = next((system.tiers[i] for i in alike[index] if i > index), None)
        link = system.chip.links[tier.link]
        beyond = 0.0 if wider is None else inside[index + 1] * ports(wider, link) / over(wider)
        # The last unit of the widest tier may be filled in part.
        each = min(inside[index], chips / float(arrays.size))
        made = parts(tier, link, float(arrays.size), each, leaving=bool(narrower), beyond=beyond)
        instances, below = math.ceil(chips / inside[index + 1]), sum(fact.levels for fact in narrower)
        facts.append(tier_facts(tier, arrays, made, each, float(instances), below))
    rails = [_same_place(tier, fact) for tier, fact in zip(system.tiers, facts, strict=True)]
    leaving = [any(i < index for i in same) for index, same in enumerate(alike)]
    across = float(system_bisection(tiers, lowered.chips, rails))
    return tuple(facts), _whole(facts, rails, leaving, across, chips, system.name)


def _alike(system: System, tiers: Sequence[TierArrays], index: int) -> list[int]:
    """Tiers of switches on the same links as one such tier, itself left out; those of one unit have no switches."""
    own = system.tiers[index]
    if own.kind not in SWITCHED:
        return []
    return [
        i
        for i, tier in enumerate(system.tiers)
        if i != index and tier.link == own.link and tier.kind in SWITCHED and float(tiers[i].size) > 1.0
    ]


def _same_place(tier: Tier, facts: TierFacts) -> bool:
    """Whether a tier joins only chips of the same place in their units."""
    return tier.kind not in (*SWITCHED, "bus") or (tier.rails and facts.levels == 1.0)


def _whole(
    facts: Sequence[TierFacts],
    rails: Sequence[bool],
    leaving: Sequence[bool],
    across: float,
    chips: float,
    name: str,
) -> TierFacts:
    """All instances of all tiers together; between the farthest chips as the head of the module says."""
    used = [(fact, rail, leaves) for fact, rail, leaves in zip(facts, rails, leaving, strict=True) if fact.units > 1.0]
    values = {key: float(sum(f.instances * getattr(f, key) for f, _, _ in used)) for key in _SUMMED}
    values |= {key: _way([(getattr(f, key), rail, leaves) for f, rail, leaves in used]) for key in _WAYS}
    values["levels"] = _way([(fact.levels, False, False) for fact, _, _ in used])
    values["bisection"] = across if used else math.nan
    there = [fact for fact, _, _ in used] or facts
    unknown = {
        key: "; ".join(f"{fact.name}: {fact.unknown[key]}" for fact in there if key in fact.unknown)
        for key, value in values.items()
        if math.isnan(value)
    }
    bandwidth = used[-1][0].bandwidth if used else 0.0
    return TierFacts(
        name=name,
        kind="system",
        units=chips,
        chips=chips,
        instances=1.0,
        bandwidth=bandwidth,
        unknown=unknown,
        **values,
    )


def _way(tiers: Sequence[tuple[float, bool, bool]]) -> float:
    """Of steps, wires or seconds between the farthest chips by tier; NaN where one is unknown.

    A tier on top of what lies inside adds to it, but not to narrower tiers of the switches that it leads on from.
    """
    far = before = 0.0
    for own, on_top, leaving in tiers:
        before = before if leaving else far
        # NaN is neither greater nor less: it must stay.
        far = own + before if on_top or math.isnan(own + far) else max(own, far)
    return far
