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
    active_parameters,
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


Choices = dict[str, Any]


def feed_forward_tensors(
    model: Model, into: int, width: int, *, name: str, bias: bool = False
) -> dict[str, tuple[int, ...]]:
    """Gate, up and down of one feed-forward or expert."""
    shapes: dict[str, tuple[int, ...]] = {f"{name}.up": (width, into), f"{name}.down": (into, width)}
    if model.gated:
        shapes[f"{name}.gate"] = (width, into)
    if bias:
        shapes |= {f"{matrix}.bias": shape[:1] for matrix, shape in list(shapes.items())}
    return shapes


def routed_tensors_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a routed model with latent attention, one by one; those of expert e end in #e."""
    assert model.experts is not None
    assert model.expert_ffn is not None
    assert None not in (model.kv_latent, model.rope_dim, model.value_dim)
    hidden, heads, key = model.hidden, model.heads, model.head_dim + int(model.rope_dim or 0)
    latent, small, value = int(model.kv_latent or 0), model.query_latent, int(model.value_dim or 0)
    shapes: dict[str, tuple[int, ...]] = {"embed": (model.vocab, hidden), "final.norm": (hidden,)}
    if not model.tied_embeddings:
        shapes["head"] = (model.vocab, hidden)
    for layer in range(model.layers):
        own: dict[str, tuple[int, ...]] = {"norm.1": (hidden,), "norm.2": (hidden,)}
        own |= {"kv_down": (latent + int(model.rope_dim or 0), hidden), "kv_norm": (latent,)}
        own |= {"kv_up": (heads * (model.head_dim + value), latent), "o": (hidden, heads * value)}
        if small is None:
            own["q"] = (heads * key, hidden)
        else:
            own |= {"q_down": (small, hidden), "q_norm": (small,), "q_up": (heads * key, small)}
        if layer < model.dense_layers:
            own |= feed_forward_tensors(model, hidden, model.ffn, name="ffn")
        else:
            own["router"] = (model.experts, hidden)
            own |= {"router.bias": (model.experts,)} if model.router_bias else {}
            for expert in range(model.experts):
                alone = feed_forward_tensors(model, hidden, model.expert_ffn, name="expert")
                own |= {f"{name}#{expert}": shape for name, shape in alone.items()}
            for shared in range(model.shared_experts):
                own |= feed_forward_tensors(model, hidden, model.expert_ffn, name=f"shared{shared}")
        shapes |= {f"{layer}.{name}": shape for name, shape in own.items()}
    return shapes


