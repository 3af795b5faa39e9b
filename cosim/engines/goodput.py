"""A long training run as events on simpy: weeks of thousands of chips, an event a failure, not a step.

The job computes in stretches, each until a failure, a planned stop, a node that comes back, or the end; checkpoints
inside a stretch are counted, not scheduled. Failures come at constant rates while the job computes, saves or
restarts. A node that failed is in repair and comes back as a spare. The engine never reads the closed form of
`cosim/timing/goodput.py`; that both agree is a test. Randomness comes from the generator that is passed.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.engines.events import Span
from cosim.errors import SimulationError
from cosim.timing.goodput import LOST, Cause, LongRun

if TYPE_CHECKING:
    import simpy

Events = Generator[Any, Any, None]
LONGEST = 1000.0
"""A run that takes so many times its work gets nowhere."""


@dataclass(frozen=True, slots=True)
class GoodputRun:
    """One run: time to finish, useful time and lost time by cause [s], which add up; failures by component.

    `spans` are empty where they were not asked for.
    """

    wall_s: float
    useful_s: float
    lost_s: Mapping[str, float]
    failures: Mapping[str, int]
    spans: tuple[Span, ...]

    @property
    def goodput(self) -> float:
        """Useful time over wall time."""
        return self.useful_s / self.wall_s

    @property
    def effective(self) -> float:
        """Time in which the job got on, however slowly, over wall time."""
        return (self.useful_s + self.lost_s["stragglers"] + self.lost_s["shrunk"]) / self.wall_s


def simulate_run(run: LongRun, random: np.random.Generator, *, spans: bool = False) -> GoodputRun:
    """One run to its end. `spans` keeps what happened when. Raises SimulationError when it gets nowhere."""
    import simpy

    env = simpy.Environment()
    job = _Job(env, run, random, keep=spans)
    env.run(until=env.process(job.run_all()))
    return GoodputRun(float(env.now), job.useful, job.lost, job.failures, tuple(job.spans))


@dataclass(frozen=True, slots=True)
class _Pace:
    """Of a stretch: seconds of a cycle's work, speed over that of the whole job, slowest chip."""

    cycle_s: float
    share: float
    slow: float


