"""Tables and page of the accuracy of training: every number is one of the answer, every row has all columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.report.accuracy import figures, percent
from cosim.report.training_accuracy import ABOUT, HEAD, training_page, training_sections
from cosim.validation.cases import Case
from cosim.validation.training_accuracy import training_accuracy

TITLES = [
    "Errors",
    "Published sets",
    "Flagged rows",
    "By chip",
    "By source",
    "By software stack",
    "By kind of strategy",
    "By recompute",
    "By format",
    "Choice of the layout",
    "Chips left out one at a time",
    "Each sweep",
    "Not answered",
]


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, step: Callable[..., Case], write_steps: Callable[..., Path]
) -> dict[str, Any]:
    """Two sweeps of BigScience, a row that is called wrong, rows on two chips, one without an answer."""
    folder = tmp_path_factory.mktemp("cases")
    big = {"source": "bigscience: log", "num_accelerators": 8}
    write_steps(
        folder / "training.csv",
        step("a", **big),
        step("b", **big, tp=4, dp=2, micro_batch=2, measured_value=1.4),
        step("c", **big, tp=2, dp=4, micro_batch=1, measured_value=1.02),
        step("d", **big, global_batch=8, measured_value=2.2),
        step("e", **big, global_batch=8, micro_batch=2, measured_value=2.21),
        step("h", accelerator="h100-sxm", system="dgx-h100", software_stack="megatron", measured_value=0.6),
        step("x", source="vtrain: x", tp=16, num_accelerators=16),
        step("n", workload="no such model"),
    )
    return training_accuracy(folder, leave_out=True)


def table(found: dict[str, Any], title: str) -> dict[str, list[str]]:
    (section,) = [each for each in training_sections(found) if each.title == title]
    return {row[0]: list(row[1:]) for row in section.rows}


def test_every_table_has_its_columns_in_every_row(found: dict[str, Any]) -> None:
    sections = training_sections(found)
    assert [section.title for section in sections] == TITLES
    for section in sections:
        assert all(len(row) == len(section.head) for row in section.rows), section.title
        assert all(isinstance(cell, str) for row in section.rows for cell in row)


def test_overall_is_all_then_without_flagged_then_held_out(found: dict[str, Any]) -> None:
    rows = table(found, "Errors")
    assert list(rows) == ["all", "without 1 flagged", "of these, no constant fitted on the row"]
    assert rows["all"] == ["7", "8", *figures(found)[1:], percent(found["macro_median_abs_error"])]
    assert rows["without 1 flagged"][:2] == ["6", "7"]
    assert len(rows["all"]) == len(HEAD)


def test_coverage_is_answered_of_asked(found: dict[str, Any]) -> None:
    assert table(found, "By chip")["a100-80gb-sxm"][:2] == ["6", "7"]
    assert table(found, "By chip")["h100-sxm"][:2] == ["1", "1"]
    assert table(found, "Not answered") == {found["skipped"][0]["reason"]: ["1"]}


def test_a_stack_has_its_constants_and_both_halves(found: dict[str, Any]) -> None:
    rows = table(found, "By software stack")
    stack = found["stacks"]["megatron"]
    assert rows["megatron"][6] == f"{len(stack['constants'])}"
    halves = (stack["fitted"], stack["held_out"])
    assert rows["megatron"][7:] == [
        cell for half in halves for cell in (f"{half['evaluated']}", percent(half["median_abs_error"]))
    ]
    assert rows["megatron-2022"][6] == "0"


def test_flagged_rows_have_their_reason(found: dict[str, Any]) -> None:
    rows = table(found, "Flagged rows")
    assert rows["vTrain, tensor ranks across nodes"][1:3] == ["1", "1"]
    assert rows["gpt-oss in container 26.06.01"][1:] == ["0", "0", "-", "-", "-"]
    assert all(row[0] for row in rows.values())


def test_the_choice_of_layouts_is_the_median_over_sweeps(found: dict[str, Any]) -> None:
    sweeps = found["sweeps"]
    row = table(found, "Choice of the layout")["bigscience"]
    assert row[:2] == ["2", "5"]
    regrets = sorted(sweep["regret"] for sweep in sweeps)
    assert row[2] == percent(sum(regrets) / 2.0)
    assert row[4] == percent(regrets[-1])
    # Layouts of the second run are less than 5 % apart: no order to find.
    (section,) = [each for each in training_sections(found) if each.title == "Each sweep"]
    assert [line[-1] == "-" for line in section.rows] == [False, True]


def test_chips_left_out_stand_beside_themselves(found: dict[str, Any]) -> None:
    rows = table(found, "Chips left out one at a time")
    assert list(rows) == ["all fitted chips but trainium1", "a100-80gb-sxm", "h100-sxm"]
    (own,) = [row for row in found["left_out"] if row["accelerator"] == "h100-sxm"]
    assert rows["h100-sxm"][2] == percent(own["as_it_stands"]["median_abs_error"])
    assert rows["h100-sxm"][4] == percent(own["median_abs_error"])
    assert "real data" in rows["h100-sxm"][0]


def test_the_page_has_every_table_and_says_what_an_error_is(found: dict[str, Any]) -> None:
    page = training_page(found)
    assert page.startswith(
        "# Accuracy: training steps\n\n7 of 8 measured steps answered. Not at hand: training_vtrain.csv. "
    )
    assert ABOUT in page
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == TITLES
    assert page.endswith("|\n")


def test_a_table_without_rows_is_left_out(found: dict[str, Any]) -> None:
    titles = [section.title for section in training_sections({**found, "left_out": [], "sweeps": [], "skipped": []})]
    assert titles == [title for title in TITLES if "layout" not in title and title not in TITLES[-3:]]
    assert "Not at hand" not in training_page({**found, "missing": []})
