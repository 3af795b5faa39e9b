"""`cosim calibrate`: rows in, a chip file out whose fitted values and their provenance stand over those of its base."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosim import library
from cosim.errors import SpecError, nearest
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.lower import KERNEL_CONSTANTS
from cosim.records import Array
from cosim.validation.calibrate import Fit, calibrate
from cosim.validation.cases import Case, read_cases
from cosim.validation.knobs import CONSTANT
from cosim.version import __version__

KINDS = ("matmul", "attention")
DIGITS = 4
HOPELESS = 0.75
"""Median error of the fitted rows beyond which they are not what they say."""
CALIBRATED = ", calibrated"
Progress = Callable[[int, int], None]


def calibrated(
    accelerator: str,
    kind: str,
    path: Path,
    *,
    out: Path | None = None,
    rows_of: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits `accelerator` to the rows of `path` (those of `rows_of`, or its own) and writes a chip file to `out`.

    Returns accelerator, kind, rows, fitted values by path, what the rows do not determine, errors of both halves, and
    the text of the file. Raises SpecError on bad input, for a chip that is kept out of fits, and where the rows cannot
    carry the constants; then nothing is written.
    """
    if kind not in KINDS:
        raise SpecError("cannot be calibrated", field="--kind", value=kind, hint=nearest(kind, (*KINDS, "collective")))
    chip = load_chip(accelerator)
    refuse_held_out(accelerator, rows_of or chip.name)
    name = new_file(f"{chip.name}-calibrated", out)
    cases = read_cases(kind, path)
    own = [case for case in cases if case.values["accelerator"] == (rows_of or chip.name)]
    if not own:
        known = ", ".join(dict.fromkeys(case.values["accelerator"] for case in cases))
        raise SpecError(
            "has no rows of this accelerator", file=path, value=rows_of or chip.name, hint=f"it has {known}"
        )
    fit = calibrate(chip, kind, own, progress)
    error = float(np.median(fit.fitted))
    if error > HOPELESS:
        hint = "times in seconds? rows of this chip?"
        raise SpecError(f"no constants explain these rows: median error {error:.0%}", file=path, hint=hint)
    text = chip_file(chip, _reference(accelerator, out), name, fit, _provenance(kind, path, own))
    if out is not None:
        write_whole(out, text)
    return {
        "accelerator": chip.name,
        "kind": kind,
        "rows": len(own),
        "values": dict(fit.values),
        "undetermined": list(fit.undetermined),
        "fitted": error_figures(fit.fitted),
        "held_out": error_figures(fit.held_out),
        "file": None if out is None else str(out),
        "text": text,
    }


def never_fitted() -> dict[str, str]:
    """Chips that no fit of the library may see, with the reason."""
    path = library.shipped() / "experiments" / "validation" / "never_fitted.csv"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {row["accelerator"]: row["why"] for row in csv.DictReader(lines)}


def chip_file(chip: Chip, base: str, name: str, fit: Fit, provenance: str) -> str:
    """YAML of a chip on `base` with the fitted values; every number with kind and source."""
    # Written as JSON strings, which YAML reads as they are, whatever they hold; one source for each run.
    key = f"calibration-{hashlib.sha256(provenance.encode()).hexdigest()[:6]}"
    title = chip.title if chip.title.endswith(CALIBRATED) else chip.title + CALIBRATED
    lines = [
        "# Made by cosim calibrate: what was fitted stands over the base.",
        f"base: {json.dumps(base)}",
        f"name: {json.dumps(name)}",
        f"title: {json.dumps(title)}",
        "sources:",
        f"  {key}: {{text: {json.dumps(provenance)}}}",
    ]
    tree: dict[str, Any] = {}
    for path, value in fit.values.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        unit = ", unit: s" if path.startswith("launch.") else ""
        node[last] = f"{{value: {value:.{DIGITS}g}{unit}, kind: measured, source: {key}}}"
    constants = tree.setdefault("calibration", {})
    data, held_out = provenance, errors_in_words(fit.held_out)
    if chip.calibration is not None and chip.is_fitted:
        # Fitted before, on the other kind of kernels: that stays true.
        data, held_out = f"{chip.calibration.data}; {data}", f"{chip.calibration.held_out}; {held_out}"
    head = {"fitted_on": f"[{json.dumps(name)}]", "data": json.dumps(data), "held_out": json.dumps(held_out)}
    tree["calibration"] = {**head, **constants}
    return "\n".join([*lines, *yaml_lines(tree, "")]) + "\n"


def yaml_lines(tree: Mapping[str, Any], indent: str) -> list[str]:
    """Lines of a nested mapping whose leaves are written already."""
    lines: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines


def refuse_held_out(accelerator: str, rows_of: str) -> None:
    """The library's own held-out chips stay a test; a chip of the user's, in a file, is the user's."""
    path = Path(accelerator)
    if accelerator.endswith((".yaml", ".yml")):
        if not path.resolve().is_relative_to((library.shipped() / "accelerators").resolve()):
            return
        accelerator = path.stem
    kept = never_fitted()
    for name in (accelerator, rows_of):
        if name in kept:
            raise SpecError(
                f"is kept out of every fit, so that it stays a test of the library ({kept[name]})",
                field="ACCELERATOR",
                value=name,
                hint=f"calibrate a file of your own with 'base: {name}' and --rows-of {name}",
            )


def new_file(default: str, out: Path | None) -> str:
    """Name of what is written to `out`; the default where nothing is. Raises SpecError where it cannot be written."""
    if out is None:
        return default
    if out.suffix != ".yaml":
        raise SpecError("is no description", field="--out", value=str(out), hint="end it in .yaml")
    if not out.parent.is_dir():
        raise SpecError("cannot be written: its folder is not there", field="--out", value=str(out))
    if out.exists():
        raise SpecError("exists", field="--out", value=str(out), hint="name another, or remove it")
    return out.stem


def _reference(accelerator: str, out: Path | None) -> str:
    """How the new file names its base: as it was given, a file from where the new one lies."""
    if not accelerator.endswith((".yaml", ".yml")):
        return accelerator
    return os.path.relpath(accelerator, Path() if out is None else out.parent)


def _provenance(kind: str, path: Path, rows: list[Case]) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"cosim {__version__} calibrate, {kind}: odd ones of {len(rows)} rows of {path.name} (sha256 {digest})"


def errors_in_words(errors: Array) -> str:
    """Errors of the half that was not fitted, for a file."""
    if not errors.size:
        return "unknown: no row was held out"
    return f"even rows: median {np.median(errors):.1%}, 90th percentile {np.quantile(errors, 0.9):.1%}"


def error_figures(errors: Array) -> dict[str, float | int | None]:
    """Rows, median and 90th percentile of |errors|; None where there are none."""
    known = errors.size > 0
    return {
        "rows": int(errors.size),
        "median_abs_error": float(np.median(errors)) if known else None,
        "p90_abs_error": float(np.quantile(errors, 0.9)) if known else None,
    }


def meaning(path: str) -> str:
    """What a fitted path is, in words; empty where the path says it."""
    return KERNEL_CONSTANTS.get(path.removeprefix(CONSTANT), "")


def write_whole(out: Path, text: str) -> None:
    """The whole file or none of it. Raises SpecError where it cannot be written."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror}", field="--out", value=str(out)) from None
