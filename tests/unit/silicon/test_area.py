"""Areas by component: worked by hand, each grown by its own primary alone, unknown structure a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.overrides import Varied
from cosim.silicon.area import DieArea, die_area, memory_edge, node_of, unknown
from cosim.silicon.technology import Technology

Make = Callable[..., Varied[Chip]]
PARTS = tuple(field.name for field in fields(DieArea))
N3_LOGIC, N3_SRAM = 0.424, 0.735


def parts(varied: Varied[Chip], technology: Technology) -> dict[str, float]:
    area = die_area(varied, technology)
    return {name: float(getattr(area, name)) for name in PARTS}


def test_the_template_by_hand(chip: Make, technology: Technology) -> None:
    found = parts(chip("asic-template"), technology)
    matrix = 20 * 2 * 128 * 128 * 854e-6 * N3_LOGIC
    vector = 20 * 512 * 3238e-6 * N3_LOGIC
    link = 16 * 50e9
    assert found == pytest.approx(
        {
            "matrix": matrix,
            "vector": vector,
            "registers": 20 * 0.25 * 6.28 * N3_SRAM,
            "scratch": 20 * 8 * 0.875 * N3_SRAM,
            "cache": 96 * 0.875 * N3_SRAM,
            "network": 20 * 14.16 * N3_LOGIC,
            "control": 0.155 * (matrix + vector),
            "memory_phy": 6 * 10.06,
            "memory_control": 6 * 5.3 * N3_LOGIC,
            "links": link / (169e9 / 8) + link * 0.9e-12 * N3_LOGIC,
            "other": 40 * N3_LOGIC,
        },
        rel=1e-12,
    )


def test_spare_cores_and_sites_of_the_a100_are_on_its_silicon(chip: Make, technology: Technology) -> None:
    found = parts(chip("a100-80gb-sxm"), technology)
    matrix, vector = 128 * 1024 * 263e-6, 128 * 64 * 3238e-6
    registers, scratch = 128 * 0.25 * 6.28, 128 * 192 / 1024 * 2.37
    assert found["matrix"] == pytest.approx(matrix)
    assert found["registers"] == pytest.approx(registers)
    assert found["scratch"] == pytest.approx(scratch)
    assert found["cache"] == pytest.approx(48 * 2.486)
    assert found["control"] == pytest.approx(0.494 * (matrix + vector + registers + scratch))
    assert found["memory_phy"] == pytest.approx(6 * 10.06)
    assert found["links"] == pytest.approx(300e9 / (106e9 / 8) + 300e9 * 0.9e-12)


@pytest.mark.parametrize("name", ["asic-template", "a100-80gb-sxm", "h100-sxm", "b200-sxm", "gb200", "h200-sxm"])
def test_the_total_is_the_sum_of_components_that_are_there(chip: Make, technology: Technology, name: str) -> None:
    found = parts(chip(name), technology)
    assert min(found.values()) >= 0.0
    assert float(die_area(chip(name), technology).total) == pytest.approx(sum(found.values()), rel=1e-14)


@pytest.mark.parametrize(
    ("name", "changes", "grown"),
    [
        ("asic-template", {"matrix.rows": 256}, {"matrix", "control"}),
        ("asic-template", {"matrix.columns": 256}, {"matrix", "control"}),
        ("asic-template", {"matrix.arrays": 4}, {"matrix", "control"}),
        ("asic-template", {"memory.scratch.capacity": "16 MiB"}, {"scratch"}),
        ("asic-template", {"memory.cache.capacity": "192 MiB"}, {"cache"}),
        ("asic-template", {"memory.cache.bandwidth": "40 TB/s"}, {"network"}),
        ("asic-template", {"memory.dram.stacks": 12}, {"memory_phy", "memory_control"}),
        ("asic-template", {"links.scale_up.count": 32}, {"links"}),
        ("asic-template", {"links.scale_up.rate": "100 GB/s"}, {"links"}),
        ("asic-template", {"vector.rate": 2048}, {"vector", "control"}),
        ("asic-template", {"vector.registers": "512 KiB"}, {"registers"}),
        ("h100-sxm", {"vector.registers": "512 KiB"}, {"registers", "control"}),
        ("h100-sxm", {"cores": 200}, {"matrix", "vector", "registers", "scratch", "control"}),
        ("h100-sxm", {"memory.scratch.capacity_physical": "512 KiB"}, {"scratch", "control"}),
        ("asic-template", {"memory.dram.pin_rate": "12 Gb/s", "links.scale_out.rate": "800 Gb/s"}, set()),
        ("asic-template", {"matrix.clock": "3 GHz", "vector.clock": "3 GHz"}, set()),
        ("h100-sxm", {"matrix.clock": "1 GHz", "quality.matmul": 0.9, "power.limit": "900 W"}, set()),
    ],
)
def test_a_primary_grows_its_own_components_and_no_other(
    chip: Make, technology: Technology, name: str, changes: dict[str, Any], grown: set[str]
) -> None:
    before, after = parts(chip(name), technology), parts(chip(name, changes), technology)
    assert {part for part in PARTS if after[part] > before[part]} == grown
    assert [part for part in PARTS if after[part] < before[part]] == []


def test_an_engine_is_as_large_as_the_largest_need_of_its_formats(chip: Make, technology: Technology) -> None:
    wide = chip("asic-template", {"matrix.rate.fp8": 8})
    wider = chip("asic-template", {"matrix.rate.fp8": 16})
    slower = chip("asic-template", {"matrix.rate.fp8": 1})
    plain = parts(chip("asic-template"), technology)["matrix"]
    assert parts(wide, technology)["matrix"] == pytest.approx(2 * plain)
    assert parts(wider, technology)["matrix"] == pytest.approx(4 * plain)
    assert parts(slower, technology)["matrix"] == pytest.approx(plain)


def test_a_replaced_peak_is_built(chip: Make, technology: Technology) -> None:
    plain = parts(chip("asic-template"), technology)["matrix"]
    peak = 2 * 2 * 20 * 2 * 128 * 128 * 1.75e9
    assert parts(chip("asic-template", {"matrix.peak.bf16": peak}), technology)["matrix"] == pytest.approx(2 * plain)


@settings(max_examples=40, deadline=None)
@given(stacks=st.integers(1, 16), rate=st.floats(1e9, 2e11), node=st.sampled_from(["TSMC N7", "TSMC N5", "TSMC N2"]))
def test_phys_do_not_shrink_with_the_node(
    chip: Make, technology: Technology, stacks: int, rate: float, node: str
) -> None:
    changes = {"memory.dram.stacks": stacks, "links.scale_up.rate": rate}
    here = parts(chip("asic-template", changes), technology)
    there = parts(chip("asic-template", {**changes, "die.node": node}), technology)
    assert there["memory_phy"] == here["memory_phy"] == pytest.approx(stacks * 10.06)
    assert min(there["links"], here["links"]) > 16 * rate / (169e9 / 8)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("maia-200", {}, "known by its peaks only"),
        ("openai-jalapeno", {}, "known by its peaks only"),
        ("tpu-v5p", {}, "no area is known of ICI"),
        ("tpu-v7x", {}, "no area is known of ICI"),
        ("mi300x", {}, "TSMC N5 (XCD) and N6 (IOD)"),
        ("v100-32gb-sxm", {}, "TSMC 12FFN"),
        ("l40s", {}, "GDDR6"),
        ("apple-m4-max", {}, "LPDDR5X"),
        ("trainium2", {}, "vector lanes"),
        ("asic-template", {"die.node": "Intel 18A"}, "Intel 18A"),
        ("asic-template", {"links.scale_up.technology": "optics"}, "optics"),
        ("asic-template", {"memory.dram.technology": "HBM9"}, "HBM9"),
    ],
)
def test_what_is_not_known_is_a_reason_and_never_an_area(
    chip: Make, technology: Technology, name: str, changes: dict[str, Any], reason: str
) -> None:
    varied = chip(name, changes)
    assert reason in unknown(varied.spec, technology)
    with pytest.raises(SpecError, match="has no known area") as caught:
        die_area(varied, technology)
    assert reason in str(caught.value)


def test_what_is_known_has_no_reason_and_a_node(chip: Make, technology: Technology) -> None:
    for name in ("asic-template", "a100-40gb-sxm", "h100-sxm", "b200-sxm"):
        assert unknown(chip(name).spec, technology) == ""
        assert node_of(chip(name).spec, technology) is not None
    assert node_of(chip("mi300x").spec, technology) is None


def test_a_format_without_an_area_is_a_reason(chip: Make, technology: Technology) -> None:
    tile = {dtype: area for dtype, area in technology.mac.tile.items() if dtype != "int4"}
    poorer = technology.model_copy(update={"mac": technology.mac.model_copy(update={"tile": tile})})
    assert unknown(chip("a100-80gb-sxm").spec, poorer) == "no area is known of a int4 unit"
    assert unknown(chip("asic-template").spec, poorer) == ""


def test_the_edge_of_memory_goes_with_its_stacks(chip: Make, technology: Technology) -> None:
    stacks = np.array([1.0, 4.0, 8.0])
    found = memory_edge(chip("asic-template", {"memory.dram.stacks": stacks}), technology)
    assert found.tolist() == [10.0, 40.0, 80.0]
    # Five stacks work, six are on the silicon.
    assert float(memory_edge(chip("a100-80gb-sxm"), technology)) == 60.0
    with pytest.raises(SpecError, match="no known interface"):
        memory_edge(chip("l40s"), technology)


def test_the_interface_of_another_memory_is_its_own(chip: Make, technology: Technology) -> None:
    older, newer = (
        parts(chip("asic-template", changes), technology) for changes in ({}, {"memory.dram.technology": "HBM4"})
    )
    assert newer["memory_phy"] == pytest.approx(6 * 15.0)
    assert newer["memory_control"] == pytest.approx(6 * 8.0 * N3_LOGIC)
    assert {name for name in PARTS if newer[name] != older[name]} == {"memory_phy", "memory_control"}
