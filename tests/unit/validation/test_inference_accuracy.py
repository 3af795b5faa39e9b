"""The suite of measured inference runs on made-up folders: sets, rows apart, figures asked, halves, chips left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim import validate
from cosim.errors import SpecError
from cosim.validation import inference_accuracy as module
from cosim.validation.cases import Case
from cosim.validation.inference import Answer
from cosim.validation.inference_accuracy import (
    TOGETHER,
    Run,
    answered_runs,
    asked_of,
    by,
    chips_left_out,
    farthest,
    figures,
    has_experts,
    inference_accuracy,
    met,
    read_rows,
    tables,
)
from cosim.validation.inference_known import Doubt, DraftHeads, Known, RowFile, RowSet, known
from cosim.validation.training_known import Condition, Fit

Make = Callable[..., Case]
Write = Callable[..., Path]
PAIRS = st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)), min_size=1, max_size=10)
PLAIN, APART = RowFile(file="inference.csv", fitted=True), RowFile(file="apart.csv", disaggregated=True)
KNOWN = Known(
    tasks={},
    clients=(),
    files=(PLAIN, APART),
    draft_heads=(DraftHeads(workloads=("deepseek-v3",), reason="one head"),),
    fits=(Fit(name="vllm", stacks=("vllm",), constants=("host_step", "rates.matmul")),),
    sets=(
        RowSet(name="every", drafts=None, disaggregated=None, asked={"coverage": 0.9}),
        RowSet(name="plain"),
        RowSet(name="experts", experts=True, drafts=None),
        RowSet(name="loaded", loaded=True),
        RowSet(name="unloaded", loaded=False),
        RowSet(name="starved", starved=True),
        RowSet(name="of the second file", files=("apart.csv",), disaggregated=None),
        RowSet(name="long", when=(Condition(column="input_len", at_least=4096),), asked={"median_abs_error": 0.1}),
    ),
    doubts=(Doubt(name="of batch 64", when=(Condition(column="batch", equals="64"),), reason="none is that large"),),
    chips_left_out={"median_abs_error": 0.2},
)


@pytest.fixture
def folder(tmp_path: Path, served: Make, write_served: Write) -> Path:
    """Five rows that are answered, a mixture that may draft among them, and one that is not."""
    write_served(
        tmp_path / "inference.csv",
        served("a", point_id="e"),
        served("b", batch=64, measured_quantity="ttft_s"),
        served("c", measured_quantity="output_tokens_per_s", measured_value=1500, software_stack="sglang"),
        served("d", workload="deepseek-v3", spec_decode="not stated", num_accelerators=16, tp=16, weights_dtype="fp8"),
        served("nowhere", workload="no such model"),
    )
    rows = [served("s", mode="static", batch_kind="static_batch", batch=1, measured_quantity="e2e_s")]
    write_served(tmp_path / "inference_other.csv", *rows)
    return tmp_path


def made(row: Case, predicted: float | None, measured: float = 1.0, **facts: Any) -> Run:
    answer = Answer(predicted, measured, "" if predicted else "why", waiting=facts.pop("waiting", np.nan))
    return Run(row, facts.pop("file", PLAIN), answer, **{"experts": False, "drafts": False, "fitted": False, **facts})


def test_the_answer_is_json_with_every_table(folder: Path) -> None:
    found = validate(suite="inference-accuracy", cases=folder)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["kind"], found["cases"], found["evaluated"]) == ("inference-accuracy", 6, 5)
    assert found["missing"] == ["inference_disaggregated.csv"]
    assert [skip["id"] for skip in found["skipped"]] == ["nowhere"]
    assert found["quantities"]["tpot_s"]["asked"] == 2
    assert found["quantities"]["tpot_s"]["evaluated"] == 1
    assert list(found["stacks"]) == ["vllm", "sglang"]
    assert found["left_out"] == []
    assert set(found["sets"]) == {each.name for each in known().sets}
    assert len(found["asked_for"]) == 11


def test_the_same_folder_gives_the_same_errors_as_the_kind(folder: Path) -> None:
    plain = {row["id"]: row["error"] for row in validate("inference", folder / "inference.csv")["rows"]}
    found = {row["id"]: row["error"] for row in inference_accuracy(folder)["rows"]}
    assert set(found) == {"a", "b", "c", "d", "s"}
    assert {name: found[name] for name in plain} == pytest.approx(plain, rel=1e-12)


def test_a_folder_that_does_not_stand_is_said(tmp_path: Path, served: Make, write_served: Write) -> None:
    with pytest.raises(SpecError, match="no such folder") as refused:
        inference_accuracy(tmp_path / "none")
    assert "inference_disaggregated.csv" in str(refused.value)
    with pytest.raises(SpecError, match="holds no measured runs"):
        inference_accuracy(tmp_path)
    write_served(tmp_path / "inference_other.csv", served())
    assert inference_accuracy(tmp_path)["missing"] == ["inference.csv", "inference_disaggregated.csv"]


def test_rows_keep_their_file(tmp_path: Path, served: Make, write_served: Write) -> None:
    write_served(tmp_path / "apart.csv", served("x"))
    write_served(tmp_path / "inference.csv", served("a"), served("b"))
    read, missing = read_rows(tmp_path, KNOWN)
    assert [(row.id, file.file) for row, file in read] == [
        ("a", "inference.csv"),
        ("b", "inference.csv"),
        ("x", "apart.csv"),
    ]
    assert missing == []


def test_only_rows_that_a_fit_takes_are_fitted(served: Make) -> None:
    rows = [
        (served("a", point_id="e"), PLAIN),
        (served("b", point_id="a"), PLAIN),
        (served("c", point_id="e", software_stack="sglang"), PLAIN),
        (served("d", point_id="e", workload="deepseek-v3", spec_decode="not stated"), PLAIN),
        (served("e", point_id="e", workload="deepseek-v3"), PLAIN),
        (served("f", point_id="e"), APART),
    ]
    found = answered_runs(rows, KNOWN, [Answer(1.0, 1.0)] * len(rows))
    assert [run.fitted for run in found] == [True, False, False, False, True, False]
    assert [run.drafts for run in found] == [False, False, False, True, False, False]
    assert [run.experts for run in found] == [False, False, False, True, True, False]


def test_a_mixture_is_told_by_its_model(served: Make) -> None:
    assert has_experts(served(workload="mixtral-8x7b"))
    assert not has_experts(served(workload="llama-3.1-8b"))
    assert not has_experts(served(workload="resnet-50"))
    assert not has_experts(served(workload="no such model"))


@pytest.mark.parametrize(
    ("facts", "sets"),
    [
        ({}, {"every", "plain"}),
        ({"drafts": True}, {"every"}),
        ({"drafts": True, "experts": True}, {"every", "experts"}),
        ({"experts": True}, {"every", "plain", "experts"}),
        ({"file": APART}, {"every", "of the second file"}),
        ({"file": APART, "drafts": True}, {"every"}),
        ({"waiting": 0.34}, {"every", "plain", "loaded"}),
        ({"waiting": 0.33}, {"every", "plain", "unloaded"}),
    ],
)
def test_a_row_is_in_the_sets_that_its_facts_allow(served: Make, facts: dict[str, Any], sets: set[str]) -> None:
    run = made(served(), 1.0, **facts)
    assert {each.name for each in KNOWN.sets if run.is_in(each)} == sets


def test_columns_and_starved_runs_make_sets_too(served: Make) -> None:
    run = Run(served(input_len=8192), PLAIN, Answer(1.0, 1.0, starved=True), experts=False, drafts=False, fitted=False)
    assert {each.name for each in KNOWN.sets if run.is_in(each)} == {"every", "plain", "starved", "long"}


@given(PAIRS)
def test_figures_are_those_of_the_errors(served: Make, pairs: list[tuple[float, float]]) -> None:
    found = figures([made(served(), *each) for each in pairs])
    errors = np.array([guess / value - 1.0 for guess, value in pairs])
    assert found["asked"] == found["evaluated"] == len(pairs)
    assert found["coverage"] == 1.0
    assert found["median_abs_error"] == pytest.approx(np.median(np.abs(errors)))
    assert found["mean_abs_error"] == pytest.approx(np.mean(np.abs(errors)))
    # All of one source, chip and workload: macro and plain are the same.
    assert found["macro_median_abs_error"] == pytest.approx(found["median_abs_error"])
    assert found["bias"] == pytest.approx(np.median(errors))


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_the_bias_of_a_rate_is_that_of_its_time(served: Make, predicted: float, measured: float) -> None:
    rate = made(served(measured_quantity="output_tokens_per_s"), predicted, measured)
    time = made(served(measured_quantity="tpot_s"), 1.0 / predicted, 1.0 / measured)
    assert figures([rate])["bias"] == pytest.approx(figures([time])["bias"], rel=1e-9, abs=1e-12)
    assert rate.error == pytest.approx(predicted / measured - 1.0)


def test_no_table_counts_more_for_being_long(served: Make) -> None:
    rows = [served(source_key="long")] * 9 + [served(source_key="short", accelerator="l4")]
    found = figures([made(row, 1.1 if row.values["source_key"] == "long" else 2.0) for row in rows])
    assert found["median_abs_error"] == pytest.approx(0.1)
    assert found["macro_median_abs_error"] == pytest.approx((0.1 + 1.0) / 2.0)


def test_rows_without_an_answer_count_as_not_covered(served: Make) -> None:
    found = figures([made(served(), 1.0), made(served(), None)])
    assert (found["asked"], found["evaluated"], found["coverage"]) == (2, 1, 0.5)
    nothing = figures([])
    assert (nothing["evaluated"], nothing["coverage"], nothing["bias"], nothing["median_abs_error"]) == (
        0,
        None,
        None,
        None,
    )


def test_names_come_most_rows_first(served: Make) -> None:
    rows = [served(software_stack=name, mode="static") for name in ("b", "a", "c", "c", "")]
    found = by([made(row, 1.0) for row in rows], "software_stack")
    assert {name: row["asked"] for name, row in found.items()} == {"c": 2, "(blank)": 1, "a": 1, "b": 1}
    assert list(found) == ["c", "(blank)", "a", "b"]
    assert list(by([made(row, 1.0) for row in rows[:1]], "software_stack", "mode")) == ["b, static"]


@pytest.mark.parametrize(
    ("figure", "limit", "found", "good"),
    [
        ("median_abs_error", 0.1, 0.1, True),
        ("median_abs_error", 0.1, 0.11, False),
        ("coverage", 0.95, 0.95, True),
        ("coverage", 0.95, 0.94, False),
    ],
)
def test_what_is_asked_is_met_or_not(figure: str, limit: float, found: float, *, good: bool) -> None:
    assert met(figure, limit, found) is good


def test_asked_and_found_stand_side_by_side(served: Make) -> None:
    asked = {"median_abs_error": 0.1, "coverage": 0.4}
    found = asked_of("some", asked, figures([made(served(), 1.2), made(served(), None)]))
    assert [(row["figure"], row["asked"], row["met"]) for row in found] == [
        ("median_abs_error", 0.1, False),
        ("coverage", 0.4, True),
    ]
    assert found[0]["found"] == pytest.approx(0.2)
    assert [row["met"] for row in asked_of("none", asked, figures([]))] == [None, None]


def test_rows_apart_are_in_no_other_table(served: Make) -> None:
    runs = [
        made(served("a"), 1.1),
        made(served("n", spec_decode="not stated"), 1.2, fitted=True),
        made(served("d", workload="deepseek-v3", software_stack="sglang"), 2.0, drafts=True, experts=True),
        made(served("p", software_stack="tensorrt-llm"), 3.0, file=APART),
        made(served("q", software_stack="tensorrt-llm"), 3.0, file=APART, drafts=True),
    ]
    found = tables(runs, KNOWN)
    assert list(found["stacks"]) == ["vllm"]
    assert [row["evaluated"] for row in found["overall"].values()] == [5, 1, 1, 1, 1, 2]
    assert list(found["apart"]["may draft"]) == ["sglang, tpot_s"]
    assert found["apart"]["disaggregated"]["tensorrt-llm, tpot_s"]["median_abs_error"] == pytest.approx(2.0)
    assert [row["group"] for row in found["farthest"]] == ["lab, h100-sxm, llama-3.1-8b"]
    assert found["sets"]["every"]["evaluated"] == 5
    assert found["stacks"]["vllm"]["constants"] == ["host_step", "rates.matmul"]
    assert found["stacks"]["vllm"]["fitted"]["median_abs_error"] == pytest.approx(0.2)
    assert found["stacks"]["vllm"]["held_out"]["median_abs_error"] == pytest.approx(0.1)
    assert [(row["id"], row["fitted"], row["drafts"]) for row in found["rows"]][1:3] == [
        ("n", True, False),
        ("d", False, True),
    ]


def test_groups_that_are_farthest_off_come_first(served: Make) -> None:
    runs = [made(served(workload=f"m{at}"), 2.0**at) for at in (-3, 0, 2, 1)] + [made(served(workload="none"), None)]
    found = farthest(runs)
    assert [row["group"].split(", ")[-1] for row in found] == ["m-3", "m2", "m1", "m0"]
    assert found[0]["bias"] == pytest.approx(-0.875)


def test_chips_are_left_out_one_at_a_time(served: Make) -> None:
    rows = [served("a"), served("b", batch=4), served("t", accelerator="tpu-v6e", system="")]
    read: Sequence[tuple[Case, RowFile]] = [(row, PLAIN) for row in rows]
    runs = answered_runs(read, KNOWN, module.answers([row for row, _ in read]))
    together, first, second = chips_left_out(runs, KNOWN)
    assert [row["accelerator"] for row in (together, first, second)] == [TOGETHER, "h100-sxm", "tpu-v6e"]
    assert first["replaced"] == ["kernels", "quality", "real data", "collectives of node"]
    assert second["replaced"] == []
    assert second["median_abs_error"] == second["as_it_stands"]["median_abs_error"]
    assert first["median_abs_error"] != first["as_it_stands"]["median_abs_error"]
    assert {key: together[key] for key in ("evaluated", "bias")} == {key: first[key] for key in ("evaluated", "bias")}
    assert (together["evaluated"], second["evaluated"]) == (2, 1)


def test_rows_that_may_draft_and_disaggregated_ones_are_not_left_out(served: Make) -> None:
    answer = Answer(1.0, 1.0, system="dgx-h100")
    facts = {"experts": False, "fitted": False}
    runs = [
        Run(served("d"), PLAIN, answer, drafts=True, **facts),
        Run(served("p"), APART, answer, drafts=False, **facts),
        made(served("n"), None),
    ]
    assert chips_left_out(runs, KNOWN) == []


def test_what_is_asked_of_chips_left_out_is_told(folder: Path) -> None:
    plain, left = inference_accuracy(folder), inference_accuracy(folder, leave_out=True)
    assert left["asked_for"][:-1] == plain["asked_for"]
    last = left["asked_for"][-1]
    assert (last["set"], last["figure"], last["asked"]) == ("chips left out one at a time", "median_abs_error", 0.2)
    assert last["found"] == left["left_out"][0]["median_abs_error"]
    assert left["left_out"][0]["evaluated"] == 4


def test_rows_in_doubt_stay_in_every_figure_and_are_told_apart(served: Make) -> None:
    runs = [made(served("a"), 1.1), made(served("b", batch=64), 3.0), made(served("c", batch=64), None)]
    found = tables(runs, KNOWN)
    assert found["overall"]["all"]["evaluated"] == 2
    assert found["sets"]["plain"]["evaluated"] == 2
    (doubt,) = found["doubts"]
    assert (doubt["name"], doubt["reason"]) == ("of batch 64", "none is that large")
    assert (doubt["asked"], doubt["evaluated"]) == (2, 1)
    assert doubt["median_abs_error"] == pytest.approx(2.0)
    assert found["undoubted"]["median_abs_error"] == pytest.approx(0.1)
    assert (found["undoubted"]["asked"], found["undoubted"]["evaluated"]) == (1, 1)


@given(ratios=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6))
def test_without_doubts_nothing_is_left_out(served: Make, ratios: list[float]) -> None:
    runs = [made(served(f"r{place}"), ratio) for place, ratio in enumerate(ratios)]
    found = tables(runs, KNOWN.model_copy(update={"doubts": ()}))
    assert found["doubts"] == []
    assert found["undoubted"] == found["overall"]["all"]


def test_doubts_of_the_shipped_file_have_names_and_reasons() -> None:
    doubts = known().doubts
    assert len({each.name for each in doubts}) == len(doubts)
    assert all(each.when and len(each.reason) > 20 for each in doubts)
