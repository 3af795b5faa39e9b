"""An encoder before a decoder: weights, what runs once and what runs each step, what a sequence keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.graph import decode_graph, kv_bytes_per_token, model_flop, parameters, prefill_graph
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.network import has_phase
from cosim.workload.ops import Attention, Graph
from cosim.workload.seq2seq import PREFIX, weights_of

Describe = Callable[..., Model]
HEARD, LAYERS, DEEP = 30, 6, 4
HIDDEN, FFN, HEADS, SHARED, WIDE = 64, 96, 8, 2, 16
ENCODER = {"layers": DEEP, "tokens": HEARD}
ATTENTION = HIDDEN * WIDE * (2 * HEADS + 2 * SHARED)
LAYER = ATTENTION + 3 * HIDDEN * FFN + 2 * HIDDEN


def lowered(describe: Describe, **changes: Any) -> ModelArrays:
    return lower_model(Varied(describe(encoder=ENCODER, **changes)))


def alone(describe: Describe, **changes: Any) -> ModelArrays:
    return lower_model(Varied(describe(**changes)))


def named(graph: Graph, name: str) -> Attention:
    return next(op for op in graph.attentions if op.name == name)


@settings(max_examples=20, deadline=None)
@given(deep=st.integers(1, 9))
def test_parameters_are_the_layers_of_both_the_attention_between_and_a_norm_of_each(
    describe: Describe, deep: int
) -> None:
    both = lower_model(Varied(describe(encoder={**ENCODER, "layers": deep})))
    cross = LAYERS * (ATTENTION + HIDDEN)
    assert float(parameters(both) - parameters(alone(describe))) == pytest.approx(deep * LAYER + HIDDEN + cross)


def test_biases_of_both_sides_are_counted(describe: Describe) -> None:
    biases = {"qkv_bias": True, "output_bias": True, "ffn_bias": True}
    more = parameters(lowered(describe, **biases)) - parameters(lowered(describe))
    attention = WIDE * (HEADS + 2 * SHARED) + HIDDEN
    ffn = 2 * FFN + HIDDEN
    assert float(more) == pytest.approx((LAYERS + DEEP) * (attention + ffn) + LAYERS * attention)


def test_the_encoder_runs_in_a_prefill_alone(describe: Describe) -> None:
    model = lowered(describe)
    once, step = prefill_graph(model, array(2.0), array(5.0)), decode_graph(model, array(2.0), array(5.0))
    first, later = ({op.name for op in graph.matmuls if op.name.startswith(PREFIX)} for graph in (once, step))
    assert first == {f"{PREFIX}{name}" for name in ("qkv", "attention_out", "ffn_in", "ffn_out")}
    assert not later
    assert "cross_keys" in {op.name for op in once.matmuls}
    assert "cross_keys" not in {op.name for op in step.matmuls}
    assert {"cross_query", "cross_out"} <= {op.name for op in step.matmuls}


def test_the_encoder_sees_both_ways_over_its_own_tokens(describe: Describe) -> None:
    graph = prefill_graph(lowered(describe), array(2.0), array(5.0))
    seen = named(graph, f"{PREFIX}attention")
    assert (float(seen.query), float(seen.context), seen.causal) == (HEARD, HEARD, False)
    assert float(seen.count) == pytest.approx(DEEP / LAYERS)
    own = named(graph, "attention")
    assert (float(own.query), float(own.context), own.causal) == (5.0, 5.0, True)


@settings(max_examples=20, deadline=None)
@given(context=st.integers(1, 300))
def test_a_step_asks_the_encoder_whatever_the_answer_is_long(describe: Describe, context: int) -> None:
    cross = named(decode_graph(lowered(describe), array(3.0), array(context)), "cross_attention")
    assert (float(cross.batch), float(cross.query), float(cross.context)) == (3.0, 1.0, HEARD)
    assert not cross.causal
    assert not cross.cached_keys


def test_flop_of_a_step_are_those_of_the_decoder_and_of_the_attention_between(describe: Describe) -> None:
    both, one = (
        float(model_flop(model, decode_graph(model, array(1.0), array(9.0))))
        for model in (lowered(describe), alone(describe))
    )
    products = 2 * HIDDEN * WIDE * HEADS * 2
    scores = 2 * HEADS * 2 * WIDE * HEARD
    assert both - one == pytest.approx(LAYERS * (products + scores))


def test_weights_that_a_step_does_not_use_still_lie_in_memory(describe: Describe) -> None:
    model = lowered(describe)
    tables = [op for op in decode_graph(model, array(1.0), array(1.0)).vectors if op.name == "cross_norm"]
    assert tables[0].table is not None
    unread = float(tables[0].table.size) * LAYERS
    assert unread == pytest.approx(DEEP * LAYER + HIDDEN + LAYERS * 2 * HIDDEN * WIDE * SHARED)
    loaded = prefill_graph(model, array(1.0), array(1.0))
    assert next(float(op.table.size) for op in loaded.vectors if op.name == "cross_norm" and op.table) == 0.0


def test_a_sequence_keeps_keys_and_values_of_the_encoders_tokens_beside_its_own(describe: Describe) -> None:
    model = lowered(describe)
    assert float(model.state_bytes * model.layers) == LAYERS * 2 * SHARED * WIDE * HEARD * 2.0
    assert float(kv_bytes_per_token(model, 2.0)) == float(kv_bytes_per_token(alone(describe), 2.0))


def test_what_is_heard_may_be_varied(describe: Describe) -> None:
    model = lower_model(vary(Varied(describe(encoder=ENCODER)), {"encoder.tokens": [10, 20]}))
    cross = named(decode_graph(model, array(1.0), array(4.0)), "cross_attention")
    assert list(cross.context) == [10.0, 20.0]


def test_weights_of_a_graph_are_summed_with_their_counts(describe: Describe) -> None:
    graph = prefill_graph(alone(describe), array(1.0), array(1.0))
    layer = Graph("prefill", tuple(op for op in graph.matmuls if op.group == "layer"))
    assert float(weights_of(layer)) == ATTENTION + 3 * HIDDEN * FFN


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": 4, "expert_ffn": 8, "experts_per_token": 2},
        {"window": 8, "windowed_layers": 3},
        {"parallel_norms": 1},
        {"causal": False},
    ],
)
def test_what_is_not_modelled_behind_an_encoder_is_refused(describe: Describe, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="behind an encoder"):
        describe(encoder=ENCODER, **changes)


def test_it_is_served_and_not_trained(describe: Describe) -> None:
    has_phase(lowered(describe), "decode")
    with pytest.raises(SpecError, match="an encoder"):
        has_phase(lowered(describe), "train")


def test_t5_by_hand() -> None:
    """Raffel et al. 2020: inner width 4,096 of 1,024, no bias; a norm of each block and one at each end."""
    inner, hidden, ffn = 4096, 1024, 16384
    attention, ffn_weights = 4 * inner * hidden, 2 * hidden * ffn
    total = 24 * (attention + ffn_weights + 2 * hidden) + 24 * (2 * attention + ffn_weights + 3 * hidden)
    counted = float(parameters(lower_model(Varied(load_model("t5-3b")))))
    assert counted == total + 2 * hidden + 32128 * hidden
