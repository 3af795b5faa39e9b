"""Named checks of a description at load: published totals against the primaries, and what must hold.

A total may differ from its primaries by 2 %; more must be declared in `published.deviations` under the
name of the check, with the reason (two clocks on one datasheet, a capped product).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cosim.documents import Document
from cosim.errors import SpecError, nearest
from cosim.hardware.chip import Chip
from cosim.hardware.lower import KERNEL_CONSTANTS, ChipArrays, lower_chip
from cosim.hardware.system import SWITCHED, System, Tier, size_of
from cosim.units import format_si

TOLERANCE = 0.02


@dataclass(frozen=True)
class Check:
    """One named check: the published total, what the primaries give, the declared reason if they differ."""

    name: str
    published: float
    derived: float
    unit: str
    reason: str | None

    @property
    def deviation(self) -> float:
        """derived / published - 1."""
        return self.derived / self.published - 1.0

    @property
    def passes(self) -> bool:
        """Within 2 %, or the deviation is declared."""
        return abs(self.deviation) <= TOLERANCE or self.reason is not None


def chip_checks(chip: Chip) -> list[Check]:
    """All checks of published totals: `peak.<dtype>`, `bandwidth.<role>`, `links.<name>`."""
    arrays = lower_chip(chip)
    reasons = chip.published.deviations
    return [Check(n, published, derived, unit, reasons.get(n)) for n, published, derived, unit in _pairs(chip, arrays)]


def check_chip(chip: Chip, document: Document) -> None:
    """Raises SpecError for the first check that fails, a doubled datum, or a deviation nobody needs."""
    _no_doubles(chip, document)
    checks = chip_checks(chip)
    for check in checks:
        if not check.passes:
            raise _at(
                document,
                f"published.{check.name}",
                f"published {format_si(check.published, check.unit)}, but the primaries give "
                f"{format_si(check.derived, check.unit)} ({check.deviation:+.1%})",
                f"correct a primary, or declare the reason under published.deviations: {{{check.name}: ...}}",
            )
    _reserves(chip, document)
    _constants(chip, document)
    _deviations(chip, checks, document)


def _deviations(chip: Chip, checks: list[Check], document: Document) -> None:
    """A declared deviation belongs to a published total that does deviate."""
    known = {check.name: check for check in checks}
    for name in chip.published.deviations:
        field = f"published.deviations.{name}"
        if name not in known:
            raise _at(
                document, field, "declares the deviation of a total that is not published", "known: " + ", ".join(known)
            )
        if abs(known[name].deviation) <= TOLERANCE:
            raise _at(document, field, "declares a deviation where there is none", "leave it out")


def _reserves(chip: Chip, document: Document) -> None:
    """What the runtime keeps is less than what there is."""
    for role, level in lower_chip(chip).memory.items():
        kept, there = float(level.reserved), float(level.capacity)
        if kept >= there:
            problem = f"reserves {format_si(kept, 'B')} of {format_si(there, 'B')}"
            hint = "what the runtime keeps must be less than the capacity"
            raise _at(document, f"memory.{role}.reserved", problem, hint)


def _constants(chip: Chip, document: Document) -> None:
    """Kernel constants are those that the tile model knows."""
    for name in chip.calibration.constants if chip.calibration is not None else {}:
        if name not in KERNEL_CONSTANTS:
            field = f"calibration.constants.{name}"
            raise _at(document, field, "is no kernel constant", nearest(name, KERNEL_CONSTANTS))


def check_system(system: System, document: Document | None = None) -> None:
    """Raises SpecError for the first tier that cannot be: its link, its size, its shape, its collectives."""
    if not system.tiers:
        raise _at(document, "tiers", "a system needs at least one tier", "the first joins the chips of a node")
    _check_protocols(system, document)
    names = [tier.name for tier in system.tiers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _at(document, "tiers", f"has two tiers '{twice}'", "links and paths are named by their tier")
    if system.nodes_are is not None and system.nodes_are not in names:
        problem = f"names tier '{system.nodes_are}', which is not there"
        raise _at(document, "nodes_are", problem, nearest(system.nodes_are, names))
    last = len(system.tiers) - 1
    for index, tier in enumerate(system.tiers):
        problem, hint = _tier_fault(system, tier, index, last)
        if problem:
            raise _at(document, f"tiers.{index}", f"tier '{tier.name}' {problem}", hint)
    beyond = system.tiers[system.node_tier + 1 :]
    most = math.prod(math.inf if size_of(tier) is None else float(size_of(tier) or 1.0) for tier in beyond)
    if system.nodes.si > most:
        joined = ", ".join(f"{tier.name} {size_of(tier):g}" for tier in beyond) or "no tier lies beyond the node"
        hint = f"its tiers join {most:g} nodes at most ({joined}); give a tier a greater size, or ask for fewer nodes"
        raise _at(document, "nodes", f"asks for {system.nodes.si:g} nodes", hint)


def _tier_fault(system: System, tier: Tier, index: int, last: int) -> tuple[str, str]:
    """What is wrong with a tier and what would be right; two empty words where nothing is."""
    if tier.link not in system.chip.links:
        return f"names link '{tier.link}', which {system.chip.name} has not", nearest(tier.link, system.chip.links)
    if size_of(tier) is None and (index <= system.node_tier or index < last):
        return "has no size", "every tier but the last says how many units it joins"
    count = system.chip.links[tier.link].count
    wires = None if count is None or tier.bandwidth is not None else int(count.si)
    if tier.kind == "torus" and tier.shape and wires is not None and wires % (2 * len(tier.shape)):
        hint = "every dimension has two links of a chip, or more alike; a length of 1 is a dimension too"
        return f"has {len(tier.shape)} dimensions for the {wires} links of a chip", hint
    problem, hint = _shape_fault(tier)
    return (problem, hint) if problem else _constants_fault(tier)


def _shape_fault(tier: Tier) -> tuple[str, str]:
    return next(_shape_faults(tier), ("", ""))


def _shape_faults(tier: Tier) -> Iterator[tuple[str, str]]:
    """What is wrong with the size and shape of a tier, first things first, and what would be right."""
    size, shape = size_of(tier), list(tier.shape)
    if tier.kind == "torus" and not shape:
        yield "is a torus without a shape", "shape: [4, 4, 4] are the units along each dimension"
    if shape and tier.kind not in ("torus", "dragonfly"):
        yield f"is a {tier.kind} with a shape", "only a torus and a dragonfly have one"
    if any(length < 1 for length in shape):
        yield f"has shape {shape}", "every dimension is 1 or longer"
    if tier.kind == "dragonfly" and shape and len(shape) != len(("routers", "groups")):
        yield f"is a dragonfly of shape {shape}", "shape: [routers of a group, groups]"
    if shape and size is not None and math.prod(shape) != int(size):
        yield f"has shape {shape}, which makes {math.prod(shape)} and not size {size:g}", "give one or the other anew"
    if tier.kind == "hypercube_mesh" and size is not None and not math.log2(size).is_integer():
        yield f"is a hypercube mesh of {size:g}", "a hypercube has 2, 4, 8, 16 .. units"
    if tier.optical and tier.wrap_from is None:
        yield "is optical without wrap_from", "give the side of a block that the optical switches join"
    over = tier.oversubscription
    if over is not None and over.si < 1.0:
        yield f"has an oversubscription of {over.si:g}", "bandwidth into a unit over what leaves it is 1 or more"


def _check_protocols(system: System, document: Document | None) -> None:
    """Tiers that one collective crosses share a protocol, or have one alone."""
    several = [tier for tier in system.tiers if len(tier.constants.protocols) > 1]
    common = set.intersection(*(set(tier.constants.protocols) for tier in several)) if several else {""}
    if not common:
        named = "; ".join(f"'{tier.name}' has {', '.join(tier.constants.protocols)}" for tier in several)
        raise _at(document, "tiers", "tiers share no protocol", f"{named}: name those alike that go together")


def _constants_fault(tier: Tier) -> tuple[str, str]:
    constants = tier.constants
    if not constants.protocols:
        return "has no protocol", "constants.protocols needs one with its start, hop and share"
    if not constants.algorithms:
        return "has no algorithm", "constants.algorithms: [ring] is the least"
    if "in_network" in constants.algorithms and tier.kind not in SWITCHED:
        return f"is a {tier.kind}, which has no switch to reduce in", "leave in_network out of constants.algorithms"
    if "in_network" in constants.algorithms and None in (constants.in_network_share, constants.in_network_start):
        hint = "give constants.in_network_share, the share of link bandwidth that it reaches, and in_network_start"
        return "offers in_network reduction without its share or start", hint
    return "", ""


def _at(document: Document | None, field: str, problem: str, hint: str) -> SpecError:
    """An error at a field, with its place where it came from a file."""
    if document is None:
        return SpecError(problem, field=field, hint=hint)
    return SpecError(problem, file=document.path, line=document.line(field), field=field, hint=hint)


def _pairs(chip: Chip, arrays: ChipArrays) -> Iterator[tuple[str, float, float, str]]:
    for dtype, datum in chip.published.peak.items():
        if dtype not in arrays.matrix.peak:
            raise SpecError("has a published peak but no rate", field=f"published.peak.{dtype}")
        yield f"peak.{dtype}", datum.si, float(arrays.matrix.peak[dtype]), "FLOP/s"
    for role, datum in chip.published.bandwidth.items():
        if role not in arrays.memory:
            raise SpecError("is the bandwidth of a level that the chip has not", field=f"published.bandwidth.{role}")
        yield f"bandwidth.{role}", datum.si, float(arrays.memory[role].bandwidth), "B/s"
    for name, datum in chip.published.links.items():
        if name not in arrays.links:
            raise SpecError("is the total of a link that the chip has not", field=f"published.links.{name}")
        yield f"links.{name}", datum.si, float(arrays.links[name]), "B/s"


def _no_doubles(chip: Chip, document: Document) -> None:
    doubles = [f"memory.{r}.bandwidth" for r, m in chip.memory.items() if m.bandwidth is not None and m.has_primaries]
    doubles += [
        f"memory.{r}.capacity"
        for r, m in chip.memory.items()
        if m.capacity is not None and m.stack_capacity is not None
    ]
    doubles += [f"links.{n}.bandwidth" for n, k in chip.links.items() if k.bandwidth is not None and k.has_primaries]
    if chip.vector.peak is not None and chip.vector.rate is not None:
        doubles.append("vector.peak")
    if chip.special.peak is not None and chip.special.rate is not None:
        doubles.append("special.peak")
    if chip.matrix.kind != "roofline":
        doubles += [f"matrix.peak.{dtype}" for dtype in chip.matrix.peak]
    if doubles:
        problem = "is given together with the primaries that it derives from"
        raise _at(
            document, doubles[0], problem, "keep the primaries; a published total goes under 'published:' as a check"
        )
