"""Points that no other beats in both of two goals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosim.records import Array


def pareto(first: Array, second: Array) -> NDArray[np.intp]:
    """Indices of the points that no other beats in both, the most of `first` on top. Ties keep the first."""
    order = np.lexsort((-second, -first))
    best = np.maximum.accumulate(second[order])
    gains = np.concatenate([[True], second[order][1:] > best[:-1]]) if order.size else np.zeros(0, dtype=bool)
    kept: NDArray[np.intp] = order[gains].astype(np.intp)
    return kept
