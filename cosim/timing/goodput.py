"""A long training run with failures: what it is made of, and what is expected of it in closed form.

Failures come at a constant rate (M = 1 / rate) while the job computes, saves or restarts; a job that is known to be
down, or waits for a node, is hurt no further. A cycle is t of work, s t long on the slowest chip, and a checkpoint C.

    tries     A = exp((s t + C) / M) of a cycle until one succeeds
    failures  F = exp(R / M) (A - 1): those of the restarts too
    time      (M + D) F = M exp(R / M) (exp((s t + C) / M) - 1) and D for each failure      Daly 2006, with detection
    waiting   the Erlang loss of spares + 1 servers: nodes in repair, none fails while the job waits for one

Exact for blocking checkpoints and no planned stops; those, asynchronous ones and fewer replicas to first order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LOST = ("recomputed", "detection", "restart", "checkpoint", "waiting", "stragglers", "shrunk")
"""Where time goes that is not useful, in the order of results."""
MOST_EXPONENT = 50.0
"""Of a cycle with its restart over M: e^50 tries are never."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Failures of one component of the whole job: rate [1/s], time until seen, until its node is whole again [s]."""

    name: str
    rate: float
    detection_s: float = 0.0
    repair_s: float = 0.0
    """0: no node goes out."""
    planned: bool = False


@dataclass(frozen=True, slots=True)
class Stragglers:
    """How much longer chips take: 1 + spread |z| with a normal z for each, or as named, by number of the node."""

    spread: float = 0.0
    named: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LongRun:
    """A run to be expected or simulated: seconds, nodes. `work_s` is all steps with no chip slow and nothing failing.

    `interval_s` of work lie between checkpoints; one stops the job for `save_s` and can be read back `lag_s` later.
    `restart_s` is the start of the job and loading its state. A replica takes `replica_nodes`.
    """

    work_s: float
    interval_s: float
    save_s: float
    lag_s: float
    restart_s: float
    causes: tuple[Cause, ...]
    nodes: int
    spares: int = 0
    node_chips: int = 1
    replicas: int = 1
    replica_nodes: float = 1.0
    elastic: bool = False
    stragglers: Stragglers = field(default_factory=Stragglers)

    def share(self, healthy: int) -> float:
        """Speed of the job with so many whole nodes, over that with all: 1, 0, or where it is elastic between them."""
        if healthy >= self.nodes:
            return 1.0
        if not self.elastic:
            return 0.0
        # A node may hold several replicas; the small amount keeps 3 x 1/3 whole.
        return min(math.floor(healthy / self.replica_nodes + 1e-9), self.replicas) / self.replicas

    def working(self, healthy: int) -> int:
        """Nodes that work, of so many that are whole."""
        return min(math.ceil(self.share(healthy) * self.nodes - 1e-9), self.nodes, healthy)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected: time to finish, useful time and lost time by cause [s], failures by component."""

    wall_s: float
    useful_s: float
    lost_s: Mapping[str, float]
    failures: Mapping[str, float]

    @property
    def goodput(self) -> float:
        """Useful time over wall time."""
        return self.useful_s / self.wall_s


def mean_between_failures(causes: tuple[Cause, ...]) -> float:
    """M of the whole job [s], planned stops apart; infinite where nothing fails."""
    rate = sum(cause.rate for cause in causes if not cause.planned)
    return 1.0 / rate if rate > 0.0 else math.inf


def expected_run(run: LongRun) -> Expected:
    """The closed form of a run; infinite times where an interval practically never succeeds."""
    slow = slowest_chip(run)
    if (slow * run.interval_s + run.save_s + run.restart_s) / mean_between_failures(run.causes) > MOST_EXPONENT:
        never = dict.fromkeys((cause.name for cause in run.causes), math.inf)
        return Expected(math.inf, run.work_s, dict.fromkeys(LOST, math.inf), never)
    whole, rest = divmod(run.work_s, run.interval_s)
    parts = [(run.interval_s, whole), (rest, 1.0 if rest > 1e-9 * run.interval_s else 0.0)]
    lost = dict.fromkeys(LOST, 0.0)
    failed = 0.0
    for work, count in parts:
        if count:
            found, often = _cycle(run, work, slow)
            failed += count * often
            for name, time_s in found.items():
                lost[name] += count * time_s
    lost["checkpoint"] += run.lag_s
    failures = _failures(run, failed)
    _planned(run, lost, failures, slow)
    _repairs(run, lost, slow)
    return Expected(run.work_s + sum(lost.values()), run.work_s, lost, failures)


def _cycle(run: LongRun, work: float, slow: float) -> tuple[dict[str, float], float]:
    """Time lost in one cycle until it succeeds, by cause [s], and its failures."""
    wall, mean = work * slow, mean_between_failures(run.causes)
    late = work * (slow - 1.0)
    if math.isinf(mean):
        return {"checkpoint": run.save_s, "stragglers": late}, 0.0
    tries = math.exp((wall + run.save_s) / mean)
    failed = math.exp(run.restart_s / mean) * (tries - 1.0)
    # A failure soon after a checkpoint goes back to the one before.
    back = (tries - 1.0) * min(run.lag_s * wall / (wall + run.save_s), wall)
    return {
        "recomputed": tries * mean * -math.expm1(-wall / mean) - wall + back,
        "detection": failed * _detection(run),
        "restart": failed * mean * -math.expm1(-run.restart_s / mean),
        "checkpoint": mean * math.expm1(run.save_s / mean),
        "stragglers": late,
    }, failed


def _detection(run: LongRun) -> float:
    """Mean time until a failure is seen [s]."""
    mean = mean_between_failures(run.causes)
    return sum(cause.rate * cause.detection_s for cause in run.causes if not cause.planned) * mean


def _failures(run: LongRun, failed: float) -> dict[str, float]:
    mean = mean_between_failures(run.causes)
    return {cause.name: 0.0 if cause.planned else failed * cause.rate * mean for cause in run.causes}


def _planned(run: LongRun, lost: dict[str, float], failures: dict[str, float], slow: float) -> None:
    """Adds planned stops: each saves and restarts."""
    computing = run.work_s * slow + lost["recomputed"]
    for cause in run.causes:
        if cause.planned:
            failures[cause.name] = cause.rate * computing
            _stop(run, lost, failures[cause.name])


def _stop(run: LongRun, lost: dict[str, float], times: float) -> None:
    """Adds stops by the job's own will: a checkpoint and a restart, which may fail on its way."""
    mean = mean_between_failures(run.causes)
    lost["checkpoint"] += times * (run.save_s + run.lag_s)
    if math.isinf(mean):
        lost["restart"] += times * run.restart_s
        return
    again = math.expm1(run.restart_s / mean)
    lost["restart"] += times * mean * again
    lost["detection"] += times * again * _detection(run)


