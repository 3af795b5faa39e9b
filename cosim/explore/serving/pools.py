"""Prompts and answers on replicas apart, in closed form: a plan of each pool, replicas of each that leave no chip over.

    prompts   one after the other:  T = pieces x step of a piece;  a replica does data / T of them a second
    answers   n in flight:  cycle = half a step + (answer - 1) steps;  a replica ends n / cycle of them a second
    rate      the least of what answers end, what prompts are done while the queue keeps the limit, what the links move
    ttft      start + T + rho T / (2 (1 - rho)), the queue of one server and equal jobs;  rho = rate T / (replicas data)
    tpot      step + (moving the cache + its queue + half a step) / (answer - 1)

So the queue of prompts keeps ttft at rho = 2 w / (T + 2 w) or less, w the wait that the limit leaves, and at BUSIEST
or less in any case. Where the prompts set the rate, fewer than n are in flight: their step is taken as that of n. The
cache moves over the innermost tier that joins the chips, one copy side by side between the ranks of the smaller
replica, and on to ranks that hold the same (see `cosim.explore.serving.transfer`), a transfer at a time for each pair
of replicas. Of plans of a pool that take as many chips only those go into pairs that no other beats
in both T, or the step, and the rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cosim.engines.case import Case
from cosim.engines.served_memory import room
from cosim.errors import SpecError
from cosim.explore.pareto import pareto
from cosim.explore.serving.deployments import Cell, Ground, Table, case_of, crossed, kept, size_of
from cosim.explore.serving.scores import NONE, Scores, blank, broken, memory_lacks, steps_of, within
from cosim.explore.serving.search_file import ServingSearch
from cosim.explore.serving.transfer import gathered
from cosim.records import Array, array, joined, take
from cosim.timing.collective import send
from cosim.workload.work import Work

BUSIEST = 0.95
"""Share of their time that prompts and links are busy at the most: a queue at one of all the time has no end."""
MOST = 5_000_000
"""Pairs of plans that are tried at the most."""
FIRST = ("tensor", "pipeline", "data", "expert", "token_budget")
"""What the plan of the pool of prompts says, as prefill_tensor and so on."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Moving the cache of a prompt: latency [s], bytes per second of a pair of ranks, their bytes of a token."""

    latency_s: Array
    bandwidth: Array
    token_bytes: Array

    def seconds(self, tokens: float) -> Array:
        """Of so many tokens."""
        found: Array = self.latency_s + tokens * self.token_bytes / self.bandwidth
        return found


def scored_apart(
    cell: Cell, replicas: Table, levels: dict[str, list[int]], ground: Ground, study: ServingSearch
) -> tuple[Table, Scores]:
    """Deployments with a pool of prompts apart, and replicas of either pool that memory refuses. Raises SpecError."""
    small = kept(replicas, size_of(replicas) < ground.chips)
    prompts = crossed(small, token_budget=levels["token_budget"])
    answers = crossed(small, max_sequences=levels["max_sequences"])
    if not small["tensor"].size:
        return _paired(answers, prompts, np.zeros((3, 0))), blank(0)
    first, refused_first = _prompts(cell, prompts, ground)
    second, refused = _answers(cell, answers, ground)
    pairs = _pairs(first, second, ground, study)
    table = _paired(second, first, pairs)
    scores = _matched(cell, first, second, pairs, ground, study.ttft_limit or np.inf)
    _idle(cell, table, scores, kept(first, pairs[0].astype(np.intp)), ground)
    within(scores, study)
    return _with_refused(table, scores, refused_first, refused)


def transfer_of(cell: Cell, first: Table, second: Table, ground: Ground) -> Transfer:
    """Moving caches from the pool of prompts to that of answers: `tensor` and `pipeline` of either."""
    system = cell.machine.system
    held = np.cumprod([float(size) for size in system.sizes])
    tier = int(np.argmax(held >= ground.chips))
    one = {name: array(1.0) for name in ("tensor", "pipeline", "data", "expert")}
    size = room(case_of(cell, one, ground), array(ground.prompt)).per_sequence.reshape(())
    lanes = np.minimum(first["tensor"] * first["pipeline"], second["tensor"] * second["pipeline"])
    start, whole = (
        send(each / lanes, tier, system) + gathered(each, second["tensor"], second["pipeline"], ground.model, system)
        for each in (array(0.0), size)
    )
    return Transfer(start + 0.0 * lanes, size / lanes / (whole - start), size / lanes / ground.prompt)


