"""Limits in their documented order, their shortfalls, and the list of legal plans by brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.legal import (
    CODES,
    LIMITS,
    Verdict,
    divisibility,
    divisors,
    expert_degrees,
    fine,
    legal_plans,
    merged,
)
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.model import ModelArrays
from cosim.workload.sides import Side

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
ScenarioOf = Callable[..., ScenarioArrays]

ORDER = ("chips", "tensor_parallel", "kv_heads", "pipeline_parallel", "batch", "positions")
LATE = ("memory", "host_memory", "ttft_limit", "tpot_limit")
# 24 heads and 6 key/value heads: degree 4 divides the first only, degree 5 neither.
ODD = {"heads": 24, "kv_heads": 6, "ffn": 960, "layers": 4, "max_positions": 2048}


def judge(
    model: ModelArrays, plan: PlanArrays, scenario: ScenarioArrays, chips: float, phase: str = "decode"
) -> Verdict:
    return divisibility(plan, scenario, model, array(chips), phase)


def test_limits_are_in_the_documented_order() -> None:
    assert tuple(limit.name for limit in LIMITS) == (
        "",
        ORDER[0],
        "network",
        *ORDER[1:3],
        "expert_parallel",
        ORDER[3],
        "shard",
        "virtual_pipeline",
        "schedule_pieces",
        "schedule_stages",
        "schedule_layers",
        "schedule_micro_batches",
        "context_parallel",
        *ORDER[4:],
        *LATE,
    )
    assert [CODES[limit.name] for limit in LIMITS] == list(range(len(LIMITS)))


def test_every_limit_has_a_unit_and_a_way_out() -> None:
    assert all(limit.unit and limit.hint for limit in LIMITS[1:])
    assert {limit.name: limit.unit for limit in LIMITS}["memory"] == "B"


@settings(max_examples=60, deadline=None)
@given(broken=st.sets(st.sampled_from(ORDER)))
def test_the_first_broken_limit_in_the_documented_order_wins(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, broken: set[str]
) -> None:
    tensor = 5 if "tensor_parallel" in broken else 4 if "kv_heads" in broken else 2
    pipeline = 9 if "pipeline_parallel" in broken else 3
    plan = plan_of(tensor_parallel=tensor, pipeline_parallel=pipeline, data_parallel=2, micro_batches=2)
    scenario = scenario_of(batch=7 if "batch" in broken else 8, context=2049 if "positions" in broken else 2048)
    chips = float(plan.chips) - (1.0 if "chips" in broken else 0.0)
    verdict = judge(model_of("gpt3-175b", **ODD), plan, scenario, chips)
    first = next((name for name in ORDER if name in broken), "")
    assert LIMITS[int(verdict.code)].name == first


@pytest.mark.parametrize(
    ("plan_fields", "scenario_fields", "limit", "shortfall"),
    [
        ({"tensor_parallel": 16, "pipeline_parallel": 3}, {}, "chips", 40.0),  # 48 chips, 8 are there
        ({"tensor_parallel": 5}, {}, "tensor_parallel", 4.0),  # 24 = 4 x 5 + 4
        ({"tensor_parallel": 4}, {}, "kv_heads", 2.0),  # 6 = 4 + 2
        ({"pipeline_parallel": 6}, {}, "pipeline_parallel", 2.0),  # four layers
        ({"data_parallel": 2, "micro_batches": 3}, {"batch": 64}, "batch", 4.0),  # 64 = 10 x 6 + 4
        ({}, {"context": 3000}, "positions", 952.0),  # 3000 - 2048
        ({}, {}, "", 0.0),
    ],
)
def test_shortfalls_by_hand(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    plan_fields: dict[str, int],
    scenario_fields: dict[str, int],
    limit: str,
    shortfall: float,
) -> None:
    model = model_of("gpt3-175b", **ODD)
    verdict = judge(model, plan_of(**plan_fields), scenario_of(**scenario_fields), 8)
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == (limit, shortfall)


@pytest.mark.parametrize("tensor", [1, 2, 4, 8, 16, 32, 64])
def test_degrees_that_divide_or_multiply_the_key_value_heads_are_legal(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, tensor: int
) -> None:
    assert int(judge(model_of(), plan_of(tensor_parallel=tensor), scenario_of(), 64).code) == 0


def test_the_feed_forward_width_must_divide_too(model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf) -> None:
    verdict = judge(model_of(ffn=28673), plan_of(tensor_parallel=8), scenario_of(), 8)
    assert (int(verdict.code), float(verdict.shortfall)) == (CODES["tensor_parallel"], 1.0)


@pytest.mark.parametrize(
    ("name", "phase", "fields", "limit"),
    [
        ("gpt3-175b", "decode", {"context": 100, "capacity": 4096}, "positions"),
        ("gpt3-175b", "prefill", {"context": 100, "capacity": 4096}, ""),  # only the prompt has positions yet
        ("gpt3-175b", "prefill", {"context": 4096}, "positions"),
        ("llama-3.1-70b", "decode", {"context": 131_072}, ""),  # max_positions of the model
        ("llama-3.1-70b", "decode", {"context": 131_073}, "positions"),
    ],
)
def test_positions_end_where_the_model_does(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    name: str,
    phase: str,
    fields: dict[str, int],
    limit: str,
) -> None:
    verdict = judge(model_of(name), plan_of(), scenario_of(**fields), 8, phase)
    assert LIMITS[int(verdict.code)].name == limit


def test_each_point_has_its_own_verdict(model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf) -> None:
    plan = plan_of(tensor_parallel=[8, 7, 16, 8, 1], pipeline_parallel=[1, 1, 1, 90, 1])
    verdict = judge(model_of(), plan, scenario_of(), 720)
    names = [LIMITS[code].name for code in verdict.code]
    assert names == ["", "tensor_parallel", "", "pipeline_parallel", ""]
    np.testing.assert_array_equal(verdict.shortfall, [0.0, 1.0, 0.0, 10.0, 0.0])  # 64 % 7, 90 - 80


def test_merging_keeps_what_was_broken_before() -> None:
    first = merged(fine(), "chips", array([0.0, 3.0, 0.0]))
    both = merged(first, "memory", array([5.0, 7.0, -1.0]))
    assert both.code.tolist() == [CODES["memory"], CODES["chips"], 0]
    assert both.shortfall.tolist() == [5.0, 3.0, 0.0]


def test_merging_spreads_a_scalar_over_the_points() -> None:
    broken = merged(merged(fine(), "chips", array(2.0)), "memory", array([1.0, 1.0]))
    assert broken.code.tolist() == [CODES["chips"]] * 2
    np.testing.assert_array_equal(broken.shortfall, [2.0, 2.0])


def test_reaching_a_limit_exactly_is_within_it() -> None:
    assert int(merged(fine(), "memory", array(0.0)).code) == 0


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(KeyError, match="humidity"):
        merged(fine(), "humidity", array(1.0))


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 12),
    ratio=st.integers(1, 6),
    ffn=st.sampled_from([96, 120, 210]),
    layers=st.integers(1, 12),
    chips=st.integers(1, 48),
)
def test_legal_plans_are_those_that_brute_force_finds(
    model_of: ModelOf, groups: int, ratio: int, ffn: int, layers: int, chips: int
) -> None:
    def fits(tensor: int, pipeline: int) -> bool:
        shares = groups % tensor == 0 or tensor % groups == 0
        return (groups * ratio) % tensor == 0 and ffn % tensor == 0 and shares and pipeline <= layers

    every = range(1, chips + 1)
    expected = [(t, p, d) for t in every for p in every for d in every if t * p * d == chips and fits(t, p)]
    model = model_of(kv_heads=groups, heads=groups * ratio, ffn=ffn, layers=layers)
    assert legal_plans(model, chips) == expected


def test_legal_plans_of_llama_70b_on_one_node(model_of: ModelOf) -> None:
    plans = legal_plans(model_of(), 8)
    assert plans == [
        (1, 1, 8), (1, 2, 4), (1, 4, 2), (1, 8, 1), (2, 1, 4), (2, 2, 2), (2, 4, 1), (4, 1, 2), (4, 2, 1), (8, 1, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("chips", [8, 12, 30])
def test_legal_plans_and_limits_agree(model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, chips: int) -> None:
    every = [(t, p, chips // (t * p)) for t in divisors(chips) for p in divisors(chips // t)]
    tensor, pipeline, data = np.array(every, dtype=float).T
    fields: dict[str, Any] = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": data}
    verdict = judge(model_of(layers=4), plan_of(**fields), scenario_of(batch=chips), chips)
    passed = [plan for plan, code in zip(every, verdict.code, strict=True) if code == 0]
    assert legal_plans(model_of(layers=4), chips) == passed


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 3000))
def test_divisors_come_in_pairs_and_rise(number: int) -> None:
    found = divisors(number)
    assert [number // d for d in reversed(found)] == found
    assert found == sorted(set(found))
    assert found[0] == 1


def test_360_has_24_divisors() -> None:
    assert len(divisors(360)) == 24  # 2^3 x 3^2 x 5: 4 x 3 x 2


@pytest.mark.parametrize(
    ("plan_fields", "global_batch", "limit", "shortfall"),
    [
        ({"pipeline_parallel": 8, "virtual_pipeline": 3, "micro_batches": 16}, 16, "", 0.0),
        ({"pipeline_parallel": 8, "virtual_pipeline": 5, "micro_batches": 16}, 16, "", 0.0),  # 96 over 40: uneven
        ({"pipeline_parallel": 14, "virtual_pipeline": 7, "micro_batches": 14}, 14, "", 0.0),  # 98: the ends take two
        ({"pipeline_parallel": 10, "virtual_pipeline": 10, "micro_batches": 20}, 20, "virtual_pipeline", 2.0),  # 100
        ({"pipeline_parallel": 8, "virtual_pipeline": 3, "micro_batches": 20}, 20, "virtual_pipeline", 4.0),  # 20 % 8
        ({"pipeline_parallel": 7, "micro_batches": 20}, 20, "", 0.0),  # one piece a stage: neither must divide
        (
            {"virtual_pipeline": 2, "micro_batches": 4},
            4,
            "virtual_pipeline",
            1.0,
        ),  # one stage has nothing to interleave
        ({"data_parallel": 8, "micro_batch": 3}, 100, "batch", 4.0),  # 100 % 24
        ({"data_parallel": 8, "micro_batch": 3}, 96, "", 0.0),
        ({"micro_batches": 7}, 4, "", 0.0),  # derived, not asked
    ],
)
def test_limits_of_training_by_hand(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    plan_fields: dict[str, int],
    global_batch: int,
    limit: str,
    shortfall: float,
) -> None:
    plan, scenario = plan_of(**plan_fields), scenario_of(global_batch=global_batch, batch=1)
    verdict = judge(model_of("gpt3-175b"), plan, scenario, 512, "train")
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == (limit, shortfall)


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 48),
    pipeline=st.integers(1, 8),
    virtual=st.integers(1, 4),
    data=st.integers(1, 6),
    micro_batch=st.integers(1, 6),
    micro_batches=st.integers(1, 24),
    left=st.integers(0, 3),
)
def test_training_plans_that_divide_are_legal_and_no_others(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    layers: int,
    pipeline: int,
    virtual: int,
    data: int,
    micro_batch: int,
    micro_batches: int,
    left: int,
) -> None:
    fields = {"pipeline_parallel": pipeline, "virtual_pipeline": virtual, "data_parallel": data}
    plan = plan_of(**fields, micro_batch=micro_batch, micro_batches=micro_batches)
    scenario = scenario_of(global_batch=data * micro_batch * micro_batches + left)
    verdict = judge(model_of("gpt3-175b", layers=layers), plan, scenario, 512, "train")
    broken = [
        ("pipeline_parallel", pipeline > layers + 2),
        (
            "virtual_pipeline",
            virtual > 1 and (pipeline == 1 or pipeline * virtual > layers + 2 or bool(micro_batches % pipeline)),
        ),
        ("batch", bool((data * micro_batch * micro_batches + left) % (data * micro_batch))),
    ]
    assert LIMITS[int(verdict.code)].name == next((name for name, breaks in broken if breaks), "")
    assert (float(verdict.shortfall) > 0.0) == (int(verdict.code) > 0)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_what_only_training_asks_is_not_asked_of_serving(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, phase: str
) -> None:
    plan = plan_of(virtual_pipeline=5, micro_batch=7, micro_batches=2)
    assert int(judge(model_of(), plan, scenario_of(batch=4, global_batch=3), 8, phase).code) == 0


# 24 heads of a mixture of 12 experts: degrees 1, 2, 3, 4, 6, 12 may share them out.
TWELVE = {"heads": 24, "kv_heads": 24, "ffn": 960, "experts": 12, "experts_per_token": 2, "expert_ffn": 48}


@pytest.mark.parametrize(
    ("plan_fields", "limit", "shortfall"),
    [
        ({"expert_parallel": 5, "data_parallel": 5}, "expert_parallel", 2.0),  # 12 = 2 x 5 + 2
        ({"expert_parallel": 24, "data_parallel": 24}, "expert_parallel", 12.0),  # more ranks than experts
        ({"expert_parallel": 12, "data_parallel": 6}, "expert_parallel", 6.0),  # six ranks for twelve
        ({"expert_parallel": 4, "tensor_parallel": 2, "data_parallel": 3}, "expert_parallel", 2.0),  # 6 = 4 + 2
        ({"expert_parallel": 6, "tensor_parallel": 4, "data_parallel": 3}, "expert_parallel", 2.0),  # 6 = 4 + 2
        ({"expert_parallel": 6, "tensor_parallel": 2, "data_parallel": 3}, "", 0.0),
        ({"expert_parallel": 12, "data_parallel": 12}, "", 0.0),
        ({"expert_parallel": 2, "tensor_parallel": 8}, "", 0.0),  # each expert over four ranks
        ({"expert_parallel": 3, "tensor_parallel": 12}, "", 0.0),
        ({"expert_parallel": 2, "pipeline_parallel": 2}, "expert_parallel", 1.0),  # stages share no experts
        ({"expert_parallel": 5, "pipeline_parallel": 81}, "expert_parallel", 2.0),  # before the stages
        ({"expert_parallel": 5, "tensor_parallel": 7}, "tensor_parallel", 3.0),  # after the heads: 24 = 3 x 7 + 3
    ],
)
def test_shortfalls_of_expert_parallelism_by_hand(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    plan_fields: dict[str, int],
    limit: str,
    shortfall: float,
) -> None:
    plan = plan_of(**plan_fields)
    model = model_of("mixtral-8x7b", **TWELVE)
    verdict = judge(model, plan, scenario_of(batch=int(plan.data)), 1000)
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == (limit, shortfall)


@pytest.mark.parametrize(("expert", "shortfall"), [(1, 0.0), (2, 1.0), (8, 7.0)])
def test_a_dense_model_has_no_experts_to_share_out(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, expert: int, shortfall: float
) -> None:
    verdict = judge(model_of(), plan_of(tensor_parallel=8, expert_parallel=expert), scenario_of(), 8)
    assert LIMITS[int(verdict.code)].name == ("expert_parallel" if shortfall else "")
    assert float(verdict.shortfall) == shortfall


@pytest.mark.parametrize(
    ("expert", "limit", "shortfall"),
    [(1, "tensor_parallel", 4.0), (2, "", 0.0), (4, "", 0.0)],  # 44 = 5 x 8 + 4 = 11 x 4 = 22 x 2
)
def test_ranks_that_share_an_expert_must_divide_its_width(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, expert: int, limit: str, shortfall: float
) -> None:
    model = model_of("mixtral-8x7b", **{**TWELVE, "expert_ffn": 44})
    verdict = judge(model, plan_of(tensor_parallel=8, expert_parallel=expert), scenario_of(), 8)
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == (limit, shortfall)


def test_each_point_has_its_own_expert_degree(model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf) -> None:
    plan = plan_of(tensor_parallel=8, data_parallel=4, expert_parallel=[1, 8, 32, 64, 256])
    verdict = judge(model_of("deepseek-v3"), plan, scenario_of(batch=4), 32)
    names = [LIMITS[code].name for code in verdict.code]
    assert names == ["", "", "", "expert_parallel", "expert_parallel"]
    np.testing.assert_array_equal(verdict.shortfall, [0.0, 0.0, 0.0, 32.0, 32.0])  # 32 ranks for more


@settings(max_examples=80, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    data=st.integers(1, 16),
    experts=st.integers(2, 64),
    width=st.sampled_from([24, 36, 40, 48]),
)
def test_expert_degrees_are_those_that_break_no_limit(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    tensor: int,
    data: int,
    experts: int,
    width: int,
) -> None:
    model = model_of("mixtral-8x7b", **{**TWELVE, "experts": experts, "expert_ffn": width})
    every = np.arange(1, tensor * data + 1)
    plan = plan_of(tensor_parallel=tensor, data_parallel=data, expert_parallel=every)
    verdict = judge(model, plan, scenario_of(batch=data), tensor * data)
    codes = np.broadcast_to(verdict.code, every.shape)
    assert expert_degrees(model, tensor, data) == every[codes == 0].tolist()


@pytest.mark.parametrize(
    ("name", "tensor", "data", "degrees"),
    [
        ("llama-3.1-70b", 8, 4, [1]),
        ("mixtral-8x7b", 8, 1, [1, 2, 4, 8]),
        ("mixtral-8x7b", 1, 32, [1, 2, 4, 8]),  # no more than experts
        ("deepseek-v3", 8, 4, [1, 2, 4, 8, 16, 32]),
        ("deepseek-v3", 8, 3, [1, 2, 4, 8]),  # 24 ranks would need a degree of 16
        ("gpt-oss-120b", 1, 6, [1, 2]),
    ],
)
def test_expert_degrees_by_hand(model_of: ModelOf, name: str, tensor: int, data: int, degrees: list[int]) -> None:
    assert expert_degrees(model_of(name), tensor, data) == degrees


@pytest.mark.parametrize(
    ("fields", "limit", "shortfall"),
    [
        ({"data_parallel": 8}, "", 0.0),
        ({"tensor_parallel": 2, "data_parallel": 4}, "network", 1.0),
        ({"pipeline_parallel": 4}, "network", 3.0),
        ({"data_parallel": 8, "expert_parallel": 8}, "network", 7.0),
        ({"data_parallel": 16}, "chips", 8.0),
        ({"data_parallel": 3}, "batch", 1.0),
    ],
)
def test_a_network_is_whole_on_every_chip(
    plan_of: PlanOf, scenario_of: ScenarioOf, fields: dict[str, int], limit: str, shortfall: float
) -> None:
    net = lower_workload(Varied(load_workload("resnet-50")))
    verdict = divisibility(plan_of(**fields), scenario_of(batch=64), net, array(8.0), "prefill")
    assert (LIMITS[int(verdict.code)].name, float(np.nan_to_num(verdict.shortfall))) == (limit, shortfall)
    assert legal_plans(net, 8) == [(1, 1, 8)]
    assert expert_degrees(net, 1, 8) == [1]


def test_positions_of_a_network_end_where_it_says(plan_of: PlanOf, scenario_of: ScenarioOf) -> None:
    for name, broken in (("bert-large", "positions"), ("mamba2-2.7b", "")):
        net = lower_workload(Varied(load_workload(name)))
        verdict = divisibility(plan_of(), scenario_of(context=513), net, array(8.0), "prefill")
        assert LIMITS[int(verdict.code)].name == broken


@pytest.mark.parametrize(
    ("tensor", "data", "expert", "width", "limit", "shortfall"),
    [
        (8, 1, 4, 1, "", 0.0),  # two copies of every expert inside the tensor group
        (8, 1, 4, 2, "", 0.0),
        (8, 1, 4, 4, "expert_parallel", 8.0),  # sixteen ranks of eight
        (1, 16, 4, 4, "", 0.0),
        (4, 3, 6, 2, "", 0.0),  # neither of 4 and 6 divides the other: slices of tokens need not be whole groups
        (8, 1, 1, 5, "expert_parallel", 3.0),  # 8 = 5 + 3, and 48 = 9 x 5 + 3
        (1, 32, 1, 32, "expert_parallel", 16.0),  # 48 = 32 + 16
        (8, 1, 5, 1, "expert_parallel", 3.0),  # 8 = 5 + 3, 12 = 2 x 5 + 2
    ],
)
def test_shortfalls_of_an_asked_width_of_experts_by_hand(
    model_of: ModelOf,
    plan_of: PlanOf,
    scenario_of: ScenarioOf,
    tensor: int,
    data: int,
    expert: int,
    width: int,
    limit: str,
    shortfall: float,
) -> None:
    degrees = {"tensor_parallel": tensor, "data_parallel": data, "expert_parallel": expert}
    plan = plan_of(**degrees, expert_tensor_parallel=width)
    verdict = judge(model_of("mixtral-8x7b", **TWELVE), plan, scenario_of(batch=data), 1000)
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == (limit, shortfall)


def test_the_plans_of_deepseek_and_megatron_are_both_legal(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf
) -> None:
    deepseek = plan_of(tensor_parallel=1, data_parallel=64, expert_parallel=64, expert_tensor_parallel=1)
    megatron = plan_of(tensor_parallel=8, expert_parallel=8, expert_tensor_parallel=1)
    for model, plan in (("deepseek-v3", deepseek), ("mixtral-8x7b", megatron)):
        assert int(judge(model_of(model), plan, scenario_of(batch=64), 64).code) == 0


def test_a_dense_model_has_no_width_of_experts(model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf) -> None:
    verdict = judge(model_of(), plan_of(tensor_parallel=8, expert_tensor_parallel=4), scenario_of(), 8)
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == ("expert_parallel", 3.0)


@settings(max_examples=60, deadline=None)
@given(tensor=st.sampled_from([1, 2, 4, 8]), data=st.integers(1, 12), width=st.integers(1, 12))
def test_expert_degrees_of_an_asked_width_are_the_legal_ones(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, tensor: int, data: int, width: int
) -> None:
    model = model_of("mixtral-8x7b", **TWELVE)
    tried = list(range(1, 13))
    degrees = {"tensor_parallel": tensor, "data_parallel": data, "expert_tensor_parallel": width}
    plan = plan_of(**degrees, expert_parallel=[float(degree) for degree in tried])
    verdict = judge(model, plan, scenario_of(batch=data), 1000)
    legal = [degree for degree, code in zip(tried, verdict.code, strict=True) if code == 0]
    assert expert_degrees(model, tensor, data, width) == legal


DELTA = {"layers": 2, "key_heads": 4, "value_heads": 12, "key_dim": 8, "value_dim": 16}


@pytest.mark.parametrize(
    ("tensor", "limit", "shortfall"),
    [
        (1, "", 0.0),
        (4, "", 0.0),
        (12, "", 0.0),  # three ranks to a head of keys
        (8, "tensor_parallel", 4.0),  # 12 = 8 + 4 heads of values
        (6, "kv_heads", 2.0),  # 6 = 4 + 2 heads of keys
    ],
)
def test_heads_of_linear_attention_divide_as_those_of_attention(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, tensor: int, limit: str, shortfall: float
) -> None:
    model = model_of("gpt3-175b", heads=24, kv_heads=24, ffn=960, layers=4, dropout=False, delta=DELTA)
    verdict = judge(model, plan_of(tensor_parallel=tensor), scenario_of(), 64)
    assert (LIMITS[int(verdict.code)].name, float(verdict.shortfall)) == (limit, shortfall)
    assert (tensor in {degree for degree, _, _ in legal_plans(model, 24)}) == (not limit)


def test_plans_of_a_hybrid_divide_the_heads_of_its_mixers(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf
) -> None:
    mamba = {"pattern": "M*M-", "heads": 6, "head_dim": 8, "state": 16}
    fields = {"heads": 24, "kv_heads": 24, "ffn": 960, "layers": 4, "gated": False, "position": "none"}
    model = model_of("gpt3-175b", **fields, tied_embeddings=False, dropout=False, mamba=mamba)
    found = {tensor for tensor, _, _ in legal_plans(model, 24)}
    assert found == {1, 2, 3, 6}
    for tensor in (1, 2, 3, 4, 6, 8, 12):
        verdict = judge(model, plan_of(tensor_parallel=tensor), scenario_of(), 64)
        assert (int(verdict.code) == 0) == (tensor in found)


@pytest.mark.parametrize(
    ("tensor", "ffn", "broken"),
    [
        (16, 3840, ("tensor_parallel", "tensor_parallel", "")),
        (4, 960, ("kv_heads", "kv_heads", "")),
        (3, 970, ("tensor_parallel", "", "tensor_parallel")),
        (9, 960, ("tensor_parallel", "tensor_parallel", "tensor_parallel")),
        (2, 960, ("", "", "")),
    ],
)
def test_a_side_is_asked_for_what_it_holds(
    model_of: ModelOf, plan_of: PlanOf, scenario_of: ScenarioOf, tensor: int, ffn: int, broken: tuple[str, ...]
) -> None:
    odd, plan, one = model_of("gpt3-175b", **{**ODD, "ffn": ffn}), plan_of(tensor_parallel=tensor), scenario_of(batch=1)
    sides: tuple[Side, ...] = ("whole", "attention", "feed_forward")
    found = [divisibility(plan, one, odd, array(64.0), "serve", side) for side in sides]
    assert tuple(LIMITS[int(verdict.code)].name for verdict in found) == broken
