"""Fits constants of training stacks and chips to half of their measured steps; the other half is held out.

Which constants, of which stacks' rows, is data: `cosim.validation.training_known`. The loss is the mean over files of
the mean |log(predicted / measured)| of a file's fitted rows, clipped at 1; Nelder-Mead in logarithms from the present
values. A plan that a row leaves open stays the one that was chosen with the present values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.mapping.software import load_software
from cosim.overrides import value_at
from cosim.records import Array, array, stacked, structure
from cosim.validation.cases import Case as Row
from cosim.validation.cases import read_cases
from cosim.validation.row_system import CannotAnswerError
from cosim.validation.statistics import summary
from cosim.validation.training import in_quantity, training_cases
from cosim.validation.training_known import Fit, Half, Known, fits_of, in_fitted_half, is_fitted

ROWS_PER_CONSTANT = 30
LEAST_ROWS = 50
"""Of a stack with fewer rows nothing is fitted."""
CLIP = 1.0
REGION = 0.4
"""First steps of the search, in logarithms."""
CALLS = 60
"""Most evaluations for each constant."""
RATES = "rates."


@dataclass(frozen=True, slots=True)
class Steps:
    """Answerable steps of one file: cases of one structure each with the places of their rows; seconds, shape (N,)."""

    file: str
    tables: tuple[tuple[Case, NDArray[np.intp]], ...]
    measured: Array
    fitted: NDArray[np.bool_]

    def predicted(self, values: Mapping[str, float] | None = None) -> Array:
        """Seconds of every step with constants by path, or as the files have them; inf where no plan is legal."""
        best = np.full(self.measured.shape, np.inf)
        for case, places in self.tables:
            result = evaluate(changed(case, values or {}))
            # A row that may mean several formats has several cases: the fastest is meant.
            np.minimum.at(best, places, np.where(result.verdict.code == 0, result.time, np.inf))
        return best

    def logs(self, values: Mapping[str, float] | None, part: NDArray[np.bool_]) -> Array:
        """log(predicted / measured) of a part of the steps, those without a legal plan left out."""
        found = np.log(self.predicted(values) / self.measured)[part]
        return found[np.isfinite(found)]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit: values by path, those of the files, and by file the errors of both halves with either."""

    fit: Fit
    rows: int
    values: Mapping[str, float]
    present: Mapping[str, float]
    errors: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """File -> `present` or `fitted values` -> `fitted half` or `held-out half` -> the figures of errors."""


def fit_training(fit: Fit, what: Known, folder: Path) -> Fitted:
    """Fits the constants of `fit` to the files of `folder`. Raises SpecError where the rows cannot carry them."""
    from scipy.optimize import minimize

    read = {
        each.file: _rows(fit, folder / each.file, each.half) for each in what.files if (folder / each.file).is_file()
    }
    count = sum(len(rows) for rows in read.values())
    check_rows(fit, count)
    tables = [
        steps_of(file, [row for row, _ in rows], [half for _, half in rows]) for file, rows in read.items() if rows
    ]
    present = present_values(fit)
    start = np.log(array(list(present.values())))

    def named(logs: Array) -> dict[str, float]:
        return dict(zip(fit.constants, (float(value) for value in np.exp(logs)), strict=True))

    def loss(logs: Array) -> float:
        found = [steps.logs(named(logs), steps.fitted) for steps in tables]
        return float(np.mean([np.mean(np.minimum(np.abs(each), CLIP)) for each in found if each.size]))

    simplex = np.vstack([start, start - REGION * np.eye(start.size)])
    options = {"maxfev": CALLS * start.size, "xatol": 0.005, "fatol": 1e-5, "initial_simplex": simplex}
    values = named(minimize(loss, start, method="Nelder-Mead", options=options).x)
    return Fitted(fit, count, values, present, {steps.file: _errors(steps, values) for steps in tables})


def check_rows(fit: Fit, rows: int, each: int = ROWS_PER_CONSTANT) -> None:
    """Raises SpecError where there are too few rows for the constants: fewer than `each` for one."""
    if not fit.chips and rows < LEAST_ROWS:
        raise SpecError(f"has {rows} rows: of fewer than {LEAST_ROWS} nothing is fitted", field=fit.name)
    if rows < each * len(fit.constants):
        hint = f"one constant for each {each} rows"
        raise SpecError(f"has {rows} rows for {len(fit.constants)} constants", field=fit.name, hint=hint)


def steps_of(file: str, rows: Sequence[Row], halves: Sequence[bool]) -> Steps:
    """The rows that the model answers."""
    together: dict[tuple[object, ...], list[tuple[int, Case]]] = {}
    measured: list[float] = []
    fitted: list[bool] = []
    for row, half in zip(rows, halves, strict=True):
        try:
            cases = training_cases(row)
        except CannotAnswerError:
            continue
        for each in cases:
            together.setdefault(structure(each.case), []).append((len(measured), each.case))
        measured.append(in_quantity(row.number("measured_value") or np.nan, row))
        fitted.append(half)
    tables = tuple(
        (stacked([case for _, case in batch]), np.array([place for place, _ in batch], dtype=np.intp))
        for batch in together.values()
    )
    return Steps(file, tables, array(measured), np.array(fitted, dtype=bool))


def changed(case: Case, values: Mapping[str, float]) -> Case:
    """The case with constants of its stack or chip by path. Raises SpecError for a path that neither has."""
    for path, value in values.items():
        name = f"{path.removeprefix(RATES)}_rate" if path.startswith(RATES) else path
        if case.software is not None and hasattr(case.software, name):
            case = replace(case, software=_with(case.software, name, array(value)))
        else:
            chip = _with(case.system.chip, path, array(value))
            case = replace(case, system=replace(case.system, chip=chip))
    return case


def present_values(fit: Fit) -> dict[str, float]:
    """What the files have, in SI units by path. Raises SpecError for a constant that they do not state."""
    spec = load_chip(fit.name) if fit.chips else load_software(fit.name)
    found: dict[str, float] = {}
    for path in fit.constants:
        datum = value_at(spec, path)
        value = getattr(datum, "si", None)
        if value is None or value <= 0.0:
            raise SpecError("is not stated", field=f"{fit.name}: {path}", hint="a fit starts from the present value")
        found[path] = float(value)
    return found


def _rows(fit: Fit, path: Path, half: Half) -> list[tuple[Row, bool]]:
    """Rows of a file that the fit takes into account, and whether each is in the fitted half."""
    rows = read_cases("training", path)
    return [
        (row, is_fitted(row, [fit], half=in_fitted_half(row, at, half)))
        for at, row in enumerate(rows)
        if fits_of(row, [fit])
    ]


def _with(record: Any, path: str, value: Array) -> Any:  # noqa: ANN401  # records are generic
    """The record with one number replaced, by path. Raises SpecError."""
    name, _, rest = path.partition(".")
    if not hasattr(record, name):
        raise SpecError("is a constant of neither stacks nor chips", field=path)
    return replace(record, **{name: _with(getattr(record, name), rest, value) if rest else value})


def _errors(steps: Steps, values: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    halves = {"fitted half": steps.fitted, "held-out half": ~steps.fitted}
    return {
        label: {half: _figures(steps.logs(each, part)) for half, part in halves.items()}
        for label, each in (("present", None), ("fitted values", values))
    }


def _figures(logs: Array) -> dict[str, Any]:
    return summary(np.exp(logs), np.ones_like(logs))
