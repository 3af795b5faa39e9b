"""Arrivals from gaps and rates: they rise, their rates and bursts are those asked, zero rates are pauses."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.records import Array
from cosim.workload.requests.rates import BATCH, Segment, arrivals, constant, gamma_gaps, on_off, periodic

RATES = st.lists(st.tuples(st.floats(0.01, 50), st.just(0.0) | st.floats(0.01, 50)), min_size=1, max_size=8)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ones(chunks: int = 1, size: int = BATCH) -> Iterator[Array]:
    return (np.ones(size) for _ in range(chunks))


def times(gaps: Iterable[Array], segments: Iterable[Segment]) -> Array:
    return np.concatenate([np.empty(0), *arrivals(gaps, segments)])


@given(RATES)
def test_even_gaps_come_when_the_integral_of_the_rate_is_whole(pieces: list[tuple[float, float]]) -> None:
    segments = [Segment(duration, rate) for duration, rate in pieces]
    found = times(ones(1, 200), segments)
    edges = np.cumsum([0.0] + [duration for duration, _ in pieces])
    areas = np.cumsum([0.0] + [duration * rate for duration, rate in pieces])
    assert np.all(np.diff(found) >= 0.0)
    assert abs(len(found) - min(200, int(areas[-1] + 1e-9))) <= 1
    assert np.allclose(np.interp(found, edges, areas), np.arange(1, len(found) + 1), rtol=1e-9)


@given(RATES, st.integers(1, 50), st.integers(0, 9))
def test_the_cut_of_the_gaps_is_no_matter(pieces: list[tuple[float, float]], size: int, seed: int) -> None:
    gaps = generator(seed).standard_exponential(120)
    segments = [Segment(duration, rate) for duration, rate in pieces]
    parts = (gaps[start : start + size] for start in range(0, 120, size))
    assert times(parts, segments).tolist() == times(iter([gaps]), segments).tolist()


def test_one_request_a_second() -> None:
    assert times(ones(1, 3), constant(1.0)).tolist() == [1.0, 2.0, 3.0]
    assert times(ones(2, 2), constant(4.0)).tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_pause_shifts_what_comes_after_it() -> None:
    segments = [Segment(2.5, 1.0), Segment(10.0, 0.0), Segment(2.0, 1.0)]
    assert times(ones(1, 9), segments).tolist() == [1.0, 2.0, 13.0, 14.0]


def test_gaps_of_nothing_in_a_pause_come_at_its_start() -> None:
    assert times([np.array([0.0, 1.0])], [Segment(5.0, 0.0), Segment(5.0, 1.0)]).tolist() == [0.0, 6.0]


@pytest.mark.parametrize("cv", [0.0, 0.3, 1.0, 3.0])
def test_gaps_have_mean_one_and_the_variation_asked(cv: float) -> None:
    drawn = np.concatenate(list(islice(gamma_gaps(generator(1), cv), 100)))
    # Five standard errors of the mean; the deviation of a gamma's variance goes with its kurtosis.
    assert drawn.mean() == pytest.approx(1.0, abs=5 * cv / len(drawn) ** 0.5 + 1e-12)
    assert drawn.std() == pytest.approx(cv, rel=0.05)
    assert np.all(drawn >= 0.0)


def test_poisson_counts_have_the_variance_of_their_mean() -> None:
    found = times(islice(gamma_gaps(generator(2), 1.0), 25), constant(10.0))
    counts = np.histogram(found, bins=np.arange(0.0, found[-1], 1.0))[0]
    assert counts.mean() == pytest.approx(10.0, rel=0.02)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.06)


def test_a_day_repeats() -> None:
    found = times(islice(gamma_gaps(generator(3), 1.0), 50), periodic(24.0, [0.0, 100.0, 300.0]))
    whole = found[found < 24.0 * int(found[-1] / 24.0)]
    shares = np.histogram(whole % 24.0, bins=[0, 8, 16, 24])[0] / len(whole)
    assert shares == pytest.approx([0.0, 0.25, 0.75], abs=0.01)
    assert len(whole) / int(found[-1] / 24.0) == pytest.approx(8 * 400.0, rel=0.02)


def test_bursts_have_the_mean_rate_of_both_states_and_more_variance_than_poisson() -> None:
    segments = on_off(generator(4), Segment(2.0, 30.0), Segment(6.0, 2.0))
    found = times(islice(gamma_gaps(generator(5), 1.0), 40), segments)
    # (2 x 30 + 6 x 2) / 8
    assert len(found) / found[-1] == pytest.approx(9.0, rel=0.05)
    counts = np.histogram(found, bins=np.arange(0.0, found[-1], 1.0))[0]
    assert counts.var() / counts.mean() > 5.0


def test_states_begin_as_often_as_they_last() -> None:
    on, off = Segment(1.0, 5.0), Segment(3.0, 0.0)
    first = [next(on_off(generator(seed), on, off)).rate for seed in range(2000)]
    assert np.mean(np.array(first) == 5.0) == pytest.approx(0.25, abs=0.04)
    rates = [segment.rate for segment in islice(on_off(generator(), on, off), 6)]
    assert all(before != after for before, after in pairwise(rates))


def test_memory_is_of_the_segments_in_use() -> None:
    # Two thousand segments a batch, twenty batches: all of them at once would be above 8 MB.
    stream = arrivals(ones(20, 20), (Segment(0.01, 1.0) for _ in range(10**9)))
    tracemalloc.start()
    try:
        last = [float(chunk[-1]) for chunk in stream]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last == pytest.approx(np.arange(20.0, 401.0, 20.0))
    assert peak < 2e6


def test_the_same_seed_is_the_same_bytes_and_another_is_not() -> None:
    first, again, other = (times(islice(gamma_gaps(generator(seed), 2.0), 2), constant(3.0)) for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes() != other.tobytes()
