"""Which replica a request goes to."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
import pytest

from cosim.engines.serving.replica import Outlet, Replica
from cosim.engines.serving.request import Request
from cosim.engines.serving.routing import Router
from cosim.engines.serving.settings import Pool, Routing, Scheduler
from cosim.errors import SpecError


def request(session: int = -1, blocks_of: tuple[int, ...] = (), prompt: int = 40) -> Request:
    return Request(0, 0.0, prompt, 50, session=session, blocks_of=blocks_of, target=prompt)


@pytest.fixture
def replicas(table: Any) -> list[Replica]:
    """Three: 40 tokens wait at the first, 90 at the second, none at the third."""
    pool = Pool(table(), Scheduler(1000, prefix_tokens=16))
    made = [Replica(number, pool, cast("Outlet", None)) for number in range(3)]
    made[0].submit(request(), 0.0)
    made[1].submit(request(prompt=90), 0.0)
    return made


def chosen(routing: Routing, replicas: list[Replica], *made: Request) -> list[int]:
    router = Router(routing, np.random.default_rng(0))
    return [router.choose(each, replicas, 0.0) for each in made]


@pytest.mark.parametrize("routing", get_args(Routing))
def test_one_replica_gets_everything(routing: Routing, replicas: list[Replica]) -> None:
    assert chosen(routing, replicas[:1], request(), request(session=5)) == [0, 0]


def test_by_turns_and_by_load(replicas: list[Replica]) -> None:
    assert chosen("round_robin", replicas, *[request()] * 5) == [0, 1, 2, 0, 1]
    assert chosen("least_loaded", replicas, request()) == [2]
    assert chosen("prefix_aware", replicas, request()) == [2]


def test_chance_is_even(replicas: list[Replica]) -> None:
    counts = np.bincount(chosen("random", replicas, *[request()] * 9000))
    assert np.all(np.abs(counts - 3000) < 5 * np.sqrt(2000))


def test_two_choices_never_take_the_most_loaded(replicas: list[Replica]) -> None:
    counts = np.bincount(chosen("power_of_two", replicas, *[request()] * 9000), minlength=3)
    # The least loaded is among two of three in two cases of three.
    assert counts[1] == 0
    assert abs(counts[2] - 6000) < 5 * np.sqrt(2000)


def test_load_falls_while_steps_run(replicas: list[Replica]) -> None:
    first = replicas[0]
    first.begin()
    first.complete()
    assert first.begin()
    assert (first.outstanding(first.clock), first.held(first.clock)) == (40, 40 / 16000)
    middle = 0.5 * (first.clock + first.end)
    assert first.outstanding(middle) == pytest.approx(40 + 24, abs=1)
    assert first.held(first.end) == pytest.approx((40 + 49) / 16000)
    assert chosen("least_kv", replicas, request()) == [1]


def test_a_cached_prefix_outweighs_a_queue(replicas: list[Replica]) -> None:
    cache = replicas[0].batch.memory
    first = request(blocks_of=(1, 2, 3), prompt=64)
    assert cache.admit(first, 64, 0)
    cache.publish(first, 64)
    same, other = request(blocks_of=(1, 2, 3), prompt=64), request(blocks_of=(9, 2, 3), prompt=64)
    # At the first 40 wait and 16 of 64 are left, at the third nobody waits and all 64 are.
    assert chosen("prefix_aware", replicas, same, other) == [0, 2]


def test_sessions_stay(replicas: list[Replica]) -> None:
    made = [request(session=7), request(session=8), request(), request(session=7), request()]
    assert chosen("session_sticky", replicas, *made) == [1, 2, 0, 1, 1]


@pytest.mark.parametrize("routing", ["random", "power_of_two"])
def test_chance_needs_a_generator(routing: Routing) -> None:
    with pytest.raises(SpecError) as refused:
        Router(routing, None)
    assert refused.value.field == "routing"
