"""How a file describes token counts, and the quantile function of each kind."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from cosim.errors import SpecError
from cosim.records import Array, array
from cosim.schema import Frozen
from cosim.workload.requests import quantiles

Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Positive = Annotated[float, Field(gt=0)]


class Fixed(Frozen):
    """The same count every time."""

    kind: Literal["fixed"]
    tokens: Tokens


class Uniform(Frozen):
    """Whole counts of a range, each as likely: `low` to `high`, or `ratio` x `length` to `length`."""

    kind: Literal["uniform"]
    low: Tokens | None = None
    high: Tokens | None = None
    length: Tokens | None = None
    """Longest count where the range is given by a ratio, as benchmarks of inference servers do."""
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Uniform:
        ends, ratio = (self.low, self.high), (self.length, self.ratio)
        if (None in ends) == (None in ratio) or (None in ends and any(ends)) or (None in ratio and any(ratio)):
            raise SpecError("has no clear range", hint="give low and high, or length and ratio")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise SpecError("is above high", field="low", value=self.low)
        return self

    @property
    def ends(self) -> tuple[int, int]:
        """First and last count of the range."""
        if self.length is not None and self.ratio is not None:
            return max(int(self.length * self.ratio), 1), self.length
        return self.low or 1, self.high or 1


class Bounded(Frozen):
    """Base of kinds that may be cut: draws outside are put on the bound."""

    low: Tokens = 1
    high: Tokens | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Bounded:
        if self.high is not None and self.low > self.high:
            raise SpecError("is above high", field="low", value=self.low)
        return self


class Lognormal(Bounded):
    """Logarithm normal, with this mean and coefficient of variation before it is cut."""

    kind: Literal["lognormal"]
    mean: Positive
    cv: Positive


class Normal(Bounded):
    """Normal, cut at `low` and `high`."""

    kind: Literal["normal"]
    mean: Positive
    deviation: Positive


class PowerLaw(Frozen):
    """Base of kinds whose long tail is a power of the count, on [low, high]."""

    exponent: Positive
    low: Tokens = 1
    high: Tokens

    @model_validator(mode="after")
    def _in_order(self) -> PowerLaw:
        if self.low > self.high:
            raise SpecError("is above high", field="low", value=self.low)
        return self


class Zipf(PowerLaw):
    """Whole counts k with probability proportional to k^-exponent."""

    kind: Literal["zipf"]


class Pareto(PowerLaw):
    """Density proportional to x^-(exponent + 1)."""

    kind: Literal["pareto"]


class Quantiles(Frozen):
    """An empirical table: the count that a share of all stays below; straight lines between."""

    kind: Literal["quantiles"]
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    tokens: tuple[Annotated[float, Field(ge=0)], ...]
    mean: Positive | None = None
    """Of a table that stops below share 1: its end is then where it gives this mean."""

    @model_validator(mode="after")
    def _rises(self) -> Quantiles:
        if len(self.shares) != len(self.tokens) or len(self.shares) < 2:
            pair = f"{len(self.shares)} shares, {len(self.tokens)} tokens"
            raise SpecError("has no value for every share", field="tokens", value=pair, hint="at least two of each")
        if any(np.diff(self.shares) <= 0):
            raise SpecError("do not rise", field="shares", value=list(self.shares))
        if any(np.diff(self.tokens) < 0):
            raise SpecError("fall", field="tokens", value=list(self.tokens))
        whole = self.shares[0] == 0.0 and self.shares[-1] == 1.0
        if whole == (self.mean is not None) or (self.mean is not None and self.shares[-1] == 1.0):
            raise SpecError("must run from 0 to 1, or stop before 1 beside a mean", field="shares", value=self.shares)
        return self

    @property
    def lines(self) -> tuple[Array, Array]:
        """Shares from 0 to 1 and their values."""
        shares, values = array(self.shares), array(self.tokens)
        return (shares, values) if self.mean is None else quantiles.closed_table(shares, values, self.mean)


Length = Annotated[
    Fixed | Uniform | Lognormal | Normal | Zipf | Pareto | Quantiles,
    Field(discriminator="kind"),
]


def length_at(length: Length, u: Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Token counts of a distribution at shares `u` (N,) of [0, 1): whole, at least 1, rising in `u`."""
    return quantiles.tokens(_values(length, u))


def _values(length: Length, u: Array) -> Array:
    if isinstance(length, Fixed):
        return np.full(u.shape, float(length.tokens))
    if isinstance(length, Uniform):
        return quantiles.uniform(u, *length.ends)
    if isinstance(length, Pareto):
        return quantiles.pareto(u, length.exponent, length.low, length.high)
    if isinstance(length, Zipf):
        return quantiles.zipf(u, length.exponent, length.low, length.high)
    if isinstance(length, Quantiles):
        return quantiles.table(u, *length.lines)
    if isinstance(length, Lognormal):
        drawn = quantiles.lognormal(u, length.mean, length.cv)
    else:
        drawn = quantiles.normal(u, length.mean, length.deviation)
    return np.clip(drawn, length.low, length.high)