def _prompts(cell: Cell, table: Table, ground: Ground) -> tuple[Table, tuple[Table, Array]]:
    """Plans of the pool of prompts with `seconds` and `joules` of a prompt of each rank; those that do not fit."""
    case = case_of(cell, table, ground)
    lacks = np.broadcast_to(memory_lacks(case, array(1.0), replace(ground, output=0.0)), table["tensor"].shape)
    fits = lacks <= 0.0
    own, case = kept(table, fits), take(case, np.flatnonzero(fits))
    pieces = np.maximum(np.ceil(ground.prompt / own["token_budget"]), 1.0)
    piece, past = ground.prompt / pieces, ground.prompt * (1.0 - 1.0 / pieces) / 2.0
    data = own["data"]
    seconds, joules = _stepped(case, Work(data, piece, past, NONE, NONE, data / pieces))
    own = own | {"seconds": pieces * seconds, "joules": pieces * joules / data}
    if ground.stack.policy != "chunked":
        own = kept(own, own["token_budget"] >= ground.prompt)
    rate = own["data"] / own["seconds"]
    return kept(own, _fronts(size_of(own), rate, own["seconds"])), (kept(table, ~fits), lacks[~fits])


def _answers(cell: Cell, table: Table, ground: Ground) -> tuple[Table, tuple[Table, Array]]:
    """Plans of the pool of answers with `seconds` and `joules` of a step; those that do not fit."""
    case = case_of(cell, table, ground)
    lacks = np.broadcast_to(memory_lacks(case, table["max_sequences"], ground), table["tensor"].shape)
    fits = lacks <= 0.0
    own, case = kept(table, fits), take(case, np.flatnonzero(fits))
    flying = own["max_sequences"] * own["data"]
    seconds, joules = _stepped(case, Work(NONE, NONE, NONE, flying, array(ground.prompt + ground.output / 2.0), flying))
    own = own | {"seconds": seconds, "joules": joules / flying}
    return kept(own, _fronts(size_of(own), flying / seconds, seconds)), (kept(table, ~fits), lacks[~fits])


def _fronts(size: Array, rate: Array, seconds: Array) -> NDArray[np.intp]:
    """Plans that no other of as many chips beats in both rate and time."""
    found = [np.zeros(0, dtype=np.intp)]
    for each in np.unique(size):
        rows = np.flatnonzero(size == each)
        found.append(rows[pareto(rate[rows], -seconds[rows])])
    return np.concatenate(found)


def _stepped(case: Case, work: Work) -> tuple[Array, Array]:
    if not work.sampled.size:
        return work.sampled, work.sampled
    seconds, joules = steps_of(case, [work])
    return seconds[0], joules[0]


def _pairs(first: Table, second: Table, ground: Ground, study: ServingSearch) -> Array:
    """Index of the plan of prompts, of that of answers, prefill replicas: [3, P]. Raises SpecError where too many."""
    sizes, others = (np.unique(size_of(each)) for each in (first, second))
    asked = array(sorted(study.space.prefill_replicas or range(1, ground.chips)))
    found: list[Array] = [np.zeros((3, 0))]
    count = 0
    for size, other in product(sizes, others):
        left = ground.chips - asked * size
        whole = asked[(left > 0.0) & (np.mod(left, other) == 0.0)]
        one, two = (np.flatnonzero(size_of(each) == own) for each, own in ((first, size), (second, other)))
        count += whole.size * one.size * two.size
        if count > MOST:
            hint = f"at most {MOST:,}: list values of max_sequences, tensor, pipeline or prefill_replicas"
            raise SpecError("holds too many pairs of pools", field="space", value=f"over {count:,}", hint=hint)
        grid = np.meshgrid(array(one), array(two), whole, indexing="ij")
        found.append(np.stack([axis.ravel() for axis in grid]))
    return np.concatenate(found, axis=1)


