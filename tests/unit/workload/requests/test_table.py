"""Requests on disk: what is written is read, in chunks of any size, with units; broken files are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.workload.requests.records import COLUMNS, Blocks, Requests, joined, offsets_of, requests_of
from cosim.workload.requests.table import read_lengths, read_requests, write_requests

ROW = st.tuples(st.floats(0, 1e6), st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.integers(0, 2**62)))


def made(rows: list[tuple[float, int, int, list[int]]], *, blocks: bool) -> Requests:
    times, prompts, outputs, ids = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    counts = np.array([len(each) for each in ids], dtype=np.int64)
    flat = np.array([one for each in ids for one in each], dtype=np.int64)
    known = Blocks(offsets_of(counts), flat, 512) if blocks else None
    return requests_of(times, prompts, outputs, session=range(len(rows)), client=7, priority=-2, blocks=known)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=12), st.booleans(), st.integers(1, 5))
def test_what_is_written_is_read(
    tmp_path: Path, rows: list[tuple[float, int, int, list[int]]], blocks: bool, chunk: int
) -> None:
    path = tmp_path / "x.parquet"
    path.unlink(missing_ok=True)
    whole = made(rows, blocks=blocks)
    assert write_requests(path, iter([whole])) == len(rows)
    parts = list(read_requests(path, chunk))
    assert all(len(part) <= chunk for part in parts)
    found = joined(parts)
    for name in COLUMNS:
        assert getattr(found, name).tolist() == getattr(whole, name).tolist()
    if blocks:
        assert found.blocks is not None
        assert whole.blocks is not None
        assert (found.blocks.tokens, found.blocks.ids.tolist()) == (512, whole.blocks.ids.tolist())
        assert found.blocks.offsets.tolist() == whole.blocks.offsets.tolist()
    else:
        assert found.blocks is None
    assert read_lengths(path).tolist() == np.stack([whole.prompt_tokens, whole.output_tokens], axis=1).tolist()


def test_columns_have_their_units(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.parquet"
    write_requests(path, iter([made([(0.0, 5, 6, [1, 2])], blocks=True)]))
    schema = pq.read_schema(path)
    assert schema.names == [*COLUMNS, "blocks"]
    units = {field.name: field.metadata[b"unit"] for field in schema if b"unit" in (field.metadata or {})}
    assert units == {"arrival_s": b"s", "prompt_tokens": b"token", "output_tokens": b"token", "prefix": b"token"}
    assert schema.field("blocks").metadata[b"block_tokens"] == b"512"


def test_columns_that_are_not_there_are_what_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"arrival_s": [0, 1], "prompt_tokens": [3, 4], "output_tokens": [1, 1]}), path)
    (found,) = read_requests(path)
    assert (found.session.tolist(), found.client.tolist(), found.blocks) == ([-1, -1], [0, 0], None)
    assert found.arrival_s.dtype == np.float64


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"

    def broken() -> object:
        yield made([(0.0, 1, 1, [])], blocks=False)
        raise SpecError("a fault on the way")

    with pytest.raises(SpecError, match="a fault"):
        write_requests(path, broken())  # type: ignore[arg-type]  # it yields requests
    with pytest.raises(SpecError, match="would hold no request"):
        write_requests(path, iter([]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"arrival_s": [0.0], "prompt_tokens": [1]}, "output_tokens: has no such column"),
        ({"arrival_s": [0.0], "prompt_tokens": [1], "output_tokens": [None]}, "output_tokens: has an empty cell"),
        ({"arrival_s": [1.0, 0.0], "prompt_tokens": [1, 1], "output_tokens": [1, 1]}, "is before the one above it"),
        ({"arrival_s": [0.0], "prompt_tokens": [0], "output_tokens": [1]}, "prompt_tokens: is less than 1"),
        (
            {"arrival_s": [0.0], "prompt_tokens": [1], "output_tokens": [1], "blocks": [[1]]},
            "how many tokens a block holds",
        ),
    ],
)
def test_a_wrong_table_is_said(tmp_path: Path, columns: dict[str, list[object]], said: str) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SpecError) as caught:
        list(read_requests(path))
    assert said in str(caught.value)
    assert caught.value.file in (path, str(path))


def test_arrivals_that_fall_from_part_to_part_are_said(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"arrival_s": [1.0, 0.0], "prompt_tokens": [1, 1], "output_tokens": [1, 1]}), path)
    with pytest.raises(SpecError, match="fall between two parts"):
        list(read_requests(path, 1))


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("no")
    with pytest.raises(SpecError, match="cannot be read as Parquet"):
        list(read_requests(path))
    with pytest.raises(SpecError, match="no such file"):
        list(read_requests(tmp_path / "none.parquet"))
    pq.write_table(pa.table({"prompt_tokens": [0], "output_tokens": [1]}), path)
    with pytest.raises(SpecError, match="below 1"):
        read_lengths(path)
