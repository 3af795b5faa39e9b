"""Cost once per unique key, then gather: what turns 100,000 tiled products into millions of points.

Keys are compared as exact float64. A 64-bit mix of the columns finds candidates quickly; the rows are then
compared in full, and sorted by all columns in the (never yet seen) case that two keys share a mix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosim.records import Array

Index = NDArray[np.intp]


def unique_rows(columns: list[Array]) -> tuple[Index, Index]:
    """(first, inverse): `first` [U] are rows that represent the keys, `inverse` [N] names each row's key.

    `columns` are arrays of one shape (N,).
    """
    mixed = np.zeros(columns[0].shape[0], dtype=np.uint64)
    for column in columns:
        # + 0.0 turns -0.0 into 0.0, which compares equal but has other bits.
        bits = np.ascontiguousarray(column + 0.0).view(np.uint64)
        mixed = (mixed ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    first, inverse = _keys(mixed)
    if all(np.array_equal(column, column[first][inverse]) for column in columns):
        return first, inverse
    _, first, inverse = np.unique(np.stack(columns), axis=1, return_index=True, return_inverse=True)
    return first.astype(np.intp), inverse.reshape(-1).astype(np.intp)


def _keys(mixed: NDArray[np.uint64]) -> tuple[Index, Index]:
    """First row and place of every value, as `np.unique` has them; an unstable sort is several times as quick."""
    order = np.argsort(mixed)
    ordered = mixed[order]
    place = np.zeros(mixed.size, dtype=np.intp)
    place[1:] = np.cumsum(ordered[1:] != ordered[:-1])
    inverse = np.empty_like(place)
    inverse[order] = place
    first = np.zeros(int(place[-1]) + 1 if mixed.size else 0, dtype=np.intp)
    # Of several rows the last one written stays: the first.
    first[inverse[::-1]] = np.arange(mixed.size - 1, -1, -1, dtype=np.intp)
    return first, inverse
