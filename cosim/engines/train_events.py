"""One training step as events on simpy: stages x micro-batches, links, a stream of data-parallel traffic.

The engine reads the same table of durations as the closed form and never that form. Every stage runs its passes in the
order of its schedule (`order_of`, `cosim.engines.orders`), each when what it needs has arrived; a transfer occupies its
link alone, activations and gradients each having links of their own. Weights are gathered and gradients reduced layer
by layer on a second stream, or before and after where the software does not overlap; a pass beside traffic gives up
the cores that the traffic takes. Storage reads the samples of the next step meanwhile, and the step ends with both.
Replicas are alike and one is simulated, unless chips are slow: then those that set the pace run side by side and meet
in every reduction, see `cosim.engines.slow_ranks`. Agreement with `training` where nothing contends is a test.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosim.engines.case import Case
from cosim.engines.events import EventRun, Span
from cosim.engines.loading import loading
from cosim.engines.orders import Block, Pass, entries, following, last_pass, orders
from cosim.engines.pipeline import Piece
from cosim.engines.slow_ranks import Replica, SlowRanks, slow_replicas
from cosim.engines.training import host_step, software_of, step_table, with_micro_batches
from cosim.errors import SimulationError
from cosim.mapping.placement import crossings, stage_stride
from cosim.records import Array, at

if TYPE_CHECKING:
    import simpy


@dataclass(frozen=True, slots=True)
class StepSchedule:
    """What is to be scheduled, one entry per stage in pipeline order [s].

    `forward_s`, `backward_s` of one micro-batch on the whole stage, divided over `pieces`; `transfer_s` behind every
    stage, the last one back to the first; `gather_s`, `reduce_s` in `layers` pieces; `cores` that traffic takes.
    `weight_s` is the part of `backward_s` that makes weight gradients; `pieces_s`: (forward, backward, weight) of every
    piece of a stage where pieces differ.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    transfer_s: tuple[float, ...]
    gather_s: tuple[float, ...]
    reduce_s: tuple[float, ...]
    optimizer_s: tuple[float, ...]
    layers: tuple[int, ...]
    pieces: int
    micro_batches: int
    cores: float
    overlap: bool
    host_s: float
    schedule: str = "1f1b"
    weight_s: tuple[float, ...] = ()
    pieces_s: tuple[tuple[tuple[float, float, float], ...], ...] = ()
    buckets: tuple[int, ...] = ()
    """Pieces that gradients are reduced in; empty: as many as `layers`."""
    loading_s: float = 0.0
    """Of the samples of the next step from storage."""


def step_schedule(case: Case, index: int = 0) -> StepSchedule:
    """Durations of point `index` of a training case, stage by stage in pipeline order."""
    point = at(with_micro_batches(case), index)
    table, software = step_table(point), software_of(point)
    counts = table.stage.count[:, 0].astype(int)

    def along(values: Array) -> tuple[float, ...]:
        # A row may hold one value for all points.
        column = [float(row.reshape(-1)[0]) for row in values]
        return tuple(value for value, count in zip(column, counts, strict=True) for _ in range(count))

    plan, move = point.plan, table.schedule
    size, node = int(stage_stride(plan)), int(point.system.node_chips)
    units = float(point.system.chips) / node
    across = crossings(size, int(plan.pipeline), node, units, int(plan.chips))
    inside_s, across_s = float(move.inside_time), float(move.across_time)
    return StepSchedule(
        forward_s=along(move.forward),
        backward_s=along(move.backward),
        transfer_s=tuple(across_s if far else inside_s for far in across),
        gather_s=along(table.closing.gather),
        reduce_s=along(table.closing.reduce),
        optimizer_s=along(table.optimizer),
        layers=tuple(int(n) for n in along(table.closing.layers)),
        pieces=int(plan.virtual),
        micro_batches=int(plan.micro_batches),
        cores=float(point.system.chip.collective_cores),
        overlap=software.gradient_overlap,
        host_s=float(host_step(case)),
        # On one stage every order is the same one.
        schedule=plan.schedule if int(plan.pipeline) > 1 else "1f1b",
        weight_s=along(move.weight),
        buckets=tuple(max(int(n), 1) for n in along(table.closing.buckets)),
        loading_s=float(loading(point)),
        pieces_s=tuple(zip(*(_each(piece, along) for piece in move.pieces), strict=True)),
    )


