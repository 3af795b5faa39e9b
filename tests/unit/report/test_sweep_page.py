"""The page of a sweep: one file that fetches nothing, escapes what it is told, and holds every finding."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment
from cosim.report.page import report_run
from cosim.report.sweep_page import DESIGN_HEAD, FIGURES, design_text, make_sweep_report, render_sweep, sentence

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Row = dict[str, Any]
ROWS, STACKS = "system.chip.matrix.rows", "system.chip.memory.dram.stacks"
SWEEP = f"""\
kind: sweep
question: Which of a few designs serves a small model best?
system: asic-8
power: derived
axes:
  - {{path: {ROWS}, values: [32, 64, 128]}}
  - {{path: {STACKS}, values: [2, 4, 6, 9]}}
  - {{path: system.chip.memory.scratch.capacity, values: [4 MiB, 8 MiB]}}
cases:
  - workload: llama-3.1-8b
    phase: decode
    plan: {{tensor_parallel: 8, dtype: fp8}}
    scenario: {{batch: 64, context: 2048}}
  - workload: llama-3.1-8b
    phase: prefill
    plan: {{tensor_parallel: 8, dtype: fp8}}
    scenario: {{batch: 1, context: 2048}}
constraints: [tdp_w <= 1000, time_s <= 50 ms]
"""
TRAINS = """\
  - workload: llama-3.1-8b
    phase: train
    plan: {tensor_parallel: 2, data_parallel: 4}
    scenario: {global_batch: 16, context: 2048}
"""
NOTHING = dict.fromkeys(FIGURES, "<svg></svg>")
FETCHING = {"src", "href", "xlink:href", "srcset", "poster", "action", "formaction", "data", "background"}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run folder of a sweep of this text, with figures and page unless told."""

    def _make(text: str, report: Callable[[Path], object] = report_run) -> Path:
        folder = tmp_path_factory.mktemp("sweep")
        (folder / "mine.yaml").write_text(text, encoding="utf-8")
        name = str(folder / "mine.yaml")
        return run_experiment(name, folder / "out", overrides={}, progress=lambda *_: None, report=report)

    return _make


@pytest.fixture(scope="module")
def folder(make: Callable[..., Path]) -> Path:
    return make(SWEEP)


