"""Evaluating a search: cells of strategies as cases, limits and constraints named, the best, the front, what is kept.

All strategies of a cell share nodes, format and choices; their numbers lie along the points axis. Memory is asked
before time (the closed form does), so that what does not fit costs little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.training import with_micro_batches
from cosim.explore.constraints import Constraint
from cosim.explore.metrics import Die
from cosim.explore.objectives import OWN, Date, Goal, Money, days_of, numbers_of
from cosim.explore.pareto import front_of
from cosim.explore.rows import Columns, Text, columns, row
from cosim.explore.search_file import StrategySearch
from cosim.explore.strategy_rows import Table
from cosim.explore.strategy_space import Choices, Ground, Values, plan_of
from cosim.hardware.system import System
from cosim.mapping.legal import LIMITS
from cosim.mapping.software import SoftwareArrays
from cosim.overrides import Varied
from cosim.records import Array, joined, map_leaves, take
from cosim.workload.load import Workload

PART_STRATEGIES = 65_536
KEPT_EACH = 1_000
"""Best strategies of each objective that are kept where more fit than the result may have rows."""
ALWAYS = ("time_s", *OWN)


@dataclass(frozen=True, slots=True)
class Cell:
    """Strategies that are one case: on so many nodes, in one format, with the same choices."""

    nodes: int
    dtype: str
    choices: Choices
    base: Case
    """System, model, formats and scenario; the numbers of its plan are not used."""
    table: Table

    @property
    def count(self) -> int:
        """Strategies of the cell."""
        return len(self.table["tensor"])

    def case(self, rows: slice | NDArray[np.intp]) -> Case:
        """Some strategies of the cell as a case."""
        some = {name: column[rows] for name, column in self.table.items()}
        return with_micro_batches(replace(self.base, plan=plan_of(some, self.choices, self.base.plan)))


@dataclass(frozen=True, slots=True)
class SearchInputs:
    """All that a search rests on, read and checked: cells, goals, constraints, prices."""

    study: StrategySearch
    goals: tuple[Goal, ...]
    constraints: tuple[Constraint, ...]
    systems: Mapping[int, Varied[System]]
    """By nodes."""
    model: Varied[Workload]
    grounds: Mapping[int, Ground]
    values: Mapping[int, Values]
    bases: Mapping[tuple[int, str], Case]
    updates: Mapping[tuple[str | None, str | None], SoftwareArrays]
    """The training software by the optimizer and the format of its state; None is its own."""
    cells: tuple[Cell, ...]
    size: int
    """Combinations of all values whose degrees multiply to the chips."""
    die: Die
    money: Money
    confidence: str

    @property
    def legal(self) -> int:
        """Strategies that are evaluated."""
        return sum(cell.count for cell in self.cells)

    @property
    def date(self) -> Date | None:
        """The date of the goal that has one."""
        return next((goal.date for goal in self.goals if goal.date is not None), None)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns that goals and constraints read."""
        asked = [goal.column for goal in self.goals] + [each.column for each in self.constraints]
        return tuple(dict.fromkeys([*ALWAYS, *asked]))


