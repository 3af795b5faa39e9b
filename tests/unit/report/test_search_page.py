"""The page of a search: one file that fetches nothing, holds every finding, and says where nothing fits."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment
from cosim.report.page import report_run
from cosim.report.search_page import (
    FIGURES,
    head,
    headline,
    make_search_report,
    neighbour_line,
    render_search,
    sentence,
    sentences,
)
from cosim.report.summary import summary

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Run = dict[str, Any]
TEXT = """\
kind: search
question: Which strategy <is> best?
system: dgx-a100
nodes: [1, 2]
workload: llama-3.1-8b
scenario: {global_batch: 16, context: 2048}
space: {micro_batch: [1, 2], virtual_pipeline: [1, 2], schedule: [1f1b, gpipe], zero: [0, 1], sequence_parallel: on}
objectives: [time_s, memory_bytes.total, {finish: {tokens: 1e9, days: 30}}]
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of a search of this text, with figures and page."""

    def _make(text: str) -> Path:
        folder = tmp_path_factory.mktemp("search")
        (folder / "mine.yaml").write_text(text, encoding="utf-8")
        name = str(folder / "mine.yaml")
        return run_experiment(name, folder / "out", overrides={}, progress=lambda *_: None, report=report_run)

    return _make


@pytest.fixture(scope="module")
def folder(make: Callable[[str], Path]) -> Path:
    return make(TEXT)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_figures_lie_beside_the_page_and_in_it(folder: Path, page: str) -> None:
    assert {path.name for path in folder.iterdir()} == {"figures", "report.html", "results.parquet", "run.json"}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{n}.{f}" for n in FIGURES for f in ("svg", "png")
    }
    assert re.findall(r'<figure id="(\w+)">', page) == list(FIGURES)


def test_the_page_is_one_file_that_fetches_nothing_and_escapes_what_it_is_told(page: str) -> None:
    assert not re.search(r"<(script|link|iframe|object|embed|base|form)\b", page)
    own = ("#", "data:image/png;base64,")
    assert all(value.startswith(own) for value in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert "Which strategy &lt;is&gt; best?" in page
    assert "strategy <is>" not in page


def test_the_page_says_every_finding(page: str, run: Run) -> None:
    text = html.unescape(page)
    assert headline(run) in text
    for line in (*sentences(run), *run["warnings"]):
        assert line in text
    for found in run["objectives"]:
        assert f"<h2>{found['objective']}</h2>" in text
        assert found["best"]["command"] in text
        for each in found["neighbours"]:
            assert all(cell in text for cell in neighbour_line(each))
    for name, levels in run["space"].items():
        assert name in text
        assert ", ".join(str(level) for level in levels) in text
    assert run["experiment_text"].strip() in text
    assert run["kept"] in text.replace("\n", " ")


def test_every_line_has_a_cell_under_every_head(page: str, run: Run) -> None:
    assert head(run)[-1] == "days"
    tables = re.findall(r"<table>(.*?)</table>", page, re.DOTALL)
    assert len(tables) > 6
    for each in tables:
        heads = each.count("<th>")
        rows = re.findall(r"<tr>(.*?)</tr>", each.partition("</thead>")[2], re.DOTALL)
        assert all(row.count("<td") == heads for row in rows)


def test_the_summary_is_the_size_and_the_best_by_each_objective(run: Run) -> None:
    line, said = summary(run)
    assert line.startswith(f"{run['size']:,} combinations, {run['points']:,} legal strategies, ")
    assert f"memory {run['limits']['memory']:,}" in line
    assert [each.split(":")[0] for each in said[:3]] == ["least time_s", "least memory_bytes.total", "fewest chips"]
    assert said[3].startswith(f"{run['front_size']} strategies on the front")
    assert "nearest neighbour" in said[0]


def test_an_objective_that_none_meets_says_so(run: Run) -> None:
    found = {**run["objectives"][0], "best": None, "why": "no strategy that fits meets it"}
    assert sentence(found) == "least time_s: no strategy that fits meets it"


def test_a_neighbour_in_a_row() -> None:
    each = {"dimension": "zero", "before": 0, "after": 1, "also": "", "limit": "", "change": 0.0123, "why": "because"}
    assert neighbour_line(each) == ["zero", "0 to 1", "", "1.23% worse", "because"]
    assert neighbour_line({**each, "change": 0.0})[3] == "the same"
    assert neighbour_line({**each, "change": None})[3] == "unmet"
    assert neighbour_line({**each, "change": None, "limit": "memory"})[3] == "stopped by memory"


def test_where_nothing_fits_the_page_says_what_would(make: Callable[[str], Path]) -> None:
    folder = make(TEXT.replace("llama-3.1-8b", "llama-3.1-70b").replace("[1, 2]\nworkload", "1\nworkload"))
    run, page = read_run(folder), html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert {path.stem for path in (folder / "figures").iterdir()} == {"fits"}
    assert f"nothing fits; nearest: {run['nearest']['plan']}" in page
    assert f"the nearest strategy that fits is {run['nearest']['fits']}" in page
    assert run["nearest"]["why"] in page


def test_the_page_is_made_again_from_the_folder(folder: Path, page: str, run: Run) -> None:
    assert make_search_report(folder, run) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8") == page
    assert render_search(run, {}).count("<figure") == 0
