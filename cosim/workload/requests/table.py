"""Requests on disk: Parquet with the unit of every column, written and read in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosim.errors import SpecError
from cosim.records import array
from cosim.workload.requests.records import COLUMNS, ROWS, Blocks, Int, Requests, checked, requests_of

if TYPE_CHECKING:
    import pyarrow as pa

UNITS = {"arrival_s": "s", "prompt_tokens": "token", "output_tokens": "token", "prefix": "token"}
_BLOCKS = "blocks"


def write_requests(path: Path, chunks: Iterator[Requests]) -> int:
    """Writes all chunks to a Parquet file, whole or not at all; memory is that of a chunk. Returns the rows.

    Raises SpecError where the disk refuses it or there is no request.
    """
    import pyarrow.parquet as pq

    draft = path.with_name(path.name + ".draft")
    rows, writer = 0, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for chunk in chunks:
            table = arrow_of(chunk)
            if writer is None:
                writer = pq.ParquetWriter(draft, table.schema, compression="zstd")
            writer.write_table(table)
            rows += len(chunk)
        if writer is None:
            raise SpecError("would hold no request", file=path)
        writer.close()
        draft.rename(path)
    except OSError as error:
        raise SpecError(f"cannot be written: {error.strerror or error}", file=path) from None
    finally:
        if writer is not None:
            writer.close()
        draft.unlink(missing_ok=True)
    return rows


def arrow_of(requests: Requests) -> pa.Table:
    """Columns with their units; blocks as lists whose metadata say how many tokens one holds."""
    import pyarrow as pa

    fields, columns = [], []
    for name in COLUMNS:
        column = pa.array(getattr(requests, name))
        unit = UNITS.get(name)
        fields.append(pa.field(name, column.type, metadata={"unit": unit} if unit else None))
        columns.append(column)
    if requests.blocks is not None:
        column = pa.LargeListArray.from_arrays(pa.array(requests.blocks.offsets), pa.array(requests.blocks.ids))
        metadata = {"block_tokens": str(requests.blocks.tokens)}
        fields.append(pa.field(_BLOCKS, column.type, metadata=metadata))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def read_requests(file: str | Path, rows: int = ROWS) -> Iterator[Requests]:
    """The requests of a Parquet file in chunks of at most `rows`. Raises SpecError."""
    last = -np.inf
    for batch in _batches(Path(file), rows, ("arrival_s", "prompt_tokens", "output_tokens")):
        try:
            chunk = checked(_requests_of(batch))
        except SpecError as error:
            raise error.at(file=file) from None
        if len(chunk) and chunk.arrival_s[0] < last:
            raise SpecError("fall between two parts", file=file, field="arrival_s", value=float(chunk.arrival_s[0]))
        last = float(chunk.arrival_s[-1]) if len(chunk) else last
        yield chunk


def read_lengths(file: str | Path) -> Int:
    """Prompts and outputs of all rows, (R, 2); the file need not have arrivals. Raises SpecError."""
    names = ("prompt_tokens", "output_tokens")
    parts = [
        np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names], axis=1)
        for batch in _batches(Path(file), ROWS, names)
    ]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *parts]).astype(np.int64)
    if not len(pairs) or pairs.min() < 1:
        raise SpecError("holds no pair of lengths, or one below 1", file=file)
    return pairs


def _batches(path: Path, rows: int, needed: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file that has the columns `needed`. Raises SpecError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as stored:
            missing = [name for name in needed if name not in stored.schema_arrow.names]
            if missing:
                hint = "'cosim import requests' writes such files"
                raise SpecError("has no such column", file=path, field=missing[0], hint=hint)
            for batch in stored.iter_batches(rows):
                empty = next((name for name in needed if batch.column(name).null_count), None)
                if empty is not None:
                    raise SpecError("has an empty cell", file=path, field=empty)
                yield batch
    except FileNotFoundError:
        raise SpecError("no such file", file=path, hint="'cosim import requests' writes such files") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise SpecError(f"cannot be read as Parquet: {reason}", file=path) from None


def _requests_of(batch: pa.RecordBatch) -> Requests:
    """A batch as requests; columns that it has not are filled with what is usual."""
    found = set(batch.schema.names)
    columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in COLUMNS if name in found}
    arrival, prompt, output = (columns.pop(name) for name in ("arrival_s", "prompt_tokens", "output_tokens"))
    blocks = None
    if _BLOCKS in found:
        lists = batch.column(_BLOCKS)
        offsets = lists.offsets.to_numpy().astype(np.int64)
        ids = lists.values.to_numpy()[offsets[0] : offsets[-1]].astype(np.int64)
        metadata = batch.schema.field(_BLOCKS).metadata or {}
        blocks = Blocks(offsets - offsets[0], ids, int(metadata.get(b"block_tokens", b"0")))
        if blocks.tokens < 1:
            raise SpecError("does not say how many tokens a block holds", field=_BLOCKS)
    return requests_of(array(arrival), prompt, output, blocks=blocks, **columns)
