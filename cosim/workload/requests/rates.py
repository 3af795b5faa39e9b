"""Arrival times from two parts: gaps of mean one, and a rate over time through which they are stretched.

With Λ(t) the integral of the rate, the i-th request comes when Λ(t) equals the sum of the first i gaps. Exponential
gaps give a Poisson process of that rate; other gaps burst, or keep step, as much in busy hours as in quiet ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cosim.records import Array, array

BATCH = 4_096
"""Gaps that are drawn at once. Fixed: sums depend on it in the last digit, and on nothing that a caller asks for."""


class Segment(NamedTuple):
    """A stretch of time with one rate."""

    duration_s: float
    rate: float
    """Requests per second."""


def gamma_gaps(generator: np.random.Generator, cv: float) -> Iterator[Array]:
    """Gaps of mean 1 and coefficient of variation `cv`, (BATCH,) each, without end.

    0 is one request every mean gap, 1 exponential gaps (Poisson), above 1 bursts.
    """
    while True:
        if cv == 0.0:
            yield np.ones(BATCH)
        elif cv == 1.0:
            yield generator.standard_exponential(BATCH)
        else:
            yield generator.standard_gamma(cv**-2, BATCH) * cv**2


def constant(rate: float) -> Iterator[Segment]:
    """One rate for all time."""
    yield Segment(np.inf, rate)


def periodic(period_s: float, rates: Sequence[float]) -> Iterator[Segment]:
    """Equal steps of a period, over and over: a day of 24 rates."""
    step = period_s / len(rates)
    while True:
        yield from (Segment(step, rate) for rate in rates)


def on_off(generator: np.random.Generator, on: Segment, off: Segment) -> Iterator[Segment]:
    """Two rates in turn, each for an exponential time of the mean that its segment states (Markov modulated).

    Begins in either as often as it is in it.
    """
    total = on.duration_s + off.duration_s
    state = int(generator.random() * total >= on.duration_s)
    while True:
        mean, rate = (on, off)[state]
        yield Segment(mean * float(generator.standard_exponential()), rate)
        state = 1 - state


def arrivals(gaps: Iterable[Array], segments: Iterable[Segment]) -> Iterator[Array]:
    """Rising arrival times [s] in chunks, until the segments or the gaps end.

    Memory is that of one chunk of gaps and the segments below it. A rate of zero is a pause.
    """
    path = _Path(iter(segments))
    done = 0.0
    for chunk in gaps:
        # The running sum goes on from the last chunk, in the same order as one long sum.
        targets = np.cumsum(np.concatenate([array([done]), chunk]))[1:]
        done = float(targets[-1])
        times = path.times(targets)
        if len(times):
            yield times
        if len(times) < len(targets):
            return


class _Path:
    """Λ(t) as far as it was asked for: starts, rates and integrals of the segments that are still needed."""

    def __init__(self, segments: Iterator[Segment]) -> None:
        self._segments = segments
        self._time, self._sum = 0.0, 0.0
        self._rows: list[tuple[float, float, float, float]] = []

    def times(self, targets: Array) -> Array:
        """When Λ reaches the rising `targets` (K,); fewer where the segments end before."""
        self._reach(float(targets[-1]))
        if not self._rows:
            return targets[:0]
        start, rate, before, after = np.array(self._rows).T
        inside = targets[: int(np.searchsorted(targets, after[-1], side="right"))]
        at = np.searchsorted(after, inside, side="left")
        with np.errstate(divide="ignore", invalid="ignore"):
            times = start[at] + (inside - before[at]) / rate[at]
        times = np.where(rate[at] > 0.0, times, start[at])
        keep = int(np.searchsorted(after, targets[-1], side="left"))
        self._rows = self._rows[keep:]
        # Rounding at the border of two segments must not turn two requests round.
        return np.asarray(np.maximum.accumulate(times)) if len(times) else times

    def _reach(self, target: float) -> None:
        while not self._rows or self._rows[-1][3] < target:
            segment = next(self._segments, None)
            if segment is None:
                return
            area = segment.duration_s * segment.rate if segment.rate > 0.0 else 0.0
            self._rows.append((self._time, segment.rate, self._sum, self._sum + area))
            self._time += segment.duration_s
            self._sum += area
