"""Lines of traces: plain or packed, formats by their header, faults with file and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.errors import SpecError
from cosim.workload.requests.trace_lines import Place, format_of, lines, number, rows, whole

Trace = Callable[..., Path]
HEADERS = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens",
    "mooncake": '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [0]}',
    "servegen": "client,window_start_s,rate_req_s,cv,pattern,param1,param2",
    "csv": "arrival_s,prompt_tokens,output_tokens",
    "jsonl": '{"arrival_s": 0, "prompt_tokens": 5, "output_tokens": 5}',
}


@pytest.mark.parametrize("style", HEADERS)
def test_the_format_is_seen_by_the_header(trace: Trace, style: str) -> None:
    assert format_of(trace("x", HEADERS[style], "more")) == style
    assert format_of(trace("x", "", "# a comment", HEADERS[style])) == style
    assert format_of(trace("x", HEADERS[style]), style) == style


def test_a_format_can_be_asked_where_it_reads_the_same_file(trace: Trace) -> None:
    assert format_of(trace("x", HEADERS["azure"]), "csv") == "csv"
    assert format_of(trace("x", HEADERS["mooncake"]), "jsonl") == "jsonl"
    with pytest.raises(SpecError, match="looks like csv"):
        format_of(trace("x", HEADERS["csv"]), "azure")
    with pytest.raises(SpecError, match="nearest: azure"):
        format_of(trace("x", HEADERS["csv"]), "azur")


def test_a_table_of_lengths_alone_is_no_trace(trace: Trace) -> None:
    with pytest.raises(SpecError, match="without arrivals") as caught:
        format_of(trace("x", "client,window_start_s,field,mean,q5,q99"))
    assert "rates" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "misnamed"])
def test_packed_files_are_read_as_plain_ones(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = b"\xef\xbb\xbfone,two\n1,2\n"
    path.write_bytes(text if name == "a.csv" else gzip.compress(text))
    assert [(at, line.rstrip()) for at, line in lines(path)] == [(1, "one,two"), (2, "1,2")]


@pytest.mark.parametrize(
    ("content", "said", "line"),
    [
        (b"", "is empty", 1),
        (b"\n\n", "is empty", 1),
        (b"a,b\n\xff\xfe\n", "is not text", 2),
        (gzip.compress(b"a,b\n1,2\n" * 100, mtime=0)[:-9], "cannot be read", None),
        (b"\x1f\x8bbroken", "cannot be read", None),
    ],
)
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, content: bytes, said: str, line: int | None) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=said) as caught:
        (format_of(path), list(lines(path)))
    assert caught.value.file == path
    assert line is None or caught.value.line == line
    with pytest.raises(SpecError, match="no such file"):
        list(lines(tmp_path / "none"))


def test_rows_know_their_lines_behind_comments_and_empty_ones(trace: Trace) -> None:
    path = trace("x.csv", "# a comment, with a comma", " a , b", "", "1,2", "# more", "3,4")
    assert [(place.line, row) for place, row in rows(path, as_json=False)] == [
        (4, {"a": "1", "b": "2"}),
        (6, {"a": "3", "b": "4"}),
    ]
    path = trace("x.jsonl", '{"a": 1}', "", '{"a": 2}')
    assert [(place.line, row["a"]) for place, row in rows(path, as_json=True)] == [(1, 1), (3, 2)]


@pytest.mark.parametrize(
    ("as_json", "body", "line", "said"),
    [
        (False, ("a,b", "1,2", "1"), 3, "has 1 cells where the header has 2"),
        (False, ("a,b", "1,2,3"), 2, "has 3 cells"),
        (False, ("a,b", "1," + "x" * 200_000), 2, "is not CSV"),
        (True, ('{"a": 1}', "{"), 2, "is not JSON"),
        (True, ('{"a": 1}', "[1]"), 2, "is not a JSON object"),
    ],
)
def test_a_broken_line_is_named(trace: Trace, as_json: bool, body: tuple[str, ...], line: int, said: str) -> None:
    path = trace("x", *body)
    with pytest.raises(SpecError, match=said) as caught:
        list(rows(path, as_json=as_json))
    assert (caught.value.file, caught.value.line) == (path, line)


@pytest.mark.parametrize("raw", ["", "many", "nan", "inf", "-1", None, True, [1], "1e999"])
def test_what_is_no_number_of_the_range_is_refused(raw: object) -> None:
    with pytest.raises(SpecError, match="at least 0") as caught:
        number({"a": raw}, "a", Place(Path("x"), 7), 0.0)
    assert (caught.value.line, caught.value.field) == (7, "a")


def test_numbers_and_whole_numbers() -> None:
    place = Place(Path("x"), 7)
    assert number({"a": " 2.5 "}, "a", place, 0.0) == 2.5
    assert whole({"a": "3.0"}, "a", place, 1) == 3
    for raw in ("2.5", 1e17):
        with pytest.raises(SpecError, match="whole number"):
            whole({"a": raw}, "a", place, 1)
