"""Constraints as people write them: column, relation, value in any unit; excess in the column's unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.explore.constraints import Constraint, parse_constraints
from cosim.explore.metrics import metric_names


def one(text: str) -> Constraint:
    (found,) = parse_constraints([text])
    return found


@pytest.mark.parametrize(
    ("text", "column", "sign", "bound", "unit"),
    [
        ("area_mm2 <= 858", "area_mm2", 1.0, 858.0, "mm2"),
        ("area_mm2 <= 8.58e2 mm2", "area_mm2", 1.0, 858.0, "mm2"),
        ("time_s <= 50 ms", "time_s", 1.0, 0.05, "s"),
        ("time_s<=0.05", "time_s", 1.0, 0.05, "s"),
        ("tdp_w < 1 kW", "tdp_w", 1.0, 1000.0, "W"),
        ("tokens_per_s_per_user >= 20", "tokens_per_s_per_user", -1.0, 20.0, "token/s"),
        ("tokens_per_j_facility > 0.5", "tokens_per_j_facility", -1.0, 0.5, "token/J"),
        ("memory_bytes.total <= 100 GiB", "memory_bytes.total", 1.0, 100 * 2.0**30, "B"),
        ("breakdown_s.collective <= 200 us", "breakdown_s.collective", 1.0, 2e-4, "s"),
        ("mfu >= 30 %", "mfu", -1.0, 0.3, ""),
        ("chips <= 8", "chips", 1.0, 8.0, ""),
    ],
)
def test_a_constraint_is_read_in_its_unit(text: str, column: str, sign: float, bound: float, unit: str) -> None:
    found = one(text)
    assert (found.column, found.sign, found.unit) == (column, sign, unit)
    assert found.bound == pytest.approx(bound)


def test_its_text_is_its_name_without_needless_blanks() -> None:
    assert one("  time_s   <=   50   ms ").text == "time_s <= 50 ms"
    assert parse_constraints([]) == ()


def test_every_number_of_a_result_can_be_constrained() -> None:
    for column in metric_names():
        assert one(f"{column} <= 1").column == column


def test_only_area_and_power_of_a_die_are_known_before_timing() -> None:
    assert {column for column in metric_names() if one(f"{column} <= 1").of_design} == {"area_mm2", "tdp_w"}


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), bound=st.floats(-1e6, 1e6))
def test_excess_is_how_far_values_pass_the_bound(values: list[float], bound: float) -> None:
    most, least = one(f"time_s <= {bound!r}"), one(f"time_s >= {bound!r}")
    found = np.array(values)
    assert (most.excess(found) == found - bound).all()
    assert (least.excess(found) == bound - found).all()


def test_what_is_unknown_passes_every_bound_without_end() -> None:
    values = np.array([np.nan, 1.0])
    assert one("tdp_w <= 1000").excess(values).tolist() == [np.inf, -999.0]
    assert one("mfu >= 0.5").excess(values).tolist() == [np.inf, -0.5]


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("area_mm2 = 858", "is not COLUMN <= VALUE", "write for example"),
        ("area_mm2", "is not COLUMN <= VALUE", "write for example"),
        ("858 >= area_mm2", "names no number of a result", "known"),
        ("", "is not COLUMN <= VALUE", "write for example"),
        ("area_mm2 <=", "is not a number with a unit", "write for example"),
        ("aera_mm2 <= 858", "names no number of a result", "nearest: area_mm2"),
        ("time <= 5 ms", "names no number of a result", "time_s"),
        ("time_s <= 50 mm", "wrong unit", "a value in s is wanted"),
        ("time_s <= fast", "is not a number with a unit", "write for example"),
        ("tdp_w <= 1000 kilowatt", "unknown unit", ""),
        ("mfu >= 0.3 W", "wrong unit", "no unit is wanted"),
        ("area_mm2 <= nan", "is not a number", ""),
    ],
)
def test_a_constraint_that_cannot_be_read_is_named(text: str, problem: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_constraints(["mfu >= 0.1", text])
    assert caught.value.field == "constraints.1"
    assert problem in caught.value.problem
    assert hint in (caught.value.hint or "")
