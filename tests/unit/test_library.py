"""The library: the user's folders come first, names are file stems, unknown names get advice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cosim import library
from cosim.errors import SpecError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COSIM_PATH", raising=False)


def put(root: Path, *names: str) -> None:
    """Empty files, with their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("name: x\n")


def test_shipped_data_is_there_wherever_cosim_is_run() -> None:
    for kind in ("accelerators", "systems"):
        names = library.names(kind)
        assert names
        assert all(path.is_file() and library.shipped() in path.parents for path in names.values())


def test_shipped_names_are_the_stems_and_the_name_field_of_their_files() -> None:
    for kind in ("accelerators", "systems"):
        for name, path in library.names(kind).items():
            assert path.stem == name
            assert f"\nname: {name}\n" in f"\n{path.read_text(encoding='utf-8')}"


def test_a_name_of_the_current_folder_wins_over_path_and_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setenv("COSIM_PATH", os.pathsep.join([str(one), "", str(two)]))
    put(two, "accelerators/h100-sxm.yaml")
    assert library.find("accelerators", "h100-sxm") == two / "accelerators/h100-sxm.yaml"
    put(one, "accelerators/deep/down/h100-sxm.yaml")
    assert library.find("accelerators", "h100-sxm") == one / "accelerators/deep/down/h100-sxm.yaml"
    put(tmp_path, "accelerators/h100-sxm.yaml")
    assert library.find("accelerators", "h100-sxm") == tmp_path / "accelerators/h100-sxm.yaml"


def test_roots_are_the_current_folder_then_the_path_then_the_library_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIM_PATH", os.pathsep.join([str(tmp_path / "a"), str(tmp_path), str(tmp_path / "a")]))
    assert library.roots() == [tmp_path, tmp_path / "a", library.shipped()]


def test_systems_and_accelerators_share_a_folder_but_not_their_names(tmp_path: Path) -> None:
    put(
        tmp_path,
        "accelerators/maker/chip-one.yaml",
        "accelerators/systems/rack-one.yaml",
        "accelerators/technology/n3.yaml",
    )
    assert "chip-one" in library.names("accelerators")
    assert not {"rack-one", "n3"} & set(library.names("accelerators"))
    assert "rack-one" in library.names("systems")
    assert "chip-one" not in library.names("systems")


def test_a_maker_called_systems_below_is_no_accelerator(tmp_path: Path) -> None:
    put(tmp_path, "accelerators/systems/deep/inner.yaml")
    assert "inner" not in library.names("accelerators")


def test_experiments_and_systems_are_listed_from_their_own_folder_only(tmp_path: Path) -> None:
    put(tmp_path, "experiments/mine.yaml", "experiments/validation/cases.yaml", "experiments/readme.txt")
    names = library.names("experiments")
    assert names["mine"] == tmp_path / "experiments/mine.yaml"
    assert not {"cases", "readme"} & set(names)


def test_workloads_leave_out_scenarios_and_traces(tmp_path: Path) -> None:
    put(tmp_path, "workloads/models/tiny.yaml", "workloads/scenarios/chat.yaml", "workloads/traces/log.yaml")
    put(tmp_path, "workloads/requests/mine.yaml")
    names = library.names("workloads")
    assert "tiny" in names
    assert not {"chat", "log", "mine"} & set(names)
    assert "mine" in library.names("requests")
    assert "tiny" not in library.names("requests")


def test_names_are_sorted_so_that_lists_do_not_depend_on_the_disk(tmp_path: Path) -> None:
    put(tmp_path, "accelerators/zz.yaml", "accelerators/a/bb.yaml", "accelerators/b/aa.yaml")
    names = list(library.names("accelerators"))
    assert names == sorted(names)
    assert {"aa", "bb", "zz"} <= set(names)


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "mine.json", "folder/mine", "./h100-sxm.yaml"])
def test_a_file_is_taken_as_it_is_given_even_before_it_exists(name: str) -> None:
    assert library.find("accelerators", name) == Path(name)


@pytest.mark.parametrize(
    ("kind", "word", "asked", "near"),
    [
        ("accelerators", "accelerator", "h100", "h100-sxm"),
        ("accelerators", "accelerator", "mi300", "mi300x"),
        ("systems", "system", "dgx-h10", "dgx-h100"),
        ("systems", "system", "tpu-v5p", "tpu-v5p-8"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_one(kind: str, word: str, asked: str, near: str) -> None:
    with pytest.raises(SpecError, match=f"no {word} has this name") as caught:
        library.find(kind, asked)
    assert caught.value.value == asked
    assert near in str(caught.value.hint).removeprefix("nearest: ").split(", ")


def test_the_kind_of_a_name_is_found(tmp_path: Path) -> None:
    put(tmp_path, "workloads/models/tiny.yaml", "experiments/question.yaml")
    found = [library.kind_of(name) for name in ("h100-sxm", "dgx-h100", "tiny", "question")]
    assert found == ["accelerators", "systems", "workloads", "experiments"]


def test_a_name_that_nothing_has_is_told_the_nearest_of_all_kinds(tmp_path: Path) -> None:
    put(tmp_path, "experiments/which-chip-is-best.yaml")
    with pytest.raises(SpecError, match="nothing in the library has this name") as caught:
        library.kind_of("which-chip-is-bes")
    assert caught.value.hint == "nearest: which-chip-is-best"


def test_an_empty_library_says_that_none_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "shipped", lambda: tmp_path)
    with pytest.raises(SpecError, match="no system has this name") as caught:
        library.find("systems", "dgx-h100")
    assert caught.value.hint == "none is known"
