"""Arrivals drive a queue as the textbooks say: waiting times of one server behind drawn requests."""

from __future__ import annotations

import numpy as np
import pytest

from cosim.records import Array
from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.stream import all_requests

REQUESTS = 200_000
MEAN_S = 1.0
"""Time of a request of 1,000 tokens."""


def waits(arrival_s: Array, service_s: Array) -> Array:
    """Time before service of every request [s], first come first served: Lindley's recursion in closed form."""
    ahead = np.concatenate([[0.0], np.cumsum(service_s[:-1] - np.diff(arrival_s))])
    return ahead - np.minimum.accumulate(ahead)


def mm1_wait(load: float, mean_s: float) -> float:
    """Mean wait of exponential services: load mean / (1 - load)."""
    return load * mean_s / (1.0 - load)


def md1_wait(load: float, mean_s: float) -> float:
    """Mean wait of equal services: half of that."""
    return mm1_wait(load, mean_s) / 2.0


def described(load: float, output: dict[str, object], **arrivals: object) -> RequestPattern:
    fields = {"kind": "requests", "name": "q", "title": "q", "source": "a test", "count": REQUESTS}
    given = {"kind": "poisson", "rate": load / MEAN_S, **arrivals}
    prompt = {"kind": "fixed", "tokens": 1}
    return RequestPattern.model_validate({**fields, "arrivals": given, "prompt": prompt, "output": output})


def mean_wait(pattern: RequestPattern, seed: int = 0) -> float:
    requests = all_requests(pattern, np.random.default_rng(seed))
    return float(waits(requests.arrival_s, requests.output_tokens / 1000.0 * MEAN_S).mean())


# The exponential distribution of mean 1,000 as a table: -ln(1 - u), fine at its end.
SHARES = [*np.linspace(0.0, 0.99, 400).tolist(), *(1.0 - np.geomspace(0.0099, 1e-7, 200)).tolist(), 1.0]
EXPONENTIAL = {
    "kind": "quantiles",
    "shares": SHARES,
    "tokens": [*(-1000.0 * np.log1p(-np.array(SHARES[:-1]))).tolist(), 17_000.0],
}


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_poisson_arrivals_wait_as_in_m_m_1(load: float) -> None:
    assert mean_wait(described(load, EXPONENTIAL)) == pytest.approx(mm1_wait(load, MEAN_S), rel=0.05)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_poisson_arrivals_wait_as_in_m_d_1(load: float) -> None:
    pattern = described(load, {"kind": "fixed", "tokens": 1000})
    assert mean_wait(pattern) == pytest.approx(md1_wait(load, MEAN_S), rel=0.05)


def test_even_arrivals_below_capacity_never_wait_and_bursts_wait_longer() -> None:
    fixed = {"kind": "fixed", "tokens": 1000}
    assert mean_wait(described(0.8, fixed, kind="deterministic")) == pytest.approx(0.0, abs=1e-6)
    smooth, poisson, burst = (mean_wait(described(0.6, fixed, kind="gamma", cv=cv)) for cv in (0.5, 1.0, 3.0))
    assert smooth < poisson < burst
