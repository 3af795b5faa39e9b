"""What is known of measured steps: halves, flags, sets, and the shipped file against the files of stacks and chips."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim import library
from cosim.datum import Datum
from cosim.errors import SpecError
from cosim.hardware.load import load_chip
from cosim.mapping.software import load_software
from cosim.overrides import value_at
from cosim.validation.cases import Case
from cosim.validation.training_known import (
    Condition,
    Fit,
    Flag,
    NamedSet,
    fits_of,
    group_of,
    in_fitted_half,
    is_fitted,
    known,
    source_of,
)

SCRIPT = "benchmarks/fit_training.py"
NAMES = st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=30)


def row(name: str = "r1", **values: object) -> Case:
    return Case(name, 1, {key: str(value) for key, value in values.items()})


@given(NAMES, st.integers(0, 9), st.integers(0, 9))
def test_rows_of_one_group_are_in_one_half_wherever_they_stand(group: str, one: int, other: int) -> None:
    name = group.strip() or "r"
    rows = [row("r", split_group=group), row(name, split_group=""), row(name)]
    assert len({in_fitted_half(each, place, "groups") for each in rows for place in (one, other)}) == 1


def test_halves_are_about_as_large() -> None:
    fitted = sum(in_fitted_half(row(f"t{place:05d}"), place, "groups") for place in range(2000))
    assert 900 < fitted < 1100
    assert [in_fitted_half(row(), place, "odd") for place in range(4)] == [True, False, True, False]


def test_the_hash_is_that_of_the_group_or_else_of_the_id() -> None:
    # MD5 of "a" ends in 61, of "b" in 8f, of "e" in 32: the last alone is even.
    assert [in_fitted_half(row(name), 0, "groups") for name in "abe"] == [False, False, True]
    for name in ("vtrain|gpt-3.6b|1|1", "t00012"):
        even = int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 0
        assert in_fitted_half(row("another", split_group=name), 0, "groups") == even
    assert group_of(row("t1", split_group="  ")) == "t1"
    assert group_of(row("t1", split_group="g")) == "g"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"equals": "8"}, True),
        ({"equals": "80"}, False),
        ({"at_least": 8}, True),
        ({"at_least": 8.5}, False),
        ({"starts": "8"}, True),
        ({"has": "9"}, False),
        ({"has_one_of": ["7", "8"]}, True),
        ({"has_one_of": ["7", "9"]}, False),
        ({"equals": "8", "at_least": 9}, False),
        ({}, True),
    ],
)
def test_everything_that_a_condition_gives_must_hold(condition: dict[str, object], holds: bool) -> None:  # a table
    assert Condition.model_validate({"column": "tp", **condition}).holds(row(tp=8)) is holds


def test_a_blank_column_is_no_number() -> None:
    assert not Condition(column="tp", at_least=0).holds(row(tp=""))
    assert not Condition(column="tp", at_least=0).holds(row())
    both = NamedSet(name="both", when=(Condition(column="tp", equals="8"), Condition(column="pp", equals="2")))
    assert both.holds(row(tp=8, pp=2))
    assert not both.holds(row(tp=8, pp=1))


@pytest.mark.parametrize(
    ("values", "differ"),
    [
        ({"tp": 2, "pp": 2, "dp": 2, "num_accelerators": 8}, False),
        ({"tp": 2, "pp": 2, "dp": 4, "num_accelerators": 8}, True),
        ({"tp": 2, "pp": 2, "dp": 2, "cp": 2, "num_accelerators": 8}, True),
        ({"tp": 2, "pp": "", "dp": 4, "num_accelerators": 8}, False),
        ({"tp": 2, "pp": 2, "dp": 2}, False),
        ({"tp": 8, "pp": 1, "dp": 2, "num_accelerators": 8, "software_stack": "neuronx"}, False),
        ({"tp": 8, "pp": 1, "dp": 1, "num_accelerators": 8, "software_stack": "neuronx"}, True),
        ({"tp": 8, "pp": 1, "dp": 1, "num_accelerators": 8, "software_stack": "no such stack"}, False),
    ],
)
def test_degrees_that_are_not_the_chips_are_found_in_the_units_of_the_stack(
    values: dict[str, object],
    differ: bool,  # a table
) -> None:
    assert Flag(name="f", reason="r", ranks_differ=True).holds(row(**values)) is differ


def test_a_flag_needs_its_conditions_as_well() -> None:
    flag = Flag(name="f", reason="r", ranks_differ=True, when=(Condition(column="source", starts="lab"),))
    wrong = {"tp": 2, "pp": 1, "dp": 1, "num_accelerators": 8}
    assert flag.holds(row(source="lab: 1", **wrong))
    assert not flag.holds(row(source="else: 1", **wrong))


def test_a_fit_takes_rows_of_its_stacks_on_its_chips() -> None:
    stack = Fit(name="s", stacks=("s",), constants=("host_step",))
    chip = Fit(name="c", stacks=("s", "t"), chips=("c",), constants=("power.real_data",))
    fits = (stack, chip)
    assert fits_of(row(software_stack="s", accelerator="c"), fits) == (stack, chip)
    assert fits_of(row(software_stack="s", accelerator="d"), fits) == (stack,)
    assert fits_of(row(software_stack="t", accelerator="c"), fits) == (chip,)
    assert fits_of(row(software_stack="u", accelerator="c"), fits) == ()


def test_the_source_is_what_stands_before_the_colon() -> None:
    assert source_of(row(source="vtrain: data/x.csv")) == "vtrain"
    assert source_of(row(source="plain")) == "plain"
    assert source_of(row()) == ""


FITTED = ("measured", "derived")
"""Kinds that a fitted number may be of; a number that is lent says that it is estimated."""


def fitted_by_the_script(spec: object, path: str = "") -> dict[str, Datum]:
    """Every datum of a description that says it was fitted by the script, by path."""
    if isinstance(spec, Datum):
        return {path: spec} if SCRIPT in spec.source and spec.kind in FITTED else {}
    names = type(spec).model_fields if hasattr(type(spec), "model_fields") else ()
    found: dict[str, Datum] = {}
    for name in names:
        found |= fitted_by_the_script(getattr(spec, name), f"{path}.{name}" if path else name)
    return found


def test_every_constant_of_a_fit_is_stated_as_fitted_by_the_script() -> None:
    for fit in known().fits:
        spec = load_chip(fit.name) if fit.chips else load_software(fit.name)
        for path in fit.constants:
            datum = value_at(spec, path)
            assert isinstance(datum, Datum), (fit.name, path)
            assert datum.kind in FITTED, (fit.name, path)
            assert SCRIPT in datum.source, (fit.name, path)


def test_every_constant_that_the_script_fitted_is_in_a_fit() -> None:
    listed = {path for fit in known().fits for path in fit.constants}
    for name in library.names("software"):
        assert set(fitted_by_the_script(load_software(name))) <= listed, name
    for fit in known().fits:
        for chip in fit.chips:
            assert set(fitted_by_the_script(load_chip(chip))) == set(fit.constants), chip


def test_the_shipped_file_names_what_the_library_has() -> None:
    what = known()
    assert [each.file for each in what.files] == ["training.csv", "training_vtrain.csv"]
    for fit in what.fits:
        assert set(fit.stacks) <= set(library.names("software"))
        assert set(fit.chips) <= set(library.names("accelerators"))
    names = [each.name for each in (*what.flags, *what.sets)]
    assert len(set(names)) == len(names)
    assert all(flag.reason for flag in what.flags)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"source": "vtrain: x", "tp": 16}, "vTrain, tensor ranks across nodes"),
        ({"source": "vtrain: x", "micro_batch": 64}, "vTrain, micro-batch of 64 and more"),
        ({"workload": "gpt-oss-120b", "notes": "NeMo container 26.06.01; x"}, "gpt-oss in container 26.06.01"),
        (
            {"source": "m: [26.02 / DGX-H100 / Q]", "workload": "qwen3-30b-a3b", "accelerator": "h100-sxm"},
            "Qwen3-30B on H100 in containers 25.11 and 26.02",
        ),
        ({"tp": 8, "pp": 2, "dp": 1, "num_accelerators": 8}, "degrees that are not the chips"),
        ({"source": "neusight: x", "accelerator": "a100-80gb-pcie"}, "NeuSight on A100 PCIe"),
    ],
)
def test_rows_that_are_called_wrong_are_found_and_their_neighbours_are_not(
    values: dict[str, object], flag: str
) -> None:
    def flags(each: Case) -> list[str]:
        return [rule.name for rule in known().flags if rule.holds(each)]

    assert flags(row(**values)) == [flag]
    near = {"tp": 8, "micro_batch": 32, "dp": 1, "pp": 1, "num_accelerators": 8, "notes": "NeMo container 26.06; x"}
    other = {**near, "source": "vtrain-single: x", "accelerator": "h100-sxm", "workload": "gpt-oss-120b"}
    assert flags(row(**other)) == []


def test_a_fault_of_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "known.yaml"
    path.write_text("files: []\nfits: []\nflags: []\nsets: []\nsweeps: []\nmore: 1\n", encoding="utf-8")
    with pytest.raises(SpecError, match="unknown field"):
        known(path)
    path.write_text("files: []\nfits: [{name: a, stacks: [b], constants: []}]\nflags: []\nsets: []\nsweeps: []\n")
    with pytest.raises(SpecError, match="constants"):
        known(path)


@pytest.mark.parametrize("half", [True, False])
def test_a_fit_may_have_used_the_other_half(*, half: bool) -> None:
    usual = Fit(name="a", stacks=("s",), constants=("x",))
    other = Fit(name="b", stacks=("s",), constants=("x",), other_half=True)
    one = row(software_stack="s")
    assert is_fitted(one, [usual], half=half) is half
    assert is_fitted(one, [other], half=half) is not half
    # Of two fits that take a row into account one has used it.
    assert is_fitted(one, [usual, other], half=half)
    assert not is_fitted(row(software_stack="t"), [usual, other], half=half)
