"""Who is next: requests that wait, by policy.

    first_come   by arrival
    priority     by arrival + priority x ageing: one class (a smaller number is served first) is worth so much waiting
    shortest     by arrival + prompt tokens / 1,000 x ageing
    fair         the client that was given least: prompt tokens at admission, generated ones (weighted) when it is known
                 how many; a client that comes anew starts at the least of those that wait, or where nobody does at
                 what the one was given that was served last

The order of two that wait never changes with time, so that a heap holds it and nobody starves: who comes later than
the ageing allows stands behind. Those that lost their place go back in front of their kind.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Protocol

from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Scheduler


class Queue(Protocol):
    """Requests that wait; `tokens` is what they have to compute."""

    tokens: int

    def __len__(self) -> int: ...

    def push(self, request: Request, *, front: bool = False) -> bool:
        """Adds one; says whether another is at the head now."""

    def head(self) -> Request:
        """The next."""

    def pop(self) -> Request:
        """Takes the next out."""

    def charge(self, client: int, tokens: float) -> None:
        """Counts what a client was given."""


def make_queue(settings: Scheduler) -> Queue:
    """The queue of a scheduler's policy."""
    if settings.policy == "first_come":
        return FirstCome()
    if settings.policy == "fair":
        return Fair()
    ageing = settings.ageing_s
    return Keyed(ageing, 0.0) if settings.policy == "priority" else Keyed(0.0, ageing / 1000.0)


class FirstCome:
    """By arrival."""

    def __init__(self) -> None:
        self.tokens = 0
        self._waiting: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, request: Request, *, front: bool = False) -> bool:
        """Adds one; says whether another is at the head now."""
        request.queued = request.left
        self.tokens += request.queued
        if front:
            self._waiting.appendleft(request)
        else:
            self._waiting.append(request)
        return front or len(self._waiting) == 1

    def head(self) -> Request:
        """The next."""
        return self._waiting[0]

    def pop(self) -> Request:
        """Takes the next out."""
        request = self._waiting.popleft()
        self.tokens -= request.queued
        return request

    def charge(self, client: int, tokens: float) -> None:
        """Nobody asks."""


class Keyed:
    """By arrival + priority x `priority_s` + prompt tokens x `token_s`; ties by number."""

    def __init__(self, priority_s: float, token_s: float) -> None:
        self.tokens = 0
        self._priority_s, self._token_s = priority_s, token_s
        self._waiting: list[tuple[float, int, Request]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, request: Request, *, front: bool = False) -> bool:
        """Adds one; says whether another is at the head now."""
        del front  # its key puts one that comes back where it was
        request.queued = request.left
        self.tokens += request.queued
        request.key = request.arrival_s + request.priority * self._priority_s + request.prompt * self._token_s
        heapq.heappush(self._waiting, (request.key, request.number, request))
        return self._waiting[0][2] is request

    def head(self) -> Request:
        """The next."""
        return self._waiting[0][2]

    def pop(self) -> Request:
        """Takes the next out."""
        request = heapq.heappop(self._waiting)[2]
        self.tokens -= request.queued
        return request

    def charge(self, client: int, tokens: float) -> None:
        """Nobody asks."""


class Fair:
    """The client that was given least, its requests by arrival."""

    def __init__(self) -> None:
        self.tokens = 0
        self._size = 0
        self._given: dict[int, float] = {}
        self._waiting: dict[int, deque[Request]] = {}
        self._order: list[tuple[float, int]] = []
        self._last: int | None = None
        """The client whose request left the queue last."""

    def __len__(self) -> int:
        return self._size

    def push(self, request: Request, *, front: bool = False) -> bool:
        """Adds one; the head may be another now."""
        request.queued = request.left
        self.tokens += request.queued
        self._size += 1
        mine = self._waiting.get(request.client)
        if mine is None:
            mine = self._waiting[request.client] = deque()
            given = self._given.get(request.client, 0.0)
            # Whoever was away may not make up for it: others would wait for as long as it was.
            beside = self._least() if self._size > 1 else self._last
            if not front and beside is not None:
                given = max(given, self._given.get(beside, 0.0))
            self._given[request.client] = given
            heapq.heappush(self._order, (given, request.client))
        if front:
            mine.appendleft(request)
        else:
            mine.append(request)
        return True

    def head(self) -> Request:
        """The next."""
        return self._waiting[self._least()][0]

    def pop(self) -> Request:
        """Takes the next out."""
        self._last = client = self._least()
        mine = self._waiting[client]
        request = mine.popleft()
        if not mine:
            del self._waiting[client]
        self._size -= 1
        self.tokens -= request.queued
        return request

    def charge(self, client: int, tokens: float) -> None:
        """Counts what a client was given."""
        self._given[client] = self._given.get(client, 0.0) + tokens
        if client in self._waiting:
            heapq.heappush(self._order, (self._given[client], client))

    def _least(self) -> int:
        """The client that waits and was given least; entries that are out of date are dropped."""
        while True:
            given, client = self._order[0]
            if client in self._waiting and self._given[client] == given:
                return client
            heapq.heappop(self._order)
