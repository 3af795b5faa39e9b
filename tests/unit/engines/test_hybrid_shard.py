"""States shared out by groups of replicas: between full sharding and plain replicas, in memory and traffic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case, device_graph, stage_classes
from cosim.engines.data_parallel import closing, layer_traffic
from cosim.engines.training import software_of, with_micro_batches
from cosim.mapping.legal import LIMITS
from cosim.mapping.placement import placed
from cosim.mapping.weights import group_parameters, stage_parameters
from cosim.timing.collective import all_gather, all_reduce

Train = Callable[..., Case]
DATA = st.sampled_from([1, 2, 4, 8, 16])
KINDS = ("weights", "gradients", "optimizer", "activations")


def run(train: Train, software: str = "megatron", **fields: object) -> Estimates:
    return evaluate(train(software, **{"global_batch": 64, **fields}))


def held(result: Estimates) -> list[float]:
    return [float(result.memory[kind][0]) for kind in KINDS]


@settings(max_examples=20, deadline=None)
@given(data=DATA, zero=st.integers(0, 3), context=st.sampled_from([1, 2]))
def test_a_shard_of_all_replicas_is_zero_itself(train: Train, data: int, zero: int, context: int) -> None:
    fields = {"data_parallel": data, "zero": zero, "context_parallel": context, "context": 1024}
    whole, all_of_them = run(train, **fields), run(train, **fields, shard=data * context)
    assert float(whole.time[0]) == float(all_of_them.time[0])
    assert float(whole.energy[0]) == float(all_of_them.energy[0])
    assert held(whole) == held(all_of_them)


@settings(max_examples=20, deadline=None)
@given(data=DATA, zero=st.integers(1, 3), software=st.sampled_from(["megatron", "megatron-2022"]))
def test_a_shard_of_one_is_plain_data_parallelism(train: Train, data: int, zero: int, software: str) -> None:
    plain = run(train, software, data_parallel=data)
    alone = run(train, software, data_parallel=data, zero=zero, shard=1)
    assert held(alone) == pytest.approx(held(plain), rel=1e-12)
    assert float(alone.time[0]) == pytest.approx(float(plain.time[0]), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(zero=st.integers(1, 3), shard=st.sampled_from([1, 2, 4, 8, 16]))
def test_memory_falls_with_the_ranks_that_share(train: Train, zero: int, shard: int) -> None:
    some, fewer = (run(train, data_parallel=16, zero=zero, shard=count) for count in (shard, max(shard // 2, 1)))
    assert all(a <= b for a, b in zip(held(some), held(fewer), strict=True))
    optimizer = float(some.memory["optimizer"][0]) * shard
    assert optimizer == pytest.approx(float(run(train).memory["optimizer"][0]), rel=1e-12)


def test_traffic_by_hand(train: Train) -> None:
    # 16 replicas of 4 tensor ranks on nodes of 8: groups of 2 replicas inside a node, 8 groups across.
    case = with_micro_batches(train(data_parallel=16, zero=3, shard=2, global_batch=64))
    sizes, system = case.system.sizes, case.system
    owned = stage_parameters(device_graph(case), stage_classes(case))
    inside = placed(case.plan.sharers, case.plan.tensor, sizes)
    across = placed(case.plan.replicas / 2.0, case.plan.tensor * 2.0, sizes)
    ends = closing(case, software_of(case), owned, stage_classes(case))
    shards = all_reduce(2.0 * owned.shared / 2.0, across, system)
    np.testing.assert_allclose(ends.reduce, shards.time, rtol=1e-12)
    np.testing.assert_allclose(ends.gather, 0.0)
    layer = group_parameters(device_graph(case))["layer"]
    gather, _, _ = layer_traffic(case, software_of(case), layer)
    np.testing.assert_allclose(gather, all_gather(2.0 * layer.shared, inside, system).time, rtol=1e-12)
    whole = with_micro_batches(train(data_parallel=16, zero=3, global_batch=64))
    assert float(np.max(layer_traffic(whole, software_of(whole), layer)[0])) > 2.0 * float(np.max(gather))


def test_experts_are_shared_by_their_own_copies(train: Train) -> None:
    fields = {"model": "mixtral-8x7b", "data_parallel": 8, "expert_parallel": 8, "zero": 1}
    states = [float(run(train, **fields, shard=shard).memory["optimizer"][0]) for shard in (1, 2, 4, 8)]
    # 32 ranks with 8 experts: 4 copies of each, which no more than 4 share.
    assert states == sorted(states, reverse=True)
    assert states[2] / states[3] < states[0] / states[1]


@pytest.mark.parametrize(("shard", "limit"), [(4, ""), (3, "shard"), (32, ""), (16, "")])
def test_groups_must_divide_the_replicas(train: Train, shard: int, limit: str) -> None:
    result = run(train, data_parallel=16, zero=3, shard=shard)
    assert LIMITS[int(result.verdict.code[0])].name == limit


def test_what_is_not_shared_asks_for_no_groups(train: Train) -> None:
    assert run(train, data_parallel=16, zero=0, shard=3).feasible.all()
