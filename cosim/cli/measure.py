"""`cosim measure`: microbenchmarks on the machine's own device, as cases to validate and to calibrate with."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cosim.cli.library import JsonOption
from cosim.cli.output import emit, table


def measure_command(
    out: Annotated[Path, typer.Argument(help="Folder for the tables; made here.")],
    accelerator: Annotated[str, typer.Option(help="The chip that it is: a name of the library, or a file.")],
    kind: Annotated[list[str] | None, typer.Option(help="matmul, attention, copy, launch; default all.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Formats of products and attention; default bf16.")] = None,
    grid: Annotated[str, typer.Option(help="quick, standard or full.")] = "standard",
    cache: Annotated[
        list[str] | None,
        typer.Option(help="warm, cold: operands in the last cache or not; default both, attention cold."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up what was measured; nothing twice.")] = False,
    json_to: JsonOption = None,
) -> None:
    """Time products, attention, copies and launches on this machine's device."""
    from cosim.cli.progress import Progress
    from cosim.measure import device
    from cosim.measure.run import Request, measure

    given = {"kinds": _each(kind), "dtypes": _each(dtype), "states": _each(cache)}
    request = Request(accelerator, grid=grid, **{name: value for name, value in given.items() if value})
    today = datetime.now(UTC).date().isoformat()
    with Progress(sys.stderr) as progress:
        found = measure(request, out, device.open_device, resume=resume, today=today, progress=progress.show)
    if emit(found, json_to):
        return
    print(f"{found['accelerator']}: {found['device']['name']}, torch {found['device']['torch']}")
    for line in found["differs"]:
        print(f"differs from the chip's description: {line}")
    print(table(["table", "rows", "now", "skipped", "spread"], map(_row, found["kinds"].values())))
    for (of, reason), count in Counter((skip["kind"], skip["reason"]) for skip in found["skipped"]).most_common():
        print(f"skipped {count} of {of}: {reason}")


def _each(given: list[str] | None) -> tuple[str, ...]:
    """What was given, each once."""
    return tuple(dict.fromkeys(given or ()))


def _row(found: dict[str, Any]) -> list[str]:
    spread = "-" if found["median_spread"] is None else f"{found['median_spread']:.3f}"
    return [found["file"], *(str(found[name]) for name in ("rows", "measured", "skipped")), spread]
