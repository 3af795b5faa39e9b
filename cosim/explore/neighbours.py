"""Why each neighbour of a strategy is worse: one dimension one value up or down, what grew, or which limit fails.

Other dimensions stay, and what follows from them is derived anew: data from the chips and the other degrees, the
number of micro-batches from the global batch, the pieces of a stage from a schedule that says how many. Where data is
too small to give way to a degree that grows, the pipeline does, and to the pipeline the tensor degree. A step goes to
the next value of the search that divides; where none does, the nearest is named with the limit that it breaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosim.engines.analytic import BREAKDOWN, Estimates, evaluate
from cosim.engines.case import Case
from cosim.explore.difference import operators_of
from cosim.explore.explain import memory_text, plan_text
from cosim.explore.objectives import Goal
from cosim.explore.search import Answer, SearchInputs, case_at, limit_names, strategy_at, verdict_of
from cosim.explore.strategy_space import FULL, LISTED, Values
from cosim.mapping.legal import LIMITS, divisibility
from cosim.mapping.memory import KINDS as MEMORY_KINDS
from cosim.mapping.plan import RECOMPUTES
from cosim.mapping.schedules import PIECES
from cosim.mapping.stages import comes_out_even
from cosim.units import format_si

Strategy = dict[str, Any]
ORDERED = ("nodes", "tensor", "pipeline", "context", "expert", "micro_batch", "virtual", "zero", "recompute", *LISTED)
"""Dimensions with a next value up and down; data follows from them."""
KINDS = (
    "sequence_parallel",
    "schedule",
    "context_exchange",
    "dtype",
    "recompute_modules",
    "optimizer",
    "optimizer_dtype",
    "order",
    "fp8_recipe",
)
"""Dimensions of which every other value is a neighbour."""
SHOWN = {"virtual": "virtual_pipeline", "dtype": "precision"}
"""Names of dimensions as files have them, where the engines' are others."""
GIVES = {"tensor": "pipeline", "pipeline": "tensor", "context": "pipeline", "nodes": "pipeline"}
"""Degree that gives way where one grows, or chips become fewer, and data is too small to."""
PARTS_TOLD = 3
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One step from the best by `objective`: `limit` it breaks ("" for none), by how much its worth changes, why.

    `also`: what followed from the step. `change` is relative, positive where it is worse; None where it breaks a limit
    or misses the date. `parts` and `operators`: what grew or shrank of a step [s], largest first. `strategy`: all
    dimensions of the neighbour.
    """

    objective: str
    dimension: str
    before: object
    after: object
    also: str
    limit: str
    change: float | None
    why: str
    parts: Mapping[str, float]
    operators: Mapping[str, float]
    strategy: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "objective": self.objective,
            "dimension": self.dimension,
            "before": self.before,
            "after": self.after,
            "also": self.also,
            "limit": self.limit,
            "change": self.change,
            "why": self.why,
            "parts_s": dict(self.parts),
            "operators_s": dict(self.operators),
            "strategy": {SHOWN.get(name, name): value for name, value in self.strategy.items()},
        }


def neighbours_of(answer: Answer, place: int) -> tuple[Neighbour, ...]:
    """Neighbours of the best by goal `place`, in the order of the dimensions; none where there is no best."""
    index = answer.best[place]
    if index is None:
        return ()
    inputs, goal = answer.inputs, answer.inputs.goals[place]
    here = strategy_at(answer, index)
    home = case_at(inputs, here)
    base = evaluate(home)
    return tuple(_told(inputs, goal, home, base, here, name, there) for name, there in _steps(inputs, here))


def _steps(inputs: SearchInputs, here: Strategy) -> Iterator[tuple[str, Strategy]]:
    """Every step from a strategy: the dimension and the strategy there."""
    for name in ORDERED:
        known = _levels(inputs, name, here)
        below = [value for value in reversed(known) if value < here[name]]
        above = [value for value in known if value > here[name]]
        for side in () if _idle(name, here) else (below, above):
            tried = [stepped(inputs, here, name, value) for value in side]
            inside = [there for there in tried if _divides(inputs, there) and _is_tried(inputs, there)]
            # Where none is in the space the nearest that breaks a limit; others are strategies nobody asked for.
            shown = inside or [there for there in tried if not _divides(inputs, there)]
            if shown:
                yield name, shown[0]
    for name in KINDS:
        for value in _levels(inputs, name, here):
            if name in here and value != here[name] and not _idle(name, here):
                yield name, stepped(inputs, here, name, value)


def _levels(inputs: SearchInputs, name: str, here: Strategy) -> tuple[Any, ...]:
    """Values of a dimension that the search tries, on the nodes of a strategy."""
    if name == "nodes":
        return tuple(inputs.systems)
    if name == "dtype":
        return tuple(dict.fromkeys(dtype for _, dtype in inputs.bases))
    values: Values = inputs.values[here["nodes"]]
    found: tuple[Any, ...] | None = getattr(values, name)
    return found or ()


def _idle(name: str, here: Strategy) -> bool:
    """Whether a dimension makes no difference to a strategy."""
    if name == "zero":
        return bool(here["context"] * here["data"] == 1)
    if name == "recompute_layers":
        return not _computes_again(here)
    if name == "recompute_modules":
        return bool(here["recompute"] >= FULL)
    if name == "order":
        return len([degree for degree in ("tensor", "context", "data", "pipeline") if here[degree] > 1]) < 2
    alone = {"sequence_parallel": "tensor", "schedule": "pipeline", "context_exchange": "context"}
    return name in alone and here[alone[name]] == 1


def _computes_again(strategy: Strategy) -> bool:
    return bool(strategy["recompute"] or strategy.get("recompute_modules"))


def stepped(inputs: SearchInputs, here: Strategy, name: str, value: object) -> Strategy:
    """The strategy with one dimension changed and what depends on it derived anew."""
    there = {**here, name: value}
    if name == "schedule":
        # 1f1b keeps what pieces there are only where it could have chosen them.
        there["virtual"] = int(PIECES.get(str(value), 1.0 if here["schedule"] in PIECES else here["virtual"]))
    if "recompute_layers" in there and _computes_again(here) != _computes_again(there):
        # Where nothing is computed again there is no number of layers.
        levels = _levels(inputs, "recompute_layers", there)
        there["recompute_layers"] = levels[0] if _computes_again(there) else np.inf
    recipes = _levels(inputs, "fp8_recipe", there)
    if name == "dtype" and recipes:
        # Another format has no recipe, and fp8 the first one again.
        there = {each: own for each, own in there.items() if each != "fp8_recipe"}
        there |= {"fp8_recipe": recipes[0]} if value == "fp8" else {}
    chips = inputs.grounds[there["nodes"]].chips
    if name in GIVES:
        excess, rest = divmod(there["tensor"] * there["pipeline"] * there["context"], chips)
        giver = GIVES[name]
        if excess > 1 and not rest and there[giver] % excess == 0:
            there[giver] //= excess
    there["data"] = chips / (there["tensor"] * there["pipeline"] * there["context"])
    if there["data"] == int(there["data"]):
        there["data"] = int(there["data"])
    if there["data"] == there["context"] == 1 and here["zero"] and name != "zero":
        there["zero"] = min(inputs.values[there["nodes"]].zero)
    return there


def _divides(inputs: SearchInputs, there: Strategy) -> bool:
    """Whether a strategy breaks no limit that needs no cost, and data is as asked."""
    values = inputs.values[there["nodes"]]
    if there["data"] != int(there["data"]) or (values.data is not None and there["data"] not in values.data):
        return False
    case = case_at(inputs, there)
    verdict = divisibility(case.plan, case.scenario, case.model, case.system.chips, "train")
    return bool(np.all(verdict.code == 0))


def _is_tried(inputs: SearchInputs, there: Strategy) -> bool:
    """Whether a legal strategy has pieces that the search tries."""
    pieces = there["pipeline"] * there["virtual"]
    uneven = there["schedule"] == "1f1b" and there["virtual"] > 1
    layers = float(inputs.grounds[there["nodes"]].model.layers)
    return inputs.values[there["nodes"]].any_pieces or not uneven or bool(comes_out_even(layers, pieces))


def _told(
    inputs: SearchInputs, goal: Goal, home: Case, base: Estimates, here: Strategy, name: str, there: Strategy
) -> Neighbour:
    """A step with its reason."""
    case = case_at(inputs, there)
    found = evaluate(case)
    code, shortfall, numbers = verdict_of(inputs, case, found)
    blank = Neighbour(
        objective=goal.text,
        dimension=SHOWN.get(name, name),
        before=word_of(name, here[name]),
        after=word_of(name, there[name]),
        also=_also(here, there, name),
        limit="",
        change=None,
        why="",
        parts={},
        operators={},
        strategy=_plain(there),
    )
    if there["data"] != int(there["data"]):
        ranks = there["tensor"] * there["pipeline"] * there["context"]
        chips = inputs.grounds[there["nodes"]].chips
        why = f"{ranks} ranks of tensor x pipeline x context do not divide {chips} chips"
        return replace(blank, limit="chips", why=f"chips: {why}")
    if int(code[0]):
        limit = limit_names(inputs.constraints)[int(code[0])][0]
        return replace(blank, limit=limit, why=limit_text(inputs, case, found, int(code[0]), float(shortfall[0])))
    _, _, known = verdict_of(inputs, home, base)
    worth, best = float(goal.worth(numbers)[0]), float(goal.worth(known)[0])
    change = (worth - best) / abs(best) if np.isfinite(worth) else None
    parts = _moved({part: (float(base.breakdown[part][0]), float(found.breakdown[part][0])) for part in BREAKDOWN})
    ops = [operators_of(each) for each in (home, case)]
    operators = _moved({op: (ops[0].get(op, 0.0), ops[1].get(op, 0.0)) for op in {**ops[0], **ops[1]}})
    why = f"{_changed(goal, change, numbers)}: {_parts_text(parts, float(found.time[0] - base.time[0]), 's')}"
    if goal.column.startswith("memory_bytes."):
        held = _moved({kind: (float(base.memory[kind][0]), float(found.memory[kind][0])) for kind in MEMORY_KINDS})
        why = f"{_changed(goal, change, numbers)}: {_parts_text(held, sum(held.values()), 'B')}"
    return replace(blank, change=change, why=why, parts=parts, operators=operators)


def limit_text(inputs: SearchInputs, case: Case, found: Estimates, code: int, by: float) -> str:
    """What a strategy of one point breaks: memory by kind against what there is, or the limit's own words."""
    name, unit = limit_names(inputs.constraints)[code]
    if name == "memory":
        capacity = float(np.max(case.system.chip.memory["dram"].capacity))
        total = format_si(float(found.memory["total"][0]), "B", 3)
        return f"memory: {total} of {format_si(capacity, 'B', 3)} ({memory_text(found, 0)})"
    if code < len(LIMITS):
        return f"{name}: {plan_text(case, 0)} {LIMITS[code].says.format(format(by, '.4g'))}"
    return f"{name} is missed by {format_si(by, unit, 3)}"


