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
from cosim.report.serve_figures import latency_figure, time_figure, users_figure
from cosim.report.serve_page import FIGURES, GOOD, LATENCIES, headline, limits_text, plan_text, searched, sentences
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
    best = max(run["deployments"], key=lambda each: each["summary"][GOOD])
    assert headline(run).startswith(best["name"])


@pytest.mark.parametrize(("bounds", "alike"), [((90.0, 96.0), True), ((85.0, 94.9), False), ((None, None), False)])
def test_the_best_within_the_spread_of_seeds(run: Run, bounds: tuple[float, float], alike: bool) -> None:
    first, second = (each["summary"] for each in run["deployments"])
    first |= {GOOD: 100.0, f"{GOOD}.low": 95.0, f"{GOOD}.high": 105.0}
    second |= {GOOD: 93.0, f"{GOOD}.low": bounds[0], f"{GOOD}.high": bounds[1]}
    line = headline(run)
    assert ("gpu and asic (estimated) serve most for each chip, alike" in line) is alike
    assert line.endswith("100 output tokens/s within ttft 500 ms, tpot 15 ms")


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


def member(user: float, chip: float, seen: float | None = None, broken: str = "") -> Run:
    """A deployment of a front; `seen` is the share of both that the simulation saw."""
    simulated = None
    if seen is not None:
        simulated = {"tpot_s": 1.0 / (user * seen), "tokens_per_s_per_chip": chip * seen, "broken": broken}
    return {"tokens_per_s_per_user": user, "tokens_per_s_per_chip": chip, "simulated": simulated}


def test_the_front_is_drawn_with_what_was_simulated() -> None:
    front = [member(50.0, 400.0, 0.9), member(20.0, 900.0, 0.8, "tpot_limit"), member(100.0, 100.0)]
    (axes,) = users_figure({"front": front, "holds": front[0]}).axes
    line, *others = axes.get_lines()
    assert list(line.get_xdata()) == [20.0, 50.0, 100.0]
    assert list(line.get_ydata()) == [900.0, 400.0, 100.0]
    squares = [each for each in others if each.get_marker() == "s"]
    assert [each.get_fillstyle() for each in squares] == ["none", "full"]
    (star,) = (each for each in others if each.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((45.0, 360.0))
    (bare,) = users_figure({"front": front[2:], "holds": None}).axes
    assert len(bare.get_lines()) == 1


def test_a_page_with_a_search_has_its_front(tmp_path: Path) -> None:
    space = "{tensor: 1, layout: together, max_sequences: [8, 64], token_budget: 4096}"
    text = TEXT.replace("  big: {system: dgx-h100, workload: llama-3.1-405b}\n", "").replace("seeds: 2", "seeds: 1")
    text = text.replace("workload: llama-3.1-8b\n", "workload: llama-3.1-8b\nsystem: dgx-h100\n", 1)
    text += f"search: {{prompt: 500, output: 30, requests: 50, capacity: false, simulated: 2, space: {space}}}\n"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    name = str(tmp_path / "mine.yaml")
    out = run_experiment(name, tmp_path / "out", overrides={}, progress=lambda *_: None, report=report_run)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<figure id="front"><svg' in page
    assert (out / "figures" / "front.png").is_file()


def test_a_timeline_opens_whole(folder: Path) -> None:
    trace = json.loads(gzip.decompress((folder / "timeline.json.gz").read_bytes()))
    rows = pq.read_table(folder / "segments.parquet").to_pylist()
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == len(rows)
    assert sum(event["dur"] for event in slices) == pytest.approx(1e6 * sum(row["seconds"] for row in rows))
    assert sum(event["args"]["prompt_tokens"] for event in slices) == 2 * 100 * 500
    names = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"]
    assert names == ["gpu", "asic"]
