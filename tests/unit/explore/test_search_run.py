"""Searches to run folders: parts kept one by one and taken up after a kill, the record that Python gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import cosim
from cosim.errors import SpecError
from cosim.explore import search, search_run
from cosim.explore.search_run import Found, SearchResult
from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
TEXT = """\
kind: search
question: Which strategy?
system: dgx-a100
nodes: 2
workload: llama-3.1-8b
scenario: {global_batch: 16, context: 2048}
space: {micro_batch: [1, 2], virtual_pipeline: [1, 2], schedule: [1f1b, gpipe], zero: [0, 1], sequence_parallel: on}
objectives: [time_s, memory_bytes.total]
"""
CHANGING = {"elapsed_s", "points_per_s"}


def start(path: Path, out: Path, **options: Any) -> Path:
    """Runs without figures."""
    given = {"overrides": {}, "progress": lambda *_: None, "report": lambda folder: folder, **options}
    return run_experiment(str(path), out, **given)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(mine: Path) -> Path:
    return start(mine, mine.parent / "whole")


def test_the_folder_holds_rows_and_findings(whole: Path) -> None:
    run, table = read_run(whole), pq.read_table(whole / "results.parquet")
    assert run["kind"] == "search"
    assert run["points"] == run["rows"] == table.num_rows
    assert run["feasible_points"] == sum(table["feasible"].to_pylist()) > 0
    assert sum(run["limits"].values()) == run["points"] - run["feasible_points"]
    assert run["size"] > run["points"]
    assert table["point_id"].to_pylist() == list(range(table.num_rows))
    assert table.schema.field("usd_per_token").metadata == {b"unit": b"USD"}
    assert not (whole / "parts").exists()
    assert {"dgx-a100.yaml", "llama-3.1-8b.yaml", "megatron.yaml"} <= {name.split("/")[-1] for name in run["inputs"]}


def test_the_best_of_the_folder_is_the_least_of_its_rows(whole: Path) -> None:
    run, table = read_run(whole), pq.read_table(whole / "results.parquet")
    fit = table.filter(table["feasible"])
    for found in run["objectives"]:
        assert found["best"][found["column"]] == pytest.approx(min(fit[found["column"]].to_pylist()))
        assert found["top"][0] == found["best"]
        assert len(found["neighbours"]) > 4
    assert sum(fit["on_front"].to_pylist()) == run["front_size"] == len(run["front"])


def test_the_size_is_said_first_and_progress_ends_whole(mine: Path, tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    start(mine, tmp_path / "out", progress=lambda *each: said.append(each))
    run = read_run(tmp_path / "out")
    assert said[0][2] == f"{run['size']:,} combinations, {run['points']:,} legal strategies in {run['cells']} cells"
    assert [each[0] for each in said if each[1]] == list(range(said[0][1] + 1))


def test_a_killed_run_goes_on_from_its_parts_and_ends_alike(
    mine: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = search_run.run_part, []

    def killed(inputs: Any, part: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(part)
        return real(inputs, part)

    monkeypatch.setattr(search, "PART_STRATEGIES", 16)
    monkeypatch.setattr(search_run, "run_part", killed)
    with pytest.raises(KeyboardInterrupt):
        start(mine, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.partial" / "parts").glob("*.npz"))) == 3
    again: list[Any] = []

    def counted(inputs: Any, part: Any) -> Any:
        again.append(part)
        return real(inputs, part)

    monkeypatch.setattr(search_run, "run_part", counted)
    start(mine, tmp_path / "out", resume=True)
    assert not set(done) & set(again)
    ours, theirs = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "out", whole))
    assert {k: v for k, v in ours.items() if k not in CHANGING} == {
        k: v for k, v in theirs.items() if k not in CHANGING
    }
    assert pq.read_table(tmp_path / "out" / "results.parquet") == pq.read_table(whole / "results.parquet")


def test_where_nothing_fits_the_run_says_what_takes_how_much_and_what_would(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(TEXT.replace("llama-3.1-8b", "llama-3.1-70b").replace("nodes: 2", "nodes: 1"), encoding="utf-8")
    run = read_run(start(path, tmp_path / "out"))
    assert run["feasible_points"] == 0
    near = run["nearest"]
    assert near["limit"] == "memory"
    assert near["why"].startswith("memory: ")
    assert "optimizer" in near["why"]
    assert "chips (system.nodes=" in near["fits"]
    assert [found["best"] for found in run["objectives"]] == [None, None]
    assert [found["why"] for found in run["objectives"]] == ["nothing fits", "nothing fits"]
    assert all(cell["fit"] == 0 and cell["best"] is None for cell in run["fits"])
    assert not any(pq.read_table(tmp_path / "out" / "results.parquet")["feasible"].to_pylist())


def test_a_constraint_that_nothing_keeps_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tight.yaml"
    path.write_text(TEXT + "constraints: [time_s <= 1 us]\nrows: 3\n", encoding="utf-8")
    run = read_run(start(path, tmp_path / "out"))
    assert run["rows"] == 0
    assert pq.read_table(tmp_path / "out" / "results.parquet").num_rows == 0
    assert run["nearest"]["limit"] == "time_s <= 1 us"
    assert run["nearest"]["fits"] is None


@pytest.fixture(scope="module")
def record() -> SearchResult:
    return cosim.search(
        cosim.system("dgx-a100", nodes=2),
        cosim.workload("llama-3.1-8b"),
        ["time_s", "memory_bytes.total"],
        space={
            "micro_batch": [1, 2],
            "virtual_pipeline": [1, 2],
            "schedule": ["1f1b", "gpipe"],
            "zero": [0, 1],
            "sequence_parallel": "on",
        },
        global_batch=16,
        context=2048,
    )


def test_python_finds_what_the_command_finds(record: SearchResult, whole: Path) -> None:
    run = read_run(whole)
    assert (record.size, record.legal, record.feasible) == (run["size"], run["points"], run["feasible_points"])
    assert record.limits == run["limits"]
    assert record.nearest is None
    best = record.best
    assert isinstance(best, Found)
    command = run["objectives"][0]["best"]["command"]
    assert {**best.to_row(), "command": command} == run["objectives"][0]["best"]
    assert best["time_s"] == best.to_row()["time_s"] == record.front[0]["time_s"]
    assert list(record.best_by) == ["least time_s", "least memory_bytes.total"]
    assert [each["time_s"] for each in record.front] == [row["time_s"] for row in run["front"]]
    table = record.table()
    assert table.num_rows == run["rows"]
    assert record.kept == run["kept"]
    neighbours = [each.as_json() for each in record.neighbours]
    assert neighbours == [each for found in run["objectives"] for each in found["neighbours"]]


def test_the_record_is_frozen(record: SearchResult) -> None:
    with pytest.raises(AttributeError):
        record.answer = None  # type: ignore[misc, assignment]  # what must fail


def test_a_search_of_python_that_cannot_be_is_one_message() -> None:
    where = cosim.system("dgx-a100"), cosim.workload("llama-3.1-8b")
    with pytest.raises(SpecError, match=r"space\.tensr: unknown field .*nearest: tensor"):
        cosim.search(*where, space={"tensr": 8})
    with pytest.raises(SpecError, match=r"unknown path; nearest: scenario.global_batch"):
        cosim.search(*where, globalbatch=8)
    with pytest.raises(SpecError, match="holds no legal strategy"):
        cosim.search(*where, space={"tensor": 8, "pipeline": 8})


def test_where_nothing_fits_the_record_has_no_best() -> None:
    found = cosim.search(
        cosim.system("dgx-a100"),
        cosim.workload("llama-3.1-70b"),
        space={"tensor": 8, "schedule": "1f1b", "micro_batch": 1},
        global_batch=8,
        rows=1,
    )
    assert (found.best, found.best_by, found.front, found.neighbours) == (None, {}, (), ())
    assert found.nearest is not None
    assert found.table().num_rows == 0
