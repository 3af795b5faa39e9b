"""What a search is for: numbers by hand, dates met and missed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cosim
from cosim.explore.estimate import Estimate
from cosim.explore.metrics import metric_names
from cosim.explore.objectives import KNOWN, MORE_IS_BETTER, OWN, Date, Goal, days_of, money_of, numbers_of, parse_asked

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
PLAN = {"tensor_parallel": 8, "pipeline_parallel": 2, "data_parallel": 2, "zero": 1, "micro_batch": [1, 2, 64]}
BATCH = {"global_batch": 128, "context": 2048}


@pytest.fixture(scope="module")
def found() -> Estimate:
    system = cosim.system("dgx-a100", nodes=4)
    return cosim.estimate_training(system, cosim.workload("llama-3.1-70b"), PLAN, **BATCH)


def test_dollars_are_chips_over_their_life_and_energy(found: Estimate) -> None:
    spec = cosim.system("dgx-a100").spec
    money = money_of(spec)
    numbers = numbers_of(OWN, found.case, found.result, found.die, money)
    result = found.result
    tokens = 128 * 2048
    for point in np.flatnonzero(result.feasible):
        life = spec.facility.lifetime_years.si * 365.25 * 86400
        chips = 32 * float(result.time[point]) * spec.chip.price.si / life
        energy = float(result.facility_energy[point]) * spec.facility.energy_price.si
        assert numbers["usd_per_token"][point] == pytest.approx((chips + energy) / tokens, rel=1e-12)
        assert numbers["energy_per_token_j"][point] == pytest.approx(float(result.energy[point]) / tokens, rel=1e-12)
    assert np.all(numbers["nodes"] == 4.0)


def test_a_chip_without_a_price_has_no_dollars(found: Estimate) -> None:
    money = money_of(cosim.system("mi210-4gpu").spec)
    assert math.isnan(money.usd_per_chip_s) or money.usd_per_chip_s > 0
    unpriced = type(money)(math.nan, money.usd_per_j)
    assert np.all(
        np.isnan(numbers_of(["usd_per_token"], found.case, found.result, found.die, unpriced)["usd_per_token"])
    )


def test_days_are_steps_times_the_step_over_goodput(found: Estimate) -> None:
    days = days_of(Date(128 * 2048 * 1000.0, 10.0, 0.5), found.result)
    feasible = found.result.feasible
    assert days[feasible] == pytest.approx(2.0 * 1000.0 * found.result.time[feasible] / 86400.0)
    assert np.all(np.isnan(days[~feasible]))


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=8), st.sampled_from([1.0, -1.0]))
def test_the_least_worth_is_the_best_number(values: list[float], sign: float) -> None:
    worth = Goal("", "x", sign).worth({"x": np.array(values)})
    assert values[int(np.argmin(worth))] == (min(values) if sign > 0 else max(values))


def test_what_is_unknown_or_late_is_worth_nothing() -> None:
    goal = Goal("", "chips", 1.0, Date(1.0, 30.0))
    numbers = {"chips": np.array([8.0, 16.0, np.nan, 64.0]), "days": np.array([31.0, 30.0, 1.0, 2.0])}
    assert goal.worth(numbers).tolist() == [math.inf, 16.0, math.inf, 64.0]


def test_names_of_objectives() -> None:
    assert set(OWN) <= set(KNOWN)
    assert set(KNOWN) - set(OWN) <= set(metric_names())
    assert set(MORE_IS_BETTER) <= {*KNOWN, "tokens_per_s_per_user"}


def test_constraints_on_columns_of_a_search() -> None:
    first, second = parse_asked(["nodes <= 8", "energy_per_token_j < 2 J"])
    assert (first.column, first.bound, first.unit) == ("nodes", 8.0, "")
    assert (second.column, second.bound, second.unit, second.strict) == ("energy_per_token_j", 2.0, "J", True)
