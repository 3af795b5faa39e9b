"""Data: every number has a value, a unit of the right dimension, a kind and a source, and stays in range."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cosim import datum as kinds
from cosim.datum import (
    UNSOURCED,
    Bandwidth,
    Capacity,
    Count,
    Datum,
    EnergyPerByte,
    Factor,
    Money,
    MoneyPerEnergy,
    Ratio,
    Seconds,
    Time,
)
from cosim.errors import SpecError
from cosim.schema import Frozen, validated


class Row(Frozen):
    bandwidth: Bandwidth | None = None
    capacity: Capacity | None = None
    count: Count | None = None
    ratio: Ratio | None = None
    factor: Factor | None = None
    time: Time | None = None
    money: Money | None = None
    energy: EnergyPerByte | None = None
    tariff: MoneyPerEnergy | None = None
    limit: Seconds | None = None


def read(field: str, raw: Any) -> Datum:
    """The datum of one field."""
    datum = getattr(validated(Row, {field: raw}), field)
    assert isinstance(datum, Datum)
    return datum


def fault(field: str, raw: Any) -> SpecError:
    """The error of one field."""
    with pytest.raises(SpecError) as caught:
        validated(Row, {field: raw})
    return caught.value


def sourced(value: object, unit: str = "", **more: object) -> dict[str, object]:
    """A datum as it is written in a file."""
    return {"value": value, "unit": unit, "kind": "datasheet", "source": "whitepaper, page 3", **more}


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(1e-3, 1e6),
    unit=st.sampled_from([("GB/s", 1e9), ("TB/s", 1e12), ("Gb/s", 1.25e8), ("GiB/s", 2.0**30)]),
)
def test_text_and_mapping_mean_the_same_number(value: float, unit: tuple[str, float]) -> None:
    name, scale = unit
    assert read("bandwidth", f"{value!r} {name}").si == pytest.approx(value * scale, rel=1e-14)
    assert read("bandwidth", sourced(value, name)).si == pytest.approx(value * scale, rel=1e-14)
    assert read("bandwidth", sourced(f"{value!r} {name}")).si == pytest.approx(value * scale, rel=1e-14)


def test_a_sourced_datum_keeps_what_was_written() -> None:
    datum = read("bandwidth", sourced(3.35, "TB/s", note="five stacks"))
    assert (datum.value, datum.unit, datum.kind, datum.source) == (3.35, "TB/s", "datasheet", "whitepaper, page 3")
    assert (datum.note, datum.si, datum.text) == ("five stacks", 3.35e12, "3.35 TB/s")


@pytest.mark.parametrize("raw", ["3.35 TB/s", 3.35e12, "3.35e12"])
def test_a_bare_number_is_marked_as_given_without_a_source(raw: object) -> None:
    datum = read("bandwidth", raw)
    assert datum.si == pytest.approx(3.35e12)
    assert (datum.kind, datum.source) == ("given", UNSOURCED)
    assert UNSOURCED == "given without a source"


def test_energy_and_tariff_are_read_in_the_units_of_the_trade() -> None:
    assert read("energy", sourced(5.5, "pJ/bit")).si == pytest.approx(44e-12)  # x 8 bit per byte
    assert read("tariff", sourced(0.08, "USD/kWh")).si == pytest.approx(0.08 / 3.6e6)
    assert read("ratio", "76 %").si == pytest.approx(0.76)


def test_a_range_is_in_the_unit_of_the_value() -> None:
    datum = read("bandwidth", sourced(4, "TB/s", low=3, high=5))
    assert datum.si_range == (3e12, 5e12)
    assert datum.text == "4 TB/s (3 TB/s to 5 TB/s)"


def test_without_a_range_both_ends_are_the_value() -> None:
    assert read("bandwidth", sourced(4, "TB/s")).si_range == (4e12, 4e12)
    one_end = read("bandwidth", sourced(4, "TB/s", low=3))
    assert one_end.si_range == (3e12, 4e12)
    assert one_end.text == "4 TB/s (3 TB/s to 4 TB/s)"


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        ("bandwidth", "3.35 TB"),
        ("bandwidth", sourced(3.35, "TB")),
        ("bandwidth", sourced("3.35 TB")),
        ("bandwidth", sourced(3.35)),
        ("bandwidth", "3 GHz"),
        ("capacity", "80 GB/s"),
        ("count", "8 GB"),
        ("time", "3 GHz"),
        ("energy", "3 pJ/FLOP"),
        ("money", "3 mm2"),
    ],
)
def test_the_wrong_dimension_is_refused_with_the_field_and_what_is_wanted(field: str, raw: object) -> None:
    error = fault(field, raw)
    assert (error.problem, error.field) == ("wrong unit", field)
    assert " is wanted" in str(error.hint)


def test_a_capacity_given_for_a_bandwidth_is_told_the_rate() -> None:
    assert str(fault("bandwidth", sourced(3.35, "TB")).hint).startswith("did you mean 3.35 TB/s?")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["bandwidth", "ratio", "money"])
def test_nan_and_infinity_are_refused_in_every_way_of_writing_them(field: str, value: float) -> None:
    unit = {"bandwidth": "B/s", "money": "USD"}.get(field, "")
    for raw in (
        value,
        repr(value),
        sourced(value, unit),
        sourced(1.0, unit, low=value),
        sourced(1.0, unit, high=value),
    ):
        error = fault(field, raw)
        assert str(error.field).split(".")[0] == field
        assert "finite number" in error.problem


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("bandwidth", [1e-9, 1e30], [0, -1]),
        ("count", [1, 2, 1e6], [0, -1]),
        ("ratio", [1e-9, 0.5, 1.0], [0, 1.0000001, -0.1]),
        ("time", [0, 1e-9], [-1e-9]),
        ("money", [0, 30000], [-1]),
    ],
)
def test_bounds_are_kept_to_the_edge(field: str, good: list[float], bad: list[float]) -> None:
    assert [read(field, value).si for value in good] == good
    assert {fault(field, value).problem for value in bad} == {"is out of range"}


@pytest.mark.parametrize(("low", "high"), [(4.5, 5), (3, 3.9), (5, 3), (4.5, None), (None, 3.5)])
def test_a_value_outside_its_own_range_is_refused(low: float | None, high: float | None) -> None:
    error = fault("bandwidth", sourced(4, "TB/s", low=low, high=high))
    assert (error.problem, error.hint) == ("is outside its own range", "low <= value <= high")


def test_a_value_may_be_an_end_of_its_range() -> None:
    assert read("bandwidth", sourced(4, "TB/s", low=4, high=4)).si_range == (4e12, 4e12)


def test_the_range_must_keep_the_bounds_too() -> None:
    assert fault("ratio", sourced(0.9, high=1.2)).problem == "is out of range"
    assert fault("bandwidth", sourced(4, "TB/s", low=-1)).problem == "is out of range"


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("ratio", "it must be more than 0 and at most 1"),
        ("count", "it must be at least 1"),
        ("time", "it must be at least 0"),
    ],
)
def test_out_of_range_says_the_range(field: str, hint: str) -> None:
    assert fault(field, -3).hint == hint


@settings(max_examples=60, deadline=None)
@given(value=st.floats(1.0, 1e6) | st.integers(1, 10**6).map(float))
def test_a_count_is_whole_or_refused(value: float) -> None:
    if value.is_integer():
        assert read("count", value).si == value
    else:
        assert fault("count", value).problem == "must be a whole number"


def test_a_number_that_its_unit_makes_infinite_is_refused() -> None:
    assert fault("bandwidth", sourced(1e300, "TB/s")).problem == "is not a finite number"  # 1e312 B/s


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (True, "is not a number"),
        ("fast", "is not a number with a unit"),
        ([1], "is not a number with a unit"),
        ({"bits": 3}, "unknown field"),
        ("12 parsecs", "unknown unit"),
    ],
)
def test_what_is_no_number_is_refused(raw: object, problem: str) -> None:
    error = fault("bandwidth", raw)
    assert error.problem == problem
    assert str(error.field).startswith("bandwidth")


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        *(("Frequency", "Hz"), ("FlopPerCycle", "FLOP/cycle"), ("OpPerCycle", "op/cycle"), ("BytePerCycle", "B/cycle")),
        *(("FlopRate", "FLOP/s"), ("OpRate", "op/s"), ("Bandwidth", "B/s"), ("Capacity", "B"), ("Time", "s")),
        *(("Power", "W"), ("EnergyPerFlop", "J/FLOP"), ("EnergyPerByte", "J/B"), ("Area", "mm2"), ("Money", "USD")),
        *(("MoneyPerEnergy", "USD/J"), ("Count", ""), ("Ratio", ""), ("Factor", "")),
    ],
)
def test_each_kind_of_quantity_takes_its_own_unit_only(kind: str, unit: str) -> None:
    adapter: TypeAdapter[Datum] = TypeAdapter(getattr(kinds, kind))
    assert adapter.validate_python(f"1 {unit}").si_unit == unit
    with pytest.raises(ValidationError, match="wrong unit"):
        adapter.validate_python(f"1 {unit}*g")


def test_money_and_tariffs_may_be_nothing_and_factors_may_not() -> None:
    assert read("tariff", 0).si == 0.0
    assert read("factor", 12.5).si == 12.5
    assert fault("factor", 0).problem == "is out of range"


@pytest.mark.parametrize("missing", ["value", "kind", "source"])
def test_a_datum_needs_value_kind_and_source(missing: str) -> None:
    whole = sourced(3.35, "TB/s")
    del whole[missing]
    error = fault("bandwidth", whole)
    assert (error.problem, error.field) == ("is missing", f"bandwidth.{missing}")


def test_an_unknown_kind_lists_the_kinds() -> None:
    error = fault("bandwidth", {**sourced(3.35, "TB/s"), "kind": "guess"})
    assert error.field == "bandwidth.kind"
    assert all(kind in error.problem for kind in ("datasheet", "measured", "derived", "estimated"))


def test_a_misspelt_part_of_a_datum_names_the_nearest() -> None:
    error = fault("bandwidth", sourced(3.35, "TB/s", nte="x"))
    assert (error.problem, error.field) == ("unknown field", "bandwidth.nte")
    assert str(error.hint).startswith("nearest: note")


def test_a_datum_moved_to_another_field_takes_its_unit_and_is_checked_again() -> None:
    datum = read("bandwidth", "8 GB/s")
    assert validated(Row, {"bandwidth": datum}).bandwidth == datum
    assert fault("capacity", datum).problem == "wrong unit"


def test_a_description_survives_being_dumped_and_read_again() -> None:
    row = validated(Row, {"bandwidth": sourced(4, "TB/s", low=3, high=5), "count": 8, "tariff": "0.08 USD/kWh"})
    assert validated(Row, row.model_dump(exclude_none=True)) == row


@pytest.mark.parametrize(("raw", "seconds"), [("250 ms", 0.25), (2, 2.0), ("1 min", 60.0)])
def test_a_plain_time_is_seconds(raw: object, seconds: float) -> None:
    assert validated(Row, {"limit": raw}).limit == seconds


@pytest.mark.parametrize("raw", [0, -1, "3 GB", "nan", "soon"])
def test_a_plain_time_is_positive_finite_and_a_time(raw: object) -> None:
    assert fault("limit", raw).field == "limit"


def test_json_schema_offers_text_number_and_mapping_and_names_the_unit() -> None:
    schema = TypeAdapter(Row).json_schema()
    described = schema["properties"]["bandwidth"]["anyOf"][0]
    assert described["description"] == "a datum in B/s"
    assert schema["properties"]["ratio"]["anyOf"][0]["description"] == "a datum without unit"
    assert {"type": "string"} in described["anyOf"]
    assert {"type": "number"} in described["anyOf"]
    assert schema["$defs"]["Datum"]["required"] == ["value", "kind", "source"]


def test_a_quoted_number_keeps_its_unit() -> None:
    assert read("bandwidth", sourced("3.35", "TB/s")).si == 3.35e12


def test_text_with_its_own_unit_cannot_have_another_beside_it() -> None:
    assert "unit of its own" in fault("bandwidth", sourced("3.35 TB/s", "GB/s")).problem


def test_a_flag_is_no_value() -> None:
    assert "is not a number" in fault("bandwidth", sourced(True, "TB/s")).problem
