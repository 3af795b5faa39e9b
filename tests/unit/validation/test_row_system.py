"""The system of a measured row: by name, the usual one of a chip, with as many nodes as the chips need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays
from cosim.validation.row_system import CannotAnswerError, names_of, row_system, sized


def found(name: str, chip: str, chips: int, *, roomy: bool = True) -> tuple[str, SystemArrays, list[str]]:
    completed: list[str] = []
    system, arrays = row_system(name, chip, chips, load_system, completed, roomy=roomy)
    return system, arrays, completed


@settings(max_examples=30, deadline=None)
@given(chips=st.integers(1, 5000))
def test_a_system_has_as_few_nodes_as_hold_the_chips(chips: int) -> None:
    _, arrays, _ = found("dgx-h100", "h100-sxm", chips)
    assert chips <= float(arrays.chips) < chips + 8


@settings(max_examples=30, deadline=None)
@given(chips=st.integers(1, 4000))
def test_a_slice_of_a_torus_holds_the_chips_with_less_than_twice_as_many(chips: int) -> None:
    _, arrays, _ = found("tpu-v4-pod", "", chips)
    shape = arrays.tiers[0].shape
    assert shape is not None
    sides = float(np.prod([float(side) for side in shape]))
    # Slices halve their longest side; more than one are whole cubes.
    assert chips <= float(arrays.chips) < (2 * chips if chips < 64 else chips + 64)
    assert float(arrays.chips) % sides == 0.0
    assert sides == 64.0 or float(arrays.chips) == sides


def test_a_named_system_completes_nothing() -> None:
    name, arrays, completed = found("dgx-h200", "h200-sxm", 8)
    assert (name, completed) == ("dgx-h200", [])
    assert arrays.chip.name == "h200-sxm"


@pytest.mark.parametrize(("chip", "system"), [("h100-sxm", "dgx-h100"), ("h200-sxm", "dgx-h200")])
def test_a_chip_without_a_system_is_in_its_usual_one_which_is_said(chip: str, system: str) -> None:
    name, arrays, completed = found("", chip, 4)
    assert (name, arrays.chip.name) == (system, chip)
    assert completed == [f"system {system}"]


def test_memory_has_a_limit_where_it_is_asked_for() -> None:
    roomy, real = (found("dgx-h100", "", 8, roomy=flag)[1].chip.memory["dram"] for flag in (True, False))
    assert np.isinf(roomy.capacity)
    assert float(real.capacity) == float(load_system("dgx-h100").chip.memory["dram"].stacks.si * 16e9)  # five of 16 GB
    assert float(roomy.bandwidth) == float(real.bandwidth)


@pytest.mark.parametrize(
    ("name", "chip", "reason"),
    [
        ("", "", r"system \(blank\) is not in the library, nor a usual one of \(blank\)"),
        ("", "no-chip", "nor a usual one of no-chip"),
        ("no-system", "h100-sxm", "system no-system is not in the library"),
        ("dgx-h100", "mi300x", "system dgx-h100 has h100-sxm, not mi300x"),
    ],
)
def test_what_the_library_does_not_have_is_said(name: str, chip: str, reason: str) -> None:
    with pytest.raises(CannotAnswerError, match=reason):
        found(name, chip, 8)


def test_equal_questions_are_answered_once() -> None:
    assert sized("dgx-h100", load_system, 16) is sized("dgx-h100", load_system, 16)
    assert sized("dgx-h100", load_system, 16) is not sized("dgx-h100", load_system, 17)


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
