"""Named checks of a description at load: published totals against the primaries, and what must hold.

A total may differ from its primaries by 2 %; more must be declared in `published.deviations` under the
name of the check, with the reason (two clocks on one datasheet, a capped product).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cosim.documents import Document
from cosim.errors import SpecError, nearest
from cosim.hardware.chip import Chip
from cosim.hardware.lower import KERNEL_CONSTANTS, ChipArrays, lower_chip
from cosim.hardware.system import System
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
            raise SpecError(
                f"published {format_si(check.published, check.unit)}, but the primaries give "
                f"{format_si(check.derived, check.unit)} ({check.deviation:+.1%})",
                file=document.path,
                line=document.line(f"published.{check.name}"),
                field=f"published.{check.name}",
                hint=f"correct a primary, or declare the reason under published.deviations: {{{check.name}: ...}}",
            )
    _reserves(chip, document)
    _constants(chip, document)
    _deviations(chip, checks, document)


def _deviations(chip: Chip, checks: list[Check], document: Document) -> None:
    """A declared deviation belongs to a published total that does deviate."""
    for check in checks:
        if check.reason is not None and abs(check.deviation) <= TOLERANCE:
            raise _at(document, f"published.deviations.{check.name}", "declares a deviation where there is none")
    for name in chip.published.deviations:
        if name not in {check.name for check in checks}:
            raise SpecError(
                "declares the deviation of a total that is not published",
                file=document.path,
                line=document.line(f"published.deviations.{name}"),
                field=f"published.deviations.{name}",
                hint="known: " + ", ".join(check.name for check in checks),
            )


def _reserves(chip: Chip, document: Document) -> None:
    """What the runtime keeps is less than what there is."""
    for role, level in lower_chip(chip).memory.items():
        if float(level.reserved) >= float(level.capacity):
            raise SpecError(
                f"reserves {format_si(float(level.reserved), 'B')} of {format_si(float(level.capacity), 'B')}",
                file=document.path,
                line=document.line(f"memory.{role}.reserved"),
                field=f"memory.{role}.reserved",
                hint="what the runtime keeps must be less than the capacity",
            )


def _constants(chip: Chip, document: Document) -> None:
    """Kernel constants are those that the tile model knows."""
    constants = chip.calibration.constants if chip.calibration is not None else {}
    for name in constants:
        if name not in KERNEL_CONSTANTS:
            field = f"calibration.constants.{name}"
            raise SpecError(
                "is no kernel constant",
                file=document.path,
                line=document.line(field),
                field=field,
                hint=nearest(name, KERNEL_CONSTANTS),
            )


def check_system(system: System, document: Document | None = None) -> None:
    """Raises SpecError where a tier names an unknown link, a torus does not multiply out, or there is no tier."""
    if not system.tiers:
        raise _at(document, "tiers", "a system needs at least one tier")
    for index, tier in enumerate(system.tiers):
        where = f"tiers.{index}"
        problem: str | None = None
        if tier.link not in system.chip.links:
            problem = f"names link '{tier.link}', which {system.chip.name} has not"
        elif tier.kind == "torus" and int(np.prod(tier.shape or (0,))) != int(tier.size.si):
            problem = f"shape {tier.shape} does not multiply to size {tier.size.si:g}"
        elif "in_network" in tier.algorithms and None in (tier.in_network, tier.in_network_latency):
            problem = "offers in_network reduction without in_network (share of link bandwidth) and in_network_latency"
        elif index > 1:
            problem = "a third tier is not modelled yet"
        if problem is not None:
            raise _at(document, where, problem)


def _at(document: Document | None, field: str, problem: str) -> SpecError:
    """An error at a field, with its place where it came from a file."""
    if document is None:
        return SpecError(problem, field=field)
    return SpecError(problem, file=document.path, line=document.line(field), field=field)


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
    for field in doubles:
        raise SpecError(
            "is given together with the primaries that it derives from",
            file=document.path,
            line=document.line(field),
            field=field,
            hint="keep the primaries; a published total goes under 'published:' as a check",
        )
