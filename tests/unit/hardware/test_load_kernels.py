"""Libraries of kernels: whose constants they are, what a chip of its own says over them, and faults in one message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.hardware.load import described, load_chip, load_kernels, read_chip, read_system
from cosim.hardware.lower import KERNEL_CONSTANTS, lower_chip
from cosim.timing.attention_tiles import NEEDED as ATTENTION_NEEDED
from cosim.timing.tiles import NEEDED

LIBRARIES = sorted(library.names("kernels"))
LIBRARY = """\
name: ours
title: Kernels of a test
sources:
  bench: {text: "our bench, odd rows"}
  memory-lane: {text: "what somebody recalls", checked: false}
fitted_on: [mine]
data: our table of products
held_out: "3 % in the median"
constants:
  step_cycles: {value: 300, kind: measured, source: bench}
  epilogue_cycles: {value: 700, kind: measured, source: bench, low: 500, high: 900}
  cache_share: {value: 0.5, kind: estimated, source: memory-lane}
  cache_feed: {value: 0.6, kind: measured, source: bench}
"""
Write = Callable[[str, str], str]


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library `ours` in a folder of the user; returns its file."""
    monkeypatch.setenv("COSIM_PATH", str(tmp_path / "place"))
    path = tmp_path / "place" / "accelerators" / "kernels" / "ours.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(LIBRARY, encoding="utf-8")
    return path


def chip_text(name: str, extra: str = "", kernels: str = "ours") -> str:
    # The template is an array: what it has no constants of, it takes from the library alone.
    return f"base: asic-template\nname: {name}\nkernels: {kernels}\n{extra}"


