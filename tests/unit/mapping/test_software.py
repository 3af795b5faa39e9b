"""Training software: what ships, what a file may say, and the numbers that reach the engines."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.mapping.software import Software, load_software, lower_software
from cosim.records import leaves

SHIPPED = sorted(library.names("software"))
NUMBERS = ("gradient_bytes", "reduced_bytes", "optimizer_bytes", "host_kernel", "host_step")
UNSAID = {
    "host_blend": math.inf,
    "host_collective": None,
    "host_exchange": 0.0,
    "shard_copy": math.inf,
    "attention_per_core": math.inf,
    "matmul_rate": 1.0,
    "vector_rate": 1.0,
    "collective_rate": 1.0,
    "exchange_rate": 1.0,
    "bucket": 0.0,
    "library_buffers": 0.0,
    "message_buffers": 0.0,
    "workspace": 0.0,
    "fragmentation": 0.0,
}
"""What may be left out, and what it then is; None: as `host_kernel`."""
OWN = """\
base: megatron
name: own
title: Ours
gradient_bytes: {value: 8, unit: bit, kind: given, source: our own}
host_kernel: {value: 3, unit: us, kind: given, source: our own}
tensor_overlap: false
"""


def written(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def said(software: Software, field: str, neutral: float | None) -> float:
    """The number that a file gives, or what stands for none."""
    rate = field.removesuffix("_rate")
    datum = getattr(software.rates, rate) if rate != field else getattr(software, field)
    if datum is not None:
        return float(datum.si)
    return software.host_kernel.si if neutral is None else neutral


def changed(software: Software) -> dict[str, object]:
    """What the software says of itself, without its name."""
    return {name: value for name, value in software.model_dump().items() if name not in ("name", "title")}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_software_loads_under_its_name_and_cites_its_numbers(name: str) -> None:
    software = load_software(name)
    texts = {
        source.text + ("" if source.checked else " [unverified recollection]") for source in software.sources.values()
    }
    assert software.name == name
    assert software.title
    for field in NUMBERS:
        datum = getattr(software, field)
        assert datum.source in texts
        assert datum.si >= 0.0
        low, high = datum.si_range
        assert low <= datum.si <= high


@pytest.mark.parametrize("name", SHIPPED)
def test_lowering_keeps_every_choice_and_turns_numbers_to_si(name: str) -> None:
    software = load_software(name)
    arrays = lower_software(software)
    assert arrays.name == name
    assert arrays.fused == (software.attention == "fused")
    for field in NUMBERS:
        assert float(getattr(arrays, field)) == getattr(software, field).si
    for field in ("fused_accumulation", "tensor_overlap", "gradient_overlap"):
        assert getattr(arrays, field) == getattr(software, field)
    assert all(leaf.shape == () for leaf in leaves(arrays))
    # What a stack does not say is as the chip does it.
    assert len(list(leaves(arrays))) == len(NUMBERS) + len(UNSAID)
    for field, neutral in UNSAID.items():
        assert float(getattr(arrays, field)) == said(software, field, neutral)


def test_the_software_of_the_papers_keeps_16_bytes_a_parameter_with_its_weight_and_that_of_today_18() -> None:
    for name, total in (("megatron-2022", 16.0), ("megatron-2023", 16.0), ("megatron", 18.0)):
        arrays = lower_software(load_software(name))
        assert 2.0 + float(arrays.gradient_bytes + arrays.optimizer_bytes) == total


def test_the_release_of_2023_differs_from_2022_by_its_name_and_by_a_rate_of_its_own() -> None:
    new, old = changed(load_software("megatron-2023")), changed(load_software("megatron-2022"))
    assert {name for name in new if new[name] != old[name]} == {"sources", "rates"}
    assert float(lower_software(load_software("megatron-2022")).vector_rate) == 1.0


def test_a_file_of_ones_own_over_a_shipped_base(tmp_path: Path) -> None:
    own, base = load_software(written(tmp_path, OWN)), load_software("megatron")
    assert (own.name, own.title) == ("own", "Ours")
    assert (own.gradient_bytes.si, own.tensor_overlap) == (1.0, False)
    assert own.host_kernel.si == pytest.approx(3e-6)
    same = set(changed(base)) - {"gradient_bytes", "host_kernel", "tensor_overlap"}
    assert {name: changed(own)[name] for name in same} == {name: changed(base)[name] for name in same}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no software has this name \(got 'megatorn'\); nearest: megatron"):
        load_software("megatorn")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("attention: flash", r"own\.yaml:7: attention: .*'fused' or 'unfused'"),
        ("tensor_overlaps: true", r"own\.yaml:7: tensor_overlaps: unknown field.*nearest: tensor_overlap"),
        ("host_step: {value: 5, unit: B, kind: given, source: our own}", r"own\.yaml:7: host_step"),
        ("optimizer_bytes: {value: -1, unit: B, kind: given, source: our own}", r"own\.yaml:7: optimizer_bytes"),
    ],
)
def test_a_slip_is_told_at_its_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_software(written(tmp_path, f"{OWN}{line}\n"))


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"own\.yaml.*: attention: is missing"):
        load_software(written(tmp_path, "name: own\ntitle: Ours\n"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_default_says_where_it_is_known_from(name: str) -> None:
    software = load_software(name)
    texts = {
        source.text + ("" if source.checked else " [unverified recollection]") for source in software.sources.values()
    }
    defaults = software.defaults
    said = [
        value
        for field in type(defaults).model_fields
        if (value := getattr(defaults, field)) and field not in ("recompute_words", "recompute_modules")
    ]
    for choice in (*said, *defaults.recompute_words.values(), *defaults.recompute_modules.values()):
        assert choice.source in texts
        assert choice.kind in ("datasheet", "derived", "estimated")


def test_a_stack_takes_the_constants_of_its_base_as_estimates() -> None:
    for name, base in (
        ("megatron-2021", "megatron-2022"),
        ("megatron-deepspeed", "megatron-2022"),
    ):
        own, other = load_software(name), load_software(base)
        for field in ("host_kernel", "host_step"):
            assert getattr(own, field).si == getattr(other, field).si
            assert getattr(own, field).kind == "estimated"
            low, high = getattr(own, field).si_range
            assert low < getattr(own, field).si < high


def test_defaults_of_a_base_stay_where_a_file_has_none_of_its_own(tmp_path: Path) -> None:
    text = OWN + "defaults:\n  zero: {value: 3, kind: given, source: our own runs}\n"
    own, base = load_software(written(tmp_path, text)).defaults, load_software("megatron").defaults
    assert (own.zero is not None and own.zero.value, own.recompute) == (3, base.recompute)
    assert load_software("megatron-2022").defaults.recompute is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mixed: false", r"own\.yaml:7: mixed: needs unfused attention"),
        ("defaults: {zero: {value: 4, kind: given, source: our own runs}}", r"own\.yaml.*: defaults\.zero"),
        ("defaults: {recompute: {value: some, kind: given, source: our own runs}}", r"defaults\.recompute"),
        ("defaults: {layout: {value: best}}", r"defaults\.layout"),
    ],
)
def test_a_slip_in_a_default_is_told(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_software(written(tmp_path, f"{OWN}{line}\n"))
