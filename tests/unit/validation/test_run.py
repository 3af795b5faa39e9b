"""`validate`: the figures that are promised, the rows behind them, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosim import validate
from cosim.errors import SpecError
from cosim.validation.run import SUITES
from cosim.validation.statistics import summary

FIGURES = ("evaluated", "median_abs_error", "mean_abs_error", "p90_abs_error", "bias", "median_abs_log_error")
# An array of 8 x 8 takes 8 + 8 + K - 2 - 1 cycles for one output-stationary fold of depth K.
ROWS = """\
id,lab,M,N,K,rows,cols,dataflow,cycles
half,a,8,8,19,8,8,os,64
right,a,8,8,19,8,8,os,32
unknown,b,8,8,,8,8,os,32
double,b,8,8,19,8,8,os,16
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    path = tmp_path / "cases.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


@pytest.fixture
def found(cases: Path) -> dict[str, Any]:
    return validate("systolic", cases, group="lab")


def test_errors_are_predicted_over_measured_less_one(found: dict[str, Any]) -> None:
    assert found["rows"] == [
        {"id": "half", "measured": 64.0, "predicted": 32.0, "error": -0.5},
        {"id": "right", "measured": 32.0, "predicted": 32.0, "error": 0.0},
        {"id": "double", "measured": 16.0, "predicted": 32.0, "error": 1.0},
    ]


def test_figures_are_those_of_the_rows(found: dict[str, Any]) -> None:
    # Sizes 0, .5, 1: median and mean one half, 90 % at .9; the median of the signed errors is 0.
    assert (found["median_abs_error"], found["mean_abs_error"], found["bias"]) == (0.5, 0.5, 0.0)
    assert found["p90_abs_error"] == pytest.approx(0.9)
    assert found["median_abs_log_error"] == pytest.approx(np.log(2.0))


def test_a_row_without_an_answer_is_counted_and_listed(found: dict[str, Any]) -> None:
    assert (found["kind"], found["cases"], found["evaluated"]) == ("systolic", 4, 3)
    assert [skip["id"] for skip in found["skipped"]] == ["unknown"]
    assert found["skipped"][0]["reason"]


def test_a_group_has_the_same_figures_of_its_own_rows(found: dict[str, Any]) -> None:
    assert set(found["groups"]) == {"a", "b"}
    assert found["groups"]["a"] == {**summary([32.0, 32.0], [64.0, 32.0]), "macro_median_abs_error": 0.25}
    assert found["groups"]["b"] == {**summary([32.0], [16.0]), "macro_median_abs_error": 1.0}
    assert set(found["groups"]["a"]) == {*FIGURES, "macro_median_abs_error"}


def test_the_answer_is_json_with_the_promised_names(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    promised = {"kind", "cases", "skipped", "groups", "rows", "macro_median_abs_error", *FIGURES}
    assert promised <= set(found)


def test_without_a_group_there_are_none(cases: Path) -> None:
    found = validate("systolic", str(cases))
    assert found["groups"] == {}
    assert found["evaluated"] == 3


def test_the_macro_median_weighs_chips_and_formats_alike(tmp_path: Path) -> None:
    path = tmp_path / "matmul.csv"
    head = "accelerator,dtype,m,n,k,measured_s"
    path.write_text(f"{head}\nh100-sxm,bf16,4096,4096,4096,1\nh100-sxm,fp8,4096,4096,4096,1\n", encoding="utf-8")
    one, other = (row["predicted"] for row in validate("matmul", path)["rows"])
    # The same rows, with measurements that make them 10 % and 50 % too high; the first is there three times.
    lines = [f"h100-sxm,bf16,4096,4096,4096,{one / 1.1!r}"] * 3 + [f"h100-sxm,fp8,4096,4096,4096,{other / 1.5!r}"]
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    found = validate("matmul", path)
    assert found["macro_median_abs_error"] == pytest.approx(0.3)
    assert found["median_abs_error"] == pytest.approx(0.1)


def test_a_file_of_no_answered_rows_has_no_figures(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("accelerator,dtype,m,n,k,measured_s\nabacus,bf16,1,1,1,1\n", encoding="utf-8")
    found = validate("matmul", path, group="dtype")
    assert (found["cases"], found["evaluated"], found["rows"], found["groups"]) == (1, 0, [], {})
    assert found["median_abs_error"] is None
    assert found["macro_median_abs_error"] is None
    assert found["skipped"] == [{"id": "row-2", "reason": "accelerator abacus is not in the library"}]


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_every_suite_that_ships_is_answered_whole(suite: str) -> None:
    found = validate(suite=suite)
    assert found["evaluated"] == found["cases"] >= 8
    assert found["skipped"] == []


def test_the_systolic_suite_is_met_to_the_cycle() -> None:
    assert {row["error"] for row in validate(suite="systolic")["rows"]} == {0.0}


def test_what_is_not_enough_or_not_known_is_refused(cases: Path) -> None:
    for asked in ({}, {"kind": "matmul"}, {"cases": cases}):
        with pytest.raises(SpecError, match="nothing to validate; give --kind and --cases, or --suite"):
            validate(**asked)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"--suite: unknown suite.*nearest: systolic"):
        validate(suite="systolc")
    with pytest.raises(SpecError, match=r"--group: is no column of the file.*nearest: lab"):
        validate("systolic", cases, group="labs")
    with pytest.raises(SpecError, match="--kind: unknown kind of case"):
        validate("weather", cases)
