"""The closed form over points: feasibility first, then time, memory, energy of one step.

    prefill  one batch through the pipeline:  host + sum of stages and transfers + (m - 1) slowest stage
    decode   steady state, a token per sequence: max(m slowest stage, host + sum of stages and transfers)

    train    see cosim.engines.training

with m micro-batches per replica. A full pipeline hides the host behind the other micro-batches. A chip
that would exceed its power limit lowers its clock (`throttle`, `cosim.timing.clock`). A total
is the sum of its named parts in the order of
BREAKDOWN, counted on the slowest stage: what it computes, what it waits for (`bubble`), the exposed host. Samples are
read behind the step before: a step that is shorter than that waits (`data_loading`), and its clock is as without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cosim.engines import training
from cosim.engines.case import Case, device_graph, micro_batch_graph, new_tokens, stage_classes
from cosim.engines.loading import loading
from cosim.engines.pipeline import Schedule
from cosim.engines.repeats import Repeats, end_key, kernel_key, repeats, round_key
from cosim.engines.serving_stack import serving_host
from cosim.engines.step import (
    CLASSES_OF_TIME,
    StageCosts,
    Transfers,
    op_costs,
    stage_costs,
    transfers,
    without_work,
)
from cosim.engines.training import Busiest, Ends
from cosim.mapping.device import DeviceGraph
from cosim.mapping.legal import Verdict, divisibility, merged
from cosim.mapping.memory import HELD, Memory, serving_memory
from cosim.mapping.offload import host_of
from cosim.mapping.schedules import hops
from cosim.mapping.stages import Stages, at_class, fullest
from cosim.mapping.training import holdings, reads_shapes, training_memory
from cosim.records import Array, array, joined, map_leaves, points, take
from cosim.timing.clock import Load, sustained
from cosim.timing.cost import rate
from cosim.timing.loading import exposed_seconds
from cosim.timing.unique import Index
from cosim.workload.graph import model_flop
from cosim.workload.ops import Graph
from cosim.workload.training import training_graph

BREAKDOWN = (*CLASSES_OF_TIME, "bubble", "data_parallel", "optimizer", "host", "throttle", "offload", "data_loading")
CHUNK_POINTS = 16384
TRAINING_POINTS = 262144
"""Points of a training case that share kernels."""
TRAINING_FLOP = {"all": 3.0, "nothing": 3.0, "adapters": 2.0}
"""Forward, input gradients and, unless they are frozen, weight gradients: every product so many times."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Results of a batch of points, every array of shape (P,); NaN where a point is infeasible.

    `time` [s] of a step; `energy` [J] of it over all chips, and `server_energy` with servers;
    `power` [W] of one chip, `clock` that it sustains over that of the peak; `breakdown` [s] and `memory` [B] by name;
    `utilisation` is MFU; `tokens` new per step.
    """

    verdict: Verdict
    chips: Array
    time: Array
    tokens: Array
    energy: Array
    server_energy: Array
    facility_energy: Array
    power: Array
    clock: Array
    utilisation: Array
    breakdown: dict[str, Array]
    memory: dict[str, Array]
    again_flop: Array = field(default_factory=lambda: array(np.nan))
    """FLOP of products that recompute runs again in a step, all chips; NaN where nothing is trained."""

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Points that break no limit."""
        passed: NDArray[np.bool_] = self.verdict.code == 0
        return passed


def evaluate(case: Case) -> Estimates:
    """Estimates of every point of the case, in chunks whose size does not change the result."""
    if case.phase == "train":
        return _trained_many(training.with_micro_batches(case))
    parts = [_evaluate_chunk(part, points(part)) for part in _chunks(case, points(case), CHUNK_POINTS)]
    return joined(parts)


def _chunks(case: Case, total: int, size: int) -> list[Case]:
    """The points in turn, `size` at a time."""
    return [case] if total <= size else [take(case, rows) for rows in _turns(total, size)]


def _trained_many(case: Case) -> Estimates:
    """A training case in parts that share their kernels; of as few points as serving where these do not repeat."""
    parts = []
    for part in _chunks(case, points(case), TRAINING_POINTS):
        total = points(part)
        kernels = repeats(partial(kernel_key, part), total)
        if total <= CHUNK_POINTS or kernels.first.size <= CHUNK_POINTS:
            parts.append(_evaluate_training(part, total, kernels))
        else:
            parts += [_trained_many(each) for each in _chunks(part, total, CHUNK_POINTS)]
    return joined(parts)


