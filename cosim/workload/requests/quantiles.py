"""Distributions of token counts by their quantile functions: value at a share u in [0, 1), rising in u.

Every draw is one uniform number put through such a function, so that streams do not depend on how they are cut, and two
lengths are correlated by correlating their uniform numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from cosim.records import Array, array


def lognormal(u: Array, mean: float, cv: float) -> Array:
    """exp(m + s z): s^2 = ln(1 + cv^2), m = ln(mean) - s^2 / 2; z the standard normal quantile of `u`."""
    from scipy.special import ndtri

    variance = math.log1p(cv**2)
    return array(np.exp(math.log(mean) - variance / 2.0 + math.sqrt(variance) * ndtri(u)))


def normal(u: Array, mean: float, deviation: float) -> Array:
    """mean + deviation z."""
    from scipy.special import ndtri

    return array(mean + deviation * ndtri(u))


def uniform(u: Array, low: int, high: int) -> Array:
    """Whole numbers from `low` to `high`, both included, each as likely."""
    return array(low + np.floor(u * (high - low + 1)))


def zipf(u: Array, exponent: float, low: int, high: int) -> Array:
    """Whole numbers k of [low, high] with probability proportional to k^-exponent."""
    reached = _zipf_sums(exponent, low, high)
    return array(low + np.minimum(np.searchsorted(reached, u * reached[-1], side="right"), high - low))


@lru_cache(maxsize=2)
def _zipf_sums(exponent: float, low: int, high: int) -> Array:
    """Running sums of k^-exponent over [low, high]: every batch of draws asks for the same ones."""
    return array(np.cumsum(np.arange(low, high + 1, dtype=np.float64) ** -exponent))


def pareto(u: Array, exponent: float, low: float, high: float) -> Array:
    """Density proportional to x^-(exponent + 1) on [low, high]: low (1 - u (1 - (low/high)^a))^(-1/a)."""
    kept = 1.0 - u * (1.0 - (low / high) ** exponent)
    return array(low * kept ** (-1.0 / exponent))


def table(u: Array, shares: Array, values: Array) -> Array:
    """Straight lines between the quantiles `values` (Q,) at `shares` (Q,); outside them the first and last value."""
    return array(np.interp(u, shares, values))


def table_mean(shares: Array, values: Array) -> float:
    """Mean of a quantile table whose shares run from 0 to 1: the area below its straight lines."""
    return float(np.trapezoid(values, shares))


def closed_table(shares: Array, values: Array, mean: float) -> tuple[Array, Array]:
    """A table that stops below 1 with its end: the largest value that makes the mean `mean`, at least the last one.

    The first value holds down to share 0. Where the lines below already give more than the mean, the end is flat.
    """
    shares = np.concatenate([array([0.0]), shares])
    values = np.concatenate([values[:1], values])
    tail = 1.0 - float(shares[-1])
    end = 2.0 * (mean - table_mean(shares, values)) / tail - float(values[-1])
    return np.append(shares, 1.0), np.append(values, max(end, float(values[-1])))


def tokens(values: Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Nearest whole counts, at least 1."""
    return np.maximum(np.rint(values), 1.0).astype(np.int64)


def correlated(first: Array, own: Array, rank_correlation: float) -> Array:
    """Uniform numbers with a Spearman rank correlation to `first`, made of independent ones `own`.

    Gaussian copula: with r = 2 sin(pi rank / 6), u = Φ(r Φ^-1(first) + sqrt(1 - r^2) Φ^-1(own)).
    """
    if rank_correlation == 0.0:
        return own
    from scipy.special import ndtr, ndtri

    r = 2.0 * math.sin(math.pi * rank_correlation / 6.0)
    # u = 0 is minus infinity; with an infinite of the other sign it would be no number.
    tiny = np.finfo(np.float64).tiny
    z = r * ndtri(np.maximum(first, tiny)) + math.sqrt(1.0 - r**2) * ndtri(np.maximum(own, tiny))
    return array(np.minimum(ndtr(z), np.nextafter(1.0, 0.0)))
