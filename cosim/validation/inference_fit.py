"""Fits constants of serving stacks to half of their measured runs; the other half is held out.

Which constants, of which stacks' rows, is data: `cosim.validation.inference_known`. The loss is the mean of two means
of |log(predicted / measured)|, each row's clipped at 1: over all rows, and over groups of source, chip and workload.
Times to the first token of served runs count for the front end alone, all other rows for all other constants. One
constant after the other is moved by a step in logarithms as long as its loss falls; then the steps are halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from cosim.datum import Datum
from cosim.errors import SpecError
from cosim.mapping.serving import Serving, load_serving, lower_serving
from cosim.overrides import value_at
from cosim.records import Array, array
from cosim.validation.cases import Case as Row
from cosim.validation.inference import Batch, batches_of, in_quantity, served_batch
from cosim.validation.inference_accuracy import GROUP, read_rows
from cosim.validation.inference_known import Known, in_fitted_half
from cosim.validation.statistics import summary
from cosim.validation.training_fit import CLIP, check_rows
from cosim.validation.training_known import Fit, fits_of

START = "request_start"
FIRST = (START, "request_steps")
"""The constants that times to the first token are for."""
ROWS_PER_CONSTANT = 20
STEPS = (0.4, 0.2, 0.1, 0.05)
"""In logarithms."""
MOST = 4
"""Most moves of a constant in one turn."""
LEAST_GAIN = 1e-5
Values = Mapping[str, float]
Loss = Callable[[str, Values], float]


@dataclass(frozen=True, slots=True)
class Runs:
    """Answerable rows of a stack: batches of one structure, measured values (N,), what tells the rows apart."""

    stack: Serving
    batches: tuple[Batch, ...]
    measured: Array
    groups: NDArray[np.intp]
    """Number of each row's group of source, chip and workload."""
    first: NDArray[np.bool_]
    """Whether a row is a time to the first token of a served run."""

    def logs(self, values: Values) -> Array:
        """log(predicted / measured) of every row with these constants; NaN where nothing is predicted."""
        found, best = np.full(self.measured.shape, np.nan), np.full(self.measured.shape, -np.inf)
        stack = lower_serving(with_constants(self.stack, values))
        for batch in self.batches:
            for place, each, served in zip(batch.places, batch.asked, served_batch(batch, stack), strict=True):
                # A tuned run has the layout of the highest rate.
                if not isinstance(served, str) and float(served.rate) > best[place]:
                    best[place], found[place] = float(served.rate), in_quantity(served, each)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(found / self.measured)
        return np.where(np.isfinite(logs), logs, np.nan)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit: values by path, those of the files, and errors of both halves with either."""

    fit: Fit
    rows: int
    values: Values
    present: Values
    errors: Mapping[str, Mapping[str, Mapping[str, Any]]]


def fit_inference(fit: Fit, what: Known, folder: Path) -> Fitted:
    """The constants of one fit, on the fitted halves of the files of `folder` that are fitted on. Raises SpecError."""
    read, _ = read_rows(folder, what)
    rows = [row for row, file in read if file.fitted and not what.may_draft(row) and fits_of(row, [fit])]
    check_rows(fit, len(rows), ROWS_PER_CONSTANT)
    stack = load_serving(fit.name)
    present = present_values(fit, stack)
    halves = {
        "fitted half": runs_of([row for row in rows if in_fitted_half(row)], stack),
        "held-out half": runs_of([row for row in rows if not in_fitted_half(row)], stack),
    }
    values = searched(present, loss_of(halves["fitted half"]))
    sides = {"present": present, "found": values}
    errors = {
        side: {f"{half}, {part}": row for half, runs in halves.items() for part, row in figures(runs, each).items()}
        for side, each in sides.items()
    }
    return Fitted(fit, len(rows), values, present, errors)


def runs_of(rows: Sequence[Row], stack: Serving) -> Runs:
    """The rows that the model answers."""
    batches, reasons = batches_of(rows)
    kept = [place for place in range(len(rows)) if place not in reasons]
    numbers = {place: number for number, place in enumerate(kept)}
    names: dict[tuple[str, ...], int] = {}
    groups = [names.setdefault(_group(rows[place]), len(names)) for place in kept]
    return Runs(
        stack,
        tuple(
            Batch(tuple(numbers[place] for place in batch.places), batch.asked, batch.case, batch.demand)
            for batch in batches
        ),
        array([rows[place].number("measured_value") for place in kept]),
        np.array(groups, dtype=np.intp),
        np.array([_is_first(rows[place]) for place in kept], dtype=bool),
    )


def loss_of(runs: Runs) -> Loss:
    """The loss of a constant, by its path, at values of all. Rows that are not answered count as far off."""

    def loss(path: str, values: Values) -> float:
        part = runs.first if path in FIRST else ~runs.first
        if not part.any():
            return math.nan
        sizes = np.nan_to_num(np.minimum(np.abs(runs.logs(values)[part]), CLIP), nan=CLIP)
        groups = runs.groups[part]
        sums, counts = np.bincount(groups, sizes), np.bincount(groups)
        macro = np.mean(sums[counts > 0] / counts[counts > 0])
        return float((np.mean(sizes) + macro) / 2.0)

    return loss


def searched(present: Values, loss: Loss) -> dict[str, float]:
    """Coordinate search from the present values; a constant without rows, or at zero, stays."""
    values = dict(present)
    for step in STEPS:
        for path in [path for path, value in values.items() if value > 0.0]:
            _move(values, path, step, loss)
    return values


def _move(values: dict[str, float], path: str, step: float, loss: Loss) -> None:
    """Moves one constant down, else up, as long as its loss falls, in `values` itself."""
    least = loss(path, values)
    for factor in (math.exp(-step), math.exp(step)):
        moves = 0
        while moves < MOST and (tried := loss(path, {**values, path: values[path] * factor})) < least - LEAST_GAIN:
            values[path], least, moves = values[path] * factor, tried, moves + 1
        if moves:
            return


def present_values(fit: Fit, stack: Serving) -> dict[str, float]:
    """What the stack's file has, in SI units by path. Raises SpecError for a constant that it does not state."""
    found: dict[str, float] = {}
    for path in fit.constants:
        datum = value_at(stack, path)
        if not isinstance(datum, Datum):
            raise SpecError("is not stated", field=f"{fit.name}: {path}", hint="a fit starts from the present value")
        found[path] = datum.si
    return found


