"""Graphs of networks: shapes, FLOP and parameters of every kind of layer, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.schema import validated
from cosim.workload.graph import decode_graph, model_flop, parameters, prefill_graph
from cosim.workload.model import ModelArrays
from cosim.workload.network import Network, has_phase, lower_network
from cosim.workload.ops import Graph, Matmul, Vector

SMALL = st.integers(1, 12)


def model(*layers: dict[str, Any], **varied: Any) -> ModelArrays:
    named = [{"name": f"l{index}", **layer} for index, layer in enumerate(layers)]
    about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "an item", "layers": named}
    return lower_network(vary(Varied(validated(Network, about)), varied))


def graph(layer: dict[str, Any], items: float = 1.0, tokens: float = 1.0) -> Graph:
    return prefill_graph(model(layer), array(items), array(tokens))


def product(layer: dict[str, Any], items: float = 1.0, tokens: float = 1.0) -> Matmul:
    made = graph(layer, items, tokens)
    assert not (made.attentions)
    assert not (made.vectors)
    return made.matmuls[0]


def kernel(layer: dict[str, Any], items: float = 1.0, tokens: float = 1.0) -> Vector:
    made = graph(layer, items, tokens)
    assert not (made.attentions)
    assert not (made.matmuls)
    return made.vectors[0]


def moved(op: Vector) -> tuple[float, float]:
    """Elements read and written."""
    elements = float(op.m) * float(op.width[0].size)
    return elements * float(op.reads), elements * float(op.writes)


def conv(**fields: Any) -> dict[str, Any]:
    return {"kind": "conv", "inputs": 4, "outputs": 6, "kernel": 3, "height": 8, **fields}


@settings(max_examples=60)
@given(inputs=SMALL, outputs=SMALL, side=st.integers(1, 20), kernel=st.integers(1, 7), stride=SMALL, groups=SMALL)
def test_a_convolution_counts_the_loops_of_its_definition(
    inputs: int, outputs: int, side: int, kernel: int, stride: int, groups: int
) -> None:
    # Channels in multiples of the groups, more than one a group so that it is no depthwise one.
    layer = conv(inputs=2 * inputs * groups, outputs=outputs * groups, kernel=kernel, height=side, stride=stride)
    net = model({**layer, "groups": groups})
    made = len(range(0, side, stride))
    loops = made**2 * (outputs * groups) * (2 * inputs) * kernel**2
    assert float(model_flop(net, prefill_graph(net, array(3.0), array(1.0)))) == 3 * 2 * loops
    assert float(parameters(net)) == outputs * groups * 2 * inputs * kernel**2


@given(side=st.integers(1, 20), kernel=st.integers(1, 20), stride=SMALL)
def test_without_padding_a_window_stops_at_the_edge(side: int, kernel: int, stride: int) -> None:
    kernel = min(kernel, side)
    op = product(conv(height=side, kernel=kernel, stride=stride, padding="none"))
    assert float(op.m) == len(range(0, side - kernel + 1, stride)) ** 2


@given(side=st.integers(2, 20), kernel=st.integers(1, 7), stride=st.integers(1, 4))
def test_of_the_patches_the_input_is_distinct(side: int, kernel: int, stride: int) -> None:
    op = product(conv(height=side, kernel=kernel, stride=stride), items=2.0)
    read = float(op.m * op.k.size * op.distinct)
    assert 0.0 < float(op.distinct) <= 1.0
    assert read <= 2 * side**2 * 4 * (1.0 + 1e-12)
    if kernel >= stride and side % stride == 0:
        assert read == pytest.approx(2 * side**2 * 4)  # every pixel once
    if kernel == 1:
        assert float(op.distinct) == 1.0


def test_a_convolution_as_a_product_by_hand() -> None:
    op = product(conv(inputs=64, outputs=128, height=56, stride=2, bias=True), items=8.0)
    assert (float(op.m), float(op.n[0].size), float(op.k.size)) == (8 * 28 * 28, 128.0, 576.0)
    assert float(op.distinct) == pytest.approx(4 / 9)  # 56 x 56 of 28 x 28 x 9
    assert (op.split, op.bias, op.activations) == ("none", 1, False)


def test_a_folded_norm_is_two_numbers_a_channel() -> None:
    plain, biased, folded = (float(parameters(model(conv(**f)))) for f in ({}, {"bias": True}, {"norm": True}))
    assert (biased - plain, folded - plain) == (6.0, 12.0)
    grouped = float(parameters(model(conv(groups=2, bias=True))))
    assert grouped == 6 * 2 * 9 + 6


def test_a_depthwise_convolution_is_vector_work() -> None:
    op = kernel(conv(inputs=6, groups=6, stride=2, bias=True), items=5.0)
    assert moved(op) == (5 * 64 * 6, 5 * 16 * 6)
    assert float(op.flop) == 18.0
    assert float(parameters(model(conv(inputs=6, groups=6, bias=True)))) == 6 * 9 + 6


def test_points_that_are_depthwise_and_points_that_are_not_keep_to_themselves() -> None:
    net = model(conv(inputs=6, groups=2), **{"layers.l0.groups": [2.0, 6.0, 3.0]})
    made = prefill_graph(net, array(1.0), array(1.0))
    assert made.matmuls[0].count.tolist() == [1.0, 0.0, 1.0]
    assert made.vectors[0].count.tolist() == [0.0, 1.0, 0.0]
    alone = [float(parameters(model(conv(inputs=6, groups=groups)))) for groups in (2, 6, 3)]
    assert parameters(net).tolist() == alone


def test_a_convolution_over_a_sequence_has_width_one() -> None:
    op = kernel(conv(inputs=6, groups=6, kernel=4, kernel_width=1, height="tokens", width=1), items=2.0, tokens=10.0)
    assert (moved(op), float(op.flop)) == ((120.0, 120.0), 8.0)


def test_a_linear_layer_runs_on_the_rows_of_every_item() -> None:
    op = product({"kind": "linear", "inputs": 5, "outputs": 7, "rows": "tokens", "count": 3}, 2.0, 11.0)
    assert (float(op.m), float(op.n[0].size), float(op.k.size), float(op.count)) == (22.0, 7.0, 5.0, 3.0)
    assert (op.precision, op.owns_weights) == ("linear", True)
    assert float(parameters(model({"kind": "linear", "inputs": 5, "outputs": 7, "count": 3}))) == 3 * (35 + 7)


def test_a_tied_layer_has_the_weights_of_a_table() -> None:
    table = {"kind": "gather", "lookups": 1, "width": 5, "table_rows": 7}
    tied = {"kind": "linear", "inputs": 5, "outputs": 7, "bias": False, "tied": True}
    assert float(parameters(model(table, tied))) == 35.0
    assert product(tied).precision == "head"


def test_a_product_of_activations_has_no_weights() -> None:
    layer = {"kind": "product", "rows": 27, "columns": 26, "depth": 128, "products": 2}
    op = product(layer, items=10.0)
    assert (float(op.m), float(op.n[0].size), float(op.k.size), float(op.batch.size)) == (27.0, 26.0, 128.0, 20.0)
    assert op.activations
    assert float(parameters(model(layer))) == 0.0


@pytest.mark.parametrize(("causal", "context", "pairs"), [(False, None, 100), (False, 7, 70), (True, None, 55)])
def test_attention_sees_both_ways_or_another_sequence(causal: bool, context: int | None, pairs: int) -> None:
    layer = {"kind": "attention", "heads": 4, "head_dim": 8, "tokens": 10, "context": context, "causal": causal}
    net = model(layer)
    made = prefill_graph(net, array(3.0), array(1.0))
    op = made.attentions[0]
    assert (op.causal, op.cached_keys, op.windowed) == (causal, False, False)
    assert float(model_flop(net, made)) == 3 * 4 * 2 * (8 + 8) * pairs


@pytest.mark.parametrize(
    ("layer", "flop", "special", "owned", "tensors"),
    [
        ({"kind": "norm"}, 8.0, 0.0, 16.0, (1, 1)),
        ({"kind": "norm", "style": "rms", "reads": 2, "writes": 2}, 5.0, 0.0, 8.0, (2, 2)),
        ({"kind": "norm", "style": "group", "reads": 2, "affine": False}, 8.0, 0.0, 0.0, (2, 1)),
        ({"kind": "activation"}, 6.0, 1.0, 0.0, (1, 1)),
        ({"kind": "activation", "exponential": False, "reads": 3}, 1.0, 0.0, 0.0, (3, 1)),
        ({"kind": "softmax", "writes": 0}, 5.0, 1.0, 0.0, (1, 0)),
        ({"kind": "add"}, 1.0, 0.0, 0.0, (2, 1)),
        ({"kind": "add", "reads": 3, "parameters": 99}, 2.0, 0.0, 99.0, (3, 1)),
        ({"kind": "copy"}, 0.0, 0.0, 0.0, (1, 1)),
    ],
)
def test_elementwise_layers(
    layer: dict[str, Any], flop: float, special: float, owned: float, tensors: tuple[int, int]
) -> None:
    op = kernel({**layer, "rows": 4, "width": 8}, items=3.0)
    assert (float(op.flop), float(op.special), float(op.parameters)) == (flop, special, owned)
    assert moved(op) == (96.0 * tensors[0], 96.0 * tensors[1])


def test_pooling_reads_its_input_once_and_writes_its_output() -> None:
    window = kernel({"kind": "pool", "channels": 3, "height": 8, "kernel": 3, "stride": 2}, items=2.0)
    assert (moved(window), float(window.flop)) == ((2 * 64 * 3, 2 * 16 * 3), 9.0)
    whole = kernel({"kind": "pool", "channels": 3, "height": 7, "kernel": 7, "padding": "none"})
    assert moved(whole) == (pytest.approx(147.0), 3.0)


def test_pooling_with_gaps_reads_only_what_it_looks_at() -> None:
    op = kernel({"kind": "pool", "channels": 1, "height": 8, "kernel": 1, "stride": 2})
    assert moved(op) == (16.0, 16.0)


def test_upsampling_writes_each_pixel_in_both_directions() -> None:
    assert moved(kernel({"kind": "upsample", "channels": 3, "height": 8, "factor": 3}, items=2.0)) == (384.0, 3456.0)


def test_a_gather_reads_rows_at_random_and_may_sum_them() -> None:
    layer = {"kind": "gather", "lookups": 20, "width": 16, "table_rows": 1000, "outputs": 4}
    op = kernel(layer, items=3.0)
    assert moved(op) == (0.0, 3 * 4 * 16)
    assert (float(op.gathers), float(op.flop)) == (5.0, 4.0)
    assert float(parameters(model({**layer, "count": 2}))) == 2 * 16_000
    each = kernel({**layer, "outputs": None})
    assert (float(each.m), float(each.gathers), float(each.flop)) == (20.0, 1.0, 0.0)


SCAN = {"kind": "scan", "tokens": "tokens", "heads": 8, "head_dim": 4, "state": 16, "groups": 2, "chunk": 32}


@settings(max_examples=40)
@given(chunks=st.integers(1, 9), items=st.integers(1, 5))
def test_a_scan_of_whole_chunks_has_the_flop_of_its_formula(chunks: int, items: int) -> None:
    net, tokens = model(SCAN), 32 * chunks
    flop = float(model_flop(net, prefill_graph(net, array(items), array(tokens))))
    # 2 Q N G + 2 H P (Q + 2 N) a token
    assert flop == pytest.approx(items * tokens * (2 * 32 * 16 * 2 + 2 * 8 * 4 * (32 + 2 * 16)))


def test_a_scan_in_its_kernels_by_hand() -> None:
    made = graph(SCAN, items=2.0, tokens=100.0)  # three chunks of 32 and a rest
    scores, states, output = made.matmuls
    assert [float(x) for x in (scores.m, scores.n[0].size, scores.k.size, scores.batch.size)] == [32, 32, 16, 16]
    assert [float(x) for x in (states.m, states.n[0].size, states.k.size, states.batch.size)] == [16, 4, 32, 64]
    assert [float(x) for x in (output.m, output.n[0].size, output.k.size, output.batch.size)] == [32, 4, 48, 64]
    # Four heads of a group read the same B, C and scores.
    assert [float(op.distinct) for op in made.matmuls] == [1.0, 0.25, 0.25]
    assert all(op.activations and op.precision == "head" for op in made.matmuls)
    decay, passing = made.vectors
    assert moved(decay) == (200 * 8, 200 * 8 * 2)
    assert float(decay.special) == 33 / 2 + 2
    # States are kept at 32 bits: 2 x 4 chunks x 8 heads x 4 x 16, read and written.
    assert moved(passing) == (64 * 64 * 2, 64 * 64 * 2)
    assert float(parameters(model(SCAN))) == 24.0
    assert {op.name for op in (*made.matmuls, *made.vectors)} == {
        f"l0.{each}" for each in ("scores", "states", "output", "decay", "passing")
    }


def test_a_scan_of_few_tokens_is_one_short_chunk() -> None:
    scores = graph(SCAN, tokens=5.0).matmuls[0]
    assert (float(scores.m), float(scores.batch.size)) == (5.0, 2.0)


def test_the_work_of_a_scan_is_linear_in_the_tokens_and_that_of_attention_is_not() -> None:
    def flop(layer: dict[str, Any], tokens: float) -> float:
        net = model(layer)
        return float(model_flop(net, prefill_graph(net, array(1.0), array(tokens))))

    attention = {"kind": "attention", "heads": 8, "head_dim": 4, "tokens": "tokens"}
    assert flop(SCAN, 4096.0) / flop(SCAN, 1024.0) == pytest.approx(4.0)
    assert flop(attention, 4096.0) / flop(attention, 1024.0) == pytest.approx(16.0)


def test_layers_that_repeat_count_as_often() -> None:
    one, three = (model({**conv(), "count": count}) for count in (1, 3))
    flop = [float(model_flop(net, prefill_graph(net, array(2.0), array(1.0)))) for net in (one, three)]
    assert flop[1] == 3 * flop[0]
    assert float(parameters(three)) == 3 * float(parameters(one))


def test_points_of_a_batch_are_points_alone() -> None:
    net = model(conv(), SCAN, **{"layers.l0.outputs": [6.0, 8.0], "layers.l1.state": [16.0, 32.0]})
    together = model_flop(net, prefill_graph(net, array([1.0, 2.0]), array([64.0, 128.0])))
    for index, (outputs, state, items, tokens) in enumerate([(6, 16, 1.0, 64.0), (8, 32, 2.0, 128.0)]):
        alone = model(conv(outputs=outputs), {**SCAN, "state": state})
        flop = model_flop(alone, prefill_graph(alone, array(items), array(tokens)))
        assert together[index] == pytest.approx(float(flop), rel=1e-12)


def test_a_network_is_not_decoded() -> None:
    net, one = model(conv()), array(1.0)
    with pytest.raises(SpecError, match="has no decode step"):
        decode_graph(net, one, one)


def test_ops_are_in_the_order_of_the_layers() -> None:
    made = prefill_graph(
        model(conv(), {"kind": "copy", "width": 2}, {"kind": "linear", "inputs": 2, "outputs": 2}),
        array(1.0),
        array(1.0),
    )
    assert [op.name for op in made.matmuls] == ["l0", "l2"]
    assert [op.name for op in made.vectors] == ["l1"]
    assert made.collectives == ()
    assert np.ndim(made.matmuls[0].m) == 0


@settings(max_examples=60)
@given(inputs=SMALL, outputs=SMALL, side=st.integers(1, 9), kernel=st.integers(1, 4), stride=st.integers(1, 3))
def test_a_convolution_of_a_volume_counts_its_loops(
    inputs: int, outputs: int, side: int, kernel: int, stride: int
) -> None:
    layer = conv(
        inputs=inputs, outputs=outputs, kernel=kernel, kernel_depth=kernel, height=side, depth=side, stride=stride
    )
    op = product(layer, items=2.0)
    made = -(-side // stride)
    assert float(op.m) == 2 * made**3
    assert float(op.k.size) == inputs * kernel**3
    assert float(op.pixels) == pytest.approx((side / made) ** 3)
    assert float(parameters(model(layer))) == inputs * outputs * kernel**3


def test_a_volume_of_one_slice_is_an_image() -> None:
    flat, thin = product(conv()), product(conv(depth=1, kernel_depth=1))
    assert (float(flat.m), float(flat.k.size)) == (float(thin.m), float(thin.k.size))


LSTM = {"kind": "lstm", "tokens": 50, "inputs": 12, "outputs": 16}


@settings(max_examples=40)
@given(steps=st.integers(1, 60), inputs=SMALL, cells=SMALL, items=st.integers(1, 5))
def test_a_recurrent_layer_by_hand(steps: int, inputs: int, cells: int, items: int) -> None:
    layer = {**LSTM, "tokens": steps, "inputs": inputs, "outputs": cells}
    network = model(layer)
    made = prefill_graph(network, array(items), array(1.0))
    assert float(parameters(network)) == 4 * cells * (inputs + cells + 2)
    assert float(model_flop(network, made)) == 2 * items * steps * 4 * cells * (inputs + cells)
    into, step = made.matmuls
    assert (float(into.m), float(into.count)) == (items * steps, 1.0)
    # One product after the other: a step has the rows of the batch alone.
    assert (float(step.m), float(step.count), step.owns_weights) == (items, steps, False)


def test_steps_of_a_recurrent_layer_may_be_the_tokens() -> None:
    tokens = graph({**LSTM, "tokens": "tokens"}, tokens=7.0)
    assert [float(op.count) for op in tokens.matmuls] == [1.0, 7.0]
    assert float(tokens.vectors[0].m) == 7.0


def test_a_recurrent_layer_is_not_trained_here() -> None:
    with pytest.raises(SpecError, match="recurrent"):
        has_phase(model(LSTM), "train")
    has_phase(model(LSTM), "prefill")


@settings(max_examples=30, deadline=None)
@given(turns=st.integers(1, 50), inputs=SMALL, outputs=SMALL, items=SMALL)
def test_turns_repeat_kernels_and_share_weights(turns: int, inputs: int, outputs: int, items: int) -> None:
    layer = {"kind": "linear", "inputs": inputs, "outputs": outputs}
    once, often = (graph({**layer, **extra}, float(items)) for extra in ({}, {"turns": turns}))
    assert sum(float(op.count) for op in often.matmuls) == turns
    assert all(float(op.m) == items for op in often.matmuls)
    assert parameters(model({**layer, "turns": turns})) == parameters(model(layer))
    flop = [sum(float(np.ravel(op.count * op.m * op.k.size)[0]) for op in made.matmuls) for made in (once, often)]
    assert flop[1] == pytest.approx(turns * flop[0])


def test_a_loop_of_sums_owns_its_numbers_once() -> None:
    layer = {"kind": "add", "rows": 3, "width": 4, "parameters": 12}
    made = graph({**layer, "turns": 5})
    assert [(op.name, float(op.count), float(op.parameters)) for op in made.vectors] == [
        ("l0", 1.0, 12.0),
        ("l0.again", 4.0, 0.0),
    ]
    assert all(op.follows for op in made.vectors)


def test_what_follows_a_product_is_said() -> None:
    kinds = {
        "add": {"width": 4},
        "activation": {"width": 4},
        "copy": {"width": 4},
        "norm": {"width": 4},
        "softmax": {"width": 4},
    }
    found = {kind: graph({"kind": kind, **sizes}).vectors[0].follows for kind, sizes in kinds.items()}
    assert found == {"add": True, "activation": True, "copy": True, "norm": False, "softmax": False}


@settings(max_examples=30, deadline=None)
@given(kernel=st.integers(1, 11), stride=st.integers(1, 11), size=st.integers(12, 64))
def test_patches_side_by_side_have_a_row_of_the_window_in_common(kernel: int, stride: int, size: int) -> None:
    layer = {"kind": "conv", "inputs": 3, "outputs": 8, "kernel": kernel, "stride": stride, "height": size}
    made = product(layer)
    assert float(made.fetched) == min(stride / kernel, 1.0)
    assert float(made.distinct) <= float(made.fetched) * (1.0 + 1e-12) or stride > 1