class _Job:
    """State of one run: work that is left, nodes that are whole, what was lost."""

    def __init__(self, env: simpy.Environment, run: LongRun, random: np.random.Generator, *, keep: bool) -> None:
        self.env, self.run, self.random, self.keep = env, run, random, keep
        self.left, self.useful = run.work_s, 0.0
        self.lost = dict.fromkeys(LOST, 0.0)
        self.failures = {cause.name: 0 for cause in run.causes}
        self.spans: list[Span] = []
        self.slow = [self._drawn_slow() for _ in range(run.nodes + run.spares)]
        for node, factor in run.stragglers.named.items():
            self.slow[node] = max(self.slow[node], factor)
        # The first nodes of the list work, the others are spares.
        self.whole = list(range(run.nodes + run.spares))
        self.returned = env.event()

    def run_all(self) -> Events:
        """The whole run; it starts with the job up."""
        up = True
        while self.left > 0.0:
            if self.env.now > LONGEST * self.run.work_s:
                gone = f"{self.left:.4g} of {self.run.work_s:.4g} s left"
                raise SimulationError("the run gets nowhere", clock_s=float(self.env.now), process=gone)
            if up:
                up = yield from self._stretch()
            else:
                yield from self._wait()
                up = yield from self._restart()

    def _stretch(self) -> Generator[Any, Any, bool]:
        """Computes and saves until something happens. Returns whether the job is up."""
        run, pace, start = self.run, self._pace(), float(self.env.now)
        work_wall = self.left * pace.slow / pace.share
        ends = _wall(work_wall, pace.cycle_s, run.save_s) + run.lag_s
        failure_in, cause = self._next(planned=False)
        stop_in, stop = self._next(planned=True)
        stop_in = _wall(stop_in, pace.cycle_s, run.save_s) - run.save_s if stop_in < work_wall else math.inf
        due = self.env.timeout(min(failure_in, stop_in, ends))
        while not due.processed:
            yield (due | self.returned) if pace.share < 1.0 else due
            if not due.processed and run.share(len(self.whole)) > pace.share:
                # A replica is complete again: save, and start with it.
                self._settle(pace, start, saves=True)
                yield from self._save()
                return False
        if ends <= min(failure_in, stop_in):
            self._settle(pace, start, finished=True)
            return True
        if stop_in < failure_in and stop is not None:
            self.failures[stop.name] += 1
            self._settle(pace, start, saves=True)
            yield from self._save()
            return False
        self._settle(pace, start)
        yield from self._fail(cause)
        return False

    def _restart(self) -> Generator[Any, Any, bool]:
        """Starts the job and loads its state. Returns whether it is up: it may fail on the way."""
        start = float(self.env.now)
        failure_in, cause = self._next(planned=False)
        yield self.env.timeout(min(failure_in, self.run.restart_s))
        self._lose("restart", "restart", start)
        if failure_in >= self.run.restart_s:
            return True
        yield from self._fail(cause)
        return False

    def _wait(self) -> Events:
        """Waits until there are nodes enough to run."""
        start = float(self.env.now)
        while self.run.share(len(self.whole)) == 0.0:
            yield self.returned
        self._lose("waiting", "no spare", start)

    def _save(self) -> Events:
        """An extra checkpoint before the job stops by its own will."""
        start = float(self.env.now)
        yield self.env.timeout(self.run.save_s + self.run.lag_s)
        self._lose("checkpoint", "before a stop", start)

    def _fail(self, cause: Cause | None) -> Events:
        """Takes a node out where the cause asks for it, and waits until the job is known to be down."""
        if cause is None:
            raise SimulationError("nothing fails", clock_s=float(self.env.now), process="job")
        self.failures[cause.name] += 1
        if cause.repair_s > 0.0:
            place = int(self.random.integers(self.run.working(len(self.whole))))
            node = self.whole[place]
            # A spare takes its place, if there is one.
            self.whole[place] = self.whole[-1]
            self.whole.pop()
            self.env.process(self._repair(node, cause.repair_s))
        start = float(self.env.now)
        yield self.env.timeout(cause.detection_s)
        self._lose("detection", cause.name, start)

    def _repair(self, node: int, time_s: float) -> Events:
        yield self.env.timeout(time_s)
        self.slow[node] = self._drawn_slow()
        self.whole.append(node)
        told, self.returned = self.returned, self.env.event()
        told.succeed()

    def _next(self, *, planned: bool) -> tuple[float, Cause | None]:
        """Seconds until the next failure or planned stop of the job as it is now, and its cause."""
        causes = [cause for cause in self.run.causes if cause.planned is planned and cause.rate > 0.0]
        if not causes:
            return math.inf, None
        # Fewer replicas have fewer parts that fail; of a job that waits nothing is asked.
        rates = np.array([cause.rate for cause in causes]) * self.run.share(len(self.whole))
        total = float(rates.sum())
        cause = causes[int(self.random.choice(len(causes), p=rates / total))]
        return float(self.random.exponential(1.0 / total)), cause

    def _pace(self) -> _Pace:
        run = self.run
        share = run.share(len(self.whole))
        slow = 1.0
        if run.stragglers.spread > 0.0 or run.stragglers.named:
            slow = max(self.slow[node] for node in self.whole[: run.working(len(self.whole))])
        return _Pace(run.interval_s * slow / share, share, slow)

    def _drawn_slow(self) -> float:
        """Slowest chip of a node: 1 + spread times the greatest of its |z|, drawn by its quantile."""
        run = self.run
        if run.stragglers.spread == 0.0:
            return 1.0
        from scipy.special import erfinv

        quantile = float(self.random.random()) ** (1.0 / run.node_chips)
        return 1.0 + run.stragglers.spread * math.sqrt(2.0) * float(erfinv(quantile))

    def _settle(self, pace: _Pace, start: float, *, saves: bool = False, finished: bool = False) -> None:
        """Books a stretch that ends now: work that lasts, work that is lost, checkpoints."""
        run, gone = self.run, float(self.env.now) - start
        period = pace.cycle_s + run.save_s
        all_cycles = _cycles(self.left * pace.slow / pace.share, pace.cycle_s)
        before = min(int(gone // period), all_cycles - 1)
        last = self.left * pace.slow / pace.share - before * pace.cycle_s
        rest = gone - before * period
        computed = before * pace.cycle_s + min(rest, pace.cycle_s, last)
        readable = min(max(math.floor((gone - run.lag_s) / period), 0), before)
        kept = computed if saves or finished else readable * pace.cycle_s
        useful = self.left if finished else kept * pace.share / pace.slow
        self.left = 0.0 if finished else self.left - useful
        self.useful += useful
        self.lost["stragglers"] += useful * (pace.slow - 1.0)
        self.lost["shrunk"] += useful * pace.slow * (1.0 / pace.share - 1.0)
        self.lost["recomputed"] += computed - kept
        self.lost["checkpoint"] += gone - computed
        if self.keep:
            self._draw(pace, start, before, start + gone if saves or finished else start + readable * period)

    def _draw(self, pace: _Pace, start: float, checkpoints: int, kept_until: float) -> None:
        """Spans of a stretch: what lasts, what is lost, every checkpoint, what slows it."""
        now, save = float(self.env.now), self.run.save_s
        self._note("training", "training", start, kept_until)
        self._note("recomputed", "work that is lost", kept_until, now)
        for count in range(1, checkpoints + 1):
            end = start + count * (pace.cycle_s + save)
            self._note("checkpoint", f"checkpoint {count}", end - save, end)
        if pace.slow > 1.0:
            self._note("stragglers", f"steps take x {pace.slow:.4g}", start, now)
        if pace.share < 1.0:
            self._note("shrunk", f"{pace.share:.2%} of the replicas", start, now)

    def _lose(self, cause: str, label: str, start: float) -> None:
        self.lost[cause] += float(self.env.now) - start
        if self.keep:
            self._note(cause, label, start, float(self.env.now))

    def _note(self, track: str, label: str, start: float, end: float) -> None:
        if end > start:
            self.spans.append(Span(track, label, start, end))


def _wall(work_s: float, cycle_s: float, save_s: float) -> float:
    """Wall time of so much computing with a checkpoint after every cycle and at the end [s]."""
    return work_s + _cycles(work_s, cycle_s) * save_s


def _cycles(work_s: float, cycle_s: float) -> int:
    """Cycles of so much computing: the last may be short, none is for rounding alone."""
    return max(math.ceil(work_s / cycle_s - 1e-9), 1)
