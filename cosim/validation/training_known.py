"""What is known of the measured training steps, as data: files, fitted halves, rows that are called wrong, named sets.

`experiments/validation/training_accuracy.yaml` holds it. A row was fitted where it is in the fitted half of its file
and some constant was fitted on rows of its stack, and of its chip where that matters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from cosim import documents, library
from cosim.mapping.software import load_software
from cosim.schema import Frozen, validated
from cosim.validation.cases import Case as Row

DATA = Path("experiments") / "validation" / "training_accuracy.yaml"
Half = Literal["groups", "odd"]


class MeasuredFile(Frozen):
    """A file of a folder of measured cases."""

    file: str
    half: Half
    """The half that was fitted: every second group (`in_fitted_half`), or the odd rows of the file."""


class Fit(Frozen):
    """Constants that were fitted together on the measured steps of some stacks."""

    name: str
    """The stack, or the chip, whose file has them."""
    stacks: tuple[str, ...]
    """Whose rows they were fitted on."""
    chips: tuple[str, ...] = ()
    """Chips whose rows count and that have the constants; none: constants are of the stack."""
    constants: tuple[str, ...] = Field(min_length=1)
    """Paths in the file."""
    other_half: bool = False
    """Fitted on the other half, where that one has most of the rows."""


class Condition(Frozen):
    """What a column of a row says; everything given must hold."""

    column: str
    equals: str | None = None
    starts: str | None = None
    has: str | None = None
    has_one_of: tuple[str, ...] = ()
    at_least: float | None = None

    def holds(self, row: Row) -> bool:
        """Whether it holds for the row; a blank column is no number."""
        text = row.values.get(self.column, "").strip()
        number = row.number(self.column)
        return (
            (self.equals is None or text == self.equals)
            and (self.starts is None or text.startswith(self.starts))
            and (self.has is None or self.has in text)
            and (not self.has_one_of or any(part in text for part in self.has_one_of))
            and (self.at_least is None or (number is not None and number >= self.at_least))
        )


class NamedSet(Frozen):
    """Rows that are told apart by name: all conditions hold."""

    name: str
    when: tuple[Condition, ...] = ()

    def holds(self, row: Row) -> bool:
        """Whether the row is one of them."""
        return all(condition.holds(row) for condition in self.when)


class Flag(NamedSet):
    """Rows that are known to be wrong, and why."""

    reason: str
    ranks_differ: bool = False
    """Whether a row's degrees must also not multiply to its chips."""

    def holds(self, row: Row) -> bool:
        """Whether the row is one of them."""
        differ = not self.ranks_differ or _ranks_differ(row)
        return differ and all(condition.holds(row) for condition in self.when)


class Known(Frozen):
    """The whole file."""

    files: tuple[MeasuredFile, ...]
    fits: tuple[Fit, ...]
    flags: tuple[Flag, ...]
    sets: tuple[NamedSet, ...]
    sweeps: tuple[str, ...]
    """Sources that measured one run in many layouts."""


def known(path: Path | None = None) -> Known:
    """What the file says (the shipped one). Raises SpecError naming file, line and field."""
    document = documents.read(library.shipped() / DATA if path is None else path)
    return validated(Known, document.data, document)


def source_of(row: Row) -> str:
    """Name of the row's source: what its column has before the colon."""
    return row.values.get("source", "").partition(":")[0].strip()


def group_of(row: Row) -> str:
    """Rows of one group are much alike and belong to one half."""
    return row.values.get("split_group", "").strip() or row.id


def in_fitted_half(row: Row, place: int, half: Half) -> bool:
    """Whether a row, at `place` of its file from 0 on, is in the half that constants may be fitted on.

    groups    MD5 of the group's name is even, so a group keeps its half wherever it stands
    odd       first, third, ... row of the file
    """
    if half == "odd":
        return place % 2 == 0
    return int(hashlib.md5(group_of(row).encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 0


def fits_of(row: Row, fits: Sequence[Fit]) -> tuple[Fit, ...]:
    """The fits that take this row into account: those of its stack, on all chips or its own."""
    stack, chip = row.values.get("software_stack", ""), row.values.get("accelerator", "")
    return tuple(fit for fit in fits if stack in fit.stacks and (not fit.chips or chip in fit.chips))


def is_fitted(row: Row, fits: Sequence[Fit], *, half: bool) -> bool:
    """Whether a constant was fitted on the row; `half`: whether it is in the half that fits use unless they say."""
    return any(half != fit.other_half for fit in fits_of(row, fits))


def _ranks_differ(row: Row) -> bool:
    """Whether degrees that are all given do not multiply to the chips, in the units that the stack counts."""
    given = [row.number(name) for name in ("tp", "pp", "dp")]
    chips = row.number("num_accelerators")
    degrees = [degree for degree in given if degree is not None]
    if len(degrees) < len(given) or chips is None:
        return False
    context = row.number("cp") or 1.0
    return math.prod(degrees) * context != chips * _ranks_per_chip(row.values.get("software_stack", ""))


def _ranks_per_chip(stack: str) -> float:
    if stack not in library.names("software"):
        return 1.0
    units = load_software(stack).defaults.ranks_per_chip
    return 1.0 if units is None else units.si
