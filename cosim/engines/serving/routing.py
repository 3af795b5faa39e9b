"""Which replica a request goes to.

round_robin     one after the other
random          any
least_loaded    fewest outstanding tokens: prompts to compute, and the context of those that decode
least_kv        least share of the cache held
power_of_two    the less loaded of two drawn at random
prefix_aware    fewest prompt tokens to compute before it: those outstanding and those of its own that no cache has
session_sticky  by the number of its session, while the replicas stay; without one by turns
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cosim.engines.serving.replica import Replica
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Routing
from cosim.errors import SpecError

DRAWN = 4096
"""Numbers drawn at a time."""


class Router:
    """Chooses among replicas. Raises SpecError for chance without a generator."""

    def __init__(self, routing: Routing, random: np.random.Generator | None) -> None:
        if random is None and routing in ("random", "power_of_two"):
            raise SpecError("needs a generator", field="routing", value=routing, hint="pass one")
        self.routing, self.random = routing, random
        self._turn = 0
        self._drawn: list[float] = []

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
        """Place of the replica that gets the request; the first of equals."""
        count = len(replicas)
        if count == 1:
            return 0
        if self.routing == "random":
            return self._draw(count)
        if self.routing == "session_sticky" and request.session >= 0:
            return request.session % count
        if self.routing in ("round_robin", "session_sticky"):
            self._turn += 1
            return (self._turn - 1) % count
        places: Iterable[int] = range(count)
        if self.routing == "power_of_two":
            first = self._draw(count)
            places = (first, (first + 1 + self._draw(count - 1)) % count)
        return min(places, key=lambda place: self._cost(request, replicas[place], now))

    def _cost(self, request: Request, replica: Replica, now: float) -> float:
        """What a choice goes by: the least is best."""
        if self.routing == "prefix_aware":
            return self._to_compute(request, replica)
        cost = replica.held(now) if self.routing == "least_kv" else replica.outstanding(now)
        # Equal loads that were summed in another order must stay equal.
        return round(cost, 9)

    def _to_compute(self, request: Request, replica: Replica) -> int:
        """Prompt tokens before a request's first token."""
        batch, cached = replica.batch, 0
        if batch.memory.tree is not None:
            tokens = batch.memory.prefix_tokens
            cached = batch.memory.tree.find(request.blocks_of, (request.target - 1) // tokens).depth * tokens
        return batch.queue.tokens + batch.prefill_left + request.target - cached

    def _draw(self, count: int) -> int:
        if not self._drawn and self.random is not None:
            self._drawn = self.random.random(DRAWN).tolist()
        return int(self._drawn.pop() * count)
