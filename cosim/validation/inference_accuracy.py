"""The suite `inference-accuracy`: measured inference runs of a folder against their predictions, told apart many ways.

Errors are predicted / measured - 1 of what a row measured; the bias is of times, rates turned into them, so that a
negative one is too fast throughout. Sets, the figures asked of them, constants that were fitted and models with draft
heads are those of `cosim.validation.inference_known`. Rows of such models that do not say that nothing was drafted,
and disaggregated rows, are apart from all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cosim.errors import SpecError
from cosim.records import array
from cosim.validation.cases import Case as Row
from cosim.validation.cases import read_cases
from cosim.validation.inference import Answer, answers
from cosim.validation.inference_known import Known, RowFile, RowSet, in_fitted_half, known
from cosim.validation.inference_left_out import left_out, specified
from cosim.validation.named import lowered
from cosim.validation.row_system import names_of
from cosim.validation.statistics import macro_median, summary
from cosim.validation.training_known import is_fitted

KIND = "inference-accuracy"
FOLDER = Path("..") / "shared" / "cases"
"""Where a checkout of the project has measured cases beside it."""
QUEUEING = 1.0 / 3.0
"""Part of a time to the first token from which on the wait behind others makes a run loaded."""
FARTHEST = 20
TOGETHER = "all fitted chips"
GROUP = ("source_key", "accelerator", "workload")
STACK = "software_stack"
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A measured row, its file and answer; if its model has experts, if it may have drafted, if it was fitted."""

    row: Row
    file: RowFile
    answer: Answer
    experts: bool
    drafts: bool
    fitted: bool

    @property
    def is_answered(self) -> bool:
        """Whether there is a prediction and a measurement."""
        return self.answer.predicted is not None and self.answer.measured is not None

    @property
    def error(self) -> float:
        """predicted / measured - 1 of an answered row."""
        return (self.answer.predicted or 0.0) / (self.answer.measured or 1.0) - 1.0

    @property
    def slower(self) -> float:
        """The same of the time that the quantity stands for: positive where the prediction is too slow."""
        rate = self.row.values.get("measured_quantity", "").endswith("_per_s")
        return 1.0 / (1.0 + self.error) - 1.0 if rate else self.error

    def column(self, name: str) -> str:
        """Text of a column, blank where it is absent."""
        return self.row.values.get(name, "").strip()

    def is_in(self, rows: RowSet) -> bool:
        """Whether the row belongs to a named set."""
        waiting = self.answer.waiting
        loaded = waiting > QUEUEING if np.isfinite(waiting) else None
        facts = (
            (rows.experts, self.experts),
            (rows.drafts, self.drafts),
            (rows.disaggregated, self.file.disaggregated),
            (rows.loaded, loaded),
            (rows.starved, self.answer.starved),
        )
        return (
            (not rows.files or self.file.file in rows.files)
            and all(wanted is None or wanted == fact for wanted, fact in facts)
            and rows.holds(self.row)
        )


def inference_accuracy(folder: Path | None = None, *, leave_out: bool = False) -> Found:
    """All tables of the measured runs in `folder`; `leave_out` adds chips as their specification alone has them.

    Raises SpecError where the folder does not stand or holds none of the files.
    """
    what = known()
    read, missing = read_rows(FOLDER if folder is None else folder, what)
    runs = answered_runs(read, what, answers([row for row, _ in read]))
    found = tables(runs, what)
    left = chips_left_out(runs, what) if leave_out else []
    return {
        **found,
        "missing": missing,
        "left_out": left,
        "asked_for": found["asked_for"] + _asked_of_chips(left, what),
    }


