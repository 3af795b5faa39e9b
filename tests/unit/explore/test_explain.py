"""Why nothing fits, in words, and a way out that is one."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case, Phase
from cosim.explore.explain import explain, memory_text, plan_text
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.overrides import Varied, vary
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

FITS = re.compile(
    r"it fits with tensor (\d+) x pipeline (\d+) x data (\d+)(?:, (\d+) micro-batches)?, .* on (\d+) chips"
)


@functools.cache
def system(name: str) -> Varied[System]:
    return Varied(load_system(name))


@functools.cache
def model(name: str) -> Varied[Model]:
    return Varied(load_model(name))


def case_of(workload: str, name: str = "dgx-h100", phase: Phase = "decode", nodes: int = 1, **fields: Any) -> Case:
    scenario = {field: fields.pop(field) for field in ("batch", "context", "tpot_limit") if field in fields}
    return Case(
        phase,
        lower_system(vary_system(system(name), {"nodes": nodes})),
        lower_model(model(workload)),
        lower_plan(vary(Varied(Plan()), fields)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
    )


def said(case: Case) -> str:
    return str(explain(case, evaluate(case)))


def test_a_plan_in_words() -> None:
    case = case_of("llama-3.1-8b", tensor_parallel=[4, 2], pipeline_parallel=2, micro_batches=[1, 16], dtype="fp8")
    assert plan_text(case, 0) == "tensor 4 x pipeline 2 x data 1, fp8"
    assert plan_text(case, 1) == "tensor 2 x pipeline 2 x data 1, 16 micro-batches, fp8"


def test_memory_in_words_is_largest_first_and_leaves_out_what_is_not_held() -> None:
    result = evaluate(case_of("llama-3.1-8b", batch=[1, 512], context=8192))
    # 8.03 G weights of 2 B; a sequence of 8192 x 128 KiB = 1.07 GB
    assert memory_text(result, 0).startswith("weights 16.1 GB, other 4 GB, kv 1.07 GB, activations ")
    assert memory_text(result, 1).startswith("kv 550 GB, weights 16.1 GB, other 4 GB, activations ")
    assert "optimizer" not in memory_text(result, 0)


def test_of_many_the_point_that_came_nearest_is_explained() -> None:
    # Degree 3 breaks an earlier limit than memory; of those without memory, degree 8 lacks least.
    case = case_of("llama-3.1-405b", tensor_parallel=[3, 4, 8, 2])
    error = explain(case, evaluate(case))
    assert (error.limit, error.shortfall[:8]) == ("memory", "tensor 8")


@pytest.mark.parametrize(
    ("fields", "limit", "message"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel", "tensor 3 x pipeline 1 x data 1, bf16 leaves a remainder of 2;"),
        ({"tensor_parallel": 8, "data_parallel": 2}, "chips", "needs 8 chips more than there are;"),
        ({"pipeline_parallel": 7, "batch": 9, "micro_batches": 4}, "batch", "leaves 1 sequences over;"),
    ],
)
def test_other_limits_say_by_how_much_and_what_to_do(fields: dict[str, int], limit: str, message: str) -> None:
    case = case_of("llama-3.1-8b", **fields)
    error = explain(case, evaluate(case))
    assert error.limit == limit
    assert message in str(error)
    assert error.hint


def test_a_step_that_is_too_slow_says_the_seconds() -> None:
    case = case_of("llama-3.1-8b", tensor_parallel=8, tpot_limit="1 ms")
    free = evaluate(case_of("llama-3.1-8b", tensor_parallel=8)).time[0]
    assert f"is {free - 1e-3:.4g} s too slow" in said(case)


def test_what_is_too_much_for_64_nodes_is_said() -> None:
    text = said(case_of("llama-3.1-405b", tensor_parallel=8, batch=50_000, context=100_000))
    assert text.endswith("it does not fit on 64 nodes: use a smaller batch or context, or a narrower format")


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8"]),
    workload=st.sampled_from(["llama-3.1-70b", "llama-3.1-405b", "gpt3-175b"]),
    batch=st.sampled_from([1, 16, 96, 512]),
    context=st.sampled_from([256, 2048]),
)
def test_the_way_out_is_one(name: str, workload: str, batch: int, context: int) -> None:
    case = case_of(workload, name, batch=batch, context=context)
    if evaluate(case).feasible[0]:
        return
    found = FITS.search(said(case))
    assert found is not None
    tensor, pipeline, data, micro, chips = (int(number or 1) for number in found.groups())
    assert tensor * pipeline * data == chips
    plan = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": data, "micro_batches": micro}
    right = case_of(workload, name, batch=batch, context=context, nodes=chips // 8, **plan)
    assert evaluate(right).feasible.all()


def test_a_larger_system_than_needed_is_not_asked_for() -> None:
    # Four nodes are there; a plan on one of them fits, so that is what is named.
    text = said(case_of("llama-3.1-70b", nodes=4, tensor_parallel=1))
    assert "on 8 chips (system.nodes=1)" in text
