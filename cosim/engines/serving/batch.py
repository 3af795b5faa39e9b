"""Who runs on a replica: admission, the batch as sums, who gives way when blocks are short. It knows no steps' times.

A prompt is admitted when all of its blocks can be had, and the watermark and the next step of those that decode stay
free. Whoever is at the head of the queue and does not fit is waited for: nobody overtakes. A failed admission is not
tried again until something has changed. Where room is reserved for whole answers nobody grows, and nobody gives way.
"""

from __future__ import annotations

import math
from collections import deque

from cosim.engines.serving.decoding import Decoding
from cosim.engines.serving.kv import Memory
from cosim.engines.serving.queues import make_queue
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Scheduler
from cosim.engines.serving.speculation import Drafts

Chunks = list[tuple[Request, int]]
"""Prompts of a step and the tokens of each."""


class Batch:
    """State of a scheduler: who waits, who prefills, who decodes, the cache.

    `prefill_left` are prompt tokens admitted and not computed, `held_tokens` those of sequences that do not decode.
    """

    def __init__(self, settings: Scheduler, drafts: Drafts | None) -> None:
        self.settings, self.drafts = settings, drafts
        self.static, self.whole = settings.batching == "static", settings.whole
        self.queue = make_queue(settings)
        self.memory, self.decoding = Memory(settings), Decoding()
        self.running: dict[Request, None] = {}
        self.prefilling: deque[Request] = deque()
        self.prefill_left, self.held_tokens = 0, 0
        self.blocked = False
        self.preemptions = 0

    def full(self) -> bool:
        """Whether nobody can be admitted before someone goes."""
        return self.blocked or len(self.running) >= self.settings.max_sequences or (self.static and bool(self.running))

    def wait(self, request: Request) -> None:
        """A request waits."""
        if request.stored:
            request.done = request.target
        if self.queue.push(request):
            self.blocked = False

    def admit(self, chunks: Chunks, budget: int, now: float, *, whole: bool = False) -> float:
        """Admits while there is room, adding to `chunks`; `whole` prompts only. Seconds of bringing caches back."""
        settings, memory, extra = self.settings, self.memory, 0.0
        while budget > 0 and len(self.queue) and len(self.running) < settings.max_sequences:
            request = self.queue.head()
            if whole and request.left > budget and chunks:
                break
            if not memory.admit(request, self._tokens(request), self._reserve(request)):
                self.blocked = True
                break
            self.queue.pop()
            self.running[request] = None
            self.held_tokens += request.target
            if request.scheduled_s < 0.0:
                request.scheduled_s = max(now, request.arrival_s)
                request.cached = 0 if request.stored else request.done
            if request.stored:
                extra += self._restore(request)
                budget -= settings.verified
                continue
            self.queue.charge(request.client, request.left)
            tokens = request.left if whole else min(request.left, budget, settings.longest_piece)
            self.prefilling.append(request)
            self.prefill_left += request.left
            chunks.append((request, tokens))
            budget -= tokens
        return extra

    def _tokens(self, request: Request) -> int:
        """Tokens that a request is given room for: with its answer where nobody can be sent away."""
        if not self.whole:
            return request.target
        # The last token is never read; all drafts of a step have room.
        return request.prompt + (request.output - 2 + self.settings.verified if request.output > 1 else 0)

    def _reserve(self, request: Request) -> int:
        """Blocks that must stay free: those of the next decode step, with this sequence if it joins at once."""
        if not self.running or self.whole:
            return 0
        settings = self.settings
        own = (2 + settings.verified // settings.block_tokens) * settings.layout.near if request.stored else 0
        return self.memory.growth.next_need(self.decoding.step) + own

    def _restore(self, request: Request) -> float:
        """A sequence whose cache lies elsewhere decodes at once; returns seconds of moving it."""
        swap = self.settings.swap
        seconds = swap.seconds(request.stored) if request.fetch and swap is not None else 0.0
        length, request.stored, request.fetch = request.stored, 0, False
        self.join(request, length)
        return seconds

    def join(self, request: Request, length: int) -> None:
        """A sequence with `length` cached tokens decodes from now on."""
        left = request.output - request.generated
        self.held_tokens -= request.target
        self.decoding.join(request, length, self.drafts.steps(left) if self.drafts else left)
        if not self.whole:
            self.memory.growth.join(request, self.decoding.step)

    def leave(self, request: Request) -> None:
        """A sequence decodes no more: it counts what it has, and its client is charged."""
        before = request.generated
        if not self.whole:
            self.memory.growth.leave(request, self.decoding.step)
        self.decoding.leave(request)
        self.queue.charge(request.client, self.settings.output_weight * (request.generated - before))

    def remove(self, request: Request) -> None:
        """A request goes, and its blocks are free."""
        del self.running[request]
        self.memory.release(request)
        self.blocked = False

    def make_room(self) -> tuple[bool, float]:
        """Room for the next token of all that decode; says whether someone gave way, and seconds of moves."""
        memory, extra, preempted = self.memory, 0.0, False
        while memory.growth.next_need(self.decoding.step) > memory.available:
            preempted = True
            extra += self._preempt()
        return preempted, extra

    def _preempt(self) -> float:
        """Who came last, or matters least, waits again: computed anew, or brought back. Seconds of its move."""
        if self.settings.policy in ("priority", "shortest"):
            victim = max(self.running, key=lambda request: (request.key, request.number))
        else:
            victim = next(reversed(self.running))
        victim.preemptions += 1
        self.preemptions += 1
        seconds = 0.0
        if victim.ends >= 0:
            self.leave(victim)
            victim.target, victim.done = victim.length + 1, 0
            if self.settings.swap is not None:
                victim.target = victim.stored = victim.length
                victim.fetch = True
                seconds = self.settings.swap.seconds(victim.length)
        else:
            self.prefilling.remove(victim)
            self.prefill_left -= victim.left
            self.held_tokens -= victim.target
            victim.done = 0
        self.remove(victim)
        victim.done = victim.target if victim.stored else 0
        self.queue.push(victim, front=True)
        return seconds

    def check(self) -> None:
        """What must always hold, counted sequence by sequence; a test's tool. Raises AssertionError."""
        memory, decoding = self.memory, self.decoding
        decodes = [request for request in self.running if request.ends >= 0]
        own = sum(request.blocks - request.shared for request in self.running)
        if not self.static:
            lengths = [request.length + request.rate * (decoding.step - request.joined) for request in decodes]
            if not self.drafts and not self.whole:
                # Even growth counts a sequence's blocks only when it leaves.
                grown = zip(decodes, lengths, strict=True)
                own += sum(self.settings.blocks(int(length)) - request.blocks for request, length in grown)
            _same("decoding", decoding.count, len(decodes))
            _same("context", decoding.context, sum(lengths))
            _same("sequences", len(self.running), len(decodes) + len(self.prefilling))
        nodes = 0 if memory.tree is None else memory.tree.nodes * memory.node_blocks
        _same("blocks", memory.free + own + nodes + memory.lent, memory.capacity)
        _same("prefill_left", self.prefill_left, sum(request.left for request in self.prefilling))
        if memory.free < 0:
            raise AssertionError(f"{memory.free} blocks are free")


def _same(what: str, found: float, expected: float) -> None:
    if not math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-6):
        raise AssertionError(f"{what}: {found}, not {expected}")
