"""Error figures: by hand, and what must hold of any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.records import array
from cosim.validation.statistics import errors, macro_median, summary

POSITIVE = st.floats(1e-6, 1e6)
PAIRS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20)
FIGURES = {"median_abs_error", "mean_abs_error", "p90_abs_error", "bias", "median_abs_log_error"}


def test_an_error_is_the_share_by_which_the_prediction_is_too_high() -> None:
    assert errors(array([1.5, 0.5, 2.0]), array([1.0, 1.0, 2.0])).tolist() == [0.5, -0.5, 0.0]


def test_figures_worked_by_hand() -> None:
    # Errors +100 %, -50 %, +10 %, 0: sizes 0, .1, .5, 1 -> median .3, mean .4; 90 % lies at .7 between .5 and 1.
    # |log ratio| ln 2, ln 2, ln 1.1, 0 -> median (ln 1.1 + ln 2) / 2; signed -.5, 0, .1, 1 -> median .05.
    found = summary([2.0, 1.0, 1.1, 3.0], [1.0, 2.0, 1.0, 3.0])
    assert found["evaluated"] == 4
    assert found["median_abs_error"] == pytest.approx(0.3)
    assert found["mean_abs_error"] == pytest.approx(0.4)
    assert found["p90_abs_error"] == pytest.approx(0.85)
    assert found["bias"] == pytest.approx(0.05)
    assert found["median_abs_log_error"] == pytest.approx((math.log(1.1) + math.log(2.0)) / 2)


def test_no_rows_have_no_figures() -> None:
    assert summary([], []) == {"evaluated": 0, **dict.fromkeys(FIGURES)}
    assert macro_median({}) is None
    assert macro_median({"a": []}) is None


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS)
def test_a_perfect_prediction_has_no_error(pairs: list[tuple[float, float]]) -> None:
    measured = [m for _, m in pairs]
    found = summary(measured, measured)
    assert {found[name] for name in FIGURES} == {0.0}


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS, unit=st.floats(1e-3, 1e3))
def test_figures_do_not_depend_on_the_unit_or_the_order(pairs: list[tuple[float, float]], unit: float) -> None:
    plain = summary([p for p, _ in pairs], [m for _, m in pairs])
    scaled = summary([p * unit for p, _ in reversed(pairs)], [m * unit for _, m in reversed(pairs)])
    for name in FIGURES:
        assert scaled[name] == pytest.approx(plain[name], rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS)
def test_twice_as_much_as_predicted_and_half_as_much_are_equally_wrong_in_logarithms(
    pairs: list[tuple[float, float]],
) -> None:
    one = summary([p for p, _ in pairs], [m for _, m in pairs])["median_abs_log_error"]
    other = summary([m for _, m in pairs], [p for p, _ in pairs])["median_abs_log_error"]
    assert one == pytest.approx(other, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS)
def test_the_median_and_the_ninetieth_percentile_lie_within_the_errors(pairs: list[tuple[float, float]]) -> None:
    predicted, measured = zip(*pairs, strict=True)
    sizes = np.abs(errors(array(predicted), array(measured)))
    found = summary(predicted, measured)
    assert sizes.min() <= found["median_abs_error"] <= found["p90_abs_error"] <= sizes.max()
    assert sizes.min() * (1 - 1e-12) <= found["mean_abs_error"] <= sizes.max() * (1 + 1e-12)


def test_a_group_counts_once_however_many_rows_it_has() -> None:
    # Medians of sizes: .1 and .5; their mean is .3, whatever the number of rows.
    few = {"a": [0.1], "b": [-0.5]}
    many = {"a": [0.1] * 99, "b": [0.5, -0.5, -0.5]}
    assert macro_median(few) == pytest.approx(0.3)
    assert macro_median(many) == pytest.approx(0.3)
