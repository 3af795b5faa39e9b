"""Fits the constants of serving stacks on half of their measured runs; prints both halves' errors.

Usage: python benchmarks/fit_inference.py FOLDER [STACK ...]

FOLDER holds inference.csv in the schema of `cosim validate --kind inference`. STACK is a fit of
experiments/validation/inference_known.yaml, where the constants of each stack are listed; without one all are fitted
(some minutes). At most one constant is fitted for 20 rows, and none of a stack of fewer than 50. Runs whose name has an
even MD5 are fitted, the others held out; models with draft heads are never fitted. Nothing is written: a value that
moved is for a person to look at and to put into the file of its stack.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosim.errors import SpecError, nearest
from cosim.validation.inference_fit import Fitted, fit_inference
from cosim.validation.inference_known import known


def line(label: str, figures: Mapping[str, Any]) -> str:
    """One line of errors."""
    if not figures["evaluated"]:
        return f"  {label:<42}rows 0"
    median, mean, log = (figures[name] for name in ("median_abs_error", "mean_abs_error", "median_abs_log_error"))
    return f"  {label:<42}rows {figures['evaluated']:<5}median {median:.1%}, mean {mean:.1%}, median log {log:.3f}"


def show(found: Fitted) -> None:
    """Values beside those of the file, then errors of both halves with either."""
    many = "1 constant" if len(found.values) == 1 else f"{len(found.values)} constants"
    print(f"{found.fit.name}: {many} on {found.rows} rows", flush=True)
    for path, value in found.values.items():
        print(f"  {path:<24}{value:<12.4g}in the file {found.present[path]:.4g}")
    for values, halves in found.errors.items():
        for half, figures in halves.items():
            print(line(f"{values}, {half}", figures), flush=True)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    what = known()
    fits = {fit.name: fit for fit in what.fits}
    unknown = next((name for name in names if name not in fits), None)
    if unknown is not None:
        sys.exit(f"error: {unknown} is no fit; {nearest(unknown, fits)}")
    try:
        for name in names or fits:
            show(fit_inference(fits[name], what, folder))
    except SpecError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
