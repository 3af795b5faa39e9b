"""Records of served requests on disk: chunks appended to one Parquet, whole or not at all, in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cosim.errors import SpecError
from cosim.explore.serving.records import COLUMNS, Served, served_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 65_536
"""Rows that are gathered before they are written."""
UNITS = {
    "arrival_s": "s",
    "scheduled_s": "s",
    "first_token_s": "s",
    "finished_s": "s",
    "prompt_tokens": "token",
    "output_tokens": "token",
    "cached_tokens": "token",
}
_TIMES = tuple(name for name in COLUMNS if name.endswith("_s"))


def schema() -> pa.Schema:
    """Columns of the file: times as float64, all else as int64, with units."""
    import pyarrow as pa

    kinds = {name: pa.float64() if name in _TIMES else pa.int64() for name in COLUMNS}
    return pa.schema(
        [
            pa.field(name, kind, metadata={"unit": UNITS[name]} if name in UNITS else None)
            for name, kind in kinds.items()
        ]
    )


def arrow_records(columns: Mapping[str, Any]) -> pa.Table:
    """Columns of records as an Arrow table with units."""
    import pyarrow as pa

    kinds = schema()
    arrays = [
        pa.array(np.asarray(columns[name]).astype(np.float64 if name in _TIMES else np.int64), kinds.field(name).type)
        for name in COLUMNS
    ]
    return pa.Table.from_arrays(arrays, schema=kinds)


class RecordWriter:
    """A sink of records: `write` takes rows in the order of `COLUMNS`; the file has its name when the block ends.

    An error inside the block leaves no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        """Rows taken so far."""
        self._draft = path.with_name(path.name + ".draft")
        self._waiting: list[Any] = []
        self._writer: Any = None

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._draft, schema(), compression="zstd")
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                self._draft.rename(self.path)
        except OSError as fault:
            raise self._unwritable(fault) from None
        finally:
            self._draft.unlink(missing_ok=True)

    def write(self, rows: list[tuple[float, ...]]) -> None:
        """Appends rows. Raises SpecError where one has not all columns, or the disk refuses them."""
        if any(len(row) != len(COLUMNS) for row in rows):
            raise SpecError(f"does not hold {len(COLUMNS)} columns", field="record", hint=", ".join(COLUMNS))
        self._waiting.extend(rows)
        self.rows += len(rows)
        if len(self._waiting) >= ROWS:
            self._flush()

    def add(self, served: Served) -> None:
        """Appends records that are columns already. Raises SpecError where the disk refuses them."""
        self._flush()
        self._write({name: getattr(served, name) for name in COLUMNS})
        self.rows += len(served)

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = dict(zip(COLUMNS, zip(*self._waiting, strict=True), strict=True))
        self._waiting = []
        self._write(columns)

    def _write(self, columns: Mapping[str, Any]) -> None:
        try:
            self._writer.write_table(arrow_records(columns))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> SpecError:
        return SpecError(f"cannot be written: {error.strerror or type(error).__name__}", file=self.path)


def read_records(path: Path, rows: int = ROWS) -> Iterator[Served]:
    """The records of a file in chunks of at most `rows`. Raises SpecError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as stored:
            for batch in stored.iter_batches(rows):
                known = [name for name in COLUMNS if name in batch.schema.names]
                yield served_of({name: batch.column(name).to_numpy(zero_copy_only=False) for name in known})
    except FileNotFoundError:
        raise SpecError("no such file", file=path) from None
    except SpecError as error:
        raise error.at(file=path) from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise SpecError(f"cannot be read as Parquet: {reason}", file=path) from None
