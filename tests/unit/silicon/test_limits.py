"""Limits of silicon: reticle by the die, edges by its sides, worked by hand and in their direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.chip import Chip
from cosim.overrides import Varied
from cosim.records import array
from cosim.silicon.area import DieArea, die_area
from cosim.silicon.limits import DIE_LIMITS, shortfalls
from cosim.silicon.technology import Technology

Make = Callable[..., Varied[Chip]]
NAMES = ("reticle", "memory_edge", "link_edge")


def of_area(total: float) -> DieArea:
    """A die of which only the sum matters."""
    return DieArea(*(array(0.0) for _ in range(10)), array(total))


def short(varied: Varied[Chip], technology: Technology, total: float) -> dict[str, float]:
    return {name: float(value) for name, value in shortfalls(varied, of_area(total), technology).items()}


def test_every_limit_has_a_shortfall_a_unit_and_words(chip: Make, technology: Technology) -> None:
    assert tuple(limit.name for limit in DIE_LIMITS) == NAMES == tuple(short(chip("asic-template"), technology, 700.0))
    assert [limit.unit for limit in DIE_LIMITS] == ["mm2", "mm", "mm"]
    assert all("{}" in limit.says for limit in DIE_LIMITS)


def test_a_die_by_hand(chip: Make, technology: Technology) -> None:
    side = np.sqrt(700.0 / 1.27)
    assert short(chip("asic-template"), technology, 700.0) == pytest.approx(
        {
            "reticle": 700.0 - 858.0,
            "memory_edge": 6 * 10.0 - 2 * 1.27 * side,
            "link_edge": 800e9 / 38e9 - 2 * side,
        }
    )


def test_dies_of_a_package_share_area_and_edges(chip: Make, technology: Technology) -> None:
    one = short(chip("asic-template"), technology, 800.0)
    two = short(chip("asic-template", {"die.dies": 2}), technology, 1600.0)
    side = np.sqrt(800.0 / 1.27)
    assert two["reticle"] == pytest.approx(one["reticle"])
    assert two["memory_edge"] == pytest.approx(60.0 - 2 * 2 * 1.27 * side)
    assert two["link_edge"] == pytest.approx(800e9 / 38e9 - 2 * 2 * side)


def test_a_die_beyond_the_reticle_gets_no_edge_from_its_excess(chip: Make, technology: Technology) -> None:
    field, beyond = (short(chip("asic-template"), technology, area) for area in (858.0, 1500.0))
    assert (field["reticle"], beyond["reticle"]) == (0.0, 642.0)
    assert beyond["memory_edge"] == field["memory_edge"]
    assert beyond["link_edge"] == field["link_edge"]


@settings(max_examples=50, deadline=None)
@given(area=st.floats(50.0, 2000.0), larger=st.floats(0.0, 1000.0), stacks=st.integers(1, 12), more=st.integers(1, 4))
def test_a_larger_die_never_hurts_the_edges_and_more_around_it_never_helps(
    chip: Make, technology: Technology, area: float, larger: float, stacks: int, more: int
) -> None:
    few = chip("asic-template", {"memory.dram.stacks": stacks})
    many = chip("asic-template", {"memory.dram.stacks": stacks + more})
    here, wider = short(few, technology, area), short(few, technology, area + larger)
    assert wider["memory_edge"] <= here["memory_edge"]
    assert wider["link_edge"] <= here["link_edge"]
    assert wider["reticle"] >= here["reticle"]
    assert short(many, technology, area)["memory_edge"] == pytest.approx(here["memory_edge"] + 10.0 * more)
    assert short(many, technology, area)["link_edge"] == here["link_edge"]


@settings(max_examples=30, deadline=None)
@given(stacks=st.integers(1, 12), rows=st.sampled_from([16, 64, 128, 256]))
def test_a_further_stack_never_helps_though_its_phy_makes_the_die_larger(
    chip: Make, technology: Technology, stacks: int, rows: int
) -> None:
    changes = {"matrix.rows": rows, "memory.dram.stacks": np.array([stacks, stacks + 1.0])}
    varied = chip("asic-template", changes)
    few, many = shortfalls(varied, die_area(varied, technology), technology)["memory_edge"]
    assert many > few


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(1e9, 1e11), more=st.floats(1.0, 4.0))
def test_faster_links_need_more_edge(chip: Make, technology: Technology, rate: float, more: float) -> None:
    slow, fast = (
        short(chip("asic-template", {"links.scale_up.rate": each}), technology, 700.0) for each in (rate, rate * more)
    )
    assert fast["link_edge"] >= slow["link_edge"]
    assert fast["memory_edge"] == slow["memory_edge"]


def test_arrays_of_designs_equal_single_ones(chip: Make, technology: Technology) -> None:
    rows = np.array([32.0, 128.0, 256.0])
    many = chip("asic-template", {"matrix.rows": rows})
    together = shortfalls(many, die_area(many, technology), technology)
    for place, count in enumerate(rows):
        one = chip("asic-template", {"matrix.rows": count})
        alone = shortfalls(one, die_area(one, technology), technology)
        assert {name: float(together[name][place]) for name in NAMES} == pytest.approx(
            {name: float(alone[name]) for name in NAMES}
        )


def test_only_the_sum_of_components_matters(chip: Make, technology: Technology) -> None:
    varied = chip("asic-template")
    area = die_area(varied, technology)
    moved = replace(area, matrix=area.matrix - 10.0, cache=area.cache + 10.0)
    for name, value in shortfalls(varied, moved, technology).items():
        assert value == pytest.approx(shortfalls(varied, area, technology)[name])
