"""Spaces: every legal plan once and no other, no plan left out that is best, batches, nodes, the native format."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Phase
from cosim.explore.space import (
    Candidates,
    _filling,
    _micro_batches,
    batch_grid,
    best_native,
    candidates_at,
    candidates_over,
    on_nodes,
    searched,
    unlimited,
    with_choices,
)
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import ChipArrays, MatrixArrays, SystemArrays, lower_chip, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import divisibility, expert_degrees, legal_plans
from cosim.mapping.plan import PlanArrays
from cosim.overrides import Varied, vary
from cosim.records import array, take
from cosim.workload.load import load_model, load_workload, lower_workload
from cosim.workload.model import ModelArrays, lower_model

PHASES = st.sampled_from(("prefill", "decode"))


@functools.cache
def model(name: str = "llama-3.1-8b", layers: int = 32) -> ModelArrays:
    return lower_model(vary(Varied(load_model(name)), {"layers": layers}))


@functools.cache
def whole(name: str) -> ModelArrays:
    return lower_model(Varied(load_model(name)))


@functools.cache
def machine(name: str, nodes: int = 1) -> SystemArrays:
    return lower_system(vary_system(Varied(load_system(name)), {"nodes": nodes}))


def rows(found: Candidates) -> list[tuple[float, ...]]:
    columns = (found.tensor, found.pipeline, found.data, found.micro_batches, found.batch)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def divisors_up_to(number: int, most: int) -> list[int]:
    return [d for d in range(1, most + 1) if number % d == 0]


def most_micro_batches(each: int, pipeline: int, phase: Phase) -> int:
    """Two per stage in decode, which reads the weights anew for each, one for one stage; any number in prefill."""
    if phase == "prefill":
        return each
    return 1 if pipeline == 1 else min(2 * pipeline, each)


def legal(found: Candidates, network: ModelArrays, chips: int) -> bool:
    """Whether every candidate passes the limits that a plan given by hand must pass."""
    case = searched("decode", machine("dgx-h100"), network, unlimited(1, 1, 1), "bf16", found)
    return not np.any(divisibility(case.plan, case.scenario, network, array(float(chips)), "decode").code)


@settings(max_examples=40, deadline=None)
@given(most=st.integers(1, 5000), more=st.integers(0, 3000))
def test_a_larger_grid_of_batches_begins_with_the_smaller(most: int, more: int) -> None:
    small, large = batch_grid(most), batch_grid(most + more)
    np.testing.assert_array_equal(small, large[: small.size])
    assert np.all(large[small.size :] > most)


def test_batches_are_whole_to_8_and_four_per_doubling_after() -> None:
    grid = batch_grid(4096)
    assert grid[:8].tolist() == list(range(1, 9))
    for power in range(3, 12):
        inside = grid[(grid > 2**power) & (grid <= 2 ** (power + 1))]
        assert inside.tolist() == [2**power + step * 2 ** (power - 2) for step in range(1, 5)]
    assert grid[-1] == 4096


@pytest.mark.parametrize(
    ("each", "pipeline", "phase", "tried"),
    [
        (12, 1, "decode", [1]),  # one stage: a second micro-batch only reads the weights again
        (12, 4, "decode", [4, 6]),  # from the largest divisor up to 4 to the largest up to 8
        (9, 4, "decode", [3]),
        (7, 4, "decode", [1, 7]),
        (5, 8, "decode", [5]),  # no more micro-batches than sequences
        (12, 1, "prefill", [1, 2, 3, 4, 6, 12]),
        (12, 4, "prefill", [1, 2, 3, 4, 6, 12]),
    ],
)
def test_micro_batches_by_hand(each: int, pipeline: int, phase: Phase, tried: list[int]) -> None:
    assert _filling(each, pipeline, phase) == tried


@settings(max_examples=25, deadline=None)
@given(chips=st.sampled_from([1, 2, 6, 8, 12, 16]), batch=st.integers(1, 48), layers=st.integers(1, 12), phase=PHASES)
def test_plans_at_a_batch_are_those_of_brute_force(chips: int, batch: int, layers: int, phase: Phase) -> None:
    # 32 heads, 8 key/value heads, ffn 14336 = 2^11 x 7: of these chips' divisors the powers of two up to 32 are legal.
    expected = {
        (t, p, d, m, batch)
        for t, p, d in itertools.product(range(1, chips + 1), repeat=3)
        if t * p * d == chips and t in (1, 2, 4, 8, 16, 32) and p <= layers and batch % d == 0
        for m in _micro_batches(batch // d, p, phase)
    }
    found = candidates_at(model(layers=layers), chips, batch, phase)
    assert sorted(rows(found)) == sorted(expected)
    assert found.plans == len(expected)
    assert not expected or legal(found, model(layers=layers), chips)


def test_no_plan_where_nothing_divides() -> None:
    # Seven chips: tensor 7 does not divide 32 heads, one layer is one stage, one sequence is one replica.
    found = candidates_at(model(layers=1), 7, 1, "decode")
    assert (found.plans, found.tensor.shape) == (0, (0,))


@settings(max_examples=60, deadline=None)
@given(each=st.integers(1, 200), pipeline=st.integers(1, 40), phase=PHASES)
def test_micro_batches_divide_the_batch_and_fill_the_pipeline_at_most_twice(
    each: int, pipeline: int, phase: Phase
) -> None:
    tried = _filling(each, pipeline, phase)
    whole = divisors_up_to(each, most_micro_batches(each, pipeline, phase))
    assert tried == sorted(set(tried))
    assert set(tried) <= set(whole)
    # Those that leave no stage without work are all there, and one that comes nearest to it.
    assert {m for m in whole if m >= pipeline} <= set(tried)
    assert max(m for m in whole if m <= pipeline) in tried
    assert phase == "decode" or tried == whole


@settings(max_examples=12, deadline=None)
@given(chips=st.sampled_from([1, 4, 8, 16]), most=st.integers(1, 60), phase=PHASES)
def test_plans_over_a_grid_have_every_batch_for_every_replica(chips: int, most: int, phase: Phase) -> None:
    grid = batch_grid(most)
    found = candidates_over(model(), chips, grid, phase)
    assert legal(found, model(), chips)
    assert len(set(rows(found))) == len(rows(found))
    assert found.plans == len({row[:4] for row in rows(found)})
    assert np.all(found.tensor * found.pipeline * found.data == chips)
    whole = {(row[0], row[1], row[2], row[4]) for row in rows(found)}
    expected = {(t, p, d, d * each) for t, p, d in {row[:3] for row in rows(found)} for each in grid.tolist()}
    assert whole == expected
    for _, pipeline, data, micro, batch in rows(found):
        assert micro <= most_micro_batches(int(batch / data), int(pipeline), phase)
        assert batch % (data * micro) == 0


# What is left out is never best.


def whole_space(network: ModelArrays, chips: int, batches: Callable[[int], list[int]]) -> Candidates:
    """Every plan on all chips with the batches per replica of its `data` and all divisors up to two per stage."""
    found = [
        (tensor, pipeline, data, micro, each * data, expert)
        for tensor, pipeline, data in legal_plans(network, chips)
        for each in batches(data)
        for micro in divisors_up_to(each, most_micro_batches(each, pipeline, "decode"))
        for expert in expert_degrees(network, tensor, data)
    ]
    tensor, pipeline, data, micro, batch, expert = np.array(found, dtype=np.float64).T
    return Candidates(tensor, pipeline, data, micro, batch, 0, expert)


def run(name: str, network: ModelArrays, context: float, found: Candidates, phase: Phase = "decode") -> Estimates:
    """Estimates of all candidates in the system's native format, each on as many nodes as hold it."""
    system = on_nodes(machine(name), found.tensor * found.pipeline * found.data)
    scenario = unlimited(1.0, context, context)
    return evaluate(searched(phase, system, network, scenario, best_native(system.chip), found))


