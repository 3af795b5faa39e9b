"""What `cosim diff` names, as two estimates: points of a run, two systems, or two variants of one system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosim.errors import SpecError, nearest
from cosim.explore.command import settings
from cosim.explore.difference import Difference, difference
from cosim.explore.estimate import Estimate
from cosim.explore.request import estimate_request
from cosim.explore.rows import plain
from cosim.explore.store import read_run
from cosim.explore.sweep_findings import read_results
from cosim.hardware.load import load_system

BASE = "base"


def difference_of_run(folder: Path, a: str, b: str) -> Difference:
    """Between two points of a run: numbers of rows (point_id), or names of systems that its findings rank."""
    run, labels = read_run(folder), (a, b)
    rows = [_row(folder, run, label) for label in labels]
    first, second = (_estimate(run, row) for row in rows)
    return difference(first, second, labels)


def difference_of_systems(a: str, b: str, phase: str, workload: str, changes: Mapping[str, Any]) -> Difference:
    """Between two systems, each with its best plan unless `changes` give one."""
    first, second = (estimate_request(phase, name, workload, changes) for name in (a, b))
    return difference(first, second, (a, b))


def difference_of_variants(
    system: str,
    variants: tuple[Mapping[str, Any], Mapping[str, Any]],
    labels: tuple[str, str],
    phase: str,
    workload: str,
) -> Difference:
    """Between two variants of one system; a variant is overrides by path."""
    first, second = (estimate_request(phase, system, workload, changes) for changes in variants)
    return difference(first, second, labels)


def _row(folder: Path, run: dict[str, Any], label: str) -> dict[str, Any]:
    """The row of a point id, or of a system's best plan in the first finding that has one."""
    if label.isdigit():
        table = read_results(folder)
        if int(label) >= table.num_rows:
            hint = f"it has {table.num_rows:,} points, from 0"
            raise SpecError("is no point of the run", field="diff", value=label, hint=hint)
        row = {name: plain(table[name][int(label)].as_py()) for name in table.column_names}
    else:
        row = _ranked(run, label)
    if not row["feasible"]:
        raise SpecError("is infeasible", field="diff", value=label, hint=f"its limit: {row['limit']}")
    if row.get("quality", "own") != "own":
        hint = "name a point of the chip's own kernels"
        raise SpecError("was evaluated with other kernels", field="diff", value=label, hint=hint)
    return row


def _ranked(run: dict[str, Any], system: str) -> dict[str, Any]:
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
    for finding in [*run["findings"], *run["training"]]:
        for entry in finding["entries"]:
            if entry["system"] == system and entry["row"] is not None:
                ranked: dict[str, Any] = {**entry["row"], "system": system}
                return ranked
    hint = nearest(system, run["systems"])
    raise SpecError("has no feasible point in the run", field="diff", value=system, hint=hint)


def _estimate(run: dict[str, Any], row: dict[str, Any]) -> Estimate:
    """The estimate of a row: its own axes, the run's overrides, its plan and scenario."""
    changes = {path: value for path, value in run["overrides"].items() if path.split(".")[0] in ("system", "workload")}
    changes |= {path: value for path, value in row.items() if path.startswith(("system.", "workload."))}
    if run["kind"] != "sweep":
        spec = load_system(row["system"])
        changes["system.nodes"] = round(row["chips"] * spec.nodes.si / spec.chips)
    elif run["power"] == "given":
        changes = {path: value for path, value in changes.items() if not path.startswith("system.chip.power.")}
    return estimate_request(row["phase"], row["system"], row["workload"], {**changes, **settings(row)})
