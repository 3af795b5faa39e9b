"""Axes of a sweep: any dotted path, alone or linked, over listed values or a range; and the grid that they span."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from cosim.errors import SpecError
from cosim.records import Array, array
from cosim.schema import Frozen

MOST_DESIGNS = 50_000_000


def one_or_more(raw: object) -> object:
    """A single name stands for a list of one."""
    return [raw] if isinstance(raw, str) else raw


Names = Annotated[tuple[str, ...], BeforeValidator(one_or_more), Field(min_length=1)]
Level = float | str | bool


class Axis(Frozen):
    """One axis: `values`, or a range `from` .. `to`. Several paths are linked: they step together."""

    path: Names
    """One dotted path, or several that take each value together."""
    values: tuple[Any, ...] = ()
    """Listed: numbers, text with units, choices; one list per step where linked paths differ."""
    start: Any = Field(default=None, alias="from")
    to: Any = None
    count: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """Steps of a linear or log range."""
    scale: Literal["linear", "log", "powers_of_two"] = "linear"

    @model_validator(mode="after")
    def _one_way(self) -> Axis:
        ranged = self.start is not None or self.to is not None
        if bool(self.values) == ranged:
            raise SpecError("needs values, or from and to", field="values", hint="one of the two")
        if ranged and (self.start is None or self.to is None):
            raise SpecError("is missing", field="from" if self.start is None else "to", hint="a range has both ends")
        if ranged and (self.count is None) != (self.scale == "powers_of_two"):
            hint = "powers of two count themselves" if self.count is not None else "how many steps"
            raise SpecError("does not fit the scale", field="count", value=self.count, hint=hint)
        return self

    def steps(self) -> tuple[tuple[Any, ...], ...]:
        """For each step the value of each path, as written; the two ends of a range that is not spread yet."""
        listed = self.values or (self.start, self.to)
        rows = []
        for value in listed:
            row = tuple(value) if isinstance(value, list | tuple) else (value,) * len(self.path)
            if len(row) != len(self.path):
                hint = f"{len(self.path)} in each step, or one for all"
                raise SpecError("has not one value for each path", field="values", value=value, hint=hint)
            rows.append(row)
        return tuple(rows)

    def spread(self, low: float, high: float) -> Array:
        """The numbers of a range between its ends. Raises SpecError where log has no ground to stand on."""
        if self.scale == "linear":
            return _whole(np.linspace(low, high, self.count or 2))
        if low <= 0.0 or high < low:
            raise SpecError("needs 0 < from <= to", field="from", value=low, hint=f"scale is {self.scale}")
        if self.scale == "log":
            return _whole(np.geomspace(low, high, self.count or 2))
        return array(low) * 2.0 ** np.arange(int(np.floor(np.log2(high / low) + 1e-9)) + 1)


def _whole(values: Array) -> Array:
    """Numbers that miss a whole one by rounding alone, made whole: 1,024 to 16,384 by doublings has 8,192 in it."""
    near = np.rint(values)
    return np.where(np.abs(values - near) <= 1e-9 * np.abs(near), near, values)


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of the axes; design `i` counts with the last axis fastest.

    `levels[axis][path]` are the values of a path along an axis: numbers (SI) or choices.
    """

    levels: tuple[Mapping[str, tuple[Level, ...]], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps of each axis."""
        return tuple(len(next(iter(axis.values()))) for axis in self.levels)

    @property
    def size(self) -> int:
        """Number of designs."""
        return math.prod(self.shape)

    def coordinates(self, designs: NDArray[np.int64]) -> tuple[NDArray[np.intp], ...]:
        """Step along each axis of each design."""
        return np.unravel_index(designs, self.shape) if self.levels else ()

    def design(self, steps: Sequence[int]) -> int:
        """Index of the design at a step along each axis."""
        return int(np.ravel_multi_index(list(steps), self.shape)) if self.levels else 0

    def numbers(self, designs: NDArray[np.int64]) -> dict[str, Array]:
        """Values of the numeric paths at each design, (P,)."""
        return {
            path: np.array(levels, dtype=np.float64)[steps]
            for axis, steps in zip(self.levels, self.coordinates(designs), strict=True)
            for path, levels in axis.items()
            if is_number(levels)
        }

    def choices(self, design: int) -> dict[str, Level]:
        """Values of the paths that are choices, at one design."""
        steps = self.coordinates(np.array([design]))
        return {
            path: levels[int(at[0])]
            for axis, at in zip(self.levels, steps, strict=True)
            for path, levels in axis.items()
            if not is_number(levels)
        }

    def cells(self, designs: NDArray[np.int64]) -> list[NDArray[np.intp]]:
        """Places in `designs` that share every choice, one array a cell, in order of first sight."""
        steps = self.coordinates(designs)
        chosen = [
            at
            for axis, at in zip(self.levels, steps, strict=True)
            if not all(is_number(levels) for levels in axis.values())
        ]
        if not chosen:
            return [np.arange(len(designs))]
        _, cell = np.unique(np.stack(chosen), axis=1, return_inverse=True)
        cell = cell.reshape(-1)
        return [np.flatnonzero(cell == which) for which in dict.fromkeys(cell.tolist())]


def is_number(levels: Sequence[Level]) -> bool:
    """Whether a path takes numbers along its axis; text and flags are choices."""
    return all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
