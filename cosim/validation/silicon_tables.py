"""Measured kernel tables of the package `aiconfigurator-core`: GEMM and attention, several serving stacks each.

A shape's measurement is the median over stacks (a release of a stack, and its kernel where one has several); its
spread is the slowest over the fastest of them. What is left out is counted with its reason:

    a format that cosim does not have, a row without a time
    matmul     a stack below 16 bits whose least time is over twice the least of all: it quantises in several kernels
    attention  a window that holds the whole context; a window that a stack's kernel does not use
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosim.dtypes import is_wide
from cosim.records import Array
from cosim.timing.unique import unique_rows
from cosim.validation.silicon_files import FORMATS_OF, KERNEL, Mask, Rows, columns_of, files_of, read_rows

FORMATS = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "nvfp4": "nvfp4"}
"""Names of the tables to ours. Others are left out: block-scaled fp8, weights alone in 8 or 4 bits."""
MATMUL_DIMS = ("m", "n", "k")
ATTENTION_DIMS = ("batch", "query_len", "context_len", "heads", "kv_heads", "head_dim", "window")
SEVERAL_KERNELS = 2.0
USES_WINDOW = 0.9
"""A kernel uses its window if half of its long contexts (twice the window or more) take at most this share of the
time without: less than the spread of repeated measurements does not count."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Measured kernels of one system and one set of formats, sorted by their dimensions; columns of shape (N,).

    `kind` is matmul, prefill or decode. `measured` [s] is the median over `stacks` many, `spread` slowest over
    fastest. `power` [W] is the median of what the tables say; empty where they say nothing.
    """

    system: str
    kind: str
    dtype: str
    kv_dtype: str
    dims: dict[str, Array]
    measured: Array
    stacks: Array
    spread: Array
    power: Array


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows of the tables that are no shape here, and why."""

    system: str
    kind: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables of one system and kind hold."""

    shapes: tuple[Shapes, ...]
    left_out: tuple[LeftOut, ...]


def read_tables(root: Path, system: str, kind: str, *, powered: bool = False) -> Tables:
    """Shapes of one system and `kind`; `powered` reads only the stacks that measured watts. Raises SpecError."""
    files = files_of(root, system, kind)
    if powered:
        files = [path for path in files if "power" in columns_of(path)]
    if not files:
        return Tables((), ())
    rows = read_rows(files, kind)
    rows.keep(np.isfinite(rows.numbers["latency"]) & (rows.numbers["latency"] > 0.0), "without a time")
    for column in FORMATS_OF[kind]:
        for name in sorted(set(rows.words[column].tolist()) - set(FORMATS)):
            rows.keep(rows.words[column] != name, f"{name} is no format of cosim")
    dims = _matmuls(rows) if kind == "matmul" else _attentions(rows)
    found = _shapes(system, kind, rows, dims)
    return Tables(found, tuple(LeftOut(system, kind, reason, count) for reason, count in rows.left.items()))


def _matmuls(rows: Rows) -> tuple[str, ...]:
    """Leaves out, by format below 16 bits, the stacks that quantise in several kernels. Returns the dimensions."""
    for name in sorted(set(rows.words["gemm_dtype"].tolist())):
        if is_wide(FORMATS[name]):
            continue
        stacks, code = np.unique(rows.words["stack"], return_inverse=True)
        least = np.full(len(stacks), np.inf)
        here = rows.words["gemm_dtype"] == name
        np.minimum.at(least, code[here], rows.numbers["latency"][here])
        slow = least > SEVERAL_KERNELS * np.min(least)
        rows.keep(~(here & slow[code]), f"{FORMATS[name]} of a stack that quantises in several kernels")
    return MATMUL_DIMS


def _attentions(rows: Rows) -> tuple[str, ...]:
    """Names dimensions as cases do and leaves out windows that are none. Returns the dimensions.

    The source counts the history as `step` and the new tokens as `isl`; no key/value heads means as many as heads.
    """
    columns = rows.numbers
    heads, kv_heads = columns["num_heads"], columns["num_key_value_heads"]
    columns["batch"], columns["query_len"], columns["heads"] = columns["batch_size"], columns["isl"], heads
    columns["context_len"] = columns["isl"] + columns["step"]
    columns["kv_heads"] = np.where(kv_heads > 0.0, kv_heads, heads)
    columns["window"] = columns["window_size"]
    held = (columns["window"] > 0.0) & (columns["context_len"] <= columns["window"])
    rows.keep(~held, "the window holds the whole context")
    rows.keep(_uses_window(rows), "a stack's kernel that the window makes no faster")
    return ATTENTION_DIMS


def _uses_window(rows: Rows) -> Mask:
    """Rows without a window, or of a (stack, kernel, window) that half of its long contexts show to be used.

    What has no row without the window to compare with shows nothing.
    """
    window, time = rows.numbers["window"], rows.numbers["latency"]
    if not np.any(window > 0.0):
        return np.ones(window.shape, dtype=bool)
    words = [_codes(rows.words[name]) for name in ("stack", KERNEL, *FORMATS_OF["prefill"])]
    shape = [*words, *(rows.numbers[name] for name in ATTENTION_DIMS if name != "window")]
    _, key = unique_rows(shape)
    whole = np.full(int(np.max(key)) + 1, np.nan)
    whole[key[window == 0.0]] = time[window == 0.0]
    share = time / whole[key]
    long = (window > 0.0) & (rows.numbers["context_len"] >= 2.0 * window) & np.isfinite(share)
    _, kernel = unique_rows([words[0], words[1], window])
    used = np.zeros(int(np.max(kernel)) + 1, dtype=bool)
    for each in np.unique(kernel[long]):
        used[each] = np.median(share[long & (kernel == each)]) <= USES_WINDOW
    kept: Mask = (window == 0.0) | used[kernel]
    return kept


def _shapes(system: str, kind: str, rows: Rows, dims: tuple[str, ...]) -> tuple[Shapes, ...]:
    """One record for each set of formats: repeats of a kernel by their median, then the median over stacks."""
    formats = FORMATS_OF[kind]
    codes = [_codes(rows.words[name]) for name in formats]
    stack = [_codes(rows.words[name]) for name in ("stack", KERNEL)]
    columns = [*codes, *(rows.numbers[name] for name in dims)]
    if not columns[0].size:
        return ()
    first, inverse = unique_rows([*columns, *stack])
    time, _, _ = _medians(inverse, rows.numbers["latency"] * 1e-3)
    watts = _medians(inverse, rows.numbers["power"])[0]
    columns = [column[first] for column in columns]
    chosen, inverse = unique_rows(columns)
    median, stacks, spread = _medians(inverse, time)
    power = _medians(inverse, watts)[0]
    columns = [column[chosen] for column in columns]
    found: list[Shapes] = []
    kinds, dimensions = np.stack(columns[: len(codes)]), columns[len(codes) :]
    for each in np.unique(kinds, axis=1).T:
        here = np.flatnonzero(np.all(each == kinds.T, axis=-1))
        here = here[np.lexsort([column[here] for column in reversed(dimensions)])]
        words = [FORMATS[np.unique(rows.words[name])[int(code)]] for name, code in zip(formats, each, strict=True)]
        found.append(
            Shapes(
                system=system,
                kind=kind,
                dtype=words[0],
                kv_dtype=words[1] if len(words) > 1 else "",
                dims={name: column[here] for name, column in zip(dims, dimensions, strict=True)},
                measured=median[here],
                stacks=stacks[here],
                spread=spread[here],
                power=power[here] if np.all(np.isfinite(power[here])) else np.empty(0),
            )
        )
    return tuple(found)


def _medians(group: NDArray[np.intp], values: Array) -> tuple[Array, Array, Array]:
    """Of each group 0, 1, ...: median, count, and largest over smallest."""
    order = np.lexsort((values, group))
    ordered = values[order]
    count = np.bincount(group)
    start = np.cumsum(count) - count
    low, high = ordered[start + (count - 1) // 2], ordered[start + count // 2]
    return (low + high) / 2.0, count.astype(np.float64), ordered[start + count - 1] / ordered[start]


def _codes(words: NDArray[np.str_]) -> Array:
    """Each word by its place among the sorted ones."""
    return np.unique(words, return_inverse=True)[1].astype(np.float64)
