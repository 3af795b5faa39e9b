"""The suite `training-accuracy`: measured training steps of a folder against their predictions, told apart many ways.

Errors are of the time of a step, whatever a row measured: predicted / measured - 1, negative where the prediction is
too fast. Constants that were fitted on some rows, and rows that are known to be wrong, are those of
`cosim.validation.training_known`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.load import load_system, usual_systems
from cosim.records import array
from cosim.validation.cases import Case as Row
from cosim.validation.cases import read_cases
from cosim.validation.layout_choice import Sweep, regret, sweeps, tau
from cosim.validation.statistics import macro_median, summary
from cosim.validation.training import Answer, answers, in_quantity
from cosim.validation.training_known import Known, in_fitted_half, is_fitted, known, source_of
from cosim.validation.training_left_out import left_out, unfitted
from cosim.validation.training_strategy import ASPECTS, labels

KIND = "training-accuracy"
FOLDER = Path("..") / "shared" / "cases"
"""Where a checkout of the project has measured cases beside it."""
APART = "trainium1"
"""Chip whose stack was limited by its software: told apart from the others where chips are left out."""
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A measured step and its answer: seconds, or the reason of none; why it is known to be wrong; if it was fitted."""

    row: Row
    predicted: float | None
    measured: float | None
    reason: str
    flags: tuple[str, ...]
    fitted: bool

    @property
    def error(self) -> float:
        """predicted / measured - 1 of an answered step."""
        return (self.predicted or 0.0) / (self.measured or 1.0) - 1.0


def training_accuracy(folder: Path | None = None, *, leave_out: bool = False) -> Found:
    """All tables of the measured steps in `folder`; `leave_out` adds chips as their specification alone has them.

    Raises SpecError where the folder does not stand or holds none of the files.
    """
    what = known()
    rows, halves, missing = read_rows(FOLDER if folder is None else folder, what)
    steps = answered_steps(rows, halves, what, answers(rows))
    found = tables(steps, what)
    return {**found, "missing": missing, "left_out": chips_left_out(steps, what) if leave_out else []}


def read_rows(folder: Path, what: Known) -> tuple[list[Row], list[bool], list[str]]:
    """Rows of the files that stand in the folder, whether each is in a fitted half, and files that do not stand.

    Raises SpecError.
    """
    names = [each.file for each in what.files]
    if not folder.is_dir():
        hint = f"--cases FOLDER with {' and '.join(names)}: measured steps do not ship with cosim"
        raise SpecError("no such folder: nothing was compared", file=folder, hint=hint)
    rows: list[Row] = []
    halves: list[bool] = []
    missing = [name for name in names if not (folder / name).is_file()]
    if len(missing) == len(names):
        raise SpecError("holds no measured steps", file=folder, hint=f"it needs {' or '.join(names)}")
    for each in what.files:
        read = [] if each.file in missing else read_cases("training", folder / each.file)
        rows += read
        halves += [in_fitted_half(row, place, each.half) for place, row in enumerate(read)]
    return rows, halves, missing


def answered_steps(rows: Sequence[Row], halves: Sequence[bool], what: Known, found: Sequence[Answer]) -> list[Step]:
    """Every row with its answer in seconds of a step."""
    return [
        Step(
            row,
            None if answer.predicted is None else in_quantity(answer.predicted, row),
            None if answer.measured is None else in_quantity(answer.measured, row),
            answer.reason,
            tuple(flag.name for flag in what.flags if flag.holds(row)),
            is_fitted(row, what.fits, half=half),
        )
        for row, half, answer in zip(rows, halves, found, strict=True)
    ]


def tables(steps: Sequence[Step], what: Known) -> Found:
    """Figures of all steps, by chip, source, stack and kind of strategy, of named sets, and of choices of layouts."""
    sound = [step for step in steps if not step.flags]
    return {
        "kind": KIND,
        "cases": len(steps),
        **figures(steps),
        "sound": figures(sound),
        "held_out": figures([step for step in sound if not step.fitted]),
        "groups": {},
        "flags": [
            {"name": flag.name, "reason": flag.reason, **figures([step for step in steps if flag.name in step.flags])}
            for flag in what.flags
        ],
        "chips": by(steps, lambda row: [row.values.get("accelerator", "")]),
        "sources": by(steps, lambda row: [source_of(row)]),
        "stacks": {name: {**row, **_fit(name, steps, what)} for name, row in by(steps, _stack).items()},
        **{aspect: by(steps, _labels_of(aspect)) for aspect in ASPECTS},
        "sets": {each.name: figures([step for step in steps if each.holds(step.row)]) for each in what.sets},
        "sweeps": layout_choice(steps, what.sweeps),
        "skipped": [{"id": step.row.id, "reason": step.reason} for step in steps if step.predicted is None],
        "rows": [_row(step) for step in _answered(steps)],
    }


