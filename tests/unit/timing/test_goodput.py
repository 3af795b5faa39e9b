"""The closed form of a long run: it adds up, moves the right way, and is what is known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.timing.checkpoint import best_interval
from cosim.timing.goodput import (
    LOST,
    Cause,
    LongRun,
    Stragglers,
    erlang_loss,
    expected_run,
    greatest_normal,
    mean_between_failures,
    slowest_chip,
)

DAY, HOUR = 86400.0, 3600.0
CHIPS = Cause("gpu", 1.0 / (8.0 * HOUR), 180.0, 24.0 * HOUR)
BUGS = Cause("software", 1.0 / (24.0 * HOUR), 60.0)
UPDATE = Cause("planned", 1.0 / (3.0 * DAY), planned=True)
RUN = LongRun(20.0 * DAY, 1800.0, 30.0, 0.0, 400.0, (CHIPS, BUGS), 64, spares=8, node_chips=8, replicas=16)
RUN = replace(RUN, replica_nodes=4.0)
RUNS = st.builds(
    lambda interval, save, restart, often, spares, elastic, spread: replace(
        RUN,
        interval_s=interval,
        save_s=save,
        restart_s=restart,
        causes=(replace(CHIPS, rate=often), BUGS, UPDATE),
        spares=spares,
        elastic=elastic,
        stragglers=Stragglers(spread),
    ),
    st.floats(60.0, 20000.0),
    st.floats(0.1, 300.0),
    st.floats(1.0, 2000.0),
    st.floats(1e-7, 1e-4),
    st.integers(0, 40),
    st.booleans(),
    st.floats(0.0, 0.05),
)


@given(RUNS)
def test_useful_and_lost_time_are_the_whole(run: LongRun) -> None:
    found = expected_run(run)
    assert found.useful_s == run.work_s
    assert tuple(found.lost_s) == LOST
    assert all(time_s >= -1e-6 for time_s in found.lost_s.values())
    assert found.wall_s == pytest.approx(found.useful_s + sum(found.lost_s.values()))
    assert 0.0 < found.goodput <= 1.0


@given(RUNS, st.floats(1.05, 10.0))
def test_rarer_failures_never_cost(run: LongRun, factor: float) -> None:
    rarer = tuple(replace(cause, rate=cause.rate / factor) for cause in run.causes)
    # With fewer replicas the closed form is of first order only.
    assert expected_run(replace(run, causes=rarer)).goodput >= expected_run(run).goodput * (1.0 - 1e-9)


@given(RUNS)
def test_a_spare_more_never_costs(run: LongRun) -> None:
    assert expected_run(replace(run, spares=run.spares + 1)).goodput >= expected_run(run).goodput - 1e-9


@given(RUNS)
def test_the_best_interval_beats_twice_and_half_of_it(run: LongRun) -> None:
    run = replace(run, stragglers=Stragglers(), spares=60, elastic=False)
    best = float(best_interval(np.float64(run.save_s), np.float64(mean_between_failures(run.causes))))
    # So long that the last cycle does not matter.
    run = replace(run, interval_s=best, work_s=1000.0 * best)
    least = expected_run(run).wall_s
    assert least < expected_run(replace(run, interval_s=2.0 * best)).wall_s
    assert least < expected_run(replace(run, interval_s=0.5 * best)).wall_s


def test_without_detection_it_is_dalys() -> None:
    causes = (replace(CHIPS, detection_s=0.0, repair_s=0.0),)
    run = replace(RUN, causes=causes, work_s=100.0 * RUN.interval_s)
    mean = 8.0 * HOUR
    daly = mean * math.exp(400.0 / mean) * math.expm1(1830.0 / mean) * 100.0
    assert expected_run(run).wall_s == pytest.approx(daly, rel=1e-12)


def test_nothing_fails() -> None:
    run = replace(RUN, causes=(), interval_s=DAY)
    found = expected_run(run)
    assert found.wall_s == pytest.approx(20.0 * DAY + 20.0 * 30.0)
    assert found.failures == {}
    assert expected_run(replace(run, lag_s=77.0)).wall_s == pytest.approx(found.wall_s + 77.0)
    stopped = expected_run(replace(run, causes=(UPDATE,)))
    assert stopped.failures["planned"] == pytest.approx(20.0 / 3.0)
    assert stopped.wall_s - found.wall_s == pytest.approx(20.0 / 3.0 * 430.0)


def test_the_last_cycle_may_be_short() -> None:
    found = expected_run(replace(RUN, causes=(), work_s=4500.0))
    assert found.lost_s["checkpoint"] == 90.0


def test_a_cycle_that_never_succeeds_takes_for_ever() -> None:
    found = expected_run(replace(RUN, interval_s=60.0 * 8.0 * HOUR))
    assert found.wall_s == math.inf
    assert found.goodput == 0.0


def test_an_asynchronous_checkpoint_loses_a_cycle_now_and_then() -> None:
    blocking = replace(RUN, save_s=1.0)
    late = replace(blocking, lag_s=300.0)
    more = expected_run(late).lost_s["recomputed"] - expected_run(blocking).lost_s["recomputed"]
    failures = sum(expected_run(blocking).failures.values())
    assert more == pytest.approx(failures * 300.0, rel=0.05)


def test_erlangs_formula_by_hand() -> None:
    assert erlang_loss(1, 0.5) == pytest.approx(0.5 / 1.5)
    assert erlang_loss(2, 1.0) == pytest.approx(0.5 / 2.5)
    assert erlang_loss(0, 3.0) == 1.0


def test_a_spare_is_worth_most_where_there_is_none() -> None:
    waits = [expected_run(replace(RUN, spares=n)).lost_s["waiting"] for n in range(12)]
    gains = -np.diff(waits)
    assert np.all(gains > 0.0)
    assert np.all(np.diff(gains) < 0.0)


def test_fewer_replicas_are_better_than_none() -> None:
    alone = replace(RUN, spares=0)
    assert expected_run(replace(alone, elastic=True)).goodput > expected_run(alone).goodput
    plenty = expected_run(replace(RUN, spares=40, elastic=True))
    assert plenty.lost_s["shrunk"] == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize(
    ("healthy", "elastic", "share"), [(70, True, 1.0), (64, False, 1.0), (63, False, 0.0), (63, True, 15 / 16)]
)
def test_the_speed_with_so_many_nodes(healthy: int, elastic: bool, share: float) -> None:
    assert replace(RUN, elastic=elastic).share(healthy) == share


def test_nodes_that_work() -> None:
    run = replace(RUN, elastic=True)
    assert [run.working(n) for n in (70, 64, 63, 60, 59, 3)] == [64, 64, 60, 60, 56, 0]
    halves = replace(run, nodes=2, replicas=4, replica_nodes=0.5)
    assert (halves.share(1), halves.working(1)) == (0.5, 1)


def test_the_slowest_of_many() -> None:
    assert greatest_normal(1) == pytest.approx(math.sqrt(2.0 / math.pi), rel=1e-5)
    # E max of two |z| is 2 / sqrt(pi).
    assert greatest_normal(2) == pytest.approx(2.0 / math.sqrt(math.pi), rel=1e-5)
    drawn = np.abs(np.random.default_rng(1).standard_normal((400, 512))).max(axis=1).mean()
    assert greatest_normal(512) == pytest.approx(drawn, rel=0.02)
    assert slowest_chip(replace(RUN, stragglers=Stragglers(0.01, {3: 1.2}))) == 1.2
    assert slowest_chip(replace(RUN, stragglers=Stragglers(0.01))) == pytest.approx(1.0 + 0.01 * greatest_normal(512))
    assert slowest_chip(RUN) == 1.0
