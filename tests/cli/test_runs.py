"""`cosim run` and `cosim report`: a study to a folder, a folder to a page, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.explore.store import read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mine(study_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One system and one sequence per replica, in the current directory."""
    monkeypatch.chdir(tmp_path)
    text = study_text.replace("[dgx-h100, mi300x-8gpu]", "[dgx-h100]").replace("max_batch: 16", "max_batch: 1")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "mine.yaml"


def refused(call: Call, *arguments: object) -> str:
    """The last line on standard error of a command that is refused; nothing is left behind."""
    before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")} == before
    return err


def test_a_run_tells_its_question_its_verdict_and_its_page(call: Call, mine: Path) -> None:
    code, out, err = call("run", mine.name)
    content = read_run(Path("runs/mine"))
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "Which of two GPUs serves a small model?"
    assert f"{content['points']:,} points, {content['feasible_points']:,} feasible" in lines[-2]
    assert lines[-1] == "page: runs/mine/report.html"
    for finding in content["findings"]:
        assert any(line.strip().startswith(f"{finding['goal']}, bf16: dgx-h100 leads") for line in lines)
    page = Path("runs/mine/report.html").read_text(encoding="utf-8").replace("&lt;", "<")
    assert [line for line in lines[:-2] if line.strip() not in page] == []
    assert err.splitlines()[0].startswith("[0/")
    assert "Traceback" not in err


def test_a_run_goes_where_it_is_told_with_what_it_is_told_and_writes_json(
    call: Call, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosim.report.page.report_run", lambda folder: folder)  # the figures take a second
    settings = ("--set", "scenario.output=512", "--set", "system.nodes=2")
    code, out, _ = call("run", mine, "--out", "there", *settings, "--json", "-")
    content, told = read_run(Path("there")), json.loads(out)
    assert code == 0
    assert content["overrides"] == {"scenario.output": 512, "system.nodes": 2}
    assert content["findings"][0]["entries"][0]["row"]["chips"] == 16
    assert {name: told[name] for name in content} == content
    assert (told["run"], told["page"]) == ("there", "there/report.html")


def test_a_run_is_resumed_by_the_command(call: Call, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.report.page.report_run", lambda _folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("run", mine, "--out", "there")
    assert not Path("there").exists()
    assert len(list(Path("there.partial/parts").iterdir())) == 8  # one system, two phases, four qualities
    monkeypatch.setattr("cosim.report.page.report_run", lambda folder: folder)
    monkeypatch.setattr("cosim.explore.compare.run_block", lambda _block: 1 / 0)
    code, out, _ = call("run", mine, "--out", "there", "--resume")
    assert (code, out.splitlines()[-1]) == (0, "page: there/report.html")
    assert not Path("there.partial").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.yaml: is empty"),
        ("kind: [compare\n", "is not YAML"),
        ("kind: compare\nkind: compare\n", "duplicate key"),
        ("kind: compare\nquestion: &a [*a]\n", "question"),
        ("kind: weather\n", "mine.yaml:1: kind: unknown kind of experiment (got 'weather')"),
        ("kind: compare\nquestion: \x00\n", "is not text"),
    ],
)
def test_a_file_that_is_no_study_is_refused(call: Call, mine: Path, text: str, said: str) -> None:
    mine.write_text(text, encoding="utf-8")
    assert said in refused(call, "run", mine.name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dgx-h100", "dgx-h101", "mine.yaml:3: no system has this name (got 'dgx-h101'); nearest: dgx-h100"),
        ("20 ms", "20 GB", "mine.yaml:6: decode.tpot_limits.0: wrong unit"),
        ("max_batch: 1", "max_batch: -1", "mine.yaml:11: max_batch: Input should be greater than or equal to 1"),
        ("max_batch: 1", "max_bach: 1", "mine.yaml:11: max_bach: unknown field (got 1); nearest: max_batch"),
    ],
)
def test_a_fault_in_a_study_is_told_at_its_line(call: Call, mine: Path, old: str, new: str, said: str) -> None:
    mine.write_text(mine.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert said in refused(call, "run", mine.name)


def test_what_cannot_be_read_or_written_is_refused(call: Call, mine: Path) -> None:
    Path("image.yaml").write_bytes(b"\x89PNG\x00\xff")
    Path("folder").mkdir()
    Path("folder/thesis.tex").write_text("years of work", encoding="utf-8")
    assert "none.yaml: no such file" in refused(call, "run", "none.yaml")
    assert "no experiment has this name" in refused(call, "run", "none")
    assert "is not text" in refused(call, "run", "image.yaml")
    assert "exists and is not a run folder; name another --out" in refused(call, "run", mine, "--out", "image.yaml")
    assert "exists and is not a run folder" in refused(call, "run", mine, "--out", "folder")
    assert "cannot be written: Not a directory" in refused(call, "run", mine, "--out", "image.yaml/out")
    assert "unknown path" in refused(call, "run", mine, "--set", "scenario.inputs=3")
    assert "is not path=value" in refused(call, "run", mine, "--set", "scenario.input")


def test_report_makes_figures_and_page_again(call: Call, small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    code, out, err = call("report", folder)
    assert (code, out, err) == (0, f"page: {folder / 'report.html'}\n", "")
    assert len(list((folder / "figures").iterdir())) == 6


def test_report_of_what_is_no_run_is_refused(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"schema_version": 0}', encoding="utf-8")
    assert "is not a run folder" in refused(call, "report", "nowhere")
    assert "is not a run folder" in refused(call, "report", ".")
    assert "was written by another version (got 0)" in refused(call, "report", "old")
    (tmp_path / "old" / "run.json").write_text("{", encoding="utf-8")
    assert "cannot be read as JSON" in refused(call, "report", "old")
