"""Lowering: peaks and bandwidths follow from their primaries, point by point, and never against their sense."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import KERNEL_CONSTANTS, ChipArrays, lower_chip, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.records import Array, array, at, leaves, points

CHIPS = sorted(library.names("accelerators"))
SYSTEMS = sorted(library.names("systems"))


def values(record: object) -> list[float]:
    """Every number of a record as a flat list."""
    return [float(value) for leaf in leaves(record) for value in np.ravel(leaf)]


@pytest.mark.parametrize("name", CHIPS)
def test_every_leaf_of_a_shipped_chip_is_a_finite_scalar_float(name: str) -> None:
    arrays = lower_chip(load_chip(name))
    assert {leaf.shape for leaf in leaves(arrays)} == {()}
    assert {leaf.dtype for leaf in leaves(arrays)} == {np.dtype(np.float64)}
    assert all(np.isfinite(value) and value >= 0.0 for value in values(arrays))


@pytest.mark.parametrize(("chip", "dtype", "peak"), [
    ("h100-sxm", "bf16", 132 * 4096 * 1.83e9),  # SM x FLOP per cycle x clock: 989 TFLOP/s
    ("h100-sxm", "fp8", 132 * 8192 * 1.83e9),
    ("tpu-v5p", "bf16", 2 * 4 * 128 * 128 * 2 * 1.75e9),  # cores x arrays x rows x columns x 2 x clock: 459 TFLOP/s
    ("tpu-v5p", "int8", 2 * 4 * 128 * 128 * 4 * 1.75e9),
    ("mi300x", "fp8", 304 * 4096 * 2.1e9),
])  # fmt: skip
def test_peaks_by_hand(chip: str, dtype: str, peak: float) -> None:
    assert float(lower_chip(load_chip(chip)).matrix.peak[dtype]) == pytest.approx(peak, rel=1e-12)


def test_memory_and_links_of_an_h100_by_hand(h100: Chip) -> None:
    arrays = lower_chip(h100)
    dram, scratch = arrays.memory["dram"], arrays.memory["scratch"]
    assert float(dram.bandwidth) == pytest.approx(5 * 1024 * 5.23e9 / 8)  # 3.35 TB/s
    assert (float(dram.capacity), float(dram.reserved)) == (80e9, 4e9)
    assert float(scratch.bandwidth) == pytest.approx(132 * 128 * 1.83e9)  # per core, so times 132
    assert float(scratch.capacity) == 132 * 228 * 1024
    assert float(scratch.reserved) == 0.0
    assert float(arrays.memory["cache"].bandwidth) == 6.95e12  # measured, for the whole chip
    assert float(arrays.links["scale_up"]) == pytest.approx(18 * 25e9)
    assert float(arrays.links["scale_out"]) == pytest.approx(400e9 / 8)


def test_vector_and_special_units_have_their_own_clock(h100: Chip) -> None:
    arrays = lower_chip(h100)
    assert float(arrays.vector_peak) == pytest.approx(132 * 256 * 1.98e9)  # 66.9 TFLOP/s fp32
    assert float(arrays.special_peak) == pytest.approx(132 * 16 * 1.83e9)  # 3.86 T exponentials per second
    assert float(arrays.matrix.clock) == 1.83e9 if arrays.matrix.clock is not None else False


def test_power_launch_quality_and_kernel_constants_are_handed_on(h100: Chip) -> None:
    arrays = lower_chip(h100)
    assert (float(arrays.power.limit), float(arrays.power.idle)) == (700.0, 100.0)
    assert float(arrays.power.energy_per_byte["link"]) == pytest.approx(5.5e-12 * 8)
    assert set(arrays.power.energy_per_flop) == set(h100.power.energy_per_flop)
    assert float(arrays.launch.host_step) == h100.launch.host_step.si
    assert float(arrays.launch.gap) == h100.launch.gap.si
    assert float(arrays.launch.latency) == h100.launch.latency.si
    assert [float(q) for q in (arrays.quality.matmul, arrays.quality.attention)] == [
        h100.quality.matmul.si,
        h100.quality.attention.si,
    ]
    assert float(arrays.quality.memory) == h100.quality.memory.si
    assert float(arrays.quality.collective) == h100.quality.collective.si
    assert h100.calibration is not None
    assert {name: float(v) for name, v in arrays.kernel.items()} == {
        name: datum.si for name, datum in h100.calibration.constants.items()
    }


@pytest.mark.parametrize("name", CHIPS)
def test_every_kernel_constant_of_a_shipped_chip_is_one_that_is_explained(name: str) -> None:
    assert set(lower_chip(load_chip(name)).kernel) <= set(KERNEL_CONSTANTS)


def test_kind_and_structure_of_the_matrix_engine(h100: Chip, tpu: Chip, peaks_only: Chip) -> None:
    tile, systolic, roofline = (lower_chip(chip).matrix for chip in (h100, tpu, peaks_only))
    assert (tile.kind, tile.rows, tile.arrays) == ("tile", None, None)
    assert (systolic.kind, systolic.dataflows, systolic.shadow_weights) == ("systolic", ("ws",), True)
    assert values((systolic.arrays, systolic.rows, systolic.columns, systolic.clock)) == [4.0, 128.0, 128.0, 1.75e9]
    assert (roofline.kind, roofline.clock, roofline.rows) == ("roofline", None, None)


def test_a_chip_known_by_its_peaks_is_lowered_from_them(peaks_only: Chip) -> None:
    arrays = lower_chip(peaks_only)
    assert arrays.cores is None
    assert {dtype: float(peak) for dtype, peak in arrays.matrix.peak.items()} == {"bf16": 2e15, "fp8": 5e15}
    assert values((arrays.vector_peak, arrays.special_peak, arrays.links["scale_up"])) == [60e12, 8e12, 1.4e12]
    assert values(arrays.memory["dram"]) == [216e9, 7e12, 0.0]
    assert arrays.kernel == {}


def test_what_a_chip_does_not_tell_is_an_error_that_names_it(peaks_only: Chip) -> None:
    scratch = peaks_only.memory["dram"].model_copy(update={"shared_by": "core"})
    chip = peaks_only.model_copy(update={"memory": {"dram": scratch}})
    with pytest.raises(SpecError, match="cores: is unknown for this chip"):
        lower_chip(chip)


PRIMARIES: Mapping[str, tuple[str, float, float]] = {
    "cores": ("cores", 1.0, 500.0),
    "matrix.clock": ("clock", 1e8, 5e9),
    "matrix.rate.bf16": ("rate", 1.0, 1e5),
}


@settings(max_examples=60, deadline=None)
@given(factor=st.floats(1.0, 64.0), primary=st.sampled_from(["cores", "matrix.clock", "matrix.rate.bf16"]))
def test_the_peak_grows_as_each_of_its_primaries(h100: Chip, tpu: Chip, factor: float, primary: str) -> None:
    for chip in (h100, tpu):
        before = lower_chip(chip)
        base = {"cores": chip.cores, "matrix.clock": chip.matrix.clock, "matrix.rate.bf16": chip.matrix.rate["bf16"]}  # type: ignore[union-attr]
        datum = base[primary]
        assert datum is not None
        after = lower_chip(chip, {primary: array(datum.si * factor)})
        assert float(after.matrix.peak["bf16"]) == pytest.approx(factor * float(before.matrix.peak["bf16"]))
