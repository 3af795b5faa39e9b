"""Replicas fail at their rate; how many are wanted follows the measure."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import simpy

from cosim.engines.serving import lives
from cosim.engines.serving.replica import Outlet, Replica
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Autoscale, Failures, Pool, Scheduler
from cosim.engines.serving.station import Station


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.losses = self.openings = 0

    def lost(self, requests: list[Request]) -> None:
        self.requests += requests
        self.losses += 1

    def opened(self) -> None:
        self.openings += 1


def stations(table: Any, count: int, live: int) -> list[Station]:
    env = simpy.Environment()
    pool = Pool(table(), Scheduler(1000))
    return [
        Station(env, Replica(number, pool, cast("Outlet", None)), live=number < live, watch=None)
        for number in range(count)
    ]


def test_failures_come_at_their_rate(table: Any) -> None:
    made, told = stations(table, 1, 1)[0], Told()
    made.env.process(lives.fail(made, Failures(9.0, 1.0), np.random.default_rng(0), told))
    made.env.run(until=40_000.0)
    assert told.losses == pytest.approx(4000, abs=4 * 4000**0.5)
    assert told.openings in (told.losses, told.losses - 1)


def test_a_replica_that_does_not_run_does_not_fail(table: Any) -> None:
    made, told = stations(table, 2, 1)[1], Told()
    made.env.process(lives.fail(made, Failures(1.0, 1.0), np.random.default_rng(0), told))
    made.env.run(until=100.0)
    assert (told.losses, made.up) == (0, True)


def wait(station: Station, count: int) -> None:
    """So many requests wait there, and none of them is ever begun."""
    for number in range(count):
        station.replica.submit(Request(number, 0.0, 5, 5, target=5), 0.0)


def alive(made: list[Station], until: float) -> list[bool]:
    made[0].env.run(until=until)
    return [station.live for station in made]


def test_a_queue_starts_replicas_and_its_end_stops_them(table: Any) -> None:
    made, told = stations(table, 4, 2), Told()
    settings = Autoscale("queue", 2.0, 1, 4, 10.0, 3.0, 25.0)
    made[0].env.process(lives.scale(made, settings, told))
    wait(made[0], 6)
    # 6 that wait for 2 replicas are 3 each: 2 x 3 / 2 are wanted, and there after 3 s.
    assert alive(made, 12.9) == [True, True, False, False]
    assert alive(made, 13.1) == [True, True, True, False]
    assert told.openings == 1
    # 12 are wanted to be 6: 4 is the most. It was changed at 10 s, so not before 35 s.
    wait(made[1], 6)
    assert alive(made, 39.9) == [True, True, True, False]
    assert alive(made, 43.1) == [True] * 4
    for station in made:
        station.replica.crash(43.1)
    assert alive(made, 69.9) == [True] * 4
    assert alive(made, 70.1) == [True, False, False, False]
    assert [station.paid_s for station in made] == [0.0, 70.0, 60.0, 30.0]


def test_replicas_follow_their_use(table: Any) -> None:
    made, told = stations(table, 4, 2), Told()
    made[0].env.process(lives.scale(made, Autoscale("utilisation", 0.5, 1, 4, 10.0, 1.0, 0.0), told))
    made[0].replica.counts.busy_s = made[1].replica.counts.busy_s = 7.5
    # 75 % of 2 replicas at 50 % are 3; then nobody works, and 1 is the least.
    assert alive(made, 19.9) == [True, True, True, False]
    assert alive(made, 20.1) == [True, False, False, False]


def test_one_that_ends_its_work_while_it_starts_again_is_paid_for_and_fails(table: Any) -> None:
    made, told = stations(table, 2, 2), Told()
    env = made[0].env
    env.process(lives.scale(made, Autoscale("queue", 1.0, 1, 2, 10.0, 8.0, 0.0), told))
    wait(made[1], 1)
    # At 10 s one waits for two: the second goes, with work left. At 20 s two wait for one: it starts again.
    assert alive(made, 10.1) == [True, False]
    wait(made[0], 1)
    assert alive(made, 20.1) == [True, False]
    assert made[1].starting
    # Its work ends before it has started.
    made[1].replica.crash(21.0)
    made[1].settle()
    wait(made[0], 2)
    assert alive(made, 28.1) == [True, True]
    assert made[1].since == 0.0
    env.process(lives.fail(made[1], Failures(0.1, 100.0), np.random.default_rng(0), told))
    env.run(until=29.9)
    assert told.losses == 1
