"""What a search found, as plain data: the best by each objective with its neighbours, the front, what fits where.

Where nothing fits: the strategy that came nearest, what takes how much of its memory, and the nearest that fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosim.engines.analytic import evaluate
from cosim.explore.assumptions import data_of, model_facts
from cosim.explore.command import command_of
from cosim.explore.explain import plan_text
from cosim.explore.fits import nearest_fit
from cosim.explore.neighbours import SHOWN, limit_text, neighbours_of, word_of
from cosim.explore.rows import plain
from cosim.explore.search import Answer, SearchInputs, case_at, limit_names, rows_of, strategy_of
from cosim.mapping.software import load_software
from cosim.silicon.technology import load_technology

Row = dict[str, Any]
TOP = 10
FRONT_SHOWN = 40


def search_findings(answer: Answer, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page says of a search."""
    return {
        "objectives": [_objective(answer, place, overrides) for place in range(len(answer.inputs.goals))],
        "front": [_described(answer, each, overrides) for each in rows_of(answer, answer.front[:FRONT_SHOWN])],
        "front_size": len(answer.front),
        "front_points": _front_points(answer),
        "limits": limits_of(answer),
        "fits": fits_of(answer),
        "nearest": None if answer.feasible else nearest_of(answer),
    }


def about_search(inputs: SearchInputs) -> dict[str, Any]:
    """What a search rests on: its space, warnings, every datum of system, model, software and technology."""
    spec = next(iter(inputs.systems.values())).spec
    software, technology = load_software(inputs.study.software), load_technology()
    warnings = []
    if spec.chip.confidence != "measured":
        warnings.append(f"{spec.name}: kernels of {spec.chip.name} are not fitted on it ({spec.chip.confidence})")
    if spec.chip.price is not None and spec.chip.price.kind == "estimated":
        warnings.append(f"the price of {spec.chip.name} is not published: {spec.chip.price.text}")
    warnings.append("time is that of a step: failures, checkpoints and restarts are those of 'cosim goodput'")
    warnings.append("usd_per_token is chips over their life and energy; servers, network and building are left out")
    return {
        "size": inputs.size,
        "legal": inputs.legal,
        "cells": len(inputs.cells),
        "space": space_of(inputs),
        "goals": [{"text": goal.text, "column": goal.column, "sign": goal.sign} for goal in inputs.goals],
        "constraints": [constraint.text for constraint in inputs.constraints],
        "systems": {
            inputs.study.system: {"title": spec.title, "chip": spec.chip.title, "confidence": inputs.confidence}
        },
        "workload": {"name": inputs.study.workload, "title": inputs.model.spec.title},
        "asked": {
            "global_batch": next(iter(inputs.grounds.values())).batch,
            "context": next(iter(inputs.grounds.values())).length,
            "software": software.title,
        },
        "warnings": warnings,
        "assumptions": {
            spec.name: list(data_of(spec)),
            inputs.model.spec.name: model_facts(inputs.model.spec),
            software.name: list(data_of(software)),
            technology.name: list(data_of(technology)),
        },
    }


def space_of(inputs: SearchInputs) -> dict[str, list[Any]]:
    """Values of every dimension that were tried, over all numbers of nodes; data follows from the others."""
    found: dict[str, list[Any]] = {
        "nodes": list(inputs.systems),
        "precision": list(dict.fromkeys(dtype for _, dtype in inputs.bases)),
    }
    for values in inputs.values.values():
        for name in values.__slots__:
            levels = getattr(values, name)
            if name == "any_pieces" or (levels is None and name != "data"):
                continue
            levels = [word_of(name, level) for level in levels or ()]
            known = found.setdefault(SHOWN.get(name, name), [])
            known += [level for level in levels if level not in known]
    return found


