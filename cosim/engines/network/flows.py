"""Flows on links as events on simpy: rates are solved anew when flows start or end, once for all of one instant.

A burst is flows that wait for the same things: a time, other bursts, then a latency before the first byte. It has ended
when all its flows have, and a time of its own after that. Between two instants every rate is constant, so that what a
link carries is exact.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.engines.network.fair import fair_rates
from cosim.engines.network.graph import Index
from cosim.engines.network.routes import Loads
from cosim.errors import SimulationError
from cosim.records import Array

if TYPE_CHECKING:
    import simpy

TOGETHER = 1e-9
"""Flows that end within this part of the time until the first of them end together."""
LAST = 9
"""Priority of what follows all other events of an instant."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Flows that start together: bytes of each [F], their loads on links, pace in sharing [F], most [B/s, F]."""

    name: str
    loads: Loads
    size: Array
    fair: Array
    most: Array
    at_s: float = 0.0
    after: tuple[int, ...] = ()
    """Places of bursts that must have ended."""
    latency_s: float = 0.0
    tail_s: float = 0.0
    endless: bool = False
    """Background: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What links carried between two instants: their places and the bytes a second on each."""

    start_s: float
    end_s: float
    links: Index
    rate: Array


@dataclass(frozen=True, slots=True)
class FlowRun:
    """Start of the waiting, first byte and end of each burst [s], end of each flow, bytes past every link [L]."""

    ready_s: tuple[float, ...]
    first_byte_s: tuple[float, ...]
    end_s: tuple[float, ...]
    flow_end_s: tuple[Array, ...]
    carried: Array
    intervals: tuple[Interval, ...]
    solved: int
    """How often rates were solved."""


def run_flows(capacity: Array, bursts: Sequence[Burst], *, series: bool = True) -> FlowRun:
    """Runs bursts to their ends on links of `capacity` [B/s, L]; `series` keeps every interval.

    Raises SimulationError where a burst cannot end: a rate of nothing, or bursts that wait for each other.
    """
    import simpy

    env = simpy.Environment()
    network = _Network(env, capacity, len(bursts), series=series)
    ended = [env.event() for _ in bursts]
    for place, burst in enumerate(bursts):
        env.process(_life(env, network, burst, place, ended))
    waited = [event for event, burst in zip(ended, bursts, strict=True) if not burst.endless]
    try:
        env.run(until=env.all_of(waited))
    except RuntimeError:
        names = [burst.name for burst, event in zip(bursts, ended, strict=True) if not event.triggered]
        raise SimulationError("flows do not end", clock_s=float(env.now), process=", ".join(names[:3])) from None
    network.account(float(env.now))
    nothing = np.empty(0)
    return FlowRun(
        ready_s=tuple(network.ready),
        first_byte_s=tuple(network.first_byte),
        end_s=tuple(network.end),
        flow_end_s=tuple(network.flow_end.get(place, nothing) for place in range(len(bursts))),
        carried=network.carried,
        intervals=tuple(network.intervals),
        solved=network.solved,
    )


def _life(
    env: simpy.Environment, network: _Network, burst: Burst, place: int, ended: list[simpy.Event]
) -> Generator[Any, Any, None]:
    """Waits, sends, ends."""
    yield env.all_of([ended[other] for other in burst.after])
    if burst.at_s > env.now:
        yield env.timeout(burst.at_s - env.now)
    network.ready[place] = float(env.now)
    yield env.timeout(burst.latency_s)
    network.first_byte[place] = float(env.now)
    if np.any(burst.size > 0.0):
        yield network.start(place, burst)
    yield env.timeout(burst.tail_s)
    network.end[place] = float(env.now)
    ended[place].succeed()


