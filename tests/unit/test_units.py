"""Units: scales agree with pint, dimensions are kept apart, text and numbers survive the way there and back."""

from __future__ import annotations

import itertools
import math

import pint
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.units import format_si, parse_quantity, parse_unit, to_si

OWN_UNITS = ("FLOP = [flop]", "FLOPS = FLOP / second", "op = [operation]", "USD = [money]", "clock_cycle = [clock]")
# What people write -> (what pint calls it, what it is in SI).
PREFIXED = {
    "B": ("byte", "byte"),
    "byte": ("byte", "byte"),
    "b": ("bit", "byte"),
    "bit": ("bit", "byte"),
    "s": ("second", "second"),
    "Hz": ("hertz", "1/second"),
    "FLOP": ("FLOP", "FLOP"),
    "FLOPS": ("FLOPS", "FLOP/second"),
    "op": ("op", "op"),
    "J": ("joule", "joule"),
    "W": ("watt", "joule/second"),
    "Wh": ("watt_hour", "joule"),
    "g": ("gram", "gram"),
}
BARE = {
    "min": ("minute", "second"),
    "h": ("hour", "second"),
    "year": ("year", "second"),
    "USD": ("USD", "USD"),
    "$": ("USD", "USD"),
    "mm2": ("millimeter**2", "millimeter**2"),
    "cycle": ("clock_cycle", "clock_cycle"),
    "clk": ("clock_cycle", "clock_cycle"),
}
PREFIXES = ("", "f", "p", "n", "u", "µ", "m", "k", "K", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi")
PINT_PREFIX = {"µ": "u", "K": "k"}
BASES = ("B", "s", "FLOP", "J", "USD", "mm2", "cycle", "g", "op")
QUANTITIES = ("B/s", "B", "FLOP/s", "FLOP", "s", "J/B", "J/FLOP", "W", "Hz", "USD", "mm2", "op/s", "USD/J", "B/cycle")

Token = tuple[str, str, str]
TOKENS: st.SearchStrategy[Token] = st.tuples(st.sampled_from(PREFIXES), st.sampled_from(sorted(PREFIXED))).map(
    lambda pair: (pair[0] + pair[1], PINT_PREFIX.get(pair[0], pair[0]) + PREFIXED[pair[1]][0], PREFIXED[pair[1]][1])
) | st.sampled_from([(written, *BARE[written]) for written in sorted(BARE)])
UNITS = st.sampled_from(sorted({*PREFIXED, *BARE, "GB", "TFLOP", "pJ", "us", "GiB"}))


@pytest.fixture(scope="module")
def registry() -> pint.UnitRegistry:
    registry = pint.UnitRegistry()
    for definition in OWN_UNITS:
        registry.define(definition)
    return registry


@settings(max_examples=60, deadline=None)
@given(token=TOKENS)
def test_scale_of_a_factor_agrees_with_pint(registry: pint.UnitRegistry, token: Token) -> None:
    written, pint_name, si = token
    assert parse_unit(written).scale == pytest.approx(registry.Quantity(1.0, pint_name).to(si).magnitude, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(above=TOKENS, below=TOKENS)
def test_scale_of_a_quotient_agrees_with_pint(registry: pint.UnitRegistry, above: Token, below: Token) -> None:
    expected = registry.Quantity(1.0, above[1]) / registry.Quantity(1.0, below[1])
    in_si = expected.to(f"({above[2]})/({below[2]})").magnitude
    assert parse_unit(f"{above[0]}/{below[0]}").scale == pytest.approx(in_si, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(a=UNITS, b=UNITS, c=UNITS)
def test_a_slash_divides_by_the_next_factor_only(a: str, b: str, c: str) -> None:
    one, other = parse_unit(f"{a}/{b}*{c}"), parse_unit(f"{a} {c}/{b}")
    assert one.dims == other.dims
    assert one.scale == pytest.approx(other.scale, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(a=UNITS, b=UNITS)
def test_a_unit_over_itself_has_no_dimension(a: str, b: str) -> None:
    quotient = parse_unit(f"{a}*{b}/{b}/{a}")
    assert not any(quotient.dims)
    assert quotient.scale == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "expected", "si"),
    [
        ("3.35 TB/s", "B/s", 3.35e12),
        ("80 GB", "B", 80e9),
        ("80 GiB", "B", 80 * 1024**3),
        ("228 KiB", "B", 228 * 1024),
        ("989 TFLOP/s", "FLOP/s", 989e12),
        ("989 TFLOPS", "FLOP/s", 989e12),
        ("2.5 us", "s", 2.5e-6),
        ("2.5 µs", "s", 2.5e-6),
        ("1.83 GHz", "Hz", 1.83e9),
        ("400 Gb/s", "B/s", 50e9),
        ("9.2 Gbit/s", "B/s", 1.15e9),
        ("5.5 pJ/bit", "J/B", 44e-12),  # 8 bit in a byte
        ("0.08 USD/kWh", "USD/J", 0.08 / 3.6e6),
        ("30 kFLOP", "FLOP", 30e3),
        ("50 %", "", 0.5),
        ("1 year", "s", 31_557_600.0),  # 365.25 days of 86,400 s
        ("30_000 USD", "USD", 30e3),
        ("  700   W ", "W", 700.0),
        ("3MUSD", "USD", 3e6),
        (".5 mm2", "mm2", 0.5),
        ("-4e3", "B", -4000.0),
        ("128", "", 128.0),
    ],
)
def test_what_people_write_is_read(text: str, expected: str, si: float) -> None:
    assert parse_quantity(text, expected) == pytest.approx(si, rel=1e-14)


@settings(max_examples=60, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30))
def test_a_bare_number_is_si_already(value: float) -> None:
    for unit in QUANTITIES:
        assert parse_quantity(value, unit) == float(value)
        assert parse_quantity(repr(value), unit) == float(value)


@settings(max_examples=60, deadline=None)
@given(value=st.floats(1e-6, 1e6), power=st.integers(-3, 3))
def test_a_number_with_a_unit_scales_with_the_number(value: float, power: int) -> None:
    assert parse_quantity(f"{value!r} TB/s", "B/s") == pytest.approx(value * 1e12, rel=1e-15)
    assert parse_quantity(f"{value:.12f}e{power} GB", "B") == pytest.approx(value * 10.0 ** (9 + power), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 10**9), prefix=st.sampled_from([("m", 3), ("u", 6), ("n", 9), ("p", 12)]))
