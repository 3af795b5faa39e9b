"""Deployments as one table: the best within the limits, the front, what came nearest.

The front is that of tokens/s of a chip against tokens/s of a user: what no other deployment beats in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.explore.pareto import pareto
from cosim.explore.serving.deployments import Cell, Table
from cosim.explore.serving.scores import LIMITS, Codes, Scores
from cosim.records import Array

Mask = NDArray[np.bool_]
SIGNS = {
    "tokens_per_s_per_chip": -1.0,
    "tokens_per_s_per_user": -1.0,
    "usd_per_million_tokens": 1.0,
    "tokens_per_j": -1.0,
}
"""Less of the product is better."""


@dataclass(frozen=True, slots=True)
class Part:
    """Deployments of one cell and layout: what they are, what they reach, what they are judged by, (P,) each."""

    cell: int
    layout: str
    table: Table
    scores: Scores
    judged: Table


@dataclass(frozen=True, slots=True)
class Found:
    """All P deployments in one table, NaN where a column is not of a layout; `cell` and `apart` (0, 1) among them."""

    cells: tuple[Cell, ...]
    table: Table
    code: Codes
    shortfall: Array

    def __len__(self) -> int:
        return len(self.code)

    @property
    def fits(self) -> Mask:
        """What breaks no limit."""
        passed: Mask = self.code == 0
        return passed

    def cell_of(self, index: int) -> Cell:
        """System and formats of a deployment."""
        return self.cells[int(self.table["cell"][index])]

    def row(self, index: int) -> dict[str, float]:
        """Columns of one deployment that are known."""
        return {name: float(column[index]) for name, column in self.table.items() if not np.isnan(column[index])}


def found_of(cells: Sequence[Cell], parts: Sequence[Part]) -> Found:
    """Parts one after the other."""
    wide = [
        {**part.table, **part.judged, "cell": _all(part, part.cell), "apart": _all(part, part.layout == "apart")}
        for part in parts
    ]
    names = list(dict.fromkeys(name for columns in wide for name in columns))
    table = {
        name: np.concatenate([each.get(name, _all(part, np.nan)) for part, each in zip(parts, wide, strict=True)])
        for name in names
    }
    code = np.concatenate([part.scores.code for part in parts])
    return Found(tuple(cells), table, code, np.concatenate([part.scores.shortfall for part in parts]))


def _all(part: Part, value: float) -> Array:
    return np.full(len(part.scores.code), float(value))


def best_of(found: Found, objective: str, among: Mask | None = None) -> int | None:
    """The best by an objective, of equals the faster for a user, then to the first token; None where nothing is left.

    `among` are those it is chosen from; None is what breaks no limit.
    """
    rows = np.flatnonzero(found.fits if among is None else among)
    worth = SIGNS[objective] * found.table[objective][rows]
    rows, worth = rows[~np.isnan(worth)], worth[~np.isnan(worth)]
    if not rows.size:
        return None
    order = np.lexsort((found.table["ttft_s"][rows], found.table["tpot_s"][rows], worth))
    return int(rows[order[0]])


def front_of_users(found: Found) -> NDArray[np.intp]:
    """What no other within the limits beats in tokens/s of a chip and of a user, the most of a chip first.

    Of equals the one with the earliest first token is kept.
    """
    table, rows = found.table, np.flatnonzero(found.fits)
    rows = rows[np.argsort(table["ttft_s"][rows], kind="stable")]
    return rows[pareto(table["tokens_per_s_per_chip"][rows], table["tokens_per_s_per_user"][rows])]


def stopped(found: Found) -> dict[str, int]:
    """Deployments by the first limit that each breaks, most first."""
    counts = np.bincount(found.code, minlength=len(LIMITS))
    pairs = [(name, int(count)) for name, count in zip(LIMITS, counts, strict=True) if name and count]
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def nearest_of(found: Found) -> int | None:
    """Of deployments that all break a limit the one that came furthest, with the least that lacks."""
    rows = np.flatnonzero(~found.fits)
    if not rows.size:
        return None
    return int(rows[np.lexsort((found.shortfall[rows], -found.code[rows]))[0]])
