"""A station sleeps to the end of a run, unless a request cuts it short."""

from __future__ import annotations

from typing import Any

import simpy

from cosim.engines.serving.replica import Replica
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Pool, Scheduler
from cosim.engines.serving.station import Station


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, float]] = []

    def finished(self, request: Request, replica: Replica) -> None:
        self.ended.append((request.number, replica.clock))

    def prefilled(self, request: Request, replica: Replica) -> None:
        raise AssertionError(f"{request} does not move from {replica}")


def station(fixed: Any, **settings: Any) -> tuple[Station, Told, list[float]]:
    env, told, changes = simpy.Environment(), Told(), []
    replica = Replica(0, Pool(fixed(1.0), Scheduler(1000, **settings)), told)
    made = Station(env, replica, live=True, watch=lambda replica: changes.append(replica.clock))
    return made, told, changes


def request(number: int, output: int) -> Request:
    return Request(number, 0.0, 10, output, target=10)


def test_a_run_is_one_sleep(fixed: Any) -> None:
    made, told, changes = station(fixed)
    made.submit(request(0, 40))
    made.env.run()
    assert told.ended == [(0, 40.0)]
    assert sorted(set(changes)) == [0.0, 1.0, 40.0]


def test_a_request_cuts_a_run_at_the_end_of_its_step(fixed: Any) -> None:
    made, told, changes = station(fixed)
    made.submit(request(0, 40))
    made.env.run(until=20.5)
    made.submit(request(1, 5))
    made.env.run()
    assert told.ended == [(1, 26.0), (0, 40.0)]
    assert sorted(set(changes)) == [0.0, 1.0, 21.0, 22.0, 26.0, 40.0]


def test_a_request_that_changes_nothing_lets_it_sleep(fixed: Any) -> None:
    made, told, changes = station(fixed, max_sequences=1)
    made.submit(request(0, 40))
    made.env.run(until=20.5)
    made.submit(request(1, 1))
    made.env.run()
    assert told.ended == [(0, 40.0), (1, 41.0)]
    assert sorted(set(changes)) == [0.0, 1.0, 40.0, 41.0]


def test_requests_that_come_together_run_together(fixed: Any) -> None:
    made, told, _ = station(fixed)
    for number in range(3):
        made.submit(request(number, 2))
    made.env.run()
    assert told.ended == [(0, 2.0), (1, 2.0), (2, 2.0)]


def test_a_crash_ends_the_sleep(fixed: Any) -> None:
    made, told, _ = station(fixed)
    made.submit(request(0, 40))
    made.env.run(until=20.5)
    lost = made.crash()
    assert [each.number for each in lost] == [0]
    assert not made.open
    made.env.run()
    assert told.ended == []
    assert made.replica.counts.busy_s == 20.5
    made.up = True
    made.submit(lost[0])
    made.env.run()
    assert told.ended[0][0] == 0


def test_what_is_not_live_is_paid_for_until_it_is_idle(fixed: Any) -> None:
    made, _, _ = station(fixed)
    made.submit(request(0, 40))
    made.env.run(until=20.0)
    made.live = False
    made.settle()
    assert made.since == 0.0
    made.env.run()
    assert (made.since, made.paid_s) == (-1.0, 40.0)


def test_what_is_to_start_again_stays_paid_for(fixed: Any) -> None:
    made, _, _ = station(fixed)
    made.submit(request(0, 40))
    made.env.run(until=20.0)
    made.live, made.starting = False, True
    made.env.run()
    made.settle()
    assert (made.since, made.paid_s) == (0.0, 0.0)


def test_a_request_that_rounding_puts_behind_the_end_of_a_step_gets_into_the_next(fixed: Any) -> None:
    for late in (-4e-10, 0.0, 4e-10):
        made, told, _ = station(fixed, jump=False)
        made.submit(request(0, 5))
        made.env.timeout(3.0 + late).callbacks.append(lambda _, made=made: made.submit(request(1, 1)))
        made.env.run()
        assert told.ended == [(1, 4.0), (0, 5.0)]


def test_who_looks_at_the_end_of_a_step_sees_it_ended(fixed: Any) -> None:
    made, told, _ = station(fixed)
    made.submit(request(0, 2))
    made.env.run(until=2.0 - 4e-10)
    made.catch_up()
    assert told.ended == [(0, 2.0)]
    made.env.run()
    assert (told.ended, made.replica.clock) == ([(0, 2.0)], 2.0)
    made.submit(request(1, 2))
    made.env.run(until=3.0)
    made.catch_up()
    assert told.ended == [(0, 2.0)]
