"""The plain part of YAML: where it answers, data, types and lines are the whole parser's; else it leaves the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import documents, library
from cosim.errors import SpecError
from cosim.plain_yaml import MAX_DEPTH, MAX_FIELDS, MAX_LINE, plain_yaml

Read = tuple[dict[str, Any], dict[str, int]]
SHIPPED = sorted(
    path for kind in ("accelerators", "workloads", "experiments") for path in (library.shipped() / kind).rglob("*.yaml")
)
CHIP = """# A chip.
name: small
title: "8 cores: #1"
cores: {value: 8, kind: datasheet, source: sheet, note: 'of 9'}

memory:
  dram:
    technology: 2.5D HBM
    stacks: {value: 4.5e+3, unit: GB/s, low: -1, high: null}
  names: [a, b, {c: true}]
price:
"""
STACKS = ("value", "unit", "low", "high")
SCALARS = [
    *["1", "-1", "0", "-0", "007", "1_000", "0x1F", "0o17", "1e5", "1.5e-3", "1E5", ".5", "1.", "+1", "-.5", "1.2.3"],
    *[".inf", "-.inf", ".nan", "~", "null", "Null", "true", "TRUE", "yes", "no", "on", "Off", "y", "n", "_", "e5"],
    *["2001-12-14", "12:30", "a:b", "a: b", "a #b", "a# b", "a#b", "#a", "a,b", "a, b", "a]b", "a{b", "- a", "-a"],
    *["8 cards", "2.5D", "2.5E", "400G NIC", "12 e5", "1e5 x", "9X", "0b1", "1 2", "15 ms", "15ms", "8-bit", "a?b"],
    *['"x y"', "'x y'", '"a: b"', "'it''s'", '"\\n"', '"', '""', "''", '"a" b', "*a", "&a b", "!t a", "|", ">", "a>b"],
    *["@a", "%a", "`a", "a  b", "a ", "é", "a\u00a0b", "a\u2028b", "a\tb", "{}", "[]", "{ }", "[ ]", "<<", "=", "?"],
    *["{a: 1}", "{a: 1, a: 2}", "{a: 1,}", "{a}", "{a: }", "{a:1}", '{"a": 1}', "{a: [1, {b: x y}]}", "{a: 1} b"],
    *["[1, 2 ]", "[a: 1]", "[,]", "[1", "{a: 1", "{a: 1}}", "[1]]", "[ [a], b ]", "{a: b:c}", "{a: x # y}", "{a: 1} #"],
]
KEYS = ["a", "b", "c-d", "e.f", "x/y", "true", "Null", "on", "1", "a b", '"q"', "_k", "é", "<<", "k" * 101]
LINES = st.tuples(
    st.sampled_from(["", "", "  ", "    ", " ", "\t", "- ", "  - "]),
    st.sampled_from(KEYS),
    st.sampled_from([": ", ": ", ":", ":  ", " : ", ":\t", ""]),
    st.sampled_from(SCALARS) | st.just(""),
    st.sampled_from(["", "", "", " # remark", "  ", "#", " #"]),
).map("".join) | st.sampled_from(["", "   ", "# remark", "---", "...", "%YAML 1.1", "text", "  more: text", "\r"])


def whole(text: str) -> Read | None:
    """What the whole parser reads, or None where it refuses."""
    path = Path("made-up.yaml")
    lines: dict[str, int] = {}
    try:
        data = documents._plain(documents._yaml(text, path), "", lines, path, 0)
    except SpecError:
        return None
    return (data, lines) if isinstance(data, dict) else None


def agrees(text: str) -> bool:
    """Whether the plain reading is the whole parser's, types included; True where it gives the file up."""
    read = plain_yaml(text)
    if read is None:
        return True
    other = whole(text)
    return other is not None and repr(read[0]) == repr(other[0]) and read[1] == other[1]


def value(text: str) -> object:
    """The value of one line, "left" where the line is left to the whole parser."""
    read = plain_yaml(f"key: {text}\n")
    return "left" if read is None else read[0]["key"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_file_is_read_as_the_whole_parser_reads_it(path: Path) -> None:
    assert agrees(path.read_text(encoding="utf-8"))


def test_most_shipped_chips_are_plain() -> None:
    chips = [path.read_text(encoding="utf-8") for path in library.names("accelerators").values()]
    assert sum(plain_yaml(text) is not None for text in chips) > 0.9 * len(chips)


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(LINES, min_size=1, max_size=5))
def test_made_up_lines_are_left_or_read_as_the_whole_parser_reads_them(lines: list[str]) -> None:
    assert agrees("\n".join(lines))


@pytest.mark.parametrize("scalar", SCALARS)
def test_every_odd_scalar_is_left_or_read_right_wherever_it_stands(scalar: str) -> None:
    for text in (f"k: {scalar}", f"k: {scalar} # x\nl: 1", f"k: {{a: {scalar}}}", f"k: [{scalar}, 1]", f"{scalar}: 1"):
        assert agrees(text), text
        assert agrees(f"m:\n  {text}\nn: 1\n"), text


@settings(max_examples=120, deadline=None)
@given(at=st.integers(0, len(CHIP)), cut=st.integers(0, 3), put=st.text("{}[]:,-'\"#!|>%@`?ab1 \n\té", max_size=3))
def test_a_chip_spoilt_anywhere_is_left_or_read_as_the_whole_parser_reads_it(at: int, cut: int, put: str) -> None:
    assert agrees(CHIP[:at] + put + CHIP[at + cut :])


@settings(max_examples=80, deadline=None)
@given(content=st.text("{}[]:,-'\"#!|>%@`?abe01. \n\t", max_size=30))
def test_noise_is_left_or_read_as_the_whole_parser_reads_it(content: str) -> None:
    assert agrees(content)
    assert agrees(f"a: {content}")


