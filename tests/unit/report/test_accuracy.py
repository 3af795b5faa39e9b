"""Tables and page of the accuracy: every number is one of the answer, every kind has a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim import validate
from cosim.report.accuracy import POINTS, accuracy_page, figures, percent, sections
from cosim.validation.silicon_results import validate_silicon

Write = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("shipped_files_read_once")


@pytest.fixture
def found(write_kernels: Write) -> dict[str, Any]:
    """An H100 (fitted) and a B200 (not): products of one or two stacks, and watts of the B200's decode."""
    for system in ("h100_sxm", "b200_sxm"):
        layer = {"m": 8192, "n": 10240, "k": 8192}
        write_kernels(system, "a/1", "matmul", [{}, layer, {"gemm_dtype": "sq"}])
        write_kernels(system, "b/1", "matmul", [{"latency": 2.0}])
        watts = 500.0 if system == "b200_sxm" else None
        root = write_kernels(system, "a/1", "decode", [{"power": watts}])
    return validate_silicon(root=root)


def table(found: dict[str, Any], title: str) -> list[list[str]]:
    (section,) = [each for each in sections(found) if each.title == title]
    assert all(len(row) == len(section.head) for row in section.rows)
    return [list(row) for row in section.rows]


def test_figures_are_rows_and_four_errors() -> None:
    row = {"evaluated": 1234, "median_abs_error": 0.1, "mean_abs_error": 0.25, "p90_abs_error": 1.0, "bias": -0.05}
    assert figures(row) == ["1,234", "10.0%", "25.0%", "100.0%", "-5.0%"]
    assert percent(None) == "-"