def _also(here: Strategy, there: Strategy, name: str) -> str:
    """What followed from a step: dimensions other than the one that was changed."""
    moved = [other for other in here if other != name and other in there and here[other] != there[other]]
    return ", ".join(
        f"{SHOWN.get(other, other)} {word_of(other, here[other])} to {word_of(other, there[other])}" for other in moved
    )


def _moved(pairs: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Differences that are not nothing, largest first."""
    moved = {name: after - before for name, (before, after) in pairs.items() if after != before}
    return dict(sorted(moved.items(), key=lambda item: -abs(item[1])))


def _changed(goal: Goal, change: float | None, numbers: Mapping[str, Any]) -> str:
    """How the worth of a goal changes, in words."""
    days = f", {float(numbers['days'][0]):,.4g} days" if goal.date is not None else ""
    if change is None:
        return f"too late{days}" if days else f"{goal.column} is unknown"
    if abs(change) < SAME:
        return f"{goal.column} is the same{days}"
    return f"{goal.column} {goal.sign * change:+.2%}{days}"


def _parts_text(parts: Mapping[str, float], whole: float, unit: str) -> str:
    """What grew and what shrank of a step or of a chip's memory, the largest first, with the sum."""
    grew = [f"{name} +{format_si(value, unit, 3)}" for name, value in parts.items() if value > 0][:PARTS_TOLD]
    fell = [f"{name} -{format_si(-value, unit, 3)}" for name, value in parts.items() if value < 0][: PARTS_TOLD - 1]
    what = "a step" if unit == "s" else "a chip"
    if not grew and not fell:
        return f"{what} takes as much"
    return f"{', '.join([*grew, *fell])}; {what} {'+' if whole >= 0 else '-'}{format_si(abs(whole), unit, 3)}"


def word_of(name: str, value: object) -> object:
    """A value as files have it."""
    if name == "sequence_parallel":
        return "on" if value else "off"
    if name == "expert_tensor":
        return int(float(str(value))) or "follows"
    if name == "recompute_layers":
        return "all" if value == np.inf else int(float(str(value)))
    if name == "recompute_modules":
        return ",".join(str(each) for each in value) if isinstance(value, tuple) and value else "none"
    return RECOMPUTES[int(str(value))] if name == "recompute" else value


def _plain(there: Strategy) -> dict[str, Any]:
    return {name: word_of(name, value) for name, value in there.items()}
