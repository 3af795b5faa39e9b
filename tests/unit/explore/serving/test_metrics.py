"""Metrics of a run: percentiles, goodput under limits, throughput, fairness."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.serving.metrics import (
    Limits,
    fairness,
    good,
    jain,
    latency_row,
    metrics_row,
    percentiles,
    throughput,
)
from cosim.explore.serving.records import Served

Make = Callable[..., Served]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_percentiles_are_those_of_numpy_and_rise(values: list[float]) -> None:
    found = percentiles(np.array([*values, np.nan]))
    assert found["p90"] == pytest.approx(np.quantile(values, 0.9))
    assert found["p50"] <= found["p90"] <= found["p95"] <= found["p99"] <= found["max"] == max(values)
    assert found["mean"] == pytest.approx(np.mean(values))


def test_percentiles_by_hand() -> None:
    found = percentiles(np.arange(101.0))
    assert found == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "mean": 50.0, "max": 100.0}
    assert all(math.isnan(value) for value in percentiles(np.array([np.nan])).values())


def test_throughput_by_hand(served: Make) -> None:
    # 4 requests from 0 to 3 + 12 s: 44 output and 400 prompt tokens in 15 s.
    found = throughput(served(4), chips=8, power_w=100.0)
    assert found.span_s == 15.0
    assert (found.requests_per_s, found.output_tokens_per_s) == (4 / 15, 44 / 15)
    assert found.total_tokens_per_s == 444 / 15
    assert (found.good_requests_per_s, found.good_share) == (4 / 15, 1.0)
    assert (found.output_tokens_per_s_per_chip, found.tokens_per_j) == (44 / 15 / 8, 44 / 15 / 100)
    assert found.cached_share == 0.25
    plain = throughput(served(4))
    assert (plain.output_tokens_per_s_per_chip, plain.tokens_per_j) == (None, None)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Limits(), [True] * 4),
        (Limits(ttft_limit_s=2.5), [True, True, True, False]),
        (Limits(tpot_limit_s=1.5), [True, False, True, True]),
        (Limits(e2e_limit_s=13.0), [True, False, True, False]),
        (Limits(2.5, 1.5, 13.0), [True, False, True, False]),
        (Limits(ttft_limit_s=2.0, tpot_limit_s=1.0), [True, False, True, False]),
    ],
)
def test_a_request_is_good_if_it_keeps_every_limit(served: Make, limits: Limits, kept: list[bool]) -> None:
    # The second is slow after its first token, the third has one token, the fourth waits for its first.
    arrival = np.arange(4.0)
    record = served(
        4,
        output_tokens=[11, 11, 1, 11],
        first_token_s=arrival + np.array([2, 2, 2, 9]),
        finished_s=arrival + np.array([12, 22, 2, 19]),
    )
    assert good(record, limits).tolist() == kept
    found = throughput(record, limits)
    assert found.good_requests_per_s * found.span_s == pytest.approx(sum(kept))
    assert found.good_tokens_per_s * found.span_s == pytest.approx(record.output_tokens[np.array(kept)].sum())


@given(st.floats(0.1, 30), st.floats(0.1, 30))
def test_a_looser_limit_never_has_less_goodput(served: Make, first: float, second: float) -> None:
    record = served(6, finished_s=np.arange(6.0) + 2.0 + np.arange(6.0) * 5)
    strict, loose = sorted((first, second))
    assert good(record, Limits(e2e_limit_s=strict)).sum() <= good(record, Limits(e2e_limit_s=loose)).sum()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(1e-150, 1e6))
def test_jain_is_between_one_alone_and_all_alike_and_has_no_unit(shares: list[float], factor: float) -> None:
    found = jain(np.array(shares))
    if not any(shares):
        assert math.isnan(found)
        return
    assert 1 / len(shares) - 1e-9 <= found <= 1 + 1e-9
    if min(share for share in shares if share) * factor > 1e-300:
        assert jain(np.array(shares) * factor) == pytest.approx(found)


def test_jain_by_hand(served: Make) -> None:
    assert jain(np.array([1.0, 1.0, 1.0])) == 1.0
    assert jain(np.array([5.0, 0.0, 0.0, 0.0])) == 0.25
    # (1 + 3)^2 / (2 (1 + 9))
    assert jain(np.array([1.0, 3.0])) == pytest.approx(0.8)
    # Three requests of one client, one of the other; weights say that it should be so.
    record = served(4, client=[0, 0, 7, 0])
    assert fairness(record) == pytest.approx(0.8)
    assert fairness(record, {0: 3.0}) == pytest.approx(1.0)


def test_a_row_has_all_of_it(served: Make) -> None:
    row = metrics_row(served(4, preemptions=[0, 2, 0, 1]), Limits(ttft_limit_s=1.0), chips=2)
    assert (row["requests"], row["preemptions"], row["good_share"], row["fairness"]) == (4, 3.0, 0.0, 1.0)
    assert (row["ttft_s.p99"], row["tpot_s.mean"], row["queueing_s.max"]) == (2.0, 1.0, 1.0)
    assert set(latency_row(served(2))) <= set(row)
    assert row["tokens_per_j"] is None


@pytest.mark.parametrize(
    ("act", "field"),
    [
        (lambda made: throughput(made(4), chips=0), "chips"),
        (lambda made: throughput(made(4), power_w=float("nan")), "power_w"),
        (lambda made: throughput(made(4), Limits(ttft_limit_s=0.0)), "ttft_limit_s"),
        (lambda made: throughput(made(0)), "records"),
        (lambda made: throughput(made(1, scheduled_s=[0], first_token_s=[0], finished_s=[0])), "records"),
    ],
)
def test_what_cannot_be_is_refused(served: Make, act: Callable[[Make], object], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        act(served)
    assert caught.value.field == field
