"""Measured collectives of the tables apart: elements to bytes, milliseconds to seconds, the median over versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim.errors import SpecError
from cosim.validation.collective import answers
from cosim.validation.collective_tables import collective_cases

pa = pytest.importorskip("pyarrow")
COLUMNS = ("op_name", "nccl_dtype", "num_gpus", "message_size", "latency")


def table(root: Path, version: str, rows: list[tuple[object, ...]], columns: tuple[str, ...] = COLUMNS) -> None:
    import pyarrow.parquet as pq

    folder = root / "h100_sxm" / "comm" / "nccl" / version
    folder.mkdir(parents=True)
    pq.write_table(pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), folder / "nccl_perf.parquet")


def test_rows_become_cases_of_the_usual_system(tmp_path: Path) -> None:
    table(tmp_path, "2.1", [("all_reduce", "half", 8, 256, 0.0156), ("all_reduce", "int8", 8, 256, 9.0)])
    table(tmp_path, "2.2", [("all_reduce", "half", 8, 256, 0.0176)])
    (case,) = collective_cases(tmp_path)
    assert case.id == "co-h100-sxm-all_reduce-8-512"
    assert (case.values["system"], case.values["bytes"], case.values["ranks"]) == ("dgx-h100", "512", "8")
    assert case.number("measured_s") == pytest.approx(16.6e-6)
    assert case.values["versions"] == "2"
    ((time, reason),) = answers([case])
    assert (time is not None, reason) == (True, "")


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    table(tmp_path, "2.1", [("all_reduce", "half", 8, 256)], COLUMNS[:4])
    with pytest.raises(SpecError, match="latency"):
        collective_cases(tmp_path)


def test_no_tables_are_no_cases(tmp_path: Path) -> None:
    assert collective_cases(tmp_path) == []
