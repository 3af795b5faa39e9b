"""Records on disk: what is appended is read, in flat memory, and an error leaves no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.serving import store
from cosim.explore.serving.records import COLUMNS, Served, of_tuples
from cosim.explore.serving.store import RecordWriter, read_records

Row = tuple[float, ...]
TIMES = st.tuples(*[st.floats(0, 1e5)] * 4)


def row(number: int, times: tuple[float, float, float, float] = (0.0, 1.0, 1.0, 1.0)) -> Row:
    arrival, scheduled, first, finished = np.cumsum(times).tolist()
    return (number, arrival, 100, 5, 25, 1, 2, 3, scheduled, first, finished, 4)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(TIMES, max_size=5), min_size=1, max_size=6), st.integers(1, 7), st.integers(1, 4))
def test_what_is_appended_is_read_in_its_order(
    tmp_path: Path, chunks: list[list[tuple[float, float, float, float]]], gathered: int, size: int
) -> None:
    path = tmp_path / "records.parquet"
    numbered = [[row(10 * at + each, times) for each, times in enumerate(chunk)] for at, chunk in enumerate(chunks)]
    with pytest.MonkeyPatch.context() as patch, RecordWriter(path) as writer:
        patch.setattr(store, "ROWS", gathered)
        for chunk in numbered:
            writer.write(chunk)
    rows = [each for chunk in numbered for each in chunk]
    assert writer.rows == len(rows) == pq.read_metadata(path).num_rows
    parts = list(read_records(path, size))
    assert all(len(part) <= size for part in parts)
    wanted = of_tuples(rows)
    for name in COLUMNS:
        assert [value for part in parts for value in getattr(part, name)] == getattr(wanted, name).tolist()


def test_columns_have_types_and_units(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.parquet"
    with RecordWriter(path) as writer:
        writer.write([row(1)])
    schema = pq.read_schema(path)
    assert tuple(schema.names) == COLUMNS
    for field in schema:
        timed = field.name.endswith("_s")
        assert field.type == (pa.float64() if timed else pa.int64())
        unit = (field.metadata or {}).get(b"unit")
        assert unit == (b"s" if timed else b"token" if field.name.endswith("_tokens") else None)


def test_rows_are_written_as_they_come_not_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ROWS", 100)
    path = tmp_path / "records.parquet"
    with RecordWriter(path) as writer:
        for start in range(0, 1000, 10):
            writer.write([row(start + each) for each in range(10)])
            assert len(writer._waiting) < 100
            assert not path.exists()
    assert pq.read_metadata(path).num_row_groups == 10


def test_no_record_is_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    with RecordWriter(path):
        pass
    assert pq.read_table(path).num_rows == 0
    assert sum(len(part) for part in read_records(path)) == 0


def test_an_error_leaves_no_file_and_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    path.write_text("older")

    def act(fault: BaseException) -> None:
        with RecordWriter(path) as writer:
            writer.write([row(1)])
            raise fault

    with pytest.raises(RuntimeError, match="on the way"):
        act(RuntimeError("on the way"))
    assert [each.name for each in tmp_path.iterdir()] == ["records.parquet"]
    assert path.read_text() == "older"


def test_a_row_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    with pytest.raises(SpecError, match="12 columns"), RecordWriter(path) as writer:
        writer.write([row(1)[:-1]])
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpecError, match="cannot be written"), RecordWriter(tmp_path / "file" / "records.parquet"):
        pass


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    with pytest.raises(SpecError, match="no such file"):
        list(read_records(path))
    path.write_text("no")
    with pytest.raises(SpecError, match="cannot be read as Parquet"):
        list(read_records(path))
    pq.write_table(pa.table({"request": [1]}), path)
    with pytest.raises(SpecError, match="is missing from the records") as caught:
        list(read_records(path))
    assert caught.value.file == path


def test_columns_are_appended_behind_rows(served: Callable[..., Served], tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    some = served(3)
    row = tuple(float(getattr(some, name)[0]) for name in COLUMNS)
    with RecordWriter(path) as writer:
        writer.write([row])
        writer.add(some)
    (found,) = read_records(path)
    assert writer.rows == len(found) == 4
    assert found.arrival_s.tolist() == [0.0, 0.0, 1.0, 2.0]
    assert found.prompt_tokens.tolist() == [100] * 4
