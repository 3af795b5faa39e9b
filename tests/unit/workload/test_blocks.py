"""Block builders: which ops a layer, the embedding and the head are made of, and their dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from cosim.records import array
from cosim.workload.blocks import (
    Tokens,
    attention_block,
    attention_ops,
    attention_products,
    embedding,
    feed_forward,
    feed_forward_block,
    head,
    joined,
    norms,
    uncached,
)
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Graph, Matmul

Lowered = Callable[..., ModelArrays]


def tokens(phase: Literal["prefill", "decode"] = "decode", sequences: float = 3, query: float = 1) -> Tokens:
    return Tokens(phase, array(sequences), array(query), array(40))


def matmul(graph: Graph, name: str) -> Matmul:
    (found,) = [op for op in graph.matmuls if op.name == name]
    return found


def width(op: Matmul) -> float:
    return sum(float(axis.size) for axis in op.n)


def test_rows_are_sequences_times_new_tokens() -> None:
    assert float(tokens("prefill", 3, 40).rows) == 120.0
    assert float(tokens("decode", 3, 1).rows) == 3.0


def test_attention_projects_to_queries_keys_and_values_and_back(lowered: Lowered) -> None:
    block = attention_block(lowered(), tokens())
    qkv, out = matmul(block, "qkv"), matmul(block, "attention_out")
    # 8 heads x 16 and 2 x 2 kv heads x 16, out of 64
    assert [float(axis.size) for axis in qkv.n] == [128.0, 32.0, 32.0]
    assert (float(qkv.k.size), qkv.split) == (64.0, "n")
    assert (width(out), float(out.k.size), out.split) == (64.0, 128.0, "k")


def test_heads_are_never_cut_but_features_are(lowered: Lowered) -> None:
    attention, ffn = attention_block(lowered(), tokens()), feed_forward_block(lowered(), tokens())
    assert [float(axis.groups) for axis in matmul(attention, "qkv").n] == [8.0, 2.0, 2.0]
    assert float(matmul(attention, "attention_out").k.groups) == 8.0
    assert float(matmul(ffn, "ffn_in").n[0].groups) == 96.0


@pytest.mark.parametrize(("gated", "parts", "reads"), [(True, [96.0, 96.0], 2.0), (False, [96.0], 1.0)])
def test_a_gated_feed_forward_projects_twice(lowered: Lowered, gated: bool, parts: list[float], reads: float) -> None:
    block = feed_forward_block(lowered(gated=gated), tokens())
    assert [float(axis.size) for axis in matmul(block, "ffn_in").n] == parts
    assert (float(matmul(block, "ffn_out").k.size), width(matmul(block, "ffn_out"))) == (96.0, 64.0)
    (activation,) = block.vectors
    assert (activation.reads, activation.writes, activation.splits) == (reads, 1.0, True)


@pytest.mark.parametrize("build", [attention_block, feed_forward_block, embedding])
def test_each_split_pair_ends_in_one_sum_of_the_hidden_stream(
    lowered: Lowered, build: Callable[[ModelArrays, Tokens], Graph]
) -> None:
    (collective,) = build(lowered(), tokens("prefill", 3, 40)).collectives
    assert (collective.kind, float(collective.m), float(collective.width)) == ("all_reduce", 120.0, 64.0)


@pytest.mark.parametrize(
    ("changes", "biased"),
    [
        ({}, set()),
        ({"qkv_bias": True}, {"qkv"}),
        ({"output_bias": True}, {"attention_out"}),
        ({"ffn_bias": True}, {"ffn_in", "ffn_out"}),
    ],
)
def test_biases_go_to_the_projections_that_have_them(
    lowered: Lowered, changes: dict[str, bool], biased: set[str]
) -> None:
    attention, ffn = attention_block(lowered(**changes), tokens()), feed_forward_block(lowered(**changes), tokens())
    assert {op.name for op in (*attention.matmuls, *ffn.matmuls) if op.bias} == biased


@pytest.mark.parametrize(("norm", "scales"), [("rms", 64.0), ("layer", 128.0)])
def test_a_layer_has_two_norms_and_the_head_one(lowered: Lowered, norm: str, scales: float) -> None:
    # scale only, or scale and shift, of 64 features
    (inside,) = norms(lowered(norm=norm), tokens()).vectors
    assert (float(inside.count), float(inside.parameters)) == (2.0, scales)
    final = head(lowered(norm=norm), tokens()).vectors[0]
    assert (float(final.count), float(final.parameters)) == (1.0, scales)


def test_query_and_key_norms_add_a_scale_per_feature_of_a_head(lowered: Lowered) -> None:
    with_norm, without = (attention_block(lowered(qk_norm=flag), tokens()) for flag in (True, False))
    assert float(with_norm.vectors[0].parameters) == 32.0  # 2 x 16
    assert float(without.vectors[0].parameters) == 0.0


def test_rotary_work_is_done_only_where_positions_rotate(lowered: Lowered) -> None:
    rotary = attention_block(lowered(), tokens()).vectors[0]
    learned = attention_block(lowered(position="learned"), tokens()).vectors[0]
    assert rotary.flop > 0.0
    assert learned.flop == 0.0
    assert sum(float(axis.size) for axis in rotary.width) == 192.0  # (8 + 2 x 2) heads x 16


@pytest.mark.parametrize(
    ("position", "positions"),
    [("rotary", 0.0), ("learned", 32768.0)],  # 512 positions x 64
)
def test_the_embedding_owns_its_tables(lowered: Lowered, position: str, positions: float) -> None:
    (gather,) = embedding(lowered(position=position), tokens()).vectors
    assert float(gather.parameters) == positions
    assert gather.table is not None
    assert float(gather.table.size) == 6400.0  # 100 x 64
    assert (gather.group, float(gather.m), float(gather.width[0].size)) == ("embed", 3.0, 64.0)


def test_the_head_works_on_the_last_token_of_each_sequence(lowered: Lowered) -> None:
    block = head(lowered(), tokens("prefill", 3, 40))
    logits = matmul(block, "logits")
    assert (float(logits.m), width(logits), float(logits.k.size)) == (3.0, 100.0, 64.0)
    (gathered,) = block.collectives
    assert (gathered.kind, float(gathered.m), float(gathered.width)) == ("all_gather", 3.0, 100.0)
    assert {op.group for op in (*block.matmuls, *block.vectors, *block.collectives)} == {"head"}


def test_logits_keep_sixteen_bits_and_a_tied_head_owns_no_weights(lowered: Lowered) -> None:
    tied, untied = (matmul(head(lowered(tied_embeddings=flag), tokens()), "logits") for flag in (True, False))
    assert (tied.owns_weights, untied.owns_weights) == (False, True)
    assert (tied.precision, untied.precision) == ("head", "head")


def test_without_a_window_there_is_one_attention_op(lowered: Lowered) -> None:
    (op,) = attention_block(lowered(), tokens("prefill", 3, 40)).attentions
    assert (op.windowed, op.causal, float(op.count)) == (False, True, 1.0)
    dims = (op.batch, op.query, op.context, op.heads, op.kv_heads, op.head_dim)
    assert tuple(float(value) for value in dims) == (3.0, 40.0, 40.0, 8.0, 2.0, 16.0)


def test_windowed_layers_share_the_count_with_the_others(lowered: Lowered) -> None:
    full, windowed = attention_block(lowered(window=8, windowed_layers=2), tokens()).attentions
    assert (full.windowed, windowed.windowed) == (False, True)
    assert float(windowed.count) == pytest.approx(2 / 6)
    assert float(full.count) == pytest.approx(4 / 6)


def test_the_share_of_windowed_layers_may_vary_by_point(lowered: Lowered) -> None:
    full, windowed = attention_block(lowered(window=8, windowed_layers=1, layers=[2, 4, 8]), tokens()).attentions
    np.testing.assert_allclose(windowed.count, [1 / 2, 1 / 4, 1 / 8])
    np.testing.assert_allclose(full.count + windowed.count, 1.0)


def test_joining_keeps_every_op_in_order(lowered: Lowered, plain_choices: dict[str, Any]) -> None:
    model = lowered(**plain_choices)
    parts = tuple(build(model, tokens()) for build in (norms, attention_block, feed_forward_block))
    whole = joined("decode", parts)
    assert [op.name for op in whole.matmuls] == ["qkv", "attention_out", "ffn_in", "ffn_out"]
    assert [op.name for op in whole.vectors] == ["norm_and_residual", "rotary_and_cache", "activation"]
    assert [op.name for op in whole.collectives] == ["attention_sum", "ffn_sum"]
    assert (len(whole.attentions), whole.phase) == (1, "decode")


def named(ops: tuple[Any, ...], name: str) -> Any:
    (found,) = [op for op in ops if op.name == name]
    return found


@pytest.mark.parametrize(("activation", "flop", "special"), [("smooth", 6, 1), ("relu", 1, 0), ("squared_relu", 2, 0)])
def test_the_activation_of_every_feed_forward_is_the_models(
    lowered: Lowered, routed_choices: dict[str, Any], activation: str, flop: float, special: float
) -> None:
    dense, routed = lowered(activation=activation), lowered(**routed_choices, shared_experts=1, activation=activation)
    acts = [named(feed_forward(dense, tokens(), UNIFORM).vectors, "activation")]
    block = feed_forward(routed, tokens(), UNIFORM)
    acts += [named(block.vectors, name) for name in ("expert_activation", "shared_activation")]
    assert [(op.flop, op.special) for op in acts] == [(flop, special)] * 3


def test_biases_of_alibi_are_no_kernel_of_their_own_and_no_parameters(lowered: Lowered) -> None:
    alibi, rotary = attention_block(lowered(position="alibi"), tokens()), attention_block(lowered(), tokens())
    assert [op.name for op in alibi.vectors] == [
        op.name for op in rotary.vectors
    ]  # keys are still written to the cache
    assert float(named(alibi.vectors, "rotary_and_cache").flop) == 0.0
    assert float(named(embedding(lowered(position="alibi"), tokens()).vectors, "embedding").parameters) == 0.0


def test_norms_after_the_blocks_are_two_more_kernels_with_scales_of_their_own(lowered: Lowered) -> None:
    with_them, without = norms(lowered(post_norms=True), tokens()), norms(lowered(), tokens())
    after = named(with_them.vectors, "post_norm")
    assert with_them.vectors[0].name == without.vectors[0].name == "norm_and_residual"
    assert (float(after.count), after.reads, after.writes, float(after.parameters)) == (2.0, 1.0, 1.0, 64.0)


@pytest.mark.parametrize("made", [1, 2])
def test_blocks_side_by_side_share_one_residual_kernel_and_one_sum(lowered: Lowered, made: int) -> None:
    model = lowered(parallel_norms=made)
    (norm,) = norms(model, tokens()).vectors
    # Reads the stream, attention's and the feed-forward's; writes the stream and each norm.
    assert (float(norm.count), norm.reads, norm.writes) == (1.0, 3.0, 1.0 + made)
    assert float(norm.parameters) == made * 64.0
    sums = (*attention_block(model, tokens()).collectives, *feed_forward(model, tokens(), UNIFORM).collectives)
    assert [op.name for op in sums] == ["ffn_sum"]
    in_turn = lowered()
    assert [op.name for op in attention_block(in_turn, tokens()).collectives] == ["attention_sum"]


UNIFORM = array(0.0)


def test_a_dense_model_has_one_feed_forward_in_every_layer(lowered: Lowered) -> None:
    block, alone = feed_forward(lowered(), tokens(), UNIFORM), feed_forward_block(lowered(), tokens())
    assert [(op.name, op.group) for op in block.matmuls] == [("ffn_in", "layer"), ("ffn_out", "layer")]
    assert [op.name for op in block.vectors] == [op.name for op in alone.vectors]
    assert [op.name for op in block.collectives] == [op.name for op in alone.collectives]


def test_a_mixture_of_experts_without_dense_layers_is_routed_everywhere(
    lowered: Lowered, routed_choices: dict[str, Any]
) -> None:
    block = feed_forward(lowered(**routed_choices), tokens(), UNIFORM)
    assert {op.group for op in (*block.matmuls, *block.vectors, *block.collectives)} == {"moe"}


def test_dense_layers_come_first_with_their_own_width(lowered: Lowered, routed_choices: dict[str, Any]) -> None:
    block = feed_forward(lowered(**routed_choices, dense_layers=2), tokens(), UNIFORM)
    groups = [(op.name, op.group) for op in block.matmuls]
    assert groups == [
        ("ffn_in", "dense"),
        ("ffn_out", "dense"),
        ("router", "moe"),
        ("expert_in", "moe"),
        ("expert_out", "moe"),
    ]
    assert (width(matmul(block, "ffn_in")), width(matmul(block, "expert_in"))) == (192.0, 64.0)  # 2 x 96, 2 x 32
    assert [op.name for op in block.collectives] == ["ffn_sum", "dispatch", "combine", "moe_sum"]
    assert {op.group for op in block.vectors if op.name == "activation"} == {"dense"}


def test_a_sweep_of_dense_layers_that_starts_at_none_has_both_kinds(
    lowered: Lowered, routed_choices: dict[str, Any]
) -> None:
    model = lowered(**routed_choices)
    assert not model.has_dense_layers
    swept = replace(model, dense_layers=array([0, 2]), has_dense_layers=True)
    assert {op.group for op in feed_forward(swept, tokens(), UNIFORM).matmuls} == {"dense", "moe"}


@pytest.mark.parametrize("imbalance", [0.0, 0.5])
def test_the_feed_forward_knows_the_imbalance_of_its_router(
    lowered: Lowered, routed_choices: dict[str, Any], imbalance: float
) -> None:
    block = feed_forward(lowered(**routed_choices, dense_layers=1), tokens(), array(imbalance))
    assert {float(op.routed.imbalance) for op in block.matmuls if op.routed is not None} == {imbalance}
    assert all(op.routed is None for op in block.matmuls if op.group == "dense")


@pytest.mark.parametrize(
    ("qk_norm", "sinks", "scales"),
    [(False, False, 0.0), (True, False, 32.0), (False, True, 8.0), (True, True, 40.0)],  # 2 x 16, one a head
)
def test_sinks_are_one_number_a_head(lowered: Lowered, qk_norm: bool, sinks: bool, scales: float) -> None:
    (rope,) = attention_block(lowered(qk_norm=qk_norm, sinks=sinks), tokens()).vectors
    assert float(rope.parameters) == scales


def test_products_of_attention_stand_around_its_kernels(lowered: Lowered) -> None:
    for model in (lowered(), lowered(output_gate=True, qk_norm=True)):
        around, whole = attention_products(model, tokens()), attention_block(model, tokens())
        assert not around.attentions
        assert (around.matmuls, around.vectors, around.collectives) == (
            whole.matmuls,
            whole.vectors,
            whole.collectives,
        )
        assert attention_ops(model, tokens()) == whole.attentions


@pytest.mark.parametrize(("position", "kernels"), [("rotary", ["rotary_and_cache"]), ("learned", [])])
def test_a_block_without_a_cache_rotates_or_touches_nothing(
    lowered: Lowered, position: str, kernels: list[str]
) -> None:
    model = lowered(position=position)
    made = uncached(model, attention_block(model, tokens()))
    assert [op.name for op in made.vectors] == kernels
    assert [op.cached_keys for op in made.attentions] == [False]
    assert [op.name for op in made.matmuls] == ["qkv", "attention_out"]


def test_a_layer_of_a_hybrid_has_one_norm(lowered: Lowered) -> None:
    mamba = {"pattern": "MM*-M-", "heads": 4, "head_dim": 8, "state": 16}
    hybrid = lowered(mamba=mamba, gated=False, position="none")
    counts = [[float(op.count) for op in norms(model, tokens()).vectors] for model in (lowered(), hybrid)]
    assert counts == [[2.0], [1.0]]
    dense = feed_forward(hybrid, tokens(), array(0.0))
    assert [float(op.count) for op in dense.matmuls] == [pytest.approx(2 / 6)] * 2
