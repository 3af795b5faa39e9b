"""Answers to measured inference runs: together as alone, fast, with what a run waits for and what holds it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.system import System
from cosim.mapping.serving import load_serving, lower_serving
from cosim.records import points
from cosim.validation.cases import Case
from cosim.validation.inference import Answer, answers, batches_of, served_batch
from cosim.validation.inference_left_out import specified

Make = Callable[..., Case]
KINDS = (
    {},
    {"measured_quantity": "ttft_s", "batch": 64},
    {"tp": "", "pp": "", "dp": "", "num_accelerators": 4, "measured_quantity": "output_tokens_per_s"},
    {"workload": "mixtral-8x7b", "num_accelerators": 2, "tp": 2, "software_stack": "sglang"},
    {"batch_kind": "offered QPS", "batch": "", "offered_qps": 2, "measured_quantity": "e2e_s"},
    {"batch_kind": "engine max", "batch": "", "mode": "offline", "measured_quantity": "tokens_per_s"},
    {"batch_kind": "static_batch", "mode": "static", "software_stack": "gpt-fast", "batch": 1},
    {"accelerator": "a100-80gb-sxm", "system": "", "weights_dtype": "int8"},
    {"workload": "no such model"},
    {"system": "nowhere"},
)
"""Rows of many structures, two of them without an answer."""


@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(len(KINDS))), repeats=st.integers(1, 2))
def test_rows_are_answered_together_as_alone(served: Make, order: list[int], repeats: int) -> None:
    rows = [served(f"r{kind}", **KINDS[kind]) for kind in order] * repeats
    together = answers(rows)
    for row, found in zip(rows, together, strict=True):
        (alone,) = _alone(tuple(sorted(row.values.items())))
        assert (found.predicted is None, found.reason) == (alone.predicted is None, alone.reason)
        assert found.completed == alone.completed
        if alone.predicted is not None:
            assert found.predicted == pytest.approx(alone.predicted, rel=1e-12)
            assert found.waiting == pytest.approx(alone.waiting, rel=1e-9, abs=1e-12)


@lru_cache(maxsize=64)
def _alone(values: tuple[tuple[str, str], ...]) -> list[Answer]:
    return answers([Case(dict(values)["id"], 1, dict(values))])


def test_ten_thousand_rows_take_less_than_a_minute(served: Make) -> None:
    rows = [served(f"{at}", **KINDS[at % len(KINDS)], input_len=100 + at) for at in range(1000)]
    start = time.process_time()
    found = answers(rows)
    assert time.process_time() - start < 6.0
    assert sum(each.predicted is not None for each in found) == 800


def test_rows_of_one_structure_are_one_batch(served: Make) -> None:
    others = (served("x", workload="no such model"), served("c", software_stack="sglang"))
    batches, reasons = batches_of([served("a"), served("b", batch=4), *others])
    assert [batch.places for batch in batches] == [(0, 1), (3,)]
    assert [points(batch.demand) for batch in batches] == [2, 1]
    assert batches[0].demand.concurrency.tolist() == [16.0, 4.0]
    assert list(reasons) == [2]
    assert "no such model" in reasons[2]


def test_models_of_one_structure_are_one_batch(served: Make) -> None:
    batches, _ = batches_of([served("a"), served("b", workload="llama-3.1-70b")])
    assert [batch.places for batch in batches] == [(0, 1)]
    assert batches[0].case.model.layers.tolist() == [32.0, 80.0]


def test_every_layout_of_a_tuned_run_is_asked_and_the_fastest_counts(served: Make) -> None:
    row = served("a", tp="", pp="", dp="", num_accelerators=4, measured_quantity="output_tokens_per_s", batch=64)
    batches, _ = batches_of([row])
    assert sorted(place for batch in batches for place in batch.places) == [0, 0, 0]
    fixed = [served(f"{tp}", **{**row.values, "tp": tp, "dp": 4 // tp, "id": f"{tp}"}) for tp in (1, 2, 4)]
    rates = [each.predicted or 0.0 for each in answers(fixed)]
    (found,) = answers([row])
    assert found.predicted == pytest.approx(max(rates), rel=1e-9)


def test_another_stack_takes_the_place_of_the_rows_own(served: Make) -> None:
    (batch,), _ = batches_of([served("a"), served("b", batch=2)])
    own = lower_serving(load_serving("vllm"))
    slow = replace(own, host_step=own.host_step + 0.1)
    plain, same, other = (served_batch(batch, stack) for stack in (None, own, slow))
    for index in range(2):
        first, second, third = (found[index] for found in (plain, same, other))
        assert not isinstance(first, str)
        assert not isinstance(second, str)
        assert not isinstance(third, str)
        assert float(first.tpot) == float(second.tpot)
        assert float(third.tpot) == pytest.approx(float(first.tpot) + 0.1, rel=0.2)


def test_systems_may_be_given(served: Make) -> None:
    asked: list[str] = []

    def other(name: str) -> System:
        asked.append(name)
        return specified(name).system

    (before,), (after,), (again,) = (answers([served()], given) for given in (None, other, None))
    assert asked == ["dgx-h100"]
    assert before.predicted is not None
    assert after.predicted == pytest.approx(before.predicted, rel=0.5)
    assert after.predicted != before.predicted == again.predicted


def test_the_wait_behind_others_is_part_of_the_time_to_the_first_token(served: Make) -> None:
    batches = (1, 4, 64, 4096)
    found = answers([served(f"{batch}", batch=batch, measured_quantity="ttft_s") for batch in batches])
    waits = [each.waiting for each in found]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert 0.5 < waits[-1] < 1.0


def test_a_run_is_starved_where_memory_holds_less_than_the_stack_may(served: Make) -> None:
    full = {"batch_kind": "engine max", "batch": "", "mode": "offline", "measured_quantity": "output_tokens_per_s"}
    short, long, kept = answers(
        [
            served("short", **full, input_len=16, output_len=16),
            served("long", **full, input_len=16384),
            served("kept", batch=4096, input_len=16384, measured_quantity="output_tokens_per_s"),
        ]
    )
    assert (short.starved, long.starved) == (False, True)
    # How many are in flight was chosen there.
    assert not kept.starved


def test_an_answer_names_its_system(served: Make) -> None:
    usual, named = answers([served("a", accelerator="a100-80gb-sxm", system=""), served("b")])
    assert usual.system == "dgx-a100"
    assert named.system == "dgx-h100"


def test_a_quantity_that_does_not_follow_is_no_answer(served: Make) -> None:
    row = served(measured_quantity="input_tokens_per_s", input_len=0, batch_kind="static_batch", mode="static")
    (found,) = answers([row])
    assert found.predicted is None
    assert found.reason == "no input_tokens_per_s follows from this run"
    assert found.measured == 0.01
