"""Chips: the parts that every chip must have, and the names by which other parts find them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from cosim.errors import SpecError
from cosim.hardware.chip import Chip, Published, Source
from cosim.schema import validated


@pytest.fixture(scope="session")
def raw(peaks_only_text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(peaks_only_text)
    return data


def changed(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with the value at `path` replaced, or taken away where it is None."""
    out = copy.deepcopy(raw)
    node = out
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return out


def fault(raw: dict[str, Any], path: str, value: object) -> SpecError:
    """The error of one change."""
    with pytest.raises(SpecError) as caught:
        validated(Chip, changed(raw, path, value))
    return caught.value


def test_a_chip_known_by_its_peaks_needs_no_cores(raw: dict[str, Any]) -> None:
    chip = validated(Chip, raw)
    assert chip.cores is None
    assert chip.matrix.kind == "roofline"
    assert chip.price is None


def test_a_machine_of_cores_needs_their_number(raw: dict[str, Any]) -> None:
    error = fault(raw, "matrix", {"kind": "tile", "clock": "1 GHz", "rate": {"bf16": 4096}})
    assert error.problem == "cores are missing"
    assert "kind: roofline" in str(error.hint)


def test_the_level_that_holds_the_weights_is_called_dram(raw: dict[str, Any]) -> None:
    level = raw["memory"]["dram"]
    renamed = changed(raw, "power.energy_per_byte.hbm", "4 pJ/bit")
    error = fault(renamed, "memory", {"hbm": level})
    assert error.problem == "memory has no 'dram' level"
    assert "'dram'" in str(error.hint)


def test_the_links_inside_a_node_are_called_scale_up(raw: dict[str, Any]) -> None:
    error = fault(raw, "links", {"nvlink": {"technology": "NVLink", "bandwidth": "450 GB/s"}})
    assert error.problem == "links have no 'scale_up'"


def test_every_memory_level_needs_its_energy_and_the_nearest_name_is_told(raw: dict[str, Any]) -> None:
    level = {"technology": "SRAM", "capacity": "50 MB", "bandwidth": "20 TB/s"}
    two = changed(raw, "power.energy_per_byte.cahe", "6 pJ/B")
    error = fault(two, "memory.cache", level)
    assert error.problem == "power.energy_per_byte has no entry for memory level 'cache'"
    assert error.hint == "nearest: cahe"


def test_every_format_of_the_matrix_engine_and_fp32_need_their_energy(raw: dict[str, Any]) -> None:
    for dtype in ("fp32", "bf16", "fp8"):
        error = fault(raw, f"power.energy_per_flop.{dtype}", None)
        assert error.problem == f"power.energy_per_flop has no entry for {dtype}"
    tile = {"kind": "tile", "clock": "1 GHz", "rate": {"bf16": 4096, "int8": 8192}}
    error = fault(changed({**raw, "cores": 4}, "matrix", tile), "power.energy_per_byte.spare", "1 pJ/B")
    assert error.problem == "power.energy_per_flop has no entry for int8"


def test_bytes_sent_off_the_chip_need_their_energy(raw: dict[str, Any]) -> None:
    error = fault(raw, "power.energy_per_byte.link", None)
    assert error.problem == "power.energy_per_byte has no entry for 'link'"


@pytest.mark.parametrize(("limit", "fits"), [("100 W", False), ("99 W", False), ("100.5 W", True)])
def test_the_power_limit_is_above_idle(raw: dict[str, Any], limit: str, fits: bool) -> None:
    data = changed(raw, "power.limit", limit)  # idle is 100 W
    if fits:
        assert validated(Chip, data).power.limit.si == 100.5
        return
    with pytest.raises(SpecError, match=r"^power\.limit: is not above power\.idle"):
        validated(Chip, data)


def test_quality_of_a_format_may_differ_and_must_be_a_share(raw: dict[str, Any]) -> None:
    formats = validated(Chip, changed(raw, "quality.matmul_formats", {"fp8": 0.6})).quality.matmul_formats
    assert {dtype: datum.si for dtype, datum in formats.items()} == {"fp8": 0.6}
    assert fault(raw, "quality.matmul_formats", {"fp8": 1.6}).field == "quality.matmul_formats.fp8"
    assert fault(raw, "quality.matmul_formats", {"fp5": 0.6}).field == "quality.matmul_formats.fp5"


def test_host_memory_needs_no_energy_of_the_chip(raw: dict[str, Any]) -> None:
    level = {"technology": "DDR5", "capacity": "1 TB", "bandwidth": "300 GB/s"}
    assert "host" in validated(Chip, changed(raw, "memory.host", level)).memory


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "title",
        "maker",
        "status",
        "confidence",
        "matrix",
        "vector",
        "memory",
        "links",
        "power",
        "die",
        "launch",
        "quality",
    ],
)
def test_what_every_chip_needs_is_asked_for_by_name(raw: dict[str, Any], field: str) -> None:
    error = fault(raw, field, None)
    assert (error.problem, error.field) == ("is missing", field)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", "rumoured"),
        ("confidence", "certain"),
        ("quality.matmul", 1.01),
        ("quality.memory", 0),
        ("power.limit", "750 J"),
        ("power.energy_per_flop.bf16", "0.4 pJ"),
        ("power.energy_per_flop.fp5", "0.4 pJ/FLOP"),
        ("power.energy_per_byte.dram", "4 pJ/FLOP"),
        ("launch.gap", "-1 us"),
        ("launch.gap", "1 MHz"),
        ("die.area", "800 cm2"),
        ("price", "-1 USD"),
        ("memory.dram.capacity", "216 Gflop"),
        ("links.scale_up.bandwidth", "1.4 TB"),
        ("sources.talk.checked", "perhaps"),
        ("matrix.peak.bf16", "2 PFLOP"),
    ],
)
def test_a_number_or_word_of_the_wrong_kind_is_refused_at_its_field(
    raw: dict[str, Any], path: str, value: object
) -> None:
    assert fault(raw, path, value).field == path


@settings(max_examples=40, deadline=None)
@given(share=st.floats(-1.0, 2.0), kind=st.sampled_from(["matmul", "attention", "memory", "collective"]))
def test_quality_is_a_share_above_nothing_and_at_most_all(raw: dict[str, Any], share: float, kind: str) -> None:
    data = changed(raw, f"quality.{kind}", share)
    if 0.0 < share <= 1.0:
        assert getattr(validated(Chip, data).quality, kind).si == share
    else:
        with pytest.raises(SpecError, match=f"quality.{kind}: is out of range"):
            validated(Chip, data)


def test_a_source_counts_as_checked_unless_it_says_otherwise() -> None:
    assert Source(text="data sheet").checked
    assert not Source(text="from memory", checked=False).checked


def test_published_totals_are_empty_unless_given() -> None:
    assert Published() == validated(Published, {})
    assert not Published().deviations


def test_a_chip_cannot_be_changed(peaks_only: Chip) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        peaks_only.name = "other"  # type: ignore[misc]