def _each(piece: Piece, along: Callable[[Array], tuple[float, ...]]) -> tuple[tuple[float, float, float], ...]:
    """(forward, backward, weight) of a piece on every stage."""
    return tuple(zip(along(piece.forward), along(piece.backward), along(piece.weight), strict=True))


def simulate_training(case: Case, index: int = 0, slow: SlowRanks | None = None) -> EventRun:
    """One step of point `index` of a training case, as events; `slow`: chips that take longer. Raises SpecError."""
    replicas = slow_replicas(at(with_micro_batches(case), index), slow) if slow else []
    return run_training(step_schedule(case, index), replicas)


def run_training(plan: StepSchedule, replicas: Sequence[Replica] = ()) -> EventRun:
    """Schedules a step and measures it; `replicas` that differ run side by side, all that are not given are as fast as
    the plan says. Raises SimulationError when it cannot finish.
    """
    import simpy

    env = simpy.Environment()
    stages = range(len(plan.forward_s))
    states = [_Step(env, plan, each, several=len(replicas) > 1) for each in replicas] or [_Step(env, plan)]
    for state in states:
        state.together = states
        for stage in stages:
            env.process(state.stage(stage))
            env.process(state.traffic(stage))
            for direction in ("forward", "backward"):
                env.process(state.link(stage, direction))
    read: list[Span] = []
    env.process(_storage(env, plan.loading_s, read))
    env.run()
    done = [time for state in states for time in state.done]
    if len(done) != len(states) * len(stages):
        raise SimulationError("the step stopped early", clock_s=float(env.now), process=f"{len(done)} stages done")
    end = max([max(done) + plan.host_s, *(span.end_s for span in read)])
    return EventRun(end, (*(span for state in states for span in state.spans), *read), (end,))


def _storage(env: simpy.Environment, time_s: float, read: list[Span]) -> Generator[Any, Any, None]:
    """The stream of storage: samples of the next step, read while this one runs."""
    if time_s > 0.0:
        start = float(env.now)
        yield env.timeout(time_s)
        read.append(Span("storage", "samples of the next step", start, float(env.now)))


def order_of(plan: StepSchedule, stage: int) -> list[Pass]:
    """Passes of a stage in the order it runs them.

    One piece: 1F1B, as many forward passes first as stages follow. Several: groups of as many micro-batches as
    stages go through piece after piece, Narayanan et al. 2021, figure 4.
    """
    count, stages, pieces = plan.micro_batches, len(plan.forward_s), plan.pieces
    behind = stages - 1 - stage
    ahead = behind if pieces == 1 else 2 * behind + (pieces - 1) * stages
    total = count * pieces
    ahead = min(ahead, total)
    forward = [("forward", *_place(k, stages, pieces)) for k in range(total)]
    turned = [(pieces - 1 - piece, micro) for piece, micro in (_place(k, stages, pieces) for k in range(total))]
    backward: list[Pass] = [("backward", piece, micro) for piece, micro in turned]
    order: list[Pass] = forward[:ahead]
    for k in range(total - ahead):
        order += [forward[ahead + k], backward[k]]
    return order + backward[total - ahead :]


def blocks_of(plan: StepSchedule) -> list[list[Block]]:
    """Blocks of passes of every stage in the order it runs them."""
    stages = len(plan.forward_s)
    if plan.schedule == "1f1b":
        return [[(step,) for step in order_of(plan, stage)] for stage in range(stages)]
    return orders(plan.schedule, stages, plan.micro_batches)


def _place(k: int, stages: int, pieces: int) -> tuple[int, int]:
    """(piece, micro-batch) of the k-th forward pass."""
    if pieces == 1:
        return 0, k
    group, rest = divmod(k, stages * pieces)
    return rest // stages, group * stages + rest % stages


