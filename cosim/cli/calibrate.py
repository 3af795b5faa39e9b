"""`cosim calibrate`: the few constants of a chip's kernels, fitted to a table of measured ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cosim.cli.library import JsonOption
from cosim.cli.output import emit, table


def calibrate_command(
    accelerator: Annotated[str, typer.Argument(help="The chip: a name of the library, or a file.")],
    kind: Annotated[str, typer.Option(help="matmul or attention.")],
    cases: Annotated[Path, typer.Option(help="CSV of measured kernels, as cosim measure writes it.")],
    out: Annotated[Path | None, typer.Option(help="Chip file to write; default: it is printed.")] = None,
    rows_of: Annotated[str | None, typer.Option(help="Accelerator whose rows count; default its own.")] = None,
    json_to: JsonOption = None,
) -> None:
    """Fit a chip's kernel constants to measured kernels: odd rows fitted, even rows held out."""
    from cosim.cli.progress import Progress
    from cosim.validation.calibration_file import calibrated

    with Progress(sys.stderr) as progress:
        found = calibrated(
            accelerator,
            kind,
            cases,
            out=out,
            rows_of=rows_of,
            progress=lambda done, total: progress.show(done, total, "search"),
        )
    if emit(found, json_to):
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from cosim.validation.calibration_file import meaning

    print(f"{found['accelerator']}: {found['rows']} rows of {found['kind']}")
    print(
        table(["half", "rows", "median", "p90"], [_row("fitted", found["fitted"]), _row("held out", found["held_out"])])
    )
    print(table(["fitted", "value", "meaning"], [[p, f"{v:.4g}", meaning(p)] for p, v in found["values"].items()]))
    if found["undetermined"]:
        print("not determined by these rows, kept: " + ", ".join(found["undetermined"]))
    print(f"written: {found['file']}" if found["file"] else "\n" + found["text"])


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    shown = ["-" if figures[key] is None else f"{figures[key]:.1%}" for key in ("median_abs_error", "p90_abs_error")]
    return [name, str(figures["rows"]), *shown]
