"""What must hold of every kernel time, energy and traffic, whatever the shape and the chip."""

from __future__ import annotations

import functools
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.dtypes import bytes_per_element
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.mapping.shard import DeviceVector
from cosim.records import Array, array
from cosim.timing.attention import attention_cost
from cosim.timing.cost import COMPUTE, KernelCost
from cosim.timing.energy import kernel_energy
from cosim.timing.matmul import matmul_cost
from cosim.timing.vector import vector_cost
from cosim.workload.ops import Attention

SLACK = 1.0 + 1e-9
GPUS = ("h100-sxm", "mi300x")
ARRAYS = ("tpu-v5p", "asic-template")
NAMES = st.sampled_from(GPUS + ARRAYS)
# Sizes over all magnitudes, and those beside the edges of tiles.
DIM = st.one_of(st.integers(1, 20_000), st.integers(1, 64), st.integers(1, 150).map(lambda i: 128 * i + 1))
SHAPE = st.tuples(DIM, DIM, DIM)
SHAPES = st.lists(st.tuples(DIM, DIM, DIM, st.integers(1, 32)), min_size=1, max_size=16)
RESIDENT = st.sampled_from(["none", "activations", "repeated"])
FACTORS = st.floats(1.0, 8.0)


@functools.cache
def chip(name: str) -> Chip:
    return load_chip(name)


@functools.cache
def lowered(name: str) -> ChipArrays:
    return lower_chip(chip(name))


def columns(rows: list[tuple[int, int, int, int]]) -> tuple[Array, Array, Array, Array]:
    m, n, k, batch = np.array(rows, dtype=np.float64).T
    return m, n, k, batch


def on_two_chips(name: str, path: str, values: list[float], shape: tuple[int, ...], resident: str) -> KernelCost:
    """One product on two chips that differ in one number."""
    both = lower_chip(chip(name), {path: array(values)})
    m, n, k = (np.full(2, float(size)) for size in shape)
    return matmul_cost(m, n, k, both, "bf16", resident=resident)


def cache_path(name: str) -> str:
    level = "cache" if "cache" in chip(name).memory else "scratch"
    return f"memory.{level}.capacity"


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPES, st.data())
def test_no_product_beats_the_roofline(name: str, rows: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    target = lowered(name)
    dtype = data.draw(st.sampled_from(sorted(target.matrix.peak)))
    m, n, k, batch = columns(rows)
    cost = matmul_cost(m, n, k, target, dtype, batch=batch)
    dram = target.memory["dram"].bandwidth * target.quality.memory
    compulsory = batch * ((m * k + k * n) * bytes_per_element(dtype) + 2.0 * m * n)
    assert (cost.time * SLACK >= 2.0 * batch * m * n * k / target.matrix.peak[dtype]).all()
    assert (cost.time * SLACK >= compulsory / dram).all()
    assert (cost.dram_bytes * SLACK >= compulsory).all()


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPES, RESIDENT)
def test_time_is_at_least_each_of_its_parts(name: str, rows: list[tuple[int, int, int, int]], resident: str) -> None:
    m, n, k, batch = columns(rows)
    cost = matmul_cost(m, n, k, lowered(name), "bf16", batch=batch, resident=resident)
    assert np.isfinite(cost.time).all()
    assert (cost.time > 0.0).all()
    assert (cost.time >= cost.compute).all()
    assert (cost.time >= cost.memory).all()


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, RESIDENT, st.floats(1e11, 2e13), FACTORS)
def test_more_bandwidth_is_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, base: float, factor: float
) -> None:
    slow, fast = on_two_chips(name, "memory.dram.bandwidth", [base, base * factor], shape, resident).time
    assert fast <= slow * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, RESIDENT, st.floats(1e12, 1e14), FACTORS)
def test_a_faster_feed_of_operands_is_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, base: float, factor: float
) -> None:
    slow, fast = on_two_chips(name, "memory.scratch.bandwidth", [base, base * factor], shape, resident).time
    assert fast <= slow * SLACK


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GPUS), SHAPE, RESIDENT, st.floats(1e11, 5e13), FACTORS)
def test_a_faster_cache_is_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, base: float, factor: float
) -> None:
    slow, fast = on_two_chips(name, "memory.cache.bandwidth", [base, base * factor], shape, resident).time
    assert fast <= slow * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, RESIDENT, st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_better_kernels_are_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, one: float, other: float
) -> None:
    slow, fast = on_two_chips(name, "quality.matmul", sorted([one, other]), shape, resident).time
    assert fast <= slow * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, RESIDENT, st.floats(2e8, 4e9), FACTORS)
def test_a_faster_clock_is_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, base: float, factor: float
) -> None:
    slow, fast = on_two_chips(name, "matrix.clock", [base, base * factor], shape, resident).time
    assert fast <= slow * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, RESIDENT, st.integers(1, 200), st.integers(0, 200))
def test_more_cores_are_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, cores: int, more: int
) -> None:
    few, many = on_two_chips(name, "cores", [cores, cores + more], shape, resident).time
    assert many <= few * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, RESIDENT, st.floats(1e4, 5e8), FACTORS)