class _Step:
    """State of one run: what has arrived where, what each stream is busy with."""

    def __init__(
        self, env: simpy.Environment, plan: StepSchedule, replica: Replica | None = None, *, several: bool = False
    ) -> None:
        self.env, self.plan = env, plan
        self.factors = (1.0,) * len(plan.forward_s) if replica is None else replica.factors
        self.whose = f", replica {replica.number}" if replica is not None and several else ""
        self.together: Sequence[_Step] = (self,)
        self.stages = len(plan.forward_s)
        self.blocks = blocks_of(plan)
        self.arrived = [
            {step: env.event() for block in blocks for step in block if step[0] != "weight"} for blocks in self.blocks
        ]
        self.ends = [_Ends(blocks, last_pass(plan.schedule)) for blocks in self.blocks]
        self.leaving = {(s, kind): _queue(env) for s in range(self.stages) for kind in ("forward", "backward")}
        layers = [max(n // plan.pieces, 1) for n in plan.layers]
        self.slices = layers
        self.buckets = [max(n // plan.pieces, 1) for n in plan.buckets or plan.layers]
        self.gathered = [{(p, n): env.event() for p in range(plan.pieces) for n in range(k)} for k in layers]
        self.reducible = [{(p, n): env.event() for p in range(plan.pieces) for n in range(k)} for k in self.buckets]
        self.reduced = [env.event() for _ in range(self.stages)]
        self.busy = [0.0] * self.stages
        self.since: list[float | None] = [None] * self.stages
        self.done: list[float] = []
        self.spans: list[Span] = []
        for stage, step in entries(plan.schedule, self.stages, plan.micro_batches):
            self.arrived[stage][step].succeed()

    def stage(self, stage: int) -> Generator[Any, Any, None]:
        """One stage's passes in order, then the update once its gradients are reduced."""
        for block in self.blocks[stage]:
            for step in block:
                if step[0] != "weight":
                    yield self.arrived[stage][step]
            for step in block:
                start = float(self.env.now)
                yield from self._pass(stage, step)
                piece = f" piece {step[1]}" if self.plan.pieces > 1 else ""
                self._note(f"stage {stage}", f"{step[0]} {step[2]}{piece}", start)
            for step in block:
                self._hand_on(stage, step)
        yield self.reduced[stage]
        start = float(self.env.now)
        yield self.env.timeout(self.plan.optimizer_s[stage] * self.factors[stage])
        self._note(f"stage {stage}", "optimizer", start)
        self.done.append(float(self.env.now))

    def traffic(self, stage: int) -> Generator[Any, Any, None]:
        """The stream of data-parallel traffic: weights in before, gradients out after."""
        plan, slices = self.plan, self.slices[stage]
        parts = plan.pieces * slices
        for piece in self.ends[stage].first or range(plan.pieces):
            for layer in range(slices):
                yield from self._send(stage, plan.gather_s[stage] / parts, "gather")
                self.gathered[stage][piece, layer].succeed()
        buckets = self.buckets[stage]
        for piece in self.ends[stage].last or reversed(range(plan.pieces)):
            for bucket in reversed(range(buckets)):
                # Nobody's gradient is whole before the last replica has made its own.
                yield self.env.all_of([each.reducible[stage][piece, bucket] for each in self.together])
                yield from self._send(stage, plan.reduce_s[stage] / (plan.pieces * buckets), "reduce")
        self.reduced[stage].succeed()

    def link(self, stage: int, direction: str) -> Generator[Any, Any, None]:
        """Transfers that leave a stage in one direction, one at a time; the last stage's next is the first."""
        neighbour = (stage + (1 if direction == "forward" else -1)) % self.stages
        time_s = self.plan.transfer_s[stage if direction == "forward" else neighbour]
        queue = self.leaving[stage, direction]
        while True:
            target = yield queue.get()
            start = float(self.env.now)
            yield self.env.timeout(time_s)
            self._note(f"link {stage} to {neighbour}, {direction}", f"{target[0]} {target[2]}", start)
            self.arrived[neighbour][target].succeed()

    def _length(self, stage: int, kind: str, piece: int) -> float:
        """Seconds of a pass when nothing lies beside it."""
        plan = self.plan
        whole = plan.forward_s[stage], plan.backward_s[stage], plan.weight_s[stage] if plan.weight_s else 0.0
        forward, back, weight = plan.pieces_s[stage][piece] if plan.pieces_s else (each / plan.pieces for each in whole)
        if last_pass(plan.schedule) == "backward":
            weight = 0.0
        return {"forward": forward, "backward": back - weight, "weight": weight}[kind]

    def _pass(self, stage: int, step: Pass) -> Generator[Any, Any, None]:
        """One pass of a piece; the first waits for weights, the last frees gradients, layer by layer."""
        plan, slices, ends, piece = self.plan, self.slices[stage], self.ends[stage], step[1]
        whole = self._length(stage, step[0], piece)
        first, last = step in ends.first.values(), step in ends.last.values()
        if not (first or last):
            yield from self._compute(stage, whole)
            return
        waits = self.gathered[stage]
        slices = slices if first else self.buckets[stage]
        if first and not plan.overlap:
            # Everything is gathered before the first pass of the first piece.
            yield waits[list(ends.first)[-1], slices - 1]
        for layer in range(slices):
            if first:
                yield waits[piece, layer]
            yield from self._compute(stage, whole / slices)
            if last and plan.overlap:
                self.reducible[stage][piece, slices - 1 - layer].succeed()
        if last and not plan.overlap and piece == list(ends.last)[-1]:
            for event in self.reducible[stage].values():
                event.succeed()

    def _compute(self, stage: int, time_s: float) -> Generator[Any, Any, None]:
        before = self._traffic_until_now(stage)
        yield self.env.timeout(time_s * self.factors[stage])
        beside = self._traffic_until_now(stage) - before
        if beside > 0.0 and self.plan.cores > 0.0 and self.plan.overlap:
            yield self.env.timeout(self.plan.cores * beside)

    def _send(self, stage: int, time_s: float, what: str) -> Generator[Any, Any, None]:
        start = float(self.env.now)
        self.since[stage] = start
        yield self.env.timeout(time_s)
        self.busy[stage] += float(self.env.now) - start
        self.since[stage] = None
        if time_s > 0.0:
            self._note(f"data ranks of stage {stage}", what, start)

    def _traffic_until_now(self, stage: int) -> float:
        since = self.since[stage]
        return self.busy[stage] + (0.0 if since is None else float(self.env.now) - since)

    def _hand_on(self, stage: int, step: Pass) -> None:
        """Makes the next pass of this micro-batch ready, here or behind a link."""
        plan, last, (kind, piece, micro) = self.plan, self.stages - 1, step
        if plan.schedule != "1f1b":
            found = following(plan.schedule, self.stages, stage, step)
            if found and found[0] == stage:
                self.arrived[stage][found[1]].succeed()
            elif found:
                self.leaving[stage, "forward" if found[0] > stage else "backward"].put(found[1])
            return
        if kind == "forward":
            ends = stage == last
            if ends and piece == plan.pieces - 1:
                self.arrived[stage]["backward", piece, micro].succeed()
                return
            target: Pass = ("forward", piece + 1 if ends else piece, micro)
        else:
            ends = stage == 0
            if ends and piece == 0:
                return
            target = ("backward", piece - 1 if ends else piece, micro)
        if self.stages == 1:
            self.arrived[0][target].succeed()
        else:
            self.leaving[stage, kind].put(target)

    def _note(self, resource: str, label: str, start: float) -> None:
        self.spans.append(Span(resource + self.whose, label, start, float(self.env.now)))


class _Ends:
    """Of a stage: by piece the first forward pass and the pass that completes its gradients, in the order they run."""

    def __init__(self, blocks: list[Block], completes: str) -> None:
        steps = [step for block in blocks for step in block]
        self.first: dict[int, Pass] = {}
        self.last: dict[int, Pass] = {}
        for step in steps:
            if step[0] == "forward":
                self.first.setdefault(step[1], step)
            elif step[0] == completes:
                self.last.pop(step[1], None)
                self.last[step[1]] = step


def _queue(env: simpy.Environment) -> simpy.Store:
    import simpy

    return simpy.Store(env)
