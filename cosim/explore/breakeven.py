"""The break-even quality: how good a system's kernels must be, or may be, for the order to change.

All qualities of the system are scaled by one factor (none above 1); at each factor the batch is chosen
anew among the plans that were best before. The rate grows with quality, so the crossing is found on a
grid of factors and refined once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.explore.compare import Goal, scaled_quality
from cosim.records import Array, take

LEAST, MOST = 0.25, 4.0
GRID = 17
ROUNDS = 2
PLANS_KEPT = 4


@dataclass(frozen=True, slots=True)
class BreakEven:
    """`factor` on all of a system's qualities at which it serves `target` tokens/s/chip.

    None where even perfect kernels (all qualities 1) do not reach it, or where it stays ahead at a quarter
    of its quality; `reason` says which.
    """

    factor: float | None
    reason: str


def break_even(case: Case, result: Estimates, goal: Goal, target: float) -> BreakEven:
    """Factor at which the best point of `case` within `goal` reaches `target` [token/s/chip]."""
    kept = _promising(case, result, goal)
    if kept.size == 0:
        return BreakEven(None, "no plan meets the limit at any quality tried")
    part = take(case, kept)
    low, high = LEAST, MOST
    for _ in range(ROUNDS):
        factors = np.geomspace(low, high, GRID)
        reached = _best_rates(part, factors, goal) >= target
        if not reached.any():
            return BreakEven(None, "not reached even with perfect kernels")
        first = int(np.argmax(reached))
        if first == 0:
            return BreakEven(None, f"still ahead at {LEAST:g} of its quality") if low == LEAST else BreakEven(low, "")
        low, high = float(factors[first - 1]), float(factors[first])
    return BreakEven(high, "")


def _promising(case: Case, result: Estimates, goal: Goal) -> NDArray[np.intp]:
    """Feasible points, all batches, of the few degrees that serve best within the limit, or come nearest to it."""
    rate = np.where(result.feasible, result.tokens / result.time / result.chips, -np.inf)
    within = np.where(result.time <= goal.limit_s, rate, -np.inf)
    score = within if np.isfinite(within).any() else np.where(result.feasible, -result.time, -np.inf)
    plan = case.plan
    degrees = np.stack([np.broadcast_to(d, rate.shape) for d in (plan.tensor, plan.pipeline, plan.expert, plan.data)])
    key = np.unique(degrees, axis=1, return_inverse=True)[1].reshape(-1)
    best_first = np.argsort(-score, kind="stable")
    chosen = list(dict.fromkeys(key[i] for i in best_first if np.isfinite(score[i])))[:PLANS_KEPT]
    return np.flatnonzero(np.isin(key, chosen) & result.feasible).astype(np.intp)


def _best_rates(part: Case, factors: Array, goal: Goal) -> Array:
    """Most tokens/s/chip within the limit at each factor: points x factors in one call."""
    size = np.broadcast_shapes(part.plan.tensor.shape, part.scenario.batch.shape)[0]
    index = np.tile(np.arange(size, dtype=np.intp), factors.size)
    spread = take(part, index)
    scaled = replace(spread, system=scaled_quality(spread.system, np.repeat(factors, size)))
    result = evaluate(scaled)
    rate = result.tokens / result.time / result.chips
    within = np.where(result.feasible & (result.time <= goal.limit_s), rate, -np.inf)
    best: Array = within.reshape(factors.size, size).max(axis=1)
    return best
