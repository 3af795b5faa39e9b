"""Folders of measurements: settings in measure.json, one CSV a kind that grows by whole rows, each on disk at once.

A row or a skipped point is flushed and fsynced before the next is measured; a line that a kill tore is dropped when
the file is taken up again. What was skipped stands in the file as a comment, so that it is not tried twice.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cosim.errors import SpecError

SETTINGS = "measure.json"
_SKIPPED = "# skipped "


def refuse_existing(out: Path, *, resume: bool) -> None:
    """Raises SpecError where `out` is there and may not be written to."""
    if not out.exists() and not out.is_symlink():
        return
    if not resume:
        raise SpecError("exists", file=out, hint="--resume takes up what was measured; or name another folder")
    # A kill before the settings were whole leaves an empty folder, or their draft.
    begun = out.is_dir() and not {path.name for path in out.iterdir()} - {SETTINGS + ".draft"}
    if not begun and not (out / SETTINGS).is_file():
        raise SpecError("is not a folder of measurements", file=out, hint="name another folder")


def taken_up(out: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder with its settings, or holds `settings` against those it has. Raises SpecError."""
    path = out / SETTINGS
    try:
        if path.is_file():
            _agree(path, settings)
            return
        out.mkdir(parents=True, exist_ok=True)
        _write_whole(path, json.dumps(dict(settings), indent=1) + "\n")
    except OSError as error:
        raise _unwritable(error, out) from None


def _agree(path: Path, settings: Mapping[str, Any]) -> None:
    """Raises SpecError that names the first setting which differs."""
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise SpecError("cannot be read as settings", file=path, hint="name another folder")
    for name, value in settings.items():
        if stored.get(name) != value:
            raise SpecError(
                "differs from the measurements that are there",
                file=path,
                field=name,
                value=value,
                hint=f"they were made with {stored.get(name)!r}; name another folder for these",
            )


class Table:
    """A CSV that grows. State is on disk: `append` and `skip` return when it holds the line."""

    def __init__(self, path: Path, head: Sequence[str], columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.rows: dict[str, float] = {}
        """Spread of every row by its id."""
        self.skipped: dict[str, str] = {}
        """Reason by id."""
        try:
            if path.exists():
                self._take_up()
            else:
                _write_whole(path, "".join(f"# {line}\n" for line in head) + _line(self.columns))
            self._file = path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise _unwritable(error, path) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, name: object) -> bool:
        """Whether a point is measured or skipped."""
        return name in self.rows or name in self.skipped

    def append(self, row: Mapping[str, object]) -> None:
        """One row; its keys are the columns. Raises SpecError where the disk refuses it."""
        self._write(_line([row[name] for name in self.columns]))
        self.rows[str(row["id"])] = float(str(row["spread"]))

    def skip(self, name: str, reason: str) -> None:
        """A point, or a format, that cannot be measured, and why."""
        told = " ".join(reason.split())
        self._write(f"{_SKIPPED}{name}: {told}\n")
        self.skipped[name] = told

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(error, self.path) from None

    def _take_up(self) -> None:
        """Drops a torn last line and reads what is measured and skipped."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        lines = whole.decode("utf-8").splitlines()
        self.skipped = dict(_skip(line) for line in lines if line.startswith(_SKIPPED))
        fields = list(csv.reader(line for line in lines if line and not line.startswith("#")))
        if not fields or tuple(fields[0]) != self.columns:
            raise SpecError("has other columns than these measurements", file=self.path, hint="name another folder")
        self.rows = {
            row["id"]: float(row["spread"]) for row in (dict(zip(fields[0], f, strict=True)) for f in fields[1:])
        }


def _skip(line: str) -> tuple[str, str]:
    name, _, reason = line.removeprefix(_SKIPPED).partition(": ")
    return name, reason


def _line(fields: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _unwritable(error: OSError, path: Path) -> SpecError:
    return SpecError(f"cannot be written: {error.strerror or type(error).__name__}", file=path)
