"""`cosim validate --suite inference-accuracy` and `inference`, `benchmarks/fit_inference.py`, as a user runs them."""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.validation.cases import Case

Call = Callable[..., tuple[int, str, str]]
SUITE = ("validate", "--suite", "inference-accuracy")
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "fit_inference.py"
SHARED = ROOT.parent / "shared" / "cases"


@pytest.fixture
def folder(tmp_path: Path, served: Callable[..., Case], write_served: Callable[..., Path]) -> Path:
    """Two rows of a run, one row without an answer."""
    rows = (served("a"), served("b", measured_quantity="ttft_s"), served("n", workload="no such model"))
    write_served(tmp_path / "inference.csv", *rows)
    return tmp_path


def test_tables_are_printed_and_written(call: Call, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code, out, err = call(*SUITE, "--cases", folder, "--page", page, "--left-out")
    assert (code, err) == (0, "")
    missing = "inference_other.csv, inference_disaggregated.csv"
    assert out.splitlines()[0] == f"2 of 3 measured rows answered; not at hand: {missing}"
    titles = [line.removeprefix("## ") for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert set(titles) <= set(out.splitlines())
    assert {"Asked and found", "Chips left out one at a time"} <= set(titles)


def test_json_has_every_row(call: Call, folder: Path) -> None:
    code, out, _ = call(*SUITE, "--cases", folder, "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert [row["id"] for row in found["rows"]] == ["a", "b"]
    assert found["left_out"] == []


def test_without_measured_runs_it_says_so(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*SUITE)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "no such folder: nothing was compared" in err
    assert "measured runs do not ship with cosim" in err


@pytest.mark.parametrize(("option", "name"), [(("--all",), "--all"), (("--kind", "inference"), "--kind")])
def test_options_of_other_suites_are_refused(call: Call, folder: Path, option: tuple[str, ...], name: str) -> None:
    code, _, err = call(*SUITE, "--cases", folder, *option)
    assert code == 2
    assert f"{name}: does not go with --suite inference-accuracy" in err


def test_published_points_ship_and_are_answered(call: Call) -> None:
    start = time.process_time()
    code, out, err = call("validate", "--suite", "inference", "--group", "source_key", "--json", "-")
    assert time.process_time() - start < 10.0
    found = json.loads(out)
    assert (code, err, found["kind"]) == (0, "", "inference")
    assert found["cases"] == found["evaluated"] >= 60
    assert len(found["groups"]) == 11
    # Anything worse is a change of the model that a person should look at.
    assert found["median_abs_error"] < 0.15
    assert found["macro_median_abs_error"] < 0.25


def test_published_points_name_their_source() -> None:
    from cosim.validation.cases import read_cases

    rows = read_cases("inference", ROOT / "experiments" / "validation" / "inference_points.csv")
    assert len({row.id for row in rows}) == len(rows)
    assert all(len(row.values["source"]) > 10 for row in rows)


def test_the_suite_takes_no_file(call: Call, folder: Path) -> None:
    code, _, err = call("validate", "--suite", "inference", "--cases", folder / "inference.csv")
    assert code == 2
    assert "--suite: has its own kind and cases (got 'inference')" in err


def fit(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_script_prints_values_and_both_halves(
    served: Callable[..., Case],
    write_served: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = {"software_stack": "neuronx", "accelerator": "inferentia2", "system": "", "mode": "static"}
    rows = [
        served(f"{at}", **plain, batch_kind="static_batch", batch=1 + at % 8, input_len=100 + at, measured_value=0.02)
        for at in range(100)
    ]
    write_served(tmp_path / "inference.csv", *rows)
    fit(monkeypatch, tmp_path, "neuronx")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "neuronx: 4 constants on 100 rows"
    assert [line.split()[0] for line in lines[:4]] == [
        "host_step",
        "rates.matmul",
        "rates.attention",
        "rates.collective",
    ]
    assert len(lines) == 4 + 8
    assert all("median" in line for line in lines[4:] if "all else" in line)
    assert all(line.endswith("rows 0") for line in lines[4:] if "first tokens" in line)


def test_the_script_says_what_is_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: vllm: has 3 rows"):
        fit(monkeypatch, folder, "vllm")
    with pytest.raises(SystemExit, match="error: vlm is no fit; nearest: vllm"):
        fit(monkeypatch, folder, "vlm")
    with pytest.raises(SystemExit, match=r"Usage: python benchmarks/fit_inference\.py FOLDER"):
        fit(monkeypatch)


@pytest.mark.skipif(not (SHARED / "inference.csv").is_file(), reason="measured runs do not ship with cosim")
def test_named_sets_hold_the_rows_that_the_figures_are_asked_of() -> None:
    from cosim.validation.inference import Answer
    from cosim.validation.inference_accuracy import answered_runs, read_rows
    from cosim.validation.inference_known import known

    what = known()
    read, missing = read_rows(SHARED, what)
    runs = answered_runs(read, what, [Answer(None, None)] * len(read))
    count = {each.name: sum(run.is_in(each) for run in runs) for each in what.sets}
    assert missing == []
    assert count["all rows"] == len(read) > 7900
    assert count["llama.cpp, decode"] == 239
    assert count["throughput, tables of TensorRT-LLM"] == 738
    assert count["TPOT of served points, dense models"] == 721
    assert count["TPOT of served points"] - count["TPOT of served points, dense models"] == 389
    assert count["TTFT, disaggregated"] == 559
