"""The decoding sequences of a replica as sums: how many, their context, what a step adds, who ends at which step."""

from __future__ import annotations

import heapq

from cosim.engines.serving.request import Request


class Decoding:
    """Sequences that advance together. `step` counts decode steps; a sequence that leaves early is passed over."""

    __slots__ = ("_ends", "_entries", "context", "count", "rise", "step")

    def __init__(self) -> None:
        self.step, self.count = 0, 0
        self.context: float = 0
        self.rise: float = 0
        self._entries = 0
        self._ends: list[tuple[int, int, Request]] = []

    def join(self, request: Request, length: int, steps: int) -> None:
        """A sequence with `length` cached tokens decodes its last tokens in so many steps."""
        left = request.output - request.generated
        request.joined, request.length = self.step, length
        request.rate = 1 if steps == left else left / steps
        request.ends = self.step + steps
        self.count += 1
        self.context += length
        self.rise += request.rate
        self._entries += 1
        request.entry = self._entries
        heapq.heappush(self._ends, (request.ends, request.entry, request))

    def leave(self, request: Request) -> None:
        """It stops here; `generated` and `length` say how far it came."""
        steps = self.step - request.joined
        grown = request.rate * steps
        self.count -= 1
        self.context -= request.length + grown
        self.rise -= request.rate
        if not self.count:
            # Rates with a fraction leave a rest of rounding.
            self.context, self.rise = 0, 0
        tokens = request.output - request.generated if request.ends == self.step else int(grown + 1e-9)
        request.generated += tokens
        request.length += tokens
        request.ends, request.entry = -1, -1

    def steps_left(self) -> int:
        """Steps until the next sequence ends; 0 where none does."""
        ends = self._ends
        while ends and ends[0][2].entry != ends[0][1]:
            heapq.heappop(ends)
        return ends[0][0] - self.step if ends else 0

    def advance(self, steps: int) -> list[Request]:
        """So many steps; returns those that end with the last, still in the sums."""
        self.step += steps
        self.context += self.rise * steps
        ended: list[Request] = []
        ends = self._ends
        while ends and ends[0][0] <= self.step:
            _, entry, request = heapq.heappop(ends)
            if request.entry == entry:
                ended.append(request)
        return ended
