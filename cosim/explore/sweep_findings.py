"""What a sweep found, per case: best design, what stopped the others, the front over area, steps from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.explore.assumptions import data_of, model_facts
from cosim.explore.axes import Grid, Level, is_number
from cosim.explore.command import command_of
from cosim.explore.pareto import pareto
from cosim.explore.rows import plain, row
from cosim.explore.sweep import Part, SweepInputs, limit_order, run_part
from cosim.records import Array
from cosim.silicon.area import unknown
from cosim.silicon.technology import load_technology

Row = dict[str, Any]
FRONT_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of a result in one case, read back column by column."""

    table: Any
    rows: NDArray[np.intp]

    def number(self, name: str) -> Array:
        """A numeric column, NaN where unknown."""
        values: Array = self.table[name].to_numpy()[self.rows].astype(np.float64)
        return values

    def words(self, name: str) -> NDArray[np.str_]:
        """A text column."""
        column = self.table[name].combine_chunks()
        column = column if hasattr(column, "indices") else column.dictionary_encode()
        names = np.array(column.dictionary.to_pylist(), dtype=np.str_)
        words: NDArray[np.str_] = names[column.indices.to_numpy()[self.rows]]
        return words

    def at(self, place: int) -> Row:
        """One whole row as plain values."""
        index = int(self.rows[place])
        return {name: plain(self.table[name][index].as_py()) for name in self.table.column_names}


def read_results(folder: Path) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """results.parquet of a run folder. Raises SpecError where it is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "results.parquet"
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise SpecError("is missing or cannot be read", file=path, hint="run the experiment again") from None


def points_of(table: Any, case: int, system: str) -> Points:  # noqa: ANN401  # pyarrow ships no types
    """The rows of one case and system."""
    import pyarrow.compute as pc

    mask = pc.and_(pc.equal(table["case"], case), pc.equal(table["system"], system))
    return Points(table, np.flatnonzero(mask.to_numpy()))


def sweep_findings(folder: Path, inputs: SweepInputs, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page says of a sweep, as plain data; see `Points` for where it is read."""
    table = read_results(folder)
    found = [
        _case(points_of(table, case, system), inputs, case, system, overrides)
        for case in range(len(inputs.study.cases))
        for system in inputs.systems
    ]
    first = [shown_path(axis) for axis in inputs.grid.levels]
    axes = [
        {"paths": list(axis), "shown": shown, "levels": [plain(level) for level in axis[shown]]}
        for axis, shown in zip(inputs.grid.levels, first, strict=True)
    ]
    return {
        "cases": found,
        "axes": axes,
        "units": dict(inputs.units),
        "heat_map": list(inputs.study.heat_map or first[:2]),
        "maximise": inputs.study.maximise,
        "limit_order": limit_order(inputs.constraints),
        "constraints": [constraint.text for constraint in inputs.constraints],
        "searched": inputs.study.search is not None,
        "power": inputs.study.power,
    }


def shown_path(axis: Mapping[str, Sequence[Level]]) -> str:
    """The path that an axis is named by: the first that changes along it."""
    return next((path for path, levels in axis.items() if len(set(levels)) > 1), next(iter(axis)))


