"""Slow chips in a step: who waits for whom, which replicas set the pace, what the events make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.slow_ranks import Replica, SlowRanks, slow_replicas
from cosim.engines.train_events import run_training, simulate_training, step_schedule
from cosim.errors import SpecError
from cosim.mapping.order import ORDERS

Train = Callable[..., Case]
PLAN: dict[str, Any] = {"tensor_parallel": 2, "pipeline_parallel": 3, "data_parallel": 4}
# chip = (stage x 4 + replica) x 2 + rank


def seconds(case: Case, **slow: Any) -> float:
    return simulate_training(case, 0, SlowRanks(**slow)).time_s


def test_without_slow_chips_one_replica_stands_for_all(train: Train) -> None:
    case = train(**PLAN)
    assert not SlowRanks()
    assert slow_replicas(case, SlowRanks()) == [Replica(0, (1.0, 1.0, 1.0))]
    assert simulate_training(case).time_s == run_training(step_schedule(case)).time_s


def test_a_slow_chip_slows_its_stage_of_its_replica(train: Train) -> None:
    case = train(**PLAN)
    assert slow_replicas(case, SlowRanks(named={15: 1.5})) == [Replica(3, (1.0, 1.5, 1.0))]
    # Two chips of one stage and replica: the slower one counts.
    assert slow_replicas(case, SlowRanks(named={14: 1.2, 15: 1.5})) == [Replica(3, (1.0, 1.5, 1.0))]
    # Two replicas, neither slower than the other everywhere, both set the pace.
    both = slow_replicas(case, SlowRanks(named={15: 1.5, 0: 1.1}))
    assert both == [Replica(0, (1.1, 1.0, 1.0)), Replica(3, (1.0, 1.5, 1.0))]


@pytest.mark.parametrize("fields", [{"zero": 2}, {"zero": 3}])
def test_replicas_that_share_gradients_in_every_layer_are_as_slow_as_the_slowest(
    train: Train, fields: dict[str, Any]
) -> None:
    case = train(**PLAN, **fields)
    assert slow_replicas(case, SlowRanks(named={15: 1.5, 0: 1.1})) == [Replica(0, (1.1, 1.5, 1.0))]


@settings(max_examples=25, deadline=None)
@given(spread=st.floats(0.001, 1.0), seed=st.integers(0, 100))
def test_those_that_set_the_pace_cover_all_others(train: Train, spread: float, seed: int) -> None:
    case = train(**PLAN)
    kept = slow_replicas(case, SlowRanks(spread, seed=seed))
    draws = np.abs(np.random.default_rng(seed).standard_normal(24))
    rows = (1.0 + spread * draws).reshape(3, 4, 2).max(axis=2).T
    assert all(any(np.all(np.array(each.factors) >= row) for each in kept) for row in rows)
    assert all(np.array_equal(rows[each.number], each.factors) for each in kept)
    assert [each.number for each in kept] == sorted({each.number for each in kept})


def test_a_pipeline_of_one_stage_is_as_slow_as_its_slowest_chip(train: Train) -> None:
    case = train(tensor_parallel=1, data_parallel=4, **{"software.host_step": np.zeros(()), "zero": 0})
    plan = step_schedule(case)
    passes = plan.micro_batches * (plan.forward_s[0] + plan.backward_s[0]) + plan.optimizer_s[0]
    assert seconds(case, named={2: 1.25}) - simulate_training(case).time_s == pytest.approx(0.25 * passes, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(chip=st.integers(0, 23), factor=st.floats(1.0, 3.0), more=st.floats(0.0, 1.0))
def test_a_slower_chip_never_makes_a_shorter_step(train: Train, chip: int, factor: float, more: float) -> None:
    case = train(**PLAN)
    one, two = seconds(case, named={chip: factor}), seconds(case, named={chip: factor + more})
    assert simulate_training(case).time_s <= one * (1.0 + 1e-12)
    assert one <= two * (1.0 + 1e-12)


def test_many_slow_replicas_take_as_long_as_when_all_of_them_run(train: Train) -> None:
    """Replicas that another one covers change nothing."""
    case = train(**{**PLAN, "pipeline_parallel": 2, "data_parallel": 8})
    slow = SlowRanks(0.3, seed=3)
    draws = np.abs(np.random.default_rng(3).standard_normal(32))
    rows = (1.0 + 0.3 * draws).reshape(2, 8, 2).max(axis=2).T
    every = [Replica(number, tuple(map(float, row))) for number, row in enumerate(rows)]
    assert len(slow_replicas(case, slow)) < len(every)
    assert simulate_training(case, 0, slow).time_s == pytest.approx(run_training(step_schedule(case), every).time_s)


def test_spans_name_the_replica_where_there_are_several(train: Train) -> None:
    one = simulate_training(train(**PLAN), 0, SlowRanks(named={15: 1.5}))
    two = simulate_training(train(**PLAN), 0, SlowRanks(named={15: 1.5, 0: 1.1}))
    assert not [span for span in one.spans if "replica" in span.resource]
    assert {span.resource.partition(", ")[2] for span in two.spans if span.resource.startswith("stage")} == {
        "replica 0",
        "replica 3",
    }


@pytest.mark.parametrize(
    ("slow", "text"),
    [
        (SlowRanks(named={24: 1.5}), r"is no chip of the plan.*24.*it has 24, from 0"),
        (SlowRanks(named={0: 0.5}), r"is no factor.*0\.5"),
        (SlowRanks(2.0), r"is out of range.*2\.0.*0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(train: Train, slow: SlowRanks, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        simulate_training(train(**PLAN), 0, slow)


@pytest.mark.parametrize("order", ORDERS)
def test_chips_are_counted_in_the_order_of_the_plan(train: Train, order: str) -> None:
    degrees = {"tp": 2, "cp": 2, "dp": 3, "pp": 4}
    named = {"tensor_parallel": 2, "context_parallel": 2, "data_parallel": 3, "pipeline_parallel": 4}
    case = train("megatron", order=order, global_batch=12, **named)
    at = {"tp": 1, "cp": 0, "dp": 2, "pp": 3}
    chip, apart = 0, 1
    for word in order.split("-"):
        chip, apart = chip + at[word] * apart, apart * degrees[word]
    assert slow_replicas(case, SlowRanks(named={chip: 1.5})) == [Replica(2, (1.0, 1.0, 1.0, 1.5))]
