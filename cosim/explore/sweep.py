"""Evaluating a sweep: designs by index, silicon first, then one plan each or the best one, limits named.

Every design is asked every case. Order of the limits, the first one named: what silicon refuses, constraints on the
design, what the plan breaks, constraints on its result. Nothing that silicon refuses is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import Estimates, blank, evaluate
from cosim.engines.case import Case, check_recompute
from cosim.engines.training import with_micro_batches
from cosim.errors import SpecError
from cosim.explore.axes import Grid
from cosim.explore.constraints import Constraint
from cosim.explore.die import chip_of, die_columns
from cosim.explore.estimate import prepare
from cosim.explore.inner import best_plans
from cosim.explore.loading import with_storage
from cosim.explore.metrics import Die, metric
from cosim.explore.rows import Columns, Text, columns
from cosim.explore.sweep_file import Sweep, SweepCase
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import LIMITS
from cosim.mapping.optimizers import planned_software
from cosim.overrides import ROOTS, Varied, split_overrides, vary
from cosim.records import Array, array, leaves, map_leaves, take
from cosim.silicon.area import die_area, static_power, unknown
from cosim.silicon.limits import DIE_LIMITS, shortfalls
from cosim.silicon.technology import load_technology
from cosim.workload.load import Workload, lower_workload


@dataclass(frozen=True, slots=True)
class SweepInputs:
    """All that a process needs to evaluate any part of a sweep: read and checked once."""

    study: Sweep
    grid: Grid
    constraints: tuple[Constraint, ...]
    systems: Mapping[str, Varied[System]]
    models: Mapping[str, Varied[Workload]]
    units: Mapping[str, str]
    """SI unit of each path of an axis; empty where it has none."""


@dataclass(frozen=True, slots=True)
class Part:
    """Designs `start` to `stop` of one system in one case."""

    system: str
    case: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Designs:
    """Designs of one cell: the system with its numbers, its silicon, the first limit that each breaks (0: none)."""

    varied: Varied[System]
    die: Die
    code: NDArray[np.int32]
    shortfall: Array


def limit_names(constraints: tuple[Constraint, ...]) -> tuple[tuple[str, str], ...]:
    """(name, unit) of every limit of a sweep; its code is its place, 0 is none."""
    silicon = [(limit.name, limit.unit) for limit in DIE_LIMITS]
    asked = [(constraint.text, constraint.unit) for constraint in constraints]
    return (("", ""), *silicon, *asked, *((limit.name, limit.unit) for limit in LIMITS[1:]))


def limit_order(constraints: tuple[Constraint, ...]) -> list[str]:
    """Names of the limits in the order in which a design meets them."""
    before = [limit.name for limit in DIE_LIMITS] + [c.text for c in constraints if c.of_design]
    return [*before, *(limit.name for limit in LIMITS[1:]), *(c.text for c in constraints if not c.of_design)]


def run_part(inputs: SweepInputs, part: Part) -> Columns:
    """Columns of every design of a part, in order."""
    return run_designs(inputs, part, np.arange(part.start, part.stop, dtype=np.int64))


def run_designs(inputs: SweepInputs, part: Part, designs: NDArray[np.int64]) -> Columns:
    """Columns of any designs of the part's system and case, in the order of `designs`."""
    cells = inputs.grid.cells(designs)
    tables = [_run_cell(inputs, part, designs[cell]) for cell in cells]
    order = np.argsort(np.concatenate(cells), kind="stable")
    return {name: _ordered([table[name] for table in tables], order) for name in tables[0]}


def _ordered(parts: list[Array | Text], order: NDArray[np.intp]) -> Array | Text:
    """Column of all cells, back in the order of the designs."""
    words = [part for part in parts if isinstance(part, Text)]
    if words:
        whole = Text.joined(words)
        return Text(whole.codes[order], whole.names)
    return np.concatenate([np.asarray(part) for part in parts])[order]


