"""`cosim collective`: one collective now, in closed form and as flows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.estimate import SetOption
from cosim.cli.library import JsonOption
from cosim.cli.output import emit, overrides

Texts = list[str] | None


def collective_command(
    op: Annotated[
        str,
        typer.Argument(
            help="all_reduce, all_gather, reduce_scatter, alltoall, broadcast, reduce, send_recv or barrier"
        ),
    ],
    system: Annotated[str, typer.Option(help="A system of the library, or a file.")],
    size: Annotated[str, typer.Option("--bytes", help="As nccl-tests count them: 64MiB; a barrier has none.")] = "0",
    ranks: Annotated[int | None, typer.Option(help="Chips of the group; default all, of send_recv 2.")] = None,
    stride: Annotated[int, typer.Option(help="Chips from one rank to the next.")] = 1,
    algorithm: Annotated[str, typer.Option(help="ring, tree, direct ...; default the fastest.")] = "fastest",
    settings: SetOption = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Run it as flows on links too.")] = False,
    repeat: Annotated[int, typer.Option(help="Groups beside each other, all at once.")] = 1,
    beside: Annotated[Texts, typer.Option(help="OP:BYTES:RANKS at the same time; RANKS 8, 8-15 or 0,8.")] = None,
    degrade: Annotated[Texts, typer.Option(help="LINK=0.5, or a pattern; 0 has failed.")] = None,
    straggler: Annotated[Texts, typer.Option(help="RANK=20us: a chip that is late.")] = None,
    background: Annotated[Texts, typer.Option(help="FROM:TO=10GB/s between two chips.")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Timeline of the flows for Perfetto (.json.gz).")] = None,
    json_to: JsonOption = None,
) -> None:
    """Time, algorithm and bus bandwidth of a collective, and the busiest links of its flows."""
    from cosim.cli.network_screen import collective_text
    from cosim.explore.collective import Asked, collective_request
    from cosim.report.network_timeline import write_network_timeline

    given = {"beside": beside, "degrade": degrade, "straggler": straggler, "background": background}
    lists = {name: tuple(texts or ()) for name, texts in given.items()}
    flows = simulate or timeline is not None
    asked = Asked(op, system, size, ranks, stride, algorithm, repeat, simulate=flows, **lists)
    answer = collective_request(asked, overrides(settings or []))
    row = answer.to_row()
    if timeline is not None and answer.run is not None:
        write_network_timeline(timeline, answer.run, f"{op} of {size} on {system}")
        print(f"timeline: {timeline}", file=sys.stderr)
    if not emit(row, json_to):
        print(collective_text(row))
