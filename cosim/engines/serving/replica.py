"""One replica: the steps that its scheduler takes, in time.

    begin     what begins now: a step with prompts, or a run of decode steps up to the next change of the batch
    shorten   a request has come: the run ends with the step under way
    complete  the clock is at the end: tokens are counted, sequences end, blocks are given back

Sums over the batch are kept up to date as sequences come and go, so that no step looks at each of them. A run of steps
is one closed form; with `jump` off every step is a run of its own, and the records are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cosim.engines.serving.batch import Batch, Chunks
from cosim.engines.serving.request import Request
from cosim.engines.serving.result import Sink
from cosim.engines.serving.settings import Pool
from cosim.engines.serving.speculation import Drafts

CLOSE_S = 1e-9
"""Moments so near to each other are one: a sum of steps and a run of them are rounded differently."""
Segment = tuple[float, int, float, int, int, int, int, int]
"""Steps that are alike, in the order of result.SEGMENT."""


class Outlet(Protocol):
    """Who is told what a replica has done."""

    def finished(self, request: Request, replica: Replica) -> None:
        """A request has its last token."""

    def prefilled(self, request: Request, replica: Replica) -> None:
        """A request has its first token where prefill is apart; its blocks are held until `let_go`."""


@dataclass(slots=True)
class Counts:
    """What a replica has done: seconds at work, steps, tokens computed of prompts, most blocks held at once."""

    busy_s: float = 0.0
    steps: int = 0
    prefill_tokens: int = 0
    most_blocks: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class _Flight:
    """What is under way: prompts with the tokens of each, decode steps of how many, seconds, of them moves before."""

    chunks: Chunks
    steps: int
    decodes: int
    seconds: float
    moves_s: float


class Replica:
    """State of one replica. `clock` is where its last step ended; `flight` what is under way, None while idle."""

    def __init__(
        self,
        number: int,
        pool: Pool,
        outlet: Outlet,
        random: np.random.Generator | None = None,
        *,
        prefill_only: bool = False,
        segments: Sink[Segment] | None = None,
    ) -> None:
        self.number, self.table, self.settings = number, pool.table, pool.scheduler
        self.outlet, self.prefill_only, self.segments = outlet, prefill_only, segments
        speculation = self.settings.speculation
        self.drafts = Drafts(speculation, random) if speculation else None
        self.verified = self.settings.verified
        self.drafted = 0 if speculation is None or speculation.n_gram else speculation.drafts
        self.clock, self.counts = 0.0, Counts()
        self.flight: _Flight | None = None
        self.batch = Batch(self.settings, self.drafts)
        self._over: list[Request] = []

    @property
    def end(self) -> float:
        """When what is under way ends [s]."""
        return self.clock if self.flight is None else self.clock + self.flight.seconds

    @property
    def idle(self) -> bool:
        """Whether nobody waits or runs here."""
        return not self.batch.running and not len(self.batch.queue)

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be served here, None where it can."""
        settings = self.settings
        if settings.max_context is not None and request.prompt + request.output > settings.max_context:
            return "max_context"
        if settings.batching != "chunked" and request.prompt > settings.token_budget:
            return "token_budget"
        decodes = request.output > 1 and not self.prefill_only
        tokens = request.prompt + (request.output - 2 + self.verified if decodes else 0)
        room = settings.kv_blocks - settings.watermark_blocks
        return "kv_blocks" if settings.blocks(tokens) > room else None

    def reach(self, now: float) -> None:
        """The clock of one that does nothing goes to `now`, unless that is the moment at which it is already."""
        if now > self.clock + CLOSE_S:
            self.clock = now

    def submit(self, request: Request, now: float) -> bool:
        """A request waits from now on; says whether what is under way, if anything, may change for it."""
        flight = self.flight
        if flight is None:
            self.reach(max(now, request.arrival_s))
        self.batch.wait(request)
        return flight is None or not (flight.chunks or flight.steps == 1 or self.batch.full())

    def outstanding(self, now: float) -> float:
        """Prompt tokens still to compute, and cached tokens of those that decode: what a router can know."""
        batch = self.batch
        return batch.queue.tokens + batch.prefill_left + self._context(now)

    def held(self, now: float) -> float:
        """Share of the cache that requests hold, by tokens."""
        tokens = self.batch.held_tokens + self._context(now)
        return tokens / (self.settings.kv_blocks * self.settings.block_tokens)

    def _context(self, now: float) -> float:
        """Cached tokens of those that decode, with the steps of a run that have ended by now."""
        flight, decoding = self.flight, self.batch.decoding
        if flight is None or flight.chunks:
            return decoding.context
        span = now - self.clock - flight.moves_s + CLOSE_S
        if span <= 0.0:
            return decoding.context
        begun, seconds = self._run(flight.steps, span)
        return decoding.context + decoding.rise * (begun if seconds < span else begun - 1)

    def busy(self, now: float) -> float:
        """Seconds at work until now."""
        under_way = 0.0 if self.flight is None else min(max(now - self.clock, 0.0), self.flight.seconds)
        return self.counts.busy_s + under_way

    def shorten(self, now: float) -> None:
        """Lets a run of decode steps end with the step that is under way."""
        flight = self.flight
        if flight is None or flight.steps <= 1:
            return
        span = now - self.clock - flight.moves_s - CLOSE_S
        steps, seconds = self._run(flight.steps, span) if span > 0.0 else self._run(1)
        if steps < flight.steps:
            flight.steps, flight.seconds = steps, seconds + flight.moves_s

    def crash(self, now: float) -> list[Request]:
        """Loses all that it holds; returns the requests that have no answer, as they came."""
        self.counts.busy_s = self.busy(now)
        batch = self.batch
        lost = [request for request in batch.running if request.finished_s < 0.0]
        lost += [batch.queue.pop() for _ in range(len(batch.queue))]
        for request in lost:
            request.reset()
        self.counts.preemptions += batch.preemptions
        self.batch, self.flight, self._over = Batch(self.settings, self.drafts), None, []
        self.clock = now
        return lost

    def let_go(self, request: Request) -> None:
        """A request's cache has been moved elsewhere."""
        self.batch.memory.lent -= request.blocks - request.shared
        self.batch.memory.release(request)
        self.batch.held_tokens -= request.target
        self.batch.blocked = False

    def begin(self) -> bool:
        """Begins what is next at `clock`; says whether anything did."""
        batch, settings = self.batch, self.settings
        if not batch.running and not len(batch.queue):
            return False
        chunks: Chunks = []
        if settings.batching == "chunked":
            preempted, moves = batch.make_room()
            budget = settings.token_budget - batch.decoding.count * self.verified
            for request in batch.prefilling:
                if budget <= 0:
                    break
                tokens = min(request.target - request.done, budget, settings.longest_piece)
                chunks.append((request, tokens))
                budget -= tokens
            if not preempted and not batch.blocked:
                moves += batch.admit(chunks, budget, self.clock)
            self.flight = self._step(chunks, moves, mixed=True) if chunks else self._decode(moves, alone=preempted)
            return self.flight is not None
        moves = 0.0 if batch.full() else batch.admit(chunks, settings.token_budget, self.clock, whole=True)
        if chunks:
            self.flight = self._step(chunks, moves, mixed=False)
        else:
            preempted, more = batch.make_room()
            self.flight = self._decode(moves + more, alone=preempted)
        return self.flight is not None

    def _step(self, chunks: Chunks, moves_s: float, *, mixed: bool) -> _Flight:
        """A step with prompts, and with those that decode where it is `mixed`."""
        decoding, memory = self.batch.decoding, self.batch.memory
        decodes = decoding.count if mixed else 0
        new, pairs, sampled = 0, 0.0, decodes
        for request, tokens in chunks:
            new += tokens
            pairs += tokens * (request.done + 0.5 * (tokens + 1))
            sampled += request.target - request.done == tokens
        context = decoding.context if decodes else 0
        seconds = self.table.seconds(new, pairs, decodes, context, sampled, self.verified, self.drafted)
        if decodes:
            memory.take(memory.growth.advance(decoding.step, 1))
        return _Flight(chunks, 1 if decodes else 0, decodes, seconds + moves_s, moves_s)

    def _decode(self, moves_s: float, *, alone: bool) -> _Flight | None:
        """Decode steps up to the next end of a sequence or shortage of blocks; one where it must stay `alone`."""
        decoding, memory = self.batch.decoding, self.batch.memory
        if not decoding.count:
            return None
        steps = decoding.steps_left() if self.settings.jump and not alone else 1
        if not self.batch.whole:
            steps = memory.growth.room(decoding.step, steps, memory.available)
        return _Flight([], steps, decoding.count, self._run(steps)[1] + moves_s, moves_s)

    def _run(self, steps: int, span_s: float = math.inf) -> tuple[int, float]:
        decoding = self.batch.decoding
        return self.table.run(
            decoding.count, decoding.context, decoding.rise, steps, span_s, self.verified, self.drafted
        )

    def complete(self) -> None:
        """Books what has ended; the clock moves there."""
        flight = self.flight
        if flight is None:
            return
        start, steps, batch = self.clock, flight.steps, self.batch
        self.clock += flight.seconds
        self.flight = None
        ended: list[Request] = []
        if steps:
            if not flight.chunks and not batch.whole:
                batch.memory.take(batch.memory.growth.advance(batch.decoding.step, steps))
            ended = batch.decoding.advance(steps)
        new = 0
        for request, tokens in flight.chunks:
            new += tokens
            request.done += tokens
        self._count(start, flight, new)
        for request in ended:
            self._end(request)
        for request, _ in flight.chunks:
            if request.done == request.target:
                # With pieces of several prompts in a step a short one ends before a longer one that came earlier.
                batch.prefilling.remove(request)
                self._first(request)
        if self._over and len(self._over) == len(batch.running):
            self._close()

    def _count(self, start: float, flight: _Flight, new: int) -> None:
        counts, batch = self.counts, self.batch
        steps, used = max(flight.steps, 1), batch.memory.used
        batch.prefill_left -= new
        counts.busy_s += flight.seconds
        counts.steps += steps
        counts.prefill_tokens += new
        counts.most_blocks = max(counts.most_blocks, used)
        if self.segments is not None:
            waiting = len(batch.queue)
            self.segments.add((start, steps, flight.seconds, new, flight.decodes, used, waiting, self.number))

    def _first(self, request: Request) -> None:
        """A prompt is in the cache: its sequence has one more token."""
        batch = self.batch
        batch.memory.publish(request, request.target)
        request.generated += 1
        if request.first_s < 0.0:
            request.first_s = self.clock
        if request.generated == request.output:
            batch.held_tokens -= request.target
            self._finish(request)
        elif self.prefill_only:
            del batch.running[request]
            batch.memory.lent += request.blocks - request.shared
            self.outlet.prefilled(request, self)
        else:
            batch.join(request, request.target)

    def _end(self, request: Request) -> None:
        """A sequence has decoded its last token; in a static batch its place stays taken until all have."""
        if self.batch.static:
            request.generated, request.ends = request.output, -1
        else:
            self.batch.leave(request)
            self.batch.memory.publish(request, request.length)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        """Tells that a request has its answer."""
        request.finished_s = self.clock
        if self.batch.static:
            self._over.append(request)
        else:
            self.batch.remove(request)
        self.outlet.finished(request, self)

    def _close(self) -> None:
        """A static batch has ended."""
        for request in self._over:
            self.batch.memory.publish(request, request.prompt)
            self.batch.remove(request)
        self._over, self.batch.decoding = [], type(self.batch.decoding)()
