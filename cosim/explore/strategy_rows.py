"""Rows of a table of strategies: crossed with values, and kept where they differ from those before and can be run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosim.mapping.order import swapped
from cosim.mapping.schedules import PIECES
from cosim.mapping.stages import ENDS, comes_out_even
from cosim.records import Array, array

Table = dict[str, Array]
"""Numbers of strategies by the field of `PlanArrays`, each of shape (P,)."""
Values = tuple[float, ...]


def crossed(table: Table, name: str, values: Values) -> Table:
    """Every row with every value of one more dimension."""
    rows = len(table["tensor"])
    wider = {known: np.repeat(column, len(values)) for known, column in table.items()}
    return wider | {name: np.tile(array(values), rows)}


def kept(table: Table, rows: NDArray[np.bool_]) -> Table:
    """Those rows alone."""
    return {name: column[rows] for name, column in table.items()}


def whole_pieces(table: Table, schedule: str, batch: float, layers: float, *, any_pieces: bool) -> NDArray[np.bool_]:
    """Rows whose pieces a schedule can have: what most rows fail, so that it is asked first.

    Pieces that come out even, or with `any_pieces` as many as there are places.
    """
    pieces = table["virtual"]
    if schedule in PIECES:
        few: NDArray[np.bool_] = pieces == PIECES[schedule]
        return few
    stages = table["pipeline"]
    count = batch / (table["data"] * table["micro_batch"])
    held = stages * pieces <= layers + ENDS if any_pieces else comes_out_even(layers, stages * pieces)
    found: NDArray[np.bool_] = (pieces == 1.0) | ((stages > 1.0) & held & (np.mod(count, stages) == 0.0))
    return found


def lie_otherwise(table: Table, one: str, other: str) -> NDArray[np.bool_]:
    """Rows that have several ranks of two kinds that the orders have the other way round."""
    several = {"tp": table["tensor"] > 1.0, "cp": table["context"] > 1.0, "dp": table["data"] > 1.0}
    several["pp"] = table["pipeline"] > 1.0
    found = np.zeros(len(table["tensor"]), dtype=bool)
    for first, second in swapped(one, other):
        found |= several[first] & several[second]
    return found


def with_experts(table: Table, degrees: Values, widths: Values | None) -> Table:
    """Every row with every expert degree, and the ranks of an expert that are listed where they make a difference."""
    table = crossed(table, "expert", degrees)
    if widths is None:
        return table
    table = crossed(table, "expert_tensor", widths)
    tensor, expert, wide = (table[name] for name in ("tensor", "expert", "expert_tensor"))
    same = ((expert > tensor) & (wide == 1.0)) | ((expert == 1.0) & (wide == tensor))
    return kept(table, ~same) if 0.0 in widths else table
