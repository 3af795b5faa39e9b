"""Gradients reduced in buckets: how many, what each start costs, what the last one leaves exposed, in both engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.train_events import simulate_training, step_schedule
from cosim.engines.training import step_table, with_micro_batches
from cosim.mapping.software import load_software, lower_software
from cosim.records import array

Train = Callable[..., Case]
CALM = {"system.chip.power.limit": 1e6, "system.chip.collective_cores": 1e-9, "software": "megatron"}


def case_of(train: Train, bucket: float, **fields: Any) -> Case:
    return with_micro_batches(train(**{**CALM, "data_parallel": 4, "software.bucket": array(bucket), **fields}))


def run(train: Train, bucket: float, **fields: Any) -> Estimates:
    return evaluate(case_of(train, bucket, **fields))


def test_no_bucket_is_a_layer_at_a_time(train: Train) -> None:
    closing = step_table(case_of(train, 0.0)).closing
    assert float(closing.buckets[0, 0]) == float(closing.layers[0, 0]) == 12.0
    assert step_schedule(case_of(train, 0.0)).buckets == step_schedule(case_of(train, 0.0)).layers


@settings(max_examples=15, deadline=None)
@given(bucket=st.floats(2e6, 4e10), zero=st.integers(0, 1))
def test_as_many_as_the_gradients_fill(train: Train, bucket: float, zero: int) -> None:
    case = case_of(train, bucket, zero=zero)
    plain, closing = (step_table(each).closing for each in (case_of(train, 0.0, zero=zero), case))
    gradients = float(evaluate(case).memory["gradients"][0])
    assert float(closing.buckets[0, 0]) == math.ceil(gradients / bucket)
    # Every bucket starts anew.
    assert float(closing.reduce[0, 0]) >= float(plain.reduce[0, 0]) * (1 - 1e-9)
    assert float(closing.wire_bytes[0, 0]) == pytest.approx(float(plain.wire_bytes[0, 0]), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(bucket=st.sampled_from([25e6, 160e6, 1e9, 1e12]), zero=st.integers(0, 1), pipeline=st.sampled_from([1, 2, 3]))
def test_events_take_the_time_of_the_closed_form(train: Train, bucket: float, zero: int, pipeline: int) -> None:
    case = case_of(train, bucket, zero=zero, pipeline_parallel=pipeline)
    assert simulate_training(case).time_s == pytest.approx(float(evaluate(case).time[0]), rel=5e-3)


def test_one_bucket_hides_nothing(train: Train) -> None:
    one, none = run(train, 1e15), run(train, 0.0)
    closing = step_table(case_of(train, 1e15)).closing
    assert float(closing.buckets[0, 0]) == 1.0
    assert float(one.breakdown["data_parallel"][0]) == pytest.approx(float(closing.reduce[0, 0]), rel=1e-3)
    assert float(none.breakdown["data_parallel"][0]) < float(one.breakdown["data_parallel"][0])


def test_tiny_buckets_pay_for_their_starts(train: Train) -> None:
    tiny, fair = (step_table(case_of(train, bucket)).closing for bucket in (1e5, 160e6))
    assert float(tiny.reduce[0, 0]) > 1.5 * float(fair.reduce[0, 0])


def test_software_that_does_not_overlap_pays_for_starts_alone(train: Train) -> None:
    apart, one = (run(train, bucket, software="megatron-2022") for bucket in (25e6, 1e15))
    assert float(apart.time[0]) > float(one.time[0])


def test_experts_have_buckets_of_their_own(train: Train) -> None:
    fields = {"model": "mixtral-8x7b", "expert_parallel": 4, "workload.layers": 4}
    closing = step_table(case_of(train, 1e15, **fields)).closing
    assert float(closing.buckets[0, 0]) == 2.0


def test_a_stack_says_its_bucket(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("base: megatron\nname: own\ntitle: Ours\nbucket: 25 MB\n", encoding="utf-8")
    assert float(lower_software(load_software(str(path))).bucket) == 25e6
    assert float(lower_software(load_software("megatron")).bucket) == 0.0
