"""The one entry point for matrix products on any chip."""

from __future__ import annotations

import dataclasses
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, MatrixArrays, lower_chip
from cosim.records import Array, array
from cosim.timing.cost import COMPUTE, MEMORY, machine
from cosim.timing.matmul import matmul_cost
from cosim.timing.systolic import systolic_cost
from cosim.timing.tiles import tile_cost
from cosim.timing.traffic import Resident, Sizes

SHAPES = st.lists(st.tuples(*[st.integers(1, 8192)] * 3, st.integers(1, 16)), min_size=1, max_size=12)


@pytest.fixture
def flat(h100: ChipArrays) -> ChipArrays:
    """A chip known by its peak of 1 PFLOP/s; quality 0.75, DRAM 2.68 TB/s."""
    return dataclasses.replace(h100, cores=None, matrix=MatrixArrays("roofline", {"bf16": array(1e15)}, clock=None))


def dims(*shape: float) -> tuple[Array, Array, Array]:
    m, n, k = (np.array([float(value)]) for value in shape)
    return m, n, k


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.randoms(use_true_random=False))
def test_repeats_and_order_do_not_change_a_cost(h100: ChipArrays, rows: list[tuple[int, ...]], random: Random) -> None:
    table = [*rows, *rows]
    random.shuffle(table)
    m, n, k, batch = np.array(table, dtype=float).T
    together = matmul_cost(m, n, k, h100, "bf16", batch=batch)
    for point, row in enumerate(table):
        alone = matmul_cost(*dims(*row[:3]), h100, "bf16", batch=np.array([float(row[3])]))
        assert float(together.time[point]) == pytest.approx(float(alone.time[0]), rel=1e-12)
        assert together.bound[point] == alone.bound[0]
        assert float(together.tiling[1][point]) == float(alone.tiling[1][0])


def test_each_kind_of_engine_gets_its_own_model(h100: ChipArrays, tpu: ChipArrays) -> None:
    m, n, k = dims(300, 500, 700)
    one = np.ones(1)
    tiled = tile_cost(m, n, k, one, machine(h100, "fp8"), Sizes(1.0))
    streamed = systolic_cost(m, n, k, one, machine(tpu, "int8"), Sizes(1.0))
    assert matmul_cost(m, n, k, h100, "fp8").time == tiled.time
    assert matmul_cost(m, n, k, tpu, "int8").time == streamed.time


@pytest.mark.parametrize("engine", ["h100", "tpu", "asic"])
def test_what_is_resident_reaches_every_engine(engine: str, request: pytest.FixtureRequest) -> None:
    chip: ChipArrays = request.getfixturevalue(engine)
    moved = {
        resident: float(matmul_cost(*dims(64, 128, 256), chip, "bf16", resident=resident).dram_bytes[0])
        for resident in ("none", "activations", "repeated")
    }
    # A 64 x 256, B 256 x 128, C 64 x 128 at 2 B
    assert moved == {"none": 32768 + 65536 + 16384, "activations": 65536, "repeated": 0.0}


def test_a_large_product_on_a_known_peak_takes_flop_over_peak_and_quality(flat: ChipArrays) -> None:
    # 2 x 8,192^3 = 1.0995e12 FLOP over 1e15 x 0.75 = 1.466 ms
    cost = matmul_cost(*dims(8192, 8192, 8192), flat, "bf16")
    assert float(cost.time[0]) == pytest.approx(1.466e-3, rel=1e-3)
    assert cost.bound[0] == COMPUTE


def test_a_thin_product_on_a_known_peak_takes_bytes_over_bandwidth(flat: ChipArrays) -> None:
    # 16 x 8,192 x 8,192: 2 B x (A 131,072 + B 67,108,864 + C 131,072) = 134.74 MB over 2.68 TB/s = 50.28 us
    cost = matmul_cost(*dims(16, 8192, 8192), flat, "bf16")
    assert float(cost.time[0]) == pytest.approx(50.28e-6, rel=1e-3)
    assert cost.bound[0] == MEMORY
    assert float(cost.dram_bytes[0]) == 2 * (2 * 16 * 8192 + 8192 * 8192)
    assert [float(part[0]) for part in cost.tiling] == [0.0, 0.0, 0.0]


