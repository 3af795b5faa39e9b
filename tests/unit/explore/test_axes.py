"""Axes and the grid they span: order, coordinates, linked paths, ranges, choices as cells."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.axes import Axis, Grid, is_number
from cosim.schema import validated

ROWS = "system.chip.matrix.rows"
COLUMNS = "system.chip.matrix.columns"
NUMBERS = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=4)
WORDS = st.lists(st.sampled_from(["bf16", "fp8", "int8"]), min_size=1, max_size=3, unique=True)
FLAGS = st.lists(st.booleans(), min_size=1, max_size=2, unique=True)


def axis(**fields: Any) -> Axis:
    return validated(Axis, {"path": ROWS, **fields})


def fault(**fields: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        axis(**fields)
    return caught.value


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Up to four axes of numbers, words and flags; some have a second, linked path of numbers."""
    levels = []
    for place in range(draw(st.integers(0, 4))):
        values = draw(st.one_of(NUMBERS, WORDS, FLAGS))
        found: dict[str, tuple[Any, ...]] = {f"path.{place}": tuple(values)}
        if draw(st.booleans()):
            found[f"linked.{place}"] = tuple(float(step) for step in range(len(values)))
        levels.append(found)
    return Grid(tuple(levels))


@settings(max_examples=80, deadline=None)
@given(grid=grids())
def test_designs_are_the_product_of_the_axes_with_the_last_axis_fastest(grid: Grid) -> None:
    every = list(itertools.product(*(range(steps) for steps in grid.shape)))
    assert grid.size == len(every) == max(len(every), 1)
    designs = np.arange(grid.size)
    steps = grid.coordinates(designs)
    assert [tuple(int(at[design]) for at in steps) for design in designs] == every
    numbers = grid.numbers(designs)
    for design, at in enumerate(every):
        chosen = {
            path: levels[step] for axis, step in zip(grid.levels, at, strict=True) for path, levels in axis.items()
        }
        assert {path: values[design] for path, values in numbers.items()} | grid.choices(design) == chosen


@settings(max_examples=80, deadline=None)
@given(grid=grids(), data=st.data())
def test_cells_share_every_choice_and_hold_every_place_once(grid: Grid, data: st.DataObject) -> None:
    designs = np.array(data.draw(st.lists(st.integers(0, grid.size - 1), min_size=1, max_size=30)))
    cells = grid.cells(designs)
    assert sorted(np.concatenate(cells).tolist()) == list(range(len(designs)))
    assert [cell.tolist() for cell in cells] == [sorted(cell.tolist()) for cell in cells]
    assert [int(cell[0]) for cell in cells] == sorted(int(cell[0]) for cell in cells)
    chosen = [[grid.choices(int(designs[place])) for place in cell] for cell in cells]
    assert all(one == own[0] for own in chosen for one in own)
    assert len({str(own[0]) for own in chosen}) == len(cells)


def test_no_axis_is_one_design() -> None:
    grid = Grid(())
    assert (grid.shape, grid.size, grid.numbers(np.array([0])), grid.choices(0)) == ((), 1, {}, {})
    assert [cell.tolist() for cell in grid.cells(np.array([0]))] == [[0]]


def test_the_number_of_designs_does_not_overflow() -> None:
    axes = tuple({f"path.{place}": tuple(range(65_536))} for place in range(4))
    assert Grid(axes).size == 65_536**4


def test_flags_and_words_are_choices_and_numbers_are_not() -> None:
    assert is_number((1, 2.5))
    assert not is_number((True, False))
    assert not is_number(("1", "2"))
    assert not is_number((1.0, True))


def test_values_stand_for_every_path_or_one_a_path() -> None:
    assert axis(values=[1, "2 MiB", True]).steps() == ((1,), ("2 MiB",), (True,))
    linked = axis(path=[ROWS, COLUMNS], values=[64, [128, 256]])
    assert linked.steps() == ((64, 64), (128, 256))
    ends = axis(path=[ROWS, COLUMNS], **{"from": [1, 10], "to": [4, 40]}, count=4)
    assert ends.steps() == ((1, 10), (4, 40))


@pytest.mark.parametrize("values", [[[1, 2, 3]], [[1]], [64, [1, 2, 3]]])
def test_a_step_of_linked_paths_has_one_value_a_path(values: list[Any]) -> None:
    with pytest.raises(SpecError, match="has not one value for each path"):
        axis(path=[ROWS, COLUMNS], values=values).steps()


