"""What may be fitted: paths that exist, bounds that hold the start, and the best measured rate as the most."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import array
from cosim.validation.knobs import CONSTANT, REACH, Knob, attention_knobs, format_knob, matmul_knobs

CHIPS = ("h100-sxm", "l40s", "mi300x", "tpu-v5p", "maia-200")
NAMES = st.sampled_from(CHIPS)


@functools.cache
def chip(name: str) -> Chip:
    return load_chip(name)


@functools.cache
def lowered(name: str) -> ChipArrays:
    return lower_chip(chip(name))


def named(knobs: tuple[Knob, ...]) -> dict[str, Knob]:
    return {knob.path: knob for knob in knobs}


def number(arrays: ChipArrays, path: str) -> float:
    """The number of a chip at a knob's path."""
    if path.startswith(CONSTANT):
        name = path.removeprefix(CONSTANT)
        return float(arrays.kernel.get(name, array(1.0)))
    first, _, rest = path.partition(".")
    found = getattr(arrays, first)
    name, _, inner = rest.partition(".")
    held = getattr(found, name)
    return float(held[inner] if inner else held)


@settings(max_examples=60, deadline=None)
@given(NAMES, st.floats(0.01, 1.5))
def test_bounds_are_positive_hold_the_start_and_reach_both_ways(name: str, best: float) -> None:
    for knob in (*matmul_knobs(lowered(name), best), *attention_knobs(lowered(name))):
        assert 0.0 < knob.low <= knob.start <= knob.high
        assert np.isfinite(np.log([knob.low, knob.start, knob.high])).all()
        assert knob.low < knob.high
        assert knob.low >= knob.start / REACH * (1.0 - 1e-12)


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_every_shipped_chip_has_knobs_that_start_at_what_it_says_and_can_be_set(name: str) -> None:
    knobs = (*matmul_knobs(lowered(name), 1.0), *attention_knobs(lowered(name)))
    for knob in knobs:
        said = number(lowered(name), knob.path)
        # A time of nothing and a cycle count below one have no logarithm.
        assert knob.start == pytest.approx(said) or said < 1.0
        changed = lower_chip(chip(name), {knob.path: array(knob.high)})
        assert number(changed, knob.path) == knob.high


def test_a_tile_machine_has_seven_knobs_of_products_and_seven_of_attention() -> None:
    assert list(named(matmul_knobs(lowered("h100-sxm"), 1.0))) == [
        "quality.matmul",
        "launch.latency",
        "calibration.constants.step_cycles",
        "calibration.constants.epilogue_cycles",
        "calibration.constants.cache_share",
        "calibration.constants.cache_feed",
        "calibration.constants.dram_share",
    ]
    assert list(named(attention_knobs(lowered("h100-sxm")))) == [
        "quality.attention",
        "calibration.constants.block_step_cycles",
        "calibration.constants.block_cycles",
        "calibration.constants.split_step_cycles",
        "calibration.constants.split_item_cycles",
        "calibration.constants.attention_start",
        "calibration.constants.attention_split",
    ]


@pytest.mark.parametrize("name", ["tpu-v5p", "maia-200"])
def test_a_chip_without_tiles_has_quality_launch_and_memory(name: str) -> None:
    assert list(named(matmul_knobs(lowered(name), 1.0))) == ["quality.matmul", "launch.latency", "quality.memory"]
    assert list(named(attention_knobs(lowered(name)))) == ["quality.attention", "launch.latency", "quality.memory"]


def test_no_kernel_is_better_than_the_best_measured_nor_than_the_peak() -> None:
    quality = float(lowered("h100-sxm").quality.matmul)
    above, below, beyond = (
        named(matmul_knobs(lowered("h100-sxm"), best))["quality.matmul"] for best in (0.9, 0.5, 1.3)
    )
    assert (above.start, above.high) == (quality, 0.9)
    # What the chip says is more than was ever measured: the fit starts at the most.
    assert (below.start, below.high, below.low) == (0.5, 0.5, 0.5 / REACH)
    assert beyond.high == 1.0


def test_matrix_kernels_reach_the_bandwidth_of_the_memory_at_most() -> None:
    target = lowered("h100-sxm")
    knob = named(matmul_knobs(target, 1.0))["calibration.constants.dram_share"]
    assert knob.high * float(target.quality.memory) == pytest.approx(1.0)


def test_shares_end_at_one_and_a_share_that_is_not_given_starts_there() -> None:
    target = lowered("h100-sxm")
    bare = dataclasses.replace(target, kernel={k: v for k, v in target.kernel.items() if k != "dram_share"})
    knobs = named(matmul_knobs(bare, 1.0))
    assert knobs["calibration.constants.dram_share"].start == 1.0
    assert {knobs[f"{CONSTANT}{name}"].high for name in ("cache_share", "cache_feed")} == {1.0}


def test_times_of_nothing_may_grow_to_microseconds() -> None:
    target = lowered("h100-sxm")
    none = dataclasses.replace(target, launch=dataclasses.replace(target.launch, latency=array(0.0)))
    knob = named(matmul_knobs(none, 1.0))["launch.latency"]
    assert (knob.start, knob.low, knob.high) == (1e-8, 1e-8 / REACH, 5e-6)
    slow = dataclasses.replace(target, launch=dataclasses.replace(target.launch, latency=array(2e-6)))
    assert named(matmul_knobs(slow, 1.0))["launch.latency"].high == pytest.approx(12e-6)


def test_a_narrow_format_has_one_quality_of_its_own() -> None:
    target = lowered("h100-sxm")
    own = format_knob(target, "matmul", "fp8")
    assert own is not None
    assert (own.path, own.high) == ("quality.matmul_formats.fp8", 1.0)
    assert own.start == float(target.quality.matmul_formats["fp8"])
    other = format_knob(target, "matmul", "int8")
    assert other is not None
    assert other.start == float(target.quality.matmul)
    # A format whose quality no file gives can be fitted too.
    changed = lower_chip(chip("h100-sxm"), {other.path: array(0.3)})
    assert float(changed.quality.matmul_formats["int8"]) == 0.3


def test_attention_in_eight_bits_gains_twice_at_most_and_nothing_where_the_model_has_no_gain() -> None:
    gain = format_knob(lowered("l40s"), "attention", "fp8")
    assert gain is not None
    assert (gain.path, gain.low, gain.high) == ("calibration.constants.narrow_gain", 1.0, 2.0)
    assert 1.0 <= gain.start <= 2.0
    assert format_knob(lowered("tpu-v5p"), "attention", "int8") is None
