"""Trace files as they come: lines, plain or gz, the format that their header shows, and faults with their line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosim.errors import SpecError, nearest

FORMATS = ("azure", "mooncake", "servegen", "csv", "jsonl")
Row = Mapping[str, Any]
_AZURE = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
_MOONCAKE = {"timestamp", "input_length", "output_length", "hash_ids"}
_SERVEGEN = {"client", "window_start_s", "rate_req_s", "cv", "pattern"}
_SERVEGEN_LENGTHS = {"client", "window_start_s", "field", "mean"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands."""

    file: Path
    line: int

    def fault(self, problem: str, field: str | None = None, value: object = None, hint: str | None = None) -> SpecError:
        """What is wrong with it, as an error to raise."""
        return SpecError(problem, file=self.file, line=self.line, field=field, value=value, hint=hint)


def format_of(path: Path, asked: str | None = None) -> str:
    """The format of a trace: `asked`, or what its first line shows. Raises SpecError."""
    if asked is not None and asked not in FORMATS:
        raise SpecError("is not a format of traces", field="--format", value=asked, hint=nearest(asked, FORMATS))
    first = next((line for _, line in lines(path) if line.strip() and line[0] != "#"), None)
    if first is None:
        raise SpecError("is empty", file=path, line=1)
    names = _names(first)
    found = "jsonl" if first.lstrip().startswith("{") else "csv"
    if found == "jsonl" and names >= _MOONCAKE:
        found = "mooncake"
    elif found == "csv" and names >= _SERVEGEN:
        found = "servegen"
    elif found == "csv" and names >= _SERVEGEN_LENGTHS:
        hint = "import the file of rates, which is read with its lengths: ..._rates.csv"
        raise SpecError("is a file of lengths, without arrivals", file=path, line=1, hint=hint)
    elif found == "csv" and names >= _AZURE:
        found = "azure"
    if asked not in (None, found) and (asked, found) not in (("csv", "azure"), ("jsonl", "mooncake")):
        raise SpecError(f"looks like {found}", file=path, line=1, field="--format", value=asked)
    return asked or found


def rows(path: Path, *, as_json: bool) -> Iterator[tuple[Place, Row]]:
    """Rows of a CSV file with a header, or of a file of JSON objects, with their places. Raises SpecError."""
    return _json_rows(path) if as_json else _csv_rows(path)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, of plain text or gz. Raises SpecError."""
    number = 0
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            source: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw
            for number, line in enumerate(source, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except FileNotFoundError:
        raise SpecError("no such file", file=path) from None
    except UnicodeDecodeError:
        raise SpecError("is not text (UTF-8)", file=path, line=number) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"cannot be read: {reason}", file=path, line=number + 1) from None


def number(row: Row, name: str, place: Place, least: float) -> float:
    """A finite number of at least `least`. Raises SpecError with the line."""
    raw = row.get(name)
    try:
        value = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else float("nan")
    except (ValueError, OverflowError):
        value = float("nan")
    if not least <= value < float("inf"):
        raise place.fault(f"must be a number of at least {least:g}", name, raw)
    return value


def whole(row: Row, name: str, place: Place, least: int) -> int:
    """A whole number of at least `least`, below 2^53. Raises SpecError with the line."""
    value = number(row, name, place, least)
    if value != int(value) or value >= 2.0**53:
        raise place.fault("must be a whole number", name, row.get(name))
    return int(value)


def _names(first: str) -> set[str]:
    """Names of the columns, or of the fields of a first object."""
    if first.lstrip().startswith("{"):
        try:
            content = json.loads(first)
        except ValueError:
            return set()
        return set(content)
    return {name.strip() for name in next(csv.reader([first]))}


def _csv_rows(path: Path) -> Iterator[tuple[Place, Row]]:
    # A comment becomes an empty line, which the reader still counts.
    reader = csv.reader("\n" if line.startswith("#") else line for _, line in lines(path))
    head: list[str] | None = None
    try:
        for cells in reader:
            place = Place(path, reader.line_num)
            if not cells:
                continue
            if head is None:
                head = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(head):
                raise place.fault(f"has {len(cells)} cells where the header has {len(head)}")
            yield place, dict(zip(head, cells, strict=True))
    except csv.Error as error:
        raise SpecError(f"is not CSV: {error}", file=path, line=reader.line_num) from None


def _json_rows(path: Path) -> Iterator[tuple[Place, Row]]:
    for at, line in lines(path):
        if not line.strip():
            continue
        place = Place(path, at)
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise place.fault(f"is not JSON: {getattr(error, 'msg', error)}") from None
        if not isinstance(content, dict):
            raise place.fault("is not a JSON object")
        yield place, content