@settings(max_examples=50, deadline=None)
@given(low=st.floats(1e-6, 1e6), factor=st.floats(1.0, 1e6), count=st.integers(2, 40))
def test_ranges_hold_both_ends_and_step_evenly(low: float, factor: float, count: int) -> None:
    high = low * factor
    linear = axis(**{"from": low, "to": high}, count=count).spread(low, high)
    log = axis(**{"from": low, "to": high}, count=count, scale="log").spread(low, high)
    for found in (linear, log):
        assert found.size == count
        assert (found[0], found[-1]) == pytest.approx((low, high))
    assert np.diff(linear) == pytest.approx(np.full(count - 1, (high - low) / (count - 1)), rel=1e-6, abs=1e-9 * high)
    assert log[1:] / log[:-1] == pytest.approx(np.full(count - 1, factor ** (1 / (count - 1))))


@settings(max_examples=50, deadline=None)
@given(low=st.floats(1e-3, 1e9), factor=st.floats(1.0, 1e6))
def test_powers_of_two_double_from_the_start_and_stay_within_the_end(low: float, factor: float) -> None:
    found = axis(**{"from": low, "to": low * factor}, scale="powers_of_two").spread(low, low * factor)
    assert found[0] == low
    assert (found[1:] == 2.0 * found[:-1]).all()
    assert found[-1] <= low * factor * (1 + 1e-6) < 2.0 * found[-1] * (1 + 1e-6)


@pytest.mark.parametrize(("low", "high", "count"), [(1024, 16384, 5), (1, 1000, 4), (32, 4096, 8), (3, 48, 5)])
def test_a_log_range_through_whole_numbers_has_them_whole(low: int, high: int, count: int) -> None:
    found = axis(**{"from": low, "to": high}, count=count, scale="log").spread(float(low), float(high))
    assert found.tolist() == [float(round(value)) for value in found]


def test_a_range_between_whole_numbers_is_not_rounded() -> None:
    assert axis(**{"from": 1, "to": 2}, count=3).spread(1.0, 2.0).tolist() == [1.0, 1.5, 2.0]


def test_powers_of_two_reach_an_end_that_is_one() -> None:
    assert axis(**{"from": 2, "to": 32}, scale="powers_of_two").spread(2.0, 32.0).tolist() == [2, 4, 8, 16, 32]
    assert axis(**{"from": 3, "to": 30}, scale="powers_of_two").spread(3.0, 30.0).tolist() == [3, 6, 12, 24]


def test_a_linear_range_may_fall_and_start_below_zero() -> None:
    assert axis(**{"from": 2, "to": -2}, count=3).spread(2.0, -2.0).tolist() == [2.0, 0.0, -2.0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 8.0), (-1.0, 8.0), (8.0, 4.0)])
@pytest.mark.parametrize("scale", ["log", "powers_of_two"])
def test_a_log_range_needs_ground_to_stand_on(scale: str, low: float, high: float) -> None:
    count = {} if scale == "powers_of_two" else {"count": 3}
    with pytest.raises(SpecError, match="needs 0 < from <= to"):
        axis(**{"from": low, "to": high}, scale=scale, **count).spread(low, high)


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({}, "values", "needs values, or from and to"),
        ({"values": [1], "from": 1, "to": 2}, "values", "needs values, or from and to"),
        ({"values": []}, "values", "needs values, or from and to"),
        ({"from": 1, "count": 3}, "to", "is missing"),
        ({"to": 1, "count": 3}, "from", "is missing"),
        ({"from": 1, "to": 4}, "count", "does not fit the scale"),
        ({"from": 1, "to": 4, "scale": "log"}, "count", "does not fit the scale"),
        ({"from": 1, "to": 4, "scale": "powers_of_two", "count": 3}, "count", "does not fit the scale"),
        ({"from": 1, "to": 4, "count": 1}, "count", "greater than or equal to 2"),
        ({"from": 1, "to": 4, "count": 10**7}, "count", "less than or equal to"),
        ({"from": 1, "to": 4, "count": 3, "scale": "logarithmic"}, "scale", "powers_of_two"),
        ({"path": [], "values": [1]}, "path", "at least 1"),
        ({"values": [1], "steps": 4}, "steps", "unknown field"),
    ],
)
def test_an_axis_that_says_too_little_or_too_much_is_refused(fields: dict[str, Any], field: str, problem: str) -> None:
    caught = fault(**fields)
    assert str(caught.field).endswith(field)
    assert problem in str(caught)


@pytest.mark.parametrize("values", [range(32, 129, 32), np.array([32, 64]), (32, 64), [32, 64]])
def test_values_may_be_any_sequence_that_python_users_write(values: Any) -> None:
    assert [int(step[0]) for step in axis(values=values).steps()] == list(values)