def _paired(second: Table, first: Table, pairs: Array) -> Table:
    """Deployments: columns of the pool of answers, and those of the pool of prompts as prefill_*."""
    i, j, replicas = pairs[0].astype(np.intp), pairs[1].astype(np.intp), pairs[2]
    own = {name: second[name][j] for name in ("tensor", "pipeline", "data", "expert", "max_sequences")}
    before = {f"prefill_{name}": first[name][i] for name in FIRST}
    return own | before | {"prefill_replicas": replicas, "replicas": np.full_like(replicas, np.nan)}


def _matched(cell: Cell, first: Table, second: Table, pairs: Array, ground: Ground, ttft_limit: float) -> Scores:
    """Latencies and rate of pairs."""
    scores = blank(pairs.shape[1])
    one, two = kept(first, pairs[0].astype(np.intp)), kept(second, pairs[1].astype(np.intp))
    replicas = (ground.chips - pairs[2] * size_of(one)) / size_of(two)
    after, step, took = max(ground.output - 1.0, 0.0), two["seconds"], one["seconds"]
    moved = transfer_of(cell, one, two, ground).seconds(ground.prompt)
    links = np.minimum(pairs[2], replicas)
    start = float(ground.stack.request_start) + float(ground.stack.request_steps) * step
    ended = replicas * two["max_sequences"] * two["data"] / (step / 2.0 + after * step)
    wait = np.maximum(ttft_limit - start - took, 0.0)
    # Where the limit leaves no wait at all it is broken by the prompt itself, whatever the rate.
    busiest = np.where(wait > 0.0, 2.0 / (took / np.maximum(wait, np.finfo(float).tiny) + 2.0), BUSIEST)
    done = np.minimum(busiest, BUSIEST) * pairs[2] * one["data"] / took
    rate = np.minimum(np.minimum(ended, done), BUSIEST * links / moved)
    scores.requests_per_s[:] = rate
    scores.ttft_s[:] = start + took + _queue(rate * took / (pairs[2] * one["data"]), took)
    moving = moved + _queue(rate * moved / links, moved)
    scores.tpot_s[:] = step + (moving + step / 2.0) / max(after, 1.0)
    scores.joules_per_request[:] = one["joules"] + after * two["joules"]
    return scores


def _queue(load: Array, seconds: Array) -> Array:
    """Wait for one server of equal jobs: rho T / (2 (1 - rho))."""
    found: Array = load * seconds / (2.0 * (1.0 - load))
    return found


def _idle(cell: Cell, table: Table, scores: Scores, one: Table, ground: Ground) -> None:
    """Adds what chips of prompts draw while they wait, and fills in replicas, in place."""
    system = cell.machine.system
    chips = table["prefill_replicas"] * size_of(one)
    size = table["tensor"] * table["pipeline"] * table["data"]
    table["replicas"][:] = (ground.chips - chips) / size
    load = scores.requests_per_s * one["seconds"] / (table["prefill_replicas"] * one["data"])
    power = (system.chip.power.idle + system.server_power) * system.pue * chips
    scores.joules_per_request[:] += power * (1.0 - load) / scores.requests_per_s


def _with_refused(
    table: Table, scores: Scores, first: tuple[Table, Array], second: tuple[Table, Array]
) -> tuple[Table, Scores]:
    """The deployments, and after them replicas of either pool that memory refuses, of which the other is not known."""
    parts, lacks = [], []
    for (refused, short), names, prefix in ((first, FIRST, "prefill_"), (second, tuple(second[0]), "")):
        known = {f"{prefix}{name}": refused[name] for name in names}
        parts.append({name: known.get(name, np.full(len(short), np.nan)) for name in table})
        lacks.append(short)
    more = blank(sum(len(each) for each in lacks))
    broken(more, "memory", np.concatenate(lacks))
    whole = {name: np.concatenate([table[name], *(part[name] for part in parts)]) for name in table}
    return whole, joined([scores, more])
