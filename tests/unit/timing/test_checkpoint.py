"""When to save: the exact optimum is one, the known rules come near it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.records import array
from cosim.timing.checkpoint import best_interval, daly, young

MTBF = st.floats(min_value=60.0, max_value=1e7)
SHARE = st.floats(min_value=1e-6, max_value=3.0)


def overhead(interval: float, save: float, mtbf: float) -> float:
    """Time of a piece of work over it, but for what no interval changes."""
    return mtbf * math.expm1((interval + save) / mtbf) / interval


@given(MTBF, SHARE)
def test_nothing_beats_the_best_interval(mtbf: float, share: float) -> None:
    save = share * mtbf
    best = float(best_interval(array(save), array(mtbf)))
    least = overhead(best, save, mtbf)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert overhead(factor * best, save, mtbf) >= least
    assert overhead(2.0 * best, save, mtbf) > least < overhead(0.5 * best, save, mtbf)


@given(MTBF, st.floats(min_value=1e-6, max_value=0.5))
def test_daly_is_nearer_to_the_best_than_young(mtbf: float, share: float) -> None:
    save = share * mtbf
    best = best_interval(array(save), array(mtbf))
    assert abs(daly(array(save), array(mtbf)) - best) < abs(young(array(save), array(mtbf)) - best)
    assert float(daly(array(save), array(mtbf))) == pytest.approx(float(best), rel=0.02)


@given(MTBF, SHARE, st.floats(min_value=1.01, max_value=10.0))
def test_a_dearer_checkpoint_or_rarer_failures_mean_a_longer_interval(mtbf: float, share: float, more: float) -> None:
    save = share * mtbf
    for rule in (young, best_interval):
        assert rule(array(more * save), array(mtbf)) > rule(array(save), array(mtbf))
        assert rule(array(save), array(more * mtbf)) > rule(array(save), array(mtbf))


def test_numbers_by_hand() -> None:
    # C = 2 min, M = 4 h: sqrt(2 x 120 x 14,400) = 1,859.03; part = sqrt(120 / 28,800) = .0645497
    assert float(young(array(120.0), array(14400.0))) == pytest.approx(1859.03, abs=0.01)
    factor = 1.0 + 0.0645497 / 3.0 + 120.0 / 28800.0 / 9.0
    assert float(daly(array(120.0), array(14400.0))) == pytest.approx(1859.03 * factor - 120.0, abs=0.05)


def test_a_checkpoint_that_takes_twice_the_time_between_failures_is_as_far_apart_as_they_are() -> None:
    assert float(daly(array(200.0), array(100.0))) == 100.0
    assert float(daly(array(1000.0), array(100.0))) == 100.0
    assert float(daly(array(199.9), array(100.0))) < 141.0


def test_a_tiny_checkpoint_keeps_its_digits_and_all_take_arrays() -> None:
    save, mtbf = np.array([1e-9, 0.9e-4, 1.1e-4]), array(1e4)
    found = best_interval(save, mtbf)
    by_series = young(save, mtbf) * (1.0 - 2.0 / 3.0 * np.sqrt(save / (2.0 * mtbf)))
    assert found == pytest.approx(by_series, rel=1e-7)
    assert np.all(np.diff(found) > 0.0)
