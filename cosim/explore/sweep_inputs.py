"""From the file of a sweep to its grid: every path checked, every value read in its unit, bounds tried once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from cosim import library
from cosim.datum import Datum
from cosim.documents import Document
from cosim.errors import SpecError
from cosim.explore.axes import MOST_DESIGNS, Axis, Grid, Level, is_number
from cosim.explore.constraints import parse_constraints
from cosim.explore.rows import Columns
from cosim.explore.sweep import Part, SweepInputs, run_designs
from cosim.explore.sweep_file import Sweep
from cosim.hardware.load import described, read_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario
from cosim.overrides import ROOTS, Varied, canonical, split_overrides, value_at, vary
from cosim.workload.load import Workload, load_workload


def read_sweep(
    study: Sweep, document: Document | None, overrides: Mapping[str, Mapping[str, Any]]
) -> tuple[SweepInputs, list[Path]]:
    """All that a sweep reads, `overrides` by root set, and the files. Raises SpecError, with its line."""
    files = [] if document is None else [document.path]
    systems: dict[str, Varied[System]] = {}
    for index, name in enumerate(study.system):
        try:
            spec, read = read_system(name)
            systems[name] = vary_system(Varied(spec), overrides["system"])
        except SpecError as error:
            raise _at(error, document, f"system.{index}") from None
        files += [part.path for part in read]
    models: dict[str, Varied[Workload]] = {}
    for index, case in enumerate(study.cases):
        try:
            model = load_workload(case.workload)
            models[case.workload] = vary(Varied(model), overrides["workload"], root="workload.")
            files.append(library.find("workloads", case.workload))
        except SpecError as error:
            raise _at(error, document, f"cases.{index}.workload") from None
    files.append(library.find("technology", "silicon"))
    cases = tuple(
        case.model_copy(
            update={"plan": {**case.plan, **overrides["plan"]}, "scenario": {**case.scenario, **overrides["scenario"]}}
        )
        for case in study.cases
    )
    study = study.model_copy(update={"cases": cases})
    _no_derived_power(study, document, overrides["system"])
    _not_on_an_axis(study, document, overrides)
    units: dict[str, str] = {"system.chip.power.limit": "W", "system.chip.power.idle": "W"}
    _no_path_twice(study, document, systems, models)
    levels = [_levels(study, index, document, systems, models, units) for index in range(len(study.axes))]
    grid = Grid(tuple(levels))
    if grid.size > MOST_DESIGNS:
        hint = f"at most {MOST_DESIGNS:,}; widen the steps"
        raise _at(
            SpecError("spans too many designs", field="axes", value=f"{grid.size:,}", hint=hint), document, "axes"
        )
    for case in study.cases:
        if case.phase == "train":
            files += _software_files(case.plan)
    inputs = SweepInputs(study, grid, parse_constraints(study.constraints), systems, models, units)
    for name in systems:
        for index in range(len(study.cases)):
            _try(inputs, Part(name, index, 0, 1), document)
    return inputs, files


def _software_files(plan: Mapping[str, object]) -> list[Path]:
    """Files of the training software of a plan, and of the optimizer that it names. Raises SpecError."""
    named = [("software", plan.get("software", Plan().software)), ("optimizers", plan.get("optimizer"))]
    return [part.path for kind, name in named if name is not None for part in described(str(name), kind)[1]]


def _try(inputs: SweepInputs, part: Part, document: Document | None) -> None:
    """Evaluates every step along each axis and the corners of every two: what is wrong is said before anything is kept.

    Raises SpecError at the axis or case that it comes from.
    """
    shape = inputs.grid.shape
    # Every value was read by itself: of numbers the ends are tried, of choices all.
    ends = [
        {0, count - 1} if all(is_number(levels) for levels in axis.values()) else range(count)
        for axis, count in zip(inputs.grid.levels, shape, strict=True)
    ]
    steps = [{axis: step} for axis, tried in enumerate(ends) for step in tried]
    corners = [{i: shape[i] - 1, j: shape[j] - 1} for i, j in itertools.combinations(range(len(shape)), 2)]
    tried = {inputs.grid.design([at.get(axis, 0) for axis in range(len(shape))]) for at in ({}, *steps, *corners)}
    try:
        table = run_designs(inputs, part, np.array(sorted(tried), dtype=np.int64))
        _all_known(inputs, table)
    except SpecError as error:
        raise _at(error, document, _blamed(inputs.study, part, str(error.field or ""))) from None


def _blamed(study: Sweep, part: Part, field: str) -> str:
    """The line of a sweep that a fault of its designs belongs to: an axis, what is asked of the whole, or the case."""
    for index, axis in enumerate(study.axes):
        if any(path == field or path.startswith(f"{field}.") for path in axis.path):
            return f"axes.{index}"
    if field.startswith(("maximise", "constraints")):
        return field
    return "power" if field == "system.chip.die" else f"cases.{part.case}"


def _all_known(inputs: SweepInputs, table: Columns) -> None:
    """Refuses to maximise or to constrain what is unknown of this chip or phase."""
    study = inputs.study
    if np.isnan(table[study.maximise][table["feasible"]]).any():
        hint = "maximise what every chip and phase of the sweep has, such as tokens_per_s_per_chip"
        raise SpecError("is unknown for this chip or phase", field="maximise", value=study.maximise, hint=hint)
    for index, constraint in enumerate(inputs.constraints):
        broken = np.array([name == constraint.text for name in table["limit"]])
        if (broken & np.isinf(table["limit_by"])).any():
            hint = f"{constraint.column} is unknown for this chip or phase"
            raise SpecError("cannot be said", field=f"constraints.{index}", value=constraint.text, hint=hint)


def _not_on_an_axis(study: Sweep, document: Document | None, overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses to set what an axis sets."""
    on = {path: index for index, axis in enumerate(study.axes) for path in axis.path}
    for path in (f"{root}.{rest}" for root, changes in overrides.items() for rest in changes):
        if path in on:
            error = SpecError("is on an axis", field=path, hint="change its values in the file")
            raise _at(error, document, f"axes.{on[path]}")


