"""From the file of a search to its cells: system, model, software read, dimensions checked, strategies enumerated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cosim import library
from cosim.documents import Document
from cosim.engines.case import Case, check_recompute
from cosim.errors import SpecError
from cosim.explore.die import chip_of, die_columns
from cosim.explore.estimate import prepare
from cosim.explore.loading import with_storage
from cosim.explore.objectives import Date, Goal, money_of, parse_asked
from cosim.explore.search import Cell, SearchInputs
from cosim.explore.search_file import FIXED, SEARCHED, Objective, Space, StrategySearch
from cosim.explore.strategy_space import (
    MOST_STRATEGIES,
    Choices,
    Ground,
    Values,
    choices_of,
    grounded,
    legal_table,
    nearest_limit,
    size_of,
    values_on,
)
from cosim.explore.train import training_dtype
from cosim.hardware.load import described, read_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import CODES, LIMITS
from cosim.mapping.offload import host_of
from cosim.mapping.optimizers import load_optimizer, optimized
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.mapping.widths import one_format
from cosim.overrides import Varied, vary
from cosim.records import points
from cosim.schema import validated
from cosim.workload.load import Workload, load_workload, lower_workload
from cosim.workload.model import ModelArrays

Changes = Mapping[str, Mapping[str, Any]]
Updates = Mapping[tuple[str | None, str | None], SoftwareArrays]


def read_search(
    study: StrategySearch, document: Document | None, overrides: Changes
) -> tuple[SearchInputs, list[Path]]:
    """All that a search reads, `overrides` by root set, and the files. Raises SpecError, with its line."""
    files = [] if document is None else [document.path]

    def reading(field: str, read: Any) -> Any:  # noqa: ANN401  # whatever is read
        try:
            return read()
        except SpecError as error:
            raise at_line(error, document, field) from None

    study = reading("space", lambda: with_overrides(study, overrides))
    spec, read = reading("system", lambda: read_system(study.system))
    system = vary_system(Varied(spec), overrides["system"])
    files += [part.path for part in read]
    model = reading("workload", lambda: load_workload(study.workload))
    model = vary(Varied(model), overrides["workload"], root="workload.")
    files.append(library.find("workloads", study.workload))
    reading("software", lambda: load_software(study.software))
    files += [part.path for part in described(study.software, "software")[1]]
    for name in study.space.optimizer or ():
        reading("space.optimizer", lambda name=name: load_optimizer(name))
        files += [part.path for part in described(name, "optimizers")[1]]
    files.append(library.find("technology", "silicon"))
    return searched_inputs(study, system, model, document), files


def searched_inputs(
    study: StrategySearch, system: Varied[System], model: Varied[Workload], document: Document | None = None
) -> SearchInputs:
    """The cells of a search on a system and model that are at hand. Raises SpecError, with its line."""
    if study.space.fp8_recipe and "fp8" not in (study.precision or ()):
        error = SpecError("are recipes of fp8", field="space.fp8_recipe", hint="precision: fp8, alone or among others")
        raise at_line(error, document, "space.fp8_recipe")
    if system.arrays or model.arrays:
        raise SpecError("is on one system and one workload", field="search", hint="no arrays: search one by one")
    network, software = lower_workload(model), lower_software(load_software(study.software))
    systems = {nodes: vary_system(system, {"nodes": nodes}) for nodes in nodes_of(study, system)}
    bases: dict[tuple[int, str], Case] = {}
    for nodes, varied in systems.items():
        for dtype in study.precision or (training_dtype(lower_system(varied).chip),):
            try:
                bases[nodes, dtype] = _base(study, varied, network, software, dtype)
            except SpecError as error:
                raise at_line(error, document, _blamed(error)) from None
    grounds = {nodes: _ground(base, software) for (nodes, _), base in bases.items()}
    asked = study.space.asked()
    values = {nodes: values_on(ground, asked) for nodes, ground in grounds.items()}
    size = sum(size_of(values[nodes], grounds[nodes]) for nodes, _ in bases)
    try:
        updates = _updates(study, software)
        cells = _cells(bases, grounds, values, updates)
        if not cells:
            nodes, dtype = next(iter(bases))
            limit = nearest_limit(values[nodes], grounds[nodes], bases[nodes, dtype].plan, bases[nodes, dtype].scenario)
            raise _none_legal(study, size, limit)
        _check_layers(study, cells)
        for cell in cells:
            _check_cell(cell)
    except SpecError as error:
        raise at_line(error, document, "space") from None
    inputs = SearchInputs(
        study=study,
        goals=tuple(goal_of(objective) for objective in study.objectives),
        constraints=parse_asked(study.constraints),
        systems=systems,
        model=model,
        grounds=grounds,
        values=values,
        bases=bases,
        updates=updates,
        cells=cells,
        size=size,
        die=die_columns(chip_of(system)),
        money=money_of(system.spec),
        confidence=system.spec.chip.confidence,
    )
    _all_known(inputs, document)
    return inputs


def with_overrides(study: StrategySearch, overrides: Changes) -> StrategySearch:
    """The study with `overrides` of scenario, plan and nodes; a dimension of the space that is set has one value."""
    data = study.model_dump(exclude_none=True)
    data["objectives"] = [
        {name: value for name, value in each.items() if value is not None} for each in data["objectives"]
    ]
    data["scenario"] = {**study.scenario, **overrides["scenario"]}
    if "nodes" in overrides["system"]:
        data["nodes"] = [overrides["system"]["nodes"]]
    for path, value in overrides["plan"].items():
        if path in SEARCHED:
            data["space"][SEARCHED[path]] = value
        elif path == "dtype":
            data["precision"] = value
        elif path == "software":
            data["software"] = value
        else:
            data["plan"][path] = value
    return validated(StrategySearch, data)


def nodes_of(study: StrategySearch, system: Varied[System]) -> tuple[int, ...]:
    """Numbers of nodes that are tried, rising."""
    return tuple(sorted(study.nodes or (round(system.spec.nodes.si),)))


def goal_of(objective: Objective) -> Goal:
    """An objective of the file as a goal."""
    if objective.finish is not None:
        finish = objective.finish
        date = Date(finish.tokens, finish.days, finish.goodput)
        return Goal(f"fewest chips: {finish.tokens:.4g} tokens in {finish.days:g} days", "chips", 1.0, date)
    if objective.maximise is not None:
        return Goal(f"most {objective.maximise}", objective.maximise, -1.0)
    return Goal(f"least {objective.minimise}", str(objective.minimise), 1.0)


def at_line(error: SpecError, document: Document | None, field: str) -> SpecError:
    """The error with its file, and its line where it names no better one."""
    return error if document is None else error.at(file=document.path, line=document.line(field))


def _base(
    study: StrategySearch, varied: Varied[System], model: ModelArrays, software: SoftwareArrays, dtype: str
) -> Case:
    """The case that all strategies on so many nodes in one format are made from."""
    machine = lower_system(varied)
    if dtype not in machine.chip.matrix.peak:
        hint = f"formats of {machine.chip.name}: {', '.join(machine.chip.matrix.peak)}"
        raise SpecError("has no matrix rate on this chip", field="precision", value=dtype, hint=hint)
    for name in study.plan:
        if name in FIXED:
            raise SpecError("is said in another place", field=f"plan.{name}", hint=f"use {FIXED[name]}")
    plan = {**study.plan, "dtype": dtype, "software": study.software}
    prepared = prepare("train", machine, model, plan, study.scenario)
    if points(prepared.scenarios) > 1 or points(prepared.plans) > 1:
        raise SpecError("is one number", field="scenario", hint="search one after the other")
    machine = with_storage(machine, prepared.scenarios)
    return Case("train", one_format(machine, software), model, prepared.plans, prepared.scenarios, software)


def _blamed(error: SpecError) -> str:
    """The line of the file that a fault of what is asked belongs to."""
    field = str(error.field or "")
    return field if field.startswith(("precision", "plan", "scenario")) else "system"


def _ground(base: Case, software: SoftwareArrays) -> Ground:
    return grounded(base.model, float(np.max(base.system.chips)), base.scenario, fused=software.fused)


def _cells(
    bases: Mapping[tuple[int, str], Case],
    grounds: Mapping[int, Ground],
    values: Mapping[int, Values],
    updates: Updates,
) -> tuple[Cell, ...]:
    """Every cell that holds a strategy. Raises SpecError where there are too many strategies."""
    found: list[Cell] = []
    count = 0
    for (nodes, dtype), base in bases.items():
        for choices in recipes_of(values[nodes], dtype):
            table = legal_table(values[nodes], grounds[nodes], choices, base.plan, base.scenario)
            if (choices.optimizer, choices.optimizer_dtype) not in updates:
                continue
            own = replace(base, software=updates[choices.optimizer, choices.optimizer_dtype])
            cell = Cell(nodes, dtype, choices, own, table)
            count += cell.count
            if count > MOST_STRATEGIES:
                hint = f"at most {MOST_STRATEGIES:,}: list values of a dimension"
                raise SpecError("holds too many strategies", field="space", value=f"over {count:,}", hint=hint)
            if cell.count:
                found.append(cell)
    return tuple(found)


def recipes_of(values: Values, dtype: str) -> list[Choices]:
    """The cells of a format: recipes of fp8 are choices of fp8 alone."""
    every = choices_of(values)
    if values.fp8_recipe is None or dtype == "fp8":
        return every
    return [replace(each, fp8_recipe=None) for each in every if each.fp8_recipe == values.fp8_recipe[0]]


def _updates(study: StrategySearch, software: SoftwareArrays) -> Updates:
    """The software with every optimizer in every format of its state that it has. Raises SpecError where none has."""
    found: dict[tuple[str | None, str | None], SoftwareArrays] = {}
    spec, refused = load_software(study.software), None
    for optimizer in study.space.optimizer or (None,):
        for dtype in study.space.optimizer_dtype or (None,):
            try:
                both_own = optimizer is None and dtype is None
                found[optimizer, dtype] = software if both_own else optimized(spec, optimizer, dtype)
            except SpecError as error:
                refused = error
    if not found and refused is not None:
        raise refused
    return found


def _check_cell(cell: Cell) -> None:
    """Refuses modules that the model has not, and shares for a host that is not known. Raises SpecError."""
    case = cell.case(slice(0, cell.count))
    check_recompute(case)
    host_of(case.system, case.plan)


def _check_layers(study: StrategySearch, cells: tuple[Cell, ...]) -> None:
    """Refuses numbers of layers where no strategy computes anything again. Raises SpecError."""
    asked = [each for each in study.space.recompute_layers or () if each != "all"]
    if asked and not any(np.isfinite(cell.table["recompute_layers"]).any() for cell in cells):
        hint = "space.recompute: full, or space.recompute_modules"
        raise SpecError("says how many layers compute what again", field="space.recompute_layers", hint=hint)


def _none_legal(study: StrategySearch, size: int, limit: str) -> SpecError:
    """The error for a space without a legal strategy."""
    fixed = [name for name in Space.model_fields if getattr(study.space, name) is not None]
    listed = ", ".join(f"{name} {_words(getattr(study.space, name))}" for name in fixed) or "nothing"
    says = f": {LIMITS[CODES[limit]].hint}"
    hint = f"of {size:,} combinations those that come furthest break {limit}{says}; listed: {listed}"
    return SpecError("holds no legal strategy", field="space", hint=hint)


def _words(values: tuple[object, ...]) -> str:
    return "/".join(str(value) for value in values)


def _all_known(inputs: SearchInputs, document: Document | None) -> None:
    """Refuses goals and constraints on what is unknown of this chip."""
    unknown = {name for name, values in inputs.die.items() if np.isnan(values).all()}
    unknown |= {"usd_per_token"} if np.isnan(inputs.money.usd_per_chip_s) else set()
    unknown |= {"tokens_per_s_per_mm2"} if "area_mm2" in unknown else set()
    asked = [(f"objectives.{place}", goal.column) for place, goal in enumerate(inputs.goals)]
    asked += [(f"constraints.{place}", each.column) for place, each in enumerate(inputs.constraints)]
    for field, column in asked:
        if column in unknown:
            what = "its chip has no price" if column == "usd_per_token" else "the area of its chip is not known"
            error = SpecError("is unknown for this system", field=field, value=column, hint=what)
            raise at_line(error, document, field)
