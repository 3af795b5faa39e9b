"""What deployments reach in closed form: memory first, then latencies, rate, energy, cost; and the limits they break.

    tokens_per_s           requests per second x answer, over all replicas
    tokens_per_s_per_user  1 / tpot
    energy of a request    pieces x (step with a piece - step without) + (answer - 1) x decode step / sequences
    usd_per_million_tokens 1e6 x (chips x price of a second / tokens_per_s + price of a joule x joules per token)

Joules are those of the facility. A row that breaks a limit has the first of them in the order of LIMITS, with what
lacks; what memory refuses is never timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case
from cosim.engines.served import Demand, Served, in_flight, static_batch
from cosim.engines.served_memory import room
from cosim.explore.serving.deployments import Cell, Ground, Table, case_of, demand_of, kept
from cosim.explore.serving.search_file import ServingSearch
from cosim.records import Array, array, joined, map_leaves, points, take
from cosim.workload.work import Work

LIMITS = ("", "memory", "token_budget", "ttft_limit", "tpot_limit")
"""In the order in which they are asked."""
UNITS = {
    "memory": "B of a chip",
    "token_budget": "token of a step",
    "ttft_limit": "s",
    "tpot_limit": "s",
}
MILLION = 1e6
ROUNDING = 1e-9
NONE = array(0.0)
Codes = NDArray[np.int64]
Steps = Callable[[Sequence[Work]], tuple[list[Array], list[Array]]]
"""Seconds and joules of one step of each of several works, (P,) each."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of P deployments, (P,) each: the first limit that is broken (0: none) and what lacks; NaN where not known."""

    code: Codes
    shortfall: Array
    ttft_s: Array
    tpot_s: Array
    requests_per_s: Array
    joules_per_request: Array
    """Of the facility."""

    @property
    def fits(self) -> NDArray[np.bool_]:
        """What breaks no limit."""
        passed: NDArray[np.bool_] = self.code == 0
        return passed


def blank(count: int) -> Scores:
    """Scores of which nothing is known."""
    return Scores(np.zeros(count, dtype=np.int64), *(np.full(count, np.nan) for _ in range(5)))


def broken(scores: Scores, name: str, lacks: Array) -> None:
    """Notes limit `name` where nothing was broken yet and something lacks (above 0), in place."""
    new = (scores.code == 0) & (lacks > 0.0)
    scores.code[new] = LIMITS.index(name)
    scores.shortfall[new] = np.broadcast_to(lacks, new.shape)[new]


def scored_together(cell: Cell, table: Table, ground: Ground, study: ServingSearch) -> Scores:
    """Deployments whose replicas do prompts and answers."""
    scores = blank(len(table["tensor"]))
    case, demand = case_of(cell, table, ground), demand_of(table, ground)
    broken(scores, "memory", memory_lacks(case, table["max_sequences"], ground))
    broken(scores, "token_budget", budget_lacks(table, ground))
    rows = np.flatnonzero(scores.fits)
    if rows.size:
        served = _served(take(case, rows), take(demand, rows), ground)
        scores.ttft_s[rows], scores.tpot_s[rows] = served.ttft, served.tpot
        scores.requests_per_s[rows] = served.rate * table["replicas"][rows]
        steps = partial(steps_of, take(case, rows))
        scores.joules_per_request[rows] = joules_of_request(steps, kept(table, rows), ground)
    within(scores, study)
    return scores


def within(scores: Scores, study: ServingSearch) -> None:
    """Notes the limits of time that are broken, in place."""
    for name, seconds in (("ttft_limit", scores.ttft_s), ("tpot_limit", scores.tpot_s)):
        limit = getattr(study, name)
        if limit is not None:
            # A rate that is chosen so that the limit is just kept may pass it by a rounding.
            kept_to = np.isnan(seconds) | (seconds <= limit * (1.0 + ROUNDING))
            broken(scores, name, np.where(kept_to, 0.0, seconds - limit))


def memory_lacks(case: Case, sequences: Array, ground: Ground) -> Array:
    """Bytes that the fullest chip lacks for so many sequences of a rank; below 0 are left."""
    held = room(case, array(ground.held_tokens))
    return sequences * held.per_sequence - held.left


