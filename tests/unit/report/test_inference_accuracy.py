"""Tables and page of the accuracy of inference: every number is one of the answer, every row has all columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.report.accuracy import UNKNOWN, figures, percent
from cosim.report.inference_accuracy import ABOUT, FIGURES, HEAD, inference_page, inference_sections
from cosim.validation.cases import Case
from cosim.validation.inference_accuracy import inference_accuracy

TITLES = [
    "Asked and found",
    "Errors",
    "Sets",
    "By measured quantity",
    "By software stack",
    "By source",
    "By chip",
    "Apart: may draft",
    "Apart: disaggregated",
    "Chips left out one at a time",
    "Farthest off",
    "Not answered",
]


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, served: Callable[..., Case], write_served: Callable[..., Path]
) -> dict[str, Any]:
    """Rows of two stacks and chips, one that may draft, a disaggregated one, one without an answer."""
    folder = tmp_path_factory.mktemp("cases")
    write_served(
        folder / "inference.csv",
        served("a", point_id="e"),
        served("b", measured_quantity="ttft_s", batch=64, point_id="a"),
        served("c", software_stack="sglang", accelerator="tpu-v6e", system=""),
        served("d", workload="deepseek-v3", weights_dtype="fp8", num_accelerators=16, tp=16, spec_decode="not stated"),
        served("n", workload="no such model"),
    )
    apart = {"num_accelerators": 2, "tp": "P1/D1", "pp": "P1/D1", "dp": "P1/D1", "ep": "P1/D1"}
    write_served(folder / "inference_disaggregated.csv", served("p", **apart))
    return inference_accuracy(folder, leave_out=True)


def table(found: dict[str, Any], title: str) -> dict[str, list[str]]:
    (section,) = [each for each in inference_sections(found) if each.title == title]
    return {row[0]: list(row[1:]) for row in section.rows}


def test_every_table_has_its_columns_in_every_row(found: dict[str, Any]) -> None:
    sections = inference_sections(found)
    assert [section.title for section in sections] == TITLES
    for section in sections:
        assert {len(row) for row in section.rows} == {len(section.head)}, section.title


def test_a_table_without_rows_is_left_out(found: dict[str, Any]) -> None:
    shown = inference_sections(
        {**found, "left_out": [], "skipped": [], "apart": {"may draft": {}, "disaggregated": {}}}
    )
    assert [section.title for section in shown] == [*TITLES[:7], "Farthest off"]


def test_asked_and_found_stand_beside_each_other_with_the_word(found: dict[str, Any]) -> None:
    (section,) = [each for each in inference_sections(found) if each.title == "Asked and found"]
    assert len(section.rows) == len(found["asked_for"])
    for row, line in zip(found["asked_for"], section.rows, strict=True):
        words = {None: UNKNOWN, True: "met", False: "not met"}
        assert list(line) == [
            row["set"],
            FIGURES[row["figure"]],
            f"{row['rows']:,}",
            percent(row["asked"]),
            percent(row["found"]),
            words[row["met"]],
        ]
    assert {line[-1] for line in section.rows} >= {UNKNOWN, "not met"}
    assert list(section.rows[0][:4]) == ["all rows", "coverage", "5", "95.0%"]
    assert list(section.rows[0][4:]) == ["83.3%", "not met"]


def test_numbers_are_those_of_the_answer(found: dict[str, Any]) -> None:
    assert list(HEAD) == ["rows", "of", "median", "mean", "p90", "bias", "macro"]
    for title, key in (("By measured quantity", "quantities"), ("By source", "sources"), ("By chip", "chips")):
        for name, line in table(found, title).items():
            row = found[key][name]
            rows, *errors = figures(row)
            assert line == [rows, f"{row['asked']}", *errors, percent(row["macro_median_abs_error"])]


def test_halves_of_a_stack_stand_beside_its_constants(found: dict[str, Any]) -> None:
    line = table(found, "By software stack")["vllm"]
    row = found["stacks"]["vllm"]
    assert line[7] == f"{len(row['constants'])}" == "7"
    assert line[8:] == [
        "1",
        percent(row["fitted"]["median_abs_error"]),
        percent(row["fitted"]["macro_median_abs_error"]),
        "1",
        percent(row["held_out"]["median_abs_error"]),
        percent(row["held_out"]["macro_median_abs_error"]),
    ]


def test_rows_apart_say_why(found: dict[str, Any]) -> None:
    (section,) = [each for each in inference_sections(found) if each.title == "Apart: may draft"]
    assert [row[0] for row in section.rows] == ["vllm, tpot_s"]
    assert "deepseek-v3, deepseek-r1: one multi-token prediction module" in section.note
    assert list(table(found, "Apart: disaggregated")) == ["vllm, tpot_s"]


def test_chips_left_out_say_what_was_replaced(found: dict[str, Any]) -> None:
    lines = table(found, "Chips left out one at a time")
    assert list(lines) == ["all fitted chips", "h100-sxm", "tpu-v6e"]
    assert lines["h100-sxm"][0] == "kernels, quality, real data, collectives of node"
    assert lines["tpu-v6e"][0] == "nothing was fitted"
    assert lines["tpu-v6e"][2] == lines["tpu-v6e"][4] == percent(found["chips"]["tpu-v6e"]["median_abs_error"])


def test_sets_without_rows_are_not_shown(found: dict[str, Any]) -> None:
    shown = table(found, "Sets")
    assert "all rows" in shown
    assert "llama.cpp, decode" not in shown
    assert all(found["sets"][name]["asked"] for name in shown)


def test_the_page_has_every_table_and_says_what_is_not_at_hand(found: dict[str, Any]) -> None:
    page = inference_page(found)
    assert page.startswith("# Accuracy: inference\n\n5 of 6 measured rows answered. Not at hand: inference_other.csv. ")
    assert ABOUT in page
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == TITLES
    assert "Not at hand" not in inference_page({**found, "missing": []})


def test_rows_in_doubt_are_told_with_their_reason_and_what_is_left_without_them(found: dict[str, Any]) -> None:
    doubt = {"name": "odd rows", "reason": "no chip is that fast", **found["overall"]["all"]}
    told = {**found, "doubts": [doubt], "undoubted": {**found["undoubted"], "median_abs_error": 0.125}}
    (section,) = [each for each in inference_sections(told) if each.title == "Doubted"]
    ((name, why, rows, of, median),) = section.rows
    assert (name, why) == ("odd rows", "no chip is that fast")
    assert (rows, of) == (f"{doubt['evaluated']:,}", f"{doubt['asked']:,}")
    assert median == percent(doubt["median_abs_error"])
    assert section.note is not None
    assert "a median of 12.5%" in section.note
    assert "Doubted" not in [each.title for each in inference_sections(found)]
