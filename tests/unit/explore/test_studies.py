"""Any experiment by its kind: comparisons and sweeps by the same way in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.explore import studies
from cosim.explore.experiment import load_study
from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

SWEEP = """\
kind: sweep
question: Which?
system: asic-8
axes:
  - {path: system.chip.matrix.rows, values: [64, 128]}
cases:
  - {workload: llama-3.1-8b, phase: decode, plan: {tensor_parallel: 8}}
"""
Options = dict[str, Any]


@pytest.fixture
def quiet() -> Options:
    """No overrides, no figures, nothing said."""
    return {"overrides": {}, "progress": lambda *_: None, "report": lambda folder: folder}


def test_a_sweep_and_a_comparison_go_the_same_way(tmp_path: Path, study_text: str, quiet: Options) -> None:
    (tmp_path / "one.yaml").write_text(SWEEP, encoding="utf-8")
    (tmp_path / "two.yaml").write_text(study_text.replace("max_batch: 16", "max_batch: 1"), encoding="utf-8")
    kinds = {}
    for name in ("one", "two"):
        folder = run_experiment(str(tmp_path / f"{name}.yaml"), tmp_path / name, **quiet)
        kinds[name] = read_run(folder)["kind"]
        assert folder == tmp_path / name
    assert kinds == {"one": "sweep", "two": "compare"}


@pytest.mark.parametrize(("text", "way"), [(SWEEP, "run_sweep"), (None, "run_study")])
def test_options_are_handed_on(
    tmp_path: Path, study_text: str, quiet: Options, monkeypatch: pytest.MonkeyPatch, text: str | None, way: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text or study_text, encoding="utf-8")
    seen: list[Options] = []

    def _seen(_study: object, out: Path, **options: Any) -> Path:
        seen.append(options)
        return out

    monkeypatch.setattr(studies, way, _seen)
    options = quiet | {"overrides": {"scenario.output": 1}, "resume": True}
    assert run_experiment(str(tmp_path / "mine.yaml"), tmp_path / "out", jobs=3, **options) == tmp_path / "out"
    assert seen == [options | ({"jobs": 3} if way == "run_sweep" else {})]


def test_a_sweep_compares_no_systems_and_has_no_parts_that_serve_or_train(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP, encoding="utf-8")
    study = load_study(str(tmp_path / "mine.yaml"))
    assert (study.serving, study.training) == (None, None)
    with pytest.raises(SpecError, match="compares no systems"):
        _ = study.compared


@pytest.mark.parametrize("kind", ["sweeps", "swep", ""])
def test_an_unknown_kind_is_named_with_the_nearest(tmp_path: Path, quiet: Options, kind: str) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP.replace("kind: sweep", f"kind: '{kind}'"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"unknown kind of experiment.*sweep"):
        run_experiment(str(tmp_path / "mine.yaml"), tmp_path / "out", **quiet)
    assert not (tmp_path / "out").exists()
