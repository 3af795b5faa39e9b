"""Predictions of attention kernels timed alone: fused prefill and decode over a cache.

The query is at the end of its context; `window` 0 or blank is none. A row's `dtype` is that of its arithmetic, which
runs at 16 bits here whatever it says below that: see `cosim.validation.kernels`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cosim import library
from cosim.dtypes import DTYPES, is_wide
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.validation.cases import Case
from cosim.validation.faults import ATTENTION, kernel_fault
from cosim.validation.kernels import attention_kernel

Cell = tuple[str, str, str, bool, bool, bool]
"""Accelerator, phase, format of the cache, causal mask, products in eight bits, warm cache."""
Answer = tuple[float | None, str]
"""Seconds, or None with the reason."""


def answers(cases: Sequence[Case]) -> list[Answer]:
    """Seconds of every case, in order; rows that share chip, phase, formats and mask are costed in one call."""
    found: list[Answer] = [(None, "")] * len(cases)
    together: dict[Cell, list[int]] = {}
    known = library.names("accelerators")
    for index, case in enumerate(cases):
        reason = _missing(case, known)
        if reason:
            found[index] = (None, reason)
        else:
            together.setdefault(_cell(case), []).append(index)
    chips = {name: lower_chip(load_chip(name)) for name in {cell[0] for cell in together}}
    for cell, rows in together.items():
        times = _times([cases[row] for row in rows], chips[cell[0]], cell)
        for row, time in zip(rows, times, strict=True):
            found[row] = (float(time), "")
    return found


def _cell(case: Case) -> Cell:
    kv_dtype = case.values.get("kv_dtype", "").strip() or "bf16"
    narrow = case.values["dtype"] in DTYPES and not is_wide(case.values["dtype"])
    ways = (case.number("causal") != 0.0, narrow, case.number("warm") != 0.0)
    return case.values["accelerator"], case.values["phase"], kv_dtype, *ways


def _missing(case: Case, known: Collection[str]) -> str:
    """Why a case cannot be answered; empty where it can."""
    if case.values["accelerator"] not in known:
        return f"accelerator {case.values['accelerator']} is not in the library"
    return kernel_fault("attention", case)


def _times(rows: Sequence[Case], chip: ChipArrays, cell: Cell) -> Array:
    """Seconds of each row's kernel timed alone."""
    _, phase, kv_dtype, causal, narrow, warm = cell
    dims = {name: array([row.number(name) or 0.0 for row in rows]) for name in (*ATTENTION, "window")}
    return attention_kernel(dims, chip, phase, kv_dtype, causal=causal, narrow=narrow, warm=warm).time