def with_constants(stack: Serving, values: Values) -> Serving:
    """The stack with constants by path, in SI units, all else as it is."""
    changed = stack
    for path, value in values.items():
        changed = _with(changed, path, value)
    return changed


def _with(spec: Any, path: str, value: float) -> Any:  # noqa: ANN401  # specs are generic
    name, _, rest = path.partition(".")
    part = getattr(spec, name)
    if rest and isinstance(part, BaseModel):
        return spec.model_copy(update={name: _with(part, rest, value)})
    return spec.model_copy(update={name: part.model_copy(update={"value": value, "unit": part.si_unit})})


def figures(runs: Runs, values: Values) -> dict[str, dict[str, Any]]:
    """Errors with these constants, of times to the first token of served runs and of all other rows."""
    logs = runs.logs(values)
    parts = {"all else": ~runs.first, "first tokens": runs.first}
    return {name: _errors(logs[part & np.isfinite(logs)]) for name, part in parts.items()}


def _errors(logs: Array) -> dict[str, Any]:
    return summary(np.exp(logs), np.ones_like(logs))


def _is_first(row: Row) -> bool:
    served = row.values.get("mode", "").strip() == "server"
    return served and row.values.get("measured_quantity", "").strip() == "ttft_s"


def _group(row: Row) -> tuple[str, ...]:
    return tuple(row.values.get(name, "").strip() for name in GROUP)
