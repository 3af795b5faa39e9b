"""Products in blocks: what scales weigh, what promotion costs and where it hides, chips that scale by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.dtypes import BLOCK, scale_bytes
from cosim.hardware.lower import ChipArrays
from cosim.records import Array, array
from cosim.timing.blocks import in_blocks, promotion_energy, promotion_flop
from cosim.timing.cost import COMPUTE, MEMORY, KernelCost
from cosim.timing.matmul import matmul_cost

SIZES = st.integers(1, 16384)
ONE = np.ones(1)
BLOCKS = scale_bytes("fp8", "block")


def dims(*shape: float) -> tuple[Array, Array, Array]:
    m, n, k = (np.array([float(value)]) for value in shape)
    return m, n, k


def native(chip: ChipArrays) -> ChipArrays:
    """The same chip with a rate in mxfp8."""
    return replace(chip, matrix=replace(chip.matrix, peak={**chip.matrix.peak, "mxfp8": chip.matrix.peak["fp8"]}))


def both(chip: ChipArrays, *shape: float) -> tuple[KernelCost, KernelCost]:
    """A product in fp8 with a scale for each tensor, and with one for each block."""
    m, n, k = dims(*shape)
    plain = matmul_cost(m, n, k, chip, "fp8")
    return plain, in_blocks(plain, m, n, k, chip, "fp8", batch=ONE, distinct=ONE, scales=BLOCKS)


@settings(max_examples=60, deadline=None)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_blocks_are_never_faster_and_move_their_scales(h100: ChipArrays, m: int, n: int, k: int) -> None:
    plain, blocks = both(h100, m, n, k)
    assert float(blocks.time[0]) >= float(plain.time[0]) * (1.0 - 1e-12)
    scales = 4.0 * (m * k / 128.0 + k * n / 128.0**2)
    assert float(blocks.dram_bytes[0] - plain.dram_bytes[0]) == pytest.approx(scales, rel=1e-6)
    # Not all of a promotion and of the scales can be in the open beside the product.
    promotion = float(promotion_flop(*dims(m, n, k), ONE, h100)[0] / h100.vector_peak)
    most = float(plain.time[0]) + promotion + scales / float(h100.memory["dram"].bandwidth * h100.quality.memory)
    assert float(blocks.time[0]) <= most * (1.0 + 1e-9)
    assert float(blocks.flop[0]) == float(plain.flop[0])


@settings(max_examples=60, deadline=None)
@given(m=SIZES, n=SIZES, k=SIZES)
def test_a_chip_that_scales_by_block_pays_for_the_bytes_alone(h100: ChipArrays, m: int, n: int, k: int) -> None:
    chip = native(h100)
    plain, blocks = both(chip, m, n, k)
    assert float(promotion_flop(*dims(m, n, k), ONE, chip)[0]) == 0.0
    assert float(promotion_energy(*dims(m, n, k), ONE, chip)[0]) == 0.0
    assert float(blocks.compute[0]) == float(plain.compute[0])
    if float(blocks.memory[0]) <= float(blocks.compute[0]):
        assert float(blocks.time[0]) == pytest.approx(float(plain.time[0]), rel=1e-12)


def test_a_promotion_by_hand(h100: ChipArrays) -> None:
    # 4096^2 results, 32 blocks of 128: a multiplication and an addition each.
    shape = dims(4096, 4096, 4096)
    assert float(promotion_flop(*shape, ONE, h100)[0]) == 2 * 4096**2 * 32
    assert float(promotion_flop(*dims(4096, 4096, 4097), ONE, h100)[0]) == 2 * 4096**2 * 33
    joules = 2 * 4096**2 * 32 * 1.2e-12 * float(h100.power.real_data)
    assert float(promotion_energy(*shape, ONE, h100)[0]) == pytest.approx(joules)


def test_a_promotion_hides_behind_the_products_but_for_its_last_block(h100: ChipArrays) -> None:
    plain, blocks = both(h100, 8192, 8192, 4096)
    promotion = 2 * 8192**2 * 32 / float(h100.vector_peak)
    assert promotion < float(plain.compute[0])
    assert float(blocks.time[0] - plain.time[0]) == pytest.approx(promotion / 32)


def test_vector_units_that_are_too_slow_set_the_time(h100: ChipArrays) -> None:
    slow = replace(h100, vector_peak=h100.vector_peak / 100.0)
    plain, blocks = both(slow, 8192, 8192, 4096)
    promotion = 2 * 8192**2 * 32 / float(slow.vector_peak)
    assert float(blocks.time[0]) == pytest.approx(promotion + float(plain.compute[0]) / 32 + split(plain))
    assert int(blocks.bound[0]) == COMPUTE


def split(cost: KernelCost) -> float:
    """What of a kernel no part explains: its reduction."""
    return float(cost.time[0] - max(cost.compute[0], cost.memory[0]))


def test_a_product_that_waits_for_memory_waits_for_its_scales_too(h100: ChipArrays) -> None:
    chip = native(h100)
    plain, blocks = both(chip, 16, 8192, 8192)
    assert int(plain.bound[0]) == int(blocks.bound[0]) == MEMORY
    scales = 4.0 * (16 * 8192 / 128 + 8192**2 / 128**2)
    reached = float(chip.memory["dram"].bandwidth * chip.quality.memory)
    assert float(blocks.time[0] - plain.time[0]) == pytest.approx(scales / reached, rel=1e-6)


def test_parts_that_follow_each_other_grow_one_after_the_other(h100: ChipArrays) -> None:
    m, n, k = dims(512, 512, 512)
    plain = replace(matmul_cost(m, n, k, h100, "fp8"), overlaps=False)
    blocks = in_blocks(plain, m, n, k, h100, "fp8", batch=ONE, distinct=ONE, scales=BLOCKS)
    grown = blocks.compute - plain.compute + blocks.memory - plain.memory
    assert float(blocks.time[0] - plain.time[0]) == pytest.approx(float(grown[0]))


def test_points_and_batches_have_their_own_scales(h100: ChipArrays) -> None:
    m, n, k, batch = (array([256.0, 256.0]), array([512.0, 512.0]), array([BLOCK, BLOCK]), array([1.0, 3.0]))
    plain = matmul_cost(m, n, k, h100, "fp8", batch=batch)
    more = in_blocks(plain, m, n, k, h100, "fp8", batch=batch, distinct=np.ones(2), scales=BLOCKS)
    moved = more.dram_bytes - plain.dram_bytes
    assert float(moved[1]) == pytest.approx(3.0 * float(moved[0]))
