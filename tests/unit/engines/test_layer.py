"""Steps that compute modules or the first layers of a stage again: between none and full, in both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.layer import later
from cosim.engines.train_events import simulate_training
from cosim.engines.training import with_micro_batches
from cosim.records import array

Train = Callable[..., Case]
CALM = {"system.chip.power.limit": 1e6, "system.chip.collective_cores": 1e-9}
MODULES = st.sampled_from(
    ["core_attention", "norms", "activation", "mlp", "attention", "norms,mlp", "elementwise,products"]
)


def run(train: Train, **fields: Any) -> Estimates:
    return evaluate(train(**{"software": "megatron", **CALM, **fields}))


def second(result: Estimates) -> float:
    return float(result.time[0])


@settings(max_examples=15, deadline=None)
@given(pipeline=st.sampled_from([1, 2, 3]), first=st.integers(0, 12), zero=st.integers(0, 1))
def test_time_and_memory_fall_between_none_and_full(train: Train, pipeline: int, first: int, zero: int) -> None:
    plan = {"pipeline_parallel": pipeline, "zero": zero, "data_parallel": 2}
    none, full = run(train, **plan), run(train, recompute="full", **plan)
    some = run(train, recompute="full", recompute_layers=first, **plan)
    share = min(first * pipeline / 12.0, 1.0)
    assert second(none) * (1 - 1e-9) <= second(some) <= second(full) * (1 + 1e-9)

    # Reductions hide behind passes until all that can are hidden: what is left of them falls, but not in a line.
    def exposed(result: Estimates) -> float:
        return float(result.breakdown["data_parallel"][0])

    def busy(result: Estimates) -> float:
        return second(result) - exposed(result)

    assert exposed(full) * (1 - 1e-9) <= exposed(some) <= exposed(none) * (1 + 1e-9)
    assert busy(some) == pytest.approx(busy(none) + share * (busy(full) - busy(none)), rel=2e-3)
    assert float(some.energy[0]) == pytest.approx(
        float(none.energy[0] + share * (full.energy[0] - none.energy[0])), rel=2e-3
    )


@pytest.mark.parametrize("software", ["megatron", "megatron-2022"])
def test_all_layers_are_what_no_number_is_and_none_is_no_recompute(train: Train, software: str) -> None:
    fields = {"software": software, "pipeline_parallel": 2}
    for level in ("selective", "full"):
        whole = run(train, recompute=level, **fields)
        counted = run(train, recompute=level, recompute_layers=6, **fields)
        assert second(counted) == pytest.approx(second(whole), rel=1e-12)
        assert counted.memory["total"] == pytest.approx(whole.memory["total"], rel=1e-12)
        nothing = run(train, recompute=level, recompute_layers=0, **fields)
        assert second(nothing) == pytest.approx(second(run(train, **fields)), rel=1e-12)
        assert nothing.memory["total"] == pytest.approx(run(train, **fields).memory["total"], rel=1e-12)


@pytest.mark.parametrize("software", ["megatron", "megatron-2022"])
def test_the_core_as_a_module_takes_the_time_of_selective(train: Train, software: str) -> None:
    fields = {"software": software, "pipeline_parallel": 3}
    module, level = (
        run(train, recompute_modules="core_attention", **fields),
        run(train, recompute="selective", **fields),
    )
    assert second(module) == pytest.approx(second(level), rel=1e-12)
    # The core in work is counted as well.
    assert module.memory["activations"] > level.memory["activations"]


@settings(max_examples=15, deadline=None)
@given(modules=MODULES, pipeline=st.sampled_from([1, 2, 3]), first=st.sampled_from([None, 0, 1, 3]))
def test_events_take_the_time_of_the_closed_form(train: Train, modules: str, pipeline: int, first: int | None) -> None:
    fields: dict[str, Any] = {
        "recompute_modules": modules,
        "pipeline_parallel": pipeline,
        "zero": 1,
        "data_parallel": 2,
    }
    if first is not None:
        fields["recompute_layers"] = first
    case = with_micro_batches(train("megatron", **CALM, **fields))
    result = evaluate(case)
    assert simulate_training(case).time_s == pytest.approx(second(result), rel=5e-3)
    assert sum(float(part[0]) for part in result.breakdown.values()) == pytest.approx(second(result), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(modules=MODULES)
def test_a_module_costs_time_and_saves_memory(train: Train, modules: str) -> None:
    none, some, full = run(train), run(train, recompute_modules=modules), run(train, recompute="full")
    assert second(none) < second(some) < second(full) * 1.0001
    assert some.memory["activations"][0] < none.memory["activations"][0] * 1.01


@pytest.mark.parametrize("schedule", ["gpipe", "zb-h1", "zb-v", "dualpipe"])
def test_other_schedules_know_layers_too(train: Train, schedule: str) -> None:
    pieces = 2 if schedule in {"zb-v", "dualpipe"} else 1
    fields = {"pipeline_parallel": 2, "schedule": schedule, "virtual_pipeline": pieces, "global_batch": 16}
    none, full = run(train, **fields), run(train, recompute="full", **fields)
    half = run(train, recompute="full", recompute_layers=3, **fields)
    assert second(half) == pytest.approx((second(none) + second(full)) / 2.0, rel=0.02)


def test_counts_of_layers_are_numbers_along_the_points(train: Train) -> None:
    together = run(train, recompute="full", recompute_layers=[0, 3, 6, 12], pipeline_parallel=2)
    for index, first in enumerate((0, 3, 6, 12)):
        alone = run(train, recompute="full", recompute_layers=first, pipeline_parallel=2)
        assert together.time[index] == pytest.approx(second(alone), rel=1e-12)
        assert together.memory["total"][index] == pytest.approx(float(alone.memory["total"][0]), rel=1e-12)
    assert list(together.time[:3]) == sorted(together.time[:3])


def test_slow_hosts_are_met_layer_by_layer(train: Train) -> None:
    slow = {"software.host_kernel": 3e-3}
    none, full = run(train, **slow), run(train, recompute="full", **slow)
    half = run(train, recompute="full", recompute_layers=6, **slow)
    assert float(full.breakdown["host"][0]) > float(none.breakdown["host"][0]) > 0.0
    mean = (float(full.breakdown["host"][0]) + float(none.breakdown["host"][0])) / 2.0
    assert float(half.breakdown["host"][0]) == pytest.approx(mean, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(host=st.floats(0.0, 10.0), device=st.floats(0.0, 10.0), blend=st.floats(1.0, 60.0), more=st.floats(0.0, 5.0))
def test_a_host_adds_at_least_what_it_takes_longer_and_at_most_itself(
    host: float, device: float, blend: float, more: float
) -> None:
    def added(one: float, other: float, exponent: float) -> float:
        return float(later(array(one), array(other), array(exponent)))

    found = added(host, device, blend)
    assert max(host - device, 0.0) - 1e-12 <= found <= host + 1e-12
    # Never faster with a slower host or device; nearer to the longer of both with a higher exponent.
    assert added(host + more, device, blend) >= found - 1e-12
    assert device + more + added(host, device + more, blend) >= device + found - 1e-12
    assert added(host, device, blend + 1.0) <= found + 1e-12
    assert added(host, device, np.inf) == max(host, device) - device


def test_a_host_and_a_device_alike_wait_for_each_other_in_places() -> None:
    # (1 + 1)^(1/5) = 1.1487; rows of different stacks stand side by side.
    mixed = later(array([1.0, 1.0, 0.0]), array([1.0, 1.0, 0.0]), array([5.0, np.inf, 5.0]))
    assert mixed.tolist() == pytest.approx([0.148698, 0.0, 0.0], abs=1e-6)
