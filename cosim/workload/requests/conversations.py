"""From starts of conversations to requests: turns that send the earlier text again, shared system prompts, blocks.

A request without turns is a conversation of one turn; so there is one way through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cosim.records import Array, array
from cosim.workload.requests.description import RequestPattern, Sessions
from cosim.workload.requests.lengths import length_at
from cosim.workload.requests.quantiles import correlated
from cosim.workload.requests.records import NO_SESSION, Blocks, Int, Requests, joined, offsets_of, ramp, select

_POSITIONS = 1 << 24
"""Blocks of a text that have ids of their own: whose text, times this, plus the position."""


class Generators(NamedTuple):
    """One stream of random numbers for each thing that is drawn, so that none depends on another."""

    arrivals: np.random.Generator
    rates: np.random.Generator
    prompts: np.random.Generator
    outputs: np.random.Generator
    clients: np.random.Generator
    shared: np.random.Generator
    turns: np.random.Generator
    think: np.random.Generator


@dataclass(frozen=True, slots=True)
class Turns:
    """Requests before they have blocks: `text` says whose text it is, `system` which prompt it begins with, or -1."""

    requests: Requests
    text: Int
    system: Int

    def at(self, index: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Turns:
        """The rows named by `index`."""
        return Turns(select(self.requests, index), self.text[index], self.system[index])


def turns_of(pattern: RequestPattern, starts: Array, first: int, random: Generators, pairs: Int | None = None) -> Turns:
    """All turns of the conversations that begin at `starts` (S,), unsorted; `first` is the number of the first one.

    Turn k has the prompt system + Σ_{j<k} (new_j + output_j) + new_k. `pairs` (R, 2) are joint lengths.
    """
    sessions = pattern.sessions
    counts = np.ones(len(starts), np.int64) if sessions is None else length_at(sessions.turns, _u(random.turns, starts))
    owner, turn = np.repeat(np.arange(len(starts)), counts), ramp(counts)
    begins = offsets_of(counts)[:-1]
    new, output = _lengths(pattern, turn, random, pairs)
    system = _system(pattern, len(starts), random.shared)
    ahead = np.where(system >= 0, 0 if pattern.system_prompts is None else pattern.system_prompts.tokens, 0)
    said = np.cumsum(new + output) - (new + output)
    prefix = ahead[owner] + said - said[begins][owner]
    arrival = starts[owner]
    if sessions is not None:
        arrival = arrival + _pauses(sessions, turn, begins, owner, random.think)
    client = np.minimum(
        np.searchsorted(_shares(pattern), random.clients.random(len(starts)), side="right"), len(pattern.clients) - 1
    )
    priority = np.array([each.priority for each in pattern.clients], dtype=np.int64)[client]
    number = first + owner.astype(np.int64)
    session = np.full(len(owner), NO_SESSION) if sessions is None else number
    made = Requests(arrival, prefix + new, output, session, prefix, priority[owner], client[owner].astype(np.int64))
    turns = Turns(made, number, system[owner])
    if sessions is None or sessions.max_context is None:
        return turns
    return turns.at(np.flatnonzero((turn == 0) | (made.prompt_tokens + output <= sessions.max_context)))


def in_order(parts: Iterator[tuple[float, Turns]]) -> Iterator[Turns]:
    """The turns of all parts by arrival; a part comes with the last start of its conversations [s].

    Those of the next part begin at or after it. So what arrives before that start can go; turns that come later wait.
    Memory is that of conversations under way.
    """
    waiting: Turns | None = None
    for last, part in parts:
        whole = part if waiting is None else _both(waiting, part)
        # Turns of one conversation stand in their order, and a stable sort leaves those that come at once in it.
        whole = whole.at(np.lexsort((whole.text, whole.requests.arrival_s)))
        ready = int(np.searchsorted(whole.requests.arrival_s, last, side="left"))
        yield whole.at(np.arange(ready))
        waiting = whole.at(np.arange(ready, len(whole.requests)))
    if waiting is not None:
        yield waiting


def with_blocks(turns: Turns, pattern: RequestPattern) -> Requests:
    """The requests with ids of the whole blocks of their prompts, where text is shared at all.

    Blocks inside the system prompt have ids of that prompt, those after it of the conversation.
    """
    if pattern.sessions is None and pattern.system_prompts is None:
        return turns.requests
    prompts = 0 if pattern.system_prompts is None else pattern.system_prompts.prompts
    common = 0 if pattern.system_prompts is None else pattern.system_prompts.tokens // pattern.block_tokens
    counts = turns.requests.prompt_tokens // pattern.block_tokens
    position, row = ramp(counts), np.repeat(np.arange(len(counts)), counts)
    is_common = (turns.system[row] >= 0) & (position < common)
    text = np.where(is_common, turns.system[row], prompts + turns.text[row])
    blocks = Blocks(offsets_of(counts), text * _POSITIONS + position, pattern.block_tokens)
    requests = turns.requests
    columns = (requests.session, requests.prefix, requests.priority, requests.client, blocks)
    return Requests(requests.arrival_s, requests.prompt_tokens, requests.output_tokens, *columns)


def _u(generator: np.random.Generator, like: Array) -> Array:
    return generator.random(len(like))


def _lengths(pattern: RequestPattern, turn: Int, random: Generators, pairs: Int | None) -> tuple[Int, Int]:
    """New tokens and output of every turn."""
    own, other = random.prompts.random(len(turn)), random.outputs.random(len(turn))
    if pairs is not None:
        chosen = pairs[(own * len(pairs)).astype(np.int64)]
        new, output = chosen[:, 0], chosen[:, 1]
    else:
        if pattern.prompt is None or pattern.output is None:
            raise ValueError("a pattern without joint lengths has both of its own")
        new = length_at(pattern.prompt, own)
        output = length_at(pattern.output, correlated(own, other, pattern.rank_correlation))
    if pattern.sessions is not None and pattern.sessions.prompt is not None:
        new = np.where(turn > 0, length_at(pattern.sessions.prompt, own), new)
    return new, output


def _system(pattern: RequestPattern, count: int, generator: np.random.Generator) -> Int:
    """Number of the system prompt of every conversation, -1 for none."""
    shared = pattern.system_prompts
    if shared is None:
        return np.full(count, -1)
    # One number says both: below the share one is used, and where below it says which.
    u = generator.random(count) / shared.share
    return np.where(u < 1.0, np.minimum(u * shared.prompts, shared.prompts - 1), -1.0).astype(np.int64)


def _pauses(
    sessions: Sessions,
    turn: Int,
    begins: Int,
    owner: np.ndarray[tuple[int], np.dtype[np.intp]],
    generator: np.random.Generator,
) -> Array:
    """Time from the start of its conversation to every turn [s]: gamma gaps of the mean and variation asked."""
    cv = sessions.think_cv
    drawn = np.ones(len(turn)) if cv == 0.0 else generator.standard_gamma(cv**-2, len(turn)) * cv**2
    reached = np.cumsum(np.where(turn > 0, drawn * sessions.think, 0.0))
    # A sum over many conversations loses digits; it must not bring a turn before the one above it.
    return array(np.maximum(reached - reached[begins][owner], 0.0))


def _shares(pattern: RequestPattern) -> Array:
    """Running shares of the clients, 1 at the end."""
    shares = np.cumsum([client.share for client in pattern.clients])
    return array(shares / shares[-1])


def _both(first: Turns, second: Turns) -> Turns:
    return Turns(
        joined([first.requests, second.requests]),
        np.concatenate([first.text, second.text]),
        np.concatenate([first.system, second.system]),
    )
