"""A histogram with bins of equal ratio: percentiles of any number of latencies in fixed memory, mergeable.

Bin k holds values from LOW g^k up to LOW g^(k+1). Its middle LOW g^(k + 1/2) is off by at most sqrt(g) - 1 from any of
them: with g = 1.005^2 that is 0.5 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cosim.errors import SpecError
from cosim.records import Array, array

ERROR = 0.005
"""Largest relative error of a percentile of values inside [LOW, HIGH]."""
LOW, HIGH = 1e-7, 1e6
"""Shortest and longest time that have a bin of their own [s]; what is outside is counted in the first or last."""
# A hair less than the bound, which rounding may then use.
_STEP = 2.0 * math.log1p(ERROR * (1.0 - 1e-6))
BINS = math.ceil(math.log(HIGH / LOW) / _STEP)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Weights by bin with the exact total, sum and range. Every operation gives a new one."""

    weights: Array
    """(BINS,)."""
    total: float = 0.0
    weighted_sum: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    @property
    def mean(self) -> float:
        """Exact weighted mean; NaN where nothing was counted."""
        return self.weighted_sum / self.total if self.total else math.nan


def empty() -> Histogram:
    """A histogram of nothing."""
    return Histogram(np.zeros(BINS))


def counted(histogram: Histogram, values: Array, weights: Array | float = 1.0) -> Histogram:
    """The histogram with `values` (N,) [s] counted `weights` times, (N,) or (): token counts. Raises SpecError."""
    weighted = np.broadcast_to(array(weights), values.shape)
    if not np.all(values >= 0.0) or np.any(np.isinf(values)):
        raise SpecError("must be finite and at least 0", field="values")
    if not np.all(weighted >= 0.0) or np.any(np.isinf(weighted)):
        raise SpecError("must be finite and at least 0", field="weights")
    some = weighted > 0.0
    values, weighted = values[some], weighted[some]
    if not len(values):
        return histogram
    place = np.floor(np.log(np.maximum(values, LOW) / LOW) / _STEP).astype(np.int64)
    added = np.bincount(np.minimum(place, BINS - 1), weights=weighted, minlength=BINS)
    return Histogram(
        histogram.weights + added,
        histogram.total + float(weighted.sum()),
        histogram.weighted_sum + float((values * weighted).sum()),
        min(histogram.smallest, float(values.min())),
        max(histogram.largest, float(values.max())),
    )


def merged(first: Histogram, second: Histogram) -> Histogram:
    """What both counted: of two replicas, two runs."""
    return Histogram(
        first.weights + second.weights,
        first.total + second.total,
        first.weighted_sum + second.weighted_sum,
        min(first.smallest, second.smallest),
        max(first.largest, second.largest),
    )


def quantile(histogram: Histogram, share: float) -> float:
    """The smallest value that at least `share` of the weight does not exceed, to 0.5 %; NaN of nothing.

    Shares 0 and 1 give the exact range. Raises SpecError for a share outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise SpecError("must be a share from 0 to 1", field="share", value=share)
    if not histogram.total:
        return math.nan
    if share in (0.0, 1.0):
        return histogram.largest if share else histogram.smallest
    reached = np.cumsum(histogram.weights)
    # Of the sum of the bins, not the total: they may differ in the last digit.
    place = int(np.searchsorted(reached, share * reached[-1] * (1.0 - 1e-12), side="left"))
    middle = LOW * math.exp((place + 0.5) * _STEP)
    return min(max(middle, histogram.smallest), histogram.largest)
