"""`cosim validate`: prediction against measurement, overall and by group, skipped rows with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosim import library
from cosim.errors import SpecError, nearest
from cosim.validation import left_out as generations
from cosim.validation.calibrate import Rows
from cosim.validation.cases import Case, read_cases
from cosim.validation.collective_tables import collective_cases
from cosim.validation.inference_accuracy import inference_accuracy
from cosim.validation.predict import Prediction, predict
from cosim.validation.serving import validate_serving
from cosim.validation.silicon_results import validate_silicon
from cosim.validation.statistics import macro_median, summary
from cosim.validation.training_accuracy import training_accuracy

SUITES: dict[str, tuple[str, str]] = {
    "systolic": ("systolic", "systolic_cycles.csv"),
    "training": ("training", "training_steps.csv"),
    "collective": ("collective", "collectives.csv"),
    "inference": ("inference", "inference_points.csv"),
}
"""Suites that ship: name -> (kind, file under experiments/validation)."""
SILICON = "silicon"
"""The suite whose measured kernels are in a package apart."""
COLLECTIVES = "collectives"
"""The suite of measured collectives, in the same package."""
TPU = "tpu"
"""Asked for, and empty: what is known of TPU kernels are a few products as remembered."""
TRAINING = "training-accuracy"
"""The suite of measured training steps, which are in a folder apart."""
SERVING = "serving"
"""Request logs, which are simulated as a whole: see `cosim.validation.serving`."""
INFERENCE = "inference-accuracy"
"""The suite of measured inference runs, in a folder apart too."""
FOLDERS: dict[str, Callable[..., dict[str, Any]]] = {TRAINING: training_accuracy, INFERENCE: inference_accuracy}
"""Suites that read a folder."""
KERNELS = ("matmul", "attention")
"""Kinds that leave a generation out."""


def validate(
    kind: str | None = None,
    cases: str | Path | None = None,
    *,
    suite: str | None = None,
    group: str | None = None,
    every: bool = False,
    left_out: bool = False,
) -> dict[str, Any]:
    """Errors of cosim on measured cases: a CSV of a `kind`, a `suite` that ships with cosim, or silicon.

    The suite silicon reads tables of a package apart, see `cosim.validation.silicon_results`: a sample of their
    shapes, or `every` one; `kind` limits it. The suite training-accuracy reads measured steps of the folder `cases`,
    see `cosim.validation.training_accuracy`, and inference-accuracy measured runs
    (`cosim.validation.inference_accuracy`). `left_out` adds, for kernels, each fitted chip as the other generations
    predict it (`cosim.validation.left_out`; about half a minute), for suites of folders each chip as its specification
    alone has it.
    Returns kind, cases, evaluated, skipped (id, reason), the error figures as fractions, `groups` by the
    column `group`, and rows (id, measured, predicted, error, and of training and inference `completed`, what a row left
    open and was filled in). Raises SpecError on a bad file or name.
    """
    if suite == SILICON:
        if cases is not None:
            raise SpecError("does not go with --suite silicon", field="--cases", hint="the suite has its own tables")
        return validate_silicon(kind, group=group, every=every, leave_out=left_out)
    if suite in FOLDERS:
        _refused(suite, {"--kind": kind is not None, "--group": group is not None, "--all": every})
        return FOLDERS[suite](None if cases is None else Path(cases), leave_out=left_out)
    if suite == COLLECTIVES:
        if kind not in (None, "collective") or cases is not None:
            raise SpecError(
                "has its own kind and cases", field="--suite", value=suite, hint="leave --kind, --cases out"
            )
        return _compared("collective", collective_cases(), group or "system", left_out=False)
    if every:
        raise SpecError("is of the suite silicon alone", field="--all", hint="other suites and files are asked whole")
    if suite is not None:
        kind, cases = _shipped(suite, kind, cases)
    if kind is None or cases is None:
        raise SpecError("nothing to validate", hint="give --kind and --cases, or --suite")
    return _of_file(kind, Path(cases), group, left_out=left_out)


def _of_file(kind: str, cases: Path, group: str | None, *, left_out: bool) -> dict[str, Any]:
    """Errors on the rows of a file, or on the requests of a log. Raises SpecError."""
    if left_out and kind not in KERNELS:
        raise SpecError("is for kernels", field="--left-out", value=kind, hint="matmul or attention")
    if kind != SERVING:
        return _compared(kind, read_cases(kind, cases), group, left_out=left_out)
    if group is not None:
        hint = "ttft_s, tpot_s and e2e_s are its groups"
        raise SpecError("does not go with --kind serving", field="--group", value=group, hint=hint)
    return validate_serving(cases)


def _compared(kind: str, read: list[Case], group: str | None, *, left_out: bool) -> dict[str, Any]:
    """Predictions of all rows against what was measured, overall and by the column `group`."""
    if group is not None and read and group not in read[0].values:
        raise SpecError("is no column of the file", field="--group", value=group, hint=nearest(group, read[0].values))
    predictions = predict(kind, read)
    answered = [p for p in predictions if p.predicted is not None and p.measured is not None]
    groups: dict[str, list[Prediction]] = {}
    for prediction in answered:
        groups.setdefault(prediction.case.values[group] if group else "", []).append(prediction)
    return {
        "kind": kind,
        "cases": len(read),
        "skipped": [{"id": p.case.id, "reason": p.reason} for p in predictions if p.predicted is None],
        **_figures(answered),
        "groups": {name: _figures(rows) for name, rows in groups.items()} if group else {},
        "rows": [_row(p) for p in answered],
        **({"left_out": generations.figures(generations.left_out(_tables(kind, answered)))} if left_out else {}),
    }


def _refused(suite: str, given: dict[str, bool]) -> None:
    """Raises SpecError for the first option that is given and that a suite of a folder has no use for."""
    for name, stands in given.items():
        if stands:
            hint = "--cases names the folder of its files"
            raise SpecError(f"does not go with --suite {suite}", field=name, hint=hint)


def _shipped(suite: str, kind: str | None, cases: str | Path | None) -> tuple[str, Path]:
    """Kind and file of a suite that ships. Raises SpecError for one that is unknown, empty, or given more."""
    if kind is not None or cases is not None:
        raise SpecError("has its own kind and cases", field="--suite", value=suite, hint="leave --kind, --cases out")
    if suite == TPU:
        hint = "--kind matmul --cases FILE answers rows of tpu-v3-core and of every other TPU"
        raise SpecError("holds no rows: no measured TPU kernel is at hand", field="--suite", value=suite, hint=hint)
    if suite not in SUITES:
        raise SpecError(
            "unknown suite",
            field="--suite",
            value=suite,
            hint=nearest(suite, (*SUITES, SILICON, COLLECTIVES, *FOLDERS, TPU)),
        )
    kind, name = SUITES[suite]
    return kind, library.shipped() / "experiments" / "validation" / name


def _tables(kind: str, answered: list[Prediction]) -> dict[str, list[Rows]]:
    return generations.by_accelerator(kind, [p.case for p in answered])


def _figures(rows: list[Prediction]) -> dict[str, Any]:
    predicted = [p.predicted for p in rows if p.predicted is not None]
    measured = [p.measured for p in rows if p.measured is not None]
    by_group: dict[tuple[str, ...], list[float]] = {}
    for p in rows:
        by_group.setdefault(p.group, []).append(_error(p))
    return {**summary(predicted, measured), "macro_median_abs_error": macro_median(by_group)}


def _error(prediction: Prediction) -> float:
    predicted, measured = prediction.predicted or 0.0, prediction.measured or 1.0
    return predicted / measured - 1.0


def _row(p: Prediction) -> dict[str, Any]:
    row = {"id": p.case.id, "measured": p.measured, "predicted": p.predicted, "error": _error(p)}
    return row if p.completed is None else {**row, "completed": list(p.completed)}
