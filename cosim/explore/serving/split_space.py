"""Replicas whose feed-forward layers lie on chips of their own, in closed form: both sides, micro-batches, limits.

    attention     tensor x data chips, each data rank with sequences of its own
    feed-forward  chips of one system with it: experts over all of them, or a dense width cut between them
    replicas      x chips of both sides = chips

A replica does prompts and answers: requests in flight as in replicas that are whole, over steps of both sides
(`cosim.engines.served_split`). Memory is asked of either side, the one that lacks more says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import timed_step
from cosim.engines.case import Case
from cosim.engines.served import in_flight
from cosim.engines.served_memory import room_beside
from cosim.engines.served_split import Split, split_of, split_seconds, way_joules
from cosim.explore.serving.deployments import Cell, Ground, Table, case_of, crossed, demand_of, kept
from cosim.explore.serving.scores import (
    Scores,
    blank,
    broken,
    budget_lacks,
    joules_of_request,
    memory_lacks,
    within,
)
from cosim.explore.serving.search_file import ServingSearch
from cosim.explore.serving.split import splits
from cosim.mapping.legal import divisibility, divisors
from cosim.records import Array, array, joined, map_leaves, points, take
from cosim.workload.work import Work

MICRO_BATCHES = (2, 3)
"""That are tried where none are listed: with one, a side waits while the other works."""
FORWARD = ("forward_tensor", "forward_data", "forward_expert", "micro_batches")
"""What the plan of a split replica says beside that of its attention side."""


def scored_split(
    cell: Cell, levels: dict[str, list[int]], ground: Ground, study: ServingSearch
) -> tuple[Table, Scores]:
    """Deployments of split replicas. An empty table where none is legal."""
    sides = _sides(cell, ground, study)
    if not splits(ground.model):
        sides = kept(sides, np.zeros(len(sides["tensor"]), dtype=bool))
    table = crossed(sides, **levels)
    scores = blank(len(table["tensor"]))
    if not scores.code.size:
        return table, scores
    split = split_cases(cell, table, ground)
    tokens = table["data"] * table["token_budget"]
    beside = -room_beside(split.feed_forward, tokens).left
    own = memory_lacks(split.attention, table["max_sequences"], ground)
    broken(scores, "memory", np.maximum(own, beside))
    broken(scores, "token_budget", budget_lacks(table, ground))
    rows = np.flatnonzero(scores.fits)
    if rows.size:
        few, part = take(split, rows), kept(table, rows)
        served = in_flight(few.attention, demand_of(part, ground), partial(split_seconds, few))
        scores.ttft_s[rows], scores.tpot_s[rows] = served.ttft, served.tpot
        scores.requests_per_s[rows] = served.rate * part["replicas"]
        scores.joules_per_request[rows] = joules_of_request(partial(_steps_of, few), part, ground)
    within(scores, study)
    return table, scores


def split_cases(cell: Cell, table: Table, ground: Ground) -> Split:
    """Both sides of each row as cases of phase serve, with their stack."""
    one = array(1.0)
    near = case_of(cell, table, ground)
    tensor, data, expert = (table[name] for name in FORWARD[:3])
    far = replace(near, plan=replace(near.plan, tensor=tensor, data=data, expert=expert))
    near = replace(near, plan=replace(near.plan, expert=one))
    inside = split_size(table) <= float(cell.machine.system.node_chips)
    return split_of(near, far, table["micro_batches"], inside.astype(np.float64))


def split_size(table: Table) -> Array:
    """Chips of a split replica."""
    size: Array = table["tensor"] * table["data"] + table["forward_tensor"] * table["forward_data"]
    return size


def _sides(cell: Cell, ground: Ground, study: ServingSearch) -> Table:
    """Legal pairs of both sides with as many replicas as leave no chip over; a pipeline has none of them."""
    space, model = study.space, ground.model
    counts = list(range(1, ground.chips))
    experts = divisors(int(model.experts)) if model.is_moe else [1]
    forward = [each for each in (space.feed_forward or counts) if not model.is_moe or each in experts]
    table = crossed(
        {},
        tensor=list(space.tensor or divisors(int(model.heads))),
        data=list(space.data or counts),
        forward=forward,
        micro_batches=list(space.micro_batches or MICRO_BATCHES),
    )
    many = table.pop("forward")
    one = np.ones_like(many)
    shared = (one, many, many) if model.is_moe else (many, one, one)
    table |= dict(zip(FORWARD[:3], shared, strict=True)) | {"pipeline": one, "expert": one}
    size = split_size(table)
    table = kept(table, (size <= ground.chips) & (np.mod(ground.chips, size) == 0.0))
    table = table | {"replicas": ground.chips / split_size(table)}
    return table if not table["tensor"].size else kept(table, _legal(cell, table, ground))


def _legal(cell: Cell, table: Table, ground: Ground) -> NDArray[np.bool_]:
    """Rows whose degrees divide what each side holds, and that meet where there is a way."""
    split = split_cases(cell, table, ground)
    found = np.ones(len(table["tensor"]), dtype=bool)
    for case in split.sides:
        scenario = replace(case.scenario, batch=case.plan.data * case.plan.micro_batches)
        chips = array(float(ground.chips))
        found &= divisibility(case.plan, scenario, ground.model, chips, "serve", case.side).code == 0
        if case.system.node_tier + 1 >= len(case.system.tiers):
            found &= split.inside > 0.0
    return found


def _steps_of(split: Split, works: Sequence[Work]) -> tuple[list[Array], list[Array]]:
    """Seconds of one step of each of `works`, and joules of the facility, (P,) each, all of them in one call.

    Chips that wait for the other side, or the host, idle.
    """
    seconds = split_seconds(split, works)
    total, count = points(split), len(works)
    whole = joined([map_leaves(work, lambda leaf: np.broadcast_to(leaf, (total,))) for work in works])
    many, time = take(split, np.tile(np.arange(total, dtype=np.intp), count)), np.concatenate(seconds)
    joules = np.zeros_like(time)
    for case, way in zip(many.sides, way_joules(many, whole.tokens), strict=True):
        joules = joules + _facility(replace(case, work=whole), time, way)
    return seconds, list(joules.reshape(count, total))


def _facility(case: Case, time: Array, way: Array) -> Array:
    """Joules of one side over steps that take `time`, with those of its links."""
    timed, _ = timed_step(case)
    system, chips = case.system, case.plan.chips
    idle = system.chip.power.idle * chips
    busy = timed["energy"] - idle * timed["time"] + way
    found: Array = (busy + (idle + system.server_power * chips) * time) * system.pue
    return found
