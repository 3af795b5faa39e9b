"""Sharding over tensor ranks: what is divided, what is replicated, and in which format it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.dtypes import bytes_per_element
from cosim.mapping.plan import PlanArrays
from cosim.mapping.shard import JOINED, DeviceGraph, DeviceMatmul, DeviceVector, kv_heads_per_rank, quantise, shard
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.checkpoint import Part
from cosim.workload.graph import decode_graph, prefill_graph
from cosim.workload.model import ModelArrays
from cosim.workload.network import Network, lower_network

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]


def sharded(model: ModelArrays, plan: PlanArrays, sequences: float = 4) -> DeviceGraph:
    return shard(decode_graph(model, array(sequences), array(1000)), plan)


def matmul(device: DeviceGraph, name: str) -> DeviceMatmul:
    (found,) = [op for op in device.matmuls if op.name == name]
    return found


def vector(device: DeviceGraph, name: str) -> DeviceVector:
    (found,) = [op for op in device.vectors if op.name == name]
    return found


@pytest.mark.parametrize(
    ("tensor", "heads", "width", "weight_bytes"),
    [
        (1, 8, 10240, 167_772_160),  # (64 + 2 x 8) x 128 columns x 8192 rows x 2 B
        (2, 4, 5120, 83_886_080),
        (4, 2, 2560, 41_943_040),
        (8, 1, 1280, 20_971_520),
        (16, 1, 768, 12_582_912),  # 4 query heads, and still one key and one value head: (4 + 2) x 128
    ],
)
def test_key_value_heads_of_llama_70b_replicate_beyond_eight_ranks(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, heads: int, width: int, weight_bytes: int
) -> None:
    device = sharded(model_of(), plan_of(tensor_parallel=tensor))
    qkv, (attention,) = matmul(device, "qkv"), device.attentions
    assert (float(qkv.n), float(qkv.weight_bytes)) == (width, weight_bytes)
    assert (float(attention.op.heads), float(attention.op.kv_heads)) == (64 / tensor, heads)
    assert float(kv_heads_per_rank(array(8.0), array(tensor))) == heads


@settings(max_examples=60, deadline=None)
@given(kv_heads=st.integers(1, 128), tensor=st.integers(1, 256))
def test_ranks_hold_every_key_value_head_and_one_at_least(kv_heads: int, tensor: int) -> None:
    each = float(kv_heads_per_rank(array(kv_heads), array(tensor)))
    assert each >= 1.0
    assert kv_heads <= each * tensor < kv_heads + max(tensor, kv_heads)


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_ranks_that_divide_everything_share_the_matrix_work_exactly(
    model_of: ModelOf, plan_of: PlanOf, tensor: int
) -> None:
    device, alone = (sharded(model_of(), plan_of(tensor_parallel=t)) for t in (tensor, 1))
    for op in alone.matmuls:
        part = matmul(device, op.name)
        assert float(part.m * part.n * part.k) * tensor == float(op.m * op.n * op.k)
        assert float(part.weight_bytes) * tensor == float(op.weight_bytes)


def test_projections_in_are_cut_by_columns_and_out_by_rows(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of(), plan_of(tensor_parallel=8))
    dims = {op.name: (float(op.m), float(op.n), float(op.k)) for op in device.matmuls}
    assert dims == {
        "qkv": (4, 1280, 8192),
        "attention_out": (4, 8192, 1024),
        "ffn_in": (4, 7168, 8192),  # gate and up: 2 x 28672 / 8
        "ffn_out": (4, 8192, 3584),
        "logits": (4, 16032, 8192),
    }


def test_a_vocabulary_that_does_not_divide_is_padded_on_the_fullest_rank(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of("gpt3-175b"), plan_of(tensor_parallel=8))
    assert float(matmul(device, "logits").n) == 6283.0  # 50257 = 8 x 6282 + 1


@pytest.mark.parametrize(("dtype", "element"), [("bf16", 2.0), ("fp8", 1.0), ("mxfp4", 0.53125), ("fp32", 4.0)])
def test_the_plans_format_is_that_of_linear_layers_only(
    model_of: ModelOf, plan_of: PlanOf, dtype: str, element: float
) -> None:
    device = sharded(model_of(), plan_of(dtype=dtype))
    assert {op.dtype for op in device.matmuls if op.group == "layer"} == {dtype}
    assert float(matmul(device, "ffn_out").weight_bytes) == 28672 * 8192 * element
    assert matmul(device, "logits").dtype == "bf16"
    assert float(matmul(device, "logits").weight_bytes) == 128_256 * 8192 * 2
    assert float(vector(device, "embedding").weight_bytes) == 128_256 * 8192 * 2


def test_biases_stay_at_sixteen_bits(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of("gpt3-175b"), plan_of(dtype="fp8", tensor_parallel=8))
    # into: 12288 x 6144 in one byte and 6144 biases in two; out: every rank has all 12288 biases
    assert float(matmul(device, "ffn_in").weight_bytes) == 12288 * 6144 + 6144 * 2
    assert float(matmul(device, "ffn_out").weight_bytes) == 6144 * 12288 + 12288 * 2


def test_a_tied_head_costs_no_memory_until_it_leaves_the_embeddings_stage(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of("gpt3-175b"), plan_of(pipeline_parallel=[1, 2, 8]))
    table = 50257 * 12288 * 2
    np.testing.assert_array_equal(matmul(device, "logits").weight_bytes, [0.0, table, table])


def test_norms_are_on_every_rank_and_the_table_is_shared_out(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of(), plan_of(tensor_parallel=[1, 4]))
    np.testing.assert_array_equal(vector(device, "norm_and_residual").weight_bytes, 16_384)  # 8192 x 2 B
    np.testing.assert_array_equal(vector(device, "embedding").weight_bytes, [2_101_346_304, 525_336_576])


def test_vector_work_by_hand(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of(), plan_of(tensor_parallel=4))
    norm, activation = vector(device, "norm_and_residual"), vector(device, "activation")
    # 4 rows x 8192, two tensors in and two out at 2 B, on every rank alike
    assert (float(norm.read_bytes), float(norm.write_bytes)) == (131_072, 131_072)
    # 4 rows x 28672 / 4: gate and up in, product out, one exponential each
    assert (float(activation.read_bytes), float(activation.write_bytes)) == (114_688, 57_344)
    assert float(activation.special) == 28_672


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_rotary_and_cache_write_are_shared_by_heads(model_of: ModelOf, plan_of: PlanOf, tensor: int) -> None:
    device = sharded(model_of(), plan_of(tensor_parallel=tensor))
    # 4 rows x 80 heads x 128 at 2 B
    assert float(vector(device, "rotary_and_cache").read_bytes) * tensor == 81_920


def test_sums_over_ranks_move_the_whole_result_whatever_the_degree(model_of: ModelOf, plan_of: PlanOf) -> None:
    for tensor in (1, 8, 64):
        device = sharded(model_of(), plan_of(tensor_parallel=tensor))
        sizes = {op.name: (op.kind, float(op.size_bytes)) for op in device.collectives}
        hidden = ("all_reduce", 65_536.0)  # 4 rows x 8192 x 2 B
        logits = ("all_gather", 1_026_048.0)  # 4 x 128256 x 2 B
        expected = {"embedding_sum": hidden, "attention_sum": hidden, "ffn_sum": hidden, "logits_gather": logits}
        assert sizes == expected


def test_attention_keeps_what_is_not_split(model_of: ModelOf, plan_of: PlanOf) -> None:
    graph = prefill_graph(model_of(), array(3), array(500))
    (attention,) = shard(graph, plan_of(tensor_parallel=8, kv_dtype="fp8")).attentions
    op = attention.op
    assert (op.phase, op.causal, op.windowed, attention.kv_dtype) == ("prefill", True, False, "fp8")
    assert [float(x) for x in (op.batch, op.query, op.context, op.head_dim, op.count)] == [3, 500, 500, 128, 1]


def test_counts_and_groups_survive(model_of: ModelOf, plan_of: PlanOf) -> None:
    graph = decode_graph(model_of(), array(4), array(1000))
    device = shard(graph, plan_of(tensor_parallel=8))
    pairs: list[tuple[Any, Any]] = [
        *zip(graph.matmuls, device.matmuls, strict=True),
        *zip(graph.vectors, device.vectors, strict=True),
        *zip(graph.collectives, device.collectives, strict=True),
    ]
    assert device.phase == "decode"
    for op, part in pairs:
        assert (part.name, part.group, float(part.count)) == (op.name, op.group, float(op.count))


def test_rotary_and_cache_write_touch_the_replicated_heads_too(model_of: ModelOf, plan_of: PlanOf) -> None:
    """64 heads and 8 key/value heads of 128 on 16 ranks: 4 + 1 + 1 heads each, read and written at 2 B."""
    rope = vector(sharded(model_of(), plan_of(tensor_parallel=16), sequences=3), "rotary_and_cache")
    assert float(rope.read_bytes) == 3 * 6 * 128 * 2.0


EXPERTS_OF_MIXTRAL = pytest.mark.parametrize(
    ("tensor", "expert", "kept", "width"),
    [
        (1, 1, 8, 14336),
        (1, 8, 1, 14336),  # one expert a rank
        (8, 8, 1, 14336),
        (8, 2, 4, 3584),  # four experts, each over four ranks
        (8, 1, 8, 1792),  # all of them, each over eight ranks
        (2, 8, 1, 14336),  # over four replicas of two ranks
    ],
)


def expert_plan(plan_of: PlanOf, tensor: int, expert: int, **fields: Any) -> PlanArrays:
    """As many replicas as the experts are spread over."""
    return plan_of(tensor_parallel=tensor, expert_parallel=expert, data_parallel=max(expert // tensor, 1), **fields)


@EXPERTS_OF_MIXTRAL
def test_experts_are_shared_out_whole_and_then_by_width(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, expert: int, kept: int, width: int
) -> None:
    device = sharded(model_of("mixtral-8x7b"), expert_plan(plan_of, tensor, expert))
    into, out = matmul(device, "expert_in"), matmul(device, "expert_out")
    assert (float(into.n), float(into.k)) == (2 * width, 4096)
    assert (float(out.n), float(out.k)) == (4096, width)
    assert float(into.weight_bytes) == kept * 2 * width * 4096 * 2
    assert float(out.weight_bytes) == kept * 4096 * width * 2
    assert (into.routed, out.routed, matmul(device, "router").routed) == (True, True, False)


@EXPERTS_OF_MIXTRAL
def test_one_product_runs_for_each_busy_expert_with_its_rows(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, expert: int, kept: int, width: int
) -> None:
    plan = expert_plan(plan_of, tensor, expert)
    device = sharded(model_of("mixtral-8x7b"), plan, sequences=1000)
    (into, activation) = matmul(device, "expert_in"), vector(device, "expert_activation")
    assert float(into.batch) == pytest.approx(kept)  # a thousand tokens leave no expert idle
    rows = float(into.m * into.batch)
    # Two of eight for each token of the group, somewhat more on the busiest rank.
    mean = 1000 * max(expert // tensor, 1) * 2 / expert
    assert mean * (1.0 - 1e-12) <= rows <= 1.2 * mean
    # gate and up in, product out, 2 B each
    assert float(activation.read_bytes) == pytest.approx(rows * 2 * width * 2)
    assert float(activation.write_bytes) == pytest.approx(rows * width * 2)
    assert float(vector(device, "permute").read_bytes) == pytest.approx(rows * 4096 * 2)


@settings(max_examples=60, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4, 8]), expert=st.sampled_from([1, 2, 4, 8]), dtype=st.sampled_from(["bf16", "fp8"])
)
def test_ranks_of_an_expert_group_hold_every_expert_once(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, expert: int, dtype: str
) -> None:
    alone, part = (
        sharded(model_of("mixtral-8x7b"), expert_plan(plan_of, t, e, dtype=dtype))
        for t, e in ((1, 1), (tensor, expert))
    )
    for name in ("expert_in", "expert_out"):
        whole, mine = matmul(alone, name), matmul(part, name)
        assert float(mine.weight_bytes) * max(tensor, expert) == float(whole.weight_bytes)
        assert float(mine.parameters) * max(tensor, expert) == float(whole.parameters)


@settings(max_examples=60, deadline=None)
@given(expert=st.sampled_from([1, 2, 4, 8]), imbalance=st.floats(0.0, 20.0), sequences=st.integers(1, 5000))
def test_a_busier_rank_has_more_rows_and_keeps_the_same_weights(
    model_of: ModelOf, plan_of: PlanOf, expert: int, imbalance: float, sequences: int
) -> None:
    model, plan = model_of("mixtral-8x7b"), expert_plan(plan_of, 1, expert)
    even, skewed = (
        shard(decode_graph(model, array(sequences), array(1000), imbalance=array(i)), plan) for i in (0.0, imbalance)
    )
    for name in ("expert_in", "expert_out"):
        before, after = matmul(even, name), matmul(skewed, name)
        assert float(after.m * after.batch) >= float(before.m * before.batch)
        assert float(after.batch) >= float(before.batch)  # more rows find more of its experts
        assert float(after.weight_bytes) == float(before.weight_bytes)


def test_experts_are_in_the_plans_format_and_the_router_at_sixteen_bits(model_of: ModelOf, plan_of: PlanOf) -> None:
    device = sharded(model_of("gpt-oss-120b"), plan_of(dtype="mxfp4", tensor_parallel=8))
    # 128 experts whose 2 x 2880 columns are over eight ranks: 4.25 bits a weight, biases in two bytes
    assert matmul(device, "expert_in").dtype == "mxfp4"
    assert float(matmul(device, "expert_in").weight_bytes) == 128 * 720 * (2880 * 0.53125 + 2)
    assert float(matmul(device, "expert_out").weight_bytes) == 128 * 2880 * (360 * 0.53125 + 2)
    assert matmul(device, "router").dtype == "bf16"
    # whole on every rank, with a bias for each expert
    assert float(matmul(device, "router").weight_bytes) == 128 * (2880 + 1) * 2


def test_shared_experts_are_cut_over_tensor_ranks_and_not_over_experts(model_of: ModelOf, plan_of: PlanOf) -> None:
    for tensor, expert in ((1, 32), (8, 32), (8, 8)):
        device = sharded(model_of("deepseek-v3"), expert_plan(plan_of, tensor, expert, dtype="fp8"))
        assert float(matmul(device, "shared_in").weight_bytes) == 2 * 2048 / tensor * 7168
        assert float(matmul(device, "shared_in").m) == 4.0
        assert float(matmul(device, "ffn_out").weight_bytes) == 18432 / tensor * 7168


def carried(device: DeviceGraph) -> dict[str, tuple[float, float]]:
    """Bytes inside the node and beyond it of every exchange between expert ranks."""
    found = [op for op in device.collectives if op.kind == "all_to_all"]
    return {op.name: (float(op.size_bytes), float(op.far_bytes)) for op in found}


@pytest.mark.parametrize(("dtype", "out"), [("bf16", 2.0), ("fp8", 1.0), ("fp32", 2.0)])
def test_tokens_go_out_in_the_format_of_the_products_and_come_back_at_sixteen_bits(
    model_of: ModelOf, plan_of: PlanOf, dtype: str, out: float
) -> None:
    device = sharded(model_of("mixtral-8x7b"), expert_plan(plan_of, 1, 8, dtype=dtype), sequences=100)
    # 8 (1 - (7/8)^2) = 1.875 ranks a token, 7/8 of them others
    copies = 100 * 1.875 * 7 / 8
    assert carried(device) == {
        "dispatch": (pytest.approx(copies * 4096 * out), 0.0),
        "combine": (pytest.approx(copies * 4096 * 2.0), 0.0),
    }


@pytest.mark.parametrize(("tensor", "expert"), [(1, 1), (8, 1), (8, 2), (8, 8)])
def test_experts_inside_a_tensor_group_send_nothing_and_sum(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, expert: int
) -> None:
    device = sharded(model_of("mixtral-8x7b"), expert_plan(plan_of, tensor, expert))
    assert carried(device) == {"dispatch": (0.0, 0.0), "combine": (0.0, 0.0)}
    (summed,) = [op for op in device.collectives if op.name == "moe_sum"]
    assert (summed.kind, float(summed.size_bytes)) == ("all_reduce", 4 * 4096 * 2.0)


@pytest.mark.parametrize(("tensor", "expert", "travels"), [(4, 4, False), (4, 2, False), (4, 8, True), (1, 8, True)])
@pytest.mark.parametrize("parallel", [False, True])
def test_tokens_that_travelled_come_back_whole_and_are_only_joined(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, expert: int, travels: bool, parallel: bool
) -> None:
    plan = plan_of(tensor_parallel=tensor, data_parallel=8, expert_parallel=expert, sequence_parallel=parallel)
    device = sharded(model_of("mixtral-8x7b"), plan)
    often = {op.kind: float(op.count) for op in device.collectives if op.name.startswith("moe_sum")}
    summed, joined = float(not travels), float(travels)
    assert often == (
        {"reduce_scatter": summed, "all_gather": summed} if parallel else {"all_reduce": summed, "all_gather": joined}
    )


def test_a_prompt_of_deepseek_v3_is_sent_once_to_each_of_four_nodes(model_of: ModelOf, plan_of: PlanOf) -> None:
    plan = expert_plan(plan_of, 1, 64, dtype="fp8")
    device = shard(prefill_graph(model_of("deepseek-v3"), array(2), array(500)), plan, array(8))
    # 1000 tokens; 4 of 8 nodes, 7/8 of them others; 7168 wide, one byte out and two back
    assert carried(device)["dispatch"][1] == pytest.approx(3500 * 7168)
    assert carried(device)["combine"][1] == pytest.approx(2 * 3500 * 7168)


def test_a_node_that_holds_all_ranks_is_never_left(model_of: ModelOf, plan_of: PlanOf) -> None:
    graph, plan = decode_graph(model_of("deepseek-v3"), array(64), array(1000)), expert_plan(plan_of, 1, 64)
    for device in (shard(graph, plan), shard(graph, plan, array(64)), shard(graph, plan, array(72))):
        assert all(far == 0.0 < near for near, far in carried(device).values())


@pytest.mark.parametrize("tensor", [1, 2, 8, 16, 128])
def test_absorbed_products_are_shared_out_by_heads(model_of: ModelOf, plan_of: PlanOf, tensor: int) -> None:
    device = sharded(model_of("deepseek-v3"), plan_of(tensor_parallel=tensor, dtype="fp8"))
    key, value = matmul(device, "key_absorb"), matmul(device, "value_absorb")
    dims = [tuple(float(x) for x in (op.batch, op.m, op.n, op.k)) for op in (key, value)]
    assert dims == [(128 / tensor, 4, 512, 128), (128 / tensor, 4, 128, 512)]
    assert float(key.weight_bytes) == float(value.weight_bytes) == 128 / tensor * 128 * 512


@pytest.mark.parametrize("tensor", [1, 2, 8, 16, 128])
def test_down_projections_are_whole_and_the_rest_is_cut_by_heads(
    model_of: ModelOf, plan_of: PlanOf, tensor: int
) -> None:
    graph = prefill_graph(model_of("deepseek-v3"), array(1), array(100))
    device = shard(graph, plan_of(tensor_parallel=tensor))
    assert {op.name: (float(op.n), float(op.k)) for op in device.matmuls if op.group == "layer"} == {
        "kv_down": (576, 7168),
        "query_down": (1536, 7168),
        "query_up": (128 / tensor * 192, 1536),
        "kv_up": (128 / tensor * 256, 512),
        "attention_out": (7168, 128 / tensor * 128),
    }
    (attention,) = device.attentions
    assert (float(attention.op.heads), float(attention.op.kv_heads)) == (128 / tensor, 128 / tensor)


@pytest.mark.parametrize("tensor", [1, 2, 8, 16, 128])
def test_every_rank_attends_to_the_whole_latent_with_its_heads(model_of: ModelOf, plan_of: PlanOf, tensor: int) -> None:
    (attention,) = sharded(model_of("deepseek-v3"), plan_of(tensor_parallel=tensor)).attentions
    op = attention.op
    assert (float(op.heads), float(op.kv_heads)) == (128 / tensor, 1.0)
    assert tuple(float(value) for value in (op.head_dim, op.values, op.kept)) == (576.0, 512.0, 576.0)


@settings(max_examples=40, deadline=None)
@given(tensor=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]), dtype=st.sampled_from(["bf16", "fp8", "fp32"]))
def test_both_forms_of_latent_attention_hold_the_same_weights_on_a_rank(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, dtype: str
) -> None:
    plan = plan_of(tensor_parallel=tensor, dtype=dtype)
    held = []
    for absorbed in (True, False):
        graph = decode_graph(model_of("deepseek-v3"), array(4), array(1000), absorbed=absorbed)
        held.append(sum(float(op.weight_bytes) for op in shard(graph, plan).matmuls if op.group == "layer"))
    assert held[0] == held[1]


def layers(*described: dict[str, Any]) -> ModelArrays:
    named = [{"name": f"l{index}", **layer} for index, layer in enumerate(described)]
    about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "an item", "layers": named}
    return lower_network(Varied(Network.model_validate(about)))


def test_a_row_that_is_read_alone_takes_whole_granules(plan_of: PlanOf) -> None:
    gathers = [{"kind": "gather", "lookups": 10, "width": width, "table_rows": 1000} for width in (128, 33, 8)]
    device = shard(prefill_graph(layers(*gathers), array(3.0), array(1.0)), plan_of(dtype="fp8"))
    # Rows of 256 B, of 66 B in two granules of 64 B, of 16 B in one; tables at 16 bits whatever the plan's format.
    assert [float(op.gathered_bytes) for op in device.vectors] == [30 * 256, 30 * 128, 30 * 64]
    assert [float(op.read_bytes) for op in device.vectors] == [30 * 256, 30 * 128, 30 * 64]
    assert [float(op.write_bytes) for op in device.vectors] == [30 * 256, 30 * 66, 30 * 16]
    assert [float(op.weight_bytes) for op in device.vectors] == [256_000, 66_000, 16_000]


def test_the_table_of_a_transformer_is_read_as_before(model_of: ModelOf, plan_of: PlanOf) -> None:
    assert float(vector(sharded(model_of(), plan_of()), "embedding").gathered_bytes) == 0.0


def test_a_grouped_convolution_keeps_the_weights_of_every_group(plan_of: PlanOf) -> None:
    conv = {"kind": "conv", "inputs": 8, "outputs": 12, "kernel": 3, "height": 4, "groups": 2, "norm": True}
    (op,) = shard(prefill_graph(layers(conv), array(1.0), array(1.0)), plan_of(dtype="fp8")).matmuls
    assert float(op.parameters) == 12 * 4 * 9 + 2 * 12
    assert float(op.weight_bytes) == 12 * 4 * 9 + 2 * 12 * 2  # products in fp8, the folded norm at 16 bits
    assert (float(op.batch), op.dtype, float(op.distinct)) == (2.0, "fp8", pytest.approx(1 / 9))


def test_keys_that_nobody_cached_are_at_sixteen_bits(plan_of: PlanOf) -> None:
    layer = {"kind": "attention", "heads": 4, "head_dim": 8, "tokens": 10, "context": 7}
    (op,) = shard(prefill_graph(layers(layer), array(1.0), array(1.0)), plan_of(kv_dtype="fp8")).attentions
    assert (op.kv_dtype, op.op.cached_keys, op.op.causal) == ("bf16", False, False)


@pytest.mark.parametrize(("dtype", "element"), [("fp8", 1.0), ("fp4", 0.5)])
def test_a_quantiser_reads_twice_writes_once_and_goes_at_the_pace_of_memory(dtype: str, element: float) -> None:
    # Once for the largest number, once to scale: 2 x 1,000 x 2 B read.
    found = quantise(array(1000.0), dtype, array(3.0))
    assert (float(found.read_bytes), float(found.write_bytes)) == (4000.0, 1000.0 * element)
    assert found.dram_paced
    assert (float(found.count), float(found.gathered_bytes), float(found.weight_bytes)) == (3.0, 0.0, 0.0)


def test_the_output_of_attention_alone_is_quantised_by_a_kernel_of_its_own(model_of: ModelOf, plan_of: PlanOf) -> None:
    narrow, wide = (sharded(model_of(), plan_of(tensor_parallel=2, dtype=dtype)) for dtype in ("fp8", "bf16"))
    # 4 tokens of 64 heads of 128, over two ranks
    assert float(vector(narrow, "quantise").write_bytes) == 4 * 8192 / 2
    assert [op.name for op in narrow.vectors if op.dram_paced] == ["quantise"]
    assert not [op for op in wide.vectors if op.dram_paced]


def joined(device: DeviceGraph) -> dict[str, tuple[str, float, float]]:
    """Kind, count and bytes of what the ranks of one expert send each other."""
    found = [op for op in device.collectives if op.name.endswith(JOINED)]
    return {op.name.removesuffix(JOINED): (op.kind, float(op.count), float(op.size_bytes)) for op in found}


@pytest.mark.parametrize(("tensor", "expert", "width"), [(8, 4, 2), (8, 2, 2), (1, 4, 4), (4, 8, 2), (8, 1, 2)])
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_ranks_of_an_asked_width_join_rows_before_the_products_and_sum_after(
    model_of: ModelOf, plan_of: PlanOf, tensor: int, expert: int, width: int, dtype: str
) -> None:
    data = max(expert * width // tensor, 1)
    degrees = {"tensor_parallel": tensor, "expert_parallel": expert, "data_parallel": data, "dtype": dtype}
    plan = plan_of(**degrees, expert_tensor_parallel=width)
    device = sharded(model_of("mixtral-8x7b"), plan, sequences=1000)
    into = matmul(device, "expert_in")
    rows, bytes_out = float(into.batch * into.m), 1.0 if dtype == "fp8" else 2.0
    found = joined(device)
    assert found["dispatch"] == ("expert_gather", 1.0, pytest.approx(rows * 4096 * bytes_out))
    assert found["combine"] == ("expert_scatter", 1.0, pytest.approx(rows * 4096 * 2.0))
    assert float(into.n) == 2 * 14336 / width
    assert float(into.weight_bytes) == 8 / expert * 4096 * 2 * 14336 / width * bytes_out
    often = {op.kind: float(op.count) for op in device.collectives if op.name.startswith("moe_sum")}
    assert often == {"all_reduce": 0.0, "all_gather": 1.0}  # slices come back and are joined


def test_whole_experts_and_a_width_that_is_the_tensor_group_join_nothing(model_of: ModelOf, plan_of: PlanOf) -> None:
    model = model_of("mixtral-8x7b")
    assert not joined(sharded(model, plan_of(tensor_parallel=8, expert_parallel=8, expert_tensor_parallel=1)))
    found = joined(sharded(model, plan_of(tensor_parallel=8, expert_tensor_parallel=8)))
    assert [count for _, count, _ in found.values()] == [0.0, 0.0]
    assert not joined(sharded(model, plan_of(tensor_parallel=8, expert_parallel=2)))


def test_points_with_and_without_a_width_share_a_batch(model_of: ModelOf, plan_of: PlanOf) -> None:
    plan = replace(plan_of(tensor_parallel=8, expert_parallel=2), expert_tensor=array([0.0, 4.0]))
    device = sharded(model_of("mixtral-8x7b"), plan)
    (gather,) = [op for op in device.collectives if op.kind == "expert_gather"]
    assert gather.count.tolist() == [0.0, 1.0]


def test_the_block_recipe_reads_once_what_it_quantises_and_writes_scales() -> None:
    tensor, block = (quantise(array(1280.0), "fp8", array(1.0), recipe) for recipe in ("tensor", "block"))
    assert (float(tensor.read_bytes), float(tensor.write_bytes)) == (2 * 2 * 1280.0, 1280.0)
    assert (float(block.read_bytes), float(block.write_bytes)) == (2 * 1280.0, 1280.0 + 10 * 4)
    assert block.dram_paced


@pytest.mark.parametrize("model", ["llama-3.1-70b", "mixtral-8x7b"])
def test_products_in_blocks_carry_the_scales_of_their_operands(model_of: ModelOf, plan_of: PlanOf, model: str) -> None:
    plain, blocks = (
        sharded(model_of(model), plan_of(tensor_parallel=2, dtype="fp8", fp8_recipe=recipe))
        for recipe in ("tensor", "block")
    )
    for before, after in zip(plain.matmuls, blocks.matmuls, strict=True):
        narrow = before.dtype == "fp8"
        assert before.scales == (0.0, 0.0)
        assert after.scales == ((4 / 128, 4 / 128**2) if narrow else (0.0, 0.0))
        scales = float(before.parameters) * 4 / 128**2 if narrow else 0.0
        assert float(after.weight_bytes - before.weight_bytes) == pytest.approx(scales, abs=1e-3)
    assert {op.dtype for op in blocks.matmuls} == {"fp8", "bf16"}


def test_tokens_travel_with_the_scales_of_their_blocks(model_of: ModelOf, plan_of: PlanOf) -> None:
    sent_in = {
        recipe: carried(sharded(model_of("mixtral-8x7b"), expert_plan(plan_of, 1, 8, dtype="fp8", fp8_recipe=recipe)))
        for recipe in ("tensor", "block")
    }
    assert sent_in["block"]["dispatch"][0] == pytest.approx(sent_in["tensor"]["dispatch"][0] * (1 + 4 / 128))
    assert sent_in["block"]["combine"] == sent_in["tensor"]["combine"]


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["bf16", "fp8", "int8"]),
    stored=st.sampled_from([None, "fp8", "int4", "mxfp4"]),
    tensor=st.sampled_from([1, 2, 4]),
    name=st.sampled_from(["llama-3.1-70b", "mixtral-8x7b"]),
)
def test_weights_kept_in_another_format_change_their_bytes_and_no_number_of_them(
    model_of: ModelOf, plan_of: PlanOf, dtype: str, stored: str | None, tensor: int, name: str
) -> None:
    plain, other = (
        sharded(model_of(name), plan_of(dtype=dtype, tensor_parallel=tensor, weights_dtype=kept))
        for kept in (None, stored)
    )
    for one, two in zip(plain.matmuls, other.matmuls, strict=True):
        assert (one.dtype, float(one.parameters)) == (two.dtype, float(two.parameters))
        linear = one.name not in ("logits", "router")
        assert two.stored == (stored if linear else None)
        ratio = bytes_per_element(stored or dtype) / bytes_per_element(dtype) if linear else 1.0
        assert float(two.weight_bytes) == pytest.approx(float(one.weight_bytes) * ratio)


NARROW: dict[str, tuple[Part, ...]] = {"nvfp4": ("dense", "experts", "shared_experts"), "int4": ("experts",)}


@pytest.mark.parametrize(
    ("fields", "narrow"),
    [
        ({"dtype": "nvfp4"}, {"ffn_in", "ffn_out", "shared_in", "shared_out", "expert_in", "expert_out"}),
        ({"weights_dtype": "int4"}, {"expert_in", "expert_out"}),
        ({"weights_dtype": "nvfp4", "dtype": "fp8"}, {"ffn_in", "ffn_out", "shared_in", "shared_out"} | {"expert_in"}),
    ],
)
def test_layers_that_a_checkpoint_keeps_wide_run_and_lie_at_sixteen_bits(
    model_of: ModelOf, plan_of: PlanOf, fields: dict[str, str], narrow: set[str]
) -> None:
    plan = plan_of(**fields)
    graph = decode_graph(model_of("deepseek-v3"), array(4.0), array(1000.0))
    device = shard(graph, plan, narrow=NARROW)
    found = {op.name for op in device.matmuls if (op.stored or op.dtype) not in ("bf16", "fp8")}
    assert narrow <= found <= narrow | {"expert_out"}
    for op in device.matmuls:
        if op.name not in found:
            assert (op.dtype, op.stored) == ("bf16", None)
            assert float(op.weight_bytes) == 2.0 * float(op.parameters)


@pytest.mark.parametrize(("parts", "kernels"), [(("attention",), 0), (("attention", "attention_out"), 1)])
def test_what_goes_into_a_wide_product_is_not_quantised(
    model_of: ModelOf, plan_of: PlanOf, parts: tuple[Part, ...], kernels: int
) -> None:
    device = shard(decode_graph(model_of(), array(4.0), array(1000.0)), plan_of(dtype="fp8"), narrow={"fp8": parts})
    assert [op.name for op in device.vectors].count("quantise") == kernels


def test_experts_that_a_checkpoint_does_not_name_stay_wide(model_of: ModelOf, plan_of: PlanOf) -> None:
    graph = decode_graph(model_of("mixtral-8x7b"), array(4.0), array(1000.0))
    device = shard(graph, plan_of(dtype="fp8"), narrow={"fp8": ("attention", "attention_out")})
    assert (matmul(device, "expert_in").dtype, matmul(device, "qkv").dtype) == ("bf16", "fp8")


def test_a_format_of_which_no_checkpoint_is_known_holds_every_linear_layer(model_of: ModelOf, plan_of: PlanOf) -> None:
    graph = decode_graph(model_of("deepseek-v3"), array(4.0), array(1000.0))
    kept, whole = (shard(graph, plan_of(dtype="int8"), narrow=narrow) for narrow in (NARROW, {}))
    assert [op.dtype for op in kept.matmuls] == [op.dtype for op in whole.matmuls]
