"""A step of prompts alone is a prefill and a step of decodes alone a decode, time by time; a mixture lies between."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case, Phase
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.load import load_model
from cosim.workload.model import lower_model
from cosim.workload.work import Work, decode_work, prefill_work

MODELS = (
    "llama-3.1-8b",  # dense
    "gpt-oss-120b",  # windows, experts
    "mixtral-8x7b",
    "deepseek-v3",  # latent
    "glm-5",  # latent with an index
    "qwen3.5-397b-a17b",  # linear attention
    "nemotron-h-56b",  # mixers
    "nemotron-3-super-120b-a12b",  # mixers, narrow experts
    "flan-t5-xl",  # an encoder before it
    "falcon-180b",  # blocks side by side
)
LIKE = pytest.mark.parametrize("model", MODELS)
SYSTEMS = ("dgx-h100", "tpu-v5p-8", "asic-8")
PLANS: tuple[dict[str, Any], ...] = (
    {},
    {"tensor_parallel": 4},
    {"data_parallel": 2, "dtype": "bf16"},
    {"tensor_parallel": 2, "pipeline_parallel": 4, "data_parallel": 1},
)
_system = functools.cache(lambda name: lower_system(Varied(load_system(name))))
_model = functools.cache(lambda name: lower_model(Varied(load_model(name))))


def parts(
    model: str, phase: Phase, asked: dict[str, int], work: Work | None, plan: dict[str, Any], system: str
) -> dict[str, float]:
    """Seconds of a step and of its parts, and its energy."""
    scenario = vary(Varied(Scenario()), asked)
    case = Case(
        phase,
        _system(system),
        _model(model),
        lower_plan(vary(Varied(Plan()), plan)),
        lower_scenario(scenario),
        work=work,
    )
    timed, found = timed_step(case)
    numbers = {**found, "time": timed["time"], "energy": timed["energy"]}
    return {name: float(np.ravel(value)[0]) for name, value in numbers.items()}


@LIKE
@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 64),
    context=st.integers(1, 4000),
    plan=st.sampled_from(PLANS),
    system=st.sampled_from(SYSTEMS),
)
def test_the_ends_of_a_mixture_are_prefill_and_decode(
    model: str, batch: int, context: int, plan: dict[str, Any], system: str
) -> None:
    asked = {"batch": 2 * batch, "context": context}
    ends: dict[Phase, Work] = {
        "prefill": prefill_work(array(2 * batch), array(context)),
        "decode": decode_work(array(2 * batch), array(context)),
    }
    for phase, work in ends.items():
        direct = parts(model, phase, asked, None, plan, system)
        mixed = parts(model, "serve", asked, work, plan, system)
        for name, value in direct.items():
            assert mixed[name] == pytest.approx(value, rel=1e-12, abs=1e-18), (phase, name)


@LIKE
@settings(max_examples=8, deadline=None)
@given(
    chunks=st.integers(1, 6),
    chunk=st.integers(16, 1500),
    decodes=st.integers(1, 256),
    context=st.integers(1, 6000),
    tensor=st.sampled_from([1, 8]),
)
def test_a_mixture_takes_no_longer_than_its_halves_and_no_less_than_either(
    model: str, chunks: int, chunk: int, decodes: int, context: int, tensor: int
) -> None:
    def time(work: Work) -> tuple[float, float]:
        found = parts(model, "serve", {}, work, {"tensor_parallel": tensor}, "dgx-h100")
        return found["time"] - found["throttle"], found["time"]

    fill, step = prefill_work(array(chunks), array(chunk)), decode_work(array(decodes), array(context))
    both = Work(fill.chunks, fill.chunk, fill.past, step.decodes, step.context, fill.chunks + step.decodes)
    (fill_full, fill_held), (step_full, step_held) = time(fill), time(step)
    full, held = time(both)
    assert max(fill_full, step_full) * (1.0 - 1e-9) <= full <= (fill_full + step_full) * 1.005
    # A kernel that memory holds up is taken to keep its time at any clock, one that its sums hold up to follow it: with
    # the limit of power a batch that goes from the one to the other does so in a jump.
    assert max(fill_held, step_held) * 0.88 <= held <= (fill_held + step_held) * 1.14


@LIKE
@settings(max_examples=6, deadline=None)
@given(
    place=st.sampled_from(["chunks", "chunk", "past", "decodes", "context"]),
    more=st.integers(1, 500),
    tensor=st.sampled_from([1, 8]),
)
def test_more_tokens_and_longer_contexts_are_never_faster(model: str, place: str, more: int, tensor: int) -> None:
    base = {"chunks": 2.0, "chunk": 200.0, "past": 300.0, "decodes": 16.0, "context": 1000.0}

    def time(numbers: dict[str, float]) -> float:
        work = Work(**{name: array(value) for name, value in numbers.items()}, sampled=array(17.0))
        return parts(model, "serve", {}, work, {"tensor_parallel": tensor}, "dgx-h100")["time"]

    longer = time({**base, place: base[place] + more})
    if (model, place) != ("flan-t5-xl", "past"):  # pieces with more before them are fewer that begin
        assert longer >= time(base) * 0.985
