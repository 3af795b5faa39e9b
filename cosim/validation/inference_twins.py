"""Disaggregated runs that are recorded twice: a record that lost its workers has them from the one that kept them.

Two records are of one run where chip, stack, requests in flight, lengths, quantity and the measured value, to its last
digit, are equal. Where several records that kept their workers differ in them, nothing is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from cosim.validation.cases import Case as Row

SAME = ("accelerator", "software_stack", "batch", "input_len", "output_len", "measured_quantity", "measured_value")
LAYOUT = ("num_accelerators", "tp", "pp", "ep", "dp", "notes")
WORKERS = re.compile(r"(\d+) prefill \+ (\d+) decode")
"""How notes say how many workers prefill and decode."""


def with_twins(rows: Sequence[Row]) -> list[Row]:
    """The rows, in order; those of disaggregated runs that say no workers with the layout of their twin, if one has."""
    kept: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for row in rows:
        if WORKERS.search(row.values.get("notes", "")):
            kept.setdefault(_of(row, SAME), set()).add(_of(row, LAYOUT))
    return [_completed(row, kept.get(_of(row, SAME), set())) if kept and _lost(row) else row for row in rows]


def _lost(row: Row) -> bool:
    """Whether the row has two pools and says no number of workers."""
    return "/" in row.values.get("tp", "") and not WORKERS.search(row.values.get("notes", ""))


def _completed(row: Row, layouts: set[tuple[str, ...]]) -> Row:
    if len(layouts) != 1:
        return row
    return replace(row, values={**row.values, **dict(zip(LAYOUT, next(iter(layouts)), strict=True))})


def _of(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(row.values.get(column, "").strip() for column in columns)
