"""A deployment as a cluster of the event simulation, and what requests see there at a concurrency or a rate.

The first requests find an empty cluster, the last a draining one: neither counts. The front end's time is in every
first token, and between an answer and the next request of a loop. Same seed, same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cosim.engines.case import Case
from cosim.engines.serving.cluster import serve
from cosim.engines.serving.layout import Layout
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.result import Record
from cosim.engines.serving.settings import Batching, ClosedLoop, Cluster, Pool, Scheduler, Transfer
from cosim.engines.serving.steps import kv_layout, split_table, step_table
from cosim.errors import SpecError
from cosim.explore.serving.deployments import Cell, Ground, case_of
from cosim.explore.serving.metrics import percentiles
from cosim.explore.serving.pools import transfer_of
from cosim.explore.serving.records import latencies, later, of_tuples, steady
from cosim.explore.serving.split_space import FORWARD, split_cases
from cosim.records import Array, array

BLOCK = 16
"""Tokens of a block of the cache."""
WARM, COOL = 0.3, 0.2
"""Shares of the requests, by arrival, that do not count."""
WAVES = 5
"""Requests in all over those in flight, at the least."""
BATCHING: dict[str, Batching] = {"chunked": "chunked", "first": "prefill_first", "static": "static"}
LATE = 0.05
"""Share of all requests that may still wait for their first step when the last one comes."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests one by one: gaps between arrivals at one request a second [s], tokens; (N,) each."""

    gaps: Array
    prompt: Array
    output: Array
    start_s: float = 0.0
    """From the arrival of each to the scheduler, and from its token back: the front end."""
    start_steps: float = 0.0
    """The same in steps of the request."""

    def at_rate(self, rate: float) -> Chunk:
        """The same requests at `rate` per second: only the clock changes."""
        prompt, output = self.prompt.astype(np.int64), self.output.astype(np.int64)
        return Chunk(np.cumsum(self.gaps) / rate, prompt, output)

    def __len__(self) -> int:
        return len(self.gaps)


@dataclass(frozen=True, slots=True)
class Seen:
    """What requests saw: latencies [s] by statistic (mean, p50, ...), and how many were served per second."""

    ttft_s: Mapping[str, float]
    tpot_s: Mapping[str, float]
    requests_per_s: float
    kept_up: bool
    """Whether few requests still waited when the last one came."""
    preemptions: int
    requests: int


def poisson_requests(
    prompt: float, output: float, count: int, seed: int, start_s: float = 0.0, start_steps: float = 0.0
) -> Requests:
    """`count` requests of one length whose gaps are exponential, a second on average."""
    gaps = np.random.default_rng(seed).exponential(1.0, count)
    return Requests(gaps, np.full(count, prompt), np.full(count, output), start_s, start_steps)


def cluster_of(cell: Cell, row: Mapping[str, float], ground: Ground) -> Cluster:
    """A deployment as the event simulation takes it; requests go where the least is outstanding."""
    answers = _pool(cell, row, ground, "")
    if not row["apart"]:
        return Cluster(answers, routing="least_loaded")
    prompts = _pool(cell, row, ground, "prefill_")
    degrees = ("tensor", "pipeline")
    first, second = ({name: array(row[f"{side}{name}"]) for name in degrees} for side in ("prefill_", ""))
    move = transfer_of(cell, first, second, ground)
    pairs = int(min(row["replicas"], row["prefill_replicas"]))
    moved = Transfer(float(move.latency_s), float(move.bandwidth), float(move.token_bytes), pairs)
    return Cluster(answers, routing="least_loaded", prefill=prompts, transfer=moved)


def _pool(cell: Cell, row: Mapping[str, float], ground: Ground, side: str) -> Pool:
    """The replicas of one pool: their steps, their scheduler."""
    names = ("tensor", "pipeline", "data", "expert")
    degrees = {name: array(row[f"{side}{name}"]) for name in names}
    budget = row.get(f"{side}token_budget", float(ground.stack.token_budget))
    table = {**degrees, "token_budget": array(budget)}
    split = None
    if "forward_tensor" in row:
        split = split_cases(cell, {**table, **{name: array(row[name]) for name in FORWARD}}, ground)
    case = case_of(cell, table, ground) if split is None else split.attention
    ranks = row[f"{side}data"]
    most = float(ground.stack.max_sequences) if side else row["max_sequences"]
    # The scheduler asks for a token of each sequence in a step.
    sequences, tokens = int(min(most, budget) * ranks), int(budget * ranks)
    blocks, layout = _cache(case)
    scheduler = Scheduler(
        kv_blocks=blocks,
        batching=BATCHING[ground.stack.policy],
        token_budget=tokens,
        max_sequences=sequences,
        block_tokens=BLOCK,
        layout=layout,
        piece_tokens=int(budget) if ranks > 1 else 0,
        reserve="whole" if ground.stack.reserves_whole and not side else "grown",
    )
    longest = int(ground.prompt + ground.output)
    if split is None:
        steps = step_table(case, most_tokens=tokens, most_context=longest, piece=scheduler.longest_piece)
    else:
        steps = split_table(split, most_tokens=tokens, most_context=longest, piece=scheduler.longest_piece)
    return Pool(steps, scheduler, int(row[f"{side}replicas"]))


def _cache(case: Case) -> tuple[int, Layout]:
    """Blocks of the cache of a replica, and what a sequence takes of them. Raises SpecError where it holds none."""
    blocks, layout = kv_layout(case, BLOCK)
    if blocks < layout.blocks(1, BLOCK):
        raise SpecError("holds no block of the cache", field="memory", hint="use more chips or a narrower format")
    return blocks, layout


def in_loop(cluster: Cluster, requests: Requests, concurrency: int, seed: int) -> Seen:
    """What requests see of which `concurrency` are always in flight. Raises SpecError for more than there are."""
    if concurrency > len(requests):
        raise SpecError("is more than there are requests", field="concurrency", value=concurrency)
    return _seen(cluster, requests, 1.0, seed, ClosedLoop(concurrency, requests.start_s, len(requests)))


def at_rate(cluster: Cluster, requests: Requests, rate: float, seed: int) -> Seen:
    """What requests see that come at `rate` per second."""
    return _seen(cluster, requests, rate, seed, None)


def _seen(cluster: Cluster, requests: Requests, rate: float, seed: int, loop: ClosedLoop | None) -> Seen:
    rows: list[Record] = []
    random = np.random.default_rng(seed)
    run = serve(cluster, [requests.at_rate(rate)], random, closed_loop=loop, records=rows.extend)
    if run.refused:
        reason = next(iter(run.refused))
        raise SpecError("refuses requests", field=reason, hint=f"{run.refused[reason]} of {run.requests}")
    served = of_tuples(rows)
    late = float(np.mean(served.scheduled_s > served.arrival_s.max()))
    own = latencies(steady(later(served, requests.start_s, requests.start_steps), WARM, COOL))
    return Seen(
        percentiles(own["ttft_s"]),
        percentiles(own["tpot_s"]),
        _rate(np.sort(served.finished_s)),
        late <= LATE,
        run.preemptions,
        len(served),
    )


def _rate(finished: Array) -> float:
    """Requests that end per second between the warm-up and the end."""
    first, last = int(len(finished) * WARM), int(len(finished) * (1.0 - COOL)) - 1
    span = float(finished[last] - finished[first])
    return (last - first) / span if span > 0.0 else float("nan")
