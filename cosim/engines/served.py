"""Served requests in closed form: a batch run to its end, or requests in flight in a steady state.

static     ttft = prompts of the batch, piece by piece;  e2e = ttft + steps of (output - 1) tokens
in flight  c requests of a replica, each of which ends as another begins:
together   prompts that the same steps carry: as many as end in a step; all of a wave where lengths are alike
extra   what the pieces of a prompt add to the steps that carry them (or their own steps, `first`)
tpot    decode step / (1 - extra x prompts per second of the others)
ttft    steps that carry the own prompt + half a step + wait behind others' prompts
cycle   ttft + (output - 1) tpot;  requests per second = c / cycle
alike   requests of one length whose prompts go first come in waves: each waits for half of all prompts
waiting    requests beyond what memory or the stack holds wait for one to end
front end  rate x front of the c requests are in it: a system of room for m is full from m + rate x front requests on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case
from cosim.engines.served_memory import room
from cosim.records import Array, array, joined, map_leaves, points, take
from cosim.workload.work import Work

GAUSS = (0.5 - 0.5 / np.sqrt(3.0), 0.5 + 0.5 / np.sqrt(3.0))
"""Places in the answer at which two steps stand for all: exact for steps that grow as a cubic of the context."""
ALMOST = 1e-6
NONE = array(0.0)


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests alike, leaves (P,): tokens of prompt and answer, requests in flight over the whole system."""

    prompt: Array
    output: Array
    concurrency: Array
    """NaN: as many as the system holds."""
    waves: Array = field(default_factory=lambda: array(np.inf))
    """Requests in all over those in flight. The first of them come at once and wait for each other: what a benchmark
    reports as a mean holds that start; inf is the steady state alone."""
    rate: Array = field(default_factory=lambda: array(np.nan))
    """Requests per second that are offered, inf all at once; NaN where a number is kept in flight."""
    requests: Array = field(default_factory=lambda: array(np.inf))
    """Requests in all at such a rate; inf is the steady state, or a queue that grows without end."""
    alike: bool = False
    """Whether all have the same lengths."""
    spread: Array = field(default_factory=lambda: array(1.0))
    """Mean of the squares of the answers' lengths over the square of their mean: a step finds long ones more often."""

    @property
    def made(self) -> Array:
        """Tokens of its answer that a request has in an average step."""
        return self.spread * self.output / 2.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a request sees [s], (P,): first token, each further one, all of it; requests per second of the system."""

    ttft: Array
    tpot: Array
    e2e: Array
    rate: Array
    held: Array
    """Requests that the engine of a replica holds: of those in flight, the ones past the front end and with room."""
    waits: Array
    """Part of ttft behind other requests."""


Seconds = Callable[[Sequence[Work]], list[Array]]
"""Seconds of one step of each of several works, (P,) each."""


def step_seconds(case: Case, works: Sequence[Work]) -> list[Array]:
    """Seconds of one step of each of `works`, (P,) each, all of them in one call."""
    total, count = points(case), len(works)
    total = max(total, *(points(work) for work in works))
    whole = [map_leaves(work, lambda leaf: np.broadcast_to(leaf, (total,))) for work in works]
    index = np.tile(np.arange(total, dtype=np.intp), count)
    timed, _ = timed_step(replace(take(case, index), work=joined(whole)))
    return list(np.broadcast_to(timed["time"], (count * total,)).reshape(count, total))


def static_batch(case: Case, demand: Demand) -> Served:
    """A batch that is formed, filled and run to its end, inside the engine: no front end is in it."""
    batch, prompt, output = demand.concurrency, demand.prompt, demand.output
    pieces, piece, past = _pieces(case, batch * prompt, prompt)
    # Of no prompt nothing is taken: its step is of one token.
    fill = Work(batch, np.maximum(piece, 1.0), past, NONE, NONE, batch / pieces)
    steps = [Work(NONE, NONE, NONE, batch, prompt + 1.0 + g * np.maximum(output - 2.0, 0.0), batch) for g in GAUSS]
    first, early, late = step_seconds(case, [fill, *steps])
    ttft = np.where(prompt > 0.0, pieces * first, 0.0)
    tpot = (early + late) / 2.0
    after = np.where(prompt > 0.0, np.maximum(output - 1.0, 0.0), output)
    # Networks have no answer to go on with.
    e2e = ttft + np.where(after > 0.0, after * tpot, 0.0)
    return Served(ttft, tpot, e2e, batch / e2e, batch / case.plan.data + 0.0 * e2e, np.zeros_like(ttft))


def _pieces(case: Case, tokens: Array, prompt: Array) -> tuple[Array, Array, Array]:
    """Steps that `tokens` of whole prompts take, tokens of a prompt in each, what it has in the cache on average."""
    stack = case.stack
    if stack is None or stack.policy == "static":
        return np.ones_like(tokens), prompt, np.zeros_like(prompt)
    budget = stack.token_budget * case.plan.data
    pieces = np.maximum(np.ceil(tokens / budget), 1.0)
    # More prompts than one are filled one after the other, each in as few pieces as it takes.
    own = np.minimum(np.maximum(np.ceil(prompt / stack.token_budget), 1.0), pieces)
    return pieces, prompt / pieces, prompt * (1.0 - 1.0 / own) / 2.0


def in_flight(case: Case, demand: Demand, seconds: Seconds | None = None) -> Served:
    """Requests at a fixed concurrency in their steady state; NaN is as many as the system holds.

    `seconds` of steps that are not those of `case`, which tells what is held and how it is batched.
    """
    most = holds(case, demand)
    asked = np.where(np.isnan(demand.concurrency), most, np.maximum(demand.concurrency / case.plan.data, 1.0))
    own = np.minimum(asked, most)
    return steady(case, demand, flight_steps(case, demand, own, seconds), own, asked)


def holds(case: Case, demand: Demand) -> Array:
    """Requests that a replica holds at once, at least one: what its memory and its stack let it.

    NaN where not even the weights fit.
    """
    stack = case.stack
    if not case.model.keeps_cache:
        return np.full(demand.prompt.shape, 256.0)
    answer = demand.spread * demand.output if stack is not None and stack.reserves_whole else demand.made
    held = room(case, demand.prompt + answer)
    found = held.sequences
    if stack is not None:
        found = np.minimum(found, stack.max_sequences)
    return np.where(held.weights > case.system.chip.memory["dram"].shown, np.nan, np.maximum(found, 1.0))


@dataclass(frozen=True, slots=True)
class FlightSteps:
    """Seconds, (P,): of a decode step of all, what a prompt adds to others' steps, of the steps that carry it.

    `together` prompts are carried by the same steps.
    """

    step: Array
    extra: Array
    carried: Array
    together: Array
    mixed: Array
    """One step where every step carries prompts."""
    least: Array
    """Such steps for each prompt."""
    at_once: Array
    """Prompts that a step takes where more than that come at once."""


def flight_steps(case: Case, demand: Demand, own: Array, seconds: Seconds | None = None) -> FlightSteps:
    """Steps of `own` requests of a replica; `seconds` as in `in_flight`."""
    stack, data = case.stack, case.plan.data
    prompt, mean = demand.prompt, demand.prompt + demand.made
    apart = stack is not None and stack.policy == "first"
    budget = array(np.inf) if stack is None else stack.token_budget
    # As many begin in a step as end in it; those that began as one end as one and so stay together.
    come = own if demand.alike else own / np.maximum(demand.output, 1.0)
    together = np.clip(come, 1.0, np.maximum(np.minimum(own, budget / np.maximum(prompt, 1.0)), 1.0))
    # No more run beside prompts than begin while one runs, nor than leave the tokens of a step to as many prompts.
    part = demand.output / np.maximum(demand.output + prompt, 1.0)
    beside = np.minimum(np.minimum(own, np.maximum(demand.output, 1.0) * together), budget * part)
    free = np.maximum(budget - (0.0 if apart else beside), 1.0)
    pieces = np.maximum(np.ceil(prompt / free), 1.0)
    piece, past = np.maximum(prompt / pieces, 1.0), prompt * (1.0 - 1.0 / pieces) / 2.0
    together = np.minimum(together, np.maximum(free / np.maximum(prompt, 1.0), 1.0))
    others = np.zeros_like(own) if apart else (own - together) * data
    decode = Work(NONE, NONE, NONE, own * data, mean, own * data)
    fewer = Work(NONE, NONE, NONE, np.maximum(others, data), mean, np.maximum(others, data))
    mixed = Work(together * data + 0.0 * own, piece, past, others, mean, others + together * data / pieces)
    bare = Work(together * data + 0.0 * own, piece, past, NONE, NONE, together * data / pieces)
    timed = partial(step_seconds, case) if seconds is None else seconds
    step, less, filled, alone = timed([decode, fewer, mixed, bare])
    extra = pieces * np.maximum(filled - np.where(others > 0.0, less, 0.0), 0.0) / together
    # Where every step carries prompts, so many answers run beside them as begin while one runs.
    beside = np.minimum(np.maximum(demand.output - 1.0, 0.0) * together / pieces / np.maximum(others / data, 1.0), 1.0)
    every = alone + np.maximum(filled - alone, 0.0) * beside
    at_once = np.clip(budget / np.maximum(prompt, 1.0), 1.0, own)
    return FlightSteps(step, extra, pieces * filled, together, every, pieces / together * every, at_once)


def front_seconds(case: Case, step: Array) -> Array:
    """From the arrival of a request to the step that takes it, and from its token back, where a step takes `step`."""
    return array(0.0) if case.stack is None else case.stack.request_start + case.stack.request_steps * step


def steady(case: Case, demand: Demand, seconds: FlightSteps, own: Array, asked: Array) -> Served:
    """The steady state of a replica that holds at most `own` of the `asked` requests.

    In a cycle every request sees its own prompt, its own steps, and what the prompts of all others add to them: that
    part of it is told to the first token which queues at their rate would put there. With T = max(the request inside
    the engine, own x least), seconds of a full engine, and rate x front of the requests in the front end:
        cycle = max(front + request inside, asked T / own);  held = min(own, asked - rate x front)
    """
    step, extra, carried = seconds.step, seconds.extra, seconds.carried
    after = np.maximum(demand.output - 1.0, 0.0)
    others = np.maximum(own - seconds.together, 0.0) * extra
    mean = np.minimum(step + others / np.maximum(after, 1.0), np.maximum(seconds.mixed, step))
    start = front_seconds(case, mean)
    half = np.where(own > 1.0, step / 2.0, 0.0)
    free = carried + half + after * step + others
    # No cycle is shorter than the steps that carry the prompts of all.
    full = np.maximum(free, own * seconds.least)
    # As many as the system holds: the front end brings up the next in time.
    wanted = np.where(np.isnan(demand.concurrency), own + own / full * start, asked)
    cycle = np.maximum(start + free, wanted * full / own)
    inside = np.minimum(cycle - start, full)
    queued = np.maximum(cycle - start - inside, 0.0)
    if demand.alike and case.stack is not None and case.stack.policy == "first":
        # All prompts of a wave run before its answers go on: half of them before the own, half after it.
        wait = others / 2.0
    else:
        # What is left of the step that runs, and those that came in it: the next step carries them together.
        busy = others / own * wanted / cycle
        queue = np.minimum(busy * carried / np.maximum(1.0 - busy, ALMOST), others)
        # All of the first wave come at once: each waits for half of the others, and what shares a step ends with it.
        first = (own + seconds.at_once - 2.0) * extra / 2.0
        wait = half + queue + np.minimum(first / demand.waves, np.maximum(others - queue, 0.0))
    tpot = np.where(after > 0.0, (inside - carried - wait) / np.maximum(after, 1.0), step)
    if case.stack is None or case.stack.policy != "first":
        # No token waits for more than a step that carries prompts: what is left of the cycle was before the first one.
        least = np.where(after > 0.0, np.minimum(tpot, np.maximum(seconds.mixed, step)), tpot)
        wait, tpot = wait + after * (tpot - least), least
    ttft = np.where(after > 0.0, carried + start + wait + queued, cycle)
    # Fewer requests than ranks leave some of these idle.
    rate = _all_of(wanted * case.plan.data, demand.concurrency) / cycle
    held = np.where(np.isnan(demand.concurrency) | (start <= 0.0), own, np.minimum(own, wanted * (1.0 - start / cycle)))
    return Served(ttft, tpot, cycle, rate, held, wait + queued)


def _all_of(held: Array, concurrency: Array) -> Array:
    """Requests in flight: those that are held, or fewer where fewer are sent."""
    return np.fmin(held, concurrency)


def apart(decode: Case, prefill: Case, demand: Demand, workers: tuple[Array, Array], moved: Array) -> Served:
    """Requests in flight whose prompts run on workers of their own, `workers` of each; both cases are one worker.

    `moved` seconds bring the cache of a prompt over. Prompts queue for their workers, answers are never disturbed:
        cycle = prompt + wait + moved + (output - 1) steps,  and no faster than the prompts' workers let it
    """
    fill, after = workers[0], np.maximum(demand.output - 1.0, 0.0)
    asked = np.maximum(demand.concurrency / (workers[1] * decode.plan.data), 1.0)
    own = np.minimum(asked, holds(decode, demand))
    mean, ranks = demand.prompt + demand.made, decode.plan.data
    (step,) = step_seconds(decode, [Work(NONE, NONE, NONE, own * ranks, mean, own * ranks)])
    pieces, piece, past = _pieces(prefill, demand.prompt * prefill.plan.data, demand.prompt)
    (first,) = step_seconds(
        prefill, [Work(prefill.plan.data + 0.0 * own, piece, past, NONE, NONE, prefill.plan.data / pieces)]
    )
    start = front_seconds(decode, step)
    # One prompt occupies its rank; a worker runs as many at once as it has ranks.
    each = pieces * first
    least = own * workers[1] * ranks * each / (fill * prefill.plan.data)
    free = each + start + moved + after * step
    cycle = np.maximum(free, least)
    busy = np.minimum(least / cycle, 1.0 - ALMOST)
    queue = np.minimum(busy * each / (2.0 * (1.0 - busy)), np.maximum(least - each, 0.0))
    wait = np.where(least > free, cycle - free, queue) + (least - each).clip(0.0) / 2.0 / demand.waves
    cycle = free + wait
    rate = _all_of(own * workers[1] * ranks, demand.concurrency) / cycle
    queued = (asked - own) * workers[1] * ranks / rate
    ttft = each + start + moved + wait + queued
    return Served(ttft, step + 0.0 * cycle, cycle + queued, rate, own, wait + queued)