def read_rows(folder: Path, what: Known) -> tuple[list[tuple[Row, RowFile]], list[str]]:
    """Rows of the files that stand in the folder with their file, and the files that do not stand. Raises SpecError."""
    names = [each.file for each in what.files]
    if not folder.is_dir():
        hint = f"--cases FOLDER with {', '.join(names)}: measured runs do not ship with cosim"
        raise SpecError("no such folder: nothing was compared", file=folder, hint=hint)
    missing = [name for name in names if not (folder / name).is_file()]
    if len(missing) == len(names):
        raise SpecError("holds no measured runs", file=folder, hint=f"it needs {' or '.join(names)}")
    there = [each for each in what.files if each.file not in missing]
    read = [(row, each) for each in there for row in read_cases("inference", folder / each.file)]
    # Tables and fits know a row by the stack that answers it.
    return [(replace(row, values={**row.values, STACK: what.stack(row)}), each) for row, each in read], missing


def answered_runs(read: Sequence[tuple[Row, RowFile]], what: Known, found: Sequence[Answer]) -> list[Run]:
    """Every row with its answer and what is known of it."""
    return [
        Run(row, file, answer, has_experts(row), drafts := what.may_draft(row), _is_fitted(row, file, what, drafts))
        for (row, file), answer in zip(read, found, strict=True)
    ]


def has_experts(row: Row) -> bool:
    """Whether the row's model is a mixture of experts; one that is not in the library is taken for none."""
    name = row.values.get("workload", "").strip()
    return name in names_of("workloads") and lowered(name).is_moe


def _is_fitted(row: Row, file: RowFile, what: Known, drafts: bool) -> bool:
    return file.fitted and not drafts and is_fitted(row, what.fits, half=in_fitted_half(row))


def tables(runs: Sequence[Run], what: Known) -> Found:
    """Figures of all rows, of those apart, by quantity, stack, source and chip, and of named sets."""
    plain = [run for run in runs if not run.drafts and not run.file.disaggregated]
    apart = {
        "may draft": [run for run in runs if run.drafts and not run.file.disaggregated],
        "disaggregated": [run for run in runs if run.file.disaggregated],
    }
    own = {each.name: [run for run in runs if run.is_in(each)] for each in what.sets}
    return {
        "kind": KIND,
        "cases": len(runs),
        **figures(runs),
        "groups": {},
        "overall": {
            "all": figures(runs),
            "nothing drafted": figures([run for run in plain if run.column("spec_decode") == "no"]),
            "drafts not stated, no draft heads": figures([run for run in plain if run.column("spec_decode") != "no"]),
            "of both, no constant fitted on the row": figures([run for run in plain if not run.fitted]),
            "draft heads, drafts not stated": figures(apart["may draft"]),
            "disaggregated": figures(apart["disaggregated"]),
        },
        "doubts": [
            {"name": each.name, "reason": each.reason, **figures([run for run in runs if each.holds(run.row)])}
            for each in what.doubts
        ],
        "sets": {each.name: figures(own[each.name]) for each in what.sets},
        "undoubted": figures([run for run in runs if not what.doubted(run.row)]),
        "asked_for": [line for each in what.sets for line in asked_of(each.name, each.asked, figures(own[each.name]))],
        "quantities": by(plain, "measured_quantity"),
        "stacks": {name: {**row, **_fit(name, plain, what)} for name, row in by(plain, "software_stack").items()},
        "sources": by(plain, "source_key"),
        "chips": by(plain, "accelerator"),
        "apart": {name: by(some, "software_stack", "measured_quantity") for name, some in apart.items()},
        "farthest": farthest(plain),
        "draft_heads": [{"workloads": list(each.workloads), "reason": each.reason} for each in what.draft_heads],
        "skipped": [{"id": run.row.id, "reason": run.answer.reason} for run in runs if not run.is_answered],
        "rows": [_row(run) for run in runs if run.is_answered],
    }


def asked_of(name: str, asked: dict[Any, float], found: Found) -> list[Found]:
    """Each figure that is asked of a set beside what was found; whether it is met, None of no rows."""
    return [
        {
            "set": name,
            "figure": figure,
            "asked": limit,
            "found": found[figure],
            "rows": found["evaluated"],
            "met": None if found[figure] is None else met(figure, limit, found[figure]),
        }
        for figure, limit in asked.items()
    ]


