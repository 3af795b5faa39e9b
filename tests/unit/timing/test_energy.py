"""Energy of kernels, links and steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import array, map_leaves
from cosim.timing.cost import KernelCost
from cosim.timing.energy import core_energy, kernel_energy, link_energy, step_energy


def kernel(flop: float, dram: float, cache: float) -> KernelCost:
    zero = array(0.0)
    return KernelCost(
        zero, zero, zero, array(flop), array(dram), array(cache), np.zeros((), dtype=np.int64), (zero, zero, zero)
    )


COUNTS = st.floats(0.0, 1e15)


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS, COUNTS, st.floats(0.0, 1e3))
def test_energy_grows_in_proportion_to_the_work(
    h100: ChipArrays, flop: float, dram: float, cache: float, factor: float
) -> None:
    one = kernel(flop, dram, cache)
    many = map_leaves(one, lambda leaf: leaf if leaf.dtype == np.int64 else leaf * factor)
    assert float(kernel_energy(many, h100, "bf16")) == pytest.approx(factor * float(kernel_energy(one, h100, "bf16")))


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS, COUNTS)
def test_the_energy_of_two_kernels_is_the_sum(h100: ChipArrays, flop: float, dram: float, cache: float) -> None:
    parts = kernel(flop, 0.0, cache), kernel(0.0, dram, 0.0)
    apart = sum(float(kernel_energy(part, h100, "fp8")) for part in parts)
    assert float(kernel_energy(kernel(flop, dram, cache), h100, "fp8")) == pytest.approx(apart)


def test_each_act_is_charged_at_its_own_price(h100: ChipArrays) -> None:
    # 1e12 FLOP x 0.4 pJ + 1e9 B x 36 pJ + 2e9 B x 12.5 pJ = 0.4 + 0.036 + 0.025 J
    assert float(kernel_energy(kernel(1e12, 1e9, 2e9), h100, "bf16")) == pytest.approx(0.461)


def test_half_the_bits_cost_less(h100: ChipArrays) -> None:
    work = kernel(1e12, 0.0, 0.0)
    assert float(kernel_energy(work, h100, "fp8")) == pytest.approx(0.20)


def test_a_format_without_a_price_is_an_error(h100: ChipArrays) -> None:
    with pytest.raises(KeyError, match="fp64"):
        kernel_energy(kernel(1e12, 0.0, 0.0), h100, "fp64")


def test_a_chip_without_cache_charges_its_scratch(tpu: ChipArrays) -> None:
    # 1e9 B x 2 pJ
    assert float(kernel_energy(kernel(0.0, 0.0, 1e9), tpu, "bf16")) == pytest.approx(0.002)


def test_a_chip_without_on_chip_memory_charges_dram_alone(h100: ChipArrays) -> None:
    bare = dataclasses.replace(h100, memory={"dram": h100.memory["dram"]})
    power = dataclasses.replace(h100.power, energy_per_byte={"dram": array(36e-12)})
    energy = kernel_energy(kernel(0.0, 1e9, 5e9), dataclasses.replace(bare, power=power), "bf16")
    assert float(energy) == pytest.approx(0.036)


def test_a_byte_on_the_link_costs_eight_bits(h100: ChipArrays) -> None:
    # 1e9 B x 8 bit x 5.5 pJ = 44 mJ
    assert link_energy(np.array([1e9, 0.0]), h100) == pytest.approx([0.044, 0.0])


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 1e15), st.floats(0.0, 1e11), st.floats(0.0, 1e12))
def test_what_follows_the_voltage_is_all_but_dram(flop: float, dram: float, cache: float) -> None:
    chip = lower_chip(load_chip("h100-sxm"))
    cost = kernel(flop, dram, cache)
    whole, core = float(kernel_energy(cost, chip, "bf16")), float(core_energy(cost, chip, "bf16"))
    assert 0.0 <= core <= whole
    assert whole - core == pytest.approx(dram * float(chip.power.energy_per_byte["dram"]), abs=whole * 1e-12)


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS, COUNTS, st.floats(1.0, 3.0))
def test_a_step_draws_more_by_the_cores_alone(
    h100: ChipArrays, flop: float, dram: float, cache: float, more: float
) -> None:
    chip = dataclasses.replace(h100, power=dataclasses.replace(h100.power, real_data=array(more)))
    whole, core = (float(each) for each in step_energy(kernel(flop, dram, cache), chip, "bf16"))
    alone = float(core_energy(kernel(flop, dram, cache), chip, "bf16"))
    assert core == pytest.approx(more * alone)
    assert whole - core == pytest.approx(dram * float(chip.power.energy_per_byte["dram"]), abs=1e-12 * (1.0 + whole))
