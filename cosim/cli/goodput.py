"""`cosim goodput`: weeks of training with failures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.estimate import SetOption
from cosim.cli.library import JsonOption
from cosim.cli.output import emit, overrides


def goodput_command(
    system: Annotated[str, typer.Option(help="A system of the library, or a file.")],
    workload: Annotated[str, typer.Option(help="A model of the library, or a file (YAML, hub config.json).")],
    tokens: Annotated[float | None, typer.Option(help="Tokens of the run, 15.6e12.")] = None,
    steps: Annotated[float | None, typer.Option(help="Or its optimizer steps.")] = None,
    interval: Annotated[str, typer.Option(help="Work between checkpoints: best, daly, young, or '30 min'.")] = "best",
    checkpoint: Annotated[str, typer.Option(help="blocking or async.")] = "blocking",
    spares: Annotated[int | None, typer.Option(help="Spare nodes; default the share of the data.")] = None,
    elastic: Annotated[bool, typer.Option("--elastic", help="Go on with fewer replicas without a spare.")] = False,
    slow_spread: Annotated[float, typer.Option(help="Steps of a chip take 1 + this x |z|, z normal.")] = 0.0,
    straggler: Annotated[list[str] | None, typer.Option(help="CHIP=1.2: how much longer its steps take.")] = None,
    reliability: Annotated[str, typer.Option(help="Failures by component: a name, or a file.")] = "reliability",
    seeds: Annotated[int, typer.Option(help="Runs that are simulated.")] = 20,
    seed: Annotated[int, typer.Option(help="Where randomness starts.")] = 0,
    settings: SetOption = None,
    timeline: Annotated[Path | None, typer.Option(help="Timeline of the first run for Perfetto (.json.gz).")] = None,
    json_to: JsonOption = None,
) -> None:
    """Goodput of a long training run: failures, checkpoints, spares, stragglers; simulated and in closed form."""
    from cosim.cli.goodput_screen import goodput_text
    from cosim.explore.goodput_asked import Asked
    from cosim.explore.goodput_request import goodput_request
    from cosim.report.goodput_timeline import write_goodput_timeline

    asked = Asked(
        tokens,
        steps,
        interval,
        checkpoint,
        spares,
        elastic,
        slow_spread=slow_spread,
        seeds=seeds,
        seed=seed,
        spans=timeline is not None,
    )
    named = straggler or []
    given = overrides(settings or [])
    answer = goodput_request(system, workload, asked, given, reliability=reliability, stragglers=named)
    row = answer.to_row()
    if timeline is not None:
        write_goodput_timeline(timeline, answer.runs[0], f"{row['workload']} on {row['system']}")
        print(f"timeline: {timeline}", file=sys.stderr)
    if not emit(row, json_to):
        print(goodput_text(row))
