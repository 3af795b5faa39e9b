"""Requests as arrays: one frozen record of N rows, sorted by arrival; streams are iterators of such records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosim.errors import SpecError
from cosim.records import Array, array

Int = NDArray[np.int64]
ROWS = 65_536
"""Most rows of a chunk where nothing else is asked."""
NO_SESSION = -1


@dataclass(frozen=True, slots=True)
class Blocks:
    """Identity of the leading blocks of every prompt, ragged: equal ids from the start are equal text."""

    offsets: Int
    """(N + 1,): the ids of row i are ids[offsets[i]:offsets[i + 1]]."""
    ids: Int
    tokens: int
    """Tokens of a whole block; the last block of a row may be shorter."""

    def of(self, row: int) -> Int:
        """Ids of one row."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Requests whose arrivals follow from the answers: so many are always under way."""

    concurrency: int
    think_s: float
    """From an answer to the next request of the same user [s]."""
    total: int
    """Requests in all."""


@dataclass(frozen=True, slots=True)
class Requests:
    """N requests, columns of shape (N,). Arrivals rise; in a closed loop they are NaN: nobody knows them yet."""

    arrival_s: Array
    prompt_tokens: Int
    output_tokens: Int
    session: Int
    """Conversation that the request is a turn of; -1 for none."""
    prefix: Int
    """Leading tokens of the prompt that are text of earlier requests: earlier turns, a shared system prompt.

    A drawn system prompt counts for the first that uses it too."""
    priority: Int
    """The smallest goes first."""
    client: Int
    blocks: Blocks | None = None
    """None where no prompt is known to share text."""

    def __len__(self) -> int:
        return len(self.arrival_s)


COLUMNS = tuple(field.name for field in fields(Requests) if field.name != "blocks")
_LEAST = {"prompt_tokens": 1, "output_tokens": 1, "prefix": 0, "session": NO_SESSION}


def requests_of(
    arrival_s: ArrayLike,
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
    *,
    session: ArrayLike = NO_SESSION,
    prefix: ArrayLike = 0,
    priority: ArrayLike = 0,
    client: ArrayLike = 0,
    blocks: Blocks | None = None,
) -> Requests:
    """The record of columns of shape (N,), or () for one value in all rows. Raises SpecError, see `checked`."""
    arrival = array(arrival_s)
    given = (prompt_tokens, output_tokens, session, prefix, priority, client)
    names = (name for name in COLUMNS if name != "arrival_s")
    whole = (np.broadcast_to(np.asarray(value, dtype=np.int64), arrival.shape) for value in given)
    columns: dict[str, Any] = dict(zip(names, whole, strict=True))
    return checked(Requests(arrival, **columns, blocks=blocks))


def checked(requests: Requests) -> Requests:
    """The requests, if arrivals rise and no count is impossible. Raises SpecError that names column and row."""
    arrival = requests.arrival_s
    # NaN compares false: arrivals of a closed loop pass.
    falls = np.flatnonzero(arrival[1:] < arrival[:-1])
    if len(falls):
        row = int(falls[0]) + 1
        raise SpecError(f"is before the one above it, in row {row}", field="arrival_s", value=float(arrival[row]))
    for name, least in _LEAST.items():
        low = np.flatnonzero(getattr(requests, name) < least)
        if len(low):
            value = int(getattr(requests, name)[low[0]])
            raise SpecError(f"is less than {least}, in row {int(low[0])}", field=name, value=value)
    if np.any(requests.prefix > requests.prompt_tokens):
        row = int(np.argmax(requests.prefix > requests.prompt_tokens))
        raise SpecError(f"is longer than the prompt, in row {row}", field="prefix", value=int(requests.prefix[row]))
    return requests


def select(requests: Requests, index: NDArray[np.intp]) -> Requests:
    """The rows named by `index` (M,), in its order, with their blocks."""
    columns = {name: getattr(requests, name)[index] for name in COLUMNS}
    return Requests(**columns, blocks=None if requests.blocks is None else _selected(requests.blocks, index))


def by_arrival(requests: Requests) -> Requests:
    """The same requests sorted by arrival; those that come at once keep their order."""
    return select(requests, np.argsort(requests.arrival_s, kind="stable"))


def joined(parts: Sequence[Requests]) -> Requests:
    """The requests of all parts one after the other. Raises ValueError where only some have blocks, or unlike ones."""
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    found = [part.blocks for part in parts if part.blocks is not None]
    if not found:
        return Requests(**columns)
    if len(found) < len(parts) or len({blocks.tokens for blocks in found}) > 1:
        raise ValueError("parts with unlike blocks cannot be one record")
    counts = np.concatenate([np.diff(blocks.offsets) for blocks in found])
    ids = np.concatenate([blocks.ids for blocks in found])
    return Requests(**columns, blocks=Blocks(offsets_of(counts), ids, found[0].tokens))


def resized(chunks: Iterator[Requests], rows: int = ROWS) -> Iterator[Requests]:
    """The same requests in chunks of `rows`, the last of fewer; memory stays that of the chunks. Raises ValueError."""
    if rows < 1:
        raise ValueError("a chunk has at least one row")
    held: list[Requests] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count >= rows:
            whole = joined(held)
            starts = range(0, count - rows + 1, rows)
            yield from (rows_of(whole, start, start + rows) for start in starts)
            count %= rows
            held = [rows_of(whole, len(whole) - count, len(whole))] if count else []
    if count:
        yield joined(held)


def limited(chunks: Iterator[Requests], count: int | None, duration_s: float | None) -> Iterator[Requests]:
    """The first `count` requests that come before `duration_s`; None for no limit."""
    left = count
    for chunk in chunks:
        before = len(chunk) if duration_s is None else int(np.searchsorted(chunk.arrival_s, duration_s))
        rows = before if left is None else min(before, left)
        if rows:
            yield rows_of(chunk, 0, rows)
        left = None if left is None else left - rows
        if rows < len(chunk) or left == 0:
            return


def rows_of(requests: Requests, start: int, stop: int) -> Requests:
    """Rows from `start` up to `stop`, as views."""
    columns = {name: getattr(requests, name)[start:stop] for name in COLUMNS}
    blocks = requests.blocks
    if blocks is not None:
        offsets = blocks.offsets[start : stop + 1]
        blocks = replace(blocks, offsets=offsets - offsets[0], ids=blocks.ids[offsets[0] : offsets[-1]])
    return Requests(**columns, blocks=blocks)


def offsets_of(counts: Int) -> Int:
    """Offsets (N + 1,) of rows that hold `counts` (N,) ids each."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def ramp(counts: Int) -> Int:
    """0, 1, .. count - 1 for every count (N,), one after the other."""
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(offsets_of(counts)[:-1], counts)


def _selected(blocks: Blocks, index: NDArray[np.intp]) -> Blocks:
    counts = np.diff(blocks.offsets)[index]
    starts = np.repeat(blocks.offsets[:-1][index], counts)
    return Blocks(offsets_of(counts), blocks.ids[starts + ramp(counts)], blocks.tokens)