def _run_cell(inputs: SweepInputs, part: Part, designs: NDArray[np.int64]) -> Columns:
    """Columns of designs that share every choice."""
    study, asked = inputs.study, inputs.study.cases[part.case]
    changes = split_overrides({**inputs.grid.choices(int(designs[0])), **inputs.grid.numbers(designs)}, ROOTS)
    made = _designs(inputs, part.system, changes["system"], len(designs))
    alive = np.flatnonzero(made.code == 0).astype(np.intp)
    case = _case(inputs, made.varied, asked, changes)
    plans = np.zeros(len(designs))
    if study.search is None:
        result = _scattered(case, alive, len(designs))
        chosen = with_micro_batches(case) if case.phase == "train" else case
    else:
        chosen, result, plans = _searched(inputs, case, made, alive, len(designs))
    code, shortfall = _limits(inputs, chosen, result, made)
    return _columns(inputs, part, designs, chosen, _cleared(result, code), made.die, code, shortfall, plans)


def _designs(inputs: SweepInputs, system: str, changes: Mapping[str, object], count: int) -> _Designs:
    """The designs with their silicon and what it refuses."""
    technology = load_technology()
    varied = vary_system(inputs.systems[system], changes)
    chip = chip_of(varied)
    reason = unknown(chip.spec, technology)
    known = not reason
    if reason and (inputs.study.power == "derived" or not unknown(inputs.systems[system].spec.chip, technology)):
        # Where the chip of the file is known, a choice of the sweep must not switch its limits off.
        hint = "use power: given" if inputs.study.power == "derived" else "name what the technology file knows"
        raise SpecError(f"has no known area: {reason}", field="system.chip.die", hint=hint)
    die = {name: np.broadcast_to(values, (count,)) for name, values in die_columns(chip).items()}
    if inputs.study.power == "derived" and known:
        idle = np.broadcast_to(static_power(chip, die["area_mm2"], technology), (count,))
        varied = vary_system(varied, {"chip.power.limit": die["tdp_w"], "chip.power.idle": idle})
    code, shortfall = np.zeros(count, dtype=np.int32), np.full(count, np.nan)
    broken: list[Array] = []
    if inputs.study.silicon and known:
        excess = shortfalls(chip, die_area(chip, technology), technology)
        broken += [excess[limit.name] for limit in DIE_LIMITS]
    else:
        broken += [array(0.0)] * len(DIE_LIMITS)
    broken += [c.excess(die[c.column]) if c.of_design else array(0.0) for c in inputs.constraints]
    for place, over in enumerate(broken, start=1):
        new = (code == 0) & (np.broadcast_to(over, (count,)) > 0.0)
        code[new] = place
        shortfall[new] = np.broadcast_to(over, (count,))[new]
    return _Designs(varied, die, code, shortfall)


def _case(
    inputs: SweepInputs, varied: Varied[System], asked: SweepCase, changes: Mapping[str, Mapping[str, object]]
) -> Case:
    """The designs as a case of the engines, with the plan and scenario of `asked`."""
    machine = lower_system(varied)
    model = lower_workload(vary(inputs.models[asked.workload], changes["workload"], root="workload."))
    plan = {**asked.plan, **changes["plan"]}
    if inputs.study.precision is not None:
        plan.setdefault("dtype", inputs.study.precision)
    prepared = prepare(asked.phase, machine, model, plan, {**asked.scenario, **changes["scenario"]})
    software = planned_software(prepared.planned.spec) if asked.phase == "train" else None
    machine = with_storage(machine, prepared.scenarios)
    case = Case(asked.phase, machine, model, prepared.plans, prepared.scenarios, software)
    check_recompute(case)
    return case


def _scattered(case: Case, alive: NDArray[np.intp], count: int) -> Estimates:
    """Estimates of the points `alive`; unknown elsewhere."""
    if alive.size == count:
        return _full(evaluate(case), count)
    result = blank(count)
    if alive.size:
        _fill(result, _full(evaluate(take(case, alive)), alive.size), alive)
    return result


def _full(result: Estimates, count: int) -> Estimates:
    """One row a point also where nothing varied."""
    return map_leaves(result, lambda leaf: np.broadcast_to(leaf, (count,)).copy())


def _fill(result: Estimates, part: Estimates, rows: NDArray[np.intp]) -> None:
    """Writes the points of `part` into `rows` of `result`, which is this module's own."""
    for whole, some in zip(leaves(result), leaves(part), strict=True):
        whole[rows] = some


