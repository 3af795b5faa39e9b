"""Fits the constants of training stacks and chips on half of their measured steps; prints both halves' errors.

Usage: python benchmarks/fit_training.py FOLDER [NAME ...]

FOLDER holds training.csv and training_vtrain.csv in the schema of `cosim validate --kind training`. NAME is a fit of
experiments/validation/training_accuracy.yaml, where the constants of each stack and chip are listed, with the half of
each file that is fitted; without a name all are fitted (some minutes). At most one constant is fitted for 30 rows, and
none of a stack of fewer than 50. Nothing is written: a value that moved is for a person to look at and to put into the
file of its stack or chip.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosim.errors import SpecError, nearest
from cosim.validation.training_fit import Fitted, fit_training
from cosim.validation.training_known import known


def line(label: str, figures: Mapping[str, Any]) -> str:
    """One line of errors."""
    if not figures["evaluated"]:
        return f"  {label:<56}rows 0"
    median, mean, bias = (figures[name] for name in ("median_abs_error", "mean_abs_error", "bias"))
    return f"  {label:<56}rows {figures['evaluated']:<5}median {median:.1%}, mean {mean:.1%}, bias {bias:+.1%}"


def show(found: Fitted) -> None:
    """Values beside those of the files, then errors of both halves with either."""
    many = "1 constant" if len(found.values) == 1 else f"{len(found.values)} constants"
    print(f"{found.fit.name}: {many} on rows of {', '.join(found.fit.stacks)} ({found.rows} rows)")
    for path, value in found.values.items():
        print(f"  {path:<24}{value:<12.4g}in the file {found.present[path]:.4g}")
    for file, sides in found.errors.items():
        for values, halves in sides.items():
            for half, figures in halves.items():
                print(line(f"{file}, {values}, {half}", figures))


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
            show(fit_training(fits[name], what, folder))
    except SpecError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
