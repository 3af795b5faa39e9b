"""Blocks that decoding sequences come to need, without a look at each of them in every step.

One token a step: a sequence needs a block whenever its start and the step fall together modulo the block, so counts by
remainder say how many do (`EvenGrowth`). Past a window a block of tokens takes fewer: it counts for less from the step
on at which the sequence comes there. With drafts each sequence has a calendar of its own (`UnevenGrowth`).
"""

from __future__ import annotations

import heapq
import math
from typing import Protocol

from cosim.engines.serving.layout import Layout
from cosim.engines.serving.request import Request


class Growth(Protocol):
    """Blocks that decoding sequences come to need. A step is the number of decode steps before it."""

    def join(self, request: Request, step: int) -> None:
        """A sequence decodes from this step on."""

    def leave(self, request: Request, step: int) -> None:
        """It stops; its `blocks` are set to what it has."""

    def next_need(self, step: int) -> int:
        """Blocks that this step needs."""

    def room(self, step: int, steps: int, blocks: int) -> int:
        """Steps from here, of `steps`, that surely do with so many blocks; at least 1."""

    def advance(self, step: int, steps: int) -> int:
        """Blocks that these steps take."""


class EvenGrowth:
    """One token a step: blocks counted by when, modulo the block, their sequences need new ones.

    `count` are the blocks that all come to need in as many steps as a block has tokens.
    """

    def __init__(self, block: int, layout: Layout) -> None:
        self.block, self.layout, self.count = block, layout, 0
        self.due = [0] * block
        self._inside: dict[Request, int] = {}
        self._turns: list[tuple[int, int, Request]] = []
        """When those inside of their window come to its end."""
        self._joined = 0

    def join(self, request: Request, step: int) -> None:
        """A sequence decodes from this step on."""
        layout = self.layout
        turn = step + layout.whole(self.block) - request.length
        weight = layout.near if turn > step else layout.far
        if weight != layout.far:
            self._joined += 1
            self._inside[request] = self._joined
            heapq.heappush(self._turns, (turn, self._joined, request))
        self._weigh(step - request.length, weight)

    def leave(self, request: Request, step: int) -> None:
        """It stops; its `blocks` are set to what it has."""
        inside = self._inside.pop(request, 0)
        self._weigh(request.joined - request.length, -(self.layout.near if inside else self.layout.far))
        request.blocks = self.layout.blocks(request.length + step - request.joined, self.block)

    def _weigh(self, start: int, weight: int) -> None:
        self.due[start % self.block] += weight
        self.count += weight

    def _turn(self, step: int) -> None:
        """Those that have come to the end of their window by this step."""
        while self._turns and self._turns[0][0] <= step:
            turn, joined, request = heapq.heappop(self._turns)
            if self._inside.get(request) == joined:
                del self._inside[request]
                self._weigh(turn, self.layout.far - self.layout.near)

    def next_need(self, step: int) -> int:
        """Blocks that this step needs."""
        self._turn(step)
        return self.due[step % self.block]

    def room(self, step: int, steps: int, blocks: int) -> int:
        """Steps from here, of `steps`, that surely do with so many blocks; at least 1."""
        self._turn(step)
        if self.count * (steps // self.block + 1) <= blocks or not self.count:
            return steps
        rounds, left = divmod(blocks, self.count)
        fits = rounds * self.block
        while fits < steps:
            left -= self.due[(step + fits) % self.block]
            if left < 0:
                break
            fits += 1
        return max(fits, 1)

    def advance(self, step: int, steps: int) -> int:
        """Blocks that these steps take."""
        taken, end = 0, step + steps
        while True:
            self._turn(step)
            stop = min(end, self._turns[0][0]) if self._turns else end
            taken += self._alike(step, stop - step)
            if stop == end:
                return taken
            step = stop

    def _alike(self, step: int, steps: int) -> int:
        """Blocks of steps in which nobody comes to the end of a window."""
        if steps == 1:
            return self.due[step % self.block]
        rounds, rest = divmod(steps, self.block)
        first = step % self.block
        last = first + rest
        part = sum(self.due[first:last])
        if last > self.block:
            part += sum(self.due[: last - self.block])
        return rounds * self.count + part


class UnevenGrowth:
    """More than one token a step, spread evenly over a sequence's steps; room for all drafts is there before a step."""

    def __init__(self, block: int, ahead: int, layout: Layout) -> None:
        self.block, self.ahead, self.layout = block, ahead, layout
        self.calendar: dict[int, list[Request]] = {}
        self.needs: dict[int, int] = {}
        self.count, self.rate = 0, 0.0

    def join(self, request: Request, step: int) -> None:
        """A sequence decodes from this step on."""
        self.count += 1
        self.rate += request.rate
        self._enter(request, step)

    def leave(self, request: Request, step: int) -> None:
        """It stops; its `blocks` are what it has been given."""
        self.count -= 1
        self.rate = self.rate - request.rate if self.count else 0.0
        if request.due >= step:
            self._strike(request)
        request.due = -1

    def next_need(self, step: int) -> int:
        """Blocks that this step needs."""
        return self.needs.get(step, 0)

    def room(self, step: int, steps: int, blocks: int) -> int:
        """Steps from here, of `steps`, that surely do with so many blocks; at least 1."""
        del step
        # A sequence that adds so many tokens fills at most tokens / block + 1 blocks, and its drafts those of one step.
        near = self.layout.near
        spare = blocks - self.count * (2 + self.ahead // self.block) * near
        if self.rate <= 0.0 or spare >= self.rate * steps * near / self.block:
            return steps
        return max(int(spare * self.block / (self.rate * near)), 1)

    def advance(self, step: int, steps: int) -> int:
        """Blocks that these steps take."""
        taken = 0
        for now in range(step, step + steps):
            taken += self.needs.pop(now, 0)
            for request in self.calendar.pop(now, ()):
                if request.due == now:
                    request.blocks += self._wanted(request, now)
                    self._enter(request, now + 1)
        return taken

    def _wanted(self, request: Request, step: int) -> int:
        """Blocks that a sequence lacks at a step."""
        tokens = math.floor(request.length + request.rate * (step - request.joined) + 1e-9) + 1 + self.ahead
        return max(self.layout.blocks(tokens, self.block) - request.blocks, 0)

    def _enter(self, request: Request, step: int) -> None:
        """Writes a sequence's next need into the calendar; one that all layers keep a window of needs no more."""
        room = self.layout.tokens(request.blocks, self.block)
        if math.isinf(room):
            request.due = -1
            return
        spare = room - self.ahead - request.length
        due = max(math.floor(spare / request.rate - 1e-9) + request.joined, step)
        while not self._wanted(request, due):
            due += 1
        request.due = due
        self.calendar.setdefault(due, []).append(request)
        self.needs[due] = self.needs.get(due, 0) + self._wanted(request, due)

    def _strike(self, request: Request) -> None:
        self.needs[request.due] -= self._wanted(request, request.due)