def _case(points: Points, inputs: SweepInputs, case: int, system: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    asked = inputs.study.cases[case]
    worth = points.number(inputs.study.maximise)
    feasible = np.isfinite(worth) & (points.words("limit") == "")
    names, counts = np.unique(points.words("limit"), return_counts=True)
    limits = {str(name): int(count) for name, count in zip(names, counts, strict=True) if name}
    about: dict[str, Any] = {
        "workload": asked.workload,
        "phase": asked.phase,
        "system": system,
        "confidence": inputs.systems[system].spec.chip.confidence,
        "designs": len(worth),
        "feasible": int(feasible.sum()),
        "limits": dict(sorted(limits.items(), key=lambda item: -item[1])),
        "base": base_row(inputs, case, system),
        "best": None,
        "front": [],
        "steps": [],
    }
    if not feasible.any():
        return about
    area = points.number("area_mm2")
    # Of designs that are worth the same, the smallest.
    top = np.max(worth[feasible])
    size = np.nan_to_num(area, nan=np.finfo(np.float64).max)
    best = int(np.argmin(np.where(feasible & (worth >= top * (1.0 - 1e-12)), size, np.inf)))
    known = np.flatnonzero(feasible & np.isfinite(area))
    front = known[pareto(-area[known], worth[known])] if known.size else np.zeros(0, dtype=np.intp)
    shown = front[np.unique(np.linspace(0, front.size - 1, min(FRONT_SHOWN, front.size)).round().astype(int))]
    about["best"] = described(points.at(best), inputs, overrides)
    about["front"] = [described(points.at(int(place)), inputs, overrides) for place in shown]
    about["steps"] = _steps(points, inputs, best)
    return about


def described(point: Row, inputs: SweepInputs, overrides: Mapping[str, Any]) -> Row:
    """A row with the command that makes it again."""
    paths = [path for axis in inputs.grid.levels for path in axis if path.split(".")[0] in ("system", "workload")]
    changes = {path: value for path, value in overrides.items() if path.split(".")[0] in ("system", "workload")}
    changes |= {path: point[path] for path in paths}
    if inputs.study.power == "derived":
        changes |= {f"system.chip.power.{name}": point[f"system.chip.power.{name}"] for name in ("limit", "idle")}
    name = inputs.study.cases[point["case"]].workload
    return {**point, "command": command_of(point, point["system"], name, changes)}


def base_row(inputs: SweepInputs, case: int, system: str) -> Row | None:
    """The system as its file describes it, asked the same: what every design is compared with.

    None where the axes change what is asked (plan, scenario, workload): there is no same question then.
    """
    if any(path.split(".")[0] != "system" for axis in inputs.grid.levels for path in axis):
        return None
    study = inputs.study.model_copy(update={"silicon": False, "power": "given"})
    alone = replace(inputs, grid=Grid(()), study=study, constraints=())
    try:
        return row(run_part(alone, Part(system, case, 0, 1)), 0)
    except SpecError:
        return None


def _steps(points: Points, inputs: SweepInputs, best: int) -> list[dict[str, Any]]:
    """From the best design one step down and up along each axis: what it changes, or what stops it."""
    grid, shape = inputs.grid, inputs.grid.shape
    here = [int(at[0]) for at in grid.coordinates(np.array([best]))]
    worth, area, limit = points.number(inputs.study.maximise), points.number("area_mm2"), points.words("limit")
    steps = []
    for axis, (levels, at) in enumerate(zip(grid.levels, here, strict=True)):
        path = shown_path(levels)
        values = levels[path]
        for side in (-1, 1):
            if not 0 <= at + side < shape[axis]:
                continue
            # Rows of a case lie in the order of its designs.
            there = grid.design([*here[:axis], at + side, *here[axis + 1 :]])
            stopped = str(limit[there])
            steps.append(
                {
                    "path": path,
                    "from": plain(values[at]),
                    "to": plain(values[at + side]),
                    "up": side > 0 if is_number(values) else None,
                    "limit": stopped,
                    "area_mm2": plain(area[there] - area[best]),
                    "change": None if stopped else plain(worth[there] / worth[best] - 1.0),
                }
            )
    return steps


def about_sweep(inputs: SweepInputs) -> dict[str, Any]:
    """What a sweep rests on: warnings, the limits of silicon, every datum of systems, models and technology."""
    technology = load_technology()
    chips = {name: varied.spec.chip for name, varied in inputs.systems.items()}
    warnings = [
        f"{name}: area and TDP of {chip.name} are unknown, so nothing of silicon binds: {unknown(chip, technology)}"
        for name, chip in chips.items()
        if unknown(chip, technology)
    ]
    warnings += [
        f"{name}: kernels of {chip.name} are not fitted on it ({chip.confidence})"
        for name, chip in chips.items()
        if chip.confidence != "measured"
    ]
    warnings.append("areas: GA100 was fitted, GH100 is predicted within 4 %, a B200 comes out 28 % too small")
    listed = {name: list(data_of(varied.spec)) for name, varied in inputs.systems.items()}
    listed |= {varied.spec.name: model_facts(varied.spec) for varied in inputs.models.values()}
    listed[technology.name] = list(data_of(technology))
    silicon = [
        f"reticle field {technology.reticle.text}",
        f"die edge of {technology.memory[0].edge.text} a memory stack on the two long sides",
        f"{technology.link_edge.text} of links on the two short sides",
    ]
    return {
        "warnings": warnings,
        "assumptions": listed,
        "silicon": silicon if inputs.study.silicon else [],
        "systems": {
            name: {
                "title": varied.spec.title,
                "chip": varied.spec.chip.title,
                "confidence": varied.spec.chip.confidence,
            }
            for name, varied in inputs.systems.items()
        },
    }
