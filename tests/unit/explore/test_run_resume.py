"""Runs that are killed, taken up again, repeated: nothing half-made has a name, nothing is done twice or mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cosim import library
from cosim.engines.analytic import Estimates
from cosim.explore import compare
from cosim.explore.compare import Block
from cosim.explore.run import run_study
from cosim.explore.store import read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

BLOCKS = 16  # two systems, one precision, two phases, four qualities
CHANGING = {"elapsed_s", "points_per_s"}
Start = Callable[..., Path]
Seen = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def quick(study_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study with one sequence per replica in decode."""
    path = tmp_path_factory.mktemp("quick") / "quick.yaml"
    path.write_text(study_text.replace("max_batch: 16", "max_batch: 1"))
    return path


@pytest.fixture(scope="module")
def whole(quick: Path, start: Start) -> Path:
    """Its run, never disturbed."""
    return start(quick, quick.parent / "whole")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The blocks that were evaluated, in order."""
    seen: Seen = []
    evaluate = compare.run_block

    def _counted(block: Block) -> Estimates:
        seen.append((block.system, block.phase, block.quality))
        return evaluate(block)

    monkeypatch.setattr("cosim.explore.compare.run_block", _counted)
    return seen


def same(first: Path, second: Path) -> bool:
    """Equal tables to the bit, and equal run.json but for the times it took."""
    tables = [pq.read_table(folder / "results.parquet") for folder in (first, second)]
    one, two = ({k: v for k, v in read_run(f).items() if k not in CHANGING} for f in (first, second))
    return bool(tables[0].equals(tables[1])) and one == two


def test_two_runs_are_equal_and_progress_counts_every_block(whole: Path, quick: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    again = run_study(
        str(quick),
        tmp_path / "out",
        overrides={},
        progress=lambda done, total, _what: told.append((done, total)),
        report=lambda folder: folder,
    )
    assert same(again, whole)
    assert told[: BLOCKS + 1] == [(done, BLOCKS) for done in range(BLOCKS + 1)]
    assert set(told[BLOCKS + 1 :]) == {(0, 0)}


@pytest.mark.parametrize("stop_at", [5, BLOCKS])
def test_a_killed_run_leaves_no_folder_and_resume_finishes_it_without_doing_anything_twice(
    whole: Path, quick: Path, tmp_path: Path, counted: Seen, stop_at: int, start: Start
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        start(quick, out, stop_at=stop_at)
    assert {path.name for path in tmp_path.iterdir()} == {"out.partial"}
    assert len(counted) == stop_at
    assert start(quick, out, resume=True) == out
    assert len(counted) == len(set(counted)) == BLOCKS
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert same(out, whole)


def test_a_run_killed_while_its_page_is_made_is_resumed_without_evaluating(
    whole: Path, quick: Path, tmp_path: Path, counted: Seen, start: Start
) -> None:
    def fails(_folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(str(quick), tmp_path / "out", overrides={}, progress=lambda *_: None, report=fails)
    assert not (tmp_path / "out").exists()
    counted.clear()
    assert same(start(quick, tmp_path / "out", resume=True), whole)
    assert counted == []


def test_without_resume_an_unfinished_run_is_done_anew(
    quick: Path, tmp_path: Path, counted: Seen, start: Start
) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(quick, tmp_path / "out", stop_at=5)
    counted.clear()
    start(quick, tmp_path / "out")
    assert len(counted) == BLOCKS


def own_chip(folder: Path) -> None:
    """The user's own h100-sxm.yaml, found before the shipped one: the same numbers, one comment more."""
    (folder / "accelerators").mkdir()
    text = library.find("accelerators", "h100-sxm").read_text(encoding="utf-8")
    (folder / "accelerators" / "h100-sxm.yaml").write_text(f"{text}# mine\n", encoding="utf-8")


@pytest.mark.parametrize("change", ["override", "text", "chip"])
def test_parts_of_other_inputs_are_never_taken_up(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Seen, change: str, start: Start
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, text = tmp_path / "mine.yaml", quick.read_text()
    mine.write_text(text)
    with pytest.raises(KeyboardInterrupt):
        start(mine, tmp_path / "out", stop_at=5)
    counted.clear()
    overrides: dict[str, object] = {"scenario__output": 512} if change == "override" else {}
    if change == "text":
        mine.write_text(text + "# a remark\n")
    if change == "chip":
        own_chip(tmp_path)
    start(mine, tmp_path / "out", resume=True, **overrides)
    assert len(counted) == BLOCKS


def test_a_killed_second_run_leaves_the_first_as_it_was(quick: Path, tmp_path: Path, start: Start) -> None:
    out = start(quick, tmp_path / "out", scenario__output=512)
    before = (out / "run.json").read_text(encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        start(quick, out, stop_at=5)
    assert (out / "run.json").read_text(encoding="utf-8") == before
    start(quick, out, resume=True)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["overrides"] == {}