def rates(result: Estimates) -> np.ndarray:
    return np.where(result.feasible, result.tokens / result.time / result.chips, 0.0)


SYSTEMS = ("dgx-h100", "tpu-v5p-8", "asic-8", "openai-jalapeno-8", "trn2-16", "gb200-nvl72")
MODELS = ("llama-3.1-8b", "llama-3.1-70b", "gpt-oss-120b", "deepseek-v3")
CONTEXTS = st.sampled_from((128, 4096, 65536))
BATCHES = st.sampled_from((1, 2, 6, 8, 12, 24, 64, 96, 256, 1024))


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(SYSTEMS), network=st.sampled_from(MODELS), context=CONTEXTS, most=st.integers(1, 96))
def test_of_all_micro_batches_those_that_are_tried_serve_most_within_any_limit(
    name: str, network: str, context: int, most: int
) -> None:
    chips, grid = int(machine(name).chips), batch_grid(most)
    tried = run(name, whole(network), context, candidates_over(whole(network), chips, grid, "decode"))
    everything = run(name, whole(network), context, whole_space(whole(network), chips, lambda _data: grid.tolist()))
    assert tried.time.size < everything.time.size or most == 1
    for limit in np.geomspace(1e-3, 1.0, 40):
        best = rates(tried)[tried.time <= limit].max(initial=0.0)
        assert best >= rates(everything)[everything.time <= limit].max(initial=0.0) * (1.0 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(SYSTEMS), network=st.sampled_from(MODELS), context=CONTEXTS, batch=BATCHES)
