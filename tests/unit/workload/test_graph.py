"""Graphs of a step: parameters against a list of tensors, FLOP and visible pairs against a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.workload.graph import (
    attention_flop,
    decode_graph,
    kv_bytes_per_token,
    model_flop,
    parameters,
    prefill_graph,
    visible_pairs,
)
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.ops import Attention

Describe = Callable[..., Model]
Lowered = Callable[..., ModelArrays]


def attention(query: Any, context: Any, window: Any = None, *, causal: bool = True, batch: float = 1) -> Attention:
    limit = array(0.0 if window is None else window)
    dims = (array(batch), array(query), array(context), array(8), array(2), array(16))
    return Attention("a", "layer", "prefill", *dims, limit, window is not None, causal)


def pairs_in_mask(query: int, context: int, window: int | None) -> int:
    """True entries of the mask of the last `query` rows: key <= row, and no further back than the window."""
    row, key = np.arange(context)[-query:, None], np.arange(context)[None, :]
    mask = key <= row
    if window is not None:
        mask &= row - key < window
    return int(mask.sum())


def tensors_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a checkpoint, one by one."""
    inside, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embed": (model.vocab, model.hidden)}
    for name in ["final", *(f"{layer}.{half}" for layer in range(model.layers) for half in ("attention", "ffn"))]:
        shapes[f"{name}.norm"] = (model.hidden,)
        if model.norm == "layer":
            shapes[f"{name}.norm.shift"] = (model.hidden,)
    linear = {"q": (inside, model.hidden), "k": (keys, model.hidden), "v": (keys, model.hidden)}
    linear |= {"o": (model.hidden, inside), "up": (model.ffn, model.hidden), "down": (model.hidden, model.ffn)}
    if model.gated:
        linear["gate"] = (model.ffn, model.hidden)
    for layer in range(model.layers):
        for name, shape in linear.items():
            shapes[f"{layer}.{name}"] = shape
            has_bias = {"o": model.output_bias, "q": model.qkv_bias, "k": model.qkv_bias, "v": model.qkv_bias}
            if has_bias.get(name, model.ffn_bias):
                shapes[f"{layer}.{name}.bias"] = shape[:1]
        if model.qk_norm:
            shapes |= {f"{layer}.{name}_norm": (model.head_dim,) for name in "qk"}
    if not model.tied_embeddings:
        shapes["head"] = (model.vocab, model.hidden)
    if model.position == "learned":
        shapes["positions"] = (model.max_positions, model.hidden)
    return shapes


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 8),
    groups=st.integers(1, 4),
    flags=st.lists(st.booleans(), min_size=6, max_size=6),
    norm=st.sampled_from(["rms", "layer"]),
    position=st.sampled_from(["rotary", "learned"]),
)
def test_parameters_are_the_elements_of_every_tensor(
    describe: Describe, layers: int, groups: int, flags: list[bool], norm: str, position: str
) -> None:
    names = ("gated", "tied_embeddings", "qkv_bias", "output_bias", "ffn_bias", "qk_norm")
    choices: dict[str, Any] = dict(zip(names, flags, strict=True))
    model = describe(layers=layers, kv_heads=groups, heads=2 * groups, norm=norm, position=position, **choices)
    elements = sum(int(np.prod(shape)) for shape in tensors_of(model).values())
    assert float(parameters(lower_model(Varied(model)))) == elements


@settings(max_examples=60, deadline=None)
@given(data=st.data(), context=st.integers(1, 60), window=st.none() | st.integers(1, 80))
def test_visible_pairs_are_the_true_entries_of_the_mask(data: st.DataObject, context: int, window: int | None) -> None:
    query = data.draw(st.integers(1, context))
    assert float(visible_pairs(attention(query, context, window))) == pairs_in_mask(query, context, window)


def test_visible_pairs_of_drawn_points_are_those_of_each_point() -> None:
    rng = np.random.default_rng(5)
    context, window = rng.integers(1, 50, 200), rng.integers(1, 60, 200)
    query = rng.integers(1, context + 1)
    expected = [pairs_in_mask(*point) for point in zip(query, context, window, strict=True)]
    np.testing.assert_array_equal(visible_pairs(attention(query, context, window)), expected)


