"""A system's network in numbers: every tier and the whole, each number known or with the reason why it is not.

Between the farthest chips a tier of switches that all chips reach is taken alone, the longer of it and of what lies
inside. Tiers that join equal places only (wired chips, rails of one level) come on top of what lies inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cosim.hardware.fabric import Parts, over, parts, ports
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System, Tier
from cosim.hardware.tier_facts import PRICED, TierFacts, tier_facts
from cosim.hardware.tiers import TierArrays
from cosim.hardware.topology import SWITCHED, held, system_bisection
from cosim.overrides import Varied


def network_facts(varied: Varied[System]) -> tuple[tuple[TierFacts, ...], TierFacts]:
    """Every tier, innermost first, and the whole network of one system. Raises SpecError as lowering does."""
    system, lowered = varied.spec, lower_system(varied)
    tiers, chips = lowered.tiers, float(lowered.chips)
    inside = [float(each) for each in held(tiers)]
    facts = []
    for index, (tier, arrays) in enumerate(zip(system.tiers, tiers, strict=True)):
        made = _parts(system, tiers, index, inside)
        facts.append(tier_facts(tier, arrays, made, inside[index], inside[-1] / inside[index + 1]))
    rails = [_same_place(tier, fact) for tier, fact in zip(system.tiers, facts, strict=True)]
    return tuple(facts), _whole(facts, rails, float(system_bisection(tiers, lowered.chips, rails)), chips, system.name)


def _parts(system: System, tiers: Sequence[TierArrays], index: int, inside: Sequence[float]) -> Parts:
    """Switches and cables of a tier; what switches of other tiers on the same links need or leave is counted."""
    tier, units = system.tiers[index], float(tiers[index].size)
    link = system.chip.links[tier.link]
    alike = [
        i for i, t in enumerate(system.tiers) if t.link == tier.link and t.kind in SWITCHED and float(tiers[i].size) > 1
    ]
    leaving = tier.kind in SWITCHED and any(i < index for i in alike)
    wider = next((system.tiers[i] for i in alike if i > index), None)
    beyond = 0.0 if wider is None else inside[index + 1] * ports(wider, link) / over(wider)
    return parts(tier, link, units, inside[index], leaving=leaving, beyond=beyond)


def _same_place(tier: Tier, facts: TierFacts) -> bool:
    """Whether a tier joins only chips of the same place in their units."""
    return tier.kind not in (*SWITCHED, "bus") or (tier.rails and facts.levels == 1.0)


def _whole(facts: Sequence[TierFacts], rails: Sequence[bool], across: float, chips: float, name: str) -> TierFacts:
    """All instances of all tiers together; between the farthest chips as the head of the module says."""
    used = [(fact, on_top) for fact, on_top in zip(facts, rails, strict=True) if fact.units > 1.0]
    unknown: dict[str, str] = {}
    values: dict[str, float] = {}
    for key in ("switches", "cables", *PRICED):
        values[key] = float(sum(fact.instances * getattr(fact, key) for fact, _ in used))
    for key in ("steps", "links", "latency", "levels"):
        values[key] = 0.0
        for fact, on_top in used:
            own, before = getattr(fact, key), values[key]
            # NaN is neither greater nor less: it must stay.
            values[key] = own + before if (on_top and key != "levels") or math.isnan(own + before) else max(own, before)
    for key, value in values.items():
        if math.isnan(value):
            unknown[key] = "; ".join(f"{fact.name}: {fact.unknown[key]}" for fact, _ in used if key in fact.unknown)
    if not used or math.isnan(across):
        across = math.nan
        unknown["bisection"] = "; ".join(f"{f.name}: {f.unknown.get('bisection', '')}" for f in facts)
    return TierFacts(
        name=name,
        kind="system",
        units=chips,
        chips=chips,
        instances=1.0,
        bandwidth=used[-1][0].bandwidth if used else 0.0,
        bisection=across,
        unknown=unknown,
        **values,
    )
