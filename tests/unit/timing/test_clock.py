"""The clock under a power limit: the highest that holds it, by hand and as properties."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.hardware.lower import PowerArrays
from cosim.records import array
from cosim.timing.clock import LEAST_CLOCK, Load, Sustained, sustained, sustained_seconds

TIME = st.floats(0.0, 10.0)
ENERGY = st.floats(0.0, 5000.0)


def power(limit: float = 100.0, idle: float = 0.0, floor: float = 1.0) -> PowerArrays:
    return PowerArrays(array(limit), array(idle), {}, {}, array(floor))


def load(rest: float = 0.0, clocked: float = 1.0, least: float = 0.0, fixed: float = 0.0, core: float = 0.0) -> Load:
    return Load(*(array([value]) for value in (rest, clocked, least, fixed, core)))


def ran(work: Load, chip: PowerArrays) -> tuple[float, float, float]:
    found: Sustained = sustained(work, chip)
    return float(found.clock[0]), float(found.time[0]), float(found.energy[0])


@given(TIME, TIME, TIME, ENERGY, ENERGY, st.floats(0.3, 1.0), st.floats(1.0, 50.0))
def test_the_limit_always_holds_and_time_is_never_shorter(
    rest: float, clocked: float, least: float, fixed: float, core: float, floor: float, idle: float
) -> None:
    work, chip = load(rest, clocked, least, fixed, core), power(100.0, idle, floor)
    clock, time, energy = ran(work, chip)
    assert LEAST_CLOCK <= clock <= 1.0
    assert energy + idle * time <= 100.0 * time * (1.0 + 1e-9) + 1e-9
    assert time >= (rest + max(least, clocked)) * (1.0 - 1e-12)
    assert energy <= fixed + core + 1e-9


@given(TIME, st.floats(0.1, 10.0), ENERGY, ENERGY, st.floats(0.3, 1.0), st.floats(1.0, 3.0))
def test_a_higher_limit_is_never_slower(
    rest: float, clocked: float, fixed: float, core: float, floor: float, factor: float
) -> None:
    work = load(rest, clocked, 0.0, fixed, core)
    low, high = (ran(work, power(100.0 * more, 10.0, floor))[1] for more in (1.0, factor))
    assert high <= low * (1.0 + 1e-9)


@given(st.floats(0.1, 10.0), ENERGY, st.floats(0.3, 1.0), st.floats(0.0, 0.3))
def test_a_voltage_that_falls_further_is_never_slower(clocked: float, core: float, floor: float, less: float) -> None:
    work = load(clocked=clocked, core=core)
    assert ran(work, power(floor=max(floor - less, 0.01)))[1] <= ran(work, power(floor=floor))[1] * (1.0 + 1e-9)


def test_under_the_limit_nothing_changes() -> None:
    assert ran(load(rest=1.0, clocked=2.0, fixed=100.0, core=200.0), power()) == (1.0, 3.0, 300.0)


def test_a_voltage_that_stays_stretches_time_to_energy_over_limit() -> None:
    """200 J of core energy in 1 s at 100 W: half the clock, two seconds."""
    clock, time, energy = ran(load(core=200.0), power())
    assert (clock, time, energy) == pytest.approx((0.5, 2.0, 200.0))


def test_a_voltage_that_follows_the_clock_to_nothing_saves_by_its_square() -> None:
    """800 J f^2 <= 100 W / f, so f = 1/2: 200 J in 2 s."""
    clock, time, energy = ran(load(core=800.0), power(floor=1e-12))
    assert (clock, time, energy) == pytest.approx((0.5, 2.0, 200.0))


def test_idle_power_comes_off_the_limit() -> None:
    assert ran(load(core=200.0), power(limit=150.0, idle=50.0))[1] == pytest.approx(2.0)


def test_a_memory_bound_window_lowers_the_clock_for_nothing() -> None:
    """Memory takes 2 s whatever the clock; half the clock still hides behind it and saves three quarters."""
    clock, time, energy = ran(load(clocked=1.0, least=2.0, core=800.0), power(floor=1e-12))
    assert (clock, time, energy) == pytest.approx((0.5, 2.0, 200.0))


def test_below_the_least_clock_a_chip_waits() -> None:
    clock, time, energy = ran(load(rest=1.0, clocked=0.0, fixed=1000.0), power())
    assert (clock, time, energy) == pytest.approx((LEAST_CLOCK, 10.0, 1000.0))


def test_points_are_apart() -> None:
    both = Load(*(np.array([value, value]) for value in (0.0, 1.0, 0.0, 0.0)), core=np.array([50.0, 200.0]))
    found = sustained(both, power())
    assert found.clock.tolist() == [1.0, pytest.approx(0.5)]


def test_more_bandwidth_may_lower_the_clock_but_not_the_limit() -> None:
    chip = dataclasses.replace(power(), limit=array([100.0, 400.0]))
    found = sustained(Load(*(np.array([value, value]) for value in (0.0, 1.0, 0.0, 0.0, 200.0))), chip)
    assert found.clock.tolist() == [pytest.approx(0.5), 1.0]


@given(st.lists(st.tuples(TIME, st.floats(0.1, 10.0), ENERGY, ENERGY), min_size=1, max_size=6), st.floats(0.3, 1.0))
def test_points_over_the_limit_leave_their_neighbours_alone(
    rows: list[tuple[float, float, float, float]], floor: float
) -> None:
    rest, clocked, fixed, core = np.array(rows).T
    chip = power(floor=floor)
    together = sustained(Load(rest, clocked, array(0.0), fixed, core), chip)
    for index, (own_rest, own_clocked, own_fixed, own_core) in enumerate(rows):
        alone = ran(load(own_rest, own_clocked, 0.0, own_fixed, own_core), chip)
        assert (together.clock[index], together.time[index], together.energy[index]) == alone


def test_one_point_without_an_axis_has_none_after() -> None:
    found = sustained(Load(array(0.0), array(1.0), array(0.0), array(150.0), array(50.0)), power())
    assert found.clock.shape == found.time.shape == found.energy.shape == ()
    assert float(found.clock) < 1.0


@given(TIME, TIME, ENERGY, ENERGY, st.floats(0.3, 1.0), st.floats(1.0, 2000.0))
def test_one_window_alone_is_the_same(
    rest: float, clocked: float, fixed: float, core: float, floor: float, budget: float
) -> None:
    _, time, _ = ran(load(rest, clocked, 0.0, fixed, core), power(budget, 0.0, floor))
    found = sustained_seconds(rest, clocked, fixed, core, budget=budget, floor=floor)
    assert found == pytest.approx(time, rel=1e-9, abs=1e-12)


def test_one_window_by_hand() -> None:
    # 100 J that do not fall with voltage in a second at 80 W: all of it takes 1.25 s.
    assert sustained_seconds(0.2, 0.8, 100.0, 0.0, budget=80.0, floor=0.6) == pytest.approx(1.25)
    # Within the budget nothing is held down; a host that is waited for makes room.
    assert sustained_seconds(0.2, 0.8, 80.0, 0.0, budget=80.0, floor=0.6) == 1.0
    assert sustained_seconds(0.2 + 0.25, 0.8, 100.0, 0.0, budget=80.0, floor=0.6) == pytest.approx(1.25)
