"""Descriptions of lengths: each kind draws what it says, and a wrong one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cosim.errors import SpecError
from cosim.records import Array
from cosim.schema import Frozen, validated
from cosim.workload.requests.lengths import Length, length_at

GRID = (np.arange(50_000) + 0.5) / 50_000
KINDS: list[dict[str, Any]] = [
    {"kind": "fixed", "tokens": 128},
    {"kind": "uniform", "low": 10, "high": 20},
    {"kind": "uniform", "length": 1024, "ratio": 0.8},
    {"kind": "lognormal", "mean": 400.0, "cv": 1.2, "high": 4096},
    {"kind": "normal", "mean": 200.0, "deviation": 90.0, "low": 50, "high": 300},
    {"kind": "zipf", "exponent": 1.1, "low": 4, "high": 2048},
    {"kind": "pareto", "exponent": 1.1, "low": 4, "high": 2048},
    {"kind": "quantiles", "shares": [0.0, 0.5, 1.0], "tokens": [1, 100, 900]},
    {"kind": "quantiles", "shares": [0.05, 0.5, 0.99], "tokens": [10, 100, 900], "mean": 300.0},
]


class Holder(Frozen):
    """A file with one length."""

    length: Length


def read(raw: dict[str, Any]) -> Length:
    found: Length = TypeAdapter(Length).validate_python(raw)
    return found


def drawn(raw: dict[str, Any], u: Array = GRID) -> Array:
    return length_at(read(raw), u).astype(np.float64)


@pytest.mark.parametrize("raw", KINDS, ids=lambda raw: raw["kind"])
@given(shares=st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=1, max_size=10))
def test_counts_are_whole_at_least_one_and_rise(raw: dict[str, Any], shares: list[float]) -> None:
    values = length_at(read(raw), np.sort(np.array(shares)))
    assert values.dtype == np.int64
    assert np.all(values >= 1)
    assert np.all(np.diff(values) >= 0)


def test_a_fixed_length_is_always_the_same() -> None:
    assert set(drawn(KINDS[0]).tolist()) == {128.0}


def test_a_range_has_both_ends_and_its_middle_as_mean() -> None:
    values = drawn(KINDS[1])
    assert (values.min(), values.max(), values.mean()) == (10.0, 20.0, pytest.approx(15.0, abs=1e-3))


def test_a_ratio_goes_from_that_share_of_the_length_up_to_it() -> None:
    values = drawn(KINDS[2])
    # int(0.8 x 1024) = 819
    assert (values.min(), values.max(), values.mean()) == (819.0, 1024.0, pytest.approx(921.5, abs=0.1))


def test_draws_outside_the_bounds_are_put_on_them() -> None:
    values = drawn(KINDS[4])
    assert (values.min(), values.max()) == (50.0, 300.0)
    # Φ(-150/90) and 1 - Φ(100/90) of a standard normal; what rounds to the bound is there too.
    assert np.mean(values == 50.0) == pytest.approx(0.0478, abs=0.002)
    assert np.mean(values == 300.0) == pytest.approx(0.1333, abs=0.003)


def test_an_uncut_lognormal_has_its_mean() -> None:
    assert drawn({"kind": "lognormal", "mean": 400.0, "cv": 0.5}).mean() == pytest.approx(400.0, rel=2e-3)


def test_a_heavier_tail_has_a_smaller_exponent() -> None:
    means = [drawn({"kind": kind, "exponent": a, "high": 5000}).mean() for kind in ("zipf", "pareto") for a in (1, 2)]
    assert means[0] > 10 * means[1]
    assert means[2] > 2 * means[3]


def test_a_table_is_read_between_its_shares() -> None:
    assert drawn(KINDS[7], np.array([0.0, 0.25, 0.5, 0.75])).tolist() == [1.0, 50.0, 100.0, 500.0]


def test_a_table_that_stops_early_ends_where_its_mean_says() -> None:
    # Flat end: 0.05 x 10 + 0.45 x 55 + 0.49 x 500 + 0.01 x 900 = 279.25; 20.75 more over half of 0.01.
    assert drawn(KINDS[8], np.array([np.nextafter(1.0, 0)])).tolist() == [900.0 + 2 * 20.75 / 0.01]
    assert drawn(KINDS[8]).mean() == pytest.approx(300.0, rel=1e-3)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"kind": "uniform", "low": 5}, "no clear range"),
        ({"kind": "uniform"}, "no clear range"),
        ({"kind": "uniform", "low": 5, "high": 9, "length": 10, "ratio": 0.5}, "no clear range"),
        ({"kind": "uniform", "low": 5, "high": 9, "ratio": 0.5}, "no clear range"),
        ({"kind": "uniform", "low": 9, "high": 5}, "length.low: is above high"),
        ({"kind": "lognormal", "mean": 5, "cv": 1, "low": 9, "high": 5}, "length.low: is above high"),
        ({"kind": "zipf", "exponent": 1, "low": 9, "high": 5}, "length.low: is above high"),
        ({"kind": "quantiles", "shares": [0, 1], "tokens": [1]}, "length.tokens: has no value for every share"),
        ({"kind": "quantiles", "shares": [0, 0, 1], "tokens": [1, 2, 3]}, "length.shares: do not rise"),
        ({"kind": "quantiles", "shares": [0, 0.5, 1], "tokens": [1, 5, 3]}, "length.tokens: fall"),
        ({"kind": "quantiles", "shares": [0.1, 0.9], "tokens": [1, 5]}, "stop before 1 beside a mean"),
        ({"kind": "quantiles", "shares": [0, 1], "tokens": [1, 5], "mean": 3}, "stop before 1 beside a mean"),
        ({"kind": "fixed", "tokens": 0}, "length.tokens: "),
        ({"kind": "fixed"}, "length.tokens: is missing"),
        ({"kind": "fixed", "tokens": 5, "tokns": 5}, "length.tokns: unknown field"),
        ({"kind": "gaussian"}, "length: "),
    ],
)
def test_a_wrong_length_is_one_message_that_names_its_field(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Holder, {"length": raw})
    assert said in str(caught.value)
