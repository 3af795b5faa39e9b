"""Linear attention by the gated delta rule: sizes, states, FLOP of a chunk and of a step by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.delta import Delta, DeltaArrays, delta_block, lower_delta
from cosim.workload.graph import (
    attention_flop,
    decode_graph,
    kv_bytes_per_token,
    model_flop,
    parameters,
    prefill_graph,
    visible_pairs,
)
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.ops import Graph
from cosim.workload.tokens import Tokens

Describe = Callable[..., Model]
G, H, K, V, TAPS, C = 2, 4, 8, 16, 4, 32
HIDDEN, LAYERS = 64, 6
SIZES: dict[str, Any] = {
    "layers": 4, "key_heads": G, "value_heads": H, "key_dim": K, "value_dim": V, "kernel": TAPS, "chunk": C,
}  # fmt: skip
CHANNELS = 2 * G * K + H * V


def sizes(**changes: Any) -> DeltaArrays:
    return lower_delta(Delta(**{**SIZES, **changes}), {})


def block(phase: Any, sequences: float, query: float, **changes: Any) -> Graph:
    tokens = Tokens(phase, array(sequences), array(query), array(query))
    return delta_block(sizes(**changes), tokens, array(HIDDEN))


def lowered(describe: Describe, **changes: Any) -> ModelArrays:
    return lower_model(Varied(describe(delta=SIZES, **changes)))


def mixer() -> int:
    """Parameters of one layer of linear attention, without its norm."""
    into = HIDDEN * (CHANNELS + H * V + 2 * H)
    return into + H * V * HIDDEN + CHANNELS * TAPS + 2 * H + V


@settings(max_examples=30, deadline=None)
@given(linear=st.integers(1, 5))
def test_parameters_are_those_of_the_layers_of_each_kind(describe: Describe, linear: int) -> None:
    without = float(parameters(lower_model(Varied(describe()))))
    attention = HIDDEN * (8 + 2 * 2) * 16 + 8 * 16 * HIDDEN
    found = float(parameters(lower_model(Varied(describe(delta={**SIZES, "layers": linear})))))
    assert found == pytest.approx(without + linear * (mixer() - attention), rel=1e-12)


def test_an_output_gate_is_as_wide_as_the_queries(describe: Describe) -> None:
    plain, gated = (lower_model(Varied(describe(output_gate=gate))) for gate in (False, True))
    assert float(parameters(gated) - parameters(plain)) == LAYERS * HIDDEN * 8 * 16
    gate = next(op for op in prefill_graph(gated, array(2.0), array(10.0)).vectors if op.name == "output_gate")
    assert (float(gate.m), float(gate.width[0].size)) == (20.0, 8 * 16)
    assert not any(op.name == "output_gate" for op in prefill_graph(plain, array(2.0), array(10.0)).vectors)


@settings(max_examples=40, deadline=None)
@given(sequences=st.integers(1, 9), chunks=st.integers(1, 7))
def test_flop_of_whole_chunks_are_those_of_the_head_of_the_function(sequences: int, chunks: int) -> None:
    made = block("prefill", sequences, chunks * C)
    products = [op for op in made.matmuls if op.activations]
    assert all(op.batch is not None for op in products)
    flop = sum(
        2.0 * float(op.m * op.n[0].size * op.k.size) * float(op.batch.size) for op in products if op.batch is not None
    )
    each = 2 * C * (3 * C * K + 2 * C * V + C * C + 3 * K * V)
    assert flop == pytest.approx(sequences * chunks * H * each, rel=1e-12)


def test_a_prompt_shorter_than_a_chunk_is_one_chunk_of_its_length() -> None:
    keys = next(op for op in block("prefill", 3.0, 5.0).matmuls if op.name == "delta_keys")
    assert (float(keys.m), float(keys.n[0].size), float(keys.k.size)) == (5.0, 5.0, K)
    assert keys.batch is not None
    assert float(keys.batch.size) == 3.0 * H


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 400), longer=st.integers(1, 400))
def test_work_of_a_prompt_grows_with_its_length_and_no_faster_than_its_chunks(length: int, longer: int) -> None:
    def flop(query: float) -> float:
        products = [op for op in block("prefill", 1.0, query).matmuls if op.activations and op.batch is not None]
        return sum(float(op.m * op.n[0].size * op.k.size * op.batch.size) for op in products if op.batch is not None)

    assert flop(length + longer) >= flop(length)
    assert flop(length) <= np.ceil(length / C) * flop(C) * (1.0 + 1e-12)


def test_a_step_reads_and_writes_every_state_once_and_costs_eight_flop_an_element() -> None:
    step = block("decode", 3.0, 1.0).attentions[0]
    states = 3 * H * K * V
    assert float(visible_pairs(step)) == K
    # Elements of 16 bits: an fp32 state is two, read and written.
    assert float(step.batch * step.context * step.kv_heads * step.kept) * 2.0 == 2 * 4.0 * states
    assert float(attention_flop(step)) == 8.0 * states
    assert not step.cached_keys


def test_a_step_does_not_depend_on_the_tokens_before_it(describe: Describe) -> None:
    def linear(context: float) -> list[Any]:
        graph = decode_graph(lowered(describe), array(2.0), array(context))
        return [op for op in graph.attentions if op.name == "delta_step"]

    assert linear(10.0) == linear(1e6)
    assert len(linear(10.0)) == 1


def test_layers_without_attention_keep_a_state_and_no_cache(describe: Describe) -> None:
    model, plain = lowered(describe), lower_model(Varied(describe()))
    assert float(kv_bytes_per_token(model, 2.0)) == pytest.approx(float(kv_bytes_per_token(plain, 2.0)) * 2 / 6)
    assert float(model.state_bytes * model.layers) == pytest.approx(4 * (4 * H * K * V + 2 * CHANNELS * (TAPS - 1)))
    assert float(plain.state_bytes) == float(plain.linear_share) == 0.0


def test_counts_share_out_the_layers(describe: Describe) -> None:
    graph = prefill_graph(lowered(describe), array(1.0), array(64.0))
    counts = {op.name: float(op.count) for op in (*graph.matmuls, *graph.attentions)}
    assert counts["qkv"] == counts["attention"] == pytest.approx(2 / 6)
    assert counts["delta_in"] == counts["delta_output"] == pytest.approx(4 / 6)
    assert counts["ffn_in"] == 1.0


def test_model_flop_of_prefill_and_of_as_many_steps_have_the_same_products(describe: Describe) -> None:
    model = lowered(describe)
    flop = {
        name: float(model_flop(model, graph))
        for name, graph in (
            ("prefill", prefill_graph(model, array(1.0), array(1.0))),
            ("decode", decode_graph(model, array(1.0), array(1.0))),
        )
    }
    # A chunk of one token: products 2 (3 K + 2 V + 1 + 3 K V), a step 8 K V, a head.
    chunked, stepped = 2 * (3 * K + 2 * V + 1 + 3 * K * V), 8 * K * V
    assert flop["prefill"] - flop["decode"] == pytest.approx(4 * H * (chunked - stepped), rel=1e-9)


def test_sizes_vary_along_the_points_axis(describe: Describe) -> None:
    model = describe(delta=SIZES)
    both = lower_model(vary(Varied(model), {"delta.value_heads": [4, 8]}))
    each = [float(parameters(lower_model(vary(Varied(model), {"delta.value_heads": heads})))) for heads in (4, 8)]
    np.testing.assert_array_equal(parameters(both), each)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"delta": {**SIZES, "layers": 6}}, "delta.layers"),
        ({"delta": SIZES, "windowed_layers": 2, "window": 8}, "windowed_layers"),
        ({"delta": SIZES, "parallel_norms": 1}, "parallel_norms"),
        ({"delta": SIZES, "causal": False}, "causal"),
        ({"delta": {**SIZES, "key_heads": 3}}, "value_heads"),
    ],
)
def test_what_is_not_modelled_beside_linear_attention_is_refused(
    describe: Describe, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SpecError, match=field.rsplit(".", maxsplit=1)[-1]):
        describe(**changes)
