"""Tables over tokens and keys as plain lists: what one step asks of them, without an array call.

Values are piecewise linear between points of the grid. Past the last point they go on with the last slope, never less
than nothing; below the first context they stay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cosim.records import Array

DENSE = 1 << 17
"""Token counts up to here are looked up, others computed."""
Row = tuple[list[float], list[float]]
"""Offset and slope over contexts, below, between and past the points of the grid [C + 1]."""


def looked_up(tokens: Array, values: Array) -> Callable[[int], float]:
    """Seconds of a count of tokens; none take none."""
    last = int(min(tokens[-1], DENSE))
    known: list[float] = np.interp(np.arange(last + 1), tokens, values).tolist()
    known[0] = 0.0

    def found(count: int) -> float:
        return known[count] if count <= last else float(over_tokens(tokens, values, count))

    return found


def over_tokens(tokens: Array, values: Array, count: int) -> Array:
    """`values` [T, ...] at a count of tokens: linear between points and on past the last."""
    if len(tokens) == 1:
        return np.asarray(values[0])
    place = min(max(int(np.searchsorted(tokens, count)), 1), len(tokens) - 1)
    slope = (values[place] - values[place - 1]) / (tokens[place] - tokens[place - 1])
    if count > tokens[-1]:
        return np.asarray(values[-1] + np.maximum(slope, 0.0) * (count - tokens[-1]))
    return np.asarray(values[place - 1] + slope * (count - tokens[place - 1]))


def row_of(tokens: Array, contexts: Array, values: Array) -> Callable[[int], Row]:
    """The line over contexts of a count of tokens."""
    known: dict[int, Row] = {}

    def made(count: int) -> Row:
        row = over_tokens(tokens, values, count)
        slopes = np.diff(row) / np.diff(contexts)
        last = max(float(slopes[-1]), 0.0) if len(slopes) else 0.0
        slope = np.concatenate([[0.0], slopes, [last]])
        offset = np.concatenate([[row[0]], row - slope[1:] * contexts])
        known[count] = (offset.tolist(), slope.tolist())
        return known[count]

    def found(count: int) -> Row:
        return known.get(count) or made(count)

    return found