def evaluate_cells(cells: list[tuple[Case, NDArray[np.intp]]]) -> Estimates:
    """Estimates of points that differ in structure: each cell alone, rows put back where they belong.

    `cells` are (case, rows): point i of a case is row rows[i] of the result; rows cover 0..P-1 once.
    """
    together = joined([evaluate(case) for case, _ in cells])
    order = np.argsort(np.concatenate([rows for _, rows in cells]), kind="stable")
    return map_leaves(together, lambda leaf: leaf[order])


def blank(total: int) -> Estimates:
    """Estimates of `total` points of which nothing is known: no limit broken, every number NaN."""
    unknown = {name: np.full(total, np.nan) for name in ("chips", *_TIMED)}
    return Estimates(
        verdict=Verdict(np.zeros(total, dtype=np.int64), np.full(total, np.nan)),
        breakdown={name: np.full(total, np.nan) for name in BREAKDOWN},
        memory={name: np.full(total, np.nan) for name in HELD},
        **unknown,
    )


def _evaluate_chunk(case: Case, total: int) -> Estimates:
    """Limits in their documented order; only what passed them is timed, then scattered back."""
    device, stage = device_graph(case), stage_classes(case)
    reserved = case.system.chip.memory["dram"].reserved
    memory = serving_memory(device, stage, case.model, case.plan, case.scenario, reserved)
    result = _untimed(case, total, memory)
    rows = np.flatnonzero(result.feasible).astype(np.intp)
    if rows.size:
        _fill(result, rows, *_timed(case if rows.size == total else take(case, rows)))
    return _with_time_limit(result, case)


def _evaluate_training(case: Case, total: int, kernels: Repeats) -> Estimates:
    """The same of a training case: kernels that repeat are costed once, and only those of points that pass."""
    few = kernels.chosen(case)
    device = device_graph(few)
    device = device if reads_shapes(training.software_of(case)) else holdings(device)
    found = []
    for rows in _turns(total, CHUNK_POINTS):
        part, own = (case, kernels) if rows.size == total else (take(case, rows), kernels.at(rows))
        found.append(_untimed(part, rows.size, _training_memory(part, own.handed(device))))
    result = joined(found)
    rows = np.flatnonzero(result.feasible).astype(np.intp)
    if rows.size == total:
        _time_training(result, rows, case, few, kernels)
    elif rows.size:
        # Kernels of points that do not pass are not asked for.
        needed, place = np.unique(kernels.place[rows], return_inverse=True)
        _time_training(result, rows, take(case, rows), take(few, needed), Repeats(needed, place))
    return result


def _time_training(result: Estimates, rows: Index, case: Case, few: Case, kernels: Repeats) -> None:
    """Times the points `rows` of the result: those of `case`, whose kernels are those of `few` points."""
    groups, total = training.group_passes(few), rows.size
    by_round = repeats(partial(round_key, case, kernels.place), total)
    rounds = training.rounds_of(by_round.chosen(case), kernels.at(by_round.first).handed(groups))
    staged = rounds.schedule, rounds.link, training.busiest(rounds)
    by_end = repeats(partial(end_key, case), total)
    ends = training.ends_of(by_end.chosen(case), kernels.at(by_end.first).handed(groups))
    # Neighbours are alike: what one kind of pipeline asks is not worked out for the other.
    order = np.lexsort((by_round.place, np.broadcast_to(case.plan.virtual > 1.0, (total,)))).astype(np.intp)
    for turn in _turns(total, CHUNK_POINTS):
        chosen = order[turn]
        part = take(case, chosen) if total > 1 else case
        own = by_round.at(chosen).handed(staged)
        _fill(result, rows[chosen], *_summed_up(part, *_trained(part, *own, by_end.at(chosen).handed(ends))))


def _turns(total: int, size: int) -> list[Index]:
    """All points, `size` at a time."""
    return [np.arange(s, min(s + size, total), dtype=np.intp) for s in range(0, total, size)]


def _untimed(case: Case, total: int, memory: Memory) -> Estimates:
    """Points with their limits and their memory; nothing is timed."""
    verdict = divisibility(case.plan, case.scenario, case.model, case.system.chips, case.phase)
    short = memory.total - case.system.chip.memory["dram"].capacity
    verdict = merged(verdict, "memory", short)
    verdict = merged(verdict, "host_memory", memory.host - host_of(case.system, case.plan).capacity)
    kinds = {kind: np.broadcast_to(getattr(memory, kind), (total,)).copy() for kind in HELD}
    unknown = {name: np.full(total, np.nan) for name in _TIMED}
    return Estimates(
        verdict=_full(verdict, total),
        chips=np.broadcast_to(case.plan.chips, (total,)).copy(),
        breakdown={name: np.full(total, np.nan) for name in BREAKDOWN},
        memory=kinds,
        **unknown,
    )