def _searched(
    inputs: SweepInputs, case: Case, made: _Designs, alive: NDArray[np.intp], count: int
) -> tuple[Case, Estimates, Array]:
    """The designs with their best plan and batch, its estimates and the plans tried."""
    study = inputs.study
    search = study.search
    # What silicon refuses has no plan.
    dead = made.code != 0
    if search is None or not alive.size:
        nothing = np.full(count, np.nan)
        plan = map_leaves(case.plan, lambda _: nothing)
        return replace(case, plan=plan, scenario=replace(case.scenario, batch=nothing)), blank(count), np.zeros(count)
    die = {name: values[alive] for name, values in made.die.items()}

    def score(trial: Case, result: Estimates, design: NDArray[np.intp]) -> Array:
        local = {name: values[design] for name, values in die.items()}
        worth = metric(study.maximise, trial, result, local)
        allowed = result.feasible.copy()
        for constraint in inputs.constraints:
            if not constraint.of_design:
                allowed &= constraint.excess(metric(constraint.column, trial, result, local)) <= 0.0
        return np.where(allowed & ~np.isnan(worth), worth, -np.inf)

    found = best_plans(take(case, alive), alive.size, search.max_batch, score)
    result = blank(count)
    _fill(result, found.result, alive)
    spread = np.zeros(count, dtype=np.intp)
    spread[alive] = np.arange(alive.size)
    plan = map_leaves(take(found.case.plan, spread), lambda leaf: np.where(dead, np.nan, leaf))
    batch = np.where(dead, np.nan, found.case.scenario.batch[spread])
    chosen = replace(case, plan=plan, scenario=replace(case.scenario, batch=batch))
    plans = np.zeros(count)
    plans[alive] = found.plans
    return chosen, result, plans


def _limits(inputs: SweepInputs, case: Case, result: Estimates, made: _Designs) -> tuple[NDArray[np.int32], Array]:
    """Code and shortfall of the first limit that each design breaks, over all kinds of limits."""
    code, shortfall = made.code.copy(), made.shortfall.copy()
    first_plan = 1 + len(DIE_LIMITS) + len(inputs.constraints)
    planned = (code == 0) & ~result.feasible
    code[planned] = result.verdict.code[planned] - 1 + first_plan
    shortfall[planned] = result.verdict.shortfall[planned]
    for place, constraint in enumerate(inputs.constraints, start=1 + len(DIE_LIMITS)):
        if constraint.of_design:
            continue
        over = constraint.excess(metric(constraint.column, case, result, made.die))
        new = (code == 0) & (over > 0.0)
        code[new], shortfall[new] = place, over[new]
    return code, shortfall


def _cleared(result: Estimates, code: NDArray[np.int32]) -> Estimates:
    """Outputs of what is infeasible are unknown; memory stays, it says what would be needed."""
    lost = code != 0
    cleared = map_leaves(replace(result, memory={}), lambda leaf: np.where(lost, np.nan, leaf))
    return replace(cleared, verdict=result.verdict, memory=result.memory, chips=result.chips)


def _columns(
    inputs: SweepInputs,
    part: Part,
    designs: NDArray[np.int64],
    case: Case,
    result: Estimates,
    die: Die,
    code: NDArray[np.int32],
    shortfall: Array,
    plans: Array,
) -> Columns:
    """The row of every design: its axes, then the columns of any result."""
    count = len(designs)
    names = limit_names(inputs.constraints)
    confidence = inputs.systems[part.system].spec.chip.confidence
    table = columns(case, result, quality="own", confidence=confidence, die=die)
    table |= {
        "system": Text.same(part.system, count),
        "feasible": code == 0,
        "limit": Text(code, tuple(name for name, _ in names)),
        "limit_by": np.where(code == 0, np.nan, shortfall),
        "limit_unit": Text(code, tuple(unit for _, unit in names)),
    }
    axes: Columns = {path: values for path, values in inputs.grid.numbers(designs).items() if path not in table}
    for path, choice in inputs.grid.choices(int(designs[0])).items():
        if path not in table:
            axes[path] = Text.same(str(choice), count)
    for name in ("limit", "idle"):
        values = np.broadcast_to(getattr(case.system.chip.power, name), (count,))
        axes.setdefault(f"system.chip.power.{name}", values)
    return {
        "design": designs,
        "case": np.full(count, part.case),
        **axes,
        **table,
        "plans_tried": plans,
    }
