"""`cosim estimate`: one point now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.library import JsonOption
from cosim.cli.output import emit, overrides, table

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="path=value; roots system, workload, plan, scenario.")
]


def estimate_command(
    phase: Annotated[str, typer.Argument(help="train, prefill or decode.")],
    system: Annotated[str, typer.Option(help="A system of the library, or a file.")],
    workload: Annotated[str, typer.Option(help="A model of the library, or a file (YAML, hub config.json).")],
    settings: SetOption = None,
    ops: Annotated[bool, typer.Option("--ops", help="List every operator.")] = False,
    timeline: Annotated[
        Path | None, typer.Option(help="Run the step as events and write its timeline for Perfetto (.json.gz).")
    ] = None,
    straggler: Annotated[
        list[str] | None,
        typer.Option(help="CHIP=1.2: how much longer its passes take in the events of a training step."),
    ] = None,
    slow_spread: Annotated[float, typer.Option(help="Passes of a chip take 1 + this x |z|, z normal.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Where that draw starts.")] = 0,
    json_to: JsonOption = None,
) -> None:
    """One point now, with a breakdown of time, memory and energy."""
    from cosim.cli.screen import estimate_text, operators_text
    from cosim.engines.slow_ranks import SlowRanks
    from cosim.explore.findings import operator_rows
    from cosim.explore.goodput_request import stragglers_named
    from cosim.explore.request import estimate_request
    from cosim.explore.simulate import simulated
    from cosim.report.timeline import write_timeline

    answer = estimate_request(phase, system, workload, overrides(settings or []))
    row = {**answer.to_row(), "plans_tried": answer.plans_tried, "defaults": dict(answer.defaults)}
    row["system_chips"] = int(answer.case.system.chips.max())
    row["time_s_best"], row["time_s_worst"] = answer.spread or (None, None)
    listed = operator_rows(answer.case) if ops else []
    slow = SlowRanks(slow_spread, stragglers_named(straggler or []), seed)
    if timeline is not None or slow:
        run = simulated(answer.case, slow=slow)
        row["time_s_events"] = run.time_s
        said = f"{run.time_s:.4g} s as events, {row['time_s']:.4g} s in closed form"
        if row["breakdown_s.throttle"]:
            said += f", of which {row['breakdown_s.throttle']:.4g} s for a lower clock, which events do not have"
        if timeline is not None:
            write_timeline(timeline, run, f"{phase} of {row['workload']} on {row['system']}")
            said = f"timeline: {timeline}, {said}"
        print(said, file=sys.stderr)
    if emit({**row, "operators": listed} if ops else row, json_to):
        return
    print(estimate_text(row))
    if ops:
        print("\n" + table(*operators_text(listed)))
