"""DRAM traffic of blocked products."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.records import Array, array
from cosim.timing.traffic import Resident, Sizes, blocked_traffic, saved, written

MIB = float(2**20)
DIMS = st.tuples(*[st.integers(1, 40_000)] * 3)
CAPACITY = st.floats(256.0, 1e9)


def traffic(m: float, n: float, k: float, capacity: float, resident: Resident = "none") -> float:
    one: Array = np.ones(1)
    return float(blocked_traffic(m * one, n * one, k * one, array(capacity), Sizes(2.0), resident)[0])


@settings(max_examples=60, deadline=None)
@given(DIMS, CAPACITY, st.floats(1.0, 64.0), st.sampled_from(get_args(Resident)))
def test_a_larger_memory_never_costs_more_traffic(
    dims: tuple[int, int, int], capacity: float, factor: float, resident: Resident
) -> None:
    small, large = traffic(*dims, capacity, resident), traffic(*dims, capacity * factor, resident)
    assert large <= small * (1.0 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(DIMS, CAPACITY)
def test_cold_operands_cross_once_at_least_and_the_output_once(dims: tuple[int, int, int], capacity: float) -> None:
    m, n, k = dims
    assert traffic(m, n, k, capacity) >= 2.0 * (m * k + k * n + m * n) * (1.0 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(DIMS, CAPACITY)
def test_what_is_resident_only_saves(dims: tuple[int, int, int], capacity: float) -> None:
    cold, activations = traffic(*dims, capacity), traffic(*dims, capacity, "activations")
    assert 0.0 <= activations <= cold
    assert 0.0 <= traffic(*dims, capacity, "repeated") <= cold


@settings(max_examples=60, deadline=None)
@given(DIMS, st.integers(1, 64), CAPACITY)
def test_a_larger_product_never_moves_less(dims: tuple[int, int, int], more: int, capacity: float) -> None:
    m, n, k = dims
    base = traffic(m, n, k, capacity) * (1.0 - 1e-12)
    assert traffic(m + more, n, k, capacity) >= base
    assert traffic(m, n + more, k, capacity) >= base
    assert traffic(m, n, k + more, capacity) >= base


def test_operands_that_fit_are_read_once() -> None:
    # 64 x 64 in 16 bits: 8,192 B each for A, B and C
    assert traffic(64, 64, 64, MIB) == 3 * 8192


def test_a_square_product_that_does_not_fit_moves_by_its_blocks() -> None:
    # 2 MiB: 1 MiB of fp32 outputs is 512 x 512, so A and B (32 MiB each) are read 8 times and C written once
    assert traffic(4096, 4096, 4096, 2 * MIB) == (8 + 8 + 1) * 32 * MIB


def test_four_times_the_memory_halves_the_readings_of_a_square() -> None:
    # 8 MiB: blocks of 1,024 x 1,024, 4 readings of each
    assert traffic(4096, 4096, 4096, 8 * MIB) == (4 + 4 + 1) * 32 * MIB


def test_a_few_rows_stream_the_weights_once() -> None:
    # A 16 x 4,096 is 128 KiB and fits half of 2 MiB; B is 32 MiB, C 128 KiB
    assert traffic(16, 4096, 4096, 2 * MIB) == 32 * MIB + 2 * 128 * 1024


def test_an_operand_that_fits_is_read_once_however_large_the_output() -> None:
    # A 8,192 x 16 is 256 KiB and stays; B 16 x 65,536 is 2 MiB, read once under it; C 1 GiB
    assert traffic(8192, 65536, 16, 2 * MIB) == (0.25 + 2 + 1024) * MIB
    assert traffic(65536, 8192, 16, 2 * MIB) == (2 + 0.25 + 1024) * MIB


def test_resident_activations_leave_the_weights_to_read() -> None:
    # A stays from the kernel before, C stays for the one after: B alone moves
    assert traffic(16, 4096, 4096, 2 * MIB, "activations") == 32 * MIB


def test_a_repeated_product_that_fits_moves_nothing() -> None:
    assert traffic(64, 64, 64, MIB, "repeated") == 0.0


def test_a_repeated_product_that_does_not_fit_is_read_again() -> None:
    # A and C (128 KiB each) would fit half of the memory, but 32 MiB of weights flow through it between two rounds.
    assert traffic(16, 4096, 4096, 2 * MIB, "repeated") == 32 * MIB + 2 * 128 * 1024


def test_rounds_with_other_weights_keep_a_and_c_and_read_the_weights_unless_five_copies_fit() -> None:
    # A 64 x 256 and C 64 x 256 of 32 KiB, B 256 x 256 of 128 KiB; half of the capacity holds what stays.
    kib = 1024
    assert traffic(64, 256, 256, 2 * 191 * kib, "repeated") == (32 + 128 + 32) * kib
    assert traffic(64, 256, 256, 2 * 192 * kib, "repeated") == 128 * kib
    assert traffic(64, 256, 256, 2 * (32 + 5 * 128 + 32) * kib - 2, "repeated") == 128 * kib
    assert traffic(64, 256, 256, 2 * (32 + 5 * 128 + 32) * kib, "repeated") == 0.0


def test_savings_need_room_for_all_operands_together() -> None:
    third = array(100.0)
    kept = {room: float(saved(third, third, third, array(room), "repeated")) for room in (299, 300, 699, 700)}
    # A with B and C beside it; B only where A, C and five of B fit
    assert kept == {299: 0.0, 300: 100.0, 699: 100.0, 700: 200.0}
    assert float(saved(third, third, third, array(100.0), "activations")) == 100.0
    assert float(saved(third, third, third, array(99.0), "activations")) == 0.0
    assert float(saved(third, third, third, array(1e9), "none")) == 0.0


def test_an_output_too_large_to_stay_is_written() -> None:
    a, b, c = array(3.0), array(4.0), array(10.0)

    def left(room: float, resident: Resident) -> float:
        return float(written(a, b, c, array(room), resident))

    assert (left(9.0, "activations"), left(10.0, "activations")) == (10.0, 0.0)
    # In rounds C stays only beside A and B: 17 B
    assert (left(16.0, "repeated"), left(17.0, "repeated")) == (10.0, 0.0)
    assert left(1e9, "none") == 10.0


def test_capacities_along_the_points_axis_meet_their_own_product() -> None:
    size = np.array([4096.0, 4096.0])
    moved = blocked_traffic(size, size, size, np.array([2 * MIB, 8 * MIB]), Sizes(2.0), "none")
    assert moved == pytest.approx([17 * 32 * MIB, 9 * 32 * MIB])


@settings(max_examples=60, deadline=None)
@given(DIMS, CAPACITY, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from(get_args(Resident)))
def test_narrower_weights_never_move_more(
    dims: tuple[int, int, int], capacity: float, stored: float, resident: Resident
) -> None:
    m, n, k = (np.full(1, float(size)) for size in dims)
    plain, narrow = (
        float(blocked_traffic(m, n, k, array(capacity), sizes, resident)[0])
        for sizes in (Sizes(2.0), Sizes(2.0, stored=stored))
    )
    assert narrow <= plain * (1.0 + 1e-12)
    assert stored < 2.0 or narrow == plain


def test_weights_have_the_size_of_the_other_operand_unless_told() -> None:
    assert (Sizes(2.0).weight, Sizes(2.0, stored=0.5).weight, Sizes(1.0, 4.0).output) == (2.0, 0.5, 4.0)


def test_weights_in_four_bits_stream_at_a_quarter() -> None:
    m, n, k = (np.full(1, size) for size in (1.0, 8192.0, 8192.0))
    moved = float(blocked_traffic(m, n, k, array(MIB), Sizes(2.0, stored=0.5), "none")[0])
    assert moved == 2.0 * 8192 + 0.5 * 8192 * 8192 + 2.0 * 8192
