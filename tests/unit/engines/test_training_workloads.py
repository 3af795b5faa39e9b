"""Steps of networks, encoders and hybrids: FLOP, memory by hand, tables of the replicas, and the events."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.engines.train_events import simulate_training
from cosim.engines.training import passes, with_micro_batches
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.schema import validated
from cosim.workload.graph import parameters
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.model import ModelArrays
from cosim.workload.network import Network, lower_network

LAYERS: list[dict[str, Any]] = [
    {"name": "a", "kind": "conv", "inputs": 4, "outputs": 8, "kernel": 3, "height": 16, "norm": True},
    {"name": "b", "kind": "conv", "count": 3, "inputs": 8, "outputs": 8, "kernel": 3, "height": 16, "norm": True},
    {"name": "c", "kind": "pool", "channels": 8, "height": 16, "kernel": 16, "padding": "none"},
    {"name": "d", "kind": "linear", "inputs": 8, "outputs": 10},
]
TABLE = {"name": "t", "kind": "gather", "lookups": 32, "width": 64, "table_rows": 1_000_000, "outputs": 4}


def network(*layers: Mapping[str, Any]) -> ModelArrays:
    about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "i", "layers": [*layers]}
    return lower_network(Varied(validated(Network, about)))


@functools.cache
def shipped(name: str) -> ModelArrays:
    return lower_workload(Varied(load_workload(name)))


@functools.cache
def machine() -> SystemArrays:
    ample = {"nodes": 8, "chip.power.limit": 1e6, "chip.memory.dram.capacity": "1000 TB"}
    system = lower_system(vary_system(Varied(load_system("dgx-h100")), ample))
    return replace(system, chip=replace(system.chip, collective_cores=array(0.0)))


def case_of(model: ModelArrays, context: int = 512, **fields: Any) -> Case:
    asked = {"global_batch": fields.pop("global_batch", 64), "context": context}
    software = lower_software(load_software(fields.pop("software", "megatron")))
    plan, scenario = lower_plan(vary(Varied(Plan()), fields)), lower_scenario(vary(Varied(Scenario()), asked))
    return Case("train", machine(), model, plan, scenario, software)


def flop(ops: Any) -> float:
    return float(sum((2.0 * op.count * op.batch * op.m * op.n * op.k for op in ops), array(0.0)))


@pytest.mark.parametrize(
    "name",
    ["resnet-50", "vit-base-patch16", "dit-xl-2", "dlrm", "mamba2-2.7b", "bert-large-pretraining", "nemotron-h-56b"],
)
def test_gradients_take_twice_the_products_of_the_forward_pass(name: str) -> None:
    every = passes(with_micro_batches(case_of(shipped(name))))
    assert flop(every.gradients.matmuls) == pytest.approx(2.0 * flop(every.forward.matmuls), rel=1e-9)
    assert len(every.gradients.attentions) == len(every.forward.attentions)


@settings(max_examples=40, deadline=None)
@given(stride=st.integers(1, 4), kernel=st.integers(1, 7), side=st.integers(4, 40), groups=st.sampled_from([1, 2, 4]))
def test_gradients_of_a_convolution_move_each_tensor_once(stride: int, kernel: int, side: int, groups: int) -> None:
    layer = {**LAYERS[1], "stride": stride, "kernel": kernel, "height": side, "groups": groups, "count": 1}
    every = passes(with_micro_batches(case_of(network(layer), data_parallel=1, micro_batch=2, global_batch=2)))
    (forward,) = every.forward.matmuls
    into, weight = every.gradients.matmuls
    out = -(-side // stride)
    # Into: every place of the input, from each number of the output's gradient once.
    assert float(into.m * into.n * into.batch) == pytest.approx(2 * side * side * 8)
    assert float(into.m * into.k * into.batch * into.distinct) == pytest.approx(2 * out * out * 8)
    assert float(weight.m * weight.n * weight.batch) == pytest.approx(8 * 8 * kernel * kernel / groups)
    read = min(side * side / (out * out), kernel * kernel) * out * out
    assert float(weight.m * weight.k * weight.batch * weight.distinct) == pytest.approx(2 * read * 8)
    assert float(forward.m) == 2 * out * out


def test_memory_of_a_small_network_by_hand() -> None:
    model = network(*LAYERS)
    result = evaluate(case_of(model, data_parallel=4, micro_batch=16, global_batch=64, zero=1))
    numbers = (4 * 8 * 9 + 16) + 3 * (8 * 8 * 9 + 16) + (8 * 10 + 10)
    assert float(parameters(model)) == numbers
    held = {name: float(values[0]) for name, values in result.memory.items()}
    assert (held["weights"], held["gradients"], held["optimizer"]) == (2 * numbers, 4 * numbers, 12 * numbers / 4)
    # Inputs of products and of norms at 16 bits, a byte a result of the pooling.
    each = 2 * 256 * (4 + 8) + 3 * 2 * 256 * (8 + 8) + 8 + 2 * 8
    assert held["activations"] == 16 * each


def test_a_table_that_is_shared_out_has_no_dense_gradient() -> None:
    plain, shared = (
        evaluate(case_of(network(*LAYERS, {**TABLE, "sharded": sharded}), data_parallel=8, global_batch=64))
        for sharded in (False, True)
    )
    numbers = 64_000_000
    for kind, each in (("weights", 2), ("optimizer", 12)):
        more = float(plain.memory[kind][0] - shared.memory[kind][0])
        assert more == pytest.approx(each * numbers * (1 - 1 / 8))
    assert float(plain.memory["gradients"][0] - shared.memory["gradients"][0]) == pytest.approx(4 * numbers)
    assert shared.breakdown["collective"][0] > 0.0 == plain.breakdown["collective"][0]
    assert shared.breakdown["optimizer"][0] < plain.breakdown["optimizer"][0] / 100


def test_rows_in_hand_are_updated_with_their_state() -> None:
    case = with_micro_batches(case_of(network({**TABLE, "sharded": True}), data_parallel=8, micro_batch=8))
    (gather,) = passes(case).forward.vectors
    (scatter,) = passes(case).gradients.vectors
    rows = 8 * 32 * 64
    assert float(gather.gathered_bytes) == 2 * rows
    assert float(scatter.write_bytes) == (2 + 12) * rows
    assert float(scatter.read_bytes) == (2 + 12) * rows + float(gather.write_bytes)


@pytest.mark.parametrize("name", ["resnet-50", "bert-large", "dlrm", "mamba2-2.7b", "bert-large-pretraining"])
@pytest.mark.parametrize(("data", "zero"), [(1, 0), (8, 0), (64, 1), (16, 2)])
@pytest.mark.parametrize("software", ["megatron", "megatron-2022"])
def test_a_step_as_events_takes_the_time_of_the_closed_form(name: str, data: int, zero: int, software: str) -> None:
    fields = {"data_parallel": data, "zero": zero, "micro_batch": 4, "global_batch": 16 * data, "software": software}
    case = case_of(shipped(name), **fields)
    result = evaluate(case)
    assert result.feasible[0]
    assert simulate_training(case).time_s == pytest.approx(float(result.time[0]), rel=5e-3)


@pytest.mark.parametrize(("tensor", "pipeline", "expert"), [(1, 1, 8), (2, 2, 4), (8, 1, 1), (1, 4, 2)])
def test_a_hybrid_as_events_takes_the_time_of_the_closed_form(tensor: int, pipeline: int, expert: int) -> None:
    model = shipped("nemotron-3-nano-30b-a3b")
    fields = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": 8, "expert_parallel": expert}
    case = case_of(replace(model, kv_heads=array(8.0)), global_batch=128, sequence_parallel=True, **fields)
    result = evaluate(case)
    assert result.feasible[0]
    assert simulate_training(case).time_s == pytest.approx(float(result.time[0]), rel=5e-3)


@settings(max_examples=20, deadline=None)
@given(data=st.sampled_from([1, 2, 8]), micro=st.integers(1, 64), name=st.sampled_from(["resnet-50", "dlrm"]))
def test_items_a_second_rise_no_faster_than_replicas(data: int, micro: int, name: str) -> None:
    one, many = (
        evaluate(case_of(shipped(name), data_parallel=k, micro_batch=micro, global_batch=k * micro)) for k in (1, data)
    )
    # A replica's share of a table is smaller, and nothing else gets cheaper.
    assert float(many.time[0]) >= float(one.time[0]) * (1 - 1e-9)
    assert float(one.tokens[0]) == micro


def test_points_of_a_batch_are_points_alone() -> None:
    fields = {"data_parallel": [1, 8, 16], "micro_batch": [1, 2, 4], "global_batch": [4, 32, 128]}
    together = evaluate(case_of(shipped("resnet-50"), zero=1, **fields))
    for index in range(3):
        own = {name: values[index] for name, values in fields.items()}
        alone = evaluate(case_of(shipped("resnet-50"), zero=1, **own))
        assert together.time[index] == pytest.approx(float(alone.time[0]), rel=1e-12)
        assert together.memory["total"][index] == pytest.approx(float(alone.memory["total"][0]), rel=1e-12)


def test_tensor_ranks_divide_the_heads_of_a_mixer() -> None:
    model = shipped("nemotron-h-56b")
    assert model.mamba is not None
    odd = replace(model, mamba=replace(model.mamba, heads=array(250.0)))
    codes = [int(evaluate(case_of(m, tensor_parallel=8, global_batch=8)).verdict.code[0]) for m in (model, odd)]
    assert codes[0] == 0 < codes[1]
    assert np.isfinite(codes).all()
