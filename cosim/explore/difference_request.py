"""What `cosim diff` names, as two estimates: points of a run, two systems, or two variants of one system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosim.errors import InfeasibleError, SpecError, nearest
from cosim.explore.command import settings
from cosim.explore.difference import Difference, difference
from cosim.explore.estimate import Estimate
from cosim.explore.request import estimate_request
from cosim.explore.rows import plain
from cosim.explore.store import read_run
from cosim.explore.sweep_findings import read_results
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied

BASE = "base"
MOST_DIGITS = 16


def difference_of_run(folder: Path, a: str, b: str) -> Difference:
    """Between two points of a run: numbers of rows (point_id), or names of systems that its findings rank."""
    run, labels = read_run(folder), (a, b)
    for label in labels:
        _known(run, label)
    goal = _common_goal(run, labels)
    rows = [_row(folder, run, label, goal) for label in labels]
    first, second = (_estimate(run, row) for row in rows)
    return difference(first, second, labels)


def difference_of_systems(a: str, b: str, phase: str, workload: str, changes: Mapping[str, Any]) -> Difference:
    """Between two systems, each with its best plan unless `changes` give one."""
    first, second = (_of(name, phase, name, workload, changes) for name in (a, b))
    return difference(first, second, (a, b))


def difference_of_variants(
    system: str,
    variants: tuple[Mapping[str, Any], Mapping[str, Any]],
    labels: tuple[str, str],
    phase: str,
    workload: str,
) -> Difference:
    """Between two variants of one system; a variant is overrides by path."""
    made = zip(labels, variants, strict=True)
    first, second = (_of(label, phase, system, workload, changes) for label, changes in made)
    return difference(first, second, labels)


def _of(label: str, phase: str, system: str, workload: str, changes: Mapping[str, Any]) -> Estimate:
    """The estimate of one side. Raises InfeasibleError that names the side."""
    try:
        return estimate_request(phase, system, workload, changes)
    except InfeasibleError as error:
        raise InfeasibleError(error.limit, f"{label}: {error.shortfall}", error.hint) from None


def _common_goal(run: dict[str, Any], labels: tuple[str, str]) -> tuple[str, str] | None:
    """Goal and precision of the first finding in which every system that is named has a row; None if no is.

    Raises SpecError for a run whose points are not those of a comparison or a sweep.
    """
    if run["kind"] not in ("compare", "train", "sweep"):
        hint = "its page says of every neighbour of the best why it is worse"
        raise SpecError("has no points to tell apart here", field="diff", value=f"a {run['kind']} run", hint=hint)
    if run["kind"] == "sweep":
        return None
    named = {label for label in labels if not _is_point(label)}
    for finding in [*run["findings"], *run["training"]]:
        if named <= {entry["system"] for entry in finding["entries"] if entry["row"] is not None}:
            return finding["goal"], finding["precision"]
    return None


def _known(run: dict[str, Any], label: str) -> None:
    """Refuses what is neither a number nor a system or workload of the run."""
    sweeps = run["kind"] == "sweep"
    names = [case["workload"] for case in run["cases"]] if sweeps else list(run["systems"])
    if not _is_point(label) and label not in names:
        what = f"is no point of the {'sweep' if sweeps else 'run'}"
        raise SpecError(what, field="diff", value=label, hint=nearest(label, names))


def _is_point(label: str) -> bool:
    """Whether a label is the id of a point: a number that a table can have."""
    return label.isascii() and label.isdigit()


def _row(folder: Path, run: dict[str, Any], label: str, goal: tuple[str, str] | None) -> dict[str, Any]:
    """The row of a point id, or of a system's best plan for a goal."""
    if _is_point(label):
        table = read_results(folder)
        if len(label) > MOST_DIGITS or int(label) >= table.num_rows:
            hint = f"it has {table.num_rows:,} points, from 0"
            raise SpecError("is no point of the run", field="diff", value=label, hint=hint)
        row = {name: plain(table[name][int(label)].as_py()) for name in table.column_names}
    else:
        row = _ranked(run, label, goal)
    if not row["feasible"]:
        raise SpecError("is infeasible", field="diff", value=label, hint=f"its limit: {row['limit']}")
    if row.get("quality", "own") != "own":
        hint = "name a point of the chip's own kernels"
        raise SpecError("was evaluated with other kernels", field="diff", value=label, hint=hint)
    return row


def _ranked(run: dict[str, Any], system: str, goal: tuple[str, str] | None) -> dict[str, Any]:
    """A sweep's best design by workload, or a comparison's best plan by system."""
    if run["kind"] == "sweep":
        best = [case for case in run["cases"] if case["workload"] == system and case["best"] is not None]
        if len(best) > 1:
            raise SpecError("is asked in several cases", field="diff", value=system, hint="name points by their ids")
        if not best:
            names = [case["workload"] for case in run["cases"]]
            raise SpecError("is no point of the sweep", field="diff", value=system, hint=nearest(system, names))
        found: dict[str, Any] = best[0]["best"]
        return found
    known = [f for f in [*run["findings"], *run["training"]] if (f["goal"], f["precision"]) == goal]
    for finding in known:
        for entry in finding["entries"]:
            if entry["system"] == system and entry["row"] is not None:
                ranked: dict[str, Any] = {**entry["row"], "system": system}
                return ranked
    hint = "name points by their ids, from results.parquet"
    raise SpecError("has no feasible point beside the other's in any ranking", field="diff", value=system, hint=hint)


def _estimate(run: dict[str, Any], row: dict[str, Any]) -> Estimate:
    """The estimate of a row: its own axes, the run's overrides, its plan and scenario."""
    changes = {path: value for path, value in run["overrides"].items() if path.split(".")[0] in ("system", "workload")}
    changes |= {path: value for path, value in row.items() if path.startswith(("system.", "workload."))}
    if run["kind"] != "sweep":
        own = {path.removeprefix("system."): value for path, value in changes.items() if path.startswith("system.")}
        spec = vary_system(Varied(load_system(row["system"])), own).spec
        changes["system.nodes"] = round(row["chips"] * spec.nodes.si / spec.chips)
    elif run["power"] == "given":
        set_by_hand = {*run["overrides"], *(path for axis in run["axes"] for path in axis["paths"])}
        own_power = {f"system.chip.power.{name}" for name in ("limit", "idle")} - set_by_hand
        changes = {path: value for path, value in changes.items() if path not in own_power}
    return estimate_request(row["phase"], row["system"], row["workload"], {**changes, **settings(row)})