# Nine stages share 32 layers unevenly and the last has the head too: four micro-batches of two beat eight of one.
@example("gb200-nvl72", "llama-3.1-8b", 4096, 64)
def test_of_all_micro_batches_of_a_batch_those_that_are_tried_take_least_time(
    name: str, network: str, context: int, batch: int
) -> None:
    chips = int(machine(name).chips)
    tried = run(name, whole(network), context, candidates_at(whole(network), chips, batch, "decode"))
    same = whole_space(whole(network), chips, lambda data: [batch // data] if batch % data == 0 else [])
    everything = run(name, whole(network), context, same)
    best = tried.time[tried.feasible].min(initial=np.inf)
    assert best <= everything.time[everything.feasible].min(initial=np.inf) * (1.0 + 1e-12)


# Several numbers of chips.


def replicas(found: Candidates) -> dict[tuple[float, ...], float]:
    """Chips by what a replica is: tensor, pipeline, batch, micro-batches, experts. Each is there once."""
    each = found.batch / found.data
    keys = list(zip(found.tensor, found.pipeline, each, found.micro_batches, found.expert, strict=True))
    chips = dict(zip(keys, found.tensor * found.pipeline * found.data, strict=True))
    assert len(chips) == len(keys)
    return chips


@settings(max_examples=25, deadline=None)
@given(
    node=st.sampled_from((1, 2, 4, 6, 8)),
    doublings=st.integers(0, 3),
    most=st.integers(1, 24),
    phase=PHASES,
    network=st.sampled_from(("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3")),
)
def test_over_several_numbers_of_chips_every_replica_is_tried_once_and_on_the_fewest(
    node: int, doublings: int, most: int, phase: Phase, network: str
) -> None:
    counts = [node * 2**doubling for doubling in range(doublings + 1)]
    alone = {n: replicas(candidates_over(whole(network), n, batch_grid(most), phase)) for n in counts}
    together = candidates_over(whole(network), counts, batch_grid(most), phase)
    found = replicas(together)
    assert set(found) == set().union(*alone.values())
    for replica, chips in found.items():
        assert chips == min(n for n in counts if replica in alone[n])
    assert together.plans == len(
        {(*row[:4], expert) for row, expert in zip(rows(together), together.expert, strict=True)}
    )


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(("dgx-h100", "tpu-v5p-8", "asic-8", "maia-200-4")),
    network=st.sampled_from(("llama-3.1-70b", "deepseek-v3")),
    phase=PHASES,
    context=CONTEXTS,
)
def test_more_of_the_same_replicas_serve_as_much_per_chip(name: str, network: str, phase: Phase, context: int) -> None:
    node = int(machine(name).chips)
    grid = batch_grid(8)
    few, many = (candidates_over(whole(network), n, grid, phase) for n in (node, 4 * node))
    known = dict(zip(replicas(few), rates(run(name, whole(network), context, few, phase)), strict=True))
    again = dict(zip(replicas(many), rates(run(name, whole(network), context, many, phase)), strict=True))
    shared = sorted(known.keys() & again.keys())
    assert len(shared) > 10
    assert [again[replica] for replica in shared] == pytest.approx([known[replica] for replica in shared], rel=1e-12)


@pytest.mark.parametrize("name", ["dgx-h100", "asic-8", "tpu-v5p-8"])
def test_a_system_on_nodes_is_the_system_with_so_many_nodes(name: str) -> None:
    network = whole("llama-3.1-70b")
    found = candidates_over(network, [8, 16, 32], batch_grid(6), "decode")
    together, chips = run(name, network, 4096, found), found.tensor * found.pipeline * found.data
    assert set(chips) == {8.0, 16.0, 32.0}
    for nodes in (1, 2, 4):
        some = np.flatnonzero(chips == 8.0 * nodes).astype(np.intp)
        system = machine(name, nodes)
        case = searched("decode", system, network, unlimited(1.0, 4096, 4096), best_native(system.chip), found)
        alone = evaluate(take(case, some))
        np.testing.assert_array_equal(alone.verdict.code, together.verdict.code[some])
        for column in ("time", "energy", "facility_energy"):
            np.testing.assert_allclose(getattr(alone, column), getattr(together, column)[some], rtol=1e-12)
    # Chips that fill no whole node need one more.
    np.testing.assert_array_equal(on_nodes(machine(name), array([1.0, 8.0, 9.0, 24.0])).chips, [8.0, 8.0, 16.0, 24.0])


@pytest.mark.parametrize(
    ("chip", "dtype", "cache"),
    [
        ("h100-sxm", "fp8", "fp8"),
        ("mi300x", "fp8", "fp8"),
        ("tpu-v5p", "int8", "int8"),
        ("asic-template", "mxfp4", "fp8"),
    ],
)
def test_the_best_native_format_is_the_fastest_that_serves(chip: str, dtype: str, cache: str) -> None:
    lowered = lower_chip(load_chip(chip))
    assert best_native(lowered) == dtype
    found = candidates_at(model(), 8, 4, "decode")
    case = searched("decode", machine("asic-8"), model(), unlimited(4, 1, 1), dtype, found)
    assert (case.plan.dtype, case.plan.kv_dtype, case.plan.all_reduce) == (dtype, cache, "fastest")


def with_rates(**peaks: float) -> ChipArrays:
    chip = lower_chip(load_chip("asic-template"))
    return replace(chip, matrix=MatrixArrays("roofline", {name: array(peak) for name, peak in peaks.items()}, None))


def test_of_formats_of_one_rate_the_most_faithful_is_taken() -> None:
    assert best_native(with_rates(int8=4.0, mxfp8=4.0, fp8=4.0, bf16=2.0)) == "fp8"
    assert best_native(with_rates(fp8=2.0, bf16=2.0)) == "bf16"
    assert best_native(with_rates(int4=9.0, fp4=9.0, bf16=1.0)) == "bf16"  # never four plain bits unasked
    assert best_native(with_rates(fp32=1.0, tf32=2.0)) == "fp32"


def test_a_search_takes_context_and_limits_from_the_scenario() -> None:
    scenario = replace(unlimited(99.0, 700.0, 900.0), tpot_limit=array(0.02))
    found = candidates_at(model(), 8, 6, "decode")
    case = searched("decode", machine("dgx-h100"), model(), scenario, "bf16", found)
    np.testing.assert_array_equal(case.scenario.batch, np.full(len(rows(found)), 6.0))
    assert (float(case.scenario.context), float(case.scenario.capacity)) == (700.0, 900.0)
    assert (float(case.scenario.tpot_limit), float(case.scenario.ttft_limit)) == (0.02, np.inf)


@settings(max_examples=30, deadline=None)
@given(chips=st.integers(1, 24), batch=st.integers(1, 96))
def test_a_network_is_copied_and_never_split(chips: int, batch: int) -> None:
    net = lower_workload(Varied(load_workload("resnet-50")))
    found = candidates_at(net, chips, batch, "prefill")
    assert set(zip(found.tensor, found.pipeline, found.expert, strict=True)) == {(1.0, 1.0, 1.0)}
    assert all(batch % (data * micro) == 0 for _, _, data, micro, _ in rows(found))
    # All chips where the batch divides, otherwise any number that divides both.
    wanted = {chips} if batch % chips == 0 else {d for d in range(1, chips + 1) if chips % d == 0 and batch % d == 0}
    assert set(found.data.tolist()) == wanted


@pytest.mark.parametrize("kept", [None, "int4"])
def test_a_searched_plan_keeps_what_was_chosen_beside_its_degrees(kept: str | None) -> None:
    found = PlanArrays(*(array(x) for x in (2.0, 4.0, 1.0, 3.0)), "bf16", "bf16", "fastest")
    asked = PlanArrays(*(array(1.0),) * 4, "fp8", "int8", "tree", latent="expanded", weights_dtype=kept)
    made = with_choices(found, asked)
    assert (made.kv_dtype, made.weights_dtype, made.all_reduce, made.latent) == ("int8", kept, "tree", "expanded")
    assert (float(made.tensor), float(made.pipeline), float(made.micro_batches), made.dtype) == (2.0, 4.0, 3.0, "bf16")
