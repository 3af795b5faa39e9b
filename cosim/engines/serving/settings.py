"""What a scheduler, a pool of replicas and a cluster are told: frozen, checked once, plain numbers.

All of it is asked for by whoever simulates; nothing here is about a chip. Times in seconds, sizes in tokens, KV in
blocks, bytes where a link is crossed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cosim.engines.serving.layout import USUAL, Held, Layout
from cosim.engines.serving.table import StepTable
from cosim.errors import SpecError, nearest

Batching = Literal["chunked", "prefill_first", "static"]
Policy = Literal["first_come", "priority", "fair", "shortest"]
Reserve = Literal["grown", "whole"]
"""Room that a sequence is admitted with: for its prompt, and blocks as it grows, or for its whole answer at once."""
Routing = Literal["round_robin", "random", "least_loaded", "least_kv", "power_of_two", "prefix_aware", "session_sticky"]


@dataclass(frozen=True, slots=True)
class Speculation:
    """Drafts of each decoding sequence and step. `acceptance` [drafts]: chance at a position if all before it held.

    `expected` lets every sequence advance by the mean instead of by chance. Drafts by n-gram cost nothing, others what
    the table's `draft_s` says.
    """

    acceptance: tuple[float, ...]
    expected: bool = False
    n_gram: bool = False

    def __post_init__(self) -> None:
        if not self.acceptance:
            raise SpecError("has no position", field="speculation.acceptance", hint="give a chance for each draft")
        for chance in self.acceptance:
            _between("speculation.acceptance", chance, 0.0, 1.0)

    @property
    def drafts(self) -> int:
        """Draft tokens of a step."""
        return len(self.acceptance)

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a step: 1 + a1 + a1 a2 + ..."""
        return 1.0 + sum(math.prod(self.acceptance[: count + 1]) for count in range(self.drafts))


@dataclass(frozen=True, slots=True)
class Swap:
    """Sequences that lose their place move to the host, which is large: bytes of a token's KV, bytes/s of the link.

    `held` tells the bytes of models that keep windows or states, in place of `token_bytes`.
    """

    token_bytes: float
    bandwidth: float
    held: Held | None = None

    def __post_init__(self) -> None:
        _above("swap.token_bytes", self.token_bytes)
        _above("swap.bandwidth", self.bandwidth)

    def seconds(self, tokens: float) -> float:
        """Of moving so many tokens one way."""
        return _moved_bytes(tokens, self.token_bytes, self.held) / self.bandwidth


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One replica's scheduler.

    `token_budget` of a step, `max_sequences` in a batch, `kv_blocks` of `block_tokens` each, `watermark` share of them
    that admission leaves free. `prefix_tokens` of a block of shared prefixes, 0 without a cache. `ageing_s` of waiting
    outweigh one class of priority, or 1,000 prompt tokens where the shortest goes first. `output_weight` of a
    generated token in fair shares, where a prompt token counts 1. `max_context` refuses longer requests. `layout` is
    what a sequence takes of the cache, `reserve` how much of it at its admission: a static batch has room for all.
    `piece_tokens` are the most of one prompt in a step where prompts are cut, 0 for the whole budget: of ranks that
    have sequences of their own, the budget of one.
    """

    kv_blocks: int
    batching: Batching = "chunked"
    policy: Policy = "first_come"
    token_budget: int = 2048
    max_sequences: int = 256
    block_tokens: int = 16
    watermark: float = 0.01
    swap: Swap | None = None
    prefix_tokens: int = 0
    ageing_s: float = 60.0
    output_weight: float = 2.0
    max_context: int | None = None
    speculation: Speculation | None = None
    jump: bool = True
    layout: Layout = USUAL
    reserve: Reserve = "grown"
    piece_tokens: int = 0

    def __post_init__(self) -> None:
        _known("batching", self.batching, get_args(Batching))
        _known("reserve", self.reserve, get_args(Reserve))
        _known("policy", self.policy, get_args(Policy))
        for name in ("kv_blocks", "token_budget", "max_sequences", "block_tokens"):
            _count(name, getattr(self, name), 1)
        _count("prefix_tokens", self.prefix_tokens, 0)
        _count("piece_tokens", self.piece_tokens, 0)
        _between("watermark", self.watermark, 0.0, 1.0, below=True)
        _above("ageing_s", self.ageing_s)
        _above("output_weight", self.output_weight)
        if self.max_context is not None:
            _count("max_context", self.max_context, 2)
        if self.prefix_tokens % self.block_tokens:
            hint = f"give a multiple of block_tokens, {self.block_tokens}"
            raise SpecError("does not fill blocks", field="prefix_tokens", value=self.prefix_tokens, hint=hint)
        if self.prefix_tokens and not self.layout.far:
            hint = "set prefix_tokens to 0: no layer keeps all of a text"
            raise SpecError("has nothing to share", field="prefix_tokens", value=self.prefix_tokens, hint=hint)
        least = self.max_sequences * self.verified
        if self.batching == "chunked" and self.token_budget < least:
            hint = f"a batch that only decodes takes {least}: give more, or fewer max_sequences"
            raise SpecError("is too small", field="token_budget", value=self.token_budget, hint=hint)
        if self.batching == "static" and self.speculation is not None:
            raise SpecError("does not go with static batching", field="speculation")

    @property
    def verified(self) -> int:
        """Tokens of a decoding sequence in a step."""
        return 1 + (self.speculation.drafts if self.speculation else 0)

    @property
    def longest_piece(self) -> int:
        """Most tokens of one prompt in a step."""
        cut = self.batching == "chunked" and self.piece_tokens
        return min(self.piece_tokens, self.token_budget) if cut else self.token_budget

    @property
    def whole(self) -> bool:
        """Whether a sequence has room for its whole answer from its admission on, so that nobody gives way."""
        return self.reserve == "whole" or self.batching == "static"

    def blocks(self, tokens: int) -> int:
        """Blocks of the cache that a sequence of so many tokens takes."""
        return self.layout.blocks(tokens, self.block_tokens)

    @property
    def watermark_blocks(self) -> int:
        """Blocks that admission leaves free."""
        return int(self.watermark * self.kv_blocks)


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas that are alike: their steps, their scheduler, how many there are at the start."""

    table: StepTable
    scheduler: Scheduler
    replicas: int = 1

    def __post_init__(self) -> None:
        _count("replicas", self.replicas, 1)
        speculation = self.scheduler.speculation
        if speculation and not speculation.n_gram and self.table.draft_s is None:
            raise SpecError("is missing", field="table.draft_s", hint="give seconds of a draft token, or n_gram drafts")


