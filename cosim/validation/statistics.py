"""Errors of predictions: error = predicted / measured - 1, and its summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cosim.records import Array, array

Summary = dict[str, Any]


def errors(predicted: Array, measured: Array) -> Array:
    """predicted / measured - 1, elementwise."""
    return predicted / measured - 1.0


def summary(predicted: Sequence[float] | Array, measured: Sequence[float] | Array) -> Summary:
    """Median, mean, 90th percentile of |error|, bias (median error), median |log ratio|; None for no rows."""
    names = ("median_abs_error", "mean_abs_error", "p90_abs_error", "bias", "median_abs_log_error")
    if not len(predicted):
        return {"evaluated": 0, **dict.fromkeys(names)}
    error = errors(array(predicted), array(measured))
    size, ratio = np.abs(error), np.abs(np.log(array(predicted) / array(measured)))
    values = (np.median(size), np.mean(size), np.quantile(size, 0.9), np.median(error), np.median(ratio))
    return {"evaluated": len(predicted), **{n: float(v) for n, v in zip(names, values, strict=True)}}


def macro_median(groups: Mapping[Any, Sequence[float]]) -> float | None:
    """Mean over groups of each group's median |error|: no group counts more for having more rows."""
    medians = [float(np.median(np.abs(array(group)))) for group in groups.values() if len(group)]
    return float(np.mean(medians)) if medians else None
