"""Plans and scenarios: what they refuse, what they assume, and their lowering to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.mapping.plan import Plan, PlanArrays, Scenario, ScenarioArrays, lower_plan
from cosim.overrides import Varied, vary
from cosim.records import leaves, points, structure
from cosim.schema import validated

PlanOf = Callable[..., PlanArrays]
ScenarioOf = Callable[..., ScenarioArrays]
degree = st.integers(1, 1000)


@settings(max_examples=40, deadline=None)
@given(tensor=degree, pipeline=degree, data=degree, micro=degree)
def test_degrees_reach_their_places_and_multiply_to_chips(
    plan_of: PlanOf, tensor: int, pipeline: int, data: int, micro: int
) -> None:
    plan = plan_of(tensor_parallel=tensor, pipeline_parallel=pipeline, data_parallel=data, micro_batches=micro)
    numbers = (plan.tensor, plan.pipeline, plan.data, plan.micro_batches)
    assert tuple(float(n) for n in numbers) == (tensor, pipeline, data, micro)
    assert float(plan.chips) == tensor * pipeline * data  # micro-batches occupy no chips


def test_a_plan_says_one_chip_and_sixteen_bits_unless_told(plan_of: PlanOf) -> None:
    plan = plan_of()
    # Ranks of an expert, before recompute and context ranks, follow from the degrees.
    degrees = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, np.inf, 1.0, 0.0, 0.0, 1.0]
    # All layers recompute what is recomputed; nothing is offloaded.
    assert [float(leaf) for leaf in leaves(plan)] == [*degrees, np.inf, 0.0, 0.0, 0.0]
    assert (plan.dtype, plan.kv_dtype, plan.all_reduce) == ("bf16", "bf16", "fastest")
    assert (plan.order, plan.fp8_recipe) == ("tp-cp-dp-pp", "tensor")


@pytest.mark.parametrize(("shard", "data", "sharers"), [(None, 8, 16), (4, 8, 4), (16, 8, 16), (64, 8, 16), (1, 1, 1)])
def test_states_are_shared_by_all_replicas_or_by_as_many_as_told(
    plan_of: PlanOf, shard: int | None, data: int, sharers: int
) -> None:
    told = {} if shard is None else {"shard": shard}
    assert float(plan_of(data_parallel=data, context_parallel=2, **told).sharers) == sharers


def test_a_scenario_says_what_is_updated(scenario_of: ScenarioOf) -> None:
    assert (scenario_of().updates, float(scenario_of().adapter_rank)) == ("all", 16.0)
    few = scenario_of(updates="adapters", adapter_rank=[4, 8])
    assert few.updates == "adapters"
    np.testing.assert_array_equal(few.adapter_rank, [4.0, 8.0])
    with pytest.raises(SpecError, match=r"updates: .*'all', 'adapters' or 'nothing'"):
        scenario_of(updates="some")


def test_formats_and_algorithm_are_structure(plan_of: PlanOf) -> None:
    plan = plan_of(**{"dtype": "fp8", "kv_dtype": "int8", "algorithm.all_reduce": "tree"})
    assert (plan.dtype, plan.kv_dtype, plan.all_reduce) == ("fp8", "int8", "tree")


def test_degrees_vary_along_the_points_axis(plan_of: PlanOf) -> None:
    plan = plan_of(tensor_parallel=[1, 2, 4, 8], data_parallel=np.array([8, 4, 2, 1]), pipeline_parallel=2)
    np.testing.assert_array_equal(plan.chips, [16.0, 16.0, 16.0, 16.0])
    assert points(plan) == 4


@pytest.mark.parametrize("context", [3000, [100, 200, 300]])
def test_memory_holds_the_context_unless_told(scenario_of: ScenarioOf, context: Any) -> None:
    scenario = scenario_of(context=context)
    np.testing.assert_array_equal(scenario.capacity, context)
    np.testing.assert_array_equal(scenario.context, context)


def test_capacity_is_its_own_number_where_told(scenario_of: ScenarioOf) -> None:
    scenario = scenario_of(context=1000, capacity=[4096, 8192])
    assert float(scenario.context) == 1000.0
    np.testing.assert_array_equal(scenario.capacity, [4096.0, 8192.0])


def test_times_are_unlimited_unless_told(scenario_of: ScenarioOf) -> None:
    free, bound = scenario_of(), scenario_of(ttft_limit=0.5, tpot_limit=[0.02, 0.05])
    assert (float(free.ttft_limit), float(free.tpot_limit)) == (float("inf"), float("inf"))
    assert float(bound.ttft_limit) == 0.5
    np.testing.assert_array_equal(bound.tpot_limit, [0.02, 0.05])
    assert (float(free.batch), float(free.context)) == (1.0, 2048.0)


@pytest.mark.parametrize("field", ["tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches"])
@pytest.mark.parametrize(
    ("value", "message"), [(0, "greater than or equal to 1"), (1_000_001, "less than or equal"), (1.5, "integer")]
)
def test_a_degree_out_of_bounds_is_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        vary(Varied(Plan()), {field: value}, root="plan.")
    assert caught.value.field == f"plan.{field}"
    assert caught.value.value == value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tensor_paralel", 2, "unknown path.*nearest: plan.tensor_parallel"),
        ("dtype", "fp7", "'bf16', 'fp8'"),
        ("algorithm.all_reduce", "butterfly", "'fastest', 'ring', 'tree'"),
        ("algorithm.all_gather", "ring", "unknown path.*algorithm.all_reduce"),
        ("dtype", ["bf16", "fp8"], "must hold numbers"),
        ("tensor_parallel", [1, 0], "greater than or equal to 1"),
        ("tensor_parallel", [], "not empty"),
    ],
)
def test_a_wrong_plan_is_refused_with_what_would_be_right(path: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        vary(Varied(Plan()), {path: value}, root="plan.")


@pytest.mark.parametrize("field", ["ttft_limit", "tpot_limit"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_limit_is_positive_and_finite(field: str, value: float) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Scenario, {field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["batch", "context", "capacity"])
def test_a_scenario_asks_for_at_least_one(field: str) -> None:
    with pytest.raises(SpecError, match="greater than or equal to 1") as caught:
        validated(Scenario, {field: 0})
    assert caught.value.field == field


def test_an_unknown_scenario_field_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown field.*nearest: .*context"):
        validated(Scenario, {"contxt": 4096})


def test_weights_are_kept_in_the_format_of_the_products_unless_told() -> None:
    assert lower_plan(Varied(Plan())).weights_dtype is None
    assert lower_plan(vary(Varied(Plan()), {"weights_dtype": "int4"})).weights_dtype == "int4"
    both = [lower_plan(vary(Varied(Plan()), {"weights_dtype": kept})) for kept in ("int4", None)]
    assert structure(both[0]) != structure(both[1])


def test_weights_in_an_unknown_format_are_refused() -> None:
    with pytest.raises(SpecError, match="weights_dtype"):
        vary(Varied(Plan()), {"weights_dtype": "int3"})
