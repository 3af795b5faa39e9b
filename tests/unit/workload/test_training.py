"""The forward graph of a training step: its ops, what is kept for the way back, and what recompute runs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.records import Array, array
from cosim.workload.graph import model_flop, parameters
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Axis, Graph, Matmul, Saved, Vector
from cosim.workload.training import training_graph

Lowered = Callable[..., ModelArrays]
DIMS = st.tuples(
    st.integers(1, 8),  # sequences
    st.integers(1, 4096),  # length
    st.integers(1, 32),  # heads
    st.sampled_from([16, 64, 96, 128]),  # head_dim
)


def gpt(lowered: Lowered, plain: dict[str, Any], heads: int, head_dim: int, **changes: Any) -> ModelArrays:
    """A plain GPT with dropout whose heads fill the hidden width and whose feed-forward is four times as wide."""
    hidden = heads * head_dim
    fields = {"hidden": hidden, "ffn": 4 * hidden, "heads": heads, "kv_heads": heads, "head_dim": head_dim}
    return lowered(**{**plain, **fields, "dropout": True, **changes})


def graph_of(model: ModelArrays, sequences: float = 3, length: float = 40, *, fused: bool = False) -> Graph:
    return training_graph(model, array(sequences), array(length), fused=fused)


def width(axes: tuple[Axis, ...]) -> Array:
    return sum((axis.size for axis in axes), array(0.0))


def kept(graph: Graph, *, group: str = "layer", core: bool = True) -> float:
    """Bytes of the saved tensors of one run of a group, with or without the attention core."""
    chosen = [op for op in graph.saved if op.group == group and (core or not op.core)]
    return float(sum((op.count * op.m * width(op.width) * op.element_bytes for op in chosen), array(0.0)))


def named(ops: tuple[Any, ...], name: str) -> Any:
    (found,) = [op for op in ops if op.name == name]
    return found


@settings(max_examples=60, deadline=None)
@given(dims=DIMS)
def test_an_unfused_layer_keeps_34_bytes_a_number_and_five_a_score(
    lowered: Lowered, plain_choices: dict[str, Any], dims: tuple[int, int, int, int]
) -> None:
    b, s, a, head_dim = dims
    graph = graph_of(gpt(lowered, plain_choices, a, head_dim), b, s)
    assert kept(graph) == s * b * (a * head_dim) * 34 + 5 * a * s * s * b
    assert kept(graph, core=False) == s * b * (a * head_dim) * 34


@settings(max_examples=60, deadline=None)
@given(dims=DIMS)
def test_a_fused_layer_keeps_a_sum_of_each_row_instead_of_the_scores(
    lowered: Lowered, plain_choices: dict[str, Any], dims: tuple[int, int, int, int]
) -> None:
    b, s, a, head_dim = dims
    graph = graph_of(gpt(lowered, plain_choices, a, head_dim), b, s, fused=True)
    assert kept(graph) == s * b * (a * head_dim) * 34 + 4 * a * s * b
    assert kept(graph, core=False) == s * b * (a * head_dim) * 34


@pytest.mark.parametrize(
    ("fused", "a_number", "a_score"),
    [(True, 32, 0), (False, 32, 2)],  # no mask of the two blocks; scores once, no mask, no dropped ones
)
def test_without_dropout_no_mask_is_kept(
    lowered: Lowered, plain_choices: dict[str, Any], fused: bool, a_number: int, a_score: int
) -> None:
    graph = graph_of(gpt(lowered, plain_choices, 4, 16, dropout=False), 3, 40, fused=fused)
    sums = 4 * 4 * 120 if fused else 0
    assert kept(graph) == a_number * 120 * 64 + a_score * 4 * 40 * 120 + sums
    assert kept(graph, group="embed") == 0.0
    assert not [op.name for op in (*graph.saved, *graph.vectors) if "mask" in op.name or "dropout" in op.name]


def test_the_embedding_keeps_its_mask_and_the_head_its_inputs_and_probabilities(
    lowered: Lowered, plain_choices: dict[str, Any]
) -> None:
    graph = graph_of(gpt(lowered, plain_choices, 4, 16), 3, 40)
    assert kept(graph, group="embed") == 120 * 64  # a byte a number
    assert kept(graph, group="head") == 120 * (2 * 64 + 2 * 64 + 4 * 100)


@settings(max_examples=40, deadline=None)
@given(
    changes=st.fixed_dictionaries(
        {name: st.booleans() for name in ("gated", "tied_embeddings", "qkv_bias", "output_bias", "ffn_bias", "qk_norm")}
    ),
    norm=st.sampled_from(["rms", "layer"]),
    position=st.sampled_from(["rotary", "learned"]),
    fused=st.booleans(),
)
def test_training_has_the_parameters_of_serving(
    lowered: Lowered, changes: dict[str, bool], norm: str, position: str, fused: bool
) -> None:
    model = lowered(**changes, norm=norm, position=position)
    graph = graph_of(model, fused=fused)
    total = 0.0
    for op in graph.matmuls:
        times = float(model.layers) if op.group == "layer" else 1.0
        owned = 0.0 if op.activations or not op.owns_weights else float(width(op.n) * op.k.size)
        total += times * (owned + float(width(op.n)) * op.bias)
    for vector in graph.vectors:
        times = float(model.layers) if vector.group == "layer" else 1.0
        table = 0.0 if vector.table is None else float(vector.table.size)
        total += times * float(vector.count * vector.parameters) + table
    assert total == float(parameters(model))


@settings(max_examples=60, deadline=None)
@given(dims=DIMS, fused=st.booleans())
def test_flop_of_a_forward_pass_are_those_of_the_formula(
    lowered: Lowered, plain_choices: dict[str, Any], dims: tuple[int, int, int, int], fused: bool
) -> None:
    b, s, a, head_dim = dims
    h = a * head_dim
    model = gpt(lowered, plain_choices, a, head_dim)
    # 24 b s h^2 of a layer's products and 2 b s h V of the logits; scores and context are 4 b s^2 h when they are
    # whole, and under the mask those of s (s + 1) / 2 pairs.
    pairs = s * (s + 1) / 2 if fused else s * s
    expected = 6 * (24 * b * s * h * h + 4 * b * h * pairs) + 2 * b * s * h * 100
    assert float(model_flop(model, _unbatched(graph_of(model, b, s, fused=fused)))) == pytest.approx(expected)


def _unbatched(graph: Graph) -> Graph:
    """Products that run as a batch, as so many rows: `model_flop` counts single ones."""
    single = [
        op
        if op.batch is None
        else Matmul(op.name, op.group, op.m * op.batch.size, op.n, op.k, op.split, activations=True)
        for op in graph.matmuls
    ]
    return Graph(graph.phase, tuple(single), graph.attentions)


def test_unfused_attention_is_five_kernels_and_fused_attention_one(
    lowered: Lowered, plain_choices: dict[str, Any]
) -> None:
    model = gpt(lowered, plain_choices, 4, 16)
    unfused, fused = graph_of(model), graph_of(model, fused=True)
    products = ["qkv", "attention_out", "ffn_in", "ffn_out", "logits"]
    assert sorted(op.name for op in fused.matmuls) == sorted(products)
    assert sorted(op.name for op in unfused.matmuls) == sorted([*products, "scores", "context"])
    assert [op.name for op in fused.attentions] == ["attention"]
    assert unfused.attentions == ()
    extra = {op.name for op in unfused.vectors} - {op.name for op in fused.vectors}
    assert extra == {"softmax", "score_dropout", "context_layout"}


def test_scores_and_context_by_hand(lowered: Lowered, plain_choices: dict[str, Any]) -> None:
    # 3 sequences of 40 tokens with 4 heads of 16: 12 products of 40 x 40 over 16, and of 40 x 16 over 40
    graph = graph_of(gpt(lowered, plain_choices, 4, 16), 3, 40)
    for name, dims in (("scores", (40.0, 40.0, 16.0)), ("context", (40.0, 16.0, 40.0))):
        op: Matmul = named(graph.matmuls, name)
        assert (float(op.m), float(width(op.n)), float(op.k.size)) == dims
        assert op.batch is not None
        assert (float(op.batch.size), op.split) == (12.0, "batch")
        assert (op.activations, op.core) == (True, True)
    softmax: Vector = named(graph.vectors, "softmax")
    assert float(softmax.m * width(softmax.width)) == 12 * 40 * 40


def test_the_core_is_what_lies_between_the_projections(lowered: Lowered, plain_choices: dict[str, Any]) -> None:
    model = gpt(lowered, plain_choices, 4, 16)
    unfused, fused = graph_of(model), graph_of(model, fused=True)
    core = {op.name for op in (*unfused.matmuls, *unfused.vectors) if op.core}
    assert core == {"scores", "softmax", "score_dropout", "context"}
    assert {op.name for op in unfused.saved if op.core} == {"softmax", "score_mask", "dropped_scores"}
    assert not {op.name for op in (*fused.matmuls, *fused.vectors) if op.core}
    assert {op.name for op in fused.saved if op.core} == {"attention_sums"}


@pytest.mark.parametrize("fused", [True, False])
def test_a_layer_that_is_computed_again_keeps_its_input_alone(
    lowered: Lowered, plain_choices: dict[str, Any], fused: bool
) -> None:
    graph = graph_of(gpt(lowered, plain_choices, 4, 16), fused=fused)
    boundary: list[Saved] = [op for op in graph.saved if op.group == "layer" and op.boundary]
    assert [op.name for op in boundary] == ["layer_input"]
    assert float(boundary[0].m * width(boundary[0].width) * boundary[0].element_bytes) == 2 * 120 * 64
    assert all(op.boundary for op in graph.saved if op.group != "layer")  # neither is ever computed again


def test_a_gated_feed_forward_keeps_both_inputs_of_its_activation(lowered: Lowered) -> None:
    for gated, parts in ((True, 2), (False, 1)):
        saved: Saved = named(graph_of(lowered(gated=gated), fused=True).saved, "activation_input")
        assert float(width(saved.width)) == parts * 96.0


def names_kept(model: ModelArrays) -> list[str]:
    return [op.name for op in graph_of(model, fused=True).saved if op.group == "layer"]


def test_a_plain_relu_keeps_its_output_alone(lowered: Lowered) -> None:
    for activation in ("smooth", "squared_relu"):
        assert "activation_input" in names_kept(lowered(gated=False, activation=activation))
    kept_of_relu = names_kept(lowered(gated=False, activation="relu"))
    assert "activation_input" not in kept_of_relu
    assert "activation_output" in kept_of_relu
    # The product of a gate asks for both of its factors.
    assert "activation_input" in names_kept(lowered(gated=True, activation="relu"))


def test_a_norm_after_each_block_keeps_what_the_block_made(lowered: Lowered) -> None:
    plain, with_norms = graph_of(lowered(), 3, 40), graph_of(lowered(post_norms=True), 3, 40)
    assert kept(with_norms) - kept(plain) == 2 * (2 * 120 * 64)
    counts = [float(named(with_norms.vectors, name).count) for name in ("norm", "post_norm")]
    assert (float(named(plain.vectors, "norm").count), counts) == (2.0, [2.0, 2.0])


@pytest.mark.parametrize(("norms", "inputs"), [(1, 1), (2, 2)])
def test_blocks_side_by_side_keep_the_stream_once(lowered: Lowered, norms: int, inputs: int) -> None:
    model = lowered(parallel_norms=norms)
    found = names_kept(model)
    assert "second_norm_input" not in found
    # One norm has one output, which both blocks read.
    assert sum(name in ("qkv_input", "ffn_input") for name in found) == inputs
    graph = graph_of(model, fused=True)
    assert float(named(graph.vectors, "norm").count) == norms
    assert {op.name: op.into for op in graph.collectives if op.group == "layer"} == {"ffn_sum": "ffn_in"}


@pytest.mark.parametrize(
    "changes",
    [{"post_norms": True}, {"parallel_norms": 1}, {"parallel_norms": 2}, {"position": "alibi"}, {"activation": "relu"}],
)
def test_serving_and_training_own_the_same_weights(lowered: Lowered, changes: dict[str, Any]) -> None:
    model = lowered(**changes)
    graph = graph_of(model, fused=True)
    repeats = {"layer": 6.0}
    owned = sum(float(op.parameters * op.count) * repeats.get(op.group, 1.0) for op in graph.vectors)
    owned += sum(float(op.table.size) for op in graph.vectors if op.table is not None)
    for op in graph.matmuls:
        owned += repeats.get(op.group, 1.0) * float(width(op.n)) * (float(op.k.size) * op.owns_weights + op.bias)
    assert owned == float(parameters(model))


def test_grouped_heads_keep_fewer_keys_and_values(lowered: Lowered) -> None:
    saved: Saved = named(graph_of(lowered(), fused=True).saved, "qkv")
    assert float(width(saved.width)) == (8 + 2 * 2) * 16


def test_every_token_has_a_loss(lowered: Lowered) -> None:
    graph = graph_of(lowered(), 3, 40)
    logits: Matmul = named(graph.matmuls, "logits")
    assert (float(logits.m), float(width(logits.n)), float(logits.k.size)) == (120.0, 100.0, 64.0)
    assert float(named(graph.vectors, "cross_entropy").m) == 120.0
    sums = named(graph.collectives, "loss_sums")
    # maximum, sum and target of each token, four bytes each: two numbers of 16 bits
    assert (sums.kind, float(sums.count), float(sums.m * sums.width)) == ("all_reduce", 3.0, 240.0)


def test_rotary_is_work_only_where_positions_rotate(lowered: Lowered) -> None:
    for position, runs in (("rotary", True), ("learned", False), ("alibi", False)):
        for fused in (True, False):
            names = {op.name for op in graph_of(lowered(position=position), fused=fused).vectors}
            assert ("rotary_and_cache" in names) == runs
    assert "rotary_and_cache" in {op.name for op in graph_of(lowered(position="learned", qk_norm=True)).vectors}


def test_norms_and_residuals_are_what_sequence_parallelism_splits(lowered: Lowered) -> None:
    graph = graph_of(lowered(dropout=True))
    assert {op.name for op in graph.vectors if op.sequence} == {"norm", "residual", "final_norm"}
    # A tensor is split along the sequence or along heads and features, and never both.
    assert not [op.name for op in graph.saved if op.sequence == op.splits]


def test_each_sum_names_the_product_that_its_gradient_belongs_to(lowered: Lowered) -> None:
    graph = graph_of(lowered())
    names = {op.name for op in graph.matmuls}
    into = {op.name: op.into for op in graph.collectives if op.into}
    assert into == {"attention_sum": "qkv", "ffn_sum": "ffn_in", "logits_gather": "logits"}
    assert set(into.values()) <= names


@pytest.mark.parametrize("fused", [True, False])
def test_points_have_the_graph_that_each_has_alone(
    lowered: Lowered, plain_choices: dict[str, Any], fused: bool
) -> None:
    model = lowered(**plain_choices, dropout=True, layers=[2, 4, 8])
    together = training_graph(model, array([1, 2, 4]), array([16, 512, 40]), fused=fused)
    for index, (sequences, length) in enumerate(((1, 16), (2, 512), (4, 40))):
        alone = training_graph(model, array(sequences), array(length), fused=fused)
        for ops, same in ((together.matmuls, alone.matmuls), (together.vectors, alone.vectors)):
            np.testing.assert_array_equal([op.m[index] for op in ops], [float(op.m) for op in same])
        for saved, one in zip(together.saved, alone.saved, strict=True):
            size = np.broadcast_to(saved.m * width(saved.width), (3,))
            assert size[index] == float(one.m * width(one.width))
