"""Capacity: the largest rate of requests at which a statistic of their latencies keeps the limits, by bisection.

All rates are tried with the same requests and the same gaps, the clock alone is faster. The first bracket is around a
rate that is given, the closed form's: it grows by two until one end keeps the limits and the other does not. A rate is
too high as well where requests pile up: limits that nothing breaks have a capacity all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cosim.engines.serving.settings import Cluster
from cosim.errors import SpecError
from cosim.explore.serving.metrics import Limits
from cosim.explore.serving.search_file import STATISTICS
from cosim.explore.serving.simulated import Requests, Seen, at_rate

TOLERANCE = 0.01
LEAST = 2.0**-12
"""Of the first rate: what cannot keep the limits at this cannot at any."""
MOST = 2.0**12


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate [1/s], what was seen at it, and what it broke: "" for nothing."""

    rate: float
    seen: Seen
    broken: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """The largest rate that kept the limits [1/s], 0 where none does; the least that did not; all that were tried."""

    rate: float
    above: float
    statistic: str
    broken: str
    """What the least rate that was too high broke."""
    trials: tuple[Trial, ...]

    @property
    def at(self) -> Seen | None:
        """What requests see at the capacity."""
        return next((trial.seen for trial in self.trials if trial.rate == self.rate), None)


def capacity(
    cluster: Cluster,
    requests: Requests,
    limits: Limits,
    statistic: str,
    first: float,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Capacity:
    """The capacity to a share of `tolerance`; `first` is the rate that is tried first. Raises SpecError."""
    _check(statistic, first, tolerance)
    trials: list[Trial] = []

    def tried(rate: float) -> bool:
        seen = at_rate(cluster, requests, rate, seed)
        trials.append(Trial(rate, seen, broken_by(seen, limits, statistic)))
        return not trials[-1].broken

    low, high = _bracket(tried, first)
    while low > 0.0 and high - low > tolerance * low:
        middle = (low + high) / 2.0
        if tried(middle):
            low = middle
        else:
            high = middle
    reason = next(trial.broken for trial in trials if trial.rate == high)
    return Capacity(low, high, statistic, reason, tuple(trials))


def broken_by(seen: Seen, limits: Limits, statistic: str) -> str:
    """The limit that a statistic breaks; "queue" where requests pile up, "" where all is kept."""
    if limits.ttft_limit_s is not None and seen.ttft_s[statistic] > limits.ttft_limit_s:
        return "ttft_limit"
    # NaN, the TPOT of one token, is not above any limit.
    if limits.tpot_limit_s is not None and seen.tpot_s[statistic] > limits.tpot_limit_s:
        return "tpot_limit"
    return "" if seen.kept_up else "queue"


def _bracket(tried: Callable[[float], bool], first: float) -> tuple[float, float]:
    """A rate that keeps the limits, 0 where none does, and one that does not. Raises SpecError where all do."""
    low = high = first
    if tried(first):
        while high < MOST * first:
            low, high = high, 2.0 * high
            if not tried(high):
                return low, high
        raise SpecError("breaks no limit at any rate", field="capacity", value=high, hint="give more requests")
    while low > LEAST * first:
        low, high = low / 2.0, low
        if tried(low):
            return low, high
    return 0.0, low


def _check(statistic: str, first: float, tolerance: float) -> None:
    if statistic not in STATISTICS:
        raise SpecError("is no statistic", field="statistic", value=statistic, hint=", ".join(STATISTICS))
    for name, value in (("first", first), ("tolerance", tolerance)):
        if not 0.0 < value < float("inf"):
            raise SpecError("is not such a number", field=name, value=value, hint="give a number above 0")
