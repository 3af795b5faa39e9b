"""Varying a system: derived or primary but not both, no structure where none is known, bounds for arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_chip, vary_system
from cosim.overrides import Varied

CONFLICTS = [
    ("chip.matrix.peak.bf16", "chip.cores"),
    ("chip.matrix.peak.bf16", "chip.matrix.clock"),
    ("chip.matrix.peak.fp8", "chip.matrix.rate.fp8"),
    ("chip.memory.dram.bandwidth", "chip.memory.dram.stacks"),
    ("chip.memory.dram.bandwidth", "chip.memory.dram.pins"),
    ("chip.memory.dram.bandwidth", "chip.memory.dram.pin_rate"),
    ("chip.memory.dram.capacity", "chip.memory.dram.stacks"),
    ("chip.memory.dram.capacity", "chip.memory.dram.stack_capacity"),
    ("chip.memory.scratch.bandwidth", "chip.memory.scratch.bytes_per_cycle"),
    ("chip.memory.scratch.bandwidth", "chip.memory.scratch.clock"),
    ("chip.links.scale_up.bandwidth", "chip.links.scale_up.count"),
    ("chip.links.scale_up.bandwidth", "chip.links.scale_up.rate"),
    ("chip.vector.peak", "chip.vector.rate"),
    ("chip.vector.peak", "chip.vector.clock"),
    ("chip.special.peak", "chip.special.rate"),
    ("chip.special.peak", "chip.special.clock"),
]
FRIENDS = [
    ("chip.matrix.peak.bf16", "chip.vector.clock"),
    ("chip.matrix.peak.bf16", "chip.matrix.peak.fp8"),
    ("chip.memory.dram.bandwidth", "chip.memory.scratch.clock"),
    ("chip.memory.dram.bandwidth", "chip.memory.dram.capacity"),
    ("chip.memory.cache.bandwidth", "chip.memory.cache.stacks"),  # the file gives this bandwidth: it follows nothing
    ("chip.memory.cache.capacity", "chip.memory.cache.stacks"),
    ("chip.links.host.bandwidth", "chip.links.host.rate"),
    ("chip.links.scale_up.bandwidth", "chip.links.scale_out.count"),
    ("chip.vector.peak", "chip.special.rate"),
]


def fault(system: System, overrides: dict[str, object]) -> SpecError:
    """The error of some overrides."""
    with pytest.raises(SpecError) as caught:
        vary_system(Varied(system), overrides)
    return caught.value


@pytest.fixture(scope="module")
def told_by_peaks(peaks_only: Chip, dgx: System) -> System:
    """The eight-chip system with the chip of which only the peaks are known."""
    tier = dgx.tiers[0]
    return dgx.model_copy(update={"chip": peaks_only, "tiers": (tier,)})


@pytest.mark.parametrize(("derived", "primary"), CONFLICTS)
def test_a_derived_value_and_its_primary_together_are_refused_in_any_order(
    dgx: System, derived: str, primary: str
) -> None:
    for overrides in ({derived: 1e12, primary: 4}, {primary: 4, derived: 1e12}):
        error = fault(dgx, overrides)
        assert error.field == f"system.{derived}"
        assert error.problem == f"is derived from system.{primary}, and both are set"
        assert error.hint == "set one of the two"


@pytest.mark.parametrize(("derived", "primary"), CONFLICTS)
def test_either_of_the_two_alone_is_taken(dgx: System, derived: str, primary: str) -> None:
    assert vary_system(Varied(dgx), {derived: 1e12}).touched == {derived}
    assert vary_system(Varied(dgx), {primary: 4}).touched == {primary}


@pytest.mark.parametrize(("derived", "primary"), CONFLICTS)
def test_the_two_are_refused_over_two_calls_and_as_arrays_too(dgx: System, derived: str, primary: str) -> None:
    one = vary_system(Varied(dgx), {derived: [1e12, 2e12]})
    with pytest.raises(SpecError, match="and both are set"):
        vary_system(one, {primary: [4.0, 5.0]})
    two = vary_system(Varied(dgx), {primary: 4})
    with pytest.raises(SpecError, match="and both are set"):
        vary_system(two, {derived: 1e12})


@pytest.mark.parametrize(("one", "other"), FRIENDS)
def test_values_that_do_not_follow_from_each_other_may_be_set_together(dgx: System, one: str, other: str) -> None:
    assert vary_system(Varied(dgx), {one: 1e12, other: 4}).touched == {one, other}


@pytest.mark.parametrize("primary", ["rows", "columns", "arrays", "clock", "rate.bf16"])
def test_the_peak_of_an_array_conflicts_with_its_structure(slice_of_eight: System, primary: str) -> None:
    error = fault(slice_of_eight, {"chip.matrix.peak.bf16": "1 PFLOP/s", f"chip.matrix.{primary}": 64})
    assert error.problem == f"is derived from system.chip.matrix.{primary}, and both are set"


@settings(max_examples=40, deadline=None)
@given(peak=st.floats(1e12, 1e17))
def test_a_peak_that_is_set_is_the_peak(dgx: System, peak: float) -> None:
    arrays = lower_system(vary_system(Varied(dgx), {"chip.matrix.peak.bf16": peak}))
    assert float(arrays.chip.matrix.peak["bf16"]) == peak
    assert float(arrays.chip.matrix.peak["fp8"]) == pytest.approx(132 * 8192 * 1.83e9)  # still from its primaries


@settings(max_examples=40, deadline=None)
@given(clocks=st.lists(st.floats(1e8, 5e9), min_size=1, max_size=5))
def test_a_primary_that_is_swept_moves_the_peak_of_every_format(dgx: System, clocks: list[float]) -> None:
    arrays = lower_system(vary_system(Varied(dgx), {"chip.matrix.clock": clocks}))
    assert arrays.chip.matrix.peak["bf16"].tolist() == pytest.approx([132 * 4096 * clock for clock in clocks])
    assert np.allclose(arrays.chip.matrix.peak["fp8"], 2.0 * arrays.chip.matrix.peak["bf16"], rtol=1e-12)


@pytest.mark.parametrize(("derived", "primary"), CONFLICTS)
def test_a_chip_alone_follows_the_same_rule(h100: Chip, derived: str, primary: str) -> None:
    one, other = derived.removeprefix("chip."), primary.removeprefix("chip.")
    with pytest.raises(SpecError) as caught:
        vary_chip(Varied(h100), {one: 1e12, other: 4})
    assert str(caught.value) == f"chip.{one}: is derived from chip.{other}, and both are set; set one of the two"
    assert vary_chip(vary_chip(Varied(h100), {one: 1e12}), {one: 2e12}).touched == {one}


def test_a_chip_alone_known_by_its_peaks_refuses_structure_too(peaks_only: Chip) -> None:
    with pytest.raises(SpecError, match=r"^chip\.cores: peaks-only is known by its peaks only"):
        vary_chip(Varied(peaks_only), {"cores": 4})
    swept = vary_chip(Varied(peaks_only), {"matrix.peak.fp8": [1e15, 2e15]})
    assert swept.arrays["matrix.peak.fp8"].tolist() == [1e15, 2e15]


def test_text_with_a_unit_and_si_numbers_are_the_same(dgx: System) -> None:
    by_text = vary_system(Varied(dgx), {"chip.memory.dram.bandwidth": "4 TB/s"})
    assert lower_system(by_text).chip.memory["dram"].bandwidth == 4e12
    assert by_text == vary_system(Varied(dgx), {"chip.memory.dram.bandwidth": 4e12})


@pytest.mark.parametrize(
    "path", ["chip.cores", "chip.matrix.rows", "chip.matrix.columns", "chip.matrix.arrays", "chip.matrix.clock"]
)
@pytest.mark.parametrize("value", [128, [64.0, 128.0]])
def test_the_structure_of_a_chip_known_by_its_peaks_cannot_be_swept(
    told_by_peaks: System, path: str, value: object
) -> None:
    error = fault(told_by_peaks, {path: value})
    assert error.problem == "peaks-only is known by its peaks only: its structure cannot be varied"
    assert error.field == f"system.{path}"
    assert "matrix.peak.<dtype>" in str(error.hint)


def test_the_peaks_and_bandwidths_of_such_a_chip_can_be_swept(told_by_peaks: System) -> None:
    overrides = {
        "chip.matrix.peak.bf16": [1e15, 2e15],
        "chip.memory.dram.bandwidth": "8 TB/s",
        "chip.vector.peak": [1e13, 2e13],
    }
    chip = lower_system(vary_system(Varied(told_by_peaks), overrides)).chip
    assert chip.matrix.peak["bf16"].tolist() == [1e15, 2e15]
    assert float(chip.matrix.peak["fp8"]) == 5e15
    assert float(chip.memory["dram"].bandwidth) == 8e12
    assert chip.vector_peak.tolist() == [1e13, 2e13]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("chip.cors", "chip.cores"),
        ("chip.memory.dram.bandwith", "chip.memory.dram.bandwidth"),
        ("memory.dram.bandwidth", "chip.memory.dram.bandwidth"),
        ("chip.published.peak.bf16", "chip.matrix.peak.bf16"),  # totals are checks, never inputs
        ("tiers.nod.size", "tiers.0.size"),
        ("nods", "nodes"),
    ],
)
def test_an_unknown_path_names_the_nearest_with_its_root(dgx: System, path: str, near: str) -> None:
    error = fault(dgx, {path: 1})
    assert (error.problem, error.field) == ("unknown path", f"system.{path}")
    assert f"system.{near}" in str(error.hint).removeprefix("nearest: ").split(", ")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("chip.memory.dram.bandwidth", "3.35 TB", "wrong unit"),
        ("chip.memory.dram.bandwidth", [1e12, -1.0], "is out of range"),
        ("chip.memory.dram.bandwidth", [1e12, float("nan")], "holds NaN or infinity"),
        ("chip.quality.matmul", [0.5, 1.5], "is out of range"),
        ("chip.quality.matmul", [0.0, 0.5], "is out of range"),
        ("nodes", 0, "is out of range"),
        ("nodes", [1.0, 2.5], "must be a whole number"),
        ("chip.name", [1.0, 2.0], "is a choice"),
        ("tiers.node.kind", "hypercube", "Input should be 'switch'"),
    ],
)
def test_values_pass_the_bounds_of_their_field(dgx: System, path: str, value: object, problem: str) -> None:
    error = fault(dgx, {path: value})
    assert error.problem.startswith(problem)
    assert str(error.field).replace("tiers.0", "tiers.node") == f"system.{path}"


def test_the_system_that_was_given_is_left_alone(dgx: System) -> None:
    before = dgx.model_dump()
    vary_system(Varied(dgx), {"chip.cores": [100.0, 120.0], "nodes": 4, "tiers.node.size": 4})
    assert dgx.model_dump() == before


def test_overrides_of_a_file_and_of_a_call_mean_the_same(dgx: System, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: dgx-h100\nnodes: 4\n", encoding="utf-8")
    assert load_system(str(tmp_path / "mine.yaml")) == vary_system(Varied(dgx), {"nodes": 4}).spec
