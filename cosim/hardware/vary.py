"""Overrides of a system: the general rules plus the one of derived values.

Overriding a derived value replaces it; overriding it and one of its primaries together is an error,
because nobody can say which of the two was meant.
"""

from __future__ import annotations

import fnmatch

from cosim.errors import SpecError
from cosim.hardware.system import System
from cosim.overrides import Overrides, Varied, vary

_DERIVED: dict[str, tuple[str, ...]] = {
    "chip.matrix.peak.*": ("chip.cores", "chip.matrix.[cra]*"),
    "chip.memory.*.bandwidth": ("{}.stacks", "{}.pins", "{}.pin_rate", "{}.bytes_per_cycle", "{}.clock"),
    "chip.links.*.bandwidth": ("{}.count", "{}.rate"),
    "chip.vector.peak": ("{}.rate", "{}.clock"),
    "chip.special.peak": ("{}.rate", "{}.clock"),
}
_STRUCTURE = ("chip.cores", "chip.matrix.rows", "chip.matrix.columns", "chip.matrix.arrays", "chip.matrix.clock")


def vary_system(varied: Varied[System], overrides: Overrides) -> Varied[System]:
    """`varied` with `overrides` (paths below `system.`). Raises SpecError, see `cosim.overrides.vary`."""
    if varied.spec.chip.matrix.kind == "roofline":
        for path in overrides:
            if path in _STRUCTURE:
                raise SpecError(
                    f"{varied.spec.chip.name} is known by its peaks only: its structure cannot be varied",
                    field=f"system.{path}",
                    hint="vary chip.matrix.peak.<dtype>, or start from asic-template",
                )
    touched = varied.touched | set(overrides)
    for pattern, primaries in _DERIVED.items():
        for derived in sorted(fnmatch.filter(touched, pattern)):
            parent = derived.rpartition(".")[0]
            clashing = [p for q in primaries for p in sorted(fnmatch.filter(touched, q.format(parent))) if p != derived]
            if clashing:
                raise SpecError(
                    f"is derived from system.{clashing[0]}, and both are set",
                    field=f"system.{derived}",
                    hint="set one of the two",
                )
    return vary(varied, overrides, root="system.")