def by(steps: Sequence[Step], names: Callable[[Row], Iterable[str]]) -> dict[str, Found]:
    """Figures of the steps of each name, most rows first; a step may have several names."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        for name in names(step.row):
            groups.setdefault(name or "(blank)", []).append(step)
    return {name: figures(groups[name]) for name in sorted(groups, key=lambda each: (-len(groups[each]), each))}


def figures(steps: Sequence[Step]) -> Found:
    """Errors of the answered steps, plain and macro over source and chip, their number and that of those asked."""
    done = _answered(steps)
    groups: dict[tuple[str, str], list[float]] = {}
    for step in done:
        groups.setdefault((source_of(step.row), step.row.values.get("accelerator", "")), []).append(step.error)
    ratios = [1.0 + step.error for step in done]
    most = max((abs(step.error) for step in done), default=None)
    return {
        "asked": len(steps),
        **summary(ratios, [1.0] * len(ratios)),
        "max_abs_error": most,
        "macro_median_abs_error": macro_median(groups),
    }


def layout_choice(steps: Sequence[Step], sources: Sequence[str]) -> list[Found]:
    """Regret and rank correlation of every sweep over layouts, known-wrong steps left out."""
    kept = [step for step in _answered(steps) if not step.flags and source_of(step.row) in sources]
    return [
        _sweep(sweep)
        for sweep in sweeps(
            [step.row for step in kept],
            [step.predicted or 0.0 for step in kept],
            [step.measured or 0.0 for step in kept],
        )
    ]


def chips_left_out(steps: Sequence[Step], what: Known) -> list[Found]:
    """Each chip of the answered steps: errors as it stands, and from its specification alone where it was fitted."""
    done = _answered(steps)
    usual = usual_systems()
    systems = [step.row.values["system"].strip() or usual[step.row.values["accelerator"]] for step in done]
    changed = {name: unfitted(load_system(name), what.fits).replaced for name in dict.fromkeys(systems)}
    fitted = [step for step, name in zip(done, systems, strict=True) if changed[name]]
    again = left_out([step.row for step in fitted], what.fits)
    other = answered_steps([step.row for step in fitted], [step.fitted for step in fitted], what, again)
    words: dict[str, dict[str, None]] = {}
    for step, name in zip(done, systems, strict=True):
        words.setdefault(_chip(step), {}).update(dict.fromkeys(changed[name]))
    every = [step for step in other if _chip(step) != APART]
    stood = [step for step in fitted if _chip(step) != APART]
    together = [_without(f"all fitted chips but {APART}", ("each its own",), stood, every)] if every else []
    return together + [
        _without(
            chip,
            tuple(replaced),
            [step for step in done if _chip(step) == chip],
            [step for step in (other if replaced else done) if _chip(step) == chip],
        )
        for chip, replaced in words.items()
    ]


def _without(name: str, replaced: tuple[str, ...], stood: Sequence[Step], left: Sequence[Step]) -> Found:
    return {"accelerator": name, "replaced": list(replaced), "as_it_stands": figures(stood), **figures(left)}


def _chip(step: Step) -> str:
    return step.row.values.get("accelerator", "")


def _labels_of(aspect: str) -> Callable[[Row], Iterable[str]]:
    return lambda row: labels(row)[aspect]


def _sweep(sweep: Sweep) -> Found:
    return {
        "source": sweep.source,
        "run": ", ".join(filter(None, sweep.run)),
        "layouts": len(sweep.layouts),
        "regret": regret(sweep.predicted, sweep.measured),
        "tau": tau(sweep.predicted, sweep.measured),
        "spread": float(np.max(sweep.measured) / np.min(array(sweep.measured)) - 1.0),
    }


def _stack(row: Row) -> list[str]:
    return [row.values.get("software_stack", "")]


def _fit(stack: str, steps: Sequence[Step], what: Known) -> Found:
    """Constants that were fitted on rows of the stack, errors of the rows that were fitted and of the others."""
    own = [step for step in steps if step.row.values.get("software_stack", "") == stack]
    fits = [fit for fit in what.fits if stack in fit.stacks]
    return {
        "constants": [f"{fit.name}: {constant}" for fit in fits for constant in fit.constants],
        "fitted": figures([step for step in own if step.fitted]),
        "held_out": figures([step for step in own if not step.fitted]),
    }


def _answered(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.predicted is not None and step.measured is not None]


def _row(step: Step) -> Found:
    return {
        "id": step.row.id,
        "measured": step.measured,
        "predicted": step.predicted,
        "error": step.error,
        "fitted": step.fitted,
        "flags": list(step.flags),
    }
