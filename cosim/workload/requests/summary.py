"""What a stream of requests is like, in a few numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cosim.workload.requests.records import NO_SESSION, Requests


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and means of requests; what cannot be known of them is None."""

    requests: int
    span_s: float | None
    """From time 0 to the last arrival; None in a closed loop and for lengths without arrivals."""
    rate: float | None
    """Requests per second of the span."""
    mean_prompt_tokens: float
    mean_output_tokens: float
    longest_prompt_tokens: int
    longest_output_tokens: int
    shared_prefix: float | None
    """Share of all prompt tokens that are text of earlier requests; None where nothing is known of shared text."""
    clients: int
    sessions: int
    """Conversations of which a turn is there."""

    def to_row(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def summary_of(chunks: Iterable[Requests], *, timed: bool = True) -> Summary:
    """The summary of a stream, chunk by chunk. Raises ValueError for one without requests.

    `timed` is false where arrivals mean nothing. Memory grows with clients and conversations, not with requests.
    """
    count, last, known = 0, 0.0, False
    sums = np.zeros(3)
    longest = np.zeros(2, np.int64)
    clients: set[int] = set()
    sessions: set[int] = set()
    for chunk in chunks:
        count += len(chunk)
        last = float(chunk.arrival_s[-1])
        columns = (chunk.prompt_tokens, chunk.output_tokens, chunk.prefix)
        sums += [float(column.sum()) for column in columns]
        longest = np.maximum(longest, [column.max() for column in columns[:2]])
        clients.update(np.unique(chunk.client).tolist())
        sessions.update(np.unique(chunk.session).tolist())
        known = known or chunk.blocks is not None or bool(np.any(chunk.prefix))
    if not count:
        raise ValueError("no request to describe")
    span = last if timed and np.isfinite(last) else None
    return Summary(
        requests=count,
        span_s=span,
        rate=count / span if span else None,
        mean_prompt_tokens=float(sums[0]) / count,
        mean_output_tokens=float(sums[1]) / count,
        longest_prompt_tokens=int(longest[0]),
        longest_output_tokens=int(longest[1]),
        shared_prefix=float(sums[2] / sums[0]) if known else None,
        clients=len(clients),
        sessions=len(sessions - {NO_SESSION}),
    )
