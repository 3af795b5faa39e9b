"""Any experiment by its kind: the one way in from the command line and from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cosim.explore.experiment import load_study
from cosim.explore.run import Progress, run_study
from cosim.explore.search_file import StrategySearch
from cosim.explore.search_run import run_search
from cosim.explore.serving.serve_file import Serve
from cosim.explore.serving.serve_run import run_serve
from cosim.explore.sweep_file import Sweep
from cosim.explore.sweep_run import run_sweep


def run_experiment(
    name: str,
    out: Path,
    *,
    overrides: Mapping[str, Any],
    resume: bool = False,
    progress: Progress,
    report: Callable[[Path], object],
    jobs: int | None = None,
) -> Path:
    """Runs the experiment called `name`, or in the file `name`, into the folder `out`, and returns it.

    `jobs` is the most processes that share a sweep; None is one a core. Raises SpecError before anything is written.
    """
    study = load_study(name)
    if isinstance(study.experiment, Sweep):
        return run_sweep(study, out, overrides=overrides, resume=resume, progress=progress, report=report, jobs=jobs)
    if isinstance(study.experiment, StrategySearch):
        return run_search(study, out, overrides=overrides, resume=resume, progress=progress, report=report)
    if isinstance(study.experiment, Serve):
        return run_serve(study, out, overrides=overrides, resume=resume, progress=progress, report=report)
    return run_study(name, out, overrides=overrides, resume=resume, progress=progress, report=report)
