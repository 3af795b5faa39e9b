"""Folders and tables: cut anywhere they hold every whole row; settings that differ are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.measure.store import SETTINGS, Table, refuse_existing, taken_up

HEAD = ("of a device, where it stands", "1: one")
COLUMNS = ("id", "n", "spread")


def row(index: int) -> dict[str, object]:
    return {"id": f'point {index}, "hot"', "n": index, "spread": 1.0 + index}


def filled(path: Path, rows: int) -> None:
    with Table(path, HEAD, COLUMNS) as table:
        for index in range(rows):
            table.append(row(index))
            if index % 2:
                table.skip(f"skip-{index}", "no kernel:\n none at  all")


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_table_cut_anywhere_keeps_its_whole_rows_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "copy.csv"
    filled(path, 4)
    content = path.read_bytes()
    first = len("".join(f"# {line}\n" for line in HEAD) + ",".join(COLUMNS) + "\n")
    cut = data.draw(st.integers(first, len(content)))
    path.write_bytes(content[:cut])
    whole = content[: content.rfind(b"\n", 0, cut) + 1].splitlines()
    with Table(path, HEAD, COLUMNS) as table:
        assert len(table.rows) == sum(line.startswith(b'"point') for line in whole)
        assert len(table.skipped) == sum(line.startswith(b"# skipped") for line in whole)
        for index in range(4):
            if row(index)["id"] not in table:
                table.append(row(index))
            if index % 2 and f"skip-{index}" not in table:
                table.skip(f"skip-{index}", "no kernel:\n none at  all")
    lines = path.read_bytes().splitlines()
    assert sorted(lines) == sorted(content.splitlines())


def test_rows_and_reasons_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "copy.csv"
    filled(path, 2)
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[:3] == ["# of a device, where it stands", "# 1: one", "id,n,spread"]
    assert text.splitlines()[-1] == "# skipped skip-1: no kernel: none at all"
    with Table(path, ("another head",), COLUMNS) as table:
        assert table.rows == {'point 0, "hot"': 1.0, 'point 1, "hot"': 2.0}
        assert table.skipped == {"skip-1": "no kernel: none at all"}
        assert 'point 1, "hot"' in table
        assert "skip-1" in table
        assert "skip-2" not in table
    assert path.read_text(encoding="utf-8") == text


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with Table(tmp_path / "copy.csv", HEAD, COLUMNS) as table:
        monkeypatch.setattr("cosim.measure.store.os.fsync", synced.append)
        table.append(row(7))
        assert len(synced) == 1
        table.skip("other", "why")
        assert len(synced) == 2
        assert '"point 7, ""hot""",7,8.0\n' in table.path.read_text(encoding="utf-8")


def test_a_table_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "copy.csv"
    filled(path, 1)
    before = path.read_bytes()
    with pytest.raises(SpecError, match="has other columns"):
        Table(path, HEAD, ("id", "m", "spread"))
    assert path.read_bytes() == before


def test_a_folder_that_is_there_is_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "new", resume=False)
    refuse_existing(tmp_path / "new", resume=True)
    with pytest.raises(SpecError, match="exists; --resume takes up"):
        refuse_existing(tmp_path, resume=False)


def test_only_folders_of_measurements_are_taken_up(tmp_path: Path) -> None:
    refuse_existing(tmp_path, resume=True)  # empty: killed before its first file
    (tmp_path / (SETTINGS + ".draft")).touch()
    refuse_existing(tmp_path, resume=True)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SpecError, match="is not a folder of measurements"):
        refuse_existing(tmp_path, resume=True)
    with pytest.raises(SpecError, match="is not a folder of measurements"):
        refuse_existing(tmp_path / "thesis.tex", resume=True)


def test_settings_must_agree_and_the_one_that_does_not_is_named(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    taken_up(out, {"grid": "quick", "dtype": ["bf16"]})
    assert json.loads((out / SETTINGS).read_text(encoding="utf-8")) == {"grid": "quick", "dtype": ["bf16"]}
    taken_up(out, {"grid": "quick", "dtype": ["bf16"]})
    with pytest.raises(SpecError, match=r"measure.json: dtype: differs .*\['fp8'\].* made with \['bf16'\]"):
        taken_up(out, {"grid": "quick", "dtype": ["fp8"]})
    refuse_existing(out, resume=True)


@pytest.mark.parametrize("text", ["", "[]", "{", "7"])
def test_settings_that_cannot_be_read_are_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="cannot be read as settings"):
        taken_up(tmp_path, {"grid": "quick"})


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="cannot be written"):
        taken_up(tmp_path / "file" / "out", {})
    with pytest.raises(SpecError, match="cannot be written"):
        Table(tmp_path / "none" / "copy.csv", HEAD, COLUMNS)
