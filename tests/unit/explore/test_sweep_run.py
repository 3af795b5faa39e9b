"""Sweeps to run folders: parts kept one by one, taken up after a kill, shared by processes, the result unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import cosim
from cosim.errors import SpecError
from cosim.explore import sweep_run
from cosim.explore.experiment import load_study
from cosim.explore.run import split_overrides
from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment
from cosim.explore.sweep import ROOTS, Part, SweepInputs
from cosim.explore.sweep_file import Sweep
from cosim.explore.sweep_inputs import read_sweep
from cosim.explore.sweep_run import parts_of, run_sweep, sweep_table

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

SWEEP = """\
kind: sweep
question: Which of a few designs?
system: asic-8
power: derived
axes:
  - {path: system.chip.matrix.rows, values: [32, 64, 128]}
  - {path: system.chip.memory.dram.stacks, values: [4, 6, 9]}
cases:
  - {workload: llama-3.1-8b, phase: decode, plan: {tensor_parallel: 8}, scenario: {batch: 64, context: 2048}}
  - {workload: llama-3.1-8b, phase: prefill, plan: {tensor_parallel: 8}, scenario: {batch: 1, context: 2048}}
constraints: [time_s <= 40 ms]
"""
CHANGING = {"elapsed_s", "points_per_s"}
Done = list[tuple[int, int]]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "mine.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return path


def start(path: Path, out: Path, **options: Any) -> Path:
    """Runs without figures."""
    given = {"overrides": {}, "progress": lambda *_: None, "report": lambda folder: folder, **options}
    return run_experiment(str(path), out, **given)


@pytest.fixture(scope="module")
def whole(mine: Path) -> Path:
    """Its run in two parts, never disturbed."""
    return start(mine, mine.parent / "whole")


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of four designs: how many there are."""
    monkeypatch.setattr("cosim.explore.sweep_run.ONE_PLAN_DESIGNS", 4)
    return 2 * 3


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Done]:
    """Parts (case, first design) that are done from now on; after so many the run is killed."""
    keep = sweep_run.run_and_keep

    def _stopping(after: int) -> Done:
        done: Done = []

        def _keep(inputs: SweepInputs, part: Part, path: Path) -> None:
            if len(done) == after:
                raise KeyboardInterrupt
            keep(inputs, part, path)
            done.append((part.case, part.start))

        monkeypatch.setattr("cosim.explore.sweep_run.run_and_keep", _keep)
        # On a busy machine a pool would pay, and its processes would not know of this.
        monkeypatch.setattr("cosim.explore.sweep_run.WORTH_A_POOL_S", float("inf"))
        return done

    return _stopping


def same(first: Path, second: Path) -> bool:
    """Equal rows, and equal run.json but for the times it took."""
    one, two = (pq.read_table(folder / "results.parquet").to_pylist() for folder in (first, second))
    said, told = ({k: v for k, v in read_run(f).items() if k not in CHANGING} for f in (first, second))
    return one == two and said == told