def test_whole_numbers_of_small_units_are_the_nearest_float(number: int, prefix: tuple[str, int]) -> None:
    letter, power = prefix
    assert parse_quantity(f"{number} {letter}s", "s") == float(f"{number}e-{power}")


def test_decimal_and_binary_prefixes_are_never_mixed() -> None:
    for power, letter in enumerate("KMGTP", start=1):
        assert parse_quantity(f"1 {letter}iB", "B") == 1024**power
        assert parse_quantity(f"1 {letter}B", "B") == 1000**power


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(1e-9, 1e20), unit=st.sampled_from(["B/s", "B", "FLOP/s", "W", "Hz", "op/s", "s", "J/B", "J/FLOP"])
)
def test_what_is_shown_can_be_read_back_to_the_digits_shown(value: float, unit: str) -> None:
    shown = format_si(value, unit, digits=6)
    assert parse_quantity(shown, unit) == pytest.approx(value, rel=1e-5)
    assert parse_quantity(format_si(-value, unit, digits=6), unit) == pytest.approx(-value, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(value=st.floats(1.0, 9e20))
def test_a_rate_is_shown_with_the_prefix_that_leaves_one_to_a_thousand(value: float) -> None:
    number = float(format_si(value, "B/s").split()[0])
    assert 1.0 <= number <= 1000.0


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (3.35e12, "B/s", "3.35 TB/s"),
        (989.43e12, "FLOP/s", "989.4 TFLOP/s"),
        (80e9, "B", "80 GB"),
        (2.5e-6, "s", "2.5 us"),
        (36e-12, "J/B", "36 pJ/B"),
        (3600.0, "s", "3.6 ks"),
        (0.0, "B", "0 B"),
        (0.5, "", "0.5"),
        (1234.0, "USD", "1,234 USD"),
        (655360.0, "", "655,360"),
        (0.123456, "", "0.1235"),
        (1e16, "", "1e+16"),
        (814.0, "mm2", "814 mm2"),
        (4096.0, "FLOP/cycle", "4,096 FLOP/cycle"),
        (-2e9, "B", "-2 GB"),
        (0.25, "B/s", "0.25 B/s"),
        (math.inf, "B/s", "inf B/s"),
        (math.nan, "", "nan"),
    ],
)
def test_values_are_shown_as_people_read_them(value: float, unit: str, shown: str) -> None:
    assert format_si(value, unit) == shown