def _no_derived_power(study: Sweep, document: Document | None, changes: Mapping[str, Any]) -> None:
    """Refuses a power limit or idle that is set where each design's own silicon gives it."""
    if study.power == "given":
        return
    derived = ("chip.power.limit", "chip.power.idle")
    axes = [(f"axes.{i}.path", path.removeprefix("system.")) for i, axis in enumerate(study.axes) for path in axis.path]
    for at, path in [("power", path) for path in changes] + axes:
        if path in derived:
            error = SpecError("follows from each design's silicon", field=f"system.{path}", hint="use power: given")
            raise _at(error, document, at)


def _no_path_twice(
    study: Sweep,
    document: Document | None,
    systems: Mapping[str, Varied[System]],
    models: Mapping[str, Varied[Workload]],
) -> None:
    """Refuses two names of one number: tiers.node.latency is tiers.0.latency."""
    specs: dict[str, BaseModel] = {
        "system": next(iter(systems.values())).spec,
        "workload": next(iter(models.values())).spec,
        "plan": Plan(),
        "scenario": Scenario(),
    }
    seen: set[str] = set()
    for index, axis in enumerate(study.axes):
        for path in axis.path:
            at = f"axes.{index}.path"
            try:
                root, rest = _split(path)
                name = f"{root}.{canonical(rest, specs[root])}"
            except SpecError as error:
                raise _at(error, document, at) from None
            if name in seen:
                twice = SpecError("is on two axes", field="axes", value=path, hint="a number has one axis")
                raise _at(twice, document, at)
            seen.add(name)


def _split(path: str) -> tuple[str, str]:
    """Root and rest of a path. Raises SpecError for an unknown root."""
    root, _, rest = path.partition(".")
    if root not in ROOTS or not rest:
        raise SpecError("unknown path", field=path, hint=f"a path starts with one of {', '.join(ROOTS)}")
    return root, rest


