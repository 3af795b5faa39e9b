"""Measured cases from CSV: first row names, `#` comment lines, blank is unknown, unknown columns kept."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from cosim.documents import MAX_BYTES
from cosim.errors import SpecError, nearest

KINDS: dict[str, tuple[str, ...]] = {
    "matmul": ("accelerator", "dtype", "m", "n", "k", "measured_s"),
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
        """A column as a number; None where it is blank, absent or not a number."""
        text = self.values.get(column, "").strip()
        try:
            return float(text) if text else None
        except ValueError:
            return None


def read_cases(kind: str, path: Path) -> list[Case]:
    """The rows of `path` as cases of `kind`. Raises SpecError naming file, line and column."""
    if kind not in KINDS:
        raise SpecError("unknown kind of case", field="--kind", value=kind, hint=nearest(kind, KINDS))
    lines = _lines(path)
    if not lines:
        raise SpecError("holds no rows", file=path, hint="the first row names the columns")
    names = next(csv.reader([lines[0][1]]))
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
    for number, fields in zip((n for n, _ in lines[1:]), csv.reader(text for _, text in lines[1:]), strict=False):
        if len(fields) != len(names):
            raise SpecError(f"has {len(fields)} fields, not {len(names)}", file=path, line=number)
        values = dict(zip(names, fields, strict=True))
        cases.append(Case(values.get("id") or f"row-{number}", number, values))
    return cases


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are neither comment nor blank."""
    try:
        if path.stat().st_size > 100 * MAX_BYTES:
            raise SpecError("is too large for a table of cases", file=path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("no such file", file=path, hint="name a CSV of measured cases") from None
    except UnicodeDecodeError:
        raise SpecError("is not text (UTF-8)", file=path) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=path) from None
    numbered = enumerate(text.splitlines(), start=1)
    return [(n, line) for n, line in numbered if line.strip() and not line.lstrip().startswith("#")]