def test_more_digits_can_be_asked_for() -> None:
    assert format_si(3.3472e12, "B/s", digits=3) == "3.35 TB/s"
    assert format_si(3.3472e12, "B/s", digits=5) == "3.3472 TB/s"


@settings(max_examples=60, deadline=None)
@given(unit=st.sampled_from(QUANTITIES), expected=st.sampled_from(QUANTITIES))
def test_a_value_is_taken_exactly_when_its_dimension_is_the_wanted_one(unit: str, expected: str) -> None:
    if unit == expected:
        assert to_si(2.0, unit, expected) == 2.0
        return
    with pytest.raises(SpecError, match="wrong unit"):
        to_si(2.0, unit, expected)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(["", *BASES], 2)))
def test_each_base_dimension_is_its_own(one: str, other: str) -> None:
    for unit, expected in ((one, other), (other, one)):
        with pytest.raises(SpecError, match="wrong unit"):
            to_si(1.0, unit, expected)


@pytest.mark.parametrize(
    ("unit", "same"),
    [
        *(
            ("byte", "B"),
            ("b", "B"),
            ("bit", "B"),
            ("min", "s"),
            ("h", "s"),
            ("year", "s"),
            ("Hz", "s/s/s"),
            ("$", "USD"),
        ),
        *(("FLOPS", "FLOP/s"), ("W", "J/s"), ("Wh", "J"), ("clk", "cycle"), ("%", ""), ("TB/s", "B Hz"), ("W s", "J")),
    ],
)
def test_every_other_unit_has_the_dimension_of_a_base_expression(unit: str, same: str) -> None:
    assert parse_unit(unit).dims == parse_unit(same).dims


def test_a_capacity_where_a_rate_is_wanted_is_told_what_was_meant() -> None:
    with pytest.raises(SpecError) as caught:
        parse_quantity("3.35 TB", "B/s")
    assert caught.value.value == "3.35 TB"
    assert str(caught.value).endswith("did you mean 3.35 TB/s? a value in B/s is wanted")


def test_a_unit_where_none_is_wanted_is_refused() -> None:
    with pytest.raises(SpecError, match="a value in no unit is wanted"):
        parse_quantity("8 GB", "")


@pytest.mark.parametrize(("unit", "near"), [("TBs", "TB"), ("GHzz", "GHz"), ("TFLOPs", "TFLOPS"), ("TOPS", "TFLOPS")])
def test_an_unknown_unit_names_near_ones(unit: str, near: str) -> None:
    with pytest.raises(SpecError, match="unknown unit") as caught:
        parse_unit(unit)
    assert near in str(caught.value.hint).removeprefix("nearest: ").split(", ")


@pytest.mark.parametrize("unit", ["Mmin", "kh", "kyear", "Gmm2", "Mcycle", "k%", "T", "XB", "gb/s", "b/S", "GIB"])
def test_prefixes_that_nobody_uses_and_wrong_case_are_refused(unit: str) -> None:
    with pytest.raises(SpecError, match="unknown unit"):
        parse_unit(unit)


@pytest.mark.parametrize("text", ["", "fast", "TB/s", "--3 GB", "1.2.3 GB", "e5", "1,5 GB", "0x10 B"])
def test_text_that_is_no_quantity_is_refused_and_shown(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_quantity(text, "B")
    assert caught.value.value is not None
    assert caught.value.hint


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_is_not_a_number(flag: bool) -> None:
    with pytest.raises(SpecError, match="is not a number"):
        parse_quantity(flag, "B/s")


@pytest.mark.parametrize(("text", "value"), [("inf", math.inf), ("-inf", -math.inf), ("inf TB/s", math.inf)])
def test_infinity_is_read_as_such_so_that_the_field_can_refuse_it(text: str, value: float) -> None:
    assert parse_quantity(text, "B/s") == value


def test_nan_is_read_as_such_so_that_the_field_can_refuse_it() -> None:
    assert math.isnan(parse_quantity("nan TB/s", "B/s"))
