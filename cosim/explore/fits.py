"""The nearest training strategy that fits: fewest changed dimensions, of these the fastest; more nodes where none does.

Data and the number of micro-batches follow from the rest and do not count as changed. Tried are all legal degrees,
every recompute and ZeRO stage, sequence parallelism on and off, micro-batches no larger than the plan's, and its own
schedule and pieces or plain 1F1B.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.engines.training import with_micro_batches
from cosim.explore.space import on_nodes
from cosim.explore.strategy_rows import Table
from cosim.explore.strategy_space import (
    NUMBERS,
    Asked,
    Choices,
    choices_of,
    grounded,
    legal_table,
    plan_of,
    values_on,
)
from cosim.mapping.legal import divisors
from cosim.mapping.plan import RECOMPUTES, PlanArrays
from cosim.records import map_leaves, take

COUNTED = tuple(name for name in NUMBERS if name != "data")
MORE_NODES = (2, 4, 8, 16)
"""Times as many nodes that are tried where nothing fits."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A strategy that fits, as a case of one point: what was changed ("recompute none to full"), on how many nodes."""

    case: Case
    changed: tuple[str, ...]
    nodes: int
    time: float


def nearest_fit(case: Case, *, more_nodes: bool = True) -> Fit | None:
    """The nearest strategy that fits to the plan of a training case of one point, None where none does.

    Nodes are multiplied only where nothing fits on those there are.
    """
    scalars = map_leaves(case, lambda leaf: leaf.reshape(-1)[0])
    nodes = round(float(scalars.system.chips) / float(scalars.system.node_chips))
    for times in (1, *(MORE_NODES if more_nodes else ())):
        system = scalars.system if times == 1 else on_nodes(scalars.system, scalars.system.chips * times)
        found = _nearest(replace(scalars, system=system), nodes * times)
        if found is not None:
            return found
    return None


def _nearest(case: Case, nodes: int) -> Fit | None:
    """The same on the system as it is."""
    plan = case.plan
    best: tuple[int, float] | None = None
    chosen: Fit | None = None
    for choices, table in _cells(case):
        trial = with_micro_batches(replace(case, plan=plan_of(table, choices, plan)))
        result = evaluate(trial)
        rows = np.flatnonzero(result.feasible)
        if not rows.size:
            continue
        away = _distance(table, choices, plan)[rows]
        row = int(rows[np.lexsort((result.time[rows], away))[0]])
        key = int(_distance(table, choices, plan)[row]), float(result.time[row])
        if best is None or key < best:
            one = np.array([row], dtype=np.intp)
            best = key
            chosen = Fit(take(trial, one), _changes(table, row, choices, plan), nodes, key[1])
    return chosen


def _cells(case: Case) -> Iterator[tuple[Choices, Table]]:
    """Cells that are tried, with their strategies."""
    plan, scenario = case.plan, case.scenario
    fused = case.software is None or case.software.fused
    ground = grounded(case.model, float(case.system.chips), scenario, fused=fused)
    micro = [size for size in divisors(ground.batch) if size <= max(float(plan.micro_batch), 1.0)]
    asked = Asked(
        micro_batch=tuple(micro),
        virtual_pipeline=tuple({1, int(plan.virtual)}),
        schedule=tuple({plan.schedule, "1f1b"}),
        context_exchange=(plan.context_exchange,),
    )
    values = values_on(ground, asked)
    for choices in choices_of(values):
        table = legal_table(values, ground, choices, plan, scenario)
        if len(table["tensor"]):
            yield choices, table


def _distance(table: Table, choices: Choices, plan: PlanArrays) -> NDArray[np.int64]:
    """Dimensions in which each strategy differs from the plan."""
    away = np.zeros(len(table["tensor"]), dtype=np.int64)
    for name in COUNTED:
        away += table[name] != float(getattr(plan, name))
    away += (choices.sequence_parallel != plan.sequence_parallel) & (table["tensor"] > 1.0)
    away += choices.schedule != plan.schedule
    return away


def _changes(table: Table, row: int, choices: Choices, plan: PlanArrays) -> tuple[str, ...]:
    """What a strategy changes, in words."""
    found = []
    for name in COUNTED:
        before, after = float(getattr(plan, name)), float(table[name][row])
        if before != after:
            shown = {"virtual": "virtual_pipeline"}.get(name, name)
            words = [RECOMPUTES[int(each)] if name == "recompute" else f"{each:g}" for each in (before, after)]
            found.append(f"{shown} {words[0]} to {words[1]}")
    if choices.sequence_parallel != plan.sequence_parallel and table["tensor"][row] > 1.0:
        found.append(f"sequence_parallel {'on' if choices.sequence_parallel else 'off'}")
    if choices.schedule != plan.schedule:
        found.append(f"schedule {plan.schedule} to {choices.schedule}")
    return tuple(found)
