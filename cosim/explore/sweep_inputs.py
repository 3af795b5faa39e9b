"""From the file of a sweep to its grid: every path checked, every value read in its unit, bounds tried once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from cosim import library
from cosim.datum import Datum
from cosim.documents import Document
from cosim.errors import SpecError, nearest
from cosim.explore.axes import MOST_DESIGNS, Axis, Grid, Level, is_number
from cosim.explore.constraints import parse_constraints
from cosim.explore.sweep import ROOTS, Part, SweepInputs, run_designs
from cosim.explore.sweep_file import Sweep
from cosim.hardware.load import described, read_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario
from cosim.overrides import Varied, value_at, vary
from cosim.workload.load import load_model
from cosim.workload.model import Model


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
    models: dict[str, Varied[Model]] = {}
    for index, case in enumerate(study.cases):
        try:
            model = load_model(case.workload)
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
    units: dict[str, str] = {"system.chip.power.limit": "W", "system.chip.power.idle": "W"}
    levels = [_levels(axis, index, document, systems, models, units) for index, axis in enumerate(study.axes)]
    grid = Grid(tuple(levels))
    if grid.size > MOST_DESIGNS:
        hint = f"at most {MOST_DESIGNS:,}; widen the steps"
        raise _at(
            SpecError("spans too many designs", field="axes", value=f"{grid.size:,}", hint=hint), document, "axes"
        )
    for case in study.cases:
        if case.phase == "train":
            software = str(case.plan.get("software", Plan().software))
            files += [part.path for part in described(software, "software")[1]]
    inputs = SweepInputs(study, grid, parse_constraints(study.constraints), systems, models, units)
    for name in systems:
        for index in range(len(study.cases)):
            _try(inputs, Part(name, index, 0, 1), document)
    return inputs, files


def _try(inputs: SweepInputs, part: Part, document: Document | None) -> None:
    """Evaluates the first design and every step along each axis from it: what is wrong is said before anything is kept.

    Raises SpecError at the axis or case that it comes from.
    """
    shape = inputs.grid.shape
    edges = [
        np.ravel_multi_index(tuple(np.eye(len(shape), dtype=int)[axis] * step), shape)
        for axis, steps in enumerate(shape)
        for step in range(steps)
    ]
    try:
        run_designs(inputs, part, np.unique(np.array(edges or [0], dtype=np.int64)))
    except SpecError as error:
        field = str(error.field or "")
        at = next((f"axes.{i}" for i, axis in enumerate(inputs.study.axes) if field in axis.path), f"cases.{part.case}")
        raise _at(error, document, at) from None


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


def _levels(
    axis: Axis,
    index: int,
    document: Document | None,
    systems: Mapping[str, Varied[System]],
    models: Mapping[str, Varied[Model]],
    units: dict[str, str],
) -> dict[str, tuple[Level, ...]]:
    """Values of each path of an axis, read by the description that the path belongs to; its unit goes to `units`."""
    try:
        rows = axis.steps()
        found: dict[str, tuple[Level, ...]] = {}
        for place, path in enumerate(axis.path):
            owners = _owners(path, systems, models)
            read = [[_read(owner, path, row[place]) for row in rows] for owner in owners]
            found[path] = tuple(level for level, _ in read[0])
            units[path] = read[0][0][1]
            if not axis.values:
                found[path] = _range(axis, path, found[path])
    except SpecError as error:
        at = "values" if axis.values else "from"
        raise _at(error, document, f"axes.{index}.{at}") from None
    return found


def _range(axis: Axis, path: str, ends: tuple[Level, ...]) -> tuple[Level, ...]:
    if not is_number(ends):
        raise SpecError("is a choice: a range needs numbers", field=path, hint="list its values")
    low, high = (float(end) for end in ends)
    return tuple(float(value) for value in axis.spread(low, high))


def _owners(path: str, systems: Mapping[str, Varied[System]], models: Mapping[str, Varied[Model]]) -> list[Varied[Any]]:
    """Descriptions that a path belongs to: every one must know it. Raises SpecError for an unknown root."""
    root, _, rest = path.partition(".")
    if root not in ROOTS or not rest:
        raise SpecError("unknown path", field=path, hint=f"a path starts with one of {', '.join(ROOTS)}")
    owners: dict[str, list[Varied[Any]]] = {
        "system": list(systems.values()),
        "workload": list(models.values()),
        "plan": [Varied(Plan())],
        "scenario": [Varied(Scenario())],
    }
    return owners[root]


def _read(owner: Varied[Any], path: str, value: object) -> tuple[Level, str]:
    """A value as the description reads it, SI number or choice, and its unit. Raises SpecError."""
    root, _, rest = path.partition(".")
    changed: BaseModel
    if isinstance(owner.spec, System):
        changed = vary_system(owner, {rest: value}).spec
    else:
        changed = vary(owner, {rest: value}, root=f"{root}.").spec
    found = value_at(changed, rest)
    if isinstance(found, Datum):
        return found.si, found.si_unit
    if isinstance(found, bool | str):
        return found, ""
    if isinstance(found, int | float):
        return float(found), ""
    raise SpecError("is not a number or a choice", field=path, value=value, hint=nearest(str(value), []))


def _at(error: SpecError, document: Document | None, field: str) -> SpecError:
    return error if document is None else error.at(file=document.path, line=document.line(field))
