"""Laws of workload and mapping: batches equal single points, work adds up, memory scales as it must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cosim.dtypes import bytes_per_element
from cosim.mapping.legal import divisibility
from cosim.mapping.memory import KINDS, Memory, serving_memory
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.shard import shard
from cosim.mapping.stages import stages
from cosim.overrides import Varied
from cosim.records import Array, array, at, take
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
from cosim.workload.model import ModelArrays, lower_model
from cosim.workload.ops import Attention, Graph

Point = tuple[ModelArrays, PlanArrays, ScenarioArrays]
LLAMA = lower_model(Varied(load_model("llama-3.1-8b")))
GPT = lower_model(Varied(load_model("gpt3-175b")))
few = settings(max_examples=40, deadline=None)


def plan_of(tensor: object = 1, pipeline: object = 1, dtype: str = "bf16") -> PlanArrays:
    return PlanArrays(array(tensor), array(pipeline), array(1), array(1), dtype, "bf16", "fastest")


def scenario_of(batch: object = 8, context: object = 1024) -> ScenarioArrays:
    return ScenarioArrays(array(batch), array(context), array(context), array(np.inf), array(np.inf))


def graph_of(point: Point, phase: str) -> Graph:
    model, plan, scenario = point
    build = prefill_graph if phase == "prefill" else decode_graph
    return build(model, scenario.batch / (plan.data * plan.micro_batches), scenario.context)


def memory_of(point: Point, phase: str = "decode") -> Memory:
    model, plan, scenario = point
    device = shard(graph_of(point, phase), plan)
    return serving_memory(device, stages(model.layers, plan.pipeline), model, plan, scenario, array(1e9))


def all_numbers(point: Point, phase: str) -> dict[str, Array]:
    """Everything that the two floors say of a point or a batch of points, each of shape (P,) or ()."""
    model, plan, scenario = point
    graph, memory = graph_of(point, phase), memory_of(point, phase)
    verdict = divisibility(plan, scenario, model, array(64), phase)
    found = {"parameters": parameters(model), "flop": model_flop(model, graph), "cache": kv_bytes_per_token(model, 2.0)}
    found |= {kind: getattr(memory, kind) for kind in (*KINDS, "total")}
    found |= {"code": array(verdict.code), "shortfall": verdict.shortfall}
    for op in shard(graph, plan).matmuls:
        found |= {f"{op.name}.{name}": getattr(op, name) for name in ("m", "n", "k", "weight_bytes")}
    return found


@st.composite
def batches(draw: st.DrawFn) -> tuple[Point, int]:
    """Points that differ in every dimension, degree and length, of one of two structures."""
    count = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def drawn(low: int, high: int) -> Array:
        return array(rng.integers(low, high + 1, count))

    groups = drawn(1, 16)
    model = replace(
        draw(st.sampled_from([LLAMA, GPT])),
        layers=drawn(1, 100),
        hidden=drawn(64, 9000),
        ffn=drawn(64, 30000),
        heads=groups * drawn(1, 8),
        kv_heads=groups,
        vocab=drawn(100, 200_000),
        window=drawn(1, 3000),
        windowed_layers=array(1),
        has_window=draw(st.booleans()),
    )
    scenario = scenario_of(drawn(1, 300), drawn(1, 4000))
    return (model, plan_of(drawn(1, 64), drawn(1, 100)), scenario), count


@few
@given(drawn=batches(), phase=st.sampled_from(["prefill", "decode"]))
def test_a_batch_of_points_equals_the_points_one_by_one(drawn: tuple[Point, int], phase: str) -> None:
    point, count = drawn
    together = all_numbers(point, phase)
    for index in range(count):
        model, plan, scenario = (at(record, index) for record in point)
        alone = all_numbers((model, plan, scenario), phase)
        for name, value in together.items():
            expected = np.broadcast_to(value, (count,))[index]
            np.testing.assert_allclose(np.squeeze(alone[name]), expected, rtol=1e-12, err_msg=name)


@few
@given(drawn=batches(), seed=st.integers(0, 1000))
def test_permuting_the_points_permutes_the_results(drawn: tuple[Point, int], seed: int) -> None:
    point, count = drawn
    order = np.random.default_rng(seed).permutation(count)
    model, plan, scenario = (take(record, order) for record in point)
    together, permuted = all_numbers(point, "decode"), all_numbers((model, plan, scenario), "decode")
    for name, value in together.items():
        expected = np.broadcast_to(value, (count,))[order]
        np.testing.assert_array_equal(np.broadcast_to(permuted[name], (count,)), expected, err_msg=name)


@few
@given(drawn=batches(), row=st.integers(0, 5))
def test_a_point_that_breaks_a_limit_leaves_the_others_unchanged(drawn: tuple[Point, int], row: int) -> None:
    (model, plan, scenario), count = drawn
    assume(row < count)
    tensor = plan.tensor.copy()
    tensor[row] = 10_000.0  # more than the chips
    before = divisibility(plan, scenario, model, array(64), "decode")
    after = divisibility(replace(plan, tensor=tensor), scenario, model, array(64), "decode")
    others = np.arange(count) != row
    assert after.code[row] == 1
    np.testing.assert_array_equal(after.code[others], before.code[others])
    np.testing.assert_array_equal(after.shortfall[others], before.shortfall[others])


def attention(query: object, context: object, window: int | None) -> Attention:
    limit = array(0 if window is None else window)
    dims = (array(1), array(query), array(context), array(8), array(2), array(64))
    return Attention("a", "layer", "prefill", *dims, limit, window is not None)


windows = st.none() | st.integers(1, 5000)


@few
@given(chunks=st.lists(st.integers(1, 700), min_size=1, max_size=8), window=windows)
def test_a_prompt_in_chunks_attends_as_much_as_whole(chunks: list[int], window: int | None) -> None:
    ends = np.cumsum(chunks)
    parts = visible_pairs(attention(chunks, ends, window))
    assert float(parts.sum()) == float(visible_pairs(attention(ends[-1], ends[-1], window)))


@few
@given(tokens=st.integers(1, 3000), window=windows)
def test_a_prefill_attends_as_much_as_decoding_token_by_token(tokens: int, window: int | None) -> None:
    steps = attention_flop(attention(1, np.arange(1, tokens + 1), window))
    assert float(steps.sum()) == float(attention_flop(attention(tokens, tokens, window)))


@few
@given(context=st.integers(1, 3000), query=st.integers(1, 3000), window=st.integers(1, 5000))
def test_a_window_only_hides_pairs_and_a_wide_one_none(context: int, query: int, window: int) -> None:
    assume(query <= context)
    hidden, full = (float(visible_pairs(attention(query, context, w))) for w in (window, None))
    assert min(query * window, query) <= hidden <= full
    assert (hidden == full) == (window >= context)


@few
@given(context=st.integers(1, 3000), query=st.integers(1, 3000), window=windows)
def test_more_context_is_never_less_work(context: int, query: int, window: int | None) -> None:
    assume(query <= context)
    shorter, longer = visible_pairs(attention(query, [context, context + 1], window))
    assert shorter <= longer <= shorter + query


@few
@given(sequences=st.integers(1, 500), context=st.integers(1, 8000), factor=st.integers(2, 9))
def test_flop_of_a_step_are_linear_in_its_sequences(sequences: int, context: int, factor: int) -> None:
    def flop(build: Callable[[ModelArrays, Array, Array], Graph], count: int) -> float:
        return float(model_flop(LLAMA, build(LLAMA, array(count), array(context))))

    for build in (prefill_graph, decode_graph):
        assert flop(build, factor * sequences) == pytest.approx(factor * flop(build, sequences), rel=1e-12)


@few
@given(tensor=st.integers(1, 64), sequences=st.integers(1, 64))
def test_ranks_together_do_the_whole_matrix_work_and_less_than_one_piece_more_each(tensor: int, sequences: int) -> None:
    graph = decode_graph(LLAMA, array(sequences), array(1000))
    device = shard(graph, plan_of(tensor))
    for op, part in zip(graph.matmuls, device.matmuls, strict=True):
        whole = float(op.m * sum(axis.size for axis in op.n) * op.k.size)
        done = float(part.m * part.n * part.k) * tensor
        widest = 3.0 * 128 if op.name in ("qkv", "attention_out") else 2.0  # three heads, or two features
        side = float(op.k.size if op.split == "n" else op.n[0].size)
        assert whole <= done <= whole + tensor * widest * sequences * side


@few
@given(factor=st.integers(2, 20), batch=st.integers(1, 64), context=st.integers(1, 4000))
def test_cache_is_linear_in_sequences_and_tokens_and_weights_ignore_both(factor: int, batch: int, context: int) -> None:
    base, more, longer = (
        memory_of((LLAMA, plan_of(2, 2), scenario_of(b, c)))
        for b, c in ((batch, context), (factor * batch, context), (batch, factor * context))
    )
    assert float(more.kv[0]) == float(longer.kv[0]) == factor * float(base.kv[0])
    assert float(more.weights[0]) == float(longer.weights[0]) == float(base.weights[0])
    assert more.activations[0] > base.activations[0]


@few
@given(
    pair=st.tuples(*[st.sampled_from(["fp32", "bf16", "mxfp8", "fp8", "fp6", "nvfp4", "mxfp4", "fp4"])] * 2),
    tensor=st.integers(1, 16),
    model=st.sampled_from([LLAMA, GPT]),
)
def test_a_narrower_format_never_needs_more_memory(pair: tuple[str, str], tensor: int, model: ModelArrays) -> None:
    wide, narrow = sorted(pair, key=bytes_per_element, reverse=True)
    held = [float(memory_of((model, plan_of(tensor, 1, dtype), scenario_of())).weights[0]) for dtype in (wide, narrow)]
    assert held[1] <= held[0]
    assert (held[1] == held[0]) == (bytes_per_element(wide) == bytes_per_element(narrow))


@few
@given(layers=st.integers(1, 200), pipeline=st.integers(1, 200), tied=st.booleans())
def test_a_stage_never_holds_less_than_its_share_of_the_weights(layers: int, pipeline: int, tied: bool) -> None:
    assume(pipeline <= layers)
    model = replace(LLAMA, layers=array(layers), tied_embeddings=tied)
    fullest = float(memory_of((model, plan_of(1, pipeline), scenario_of(1, 1))).weights[0])
    assert fullest * pipeline >= 2.0 * float(parameters(model))
