"""The backward pass of one rank: every op has its gradient, at twice the FLOP; what runs again is what ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.backward import RECOMPUTED, backward, recomputed
from cosim.mapping.plan import RECOMPUTES, PlanArrays
from cosim.mapping.shard import DeviceCollective, DeviceGraph, DeviceMatmul, shard
from cosim.mapping.software import SoftwareArrays
from cosim.records import Array, array
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
SoftwareOf = Callable[..., SoftwareArrays]
Passes = Callable[..., tuple[DeviceGraph, DeviceGraph]]
MODELS = ("gpt3-175b", "llama-3.1-70b", "llama-3.1-8b")
KINDS = ("matmuls", "attentions", "vectors", "collectives")


def unmarked(op: Any) -> Any:
    """An op that runs again under the name, and beside the product, of its first run."""
    marks = {"name": op.name.removesuffix(RECOMPUTED)}
    if isinstance(op, DeviceCollective):
        marks["beside"] = op.beside.removesuffix(RECOMPUTED)
    return replace(op, **marks)


@pytest.fixture(scope="session")
def passes_of(model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf) -> Passes:
    """Forward and backward ops of a rank: 3 sequences of 1024 tokens on 4 tensor ranks unless told."""

    def build(
        model: str = "gpt3-175b", software: str = "megatron-2022", changes: Any = None, **plan: Any
    ) -> tuple[DeviceGraph, DeviceGraph]:
        stack = software_of(software, **(changes or {}))
        degrees = plan_of(**{"tensor_parallel": 4, "micro_batch": 3, **plan})
        graph = training_graph(model_of(model), degrees.micro_batch, array(1024.0), fused=stack.fused)
        device = shard(graph, degrees)
        return device, backward(device, graph, degrees, stack)

    return build


def named(ops: tuple[Any, ...], name: str) -> Any:
    (found,) = [op for op in ops if op.name == name]
    return found


def flop(op: DeviceMatmul) -> Array:
    return 2.0 * op.count * op.batch * op.m * op.n * op.k


def again(device: DeviceGraph, *kept: str) -> DeviceGraph:
    """What runs again: one way for all points, or one for each."""
    codes = [float(RECOMPUTES.index(way)) for way in kept]
    return recomputed(device, array(codes[0] if len(codes) == 1 else codes))


def names(device: DeviceGraph) -> list[str]:
    return [op.name for kind in KINDS for op in getattr(device, kind)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
@pytest.mark.parametrize("parallel", [True, False])
def test_every_op_has_its_gradient_once(passes_of: Passes, model: str, software: str, parallel: bool) -> None:
    forward, back = passes_of(model, software, sequence_parallel=parallel)
    found = names(back)
    assert len(set(found)) == len(found)
    products = {op.name for op in back.matmuls}
    assert products == {f"{op.name}.{way}" for op in forward.matmuls for way in ("dgrad", "wgrad")}
    assert {op.name for op in back.attentions} == {f"{op.name}.grad" for op in forward.attentions}
    assert {f"{op.name}.grad" for op in forward.vectors} <= {op.name for op in back.vectors}
    groups = {op.name: op.group for kind in KINDS for op in getattr(forward, kind)}
    for op in (*back.matmuls, *back.attentions, *back.vectors):
        assert op.group == groups[op.name.rsplit(".", 1)[0]]


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    software=st.sampled_from(["megatron-2022", "megatron"]),
    tensor=st.sampled_from([1, 2, 4, 8]),
    micro_batch=st.integers(1, 8),
    parallel=st.booleans(),
)
def test_the_gradients_of_a_product_take_twice_its_flop(
    passes_of: Passes, model: str, software: str, tensor: int, micro_batch: int, parallel: bool
) -> None:
    forward, back = passes_of(
        model, software, tensor_parallel=tensor, micro_batch=micro_batch, sequence_parallel=parallel
    )
    for op in forward.matmuls:
        gradients = [flop(named(back.matmuls, f"{op.name}.{way}")) for way in ("dgrad", "wgrad")]
        assert [float(each) for each in gradients] == [float(flop(op))] * 2
    assert sum(float(flop(op)) for op in back.matmuls) == 2.0 * sum(float(flop(op)) for op in forward.matmuls)


def test_products_of_a_projection_by_hand(passes_of: Passes) -> None:
    # ffn_in of GPT-3 on 4 ranks: 3 x 1024 rows, 49152 / 4 columns over 12288
    _, back = passes_of()
    into, weight = named(back.matmuls, "ffn_in.dgrad"), named(back.matmuls, "ffn_in.wgrad")
    assert (float(into.m), float(into.n), float(into.k)) == (3072.0, 12288.0, 12288.0)
    assert (float(weight.m), float(weight.n), float(weight.k)) == (12288.0, 12288.0, 3072.0)
    into, weight = named(back.matmuls, "scores.dgrad"), named(back.matmuls, "scores.wgrad")
    # 3 x 24 products of 1024 x 1024 over 128: gradients of the queries and of the keys
    assert (float(into.m), float(into.n), float(into.k), float(into.batch)) == (1024.0, 128.0, 1024.0, 72.0)
    assert (float(weight.m), float(weight.n), float(weight.k), float(weight.batch)) == (128.0, 1024.0, 1024.0, 72.0)


def test_a_weight_gradient_is_added_to_what_is_kept_by_its_product_or_by_a_kernel(passes_of: Passes) -> None:
    _, fused = passes_of(software="megatron")
    _, apart = passes_of(software="megatron-2022")
    # fp32 sums are read and written
    assert named(fused.matmuls, "qkv.wgrad").output_bytes == 8.0
    assert named(fused.matmuls, "qkv.dgrad").output_bytes == 2.0
    assert not [op.name for op in fused.vectors if op.name.endswith(".accumulate")]
    assert {op.output_bytes for op in apart.matmuls} == {2.0}
    accumulated = {op.name for op in apart.vectors if op.name.endswith(".accumulate")}
    assert accumulated == {f"{name}.accumulate" for name in ("qkv", "attention_out", "ffn_in", "ffn_out", "logits")}
    # 12288 x 12288 numbers: the new gradient and the sum are read, the sum is written, 2 bytes each
    kernel = named(apart.vectors, "ffn_in.accumulate")
    size = 12288.0 * 12288.0
    assert (float(kernel.read_bytes), float(kernel.write_bytes), float(kernel.flop)) == (4 * size, 2 * size, size)


def test_the_gradients_of_two_activations_are_kept_by_nobody(passes_of: Passes) -> None:
    _, back = passes_of(changes={"fused_accumulation": True, "gradient_bytes": 4.0})
    for name in ("scores", "context"):
        assert {named(back.matmuls, f"{name}.{way}").output_bytes for way in ("dgrad", "wgrad")} == {2.0}
        assert not [op.name for op in back.vectors if op.name.startswith(f"{name}.")]


def test_a_bias_has_its_sum_of_columns_and_others_have_none(passes_of: Passes) -> None:
    forward, back = passes_of()
    biased = {op.name for op in forward.matmuls if op.bias}
    assert biased == {"qkv", "attention_out", "ffn_in", "ffn_out"}
    assert {op.name for op in back.vectors if op.name.endswith(".bias")} == {f"{name}.bias" for name in biased}
    kernel = named(back.vectors, "ffn_in.bias")
    assert (float(kernel.read_bytes), float(kernel.write_bytes)) == (2.0 * 3072 * 12288, 0.0)
    _, plain = passes_of("llama-3.1-70b")
    assert not [op.name for op in plain.vectors if op.name.endswith(".bias")]


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
def test_an_elementwise_gradient_reads_what_its_op_wrote_and_read(passes_of: Passes, software: str) -> None:
    forward, back = passes_of(software=software)
    for op in forward.vectors:
        gradient = named(back.vectors, f"{op.name}.grad")
        assert float(gradient.read_bytes) == float(op.read_bytes + op.write_bytes)
        assert float(gradient.write_bytes) == float(op.read_bytes)
        assert (float(gradient.flop), float(gradient.special)) == (2.0 * float(op.flop), 0.0)
        assert float(gradient.count) == float(op.count)


def test_scales_of_norms_alone_are_summed_over_rows(passes_of: Passes) -> None:
    _, back = passes_of()
    assert {op.name for op in back.vectors if op.name.endswith(".scales")} == {"norm.scales", "final_norm.scales"}
    kernel = named(back.vectors, "norm.scales")
    # two tensors of 3072 x 12288 at 2 B, twice a layer
    assert (float(kernel.read_bytes), float(kernel.write_bytes)) == (2.0 * 2.0 * 3072 * 12288, 0.0)
    assert float(kernel.count) == 2.0


def test_the_gradient_of_fused_attention_is_one_kernel_of_the_same_shape(passes_of: Passes) -> None:
    forward, back = passes_of(software="megatron")
    (gradient,) = back.attentions
    assert replace(gradient, name="attention", backward=False) == forward.attentions[0]
    assert gradient.backward
    assert not forward.attentions[0].backward


def said(op: DeviceCollective) -> tuple[str, str, str]:
    return op.name, op.kind, op.behind


def test_sums_of_input_gradients_run_behind_weight_gradients(passes_of: Passes) -> None:
    _, back = passes_of()
    assert [said(op) for op in back.collectives] == [
        ("attention_sum.grad", "all_reduce", "qkv.wgrad"),
        ("ffn_sum.grad", "all_reduce", "ffn_in.wgrad"),
        ("logits_gather.grad", "all_reduce", "logits.wgrad"),
    ]
    assert {float(op.size_bytes) for op in back.collectives} == {3072 * 12288 * 2.0}
    assert {op.behind for op in back.collectives} <= {op.name for op in back.matmuls}


def test_under_sequence_parallelism_a_gradient_is_gathered_and_scattered_and_the_input_gathered_again(
    passes_of: Passes,
) -> None:
    _, back = passes_of(sequence_parallel=True)
    assert [said(op) for op in back.collectives] == [
        ("embedding_sum.grad_gather", "all_gather", ""),
        ("attention_sum.grad_gather", "all_gather", ""),
        ("attention_sum.grad", "reduce_scatter", "qkv.wgrad"),
        ("attention_sum.grad_input", "all_gather", "qkv.dgrad"),
        ("ffn_sum.grad_gather", "all_gather", ""),
        ("ffn_sum.grad", "reduce_scatter", "ffn_in.wgrad"),
        ("ffn_sum.grad_input", "all_gather", "ffn_in.dgrad"),
        ("logits_gather.grad", "reduce_scatter", "logits.wgrad"),
        ("logits_gather.grad_input", "all_gather", "logits.dgrad"),
    ]
    assert {float(op.size_bytes) for op in back.collectives} == {3072 * 12288 * 2.0}


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
def test_nothing_runs_again_without_recompute(passes_of: Passes, software: str) -> None:
    forward, _ = passes_of(software=software)
    assert names(again(forward, "none")) == []


@pytest.mark.parametrize(
    ("software", "core"),
    [("megatron-2022", ["scores", "context", "softmax", "score_dropout"]), ("megatron", ["attention"])],
)
def test_selective_recompute_runs_the_attention_core_again(passes_of: Passes, software: str, core: list[str]) -> None:
    forward, _ = passes_of(software=software)
    assert names(again(forward, "selective")) == [name + RECOMPUTED for name in core]


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
@pytest.mark.parametrize("parallel", [True, False])
def test_full_recompute_runs_the_whole_layer_again_with_its_collectives(
    passes_of: Passes, software: str, parallel: bool
) -> None:
    forward, _ = passes_of(software=software, sequence_parallel=parallel)
    found = again(forward, "full")
    for kind in KINDS:
        layer = [op for op in getattr(forward, kind) if op.group == "layer"]
        assert [unmarked(op) for op in getattr(found, kind)] == layer
    assert not [name for name in names(found) if not name.endswith(RECOMPUTED)]


def test_points_have_the_gradients_that_each_has_alone(passes_of: Passes) -> None:
    _, together = passes_of(tensor_parallel=[1, 2, 8], micro_batch=[4, 1, 2])
    for index, (tensor, micro_batch) in enumerate(((1, 4), (2, 1), (8, 2))):
        _, alone = passes_of(tensor_parallel=tensor, micro_batch=micro_batch)
        for op, one in zip(together.matmuls, alone.matmuls, strict=True):
            assert np.broadcast_to(flop(op), (3,))[index] == float(flop(one))
        for vector, single in zip(together.vectors, alone.vectors, strict=True):
            assert np.broadcast_to(vector.read_bytes, (3,))[index] == float(single.read_bytes)


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
def test_points_that_recompute_unlike_each_other_run_their_own_ops_again(passes_of: Passes, software: str) -> None:
    forward, _ = passes_of(software=software)
    ways = ("full", "none", "selective")
    together = again(forward, *ways)
    for index, way in enumerate(ways):
        alone = names(again(forward, way))
        for kind in KINDS:
            for op in getattr(together, kind):
                first = named(getattr(forward, kind), op.name.removesuffix(RECOMPUTED))
                runs = float(first.count) if op.name in alone else 0.0
                assert float(np.broadcast_to(op.count, (3,))[index]) == runs
    assert names(together) == names(again(forward, "full"))


def test_rows_that_the_ranks_of_an_expert_joined_have_their_gradients_scattered(
    model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf
) -> None:
    plan = plan_of(tensor_parallel=8, expert_parallel=2, expert_tensor_parallel=2)
    graph = training_graph(model_of("mixtral-8x7b"), array(2), array(512), fused=True)
    device = shard(graph, plan)
    gradients = backward(device, graph, plan, software_of())
    forward = {op.name: op for op in device.collectives}
    for name, kind in (("dispatch.joined", "expert_scatter"), ("combine.joined", "expert_gather")):
        found = named(gradients.collectives, f"{name}.grad")
        assert found.kind == kind != forward[name].kind
        assert (found.count, found.size_bytes) == (forward[name].count, forward[name].size_bytes)
    again = {op.name for op in recomputed(device, array(RECOMPUTES.index("full"))).collectives}
    assert {"dispatch.joined.again", "combine.joined.again"} <= again


def test_both_operands_of_a_weight_gradient_are_scaled_as_activations(
    model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf
) -> None:
    plan = plan_of(dtype="fp8", fp8_recipe="block")
    graph = training_graph(model_of("llama-3.1-8b"), array(1), array(512), fused=True)
    found = backward(shard(graph, plan), graph, plan, software_of()).matmuls
    assert named(found, "ffn_in.dgrad").scales == (4 / 128, 4 / 128**2)
    assert named(found, "ffn_in.wgrad").scales == (4 / 128, 4 / 128)
    assert named(found, "logits.wgrad").scales == (0.0, 0.0)