def test_a_batch_multiplies_work_and_bytes_of_a_known_peak(flat: ChipArrays) -> None:
    one = matmul_cost(*dims(64, 96, 128), flat, "bf16")
    nine = matmul_cost(*dims(64, 96, 128), flat, "bf16", batch=np.array([9.0]))
    assert nine.flop == 9.0 * one.flop
    assert nine.time == pytest.approx(9.0 * one.time)


def test_eight_bit_operands_halve_the_bytes_but_not_the_output(tpu: ChipArrays) -> None:
    wide = matmul_cost(*dims(16, 8192, 8192), tpu, "bf16")
    narrow = matmul_cost(*dims(16, 8192, 8192), tpu, "int8")
    output = 2.0 * 16 * 8192
    assert narrow.dram_bytes - output == pytest.approx((wide.dram_bytes - output) / 2.0)


def test_chips_along_the_points_axis_meet_their_own_product() -> None:
    chip = load_chip("h100-sxm")
    bandwidths = np.array([1e12, 2e12, 4e12])
    size = np.full(3, 4096.0)
    together = matmul_cost(
        np.full(3, 16.0), size, size, lower_chip(chip, {"memory.dram.bandwidth": bandwidths}), "bf16"
    )
    for point in range(3):
        one = lower_chip(chip, {"memory.dram.bandwidth": array(bandwidths[point])})
        alone = matmul_cost(*dims(16, 4096, 4096), one, "bf16")
        assert float(together.time[point]) == pytest.approx(float(alone.time[0]), rel=1e-12)
    assert together.time[0] > together.time[1] > together.time[2]


def test_equal_products_on_unequal_chips_are_not_merged() -> None:
    clocks = np.array([1.0e9, 2.0e9])
    chip = lower_chip(load_chip("tpu-v5p"), {"matrix.clock": clocks})
    size = np.full(2, 8192.0)
    slow, fast = matmul_cost(size, size, size, chip, "bf16").time
    assert slow == pytest.approx(2.0 * fast)


def test_a_format_without_a_rate_is_refused(tpu: ChipArrays) -> None:
    with pytest.raises(SpecError, match=r"plan\.dtype: tpu-v5p has no matrix rate for this format \(got 'fp6'\)"):
        matmul_cost(*dims(8, 8, 8), tpu, "fp6")


@pytest.mark.parametrize("engine", ["h100", "tpu", "asic", "flat"])
def test_bytes_of_the_output_reach_every_engine(engine: str, request: pytest.FixtureRequest) -> None:
    chip: ChipArrays = request.getfixturevalue(engine)
    moved = {
        size: float(matmul_cost(*dims(64, 128, 256), chip, "bf16", output_bytes=size).dram_bytes[0])
        for size in (2.0, 4.0, 8.0)
    }
    # A 64 x 256 and B 256 x 128 at 2 B, C 64 x 128 at what is said
    assert moved == {size: 32768 + 65536 + 8192 * size for size in (2.0, 4.0, 8.0)}
    assert float(matmul_cost(*dims(64, 128, 256), chip, "bf16").dram_bytes[0]) == moved[2.0]


@settings(max_examples=30, deadline=None)
@given(rows=SHAPES, resident=st.sampled_from(["none", "activations"]))
@pytest.mark.parametrize("engine", ["h100", "tpu", "asic"])
def test_a_product_that_is_added_to_what_is_kept_is_never_faster(
    request: pytest.FixtureRequest, engine: str, rows: list[tuple[int, ...]], resident: Resident
) -> None:
    chip: ChipArrays = request.getfixturevalue(engine)
    m, n, k, batch = np.array(rows, dtype=float).T
    plain, added = (
        matmul_cost(m, n, k, chip, "bf16", batch=batch, resident=resident, output_bytes=size) for size in (2.0, 8.0)
    )
    assert np.all(added.time >= plain.time * (1.0 - 1e-12))
    assert np.array_equal(added.flop, plain.flop)


def test_a_thin_weight_gradient_takes_the_bytes_of_its_sum(flat: ChipArrays) -> None:
    # 8,192 x 8,192 over 16 rows: 2 B x 2 x 131,072 of operands and 8 B x 67,108,864 of fp32 read and written
    cost = matmul_cost(*dims(8192, 8192, 16), flat, "bf16", output_bytes=8.0)
    assert float(cost.dram_bytes[0]) == 2 * 2 * 131_072 + 8 * 67_108_864
    assert float(cost.time[0]) == pytest.approx(float(cost.dram_bytes[0]) / (3.35e12 * 0.8))


