"""Measured cases from CSV: first row names, `#` comment lines, blank is unknown, unknown columns kept."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from cosim.documents import MAX_BYTES
from cosim.errors import SpecError, nearest

KINDS: dict[str, tuple[str, ...]] = {
    "matmul": ("accelerator", "dtype", "m", "n", "k", "measured_s"),
    "attention": (
        "accelerator",
        "dtype",
        "phase",
        "batch",
        "query_len",
        "context_len",
        "heads",
        "kv_heads",
        "head_dim",
        "measured_s",
    ),
    "collective": ("accelerator", "op", "bytes", "ranks", "measured_s"),
    "training": ("accelerator", "system", "num_accelerators", "global_batch", "seq_len", "measured_value"),
    "inference": ("accelerator", "workload", "measured_quantity", "measured_value"),
    "serving": ("arrival", "input_len", "output_len", "ttft_s", "e2e_s"),
    "systolic": ("M", "N", "K", "rows", "cols", "dataflow", "cycles"),
}
"""Columns that a kind cannot do without."""


@dataclass(frozen=True, slots=True)
class Case:
    """One measured row: its id, its line in the file, and its columns as text (blank is unknown)."""

    id: str
    line: int
    values: dict[str, str]

    def number(self, column: str) -> float | None:
        """A column as a number; None where it is blank, absent or not a finite number."""
        text = self.values.get(column, "").strip()
        try:
            value = float(text) if text else math.nan
        except ValueError:
            return None
        return value if math.isfinite(value) else None


def read_cases(kind: str, path: Path) -> list[Case]:
    """The rows of `path` as cases of `kind`. Raises SpecError naming file, line and column."""
    if kind not in KINDS:
        raise SpecError("unknown kind of case", field="--kind", value=kind, hint=nearest(kind, KINDS))
    lines = _lines(path)
    if not lines:
        raise SpecError("holds no rows", file=path, hint="the first row names the columns")
    rows = _fields(lines, path)
    names = [name.strip() for name in rows[0]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SpecError("is a column twice", file=path, line=lines[0][0], field=repeated[0], hint="name each once")
    missing = [name for name in KINDS[kind] if name not in names]
    if missing:
        raise SpecError(
            f"lacks a column that kind {kind} needs",
            file=path,
            line=lines[0][0],
            field=missing[0],
            hint=nearest(missing[0], names),
        )
    cases: list[Case] = []
    for number, fields in zip((n for n, _ in lines[1:]), rows[1:], strict=True):
        if len(fields) != len(names):
            raise SpecError(f"has {len(fields)} fields, not {len(names)}", file=path, line=number)
        values = dict(zip(names, fields, strict=True))
        cases.append(Case(values.get("id") or values.get("request_id") or f"row-{number}", number, values))
    return cases


def _fields(lines: list[tuple[int, str]], path: Path) -> list[list[str]]:
    """The fields of every line; a quoted field may not hold a line break. Raises SpecError."""
    fields: list[list[str]] = []
    for number, text in lines:
        try:
            fields.append(next(csv.reader([text], strict=True)))
        except csv.Error as error:
            raise SpecError(f"is not CSV: {error}", file=path, line=number) from None
    return fields


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are neither comment nor blank."""
    try:
        if path.stat().st_size > 100 * MAX_BYTES:
            raise SpecError("is too large for a table of cases", file=path)
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError("no such file", file=path, hint="name a CSV of measured cases") from None
    except UnicodeDecodeError:
        raise SpecError("is not text (UTF-8)", file=path) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=path) from None
    numbered = enumerate(text.splitlines(), start=1)
    return [(n, line) for n, line in numbered if line.strip() and not line.lstrip().startswith("#")]