def _levels(
    study: Sweep,
    index: int,
    document: Document | None,
    systems: Mapping[str, Varied[System]],
    models: Mapping[str, Varied[Workload]],
    units: dict[str, str],
) -> dict[str, tuple[Level, ...]]:
    """Values of each path of an axis, read by the description that the path belongs to; its unit goes to `units`.

    The paths of an axis are set together, with the first step of every other axis: a value may be right only beside
    another.
    """
    axis = study.axes[index]
    try:
        rows = axis.steps()
        others = [other for place, other in enumerate(study.axes) if place != index]
        first = {path: value for other in others for path, value in zip(other.path, other.steps()[0], strict=True)}
        read = [
            _read({**first, **dict(zip(axis.path, row, strict=True))}, axis.path, study, systems, models)
            for row in rows
        ]
        found: dict[str, tuple[Level, ...]] = {}
        for path in axis.path:
            found[path] = tuple(values[path][0] for values in read)
            units[path] = read[0][path][1]
            if not axis.values:
                found[path] = _range(axis, path, found[path])
        if not axis.values:
            # Of a range the value that is least whole stands for all between its ends.
            odd = max(range(len(found[axis.path[0]])), key=lambda at: _fraction(found[axis.path[0]][at]))
            _read({**first, **{path: found[path][odd] for path in axis.path}}, axis.path, study, systems, models)
    except SpecError as error:
        at = "values" if axis.values else "from"
        raise _at(error, document, f"axes.{index}.{at}") from None
    return found


def _fraction(level: Level) -> float:
    """How far a number is from a whole one."""
    return abs(float(level) - round(float(level)))


def _range(axis: Axis, path: str, ends: tuple[Level, ...]) -> tuple[Level, ...]:
    if not is_number(ends):
        raise SpecError("is a choice: a range needs numbers", field=path, hint="list its values")
    low, high = (float(end) for end in ends)
    return tuple(float(value) for value in axis.spread(low, high))


def _read(
    changes: Mapping[str, object],
    wanted: tuple[str, ...],
    study: Sweep,
    systems: Mapping[str, Varied[System]],
    models: Mapping[str, Varied[Workload]],
) -> dict[str, tuple[Level, str]]:
    """The `wanted` of the values that are set together, SI number or choice, with their units. Raises SpecError."""
    parts = split_overrides(changes, ROOTS)
    described: dict[str, list[BaseModel]] = {root: [] for root in ROOTS}
    roots = {path.split(".")[0] for path in wanted}
    if "system" in roots:
        described["system"] = [vary_system(owner, parts["system"]).spec for owner in systems.values()]
    if "workload" in roots:
        described["workload"] = [vary(owner, parts["workload"], root="workload.").spec for owner in models.values()]
    for case in study.cases:
        if "plan" in roots:
            described["plan"].append(vary(Varied(Plan()), {**case.plan, **parts["plan"]}, root="plan.").spec)
        if "scenario" in roots:
            asked = {**case.scenario, **parts["scenario"]}
            described["scenario"].append(vary(Varied(Scenario()), asked, root="scenario.").spec)
    return {path: _level(described[path.split(".")[0]][0], path, changes[path]) for path in wanted}


def _level(spec: BaseModel, path: str, value: object) -> tuple[Level, str]:
    found = value_at(spec, path.partition(".")[2])
    if isinstance(found, Datum):
        return found.si, found.si_unit
    if isinstance(found, bool | str):
        return found, ""
    if isinstance(found, int | float):
        return float(found), "s" if path in ("scenario.ttft_limit", "scenario.tpot_limit") else ""
    hint = "an axis sets single numbers, names or flags"
    raise SpecError("is not a number or a choice", field=path, value=value, hint=hint)


def _at(error: SpecError, document: Document | None, field: str) -> SpecError:
    return error if document is None else error.at(file=document.path, line=document.line(field))
