"""Mixers that serve: the same weights as trained ones, states read and written, scans in prompts alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.graph import (
    attention_flop,
    decode_graph,
    kv_bytes_per_token,
    model_flop,
    parameters,
    prefill_graph,
)
from cosim.workload.hybrid_serving import SCAN, served_mixer
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.moe import repeats
from cosim.workload.ops import Graph
from cosim.workload.tokens import Tokens

Describe = Callable[..., Model]
H, P, N, G, Q, TAPS = 4, 8, 16, 2, 32, 4
INNER, SHARED, HIDDEN, FFN = H * P, G * N, 64, 96
CHANNELS = INNER + 2 * SHARED
SIZES: dict[str, Any] = {"heads": H, "head_dim": P, "state": N, "groups": G, "kernel": TAPS, "chunk": Q}
PATTERNS = st.text("M*-", min_size=1, max_size=12).filter(lambda letters: "M" in letters)
ROUTED = {"experts": 8, "experts_per_token": 2, "expert_ffn": 32}


def lowered(describe: Describe, pattern: str, **changes: Any) -> ModelArrays:
    fields = {"gated": False, "position": "none", "layers": len(pattern), "mamba": {"pattern": pattern, **SIZES}}
    return lower_model(Varied(describe(**{**fields, **changes})))


def mixed(describe: Describe, phase: Any, sequences: float = 3.0, query: float = 1.0) -> Graph:
    model = lowered(describe, "M")
    assert model.mamba is not None
    return served_mixer(model, model.mamba, Tokens(phase, array(sequences), array(query), array(query)))


def owned(model: ModelArrays, graph: Graph) -> float:
    """Weights that the ops of a graph own, over all layers."""
    total = 0.0
    for op in graph.matmuls:
        if not op.activations:
            products = float(op.routed.experts) if op.routed is not None else 1.0
            each = float(op.k.size) * (1.0 if op.owns_weights else 0.0) + op.bias
            columns = float(sum(axis.size for axis in op.n))
            total += float(repeats(model, op.group) * op.count) * products * columns * each
    for vector in graph.vectors:
        table = 0.0 if vector.table is None else float(vector.table.size)
        total += float(repeats(model, vector.group) * vector.count) * (float(vector.parameters) + table)
    return total


@settings(max_examples=25, deadline=None)
@given(pattern=PATTERNS, routed=st.booleans())
def test_serving_holds_the_weights_that_training_has(describe: Describe, pattern: str, routed: bool) -> None:
    model = lowered(describe, pattern + ("E" if routed else ""), **(ROUTED if routed else {}))
    for graph in (prefill_graph(model, array(2.0), array(50.0)), decode_graph(model, array(2.0), array(50.0))):
        assert owned(model, graph) == pytest.approx(float(parameters(model)), rel=1e-12)


@pytest.mark.parametrize("name", ["nemotron-h-56b", "nemotron-3-nano-30b-a3b", "nemotron-3-super-120b-a12b"])
def test_shipped_hybrids_hold_what_their_makers_state(name: str) -> None:
    spec = load_model(name)
    model = lower_model(Varied(spec))
    held = owned(model, decode_graph(model, array(1.0), array(1.0)))
    assert held == pytest.approx(float(parameters(model)), rel=1e-12)
    assert spec.published_parameters is not None
    assert held == pytest.approx(float(spec.published_parameters.si), rel=0.05)


def test_a_step_reads_and_writes_every_state_once() -> None:
    model = lower_model(Varied(load_model("nemotron-h-56b")))
    assert model.mamba is not None
    tokens = Tokens("decode", array(3.0), array(1.0), array(9.0))
    step = served_mixer(model, model.mamba, tokens).attentions[0]
    states = 3 * float(model.mamba.heads * model.mamba.head_dim * model.mamba.state)
    # Elements of 16 bits: an fp32 state is two, read and written.
    assert float(step.batch * step.context * step.kv_heads * step.kept) * 2.0 == 2 * 4.0 * states
    assert float(attention_flop(step)) == 8.0 * states
    assert not step.cached_keys


@settings(max_examples=25, deadline=None)
@given(short=st.integers(1, 500), longer=st.integers(1, 100_000))
def test_a_step_does_not_depend_on_the_tokens_before_it(describe: Describe, short: int, longer: int) -> None:
    model = lowered(describe, "MM-")
    first, second = (
        float(model_flop(model, decode_graph(model, array(2.0), array(context)))) for context in (short, short + longer)
    )
    assert first == second


@settings(max_examples=25, deadline=None)
@given(sequences=st.integers(1, 9), chunks=st.integers(1, 9))
def test_flop_of_a_prompt_are_products_and_the_scan_of_whole_chunks(
    describe: Describe, sequences: int, chunks: int
) -> None:
    one, two = (lowered(describe, pattern) for pattern in ("M-", "MM-"))
    rows = sequences * chunks * Q
    each = [float(model_flop(model, prefill_graph(model, array(sequences), array(chunks * Q)))) for model in (one, two)]
    products = 2 * rows * HIDDEN * (2 * INNER + 2 * SHARED + H) + 2 * rows * INNER * HIDDEN
    scan = rows * (2 * Q * SHARED + 2 * INNER * (Q + 2 * N))
    assert each[1] - each[0] == pytest.approx(products + scan, rel=1e-9)


def test_prompts_scan_and_steps_do_not(describe: Describe) -> None:
    prompts, steps = mixed(describe, "prefill", query=50.0), mixed(describe, "decode")
    scans = [op.name for op in (*prompts.matmuls, *prompts.vectors) if op.name.startswith(SCAN)]
    assert scans == ["scan.scores", "scan.states", "scan.output", "scan.decay", "scan.passing"]
    assert not any(op.name.startswith(SCAN) for op in (*steps.matmuls, *steps.vectors))
    assert [op.name for op in steps.attentions] == ["mamba_step"]
    assert not prompts.attentions
    assert not prompts.saved
    assert (prompts.phase, steps.phase) == ("prefill", "decode")


def test_small_weights_are_the_same_in_both_phases(describe: Describe) -> None:
    for phase in ("prefill", "decode"):
        held = {op.name: float(op.parameters) for op in mixed(describe, phase, query=7.0).vectors if op.parameters}
        # A, D and the bias of dt beside the norm; taps and a bias of each channel.
        assert held == {"convolution": CHANNELS * (TAPS + 1), "gated_norm": INNER + 3 * H}


def test_a_layer_of_a_hybrid_has_one_norm_and_its_own_block(describe: Describe) -> None:
    model = lowered(describe, "MM*-M-")
    graph = decode_graph(model, array(2.0), array(9.0))
    counts = {op.name: float(op.count) for op in (*graph.matmuls, *graph.attentions, *graph.vectors)}
    assert counts["norm_and_residual"] == 1.0
    assert counts["mamba_in"] == counts["mamba_step"] == pytest.approx(3 / 6)
    assert counts["qkv"] == counts["attention"] == pytest.approx(1 / 6)
    assert counts["ffn_in"] == pytest.approx(2 / 6)


def test_sequences_keep_states_of_mixers_and_keys_of_attention(describe: Describe) -> None:
    model = lowered(describe, "MMM*-M")
    state = 4 * INNER * N + 2 * CHANNELS * (TAPS - 1)
    assert float(model.state_bytes * model.layers) == pytest.approx(4 * state)
    plain = lower_model(Varied(describe()))
    assert float(kv_bytes_per_token(model, 2.0)) == pytest.approx(float(kv_bytes_per_token(plain, 2.0)) / 6)


def test_sizes_vary_along_the_points_axis(describe: Describe) -> None:
    fields = {"gated": False, "position": "none", "layers": 2, "mamba": {"pattern": "M-", **SIZES}}
    spec = Varied(describe(**fields))
    both = lower_model(vary(spec, {"mamba.state": [16, 32]}))
    each = [float(lower_model(vary(spec, {"mamba.state": size})).state_bytes) for size in (16, 32)]
    np.testing.assert_array_equal(both.state_bytes, each)
    flop = model_flop(both, decode_graph(both, array(2.0), array(9.0)))
    assert flop[1] > flop[0]
