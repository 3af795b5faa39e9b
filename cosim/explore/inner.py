"""The inner search of a sweep: the best plan and batch of every design, all designs at once.

Two passes. Every legal plan at batches of powers of two; then, on the best plan of each design, the batches
between its neighbours. Points are designs x candidates in blocks that fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.explore.space import Candidates, candidates_over
from cosim.mapping.legal import LIMITS
from cosim.records import Array, array, leaves, map_leaves, take

Score = Callable[[Case, Estimates, NDArray[np.intp]], Array]
"""What a point is worth, -inf where it may not be taken; arguments: case, estimates, design of each point."""
FORBIDDEN = -float(len(LIMITS) + 2)
"""Below every worth (none is negative), and so near to it that what is nearest to being allowed still counts."""
BLOCK_POINTS = 131_072
# Between half and twice the best power of two, eight steps a doubling as far as they are whole.
FINER = np.array([5, 6, 7, 8, 10, 12, 14, 16]) / 8.0


@dataclass(frozen=True, slots=True)
class Best:
    """The best point of every design (N,), its estimates, and how many plans were tried for it."""

    case: Case
    result: Estimates
    plans: Array


def best_plans(case: Case, designs: int, max_batch: int, score: Score) -> Best:
    """Best plan and batch of each of `designs` points of `case`; where none may be taken, the least short one."""
    if case.phase == "train":
        raise SpecError("are not searched for training in a sweep", field="search", hint="give a plan in the case")
    batches = 2 ** np.arange(int(np.log2(max_batch)) + 1)
    tensor, pipeline, data, micro, batch, expert = (np.ones(designs) for _ in range(6))
    plans = np.zeros(designs)
    for group in _alike(case, designs):
        one = take(case, group[:1])
        model = map_leaves(one.model, lambda leaf: leaf.reshape(()))
        found = candidates_over(model, int(np.max(one.system.chips)), batches, case.phase)
        if found.plans == 0:
            continue
        index = _first_pass(case, group, found, score)
        for own, values in zip(
            (tensor, pipeline, data, micro, batch, expert),
            (found.tensor, found.pipeline, found.data, found.micro_batches, found.batch, found.expert),
            strict=True,
        ):
            own[group] = values[index]
        plans[group] = found.plans
    coarse = Candidates(tensor, pipeline, data, micro, batch, 0, expert)
    chosen = replace(coarse, batch=_second_pass(case, coarse, max_batch, score))
    best = _with(case, chosen)
    result = map_leaves(evaluate(best), lambda leaf: np.broadcast_to(leaf, (designs,)).copy())
    return Best(best, result, plans)


def _alike(case: Case, designs: int) -> list[NDArray[np.intp]]:
    """Designs that have the same legal plans: number of chips and dimensions of the model."""
    varying = [leaf for leaf in (case.system.chips, *leaves(case.model)) if leaf.ndim and leaf.shape[-1] > 1]
    if not varying:
        return [np.arange(designs, dtype=np.intp)]
    _, which = np.unique(np.stack(varying), axis=1, return_inverse=True)
    which = which.reshape(-1)
    return [np.flatnonzero(which == each).astype(np.intp) for each in range(int(which.max()) + 1)]


def _first_pass(case: Case, group: NDArray[np.intp], found: Candidates, score: Score) -> NDArray[np.intp]:
    """Index of the best candidate of each design of a group, (len(group),)."""
    count = found.tensor.size
    best = np.zeros(group.size, dtype=np.intp)
    step = max(BLOCK_POINTS // count, 1)
    for start in range(0, group.size, step):
        rows = group[start : start + step]
        design, candidate = np.repeat(rows, count), np.tile(np.arange(count, dtype=np.intp), rows.size)
        trial = _with(take(case, design), _picked(found, candidate))
        worth = _worth(trial, score, design).reshape(rows.size, count)
        best[start : start + step] = np.argmax(worth, axis=1)
    return best


def _second_pass(case: Case, coarse: Candidates, max_batch: int, score: Score) -> Array:
    """Best batch of each design on its plan, between the neighbours of the one found, (N,)."""
    designs = coarse.batch.size
    each = coarse.batch / coarse.data
    # Micro-batches divide a replica's batch, so batches step by their number.
    tried = np.maximum(np.rint(each[:, None] * FINER / coarse.micro_batches[:, None]), 1.0)
    tried = np.minimum(tried * coarse.micro_batches[:, None], max(max_batch, 1))
    tried = np.where(tried % coarse.micro_batches[:, None] == 0, tried, each[:, None]) * coarse.data[:, None]
    chosen = coarse.batch.copy()
    step = max(BLOCK_POINTS // FINER.size, 1)
    for start in range(0, designs, step):
        rows = np.arange(start, min(start + step, designs), dtype=np.intp)
        design = np.repeat(rows, FINER.size)
        trial = _with(take(case, design), replace(_picked(coarse, design), batch=tried[rows].reshape(-1)))
        worth = _worth(trial, score, design).reshape(rows.size, FINER.size)
        at = np.argmax(worth, axis=1)
        chosen[rows] = tried[rows, at]
    return chosen


def _worth(trial: Case, score: Score, design: NDArray[np.intp]) -> Array:
    """Score of every point. What may not be taken lies below everything, the nearest to being allowed on top.

    Nearest: the fastest of what breaks a constraint alone, then by the last limit in their order, the least short.
    """
    result = map_leaves(evaluate(trial), lambda leaf: np.broadcast_to(leaf, design.shape))
    worth = score(trial, result, design)
    code, by = result.verdict.code, np.nan_to_num(result.verdict.shortfall)
    near = np.where(result.feasible, len(LIMITS) + 1.0 / (1.0 + np.nan_to_num(result.time)), code + 1.0 / (1.0 + by))
    return np.where(np.isneginf(worth), FORBIDDEN + near, worth)


def _picked(found: Candidates, index: NDArray[np.intp]) -> Candidates:
    fields = ("tensor", "pipeline", "data", "micro_batches", "batch", "expert")
    return replace(found, **{name: getattr(found, name)[index] for name in fields})


def _with(case: Case, found: Candidates) -> Case:
    """The case with those plans and batches; formats and algorithms stay."""
    plan = replace(
        case.plan,
        tensor=found.tensor,
        pipeline=found.pipeline,
        data=found.data,
        micro_batches=found.micro_batches,
        expert=found.expert,
    )
    return replace(case, plan=plan, scenario=replace(case.scenario, batch=array(found.batch)))
