"""Capacity by bisection: where it must lie, that it never falls, the same twice, what it says where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.settings import Cluster
from cosim.errors import SpecError
from cosim.explore.serving.capacity import Capacity, Trial, broken_by, capacity
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.simulated import Requests, Seen, at_rate, poisson_requests

Make = Callable[..., Cluster]
FEW = settings(max_examples=8, deadline=None)


def requests(count: int = 200, seed: int = 0) -> Requests:
    return poisson_requests(100, 20, count, seed)


def found(cluster: Cluster, limits: Limits, first: float = 10.0, statistic: str = "p90") -> Capacity:
    return capacity(cluster, requests(), limits, statistic, first)


def test_it_lies_between_the_last_that_kept_and_the_first_that_broke(even_cluster: Make) -> None:
    limits = Limits(ttft_limit_s=0.2, tpot_limit_s=0.05)
    one = found(even_cluster(), limits)
    assert 0.0 < one.above - one.rate <= 0.01 * one.rate
    by_rate = {trial.rate: trial for trial in one.trials}
    assert by_rate[one.rate].broken == ""
    assert by_rate[one.above].broken == one.broken != ""
    assert one.at is by_rate[one.rate].seen
    assert one.at.ttft_s["p90"] <= 0.2
    # Eight at once in steps of little over 10 ms, 20 of them for an answer: no more than 8 / 0.2 s.
    assert 10.0 < one.rate < 40.0


@FEW
@given(first=st.floats(0.5, 200.0))
def test_wherever_it_starts_it_ends_near(even_cluster: Make, first: float) -> None:
    limits = Limits(ttft_limit_s=0.2)
    assert found(even_cluster(), limits, first).rate == pytest.approx(found(even_cluster(), limits).rate, rel=0.05)


@FEW
@given(first=st.floats(0.05, 1.0), second=st.floats(0.05, 1.0))
def test_looser_limits_never_have_less(even_cluster: Make, first: float, second: float) -> None:
    tight, loose = sorted((first, second))
    rates = [found(even_cluster(), Limits(ttft_limit_s=limit)).rate for limit in (tight, loose)]
    assert rates[0] <= rates[1] * 1.011


@FEW
@given(scale=st.floats(0.3, 1.0))
def test_faster_steps_or_more_replicas_never_have_less(even_cluster: Make, scale: float) -> None:
    limits = Limits(ttft_limit_s=0.3, tpot_limit_s=0.03)
    plain = found(even_cluster(), limits).rate
    assert found(even_cluster(scale), limits).rate >= plain * 0.989
    assert found(even_cluster(scale, replicas=2), limits).rate >= 1.5 * plain


def test_the_same_seed_has_the_same_answer(even_cluster: Make) -> None:
    limits = Limits(ttft_limit_s=0.2)
    assert found(even_cluster(), limits) == found(even_cluster(), limits)
    other = capacity(even_cluster(), requests(seed=1), limits, "p90", 10.0)
    assert other.rate != found(even_cluster(), limits).rate


def test_higher_statistics_have_less(even_cluster: Make) -> None:
    limits = Limits(ttft_limit_s=0.2)
    rates = [found(even_cluster(), limits, statistic=name).rate for name in ("p50", "p90", "p99")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_without_limits_requests_may_not_pile_up(even_cluster: Make) -> None:
    one = found(even_cluster(), Limits())
    assert one.broken == "queue"
    assert at_rate(even_cluster(), requests(), one.rate, 0).kept_up
    assert not at_rate(even_cluster(), requests(), 1.2 * one.above, 0).kept_up


def test_a_limit_that_a_lone_request_breaks_leaves_nothing(even_cluster: Make) -> None:
    one = found(even_cluster(), Limits(tpot_limit_s=0.001))
    assert (one.rate, one.broken, one.at) == (0.0, "tpot_limit", None)
    assert len(one.trials) <= 14
    assert found(even_cluster(), Limits(ttft_limit_s=0.001)).broken == "ttft_limit"


def test_the_first_limit_that_is_broken_is_named(even_cluster: Make) -> None:
    seen = at_rate(even_cluster(), requests(), 1000.0, 0)
    assert isinstance(seen, Seen)
    assert broken_by(seen, Limits(ttft_limit_s=0.01, tpot_limit_s=0.01), "p50") == "ttft_limit"
    assert broken_by(seen, Limits(tpot_limit_s=0.01), "p50") == "tpot_limit"
    assert broken_by(seen, Limits(tpot_limit_s=10.0), "p50") == "queue"
    assert Trial(1.0, seen, "queue").broken == "queue"


@pytest.mark.parametrize(
    ("statistic", "first", "tolerance", "words"),
    [
        ("p80", 1.0, 0.01, "statistic: is no statistic .*p90"),
        ("p90", 0.0, 0.01, "first: is not such a number"),
        ("p90", float("nan"), 0.01, "first: is not such a number"),
        ("p90", 1.0, 0.0, "tolerance: is not such a number"),
    ],
)
def test_what_cannot_be_asked(even_cluster: Make, statistic: str, first: float, tolerance: float, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        capacity(even_cluster(), requests(20), Limits(), statistic, first, tolerance=tolerance)


def test_the_capacity_of_one_server_by_hand(even_cluster: Make) -> None:
    # Mean time to the first token 0.012 + rho S / (2 (1 - rho)) of S = 0.2024 s: at 0.112 s rho is 0.497.
    took, limit = 0.012 + 19 * 0.01002, 0.112
    wait = limit - 0.012
    load = 2.0 * wait / (took + 2.0 * wait)
    many = poisson_requests(100, 20, 4000, 0)
    one = capacity(even_cluster(most=1), many, Limits(ttft_limit_s=limit), "mean", 1.0, tolerance=0.02)
    assert one.rate == pytest.approx(load / took, rel=0.1)
    assert one.statistic == "mean"


def test_what_is_tried_is_tried_once(even_cluster: Make) -> None:
    one = found(even_cluster(), Limits(ttft_limit_s=0.2))
    rates = [trial.rate for trial in one.trials]
    assert len(rates) == len(set(rates))
    kept = {trial.rate for trial in one.trials if not trial.broken}
    assert max(kept) == one.rate
    assert one.above == min(set(rates) - kept)


@pytest.mark.parametrize("tolerance", [0.3, 0.1, 0.03])
def test_a_smaller_share_takes_more_trials(even_cluster: Make, tolerance: float) -> None:
    limits = Limits(ttft_limit_s=0.2)
    rough = capacity(even_cluster(), requests(), limits, "p90", 10.0, tolerance=tolerance)
    fine = capacity(even_cluster(), requests(), limits, "p90", 10.0, tolerance=tolerance / 3.0)
    assert len(rough.trials) < len(fine.trials)
    assert rough.rate <= fine.rate <= fine.above <= rough.above
    assert rough.above - rough.rate <= tolerance * rough.rate