def budget_lacks(table: Table, ground: Ground) -> Array:
    """Tokens that a step lacks, or for a whole prompt where prompts are not cut.

    In a steady state the steps of an answer, of which there are output - 1, carry the prompts of the n - 1 others, each
    in k pieces: k = floor((output - 1) / (n - 1)) at the most, so a step takes n + prompt / k tokens. Where more
    sequences end than an answer has steps, several prompts go into one: n (1 + prompt / output). In smaller steps
    prompts pile up, however short these are.
    """
    if ground.stack.policy != "chunked":
        return ground.prompt - table["token_budget"]
    own = table["max_sequences"]
    pieces = np.floor((ground.output - 1.0) / np.maximum(own - 1.0, 1.0))
    several = own * (1.0 + ground.prompt / ground.output)
    need = np.where(pieces >= 1.0, own + ground.prompt / np.maximum(pieces, 1.0), several)
    return np.where(own > 1.0, need, 1.0) - table["token_budget"]


def steps_of(case: Case, works: Sequence[Work]) -> tuple[list[Array], list[Array]]:
    """Seconds of one step of each of `works`, and joules of the facility, (P,) each, all of them in one call."""
    total, count = points(case), len(works)
    total = max(total, *(points(work) for work in works))
    whole = [map_leaves(work, lambda leaf: np.broadcast_to(leaf, (total,))) for work in works]
    index = np.tile(np.arange(total, dtype=np.intp), count)
    timed, _ = timed_step(replace(take(case, index), work=joined(whole)))
    both = (np.broadcast_to(timed[name], (count * total,)) for name in ("time", "facility_energy"))
    seconds, joules = (list(each.reshape(count, total)) for each in both)
    return seconds, joules


def _served(case: Case, demand: Demand, ground: Ground) -> Served:
    return static_batch(case, demand) if ground.stack.policy == "static" else in_flight(case, demand)


def joules_of_request(steps: Steps, table: Table, ground: Ground) -> Array:
    """Joules of a request: what its prompt adds to the steps that carry it, and its share of its decode steps."""
    own, data = table["max_sequences"], table["data"]
    mean = array(ground.prompt + ground.output / 2.0)
    beside = own if ground.stack.policy == "chunked" else array(0.0)
    pieces = np.maximum(np.ceil(ground.prompt / np.maximum(table["token_budget"] - beside, 1.0)), 1.0)
    piece, past = ground.prompt / pieces, ground.prompt * (1.0 - 1.0 / pieces) / 2.0
    flying = own * data
    others = np.maximum(own - 1.0, 0.0) * data if ground.stack.policy == "chunked" else 0.0 * flying
    decode = Work(NONE, NONE, NONE, flying, mean, flying)
    fewer = replace(decode, decodes=np.maximum(others, data), sampled=np.maximum(others, data))
    mixed = Work(data, piece, past, others, mean, others + data / pieces)
    _, (step, less, filled) = steps([decode, fewer, mixed])
    prompt = pieces * (filled - np.where(others > 0.0, less, 0.0)) / data
    return prompt + (ground.output - 1.0) * step / flying


def columns_of(cell: Cell, table: Table, scores: Scores, ground: Ground) -> Table:
    """What a deployment is judged by, (P,) each."""
    money, chips = cell.machine.money, float(ground.chips)
    tokens = scores.requests_per_s * ground.output
    joules = scores.joules_per_request / ground.output
    usd = MILLION * (chips * money.usd_per_chip_s / tokens + money.usd_per_j * joules)
    flying = table["replicas"] * table["max_sequences"] * table["data"]
    if "prefill_replicas" in table:
        # Those whose prompts are done are in flight as well: rate x time from end to end.
        flying = np.round(scores.requests_per_s * (scores.ttft_s + (ground.output - 1.0) * scores.tpot_s))
        flying = np.maximum(flying, 1.0)
    return {
        "ttft_s": scores.ttft_s,
        "tpot_s": scores.tpot_s,
        "requests_per_s": scores.requests_per_s,
        "tokens_per_s": tokens,
        "tokens_per_s_per_chip": tokens / chips,
        "tokens_per_s_per_user": 1.0 / scores.tpot_s,
        "tokens_per_j": 1.0 / joules,
        "usd_per_million_tokens": usd,
        "concurrency": flying,
    }