def fault(name: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_chip(name)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_chip_that_a_library_was_fitted_on_has_its_constants_as_measured(ours: Path, write: Write) -> None:
    assert ours.is_file()
    held = load_chip(write("a.yaml", chip_text("mine"))).calibration
    assert held is not None
    assert (held.library, held.data, held.held_out) == ("ours", "our table of products", "3 % in the median")
    assert {name: (datum.si, datum.kind) for name, datum in held.constants.items()} == {
        "step_cycles": (300.0, "measured"),
        "epilogue_cycles": (700.0, "measured"),
        "cache_share": (0.5, "estimated"),
        "cache_feed": (0.6, "measured"),
    }
    assert held.constants["step_cycles"].source == "our bench, odd rows"
    assert held.constants["cache_share"].source == "what somebody recalls [unverified recollection]"


def test_on_any_other_chip_the_same_constants_are_estimates_without_an_error_of_theirs(
    ours: Path, write: Write
) -> None:
    assert ours.is_file()
    fitted = load_chip(write("a.yaml", chip_text("mine"))).calibration
    other = load_chip(write("b.yaml", chip_text("other"))).calibration
    assert fitted is not None
    assert other is not None
    assert {datum.kind for datum in other.constants.values()} == {"estimated"}
    assert other.held_out is None
    for name, datum in other.constants.items():
        lent = fitted.constants[name]
        assert (datum.si, datum.source, datum.si_range) == (lent.si, lent.source, lent.si_range)


def test_the_name_of_the_chip_decides_not_that_of_its_base(ours: Path, write: Write) -> None:
    assert ours.is_file()
    base = write("base.yaml", chip_text("mine"))
    relative = load_chip(write("relative.yaml", f"base: {base}\nname: relative\n")).calibration
    same = load_chip(write("same.yaml", f"base: {base}\n")).calibration
    assert relative is not None
    assert same is not None
    assert relative.constants["step_cycles"].kind == "estimated"
    assert same.constants["step_cycles"].kind == "measured"


def test_what_a_chip_says_itself_is_over_the_library(ours: Path, write: Write) -> None:
    assert ours.is_file()
    own = """\
sources: {here: {text: fitted on this chip}}
calibration:
  data: our second table
  constants:
    step_cycles: {value: 250, kind: measured, source: here}
    dram_share: {value: 0.9, kind: measured, source: here}
"""
    held = load_chip(write("a.yaml", chip_text("other", own))).calibration
    assert held is not None
    assert (held.library, held.data) == ("ours", "our second table")
    step = held.constants["step_cycles"]
    assert (step.si, step.kind, step.source) == (250.0, "measured", "fitted on this chip")
    assert (held.constants["dram_share"].si, held.constants["epilogue_cycles"].si) == (0.9, 700.0)
    assert held.constants["epilogue_cycles"].kind == "estimated"


def test_constants_of_a_library_reach_the_engines_and_can_be_varied(ours: Path, write: Write) -> None:
    assert ours.is_file()
    chip = load_chip(write("a.yaml", chip_text("other")))
    assert {name: float(value) for name, value in lower_chip(chip).kernel.items()} == {
        "step_cycles": 300.0,
        "epilogue_cycles": 700.0,
        "cache_share": 0.5,
        "cache_feed": 0.6,
    }


def test_the_library_is_among_the_files_of_its_chips_and_systems(ours: Path, write: Write) -> None:
    name = write("a.yaml", chip_text("other"))
    _, files = read_chip(name)
    assert [file.path.name for file in files] == ["a.yaml", "asic-template.yaml", "ours.yaml"]
    assert files[-1].path == ours
    assert ours in {file.path for file in described(name, "accelerators")[1]}
    _, files = read_system("dgx-h100")
    assert [file.path.stem for file in files] == [
        "dgx-h100",
        "h100-sxm",
        "nvidia-hopper",
        "nccl-nvlink4",
        "nccl-network",
    ]


def test_an_unknown_library_is_told_at_its_line_with_the_nearest_name(ours: Path, write: Write) -> None:
    assert ours.is_file()
    name = write("a.yaml", chip_text("mine", kernels="our"))
    error = fault(name)
    assert (str(error.file), error.line, error.value) == (name, 3, "our")
    assert error.problem == "no library of kernels has this name"
    assert str(error.hint).startswith("nearest: ours")


def test_an_unknown_library_of_a_base_is_told_in_the_base(ours: Path, write: Write) -> None:
    assert ours.is_file()
    base = write("base.yaml", chip_text("mine", kernels="nvidia-hoper"))
    error = fault(write("a.yaml", f"base: {base}\nname: relative\n"))
    assert (str(error.file), error.line) == (base, 3)
    assert "nvidia-hopper" in str(error.hint)


@pytest.mark.parametrize(
    ("old", "new", "field", "line"),
    [
        ("step_cycles: {value: 300,", "step_cycles: {value: fast,", "constants.step_cycles", 10),
        ("data: our table of products\n", "dta: our table of products\n", "dta", 7),
        ("value: 700,", "value: 70,", "constants.epilogue_cycles", 11),
        ("source: memory-lane}", "source: memory-lan}", "constants.cache_share.source", 12),
        ("title: Kernels of a test\n", "title: Kernels of a test\nquality: {matmul: 0.8}\n", "quality", 3),
    ],
)
def test_a_broken_library_names_its_own_file_and_line(
    ours: Path, write: Write, old: str, new: str, field: str, line: int
) -> None:
    assert old in LIBRARY
    ours.write_text(LIBRARY.replace(old, new), encoding="utf-8")
    error = fault(write("a.yaml", chip_text("other")))
    assert error.file == ours
    assert str(error.field).startswith(field)
    assert error.line == line


@pytest.mark.parametrize("text", ["", "name: [\n", "- a\n"])
def test_a_library_that_is_no_description_names_its_own_file(ours: Path, write: Write, text: str) -> None:
    ours.write_text(text, encoding="utf-8")
    assert fault(write("a.yaml", chip_text("other"))).file == ours


def test_a_plain_number_of_a_library_is_an_estimate_on_another_chip_too(ours: Path, write: Write) -> None:
    ours.write_text(LIBRARY.replace("{value: 300, kind: measured, source: bench}", "300"), encoding="utf-8")
    held = load_chip(write("a.yaml", chip_text("other"))).calibration
    assert held is not None
    assert (held.constants["step_cycles"].si, held.constants["step_cycles"].kind) == (300.0, "estimated")


def test_a_library_without_constants_lends_none(ours: Path, write: Write) -> None:
    ours.write_text(LIBRARY[: LIBRARY.index("constants:")], encoding="utf-8")
    for name in ("mine", "other"):
        held = load_chip(write(f"{name}.yaml", chip_text(name))).calibration
        assert held is not None
        assert held.constants == {}


def test_sources_of_a_library_are_among_those_of_its_chips_by_its_name(ours: Path, write: Write) -> None:
    chip = load_chip(write("a.yaml", chip_text("other")))
    assert chip.sources["ours.bench"].text == "our bench, odd rows"
    assert not chip.sources["ours.memory-lane"].checked
    ours.write_text(
        LIBRARY[: LIBRARY.index("sources:")] + "data: words\nconstants: {step_cycles: 300}\n", encoding="utf-8"
    )
    assert load_chip(write("b.yaml", chip_text("other"))).sources == load_chip("asic-template").sources


def test_a_library_may_stand_on_another(ours: Path, write: Write) -> None:
    newer = ours.with_name("newer.yaml")
    newer.write_text(
        "base: ours\nname: newer\nfitted_on: [other]\n"
        "constants: {step_cycles: {value: 9, kind: measured, source: bench}}\n",
        encoding="utf-8",
    )
    chip, files = read_chip(write("a.yaml", chip_text("other", kernels="newer")))
    assert chip.calibration is not None
    assert chip.calibration.library == "newer"
    assert chip.calibration.constants["step_cycles"].si == 9.0
    assert chip.calibration.constants["epilogue_cycles"].kind == "measured"
    assert [file.path.stem for file in files][-2:] == ["newer", "ours"]


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_shipped_library_names_chips_that_use_it_and_all_that_tiles_need(name: str) -> None:
    data, _ = described(name, "kernels")
    assert data["name"] == name == load_kernels(name).name
    assert set(NEEDED) | set(ATTENTION_NEEDED) <= set(data["constants"]) <= set(KERNEL_CONSTANTS)
    for fitted in data.get("fitted_on", ()):
        held = load_chip(fitted).calibration
        assert held is not None
        assert held.library == name
    for constant in data["constants"].values():
        assert constant["kind"] in ("measured", "estimated")
        assert data.get("fitted_on") or constant["kind"] == "estimated"


def test_a_chip_without_a_library_has_only_its_own_constants() -> None:
    assert load_chip("asic-template").calibration is None
    _, files = read_chip("tpu-v5p")
    assert all("kernels" not in file.path.parts for file in files)
    assert dataclasses.is_dataclass(files[0])
