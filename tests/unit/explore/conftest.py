"""The small study as the explore floor sees it: systems, models, blocks and their estimates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.engines.analytic import Estimates
from cosim.explore.compare import Block, blocks, run_block
from cosim.explore.experiment import Compare, load_study
from cosim.explore.run import Inputs, read_inputs, run_study
from cosim.hardware.load import load_system
from cosim.hardware.system import System
from cosim.overrides import Varied
from cosim.workload.load import load_model
from cosim.workload.model import lower_model

Runs = list[tuple[Block, Estimates]]


@pytest.fixture(scope="session")
def study(study_file: Path) -> Compare:
    return load_study(str(study_file)).experiment


@pytest.fixture(scope="session")
def inputs(study_file: Path) -> Inputs:
    return read_inputs(str(study_file), {})


@pytest.fixture(scope="session")
def asic() -> Varied[System]:
    """A system whose kernel qualities are known within ranges only."""
    return Varied(load_system("asic-8"))


@pytest.fixture(scope="session")
def evaluated() -> Callable[[Compare], Runs]:
    """Every block of a study with its estimates."""

    def _evaluated(study: Compare) -> Runs:
        systems = {name: Varied(load_system(name)) for name in study.systems}
        models = {name: lower_model(Varied(load_model(name))) for name in study.workload}
        return [(block, run_block(block)) for block in blocks(study, systems, models)]

    return _evaluated


@pytest.fixture(scope="session")
def runs(study: Compare, evaluated: Callable[[Compare], Runs]) -> Runs:
    """The small study, evaluated."""
    return evaluated(study)


@pytest.fixture(scope="session")
def start() -> Callable[..., Path]:
    """Runs a study without figures, killed before block `stop_at`; overrides are keywords with __ for a dot."""

    def _start(name: Path, out: Path, *, stop_at: int = -1, resume: bool = False, **overrides: object) -> Path:
        def progress(done: int, _total: int, _what: str) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        changes = {path.replace("__", "."): value for path, value in overrides.items()}
        return run_study(
            str(name), out, overrides=changes, resume=resume, progress=progress, report=lambda folder: folder
        )

    return _start
