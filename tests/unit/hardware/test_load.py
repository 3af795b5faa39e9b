"""Loading: bases, sources by key, references between files, and every fault told at its file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cosim import library
from cosim.datum import UNSOURCED, Datum
from cosim.errors import SpecError
from cosim.hardware.chip import Chip, Source
from cosim.hardware.load import MAX_BASES, load_chip, load_kernels, load_system, read_chip, read_system
from cosim.hardware.system import System

MARK = " [unverified recollection]"
CHIPS = sorted(library.names("accelerators"))
SYSTEMS = sorted(library.names("systems"))
TIER = "{name: node, kind: switch, size: 8, link: scale_up, collectives: generic-fabric}"
Write = Callable[[str, str], str]


def data_in(node: object) -> Iterator[Datum]:
    """Every datum of a description."""
    if isinstance(node, Datum):
        yield node
    elif isinstance(node, BaseModel):
        for name in type(node).model_fields:
            yield from data_in(getattr(node, name))
    elif isinstance(node, dict | tuple):
        for item in node.values() if isinstance(node, dict) else node:
            yield from data_in(item)


def text_of(source: Source) -> str:
    """What a datum that cites `source` must carry."""
    return source.text if source.checked else source.text + MARK


def texts_of(chip: Chip) -> set[str]:
    """What the data of a chip may carry: the sources of its file, and of the library of kernels that it names."""
    shared = {} if chip.kernels is None else load_kernels(chip.kernels).sources
    return {text_of(source) for source in (*chip.sources.values(), *shared.values())}


def fault(load: Callable[[str], object], name: str) -> SpecError:
    """The error of loading `name`."""
    with pytest.raises(SpecError) as caught:
        load(name)
    return caught.value


@pytest.mark.parametrize("name", CHIPS)
def test_every_shipped_chip_loads_and_each_number_cites_a_source_of_its_file(name: str) -> None:
    chip = load_chip(name)
    texts = texts_of(chip)
    data = list(data_in(chip))
    assert chip.name == name
    assert len(data) > 25
    assert [datum for datum in data if datum.source not in texts and datum.kind != "given"] == []
    assert UNSOURCED not in {datum.source for datum in data}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_shipped_system_loads_with_its_chip_and_its_sources(name: str) -> None:
    system = load_system(name)
    texts = {text_of(source) for source in system.sources.values()} | texts_of(system.chip)
    assert system.name == name
    assert system.chip == load_chip(system.chip.name)
    assert [datum for datum in data_in(system) if datum.source not in texts and datum.kind != "given"] == []


@pytest.mark.parametrize("name", CHIPS)
def test_a_range_of_a_shipped_number_holds_the_number(name: str) -> None:
    for datum in data_in(load_chip(name)):
        low, high = datum.si_range
        assert low <= datum.si <= high


def test_the_mark_of_what_nobody_checked_travels_into_the_datum(peaks_only: Chip) -> None:
    assert peaks_only.matrix.peak["bf16"].source == "keynote, slide 12"
    assert peaks_only.matrix.peak["fp8"].source == "what somebody recalls" + MARK
    assert peaks_only.power.idle.source == UNSOURCED


def test_a_source_in_words_is_kept_and_one_word_must_be_a_key(write: Write) -> None:
    text = "base: asic-template\ncores: {value: 24, kind: given, source: %s}\n"
    assert load_chip(write("a.yaml", text % "my own wish")).cores == Datum(value=24, kind="given", source="my own wish")
    error = fault(load_chip, write("b.yaml", text % "desgin"))
    assert (error.problem, error.field, error.line) == ("names no entry of sources", "cores.source", 2)
    assert error.value == "desgin"
    assert str(error.hint).startswith("nearest: design")


def test_a_key_is_looked_up_in_the_sources_of_file_and_base_together(write: Write) -> None:
    base = write("base.yaml", "base: asic-template\nsources: {theirs: {text: their bench, checked: false}}\n")
    cited = (
        "cores: {value: 24, kind: measured, source: theirs}\nprice: {value: 5, unit: USD, kind: given, source: mine}\n"
    )
    chip = load_chip(write("a.yaml", f"base: {base}\nsources: {{mine: {{text: my offer}}}}\n{cited}"))
    assert chip.cores is not None
    assert chip.price is not None
    assert (chip.cores.source, chip.price.source) == ("their bench" + MARK, "my offer")


def test_a_base_gives_all_that_the_file_does_not_say(write: Write) -> None:
    base, mine = load_chip("asic-template"), load_chip(write("a.yaml", "base: asic-template\nname: mine\ncores: 24\n"))
    assert mine == base.model_copy(update={"name": "mine", "cores": mine.cores})
    assert mine.cores is not None
    assert mine.cores.si == 24.0


def test_a_datum_replaces_the_whole_datum_of_the_base_and_mappings_join(write: Write) -> None:
    quality = "quality: {matmul: {value: 0.9, kind: measured, source: my bench}}\n"
    mine, base = load_chip(write("a.yaml", f"base: asic-template\n{quality}")), load_chip("asic-template")
    assert mine.quality.matmul == Datum(value=0.9, kind="measured", source="my bench")  # no range left over
    assert mine.quality.attention == base.quality.attention


def test_a_list_replaces_the_whole_list_of_the_base(write: Write) -> None:
    mine = load_chip(write("a.yaml", "base: asic-template\nmatrix: {dataflows: [is]}\n"))
    assert mine.matrix.kind == "systolic"
    assert mine.matrix.dataflows == ("is",)


def test_the_nearest_file_of_a_chain_wins(write: Write) -> None:
    last = "asic-template"
    for step, extra in enumerate(("cores: 10\nprice: 5 USD\n", "cores: 11\n", "name: top\n")):
        last = write(f"{step}.yaml", f"base: {last}\n{extra}")
    top, files = read_chip(last)
    assert top.cores is not None
    assert top.price is not None
    assert (top.name, top.cores.si, top.price.si) == ("top", 11.0, 5.0)
    assert [file.path.stem for file in files] == ["2", "1", "0", "asic-template"]


def test_a_chain_may_be_as_long_as_allowed_and_no_longer(write: Write) -> None:
    last = "asic-template"
    for step in range(MAX_BASES - 1):
        last = write(f"{step}.yaml", f"base: {last}\n")
    assert load_chip(last).name == "asic-template"
    assert fault(load_chip, write("over.yaml", f"base: {last}\n")).field == "base"


@pytest.mark.parametrize("length", [1, 2, 3])
def test_bases_that_go_in_a_circle_are_refused_at_the_line_of_the_base(
    write: Write, tmp_path: Path, length: int
) -> None:
    for step in range(length):
        write(f"{step}.yaml", f"name: a\nbase: {tmp_path}/{(step + 1) % length}.yaml\n")
    error = fault(load_chip, str(tmp_path / "0.yaml"))
    assert (error.problem, error.field, error.line) == ("base files refer to each other", "base", 2)
    assert error.file == tmp_path / "0.yaml"


def test_an_unknown_base_is_told_with_the_nearest_name(write: Write) -> None:
    error = fault(load_chip, write("a.yaml", "base: asic-templat\n"))
    assert (error.problem, error.value) == ("no accelerator has this name", "asic-templat")
    assert error.hint == "nearest: asic-template"


@pytest.mark.parametrize(
    ("text", "field", "line", "said"),
    [
        ("base: asic-template\nmemory:\n  dram:\n    capcity: 3 GB\n", "memory.dram.capcity", 4, "nearest: capacity"),
        ("base: asic-template\ncorse: 3\n", "corse", 2, "nearest: cores"),
        ("base: asic-template\nmemory:\n  cache:\n    bandwidth: 3.35 TB\n", "memory.cache.bandwidth", 4, "TB/s?"),
        ("base: asic-template\nmatrix:\n\n  clock: 2 s\n", "matrix.clock", 4, "a value in Hz is wanted"),
        ("base: asic-template\nmatrix:\n  rate:\n    bf61: 2\n", "matrix.rate.bf61", 4, "'bf16'"),
        ("base: asic-template\nquality:\n  matmul: 1.5\n", "quality.matmul", 3, "at most 1"),
        ("base: asic-template\nlinks: {scale_up: {count: 1.5}}\n", "links.scale_up.count", 2, "whole number"),
    ],
)
def test_a_fault_in_a_file_has_file_line_field_and_advice(
    write: Write, text: str, field: str, line: int, said: str
) -> None:
    name = write("mine.yaml", text)
    error = fault(load_chip, name)
    assert (str(error.file), error.field, error.line) == (name, field, line)
    assert said in str(error)


def test_nan_in_a_file_is_refused_at_its_line(write: Write, peaks_only_text: str) -> None:
    for value in (".nan", "nan TB/s", "{value: .nan, unit: TB/s, kind: given, source: talk}"):
        text = peaks_only_text.replace("{value: 1.4, unit: TB/s, kind: datasheet, source: talk}", value)
        error = fault(load_chip, write("a.yaml", text))
        assert "finite number" in error.problem
        assert str(error.field).startswith("links.scale_up.bandwidth")
        assert error.line == 1 + text.splitlines().index(f"    bandwidth: {value}")


def test_a_fault_in_a_base_is_told_in_the_base(write: Write) -> None:
    base = write("base.yaml", "base: asic-template\nmatrix:\n  clock: fast\n")
    error = fault(load_chip, write("mine.yaml", f"base: {base}\nname: mine\n"))
    assert (str(error.file), error.line, error.field) == (base, 3, "matrix.clock")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("name: a\nname: b\n", "duplicate key"),
        ("name: [\n", "is not YAML"),
        ("base: asic-template\ncores: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("base: asic-template\ncores: &a [*a]\n", "cores"),
        ("base: asic-template\nmemory: &a {cache: *a}\n", "memory.cache"),
        ("- a\n", "does not hold a mapping"),
        ("name: x\n", "is missing"),
        ("base: asic-template\nsources: [a, b]\n", "sources"),
        ("base: asic-template\nsources: {a: 3}\n", "sources.a"),
    ],
)
def test_files_that_are_no_description_are_refused(write: Write, text: str, problem: str) -> None:
    error = fault(load_chip, write("a.yaml", text))
    assert problem in str(error)
    assert error.file is not None


def test_missing_file_folder_and_binary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    for name, problem in (("none.yaml", "no such file"), ("", "is a folder"), ("image.yaml", "is not text")):
        for load in (load_chip, load_system):
            assert problem in fault(load, f"{tmp_path}/{name}").problem


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_description_with_any_line_spoilt_loads_or_says_so(
    tmp_path_factory: pytest.TempPathFactory, peaks_only_text: str, data: st.DataObject
) -> None:
    rows = peaks_only_text.splitlines()
    place = data.draw(st.integers(0, len(rows) - 1))
    cut = data.draw(st.integers(0, len(rows[place])))
    junk = data.draw(
        st.sampled_from(["", ": ", "]", "}", "*a", "&a ", "nan", "-1", "1e999", "~", '"', "\t", "!!str ", "TB"])
    )
    rows[place] = rows[place][:cut] + junk + data.draw(st.sampled_from(["", rows[place][cut:]]))
    path = tmp_path_factory.getbasetemp() / "spoilt.yaml"
    path.write_text("\n".join(rows), encoding="utf-8")
    try:
        chip = load_chip(str(path))
    except SpecError as error:
        assert error.problem  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(chip, Chip)


def test_json_is_read_like_yaml(write: Write) -> None:
    chip = load_chip(write("a.json", '{"base": "asic-template", "name": "j", "cores": "24"}'))
    assert chip.cores is not None
    assert (chip.name, chip.cores.si) == ("j", 24.0)


def test_a_system_takes_its_chip_by_name_or_from_a_file_beside_it(write: Write, peaks_only_text: str) -> None:
    named = load_system(write("a.yaml", "base: dgx-h100\nname: mine\nchip: mi300x\n"))
    assert (named.name, named.chip.name) == ("mine", "mi300x")
    chip = write("chip.yaml", peaks_only_text)
    for reference in ("chip.yaml", chip):
        system = load_system(write("b.yaml", f"base: asic-8\nchip: {reference}\ntiers: [{TIER}]\n"))
        assert system.chip == load_chip(chip)


def test_an_unknown_chip_is_told_at_the_line_of_the_system(write: Write) -> None:
    name = write("a.yaml", "base: dgx-h100\n\nchip: h100\n")
    error = fault(load_system, name)
    assert (str(error.file), error.line, error.hint) == (name, 3, "nearest: h100-nvl, h100-sxm, h100-pcie")


def test_a_fault_in_the_base_of_a_system_is_told_in_the_base(write: Write) -> None:
    base = write("base.yaml", "base: dgx-h100\nfacility:\n  pue: 1.2 GB\n")
    error = fault(load_system, write("a.yaml", f"base: {base}\nname: mine\n"))
    assert (str(error.file), error.line, error.field) == (base, 3, "facility.pue")


def test_a_chip_file_is_looked_for_beside_the_file_that_names_it(
    write: Write, tmp_path: Path, peaks_only_text: str
) -> None:
    (tmp_path / "deep").mkdir()
    write("deep/chip.yaml", peaks_only_text)
    base = write("deep/base.yaml", f"base: asic-8\nchip: chip.yaml\ntiers: [{TIER}]\n")
    system, files = read_system(write("a.yaml", f"base: {base}\nname: mine\n"))
    assert (system.name, system.chip.name) == ("mine", "peaks-only")
    assert [file.path.name for file in files] == [
        "a.yaml",
        "base.yaml",
        "asic-8.yaml",
        "chip.yaml",
        "generic-fabric.yaml",
    ]


def test_a_fault_in_the_chip_of_a_system_is_told_in_the_chip(write: Write) -> None:
    chip = write("chip.yaml", "base: asic-template\n\ncorse: 3\n")
    error = fault(load_system, write("a.yaml", f"base: dgx-h100\nchip: {chip}\n"))
    assert (str(error.file), error.line, error.field) == (chip, 3, "corse")


def test_systems_are_no_chips_and_chips_no_systems(dgx: System) -> None:
    assert "no accelerator has this name" in str(fault(load_chip, dgx.name))
    assert "no system has this name" in str(fault(load_system, dgx.chip.name))


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("reserved: 2 GB", 81_559 * 2.0**20),
        ("stack_capacity: 24 GB", None),
        ("capacity_shown: 90 GB", 90e9),
        ("{stack_capacity: 24 GB, capacity_shown: 90 GB}", 90e9),
    ],
)
def test_a_variant_with_another_memory_does_not_show_that_of_its_base(
    write: Write, change: str, shown: float | None
) -> None:
    level = change if change.startswith("{") else f"{{{change}}}"
    name = write("variant.yaml", f"name: variant\ntitle: A variant\nbase: h100-sxm\nmemory: {{dram: {level}}}\n")
    found = load_chip(name).memory["dram"].capacity_shown
    assert (None if found is None else found.si) == shown