@dataclass(slots=True)
class _Flying:
    """Flows under way: their burst and place in it, loads, bytes left, pace, most, rate."""

    burst: Index
    own: Index
    loads: Loads
    left: Array
    fair: Array
    most: Array
    rate: Array = field(default_factory=lambda: np.empty(0))

    def kept(self, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> _Flying:
        """Those that go on."""
        number = np.cumsum(keep) - 1
        mine = keep[self.loads.flow]
        loads = Loads(number[self.loads.flow[mine]], self.loads.link[mine], self.loads.weight[mine], int(keep.sum()))
        return _Flying(
            self.burst[keep], self.own[keep], loads, self.left[keep], self.fair[keep], self.most[keep], self.rate[keep]
        )


class _Network:
    """State of a run: flows under way, since when, and what links carried."""

    def __init__(self, env: simpy.Environment, capacity: Array, bursts: int, *, series: bool) -> None:
        self.env, self.capacity, self.series = env, capacity, series
        self.ready, self.first_byte, self.end = ([float("nan")] * bursts for _ in range(3))
        self.flow_end: dict[int, Array] = {}
        self.carried = np.zeros(len(capacity))
        self.intervals: list[Interval] = []
        self.solved = 0
        self._flying = _Flying(*(np.empty(0, np.int64),) * 2, _no_loads(), *(np.empty(0),) * 3)
        self._since = 0.0
        self._load = np.zeros(len(capacity))
        self._pending: list[tuple[int, Burst]] = []
        self._done: dict[int, simpy.Event] = {}
        self._open: dict[int, int] = {}
        self._due = np.empty(0, bool)
        self._asked = False
        self._version = 0

    def start(self, place: int, burst: Burst) -> simpy.Event:
        """Lets a burst send; the event is its last byte."""
        self._pending.append((place, burst))
        self._done[place] = self.env.event()
        self.flow_end[place] = np.full(len(burst.size), np.nan)
        self._ask()
        return self._done[place]

    def account(self, now: float) -> None:
        """Books what was sent since the last change."""
        past = now - self._since
        if past > 0.0 and len(self._flying.left):
            self.carried += self._load * past
            # Rounding may not leave less than nothing: such a flow would never be due.
            self._flying.left = np.maximum(self._flying.left - self._flying.rate * past, 0.0)
            if self.series:
                busy = np.flatnonzero(self._load)
                self.intervals.append(Interval(self._since, now, busy, self._load[busy]))
        self._since = now

    def _ask(self) -> None:
        """Solves once, after all other events of this instant."""
        if not self._asked:
            self._asked = True
            _after_all(self.env, self._solve)

    def _solve(self) -> None:
        self._asked = False
        now = float(self.env.now)
        self.account(now)
        for place, burst in self._pending:
            self._flying = _joined(self._flying, place, burst)
            self._open[place] = int(np.sum(burst.size > 0.0))
        self._pending.clear()
        flying = self._flying
        self.solved += 1
        self._version += 1
        flying.rate = fair_rates(self.capacity, flying.loads, flying.most, flying.fair)
        entry = flying.loads
        sent = entry.weight * flying.rate[entry.flow]
        self._load = np.bincount(entry.link, sent, minlength=len(self.capacity)).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.where(flying.rate > 0.0, flying.left / flying.rate, np.inf)
        first = float(np.min(ends, initial=np.inf))
        self._due = ends <= first * (1.0 + TOGETHER)
        if np.isfinite(first):
            version = self._version
            wake = self.env.timeout(max(first, 0.0))
            wake.callbacks.append(lambda _: self._wake(version))

    def _wake(self, version: int) -> None:
        """The flows that are due end, unless rates have changed since."""
        if version != self._version or self._pending:
            # Others start at this very instant: what is due has nothing left and ends in the next round.
            return
        self.account(float(self.env.now))
        over = self._flying
        for place in np.unique(over.burst[self._due]):
            mine = self._due & (over.burst == place)
            self.flow_end[int(place)][over.own[mine]] = self.env.now
            self._open[int(place)] -= int(mine.sum())
            if not self._open[int(place)]:
                self._done[int(place)].succeed()
        self._flying = over.kept(~self._due)
        self._ask()


def _joined(flying: _Flying, place: int, burst: Burst) -> _Flying:
    """Flows under way and those of a burst that have bytes."""
    real = burst.size > 0.0
    number = np.cumsum(real) - 1 + len(flying.left)
    mine = real[burst.loads.flow]
    old, new = flying.loads, burst.loads
    loads = Loads(
        np.concatenate([old.flow, number[new.flow[mine]]]),
        np.concatenate([old.link, new.link[mine]]),
        np.concatenate([old.weight, new.weight[mine]]),
        len(flying.left) + int(real.sum()),
    )
    return _Flying(
        np.concatenate([flying.burst, np.full(int(real.sum()), place)]),
        np.concatenate([flying.own, np.flatnonzero(real)]),
        loads,
        np.concatenate([flying.left, burst.size[real]]),
        np.concatenate([flying.fair, burst.fair[real]]),
        np.concatenate([flying.most, burst.most[real]]),
    )


def _no_loads() -> Loads:
    return Loads(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 0)


def _after_all(env: simpy.Environment, call: Any) -> None:  # noqa: ANN401  # any function without arguments
    """Calls after all other events of this instant."""
    from simpy.events import EventPriority

    event = env.event()
    event.callbacks.append(lambda _: call())
    event._ok, event._value = True, None  # noqa: SLF001  # as simpy's own Timeout does: an event that has happened
    env.schedule(event, priority=EventPriority(LAST))
