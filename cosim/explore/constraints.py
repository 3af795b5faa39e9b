"""Constraints on outputs, as people write them: "area_mm2 <= 858", "time_s <= 50 ms"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cosim.errors import SpecError, nearest
from cosim.explore.metrics import DIE_METRICS, metric_names, unit_of
from cosim.records import Array
from cosim.units import parse_quantity

_FORM = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*(.+?)\s*")


@dataclass(frozen=True, slots=True)
class Constraint:
    """`column` must be at most (`sign` 1) or at least (-1) `bound`, in the column's unit; `strict`: and not equal."""

    text: str
    column: str
    sign: float
    bound: float
    strict: bool = False

    @property
    def unit(self) -> str:
        """Unit of the column and of the shortfall."""
        return unit_of(self.column)

    @property
    def of_design(self) -> bool:
        """Whether it is known before anything is timed."""
        return self.column in DIE_METRICS

    def excess(self, values: Array) -> Array:
        """How far `values` pass the bound, in the column's unit; unknown values pass it without end."""
        over: Array = np.where(np.isnan(values), np.inf, self.sign * (values - self.bound))
        return np.where(over == 0.0, np.finfo(np.float64).tiny, over) if self.strict else over


def parse_constraints(texts: Iterable[str], more: Iterable[str] = ()) -> tuple[Constraint, ...]:
    """Constraints from their texts, on numbers of a result or `more` columns. Raises SpecError naming the text."""
    known = [*metric_names(), *more]
    return tuple(_parse(text, f"constraints.{index}", known) for index, text in enumerate(texts))


def _parse(text: str, field: str, known: list[str]) -> Constraint:
    found = _FORM.fullmatch(text)
    if found is None:
        hint = "write for example 'area_mm2 <= 858' or 'time_s <= 50 ms'"
        raise SpecError("is not COLUMN <= VALUE or COLUMN >= VALUE", field=field, value=text, hint=hint)
    column, relation, value = found.groups()
    if column not in known:
        raise SpecError("names no number of a result", field=field, value=column, hint=nearest(column, known))
    try:
        # Tokens are counted, not measured: 20 token/s is 20 /s.
        bound = parse_quantity(value.replace("tokens", "").replace("token", ""), unit_of(column).replace("token", ""))
    except SpecError as error:
        raise SpecError(error.problem, field=field, value=text, hint=error.hint) from None
    if not np.isfinite(bound):
        raise SpecError("is not a number", field=field, value=text, hint="a bound is finite")
    sign = 1.0 if relation[0] == "<" else -1.0
    return Constraint(" ".join(text.split()), column, sign, bound, strict=len(relation) == 1)
