"""Measured cases from CSV: what a file may look like, and every fault told at its line and column."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.validation.cases import KINDS, read_cases

HEAD = ",".join(KINDS["systolic"])


def write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_comments_blank_lines_and_extra_columns_are_kept_as_they_are(tmp_path: Path) -> None:
    text = f"# measured on Monday\n\nid,{HEAD},note\na,1,2,3,4,5,ws,6,first\n  # between\n,7,8,9,4,5,os,6,\n"
    first, second = read_cases("systolic", write(tmp_path, text))
    assert (first.id, first.line) == ("a", 4)
    assert first.values["note"] == "first"
    assert (second.id, second.line) == ("row-6", 6)
    assert (second.values["note"], second.values["dataflow"]) == ("", "os")


def test_a_number_that_is_blank_absent_or_text_is_unknown(tmp_path: Path) -> None:
    (case,) = read_cases("systolic", write(tmp_path, f"{HEAD},note\n 12 ,,3e2,4,5,ws,six,x\n"))
    assert (case.number("M"), case.number("K")) == (12.0, 300.0)
    assert [case.number(name) for name in ("N", "cycles", "note", "nowhere")] == [None] * 4


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.text("ab1.,\" #'", max_size=5), min_size=len(KINDS["matmul"]), max_size=len(KINDS["matmul"])),
        max_size=5,
    )
)
def test_whatever_a_spreadsheet_quotes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    kept = [["x", *row] for row in rows]  # a row that opens with # would be a comment
    text = io.StringIO()
    csv.writer(text).writerows([["name", *KINDS["matmul"]], *kept])
    cases = read_cases("matmul", write(tmp_path_factory.getbasetemp(), text.getvalue()))
    assert [list(case.values.values()) for case in cases] == kept
    assert [case.line for case in cases] == list(range(2, 2 + len(rows)))


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    names = list(reversed(KINDS["systolic"]))
    (case,) = read_cases("systolic", write(tmp_path, ",".join(names) + "\n9,ws,5,4,3,2,1\n"))
    assert (case.number("M"), case.number("cycles"), case.values["dataflow"]) == (1.0, 9.0, "ws")


def test_a_header_alone_holds_no_cases(tmp_path: Path) -> None:
    assert read_cases("systolic", write(tmp_path, HEAD + "\n")) == []


@pytest.mark.parametrize(("kind", "column"), [(kind, column) for kind, names in KINDS.items() for column in names])
def test_a_column_that_a_kind_needs_is_asked_for_by_name(tmp_path: Path, kind: str, column: str) -> None:
    names = [name for name in KINDS[kind] if name != column]
    with pytest.raises(SpecError, match=f"lacks a column that kind {kind} needs") as caught:
        read_cases(kind, write(tmp_path, "# head\n" + ",".join(names) + "\n"))
    assert (caught.value.field, caught.value.line) == (column, 2)


def test_a_misspelt_column_is_named(tmp_path: Path) -> None:
    text = HEAD.replace("dataflow", "data_flow")
    with pytest.raises(SpecError, match=r"dataflow: lacks a column.*nearest: data_flow"):
        read_cases("systolic", write(tmp_path, text + "\n"))


@pytest.mark.parametrize(("row", "fields"), [("1,2,3,4,5,ws", 6), ("1,2,3,4,5,ws,6,7", 8), ("x", 1)])
def test_a_row_with_too_many_or_too_few_fields_is_told_at_its_line(tmp_path: Path, row: str, fields: int) -> None:
    with pytest.raises(SpecError, match=rf"cases\.csv:4: has {fields} fields, not 7"):
        read_cases("systolic", write(tmp_path, f"{HEAD}\n1,2,3,4,5,ws,6\n# remark\n{row}\n"))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\r\n\xff\xfe")
    (tmp_path / "folder.csv").mkdir()
    for name, problem in (("none", "no such file"), ("folder", "cannot be read"), ("image", "is not text")):
        with pytest.raises(SpecError, match=problem):
            read_cases("matmul", tmp_path / f"{name}.csv")
    for text in ("", "\n\n", "# only remarks\n"):
        with pytest.raises(SpecError, match="holds no rows"):
            read_cases("matmul", write(tmp_path, text))


def test_an_unknown_kind_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--kind: unknown kind of case.*nearest: matmul"):
        read_cases("matmull", write(tmp_path, HEAD))
