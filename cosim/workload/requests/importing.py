"""A trace file to a Parquet of requests and the description that names it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosim.errors import SpecError
from cosim.workload.requests.records import Requests, limited, rows_of
from cosim.workload.requests.servegen import generated
from cosim.workload.requests.summary import Summary, summary_of
from cosim.workload.requests.table import write_requests
from cosim.workload.requests.trace_lines import format_of
from cosim.workload.requests.trace_rows import read_rows

FOLDER = Path("workloads") / "requests"
"""Where descriptions of requests are looked for, below the current folder."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a trace is taken."""

    style: str | None = None
    """Format; None for what the header shows."""
    start_s: float = 0.0
    """Requests from then on, and arrivals count from there [s]."""
    duration_s: float | None = None
    """For so long; None to the end. ServeGen's tables need one."""
    seed: int = 0
    """Of what is drawn: ServeGen's requests."""
    rate: float | None = None
    """Requests per second, for a trace that has no arrivals."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written, and what it is like."""

    style: str
    description: Path
    table: Path
    summary: Summary
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """Requests, whether they have arrivals, and what to say of them."""

    requests: Requests
    timed: bool
    notes: tuple[str, ...]


def import_requests(file: Path, asked: Asked, out: str | None = None) -> Imported:
    """Reads a trace and writes NAME.parquet and NAME.yaml. Raises SpecError; then nothing is written.

    `out` is a name for the library of the current folder, or the path of a .yaml; None for the name of the trace.
    """
    style = format_of(file, asked.style)
    target = _target(file, out)
    table = target.with_suffix(".parquet")
    for path in (target, table):
        if path.exists() or path.is_symlink():
            raise SpecError("exists", file=path, field="--out", hint="name another --out")
    read = _servegen(file, asked) if style == "servegen" else _rows(file, style, asked)
    if asked.rate is not None and read.timed:
        raise SpecError("is beside arrivals of the trace", field="--rate", value=asked.rate, hint="leave it out")
    summary = summary_of([read.requests], timed=read.timed)
    write_requests(table, iter([read.requests]))
    try:
        target.write_text(_described(target.stem, table.name, file, style, asked, read), encoding="utf-8")
    except OSError as error:
        table.unlink()
        raise SpecError(f"cannot be written: {error.strerror}", file=target) from None
    return Imported(style, target, table, summary, read.notes)


def _rows(file: Path, style: str, asked: Asked) -> _Read:
    found = read_rows(file, style)
    notes = () if found.sorted_already else ("the rows were not in order of arrival: sorted",)
    if not found.timed:
        if asked.rate is None:
            raise SpecError("has no arrivals", file=file, line=1, hint="give --rate: its lengths are drawn in pairs")
        if asked.start_s or asked.duration_s is not None:
            raise SpecError("is asked of a trace without arrivals", field="--start or --duration", file=file)
        return _Read(found.requests, timed=False, notes=(*notes, "no arrivals: lengths are drawn in pairs at --rate"))
    return _Read(_cut(found.requests, asked, file), timed=True, notes=notes)


def _servegen(file: Path, asked: Asked) -> _Read:
    if asked.duration_s is None:
        hint = "--duration '10 min', and --start"
        raise SpecError("is needed: these are rates over days", file=file, field="--duration", hint=hint)
    made = generated(file, np.random.default_rng(asked.seed), asked.start_s, asked.duration_s)
    notes = [f"drawn with seed {asked.seed} from rates and quantiles of {made.clients} clients"]
    if made.without_lengths:
        share = made.lost_requests / (made.lost_requests + len(made.requests))
        notes.append(
            f"{made.without_lengths} clients have no table of lengths: left out, about {share:.1%} of the requests"
        )
    return _Read(made.requests, timed=True, notes=tuple(notes))


def _cut(requests: Requests, asked: Asked, file: Path) -> Requests:
    """The requests of the time that is asked. Raises SpecError where there is none."""
    if not asked.start_s and asked.duration_s is None:
        return requests
    first = int(np.searchsorted(requests.arrival_s, asked.start_s))
    later = rows_of(requests, first, len(requests))
    columns = (later.session, later.prefix, later.priority, later.client, later.blocks)
    later = Requests(later.arrival_s - asked.start_s, later.prompt_tokens, later.output_tokens, *columns)
    kept = list(limited(iter([later]), None, asked.duration_s))
    if not kept:
        span = f"{float(requests.arrival_s[-1]):g} s"
        raise SpecError("has no request in this time", file=file, field="--start", hint=f"it spans {span}")
    return kept[0]


def _target(file: Path, out: str | None) -> Path:
    """Path of the description. Raises SpecError for a name that is none."""
    name = out or file.name.removesuffix(".gz").rpartition(".")[0] or file.name
    if name.endswith(".yaml"):
        return Path(name)
    if Path(name).name != name or name.startswith("."):
        hint = "a name, or the path of a .yaml"
        raise SpecError("is neither a name nor a file", field="--out", value=name, hint=hint)
    return FOLDER / f"{name}.yaml"


def _described(name: str, table: str, file: Path, style: str, asked: Asked, read: _Read) -> str:
    """The description as YAML; texts as JSON strings, which YAML reads."""
    source = f"{file.name}, read as {style}"
    if style == "servegen":
        source += f", from {asked.start_s:g} s for {asked.duration_s:g} s, seed {asked.seed}"
    lines = [
        "kind: requests",
        f"name: {json.dumps(name)}",
        f"title: {json.dumps(f'{len(read.requests):,} requests of {file.name}')}",
        f"source: {json.dumps(source)}",
    ]
    if read.timed:
        lines.append(f"trace: {{file: {json.dumps(table)}}}")
    else:
        lines += [
            f"count: {len(read.requests)}",
            f"arrivals: {{kind: poisson, rate: {asked.rate!r}}}",
            f"joint: {{file: {json.dumps(table)}}}",
        ]
    return "\n".join(lines) + "\n"
