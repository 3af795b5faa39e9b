"""Requests at a rate: runs with and without an end, bursts, and as many in flight as limits let."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.served import Demand, Served, flight_steps, holds, in_flight
from cosim.engines.served_rate import offered, within
from cosim.records import Array, array

Serving = Callable[..., Case]
POLICIES = pytest.mark.parametrize("policy", ["chunked", "first"])
PROMPT, OUTPUT = 500.0, 100.0


def number(values: Array | float) -> float:
    """The only number, or the first."""
    return float(np.ravel(values)[0])


def demand(prompt: float, output: float, rates: Array | float, requests: float = np.inf, **more: Any) -> Demand:
    rate = np.atleast_1d(array(rates))
    whole = (np.full(rate.shape, value) for value in (prompt, output, np.nan))
    return Demand(*whole, rate=rate, requests=array(requests), **more)


def capacity(case: Case, prompt: float = PROMPT, output: float = OUTPUT) -> float:
    """Requests per second of as many in flight as the system holds."""
    return number(in_flight(case, Demand(array(prompt), array(output), array(np.nan))).rate)


def limited(case: Case, ttft: float = np.inf, tpot: float = np.inf) -> Case:
    return replace(case, scenario=replace(case.scenario, ttft_limit=array(ttft), tpot_limit=array(tpot)))


@POLICIES
def test_a_rate_below_capacity_is_served_and_one_above_is_not(serving: Serving, policy: str) -> None:
    case = serving(**{"stack.policy": policy})
    most = capacity(case)
    rates = most * np.array([0.05, 0.3, 0.6, 0.9, 2.0])
    endless = offered(case, demand(PROMPT, OUTPUT, rates))
    np.testing.assert_allclose(endless.rate[:4], rates[:4], rtol=1e-12)
    assert endless.rate[4] == pytest.approx(most, rel=0.06)
    assert np.all(np.diff(endless.ttft[:4]) > 0.0)
    assert np.all(np.isinf([endless.ttft[4], endless.waits[4], endless.e2e[4]]))
    assert np.isfinite(endless.tpot[4])


@POLICIES
def test_a_run_that_ends_waits_for_what_it_is_behind(serving: Serving, policy: str) -> None:
    case = serving(**{"stack.policy": policy})
    rates = capacity(case) * np.array([0.05, 0.3, 0.6, 0.9, 2.0])
    found = offered(case, demand(PROMPT, OUTPUT, rates, requests=10000.0))
    assert np.all(np.diff(found.ttft) > 0.0)
    # Ten thousand requests at twice the rate: the last is half of the run behind.
    assert found.waits[4] == pytest.approx(5000 * (1 / found.rate[4] - 1 / rates[4]), rel=0.1)


@POLICIES
@settings(max_examples=12, deadline=None)
@given(
    prompt=st.integers(1, 6000),
    output=st.integers(1, 600),
    requests=st.integers(1, 3000),
    share=st.floats(0.01, 30.0) | st.just(np.inf),
)
def test_every_run_ends_no_sooner_than_its_requests_have_come(
    serving: Serving, policy: str, prompt: int, output: int, requests: int, share: float
) -> None:
    case = serving(**{"stack.policy": policy})
    rate = share * capacity(case, prompt, output)
    found = offered(case, demand(prompt, output, rate, requests=requests))
    for name in Served.__slots__:
        value = number(getattr(found, name))
        assert np.isfinite(value)
        assert value >= 0.0
    assert number(found.rate) < rate
    assert number(found.e2e) == pytest.approx(number(found.ttft + max(output - 1.0, 0.0) * found.tpot))
    assert number(found.waits) <= number(found.ttft)
    assert number(found.held) <= number(holds(case, demand(prompt, output, rate)))


@POLICIES
@settings(max_examples=8, deadline=None)
@given(requests=st.integers(20, 900), share=st.floats(0.05, 0.8), more=st.floats(2.0, 50.0))
def test_a_longer_run_comes_nearer_to_the_rate_that_is_offered(
    serving: Serving, policy: str, requests: int, share: float, more: float
) -> None:
    case = serving(**{"stack.policy": policy})
    rate = share * capacity(case)
    short, long, endless = (
        offered(case, demand(PROMPT, OUTPUT, rate, requests=count)) for count in (requests, requests * more, np.inf)
    )
    assert number(short.rate) <= number(long.rate) * (1.0 + 1e-9)
    assert number(long.rate) <= number(endless.rate)
    assert number(endless.rate) == pytest.approx(rate)
    # Few random requests come sooner or later than their rate says.
    assert number(short.tpot) <= number(endless.tpot) * (1.0 + 0.5 / np.sqrt(requests))


@POLICIES
def test_a_burst_by_hand(serving: Serving, policy: str) -> None:
    case = serving(**{"stack.policy": policy, "stack.token_budget": 8192, "stack.request_start": 0.1})
    asked = demand(512.0, 200.0, np.inf, requests=160.0)
    burst = offered(case, asked)
    steps = flight_steps(case, replace(asked, alike=True), array(160.0))
    # 16 prompts fill a step: ten of them one after the other, and all prompts of a step end with it.
    assert number(steps.at_once) == 16.0
    assert number(steps.together) == pytest.approx(16.0, rel=0.05)
    fill = 160.0 * number(steps.least)
    assert number(burst.ttft) == pytest.approx(0.1 + (fill + number(steps.carried)) / 2.0, rel=0.02)
    assert number(burst.tpot) == pytest.approx(number(steps.step) + 80.0 * number(steps.extra) / 199.0, rel=0.02)
    assert number(burst.rate) == pytest.approx(160.0 / (0.1 + fill + 199.0 * number(steps.step)), rel=0.02)


@POLICIES
@pytest.mark.parametrize("requests", [1.0, 20.0, 500.0])
@pytest.mark.parametrize("sequences", [1024, 64])
@pytest.mark.parametrize("lengths", [(1000.0, 200.0), (2000.0, 100.0), (100.0, 1000.0), (4000.0, 50.0)])
def test_nothing_jumps_where_a_burst_begins(
    serving: Serving, policy: str, lengths: tuple[float, float], requests: float, sequences: int
) -> None:
    case = serving(**{"stack.policy": policy, "stack.request_start": 0.035, "stack.max_sequences": sequences})
    rates = capacity(case, *lengths) * np.geomspace(0.3, 4.0, 1000)
    found = offered(case, demand(*lengths, rates, requests=requests))
    # First tokens do not come sooner for more load, and both times go from one state to the other.
    assert np.all(np.diff(found.ttft) >= -2e-3 * found.ttft[:-1])
    assert np.all(np.abs(np.diff(np.log(found.tpot))) < 0.15)
    assert np.all(np.diff(found.rate) >= -0.02 * found.rate[:-1])
    assert np.all(found.ttft >= 0.035)


@settings(max_examples=15, deadline=None)
@given(requests=st.integers(1, 40), data=st.sampled_from([2, 8]), rate=st.floats(0.1, 1e3) | st.just(np.inf))
def test_fewer_requests_than_ranks_are_no_more_than_they_are(
    serving: Serving, requests: int, data: int, rate: float
) -> None:
    case = serving(data_parallel=data)
    found = offered(case, demand(PROMPT, OUTPUT, rate, requests=requests))
    one = in_flight(case, Demand(array(PROMPT), array(OUTPUT), array(1.0)))
    # None ends sooner than one alone, and all at once are as many in flight.
    assert number(found.rate) <= requests / number(one.e2e) * (1.0 + 1e-9)
    if rate == np.inf and requests <= data:
        same = in_flight(case, Demand(array(PROMPT), array(OUTPUT), array(float(requests))))
        assert number(found.rate) == pytest.approx(number(same.rate), rel=0.03)


def test_those_who_are_not_held_wait_for_an_end(serving: Serving) -> None:
    case = serving(**{"stack.max_sequences": 16})
    few, many = (offered(case, demand(PROMPT, OUTPUT, np.inf, requests=count)) for count in (16.0, 160.0))
    assert number(few.held) == number(many.held) == 16.0
    # Nine of ten begin as another ends.
    assert number(many.ttft) == pytest.approx(0.9 * 80.0 / capacity(case), rel=0.25)
    assert number(few.ttft) < 0.2 * number(many.ttft)
    assert number(many.rate) < capacity(case)


def test_little_load_is_one_request_alone(serving: Serving) -> None:
    alone = in_flight(serving(), Demand(array(PROMPT), array(OUTPUT), array(1.0)))
    for requests in (np.inf, 1e6):
        found = offered(serving(), demand(PROMPT, OUTPUT, 1e-6, requests=requests))
        assert number(found.ttft) == pytest.approx(number(alone.ttft), rel=1e-3)
        assert number(found.tpot) == pytest.approx(number(alone.tpot), rel=1e-3)


def test_replicas_share_a_run(serving: Serving) -> None:
    one, four = (offered(serving(data_parallel=d), demand(PROMPT, OUTPUT, 10.0 * d, requests=50.0 * d)) for d in (1, 4))
    assert number(four.rate) == pytest.approx(4 * number(one.rate))
    assert number(four.e2e) == pytest.approx(number(one.e2e))


def test_points_are_what_they_are_alone(serving: Serving) -> None:
    case, rates = serving(), array([1.0, 30.0, np.inf])
    together = offered(case, demand(PROMPT, OUTPUT, rates, requests=200.0))
    for index, rate in enumerate(rates):
        alone = offered(case, demand(PROMPT, OUTPUT, rate, requests=200.0))
        for name in Served.__slots__:
            assert number(getattr(together, name)[index]) == pytest.approx(number(getattr(alone, name)), rel=1e-12)


@POLICIES
@settings(max_examples=12, deadline=None)
@given(prompt=st.integers(1, 4000), output=st.integers(2, 600), tpot=st.floats(1e-3, 1.0), ttft=st.floats(1e-3, 100.0))
def test_limits_are_kept_by_all_that_can_keep_them(
    serving: Serving, policy: str, prompt: int, output: int, tpot: float, ttft: float
) -> None:
    case, asked = serving(**{"stack.policy": policy}), Demand(array(prompt), array(output), array(np.nan))
    alone = in_flight(case, replace(asked, concurrency=array(1.0)))
    kept = within(limited(case, ttft, tpot), asked)
    free, most = within(limited(case), asked), in_flight(case, asked)
    assert number(free.rate) == pytest.approx(number(most.rate))
    assert 1.0 <= number(kept.held) <= number(most.held)
    for value, limit in ((kept.tpot, tpot), (kept.ttft, ttft)):
        # Nobody is quicker than a request alone.
        least = max(limit, number(alone.tpot if value is kept.tpot else alone.ttft))
        assert number(value) <= least * 1.1
    looser = within(limited(case, 2.0 * ttft, 2.0 * tpot), asked)
    assert number(looser.held) >= number(kept.held) * (1.0 - 1e-9)


def test_a_limit_is_used_up(serving: Serving) -> None:
    asked = Demand(array(PROMPT), array(OUTPUT), array(np.nan))
    ends = [number(in_flight(serving(), replace(asked, concurrency=array(n))).tpot) for n in (1.0, np.nan)]
    middle = (ends[0] + ends[1]) / 2.0
    assert number(within(limited(serving(), tpot=middle), asked).tpot) == pytest.approx(middle, rel=0.05)
