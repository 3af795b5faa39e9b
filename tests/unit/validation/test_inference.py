"""Predictions of measured inference runs: each row as if alone, in its own quantity, or with its reason."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.served import Demand, Served, in_flight, static_batch
from cosim.hardware.system import System
from cosim.mapping.serving import load_serving, lower_serving
from cosim.records import array, points
from cosim.validation import inference
from cosim.validation.cases import Case
from cosim.validation.inference import answers, batches_of, in_quantity, served_batch
from cosim.validation.inference_left_out import specified
from cosim.validation.inference_rows import QUANTITIES, asked

ROW: dict[str, object] = {
    "workload": "llama-3.1-8b",
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "num_accelerators": 1,
    "tp": 1,
    "weights_dtype": "bf16",
    "kv_dtype": "bf16",
    "batch": 16,
    "batch_kind": "static_batch",
    "input_len": 512,
    "output_len": 128,
    "measured_quantity": "tpot_s",
    "measured_value": 0.01,
    "software_stack": "vllm",
}
ROWS = st.fixed_dictionaries(
    {
        "workload": st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "gpt-oss-20b", "bert-large", "no-model"]),
        "batch_kind": st.sampled_from(["static_batch", "max_concurrency", "engine max", "offered QPS"]),
        "batch": st.sampled_from([1, 8, 100]),
        "offered_qps": st.sampled_from([0.1, 5.0]),
        "input_len": st.sampled_from([64, 300]),
        "output_len": st.sampled_from([1, 200]),
        "measured_quantity": st.sampled_from(QUANTITIES),
        "tp": st.sampled_from([1, 2, ""]),
        "num_accelerators": st.just(2),
        "weights_dtype": st.sampled_from(["bf16", "fp8", "int4"]),
    }
)


def row(**values: object) -> Case:
    return Case("r", 2, {name: str(value) for name, value in {**ROW, **values}.items()})


def value(**values: object) -> float:
    (answer,) = answers([row(**values)])
    assert answer.predicted is not None, answer.reason
    return answer.predicted


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(ROWS, min_size=2, max_size=5))
def test_rows_together_are_what_they_are_alone(rows: list[dict[str, object]]) -> None:
    cases = [row(**each) for each in rows]
    together = answers(cases)
    for case, answer in zip(cases, together, strict=True):
        (alone,) = answers([case])
        assert (answer.reason, answer.completed) == (alone.reason, alone.completed)
        assert (answer.predicted is None) == (alone.predicted is None) == bool(answer.reason)
        if answer.predicted is not None and alone.predicted is not None:
            assert answer.predicted == pytest.approx(alone.predicted, rel=1e-12)
            assert 0.0 < answer.predicted < math.inf
        assert answer.measured == 0.01


def test_quantities_of_a_static_batch_by_hand() -> None:
    wanted = asked(row())
    served = static_batch(wanted.case, wanted.demand)
    ttft, tpot, e2e = (float(x.reshape(-1)[0]) for x in (served.ttft, served.tpot, served.e2e))
    assert value(measured_quantity="ttft_s") == pytest.approx(ttft)
    assert value(measured_quantity="tpot_s") == pytest.approx(tpot)
    assert value(measured_quantity="e2e_s") == pytest.approx(e2e)
    assert e2e == pytest.approx(ttft + 127 * tpot)
    assert value(measured_quantity="output_tokens_per_s") == pytest.approx(16 * 128 / e2e)
    assert value(measured_quantity="tokens_per_s") == pytest.approx(16 * 640 / e2e)
    assert value(measured_quantity="input_tokens_per_s") == pytest.approx(16 * 512 / ttft)
    assert value(measured_quantity="samples_per_s") == pytest.approx(16 / e2e)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_each_quantity_is_read_from_what_was_served(quantity: str) -> None:
    numbers = Served(*(array(x) for x in (2.0, 0.5, 10.0, 4.0, 40.0, 1.0)))
    wanted = dataclasses.replace(asked(row()), quantity=quantity, demand=Demand(array(100.0), array(17.0), array(40.0)))
    expected = {
        "ttft_s": 2.0,
        "tpot_s": 0.5,
        "e2e_s": 10.0,
        "output_tokens_per_s": 4.0 * 17.0,
        "input_tokens_per_s": 40.0 * 100.0 / 2.0,
        "tokens_per_s": 4.0 * 117.0,
        "samples_per_s": 4.0,
    }
    assert in_quantity(numbers, wanted) == expected[quantity]


def test_requests_in_flight_are_the_steady_state() -> None:
    wanted = asked(row(batch_kind="max_concurrency", batch=64))
    served = in_flight(wanted.case, wanted.demand)
    expected = float(served.rate.reshape(-1)[0]) * 128
    assert value(batch_kind="max_concurrency", batch=64, measured_quantity="output_tokens_per_s") == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("fewer", "more", "column"),
    [(1, 4, "batch"), (64, 2048, "input_len")],
)
def test_more_work_is_slower_for_each(fewer: int, more: int, column: str) -> None:
    for quantity in ("ttft_s", "tpot_s", "e2e_s"):
        slow, quick = (value(**{column: size, "measured_quantity": quantity}) for size in (more, fewer))
        assert slow >= quick


def test_weights_kept_narrow_decode_faster() -> None:
    wide, eight, four = (value(weights_dtype=kept, batch=1) for kept in ("bf16", "fp8", "int4"))
    assert four < eight < wide


def test_a_row_without_degrees_has_the_layout_that_serves_most() -> None:
    open_row = {"num_accelerators": 4, "batch_kind": "max_concurrency", "batch": 64}
    quantity = {"measured_quantity": "output_tokens_per_s"}
    found = value(**open_row, **quantity, tp="")
    each = [value(**open_row, **quantity, tp=tensor, dp=4 // tensor) for tensor in (1, 2, 4)]
    assert found == pytest.approx(max(each))


def test_a_row_that_cannot_be_read_keeps_its_place_and_its_reason() -> None:
    found = answers([row(workload="no-model"), row(), row(batch_kind="odd")])
    assert [answer.predicted is None for answer in found] == [True, False, True]
    assert found[0].reason == "workload no-model is not in the library"
    assert found[2].reason == "batch_kind odd is not modelled"
    assert found[0].measured == 0.01


def test_a_quantity_that_does_not_follow_is_no_answer() -> None:
    (answer,) = answers([row(measured_quantity="ttft_s", batch="", batch_kind="offered QPS", offered_qps="inf")])
    assert answer.predicted is None
    assert answer.reason == "no ttft_s follows from this run"


def test_prompts_in_flight_are_read_at_the_rate_of_requests() -> None:
    flight = [
        row(measured_quantity=name, batch_kind="max_concurrency")
        for name in ("input_tokens_per_s", "tokens_per_s", "output_tokens_per_s")
    ]
    read, all_of_them, written = (answer.predicted or 0.0 for answer in answers(flight))
    assert read + written == pytest.approx(all_of_them)


def test_weights_that_are_more_than_the_memory_are_a_reason() -> None:
    (answer,) = answers([row(workload="llama-3.1-405b", weights_dtype="bf16", tp=1, num_accelerators=1)])
    assert answer.predicted is None
    assert answer.reason.startswith("does not fit: weights of a chip take 811")


def test_an_error_of_a_batch_is_the_reason_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from cosim.errors import SpecError

    def refuse(*_: object) -> Served:
        raise SpecError("is not served", field="workload")

    monkeypatch.setitem(inference.ENGINES, "static", refuse)
    found = answers([row(), row(batch=3)])
    assert [answer.reason for answer in found] == ["workload: is not served"] * 2


def test_nothing_asked_is_nothing_answered() -> None:
    assert answers([]) == []


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
