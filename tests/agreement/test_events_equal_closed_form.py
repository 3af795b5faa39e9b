"""The event engine equals the closed form, where nothing contends and no chip waits at its power limit."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case, Phase
from cosim.engines.events import schedule, simulate
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.overrides import Varied, vary
from cosim.records import Array
from cosim.workload.load import load_model, load_workload, lower_workload
from cosim.workload.model import ModelArrays, lower_model

SYSTEMS = ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8")
WITHIN = 1e-3


@functools.cache
def described(name: str) -> Varied[System]:
    return Varied(load_system(name))


def system(name: str, nodes: int, changes: Mapping[str, float] = MappingProxyType({})) -> SystemArrays:
    """The system with a power limit that nothing reaches, so that no step is throttled, unless `changes` has one."""
    return lower_system(vary_system(described(name), {"nodes": nodes, "chip.power.limit": 1e5, **changes}))


@functools.cache
def model(name: str) -> ModelArrays:
    return lower_model(Varied(load_model(name)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Legal plans on one or two nodes of every shipped system, with their batches."""
    name, network = draw(st.sampled_from(SYSTEMS)), model(draw(st.sampled_from(["llama-3.1-8b", "qwen3-32b"])))
    nodes = draw(st.integers(1, 2))
    pipeline = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 8 * nodes]))
    tensor = draw(st.sampled_from([degree for degree in (1, 2, 4, 8) if degree * pipeline <= 8 * nodes]))
    data = draw(st.integers(1, 8 * nodes // (tensor * pipeline)))
    micro, each = draw(st.integers(1, 10)), draw(st.sampled_from([1, 3, 16, 64]))
    plan = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "data_parallel": data, "micro_batches": micro}
    plan["dtype"] = draw(st.sampled_from(["bf16", "fp8"]))
    scenario = {"batch": data * micro * each, "context": draw(st.integers(1, 4000))}
    phase: Phase = draw(st.sampled_from(("prefill", "decode")))
    return Case(
        phase,
        system(name, nodes),
        network,
        lower_plan(vary(Varied(Plan()), plan)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
    )


def agreement(case: Case, closed_form_s: Array, index: int) -> float:
    """Relative difference of the event engine from a closed-form time at point `index`."""
    return simulate(case, index).time_s / float(closed_form_s[index]) - 1.0


@settings(max_examples=45, deadline=None)
@given(case=cases())
def test_a_step_as_events_takes_the_time_of_the_closed_form(case: Case) -> None:
    result = evaluate(case)
    assume(result.feasible[0])
    plan = schedule(case)
    assume(max(plan.transfer_s, default=0.0) < max(plan.stage_s))
    event(f"{case.phase}, bubble {result.breakdown['bubble'][0] > 0.0}")
    assert result.breakdown["throttle"][0] == 0.0
    assert agreement(case, result.time, 0) == pytest.approx(0.0, abs=WITHIN)


def pipeline_case(phase: Phase, machine: SystemArrays, **fields: object) -> Case:
    plan = {"tensor_parallel": 2, "pipeline_parallel": 4, "micro_batches": 4}
    scenario = {"batch": 32, "context": 1024}
    plan |= {name: value for name, value in fields.items() if name in plan}
    scenario |= {name: value for name, value in fields.items() if name in scenario}
    formats = vary(Varied(Plan()), plan)
    return Case(
        phase, machine, model("llama-3.1-8b"), lower_plan(formats), lower_scenario(vary(Varied(Scenario()), scenario))
    )


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_every_point_of_a_batch_agrees(name: str, phase: Phase) -> None:
    case = pipeline_case(
        phase, system(name, 1), micro_batches=[1, 2, 4, 8, 16, 32], pipeline_parallel=[1, 2, 3, 4, 4, 4]
    )
    times = evaluate(case).time
    for index in range(6):
        assert agreement(case, times, index) == pytest.approx(0.0, abs=WITHIN)


@pytest.mark.parametrize("name", SYSTEMS)
def test_links_that_are_slower_than_stages_hold_up_the_events_alone(name: str) -> None:
    slow = system(name, 1, {"chip.links.scale_up.bandwidth": 1e6})
    case = pipeline_case("prefill", slow, tensor_parallel=1)
    plan = schedule(case)
    assert max(plan.transfer_s) > max(plan.stage_s)
    # The closed form lets the four micro-batches cross a link together; the events send one after the other.
    waits = 3.0 * (max(plan.transfer_s) - max(plan.stage_s))
    assert simulate(case).time_s == pytest.approx(evaluate(case).time[0] + waits, rel=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_waiting_at_the_power_limit_is_what_the_events_leave_out(name: str) -> None:
    barely = 1.1 * described(name).spec.chip.power.idle.si
    limited = pipeline_case("prefill", system(name, 1, {"chip.power.limit": barely}))
    free = pipeline_case("prefill", system(name, 1))
    result, run = evaluate(limited), simulate(limited)
    waited = result.breakdown["throttle"][0]
    assert waited > 0.0
    assert run.time_s == simulate(free).time_s
    assert result.time[0] - waited == pytest.approx(run.time_s, rel=WITHIN)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS),
    workload=st.sampled_from(["resnet-50", "vit-base-patch16", "bert-large", "dlrm", "mamba2-2.7b"]),
    data=st.integers(1, 8),
    micro=st.integers(1, 6),
    each=st.integers(1, 64),
    tokens=st.integers(1, 512),
)
def test_a_network_as_events_takes_the_time_of_the_closed_form(
    name: str, workload: str, data: int, micro: int, each: int, tokens: int
) -> None:
    plan = {"data_parallel": data, "micro_batches": micro}
    scenario = {"batch": data * micro * each, "context": tokens}
    case = Case(
        "prefill",
        system(name, 1),
        lower_workload(Varied(load_workload(workload))),
        lower_plan(vary(Varied(Plan()), plan)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
    )
    result = evaluate(case)
    assume(result.feasible[0])
    event(workload)
    assert agreement(case, result.time, 0) == pytest.approx(0.0, abs=1e-9)
    assert len(simulate(case).spans) == micro
