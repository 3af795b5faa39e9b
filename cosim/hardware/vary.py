"""Overrides of a system: the general rules plus the one of derived values.

Overriding a derived value replaces it; overriding it and one of its primaries together is an error,
because nobody can say which of the two was meant.
"""

from __future__ import annotations

import fnmatch
from dataclasses import replace

from cosim.errors import SpecError
from cosim.hardware.checks import check_system
from cosim.hardware.chip import Chip
from cosim.hardware.system import System
from cosim.overrides import Overrides, Varied, vary

_DERIVED: dict[str, tuple[str, ...]] = {
    "matrix.peak.*": ("cores", "matrix.[cra]*"),
    "memory.*.bandwidth": ("{}.stacks", "{}.pins", "{}.pin_rate", "{}.bytes_per_cycle", "{}.clock"),
    "memory.*.capacity": ("{}.stacks", "{}.stack_capacity"),
    "links.*.bandwidth": ("{}.count", "{}.rate"),
    "vector.peak": ("{}.rate", "{}.clock"),
    "special.peak": ("{}.rate", "{}.clock"),
}
SIZES = ("capacity", "stacks", "stack_capacity")
"""Fields of a memory from which its size follows."""
_STRUCTURE = ("cores", "matrix.rows", "matrix.columns", "matrix.arrays", "matrix.clock")


def vary_system(varied: Varied[System], overrides: Overrides) -> Varied[System]:
    """`varied` with `overrides` (paths below `system.`). Raises SpecError, see `cosim.overrides.vary`."""
    _check(varied.spec.chip, overrides, varied.touched, "chip.", "system.chip.")
    for path in overrides:
        if fnmatch.fnmatch(path, "tiers.*.collectives"):
            hint = f"name it in the system's file, or set system.{path.removesuffix('collectives')}constants.NAME"
            raise SpecError("is read with the system and cannot be varied", field=f"system.{path}", hint=hint)
    changed = vary(varied, overrides, root="system.")
    resized = {
        path.split(".")[2] for path in overrides if fnmatch.fnmatch(path, "chip.memory.*") and path.endswith(SIZES)
    }
    if resized:
        changed = replace(changed, spec=_unshown(changed.spec, resized))
    try:
        check_system(changed.spec)
    except SpecError as error:
        raise SpecError(error.problem, field=f"system.{error.field}", hint=error.hint) from None
    return changed


def vary_chip(varied: Varied[Chip], overrides: Overrides) -> Varied[Chip]:
    """`varied` with `overrides` (paths of the chip). Raises SpecError, see `cosim.overrides.vary`."""
    _check(varied.spec, overrides, varied.touched, "", "chip.")
    return vary(varied, overrides, root="chip.")


def _unshown(system: System, roles: set[str]) -> System:
    """The system without what a driver shows of memories whose size is another now."""
    memory = {
        role: level.model_copy(update={"capacity_shown": None}) if role in roles else level
        for role, level in system.chip.memory.items()
    }
    return system.model_copy(update={"chip": system.chip.model_copy(update={"memory": memory})})


def _check(chip: Chip, overrides: Overrides, before: frozenset[str], prefix: str, shown: str) -> None:
    """Refuses structure of a chip that has none, and a derived value set together with its primary."""
    own = {path.removeprefix(prefix) for path in overrides if path.startswith(prefix)}
    if "kernels" in own:
        hint = f"name it in the chip's file, or set {shown}calibration.constants.NAME"
        raise SpecError("is read with the chip and cannot be varied", field=f"{shown}kernels", hint=hint)
    if chip.matrix.kind == "roofline":
        for path in sorted(own.intersection(_STRUCTURE)):
            raise SpecError(
                f"{chip.name} is known by its peaks only: its structure cannot be varied",
                field=f"{shown}{path}",
                hint=f"vary {shown}matrix.peak.<dtype>, or start from asic-template",
            )
    touched = own | {path.removeprefix(prefix) for path in before if path.startswith(prefix)}
    for pattern, primaries in _DERIVED.items():
        for derived in sorted(fnmatch.filter(touched, pattern)):
            parent = derived.rpartition(".")[0]
            clashing = sorted(p for q in primaries for p in fnmatch.filter(touched, q.format(parent)) if p != derived)
            if clashing and not _independent(chip, derived):
                raise SpecError(
                    f"is derived from {shown}{clashing[0]}, and both are set",
                    field=f"{shown}{derived}",
                    hint="set one of the two",
                )


def _independent(chip: Chip, derived: str) -> bool:
    """Whether the chip's file gives the value itself: then it derives from nothing."""
    parts = derived.split(".")
    if parts[0] == "memory" and parts[1] in chip.memory:
        level = chip.memory[parts[1]]
        return not level.has_primaries if parts[2] == "bandwidth" else level.stack_capacity is None
    return parts[0] == "links" and parts[1] in chip.links and not chip.links[parts[1]].has_primaries