@dataclass(frozen=True, slots=True)
class Part:
    """Strategies `start` to `stop` of a cell."""

    cell: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Strategies in order: code of the first limit that each breaks and by how much; those that fit, by place."""

    code: NDArray[np.int64]
    shortfall: Array
    rows: NDArray[np.intp]
    result: Estimates
    numbers: dict[str, Array]


@dataclass(frozen=True, slots=True)
class Answer:
    """Every cell judged; of the strategies that fit, cell after cell: `worth` (N, goals), the best, the front."""

    inputs: SearchInputs
    cells: tuple[Judged, ...]
    worth: Array
    best: tuple[int | None, ...]
    """Index of the best by each goal; None where none has a number."""
    front: NDArray[np.intp]

    @property
    def feasible(self) -> int:
        """Strategies that fit and keep the constraints."""
        return len(self.worth)

    def place(self, index: int) -> tuple[int, int]:
        """Cell of a strategy that fits, and its row there."""
        ends = np.cumsum([len(cell.rows) for cell in self.cells])
        cell = int(np.searchsorted(ends, index, side="right"))
        before = int(ends[cell]) - len(self.cells[cell].rows)
        return cell, int(self.cells[cell].rows[index - before])

    def number(self, name: str) -> Array:
        """A column of all strategies that fit, (N,)."""
        return np.concatenate([cell.numbers[name] for cell in self.cells] or [np.zeros(0)])


def limit_names(constraints: Sequence[Constraint]) -> tuple[tuple[str, str], ...]:
    """(name, unit) of every limit of a search by its code: those of a plan, then the constraints."""
    return (*((limit.name, limit.unit) for limit in LIMITS), *((each.text, each.unit) for each in constraints))


def parts_of(inputs: SearchInputs) -> Iterator[Part]:
    """Every part in the order of the result."""
    for index, cell in enumerate(inputs.cells):
        for start in range(0, cell.count, PART_STRATEGIES):
            yield Part(index, start, min(start + PART_STRATEGIES, cell.count))


def run_part(inputs: SearchInputs, part: Part) -> Estimates:
    """Estimates of a part."""
    return evaluate(inputs.cells[part.cell].case(slice(part.start, part.stop)))


def judged(inputs: SearchInputs, part: Part, result: Estimates) -> Judged:
    """A part with what it breaks: limits of the plan first, then the constraints in their order."""
    case = inputs.cells[part.cell].case(slice(part.start, part.stop))
    code, shortfall, numbers = verdict_of(inputs, case, result)
    rows = np.flatnonzero(code == 0)
    some = map_leaves(result, lambda leaf: leaf[rows])
    return Judged(code, shortfall, rows + part.start, some, {name: value[rows] for name, value in numbers.items()})


def verdict_of(
    inputs: SearchInputs, case: Case, result: Estimates
) -> tuple[NDArray[np.int64], Array, dict[str, Array]]:
    """Code and shortfall of the first limit that each point breaks, and the numbers that goals read."""
    code, shortfall = result.verdict.code.copy(), result.verdict.shortfall.copy()
    numbers = numbers_of(inputs.wanted, case, result, inputs.die, inputs.money)
    if inputs.date is not None:
        numbers["days"] = days_of(inputs.date, result)
    for place, constraint in enumerate(inputs.constraints, start=len(LIMITS)):
        over = constraint.excess(numbers[constraint.column])
        new = (code == 0) & (over > 0.0)
        code[new], shortfall[new] = place, over[new]
    return code, shortfall, numbers


def answered(inputs: SearchInputs, parts: Sequence[tuple[Part, Judged]]) -> Answer:
    """The best by each goal and the front of all parts. Of equals the fastest is the best."""
    cells = tuple(_cell([part for at, part in parts if at.cell == index]) for index in range(len(inputs.cells)))
    numbers = {name: np.concatenate([cell.numbers[name] for cell in cells]) for name in cells[0].numbers}
    worth = np.stack([goal.worth(numbers) for goal in inputs.goals], axis=1)
    known = np.isfinite(worth)
    best: list[int | None] = []
    # Of strategies that wait for the same samples the best has most time left.
    busy = np.concatenate([cell.result.time - cell.result.breakdown["data_loading"] for cell in cells])
    for place in range(len(inputs.goals)):
        order = np.lexsort((busy, numbers["time_s"], worth[:, place]))
        best.append(int(order[0]) if known[:, place].any() else None)
    ranked = np.flatnonzero(known.any(axis=1))
    # A tie in all goals but time is no reason to be on the front: of such only the fastest is.
    front = ranked[front_of(np.column_stack([worth[ranked], numbers["time_s"][ranked]]), len(inputs.goals))]
    return Answer(inputs, cells, worth, tuple(best), front)


def _cell(parts: list[Judged]) -> Judged:
    """The parts of a cell as one."""
    return Judged(
        np.concatenate([part.code for part in parts]),
        np.concatenate([part.shortfall for part in parts]),
        np.concatenate([part.rows for part in parts]),
        joined([part.result for part in parts]),
        {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers},
    )


def kept_of(answer: Answer) -> tuple[NDArray[np.intp], bool, str]:
    """Which strategies the result has rows of: those that fit, whether the others too, and what is said of it.

    All legal ones where the file allows so many rows, else all that fit, else the best by each objective and the front.
    """
    most, count, legal = answer.inputs.study.rows, answer.feasible, answer.inputs.legal
    if legal <= most:
        return np.arange(count), True, f"a row for each of the {legal:,} legal strategies"
    file = f"rows: {most:,} in the file is the most"
    if count <= most:
        said = f"a row for each of the {count:,} strategies that fit; others are counted by limit ({file})"
        return np.arange(count), False, said
    each = min(KEPT_EACH, max(1, most // len(answer.inputs.goals)))
    chosen = {int(index) for index in answer.front}
    for place in range(len(answer.inputs.goals)):
        order = np.argsort(answer.worth[:, place], kind="stable")[:each]
        chosen |= {int(index) for index in order if np.isfinite(answer.worth[index, place])}
    said = (
        f"{len(chosen):,} rows of {count:,} strategies that fit: the front and the best {each:,} by each objective; "
        f"others are counted by limit ({file})"
    )
    return np.array(sorted(chosen), dtype=np.intp), False, said


def tables_of(answer: Answer, chosen: NDArray[np.intp], *, others: bool = False) -> list[Columns]:
    """Columns of the chosen of the strategies that fit, in rising order, one table a cell.

    With `others` the tables of those that do not fit follow, with the limit that each breaks and by how much.
    """
    found: list[Columns] = []
    begins = 0
    for index, done in enumerate(answer.cells):
        local = chosen[(chosen >= begins) & (chosen < begins + len(done.rows))] - begins
        # An answer without rows still has columns.
        if local.size or (index == 0 and not chosen.size):
            some = {name: values[local] for name, values in done.numbers.items()}
            table = _columns(answer, index, done.rows[local], take(done.result, local), some)
            found.append({**table, "on_front": np.isin(local + begins, answer.front)})
        begins += len(done.rows)
    return found + (_refused(answer) if others else [])


def _refused(answer: Answer) -> list[Columns]:
    """Tables of the strategies that break a limit: evaluated again, which costs little where memory is what fails."""
    names = limit_names(answer.inputs.constraints)
    words, units = (tuple(name[side] for name in names) for side in (0, 1))
    found: list[Columns] = []
    for index, done in enumerate(answer.cells):
        rows = np.flatnonzero(done.code != 0)
        if not rows.size:
            continue
        case = answer.inputs.cells[index].case(rows)
        result = evaluate(case)
        # What breaks a constraint was timed; as an answer it has no time, only what it would need of memory.
        lost = map_leaves(replace(result, memory={}), lambda leaf: np.full(leaf.shape, np.nan))
        lost = replace(lost, verdict=result.verdict, memory=result.memory, chips=result.chips)
        numbers = verdict_of(answer.inputs, case, lost)[2]
        code = done.code[rows].astype(np.int32)
        limits = {"limit": Text(code, words), "limit_by": done.shortfall[rows], "limit_unit": Text(code, units)}
        table = _columns(answer, index, rows, lost, numbers) | {"feasible": np.zeros(rows.size, dtype=bool), **limits}
        found.append({**table, "on_front": np.zeros(rows.size, dtype=bool)})
    return found


def rows_of(answer: Answer, indices: Sequence[int] | NDArray[np.intp]) -> list[dict[str, Any]]:
    """Whole rows of some strategies that fit, as plain values, in the order of `indices`."""
    order = np.unique(np.asarray(indices, dtype=np.intp))
    tables = tables_of(answer, order) if order.size else []
    rows = [row(table, place) for table in tables for place in range(len(table["system"]))]
    by_index = dict(zip(order.tolist(), rows, strict=True))
    return [by_index[int(index)] for index in indices]


def _columns(
    answer: Answer, index: int, rows: NDArray[np.intp], result: Estimates, numbers: dict[str, Array]
) -> Columns:
    """Columns of some strategies of a cell: those of any result, and those of a search."""
    inputs = answer.inputs
    table = columns(inputs.cells[index].case(rows), result, quality="own", confidence=inputs.confidence, die=inputs.die)
    named = {"system": inputs.study.system, "workload": inputs.study.workload}
    table |= {name: Text.same(word, rows.size) for name, word in named.items()}
    own = [*OWN, *(["days"] if inputs.date is not None else [])]
    return {**table, **{name: numbers[name] for name in own}}


def strategy_at(answer: Answer, index: int) -> dict[str, Any]:
    """Every dimension of a strategy that fits, as plain values."""
    cell, place = answer.place(index)
    return strategy_of(answer.inputs.cells[cell], place)


def strategy_of(cell: Cell, place: int) -> dict[str, Any]:
    """Every dimension of a row of a cell, as plain values."""
    chosen = {name: getattr(cell.choices, name) for name in _CHOSEN}
    chosen |= {name: getattr(cell.choices, name) for name in _LISTED if getattr(cell.choices, name) is not None}
    numbers = {name: _number(float(column[place])) for name, column in cell.table.items()}
    return {"nodes": cell.nodes, "dtype": cell.dtype, **numbers, **chosen}


def _number(value: float) -> float:
    """A whole number as one; shares, and layers without a number, as they are."""
    return int(value) if value.is_integer() else value


def case_at(inputs: SearchInputs, strategy: Mapping[str, Any]) -> Case:
    """A strategy as a case of one point."""
    base = inputs.bases[strategy["nodes"], strategy["dtype"]]
    words = ("nodes", "dtype", *_CHOSEN, *_LISTED)
    numbers = {name: np.array([float(value)]) for name, value in strategy.items() if name not in words}
    choices = Choices(**{name: strategy[name] for name in (*_CHOSEN, *_LISTED) if name in strategy})
    software = inputs.updates[choices.optimizer, choices.optimizer_dtype]
    return with_micro_batches(replace(base, plan=plan_of(numbers, choices, base.plan), software=software))


_CHOSEN = ("schedule", "sequence_parallel", "context_exchange")
"""Choices that every strategy has."""
_LISTED = ("recompute_modules", "optimizer", "optimizer_dtype", "order", "fp8_recipe")
"""Choices that a strategy has where values are listed."""
