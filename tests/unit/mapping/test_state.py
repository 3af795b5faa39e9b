"""State of an optimizer op by op: master weight, tensors, means of rows and columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.device import DeviceGraph
from cosim.mapping.optimizers import optimized
from cosim.mapping.plan import PlanArrays
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays, load_software
from cosim.mapping.stages import Stages, stages
from cosim.mapping.state import is_matrix, matrices_of, stage_state, touched
from cosim.mapping.weights import owners, stage_parameters
from cosim.records import array
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
MODELS = st.sampled_from(["llama-3.1-8b", "gpt3-175b", "mixtral-8x7b", "deepseek-v3", "qwen3-235b-a22b"])


def held(model: ModelArrays, plan: PlanArrays) -> tuple[DeviceGraph, Stages]:
    graph = training_graph(model, array(1.0), array(512.0), fused=True)
    return shard(graph, plan), stages(model.layers, plan.pipeline, model.dense_layers)


def stack(name: str | None, software: str = "megatron") -> SoftwareArrays:
    return optimized(load_software(software), name)


def whole(model: ModelArrays, plan: PlanArrays, name: str | None) -> float:
    """Bytes of state on all stages of one rank, nothing shared out."""
    device, stage = held(model, plan)
    state = stage_state(device, stage, stack(name))
    return float((stage.count * (state.shared + state.routed)).sum())


def numbers(model: ModelArrays, plan: PlanArrays) -> float:
    device, stage = held(model, plan)
    own = stage_parameters(device, stage)
    return float((stage.count * (own.shared + own.routed)).sum())


@settings(max_examples=30, deadline=None)
@given(name=MODELS, tensor=st.sampled_from([1, 2, 4]), pipeline=st.sampled_from([1, 2, 4]))
def test_without_matrices_of_its_own_kind_state_is_in_proportion_to_parameters(
    model_of: ModelOf, plan_of: PlanOf, name: str, tensor: int, pipeline: int
) -> None:
    model, plan = model_of(name), plan_of(tensor_parallel=tensor, pipeline_parallel=pipeline)
    count = numbers(model, plan)
    for optimizer, each in ((None, 12), ("adamw", 12), ("lamb", 12), ("sgd-momentum", 8), ("sgd", 4)):
        assert whole(model, plan, optimizer) == pytest.approx(each * count, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(name=MODELS, tensor=st.sampled_from([1, 2, 4]), pipeline=st.sampled_from([1, 2]))
def test_adafactor_is_the_master_weight_and_next_to_nothing(
    model_of: ModelOf, plan_of: PlanOf, name: str, tensor: int, pipeline: int
) -> None:
    model, plan = model_of(name), plan_of(tensor_parallel=tensor, pipeline_parallel=pipeline)
    master = 4.0 * numbers(model, plan)
    assert master < whole(model, plan, "adafactor") < 1.01 * master


@settings(max_examples=30, deadline=None)
@given(name=MODELS, pipeline=st.sampled_from([1, 2]))
def test_muon_keeps_one_tensor_of_matrices_and_two_of_the_rest(
    model_of: ModelOf, plan_of: PlanOf, name: str, pipeline: int
) -> None:
    model, plan = model_of(name), plan_of(pipeline_parallel=pipeline)
    device, stage = held(model, plan)
    matrices = stage_parameters(device, stage, 1.0, lambda op: op.parameters * float(is_matrix(op)))
    in_matrices = float((stage.count * (matrices.shared + matrices.routed)).sum())
    assert whole(model, plan, "muon") == pytest.approx(12.0 * numbers(model, plan) - 4.0 * in_matrices, rel=1e-12)


def test_means_of_a_gpt_by_hand(model_of: ModelOf, plan_of: PlanOf) -> None:
    model = model_of("llama-3.1-8b", layers=1)
    plan = plan_of()
    h, kv, f, v = 4096, 2 * 8 * 128, 14336, 128256
    rows = (h + kv) + h + 2 * f + h
    columns = h + h + h + f
    norms = 2 * h + h
    embedding, head = v + h, v + h
    expected = 4.0 * numbers(model, plan) + 4.0 * (rows + columns + norms + embedding + head)
    assert whole(model, plan, "adafactor") == pytest.approx(expected, rel=1e-12)


def test_experts_have_a_matrix_each(model_of: ModelOf, plan_of: PlanOf) -> None:
    device, _ = held(model_of("mixtral-8x7b"), plan_of())
    found = {op.name: float(matrices_of(op)) for op in device.matmuls if is_matrix(op)}
    assert found == {"qkv": 1.0, "attention_out": 1.0, "router": 1.0, "expert_in": 8.0, "expert_out": 8.0}
    few, _ = held(model_of("mixtral-8x7b"), plan_of(tensor_parallel=4, expert_parallel=4))
    assert {op.name: float(matrices_of(op)) for op in few.matmuls if op.routed} == {"expert_in": 2.0, "expert_out": 2.0}


def test_a_bias_is_beside_its_matrix(model_of: ModelOf, plan_of: PlanOf) -> None:
    device, _ = held(model_of("gpt3-175b"), plan_of())
    assert {float(matrices_of(op)) for op in device.matmuls if is_matrix(op)} == {1.0}
    assert not any(is_matrix(op) for op in owners(device) if op.group in {"embed", "head"})


def test_adapters_alone_have_no_table(model_of: ModelOf, plan_of: PlanOf) -> None:
    device, stage = held(model_of("llama-3.1-8b"), plan_of())
    layers = DeviceGraph("train", tuple(op for op in device.matmuls if op.name == "qkv"), (), (), ())
    state = stage_state(layers, stage, stack("adafactor"))
    h, kv = 4096, 2048
    assert float(state.shared[0, 0]) == pytest.approx(32 * (4.0 * h * (h + kv) + 4.0 * (2 * h + kv)), rel=1e-12)


def test_reads_and_flop_are_the_rules(model_of: ModelOf, plan_of: PlanOf) -> None:
    device, stage = held(model_of("llama-3.1-8b"), plan_of())
    software = stack("adafactor")
    assert software.update is not None
    found = touched(device, stage, software.update)
    assert float(found.reads.shared[0, 0]) == 4.0 * float(found.numbers.shared[0, 0])
    assert float(found.flop.shared[0, 0]) == 12.0 * float(found.numbers.shared[0, 0])
