"""What a step updates: all weights, adapters, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.train_events import simulate_training
from cosim.engines.training import passes, step_table, with_micro_batches

Train = Callable[..., Case]


def run(train: Train, updates: str, software: str = "megatron", **fields: object) -> Estimates:
    return evaluate(train(software, **{"scenario.updates": updates, **fields}))


def second(result: Estimates) -> float:
    return float(result.time[0])


PLANS = st.fixed_dictionaries(
    {
        "tensor_parallel": st.sampled_from([1, 2, 8]),
        "data_parallel": st.sampled_from([1, 4]),
        "pipeline_parallel": st.sampled_from([1, 3]),
        "micro_batch": st.sampled_from([1, 2]),
        "zero": st.integers(0, 3),
        "recompute": st.sampled_from(["none", "full"]),
        "sequence_parallel": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(plan=PLANS, software=st.sampled_from(["megatron", "megatron-2022"]))
def test_adapters_take_less_memory_and_nothing_takes_no_update(
    train: Train, plan: dict[str, object], software: str
) -> None:
    whole, few, none = (run(train, each, software, **plan) for each in ("all", "adapters", "nothing"))
    assert second(none) <= second(whole)
    for kind in ("gradients", "optimizer"):
        assert float(few.memory[kind][0]) < 0.2 * float(whole.memory[kind][0])
    assert float(none.memory["optimizer"][0]) == 0.0
    if plan["pipeline_parallel"] == 1:  # of several stages it may be another one that is the fullest
        assert float(few.memory["weights"][0]) > float(whole.memory["weights"][0])
        assert float(none.memory["gradients"][0]) == float(whole.memory["gradients"][0])
    assert float(none.breakdown["optimizer"][0]) == 0.0


@pytest.mark.parametrize("updates", ["all", "adapters", "nothing"])
@pytest.mark.parametrize("stages", [1, 3])
def test_events_take_the_time_of_the_closed_form(train: Train, updates: str, stages: int) -> None:
    fields = {"pipeline_parallel": stages, "data_parallel": 2, "zero": 1, "global_batch": 24}
    case = train("megatron-2022", **{"scenario.updates": updates, "system.chip.power.limit": 1e6}, **fields)
    assert simulate_training(case).time_s == pytest.approx(second(evaluate(case)), rel=5e-3)


def test_adapters_spare_a_third_of_large_products(train: Train) -> None:
    # Three products of four: forward twice under full recompute, input gradients, no weight gradients.
    big = {"micro_batch": 4, "software": "megatron"}
    whole, few = (run(train, each, **big) for each in ("all", "adapters"))
    assert 0.6 < second(few) / second(whole) < 0.9
    assert float(few.breakdown["matmul"][0] / whole.breakdown["matmul"][0]) == pytest.approx(2 / 3, abs=0.08)
    # Useful FLOP are those of two products: a step that were as fast a FLOP would have the same utilisation.
    useful = float(few.utilisation[0] * few.time[0]) / float(whole.utilisation[0] * whole.time[0])
    assert useful == pytest.approx(2 / 3, rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(rank=st.integers(1, 128))
def test_adapters_cost_more_the_wider_they_are(train: Train, rank: int) -> None:
    one, two = (
        run(train, "adapters", **{"scenario.adapter_rank": each, "data_parallel": 4}) for each in (rank, 2 * rank)
    )
    assert second(two) >= second(one) * (1 - 1e-9)
    ratio = float(two.memory["optimizer"][0] / one.memory["optimizer"][0])
    assert ratio == pytest.approx(2.0, rel=1e-12)


def test_replicas_sum_gradients_that_nothing_uses_and_one_replica_none(train: Train) -> None:
    alone, four = (run(train, "nothing", data_parallel=each) for each in (1, 4))
    assert float(alone.breakdown["data_parallel"][0]) == 0.0
    assert float(four.breakdown["data_parallel"][0]) > 0.0
    little = run(train, "adapters", data_parallel=4)
    assert float(little.breakdown["data_parallel"][0]) < 0.1 * float(four.breakdown["data_parallel"][0])


def test_frozen_weights_are_gathered_and_not_scattered(train: Train) -> None:
    fields = {"data_parallel": 4, "zero": 3}
    whole, few = (
        float(
            step_table(with_micro_batches(train("megatron-2022", **{"scenario.updates": each}, **fields))).energy[0, 0]
        )
        for each in ("all", "adapters")
    )
    assert few < whole
    table = step_table(with_micro_batches(train("megatron-2022", **{"scenario.updates": "adapters"}, **fields)))
    assert float(np.max(table.classes["collective"])) > 0.0


def test_the_host_of_an_update_is_spared_with_it(train: Train) -> None:
    whole, none = (
        run(
            train,
            each,
            "megatron-2022",
            **{"software.host_kernel": np.zeros(()), "software.host_collective": np.zeros(())},
        )
        for each in ("all", "nothing")
    )
    assert float(whole.breakdown["host"][0]) == pytest.approx(5e-3)
    assert float(none.breakdown["host"][0]) == 0.0


def test_gradients_of_one_format_are_as_wide_as_the_rest(train: Train) -> None:
    narrow, wide = (
        passes(train("pytorch-eager", dtype=each, **{"scenario.updates": "nothing"})) for each in ("bf16", "tf32")
    )
    for old, new in zip(narrow.gradients.vectors, wide.gradients.vectors, strict=True):
        assert (old.name, float(np.sum(new.read_bytes))) == (
            new.name,
            pytest.approx(2.0 * float(np.sum(old.read_bytes)), rel=0.4),
        )
    assert {op.dtype for op in wide.gradients.matmuls} == {"tf32"}
