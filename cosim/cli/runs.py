"""`cosim run` and `cosim report`: studies to run folders, run folders to pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.estimate import SetOption
from cosim.cli.library import JsonOption
from cosim.cli.output import emit, overrides


def run(
    experiment: Annotated[str, typer.Argument(help="An experiment of the library, or a file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<experiment>.")] = None,
    settings: SetOption = None,
    json_to: JsonOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up an unfinished run of the same inputs.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that share a sweep; default one a core.")] = None,
) -> None:
    """Run a study: results, figures and the page of a design review."""
    from cosim.cli.progress import Progress
    from cosim.explore.store import read_run
    from cosim.explore.studies import run_experiment
    from cosim.report.page import report_run
    from cosim.report.summary import summary

    folder = Path("runs") / Path(experiment).stem if out is None else out
    changes = overrides(settings or [])
    with Progress(sys.stderr) as progress:
        run_experiment(
            experiment, folder, overrides=changes, resume=resume, progress=progress.show, report=report_run, jobs=jobs
        )
    content = read_run(folder)
    page = str(folder / "report.html")
    line, sentences = summary(content)
    if emit({"run": str(folder), "page": page, "bottom_line": line, **content}, json_to):
        return
    print(content["question"])
    print(line)
    for sentence in sentences:
        print(f"  {sentence}")
    print(f"{content['points']:,} points, {content['feasible_points']:,} feasible, {content['elapsed_s']:.1f} s")
    print(f"page: {page}")


def report(
    run_dir: Annotated[Path, typer.Argument(help="A run folder.")],
    json_to: JsonOption = None,
) -> None:
    """(Re)make the figures and the page of a run."""
    from cosim.report.page import report_run

    page = report_run(run_dir)
    if not emit({"run": str(run_dir), "page": str(page)}, json_to):
        print(f"page: {page}")
