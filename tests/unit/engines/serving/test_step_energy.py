"""Energy of serving steps: rising tables, the same joules as a step by itself, idle apart, ranks of a replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case
from cosim.engines.serving.steps import StepEnergy, step_energy
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.serving import load_serving, lower_serving
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.work import Work

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Made = Callable[..., Case]
NONE = array(0.0)


@pytest.fixture(scope="module")
def case() -> Made:
    def made(model: str = "llama-3.1-8b", **plan: object) -> Case:
        planned = Plan.model_validate({"dtype": "bf16", **plan})
        return Case(
            "serve",
            lower_system(Varied(load_system("dgx-h100"))),
            lower_workload(Varied(load_workload(model))),
            lower_plan(Varied(planned)),
            lower_scenario(Varied(Scenario(batch=planned.data_parallel))),
            stack=lower_serving(load_serving("vllm")),
        )

    return made


def beyond_idle(case: Case, work: Work) -> float:
    """Joules of a step beyond those of chips that idle as long, its host left out."""
    stack = case.stack
    assert stack is not None
    bare = replace(stack, host_step=NONE, host_sequence=NONE, host_hidden=False)
    timed, _ = timed_step(replace(case, stack=bare, work=work))
    idle = case.system.chip.power.idle * case.plan.chips
    return float(np.ravel(timed["energy"] - idle * timed["time"])[0])


def answers(energy: StepEnergy, count: float, context: float) -> float:
    """Joules of a step of so many decoding sequences from the tables."""
    linear = np.interp(count, energy.tokens, energy.linear_j) + np.interp(count, energy.tokens, energy.head_j)
    return float(linear + count * np.interp(context, energy.contexts, energy.decode_j))


def test_tables_rise_and_start_at_the_weights(case: Made) -> None:
    energy = step_energy(case(), most_tokens=4096, most_context=32768)
    for values in (energy.linear_j, energy.head_j, energy.decode_j):
        assert np.all(np.diff(values) >= 0.0)
        assert np.all(values >= 0.0)
    assert energy.linear_j[0] > 0.0
    # Twice the tokens are never twice the energy while the weights are read once.
    assert np.all(energy.linear_j[2:] <= energy.linear_j[0] * energy.tokens[2:])
    assert energy.idle_w == pytest.approx(float(case().system.chip.power.idle))


@pytest.mark.parametrize("count", [1.0, 16.0, 96.0])
@pytest.mark.parametrize("context", [256.0, 4096.0])
def test_a_step_of_answers_has_the_joules_of_that_step(case: Made, count: float, context: float) -> None:
    one = case()
    energy = step_energy(one, most_tokens=1024, most_context=8192)
    exact = beyond_idle(one, Work(NONE, NONE, NONE, array(count), array(context), array(count)))
    assert answers(energy, count, context) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("prompt", [64.0, 1024.0])
def test_a_prompt_has_the_joules_of_its_step(case: Made, prompt: float) -> None:
    one = case()
    energy = step_energy(one, most_tokens=4096, most_context=8192)
    exact = beyond_idle(one, Work(array(1.0), array(prompt), NONE, NONE, NONE, NONE))
    keys = (prompt + 1.0) / 2.0
    attention = prompt * np.interp(keys, energy.contexts, energy.prefill_j)
    assert np.interp(prompt, energy.tokens, energy.linear_j) + attention == pytest.approx(exact, rel=0.07)


def test_ranks_that_share_experts_idle_together(case: Made) -> None:
    moe = case("qwen3-30b-a3b", data_parallel=2, expert_parallel=2)
    energy = step_energy(moe, most_tokens=1024, most_context=8192)
    assert energy.idle_w == pytest.approx(2.0 * float(moe.system.chip.power.idle))
    exact = beyond_idle(moe, Work(NONE, NONE, NONE, array(64.0), array(1024.0), array(64.0)))
    assert answers(energy, 64.0, 1024.0) == pytest.approx(exact, rel=0.05)


def test_small_steps_of_many_ranks_cost_as_much_for_a_prompt_token(case: Made) -> None:
    # A piece is no longer than what a rank takes in one step.
    ranks = case("qwen3-30b-a3b", data_parallel=8, expert_parallel=8)
    small, large = (step_energy(ranks, most_tokens=8 * each, most_context=4096) for each in (256, 2048))
    at = small.contexts >= 512.0
    assert np.all(small.prefill_j[at] < 2.0 * large.prefill_j[at])


@pytest.mark.parametrize("model", ["llama-3.1-8b", "nemotron-3-nano-30b-a3b"])
def test_a_prompt_takes_the_joules_of_its_step(case: Made, model: str) -> None:
    # Of a hybrid too, whose states are passed once for a chunk and not for each token.
    own = case(model)
    energy = step_energy(own, most_tokens=4096, most_context=8192)
    tokens = 2048.0
    exact = beyond_idle(own, Work(array(1.0), array(tokens), NONE, NONE, NONE, NONE))
    keys = (tokens + 1.0) / 2.0
    told = np.interp(tokens, energy.tokens, energy.linear_j)
    told += tokens * np.interp(keys, energy.contexts, energy.prefill_j)
    assert told == pytest.approx(exact, rel=0.03)