@dataclass(frozen=True, slots=True)
class Transfer:
    """KV from prefill to decode replicas: latency, bytes/s of a link, bytes of a token, transfers at a time in all.

    `held` tells the bytes of models that keep windows or states, in place of `token_bytes`.
    """

    latency_s: float
    bandwidth: float
    token_bytes: float
    concurrent: int = 1
    held: Held | None = None

    def __post_init__(self) -> None:
        _between("transfer.latency_s", self.latency_s, 0.0, math.inf, below=True)
        _above("transfer.bandwidth", self.bandwidth)
        _above("transfer.token_bytes", self.token_bytes)
        _count("transfer.concurrent", self.concurrent, 1)

    def seconds(self, tokens: float) -> float:
        """Of one transfer: latency + bytes / bandwidth."""
        return self.latency_s + _moved_bytes(tokens, self.token_bytes, self.held) / self.bandwidth


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Replicas follow `measure`: requests that wait for each replica, or the share of time that replicas work.

    Every `interval_s` it is held against `target`; a new replica takes `start_s`; `cool_down_s` pass between changes.
    """

    measure: Literal["queue", "utilisation"]
    target: float
    least: int
    most: int
    interval_s: float
    start_s: float
    cool_down_s: float

    def __post_init__(self) -> None:
        _known("autoscale.measure", self.measure, ("queue", "utilisation"))
        _above("autoscale.target", self.target)
        if self.measure == "utilisation":
            _between("autoscale.target", self.target, 0.0, 1.0)
        _count("autoscale.least", self.least, 1)
        _count("autoscale.most", self.most, self.least)
        _above("autoscale.interval_s", self.interval_s)
        for name in ("start_s", "cool_down_s"):
            _between(f"autoscale.{name}", getattr(self, name), 0.0, math.inf, below=True)


@dataclass(frozen=True, slots=True)
class Failures:
    """Replicas fail and are repaired after exponential times of these means."""

    mean_up_s: float
    mean_repair_s: float

    def __post_init__(self) -> None:
        _above("failures.mean_up_s", self.mean_up_s)
        _above("failures.mean_repair_s", self.mean_repair_s)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many clients; each sends its next request `think_s` after the answer to its last one."""

    concurrency: int
    think_s: float = 0.0
    total: int | None = None

    def __post_init__(self) -> None:
        _count("closed_loop.concurrency", self.concurrency, 1)
        _between("closed_loop.think_s", self.think_s, 0.0, math.inf, below=True)
        if self.total is not None:
            _count("closed_loop.total", self.total, 1)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What serves: a pool, one before it that only prefills where they are apart, and what moves between them.

    Failures and autoscaling are of `pool`.
    """

    pool: Pool
    routing: Routing = "round_robin"
    prefill: Pool | None = None
    transfer: Transfer | None = None
    autoscale: Autoscale | None = None
    failures: Failures | None = None

    def __post_init__(self) -> None:
        _known("routing", self.routing, get_args(Routing))
        if (self.prefill is None) is not (self.transfer is None):
            lacks = "transfer" if self.transfer is None else "prefill"
            raise SpecError("is missing", field=lacks, hint="a prefill pool and its transfer go together")
        if self.prefill is not None:
            for name, scheduler in (("pool", self.pool.scheduler), ("prefill", self.prefill.scheduler)):
                if scheduler.batching == "static":
                    raise SpecError("cannot be static where prefill is apart", field=f"{name}.scheduler.batching")
        if self.routing == "prefix_aware" and not self.entry.scheduler.prefix_tokens:
            hint = "set scheduler.prefix_cache, or prefix_tokens of a Scheduler"
            raise SpecError("needs a prefix cache", field="routing", value=self.routing, hint=hint)
        scale = self.autoscale
        if scale is not None and not scale.least <= self.pool.replicas <= scale.most:
            hint = f"start between {scale.least} and {scale.most}"
            raise SpecError("is outside of autoscaling", field="replicas", value=self.pool.replicas, hint=hint)

    @property
    def entry(self) -> Pool:
        """The pool that requests come to first."""
        return self.prefill if self.prefill is not None else self.pool


def _moved_bytes(tokens: float, token_bytes: float, held: Held | None) -> float:
    return tokens * token_bytes if held is None else held.bytes(tokens)


def _known(field: str, value: str, names: Sequence[str]) -> None:
    if value not in names:
        raise SpecError("is not known", field=field, value=value, hint=nearest(str(value), names))


def _count(field: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SpecError("is not such a number", field=field, value=value, hint=f"give a whole number from {least}")


def _above(field: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise SpecError("is not such a number", field=field, value=value, hint="give a number above 0")


def _between(field: str, value: float, least: float, most: float, *, below: bool = False) -> None:
    if not (least <= value < most if below else least <= value <= most):
        span = f"from {least:g} to {'below ' if below else ''}{most:g}"
        raise SpecError("is out of range", field=field, value=value, hint=f"give a number {span}")
