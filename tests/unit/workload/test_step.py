"""The graph of a mixed step: its ends are prefill and decode, its work the sum of both, its weights counted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.graph import decode_graph, model_flop, prefill_graph
from cosim.workload.load import load_model
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.ops import Graph, Matmul
from cosim.workload.seq2seq import PREFIX
from cosim.workload.step import step_graph
from cosim.workload.work import Work, decode_work, prefill_work

Describe = Callable[..., Model]
ROUTED = {"experts": 8, "experts_per_token": 2, "expert_ffn": 32}
LATENT = {"kv_heads": 8, "query_latent": 24, "kv_latent": 40, "rope_dim": 4, "value_dim": 12}
INDEX = {"index_heads": 4, "index_dim": 8, "index_keys": 16}
DELTA = {"layers": 4, "key_heads": 2, "value_heads": 4, "key_dim": 8, "value_dim": 16, "kernel": 4, "chunk": 32}
MAMBA = {"pattern": "MM*-ME", "heads": 4, "head_dim": 8, "state": 16, "groups": 2, "kernel": 4, "chunk": 32}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "window": {"window": 12, "windowed_layers": 3, "sinks": True},
    "routed": {**ROUTED, "shared_experts": 1, "dense_layers": 2},
    "latent": {**LATENT, **ROUTED},
    "indexed": {**LATENT, **INDEX},
    "linear": {"delta": DELTA, "output_gate": True},
    "hybrid": {"mamba": MAMBA, "gated": False, "position": "none", **ROUTED},
    "listens": {"encoder": {"layers": 4, "tokens": 30}, "norm": "layer", "gated": False},
}
LIKE = pytest.mark.parametrize("kind", list(KINDS))


def made(describe: Describe, kind: str) -> ModelArrays:
    return lower_model(Varied(describe(**KINDS[kind])))


def mixed(chunks: float, chunk: float, past: float, decodes: float, context: float) -> Work:
    return Work(*(array(x) for x in (chunks, chunk, past, decodes, context, chunks + decodes)))


def flop(model: ModelArrays, graph: Graph) -> float:
    return float(model_flop(model, graph))


def weights(graph: Graph, name: str = "") -> float:
    """Elements that products of a layer own, each counted as often as its op runs."""
    owned = [op for op in graph.matmuls if not op.activations and op.group != "head" and op.name.startswith(name)]
    return sum(float(op.count * sum(axis.size for axis in op.n) * op.k.size) for op in owned)


@LIKE
@settings(max_examples=8, deadline=None)
@given(sequences=st.integers(1, 9), length=st.integers(1, 300))
def test_prompts_alone_and_decodes_alone_are_prefill_and_decode(
    describe: Describe, kind: str, sequences: int, length: int
) -> None:
    model, many, long = made(describe, kind), array(sequences), array(length)
    first = flop(model, step_graph(model, prefill_work(many, long)))
    assert first == pytest.approx(flop(model, prefill_graph(model, many, long)), rel=1e-12)
    later = flop(model, step_graph(model, decode_work(many, long)))
    assert later == pytest.approx(flop(model, decode_graph(model, many, long)), rel=1e-12)


@LIKE
@settings(max_examples=8, deadline=None)
@given(chunks=st.integers(1, 4), chunk=st.integers(1, 90), decodes=st.integers(1, 20), context=st.integers(1, 300))
def test_work_of_a_mixed_step_is_that_of_its_halves(
    describe: Describe, kind: str, chunks: int, chunk: int, decodes: int, context: int
) -> None:
    model, past = made(describe, kind), array(0.0)
    both = flop(model, step_graph(model, mixed(chunks, chunk, float(past), decodes, context)))
    halves = prefill_work(array(chunks), array(chunk)), decode_work(array(decodes), array(context))
    assert both == pytest.approx(sum(flop(model, step_graph(model, half)) for half in halves), rel=1e-12)


@LIKE
def test_a_mixed_step_reads_the_weights_of_every_product_once(describe: Describe, kind: str) -> None:
    model = made(describe, kind)
    both = step_graph(model, mixed(2, 40, 0, 7, 100))
    names = [op.name for op in both.matmuls if not op.activations]
    assert len(names) == len(set(names))
    assert {"qkv", "query_up"} & set(names) or "mamba_in" in names
    for name in ("qkv", "attention_out", "ffn_in", "delta_in", "mamba_in", "kv_down", "router", "cross_query"):
        alone = weights(decode_graph(model, array(7.0), array(100.0)), name)
        assert weights(both, name) == pytest.approx(alone), name


@LIKE
@settings(max_examples=10, deadline=None)
@given(longer=st.integers(1, 200))
def test_more_of_anything_is_never_less_work(describe: Describe, kind: str, longer: int) -> None:
    model, base = made(describe, kind), (2, 40, 30, 7, 100)
    least = flop(model, step_graph(model, mixed(*base)))
    for place in (0, 1, 3, 4):
        more = list(base)
        more[place] += longer
        assert flop(model, step_graph(model, mixed(*more))) >= least
    # An encoder runs for pieces that begin: those with more before them are fewer.
    if kind != "listens":
        assert flop(model, step_graph(model, mixed(2, 40, 30 + longer, 7, 100))) >= least


def test_attention_of_a_piece_sees_what_is_in_the_cache(describe: Describe) -> None:
    graph = step_graph(made(describe, "dense"), mixed(1, 40, 60, 7, 100))
    kernels = {op.name: op for op in graph.attentions}
    assert set(kernels) == {"attention.prompts", "attention.decodes"}
    prompts, decodes = kernels["attention.prompts"], kernels["attention.decodes"]
    assert (prompts.phase, float(prompts.query), float(prompts.context)) == ("prefill", 40.0, 100.0)
    assert (decodes.phase, float(decodes.query), float(decodes.batch)) == ("decode", 1.0, 7.0)


def test_an_absent_half_counts_no_time(describe: Describe) -> None:
    counts = {op.name: float(op.count) for op in step_graph(made(describe, "dense"), mixed(0, 0, 0, 7, 9)).attentions}
    assert counts == {"attention.prompts": 0.0, "attention.decodes": 1.0}


@pytest.mark.parametrize("drawn", [0.0, 3.0])
def test_logits_are_those_of_the_rows_that_are_drawn_from(describe: Describe, drawn: float) -> None:
    model = made(describe, "dense")
    work = Work(*(array(x) for x in (2.0, 40.0, 0.0, 7.0, 9.0, drawn)))
    logits = next(op for op in step_graph(model, work).matmuls if op.name == "logits")
    assert float(logits.count * logits.m) == drawn


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("best", {"kv_up.prompts", "key_absorb.decodes", "value_absorb.decodes"}),
        ("expanded", {"kv_up.prompts", "kv_up.decodes"}),
        ("absorbed", {f"{part}_absorb.{half}" for part in ("key", "value") for half in ("prompts", "decodes")}),
    ],
)
def test_latent_attention_has_its_form_in_each_half(describe: Describe, form: str, names: set[str]) -> None:
    graph = step_graph(made(describe, "latent"), mixed(2, 40, 60, 7, 100), latent=form)
    assert {op.name for op in graph.matmuls if "." in op.name} == names


def test_keys_of_a_piece_are_made_anew_of_all_that_it_sees(describe: Describe) -> None:
    graph = step_graph(made(describe, "latent"), mixed(2, 40, 60, 7, 100))
    assert float(next(op for op in graph.matmuls if op.name == "kv_up.prompts").m) == 2 * (40 + 60)


def test_an_index_scores_each_half_apart_and_projects_once(describe: Describe) -> None:
    graph = step_graph(made(describe, "indexed"), mixed(2, 40, 60, 7, 100))
    names = [op.name for op in graph.attentions]
    assert len([name for name in names if name.startswith("index")]) == 2
    projections = [op for op in graph.matmuls if op.name.startswith("index")]
    assert len({op.name for op in projections}) == len(projections)
    assert all(float(op.m) == 2 * 40 + 7 for op in projections)


def test_linear_layers_run_chunks_for_prompts_and_steps_for_decodes(describe: Describe) -> None:
    graph = step_graph(made(describe, "linear"), mixed(2, 40, 60, 7, 100))
    ops: dict[str, Matmul] = {op.name: op for op in graph.matmuls}
    assert float(ops["delta_in"].m) == 2 * 40 + 7
    assert float(ops["delta_keys"].count) == pytest.approx(4 / 6)
    assert ops["delta_keys"].batch is not None
    assert float(ops["delta_keys"].batch.size) == 4 * 2 * 2  # heads, prompts, chunks of 32
    step = next(op for op in graph.attentions if op.name == "delta_step.decodes")
    assert (float(step.batch), float(step.count)) == (7.0, pytest.approx(4 / 6))


def test_the_encoder_runs_for_prompts_that_begin(describe: Describe) -> None:
    model = made(describe, "listens")

    def heard(work: Work) -> dict[str, float]:
        ops = step_graph(model, work).matmuls
        return {op.name: float(op.count * op.m) for op in ops if op.name.startswith((PREFIX, "cross"))}

    begun, later, none = heard(mixed(2, 40, 0, 7, 100)), heard(mixed(2, 40, 60, 7, 100)), heard(mixed(0, 0, 0, 7, 100))
    share = 4 / 6
    assert begun["encoder_qkv"] == pytest.approx(2 * 30 * share)
    assert begun["cross_keys"] == 2 * 30
    assert begun["cross_query"] == later["cross_query"] == 2 * 40 + 7
    # Pieces of 40 with 60 before them on average are a quarter of their prompts: one in four begins.
    assert later["cross_keys"] == pytest.approx(2 * 30 / 4)
    assert (none["encoder_qkv"], none["cross_keys"], none["cross_query"]) == (0.0, 0.0, 7.0)


def test_weights_of_an_encoder_lie_in_memory_whether_it_runs_or_not(describe: Describe) -> None:
    model = made(describe, "listens")

    def held(graph: Graph) -> float:
        tables = sum(float(op.count * op.table.size) for op in graph.vectors if op.table is not None)
        return weights(graph) + tables + sum(float(op.count * op.parameters) for op in graph.vectors)

    step = held(step_graph(model, mixed(0, 0, 0, 7, 100)))
    assert held(step_graph(model, mixed(2, 40, 0, 7, 100))) == pytest.approx(step)
    assert held(decode_graph(model, array(7.0), array(100.0))) == pytest.approx(step)


def test_points_with_and_without_prompts_are_one_batch(describe: Describe) -> None:
    model = made(describe, "latent")
    columns = ([2.0, 0.0, 2.0], [40.0, 0.0, 40.0], [60.0, 0.0, 60.0], [7.0, 7.0, 0.0], [100.0, 100.0, 0.0])
    together = model_flop(model, step_graph(model, Work(*(array(x) for x in columns), array([9.0, 7.0, 2.0]))))
    singles = [flop(model, step_graph(model, mixed(*row))) for row in zip(*columns, strict=True)]
    np.testing.assert_allclose(together, singles, rtol=1e-12)


def test_what_has_no_decode_has_no_mixed_step() -> None:
    with pytest.raises(SpecError, match="has no decode step"):
        step_graph(lower_model(Varied(load_model("bert-large-pretraining"))), mixed(1, 4, 0, 1, 4))
