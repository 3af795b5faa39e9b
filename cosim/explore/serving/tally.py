"""Latencies and rates of requests as their records come: exact while they are few, in bins when they are many.

Up to EXACT requests every latency is kept and percentiles are straight lines between order statistics; from then on a
histogram holds them, whose percentiles are within 0.5 %, so that memory stays flat. Requests that came before the
warm-up was over are served and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.explore.serving.histogram import ERROR, Histogram, counted, empty, quantile
from cosim.explore.serving.metrics import QUANTILES, Limits, good, percentiles
from cosim.explore.serving.records import Served, latencies, where
from cosim.records import Array

EXACT = 200_000
"""Requests of which every latency is kept: 8 MB."""
SHOWN = ("ttft_s", "tpot_s", "tpot_with_first_s", "e2e_s", "queueing_s")
SHARES = np.linspace(0.0, 1.0, 101)
"""Of a distribution that is drawn."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the requests that count, from the first arrival to the last answer; NaN where none does."""

    counted: int
    span_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    good_requests_per_s: float
    good_tokens_per_s: float
    good_share: float


class Tally:
    """Counts records: `add` takes chunks, then `rates`, `percentiles` and `distribution` say what they were."""

    def __init__(self, limits: Limits, warm_up_s: float = 0.0, exact: int = EXACT) -> None:
        self.limits, self.warm_up_s, self.exact = limits, warm_up_s, exact
        self.served = 0
        self.count = self.good_count = 0
        self.output = self.prompt = self.good_output = 0.0
        self.first_s, self.last_s = np.inf, -np.inf
        self._kept: dict[str, list[Array]] | None = {name: [] for name in SHOWN}
        self._bins: dict[str, Histogram] = {}

    def add(self, chunk: Served) -> None:
        """Counts the requests of a chunk. Raises SpecError for limits that are none."""
        self.served += len(chunk)
        late = chunk.arrival_s >= self.warm_up_s
        if not np.all(late):
            chunk = where(chunk, late)
        if not len(chunk):
            return
        kept = good(chunk, self.limits)
        self.count += len(chunk)
        self.good_count += int(kept.sum())
        self.output += float(chunk.output_tokens.sum())
        self.prompt += float(chunk.prompt_tokens.sum())
        self.good_output += float(chunk.output_tokens[kept].sum())
        self.first_s = min(self.first_s, float(chunk.arrival_s.min()))
        self.last_s = max(self.last_s, float(chunk.finished_s.max()))
        found = latencies(chunk)
        for name in SHOWN:
            self._hold(name, found[name][~np.isnan(found[name])])
        if self._kept is not None and self.count > self.exact:
            for name, parts in self._kept.items():
                self._bins[name] = counted(empty(), np.concatenate(parts))
            self._kept = None

    def _hold(self, name: str, values: Array) -> None:
        if self._kept is not None:
            self._kept[name].append(values)
        else:
            # Sums of steps may miss zero by a rounding.
            self._bins[name] = counted(self._bins[name], np.maximum(values, 0.0))

    @property
    def error(self) -> float:
        """Largest relative error of a percentile."""
        return 0.0 if self._kept is not None else ERROR

    def rates(self) -> Rates:
        """Requests and tokens over time."""
        span = self.last_s - self.first_s if self.count else float("nan")
        if not span > 0.0:
            nan = float("nan")
            return Rates(self.count, nan, nan, nan, nan, nan, nan, self.good_count / self.count if self.count else nan)
        return Rates(
            counted=self.count,
            span_s=span,
            requests_per_s=self.count / span,
            output_tokens_per_s=self.output / span,
            total_tokens_per_s=(self.output + self.prompt) / span,
            good_requests_per_s=self.good_count / span,
            good_tokens_per_s=self.good_output / span,
            good_share=self.good_count / self.count,
        )

    def percentiles(self) -> dict[str, float]:
        """p50 p90 p95 p99, mean and max of every latency by column name, ttft_s.p99; NaN where there is none."""
        found: dict[str, float] = {}
        for name in SHOWN:
            found |= {f"{name}.{key}": value for key, value in self._of(name).items()}
        return found

    def _of(self, name: str) -> dict[str, float]:
        if self._kept is not None:
            return percentiles(self._whole(name))
        return of_histogram(self._bins[name])

    def _whole(self, name: str) -> Array:
        parts = [] if self._kept is None else self._kept[name]
        return np.concatenate(parts) if parts else np.empty(0)

    def distribution(self, name: str) -> list[float]:
        """The latency that each of SHARES of the requests keeps; empty where there is none."""
        if self._kept is not None:
            values = self._whole(name)
            return np.quantile(values, SHARES).tolist() if len(values) else []
        return [quantile(self._bins[name], float(share)) for share in SHARES]


def of_histogram(bins: Histogram) -> dict[str, float]:
    """The statistics of `percentiles` of what was counted in bins."""
    found = {name: quantile(bins, share) for name, share in QUANTILES.items()}
    return {**found, "mean": bins.mean, "max": bins.largest if bins.total else float("nan")}
