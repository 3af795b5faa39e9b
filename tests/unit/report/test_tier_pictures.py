"""Pictures of tiers: every kind as it is joined, long rows cut."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from cosim.report.style import new_figure
from cosim.report.tier_pictures import FIRST, UNIT, WRAP, Field, height, picture

FIELD = Field(0.0, 0.0, 4.0, 2.0, opens=True)


def drawn(kind: str, units: float, field: Field = FIELD, **more: Any) -> tuple[Axes, tuple[float, float]]:
    _, (axes,) = new_figure(4.0, 2.0, 1)
    row = {"kind": kind, "units": units, "switches": 1.0, "levels": 1.0, "shape": [], "closed": [], **more}
    return axes, picture(axes, row, field)


def units(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if type(patch) is Rectangle]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("kind", "count", "links"),
    [
        ("mesh", 8, 28),
        ("mesh", 4, 6),
        ("ring", 8, 8),
        ("ring", 2, 1),
        ("hypercube_mesh", 8, 12),
        ("hypercube_mesh", 4, 4),
        ("switch", 5, 5),
    ],
)
def test_units_and_their_links(kind: str, count: int, links: int) -> None:
    axes, _ = drawn(kind, float(count))
    assert len(units(axes)) == count
    assert len(axes.lines) == links


def test_the_first_unit_is_marked_where_it_is_opened_and_its_place_is_told() -> None:
    axes, (x, y) = drawn("switch", 4.0)
    first = units(axes)[0]
    assert first.get_facecolor()[:3] != units(axes)[1].get_facecolor()[:3]
    assert (first.get_x() + first.get_width() / 2.0, first.get_y()) == pytest.approx((x, y))
    closed, _ = drawn("switch", 4.0, Field(0.0, 0.0, 4.0, 2.0, opens=False))
    assert len({unit.get_facecolor() for unit in units(closed)}) == 1
    assert FIRST != UNIT


@pytest.mark.parametrize("kind", ["switch", "fat_tree", "bus"])
def test_long_rows_are_cut(kind: str) -> None:
    axes, _ = drawn(kind, 72.0)
    assert len(units(axes)) == 8
    assert "... x 72" in words(axes)
    short, _ = drawn(kind, 8.0)
    assert not any(word.startswith("...") for word in words(short))


def test_switches_are_drawn_as_many_as_there_are_or_cut_or_unknown() -> None:
    four, _ = drawn("switch", 8.0, switches=4.0)
    assert words(four) == ["switch"] * 4
    assert len(four.lines) == 32
    many, _ = drawn("switch", 72.0, switches=18.0)
    assert "... x 18" in words(many)
    unknown, _ = drawn("switch", 8.0, switches=None)
    assert "switches: ?" in words(unknown)


@pytest.mark.parametrize(("levels", "names"), [(2.0, {"leaf", "spine"}), (3.0, {"leaf", "middle", "top"})])
def test_a_fat_tree_has_its_levels(levels: float, names: set[str]) -> None:
    axes, _ = drawn("fat_tree", 64.0, levels=levels)
    assert names == set(words(axes)) - {"... x 64"}
    boxes = [patch.get_y() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len({round(y, 3) for y in boxes}) == levels
    assert height({"kind": "fat_tree", "levels": levels}) > height({"kind": "fat_tree", "levels": None})


def test_a_fat_tree_of_unknown_levels_says_so() -> None:
    axes, _ = drawn("fat_tree", 16.0, levels=None)
    assert "fat tree, levels: ?" in words(axes)


def test_a_torus_of_a_plane_closes_row_by_row() -> None:
    axes, (x, y) = drawn("torus", 16.0, shape=[4, 4], closed=[True, True])
    arcs = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert (len(units(axes)), len(axes.lines), len(arcs)) == (16, 24, 8)
    open_one, _ = drawn("torus", 16.0, shape=[4, 4], closed=[True, False])
    assert len([p for p in open_one.patches if isinstance(p, FancyArrowPatch)]) == 4
    # The first unit is the one nearest to what opens below it.
    assert y == min(unit.get_y() for unit in units(axes))
    assert x < 2.0
    assert "4x4" in words(axes)


def test_a_torus_in_depth_closes_along_its_nearest_edges() -> None:
    axes, _ = drawn("torus", 64.0, shape=[4, 4, 4], closed=[True] * 3)
    arcs = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert (len(units(axes)), len(axes.lines), len(arcs)) == (64, 144, 3)
    places = {(round(unit.get_x(), 3), round(unit.get_y(), 3)) for unit in units(axes)}
    assert len(places) == 64


def test_long_sides_of_a_torus_are_cut_by_dots() -> None:
    axes, _ = drawn("torus", 256.0, shape=[16, 16], closed=[True, True])
    assert len(units(axes)) == 16
    assert sum(line.get_linestyle() == ":" for line in axes.lines) == 8
    assert "16x16" in words(axes)


def test_groups_of_a_dragonfly_are_joined() -> None:
    axes, _ = drawn("dragonfly", 12.0, shape=[4, 3])
    assert len(units(axes)) == 12
    assert sum(line.get_color() == WRAP for line in axes.lines) == 3
    assert sum(line.get_color() != WRAP for line in axes.lines) == 3 * 6
    part, _ = drawn("dragonfly", 9.0, shape=[4, 3])
    assert len(units(part)) == 9
    large, _ = drawn("dragonfly", 1024.0, shape=[32, 32])
    assert "... x 32 groups" in words(large)


def test_a_mesh_of_many_is_cut() -> None:
    axes, _ = drawn("mesh", 64.0)
    assert len(units(axes)) == 12
    assert "... x 64" in words(axes)


@pytest.mark.parametrize("shape", [[4], [4, 4], [4, 4, 4], [16, 16, 16], [2, 2, 2]])
def test_a_torus_stays_in_its_field(shape: list[int]) -> None:
    row = {"kind": "torus", "shape": shape}
    field = Field(0.0, 0.0, 4.0, height(row), opens=False)
    axes, _ = drawn("torus", 1.0, field, shape=shape, closed=[True] * len(shape))
    for unit in units(axes):
        assert 0.0 <= unit.get_x() <= 4.0
        assert -0.01 <= unit.get_y() <= unit.get_y() + unit.get_height() <= height(row)