def _fill(result: Estimates, rows: Index, timed: dict[str, Array], parts: dict[str, Array]) -> None:
    """Writes what was timed of some points into new estimates."""
    for name, value in timed.items():
        getattr(result, name)[rows] = value
    for name, value in parts.items():
        result.breakdown[name][rows] = value


def _training_memory(case: Case, device: DeviceGraph) -> Memory:
    """Memory of the fullest chip of a training step; `device` as far as it is held."""
    software, reserved = training.software_of(case), case.system.chip.memory["dram"].reserved
    return training_memory(device, stage_classes(case), case.plan, software, reserved, case.scenario.updates)


_TIMED = ("time", "tokens", "energy", "server_energy", "facility_energy", "power", "clock", "utilisation", "again_flop")


def timed_step(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """A serving step that is known to fit: time, energy and power of every point, and the breakdown of its time."""
    return _timed(case)


def step_load(case: Case, *, bare: bool = False) -> Load:
    """What such a step is to the clock of a chip (P,), its host left out; `bare`: as if attention took nothing."""
    parts, dynamic, shares = _served(case, bare=bare)
    return _load(case, parts | {"host": array(0.0)}, dynamic, shares)


def _timed(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """Time, energy and use of feasible points that serve: the scalars of _TIMED and the breakdown."""
    return _summed_up(case, *_served(case))


def _summed_up(
    case: Case, parts: dict[str, Array], dynamic: Array, shares: Shares
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The scalars of _TIMED and the breakdown from the exposed parts at the full clock."""
    chip, chips = case.system.chip, case.plan.chips
    running: Array = sum(parts.values(), array(0.0))
    held = sustained(_load(case, parts, dynamic, shares), chip.power)
    # At the full clock the sum of the parts is the time, not one rounding beside it.
    parts["throttle"] = np.where(held.clock < 1.0, np.maximum(held.time - running, 0.0), 0.0)
    read = loading(case)
    parts["data_loading"] = exposed_seconds(read, running + parts["throttle"])
    time: Array = sum((parts[name] for name in BREAKDOWN), array(0.0))
    # Plans that wait for the same samples take the same time, not one rounding beside it.
    time = np.where(parts["data_loading"] > 0.0, read, time)
    energy = held.energy * chips + chip.power.idle * time * chips
    server = energy + case.system.server_power * chips * time
    flop = model_flop(case.model, _counted(case)) * case.plan.micro_batches * case.plan.data
    if case.phase == "train":
        flop = TRAINING_FLOP[case.scenario.updates] * flop
    timed = {
        "time": time,
        "tokens": new_tokens(case),
        "energy": energy,
        "server_energy": server,
        "facility_energy": server * case.system.pue,
        "power": energy / time / chips,
        "clock": held.clock,
        "again_flop": shares.again_flop,
        "utilisation": flop / (time * chips * rate(chip, case.plan.dtype)),
    }
    return timed, parts


def _load(case: Case, parts: dict[str, Array], dynamic: Array, shares: Shares) -> Load:
    """Exposed parts and dynamic energy of a step as one window of a chip."""
    running: Array = sum(parts.values(), array(0.0))
    # What is waited for are other stages of the same make: the bubble follows the clock as they do.
    clocked = shares.clocked * sum((parts[name] for name in (*CLASSES_OF_TIME, "bubble")), array(0.0))
    each = dynamic / case.plan.chips
    core = shares.core * each
    return Load(running - clocked, clocked, np.zeros_like(running), each - core, core)


def _counted(case: Case) -> Graph:
    """The forward graph whose FLOP count as the model's: attention under its mask, fused or not."""
    if case.phase != "train":
        return micro_batch_graph(case)
    return training_graph(case.model, case.plan.micro_batch, case.scenario.context, fused=True)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of a step: the share of its kernels' time that follows the clock, of its dynamic energy that follows voltage.

    And FLOP of products that are run again, on all chips.
    """

    clocked: Array
    core: Array
    again_flop: Array = field(default_factory=lambda: array(np.nan))


def _served(case: Case, *, bare: bool = False) -> tuple[dict[str, Array], Array, Shares]:
    """Exposed parts of a serving step [s], its dynamic energy over all chips at the full clock [J], its shares."""
    device, stage = device_graph(case), stage_classes(case)
    ops = op_costs(case, device)
    costs = stage_costs(case, device, tuple(without_work(op, "attention") for op in ops) if bare else ops, stage)
    moved = transfers(case)
    dynamic = _dynamic_energy(case, costs, stage, moved)
    per_rank = np.sum(stage.count * costs.core_energy, axis=0)
    ranks = case.plan.tensor * case.plan.data * case.plan.micro_batches
    core = per_rank * ranks / np.where(dynamic > 0.0, dynamic, 1.0)
    shares = Shares(_over(stage, costs.clocked, costs.time), core)
    return step_parts(case, costs, stage, moved), dynamic, shares


def _over(stage: Stages, part: Array, whole: Array) -> Array:
    """A part of the stages' time as a share of the whole, all stages together."""
    total = np.sum(stage.count * whole, axis=0)
    # A pass over nothing takes no time.
    share: Array = np.sum(stage.count * part, axis=0) / np.where(total > 0.0, total, 1.0)
    return share


def _trained(
    case: Case, schedule: Schedule, link: Array, own: Busiest, ends: Ends
) -> tuple[dict[str, Array], Array, Shares]:
    """The same of a training step, from a micro-batch on its stages and the ends."""
    plan, count = case.plan, schedule.stage.count
    parts = training.exposed_parts(case, schedule, own, ends) | {"throttle": array(0.0)}
    rounds = own.energy + np.sum(count, axis=0) * hops(plan) * link
    per_rank = plan.micro_batches * rounds + np.sum(count * ends.energy, axis=0)
    ranks = plan.tensor * plan.replicas
    again = own.again_flop * plan.micro_batches * ranks
    shares = Shares(own.clocked, plan.micro_batches * own.core_energy / per_rank, again)
    return parts, per_rank * ranks, shares


def step_parts(case: Case, costs: StageCosts, stage: Stages, moved: Transfers) -> dict[str, Array]:
    """Exposed parts of a step [s]: the slowest stage's own times m times, the bubble, the host."""
    slowest = fullest(stage, costs.time)
    m = case.plan.micro_batches

    def at_slowest(values: Array) -> Array:
        return at_class(values, slowest)

    stage_time = at_slowest(costs.time)
    through = np.sum(stage.count * costs.time, axis=0)
    through = through + moved.inside * moved.inside_time + moved.across * moved.across_time
    host = serving_host(case, costs, stage, through)
    busy = stage_time if case.phase == "prefill" else m * stage_time
    slack = np.maximum((through - busy) + host, 0.0)
    parts = {name: m * at_slowest(getattr(costs, name)) for name in CLASSES_OF_TIME}
    exposed = np.minimum(slack, host)
    parts["bubble"] = slack - exposed
    parts["data_parallel"] = parts["optimizer"] = parts["offload"] = np.zeros_like(slack)
    parts["host"] = exposed
    return parts


def _dynamic_energy(case: Case, costs: StageCosts, stage: Stages, moved: Transfers) -> Array:
    """Over all chips: every stage's kernels and links, for all micro-batches and replicas [J]."""
    per_rank = np.sum(stage.count * costs.energy, axis=0) + (moved.inside + moved.across) * moved.energy
    total: Array = per_rank * case.plan.tensor * case.plan.data * case.plan.micro_batches
    return total


def _with_time_limit(result: Estimates, case: Case) -> Estimates:
    """Adds the limit on the step's time; points over it are infeasible and lose their outputs."""
    if case.phase == "train":
        return result
    name = "ttft_limit" if case.phase == "prefill" else "tpot_limit"
    limit = getattr(case.scenario, name)
    over = np.where(np.isnan(result.time), 0.0, result.time - limit)
    verdict = merged(result.verdict, name, over)
    if np.array_equal(verdict.code, result.verdict.code):
        return result
    lost = verdict.code != 0
    cleared = {name: np.where(lost, np.nan, getattr(result, name)) for name in _TIMED}
    breakdown = {name: np.where(lost, np.nan, value) for name, value in result.breakdown.items()}
    return Estimates(verdict=verdict, chips=result.chips, breakdown=breakdown, memory=result.memory, **cleared)


def _full(verdict: Verdict, total: int) -> Verdict:
    return Verdict(np.broadcast_to(verdict.code, (total,)).copy(), np.broadcast_to(verdict.shortfall, (total,)).copy())
