"""Cycles of one systolic array against a cycle-level simulator, row by row."""

from __future__ import annotations

import csv

import pytest

from cosim.library import shipped
from cosim.records import array
from cosim.timing.systolic import cycles

TABLE = shipped() / "experiments" / "validation" / "systolic_cycles.csv"


def rows() -> list[dict[str, str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def name(row: dict[str, str]) -> str:
    return "{M}x{N}x{K} on {rows}x{cols} {dataflow}".format(**row)


@pytest.mark.parametrize("row", rows(), ids=name)
def test_cycles_are_those_of_the_simulator(row: dict[str, str]) -> None:
    numbers = [array(float(row[column])) for column in ("M", "N", "K", "rows", "cols")]
    assert float(cycles(*numbers, row["dataflow"])) == float(row["cycles"])


def test_the_table_covers_every_dataflow_and_arrays_that_are_not_square() -> None:
    table = rows()
    assert len(table) >= 30
    assert {row["dataflow"] for row in table} == {"os", "ws", "is"}
    assert any(int(row["rows"]) < int(row["cols"]) for row in table)
    assert any(int(row["rows"]) > int(row["cols"]) for row in table)


def test_the_table_names_its_source() -> None:
    head = TABLE.read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("#")
    assert "SCALE-Sim 3.0.0" in head