@pytest.mark.parametrize(
    ("query", "context", "window", "pairs"),
    [
        (1, 4608, None, 4608),  # decode reads the whole cache
        (1, 4608, 1024, 1024),  # or the window of it
        (4, 4, None, 10),  # 1 + 2 + 3 + 4
        (4, 4, 2, 7),  # 1 + 2 + 2 + 2
        (2, 6, None, 11),  # the last two of six: 5 + 6
        (2, 6, 3, 6),
    ],
)
def test_visible_pairs_by_hand(query: int, context: int, window: int | None, pairs: int) -> None:
    assert float(visible_pairs(attention(query, context, window))) == pairs


def test_without_a_mask_every_query_sees_every_key() -> None:
    assert float(visible_pairs(attention(4, 6, causal=False))) == 24.0


def test_attention_flop_by_hand() -> None:
    # 2 (scores) x 2 (values) x 3 sequences x 8 heads x 16 x 10 pairs: 4 x 3 x 8 x 16 x 10
    assert float(attention_flop(attention(4, 4, batch=3))) == 15_360.0


def test_prefill_flop_of_the_small_model_by_hand(lowered: Lowered) -> None:
    model = lowered(layers=1)
    flop = float(model_flop(model, prefill_graph(model, array(2), array(4))))
    # rows 8: qkv 64 x 192, out 128 x 64, in 64 x 192, out 96 x 64 -> 2 x 8 x 38912 = 622592
    # logits of 2 rows: 2 x 2 x 64 x 100 = 25600;  attention 4 x 2 x 8 x 16 x 10 = 10240
    assert flop == 622_592 + 25_600 + 10_240


def test_layers_multiply_flop_and_nothing_is_unrolled(lowered: Lowered) -> None:
    def cost(layers: int) -> tuple[float, int]:
        model = lowered(layers=layers)
        graph = decode_graph(model, array(1), array(32))
        return float(model_flop(model, graph)), len(graph.matmuls)

    (one, ops), (two, _), (seven, same_ops) = cost(1), cost(2), cost(7)
    assert seven - one == pytest.approx(6 * (two - one), rel=1e-12)
    assert ops == same_ops == 5


def test_a_token_of_llama_70b_costs_two_flop_a_weight_without_the_embedding() -> None:
    model = lower_model(Varied(load_model("llama-3.1-70b")))
    graph = decode_graph(model, array(1), array(1))
    matrix = 2.0 * (70_553_706_496 - 128_256 * 8192 - 161 * 8192)  # less the table and 161 norms
    attended = 4.0 * 80 * 64 * 128  # one visible pair
    assert float(model_flop(model, graph)) == matrix + attended


@pytest.mark.parametrize(("element_bytes", "expected"), [(2.0, 327_680.0), (1.0, 163_840.0)])
def test_cache_of_a_token_of_llama_70b(element_bytes: float, expected: float) -> None:
    # 2 x 80 layers x 8 kv heads x 128 = 163,840 elements
    model = lower_model(Varied(load_model("llama-3.1-70b")))
    assert float(kv_bytes_per_token(model, element_bytes)) == expected


@pytest.mark.parametrize("build", [prefill_graph, decode_graph])
def test_a_graph_names_each_op_once(lowered: Lowered, build: Callable[[ModelArrays, Array, Array], Any]) -> None:
    graph = build(lowered(window=8, windowed_layers=2), array(2), array(16))
    names = [op.name for ops in (graph.matmuls, graph.attentions, graph.vectors, graph.collectives) for op in ops]
    assert len(names) == len(set(names)) == 17  # 5 + 2 + 6 + 4


def test_prefill_and_decode_differ_in_rows_only(lowered: Lowered) -> None:
    model = lowered()
    prefill, decode = prefill_graph(model, array(2), array(16)), decode_graph(model, array(2), array(16))
    assert (prefill.phase, decode.phase) == ("prefill", "decode")
    assert [op.name for op in prefill.matmuls] == [op.name for op in decode.matmuls]
    assert [float(op.m) for op in prefill.matmuls] == [32.0, 32.0, 32.0, 32.0, 2.0]
    assert [float(op.m) for op in decode.matmuls] == [2.0] * 5
