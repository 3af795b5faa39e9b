"""Chips left out one at a time: a chip's steps from its specification, with no constant that was fitted on it.

    kernels      the library `generic-tile` in place of one that is fitted on it or lent to it, with the quality of a
                 new chip; of a chip whose kernels are generic anyway, the qualities that were measured
    real data    as fitted on the chips of another generation, where the own was fitted on it or on its base
    collectives  a library of its kind of link of which nothing is fitted, where the constants of its own are measured

Its clocks, engines, caches, bandwidths, energies and links stay; so do the constants of stacks, though some of their
rows ran on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from cosim.datum import Datum, Factor
from cosim.hardware.chip import Chip, Quality
from cosim.hardware.collectives import CollectiveConstants
from cosim.hardware.load import load_chip, load_collectives, load_kernels, load_system
from cosim.hardware.system import System, Tier
from cosim.validation.cases import Case as Row
from cosim.validation.training import Answer, answers
from cosim.validation.training_known import Fit

KERNELS = "generic-tile"
"""Library of kernels of no chip's own table."""
NEW_CHIP = "asic-template"
"""Chip whose quality is the range over vendors."""
COLLECTIVES = {"scale_up": "generic-fabric", "scale_out": "generic-network"}
"""Libraries of collectives by the chip's link, nothing fitted."""
REAL_DATA = "power.real_data"


@dataclass(frozen=True, slots=True)
class Unfitted:
    """A system from its specification, and what of it had been fitted, in words; nothing: it is the system itself."""

    system: System
    replaced: tuple[str, ...]


def left_out(rows: Sequence[Row], fits: Sequence[Fit]) -> list[Answer]:
    """Answers to rows, every system from the specification of its chip alone."""

    @lru_cache(maxsize=64)
    def specified(name: str) -> System:
        return unfitted(load_system(name), fits).system

    return answers(rows, specified)


def unfitted(system: System, fits: Sequence[Fit]) -> Unfitted:
    """The system without constants that were fitted on its chip or its links."""
    chip, replaced = _chip(system.chip, fits)
    tiers: list[Tier] = []
    for tier in system.tiers:
        generic = COLLECTIVES.get(tier.link)
        if generic is not None and is_measured(tier.constants):
            update = {"collectives": generic, "constants": _constants(generic)}
            reached = tier.efficiency is not None and tier.efficiency.kind == "measured"
            tiers.append(tier.model_copy(update=update | ({"efficiency": None} if reached else {})))
            replaced = (*replaced, f"collectives of {tier.name}")
        else:
            tiers.append(tier)
    return Unfitted(system.model_copy(update={"chip": chip, "tiers": tuple(tiers)}), replaced)


def is_measured(constants: CollectiveConstants) -> bool:
    """Whether some constant of a library was fitted on measurements, on this link or one that lent it."""
    protocols = (datum for protocol in constants.protocols.values() for datum in _data(protocol))
    return any(datum.kind == "measured" for datum in (*protocols, *_data(constants)))


def others_real_data(chip: Chip, fits: Iterable[Fit], read: Callable[[str], Chip] = load_chip) -> Factor | None:
    """The factor of real data that was fitted on chips of another generation: the first that is not the chip's own.

    None where the chip's was not fitted, on it or on the chip that it is based on, or nothing else was.
    """
    fitted = [read(fit.name).power.real_data for fit in fits if REAL_DATA in fit.constants]
    others = [datum for datum in fitted if datum is not None and datum != chip.power.real_data]
    return others[0] if others and len(others) < len(fitted) else None


def _chip(chip: Chip, fits: Sequence[Fit]) -> tuple[Chip, tuple[str, ...]]:
    """The chip from its specification, and what was replaced."""
    changed: dict[str, Any] = {}
    replaced: list[str] = []
    if chip.calibration is not None and (chip.is_fitted or chip.calibration.library != KERNELS):
        generic = load_kernels(KERNELS)
        changed["calibration"] = chip.calibration.model_copy(
            update={"library": KERNELS, "fitted_on": (), "data": generic.data, "constants": generic.constants}
        )
        replaced.append("kernels")
    quality = load_chip(NEW_CHIP).quality if replaced else _quality(chip.quality)
    if quality != chip.quality:
        changed["quality"] = quality
        replaced.append("quality")
    other = others_real_data(chip, fits)
    if other is not None:
        changed["power"] = chip.power.model_copy(update={"real_data": other})
        replaced.append("real data")
    return chip.model_copy(update=changed), tuple(replaced)


def _quality(quality: Quality) -> Quality:
    """Measured qualities as a new chip has them; of formats apart none are known."""
    new = load_chip(NEW_CHIP).quality
    names = ("matmul", "attention", "memory", "collective")
    measured: dict[str, Any] = {name: getattr(new, name) for name in names if getattr(quality, name).kind == "measured"}
    if any(datum.kind == "measured" for datum in quality.matmul_formats.values()):
        measured["matmul_formats"] = {}
    return quality.model_copy(update=measured)


@lru_cache(maxsize=8)
def _constants(name: str) -> CollectiveConstants:
    """Constants of a library of collectives, without what names it."""
    found = load_collectives(name)
    return CollectiveConstants.model_validate({key: getattr(found, key) for key in CollectiveConstants.model_fields})


def _data(spec: BaseModel) -> list[Datum]:
    return [value for name in type(spec).model_fields if isinstance(value := getattr(spec, name), Datum)]
