"""`cosim calibrate`: the few constants of a chip's kernels or a system's collectives, fitted to measured ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cosim.cli.library import JsonOption
from cosim.cli.output import emit, table


def calibrate_command(
    accelerator: Annotated[str, typer.Argument(help="The chip (collectives: the system), by name or file.")],
    kind: Annotated[str, typer.Option(help="matmul, attention or collective.")],
    cases: Annotated[Path, typer.Option(help="CSV of what was measured; cosim measure writes one of kernels.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write, of a chip or library; default: it is printed.")
    ] = None,
    rows_of: Annotated[str | None, typer.Option(help="Accelerator (system) whose rows count; default its own.")] = None,
    json_to: JsonOption = None,
) -> None:
    """Fit kernel constants or constants of collectives: odd rows fitted, even rows held out."""
    from cosim.cli.progress import Progress
    from cosim.validation.calibration_file import calibrated
    from cosim.validation.collective_file import calibrated_collectives

    with Progress(sys.stderr) as progress:

        def shown(done: int, total: int) -> None:
            progress.show(done, total, "search")

        if kind == "collective":
            found = calibrated_collectives(accelerator, cases, out=out, rows_of=rows_of, progress=shown)
        else:
            found = calibrated(accelerator, kind, cases, out=out, rows_of=rows_of, progress=shown)
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
    if found["kind"] == "collective":
        from cosim.validation.collective_file import tier_values

        print("of the system: " + " ".join(f"--set {path}={value:.4g}" for path, value in tier_values(found)))
    if found["undetermined"]:
        print("not determined by these rows, kept: " + ", ".join(found["undetermined"]))
    print(f"written: {found['file']}" if found["file"] else "\n" + found["text"])


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    shown = ["-" if figures[key] is None else f"{figures[key]:.1%}" for key in ("median_abs_error", "p90_abs_error")]
    return [name, str(figures["rows"]), *shown]
