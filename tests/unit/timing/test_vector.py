"""Elementwise kernels: bytes, FLOP and exponentials, the slowest counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.lower import ChipArrays
from cosim.mapping.shard import DeviceVector
from cosim.records import array
from cosim.timing.vector import vector_cost

AMOUNT = st.floats(0.0, 1e11)
H100_DRAM = 3.35e12 * 0.8


def kernel(read: object, write: object = 0.0, flop: object = 0.0, special: object = 0.0) -> DeviceVector:
    return DeviceVector("norm", "layer", array(1.0), array(read), array(write), array(flop), array(special), array(0.0))


@settings(max_examples=60, deadline=None)
@given(AMOUNT, AMOUNT, AMOUNT, AMOUNT, st.integers(0, 3), st.floats(1.0, 100.0))
def test_more_of_anything_is_never_faster(
    h100: ChipArrays, read: float, write: float, flop: float, special: float, which: int, factor: float
) -> None:
    amounts = [read, write, flop, special]
    more = [value * (factor if i == which else 1.0) for i, value in enumerate(amounts)]
    assert vector_cost(kernel(*more), h100).time >= vector_cost(kernel(*amounts), h100).time * (1.0 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(AMOUNT, AMOUNT, AMOUNT, AMOUNT)
def test_no_kernel_beats_its_units(h100: ChipArrays, read: float, write: float, flop: float, special: float) -> None:
    cost = vector_cost(kernel(read, write, flop, special), h100)
    # 132 cores x 256 FLOP x 1.98 GHz, and 132 cores x 16 exponentials x 1.83 GHz
    assert cost.time >= flop / (132 * 256 * 1.98e9) * (1.0 - 1e-12)
    assert cost.time >= special / (132 * 16 * 1.83e9) * (1.0 - 1e-12)
    assert cost.time >= cost.dram_bytes / H100_DRAM * (1.0 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT), min_size=1, max_size=10))
def test_a_batch_equals_its_kernels_one_by_one(h100: ChipArrays, rows: list[tuple[float, ...]]) -> None:
    batch = vector_cost(kernel(*np.array(rows).T), h100)
    singles = [vector_cost(kernel(*row), h100) for row in rows]
    assert batch.time == pytest.approx([float(cost.time) for cost in singles], rel=1e-12)
    assert batch.dram_bytes == pytest.approx([float(cost.dram_bytes) for cost in singles], rel=1e-12)
    assert batch.bound.tolist() == [int(cost.bound) for cost in singles]


def test_a_tensor_larger_than_half_the_cache_streams_from_dram(h100: ChipArrays) -> None:
    # 30 MB against half of 50 MB: 30e6 / (3.35 TB/s x 0.8) = 11.19 us
    cost = vector_cost(kernel(20e6, 10e6), h100)
    assert float(cost.time) == pytest.approx(30e6 / H100_DRAM)
    assert float(cost.time) == pytest.approx(11.19e-6, rel=1e-3)
    assert float(cost.dram_bytes) == 30e6


def test_a_tensor_that_stays_on_chip_moves_at_the_speed_of_the_cache(h100: ChipArrays) -> None:
    # 10 MB at 7 TB/s x 0.8 = 1.786 us, and nothing from DRAM
    cost = vector_cost(kernel(5e6, 5e6), h100)
    assert float(cost.time) == pytest.approx(1.786e-6, rel=1e-3)
    assert float(cost.dram_bytes) == 0.0
    assert float(cost.cache_bytes) == 10e6


def test_a_kernel_whose_passes_wait_for_each_other_moves_at_the_pace_of_dram(h100: ChipArrays) -> None:
    # 10 MB at 2.68 TB/s = 3.73 us where the cache takes 1.79 us; nothing crosses the DRAM all the same
    slow = dataclasses.replace(kernel(5e6, 5e6), dram_paced=True)
    cost, free = vector_cost(slow, h100), vector_cost(kernel(5e6, 5e6), h100)
    assert float(cost.time) == pytest.approx(10e6 / H100_DRAM)
    assert (float(cost.dram_bytes), float(cost.cache_bytes)) == (0.0, 10e6)
    assert cost.time > free.time
    # What streams from DRAM is paced by it either way.
    large = dataclasses.replace(kernel(30e6, 30e6), dram_paced=True)
    assert vector_cost(large, h100).time == vector_cost(kernel(30e6, 30e6), h100).time


def test_tensors_on_chip_move_at_what_kernels_reach_of_the_cache(h100: ChipArrays) -> None:
    half = dataclasses.replace(h100, kernel={**h100.kernel, "cache_feed": array(0.6)})
    assert float(vector_cost(kernel(5e6, 5e6), half).time) == pytest.approx(10e6 / (7e12 * 0.6))
    # A cache that kernels reach less of than of DRAM is no slower than DRAM.
    tenth = dataclasses.replace(h100, kernel={**h100.kernel, "cache_feed": array(0.1)})
    assert float(vector_cost(kernel(5e6, 5e6), tenth).time) == pytest.approx(10e6 / H100_DRAM)
    # A chip without this constant has the quality of its memory there.
    bare = dataclasses.replace(h100, kernel={})
    assert float(vector_cost(kernel(5e6, 5e6), bare).time) == pytest.approx(10e6 / (7e12 * 0.8))


def test_exponentials_bound_a_softmax_on_few_bytes(h100: ChipArrays) -> None:
    # 3.865e9 exponentials at 3.865 T/s: 1 ms
    cost = vector_cost(kernel(1e6, 1e6, flop=1e9, special=132 * 16 * 1.83e6), h100)
    assert float(cost.time) == pytest.approx(1e-3)
    assert float(cost.time) == float(cost.compute)


def test_a_chip_without_on_chip_memory_always_goes_to_dram(h100: ChipArrays) -> None:
    bare = dataclasses.replace(h100, memory={"dram": h100.memory["dram"]})
    cost = vector_cost(kernel(1e3), bare)
    assert float(cost.dram_bytes) == 1e3
    assert float(cost.time) == pytest.approx(1e3 / H100_DRAM)


def test_scratch_serves_a_chip_without_cache(tpu: ChipArrays) -> None:
    # VMEM of 2 x 64 MiB at 60 TB/s x 0.8: 48 MB in 1 us
    cost = vector_cost(kernel(48e6), tpu)
    assert float(cost.time) == pytest.approx(1e-6)
    assert float(cost.dram_bytes) == 0.0


def gathered(rows: float, row_bytes: float, table_bytes: float) -> DeviceVector:
    op = kernel(rows * row_bytes, rows * row_bytes)
    return dataclasses.replace(op, weight_bytes=array(table_bytes), gathered_bytes=array(rows * row_bytes))


def test_rows_of_a_large_table_come_from_dram_however_few_they_are(h100: ChipArrays) -> None:
    cost = vector_cost(gathered(1000, 256, 48e9), h100)
    assert float(cost.dram_bytes) == 256e3
    plain = vector_cost(kernel(0.0, 256e3), h100)
    # What is written stays on chip, what is gathered does not.
    assert float(cost.time - plain.time) == pytest.approx(256e3 / H100_DRAM)
    assert float(cost.cache_bytes) == 512e3


def test_a_table_that_stays_on_chip_is_read_there(h100: ChipArrays) -> None:
    cost = vector_cost(gathered(1000, 256, 25e6), h100)
    assert float(cost.dram_bytes) == 0.0
    assert cost.time == vector_cost(kernel(256e3, 256e3), h100).time
    assert cost.time < vector_cost(gathered(1000, 256, 25.1e6), h100).time


def test_without_memory_on_chip_a_gather_is_bytes_over_dram(h100: ChipArrays) -> None:
    bare = dataclasses.replace(h100, memory={"dram": h100.memory["dram"]})
    cost = vector_cost(gathered(1000, 256, 1e6), bare)
    assert float(cost.dram_bytes) == 512e3
    assert float(cost.time) == pytest.approx(512e3 / H100_DRAM)