def limits_of(answer: Answer) -> dict[str, int]:
    """Strategies by the first limit that each breaks, most first."""
    names = limit_names(answer.inputs.constraints)
    counts = np.zeros(len(names), dtype=np.int64)
    for cell in answer.cells:
        counts += np.bincount(cell.code, minlength=len(names))
    found = {name: int(count) for (name, _), count in zip(names, counts, strict=True) if name and count}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def fits_of(answer: Answer) -> list[Row]:
    """For every tensor and pipeline degree: strategies, those that fit, and the best of these by the first goal."""
    goal, begins = answer.inputs.goals[0], 0
    found: dict[tuple[int, int], list[float]] = {}
    for cell, done in zip(answer.inputs.cells, answer.cells, strict=True):
        degrees = np.stack([cell.table["tensor"], cell.table["pipeline"]]).astype(np.int64)
        worth = np.full(cell.count, np.inf)
        worth[done.rows] = answer.worth[begins : begins + len(done.rows), 0]
        begins += len(done.rows)
        pairs, group = np.unique(degrees, axis=1, return_inverse=True)
        group = group.reshape(-1)
        count, fit = np.bincount(group), np.bincount(group, weights=done.code == 0)
        best = np.full(pairs.shape[1], np.inf)
        np.minimum.at(best, group, worth)
        for place, (tensor, pipeline) in enumerate(pairs.T.tolist()):
            held = found.setdefault((tensor, pipeline), [0.0, 0.0, np.inf])
            held[0] += float(count[place])
            held[1] += float(fit[place])
            held[2] = min(held[2], float(best[place]))
    return [
        {
            "tensor": tensor,
            "pipeline": pipeline,
            "legal": int(legal),
            "fit": int(fit),
            "best": goal.sign * best if np.isfinite(best) else None,
        }
        for (tensor, pipeline), (legal, fit, best) in sorted(found.items())
    ]


def nearest_of(answer: Answer) -> Row:
    """Of strategies of which none fits the one that came nearest: what it breaks, what takes how much, what fits."""
    cells = answer.cells
    code = np.concatenate([cell.code for cell in cells])
    shortfall = np.concatenate([cell.shortfall for cell in cells])
    first = int(np.lexsort((shortfall, -code))[0])
    ends = np.cumsum([len(cell.code) for cell in cells])
    cell = int(np.searchsorted(ends, first, side="right"))
    place = first - int(ends[cell]) + len(cells[cell].code)
    inputs = answer.inputs
    case = case_at(inputs, strategy_of(inputs.cells[cell], place))
    name = limit_names(inputs.constraints)[int(code[first])][0]
    says = limit_text(inputs, case, evaluate(case), int(code[first]), float(shortfall[first]))
    fit = nearest_fit(case) if name == "memory" else None
    text = None
    if fit is not None:
        chips = int(np.max(fit.case.system.chips))
        text = f"{plan_text(fit.case, 0)} on {chips:,} chips (system.nodes={fit.nodes}): {', '.join(fit.changed)}"
    return {"plan": plan_text(case, 0), "limit": name, "why": says, "fits": text}


def _objective(answer: Answer, place: int, overrides: Mapping[str, Any]) -> Row:
    """One objective: its best with the command and the neighbours, and the top ten."""
    goal, best = answer.inputs.goals[place], answer.best[place]
    about: Row = {"objective": goal.text, "column": goal.column, "sign": goal.sign}
    if best is None:
        why = "nothing fits" if not answer.feasible else "no strategy that fits meets it"
        return {**about, "best": None, "why": why, "neighbours": [], "top": []}
    order = np.lexsort((answer.number("time_s"), answer.worth[:, place]))[:TOP]
    top = [index for index in order if np.isfinite(answer.worth[index, place])]
    return {
        **about,
        "best": _described(answer, rows_of(answer, [best])[0], overrides),
        "why": "",
        "neighbours": [each.as_json() for each in neighbours_of(answer, place)],
        "top": [_described(answer, each, overrides) for each in rows_of(answer, top)],
    }


def _described(answer: Answer, found: Row, overrides: Mapping[str, Any]) -> Row:
    """A row with the command that makes it again."""
    study = answer.inputs.study
    changes = {path: value for path, value in overrides.items() if path.split(".")[0] in ("system", "workload")}
    changes["system.nodes"] = round(found["nodes"])
    return {**found, "command": command_of(found, study.system, study.workload, changes)}


def _front_points(answer: Answer) -> dict[str, list[float | None]]:
    """Values of every goal along the front, all of it: for the figure."""
    return {
        goal.text: [plain(goal.sign * value) for value in answer.worth[answer.front, place]]
        for place, goal in enumerate(answer.inputs.goals)
    }
