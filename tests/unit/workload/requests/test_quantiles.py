"""Quantile functions: they rise, and their means and tails are those of the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cosim.records import Array
from cosim.workload.requests import quantiles

# The middles of a fine grid: their mean is the integral, without sampling error.
GRID = (np.arange(200_000) + 0.5) / 200_000
SHAPES: dict[str, Callable[[Array], Array]] = {
    "lognormal": lambda u: quantiles.lognormal(u, 500.0, 1.5),
    "normal": lambda u: quantiles.normal(u, 500.0, 100.0),
    "uniform": lambda u: quantiles.uniform(u, 3, 900),
    "zipf": lambda u: quantiles.zipf(u, 1.2, 2, 4000),
    "pareto": lambda u: quantiles.pareto(u, 1.5, 10.0, 4000.0),
    "table": lambda u: quantiles.table(u, np.array([0.0, 0.5, 1.0]), np.array([1.0, 10.0, 400.0])),
}


@pytest.mark.parametrize("name", SHAPES)
@given(shares=st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=2, max_size=20))
def test_values_rise_with_their_share(name: str, shares: list[float]) -> None:
    values = SHAPES[name](np.sort(np.array(shares)))
    assert np.all(values[1:] >= values[:-1])
    assert np.all(quantiles.tokens(values) >= 1)


def test_a_lognormal_has_the_mean_and_variation_asked() -> None:
    values = quantiles.lognormal(GRID, 500.0, 1.5)
    assert values.mean() == pytest.approx(500.0, rel=1e-3)
    assert values.std() / values.mean() == pytest.approx(1.5, rel=0.01)
    # Its median is the mean over sqrt(1 + cv^2).
    assert float(quantiles.lognormal(np.array([0.5]), 500.0, 1.5)[0]) == pytest.approx(500.0 / math.sqrt(3.25))


def test_a_normal_has_the_mean_and_deviation_asked() -> None:
    values = quantiles.normal(GRID, 500.0, 100.0)
    assert (values.mean(), values.std()) == (pytest.approx(500.0), pytest.approx(100.0, rel=1e-3))


def test_all_counts_of_a_uniform_range_are_as_likely() -> None:
    found, counts = np.unique(quantiles.uniform(GRID, 5, 9), return_counts=True)
    assert found.tolist() == [5, 6, 7, 8, 9]
    assert counts.tolist() == [40_000] * 5


def test_zipf_weights_by_hand() -> None:
    # 1, 1/2, 1/3, 1/4 over their sum 25/12.
    _, counts = np.unique(quantiles.zipf(GRID, 1.0, 1, 4)[GRID < 0.999999], return_counts=True)
    shares = counts / counts.sum()
    assert shares == pytest.approx(np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (25 / 12), rel=1e-4)
    assert quantiles.zipf(np.array([0.0, np.nextafter(1.0, 0.0)]), 2.0, 3, 8).tolist() == [3.0, 8.0]


@pytest.mark.parametrize("exponent", [0.5, 1.5, 3.0])
def test_pareto_is_the_inverse_of_its_distribution(exponent: float) -> None:
    low, high = 10.0, 1000.0
    values = quantiles.pareto(GRID, exponent, low, high)
    reached = (1 - (low / values) ** exponent) / (1 - (low / high) ** exponent)
    assert np.allclose(reached, GRID, atol=1e-12)
    assert low <= values.min() <= values.max() <= high


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=12))
def test_a_table_has_the_mean_of_its_lines(values: list[int]) -> None:
    shares, points = np.linspace(0.0, 1.0, len(values)), np.sort(np.array(values, dtype=float))
    drawn = quantiles.table(GRID, shares, points)
    assert drawn.mean() == pytest.approx(quantiles.table_mean(shares, points), rel=1e-6)


@given(st.lists(st.floats(1, 1000), min_size=2, max_size=8), st.floats(1.0, 3.0))
def test_a_table_is_closed_so_that_it_has_the_mean(values: list[float], factor: float) -> None:
    points = np.sort(np.array(values))
    shares = np.linspace(0.05, 0.99, len(points))
    open_mean = quantiles.table_mean(*quantiles.closed_table(shares, points, 0.0))
    # A mean below that of a flat end cannot be reached; one above it is.
    wanted = open_mean * factor
    assume(wanted > open_mean * (1 + 1e-9) or factor == 1.0)
    closed = quantiles.closed_table(shares, points, wanted)
    assert (closed[0][0], closed[0][-1], closed[1][0]) == (0.0, 1.0, points[0])
    assert np.all(np.diff(closed[1]) >= 0.0)
    assert quantiles.table_mean(*closed) == pytest.approx(wanted, rel=1e-9)


def test_counts_are_whole_and_at_least_one() -> None:
    assert quantiles.tokens(np.array([-5.0, 0.4, 1.6, 7.0])).tolist() == [1, 1, 2, 7]


@pytest.mark.parametrize("rank", [-1.0, -0.4, 0.0, 0.6, 1.0])
def test_ranks_are_correlated_as_asked_and_shares_stay_uniform(rank: float) -> None:
    generator = np.random.default_rng(0)
    first, own = generator.random(40_000), generator.random(40_000)
    second = quantiles.correlated(first, own, rank)
    assert spearmanr(first, second).statistic == pytest.approx(rank, abs=0.02)
    assert np.histogram(second, bins=10, range=(0, 1))[0] / 40_000 == pytest.approx([0.1] * 10, abs=0.01)
    assert np.all((second >= 0.0) & (second < 1.0))


def test_the_ends_of_a_correlated_share_are_numbers() -> None:
    ends = np.array([0.0, 0.0, np.nextafter(1.0, 0.0)])
    found = quantiles.correlated(ends, ends[::-1].copy(), -0.5)
    assert np.all((found >= 0.0) & (found < 1.0))
