"""`cosim validate --suite training-accuracy` and `benchmarks/fit_training.py`, as a user runs them."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.validation.cases import Case

Call = Callable[..., tuple[int, str, str]]
SUITE = ("validate", "--suite", "training-accuracy")
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "fit_training.py"
SHARED = ROOT.parent / "shared" / "cases"


@pytest.fixture
def folder(tmp_path: Path, step: Callable[..., Case], write_steps: Callable[..., Path]) -> Path:
    """Two layouts of a run, one row without an answer."""
    rows = (step("a"), step("b", tp=4, dp=2, micro_batch=2, measured_value=1.3), step("n", workload="no such model"))
    write_steps(tmp_path / "training.csv", *rows)
    return tmp_path


def test_tables_are_printed_and_written(call: Call, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code, out, err = call(*SUITE, "--cases", folder, "--page", page, "--left-out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "2 of 3 measured steps answered; not at hand: training_vtrain.csv"
    titles = [line.removeprefix("## ") for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert set(titles) <= set(out.splitlines())
    assert "Chips left out one at a time" in titles


def test_json_has_every_row(call: Call, folder: Path) -> None:
    code, out, _ = call(*SUITE, "--cases", folder, "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert [row["id"] for row in found["rows"]] == ["a", "b"]
    assert found["left_out"] == []


def test_without_measured_steps_it_says_so(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*SUITE)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "no such folder: nothing was compared" in err
    assert "measured steps do not ship with cosim" in err


@pytest.mark.parametrize(("option", "name"), [(("--all",), "--all"), (("--kind", "training"), "--kind")])
def test_options_of_other_suites_are_refused(call: Call, folder: Path, option: tuple[str, ...], name: str) -> None:
    code, _, err = call(*SUITE, "--cases", folder, *option)
    assert code == 2
    assert f"{name}: does not go with --suite training-accuracy" in err


def fit(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_script_prints_values_and_both_halves(
    step: Callable[..., Case],
    write_steps: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    batches = [step(f"r{at}", software_stack="megatron-deepspeed", tp=2, global_batch=8 * (1 + at)) for at in range(50)]
    write_steps(tmp_path / "training.csv", *batches)
    fit(monkeypatch, tmp_path, "megatron-deepspeed")
    head, value, *errors = capsys.readouterr().out.splitlines()
    assert head == "megatron-deepspeed: 1 constant on rows of megatron-deepspeed (50 rows)"
    assert value.split()[0] == "rates.vector"
    assert len(errors) == 4
    assert all("median" in line and "bias" in line for line in errors)


def test_the_script_says_what_is_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: megatron: has 0 rows"):
        fit(monkeypatch, folder, "megatron")
    with pytest.raises(SystemExit, match="error: lama-foundry is no fit; nearest: llm-foundry"):
        fit(monkeypatch, folder, "lama-foundry")
    with pytest.raises(SystemExit, match=r"Usage: python benchmarks/fit_training\.py FOLDER"):
        fit(monkeypatch)


@pytest.mark.skipif(not (SHARED / "training.csv").is_file(), reason="measured steps do not ship with cosim")
def test_named_sets_hold_the_rows_that_others_publish() -> None:
    from cosim.validation.training_accuracy import read_rows
    from cosim.validation.training_known import known

    what = known()
    rows, halves, missing = read_rows(SHARED, what)
    count = {each.name: sum(each.holds(row) for row in rows) for each in what.sets}
    assert missing == []
    assert count["Korthikanti 2022"] == 8
    assert 0.3 < sum(halves) / len(halves) < 0.7
    assert sum(flag.holds(row) for flag in what.flags for row in rows) < 0.02 * len(rows)