def test_groups_have_their_side_spread_and_regimes(found: dict[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in table(found, "Errors by group")}
    assert list(rows) == list(found["groups"])
    group = found["groups"]["h100-sxm matmul bf16"]
    assert rows["h100-sxm matmul bf16"] == [
        "fitted",
        *figures(group),
        "2.00",
        "-",
        percent(group["regimes"]["memory"]["median_abs_error"]),
        percent(group["regimes"]["compute"]["median_abs_error"]),
    ]
    assert rows["b200-sxm decode bf16/bf16"][0] == "never fitted"
    assert rows["b200-sxm decode bf16/bf16"][6] == "-"


def test_fitted_and_never_fitted_are_side_by_side_in_every_regime(found: dict[str, Any]) -> None:
    rows = {(row[0], row[1]): row[2:] for row in table(found, "Fitted and never fitted")}
    assert set(rows) == {
        (kernels, regime)
        for kernels in ("matmul bf16", "decode bf16/bf16")
        for regime in ("all", "launch", "memory", "compute")
    }
    sides = [found["fits"][fit]["matmul bf16"] for fit in ("fitted", "never fitted")]
    keys = ("median_abs_error", "p90_abs_error", "bias")
    shown = [[str(side["evaluated"]), *(percent(side[key]) for key in keys)] for side in sides]
    assert rows["matmul bf16", "all"] == [*shown[0], *shown[1]]
    assert rows["matmul bf16", "launch"] == ["-"] * 8


def test_layers_have_both_phases_and_the_note_names_what_is_lacking(found: dict[str, Any]) -> None:
    rows = table(found, "Products of a layer, weighted by time")
    (row,) = [row for row in rows if row[0] == "h100-sxm" and row[3] == "llama-3.1-70b"]
    (layer,) = [
        each
        for each in found["layers"]
        if (each["accelerator"], each["workload"], each["tensor_parallel"], each["phase"])
        == ("h100-sxm", "llama-3.1-70b", 1, "prefill")
    ]
    assert row[1:] == ["fitted", "bf16", "llama-3.1-70b", percent(layer["error"]), "1 of 4", "-", "0 of 4"]
    (section,) = [each for each in sections(found) if each.title.startswith("Products")]
    assert "of llama-3.1-70b: attention_out 8192x8192x8192, ffn_in" in section.note
    assert "llama-3.1-70b, 1 of 8 ranks: qkv 8192x1280x8192" in section.note


def test_watts_have_both_errors_and_the_ranges(found: dict[str, Any]) -> None:
    ((name, rows, median, bias, at_median, at_bias, measured, modelled, limits),) = table(
        found, "Watts of attention kernels"
    )
    (row,) = found["power"]
    assert (name, rows, measured) == ("b200-sxm decode bf16/bf16", "1", "500 500 500")
    assert (median, bias) == (percent(row["median_abs_error"]), percent(row["bias"]))
    assert (at_median, at_bias) == tuple(percent(row["at_measured_time"][key]) for key in ("median_abs_error", "bias"))
    assert modelled.split()[0] == f"{row['modelled_w']['least']:.0f}"
    assert limits == f"{row['idle_w']:.0f} / {row['limit_w']:.0f}"


def test_worst_shapes_say_what_bounds_them_and_how_stacks_differ(found: dict[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in table(found, "Worst shapes, fitted, matmul")}
    assert rows["mm-h100-sxm-bf16-64x4096x4096"][0] == "1.5 ms"
    assert rows["mm-h100-sxm-bf16-64x4096x4096"][-2] == "2.00 of 2"
    assert rows["mm-h100-sxm-bf16-8192x10240x8192"][-2] == "one stack"
    assert rows["mm-h100-sxm-bf16-8192x10240x8192"][-1].endswith("-bound in the model; one stack measured it")
    assert rows["mm-h100-sxm-bf16-64x4096x4096"][-1].startswith("memory-bound by its sizes, ")


def test_the_page_is_markdown_with_every_table_and_the_sentence_on_points(found: dict[str, Any]) -> None:
    page = accuracy_page(found)
    assert page.startswith("# Accuracy: silicon\n")
    assert POINTS in page
    assert "TPU, AMD, Trainium and ASIC" in page
    lines = page.splitlines()
    for section in sections(found):
        assert section.note in lines
        start = lines.index("| " + " | ".join(section.head) + " |", lines.index(f"## {section.title}"))
        assert set(lines[start + 1]) <= set("|-: ")
        shown = lines[start : start + 2 + len(section.rows)]
        assert {line.count(" | ") for line in shown} == {len(section.head) - 1}
        assert [*lines, ""][start + len(shown)] == ""
    assert "| sq is no format of cosim | 2 |" in page
    assert page.endswith("|\n")


def test_any_kind_has_a_page_with_its_worst_rows_first(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    rows = ["id,M,N,K,rows,cols,dataflow,cycles", "near,8,8,19,8,8,os,30", "half,8,8,19,8,8,os,64", "no,8,8,19,8,8,os,"]
    # 32 cycles: measured 30 and 64; a third row of 8 is four times too slow, which is farther than half.
    path.write_text("\n".join([*rows, "far,8,8,19,8,8,os,8"]) + "\n", encoding="utf-8")
    found = validate("systolic", path, group="dataflow")
    assert [row[0] for row in table(found, "Worst")] == ["far", "half", "near"]
    assert [row[0] for row in table(found, "Errors")] == ["all", "os"]
    assert table(found, "Left out") == [["a dimension, the dataflow or the cycles are unknown", "1"]]
    assert "3 of 4 cases answered" in accuracy_page(found)


def test_tables_without_rows_are_not_shown(write_kernels: Write) -> None:
    found = validate_silicon(root=write_kernels("abacus", "a/1", "matmul", [{}]))
    assert [section.title for section in sections(found)] == ["Left out"]
    assert "0 of 0 cases answered" in accuracy_page(found)


def test_a_bar_in_a_name_does_not_break_the_table(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("id,M,N,K,rows,cols,dataflow,cycles\na|b,8,8,19,8,8,os,64\n", encoding="utf-8")
    assert "| a\\|b | 64 | 32 |" in accuracy_page(validate("systolic", path))
