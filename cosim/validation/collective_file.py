"""`cosim calibrate SYSTEM --kind collective`: rows in, a library of collectives out, and what each tier reaches.

The library's file holds the fitted constants over those of its base; what the tiers of the system reach is given as
paths, because it belongs to the system and not to the library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.system import System
from cosim.validation.calibration_file import (
    DIGITS,
    HOPELESS,
    Progress,
    error_figures,
    errors_in_words,
    new_file,
    refuse_held_out,
    write_whole,
    yaml_lines,
)
from cosim.validation.cases import Case, read_cases
from cosim.validation.collective_fit import CollectiveFit, fit_collectives
from cosim.version import __version__


def calibrated_collectives(
    name: str, path: Path, *, out: Path | None = None, rows_of: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Fits system `name` to the rows of `path` (those of system `rows_of`, or its own); writes a library to `out`.

    Returns accelerator (the system), kind, rows, fitted values by name, values by path of the system, errors of both
    halves, and the text of the file. Raises SpecError on bad input, for a chip that is kept out of fits, and where the
    rows cannot carry the constants; then nothing is written.
    """
    system = load_system(name)
    if not name.endswith((".yaml", ".yml")):
        refuse_held_out(system.chip.name, system.chip.name)
    libraries = dict.fromkeys(tier.collectives for tier in system.tiers[: system.node_tier + 1])
    if out is not None and len(libraries) > 1:
        hint = "leave --out out: the values are printed, a library after the other"
        raise SpecError("holds one library, and the node has several", field="--out", value=str(out), hint=hint)
    label = new_file(f"{system.name}-calibrated", out)
    cases = [_named(case, system.name) for case in read_cases("collective", path)]
    own = [case for case in cases if case.values["system"] == (rows_of or system.name)]
    if not own:
        known = ", ".join(dict.fromkeys(case.values["system"] for case in cases))
        raise SpecError("has no rows of this system", file=path, value=rows_of or system.name, hint=f"it has {known}")
    fit = fit_collectives(system, own, progress)
    error = float(np.median(fit.fitted))
    if error > HOPELESS:
        hint = "times in seconds? bytes as nccl-tests count them? rows of this system?"
        raise SpecError(f"no constants explain these rows: median error {error:.0%}", file=path, hint=hint)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    of = f"cosim {__version__} calibrate, collective: every second of {len(own)} rows of {path.name} (sha256 {digest})"
    text = library_file(system, label, fit, of)
    if out is not None:
        write_whole(out, text)
    return {
        "accelerator": system.name,
        "kind": "collective",
        "rows": len(own),
        "values": dict(fit.values),
        "paths": {f"system.{place}": value for place, value in fit.paths.items()},
        "undetermined": [],
        "fitted": error_figures(fit.fitted),
        "held_out": error_figures(fit.held_out),
        "file": None if out is None else str(out),
        "text": text,
    }


def library_file(system: System, label: str, fit: CollectiveFit, provenance: str) -> str:
    """YAML of a library of collectives over that of the node, with the fitted values; every number with its source."""
    base = next(tier.collectives for tier in system.tiers)
    reaches = [name for name in fit.values if not name.startswith(f"{base or 'own'}.")]
    lines = [
        "# Made by cosim calibrate: what was fitted stands over the base.",
        *(f"# {system.name}: {name} = {fit.values[name]:.{DIGITS}g}" for name in reaches),
        *([] if base is None else [f"base: {json.dumps(base)}"]),
        f"name: {json.dumps(label)}",
        f"title: {json.dumps('Collectives of ' + system.title)}",
        "sources:",
        f"  fit: {{text: {json.dumps(provenance)}}}",
        f"fitted_on: [{json.dumps(system.name)}]",
        f"data: {json.dumps(provenance)}",
        f"held_out: {json.dumps(errors_in_words(fit.held_out))}",
    ]
    own = {name.partition(".")[2]: value for name, value in fit.values.items() if name not in reaches}
    return "\n".join([*lines, *yaml_lines(_tree(own), "")]) + "\n"


def _tree(values: Mapping[str, float]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        unit = ", unit: s" if last in ("start", "hop", "in_network_start") else ""
        node[last] = f"{{value: {value:.{DIGITS}g}{unit}, kind: measured, source: fit}}"
    return tree


def _named(case: Case, system: str) -> Case:
    """The case with its system; one that states none is of the system that is fitted."""
    stated = case.values.get("system", "").strip()
    return Case(case.id, case.line, {**case.values, "system": stated or system})


def tier_values(found: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    """Paths of what the tiers reach, with their values."""
    return [(path, value) for path, value in found["paths"].items() if ".constants." not in path]
