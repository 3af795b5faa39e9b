"""Memory of a training chip: saved tensors of the micro-batches in flight, and bytes a parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.memory import KINDS, Memory
from cosim.mapping.plan import PlanArrays
from cosim.mapping.shard import DeviceGraph, shard
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, stages
from cosim.mapping.training import (
    holdings,
    live_micro_batches,
    saved_bytes,
    stages_before,
    training_memory,
)
from cosim.mapping.weights import group_parameters, stage_parameters, stage_weights
from cosim.records import array
from cosim.workload.graph import parameters
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
SoftwareOf = Callable[..., SoftwareArrays]
RESERVED = array(2e9)


@dataclass(frozen=True)
class Held:
    """What a chip holds, and what that is counted from."""

    memory: Memory
    device: DeviceGraph
    stage: Stages
    plan: PlanArrays


Hold = Callable[..., Held]


@pytest.fixture(scope="session")
def hold(model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf) -> Hold:
    """Memory of GPT-3 in training with plan fields by name, sequences of 512 tokens."""

    def build(
        software: str = "megatron-2022", model: str = "gpt3-175b", dims: Any = None, length: float = 512, **fields: Any
    ) -> Held:
        network, plan, stack = model_of(model, **(dims or {})), plan_of(**fields), software_of(software)
        device = shard(training_graph(network, plan.micro_batch, array(length), fused=stack.fused), plan)
        stage = stages(network.layers, plan.pipeline)
        return Held(training_memory(device, stage, plan, stack, RESERVED), device, stage, plan)

    return build


def most_in_flight(stage: int, stages_: int, pieces: int, micro_batches: int) -> int:
    """Pieces of micro-batches that a stage holds at once, counted in the order in which it runs them."""
    total = micro_batches * pieces
    ahead = stages_ - stage - 1 if pieces == 1 else 2 * (stages_ - stage - 1) + (pieces - 1) * stages_
    warm = min(ahead, total)
    order = [1] * warm + [1, -1] * (total - warm) + [-1] * warm
    assert sum(order) == 0
    return int(np.max(np.cumsum(order)))


@settings(max_examples=60, deadline=None)
@given(pipeline=st.integers(1, 12), pieces=st.integers(1, 5), rounds=st.integers(1, 6), layers=st.integers(12, 60))
def test_micro_batches_in_flight_are_those_of_the_schedule_run_step_by_step(
    plan_of: PlanOf, pipeline: int, pieces: int, rounds: int, layers: int
) -> None:
    pieces = 1 if pipeline == 1 else pieces
    micro_batches = rounds if pieces == 1 else rounds * pipeline
    plan = plan_of(pipeline_parallel=pipeline, virtual_pipeline=pieces, micro_batches=micro_batches)
    stage = stages(array(layers), plan.pipeline)
    found = live_micro_batches(stage, plan)[:, 0]
    for place in np.flatnonzero(stage.count[:, 0] > 0.0):
        first = int(stages_before(stage)[place, 0])
        assert found[place] * pieces == pytest.approx(most_in_flight(first, pipeline, pieces, micro_batches), rel=1e-12)


def test_micro_batches_in_flight_by_hand(plan_of: PlanOf) -> None:
    # 8 stages: the first holds 8, or 8 + 7 / 3 with three pieces a stage; no more than there are.
    plan = plan_of(pipeline_parallel=[8, 8, 8, 1], virtual_pipeline=[1, 3, 1, 1], micro_batches=[64, 64, 5, 64])
    live = live_micro_batches(stages(array(96.0), plan.pipeline), plan)
    np.testing.assert_allclose(live[0], [8.0, 8.0 + 7.0 / 3.0, 5.0, 1.0])


@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 100), pipeline=st.integers(1, 100))
def test_stages_in_front_of_each_class_count_up_to_the_last(layers: int, pipeline: int) -> None:
    stage = stages(array(layers), array(pipeline))
    before = stages_before(stage)[:, 0]
    assert before[0] == 0.0
    assert before[3] == (pipeline - 1 if pipeline > 1 else 1)
    np.testing.assert_array_equal(before + stage.count[:, 0], [*before[1:], max(pipeline, 1)])


@pytest.mark.parametrize("name", ["gpt3-175b", "llama-3.1-70b", "qwen3-32b"])
@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
def test_one_chip_holds_every_parameter(hold: Hold, model_of: ModelOf, name: str, software: str) -> None:
    held = hold(software, name)
    total = float(parameters(model_of(name)))
    owned = stage_parameters(held.device, held.stage)
    assert (float(owned.shared[0, 0]), float(owned.routed[0, 0])) == (total, 0.0)
    assert float(owned.layers[0, 0]) == float(model_of(name).layers)
    assert float(held.memory.weights[0]) == 2.0 * total


@settings(max_examples=40, deadline=None)
@given(pipeline=st.integers(2, 16), layers=st.integers(16, 60), tied=st.booleans())
def test_stages_share_the_layers_and_a_tied_table_is_on_the_first_and_the_last(
    hold: Hold, model_of: ModelOf, pipeline: int, layers: int, tied: bool
) -> None:
    dims = {"layers": layers, "tied_embeddings": tied}
    held = hold(dims=dims, pipeline_parallel=pipeline)
    total = float(np.sum(held.stage.count * stage_parameters(held.device, held.stage).shared))
    table = 50257.0 * 12288 if tied else 0.0
    assert total == float(parameters(model_of("gpt3-175b", **dims))) + table


def test_parameters_of_a_layer_by_hand(hold: Hold) -> None:
    # 12 h^2 of products, 9 h of biases and 4 h of norms; norms and the biases of what is summed are on every rank
    h = 12288.0
    for tensor in (1, 2, 8):
        held = group_parameters(hold(tensor_parallel=tensor).device)["layer"]
        assert float(held.routed) == 0.0
        assert float(held.shared) == 12 * h * h / tensor + (3 + 4) * h / tensor + 2 * h + 4 * h


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "optimizer"),
    [(0, 1.0, 1.0, 1.0), (1, 1.0, 1.0, 1 / 8), (2, 1.0, 1 / 8, 1 / 8), (3, 1 / 8, 1 / 8, 1 / 8)],
)
@pytest.mark.parametrize(("software", "bytes_"), [("megatron-2022", (2, 2, 12)), ("megatron", (2, 4, 12))])
def test_data_ranks_share_out_what_the_zero_stage_says(
    hold: Hold,
    model_of: ModelOf,
    software: str,
    bytes_: tuple[float, float, float],
    zero: int,
    weights: float,
    gradients: float,
    optimizer: float,
) -> None:
    held = hold(software, data_parallel=8, zero=zero)
    total = float(parameters(model_of("gpt3-175b")))
    # The layer in hand and the next are whole under ZeRO 3.
    whole = 2.0 * float(group_parameters(held.device)["layer"].shared) * 2.0 if zero == 3 else 0.0
    expected = [each * total * share for each, share in zip(bytes_, (weights, gradients, optimizer), strict=True)]
    found = [float(part[0]) for part in (held.memory.weights, held.memory.gradients, held.memory.optimizer)]
    assert found == pytest.approx([expected[0] + whole, *expected[1:]], rel=1e-12)


FIELDS = st.fixed_dictionaries(
    {
        "tensor_parallel": st.sampled_from([1, 2, 4, 8]),
        "pipeline_parallel": st.sampled_from([1, 2, 4, 6]),
        "data_parallel": st.sampled_from([2, 4, 16]),
        "micro_batch": st.sampled_from([1, 2, 4]),
        "micro_batches": st.sampled_from([1, 6, 24]),
        "zero": st.integers(0, 3),
        "sequence_parallel": st.booleans(),
        "recompute": st.sampled_from(["none", "selective", "full"]),
    }
)
SOFTWARE = st.sampled_from(["megatron-2022", "megatron"])


def totals(hold: Hold, software: str, fields: dict[str, Any], name: str, values: list[Any]) -> list[float]:
    return [float(hold(software, **{**fields, name: value}).memory.total[0]) for value in values]


@settings(max_examples=40, deadline=None)
@given(software=SOFTWARE, fields=FIELDS)
def test_more_is_shared_out_and_less_is_held(hold: Hold, software: str, fields: dict[str, Any]) -> None:
    # Each stage has 16 layers at least: what ZeRO 3 gathers is less than what it shares out.
    for name, values in (
        ("zero", [0, 1, 2, 3]),
        ("tensor_parallel", [1, 2, 4, 8, 16]),
        ("sequence_parallel", [False, True]),
    ):
        found = totals(hold, software, fields, name, values)
        assert found == sorted(found, reverse=True), name
    for name in ("micro_batch", "micro_batches"):
        found = totals(hold, software, fields, name, [1, 2, 4, 8])
        assert found == sorted(found), name


@settings(max_examples=40, deadline=None)
@given(fields=FIELDS, software=SOFTWARE)
def test_the_more_is_computed_again_the_less_is_kept(hold: Hold, fields: dict[str, Any], software: str) -> None:
    found = totals(hold, software, fields, "recompute", ["none", "selective", "full"])
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("parallel", [True, False])
def test_full_recompute_keeps_inputs_and_one_layer(hold: Hold, parallel: bool) -> None:
    # 4 stages of 24 layers, 8 tensor ranks, sequences of 512: the first holds four micro-batches.
    fields = {"pipeline_parallel": 4, "tensor_parallel": 8, "micro_batches": 64, "sequence_parallel": parallel}
    none, full = (
        saved_bytes(held.device, held.stage, held.plan)
        for held in (hold(recompute=what, **fields) for what in ("none", "full"))
    )
    split = 8 if parallel else 1
    mask = 4 * 512 * 12288 / split  # of the embedding's dropout, a byte a number
    whole = (none[0, 0] - mask) / (4 * 24)
    kept = 2 * 512 * 12288 / split  # the layer's input, which is there already while the layer is computed again
    assert full[0, 0] == pytest.approx(4 * 24 * kept + (whole - kept) + mask, rel=1e-12)


def test_the_head_keeps_its_tensors_once_whatever_is_in_flight(hold: Hold) -> None:
    few, many = (hold(micro_batches=m, micro_batch=2) for m in (1, 64))
    assert float(few.memory.activations[0]) == float(many.memory.activations[0])  # one stage: one micro-batch lives
    # On the last of four stages nothing is in flight but the micro-batch that turns round.
    held = hold(pipeline_parallel=4, micro_batches=64)
    saved = saved_bytes(held.device, held.stage, held.plan)
    head = 512 * (2 * 12288 + 2 * 12288 + 4 * 50257)
    layer = 512 * (34 * 12288 + 5 * 96 * 512)
    assert saved[3, 0] == 24 * layer + head
    assert saved[0, 0] == 4 * (24 * layer + 512 * 12288)


def test_the_fullest_stage_is_the_one_that_counts(hold: Hold) -> None:
    for layers in (96, 97, 99, 5):
        held = hold(dims={"layers": layers}, pipeline_parallel=4, micro_batches=64)
        weights = 16.0 * stage_parameters(held.device, held.stage).shared
        every = weights + saved_bytes(held.device, held.stage, held.plan)
        fullest = float(np.max(every[held.stage.count > 0.0]))
        assert float(held.memory.total[0]) == pytest.approx(fullest + float(RESERVED), rel=1e-12)
        assert float(held.memory.other[0]) == float(RESERVED)
        assert float(held.memory.kv[0]) == 0.0


def test_points_hold_what_each_holds_alone(hold: Hold) -> None:
    fields = {
        "tensor_parallel": [1, 8, 2, 4],
        "pipeline_parallel": [4, 1, 8, 3],
        "virtual_pipeline": [2, 1, 1, 4],
        "data_parallel": [1, 4, 2, 8],
        "micro_batch": [1, 2, 4, 1],
        "micro_batches": [8, 3, 5, 6],
        "zero": [0, 1, 2, 3],
    }
    for recompute in ("none", "selective", "full"):
        together = hold(recompute=recompute, **fields).memory
        for index in range(4):
            alone = hold(recompute=recompute, **{name: values[index] for name, values in fields.items()}).memory
            for kind in KINDS:
                assert getattr(together, kind)[index] == pytest.approx(float(getattr(alone, kind)[0]), rel=1e-12)


@pytest.mark.parametrize("name", ["gpt3-175b", "llama-3.1-70b", "mixtral-8x7b"])
@pytest.mark.parametrize("zero", [0, 3])
def test_memory_reads_no_more_of_the_ops_than_what_is_held(
    hold: Hold, software_of: SoftwareOf, name: str, zero: int
) -> None:
    held = hold(model=name, tensor_parallel=4, pipeline_parallel=4, data_parallel=2, micro_batches=8, zero=zero)
    lean = holdings(held.device)
    again = training_memory(lean, held.stage, held.plan, software_of("megatron-2022"), RESERVED)
    for kind in KINDS:
        np.testing.assert_array_equal(getattr(again, kind), getattr(held.memory, kind), err_msg=kind)
    assert not lean.attentions
    assert not lean.collectives
    assert all(np.isnan(op.m) and np.isnan(op.weight_bytes) for op in lean.matmuls)
    assert all(np.isnan(op.read_bytes) for op in lean.vectors)


def test_parameters_of_stages_are_those_of_their_groups(hold: Hold) -> None:
    held = hold(tensor_parallel=8, pipeline_parallel=5)
    found = stage_weights(group_parameters(held.device), held.stage, 2.0)
    wanted = stage_parameters(held.device, held.stage, 2.0)
    np.testing.assert_array_equal(found.shared, wanted.shared)
    np.testing.assert_array_equal(found.layers, wanted.layers)
    # Nothing but layers in the middle: twice the parameters of a layer for each.
    layer = group_parameters(held.device)["layer"].shared
    np.testing.assert_allclose(found.shared[1], 2.0 * held.stage.layers[1] * layer, rtol=1e-12)
