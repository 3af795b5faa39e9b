"""The page of a serving study: one file that fetches nothing, its sentences, tables, figures and timeline."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment
from cosim.report.page import report_run
from cosim.report.serve_figures import latency_figure, time_figure
from cosim.report.serve_page import FIGURES, LATENCIES, headline, limits_text, plan_text, searched, sentences
from cosim.report.summary import summary

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Run = dict[str, Any]
TEXT = """\
kind: serve
question: Which <is> best?
workload: llama-3.1-8b
plan: {tensor_parallel: 1}
requests:
  count: 100
  arrivals: {kind: poisson, rate: 20 Hz}
  prompt: {kind: fixed, tokens: 500}
  output: {kind: fixed, tokens: 30}
limits: {ttft: 500 ms, tpot: 15 ms}
seeds: 2
deployments:
  gpu: {system: dgx-h100, plan: {dtype: bf16}}
  asic: {system: asic-8}
  big: {system: dgx-h100, workload: llama-3.1-405b}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    (place / "mine.yaml").write_text(TEXT, encoding="utf-8")
    name = str(place / "mine.yaml")
    return run_experiment(name, place / "out", overrides={}, progress=lambda *_: None, report=report_run)


@pytest.fixture
def run(folder: Path) -> Run:
    return read_run(folder)


def test_one_file_that_fetches_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Which &lt;is&gt; best?" in page
    assert not re.findall(r'(?:src|href)="https?://', page)
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
        assert f'<figure id="{name}"><svg' in page
    for title in LATENCIES.values():
        assert f"<h2>Time {title}</h2>" in page
    assert "±" in page
    assert "leaves no room for a cache" in page
    assert "asic (estimated)" in page


def test_a_page_is_made_again(folder: Path) -> None:
    before = (folder / "report.html").read_bytes()
    assert report_run(folder).read_bytes() == before


def test_sentences(run: Run) -> None:
    line, others = summary(run)
    assert line == headline(run)
    assert others == sentences(run)
    assert len(others) == 3
    row = run["deployments"][0]["summary"]
    assert f"gpu: {row['output_tokens_per_s']:,.0f} output tokens/s on 1 chip," in others[0]
    assert "USD per million output tokens" in others[0]
    assert "USD" not in others[1]  # the price of the template is unknown
    assert others[2].startswith("big: cannot. memory")
    assert limits_text(run) == "ttft 500 ms, tpot 15 ms"
    best = max(run["deployments"], key=lambda each: each["summary"]["good_tokens_per_s_per_chip"])
    assert headline(run).startswith(best["name"])


def test_a_study_that_keeps_no_limit_says_so(run: Run) -> None:
    for each in run["deployments"]:
        each["summary"]["good_tokens_per_s_per_chip"] = 0.0
    assert headline(run) == "no deployment keeps ttft 500 ms, tpot 15 ms with any request"
    run["limits"] = dict.fromkeys(run["limits"])
    assert all("within the limits" not in text for text in sentences(run))


def test_refused_requests_are_said_with_their_reason(run: Run) -> None:
    first = run["deployments"][0]
    first["summary"]["refused"], first["refused"] = 7.0, {"max_context": 7}
    assert "7 refused (max_context 7)" in sentences(run)[0]


def test_plans_in_short(run: Run) -> None:
    row = run["deployments"][0]["summary"]
    assert plan_text(row) == "TP1 bf16"
    row |= {"plan.expert_parallel": 8.0, "plan.pipeline_parallel": 2.0, "plan.weights_dtype": "int4"}
    assert plan_text(row) == "TP1 PP2 EP8 int4"
    assert plan_text({**row, "plan.tensor_parallel": 11.0}) == "TP11 PP2 EP8 int4"


def test_a_search_in_a_sentence() -> None:
    best = {"plan": "4 x tensor 2", "tokens_per_s_per_chip": 1234.4}
    found: Run = {"feasible": 10, "size": 1000, "objective": "tokens_per_s_per_chip", "best": best, "holds": best}
    found |= {"front": [], "capacity": {"requests_per_s": 12.345}, "nearest": None}
    text = searched(found)
    assert "10 of 1,000 deployments" in text
    assert "4 x tensor 2, has 1,234 output tokens/s" in text
    assert text.endswith("it serves 12.3 requests/s within them")
    near = {"plan": "2 x tensor 4", "why": "ttft_s: lacks 3 s"}
    nothing = searched({**found, "feasible": 0, "best": None, "holds": None, "nearest": near})
    assert nothing.endswith("the nearest, 2 x tensor 4, breaks ttft_s: lacks 3 s")


def test_figures_draw_every_deployment(run: Run) -> None:
    latency, time = latency_figure(run), time_figure(run)
    assert [len(axes.get_lines()) for axes in latency.axes] == [3, 3]  # two deployments and the limit
    assert [len(axes.get_lines()) for axes in time.axes] == [2, 2, 2]
    for axes in latency.axes:
        for line in axes.get_lines()[:2]:
            assert list(line.get_xdata()) == sorted(line.get_xdata())
    cache = time.axes[1].get_lines()[0].get_ydata()
    assert 0.0 < max(cache) < 1.0


def test_a_timeline_opens_whole(folder: Path) -> None:
    trace = json.loads(gzip.decompress((folder / "timeline.json.gz").read_bytes()))
    rows = pq.read_table(folder / "segments.parquet").to_pylist()
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == len(rows)
    assert sum(event["dur"] for event in slices) == pytest.approx(1e6 * sum(row["seconds"] for row in rows))
    assert sum(event["args"]["prompt_tokens"] for event in slices) == 2 * 100 * 500
    names = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"]
    assert names == ["gpu", "asic"]
