"""What a token costs: by hand, its limits, and the price at which two chips tie."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.economics.price import (
    Serving,
    break_even_price,
    cost_per_million_tokens,
    energy_cost_per_token,
)

# 1,000 tokens/s for four years of 31,557,600 s; 0.72 J per token at 0.10 USD/kWh; 30,000 USD
H100 = Serving(1000.0, 0.72, 30_000.0, 0.10 / 3.6e6, 4.0)
POSITIVE = st.floats(1e-3, 1e6)
SERVINGS = st.builds(
    Serving,
    tokens_per_s=st.floats(1.0, 1e5),
    energy_per_token_j=st.floats(1e-3, 1e2),
    price_usd=st.floats(0.0, 1e6),
    energy_price_usd_per_j=st.floats(0.0, 1e-6),
    lifetime_years=st.floats(0.5, 10.0),
)


def test_tokens_of_a_life_by_hand() -> None:
    assert H100.life_tokens == pytest.approx(1.262304e11, rel=1e-12)  # 1000 x 4 x 365.25 x 86,400


def test_cost_by_hand() -> None:
    # energy: 0.72 J = 2e-7 kWh = 2e-8 USD; capital: 30,000 / 1.262304e11 = 2.3766e-7 USD; a million of both
    assert energy_cost_per_token(H100) == pytest.approx(2e-8, rel=1e-12)
    assert cost_per_million_tokens(H100) == pytest.approx(0.2376606 + 0.02, rel=1e-6)


def test_an_unknown_price_stays_unknown() -> None:
    assert cost_per_million_tokens(replace(H100, price_usd=None)) is None


def test_a_chip_for_nothing_costs_its_energy() -> None:
    assert cost_per_million_tokens(replace(H100, price_usd=0.0)) == pytest.approx(0.02, rel=1e-12)


def test_a_chip_that_burns_more_than_the_rival_costs_must_be_paid_for_running() -> None:
    # 0.02 USD of energy per million against 0.01 in all: 1e-8 USD lost on each of 1.262304e11 tokens
    assert break_even_price(H100, 0.01) == pytest.approx(-1262.304, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(serving=SERVINGS, rival=SERVINGS)
def test_at_the_break_even_price_both_cost_the_same(serving: Serving, rival: Serving) -> None:
    target = cost_per_million_tokens(rival)
    assert target is not None
    price = break_even_price(serving, target)
    energy = 1e6 * energy_cost_per_token(serving)
    tied = cost_per_million_tokens(replace(serving, price_usd=price))
    assert tied == pytest.approx(target, rel=1e-9, abs=1e-9 * energy)
    assert (price < 0.0) == (energy > target) or price == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(serving=SERVINGS, times=st.floats(1.5, 10.0))
def test_costs_scale_as_they_must(serving: Serving, times: float) -> None:
    def cost(**changes: float) -> float:
        found = cost_per_million_tokens(replace(serving, **changes))
        assert found is not None
        return found

    capital = cost(energy_price_usd_per_j=0.0)
    assert cost() == pytest.approx(capital + cost(price_usd=0.0), rel=1e-12)
    assert cost(energy_price_usd_per_j=0.0, tokens_per_s=serving.tokens_per_s * times) == pytest.approx(capital / times)
    assert cost(energy_price_usd_per_j=0.0, lifetime_years=serving.lifetime_years * times) == pytest.approx(
        capital / times
    )
    assert cost(price_usd=0.0, energy_per_token_j=serving.energy_per_token_j * times) == pytest.approx(
        times * cost(price_usd=0.0)
    )


@settings(max_examples=30, deadline=None)
@given(serving=SERVINGS, target=POSITIVE)
def test_the_break_even_price_does_not_depend_on_the_price(serving: Serving, target: float) -> None:
    assert break_even_price(serving, target) == break_even_price(replace(serving, price_usd=None), target)
