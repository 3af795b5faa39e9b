"""Latencies counted in chunks: as all at once, in bins as exact ones, limits, warm-up, nothing at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.explore.serving.histogram import ERROR
from cosim.explore.serving.metrics import Limits, metrics_row, percentiles
from cosim.explore.serving.records import Served, where
from cosim.explore.serving.tally import SHARES, SHOWN, Tally, of_histogram

Made = Callable[..., Served]


def drawn(served: Made, count: int, seed: int) -> Served:
    random = np.random.default_rng(seed)
    arrival = np.cumsum(random.exponential(0.1, count))
    scheduled = arrival + random.exponential(0.2, count)
    first = scheduled + random.exponential(0.3, count)
    output = random.integers(1, 200, count)
    finished = first + (output - 1.0) * random.uniform(0.01, 0.05, count)
    return served(
        count,
        arrival_s=arrival,
        scheduled_s=scheduled,
        first_token_s=first,
        finished_s=finished,
        output_tokens=output,
        prompt_tokens=random.integers(1, 1000, count),
    )


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 99))
def test_chunks_count_as_all_at_once(served: Made, cuts: list[int], seed: int) -> None:
    whole = drawn(served, 300, seed)
    limits = Limits(ttft_limit_s=0.5, tpot_limit_s=0.04)
    tally = Tally(limits)
    edges = [0, *sorted(cuts), 300]
    for start, stop in itertools.pairwise(edges):
        tally.add(where(whole, np.arange(start, stop)))
    rates, expected = tally.rates(), metrics_row(whole, limits)
    for name in ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s", "good_tokens_per_s", "good_share"):
        assert getattr(rates, name) == pytest.approx(expected[name])
    found = tally.percentiles()
    for name in SHOWN:
        for statistic in ("p50", "p90", "p99", "mean", "max"):
            assert found[f"{name}.{statistic}"] == pytest.approx(expected[f"{name}.{statistic}"])
    assert tally.error == 0.0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), exact=st.integers(0, 900))
def test_bins_are_within_their_error_wherever_they_begin(served: Made, seed: int, exact: int) -> None:
    whole = drawn(served, 1000, seed)
    tally, sharp = Tally(Limits(), exact=exact), Tally(Limits())
    for start in range(0, 1000, 100):
        part = where(whole, np.arange(start, start + 100))
        tally.add(part)
        sharp.add(part)
    assert (tally.error, sharp.error) == (ERROR, 0.0)
    rough, fine = tally.percentiles(), sharp.percentiles()
    for name in SHOWN:
        assert rough[f"{name}.mean"] == pytest.approx(fine[f"{name}.mean"])
        assert rough[f"{name}.max"] == pytest.approx(fine[f"{name}.max"])
        # A histogram takes the order statistic, the exact one a point between two.
        assert rough[f"{name}.p50"] == pytest.approx(fine[f"{name}.p50"], rel=0.03)
    assert tally.rates() == sharp.rates()
    assert len(tally.distribution("ttft_s")) == len(SHARES)
    assert np.all(np.diff(tally.distribution("ttft_s")) >= 0.0)


def test_by_hand(served: Made) -> None:
    # Four requests, one a second: first token after 2 s, 10 tokens in the 10 s after it.
    tally = Tally(Limits(tpot_limit_s=1.0))
    tally.add(served())
    rates, found = tally.rates(), tally.percentiles()
    assert (rates.counted, rates.span_s) == (4, 15.0)  # from 0 to 3 + 12
    assert rates.output_tokens_per_s == 44 / 15
    assert rates.total_tokens_per_s == 444 / 15
    assert found["ttft_s.p99"] == 2.0
    assert found["tpot_s.p50"] == 1.0
    assert found["tpot_with_first_s.mean"] == pytest.approx(12 / 11)
    assert found["queueing_s.max"] == 1.0
    assert rates.good_share == 1.0
    strict = Tally(Limits(tpot_limit_s=0.99))
    strict.add(served())
    assert strict.rates().good_tokens_per_s == 0.0


def test_what_came_before_the_warm_up_was_over_is_left_out(served: Made) -> None:
    tally = Tally(Limits(), warm_up_s=2.0)
    tally.add(served())
    assert (tally.served, tally.count) == (4, 2)
    assert tally.rates().span_s == 13.0  # from 2 to 15


def test_nothing_has_no_latency(served: Made) -> None:
    tally = Tally(Limits(), warm_up_s=100.0)
    assert np.isnan(tally.rates().good_share)
    tally.add(served())
    assert np.isnan(tally.percentiles()["ttft_s.p50"])
    assert tally.distribution("ttft_s") == []


def test_a_single_token_has_no_next_one(served: Made) -> None:
    one = served(3, output_tokens=np.ones(3), finished_s=np.arange(3.0) + 2.0)
    for exact in (0, 10):
        tally = Tally(Limits(tpot_limit_s=0.1), exact=exact)
        tally.add(one)
        assert np.isnan(tally.percentiles()["tpot_s.p50"])
        assert tally.rates().good_share == 1.0


def test_statistics_of_a_histogram_bear_the_names_of_exact_ones() -> None:
    from cosim.explore.serving.histogram import counted, empty

    values = np.array([0.1, 0.2, 0.4])
    found = of_histogram(counted(empty(), values))
    assert found.keys() == percentiles(values).keys()
    assert found["max"] == 0.4
    assert np.isnan(of_histogram(empty())["max"])
