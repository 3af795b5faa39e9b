"""Power that a package must supply: by hand, never less for more of anything, rest by area and stacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.lower import lower_chip
from cosim.overrides import Varied
from cosim.records import array
from cosim.silicon.area import static_power
from cosim.silicon.power import design_power
from cosim.silicon.technology import Technology

Make = Callable[..., Varied[Chip]]
AREA = 735.0


def watts(varied: Varied[Chip], technology: Technology, area: float = AREA) -> float:
    return float(design_power(varied, array(area), technology))


def test_the_template_by_hand(chip: Make, technology: Technology) -> None:
    elements = 20 * 2 * 128 * 128 * 1.75e9
    static = 0.09 * AREA + 6 * 5.0
    hottest = 0.735 * elements * max(2 * 0.29e-12, 4 * 0.145e-12, 4 * 0.15e-12, 8 * 0.08e-12)
    dram = 6 * 1024 * 9.2e9 / 8 * 0.85 * (32e-12 + 6e-12)
    links = 16 * 50e9 * 0.8 * 5.5e-12 * 8
    assert watts(chip("asic-template"), technology) == pytest.approx(static + hottest + dram + links)


def test_what_is_drawn_at_rest_goes_with_area_and_stacks_that_work(chip: Make, technology: Technology) -> None:
    areas, stacks = np.array([0.0, 100.0, 858.0]), np.array([1.0, 6.0, 9.0])
    found = static_power(chip("asic-template", {"memory.dram.stacks": stacks}), areas, technology)
    assert found == pytest.approx(areas * 0.09 + stacks * 5.0)
    # Of six sites on the die of an A100 five have a stack.
    assert float(static_power(chip("a100-80gb-sxm"), array(0.0), technology)) == 25.0
    newer = chip("asic-template", {"memory.dram.technology": "HBM4"})
    assert float(static_power(newer, array(100.0), technology)) == pytest.approx(9.0 + 6 * 6.0)


def test_memory_that_is_not_known_has_no_rest(chip: Make, technology: Technology) -> None:
    with pytest.raises(SpecError, match="no known interface"):
        static_power(chip("l40s"), array(100.0), technology)


def test_the_power_of_a_design_has_what_it_draws_at_rest(chip: Make, technology: Technology) -> None:
    varied = chip("asic-template")
    for area in (0.0, 400.0, 800.0):
        rest = float(static_power(varied, array(area), technology))
        assert watts(varied, technology, area) - rest == pytest.approx(watts(varied, technology, 0.0) - 30.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"matrix.clock": "2.5 GHz"},
        {"matrix.rows": 256},
        {"memory.dram.pin_rate": "12 Gb/s"},
        {"memory.dram.stacks": 8},
        {"links.scale_up.rate": "100 GB/s"},
        {"power.energy_per_byte.dram": "50 pJ/B"},
        {"power.energy_per_byte.cache": "10 pJ/B"},
        {"power.energy_per_flop.mxfp4": "0.2 pJ/FLOP"},
        {"quality.matmul": 0.9},
        {"quality.memory": 0.95},
        {"quality.collective": 0.95},
    ],
)
def test_more_of_what_works_draws_more(chip: Make, technology: Technology, changes: dict[str, Any]) -> None:
    assert watts(chip("asic-template", changes), technology) > watts(chip("asic-template"), technology)


def test_limit_idle_and_cool_formats_do_not_count(chip: Make, technology: Technology) -> None:
    cool = {"power.limit": "900 W", "power.idle": "10 W", "power.energy_per_flop.fp8": "0.1 pJ/FLOP"}
    assert watts(chip("asic-template", cool), technology) == watts(chip("asic-template"), technology)


def test_kernels_of_a_format_count_at_their_own_quality(chip: Make, technology: Technology) -> None:
    arrays = lower_chip(chip("h100-sxm").spec)
    quality, chosen = arrays.quality, {}
    for dtype, peak in arrays.matrix.peak.items():
        reached = quality.matmul_formats.get(dtype, quality.matmul)
        chosen[dtype] = float(peak * reached * arrays.power.energy_per_flop[dtype])
    rest = watts(chip("h100-sxm"), technology) - max(chosen.values())
    better = {f"quality.matmul_formats.{dtype}": 1.0 for dtype in quality.matmul_formats}
    full = {**chosen}
    for dtype in quality.matmul_formats:
        full[dtype] = float(arrays.matrix.peak[dtype] * arrays.power.energy_per_flop[dtype])
    assert watts(chip("h100-sxm", better), technology) == pytest.approx(rest + max(full.values()))


@settings(max_examples=40, deadline=None)
@given(
    clock=st.floats(0.5e9, 3e9),
    pins=st.floats(1e8, 2e9),
    rate=st.floats(1e9, 2e11),
    more=st.floats(1.0, 3.0),
    area=st.floats(50.0, 2000.0),
)
def test_power_never_falls_with_clock_bandwidth_or_area(
    chip: Make, technology: Technology, clock: float, pins: float, rate: float, more: float, area: float
) -> None:
    changes = {"matrix.clock": clock, "memory.dram.pin_rate": pins, "links.scale_up.rate": rate}
    base = watts(chip("asic-template", changes), technology, area)
    for path, value in changes.items():
        assert watts(chip("asic-template", {**changes, path: value * more}), technology, area) >= base
    assert watts(chip("asic-template", changes), technology, area * more) >= base
    assert base > 0.09 * area + 6 * 5.0
