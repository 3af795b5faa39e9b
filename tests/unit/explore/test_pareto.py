"""The front: nobody on it is beaten, everybody off it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.explore.pareto import front_of, pareto

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


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 4), max_size=40))
def test_the_front_over_many_goals_is_what_no_other_beats(rows: list[tuple[int, ...]]) -> None:
    costs = np.array(rows, dtype=np.float64).reshape(-1, 4)
    found = front_of(costs, 3).tolist()
    goals = [row[:3] for row in rows]
    beaten = {g for g in goals for o in goals if o != g and all(a <= b for a, b in zip(o, g, strict=True))}
    assert {goals[index] for index in found} == set(goals) - beaten
    # Of equals the one that is least in what decides, once.
    assert len(found) == len({goals[index] for index in found})
    assert all(rows[i][3] == min(row[3] for row in rows if row[:3] == goals[i]) for i in found)


def test_what_is_unknown_in_one_goal_may_be_on_the_front_by_another() -> None:
    costs = np.array([[1.0, np.inf], [2.0, 5.0], [3.0, np.inf]])
    assert front_of(costs, 2).tolist() == [0, 1]
