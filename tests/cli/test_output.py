"""What commands share: settings, JSON, tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.cli.output import emit, overrides, table
from cosim.errors import SpecError

CELLS = st.text("ab1 ", max_size=6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("-3", -3),
        ("1.5", 1.5),
        ("3e12", 3e12),
        ("true", True),
        ("False", False),
        ("4 TB/s", "4 TB/s"),
        ("fp8", "fp8"),
        (" 7 ", 7),
        ("a=b", "a=b"),
    ],
)
def test_a_setting_is_a_number_a_flag_or_text(text: str, value: object) -> None:
    found = overrides([f"plan.thing={text}"])
    assert found == {"plan.thing": value}
    assert type(found["plan.thing"]) is type(value)


@given(number=st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_number_comes_back_as_it_was_typed(number: float) -> None:
    assert overrides([f"a.b={number!r}"]) == {"a.b": number}


def test_the_last_of_equal_paths_counts_and_none_is_none() -> None:
    assert overrides(["a.b=1", "c.d=2", "a.b=3"]) == {"a.b": 3, "c.d": 2}
    assert overrides([]) == {}


@pytest.mark.parametrize("setting", ["scenario.batch", "=1", " =1", "scenario.batch=", "scenario.batch= ", ""])
def test_a_setting_without_path_or_value_is_refused(setting: str) -> None:
    with pytest.raises(SpecError, match=r"--set: is not path=value.*scenario\.batch=64"):
        overrides([setting])


def test_json_goes_nowhere_to_the_screen_or_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"a": [1, 2.5, None], "b": "µ"}
    assert emit(content, None) is False
    assert capsys.readouterr().out == ""
    assert emit(content, "-") is True
    assert json.loads(capsys.readouterr().out) == content
    assert emit(content, str(tmp_path / "a.json")) is False
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("target", ["none/a.json", "."])
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="--json: cannot be written"):
        emit({}, target)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_a_table_keeps_its_columns_in_line_and_its_cells_whole(rows: list[tuple[str, str, str]]) -> None:
    head = ["system", "b", "last one"]
    lines = table(head, rows).split("\n")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(3)]
    assert len(lines) == 1 + len(rows)
    for line, row in zip(lines, [head, *rows], strict=True):
        padded = line.ljust(sum(widths) + 4)
        first, second = widths[0], widths[0] + 2 + widths[1]
        assert padded[:first].rstrip() == row[0].rstrip()
        assert padded[first : first + 2] == padded[second : second + 2] == "  "
        assert padded[first + 2 : second].lstrip() == row[1].lstrip() or row[1] != row[1].rstrip()
        assert line == line.rstrip()
