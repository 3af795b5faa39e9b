"""Steps whose chips reach their limit of power: what is in them together sets the clock, not each for itself.

    load    = linear(new + decodes v) + head(sampled + ...) + prefill(new, pairs / new) + decode(decodes, mean context)
    seconds = the least in which a chip within its limit runs it, see `cosim.timing.clock`, less the host's

A load is, of one chip, seconds at the full clock, those of them that follow it, joules that do not follow the voltage
of the cores and that do. A host that is waited for is time in which nothing is drawn.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from cosim.engines.serving.lookup import Row, looked_up, row_of
from cosim.records import Array
from cosim.timing.clock import sustained_seconds

MOST_KNOWN = 1 << 16
"""Pairs of rows that are kept: a long run has no more of them than this at hand."""


@dataclass(frozen=True)
class Limited:
    """Loads over new tokens [4, T] and keys [4, T, C], named as the terms of the table of seconds.

    `budget_w` is what a chip may draw above its idle draw, `floor` the least voltage of its cores over that at the full
    clock.
    """

    linear: Array
    head: Array
    prefill: Array
    decode: Array
    budget_w: float
    floor: float

    @property
    def holds(self) -> bool:
        """Whether any of the terms alone would be held down: where none is, no sum of them is either."""
        terms = (self.linear, self.head, self.prefill, self.decode)
        return any(bool(np.any(load[2] + load[3] > self.budget_w * load[0])) for load in terms)


class QuickLimited:
    """The same as plain lists: of a count of tokens four numbers, or four lines over contexts, at once."""

    def __init__(self, loads: Limited, tokens: Array, contexts: Array) -> None:
        self.budget, self.floor = loads.budget_w, loads.floor
        self.grid: list[float] = contexts.tolist()
        self.linear = [looked_up(tokens, each) for each in loads.linear]
        self.head = [looked_up(tokens, each) for each in loads.head]
        self.prefill = [row_of(tokens, contexts, each) for each in loads.prefill]
        self.decode = [row_of(tokens, contexts, each) for each in loads.decode]
        self.known: dict[tuple[int, int], tuple[float, ...]] = {}
        self.lines: tuple[dict[int, list[Row]], dict[int, list[Row]]] = {}, {}

    def seconds(
        self, rows: tuple[int, int], prompts: tuple[int, float], decodes: tuple[int, float], host_s: float
    ) -> float:
        """Seconds of the device of a step beside `host_s` of its host.

        `rows` are new tokens of all sequences and rows drawn, `prompts` new tokens of prompts and the keys that they
        see together, `decodes` sequences and their cached tokens together.
        """
        time, clocked, fixed, core = self.known.get(rows) or self._rows(rows)
        for (count, keys), term, lines in zip((prompts, decodes), (self.prefill, self.decode), self.lines, strict=True):
            if count:
                mean = keys / count
                cell = bisect_right(self.grid, mean)
                found = lines.get(count)
                if found is None:
                    found = lines[count] = [row(count) for row in term]
                of_time, of_clocked, of_fixed, of_core = found
                time += of_time[0][cell] + of_time[1][cell] * mean
                clocked += of_clocked[0][cell] + of_clocked[1][cell] * mean
                fixed += of_fixed[0][cell] + of_fixed[1][cell] * mean
                core += of_core[0][cell] + of_core[1][cell] * mean
        rest = max(time - clocked, 0.0) + host_s
        return sustained_seconds(rest, clocked, fixed, core, budget=self.budget, floor=self.floor) - host_s

    def _rows(self, rows: tuple[int, int]) -> tuple[float, ...]:
        made = tuple(linear(rows[0]) + head(rows[1]) for linear, head in zip(self.linear, self.head, strict=True))
        if len(self.known) < MOST_KNOWN:
            self.known[rows] = made
        return made
