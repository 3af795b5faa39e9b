"""Who is next, by policy."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.queues import Fair, FirstCome, Keyed, make_queue
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Policy, Scheduler


def request(number: int, *, prompt: int = 10, client: int = 0, priority: int = 0, at: float | None = None) -> Request:
    arrival = float(number) if at is None else at
    return Request(number, arrival, prompt, 5, client, priority, target=prompt)


def order(queue: Any) -> list[int]:
    return [queue.pop().number for _ in range(len(queue))]


@given(
    st.sampled_from(get_args(Policy)),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 50), st.booleans()), max_size=40),
)
def test_all_come_out_once_and_tokens_add_up(policy: str, moves: list[tuple[int, int, int, bool]]) -> None:
    queue = make_queue(Scheduler(100, policy=policy))  # type: ignore[arg-type]  # sampled from its names
    inside: dict[int, Request] = {}
    for number, (client, priority, prompt, pops) in enumerate(moves):
        made = request(number, prompt=prompt, client=client, priority=priority)
        before = queue.head() if len(queue) else None
        changed = queue.push(made)
        if not changed:
            assert queue.head() is before
        inside[number] = made
        if pops:
            head = queue.head()
            assert queue.pop() is head
            del inside[head.number]
            queue.charge(head.client, 3.0)
        assert len(queue) == len(inside)
        assert queue.tokens == sum(each.prompt for each in inside.values())
    assert sorted(order(queue)) == sorted(inside)
    assert queue.tokens == 0


def test_first_come() -> None:
    queue = FirstCome()
    changed = [queue.push(request(number)) for number in (2, 0, 1)]
    assert changed == [True, False, False]
    assert queue.push(request(9), front=True)
    assert order(queue) == [9, 2, 0, 1]


def test_priority_ages() -> None:
    # One class is worth 10 s: the second of class 1 came 12 s before the one of class 0.
    queue = Keyed(10.0, 0.0)
    for number, priority, at in ((0, 1, 0.0), (1, 0, 9.0), (2, 0, 12.0), (3, 3, 1.0)):
        queue.push(request(number, priority=priority, at=at))
    assert order(queue) == [1, 0, 2, 3]


def test_nobody_starves() -> None:
    queue = Keyed(10.0, 0.0)
    queue.push(request(0, priority=5, at=0.0))
    served = []
    for number in range(1, 200):
        queue.push(request(number, at=float(number)))
        served.append(queue.pop().number)
    assert served.index(0) == 49


def test_the_shortest_goes_first() -> None:
    queue = Keyed(0.0, 0.01)
    for number, prompt in enumerate((500, 100, 900)):
        queue.push(request(number, prompt=prompt, at=0.0))
    queue.push(request(3, prompt=10, at=4.5))
    assert order(queue) == [1, 3, 0, 2]


def test_ties_go_by_number() -> None:
    queue = Keyed(1.0, 0.0)
    for number in (3, 1, 2):
        queue.push(request(number, at=0.0))
    assert order(queue) == [1, 2, 3]


def test_clients_share_fairly() -> None:
    queue = Fair()
    for number in range(6):
        queue.push(request(number, client=0))
    for number in range(6, 9):
        queue.push(request(number, client=1))
    served = []
    for _ in range(9):
        got = queue.pop()
        served.append(got.client)
        queue.charge(got.client, 20.0 if got.client else 10.0)
    assert served == [0, 1, 0, 0, 1, 0, 0, 1, 0]


def test_a_client_that_was_away_makes_nothing_up() -> None:
    queue = Fair()
    queue.push(request(0, client=0))
    queue.charge(0, 1000.0)
    queue.push(request(1, client=0))
    for number in (2, 3, 4):
        queue.push(request(number, client=7))
    served = []
    while len(queue):
        got = queue.pop()
        served.append(got.client)
        queue.charge(got.client, 10.0)
    assert served == [0, 7, 0, 7, 7]


def test_a_newcomer_at_an_empty_queue_starts_where_the_last_one_served_is() -> None:
    queue = Fair()
    queue.push(request(0, client=0))
    queue.charge(queue.pop().client, 1000.0)
    for number in range(1, 5):
        queue.push(request(number, client=7))
    for number in range(5, 9):
        queue.push(request(number, client=0))
    served = []
    while len(queue):
        got = queue.pop()
        served.append(got.client)
        queue.charge(got.client, 10.0)
    assert sorted(served[:2]) == sorted(served[2:4]) == sorted(served[4:6]) == [0, 7]


@pytest.mark.parametrize("policy", get_args(Policy))
def test_who_lost_its_place_is_before_its_kind(policy: Policy) -> None:
    queue = make_queue(Scheduler(100, policy=policy))
    first, second = request(0), request(1)
    queue.push(second)
    queue.push(first, front=True)
    assert order(queue) == [0, 1]
