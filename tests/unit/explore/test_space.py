"""Spaces: every legal plan once and no other, the grid of batches, the best native format."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Phase
from cosim.explore.space import (
    Candidates,
    batch_grid,
    best_native,
    candidates_at,
    candidates_over,
    searched,
    unlimited,
)
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import ChipArrays, MatrixArrays, SystemArrays, lower_chip, lower_system
from cosim.mapping.legal import divisibility
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.workload.load import load_model
from cosim.workload.model import ModelArrays, lower_model

PHASES = st.sampled_from(("prefill", "decode"))


@functools.cache
def model(name: str = "llama-3.1-8b", layers: int = 32) -> ModelArrays:
    return lower_model(vary(Varied(load_model(name)), {"layers": layers}))


@functools.cache
def machine(name: str) -> SystemArrays:
    return lower_system(Varied(load_system(name)))


def rows(found: Candidates) -> list[tuple[float, ...]]:
    columns = (found.tensor, found.pipeline, found.data, found.micro_batches, found.batch)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def most_micro_batches(pipeline: float, phase: Phase) -> float:
    """Two per stage in decode, which reads the weights anew for each, one for one stage; any number in prefill."""
    if phase == "prefill":
        return np.inf
    return 1 if pipeline == 1 else 2 * pipeline


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


def test_batches_are_whole_to_16_and_eight_per_doubling_after() -> None:
    grid = batch_grid(4096)
    assert grid[:16].tolist() == list(range(1, 17))
    for power in range(4, 12):
        inside = grid[(grid > 2**power) & (grid <= 2 ** (power + 1))]
        assert inside.tolist() == [2**power + step * 2 ** (power - 3) for step in range(1, 9)]
    assert grid[-1] == 4096


@settings(max_examples=25, deadline=None)
@given(chips=st.sampled_from([1, 2, 6, 8, 12, 16]), batch=st.integers(1, 48), layers=st.integers(1, 12), phase=PHASES)
def test_plans_at_a_batch_are_those_of_brute_force(chips: int, batch: int, layers: int, phase: Phase) -> None:
    # 32 heads, 8 key/value heads, ffn 14336 = 2^11 x 7: of these chips' divisors the powers of two up to 32 are legal.
    expected = {
        (t, p, d, m, batch)
        for t, p, d in itertools.product(range(1, chips + 1), repeat=3)
        if t * p * d == chips and t in (1, 2, 4, 8, 16, 32) and p <= layers and batch % d == 0
        for m in range(1, batch // d + 1)
        if (batch // d) % m == 0 and most_micro_batches(p, phase) >= m
    }
    found = candidates_at(model(layers=layers), chips, batch, phase)
    assert sorted(rows(found)) == sorted(expected)
    assert found.plans == len(expected)
    assert not expected or legal(found, model(layers=layers), chips)


def test_no_plan_where_nothing_divides() -> None:
    # Seven chips: tensor 7 does not divide 32 heads, one layer is one stage, one sequence is one replica.
    found = candidates_at(model(layers=1), 7, 1, "decode")
    assert (found.plans, found.tensor.shape) == (0, (0,))


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
        assert micro <= most_micro_batches(pipeline, phase)
        assert batch % (data * micro) == 0


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
