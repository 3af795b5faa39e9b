"""Latent attention: the ops of its two forms, their common weights, what each attends to and what the cache holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.blocks import attention_block
from cosim.workload.graph import attention_flop, decode_graph, model_flop, parameters
from cosim.workload.latent import latent_attention, latent_block, latent_ends, latent_up
from cosim.workload.load import load_model
from cosim.workload.model import ModelArrays, lower_model
from cosim.workload.ops import Attention, Graph, Matmul
from cosim.workload.tokens import Tokens

Lowered = Callable[..., ModelArrays]
Choices = dict[str, Any]
FORMS = pytest.mark.parametrize("absorbed", [True, False])
WIDTHS = st.fixed_dictionaries(
    {
        "hidden": st.integers(1, 8000),
        "head_dim": st.integers(1, 256),
        "rope_dim": st.integers(1, 128),
        "value_dim": st.integers(1, 256),
        "kv_latent": st.integers(1, 1024),
        "query_latent": st.none() | st.integers(1, 2048),
    }
)


def tokens(sequences: float = 3, query: float = 1, context: float = 40) -> Tokens:
    phase = "decode" if query == 1 else "prefill"
    return Tokens(phase, array(sequences), array(query), array(context))


def dims(graph: Graph) -> dict[str, tuple[list[float], float, str]]:
    """Columns by part, depth and split of every product."""
    return {op.name: ([float(axis.size) for axis in op.n], float(op.k.size), op.split) for op in graph.matmuls}


def products(op: Matmul) -> float:
    return 1.0 if op.batch is None else float(op.batch.size)


def weights(graph: Graph) -> float:
    """Elements of every weight and bias, one by one."""
    owned = [products(op) * sum(float(a.size) for a in op.n) * (float(op.k.size) + op.bias) for op in graph.matmuls]
    return sum(owned) + sum(float(op.parameters) for op in graph.vectors)


def flop(graph: Graph) -> float:
    multiplied = [
        2.0 * products(op) * float(op.m) * sum(float(a.size) for a in op.n) * float(op.k.size) for op in graph.matmuls
    ]
    return sum(multiplied) + sum(float(attention_flop(op)) for op in graph.attentions)


def deepseek() -> ModelArrays:
    return lower_model(Varied(load_model("deepseek-v3")))


def test_expanded_makes_keys_and_values_of_every_head_from_the_latent(
    lowered: Lowered, latent_choices: Choices
) -> None:
    block = latent_block(lowered(**latent_choices), tokens(), absorbed=False)
    # 8 heads with keys of 16 + 4 and values of 12; latents of 40 + 4 and 24; hidden 64
    assert dims(block) == {
        "kv_down": ([40.0, 4.0], 64.0, "none"),
        "query_down": ([24.0], 64.0, "none"),
        "query_up": ([160.0], 24.0, "n"),
        "kv_up": ([128.0, 96.0], 40.0, "n"),
        "attention_out": ([64.0], 96.0, "k"),
    }


def test_absorbed_multiplies_query_and_output_by_one_small_matrix_a_head(
    lowered: Lowered, latent_choices: Choices
) -> None:
    block = latent_block(lowered(**latent_choices), tokens(), absorbed=True)
    found = dims(block)
    assert "kv_up" not in found
    assert found["key_absorb"] == ([40.0], 16.0, "batch")
    assert found["value_absorb"] == ([12.0], 40.0, "batch")
    absorbed = [op for op in block.matmuls if op.name.endswith("absorb")]
    assert [float(op.batch.size) for op in absorbed if op.batch is not None] == [8.0, 8.0]
    assert not any(op.activations for op in absorbed)  # they are weights


@FORMS
def test_a_query_without_a_latent_is_projected_at_once(
    lowered: Lowered, latent_choices: Choices, absorbed: bool
) -> None:
    block = latent_block(lowered(**{**latent_choices, "query_latent": None}), tokens(), absorbed=absorbed)
    found = dims(block)
    assert found["query"] == ([160.0], 64.0, "n")
    assert not {"query_down", "query_up"} & set(found)
    assert [op.name for op in block.vectors] == ["kv_latent_norm", "rotary_and_cache"]
    assert block.collectives[0].into == "query"


@FORMS
def test_latents_have_a_norm_each_and_the_heads_one_sum(
    lowered: Lowered, latent_choices: Choices, absorbed: bool
) -> None:
    block = latent_block(lowered(**latent_choices), tokens(3, 40), absorbed=absorbed)
    scales = {op.name: float(op.parameters) for op in block.vectors}
    assert scales == {"kv_latent_norm": 40.0, "query_latent_norm": 24.0, "rotary_and_cache": 0.0}
    (summed,) = block.collectives
    assert (summed.kind, float(summed.m), float(summed.width), summed.into) == ("all_reduce", 120.0, 64.0, "query_up")
    assert {op.group for op in (*block.matmuls, *block.vectors, *block.collectives)} == {"layer"}


@FORMS
@pytest.mark.parametrize(
    ("changes", "biased"),
    [
        ({}, set()),
        ({"qkv_bias": True}, {"kv_down", "query_down"}),
        ({"output_bias": True}, {"attention_out"}),
    ],
)
def test_biases_are_on_the_way_down_and_out(
    lowered: Lowered, latent_choices: Choices, absorbed: bool, changes: dict[str, bool], biased: set[str]
) -> None:
    block = latent_block(lowered(**latent_choices, **changes), tokens(), absorbed=absorbed)
    assert {op.name for op in block.matmuls if op.bias} == biased


@settings(max_examples=60, deadline=None)
@given(widths=WIDTHS, heads=st.integers(1, 128), biased=st.booleans())
def test_both_forms_have_the_same_weights_and_those_of_a_checkpoint(
    lowered: Lowered, widths: dict[str, Any], heads: int, biased: bool
) -> None:
    model = lowered(**widths, heads=heads, kv_heads=heads, qkv_bias=biased, output_bias=biased)
    expanded, absorbed = (weights(latent_block(model, tokens(), absorbed=form)) for form in (False, True))
    hidden, key, rope, value = (widths[name] for name in ("hidden", "head_dim", "rope_dim", "value_dim"))
    latent, query = widths["kv_latent"], widths["query_latent"]
    down = (latent + rope) * (hidden + biased) + latent
    up = heads * (key + value) * latent
    if query is None:
        asked = heads * (key + rope) * hidden
    else:
        asked = query * (hidden + biased) + query + heads * (key + rope) * query
    assert expanded == absorbed == down + up + asked + hidden * (heads * value + biased)


@settings(max_examples=60, deadline=None)
@given(widths=WIDTHS, heads=st.integers(1, 64), sequences=st.integers(1, 64), query=st.integers(1, 512))
def test_flop_of_a_block_are_those_of_its_einsums(
    lowered: Lowered, widths: dict[str, Any], heads: int, sequences: int, query: int
) -> None:
    model = lowered(**widths, heads=heads, kv_heads=heads)
    work = tokens(sequences, query, query)
    hidden, key, rope, value = (widths[name] for name in ("hidden", "head_dim", "rope_dim", "value_dim"))
    latent, small = widths["kv_latent"], widths["query_latent"]
    asked = heads * (key + rope) * hidden if small is None else small * (hidden + heads * (key + rope))
    common = hidden * (latent + rope) + asked + heads * value * hidden
    rows, pairs = sequences * query, sequences * heads * query * (query + 1) / 2
    expanded = 2 * rows * (common + heads * (key + value) * latent) + 2 * pairs * (key + rope + value)
    # query x up-projection, scores and averages over the latent, average x up-projection
    absorbed = 2 * rows * (common + heads * (key + value) * latent) + 2 * pairs * (latent + rope + latent)
    assert flop(latent_block(model, work, absorbed=False)) == pytest.approx(expanded, rel=1e-12)
    assert flop(latent_block(model, work, absorbed=True)) == pytest.approx(absorbed, rel=1e-12)


def shape(op: Attention) -> tuple[float, ...]:
    return tuple(float(value) for value in (op.heads, op.kv_heads, op.head_dim, op.values, op.kept))


def test_absorbed_attends_to_one_latent_that_is_key_and_value_at_once(
    lowered: Lowered, latent_choices: Choices
) -> None:
    op = latent_attention(lowered(**latent_choices), tokens(), absorbed=True)
    # 8 heads over one latent: key 40 + 4, value its first 40, kept once
    assert shape(op) == (8.0, 1.0, 44.0, 40.0, 44.0)


def test_expanded_attends_with_keys_and_values_of_every_head(lowered: Lowered, latent_choices: Choices) -> None:
    op = latent_attention(lowered(**latent_choices), tokens(), absorbed=False)
    # 8 heads, each with a key of 16 + 4 and a value of 12, both kept
    assert shape(op) == (8.0, 8.0, 20.0, 12.0, 32.0)


@FORMS
def test_attention_is_over_the_tokens_of_the_step(lowered: Lowered, latent_choices: Choices, absorbed: bool) -> None:
    op = latent_attention(lowered(**latent_choices), tokens(3, 5, 40), absorbed=absorbed)
    assert (op.phase, op.causal, op.windowed) == ("prefill", True, False)
    assert tuple(float(value) for value in (op.batch, op.query, op.context, op.count)) == (3.0, 5.0, 40.0, 1.0)


def test_the_step_writes_one_latent_a_token_whatever_the_heads(lowered: Lowered, latent_choices: Choices) -> None:
    for heads in (4, 8, 64):
        model = lowered(**{**latent_choices, "heads": heads, "kv_heads": heads})
        rope, kept = latent_block(model, tokens(), absorbed=True).vectors[-1].width
        assert (float(rope.size), float(kept.size)) == (4.0 * heads, 44.0)
        assert float(model.kept_per_token) == 44.0
        assert float(model.cache_heads) == 1.0


@FORMS
def test_a_latent_model_takes_its_block_in_the_form_that_is_asked(
    lowered: Lowered, latent_choices: Choices, absorbed: bool
) -> None:
    model = lowered(**latent_choices)
    chosen = attention_block(model, tokens(), absorbed=absorbed)
    own = latent_block(model, tokens(), absorbed=absorbed)
    assert [op.name for op in chosen.matmuls] == [op.name for op in own.matmuls]


def test_an_ordinary_model_has_one_form(lowered: Lowered) -> None:
    forms = [attention_block(lowered(), tokens(), absorbed=form) for form in (True, False)]
    assert [[op.name for op in form.matmuls] for form in forms] == [["qkv", "attention_out"]] * 2


def test_a_decode_step_of_deepseek_v3_by_hand() -> None:
    model, context = deepseek(), 4096
    absorbed, expanded = (
        float(model_flop(model, decode_graph(model, array(1), array(context), absorbed=form))) for form in (True, False)
    )
    # 61 layers x 128 heads x 4096 keys: 2 (576 + 512) against 2 (192 + 128) a score
    assert absorbed - expanded == 61 * 128 * context * 2 * (1088 - 320)
    # In the expanded form the keys of one token only are made: all weights once, and attention
    once = 2 * (36_625_603_584 - 61 * (2 * 7168 + 1536 + 512) - 7168)  # less 4 norms a layer and the last
    assert expanded == once + 61 * 128 * context * 2 * 320


def test_the_cheaper_form_of_decode_reads_the_latent_and_of_prefill_makes_the_keys() -> None:
    model, work = deepseek(), tokens(1, 4096, 4096)
    assert flop(latent_block(model, work, absorbed=False)) < flop(latent_block(model, work, absorbed=True))
    read = [latent_attention(model, tokens(), absorbed=form) for form in (True, False)]
    kept = [float(op.kv_heads * op.kept) for op in read]
    assert kept == [576.0, 128.0 * 320.0]  # elements of one cached token


@settings(max_examples=40, deadline=None)
@given(latent=st.lists(st.integers(1, 1024), min_size=2, max_size=6))
def test_widths_may_vary_by_point(lowered: Lowered, latent_choices: Choices, latent: list[int]) -> None:
    base = lowered(**latent_choices)
    together = parameters(dataclasses.replace(base, kv_latent=array(latent)))
    alone = [float(parameters(lowered(**{**latent_choices, "kv_latent": width}))) for width in latent]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("absorbed", [True, False])
def test_a_block_is_its_ends_around_its_form(lowered: Lowered, latent_choices: Choices, absorbed: bool) -> None:
    model = lowered(**latent_choices)
    whole = latent_block(model, tokens(), absorbed=absorbed)
    up = latent_up(model, tokens(), absorbed=absorbed)
    parts = latent_ends(model, tokens(), up, (latent_attention(model, tokens(), absorbed=absorbed),))
    assert [op.name for op in parts.matmuls] == [op.name for op in whole.matmuls]
    assert flop(parts) == flop(whole)
    ends = latent_ends(model, tokens(), (), ())
    assert flop(ends) == pytest.approx(flop(whole) - flop(dataclasses.replace(whole, matmuls=up)), rel=1e-12)
    assert [op.name for op in ends.vectors] == [op.name for op in whole.vectors]


def test_an_index_stands_between_down_and_up(lowered: Lowered, latent_choices: Choices) -> None:
    index = {"index_heads": 4, "index_dim": 8, "index_keys": 16}
    plain, indexed = (latent_block(lowered(**latent_choices, **more), tokens(), absorbed=True) for more in ({}, index))
    names, more = ([op.name for op in block.matmuls] for block in (plain, indexed))
    assert [name for name in more if name in names] == names
    added = [name for name in more if name not in names]
    assert added
    assert more.index(added[0]) > more.index("query_up")
    assert more.index(added[-1]) < more.index("key_absorb")
    assert len(indexed.attentions) == len(plain.attentions) + 1
