"""Requests that come at a rate, in a run that may end, and the most that limits let a system have in flight.

without end   the concurrency n whose rate is that of the arrivals; above capacity a queue that grows for ever
N requests    come within arrive = N / rate; their prompts take fill = N least where every step carries prompts
steps       U in which all come: U step(N seen) + N extra = arrive, no fewer than carry all prompts
a life      of output - 1 = x U steps:  tpot = step(n) + (N - 1) seen extra / (output - 1), no more than a step that
            carries prompts, nor than in a run without end
            n = N x (1 - x / 3), past x = 1 N (1 - 1 / (3 x))      in flight beside an answer
            seen = x (1 - x / 2), past x = 1 a half                of all prompts come after the own one
by chance   arrive is a sum of N random gaps, whose spread is arrive / sqrt(N): means over eight of its parts
a backlog   w = 1 - arrive / fill: first tokens wait for w fill / 2, half a full step of w of them, and the others as at
            n, no more than chance brings together: half a step + 0.53 sqrt(N) least
M < N held    the others wait for an end: the first after a life of the M, then at capacity
run           N / (the last that begins + its answer)
within        the highest concurrency whose means keep the limits of the scenario

All per replica, seconds of `FlightSteps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case
from cosim.engines.served import Demand, FlightSteps, Served, flight_steps, front_seconds, holds, in_flight, steady
from cosim.records import Array, array, map_leaves, points, take

LEVELS = 24
"""Concurrencies at which a rate or a limit is looked up."""
HALVES = 32
"""Halvings of the steps in which all may come."""
CHANCES = (-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534)
"""Medians of the eighths of a normal distribution, near enough."""
CROWD = 2.0 / 3.0 * np.sqrt(2.0 / np.pi)
"""Mean wait at saturation, over sqrt(N) prompts: how far a walk of N random steps has risen above its lowest point."""
SEEN = ("ttft", "tpot", "rate", "held", "waits")


def offered(case: Case, demand: Demand) -> Served:
    """Requests that come at a rate: a run that ends, or the concurrency that serves it for ever; (P,)."""
    case, demand, total = _alike(case, demand)
    data = case.plan.data + np.zeros(total)
    ends = np.isfinite(demand.requests)
    many = np.where(ends, np.maximum(demand.requests / data, 1.0), np.inf)
    most = np.minimum(holds(case, demand), many)
    grid = _at_levels(case, demand, most)
    rates = np.maximum.accumulate(grid.served["rate"] / data, axis=0)
    endless = {name: _looked_up(rates, grid.served[name], demand.rate / data) for name in SEEN}
    # Nothing is asked of a run without end below: one request stands in its place.
    count = np.where(ends, many, 1.0)
    arrive = np.where(ends, demand.requests, 1.0) / demand.rate
    runs = list[dict[str, Array]]()
    for part in _by_chance(count):
        ceiling = _looked_up(rates, grid.served["tpot"], demand.rate / data / part)
        arrivals = Arrivals(count, np.minimum(most, count), arrive * part, rates[-1])
        runs.append(_run(case, demand, arrivals, grid, ceiling))
    run = {name: np.mean([each[name] for each in runs], axis=0) for name in runs[0]}
    never = np.where(demand.rate / data > rates[-1], np.inf, 0.0)
    waits = {"ttft": never, "waits": never, "tpot": array(0.0), "held": array(0.0)}
    found = {name: np.where(ends, run[name], endless[name] + late) for name, late in waits.items()}
    # Fewer requests than ranks leave some of these idle.
    rate = np.where(ends, demand.requests / run["seconds"], np.minimum(demand.rate, rates[-1] * data))
    e2e = found["ttft"] + np.maximum(demand.output - 1.0, 0.0) * found["tpot"]
    return Served(found["ttft"], found["tpot"], e2e, rate, found["held"], found["waits"])


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Of a run, a replica, (P,): requests, those that are held at once, seconds in which all come, capacity [1/s]."""

    many: Array
    most: Array
    seconds: Array
    capacity: Array


