"""Requests that come at a rate, in a run that may end, and the most that limits let a system have in flight.

without end   the concurrency n whose rate is that of the arrivals; above capacity a queue that grows for ever
N requests    n + arrive x rate(n) = N: those in flight and those served while requests come; arrive = N / rate.
              All at once is n = N, a long run below capacity is rate(n) = rate of the arrivals.
a burst       where prompts come faster than steps carry them, fill = M least > arrive, w = 1 - arrive / fill:
              ttft = (fill + step) / 2,  tpot = step + M extra / (2 after): half of all prompts come after the own one
              M are held at once; the state at n counts for the other 1 - w
beyond M      each waits for an end: the first after `ends`, then at capacity
run           N / (the last that begins + its answer)
within        the highest concurrency whose means keep the limits of the scenario

All per replica, seconds of `FlightSteps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.engines.case import Case
from cosim.engines.served import Demand, Served, flight_steps, front_seconds, holds, in_flight
from cosim.records import Array, array, map_leaves, points, take

LEVELS = 24
"""Concurrencies at which a rate or a limit is looked up."""
SEEN = ("ttft", "tpot", "rate", "held", "waits")


def offered(case: Case, demand: Demand) -> Served:
    """Requests that come at a rate: a run that ends, or the concurrency that serves it for ever; (P,)."""
    case, demand, total = _alike(case, demand)
    data = case.plan.data + np.zeros(total)
    ends = np.isfinite(demand.requests)
    many = np.where(ends, np.maximum(demand.requests / data, 1.0), np.inf)
    most = np.minimum(holds(case, demand), many)
    levels, grid = _at_levels(case, demand, most)
    rates = np.maximum.accumulate(grid["rate"] / data, axis=0)
    arrive = np.where(ends, many / (demand.rate / data), 0.0)
    flow = np.where(ends, levels + arrive * rates, rates)
    at = {name: _looked_up(flow, grid[name], np.where(ends, many, demand.rate / data)) for name in SEEN}
    arrivals = Arrivals(np.where(ends, many, most), most, arrive, rates[-1], behind=ends & (flow[-1] < many))
    run = _run(case, demand, arrivals, at, {name: grid[name][-1] for name in SEEN})
    never = np.where(demand.rate / data > rates[-1], np.inf, 0.0)
    waits = {"ttft": never, "waits": never, "tpot": array(0.0)}
    found = {name: np.where(ends, run[name], at[name] + late) for name, late in waits.items()}
    rate = np.where(ends, run["rate"] * data, np.minimum(demand.rate, rates[-1] * data))
    e2e = found["ttft"] + np.maximum(demand.output - 1.0, 0.0) * found["tpot"]
    return Served(found["ttft"], found["tpot"], e2e, rate, at["held"] + np.zeros(total), found["waits"])


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Of a run, a replica, (P,): requests, those that are held at once, seconds in which all come, capacity [1/s]."""

    many: Array
    most: Array
    seconds: Array
    capacity: Array
    behind: NDArray[np.bool_]
    """Whether more come than are held and served while they come."""


def _run(
    case: Case, demand: Demand, arrivals: Arrivals, at: dict[str, Array], full: dict[str, Array]
) -> dict[str, Array]:
    """A run that ends: `at` is the state while requests come, `full` that of all that a replica holds."""
    many, after = arrivals.many, np.maximum(demand.output - 1.0, 0.0)
    most = np.where(arrivals.behind, arrivals.most, many)
    # Prompts that queue come together, as many as a step takes.
    seconds = flight_steps(case, replace(demand, alike=True), arrivals.most)
    start = front_seconds(case, seconds.step)
    fill, came = most * seconds.least, arrivals.seconds * most / many
    queue = came < fill
    burst = seconds.step + most * seconds.extra / (2.0 * np.maximum(after, 1.0))
    if case.stack is None or case.stack.policy != "first":
        burst = np.minimum(burst, np.maximum(seconds.mixed, seconds.step))
    wait = np.where(queue, (fill - came + seconds.carried * (1.0 - came / fill)) / 2.0, at["waits"])
    own = at["ttft"] - at["waits"]
    first = {"wait": np.where(queue, wait - (1.0 - came / fill) * (own - start), wait).clip(0.0)}
    first["tpot"] = np.where(queue, burst, at["tpot"])
    # Of those beyond, one begins as another ends, and no sooner than the prompts before it.
    ends, beyond = start + seconds.carried + after * burst, many - most
    begin = np.maximum(ends + beyond / 2.0 / arrivals.capacity, fill + beyond / 2.0 * seconds.least)
    turn = np.maximum(begin - (arrivals.seconds + came) / 2.0, 0.0)
    held = most / many
    waits = held * first["wait"] + (1.0 - held) * turn
    tpot = held * first["tpot"] + (1.0 - held) * full["tpot"]
    last = np.where(queue, start + fill, arrivals.seconds + at["ttft"])
    last = np.where(beyond > 0.0, np.maximum(arrivals.seconds, ends + beyond / arrivals.capacity), last)
    answer = after * np.where(beyond > 0.0, full["tpot"], np.where(queue, seconds.step, at["tpot"]))
    return {"ttft": own + waits, "tpot": tpot, "waits": waits, "rate": many / (last + answer)}


def within(case: Case, demand: Demand) -> Served:
    """As many in flight as keep the scenario's limits of the mean first and further tokens, (P,); at least one."""
    case, demand, _ = _alike(case, demand)
    most = np.maximum(holds(case, demand), 1.0)
    levels, grid = _at_levels(case, demand, most)
    limits = {"ttft": case.scenario.ttft_limit, "tpot": case.scenario.tpot_limit}
    kept = [
        _looked_up(np.maximum.accumulate(grid[name], axis=0), levels, np.broadcast_to(limit, most.shape))
        for name, limit in limits.items()
    ]
    return in_flight(case, replace(demand, concurrency=np.minimum(*kept) * case.plan.data))


def _alike(case: Case, demand: Demand) -> tuple[Case, Demand, int]:
    """Both with as many points, and how many."""
    total = max(points(case), points(demand))
    if points(case) < total:
        case = take(case, np.zeros(total, dtype=np.intp))
    return case, map_leaves(demand, lambda leaf: np.broadcast_to(leaf, (total,))), total


def _at_levels(case: Case, demand: Demand, most: Array) -> tuple[Array, dict[str, Array]]:
    """Concurrencies of a replica from one to `most`, (LEVELS, P), and what is served at each."""
    total = most.size
    levels = most ** (np.arange(LEVELS)[:, None] / (LEVELS - 1.0))
    index = np.tile(np.arange(total, dtype=np.intp), LEVELS)
    many, wanted = take(case, index), map_leaves(demand, lambda leaf: leaf[index])
    found = in_flight(many, replace(wanted, concurrency=levels.reshape(-1) * many.plan.data))
    shaped: Callable[[str], Array] = lambda name: np.broadcast_to(getattr(found, name), index.shape)  # noqa: E731
    return levels, {name: shaped(name).reshape(LEVELS, total) for name in SEEN}


def _looked_up(rising: Array, values: Array, asked: Array) -> Array:
    """Values (LEVELS, P) where `rising` (LEVELS, P) is `asked` (P,); those of the first and last level beyond them."""
    found = [np.interp(asked[p], rising[:, p], values[:, p]) for p in range(asked.size)]
    return np.array(found)