def _repairs(run: LongRun, lost: dict[str, float], slow: float) -> None:
    """Adds what missing nodes cost: waiting, or fewer replicas."""
    wall = run.work_s + sum(lost.values())
    exposed = (wall - lost["detection"]) / wall
    load = exposed * sum(cause.rate * cause.repair_s for cause in run.causes)
    broken = exposed * sum(cause.rate for cause in run.causes if cause.repair_s > 0.0)
    if load <= 0.0:
        return
    if not run.elastic:
        blocked = erlang_loss(run.spares + 1, load)
        lost["waiting"] += wall * blocked / (1.0 - blocked)
        return
    speed, grows = _shrunk(run, load, broken)
    if speed <= 0.0:
        lost["shrunk"] = math.inf
        return
    late = (run.work_s * slow + lost["recomputed"]) * (1.0 / speed - 1.0)
    lost["shrunk"] += late
    _stop(run, lost, grows * (wall + late))


def _shrunk(run: LongRun, load: float, broken: float) -> tuple[float, float]:
    """Mean speed, and how often a replica is complete again [1/s].

    Nodes in repair are as a Poisson law of mean `load` has them; `broken` go there each second.
    """
    total, grows, most = 0.0, 0.0, run.nodes + run.spares
    for missing in range(most + 1):
        chance = math.exp(missing * math.log(load) - load - math.lgamma(missing + 1.0))
        share = run.share(most - missing)
        total += chance * share
        if missing and 0.0 < share < run.share(most - missing + 1):
            grows += chance * missing * broken / load
        if missing > load and chance < 1e-12:
            break
    return total, grows


def erlang_loss(servers: int, load: float) -> float:
    """Erlang's loss formula B(n, a) by its recursion: share of time in which all n servers are busy."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked


def slowest_chip(run: LongRun) -> float:
    """Expected time of a step over that of a chip that is not slow: the mean of the greatest of all chips."""
    named = max(run.stragglers.named.values(), default=1.0)
    return max(named, 1.0, 1.0 + run.stragglers.spread * greatest_normal(run.nodes * run.node_chips))


def greatest_normal(count: int) -> float:
    """Mean of the greatest of `count` values |z|: the integral of 1 - (2 Phi(x) - 1)^count over x from 0."""
    import numpy as np
    from scipy.special import erf

    at = np.linspace(0.0, 12.0, 4801)
    return float(np.trapezoid(1.0 - erf(at / math.sqrt(2.0)) ** count, at))
