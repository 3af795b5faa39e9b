"""What must hold of every die: parts add up, grow with their primary, shrink with the node, lie on the points axis."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.explore.die import die_columns
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip
from cosim.hardware.vary import vary_chip
from cosim.overrides import Varied
from cosim.silicon.area import DieArea, die_area
from cosim.silicon.limits import shortfalls
from cosim.silicon.technology import load_technology

PARTS = tuple(field.name for field in fields(DieArea))
NODES = ("TSMC N7", "TSMC N6", "TSMC N5", "TSMC N3", "TSMC N2")
# Path, values that are drawn: whole numbers and rates of designs between a toy and far beyond the reticle.
SYSTOLIC: dict[str, st.SearchStrategy[Any]] = {
    "cores": st.integers(1, 64),
    "matrix.rows": st.integers(8, 512),
    "matrix.columns": st.integers(8, 512),
    "matrix.arrays": st.integers(1, 8),
    "vector.rate": st.floats(16.0, 8192.0),
    "vector.registers": st.floats(1e3, 2e6),
    "memory.scratch.capacity": st.floats(1e4, 1e8),
    "memory.cache.capacity": st.floats(1e5, 1e9),
    "memory.cache.bandwidth": st.floats(1e11, 1e14),
    "memory.dram.stacks": st.integers(1, 16),
    "links.scale_up.count": st.integers(1, 64),
    "links.scale_up.rate": st.floats(1e9, 2e11),
}
TILE: dict[str, st.SearchStrategy[Any]] = {
    path: drawn for path, drawn in SYSTOLIC.items() if path.split(".")[1:2] not in (["rows"], ["columns"], ["arrays"])
}
CHIPS = {"asic-template": SYSTOLIC, "h100-sxm": TILE, "a100-80gb-sxm": TILE}
Design = tuple[str, dict[str, Any]]


@functools.cache
def read(name: str) -> Chip:
    return load_chip(name)


def made(name: str, changes: dict[str, Any]) -> Varied[Chip]:
    return vary_chip(Varied(read(name)), changes)


def areas(name: str, changes: dict[str, Any]) -> DieArea:
    return die_area(made(name, changes), load_technology())


@st.composite
def designs(draw: st.DrawFn) -> Design:
    """A chip with a handful of its primaries drawn anew."""
    name = draw(st.sampled_from(sorted(CHIPS)))
    paths = draw(st.lists(st.sampled_from(sorted(CHIPS[name])), unique=True, max_size=5))
    return name, {path: draw(CHIPS[name][path]) for path in paths}


@settings(max_examples=60, deadline=None)
@given(design=designs())
def test_every_component_is_there_and_the_total_is_their_sum(design: Design) -> None:
    area = areas(*design)
    values = [float(getattr(area, part)) for part in PARTS]
    assert min(values) >= 0.0
    assert float(area.total) == pytest.approx(sum(values), rel=1e-12)


@settings(max_examples=80, deadline=None)
@given(design=designs(), data=st.data())
def test_no_component_falls_when_a_primary_grows(design: Design, data: st.DataObject) -> None:
    name, changes = design
    path = data.draw(st.sampled_from(sorted(CHIPS[name])))
    pair = sorted(data.draw(st.tuples(CHIPS[name][path], CHIPS[name][path])))
    found = areas(name, {**changes, path: np.array(pair, dtype=float)})
    for part in PARTS:
        small, large = np.broadcast_to(getattr(found, part), (2,))
        assert large >= small * (1.0 - 1e-12), part


@settings(max_examples=40, deadline=None)
@given(design=designs(), data=st.data())
def test_designs_along_the_points_axis_equal_single_ones(design: Design, data: st.DataObject) -> None:
    name, changes = design
    count = data.draw(st.integers(1, 5))
    paths = data.draw(st.lists(st.sampled_from(sorted(CHIPS[name])), unique=True, min_size=1, max_size=4))
    many = {path: data.draw(st.lists(CHIPS[name][path], min_size=count, max_size=count)) for path in paths}
    together = made(name, {**changes, **{path: np.array(values, dtype=float) for path, values in many.items()}})
    technology = load_technology()
    area, columns = die_area(together, technology), die_columns(together)
    limits = shortfalls(together, area, technology)
    for place in range(count):
        alone = made(name, {**changes, **{path: values[place] for path, values in many.items()}})
        single = die_area(alone, technology)
        pairs = [(getattr(area, part), getattr(single, part)) for part in PARTS]
        pairs += [(columns[each], value) for each, value in die_columns(alone).items()]
        pairs += [(limits[each], value) for each, value in shortfalls(alone, single, technology).items()]
        for batch, one in pairs:
            assert np.broadcast_to(batch, (count,))[place] == pytest.approx(float(one), rel=1e-12, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(design=designs(), at=st.integers(0, len(NODES) - 2))
def test_a_finer_node_makes_no_component_larger_and_phys_stay(design: Design, at: int) -> None:
    name, changes = design
    coarse, fine = (areas(name, {**changes, "die.node": node}) for node in NODES[at : at + 2])
    for part in PARTS:
        assert float(getattr(fine, part)) <= float(getattr(coarse, part)) * (1.0 + 1e-12), part
    assert float(fine.memory_phy) == float(coarse.memory_phy)
    assert float(fine.total) < float(coarse.total)


@settings(max_examples=40, deadline=None)
@given(design=designs(), clock=st.floats(0.3e9, 3e9), more=st.floats(1.0, 3.0))
def test_area_does_not_feel_the_clock_and_power_does(design: Design, clock: float, more: float) -> None:
    name, changes = design
    found = die_columns(made(name, {**changes, "matrix.clock": np.array([clock, clock * more])}))
    slow, fast = np.broadcast_to(found["area_mm2"], (2,))
    assert fast == pytest.approx(slow, rel=1e-12)
    low, high = np.broadcast_to(found["tdp_w"], (2,))
    assert high >= low * (1.0 - 1e-12)


@settings(max_examples=30, deadline=None)
@given(design=designs(), stacks=st.integers(1, 12))
def test_more_stacks_never_help_their_edge(design: Design, stacks: int) -> None:
    name, changes = design
    varied = made(name, {**changes, "memory.dram.stacks": np.array([stacks, stacks + 1.0])})
    technology = load_technology()
    found = shortfalls(varied, die_area(varied, technology), technology)["memory_edge"]
    few, many = np.broadcast_to(found, (2,))
    assert many >= few


@pytest.mark.parametrize("name", ["maia-200", "tpu-v5p", "mi300x", "l40s"])
def test_an_unknown_chip_never_gets_a_number(name: str) -> None:
    columns = die_columns(made(name, {"memory.dram.bandwidth": np.array([1e12, 2e12])} if name == "tpu-v5p" else {}))
    assert set(columns) == {"area_mm2", "tdp_w"}
    assert all(np.all(np.isnan(values)) for values in columns.values())
