"""The front: nobody on it is beaten, everybody off it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.explore.pareto import pareto

POINTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(points=POINTS)
def test_the_front_is_exactly_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    first, second = (np.array([point[side] for point in points], dtype=float) for side in (0, 1))
    front = pareto(first, second).tolist()
    beaten = {
        here for here, (a, b) in enumerate(points) if any(x >= a and y >= b and (x > a or y > b) for x, y in points)
    }
    assert beaten.isdisjoint(front)
    assert {points[place] for place in front} == {point for place, point in enumerate(points) if place not in beaten}


@settings(max_examples=100, deadline=None)
@given(points=POINTS)
def test_along_the_front_one_falls_while_the_other_rises(points: list[tuple[int, int]]) -> None:
    first, second = (np.array([point[side] for point in points], dtype=float) for side in (0, 1))
    front = pareto(first, second)
    assert (np.diff(first[front]) < 0).all()
    assert (np.diff(second[front]) > 0).all()
    assert len(front) == len(set(front.tolist()))


def test_ties_keep_the_first_and_nothing_has_no_front() -> None:
    assert pareto(np.array([1.0, 2.0, 2.0]), np.array([5.0, 3.0, 3.0])).tolist() == [1, 0]
    assert pareto(np.zeros(3), np.zeros(3)).tolist() == [0]
    assert pareto(np.array([]), np.array([])).tolist() == []