SHARED = st.floats(0.01, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 200_000),
    n=st.integers(1, 2048),
    k=st.integers(1, 4608),
    share=SHARED,
    kind=st.integers(0, 2),
)
def test_elements_that_are_shared_never_cost_more(
    h100: ChipArrays, tpu: ChipArrays, m: int, n: int, k: int, share: float, kind: int
) -> None:
    peaks = MatrixArrays("roofline", {"bf16": array(1e15)}, clock=None)
    chip = (h100, tpu, dataclasses.replace(h100, cores=None, matrix=peaks))[kind]
    whole = matmul_cost(*dims(m, n, k), chip, "bf16")
    same = matmul_cost(*dims(m, n, k), chip, "bf16", distinct=np.array([1.0]))
    less = matmul_cost(*dims(m, n, k), chip, "bf16", distinct=np.array([share]))
    assert (same.time, same.dram_bytes) == (whole.time, whole.dram_bytes)
    assert less.time <= whole.time
    assert less.dram_bytes <= whole.dram_bytes
    assert less.flop == whole.flop


def test_a_third_of_a_large_operand_is_read_once(flat: ChipArrays) -> None:
    # A of 8192 x 8192 at 2 bytes, a ninth of it distinct: 134.2 MB become 14.9 MB.
    whole, ninth = (
        float(matmul_cost(*dims(8192, 64, 8192), flat, "bf16", distinct=np.array([share])).dram_bytes[0])
        for share in (1.0, 1.0 / 9.0)
    )
    assert whole - ninth == pytest.approx(8192**2 * 2 * 8 / 9)


def test_products_of_one_shape_and_other_shares_are_costed_apart(h100: ChipArrays) -> None:
    share = np.array([1.0, 0.1, 1.0])
    m, n, k = (np.full(3, size) for size in (200_000.0, 64.0, 576.0))
    together = matmul_cost(m, n, k, h100, "bf16", distinct=share)
    assert together.dram_bytes[0] == together.dram_bytes[2] > together.dram_bytes[1]
    alone = matmul_cost(*dims(200_000, 64, 576), h100, "bf16", distinct=np.array([0.1]))
    assert together.time[1] == alone.time[0]


@pytest.mark.parametrize("engine", ["h100", "tpu", "asic", "flat"])
@pytest.mark.parametrize("shape", [(1, 8192, 8192), (64, 4096, 14336), (4096, 4096, 4096)])
def test_narrower_weights_are_never_slower_and_change_no_flop(
    engine: str, shape: tuple[int, int, int], request: pytest.FixtureRequest
) -> None:
    chip: ChipArrays = request.getfixturevalue(engine)
    dtype = "bf16" if "bf16" in chip.matrix.peak else next(iter(chip.matrix.peak))
    wide, eight, four = (matmul_cost(*dims(*shape), chip, dtype, weights=kept) for kept in (None, "int8", "int4"))
    assert float(four.time[0]) <= float(eight.time[0]) <= float(wide.time[0])
    assert float(four.dram_bytes[0]) < float(eight.dram_bytes[0]) <= float(wide.dram_bytes[0])
    assert float(four.flop[0]) == float(wide.flop[0])


def test_weights_of_a_thin_product_are_widened_on_their_way(flat: ChipArrays) -> None:
    m, n, k = 1.0, 8192.0, 8192.0
    cost = matmul_cost(*dims(m, n, k), flat, "bf16", weights="int4")
    assert float(cost.dram_bytes[0]) == m * k * 2 + n * k / 2 + m * n * 2
    assert float(cost.time[0]) == pytest.approx(float(cost.dram_bytes[0]) / 2.68e12)


def test_weights_in_the_format_of_the_products_are_those_that_are_not_told(h100: ChipArrays) -> None:
    plain, told = (matmul_cost(*dims(64, 4096, 4096), h100, "fp8", weights=kept) for kept in (None, "fp8"))
    assert float(plain.time[0]) == float(told.time[0])
