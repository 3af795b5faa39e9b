"""Serving on a cluster as events on simpy: requests come, replicas run, caches move, replicas fail and scale.

    requests -> router -> replica -> answer
    requests -> router -> prefill replica -> transfer of its cache -> router -> decode replica -> answer

Events are few: a request's arrival, the end of a run of steps, a transfer, a failure. What a replica does in between is
one closed form. Randomness comes from the generator that is passed, one stream for each part, so that no part's draws
depend on another's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from cosim.engines.serving import lives
from cosim.engines.serving.replica import Replica, Segment
from cosim.engines.serving.request import Chunk, Request, requests
from cosim.engines.serving.result import Record, ServingRun, Sink, record
from cosim.engines.serving.routing import Router
from cosim.engines.serving.settings import ClosedLoop, Cluster, Pool
from cosim.engines.serving.station import Station
from cosim.errors import SimulationError, SpecError

if TYPE_CHECKING:
    import simpy

Records = Callable[[list[Record]], None]
Segments = Callable[[list[Segment]], None]

MOST_SENT = 1_000
"""Times that a request may be lost with its replica. One answered in five mean times between failures gets through."""


def serve(
    cluster: Cluster,
    chunks: Iterable[Chunk],
    random: np.random.Generator | None = None,
    *,
    closed_loop: ClosedLoop | None = None,
    records: Records | None = None,
    segments: Segments | None = None,
    check: bool = False,
) -> ServingRun:
    """Serves all requests and returns the totals.

    `records` is given served requests, `segments` runs of steps, both in lists of tuples as they come about. In a
    closed loop arrivals in `chunks` do not count. `check` holds tokens and blocks against each other at every event.
    Raises SpecError for settings that need a generator where none is given, SimulationError where it cannot end.
    """
    import simpy

    env = simpy.Environment()
    state = _Cluster(env, cluster, random, records, segments, check=check)
    source = requests(chunks, cluster.entry.scheduler.prefix_tokens)
    if closed_loop is None:
        env.process(state.arrive(source))
    else:
        state.loop(source, closed_loop)
    try:
        env.run(until=state.done)
    except RuntimeError:
        if env.peek() < math.inf:
            raise
        waiting = f"{state.under_way} requests"
        raise SimulationError("serving stopped early", clock_s=float(env.now), process=waiting) from None
    return state.result()


class _Cluster:
    """State of one run: replicas, requests under way, totals."""

    def __init__(
        self,
        env: simpy.Environment,
        settings: Cluster,
        random: np.random.Generator | None,
        records: Records | None,
        segments: Segments | None,
        *,
        check: bool,
    ) -> None:
        import simpy

        self.env, self.settings = env, settings
        self.records, self.segments = Sink(records), Sink(segments)
        self.done = env.event()
        self.came = self.finished_count = self.under_way = self.resent = self.failures = 0
        self.prompt_tokens = self.output_tokens = self.cached_tokens = 0
        self.transfers = self.transferred_tokens = 0
        self.refused: dict[str, int] = {}
        self.exhausted, self.last_s = False, 0.0
        self.closed: tuple[Iterator[Request], ClosedLoop] | None = None
        self.parked: list[Request] = []
        scale = settings.autoscale
        count = settings.pool.replicas if scale is None else scale.most
        before = 0 if settings.prefill is None else settings.prefill.replicas
        streams: list[np.random.Generator | None] = [None] * (2 * count + before + 2)
        if random is not None:
            streams = list(random.spawn(len(streams)))
        watch = (lambda replica: replica.batch.check()) if check else None
        self.stations = self._stations(settings.pool, count, 0, streams[:count], watch)
        self.prefills: list[Station] = []
        if settings.prefill is not None:
            self.prefills = self._stations(settings.prefill, before, count, streams[count : count + before], watch)
        self.router, self.second = Router(settings.routing, streams[-1]), Router(settings.routing, streams[-2])
        self.most_replicas = settings.pool.replicas + before
        if settings.transfer is not None:
            self.links = simpy.Resource(env, settings.transfer.concurrent)
        self._lives(streams[count + before : 2 * count + before])

    def _stations(
        self,
        pool: Pool,
        count: int,
        first: int,
        streams: list[np.random.Generator | None],
        watch: Callable[[Replica], None] | None,
    ) -> list[Station]:
        made = []
        for number in range(count):
            replica = Replica(
                first + number,
                pool,
                self,
                streams[number],
                prefill_only=pool is self.settings.prefill,
                segments=self.segments if self.segments.take is not None else None,
            )
            made.append(Station(self.env, replica, live=number < pool.replicas, watch=watch))
        return made

    def _lives(self, streams: list[np.random.Generator | None]) -> None:
        """Starts failures and scaling."""
        failures, scale = self.settings.failures, self.settings.autoscale
        if failures is not None:
            for station, stream in zip(self.stations, streams, strict=True):
                if stream is None:
                    raise SpecError("need a generator", field="failures", hint="pass one")
                self.env.process(lives.fail(station, failures, stream, self))
        if scale is not None:
            self.env.process(lives.scale(self.stations, scale, self))

    def arrive(self, source: Iterator[Request]) -> lives.Events:
        """Sends requests at their times."""
        for request in source:
            gap = request.arrival_s - self.env.now
            if gap > 0.0:
                yield self.env.timeout(gap)
            self._take(request)
        self.exhausted = True
        self._end_if_over()

    def loop(self, source: Iterator[Request], settings: ClosedLoop) -> None:
        """Starts the clients of a closed loop."""
        self.closed = (source, settings)
        for _ in range(settings.concurrency):
            self._next()
        self._end_if_over()

    def _next(self) -> None:
        """A client of a closed loop sends its next request, if there is one."""
        if self.closed is None:
            return
        source, settings = self.closed
        while not self.exhausted:
            request = next(source, None) if settings.total is None or self.came < settings.total else None
            if request is None:
                self.exhausted = True
                return
            request.arrival_s = float(self.env.now)
            if self._take(request):
                return

    def _take(self, request: Request) -> bool:
        """Counts a request that has come, and sends it unless it can never be served."""
        self.came += 1
        reason = self.stations[0].replica.refusal(request)
        if self.prefills and reason is None:
            reason = self.prefills[0].replica.refusal(request)
        if reason is not None:
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return False
        self.under_way += 1
        self._send(request)
        return True

    def _send(self, request: Request) -> None:
        """To a replica of the pool that is its turn; it waits where none takes requests."""
        pool = self.prefills if self.prefills and not request.stored else self.stations
        router = self.router if pool is self.prefills or not self.prefills else self.second
        live = pool if len(pool) == 1 and pool[0].open else [station for station in pool if station.open]
        if not live:
            self.parked.append(request)
            return
        place = 0
        for station in live:
            station.catch_up()
        if len(live) > 1:
            place = router.choose(request, [station.replica for station in live], float(self.env.now))
        live[place].submit(request)

    def finished(self, request: Request, replica: Replica) -> None:
        """A request has its answer."""
        self.finished_count += 1
        self.under_way -= 1
        self.prompt_tokens += request.prompt
        self.output_tokens += request.output
        self.cached_tokens += request.cached
        self.last_s = max(self.last_s, request.finished_s)
        self.records.add(record(request, replica.number))
        if self.closed is not None and not self.exhausted:
            think = self.closed[1].think_s
            if think > 0.0:
                self.env.timeout(think).callbacks.append(lambda _: self._thought())
                self.under_way += 1  # a client that thinks will be back
            else:
                self._next()
        if not self.under_way:
            self._end_if_over()

    def _thought(self) -> None:
        self.under_way -= 1
        self._next()
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self.exhausted and not self.under_way and not self.done.triggered:
            self.done.succeed()

    def prefilled(self, request: Request, replica: Replica) -> None:
        """A prompt is computed where prefill is apart: its cache moves on."""
        self.env.process(self._move(request, self.prefills[replica.number - len(self.stations)]))

    def _move(self, request: Request, station: Station) -> lives.Events:
        transfer = self.settings.transfer
        if transfer is None:
            return
        with self.links.request() as link:
            yield link
            yield self.env.timeout(transfer.seconds(request.target))
        self.transfers += 1
        self.transferred_tokens += request.target
        station.let_go(request)
        request.stored = request.target
        self._send(request)

    def lost(self, requests: list[Request]) -> None:
        """Requests of a replica that failed are sent again."""
        self.failures += 1
        self.resent += len(requests)
        for request in requests:
            request.resent += 1
            if request.resent == MOST_SENT:
                says = f"is shorter than replicas need to answer: request {request.number} was lost {MOST_SENT:,} times"
                # Raised by the event that the run ends at: simpy copies what others raise by its text alone.
                self.done.fail(SpecError(says, field="failures.mean_up", hint="give a longer time"))
                return
            self._send(request)

    def opened(self) -> None:
        """A replica takes requests again: those that waited for one go."""
        running = sum(station.since >= 0.0 for station in (*self.stations, *self.prefills))
        self.most_replicas = max(self.most_replicas, running)
        parked, self.parked = self.parked, []
        for request in parked:
            self._send(request)

    def result(self) -> ServingRun:
        """The totals, once all is over."""
        self.records.flush()
        self.segments.flush()
        stations = [*self.stations, *self.prefills]
        counts = [station.replica.counts for station in stations]
        # Requests that are refused may come after the last answer: a run ends with that.
        end = self.last_s if self.finished_count else float(self.env.now)
        paid = sum(each.paid_s + (max(end - each.since, 0.0) if each.since >= 0.0 else 0.0) for each in stations)
        return ServingRun(
            makespan_s=self.last_s,
            requests=self.came,
            finished=self.finished_count,
            refused=dict(self.refused),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            prefill_tokens=sum(count.prefill_tokens for count in counts),
            steps=sum(count.steps for count in counts),
            preemptions=sum(each.replica.counts.preemptions + each.replica.batch.preemptions for each in stations),
            resent=self.resent,
            failures=self.failures,
            transfers=self.transfers,
            transferred_tokens=self.transferred_tokens,
            busy_s=tuple(count.busy_s for count in counts),
            most_blocks=tuple(count.most_blocks for count in counts),
            replica_s=paid,
            most_replicas=self.most_replicas,
        )
