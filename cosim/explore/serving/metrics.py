"""What a run of served requests is worth: percentiles of latencies, throughput, goodput under limits, fairness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.explore.serving.records import Served, latencies
from cosim.records import Array

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_LIMITED = {"ttft_s": "ttft_limit_s", "tpot_s": "tpot_limit_s", "e2e_s": "e2e_limit_s"}


@dataclass(frozen=True, slots=True)
class Limits:
    """A service level objective: a request is good if it keeps every limit [s]; None is no limit."""

    ttft_limit_s: float | None = None
    tpot_limit_s: float | None = None
    """Of the tokens after the first; a request of one token keeps it."""
    e2e_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rates over the time from the first arrival to the last answer; what is not known of chips or power is None."""

    span_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    """Of prompts and outputs, cached ones too."""
    good_requests_per_s: float
    good_tokens_per_s: float
    """Output tokens of requests that keep the limits."""
    good_share: float
    cached_share: float
    """Of all prompt tokens."""
    output_tokens_per_s_per_chip: float | None = None
    good_tokens_per_s_per_chip: float | None = None
    tokens_per_j: float | None = None
    """Output tokens per second and watt."""


def percentiles(values: Array) -> dict[str, float]:
    """p50 p90 p95 p99 (straight lines between order statistics), mean, max of `values` (N,); NaN is left out.

    All are NaN where nothing is left: there is no such latency.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return dict.fromkeys((*QUANTILES, "mean", "max"), float("nan"))
    found = dict(zip(QUANTILES, np.quantile(known, list(QUANTILES.values())).tolist(), strict=True))
    return {**found, "mean": float(known.mean()), "max": float(known.max())}


def latency_row(served: Served) -> dict[str, float]:
    """Every latency with its percentiles by column name, ttft_s.p99."""
    rows = {name: percentiles(values) for name, values in latencies(served).items()}
    return {f"{name}.{statistic}": value for name, row in rows.items() for statistic, value in row.items()}


def good(served: Served, limits: Limits) -> NDArray[np.bool_]:
    """Which requests (N,) keep every limit. Raises SpecError for a limit that is not above 0."""
    found = latencies(served)
    kept = np.ones(len(served), dtype=np.bool_)
    for name, field in _LIMITED.items():
        limit = getattr(limits, field)
        if limit is None:
            continue
        if not limit > 0.0:
            raise SpecError("must be above 0", field=field, value=limit)
        # NaN, the TPOT of one token, is not above any limit.
        kept &= ~(found[name] > limit)
    return kept


def throughput(
    served: Served, limits: Limits | None = None, *, chips: float | None = None, power_w: float | None = None
) -> Throughput:
    """Rates of a run; `chips` in all, `power_w` of them on average. Raises SpecError without requests or time."""
    if not len(served):
        raise SpecError("holds no request", field="records")
    span = float(served.finished_s.max() - served.arrival_s.min())
    if not span > 0.0:
        raise SpecError("spans no time", field="records", value=span)
    for name, number in (("chips", chips), ("power_w", power_w)):
        if number is not None and not number > 0.0:
            raise SpecError("must be above 0", field=name, value=number)
    kept = good(served, limits or Limits())
    output, prompt = float(served.output_tokens.sum()), float(served.prompt_tokens.sum())
    rate, good_rate = output / span, float(served.output_tokens[kept].sum()) / span
    return Throughput(
        span_s=span,
        requests_per_s=len(served) / span,
        output_tokens_per_s=rate,
        total_tokens_per_s=(output + prompt) / span,
        good_requests_per_s=float(kept.sum()) / span,
        good_tokens_per_s=good_rate,
        good_share=float(kept.mean()),
        cached_share=float(served.cached_tokens.sum()) / prompt if prompt else 0.0,
        output_tokens_per_s_per_chip=None if chips is None else rate / chips,
        good_tokens_per_s_per_chip=None if chips is None else good_rate / chips,
        tokens_per_j=None if power_w is None else rate / power_w,
    )


def jain(shares: Array) -> float:
    """Jain's index of fairness of what C clients get, (C,): (Σ x)^2 / (C Σ x^2), 1 for alike, 1/C for one alone.

    NaN where nobody gets anything.
    """
    largest = float(np.max(shares, initial=0.0))
    if largest == 0.0:
        return float("nan")
    # Divided by the largest first: squares of small shares would vanish.
    scaled = shares / largest
    return float(scaled.sum() ** 2 / (len(scaled) * (scaled**2).sum()))


def fairness(served: Served, weights: Mapping[int, float] | None = None) -> float:
    """Jain's index over clients of the tokens that they were served, prompt and output, over their `weights` (1)."""
    clients, place = np.unique(served.client, return_inverse=True)
    tokens = np.bincount(place, weights=served.prompt_tokens + served.output_tokens, minlength=len(clients))
    given = weights or {}
    return jain(tokens / np.array([given.get(int(client), 1.0) for client in clients]))


def metrics_row(
    served: Served, limits: Limits | None = None, *, chips: float | None = None, power_w: float | None = None
) -> dict[str, Any]:
    """All of it in one row by column name. Raises SpecError, see `throughput`."""
    rates = throughput(served, limits, chips=chips, power_w=power_w)
    known = {name: getattr(rates, name) for name in Throughput.__dataclass_fields__}
    counts = {"requests": len(served), "preemptions": float(served.preemptions.sum())}
    return {**counts, **known, "fairness": fairness(served), **latency_row(served)}
