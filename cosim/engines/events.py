"""One serving step of a pipeline as events on simpy: stages, links and the host, scheduled from dependencies.

The engine gets durations made by the same timing functions as the closed form and never reads that form.
A stage works on one micro-batch at a time in order; a transfer starts when its stage ends and occupies the
link alone; in decode a micro-batch's next token starts when its last one has passed the last stage and
the host. Power is not scheduled: a step that would exceed the limit is stretched by the closed form alone
(`throttle`). Agreement with `analytic` where nothing contends is therefore a test, not an identity.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosim.engines.case import Case, device_graph, stage_classes
from cosim.engines.step import op_costs, stage_costs, transfers
from cosim.errors import SimulationError
from cosim.mapping.placement import crosses, serving_stage
from cosim.records import at

if TYPE_CHECKING:
    import simpy

SETTLING_STEPS = 8
MEASURED_STEPS = 4


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is to be scheduled: seconds per stage and per transfer, micro-batches, host time, steps.

    `stage_s` has one entry per stage, `transfer_s` one per boundary between them. `repeats` is true for
    decode, where the next step of a micro-batch waits for its last.
    """

    stage_s: tuple[float, ...]
    transfer_s: tuple[float, ...]
    micro_batches: int
    host_s: float
    steps: int
    repeats: bool


@dataclass(frozen=True, slots=True)
class Span:
    """One occupied interval [s] of a resource: for timelines and checks."""

    resource: str
    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class EventRun:
    """Time of a step [s]: makespan of a prefill, period of a decode; every span; events handled."""

    time_s: float
    spans: tuple[Span, ...]
    step_ends_s: tuple[float, ...]


def schedule(case: Case, index: int = 0) -> Schedule:
    """Durations of point `index` of a case, stage by stage in pipeline order."""
    point = at(case, index)
    device, classes = device_graph(point), stage_classes(point)
    costs = stage_costs(point, device, op_costs(point, device), classes).time[:, 0]
    counts = classes.count[:, 0].astype(int)
    stage_s = [float(cost) for cost, count in zip(costs, counts, strict=True) for _ in range(count)]
    moved = transfers(point)
    stage, stages, node = int(serving_stage(point.plan)), len(stage_s), int(point.system.node_chips)
    across = [crosses(boundary, stage, stages, node) for boundary in range(stages - 1)]
    transfer_s = [float(moved.across_time if far else moved.inside_time) for far in across]
    decode = case.phase == "decode"
    steps = SETTLING_STEPS + 2 * len(stage_s) + MEASURED_STEPS if decode else 1
    host = float(point.system.chip.launch.host_step)
    return Schedule(tuple(stage_s), tuple(transfer_s), int(point.plan.micro_batches), host, steps, decode)


def run_step(plan: Schedule) -> EventRun:
    """Schedules `plan` and measures a step. Raises SimulationError when it cannot finish."""
    import simpy

    env = simpy.Environment()
    state = _Pipeline(env, plan)
    for stage in range(len(plan.stage_s)):
        env.process(state.stage(stage))
    for boundary in range(len(plan.transfer_s)):
        env.process(state.link(boundary))
    for micro in range(plan.micro_batches):
        env.process(state.host(micro, 0.0))
    env.run()
    jobs = plan.steps * plan.micro_batches
    if len(state.finished) != jobs:
        raise SimulationError(
            "the pipeline stopped early", clock_s=float(env.now), process=f"job {len(state.finished)}"
        )
    ends = tuple(max(state.finished[s * plan.micro_batches : (s + 1) * plan.micro_batches]) for s in range(plan.steps))
    period = (ends[-1] - ends[-1 - MEASURED_STEPS]) / MEASURED_STEPS if plan.repeats else ends[-1]
    return EventRun(period, tuple(state.spans), ends)


def simulate(case: Case, index: int = 0) -> EventRun:
    """One step of point `index` of a case, as events."""
    return run_step(schedule(case, index))


class _Pipeline:
    """State of one run: which jobs are ready at each stage, who waits. A job is (step, micro-batch) in order."""

    def __init__(self, env: simpy.Environment, plan: Schedule) -> None:
        self.env, self.plan = env, plan
        self.jobs = plan.steps * plan.micro_batches
        stages = len(plan.stage_s)
        self.ready = [[env.event() for _ in range(self.jobs)] for _ in range(stages)]
        self.leaving = [[env.event() for _ in range(self.jobs)] for _ in range(stages - 1)]
        self.finished: list[float] = []
        self.spans: list[Span] = []

    def host(self, job: int, delay_s: float) -> Generator[Any, Any, None]:
        """Makes a job ready for the first stage once the host has prepared it."""
        yield self.env.timeout(delay_s + self.plan.host_s)
        self.ready[0][job].succeed()

    def stage(self, stage: int) -> Generator[Any, Any, None]:
        """One stage: its jobs in order, each when it has arrived."""
        last = stage == len(self.plan.stage_s) - 1
        for job in range(self.jobs):
            yield self.ready[stage][job]
            start = self.env.now
            yield self.env.timeout(self.plan.stage_s[stage])
            self._note(f"stage {stage}", job, start)
            if not last:
                self.leaving[stage][job].succeed()
                continue
            self.finished.append(float(self.env.now))
            following = job + self.plan.micro_batches
            if self.plan.repeats and following < self.jobs:
                self.env.process(self.host(following, 0.0))

    def link(self, boundary: int) -> Generator[Any, Any, None]:
        """The link behind a stage: one transfer at a time, in order."""
        for job in range(self.jobs):
            yield self.leaving[boundary][job]
            start = self.env.now
            yield self.env.timeout(self.plan.transfer_s[boundary])
            self._note(f"link {boundary}", job, start)
            self.ready[boundary + 1][job].succeed()

    def _note(self, resource: str, job: int, start: float) -> None:
        step, micro = divmod(job, self.plan.micro_batches)
        self.spans.append(Span(resource, f"step {step} micro-batch {micro}", float(start), float(self.env.now)))
