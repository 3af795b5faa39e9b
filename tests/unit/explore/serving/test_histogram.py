"""The histogram: percentiles within 0.5 % of the exact ones, merging is counting together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.serving.histogram import BINS, ERROR, HIGH, LOW, Histogram, counted, empty, merged, quantile

VALUES = st.lists(st.floats(LOW, HIGH), min_size=1, max_size=40)
WEIGHTED = st.lists(st.tuples(st.floats(LOW, HIGH), st.integers(0, 500)), min_size=1, max_size=40)
SHARES = (0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0)


def exact(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The same definition on the values themselves."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1], side="left")])


@given(WEIGHTED, st.floats(0.001, 0.999))
def test_percentiles_of_weighted_values_are_within_the_bound(rows: list[tuple[float, int]], share: float) -> None:
    values, weights = np.array(rows).T
    found = quantile(counted(empty(), values, weights), share)
    if not weights.any():
        assert math.isnan(found)
        return
    wanted = [exact(values[weights > 0], weights[weights > 0], near) for near in (share * (1 - 1e-9), share)]
    assert any(abs(found / each - 1.0) <= ERROR for each in wanted)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_percentiles_of_many_values_are_those_of_numpy(share: float, spread: float) -> None:
    values = np.random.default_rng(0).lognormal(math.log(0.02), spread, 20_000)
    found = quantile(counted(empty(), values), share)
    assert found == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=ERROR)


@given(WEIGHTED, st.integers(0, 40))
def test_merging_is_counting_together(rows: list[tuple[float, int]], cut: int) -> None:
    values, weights = np.array(rows).T
    whole = counted(empty(), values, weights)
    parts = [counted(empty(), values[chosen], weights[chosen]) for chosen in (slice(cut), slice(cut, None))]
    for both in (merged(*parts), merged(*reversed(parts)), counted(parts[0], values[cut:], weights[cut:])):
        assert both.weights.tolist() == whole.weights.tolist()
        assert (both.total, both.smallest, both.largest) == (whole.total, whole.smallest, whole.largest)
        assert both.weighted_sum == pytest.approx(whole.weighted_sum)


@given(VALUES)
def test_a_weight_is_as_many_values(values: list[float]) -> None:
    once = counted(empty(), np.repeat(values, 3))
    assert counted(empty(), np.array(values), 3.0).weights.tolist() == once.weights.tolist()


def test_the_mean_and_the_range_are_exact() -> None:
    found = counted(empty(), np.array([0.5, 2.0]), np.array([3.0, 1.0]))
    assert (found.mean, found.total) == (3.5 / 4, 4.0)
    assert (quantile(found, 0.0), quantile(found, 1.0)) == (0.5, 2.0)
    assert quantile(found, 0.75) == pytest.approx(0.5, rel=ERROR)
    assert quantile(found, 0.76) == pytest.approx(2.0, rel=ERROR)


def test_one_value_is_every_percentile_exactly() -> None:
    found = counted(empty(), np.array([0.0173]))
    assert {quantile(found, share) for share in SHARES} == {0.0173}


def test_every_bin_is_as_wide_as_the_bound_allows() -> None:
    edges = LOW * (HIGH / LOW) ** np.linspace(0, 1, 5 * BINS)
    worst = max(
        abs(quantile(Histogram(counted(empty(), edge).weights, 1.0, 0.0, 0.0, math.inf), 0.5) / edge[0] - 1)
        for edge in np.split(edges[::7], len(edges[::7]))
    )
    assert 0.8 * ERROR < worst <= ERROR


def test_what_is_outside_is_counted_in_the_first_or_last_bin() -> None:
    found = counted(empty(), np.array([0.0, LOW / 100, 10 * HIGH]))
    assert (found.total, found.weights[0], found.weights[-1]) == (3.0, 2.0, 1.0)
    assert (quantile(found, 0.0), quantile(found, 1.0)) == (0.0, 10 * HIGH)


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(quantile(empty(), 0.5))
    assert math.isnan(empty().mean)
    assert counted(empty(), np.array([]), np.array([])).total == 0.0


@pytest.mark.parametrize(
    ("values", "weights"), [([-1.0], 1.0), ([np.nan], 1.0), ([np.inf], 1.0), ([1.0], -1.0), ([1.0], np.inf)]
)
def test_what_is_no_latency_is_refused(values: list[float], weights: float) -> None:
    with pytest.raises(SpecError, match="finite and at least 0"):
        counted(empty(), np.array(values), weights)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(SpecError, match="share from 0 to 1"):
        quantile(counted(empty(), np.array([1.0])), share)
