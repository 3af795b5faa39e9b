"""A case: what one micro-batch works on, what one rank and one stage of it see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case, Phase, device_graph, micro_batch_graph, new_tokens, stage_classes
from cosim.overrides import Varied
from cosim.records import array, points
from cosim.workload.graph import model_flop, prefill_graph
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.work import Work, decode_work, prefill_work

CaseOf = Callable[..., Case]
PHASES: tuple[Phase, ...] = ("prefill", "decode")


@settings(max_examples=15, deadline=None)
@given(
    phase=st.sampled_from(PHASES),
    data=st.integers(1, 8),
    micro=st.integers(1, 8),
    each=st.integers(1, 50),
    context=st.integers(1, 5000),
)
def test_micro_batches_of_all_replicas_together_do_the_work_of_the_batch(
    case_of: CaseOf, phase: Phase, data: int, micro: int, each: int, context: int
) -> None:
    scenario = {"scenario.batch": data * micro * each, "scenario.context": context}
    whole = case_of(phase, **scenario)
    split = case_of(phase, **scenario, **{"plan.data_parallel": data, "plan.micro_batches": micro})
    per_part = model_flop(split.model, micro_batch_graph(split))
    assert per_part * data * micro == pytest.approx(float(model_flop(whole.model, micro_batch_graph(whole))), rel=1e-12)


@pytest.mark.parametrize(("phase", "rows"), [("prefill", 3 * 700), ("decode", 3)])
def test_rows_of_a_micro_batch(case_of: CaseOf, phase: Phase, rows: int) -> None:
    # 24 sequences over 2 replicas of 4 micro-batches: 3 sequences each
    fields = {"plan.data_parallel": 2, "plan.micro_batches": 4, "scenario.batch": 24, "scenario.context": 700}
    graph = micro_batch_graph(case_of(phase, **fields))
    assert graph.phase == phase
    assert {op.name: float(op.m) for op in graph.matmuls} == {
        "qkv": rows,
        "attention_out": rows,
        "ffn_in": rows,
        "ffn_out": rows,
        "logits": 3,
    }
    (attention,) = graph.attentions
    assert (float(attention.batch), float(attention.context)) == (3.0, 700.0)
    assert float(attention.query) == (700.0 if phase == "prefill" else 1.0)


@pytest.mark.parametrize(("phase", "tokens"), [("prefill", [7000.0, 21000.0]), ("decode", [10.0, 30.0])])
def test_new_tokens_are_prompts_or_one_for_each_sequence(case_of: CaseOf, phase: Phase, tokens: list[float]) -> None:
    case = case_of(phase, **{"scenario.batch": [10, 30], "scenario.context": 700, "plan.micro_batches": 5})
    np.testing.assert_array_equal(new_tokens(case), tokens)


def test_a_rank_has_its_share_of_the_split_dimension(case_of: CaseOf) -> None:
    case = case_of("decode", **{"plan.tensor_parallel": [1, 8], "scenario.batch": 4})
    graph = device_graph(case)
    shapes = {op.name: (op.n, op.k) for op in graph.matmuls}
    np.testing.assert_array_equal(shapes["qkv"][0], [6144.0, 768.0])  # (32 + 2 x 8) x 128 over 1 and 8 ranks
    np.testing.assert_array_equal(shapes["ffn_out"][1], [14336.0, 1792.0])
    assert float(shapes["ffn_out"][0]) == 4096.0
    assert points(case) == 2


def test_stage_classes_share_the_layers_of_each_point(case_of: CaseOf) -> None:
    case = case_of("decode", **{"workload.layers": [32, 33, 34], "plan.pipeline_parallel": [1, 2, 4]})
    stage = stage_classes(case)
    assert stage.count.shape == (4, 3)
    np.testing.assert_array_equal((stage.count * stage.layers).sum(axis=0), [32.0, 33.0, 34.0])
    np.testing.assert_array_equal(stage.count.sum(axis=0), [1.0, 2.0, 4.0])
    # 34 layers on 4 stages: the middle ones take the two that are left over
    np.testing.assert_array_equal(stage.layers[:, 2], [8.0, 9.0, 8.0, 8.0])
    np.testing.assert_array_equal(stage.count[:, 2], [1.0, 2.0, 0.0, 1.0])


@settings(max_examples=15, deadline=None)
@given(data=st.integers(1, 8), micro=st.integers(1, 4), chunks=st.integers(1, 8), decodes=st.integers(1, 64))
def test_replicas_and_micro_batches_share_the_sequences_of_a_step(
    serving: CaseOf, data: int, micro: int, chunks: int, decodes: int
) -> None:
    numbers = (array(x) for x in (chunks * data * micro, 50.0, 20.0, decodes * data * micro, 300.0, 1.0))
    case = serving(work=Work(*numbers), data_parallel=data, micro_batches=micro)
    graph = micro_batch_graph(case)
    assert graph.phase == "serve"
    qkv = next(op for op in graph.matmuls if op.name == "qkv")
    assert float(qkv.m) == pytest.approx(chunks * 50 + decodes)
    assert {float(op.batch) for op in graph.attentions} == {float(chunks), float(decodes)}


@pytest.mark.parametrize("name", ["bert-large-pretraining", "bert-large"])
def test_a_step_of_what_keeps_no_cache_is_a_pass_over_its_prompts(serving: CaseOf, case_of: CaseOf, name: str) -> None:
    if name == "bert-large":
        model = lower_workload(Varied(load_workload(name)))
    else:
        model = case_of("prefill", model=name).model
    work = prefill_work(array(6.0), array(100.0))
    case = replace(serving(work=work, data_parallel=2), model=model)
    whole = prefill_graph(model, array(3.0), array(100.0))
    assert float(model_flop(model, micro_batch_graph(case))) == pytest.approx(float(model_flop(model, whole)))
    none = replace(case, work=decode_work(array(4.0), array(9.0)))
    assert float(model_flop(model, micro_batch_graph(none))) == 0.0
