"""Die areas that follow from structure against those that the makers publish."""

from __future__ import annotations

import pytest

from cosim.hardware.load import load_chip
from cosim.overrides import Varied
from cosim.silicon.area import DieArea, die_area
from cosim.silicon.technology import load_technology

# GA100 fitted the control share and the other blocks; GH100 was not looked at.
PUBLISHED = {"a100-80gb-sxm": 826.0, "a100-40gb-sxm": 826.0, "h100-sxm": 814.0, "h200-sxm": 814.0}
# Blocks of the GA100 die shot as LLMCompass lists them [mm2].
GA100 = {"cache": 119.31, "network": 76.44, "memory_phy": 58.0, "memory_control": 31.77, "other": 40.0}
GA100_CORES = 476.25


def area_of(name: str) -> DieArea:
    return die_area(Varied(load_chip(name)), load_technology())


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_whole_dies_are_within_ten_percent(name: str, published: float) -> None:
    given = load_chip(name).die.area
    assert given is not None
    assert given.si == published
    assert float(area_of(name).total) == pytest.approx(published, rel=0.10)


def test_the_blocks_of_the_ga100_die_shot_are_within_five_percent() -> None:
    area = area_of("a100-80gb-sxm")
    assert {block: float(getattr(area, block)) for block in GA100} == pytest.approx(GA100, rel=0.05)
    cores = sum(float(part) for part in (area.matrix, area.vector, area.registers, area.scratch, area.control))
    assert cores == pytest.approx(GA100_CORES, rel=0.05)


def test_memory_of_a_chip_does_not_change_its_die() -> None:
    assert float(area_of("a100-40gb-sxm").total) == float(area_of("a100-80gb-sxm").total)
