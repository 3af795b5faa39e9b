"""Why a point is infeasible, in words: which limit, by how much, what takes the memory, what would fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.errors import InfeasibleError
from cosim.explore.fits import MORE_NODES, nearest_fit
from cosim.explore.space import candidates_at, on_nodes, searched, with_choices
from cosim.mapping.legal import LIMITS
from cosim.mapping.memory import KINDS
from cosim.mapping.order import USUAL
from cosim.mapping.plan import RECOMPUTES, PlanArrays
from cosim.records import array, at, map_leaves
from cosim.units import format_si

MOST_NODES = 64


def explain(case: Case, result: Estimates) -> InfeasibleError:
    """The error for a case without a feasible point; of many, for the one that came nearest."""
    codes = result.verdict.code
    nearest = int(np.lexsort((result.verdict.shortfall, -codes))[0])
    limit = LIMITS[int(codes[nearest])]
    by = float(result.verdict.shortfall[nearest])
    plan = plan_text(case, nearest)
    if limit.name == "memory":
        capacity = float(at(case, nearest).system.chip.memory["dram"].capacity)
        return InfeasibleError(
            "memory",
            f"{plan} lacks {format_si(by, 'B')} of {format_si(capacity, 'B')} per chip "
            f"({memory_text(result, nearest)})",
            _what_fits(case, nearest),
        )
    return InfeasibleError(limit.name, f"{plan} {limit.says.format(format(by, '.4g'))}", limit.hint)


def memory_text(result: Estimates, index: int) -> str:
    """Bytes by kind, largest first, zeros left out."""
    held = [(float(result.memory[kind][index]), kind) for kind in KINDS]
    return ", ".join(f"{kind} {format_si(value, 'B', 3)}" for value, kind in sorted(held, reverse=True) if value > 0)


def plan_text(case: Case, index: int) -> str:
    """A plan in words: tensor 8 x pipeline 1 x data 1, micro-batches 1, fp8."""
    plan = at(case.plan, index)
    degrees = f"tensor {plan.tensor:g} x pipeline {plan.pipeline:g} x data {plan.data:g}"
    micro = f", {plan.micro_batches:g} micro-batches" if plan.micro_batches > 1 else ""
    trains = f", zero {plan.zero:g}, recompute {RECOMPUTES[int(plan.recompute)]}" if case.phase == "train" else ""
    if plan.schedule != "1f1b":
        trains += f", schedule {plan.schedule}"
    if plan.order != USUAL:
        trains += f", order {plan.order}"
    degrees += f" x context {plan.context:g}" if plan.context > 1 else ""
    experts = f" x experts {plan.expert:g}" if plan.expert > 1 else ""
    experts += f" of {plan.expert_tensor:g} ranks each" if plan.expert_tensor > 0 else ""
    blocks = " in blocks" if plan.fp8_recipe == "block" else ""
    weights = f", weights {plan.weights_dtype}" if plan.weights_dtype else ""
    return f"{degrees}{experts}{micro}{trains}, {plan.dtype}{blocks}{weights}"


def _what_fits(case: Case, index: int) -> str:
    """The smallest thing that fits: a plan on this system, on more nodes, or the largest batch."""
    point = at(case, index)
    if case.phase == "train":
        return _what_trains(point)
    scalars = map_leaves(point, lambda leaf: leaf.reshape(()))
    batch = int(scalars.scenario.batch)
    # What fits is asked of memory alone: a limit on time is another question.
    scenario = replace(scalars.scenario, ttft_limit=array(np.inf), tpot_limit=array(np.inf))
    for nodes in (1, 2, 4, 8, 16, 32, MOST_NODES):
        system = on_nodes(scalars.system, scalars.system.node_chips * nodes)
        found = candidates_at(scalars.model, int(system.chips), batch, case.phase)
        if found.plans == 0:
            continue
        trial = searched(case.phase, system, scalars.model, scenario, case.plan.dtype, found)
        trial = replace(trial, plan=with_choices(trial.plan, case.plan))
        result = evaluate(trial)
        if result.feasible.any():
            best = int(np.nanargmin(result.time))
            return f"it fits with {plan_text(trial, best)} on {int(system.chips)} chips (system.nodes={nodes})"
    return f"it does not fit on {MOST_NODES} nodes: use a smaller batch or context, or a narrower format"


def _what_trains(point: Case) -> str:
    """The nearest strategy that fits, by what it changes; where none is known, what takes less memory."""
    found = nearest_fit(point)
    if found is None:
        return f"nothing is known to fit, on {MORE_NODES[-1]} times as many nodes neither; {_training_hint(point.plan)}"
    chips = int(np.max(found.case.system.chips))
    more = f" on {chips:,} chips (system.nodes={found.nodes})" if chips > float(np.max(point.system.chips)) else ""
    changed = f": {', '.join(found.changed)}" if found.changed else ""
    return f"the nearest strategy that fits is {plan_text(found.case, 0)}{more}{changed}"


def _training_hint(plan: PlanArrays) -> str:
    """What takes less memory and is not in use yet."""
    offers = ["more nodes (system.nodes)", "more tensor or pipeline parallelism"]
    if plan.zero < 3:
        offers.append("plan.zero=1 or 3" if plan.zero < 1 else "plan.zero=3")
    if RECOMPUTES[int(plan.recompute)] != "full":
        offers.append("plan.recompute=full")
    if plan.micro_batch > 1:
        offers.append("a smaller plan.micro_batch")
    return "use " + ", ".join(offers[:-1]) + (" or " if len(offers) > 1 else "") + offers[-1]
