"""Searches from the command line: the shipped one whole, commands that make rows again, one message for bad input."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cosim.explore.store import read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Call = Callable[..., tuple[int, str, str]]
TEXT = """\
kind: search
question: Which strategy?
system: dgx-h100
nodes: [1, 2]
workload: mixtral-8x7b
scenario: {global_batch: 16, context: 4096}
space: {micro_batch: 1, virtual_pipeline: [1, 2], zero: [1, 3], context: [1, 2]}
objectives: [time_s, energy_per_token_j]
constraints: [memory_bytes.total <= 76 GB]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_shipped_search_says_its_size_first_and_ends_in_seconds(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("run", "strategy-search", "--out", "found")
    assert code == 0, err
    run = read_run(tmp_path / "found")
    assert run["points"] > 250_000
    assert run["elapsed_s"] < 60.0
    assert f"{run['size']:,} combinations, {run['points']:,} legal strategies in {run['cells']} cells" in err
    assert err.index("combinations") < err.index("fit so far")
    lines = out.splitlines()
    assert lines[0] == run["question"]
    assert lines[1].startswith(f"{run['size']:,} combinations, {run['points']:,} legal strategies, ")
    assert lines[-1] == "page: found/report.html"
    best = run["objectives"][0]["best"]
    assert (best["plan.tensor_parallel"], best["plan.pipeline_parallel"]) == (8, 8)
    table = pq.read_table(tmp_path / "found" / "results.parquet", columns=["feasible", "time_s", "memory_bytes.total"])
    assert table.num_rows == run["rows"] == run["feasible_points"]
    assert max(table["memory_bytes.total"].to_pylist()) <= 76e9
    assert min(table["time_s"].to_pylist()) == pytest.approx(best["time_s"])


def test_every_best_is_made_again_by_its_command(call: Call, mine: Path) -> None:
    assert call("run", str(mine), "--out", "out")[0] == 0
    run = read_run(mine.parent / "out")
    rows = [found["best"] for found in run["objectives"]] + run["front"]
    assert {row["plan.expert_parallel"] for row in rows}
    for row in rows[:6]:
        code, out, err = call(*shlex.split(row["command"])[1:], "--json", "-")
        assert code == 0, err
        again = json.loads(out)
        for name in ("time_s", "memory_bytes.total", "plan.data_parallel", "chips", "plan.expert_parallel"):
            assert again[name] == pytest.approx(row[name])


def test_a_run_as_json_holds_what_the_screen_shows(call: Call, mine: Path) -> None:
    code, out, _ = call("run", str(mine), "--out", "out", "--json", "-", "--set", "plan.tensor_parallel=4")
    assert code == 0
    content: dict[str, Any] = json.loads(out)
    assert content["space"]["tensor"] == [4]
    assert content["overrides"] == {"plan.tensor_parallel": 4}
    assert {row["plan.tensor_parallel"] for row in content["front"]} == {4}


def test_a_report_is_made_again(call: Call, mine: Path) -> None:
    assert call("run", str(mine), "--out", "out")[0] == 0
    page = mine.parent / "out" / "report.html"
    before = page.read_text()
    page.unlink()
    assert call("report", "out")[0] == 0
    assert page.read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "micro_batch: 1",
            "micro_batc: 1",
            "mine.yaml:7: space.micro_batc: unknown field (got 1); nearest: micro",
        ),
        (
            "[time_s,",
            "[time,",
            "mine.yaml:8: objectives.0.minimise: names no number of a result (got 'time');",
        ),
        ("76 GB", "76 s", "mine.yaml:9: constraints.0: wrong unit"),
        ("context: [1, 2]", "tensor: 5", "mine.yaml:7: space: holds no legal strategy"),
        ("mixtral-8x7b", "resnet-50", "mine.yaml:"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(call: Call, mine: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    mine.write_text(TEXT.replace(old, new), encoding="utf-8")
    code, out, err = call("run", "mine.yaml", "--out", "out")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert sorted(path.name for path in mine.parent.iterdir()) == ["mine.yaml"]


def test_the_schema_and_the_list_know_it(call: Call) -> None:
    code, out, _ = call("schema", "search")
    assert code == 0
    assert "space" in json.loads(out)["properties"]
    code, out, _ = call("list", "experiments", "--json", "-")
    assert "strategy-search" in {each["name"] for each in json.loads(out)}
    code, out, _ = call("show", "strategy-search")
    assert (code, "GPT-3 175B" in out) == (0, True)


def test_a_plan_that_does_not_fit_names_the_nearest_that_does(call: Call) -> None:
    where = ("estimate", "train", "--system", "dgx-a100", "--workload", "gpt3-175b", "--set", "system.nodes=8")
    plan = ("plan.tensor_parallel=8", "plan.pipeline_parallel=4", "plan.data_parallel=2", "plan.zero=1")
    code, out, err = call(*where, *(word for each in plan for word in ("--set", each)))
    assert (code, out) == (2, "")
    assert err.startswith("does not fit: memory: tensor 8 x pipeline 4 x data 2")
    assert "; the nearest strategy that fits is tensor " in err
    assert " to " in err.rpartition("bf16: ")[2]


def test_what_is_listed_of_experts_order_and_recipe_is_made_again_by_commands(call: Call, mine: Path) -> None:
    space = (
        "{tensor: [4, 8], pipeline: [1, 2], micro_batch: 1, virtual_pipeline: 1, zero: 1, context: 1, recompute: full"
    )
    more = "expert_tensor: [follows, 1, 2], order: [tp-cp-dp-pp, tp-cp-pp-dp], fp8_recipe: [tensor, block]}"
    old = "space: {micro_batch: 1, virtual_pipeline: [1, 2], zero: [1, 3], context: [1, 2]}"
    assert old in TEXT
    text = TEXT.replace(old, f"precision: fp8\nspace: {space}, {more}").replace("nodes: [1, 2]", "nodes: 4")
    mine.write_text(text.replace("memory_bytes.total <= 76 GB", "memory_bytes.total <= 300 GB"), encoding="utf-8")
    assert call("run", str(mine), "--out", "out")[0] == 0
    run = read_run(mine.parent / "out")
    assert run["space"]["expert_tensor"] == ["follows", 1, 2]
    assert run["space"]["order"] == ["tp-cp-dp-pp", "tp-cp-pp-dp"]
    rows = pq.read_table(mine.parent / "out" / "results.parquet").to_pylist()
    assert {row["plan.fp8_recipe"] for row in rows} == {"tensor", "block"}
    assert {row["plan.order"] for row in rows} == {"tp-cp-dp-pp", "tp-cp-pp-dp"}
    assert {row["plan.expert_tensor_parallel"] for row in rows} == {None, 1.0, 2.0}
    for row in [found["best"] for found in run["objectives"]]:
        code, out, err = call(*shlex.split(row["command"])[1:], "--json", "-")
        assert code == 0, err
        assert json.loads(out)["time_s"] == pytest.approx(row["time_s"])
