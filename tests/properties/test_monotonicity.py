"""What must hold of every estimate: better is never slower, nothing beats the roofline, sums add up, laws of scale."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.api import SystemHandle, WorkloadHandle
from cosim.engines.analytic import BREAKDOWN, Estimates
from cosim.hardware.lower import lower_system
from cosim.mapping.memory import KINDS
from cosim.records import Array

SYSTEMS = ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8")
DTYPES = st.sampled_from(["bf16", "fp8"])
PHASES = st.sampled_from(["prefill", "decode"])
SLACK = 1.0 + 1e-12
# Shipped chips lie inside these ranges, designs beyond them are drawn too.
BETTER = {
    "chip.memory.dram.bandwidth": (0.5e12, 12e12),
    "chip.links.scale_up.bandwidth": (20e9, 2e12),
    "chip.links.scale_out.bandwidth": (5e9, 400e9),
    "chip.matrix.clock": (0.5e9, 3e9),
    "chip.quality.matmul": (0.1, 1.0),
    "chip.quality.attention": (0.1, 1.0),
    "chip.quality.memory": (0.1, 1.0),
    "chip.quality.collective": (0.1, 1.0),
    "chip.power.limit": (200.0, 1200.0),
}
WORSE = {"chip.launch.gap": (0.0, 2e-5), "chip.launch.host_step": (0.0, 5e-3), "tiers.node.latency": (0.0, 2e-5)}
POINT = st.tuples(
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([4, 8, 36, 256]),
    st.integers(1, 20_000),
)
POINTS = st.lists(POINT, min_size=1, max_size=12)
Points = list[tuple[int, int, int, int, int]]


@functools.cache
def system(name: str) -> SystemHandle:
    return cosim.system(name, nodes=4)


@functools.cache
def workload(name: str) -> WorkloadHandle:
    return cosim.workload(name)


def estimates(phase: str, machine: SystemHandle, model: WorkloadHandle, plan: dict[str, Any], **scenario: Any) -> Any:
    return (cosim.estimate_prefill if phase == "prefill" else cosim.estimate_decode)(machine, model, plan, **scenario)


def at_points(phase: str, machine: SystemHandle, points: Points, dtype: str = "bf16") -> Estimates:
    """Llama-3.1-8B at (tensor, pipeline, micro-batches, batch, context), the list once more after itself."""
    tensor, pipeline, micro, batch, context = (list(column) * 2 for column in zip(*points, strict=True))
    plan = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "micro_batches": micro, "dtype": dtype}
    found = estimates(phase, machine, workload("llama-3.1-8b"), plan, batch=batch, context=context)
    result: Estimates = found.result
    return result


def halves(values: Array) -> tuple[Array, Array]:
    first, second = np.split(np.asarray(values), 2)
    return first, second


def changed(name: str, path: str, first: float, second: float, count: int) -> SystemHandle:
    path = path.replace("node", system(name).spec.tiers[0].name)
    return system(name).vary({path: np.repeat([first, second], count)})


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS), phase=PHASES, path=st.sampled_from([*BETTER, *WORSE]), points=POINTS, data=st.data()
)
def test_a_better_number_is_never_slower(name: str, phase: str, path: str, points: Points, data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.tuples(*[st.floats(*{**BETTER, **WORSE}[path])] * 2)))
    worst, best = (low, high) if path in BETTER else (high, low)
    result = at_points(phase, changed(name, path, worst, best, len(points)), points)
    slow, fast = halves(result.time)
    waits, waits_too = halves(result.breakdown["throttle"])
    feasible = ~np.isnan(slow)
    assert np.array_equal(feasible, ~np.isnan(fast))
    assert np.all(((fast - waits_too) <= (slow - waits) * SLACK)[feasible])
    # A chip at its power limit may wait longer for other tilings; one that is not gains.
    assert np.all((fast <= slow * SLACK)[feasible & (waits_too == 0.0)])


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=10, deadline=None)
@given(phase=PHASES, points=POINTS, dtype=DTYPES)
def test_totals_are_sums_and_feasible_rows_are_numbers(name: str, phase: str, points: Points, dtype: str) -> None:
    result = at_points(phase, system(name), points, dtype)
    ok = result.feasible
    assert np.array_equal(ok, np.isfinite(result.time))
    parts = np.stack([result.breakdown[part] for part in BREAKDOWN])
    held = np.stack([result.memory[kind] for kind in KINDS])
    numbers = [result.energy, result.server_energy, result.facility_energy, result.power, result.utilisation, *parts]
    assert all(np.isfinite(number[ok]).all() and np.isnan(number[~ok]).all() for number in numbers)
    assert parts[:, ok].min(initial=0.0) >= 0.0
    assert held.min() >= 0.0
    np.testing.assert_allclose(parts.sum(axis=0), result.time, rtol=1e-12)
    np.testing.assert_allclose(held.sum(axis=0), result.memory["total"], rtol=1e-12)
    dram = lower_system(system(name).varied).chip.memory["dram"]
    assert np.all(result.memory["total"][ok] <= dram.capacity)


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=10, deadline=None)
@given(phase=PHASES, points=POINTS)
def test_power_stays_between_idle_and_the_limit(name: str, phase: str, points: Points) -> None:
    power = system(name).spec.chip.power
    result = at_points(phase, system(name), points)
    ok, waits = result.feasible, result.breakdown["throttle"]
    assert np.all(result.power[ok] > power.idle.si)
    assert np.all(result.power[ok] <= power.limit.si * SLACK)
    np.testing.assert_allclose(result.power[ok & (waits > 0.0)], power.limit.si, rtol=1e-9)
    assert np.all(result.energy[ok] < result.server_energy[ok])
    assert np.all(result.server_energy[ok] < result.facility_energy[ok])


def llama_flop(phase: str, batch: Array, context: Array) -> Array:
    """Counted by hand from the configuration of Llama-3.1-8B."""
    hidden, heads, shared, ffn, layers, vocab = 4096.0, 32.0, 8.0, 14336.0, 32.0, 128256.0
    weights = layers * (hidden * 128.0 * (2.0 * heads + 2.0 * shared) + 3.0 * hidden * ffn)
    new = context if phase == "prefill" else np.ones_like(context)
    pairs = context * (context + 1.0) / 2.0 if phase == "prefill" else context
    return batch * (2.0 * new * weights + 2.0 * hidden * vocab + layers * 4.0 * heads * 128.0 * pairs)


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=10, deadline=None)
@given(phase=PHASES, points=POINTS, dtype=DTYPES)
def test_nothing_beats_the_matrix_peak(name: str, phase: str, points: Points, dtype: str) -> None:
    chip = system(name).spec.chip
    elements = 1.0
    if chip.matrix.kind == "systolic":
        elements = chip.matrix.arrays.si * chip.matrix.rows.si * chip.matrix.columns.si
    peak = chip.cores.si * elements * chip.matrix.rate[dtype].si * chip.matrix.clock.si
    result = at_points(phase, system(name), points, dtype)
    batch, context = (np.array([point[place] for point in points] * 2, dtype=float) for place in (3, 4))
    least = llama_flop(phase, batch, context) / (result.chips * peak)
    ok = result.feasible
    assert np.all(result.time[ok] >= least[ok])
    np.testing.assert_allclose(result.utilisation[ok], (least / result.time)[ok], rtol=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=10, deadline=None)
@given(points=POINTS, dtype=DTYPES)
def test_decode_reads_its_weights_and_its_cache(name: str, points: Points, dtype: str) -> None:
    dram = system(name).spec.chip.memory["dram"]
    bandwidth = dram.stacks.si * dram.pins.si * dram.pin_rate.si
    result = at_points("decode", system(name), points, dtype)
    batch, context = (np.array([point[place] for point in points] * 2, dtype=float) for place in (3, 4))
    # 32 layers of 218,103,808 weights, the head at 16 bits; 8 x 128 keys and values of 2 B in each layer.
    weights = 32.0 * 218_103_808.0 * (2.0 if dtype == "bf16" else 1.0) + 2.0 * 4096.0 * 128256.0
    cache = batch * context * 32.0 * 2.0 * 8.0 * 128.0 * (2.0 if dtype == "bf16" else 1.0)
    ok = result.feasible
    assert np.all(result.time[ok] >= ((weights + cache) / (result.chips * bandwidth))[ok])


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(SYSTEMS), phase=PHASES, tensor=st.sampled_from([2, 8]), layers=st.integers(40, 100))
def test_time_energy_and_weights_grow_by_the_same_with_every_layer(
    name: str, phase: str, tensor: int, layers: int
) -> None:
    model = workload("llama-3.1-8b").vary({"layers": [layers, 2 * layers, 3 * layers]})
    result = estimates(phase, system(name), model, {"tensor_parallel": tensor, "dtype": "fp8"}, batch=4).result
    assert result.feasible.all()
    for values in (result.time, result.energy, result.memory["weights"], result.memory["kv"]):
        assert values[2] - values[1] == pytest.approx(values[1] - values[0], rel=1e-9)
    # Host, embedding and head are paid once: a bit less than twice.
    assert 1.5 < result.time[1] / result.time[0] <= 2.0
    assert result.memory["kv"][1] == 2.0 * result.memory["kv"][0]


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS),
    tensor=st.sampled_from([1, 2, 4, 8, 16]),
    batch=st.integers(1, 64),
    context=st.integers(1, 4000),
    times=st.integers(2, 6),
)
def test_the_cache_is_linear_in_batch_and_capacity(
    name: str, tensor: int, batch: int, context: int, times: int
) -> None:
    scenario = {"batch": [batch, batch * times, batch], "context": context}
    capacity = [context, context, context * times]
    plan = {"tensor_parallel": tensor, "dtype": "bf16"}
    memory = estimates(
        "decode", system(name), workload("llama-3.1-8b"), plan, **scenario, capacity=capacity
    ).result.memory
    once, more, longer = memory["kv"]
    # Eight key/value heads of 128, 32 layers, 2 x 2 B: 128 KiB per token, a head being the least that a rank holds.
    assert once == batch * context * 131_072 / min(tensor, 8)
    assert more == times * once
    assert longer == times * once
    assert np.ptp(memory["weights"]) == 0.0


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(SYSTEMS), phase=PHASES, tensor=st.sampled_from([2, 4]), batch=st.integers(1, 32))
def test_a_second_replica_doubles_tokens_and_energy_and_takes_no_time(
    name: str, phase: str, tensor: int, batch: int
) -> None:
    plan = {"tensor_parallel": tensor, "data_parallel": [1, 2, 4]}
    batches = [batch, 2 * batch, 4 * batch]
    result = estimates(phase, system(name), workload("llama-3.1-8b"), plan, batch=batches).result
    np.testing.assert_allclose(result.time, result.time[0], rtol=1e-12)
    np.testing.assert_allclose(result.energy, result.energy[0] * np.array([1.0, 2.0, 4.0]), rtol=1e-12)
    np.testing.assert_allclose(result.tokens, result.tokens[0] * np.array([1.0, 2.0, 4.0]), rtol=1e-12)
    assert np.ptp(result.memory["total"]) == 0.0


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS),
    phase=PHASES,
    contexts=st.lists(st.integers(1, 4000), min_size=2, max_size=8, unique=True).map(sorted),
)
def test_a_longer_context_is_never_faster_where_the_cores_are_busy(name: str, phase: str, contexts: list[int]) -> None:
    # 64 sequences x 8 key/value heads give every core of every chip a block to work on.
    found = estimates(phase, system(name), workload("llama-3.1-8b"), {"tensor_parallel": 1}, batch=64, context=contexts)
    assert np.all(np.diff(found.result.time) > 0.0)
    assert np.all(np.diff(found.result.memory["total"]) > 0.0)