@dataclass(frozen=True, slots=True)
class Levels:
    """Concurrencies of a replica from one to the most, (LEVELS, P): what is served at each, and steps of each."""

    level: Array
    served: dict[str, Array]
    steps: FlightSteps
    together: FlightSteps
    """Steps where prompts that queue come together, as many as a step takes."""

    def at(self, values: Array, asked: Array) -> Array:
        """Values (LEVELS, P) where so many (P,) are in flight."""
        share = np.log(np.clip(asked, 1.0, self.level[-1])) / np.maximum(np.log(self.level[-1]), 1e-300)
        place = np.clip(share, 0.0, 1.0) * (LEVELS - 1.0)
        low = np.minimum(place.astype(np.intp), LEVELS - 2)
        some = np.arange(asked.size)
        below, above = self.level[low, some], self.level[low + 1, some]
        part = (np.clip(asked, below, above) - below) / np.where(above > below, above - below, 1.0)
        return array(values[low, some] * (1.0 - part) + values[low + 1, some] * part)


@dataclass(frozen=True, slots=True)
class Life:
    """Answers of a run, (P,): seconds of a token, in flight beside one, beside the last one, at most, prompts' time."""

    tpot: Array
    beside: Array
    last: Array
    held: Array
    fill: Array


def _lives(case: Case, demand: Demand, many: Array, come: Array, grid: Levels, ceiling: Array) -> Life:
    """Answers of `many` requests that come within `come` seconds, no token slower than `ceiling`."""
    after = np.maximum(demand.output - 1.0, 0.0)
    mixes = case.stack is None or case.stack.policy != "first"
    # All steps carry prompts, or prompts run between two steps.
    fewest = np.maximum(many * grid.at(grid.together.least / grid.together.mixed, many / 2.0) if mixes else 0.0, 1e-3)
    at_once = grid.together.at_once[-1]
    low, high = fewest, np.maximum(come / grid.steps.step[0], fewest)
    for _ in range(HALVES):
        middle = np.sqrt(low * high)
        during = many * _seen(after / middle)
        extra = grid.at(grid.steps.extra, many * after / middle)
        longer = middle * grid.at(grid.steps.step, during) + many * extra > come
        low, high = np.where(longer, low, middle), np.where(longer, middle, high)
    share = after / low
    seen, past = _seen(share), np.maximum(share, 1.0)
    fill = many * grid.at(grid.together.least, np.maximum(many * seen, at_once))
    beside = many * np.where(share < 1.0, share * (1.0 - share / 3.0), 1.0 - 1.0 / (3.0 * past))
    step, queue = grid.at(grid.steps.step, beside), np.clip(1.0 - come / fill, 0.0, 1.0)
    alone, together = grid.at(grid.steps.extra, many * share), grid.at(grid.together.extra, np.maximum(beside, at_once))
    extra = alone + queue * (together - alone)
    tpot = step + (many - 1.0) * seen * extra / np.maximum(after, 1.0)
    if mixes:
        tpot = np.minimum(tpot, np.maximum(grid.at(grid.together.mixed, np.maximum(beside, at_once)), step))
    last = many * np.where(share < 1.0, share / 2.0, 1.0 - 1.0 / (2.0 * past))
    held = np.clip(many * np.minimum(share, 1.0), 1.0, grid.level[-1])
    return Life(np.minimum(tpot, ceiling), beside, last, held, fill)


def _seen(share: Array) -> Array:
    """Part of all that come during an answer of so many times the steps in which all come; the mean in flight then."""
    return np.where(share < 1.0, share * (1.0 - share / 2.0), 0.5)


def _by_chance(many: Array) -> Array:
    """Seconds in which so many random requests come, over their mean: of each of as many equal chances, (CHANCES, P).

    Gamma distributed, by Wilson and Hilferty: (1 - 1 / (9 N) + z / (3 sqrt(N)))^3.
    """
    part = (1.0 - 1.0 / (9.0 * many) + array(CHANCES)[:, None] / (3.0 * np.sqrt(many))).clip(0.0) ** 3
    return array(part / part.mean(axis=0))


