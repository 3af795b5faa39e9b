"""What a run of serving gives: totals, and records that leave in chunks while it runs, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from cosim.engines.serving.request import Request

Row = TypeVar("Row")
Record = tuple[int, float, int, int, int, int, int, int, float, float, float, int]
"""A served request, in the order of RECORD."""
RECORD = (
    "request",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "client",
    "priority",
    "replica",
    "scheduled_s",
    "first_token_s",
    "finished_s",
    "preemptions",
)
SEGMENT = ("start_s", "steps", "seconds", "prefill_tokens", "decodes", "kv_blocks", "waiting", "replica")
"""Steps that are alike, of one replica: start of the first, seconds of all, blocks held and requests waiting after."""
AT_ONCE = 4096
"""Rows that go out together."""


class Sink(Generic[Row]):
    """Collects rows and hands them on, many at a time, or drops them where nobody asks."""

    def __init__(self, take: Callable[[list[Row]], None] | None) -> None:
        self.take = take
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """One more row."""
        if self.take is not None:
            self._rows.append(row)
            if len(self._rows) >= AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Hands on what is left."""
        if self._rows and self.take is not None:
            rows, self._rows = self._rows, []
            self.take(rows)


@dataclass(frozen=True, slots=True)
class ServingRun:
    """Totals of a run.

    `requests` came, `finished` were served, `refused` by reason can never be. Tokens: `prompt_tokens` and
    `output_tokens` of those served, `cached_tokens` that the prefix cache had, `prefill_tokens` computed. `busy_s` and
    `most_blocks` of each replica, those that only prefill last; `replica_s` paid for in all. `resent` after failures.
    """

    makespan_s: float
    requests: int
    finished: int
    refused: Mapping[str, int]
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    prefill_tokens: int
    steps: int
    preemptions: int
    resent: int
    failures: int
    transfers: int
    transferred_tokens: int
    busy_s: tuple[float, ...]
    most_blocks: tuple[int, ...]
    replica_s: float
    most_replicas: int

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that the prefix cache had."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens over the time to the last answer."""
        return self.output_tokens / self.makespan_s if self.makespan_s else 0.0


def record(request: Request, replica: int) -> Record:
    """The row of a served request."""
    return (
        request.number,
        request.arrival_s,
        request.prompt,
        request.output,
        request.cached,
        request.client,
        request.priority,
        replica,
        request.scheduled_s,
        request.first_s,
        request.finished_s,
        request.preemptions,
    )