def test_a_run_folder_holds_results_and_findings_and_no_parts(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {"results.parquet", "run.json"}
    content, table = read_run(whole), pq.read_table(whole / "results.parquet")
    assert (content["kind"], content["name"], content["designs"], content["points"]) == ("sweep", "mine", 9, 18)
    assert table["point_id"].to_pylist() == list(range(18))
    assert content["feasible_points"] == sum(table["feasible"].to_pylist())
    assert content["experiment_text"] == SWEEP
    assert set(content["inputs"]) >= {"systems/asic-8.yaml", "cosim/asic-template.yaml", "models/llama-3.1-8b.yaml"}


def test_the_file_keeps_units_and_the_rows_of_the_python_interface(whole: Path) -> None:
    table = pq.read_table(whole / "results.parquet")
    units = {field.name: (field.metadata or {}).get(b"unit") for field in table.schema}
    assert (units["time_s"], units["area_mm2"], units["system.chip.power.idle"]) == (b"s", b"mm2", b"W")
    assert units["tokens_per_s_per_mm2"] == b"token/s/mm2"
    study = load_study(str(whole.parent / "mine.yaml")).experiment
    space = {
        key: value for key, value in study.model_dump(by_alias=True, exclude_defaults=True).items() if key != "kind"
    }
    assert table.drop_columns(["point_id"]).to_pylist() == cosim.sweep(space).to_pylist()


def test_parts_cover_every_design_once_in_the_order_of_the_result(mine: Path, short_parts: int) -> None:
    study = load_study(str(mine))
    assert isinstance(study.experiment, Sweep)
    inputs, _ = read_sweep(study.experiment, study.document, {root: {} for root in ROOTS})
    parts = list(parts_of(inputs))
    assert len(parts) == short_parts
    covered = [(part.case, design) for part in parts for design in range(part.start, part.stop)]
    assert covered == [(case, design) for case in range(2) for design in range(9)]


def test_short_parts_and_long_ones_make_the_same_run(
    mine: Path, whole: Path, tmp_path: Path, short_parts: int, stopping: Callable[[int], Done]
) -> None:
    done = stopping(100)
    assert same(start(mine, tmp_path / "out"), whole)
    assert len(done) == short_parts


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_killed_sweep_is_taken_up_where_it_was(
    mine: Path, whole: Path, tmp_path: Path, short_parts: int, stopping: Callable[[int], Done], after: int
) -> None:
    first = stopping(after)
    with pytest.raises(KeyboardInterrupt):
        start(mine, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out.partial"}
    assert len(list((tmp_path / "out.partial" / "parts").glob("*.parquet"))) == len(first) == after
    second = stopping(100)
    assert start(mine, tmp_path / "out", resume=True) == tmp_path / "out"
    assert set(first).isdisjoint(second)
    assert len(first) + len(second) == short_parts
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert same(tmp_path / "out", whole)


@pytest.mark.parametrize("other", ["anew", "override", "text"])
def test_parts_are_done_anew_without_resume_or_for_other_inputs(
    mine: Path, tmp_path: Path, short_parts: int, stopping: Callable[[int], Done], other: str
) -> None:
    stopping(4)
    with pytest.raises(KeyboardInterrupt):
        start(mine, tmp_path / "out")
    done = stopping(100)
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP + ("# a remark\n" if other == "text" else ""), encoding="utf-8")
    overrides = {"scenario.context": 1024} if other == "override" else {}
    start(path, tmp_path / "out", resume=other != "anew", overrides=overrides)
    assert len(done) == short_parts


def test_a_part_that_was_half_written_is_done_again(
    mine: Path, whole: Path, tmp_path: Path, short_parts: int, stopping: Callable[[int], Done]
) -> None:
    stopping(3)
    with pytest.raises(KeyboardInterrupt):
        start(mine, tmp_path / "out")
    parts = tmp_path / "out.partial" / "parts"
    (parts / "000003.draft").write_bytes(b"half a table")
    (parts / "000002.parquet").unlink()
    done = stopping(100)
    start(mine, tmp_path / "out", resume=True)
    assert len(done) == short_parts - 2
    assert same(tmp_path / "out", whole)


def test_a_page_that_fails_costs_no_part_again(
    mine: Path, whole: Path, tmp_path: Path, stopping: Callable[[int], Done]
) -> None:
    with pytest.raises(ZeroDivisionError):
        start(mine, tmp_path / "out", report=lambda _folder: 1 / 0)
    assert not (tmp_path / "out").exists()
    done = stopping(100)
    start(mine, tmp_path / "out", resume=True)
    assert done == []
    assert same(tmp_path / "out", whole)


def test_two_processes_make_what_one_makes(
    mine: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_parts: int
) -> None:
    monkeypatch.setattr("cosim.explore.sweep_run.WORTH_A_POOL_S", 0.0)
    told: list[tuple[int, int]] = []
    start(mine, tmp_path / "two", jobs=2, progress=lambda done, total, _what: told.append((done, total)))
    assert same(tmp_path / "two", whole)
    assert told[: short_parts + 1] == [(done, short_parts) for done in range(short_parts + 1)]


def test_one_job_never_starts_a_process(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_parts: int, stopping: Callable[[int], Done]
) -> None:
    monkeypatch.setattr("cosim.explore.sweep_run.WORTH_A_POOL_S", 0.0)
    monkeypatch.setattr("cosim.explore.sweep_run.ProcessPoolExecutor", lambda *_args, **_options: 1 / 0)
    done = stopping(100)
    start(mine, tmp_path / "one", jobs=1)
    assert len(done) == short_parts


def test_overrides_are_part_of_a_run(mine: Path, whole: Path, tmp_path: Path) -> None:
    overrides = {"scenario.context": 1024, "plan.tensor_parallel": 4, "workload.layers": 8, "system.nodes": 2}
    found = start(mine, tmp_path / "out", overrides=overrides)
    rows = pq.read_table(found / "results.parquet").to_pylist()
    assert read_run(found)["overrides"] == overrides
    assert {(row["scenario.context"], row["plan.tensor_parallel"]) for row in rows} == {(1024.0, 4.0)}
    assert max(row["time_s"] or 0.0 for row in rows) != max(
        row["time_s"] or 0.0 for row in pq.read_table(whole / "results.parquet").to_pylist()
    )


def test_several_systems_and_cases_lie_one_after_the_other() -> None:
    case = {"workload": "llama-3.1-8b", "phase": "decode", "plan": {"tensor_parallel": 8}}
    space = {"system": ["asic-8", "tpu-v5p-8"], "cases": [case, case], "axes": []}
    told: list[str] = []
    found = sweep_table(space, lambda _done, _of, what: told.append(what)).to_pylist()
    assert [(row["case"], row["system"]) for row in found] == [
        (0, "asic-8"), (0, "tpu-v5p-8"), (1, "asic-8"), (1, "tpu-v5p-8")
    ]  # fmt: skip
    assert told == ["llama-3.1-8b"] * 4


def test_another_study_is_no_sweep(study_file: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a sweep"):
        run_sweep(
            load_study(str(study_file)), tmp_path / "out", overrides={}, resume=False,
            progress=lambda *_: None, report=lambda f: f,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides",
    [{"system.chip.matrix.row": 1}, {"plan.dtype": "fp5"}, {"chip.cores": 1}, {"system.chip.power.limit": 700}],
)
def test_a_wrong_override_leaves_nothing(mine: Path, tmp_path: Path, overrides: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        start(mine, tmp_path / "out", overrides=overrides)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_run_stays_until_the_new_one_is_whole(
    mine: Path, tmp_path: Path, stopping: Callable[[int], Done]
) -> None:
    out = start(mine, tmp_path / "out")
    before = (out / "run.json").read_text(encoding="utf-8")
    stopping(1)
    with pytest.raises(KeyboardInterrupt):
        start(mine, out, overrides={"scenario.context": 1024})
    assert (out / "run.json").read_text(encoding="utf-8") == before
    stopping(100)
    start(mine, out, overrides={"scenario.context": 1024}, resume=True)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["overrides"] == {"scenario.context": 1024}


def test_a_sweep_of_nothing_feasible_is_a_run_too(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text(SWEEP.replace("time_s <= 40 ms", "area_mm2 <= 1"), encoding="utf-8")
    content = read_run(start(path, tmp_path / "out"))
    assert (content["points"], content["feasible_points"]) == (18, 0)
    assert [case["best"] for case in content["cases"]] == [None, None]
    assert {limit for case in content["cases"] for limit in case["limits"]} <= {"area_mm2 <= 1", "memory_edge"}
    assert np.isfinite(content["elapsed_s"])
    assert split_overrides({}, ROOTS) == {root: {} for root in ROOTS}