def met(figure: str, limit: float, found: float) -> bool:
    """Errors may not be above what is asked, coverage not below."""
    return found >= limit if figure == "coverage" else found <= limit


def by(runs: Sequence[Run], *columns: str) -> dict[str, Found]:
    """Figures of the rows of each value of the columns, most rows first."""
    groups = _grouped(runs, lambda run: ", ".join(run.column(name) or "(blank)" for name in columns))
    return {name: figures(groups[name]) for name in sorted(groups, key=lambda each: (-len(groups[each]), each))}


def figures(runs: Iterable[Run]) -> Found:
    """Errors of the answered rows, plain and macro over source, chip and workload; their share of those asked."""
    every = list(runs)
    done = [run for run in every if run.is_answered]
    ratios = [1.0 + run.error for run in done]
    groups = _grouped(done, _group)
    return {
        "asked": len(every),
        **summary(ratios, [1.0] * len(ratios)),
        "bias": float(np.median(array([run.slower for run in done]))) if done else None,
        "macro_median_abs_error": macro_median({name: [run.error for run in some] for name, some in groups.items()}),
        "coverage": len(done) / len(every) if every else None,
    }


def farthest(runs: Iterable[Run]) -> list[Found]:
    """Groups of source, chip and workload whose median is farthest off, the farthest first."""
    groups = _grouped([run for run in runs if run.is_answered], _group)
    found = [{"group": name, **figures(some)} for name, some in groups.items()]
    return sorted(found, key=lambda row: -row["median_abs_log_error"])[:FARTHEST]


def chips_left_out(runs: Sequence[Run], what: Known) -> list[Found]:
    """All fitted chips together, then each chip: errors as it stands, and from its specification where it was fitted.

    Rows that may draft and disaggregated rows are not looked at.
    """
    done = [run for run in runs if run.is_answered and not run.drafts and not run.file.disaggregated]
    changed = {name: specified(name).replaced for name in dict.fromkeys(run.answer.system for run in done)}
    fitted = [run for run in done if changed[run.answer.system]]
    again = answered_runs([(run.row, run.file) for run in fitted], what, left_out([run.row for run in fitted]))
    words: dict[str, dict[str, None]] = {}
    for run in done:
        words.setdefault(run.column("accelerator"), {}).update(dict.fromkeys(changed[run.answer.system]))
    lines = [_without(TOGETHER, ("each its own",), fitted, again)] if fitted else []
    for chip, replaced in words.items():
        stood = [run for run in done if run.column("accelerator") == chip]
        left = [run for run in again if run.column("accelerator") == chip] if replaced else stood
        lines.append(_without(chip, tuple(replaced), stood, left))
    return lines


def _without(name: str, replaced: tuple[str, ...], stood: Sequence[Run], left: Sequence[Run]) -> Found:
    return {"accelerator": name, "replaced": list(replaced), "as_it_stands": figures(stood), **figures(left)}


def _group(run: Run) -> str:
    return ", ".join(run.column(name) or "(blank)" for name in GROUP)


def _grouped(runs: Iterable[Run], name: Callable[[Run], str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(name(run), []).append(run)
    return groups


def _asked_of_chips(left: Sequence[Found], what: Known) -> list[Found]:
    """What is asked of chips left out, of all fitted ones together: the first line."""
    return asked_of("chips left out one at a time", dict(what.chips_left_out), left[0]) if left else []


def _fit(stack: str, runs: Sequence[Run], what: Known) -> Found:
    """Constants of the stack that were fitted, errors of the rows that they were fitted on and of the others."""
    own = [run for run in runs if run.column("software_stack") == stack]
    return {
        "constants": [constant for fit in what.fits if stack in fit.stacks for constant in fit.constants],
        "fitted": figures([run for run in own if run.fitted]),
        "held_out": figures([run for run in own if not run.fitted]),
    }


def _row(run: Run) -> Found:
    return {
        "id": run.row.id,
        "measured": run.answer.measured,
        "predicted": run.answer.predicted,
        "error": run.error,
        "fitted": run.fitted,
        "drafts": run.drafts,
    }
