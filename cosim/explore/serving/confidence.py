"""How sure a percentile is: intervals over runs with different seeds.

Requests of one run queue behind each other, so they are no independent draws; runs are. Both intervals take one
number a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.errors import SpecError
from cosim.records import Array


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds at a level of confidence."""

    mean: float
    low: float
    high: float
    level: float
    runs: int

    @property
    def half_width(self) -> float:
        """Half of the distance from bound to bound."""
        return (self.high - self.low) / 2.0


def student_interval(values: Array, level: float = 0.95) -> Interval:
    """mean ± t s / sqrt(R) of R runs (R,), t Student's quantile with R - 1 degrees of freedom. Raises SpecError."""
    from scipy.special import stdtrit

    _check(values, level)
    mean, runs = float(values.mean()), len(values)
    half = float(stdtrit(runs - 1, 0.5 + level / 2.0)) * float(values.std(ddof=1)) / runs**0.5
    return Interval(mean, mean - half, mean + half, level, runs)


def bootstrap_interval(
    values: Array, generator: np.random.Generator, level: float = 0.95, draws: int = 10_000
) -> Interval:
    """Percentile bootstrap of the mean of R runs (R,): runs drawn again with replacement, `draws` times.

    No shape is assumed, but of few runs the interval is too narrow: take Student's then. Raises SpecError.
    """
    _check(values, level)
    if draws < 1:
        raise SpecError("must be at least 1", field="draws", value=draws)
    means = values[generator.integers(0, len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Interval(float(values.mean()), float(low), float(high), level, len(values))


def _check(values: Array, level: float) -> None:
    if values.ndim != 1 or len(values) < 2:
        raise SpecError("needs at least two runs", field="runs", value=values.size, hint="simulate more seeds")
    if not np.all(np.isfinite(values)):
        raise SpecError("has a run without this figure", field="runs", value=values.tolist())
    if not 0.0 < level < 1.0:
        raise SpecError("must be between 0 and 1", field="level", value=level)
