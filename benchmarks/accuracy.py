"""Accuracy, printed: predictions against the measured cases that are at hand, fitted and unfitted rows apart.

Run with `make validate`, or `make validate CASES=folder`. The folder holds CSVs in the schema of
`cosim validate`; where it is absent this says so, and only the tables that ship are checked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cosim
from cosim.validation.cases import KINDS


def line(name: str, figures: dict[str, Any]) -> str:
    """One row: median, mean, 90th percentile and bias of the relative error."""
    keys = ("median_abs_error", "mean_abs_error", "p90_abs_error", "bias")
    shown = "".join(f"{'-' if figures[key] is None else f'{figures[key]:.1%}':>9}" for key in keys)
    return f"  {name:<48}{figures['evaluated']:>7}{shown}"


def shipped() -> None:
    """The suites that ship with cosim."""
    found = cosim.validate(suite="systolic")
    print(line("systolic cycles (exact forms)", found))
    print(line("collectives, published figures", cosim.validate(suite="collective")))
    print(line("training steps (Korthikanti 2022, not fitted)", cosim.validate(suite="training")))
    print(line("inference, published points", cosim.validate(suite="inference")))


def measured(folder: Path) -> None:
    """Every kind that cosim answers and the folder holds."""
    for kind in KINDS:
        path = folder / f"{kind}.csv"
        if not path.is_file():
            continue
        found = cosim.validate(kind, path, group="accelerator" if kind in ("matmul", "attention") else "system")
        print(line(f"{kind}, all answered", found))
        for name, figures in found["groups"].items():
            print(line(f"{kind} on {name or 'no system stated'}", figures))
        if kind == "matmul":
            by_dtype(found)
        print(f"  skipped {len(found['skipped'])} of {found['cases']}")
    host = folder / "training_vtrain.csv"
    if host.is_file():
        halves(cosim.validate("training", host))


def halves(found: dict[str, Any]) -> None:
    """The table that the host constants of Megatron were fitted on (odd rows), and its held-out half."""
    from cosim.validation.statistics import summary

    for name, part in (("fitted half", found["rows"][::2]), ("held-out half", found["rows"][1::2])):
        figures = summary([row["predicted"] for row in part], [row["measured"] for row in part])
        print(line(f"training, small models, {name}", figures))


def by_dtype(found: dict[str, Any]) -> None:
    """H100 rows by format; bf16 also by the half that was fitted (odd rows) and the half that was not."""
    from cosim.validation.statistics import summary

    rows = [row for row in found["rows"] if row["id"].startswith("mm-h100-sxm-")]
    for dtype in ("bf16", "fp8"):
        own = [row for row in rows if f"-{dtype}-" in row["id"]]
        parts = (
            [("all", own)]
            if dtype != "bf16"
            else [("all", own), ("fitted half", own[::2]), ("held-out half", own[1::2])]
        )
        for name, part in parts:
            figures = summary([row["predicted"] for row in part], [row["measured"] for row in part])
            print(line(f"h100-sxm {dtype}, {name}", figures))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("../shared/cases")
    print(f"  {'':<48}{'rows':>7}{'median':>9}{'mean':>9}{'p90':>9}{'bias':>9}")
    shipped()
    if folder.is_dir():
        measured(folder)
    else:
        print(f"  no folder {folder}: measured cases were not checked (make validate CASES=folder)")


if __name__ == "__main__":
    main()