ROUTED_MODELS = st.fixed_dictionaries(
    {
        "layers": st.integers(2, 5),
        "dense_layers": st.integers(0, 1),
        "shared_experts": st.integers(0, 2),
        "experts_per_token": st.integers(1, 8),
        "query_latent": st.none() | st.just(24),
        "gated": st.booleans(),
        "tied_embeddings": st.booleans(),
        "router_bias": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(changes=ROUTED_MODELS)
def test_parameters_of_a_routed_latent_model_are_the_elements_of_every_tensor(
    describe: Describe, routed_choices: Choices, latent_choices: Choices, changes: Choices
) -> None:
    model = describe(**{**routed_choices, **latent_choices, **changes})
    elements = {name: int(np.prod(shape)) for name, shape in routed_tensors_of(model).items()}
    arrays = lower_model(Varied(model))
    assert float(parameters(arrays)) == sum(elements.values())
    # A token meets the first experts_per_token of the experts, say; of the table one row, which multiplies nothing.
    unused = [name for name in elements if "#" in name and int(name.split("#")[1]) >= model.experts_per_token]
    if not model.tied_embeddings:
        unused.append("embed")
    assert float(active_parameters(arrays)) == sum(elements.values()) - sum(elements[name] for name in unused)


@settings(max_examples=40, deadline=None)
@given(biased=st.booleans(), experts=st.integers(2, 16), chosen=st.integers(1, 2), gated=st.booleans())
def test_biases_of_experts_count_once_for_each_expert(
    lowered: Lowered, biased: bool, experts: int, chosen: int, gated: bool
) -> None:
    model = lowered(
        experts=experts, experts_per_token=chosen, expert_ffn=32, ffn_bias=biased, gated=gated, router_bias=biased
    )
    plain = lowered(experts=experts, experts_per_token=chosen, expert_ffn=32, gated=gated)
    # an expert: 32 (twice where gated) and 64; the router one each; six layers
    each = (32 * (1 + gated) + 64) * biased
    assert float(parameters(model) - parameters(plain)) == 6 * experts * (each + biased)
    assert float(active_parameters(model) - active_parameters(plain)) == 6 * (chosen * each + experts * biased)


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_uses_all_of_a_dense_model_but_a_table_that_is_not_the_head(lowered: Lowered, tied: bool) -> None:
    model = lowered(tied_embeddings=tied)
    assert float(parameters(model) - active_parameters(model)) == (0.0 if tied else 6400.0)  # 100 x 64


def test_a_mixture_of_one_expert_is_a_dense_model_and_a_router(lowered: Lowered) -> None:
    dense, single = lowered(), lowered(experts=1, experts_per_token=1, expert_ffn=96)
    assert float(parameters(single) - parameters(dense)) == 6 * 64  # one score from 64 features in six layers
    assert float(active_parameters(single) - active_parameters(dense)) == 6 * 64
    for build in (prefill_graph, decode_graph):
        flop = [float(model_flop(model, build(model, array(2), array(16)))) for model in (single, dense)]
        rows = 32 if build is prefill_graph else 2
        assert flop[0] - flop[1] == 2 * rows * 64 * 6


def test_decode_flop_of_a_routed_model_by_hand(lowered: Lowered, routed_choices: Choices) -> None:
    model = lowered(**routed_choices, layers=3, dense_layers=1, shared_experts=1)
    flop = float(model_flop(model, decode_graph(model, array(2), array(10), imbalance=array(3.0))))
    # rows 2. A layer: qkv 64 x 192, out 128 x 64 -> 2 x 2 x 20480 = 81920; attention 4 x 2 x 8 x 16 x 10 = 10240
    # dense: (192 + 96) x 64 x 4 = 73728.  routed: router 64 x 8, two of the experts and the shared one, each
    # 64 x 64 + 32 x 64 = 6144 -> 4 x (512 + 3 x 6144) = 75776.  logits 4 x 6400 = 25600
    assert flop == 3 * (81_920 + 10_240) + 73_728 + 2 * 75_776 + 25_600


def test_decode_flop_of_a_latent_model_by_hand(lowered: Lowered, latent_choices: Choices) -> None:
    model = lowered(**latent_choices, layers=1)
    flop = float(model_flop(model, decode_graph(model, array(2), array(10))))
    # rows 2. kv_down 64 x 44, query_down 64 x 24, query_up 24 x 160, out 96 x 64 -> 14336 weights
    # absorbed: 8 heads x (16 x 40 + 40 x 12) = 8960;  ffn 288 x 64 = 18432;  logits 6400 -> 4 x 48128 = 192512
    # attention 2 x 2 x 8 heads x (44 + 40) x 10 keys = 26880
    assert flop == 192_512 + 26_880


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-235b-a22b", "gpt-oss-120b", "deepseek-v3"])
def test_a_token_costs_two_flop_for_each_active_weight_that_multiplies(name: str) -> None:
    model = lower_model(Varied(load_model(name)))
    graph = decode_graph(model, array(1), array(1))
    attended = sum(float(model.layers * op.count * attention_flop(op)) for op in graph.attentions)
    matrix = float(model_flop(model, graph)) - attended
    # Norms, biases and sinks add and scale: less than a thousandth of what multiplies.
    assert matrix == pytest.approx(2.0 * float(active_parameters(model)), rel=1e-3)
    assert matrix < 2.0 * float(active_parameters(model))


@settings(max_examples=40, deadline=None)
@given(imbalance=st.floats(0.0, 100.0), sequences=st.integers(1, 64))
def test_imbalance_moves_work_and_makes_none(
    lowered: Lowered, routed_choices: Choices, imbalance: float, sequences: int
) -> None:
    model = lowered(**routed_choices, shared_experts=1)
    for build in (prefill_graph, decode_graph):
        even, skewed = (build(model, array(sequences), array(16), imbalance=array(i)) for i in (0.0, imbalance))
        assert float(model_flop(model, even)) == float(model_flop(model, skewed))


@pytest.mark.parametrize(("element_bytes", "expected"), [(1.0, 35_136.0), (2.0, 70_272.0)])
def test_cache_of_a_token_of_deepseek_v3(element_bytes: float, expected: float) -> None:
    # 61 layers x (512 + 64), once for all 128 heads
    model = lower_model(Varied(load_model("deepseek-v3")))
    assert float(kv_bytes_per_token(model, element_bytes)) == expected


@settings(max_examples=40, deadline=None)
@given(heads=st.integers(1, 256), layers=st.integers(1, 100), latent=st.integers(1, 2000), rope=st.integers(1, 200))
def test_a_latent_is_cached_once_whatever_the_heads(
    lowered: Lowered, latent_choices: Choices, heads: int, layers: int, latent: int, rope: int
) -> None:
    own = {"heads": heads, "kv_heads": heads, "layers": layers, "kv_latent": latent, "rope_dim": rope}
    model = lowered(**{**latent_choices, **own})
    assert float(kv_bytes_per_token(model, 2.0)) == layers * (latent + rope) * 2


@pytest.mark.parametrize("build", [prefill_graph, decode_graph])
def test_a_routed_latent_graph_names_each_op_once(
    lowered: Lowered,
    routed_choices: Choices,
    latent_choices: Choices,
    build: Callable[[ModelArrays, Array, Array], Any],
) -> None:
    model = lowered(**routed_choices, **latent_choices, dense_layers=1, shared_experts=1)
    graph = build(model, array(2), array(16))
    names = [op.name for ops in (graph.matmuls, graph.attentions, graph.vectors, graph.collectives) for op in ops]
    assert len(names) == len(set(names))
    assert ("kv_up" in names, "key_absorb" in names) == (build is prefill_graph, build is decode_graph)


@pytest.mark.parametrize("absorbed", [True, False])
@pytest.mark.parametrize("build", [prefill_graph, decode_graph])
def test_a_step_takes_the_form_that_it_is_told(
    lowered: Lowered, latent_choices: Choices, build: Callable[..., Any], absorbed: bool
) -> None:
    graph = build(lowered(**latent_choices), array(2), array(16), absorbed=absorbed)
    assert ("key_absorb" in {op.name for op in graph.matmuls}) is absorbed
    (attention,) = graph.attentions
    assert float(attention.kv_heads) == (1.0 if absorbed else 8.0)