def test_a_plain_chip_is_read_whole() -> None:
    assert plain_yaml(CHIP) == (
        {
            "name": "small",
            "title": "8 cores: #1",
            "cores": {"value": 8, "kind": "datasheet", "source": "sheet", "note": "of 9"},
            "memory": {
                "dram": {
                    "technology": "2.5D HBM",
                    "stacks": {"value": 4500.0, "unit": "GB/s", "low": -1, "high": None},
                },
                "names": ["a", "b", {"c": True}],
            },
            "price": None,
        },
        {
            "name": 2,
            "title": 3,
            "memory": 6,
            "memory.dram": 7,
            "memory.dram.technology": 8,
            "memory.names": 10,
            "price": 11,
            **dict.fromkeys(["cores", *(f"cores.{name}" for name in ("value", "kind", "source", "note"))], 4),
            **dict.fromkeys(["memory.dram.stacks", *(f"memory.dram.stacks.{n}" for n in STACKS)], 9),
            **dict.fromkeys([f"memory.names.{name}" for name in ("0", "1", "2", "2.c")], 10),
        },
    )


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("80.0e+9", 8e10),
        ("2e-3", 0.002),
        ("true", True),
        ("null", None),
        ("a b", "a b"),
        ("a:b", "a:b"),
        ("400G NIC", "400G NIC"),
        ('"12"', "12"),
        ("'#'", "#"),
        ("[]", []),
        ("{}", {}),
        ("[1, [2], {a: 3}]", [1, [2], {"a": 3}]),
        ("x # remark", "x"),
    ],
)
def test_values_and_their_types(text: str, read: object) -> None:
    found = value(text)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    "text", ["*a", "&a 1", "!t x", "|", ">", "yes", "No", "0x10", "1_0", "2001-12-14", "'it''s'", '"\\n"']
)
def test_what_needs_the_whole_parser_is_left_to_it(text: str) -> None:
    assert value(text) == "left"


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2\n",
        "a: {b: 1, b: 2}\n",
        "a: 1\n  b: 2\n",
        "a:\n    b: 1\n  c: 2\n",
        " a: 1\n",
        "a: text\n  goes on\n",
        "- a\n",
        "a: {b: 1\n",
        "a: 'open\n",
        "",
        "# only a remark\n",
        "text\n",
    ],
)
def test_faults_and_other_shapes_are_left_to_the_whole_parser(text: str) -> None:
    assert plain_yaml(text) is None


TIERS = """tiers:
  # innermost first
  - name: node
    size: {value: 8}
    constants:
      algorithms: [ring]
  -   link:
      rails: true
  - name: pod
nodes: 2
"""


def test_a_list_of_mappings_is_read_with_its_lines() -> None:
    read = plain_yaml(TIERS)
    assert read is not None
    first = {"name": "node", "size": {"value": 8}, "constants": {"algorithms": ["ring"]}}
    assert read[0] == {"tiers": [first, {"link": None, "rails": True}, {"name": "pod"}], "nodes": 2}
    assert {place: read[1][place] for place in ("tiers", "tiers.0", "tiers.0.size.value", "tiers.1.rails")} == {
        "tiers": 1,
        "tiers.0": 3,
        "tiers.0.size.value": 4,
        "tiers.1.rails": 8,
    }
    assert agrees(TIERS)


DASHED = ["a: 1", "b: {c: 1}", "a:", "- a: 1", "- b:", "-  c: 2", "- a", "- - a: 1", "- {a: 1}", "-", "- # r", "# r"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(DASHED)), min_size=1, max_size=6), st.booleans())
def test_lists_of_any_indentation_are_left_or_read_as_the_whole_parser_reads_them(
    lines: list[tuple[int, str]], under: bool
) -> None:
    text = "".join(f"{' ' * indent}{line}\n" for indent, line in lines)
    assert agrees(f"t:\n{text}" if under else text)


@pytest.mark.parametrize(
    "text",
    [
        "a:\n- b: 1\n",
        "a:\n  - b\n",
        "a:\n  - {b: 1}\n",
        "a:\n  - - b: 1\n",
        "a:\n  - b: 1\n  c: 2\n",
        "a:\n  - b: 1\n   c: 2\n",
        "a:\n  - b: 1\n    b: 2\n",
        "a:\n  - b:\n    - c: 1\n",
        "a: 1\n  - b: 1\n",
        "- a: 1\n",
    ],
)
def test_other_lists_of_dashes_are_left_to_the_whole_parser(text: str) -> None:
    assert plain_yaml(text) is None


def test_shipped_systems_are_plain() -> None:
    left = [name for name, path in library.names("systems").items() if plain_yaml(path.read_text("utf-8")) is None]
    assert left == []


def test_what_is_deep_long_or_many_is_left_to_the_whole_parser() -> None:
    deep = MAX_DEPTH + 3
    nested = "".join(f"{'  ' * level}a:\n" for level in range(deep))
    assert plain_yaml("a: " + "{a: " * 3 + "1" + "}" * 3) is not None
    assert plain_yaml("a: " + "{a: " * deep + "1" + "}" * deep) is None
    assert plain_yaml("a: " + "[" * 5_000) is None
    assert plain_yaml(nested) is None
    assert plain_yaml(f"a: {'b' * (MAX_LINE - 3)}") is not None
    assert plain_yaml(f"a: {'b' * MAX_LINE}") is None
    assert plain_yaml("".join(f"k{number}: 1\n" for number in range(MAX_FIELDS + 5))) is None


def test_a_long_run_of_spaces_takes_no_time() -> None:
    assert plain_yaml(f"a: b{' ' * 2_000_000}c") is None
