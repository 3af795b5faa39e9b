"""A training step as events takes the time of the closed form, where nothing contends and no chip waits for power."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.engines.schedules import schedule_time
from cosim.engines.train_events import run_training, simulate_training, step_schedule
from cosim.engines.training import step_table, with_micro_batches
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import expert_degrees
from cosim.mapping.order import ORDERS
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.schedules import PIECES, SPLIT
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.load import load_model
from cosim.workload.model import ModelArrays, lower_model

NODES = {"dgx-a100": 8, "dgx-h100": 8, "tpu-v5p-64": 64, "asic-8": 8}
LAYERS = {"llama-3.1-8b": 32, "megatron-22b": 48, "mixtral-8x7b": 32}
WITHIN = 5e-3
BESIDE_TRAFFIC = 6e-2
"""With the cores that collectives take on the shipped chips."""
LONG_TRANSFER = 0.005
"""Of the passes of a mean stage: the schedules beyond 1F1B take longer ones for hidden, or for all exposed."""
Drawn = tuple[str, str, str, dict[str, Any], dict[str, int]]


@functools.cache
def described(name: str) -> Varied[System]:
    return Varied(load_system(name))


@functools.cache
def roomy(name: str, nodes: int) -> SystemArrays:
    """The system with memory that holds anything and power that nothing draws."""
    ample = {"nodes": nodes, "chip.power.limit": 1e6, "chip.memory.dram.capacity": "1000 TB"}
    return lower_system(vary_system(described(name), ample))


@functools.cache
def model(name: str) -> ModelArrays:
    return lower_model(Varied(load_model(name)))


@functools.cache
def software(name: str) -> SoftwareArrays:
    return lower_software(load_software(name))


def without_contention(machine: SystemArrays) -> SystemArrays:
    """The system whose collectives take no cores from the kernels beside them."""
    return replace(machine, chip=replace(machine.chip, collective_cores=array(0.0)))


@st.composite
def plans(draw: st.DrawFn, *, rounds_of_pieces: int = 1) -> Drawn:
    """System, software, model, plan and scenario of a legal step on as many nodes as it needs.

    Left out, because the closed form knows one busiest stage and one transfer across nodes, and is short or long then:
    - stages that do not divide the layers: a fuller stage early in the pipeline hides part of its wait (events up to
      5.4 % faster, with several fuller stages behind each other up to 2.1 % slower);
    - ZeRO 2 and 3 with pieces, with more than four stages or with the large vocabulary and light layers of
      megatron-22b: what embedding and head gather and reduce in every micro-batch makes the end stages longer than
      the others (2.4 % faster to 1.2 % slower);
    - stages of fewer ranks than a node has that do not divide it: both count other boundaries across nodes (2.6 %).
    """
    machine, network = draw(st.sampled_from(sorted(NODES))), draw(st.sampled_from(sorted(LAYERS)))
    layers, node = LAYERS[network], NODES[machine]
    tensor = draw(st.sampled_from([1, 2, 4, 8]))
    pipeline = draw(st.sampled_from([degree for degree in range(1, 9) if layers % degree == 0]))
    within = [data for data in range(1, 17) if tensor * data >= node or node % (tensor * data) == 0]
    data = draw(st.sampled_from(within))
    pieces = draw(st.sampled_from([1, 2])) if pipeline > 1 and layers % (2 * pipeline) == 0 else 1
    shares_more = pipeline == 1 or (pipeline <= 4 and pieces == 1 and network != "megatron-22b")
    micro = draw(st.integers(1, 32))
    if pieces > 1:
        micro = pipeline * draw(st.integers(rounds_of_pieces, 6))
    plan: dict[str, Any] = {
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "data_parallel": data,
        "micro_batch": draw(st.sampled_from([1, 2, 4])),
        "virtual_pipeline": pieces,
        "zero": draw(st.integers(0, 3 if shares_more else 1)),
        "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "sequence_parallel": draw(st.booleans()),
        "expert_parallel": draw(st.sampled_from(expert_degrees(model(network), tensor, data))),
    }
    scenario = {
        "global_batch": data * plan["micro_batch"] * micro,
        "context": draw(st.sampled_from([256, 1024, 2048])),
    }
    return machine, draw(st.sampled_from(["megatron", "megatron-2022"])), network, plan, scenario


def chips_of(plan: Mapping[str, Any]) -> int:
    return int(plan["tensor_parallel"] * plan["pipeline_parallel"] * plan["data_parallel"])


def case_of(drawn: Drawn) -> Case:
    """A case of one point, on as many nodes as its plan needs."""
    machine, stack, network, plan, scenario = drawn
    nodes = -(-chips_of(plan) // NODES[machine])
    return Case(
        "train",
        roomy(machine, nodes),
        model(network),
        lower_plan(vary(Varied(Plan()), plan)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
        software(stack),
    )


def difference(case: Case) -> float:
    """How much longer the events take than the closed form, as a share."""
    result = evaluate(case)
    assert result.feasible[0]
    return simulate_training(case).time_s / float(result.time[0] - result.breakdown["throttle"][0]) - 1.0


@settings(max_examples=250, deadline=None)
@given(drawn=plans())
def test_a_training_step_as_events_takes_the_time_of_the_closed_form(drawn: Drawn) -> None:
    case = case_of(drawn)
    *_, plan, _scenario = drawn
    event(f"{plan['virtual_pipeline']} pieces, zero {plan['zero']}, {drawn[1]}")
    case = replace(case, system=without_contention(case.system))
    assert difference(case) == pytest.approx(0.0, abs=WITHIN)


@settings(max_examples=150, deadline=None)
@given(drawn=plans(rounds_of_pieces=2))
def test_traffic_that_takes_cores_keeps_the_two_close(drawn: Drawn) -> None:
    # With pieces and one round of micro-batches alone every pass is the first or the last of its piece, and lies
    # beside traffic: the closed form is up to 6.9 % short there.
    assert difference(case_of(drawn)) == pytest.approx(0.0, abs=BESIDE_TRAFFIC)


def pipeline_case(machine: SystemArrays, stack: str, **changes: object) -> Case:
    """Llama-3.1-8B in two replicas of four stages of one chip, 16 sequences."""
    fields = {"pipeline_parallel": 4, "data_parallel": 2, "zero": 1, **changes}
    scenario = {"global_batch": fields.pop("global_batch", 16), "context": 2048}
    return Case(
        "train",
        machine,
        model("llama-3.1-8b"),
        lower_plan(vary(Varied(Plan()), fields)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
        software(stack),
    )


@pytest.mark.parametrize("stack", ["megatron", "megatron-2022"])
@pytest.mark.parametrize("name", sorted(NODES))
def test_every_point_of_a_batch_agrees(name: str, stack: str) -> None:
    fields = {
        "pipeline_parallel": [1, 2, 4, 8, 2, 4],
        "virtual_pipeline": [1, 1, 1, 1, 2, 4],
        "micro_batch": [1, 2, 4, 1, 2, 1],
        "zero": [3, 0, 1, 1, 1, 0],
        "global_batch": [8, 16, 32, 64, 32, 16],
    }
    case = pipeline_case(without_contention(roomy(name, 2)), stack, **fields)
    result = evaluate(case)
    assert result.feasible.all()
    for index, closed in enumerate(result.time):
        assert simulate_training(case, index).time_s == pytest.approx(float(closed), rel=WITHIN)


@pytest.mark.parametrize(
    ("layers", "stages", "pieces"), [(126, 8, 8), (126, 16, 4), (94, 8, 3), (61, 4, 4), (30, 8, 4)]
)
@pytest.mark.parametrize("rounds", [2, 6])
def test_uneven_pieces_agree(layers: int, stages: int, pieces: int, rounds: int) -> None:
    machine = without_contention(roomy("dgx-h100", 16))
    fields = {"tensor_parallel": 8, "pipeline_parallel": stages, "virtual_pipeline": pieces, "data_parallel": 1}
    case = pipeline_case(machine, "megatron", global_batch=rounds * stages, **fields)
    case = replace(case, model=replace(case.model, layers=array(layers), vocab=array(16000)))
    assert difference(case) == pytest.approx(0.0, abs=WITHIN)


@pytest.mark.parametrize("name", sorted(NODES))
def test_waiting_at_the_power_limit_is_what_the_events_leave_out(name: str) -> None:
    power: Mapping[str, float] = MappingProxyType({"chip.power.limit": 1.1 * described(name).spec.chip.power.idle.si})
    room = {"nodes": 1, "chip.memory.dram.capacity": "1000 TB"}
    barely = lower_system(vary_system(described(name), {**room, **power}))
    limited, free = (
        pipeline_case(without_contention(machine), "megatron") for machine in (barely, roomy(name, nodes=1))
    )
    result, run = evaluate(limited), simulate_training(limited)
    waited = result.breakdown["throttle"][0]
    assert waited > 0.0
    assert run.time_s == simulate_training(free).time_s
    assert float(result.time[0] - waited) == pytest.approx(run.time_s, rel=WITHIN)


@st.composite
def scheduled(draw: st.DrawFn) -> Drawn:
    """The same under a schedule beyond 1F1B.

    Left out: fewer than three micro-batches a stage, where a bubble that is not exact for unequal stages weighs more
    (zb-v and dualpipe, 0.6 %).
    """
    machine, network = draw(st.sampled_from(sorted(NODES))), draw(st.sampled_from(sorted(LAYERS)))
    schedule = draw(st.sampled_from(sorted(PIECES)))
    layers, node = LAYERS[network], NODES[machine]
    tensor = draw(st.sampled_from([1, 2, 4, 8]))
    share = 2 if schedule == "zb-v" else 1
    pipeline = draw(st.sampled_from([degree for degree in (2, 4, 6, 8) if layers % (share * degree) == 0]))
    data = draw(
        st.sampled_from([data for data in range(1, 17) if (tensor * data) % node == 0 or node % (tensor * data) == 0])
    )
    plan: dict[str, Any] = {
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "data_parallel": data,
        "micro_batch": draw(st.sampled_from([1, 2, 4])),
        "virtual_pipeline": int(PIECES[schedule]),
        "schedule": schedule,
        "zero": draw(st.integers(0, 1)),
        "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "sequence_parallel": draw(st.booleans()),
        "expert_parallel": draw(st.sampled_from(expert_degrees(model(network), tensor, data))),
    }
    micro = 3 * pipeline + 2 * draw(st.integers(0, 12))
    scenario = {
        "global_batch": data * plan["micro_batch"] * micro,
        "context": draw(st.sampled_from([256, 1024, 2048])),
    }
    return machine, draw(st.sampled_from(["megatron", "megatron-2022"])), network, plan, scenario


@settings(max_examples=120, deadline=None)
@given(drawn=scheduled())
def test_every_schedule_as_events_takes_the_time_of_its_closed_form(drawn: Drawn) -> None:
    """Left out: transfers longer than LONG_TRANSFER; a closer look at traffic that hides is the next test's."""
    case = case_of(drawn)
    case = replace(case, system=without_contention(case.system))
    step = step_schedule(case)
    mean = sum(step.forward_s + step.backward_s) / len(step.forward_s)
    assume(max(step.transfer_s) < LONG_TRANSFER * mean)
    event(f"{step.schedule}, {drawn[1]}")
    nothing = (0.0,) * len(step.forward_s)
    alone = replace(step, gather_s=nothing, reduce_s=nothing, optimizer_s=nothing, host_s=0.0)
    point = with_micro_batches(case)
    closed = float(schedule_time(step_table(point).schedule, point.plan)[0])
    assert run_training(alone).time_s == pytest.approx(closed, rel=WITHIN)
    # Where weight gradients are passes of their own, traffic that hides starts at different times on every stage.
    hides = step.overlap and step.schedule in SPLIT
    assert difference(case) == pytest.approx(0.0, abs=BESIDE_TRAFFIC if hides else WITHIN)


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_takes_as_long_in_every_order_of_ranks(order: str) -> None:
    fields = {
        "order": order,
        "tensor_parallel": [2, 1, 2, 4, 1],
        "pipeline_parallel": [4, 8, 2, 2, 4],
        "data_parallel": [2, 2, 4, 1, 2],
        "context_parallel": [1, 2, 2, 2, 2],
        "virtual_pipeline": [1, 1, 2, 4, 2],
        "zero": [1, 0, 1, 0, 3],
    }
    case = pipeline_case(without_contention(roomy("dgx-h100", 4)), "megatron", **fields)
    result = evaluate(case)
    assert result.feasible.all()
    for index, closed in enumerate(result.time):
        assert simulate_training(case, index).time_s == pytest.approx(float(closed), rel=WITHIN)
