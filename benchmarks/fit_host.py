"""Fits the host constants of a training software on the odd rows of a table of measured steps; prints both errors.

Usage: python benchmarks/fit_host.py CASES.csv [HELD_OUT.csv ...]. Two constants: host time to issue a kernel and
host time of an optimizer step. Even rows and the other files are never seen by the fit. The least mean of |log ratio|,
clipped at 1; Nelder-Mead from the software's present constants.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.records import Array, array, stacked, structure, take
from cosim.validation.cases import read_cases
from cosim.validation.training import training_case
from cosim.validation.training_rows import CannotAnswerError

NAMES = ("host_kernel", "host_step")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one structure as one case, and their measured seconds per step."""

    case: Case
    measured: Array


def tables_of(path: Path) -> list[Table]:
    """The rows of a file that the model answers, by structure."""
    together: dict[tuple[object, ...], list[tuple[Case, float]]] = {}
    for row in read_cases("training", path):
        if row.values["measured_quantity"] != "seconds_per_step":
            continue
        try:
            case, _ = training_case(row)
        except CannotAnswerError:
            continue
        together.setdefault(structure(case), []).append((case, row.number("measured_value") or np.nan))
    return [Table(stacked([c for c, _ in rows]), array([m for _, m in rows])) for rows in together.values()]


def ratios(logs: Array, table: Table) -> Array:
    """predicted / measured of every row with the constants exp(logs)."""
    software = table.case.software
    if software is None:
        raise ValueError("a training case has software")
    kernel, step = (array(v) for v in np.exp(logs))
    changed = replace(software, host_kernel=kernel, host_step=step)
    found: Array = evaluate(replace(table.case, software=changed)).time / table.measured
    return found


def show(label: str, ratio: Array) -> None:
    """One line of errors."""
    error = np.abs(ratio - 1.0)
    bias = np.median(ratio) - 1.0
    print(f"{label:<44}rows {error.size:<5}mean {error.mean():.1%}, median {np.median(error):.1%}, bias {bias:+.1%}")


def main() -> None:
    first, *others = (Path(arg) for arg in sys.argv[1:])
    (table,) = tables_of(first)
    rows = np.arange(table.measured.size, dtype=np.intp)
    fitted, held = (Table(take(table.case, part), table.measured[part]) for part in (rows[::2], rows[1::2]))
    software = table.case.software
    if software is None:
        raise ValueError("a training case has software")
    start = np.log(array([float(np.max(getattr(software, name))) for name in NAMES]))

    def loss(logs: Array) -> float:
        return float(np.mean(np.minimum(np.abs(np.log(ratios(logs, fitted))), 1.0)))

    best = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 200}).x
    for name, value in zip(NAMES, np.exp(best), strict=True):
        print(f"{name:<20}{value:.4g} s")
    show("fitted half", ratios(best, fitted))
    show("held-out half", ratios(best, held))
    for path in others:
        for other in tables_of(path):
            case = other.case
            label = f"{path.stem}: {case.system.name}, {case.plan.recompute}"
            show(label, ratios(best, other))


if __name__ == "__main__":
    main()
