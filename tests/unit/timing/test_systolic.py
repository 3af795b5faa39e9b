"""Cycles of one array and the best layout over many."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.lower import ChipArrays
from cosim.records import array
from cosim.timing.cost import COMPUTE, MEMORY, OPERANDS, Machine, machine
from cosim.timing.systolic import DATAFLOWS, cycles, pipelined_cycles, systolic_cost
from cosim.timing.traffic import Sizes

DIM = st.integers(1, 4096)
SIDE = st.sampled_from([8, 16, 32, 64, 128, 256])
FLOW = st.sampled_from(DATAFLOWS)


def spent(m: int, n: int, k: int, rows: int, columns: int, flow: str, *, shadow: bool = False) -> float:
    return float(cycles(array(m), array(n), array(k), array(rows), array(columns), flow, shadow_weights=shadow))


def time_of(engine: Machine, m: float, n: float, k: float, batch: float = 1.0) -> float:
    one = np.ones(1)
    return float(systolic_cost(m * one, n * one, k * one, batch * one, engine, Sizes(2.0)).time[0])


@pytest.fixture
def array_of_one(tpu: ChipArrays) -> Machine:
    """One 128 x 128 array at 1 Hz with ideal software and endless bandwidth: time is cycles."""
    return dataclasses.replace(
        machine(tpu, "bf16"),
        cores=array(1.0),
        arrays=array(1.0),
        clock=array(1.0),
        peak=array(2.0 * 128 * 128),
        quality=array(1.0),
        dram=array(1e30),
        feed=array(1e30),
    )


@settings(max_examples=60, deadline=None)
@given(DIM, DIM, DIM, SIDE, SIDE, FLOW, st.booleans())
def test_an_array_never_does_more_than_one_product_per_element_and_cycle(
    m: int, n: int, k: int, rows: int, columns: int, flow: str, shadow: bool
) -> None:
    assert spent(m, n, k, rows, columns, flow, shadow=shadow) * rows * columns >= m * n * k


@settings(max_examples=60, deadline=None)
@given(DIM, DIM, DIM, SIDE, SIDE, FLOW, st.booleans(), st.integers(1, 300))
def test_a_larger_product_never_takes_fewer_cycles(
    m: int, n: int, k: int, rows: int, columns: int, flow: str, shadow: bool, more: int
) -> None:
    base = spent(m, n, k, rows, columns, flow, shadow=shadow)
    assert spent(m + more, n, k, rows, columns, flow, shadow=shadow) >= base
    assert spent(m, n + more, k, rows, columns, flow, shadow=shadow) >= base
    assert spent(m, n, k + more, rows, columns, flow, shadow=shadow) >= base


@settings(max_examples=60, deadline=None)
@given(DIM, DIM, DIM, SIDE, SIDE)
def test_weight_and_input_stationary_are_mirror_images(m: int, n: int, k: int, rows: int, columns: int) -> None:
    assert spent(m, n, k, rows, columns, "ws") == spent(n, m, k, rows, columns, "is")


@settings(max_examples=60, deadline=None)
@given(DIM, DIM, DIM, SIDE, SIDE, st.sampled_from(["ws", "is"]))
def test_shadow_weights_cost_a_cycle_at_most_and_save_with_folds(
    m: int, n: int, k: int, rows: int, columns: int, flow: str
) -> None:
    exposed = spent(m, n, k, rows, columns, flow)
    assert spent(m, n, k, rows, columns, flow, shadow=True) <= exposed + 1.0


def test_a_single_fold_is_load_stream_and_skew() -> None:
    # 128 loads, 128 rows streamed, 128 + 128 - 2 of skew, first to last: 509
    assert spent(128, 128, 128, 128, 128, "ws") == 509
    assert spent(128, 128, 128, 128, 128, "os") == 381


def test_ceilings_count_folds_of_ragged_products() -> None:
    # ceil(131/32) = 5 folds of rows x ceil(129/32) = 5 of columns x (64 + 32 + 127 - 2) - 1
    assert spent(127, 129, 131, 32, 32, "ws") == 25 * 221 - 1


def test_hidden_loads_leave_the_first_and_the_longer_of_stream_and_load() -> None:
    # 2 folds: 128 first load + max(100, 128) + 100 + 254 of skew
    assert spent(100, 128, 256, 128, 128, "ws", shadow=True) == 128 + 128 + 100 + 254
    assert float(pipelined_cycles(array(2), array(100), array(128), array(128))) == 610
    assert spent(100, 128, 256, 128, 128, "ws") == 2 * (256 + 128 + 100 - 2) - 1


def test_one_array_at_one_hertz_takes_its_cycles_in_seconds(array_of_one: Machine) -> None:
    assert time_of(array_of_one, 100, 128, 256) == 610


def test_software_and_format_scale_the_compute_time(array_of_one: Machine) -> None:
    halved = dataclasses.replace(array_of_one, quality=array(0.5))
    doubled = dataclasses.replace(array_of_one, peak=array_of_one.peak * 2.0)
    assert time_of(halved, 100, 128, 256) == pytest.approx(2 * 610)
    assert time_of(doubled, 100, 128, 256) == pytest.approx(610 / 2)


def test_the_streamed_axis_is_cut_so_that_four_arrays_share_one_fold(array_of_one: Machine) -> None:
    four = dataclasses.replace(array_of_one, arrays=array(4.0), peak=array_of_one.peak * 4.0)
    one = np.ones(1)
    cost = systolic_cost(4096 * one, 128 * one, 128 * one, one, four, Sizes(2.0))
    # 1,024 rows each: 128 + 1,024 + 254 cycles
    assert float(cost.time[0]) == pytest.approx(1406)
    assert [float(choice[0]) for choice in cost.tiling] == [DATAFLOWS.index("ws"), 4.0, 0.0]


def test_pieces_of_a_cut_stream_are_whole_rows(array_of_one: Machine) -> None:
    # 257 rows on two arrays: 129 and 128; 128 + 129 + 254 cycles
    two = dataclasses.replace(array_of_one, arrays=array(2.0), peak=array_of_one.peak * 2.0)
    assert time_of(two, 257, 128, 128) == 511


def test_short_sums_of_stationary_outputs_wait_for_the_drain(array_of_one: Machine) -> None:
    # 4 folds of 64 steps, each at least the 128 cycles that its outputs take to leave, and 254 of skew
    assert time_of(dataclasses.replace(array_of_one, dataflows=("os",)), 256, 256, 64) == 4 * 128 + 254


def test_operands_that_leave_the_scratch_too_slowly_bound_the_array(array_of_one: Machine) -> None:
    # 2 B x (64 x 32 x 2 + 32 x 200) = 20,992 B at 1 B/s
    starved = dataclasses.replace(array_of_one, feed=array(1.0))
    one = np.ones(1)
    cost = systolic_cost(64 * one, 200 * one, 32 * one, one, starved, Sizes(2.0))
    assert float(cost.time[0]) == 20_992
    assert cost.bound[0] == OPERANDS


def test_the_faster_of_the_offered_dataflows_is_taken(array_of_one: Machine) -> None:
    # Few outputs, long sum: one output tile of 8,192 steps against 64 folds of weights.
    both = dataclasses.replace(array_of_one, dataflows=("ws", "os"))
    one = np.ones(1)
    cost = systolic_cost(128 * one, 128 * one, 8192 * one, one, both, Sizes(2.0))
    assert float(cost.time[0]) == 8192 + 254
    assert float(cost.tiling[0][0]) == DATAFLOWS.index("os")
    assert time_of(array_of_one, 128, 128, 8192) > float(cost.time[0])


@settings(max_examples=40, deadline=None)
@given(DIM, DIM, DIM)
def test_another_dataflow_to_choose_from_is_never_slower(asic: ChipArrays, m: int, n: int, k: int) -> None:
    offered = machine(asic, "bf16")
    every = dataclasses.replace(offered, dataflows=DATAFLOWS)
    for only in DATAFLOWS:
        assert time_of(every, m, n, k) <= time_of(dataclasses.replace(offered, dataflows=(only,)), m, n, k)


def test_exposed_loads_slow_a_decode_product_several_times(tpu: ChipArrays) -> None:
    shadowed = dataclasses.replace(machine(tpu, "bf16"), dram=array(1e30))
    exposed = dataclasses.replace(shadowed, shadow_weights=False)
    # 16 rows per fold: 128 cycles hidden against 2 x 128 + 128 + 16 - 2 = 398 exposed
    assert time_of(exposed, 16, 8192, 8192) / time_of(shadowed, 16, 8192, 8192) == pytest.approx(398 / 128, rel=0.01)


def test_decode_on_hidden_loads_is_bound_by_the_weight_stream(tpu: ChipArrays) -> None:
    one = np.ones(1)
    few = systolic_cost(16 * one, 8192 * one, 8192 * one, one, machine(tpu, "bf16"), Sizes(2.0))
    many = systolic_cost(4096 * one, 8192 * one, 8192 * one, one, machine(tpu, "bf16"), Sizes(2.0))
    assert (few.bound[0], many.bound[0]) == (MEMORY, COMPUTE)
    # A, B and C once over 2.8 TB/s x 0.8
    moved = 2.0 * (16 * 8192 + 8192 * 8192 + 16 * 8192)
    assert float(few.time[0]) == pytest.approx(moved / 2.24e12)


def test_products_of_a_batch_are_dealt_to_the_arrays(array_of_one: Machine) -> None:
    eight = dataclasses.replace(array_of_one, arrays=array(8.0), peak=array_of_one.peak * 8.0)
    assert time_of(eight, 128, 128, 128, batch=8) == time_of(array_of_one, 128, 128, 128)
    # The ninth starts a second round: its loads are hidden, its 128 rows are not.
    assert time_of(eight, 128, 128, 128, batch=9) == time_of(array_of_one, 128, 128, 128) + 128


def test_operands_enter_once_per_column_of_tiles(array_of_one: Machine) -> None:
    one = np.ones(1)
    cost = systolic_cost(64 * one, 200 * one, 32 * one, 3 * one, array_of_one, Sizes(2.0))
    # 3 products x 2 B x (A 64 x 32 for each of 2 columns of tiles + B 32 x 200)
    assert float(cost.cache_bytes[0]) == 3 * 2 * (64 * 32 * 2 + 32 * 200)
    assert float(cost.flop[0]) == 3 * 2 * 64 * 200 * 32


def test_an_unknown_dataflow_is_refused(array_of_one: Machine) -> None:
    odd = dataclasses.replace(array_of_one, dataflows=("row",))
    with pytest.raises(ValueError, match="no known dataflow in"):
        time_of(odd, 16, 16, 16)
