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


def front_of(costs: Array, goals: int) -> NDArray[np.intp]:
    """Rows of `costs` (P, K) that no other row is below or equal to in the first `goals` columns, and below in one.

    Further columns decide between rows that are equal in all goals: the least is kept, of equals the first. Rising by
    the first column. Work grows with the points times the size of the front.
    """
    order = np.lexsort(tuple(costs[:, place] for place in reversed(range(costs.shape[1]))))
    left = order
    kept: list[int] = []
    while left.size:
        # The first in this order is beaten by none that comes after it, nor by any that was kept.
        first = left[0]
        kept.append(int(first))
        better = (costs[left, :goals] < costs[first, :goals]).any(axis=1)
        left = left[better]
    return np.array(kept, dtype=np.intp)
