"""A replica among events: it sleeps to the end of what is under way, or until a request cuts that short.

Moments within CLOSE_S are one, and at one moment steps end first, then requests come, then steps begin: so rounding
does not tell whether a request still gets into a step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cosim.engines.serving.replica import CLOSE_S, Replica
from cosim.engines.serving.request import Request

if TYPE_CHECKING:
    import simpy


class Station:
    """A replica, whether requests come to it (`live`), whether it stands (`up`), since when it is paid for.

    `paid_s` are earlier spans that were paid for. `watch` is called after every change, for tests.
    """

    def __init__(
        self, env: simpy.Environment, replica: Replica, *, live: bool, watch: Callable[[Replica], None] | None
    ) -> None:
        self.env, self.replica, self.watch = env, replica, watch
        self.live, self.up, self.starting = live, True, False
        self.since, self.paid_s = (0.0 if live else -1.0), 0.0
        self._version, self._asked = 0, False

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return self.live and self.up

    def submit(self, request: Request) -> None:
        """A request has come."""
        now = float(self.env.now)
        if not self.replica.submit(request, now):
            return
        if self.replica.flight is None:
            self.ask()
        else:
            self.replica.shorten(now)
            self._sleep()

    def let_go(self, request: Request) -> None:
        """A request's cache has been moved elsewhere: others may have its room."""
        self.replica.let_go(request)
        if self.replica.flight is None:
            self.ask()

    def ask(self) -> None:
        """Begins once all that happens at this moment has happened: requests that come together run together."""
        if not self._asked:
            self._asked = True
            if self.replica.flight is None:
                self.replica.reach(float(self.env.now))
            self.env.timeout(CLOSE_S).callbacks.append(self._begin)

    def catch_up(self) -> None:
        """Ends what ends at this moment: who looks at the replica now sees it so."""
        if self.replica.flight is not None and self.replica.end <= self.env.now + CLOSE_S:
            self._version += 1
            self._complete()
            self.ask()

    def crash(self) -> list[Request]:
        """Goes down; returns the requests that it had."""
        self.up = False
        self._version += 1
        return self.replica.crash(float(self.env.now))

    def settle(self) -> None:
        """Ends the span that is paid for once nothing is left to do; one that is to start again stays paid for."""
        wanted = self.live or self.starting
        if self.since >= 0.0 and not wanted and self.replica.idle:
            self.paid_s += float(self.env.now) - self.since
            self.since = -1.0

    def _begin(self, _event: Any = None) -> None:  # noqa: ANN401  # simpy's event, which says nothing
        self._asked = False
        replica = self.replica
        if replica.flight is None and self.up:
            if self.watch is not None:
                self.watch(replica)
            if replica.begin():
                self._sleep()

    def _sleep(self) -> None:
        self._version += 1
        wake = self.env.timeout(max(self.replica.end - self.env.now, 0.0))
        wake.callbacks.append(partial(self._wake, self._version))

    def _wake(self, version: int, _event: Any) -> None:  # noqa: ANN401  # as above
        if version != self._version:
            # It was cut short, or is down.
            return
        self._complete()
        if self.env.peek() > self.env.now + CLOSE_S:
            self._begin()
        else:
            self.ask()

    def _complete(self) -> None:
        self.replica.complete()
        if self.watch is not None:
            self.watch(self.replica)
        self.settle()