def _run(case: Case, demand: Demand, arrivals: Arrivals, grid: Levels, ceiling: Array) -> dict[str, Array]:
    """A run that ends, whose tokens are no slower than `ceiling`, those of a run without end."""
    many, most, after = arrivals.many, arrivals.most, np.maximum(demand.output - 1.0, 0.0)
    held, beyond = most / many, many - most
    came = arrivals.seconds * held
    whole = _lives(case, demand, many, arrivals.seconds, grid, ceiling)
    first = _lives(case, demand, most, came, grid, ceiling)
    at = {name: grid.at(values, whole.beside) for name, values in grid.served.items()}
    carried, least = grid.at(grid.together.carried, most), first.fill / most
    start = front_seconds(case, grid.at(grid.steps.step, first.beside))
    queue = np.clip(1.0 - came / first.fill, 0.0, 1.0)
    own, step = at["ttft"] - at["waits"], grid.at(grid.steps.step, whole.beside)
    chance = np.minimum(at["waits"], step / 2.0 + CROWD * np.sqrt(many) * whole.fill / many)
    full = (first.fill + carried) / 2.0 - (own - start) - chance
    wait = chance + queue * np.maximum(full, 0.0)
    # Of those beyond, one begins as another ends, and no sooner than the prompts before it.
    ends = start + carried + after * first.tpot
    begin = np.maximum(ends + beyond / 2.0 / arrivals.capacity, first.fill + beyond / 2.0 * least)
    turn = np.maximum(begin - (arrivals.seconds + came) / 2.0, chance)
    waits = held * wait + (1.0 - held) * turn
    tpot = held * first.tpot + (1.0 - held) * whole.tpot
    last = np.maximum(arrivals.seconds + own + chance, start + whole.fill)
    last = np.where(beyond > 0.0, np.maximum(last, ends + beyond / arrivals.capacity), last)
    answer = after * grid.at(grid.steps.step, whole.last)
    return {"ttft": own + waits, "tpot": tpot, "waits": waits, "held": whole.held, "seconds": last + answer}


def within(case: Case, demand: Demand) -> Served:
    """As many in flight as keep the scenario's limits of the mean first and further tokens, (P,); at least one."""
    case, demand, _ = _alike(case, demand)
    most = np.maximum(holds(case, demand), 1.0)
    grid = _at_levels(case, demand, most)
    limits = {"ttft": case.scenario.ttft_limit, "tpot": case.scenario.tpot_limit}
    kept = [
        _looked_up(np.maximum.accumulate(grid.served[name], axis=0), grid.level, np.broadcast_to(limit, most.shape))
        for name, limit in limits.items()
    ]
    return in_flight(case, replace(demand, concurrency=np.minimum(*kept) * case.plan.data))


def _alike(case: Case, demand: Demand) -> tuple[Case, Demand, int]:
    """Both with as many points, and how many."""
    total = max(points(case), points(demand))
    if points(case) < total:
        case = take(case, np.zeros(total, dtype=np.intp))
    return case, map_leaves(demand, lambda leaf: np.broadcast_to(leaf, (total,))), total


def _at_levels(case: Case, demand: Demand, most: Array) -> Levels:
    """What is served at concurrencies of a replica from one to `most`, and the steps of each."""
    total = most.size
    levels = most ** (np.arange(LEVELS)[:, None] / (LEVELS - 1.0))
    index = np.tile(np.arange(total, dtype=np.intp), LEVELS)
    many, own = take(case, index), levels.reshape(-1)
    wanted = map_leaves(demand, lambda leaf: leaf[index])
    wanted = replace(wanted, concurrency=own * many.plan.data)
    alone, together = (flight_steps(many, replace(wanted, alike=alike), own) for alike in (wanted.alike, True))
    found = steady(many, wanted, alone, own, own)
    shaped: Callable[[Array], Array] = lambda leaf: np.broadcast_to(leaf, index.shape).reshape(LEVELS, total)  # noqa: E731
    served = {name: shaped(getattr(found, name)) for name in SEEN}
    return Levels(levels, served, map_leaves(alone, shaped), map_leaves(together, shaped))


def _looked_up(rising: Array, values: Array, asked: Array) -> Array:
    """Values (LEVELS, P) where `rising` (LEVELS, P) is `asked` (P,); those of the first and last level beyond them."""
    found = [np.interp(asked[p], rising[:, p], values[:, p]) for p in range(asked.size)]
    return np.array(found)
