"""Intervals over seeds: they hold the truth as often as they say, and narrow with the runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.serving.confidence import bootstrap_interval, student_interval

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@given(VALUES, st.floats(0.1, 0.99))
def test_an_interval_holds_its_mean_and_grows_with_the_level(values: list[float], level: float) -> None:
    runs = np.array(values)
    for narrow, wide in (
        (student_interval(runs, level * 0.9), student_interval(runs, level)),
        (
            bootstrap_interval(runs, np.random.default_rng(0), level * 0.9, 200),
            bootstrap_interval(runs, np.random.default_rng(0), level, 200),
        ),
    ):
        assert wide.mean == pytest.approx(runs.mean())
        assert wide.low - 1e-9 <= narrow.low <= narrow.high <= wide.high + 1e-9
        assert wide.runs == len(values)
    student = student_interval(runs, level)
    assert student.low <= student.mean <= student.high
    assert student.half_width == pytest.approx((student.high - student.low) / 2)


def test_student_by_hand() -> None:
    # 1, 2, 3: s = 1, t(0.975, 2) = 4.302653.
    found = student_interval(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2.0
    assert found.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_student_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    found = [student_interval(generator.normal(5.0, 2.0, 5), 0.9) for _ in range(2000)]
    held = [each.low <= 5.0 <= each.high for each in found]
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


def test_the_bootstrap_agrees_with_student_for_many_runs_and_needs_no_shape() -> None:
    runs = np.random.default_rng(1).exponential(3.0, 400)
    student, drawn = student_interval(runs), bootstrap_interval(runs, np.random.default_rng(2))
    assert (drawn.low, drawn.high) == (pytest.approx(student.low, rel=0.02), pytest.approx(student.high, rel=0.02))


def test_same_seed_same_interval() -> None:
    runs = np.array([1.0, 5.0, 2.0, 9.0])
    first, again, other = (bootstrap_interval(runs, np.random.default_rng(seed), draws=50) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("values", "level", "field"),
    [([1.0], 0.95, "runs"), ([1.0, np.nan], 0.95, "runs"), ([1.0, 2.0], 1.0, "level"), ([1.0, 2.0], 0.0, "level")],
)
def test_what_gives_no_interval_is_refused(values: list[float], level: float, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        student_interval(np.array(values), level)
    assert caught.value.field == field
    with pytest.raises(SpecError):
        bootstrap_interval(np.array(values), np.random.default_rng(0), level)


def test_no_draw_is_refused() -> None:
    with pytest.raises(SpecError, match="at least 1"):
        bootstrap_interval(np.array([1.0, 2.0]), np.random.default_rng(0), draws=0)
