"""Names of the library are looked up once for a set of folders, and anew where another folder is searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim import library
from cosim.validation.row_system import CannotAnswerError, names_of, row_system


def test_names_are_those_of_the_library() -> None:
    for kind in ("systems", "workloads", "serving"):
        assert names_of(kind) == library.names(kind)
        assert names_of(kind) is names_of(kind)


def test_a_folder_of_ones_own_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names_of("serving")
    folder = tmp_path / "accelerators" / "serving"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert set(names_of("serving")) == {*before, "mine"}
    monkeypatch.undo()
    assert names_of("serving") == before


def test_a_system_that_is_not_there_has_its_reason() -> None:
    from cosim.hardware.load import load_system

    with pytest.raises(CannotAnswerError, match="system nowhere is not in the library"):
        row_system("nowhere", "h100-sxm", 8, load_system, [])
    with pytest.raises(CannotAnswerError, match="system dgx-h100 has h100-sxm, not l4"):
        row_system("dgx-h100", "l4", 8, load_system, [])
