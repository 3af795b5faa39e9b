"""Why a measured kernel cannot be what its row says: the same answer for `cosim validate` and `cosim calibrate`."""

from __future__ import annotations

from cosim.dtypes import DTYPES
from cosim.validation.cases import Case

LARGEST = 1e12
"""No dimension or time is larger: beyond it a row is a slip, not a case."""
LEAST_TIME_S = 1e-9
"""No kernel is timed shorter."""
PRODUCT = ("m", "n", "k")
ATTENTION = ("batch", "query_len", "context_len", "heads", "kv_heads", "head_dim")
PHASES = ("prefill", "decode")


def kernel_fault(kind: str, case: Case) -> str:
    """Why the row of a `kind` of kernel is impossible; empty where it is not. The chip is not looked at."""
    columns = {"matmul": PRODUCT, "attention": ATTENTION}[kind]
    optional = {"matmul": ("batch", False), "attention": ("window", True)}[kind]
    if not all(_is_size(case, name) for name in columns) or not _may_be_size(case, *optional):
        return f"one of {', '.join((*columns, optional[0]))} is unknown or impossible"
    measured = case.number("measured_s")
    if measured is None or not LEAST_TIME_S <= measured <= LARGEST:
        return "measured_s is unknown or impossible"
    return _attention_fault(case) if kind == "attention" else ""


def _attention_fault(case: Case) -> str:
    if case.values["phase"] not in PHASES:
        return f"unknown phase {case.values['phase']}"
    for column in ("dtype", "kv_dtype"):
        named = case.values.get(column, "").strip()
        if named and named not in DTYPES:
            return f"unknown {column} {named}"
    numbers = {name: case.number(name) or 0.0 for name in ATTENTION}
    if numbers["query_len"] > numbers["context_len"]:
        return "query_len is more than context_len"
    if numbers["kv_heads"] > numbers["heads"]:
        return "kv_heads is more than heads"
    return ""


def _is_size(case: Case, column: str) -> bool:
    value = case.number(column)
    return value is not None and 1.0 <= value <= LARGEST and value == int(value)


def _may_be_size(case: Case, column: str, zero: bool) -> bool:  # unpacked from a table
    text = case.values.get(column, "").strip()
    return not text or (zero and case.number(column) == 0.0) or _is_size(case, column)
