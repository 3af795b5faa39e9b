"""Overrides: any path that is listed can be set, nothing else can, and arrays pass the bounds of their field."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import model_validator

from cosim.datum import UNSOURCED, Bandwidth, Count, Datum, Ratio
from cosim.errors import SpecError
from cosim.overrides import Varied, paths, split_overrides, vary
from cosim.schema import Frozen


class Level(Frozen):
    bandwidth: Bandwidth
    latency: Ratio | None = None


class Tier(Frozen):
    name: str
    size: Count
    algorithms: tuple[Literal["ring", "tree"], ...] = ("ring",)


class Pair(Frozen):
    low: Count
    high: Count

    @model_validator(mode="after")
    def _ordered(self) -> Pair:
        if self.low.si > self.high.si:
            raise SpecError("low is above high", field="low")
        return self


class Machine(Frozen):
    name: str
    cores: Count
    quality: Ratio
    memory: dict[str, Level]
    tiers: tuple[Tier, ...]
    wrap: bool = True
    sources: dict[str, str] = {}


@pytest.fixture
def machine() -> Varied[Machine]:
    level = {"bandwidth": {"value": 3.35, "unit": "TB/s", "kind": "datasheet", "source": "whitepaper"}}
    tiers = [{"name": "node", "size": 8}, {"name": "pod", "size": 4}]
    raw = {"name": "m", "cores": 132, "quality": 0.8, "memory": {"dram": level}, "tiers": tiers, "sources": {"a": "b"}}
    return Varied(Machine.model_validate(raw))


def fault(machine: Varied[Machine], path: str, value: Any) -> SpecError:
    """The error of one override."""
    with pytest.raises(SpecError) as caught:
        vary(machine, {path: value}, root="system.")
    return caught.value


def test_paths_are_every_number_and_word_and_not_the_sources(machine: Varied[Machine]) -> None:
    found = paths(machine.spec)
    assert set(found) == {
        *("name", "cores", "quality", "wrap", "memory.dram.bandwidth", "memory.dram.latency", "tiers"),
        *("tiers.0.name", "tiers.0.size", "tiers.0.algorithms", "tiers.1.name", "tiers.1.size", "tiers.1.algorithms"),
    }
    assert found["memory.dram.latency"] is None
    assert isinstance(found["cores"], Datum)


def test_a_number_replaces_the_datum_and_loses_its_source(machine: Varied[Machine]) -> None:
    changed = vary(machine, {"memory.dram.bandwidth": "4 TB/s", "cores": 100}).spec
    bandwidth = changed.memory["dram"].bandwidth
    assert (bandwidth.si, changed.cores.si) == (4e12, 100.0)
    assert (bandwidth.kind, bandwidth.source) == ("given", UNSOURCED)


def test_what_is_not_set_stays_as_it_was(machine: Varied[Machine]) -> None:
    changed = vary(machine, {"cores": 100}).spec
    assert changed == machine.spec.model_copy(update={"cores": changed.cores})


def test_the_description_that_was_given_is_left_alone(machine: Varied[Machine]) -> None:
    vary(machine, {"cores": 100, "memory.dram.bandwidth": [1e12, 2e12]})
    assert machine.spec.cores.si == 132.0
    assert not machine.arrays
    assert not machine.touched


def test_no_overrides_change_nothing(machine: Varied[Machine]) -> None:
    assert vary(machine, {}) == machine


def test_members_of_a_list_go_by_place_or_by_name(machine: Varied[Machine]) -> None:
    by_name, by_place = vary(machine, {"tiers.pod.size": 2}), vary(machine, {"tiers.1.size": 2})
    assert by_name == by_place
    assert [tier.size.si for tier in by_name.spec.tiers] == [8.0, 2.0]
    assert by_name.touched == {"tiers.1.size"}


def test_an_empty_field_can_be_filled_and_emptied(machine: Varied[Machine]) -> None:
    filled = vary(machine, {"memory.dram.latency": 0.5})
    assert filled.spec.memory["dram"].latency is not None
    assert vary(filled, {"memory.dram.latency": None}).spec == machine.spec


def test_words_flags_and_lists_of_words_can_be_set(machine: Varied[Machine]) -> None:
    changed = vary(machine, {"name": "other", "wrap": False, "tiers.0.algorithms": ["tree", "ring"]})
    assert (changed.spec.name, changed.spec.wrap) == ("other", False)
    assert changed.spec.tiers[0].algorithms == ("tree", "ring")
    assert not changed.arrays


def test_text_of_a_list_is_the_list_where_a_list_stands(machine: Varied[Machine]) -> None:
    changed = vary(machine, {"tiers.0.algorithms": '["tree", "ring"]', "name": "[4, 4]"}).spec
    assert (changed.tiers[0].algorithms, changed.name) == (("tree", "ring"), "[4, 4]")


@pytest.mark.parametrize("text", ["ring", "4", "[ring", "[4, x]", '{"ring": 1}', ""])
def test_text_of_no_list_is_refused_where_a_list_stands(machine: Varied[Machine], text: str) -> None:
    error = fault(machine, "tiers.node.algorithms", text)
    assert (error.problem, error.field) == ("is a list", "system.tiers.node.algorithms")
    assert "[4, 4, 8]" in str(error.hint)


@pytest.mark.parametrize("number", [np.float64(64.0), np.int64(64), 64, 64.0, "64"])
def test_numbers_of_any_kind_are_one_value(machine: Varied[Machine], number: object) -> None:
    changed = vary(machine, {"cores": number})
    assert changed.spec.cores.si == 64.0
    assert not changed.arrays


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("cors", "cores"),
        ("memory.dram.bandwith", "memory.dram.bandwidth"),
        ("memory.dramm.bandwidth", "memory.dram.bandwidth"),
        ("tiers.2.size", "tiers.1.size"),  # there are two
        ("tiers.rack.size", "tiers.0.size"),
    ],
)
def test_an_unknown_path_names_the_nearest(machine: Varied[Machine], path: str, near: str) -> None:
    error = fault(machine, path, 1)
    assert (error.problem, error.field) == ("unknown path", f"system.{path}")
    assert f"system.{near}" in str(error.hint).removeprefix("nearest: ").split(", ")


@pytest.mark.parametrize(
    "path", ["memory", "memory.dram", "sources.a", "", ".", "cores.value", "memory.dram.bandwidth.si"]
)
def test_only_whole_leaves_are_paths(machine: Varied[Machine], path: str) -> None:
    assert fault(machine, path, 1).problem == "unknown path"


def test_a_wrong_unit_names_the_path_with_its_root(machine: Varied[Machine]) -> None:
    error = fault(machine, "memory.dram.bandwidth", "3.35 TB")
    assert str(error).startswith("system.memory.dram.bandwidth: wrong unit (got '3.35 TB'); did you mean 3.35 TB/s?")


@pytest.mark.parametrize(
    ("path", "value"), [("quality", 1.2), ("cores", 0), ("cores", 1.5), ("quality", "nan"), ("name", 3)]
)
def test_a_value_out_of_bounds_is_refused_at_its_path(machine: Varied[Machine], path: str, value: object) -> None:
    assert str(fault(machine, path, value).field).removesuffix(".value") == f"system.{path}"


ROWS = st.lists(st.floats(-2.0, 3.0), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(values=ROWS)
def test_an_array_is_taken_exactly_when_each_of_its_values_is(values: list[float]) -> None:
    level = {"dram": {"bandwidth": 1.0}}
    machine = Varied(Machine.model_validate({"name": "m", "cores": 1, "quality": 0.8, "memory": level, "tiers": []}))
    allowed = all(0.0 < value <= 1.0 for value in values)
    try:
        taken = vary(machine, {"quality": values}).arrays["quality"].tolist()
    except SpecError:
        assert not allowed
    else:
        assert allowed
        assert taken == values


@pytest.mark.parametrize("values", [[1e12, 2e12], (1e12, 2e12), np.array([1e12, 2e12]), np.array([10**12, 2 * 10**12])])
def test_arrays_of_any_kind_are_kept_as_floats_beside_the_description(machine: Varied[Machine], values: object) -> None:
    kept = vary(machine, {"memory.dram.bandwidth": values}).arrays["memory.dram.bandwidth"]
    assert kept.dtype == np.float64
    assert kept.tolist() == [1e12, 2e12]


@pytest.mark.parametrize(
    ("path", "values", "problem"),
    [
        ("quality", [0.5, 1.2], "is out of range"),
        ("quality", [0.5, -0.1], "is out of range"),
        ("quality", [0.5, float("nan")], "holds NaN or infinity"),
        ("quality", [0.5, float("inf")], "holds NaN or infinity"),
        ("quality", [], "has one dimension and is not empty"),
        ("quality", [[0.5, 0.6]], "has one dimension and is not empty"),
        ("quality", ["a", "b"], "must hold numbers"),
        ("memory.dram.bandwidth", ["1 TB/s", "2 TB/s"], "must hold numbers"),
        ("quality", [0.5, None, {}], "must hold numbers"),
        ("cores", [1.5, 2.0], "must be a whole number"),
        ("cores", [1.0, 2.5], "must be a whole number"),
        ("cores", [1.0, 1.5, 2.0], "must be a whole number"),  # neither the least nor the greatest
        ("name", [1.0, 2.0], "is a choice"),
    ],
)
def test_an_array_that_its_field_cannot_hold_is_refused(
    machine: Varied[Machine], path: str, values: object, problem: str
) -> None:
    error = fault(machine, path, values)
    assert problem in error.problem
    assert error.field == f"system.{path}"


def test_a_scalar_takes_the_place_of_an_array_and_an_array_that_of_a_scalar(machine: Varied[Machine]) -> None:
    swept = vary(machine, {"cores": [100.0, 120.0]})
    fixed = vary(swept, {"cores": 64})
    assert (dict(fixed.arrays), fixed.spec.cores.si) == ({}, 64.0)
    assert vary(fixed, {"cores": [7.0, 8.0]}).arrays["cores"].tolist() == [7.0, 8.0]


def test_overrides_add_up_over_several_calls(machine: Varied[Machine]) -> None:
    one = vary(machine, {"cores": [100.0, 120.0], "name": "x"})
    two = vary(one, {"quality": [0.5, 0.6], "memory.dram.bandwidth": "4 TB/s"})
    assert set(two.arrays) == {"cores", "quality"}
    assert two.touched == {"cores", "name", "quality", "memory.dram.bandwidth"}
    assert two.spec.memory["dram"].bandwidth.si == 4e12


def test_a_fault_in_one_override_leaves_the_others_unset(machine: Varied[Machine]) -> None:
    with pytest.raises(SpecError):
        vary(machine, {"cores": 100, "quality": 7})
    assert machine.spec.cores.si == 132.0


@pytest.fixture
def pair() -> Varied[Pair]:
    return Varied(Pair.model_validate({"low": 1, "high": 2}))


@pytest.mark.parametrize("order", [("low", "high"), ("high", "low")])
def test_numbers_that_are_right_only_together_may_be_set_together(pair: Varied[Pair], order: tuple[str, str]) -> None:
    wanted = {"low": 5, "high": 6}
    assert vary(pair, {name: wanted[name] for name in order}).spec.low.si == 5.0
    with pytest.raises(SpecError, match="low is above high"):
        vary(pair, {"low": 5})


def test_a_rule_of_the_whole_is_told_at_the_root() -> None:
    class Whole(Frozen):
        cores: Count

        @model_validator(mode="after")
        def _never_seven(self) -> Whole:
            if self.cores.si == 7.0:
                raise SpecError("seven is taken")
            return self

    with pytest.raises(SpecError) as caught:
        vary(Varied(Whole.model_validate({"cores": 1})), {"cores": 7}, root="system.")
    assert (caught.value.problem, caught.value.field) == ("seven is taken", "system")


def test_arrays_are_checked_point_by_point_and_not_extreme_against_extreme(pair: Varied[Pair]) -> None:
    taken = vary(pair, {"low": [1.0, 10.0], "high": [2.0, 20.0]})
    assert {path: values.tolist() for path, values in taken.arrays.items()} == {"low": [1.0, 10.0], "high": [2.0, 20.0]}
    with pytest.raises(SpecError, match="low is above high"):
        vary(pair, {"low": [10.0, 1.0], "high": [2.0, 20.0]})


def test_an_array_must_go_with_the_arrays_that_were_set_before(pair: Varied[Pair]) -> None:
    swept = vary(pair, {"high": [2.0, 20.0]})
    assert set(vary(swept, {"low": [1.0, 15.0]}).arrays) == {"low", "high"}
    with pytest.raises(SpecError, match="low is above high"):
        vary(swept, {"low": [15.0, 15.0]})
    with pytest.raises(SpecError, match="low is above high"):
        vary(swept, {"low": 15})


def test_arrays_of_different_lengths_are_refused_and_one_value_goes_with_any(pair: Varied[Pair]) -> None:
    with pytest.raises(SpecError, match=r"^plan: arrays of different lengths: \[2, 3\]$"):
        vary(pair, {"low": [1.0, 1.0, 1.0], "high": [2.0, 3.0]}, root="plan.")
    assert vary(pair, {"low": [1.0], "high": [2.0, 3.0]}).arrays["low"].tolist() == [1.0]


def test_the_first_point_stands_in_the_description(pair: Varied[Pair]) -> None:
    taken = vary(pair, {"high": [7.0, 3.0, 9.0]})
    assert taken.spec.high.si == 7.0


def test_fields_that_stand_alone_are_told_apart() -> None:
    given = {"plan.a.b": 1, "seeds": 2}
    assert split_overrides(given, ("plan",), ("seeds",)) == {"plan": {"a.b": 1}, "": {"seeds": 2}}
    assert split_overrides({"plan.a": 1}, ("plan",)) == {"plan": {"a": 1}}
    with pytest.raises(SpecError, match=r"plan: unknown path.*it goes on: plan\.FIELD"):
        split_overrides({"plan": 1}, ("plan",), ("seeds",))
    for wrong in ({"plan": 1}, {"seeds.more": 1}, {"": 1}, {".seeds": 1}):
        with pytest.raises(SpecError, match="unknown path"):
            split_overrides(wrong, ("plan",), ("seeds",))
