"""Lowering: peaks and bandwidths follow from their primaries, point by point, and never against their sense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.datum import Datum
from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import KERNEL_CONSTANTS, ChipArrays, lower_chip, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied, paths
from cosim.records import Array, array, at, leaves, points

CHIPS = sorted(library.names("accelerators"))
SYSTEMS = sorted(library.names("systems"))


def values(record: object) -> list[float]:
    """Every number of a record as a flat list."""
    return [float(value) for leaf in leaves(record) for value in np.ravel(leaf)]


def alike(one: object, other: object) -> bool:
    """Whether two records hold the same numbers; what is unknown is unknown in both."""
    return np.array_equal(values(one), values(other), equal_nan=True)


@pytest.mark.parametrize("name", CHIPS)
def test_every_leaf_of_a_shipped_chip_is_a_finite_scalar_float(name: str) -> None:
    arrays = lower_chip(load_chip(name))
    assert {leaf.shape for leaf in leaves(arrays)} == {()}
    assert {leaf.dtype for leaf in leaves(arrays)} == {np.dtype(np.float64)}
    assert all(np.isfinite(value) and value >= 0.0 for value in values(arrays))


@pytest.mark.parametrize(
    ("chip", "dtype", "peak"),
    [
        ("h100-sxm", "bf16", 132 * 4096 * 1.83e9),  # SM x FLOP per cycle x clock: 989 TFLOP/s
        ("h100-sxm", "fp8", 132 * 8192 * 1.83e9),
        ("tpu-v5p", "bf16", 2 * 4 * 128 * 128 * 2 * 1.75e9),  # cores x arrays x rows x columns x rate x clock
        ("tpu-v5p", "int8", 2 * 4 * 128 * 128 * 4 * 1.75e9),
        ("mi300x", "fp8", 304 * 4096 * 2.1e9),
    ],
)
def test_peaks_by_hand(chip: str, dtype: str, peak: float) -> None:
    assert float(lower_chip(load_chip(chip)).matrix.peak[dtype]) == pytest.approx(peak, rel=1e-12)


def test_memory_and_links_of_an_h100_by_hand(h100: Chip) -> None:
    arrays = lower_chip(h100)
    dram, scratch = arrays.memory["dram"], arrays.memory["scratch"]
    assert float(dram.bandwidth) == pytest.approx(5 * 1024 * 5.23e9 / 8)  # 3.35 TB/s
    assert float(dram.capacity) == 5 * 16e9  # stacks x capacity of one
    assert h100.memory["dram"].reserved is not None
    assert float(dram.reserved) == h100.memory["dram"].reserved.si
    assert float(scratch.bandwidth) == pytest.approx(132 * 128 * 1.83e9)  # per core, so times 132
    assert float(scratch.capacity) == 132 * 228 * 1024
    assert float(scratch.reserved) == 0.0
    cache = h100.memory["cache"]
    assert cache.bandwidth is not None
    assert float(arrays.memory["cache"].bandwidth) == cache.bandwidth.si  # for the whole chip
    assert float(arrays.memory["cache"].partitions) == 2.0
    assert [float(level.partitions) for level in (dram, scratch)] == [1.0, 1.0]
    assert float(arrays.matrix.multicast) == 2.0
    assert float(arrays.links["scale_up"]) == pytest.approx(18 * 25e9)
    assert float(arrays.links["scale_out"]) == pytest.approx(400e9 / 8)


def test_vector_and_special_units_have_their_own_clock(h100: Chip) -> None:
    arrays = lower_chip(h100)
    assert float(arrays.vector_peak) == pytest.approx(132 * 256 * 1.98e9)  # 66.9 TFLOP/s fp32
    assert float(arrays.special_peak) == pytest.approx(132 * 16 * 1.83e9)  # 3.86 T exponentials per second
    assert values(arrays.matrix.clock) == [1.83e9]


def test_power_launch_quality_and_kernel_constants_are_handed_on(h100: Chip) -> None:
    arrays = lower_chip(h100)
    assert (float(arrays.power.limit), float(arrays.power.idle)) == (700.0, 100.0)
    assert float(arrays.power.energy_per_byte["link"]) == pytest.approx(5.5e-12 * 8)
    assert set(arrays.power.energy_per_flop) == set(h100.power.energy_per_flop)
    assert values(arrays.launch) == [h100.launch.gap.si, h100.launch.latency.si, h100.launch.host_step.si]
    quality = h100.quality
    assert (float(arrays.quality.matmul), float(arrays.quality.attention)) == (quality.matmul.si, quality.attention.si)
    assert (float(arrays.quality.memory), float(arrays.quality.collective)) == (
        quality.memory.si,
        quality.collective.si,
    )
    formats = {dtype: float(share) for dtype, share in arrays.quality.matmul_formats.items()}
    assert formats == {dtype: datum.si for dtype, datum in quality.matmul_formats.items()}
    assert h100.calibration is not None
    assert {name: float(constant) for name, constant in arrays.kernel.items()} == {
        name: datum.si for name, datum in h100.calibration.constants.items()
    }


@pytest.mark.parametrize("name", CHIPS)
def test_every_kernel_constant_of_a_shipped_chip_is_one_that_is_explained(name: str) -> None:
    assert set(lower_chip(load_chip(name)).kernel) <= set(KERNEL_CONSTANTS)


def test_kind_and_structure_of_the_matrix_engine(h100: Chip, tpu: Chip, peaks_only: Chip) -> None:
    tile, systolic, roofline = (lower_chip(chip).matrix for chip in (h100, tpu, peaks_only))
    assert [float(lower_chip(chip).cores or 0) for chip in (h100, tpu, peaks_only)] == [132.0, 2.0, 0.0]
    assert (tile.kind, tile.rows, tile.arrays) == ("tile", None, None)
    assert (systolic.kind, systolic.dataflows, systolic.shadow_weights) == ("systolic", ("ws",), True)
    assert values((systolic.arrays, systolic.rows, systolic.columns, systolic.clock)) == [4.0, 128.0, 128.0, 1.75e9]
    assert (roofline.kind, roofline.clock, roofline.rows) == ("roofline", None, None)


def test_a_chip_known_by_its_peaks_is_lowered_from_them(peaks_only: Chip) -> None:
    arrays = lower_chip(peaks_only)
    assert arrays.cores is None
    assert {dtype: float(peak) for dtype, peak in arrays.matrix.peak.items()} == {"bf16": 2e15, "fp8": 5e15}
    assert values((arrays.vector_peak, arrays.special_peak, arrays.links["scale_up"])) == [60e12, 8e12, 1.4e12]
    assert values(arrays.memory["dram"]) == [216e9, 7e12, 0.0, 1.0, 216e9]
    assert arrays.kernel == {}


def test_a_constant_or_quality_that_no_file_gives_can_be_added(h100: Chip, peaks_only: Chip) -> None:
    added = {"quality.matmul_formats.int8": array(0.4), "calibration.constants.dram_share": array(0.7)}
    for chip in (h100, peaks_only):
        arrays = lower_chip(chip, added)
        assert float(arrays.quality.matmul_formats["int8"]) == 0.4
        assert float(arrays.kernel["dram_share"]) == 0.7
        assert set(arrays.kernel) == {*lower_chip(chip).kernel, "dram_share"}


def test_what_a_chip_does_not_tell_is_an_error_that_names_it(peaks_only: Chip) -> None:
    scratch = peaks_only.memory["dram"].model_copy(update={"shared_by": "core"})
    chip = peaks_only.model_copy(update={"memory": {"dram": scratch}})
    with pytest.raises(SpecError, match="cores: is unknown for this chip"):
        lower_chip(chip)


# path below the chip -> what follows it, in proportion
FOLLOWS = {
    "cores": ("peak", "vector", "special", "scratch", "scratch capacity"),
    "matrix.clock": ("peak",),
    "matrix.rate.bf16": ("peak",),
    "vector.clock": ("vector",),
    "vector.rate": ("vector",),
    "special.rate": ("special",),
    "memory.dram.stacks": ("dram", "dram capacity"),
    "memory.dram.stack_capacity": ("dram capacity",),
    "memory.dram.pins": ("dram",),
    "memory.dram.pin_rate": ("dram",),
    "memory.scratch.bytes_per_cycle": ("scratch",),
    "memory.scratch.capacity": ("scratch capacity",),
    "links.scale_up.count": ("scale_up",),
    "links.scale_up.rate": ("scale_up",),
}


def derived(arrays: ChipArrays) -> dict[str, float]:
    """The derived values of a chip."""
    return {
        "peak": float(arrays.matrix.peak["bf16"]),
        "vector": float(arrays.vector_peak),
        "special": float(arrays.special_peak),
        "dram": float(arrays.memory["dram"].bandwidth),
        "dram capacity": float(arrays.memory["dram"].capacity),
        "scratch": float(arrays.memory["scratch"].bandwidth),
        "scratch capacity": float(arrays.memory["scratch"].capacity),
        "cache": float(arrays.memory["cache"].bandwidth),
        "scale_up": float(arrays.links["scale_up"]),
    }


def present(chip: Chip, path: str) -> float:
    """The number at `path` of a chip."""
    datum = paths(chip)[path]
    assert isinstance(datum, Datum)
    return datum.si


@settings(max_examples=60, deadline=None)
@given(factor=st.floats(0.01, 0.99) | st.floats(1.01, 100.0), path=st.sampled_from(sorted(FOLLOWS)))
def test_a_primary_moves_what_follows_it_in_proportion_and_nothing_else(h100: Chip, factor: float, path: str) -> None:
    before = derived(lower_chip(h100))
    after = derived(lower_chip(h100, {path: array(present(h100, path) * factor)}))
    assert {name for name in before if after[name] != before[name]} == set(FOLLOWS[path])
    for name in FOLLOWS[path]:
        assert after[name] == pytest.approx(before[name] * factor, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(factor=st.floats(0.1, 10.0), path=st.sampled_from(["arrays", "rows", "columns", "clock"]))
def test_a_systolic_peak_moves_with_each_side_of_the_array(tpu: Chip, factor: float, path: str) -> None:
    arrays = lower_chip(tpu, {f"matrix.{path}": array(present(tpu, f"matrix.{path}") * factor)})
    for dtype, peak in lower_chip(tpu).matrix.peak.items():
        assert float(arrays.matrix.peak[dtype]) == pytest.approx(float(peak) * factor, rel=1e-12)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("matrix.peak.bf16", "peak"),
        ("vector.peak", "vector"),
        ("special.peak", "special"),
        ("memory.dram.bandwidth", "dram"),
        ("memory.dram.capacity", "dram capacity"),
        ("memory.scratch.bandwidth", "scratch"),
        ("memory.cache.bandwidth", "cache"),
        ("links.scale_up.bandwidth", "scale_up"),
    ],
)
def test_a_derived_value_that_is_set_replaces_that_value_alone(h100: Chip, path: str, name: str) -> None:
    before, after = derived(lower_chip(h100)), derived(lower_chip(h100, {path: array(123.0)}))
    assert after == {**before, name: 123.0}


ROWS = st.lists(
    st.tuples(st.floats(1e12, 1e13), st.floats(1e8, 3e9), st.integers(1, 64).map(float)), min_size=2, max_size=4
)


def swept(dgx: System, rows: list[tuple[float, ...]]) -> Varied[System]:
    """Three numbers of a system varied together."""
    paths = ("chip.memory.dram.bandwidth", "chip.matrix.clock", "nodes")
    columns: list[Array] = [array(column) for column in zip(*rows, strict=True)]
    return vary_system(Varied(dgx), dict(zip(paths, columns, strict=True)))


@settings(max_examples=15, deadline=None)
@given(rows=ROWS)
def test_a_batch_is_its_points_one_by_one(dgx: System, rows: list[tuple[float, ...]]) -> None:
    batch = lower_system(swept(dgx, rows))
    assert points(batch) == len(rows)
    for index, (bandwidth, clock, nodes) in enumerate(rows):
        single = {"chip.memory.dram.bandwidth": bandwidth, "chip.matrix.clock": clock, "nodes": nodes}
        assert alike(at(batch, index), lower_system(vary_system(Varied(dgx), single)))


@settings(max_examples=15, deadline=None)
@given(rows=ROWS)
def test_the_order_of_the_points_does_not_matter(dgx: System, rows: list[tuple[float, ...]]) -> None:
    forward, backward = lower_system(swept(dgx, rows)), lower_system(swept(dgx, rows[::-1]))
    for index in range(len(rows)):
        assert alike(at(forward, index), at(backward, len(rows) - 1 - index))


def test_a_system_by_hand(dgx: System) -> None:
    arrays = lower_system(vary_system(Varied(dgx), {"nodes": 16}))
    node, cluster = arrays.tiers
    assert float(arrays.chips) == 128.0
    assert (float(node.size), float(cluster.size)) == (8.0, 16.0)
    assert values((node.bandwidth, cluster.bandwidth)) == pytest.approx([450e9, 50e9])  # 18 x 25 GB/s; 400 Gb/s
    assert float(arrays.server_power) == pytest.approx(dgx.server.power.si / 8)  # of the node, shared by its chips
    assert float(arrays.pue) == dgx.facility.pue.si


def test_the_numbers_of_a_tier_are_handed_on(dgx: System) -> None:
    for tier, spec in zip(lower_system(Varied(dgx)).tiers, dgx.tiers, strict=True):
        constants = spec.constants
        assert (tier.name, tier.kind, tier.algorithms) == (spec.name, spec.kind, constants.algorithms)
        assert [each.name for each in tier.protocols] == list(constants.protocols)
        for lowered, own in zip(tier.protocols, constants.protocols.values(), strict=True):
            assert values((lowered.start, lowered.hop, lowered.share)) == [own.start.si, own.hop.si, own.share.si]
            assert lowered.copies == own.copies
        in_switch = (constants.in_network_share, constants.in_network_start)
        assert values((tier.in_network, tier.in_network_start)) == [0.0 if d is None else d.si for d in in_switch]


def test_the_shape_of_a_torus_is_kept(slice_of_eight: System) -> None:
    tier = lower_system(Varied(slice_of_eight)).tiers[0]
    assert (tier.kind, tier.shape, tier.closed) == ("torus", (2, 2, 2), (False, False, False))


def test_a_tier_with_a_bandwidth_of_its_own_does_not_follow_the_link(dgx: System) -> None:
    overrides = {"tiers.node.bandwidth": "200 GB/s", "chip.links.scale_up.count": [10.0, 20.0]}
    arrays = lower_system(vary_system(Varied(dgx), overrides))
    assert values(arrays.tiers[0].bandwidth) == [200e9]
    assert values(arrays.chip.links["scale_up"]) == [250e9, 500e9]


def test_links_that_are_varied_reach_the_tier_that_uses_them(dgx: System) -> None:
    arrays = lower_system(vary_system(Varied(dgx), {"chip.links.scale_up.count": [9.0, 18.0, 36.0]}))
    assert values(arrays.tiers[0].bandwidth) == pytest.approx([225e9, 450e9, 900e9])
    assert arrays.tiers[1].bandwidth.shape == ()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_shipped_system_is_lowered_to_finite_scalars(name: str) -> None:
    arrays = lower_system(Varied(load_system(name)))
    assert points(arrays) == 1
    # What the hosts hold and read is known of few systems.
    known = replace(arrays, host_capacity=np.ones(()), storage=np.ones(()))
    assert all(np.isfinite(value) for value in values(known))
    assert float(arrays.chips) >= 1.0


def test_what_the_driver_shows_is_the_capacity_unless_a_file_says(h100: Chip, peaks_only: Chip) -> None:
    dram = lower_chip(h100).memory["dram"]
    assert float(dram.shown) == 81_559 * 2.0**20
    assert float(dram.shown) > float(dram.capacity)
    silent = lower_chip(peaks_only).memory["dram"]
    assert float(silent.shown) == float(silent.capacity)


@pytest.mark.parametrize("path", ["capacity", "stacks", "stack_capacity"])
def test_a_memory_that_is_varied_shows_what_it_then_has(h100: Chip, path: str) -> None:
    now = {"capacity": 96e9, "stacks": 6.0, "stack_capacity": 24e9}[path]
    dram = lower_chip(h100, {f"memory.dram.{path}": array(now)}).memory["dram"]
    assert float(dram.shown) == float(dram.capacity) > 80e9


def test_what_is_shown_may_be_varied_itself(h100: Chip) -> None:
    dram = lower_chip(h100, {"memory.dram.capacity_shown": array([70e9, 90e9])}).memory["dram"]
    np.testing.assert_array_equal(dram.shown, [70e9, 90e9])
    assert float(dram.capacity) == float(lower_chip(h100).memory["dram"].capacity)


@pytest.mark.parametrize("name", CHIPS)
def test_no_driver_shows_much_more_or_less_than_there_is(name: str) -> None:
    dram = lower_chip(load_chip(name)).memory.get("dram")
    assert dram is None or 0.9 <= float(dram.shown / dram.capacity) <= 1.1
