"""`cosim import`: files of others to descriptions of cosim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.library import JsonOption
from cosim.cli.output import emit


def import_command(
    what: Annotated[str, typer.Argument(help="requests: a trace of a serving system.")],
    file: Annotated[Path, typer.Argument(help="The file, plain or .gz.")],
    style: Annotated[
        str | None, typer.Option("--format", help="azure, mooncake, servegen, csv, jsonl; default by its header.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Name in workloads/requests, or a .yaml.")] = None,
    start: Annotated[str, typer.Option(help="Requests from then on: '9 h'.")] = "0 s",
    duration: Annotated[str | None, typer.Option(help="For so long: '10 min'.")] = None,
    rate: Annotated[str | None, typer.Option(help="Of a trace without arrivals: '5 Hz'.")] = None,
    seed: Annotated[int, typer.Option(help="Where randomness starts (servegen).")] = 0,
    json_to: JsonOption = None,
) -> None:
    """A trace of requests as a Parquet and the description that names it."""
    from cosim.errors import SpecError, nearest
    from cosim.workload.requests.importing import Asked, import_requests

    if what != "requests":
        raise SpecError("cannot be imported", value=what, hint=nearest(what, ("requests",)))
    times = (_number("--start", start, "s"), None if duration is None else _number("--duration", duration, "s"))
    if seed < 0:
        raise SpecError("is below 0", field="--seed", value=seed)
    asked = Asked(style, *times, seed, None if rate is None else _number("--rate", rate, "Hz"))
    done = import_requests(file, asked, out)
    row = done.summary.to_row()
    content = {"format": done.style, "description": str(done.description), "table": str(done.table), **row}
    if emit({**content, "notes": list(done.notes)}, json_to):
        return
    for name, value in content.items():
        print(f"{name:<22} {_shown(value)}")
    for note in done.notes:
        print(f"note: {note}")


def _number(option: str, text: str, unit: str) -> float:
    """SI value of an option, at least 0; a duration or rate above 0. Raises SpecError that names the option."""
    from cosim.errors import SpecError
    from cosim.units import parse_quantity

    try:
        value = parse_quantity(text, unit)
    except SpecError as error:
        raise SpecError(error.problem, field=option, value=error.value, hint=error.hint) from None
    least = value >= 0.0 if option == "--start" else value > 0.0
    if not least or value == float("inf"):
        raise SpecError("is out of range", field=option, value=text)
    return value


def _shown(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
