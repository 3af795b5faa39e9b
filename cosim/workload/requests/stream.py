"""From a description and a generator to a stream of requests: bounded chunks, flat memory, same seed same bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cosim.records import Array
from cosim.workload.requests import rates
from cosim.workload.requests.conversations import Generators, Turns, in_order, turns_of, with_blocks
from cosim.workload.requests.description import (
    Arrivals,
    Bursts,
    Closed,
    Deterministic,
    Diurnal,
    Piecewise,
    Poisson,
    RequestPattern,
    Trace,
)
from cosim.workload.requests.records import ROWS, ClosedLoop, Int, Requests, joined, limited, resized
from cosim.workload.requests.table import read_lengths, read_requests


def request_stream(pattern: RequestPattern, generator: np.random.Generator, rows: int = ROWS) -> Iterator[Requests]:
    """The requests of a description, by arrival, in chunks of at most `rows`. Raises SpecError.

    What is drawn depends on the generator's seed alone, not on `rows`. In a closed loop arrivals are NaN, see
    `closed_loop`. A trace draws nothing.
    """
    if pattern.trace is not None:
        chunks = _of_trace(pattern.trace)
    else:
        random = Generators(*generator.spawn(len(Generators._fields)))
        chunks = (with_blocks(turns, pattern) for turns in _turns(pattern, random))
    return resized(limited(chunks, pattern.count, pattern.duration), rows)


def all_requests(pattern: RequestPattern, generator: np.random.Generator) -> Requests:
    """The whole stream as one record. Raises SpecError, and ValueError where nothing comes."""
    chunks = list(request_stream(pattern, generator))
    if not chunks:
        raise ValueError("no request comes before the end")
    return joined(chunks)


def closed_loop(pattern: RequestPattern) -> ClosedLoop | None:
    """The loop that makes the arrivals, None where they are known ahead."""
    if not isinstance(pattern.arrivals, Closed) or pattern.count is None:
        return None
    return ClosedLoop(pattern.arrivals.concurrency, pattern.arrivals.think, pattern.count)


def _turns(pattern: RequestPattern, random: Generators) -> Iterator[Turns]:
    pairs = _pairs(pattern)
    if pattern.arrivals is None:
        raise ValueError("a pattern without a trace has arrivals")
    if isinstance(pattern.arrivals, Closed):
        unknown = np.full(rates.BATCH, np.nan)
        first = 0
        while True:
            yield turns_of(pattern, unknown, first, random, pairs)
            first += rates.BATCH
    starts = _numbered(_starts(pattern.arrivals, random, pattern.duration))
    yield from in_order((float(each[-1]), turns_of(pattern, each, first, random, pairs)) for first, each in starts)


def _numbered(chunks: Iterator[Array]) -> Iterator[tuple[int, Array]]:
    """Every chunk with the number of its first row."""
    first = 0
    for chunk in chunks:
        yield first, chunk
        first += len(chunk)


def _starts(arrivals: Arrivals, random: Generators, duration_s: float | None) -> Iterator[Array]:
    """Starts of conversations before `duration_s` [s], rising, in chunks that are not empty."""
    gaps = rates.gamma_gaps(random.arrivals, _variation(arrivals))
    for chunk in rates.arrivals(gaps, _segments(arrivals, random.rates)):
        if duration_s is not None and chunk[-1] >= duration_s:
            kept = chunk[: int(np.searchsorted(chunk, duration_s))]
            if len(kept):
                yield kept
            return
        yield chunk


def _variation(arrivals: Arrivals) -> float:
    if isinstance(arrivals, Deterministic):
        return 0.0
    return 1.0 if isinstance(arrivals, Poisson | Closed) else arrivals.cv


def _segments(arrivals: Arrivals, generator: np.random.Generator) -> Iterator[rates.Segment]:
    if isinstance(arrivals, Bursts):
        on, off = rates.Segment(arrivals.mean_on, arrivals.on), rates.Segment(arrivals.mean_off, arrivals.off)
        return rates.on_off(generator, on, off)
    if isinstance(arrivals, Diurnal):
        return rates.periodic(arrivals.period, arrivals.rates)
    if isinstance(arrivals, Piecewise):
        pieces = zip(arrivals.durations, arrivals.rates, strict=True)
        return (rates.Segment(duration, rate) for duration, rate in pieces)
    if isinstance(arrivals, Closed):
        raise TypeError("arrivals of a closed loop follow from the service")
    return rates.constant(arrivals.rate)


def _pairs(pattern: RequestPattern) -> Int | None:
    """Joint lengths (R, 2), None where prompts and outputs are drawn apart. Raises SpecError."""
    if pattern.joint is None:
        return None
    if pattern.joint.file is not None:
        return read_lengths(pattern.joint.file)
    return np.array(pattern.joint.rows, dtype=np.int64)


def _of_trace(trace: Trace) -> Iterator[Requests]:
    for chunk in read_requests(trace.file):
        columns = (chunk.session, chunk.prefix, chunk.priority, chunk.client, chunk.blocks)
        yield Requests(chunk.arrival_s / trace.speed, chunk.prompt_tokens, chunk.output_tokens, *columns)
