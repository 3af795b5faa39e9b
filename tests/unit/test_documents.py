"""Documents: what JSON can say comes back unchanged with its lines, and every unreadable file is one SpecError."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.documents import MAX_BYTES, MAX_DEPTH, Document, read, read_text
from cosim.errors import SpecError

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=8)
KEYS = WORDS.filter(lambda word: word[0].isalpha() and word not in ("true", "false", "null"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(-1e30, 1e30)
    | st.text("ab: #-'é%", max_size=9)
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
MAPPINGS = st.dictionaries(KEYS, TREES, min_size=1, max_size=4)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(content: str | bytes, name: str = "file.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@settings(max_examples=60, deadline=None)
@given(data=MAPPINGS, indent=st.sampled_from([None, 2]), suffix=st.sampled_from(["yaml", "json"]))
def test_plain_data_comes_back_as_it_was_written(
    scratch: Path, data: dict[str, Any], indent: int | None, suffix: str
) -> None:
    path = scratch / f"tree.{suffix}"
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=False), encoding="utf-8")
    document = read(path)
    assert document.data == data
    assert document.path == path
    assert document.text == path.read_text(encoding="utf-8")


@settings(max_examples=60, deadline=None)
@given(names=st.lists(KEYS, min_size=1, max_size=8, unique=True), gap=st.integers(0, 3))
def test_every_field_knows_its_line(scratch: Path, names: list[str], gap: int) -> None:
    rows = [row for name in names for row in (*["# remark"] * gap, f"{name}:", "  inner: 1", "  list: [1, {x: 2}]")]
    path = scratch / "lines.yaml"
    path.write_text("\n".join(rows))
    document = read(path)
    for name in names:
        first = rows.index(f"{name}:") + 1
        assert document.line(name) == first
        assert document.line(f"{name}.inner") == first + 1
        assert document.line(f"{name}.list.1.x") == first + 2


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=60) | st.text("{}[]:,-'\"#!|>%@`?ab1 \n\t", max_size=40).map(str.encode))
def test_any_bytes_are_a_document_or_a_spec_error_that_names_the_file(scratch: Path, content: bytes) -> None:
    path = scratch / "noise.yaml"
    path.write_bytes(content)
    try:
        document = read(path)
    except SpecError as error:
        assert error.file == path  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(document.data, dict)


def test_line_of_an_unknown_field_is_that_of_its_nearest_parent() -> None:
    document = Document({}, Path("x"), "", {"memory": 3, "memory.dram": 4})
    assert document.line("memory.dram.capacity.value") == 4
    assert document.line("memory.cache") == 3
    assert document.line("cores") is None


def test_numbers_and_words_are_read_as_people_mean_them(write: Write) -> None:
    data = read(write("a: 3.35e12\nb: 1_000\nc: on\nd: no\ne: 2024-01-01\nf: true\ng: 007x\n")).data
    assert data == {"a": 3.35e12, "b": 1000, "c": "on", "d": "no", "e": "2024-01-01", "f": True, "g": "007x"}
    assert type(data["a"]) is float
    assert type(data["b"]) is int
    assert type(data["c"]) is str


def test_containers_are_plain_so_that_nothing_of_the_parser_leaks(write: Write) -> None:
    data = read(write("a: {b: [1, {c: 'x'}]}\n")).data
    assert type(data["a"]) is dict
    assert type(data["a"]["b"]) is list
    assert type(data["a"]["b"][1]["c"]) is str


def test_nan_and_infinity_reach_the_validation_as_numbers(write: Write) -> None:
    data = read(write("a: .nan\nb: .inf\n")).data
    assert math.isnan(data["a"])
    assert data["b"] == math.inf


def test_anchors_and_merge_keys_are_resolved(write: Write) -> None:
    data = read(write("base: &base {x: 1, y: 2}\nother:\n  <<: *base\n  y: 3\nsame: *base\n")).data
    assert data["other"] == {"x": 1, "y": 3}
    assert data["same"] == {"x": 1, "y": 2}


def test_nesting_as_deep_as_allowed_is_read_and_deeper_is_refused(write: Write) -> None:
    for depth, fits in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        path = write("a: " + "[" * depth + "]" * depth)
        if fits:
            assert read(path).data["a"] is not None
        else:
            with pytest.raises(SpecError, match="nested too deeply, or refers to itself"):
                read(path)


@pytest.mark.parametrize(
    ("content", "problem", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", 'duplicate key "a"', 3),
        ("a:\n  b: 1\n  b: 2\n", 'duplicate key "b"', 3),
        ("a: 1\nb: [1, 2", "is not YAML: expected ',' or ']'", 2),
        ("a: 1\nb: c: d\n", "mapping values are not allowed here", 2),
        ("\tindented: 1\n", "cannot start any token", 1),
        ("a: *nothing\n", "undefined alias 'nothing'", 1),
        ("a: 1\n---\nb: 2\n", "another document", 2),
        ("- a\n- b\n", "does not hold a mapping", 1),
        ("just text\n", "does not hold a mapping", 1),
        ("# only a remark\n", "does not hold a mapping", 1),
        ("", "is empty", None),
        (" \n\n", "is empty", None),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not text (UTF-8)", None),
        (b"a: \x00\n", "it holds zero bytes", None),
        ("a: \x01\n", "special characters are not allowed", None),
        ("[1, 2]: x\n", "has a key that is not text", None),
        ("a: {~: 1}\n", "has a key that is not text", None),
        ("a: !!int seven\n", "is not YAML: invalid literal", None),
        ("a: " + "[" * 1000, "is not YAML: maximum recursion depth", None),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit", None),
    ],
)
def test_broken_yaml_says_what_and_where(write: Write, content: str | bytes, problem: str, line: int | None) -> None:
    path = write(content)
    with pytest.raises(SpecError) as caught:
        read(path)
    assert problem in caught.value.problem
    assert (caught.value.file, caught.value.line) == (path, line)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("content", "problem", "line"),
    [
        ('{\n"a": 1,\n"b": }\n', "is not JSON: Expecting value", 3),
        ("[1, 2]", "does not hold an object", 1),
        ('"text"', "does not hold an object", 1),
        ("", "is empty", None),
        ('{"a": ' + "[" * 200_000, "is nested too deeply", None),
    ],
)
def test_broken_json_says_what_and_where(write: Write, content: str, problem: str, line: int | None) -> None:
    path = write(content, "file.json")
    with pytest.raises(SpecError) as caught:
        read(path)
    assert problem in caught.value.problem
    assert (caught.value.file, caught.value.line) == (path, line)


def test_a_cycle_of_aliases_never_hangs_and_never_gives_endless_data(write: Write) -> None:
    for content in ("a: &a [*a, 1]\n", "a: &a {b: *a}\n", "a: &a {b: [{c: *a}]}\n"):
        path = write(content)
        try:
            shown = json.dumps(read(path).data)
        except SpecError as error:
            assert error.file == path  # noqa: PT017  # refused is right too
        else:
            assert len(shown) < 200


def test_missing_file_folder_and_unreadable_path_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("a: 1")
    for path, problem in (
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "file.yaml" / "below.yaml", "cannot be read: Not a directory"),
        (tmp_path / ("x" * 4000), "cannot be read: File name too long"),
    ):
        with pytest.raises(SpecError, match=problem) as caught:
            read(path)
        assert caught.value.file == path


def test_huge_files_are_refused_before_they_are_parsed(write: Write) -> None:
    path = write(b"a: 1 #" + b" " * MAX_BYTES)
    with pytest.raises(SpecError, match="is too large for a description") as caught:
        read_text(path)
    assert f"{MAX_BYTES:,}" in str(caught.value.hint)


def test_text_is_utf8_whatever_the_locale(write: Write) -> None:
    assert read(write("title: Größe µ\n")).data == {"title": "Größe µ"}
