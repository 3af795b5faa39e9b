"""Requests as they come, in chunks of arrays, and as a replica holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.engines.serving.prefix import Node
from cosim.errors import SpecError
from cosim.records import Array

Index = NDArray[np.int64]
SESSION_BLOCKS = 1 << 24
"""Blocks that a session may have: numbers of two sessions never meet."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some requests [N], sorted by arrival. Raises SpecError for lengths of less than 1 and arrivals that fall.

    `session` is -1 or a number: turns of one session carry all text before them. `block_ids` name the blocks of each
    prompt, `block_offsets` [N + 1] where those of each begin; ids past the prompt are those of the answer.
    """

    arrival_s: Array
    prompt_tokens: Index
    output_tokens: Index
    priority: Index | None = None
    client: Index | None = None
    session: Index | None = None
    block_offsets: Index | None = None
    block_ids: Index | None = None

    def __post_init__(self) -> None:
        size = len(self.arrival_s)
        for name in ("prompt_tokens", "output_tokens", "priority", "client", "session"):
            values = getattr(self, name)
            if values is not None and len(values) != size:
                raise SpecError(f"has {len(values)} entries, not {size}", field=f"requests.{name}")
        for name in ("prompt_tokens", "output_tokens"):
            values = getattr(self, name)
            if size and values.min() < 1:
                raise SpecError("is less than 1", field=f"requests.{name}", value=int(values.min()))
        if size and not (np.all(np.diff(self.arrival_s) >= 0.0) and np.isfinite(self.arrival_s[-1])):
            raise SpecError("does not rise", field="requests.arrival_s", hint="sort requests by arrival")
        if size and self.arrival_s[0] < 0.0:
            raise SpecError("is before the start", field="requests.arrival_s", value=float(self.arrival_s[0]))
        if (self.block_offsets is None) is not (self.block_ids is None):
            raise SpecError("offsets and ids go together", field="requests.block_ids")
        if self.block_offsets is not None and len(self.block_offsets) != size + 1:
            raise SpecError(f"has {len(self.block_offsets)} entries, not {size + 1}", field="requests.block_offsets")


@dataclass(slots=True, eq=False)
class Request:
    """One request under way. Tokens are counted, times are seconds of the clock, -1 where not yet.

    `target` tokens must be in the cache before it decodes, `done` of them are; `stored` lie elsewhere (the host, a
    prefill replica) and need no computing. While it decodes, `length` is its cache at step `joined` and `rate` what
    each step adds.
    """

    number: int
    arrival_s: float
    prompt: int
    output: int
    client: int = 0
    priority: int = 0
    session: int = -1
    blocks_of: Sequence[int] = ()
    target: int = 0
    done: int = 0
    stored: int = 0
    fetch: bool = False
    """Whether what is stored has yet to be moved."""
    generated: int = 0
    cached: int = -1
    scheduled_s: float = -1.0
    first_s: float = -1.0
    finished_s: float = -1.0
    preemptions: int = 0
    resent: int = 0
    key: float = 0.0
    queued: int = 0
    """Tokens to compute as it was put into a queue."""
    node: Node | None = None
    shared: int = 0
    blocks: int = 0
    joined: int = 0
    length: int = 0
    rate: float = 1
    ends: int = -1
    """Step of decoding after which it has its last token."""
    entry: int = -1
    """Which of its times of decoding this is: what was noted for an earlier one no longer holds."""
    due: int = -1
    """Step of decoding that needs its next block."""

    @property
    def left(self) -> int:
        """Tokens still to compute before it decodes."""
        return self.target - self.done

    def reset(self) -> None:
        """As it came: a replica was lost with all that it held."""
        self.target, self.done, self.stored, self.fetch, self.generated = self.prompt, 0, 0, False, 0
        self.first_s = -1.0
        self.node, self.shared, self.blocks, self.ends, self.entry, self.due = None, 0, 0, -1, -1, -1


def requests(chunks: Iterable[Chunk], prefix_tokens: int) -> Iterator[Request]:
    """The requests of all chunks, numbered in order; memory is one chunk's. Raises SpecError where time runs back."""
    number, before = 0, 0.0
    for chunk in chunks:
        size = len(chunk.arrival_s)
        if size and chunk.arrival_s[0] < before:
            raise SpecError("a chunk starts before the last one ends", field="requests.arrival_s")
        none, alone = [0] * size, [-1] * size
        sessions = alone if chunk.session is None else chunk.session.tolist()
        rows = zip(
            chunk.arrival_s.tolist(),
            chunk.prompt_tokens.tolist(),
            chunk.output_tokens.tolist(),
            none if chunk.client is None else chunk.client.tolist(),
            none if chunk.priority is None else chunk.priority.tolist(),
            sessions,
            strict=True,
        )
        for place, (arrival, prompt, output, client, priority, session) in enumerate(rows):
            made = Request(number, arrival, prompt, output, client, priority, session, target=prompt)
            if prefix_tokens:
                made.blocks_of = _blocks(chunk, place, made, prefix_tokens)
            yield made
            number += 1
        before = float(chunk.arrival_s[-1]) if size else before


def _blocks(chunk: Chunk, place: int, request: Request, prefix_tokens: int) -> Sequence[int]:
    """Names of the blocks of a request's text: as given, or by its session, or none."""
    if chunk.block_offsets is not None and chunk.block_ids is not None:
        first, last = int(chunk.block_offsets[place]), int(chunk.block_offsets[place + 1])
        found: list[int] = chunk.block_ids[first:last].tolist()
        # The last block of a prompt may not be full: who continues it differently has another block there.
        full = -(-request.prompt // prefix_tokens)
        return found[: request.prompt // prefix_tokens] if len(found) <= full else found
    if request.session < 0:
        return ()
    first = request.session * SESSION_BLOCKS
    return range(first, first + (request.prompt + request.output) // prefix_tokens)