@pytest.fixture(scope="module")
def found(folder: Path) -> Row:
    return read_run(folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def tags_of(text: str) -> list[tuple[str, dict[str, str]]]:
    tags: list[tuple[str, dict[str, str]]] = []
    parser = HTMLParser()

    def start(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        tags.append((tag, {name: value or "" for name, value in attributes}))

    parser.handle_starttag = start  # type: ignore[method-assign]
    parser.feed(text)
    return tags


def test_figures_lie_beside_the_page_in_both_forms(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"figures", "report.html", "results.parquet", "run.json"}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{form}" for name in FIGURES for form in ("svg", "png")
    }
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_one_file_that_fetches_nothing(page: str) -> None:
    tags = tags_of(page)
    for tag, attributes in tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base", "form")
        for name, value in attributes.items():
            # Figures may hold the pixels of a map themselves.
            own = value.startswith(("#", "data:image/png;base64,"))
            assert name not in FETCHING or own, f"{tag} {name}={value[:60]}"
            assert not name.startswith("on"), f"{tag} {name}"
    assert [attributes["id"] for tag, attributes in tags if tag == "figure"] == list(FIGURES)
    assert "@import" not in page
    assert "<?xml" not in page
    for reference in re.findall(r"url\(([^)]*)\)", page):
        assert reference.strip("'\" ").startswith("#")


def test_the_page_says_every_finding(page: str, found: Row) -> None:
    text = html.unescape(page)
    assert f"<title>{found['question']}</title>" in page
    for case in found["cases"]:
        assert sentence(found, case) in text
        for row in (case["best"], *case["front"]):
            assert row["command"] in text
        for limit in case["limits"]:
            assert limit in text
    for warning in found["warnings"]:
        assert warning in text
    for rows in found["assumptions"].values():
        assert all(row["path"] in text and row["source"] in text for row in rows)
    for axis in found["axes"]:
        assert ", ".join(axis["paths"]) in text
    assert found["experiment_text"].strip() in text
    assert "reticle field 858 mm2" in text


def test_every_row_of_the_table_has_a_cell_under_every_head(page: str) -> None:
    assert page.count("<th>") == page.count("</th>")
    for table in re.findall(r"<table>.*?</table>", page, flags=re.DOTALL):
        head, body = table.split("</thead>")
        widths = {row.count("<td") for row in body.split("<tr>")[1:]}
        assert widths <= {head.count("<th>")}


def test_a_sentence_says_best_base_area_and_what_stopped_the_rest(found: Row) -> None:
    case = found["cases"][0]
    text, best, base = sentence(found, case), case["best"], case["base"]
    head, _, rest = text.partition(": ")
    assert head == "llama-3.1-8b decode, asic-8 (estimated)"
    assert rest.startswith(f"best of {case['feasible']} feasible designs has tokens_per_s_per_chip")
    times = best["tokens_per_s_per_chip"] / base["tokens_per_s_per_chip"]
    assert f"{times:.2f} times asic-8 (estimated) as it is" in text
    assert f"on {best['area_mm2']:,.0f} mm2 with {best['tdp_w']:,.0f} W" in text
    assert "Infeasible: memory_edge" in text
    assert design_text(found, best) in text
    assert re.search(r"matrix\.rows \d+, dram\.stacks \d+, scratch\.capacity \d MiB", text)


def test_a_sentence_without_any_design_counts_the_reasons(found: Row) -> None:
    case = {**found["cases"][0], "best": None, "feasible": 0, "limits": {"reticle": 1200, "chips": 3}}
    assert sentence(found, case) == (
        "llama-3.1-8b decode, asic-8 (estimated): no design of 24 is feasible (reticle 1,200, chips 3)."
    )


@pytest.mark.parametrize("field", ["no base", "base", "area"])
def test_what_is_unknown_is_left_out_of_a_sentence(found: Row, field: str) -> None:
    case = dict(found["cases"][0])
    if field == "no base":
        case["base"] = None
        assert " times " not in sentence(found, case)
        assert "asic-8 (estimated) as is" in render_sweep(found, NOTHING)
        assert "asic-8 (estimated) as is" not in render_sweep({**found, "cases": [case]}, NOTHING)
    elif field == "base":
        case["base"] = {**case["base"], "tokens_per_s_per_chip": None, "feasible": False, "limit": "memory"}
        assert " times " not in sentence(found, case)
        assert "cannot: memory" in render_sweep({**found, "cases": [case]}, NOTHING)
    else:
        case["best"] = {**case["best"], "area_mm2": None, "tdp_w": None}
        assert "mm2" not in sentence(found, case).partition("Infeasible")[0]
        assert "unknown" in render_sweep({**found, "cases": [case]}, NOTHING)


@pytest.mark.parametrize("where", ["question", "experiment_text", "warnings", "workload", "constraints", "command"])
def test_what_the_page_is_told_is_escaped(found: Row, where: str) -> None:
    evil = "<script>alert('x')</script> & more"
    run = {**found, "cases": [dict(case) for case in found["cases"]]}
    if where in ("question", "experiment_text"):
        run[where] = evil
    elif where in ("warnings", "constraints"):
        run[where] = [evil]
    elif where == "workload":
        run["cases"][0]["workload"] = evil
    else:
        run["cases"][0]["best"] = {**run["cases"][0]["best"], "command": evil}
    page = render_sweep(run, NOTHING)
    assert "<script" not in page
    assert html.escape(evil, quote=False).split("alert")[0] in page


def test_a_step_says_what_it_changes_or_what_stops_it(page: str, found: Row) -> None:
    steps = [step for case in found["cases"] for step in case["steps"]]
    assert {step["limit"] == "" for step in steps} == {True, False}
    for step in steps:
        if step["limit"]:
            assert f"<td>stopped by {step['limit']}</td>" in html.unescape(page)
        else:
            assert f"<td>{step['change']:+.1%}</td>" in page


def test_the_page_is_made_again_from_what_was_stored(folder: Path, page: str, tmp_path: Path) -> None:
    again = tmp_path / "copy"
    shutil.copytree(folder, again)
    (again / "report.html").unlink()
    shutil.rmtree(again / "figures")
    assert report_run(again) == again / "report.html"
    assert (again / "report.html").read_text(encoding="utf-8") == page
    assert len(list((again / "figures").iterdir())) == 6


def test_a_sweep_without_any_feasible_design_has_a_page(make: Callable[..., Path]) -> None:
    folder = make(SWEEP.replace("tdp_w <= 1000", "area_mm2 <= 1"))
    text = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert "llama-3.1-8b decode, asic-8 (estimated): no design of 24 is feasible (" in text
    # What is asked of designs is not asked of the system as its file has it.
    assert "<td>asic-8 (estimated) as is</td>" in text
    assert "cannot: " not in text


def test_a_sweep_of_a_plan_has_no_system_as_it_is_beside_its_designs(make: Callable[..., Path]) -> None:
    lines = [line for line in SWEEP.splitlines(keepends=True) if "{path:" not in line]
    some = "axes:\n  - {path: scenario.context, values: [1024, 2048]}\n"
    text = "".join(lines).replace("axes:\n", some).replace(", context: 2048", "")
    folder = make(text, report=lambda each: each)
    found = read_run(folder)
    assert all(case["best"] and case["base"] is None for case in found["cases"])
    assert " as is" not in render_sweep(found, NOTHING)


def test_the_base_is_as_its_file_has_it_whatever_power_and_constraints_ask(make: Callable[..., Path]) -> None:
    given = SWEEP.replace("power: derived", "power: given").replace("constraints: [tdp_w <= 1000, time_s <= 50 ms]", "")
    plain = read_run(make(given, report=lambda each: each))
    asked = read_run(make(SWEEP, report=lambda each: each))
    for one, other in zip(plain["cases"], asked["cases"], strict=True):
        assert one["base"]["feasible"]
        assert one["base"] == other["base"]


@pytest.mark.parametrize(("count", "listed"), [(40, 40), (41, 4), (2000, 4)])
def test_a_long_list_of_levels_is_cut_and_counted(found: Row, count: int, listed: int) -> None:
    levels = [*range(2, 2 * count, 2), 999.0]
    paths = ["system.chip.count", ROWS]
    axes = [{"paths": paths, "shown": ROWS, "levels": levels}, *found["axes"][1:]]
    page = html.unescape(render_sweep({**found, "axes": axes}, NOTHING))
    (text,) = re.findall(rf'<td>{", ".join(paths)}</td><td class="text">(.*?)</td>', page)
    if listed == count:
        assert text.split(", ") == [*(str(level) for level in levels[:-1]), "999"]
    else:
        assert text == f"2, 4, 6 ... 999 ({count:,})"


def test_an_axis_of_linked_paths_is_named_by_the_first_that_changes(make: Callable[..., Path]) -> None:
    columns = "system.chip.matrix.columns"
    linked = f"path: [{columns}, {ROWS}], values: [[128, 32], [128, 64], [128, 128]]"
    run = read_run(make(SWEEP.replace(f"path: {ROWS}, values: [32, 64, 128]", linked), report=lambda each: each))
    assert run["axes"][0] == {"paths": [columns, ROWS], "shown": ROWS, "levels": [32, 64, 128]}
    assert design_text(run, run["cases"][0]["best"]).startswith("matrix.rows ")
    assert "<th>matrix.rows</th>" in render_sweep(run, NOTHING)
    assert "<th>matrix.columns</th>" not in render_sweep(run, NOTHING)


def test_a_chip_of_unknown_area_has_a_page_that_warns(make: Callable[..., Path]) -> None:
    text = SWEEP.replace("asic-8", "tpu-v5p-8").replace(f"path: {STACKS}, values: [2, 4, 6, 9]",
                                                        "path: system.nodes, values: [1, 2]")  # fmt: skip
    text = text.replace("tdp_w <= 1000, ", "").replace("dtype: fp8", "dtype: bf16")
    with pytest.raises(SpecError, match="has no known area"):
        make(text)
    folder = make(text.replace("power: derived", "power: given"))
    page = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert "area and TDP of tpu-v5p are unknown" in page
    assert "<td>unknown</td>" in page
    assert read_run(folder)["feasible_points"] > 0


@pytest.mark.parametrize("axes", [1, 0])
def test_a_sweep_of_one_axis_or_none_has_a_page(make: Callable[..., Path], axes: int) -> None:
    lines = [line for line in SWEEP.splitlines(keepends=True) if "{path:" not in line]
    some = f"axes:\n  - {{path: {ROWS}, values: [64, 128]}}\n" if axes else "axes: []\n"
    folder = make("".join(lines).replace("axes:\n", some))
    assert (folder / "report.html").is_file()


def test_training_and_serving_stand_on_one_page(make: Callable[..., Path]) -> None:
    folder = make(SWEEP.replace("constraints:", TRAINS + "constraints:").replace("time_s <= 50 ms", "mfu >= 0.0001"),
                  report=lambda each: each)  # fmt: skip
    found = read_run(folder)
    page = render_sweep(found, NOTHING)
    assert [case["phase"] for case in found["cases"]] == ["decode", "prefill", "train"]
    assert all(case["best"] for case in found["cases"])
    assert "recompute none" in page
    assert "llama-3.1-8b train, asic-8 (estimated): best of" in page
    assert page.count(f"<th>{DESIGN_HEAD[-1]}</th>") == 3


def test_the_report_is_made_in_place_and_returns_its_page(folder: Path, found: Row, tmp_path: Path) -> None:
    shutil.copy(folder / "results.parquet", tmp_path)
    assert make_sweep_report(tmp_path, found) == tmp_path / "report.html"