def test_a_larger_cache_is_never_slower(
    name: str, shape: tuple[int, int, int], resident: str, base: float, factor: float
) -> None:
    small, large = on_two_chips(name, cache_path(name), [base, base * factor], shape, resident).time
    assert large <= small * SLACK


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ARRAYS), SHAPE, RESIDENT, st.floats(1e4, 5e8), FACTORS)
def test_a_smaller_memory_of_an_array_chip_never_moves_less(
    name: str, shape: tuple[int, int, int], resident: str, base: float, factor: float
) -> None:
    small, large = on_two_chips(name, cache_path(name), [base, base * factor], shape, resident).dram_bytes
    assert large <= small * SLACK


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, st.integers(1, 8), st.integers(1, 600), RESIDENT)
def test_a_larger_product_is_never_faster(
    name: str, shape: tuple[int, int, int], batch: int, more: int, resident: str
) -> None:
    base = (*shape, batch)
    grown = [tuple(size + more * (axis == i) for i, size in enumerate(base)) for axis in range(4)]
    m, n, k, products = columns([base, *grown])
    time = matmul_cost(m, n, k, lowered(name), "bf16", batch=products, resident=resident).time
    assert (time[1:] * SLACK >= time[0]).all()


@settings(max_examples=40, deadline=None)
@given(NAMES, SHAPES, st.floats(1e11, 2e13), RESIDENT, st.randoms(use_true_random=False))
def test_a_batch_of_products_equals_singles_and_its_permutations(
    name: str, rows: list[tuple[int, int, int, int]], base: float, resident: str, random: Random
) -> None:
    m, n, k, batch = columns(rows)
    bandwidth = base * (1.0 + np.arange(len(rows)) % 3)
    order = np.array(random.sample(range(len(rows)), len(rows)))

    def cost(index: np.ndarray[tuple[int], np.dtype[np.intp]]) -> KernelCost:
        target = lower_chip(chip(name), {"memory.dram.bandwidth": bandwidth[index]})
        return matmul_cost(m[index], n[index], k[index], target, "bf16", batch=batch[index], resident=resident)

    whole, permuted = cost(np.arange(len(rows))), cost(order)
    singles = [cost(np.array([i])) for i in range(len(rows))]
    for field in ("time", "compute", "memory", "flop", "dram_bytes", "cache_bytes"):
        expected = [float(getattr(single, field)[0]) for single in singles]
        assert getattr(whole, field) == pytest.approx(expected, rel=1e-12)
        assert getattr(permuted, field) == pytest.approx(np.array(expected)[order], rel=1e-12)


@pytest.mark.parametrize("name", ["h100-sxm", "tpu-v5p", "asic-template"])
@pytest.mark.parametrize("size", [4096.0, 6144.0, 8192.0, 12288.0, 16384.0])
def test_large_square_products_are_bound_by_compute(name: str, size: float) -> None:
    side = np.array([size])
    target = lowered(name)
    cost = matmul_cost(side, side, side, target, "bf16")
    ideal = 2.0 * size**3 / (target.matrix.peak["bf16"] * target.quality.matmul)
    assert cost.bound[0] == COMPUTE
    assert cost.memory[0] < 0.7 * cost.compute[0]
    # Tile and wave quantisation, fill and drain take no more than a tenth.
    assert ideal <= cost.time[0] <= 1.1 * ideal


@settings(max_examples=60, deadline=None)
@given(NAMES, SHAPE, st.integers(2, 64))
def test_energy_grows_with_the_number_of_products(name: str, shape: tuple[int, int, int], batch: int) -> None:
    m, n, k, products = columns([(*shape, 1), (*shape, batch)])
    target = lowered(name)
    one, many = kernel_energy(matmul_cost(m, n, k, target, "bf16", batch=products), target, "bf16")
    assert one > 0.0
    # The FLOP of a batch are exactly its number of products; another tile may change bytes only.
    assert many >= batch * 2.0 * np.prod(shape, dtype=np.float64) * target.power.energy_per_flop["bf16"]
    assert many > one


@settings(max_examples=60, deadline=None)
@given(NAMES, st.integers(1, 16), st.integers(1, 16), st.integers(1, 128), st.integers(1, 8192), st.integers(0, 60_000))
def test_no_attention_beats_the_roofline(
    name: str, kv_heads: int, heads_each: int, batch: int, query: int, past: int
) -> None:
    sizes = (batch, query, query + past, kv_heads * heads_each, kv_heads, 128, 1)
    target = lowered(name)
    cost = attention_cost(Attention("a", "layer", "prefill", *(array(size) for size in sizes)), target, "bf16")
    dram = target.memory["dram"].bandwidth * target.quality.memory
    pairs = query * (past + 1.0 + past + query) / 2.0
    scores = float(batch * kv_heads * heads_each) * pairs
    keys = 4.0 * batch * kv_heads * (query + past) * 128.0
    assert cost.time * SLACK >= 4.0 * 128.0 * scores / target.matrix.peak["bf16"]
    assert cost.time * SLACK >= scores / target.special_peak
    assert cost.time * SLACK >= (keys + 4.0 * batch * query * kv_heads * heads_each * 128.0) / dram


@settings(max_examples=60, deadline=None)
@given(NAMES, st.floats(1.0, 1e11), st.floats(0.0, 1e12), st.floats(0.0, 1e12), FACTORS)
def test_a_larger_cache_never_slows_elementwise_work(
    name: str, moved: float, flop: float, special: float, factor: float
) -> None:
    zero = array(0.0)
    op = DeviceVector("v", "layer", array(1.0), array(moved), zero, array(flop), array(special), zero)
    capacity = float(np.clip(moved, 1e4, 1e9))
    both = lower_chip(chip(name), {cache_path(name): capacity * array([1.0, factor])})
    cost = vector_cost(op, both)
    assert cost.time[1] <= cost.time[0] * SLACK
    assert cost.dram_bytes[1] <= cost.dram_bytes[0]
