"""What a serving study found, for run.json: figures of each deployment, what is drawn, what all of it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosim.explore.assumptions import data_of, model_facts
from cosim.explore.serving import serve_rows
from cosim.explore.serving.records import COLUMNS
from cosim.explore.serving.serve_inputs import Inputs
from cosim.mapping.serving import load_serving

Row = dict[str, Any]


def about_serve(inputs: Inputs, parts: Mapping[str, list[Row]], rows: list[Row]) -> Row:
    """What a run is about and what it found: deployments with their figures, what is drawn, what all rests on."""
    summaries = {row["deployment"]: row for row in rows if row["row"] == serve_rows.SUMMARY}
    found = []
    for name, ready in inputs.ready.items():
        first = parts[name][0]
        found.append(
            {
                "name": name,
                "chip": ready.system.chip.title,
                "confidence": ready.system.chip.confidence,
                "summary": summaries[name],
                "completed": dict(ready.pool.completed),
                "prefill_completed": {} if ready.prefill is None else dict(ready.prefill.completed),
                "refused": first["refused"],
                **{part: first[part] for part in ("series", "distributions")},
            }
        )
    wrong = [{"name": name, "why": str(error)} for name, (_, error) in inputs.infeasible.items()]
    limits = inputs.limits
    return {
        "deployments": found,
        "infeasible": wrong,
        "limits": {"ttft": limits.ttft_limit_s, "tpot": limits.tpot_limit_s, "e2e": limits.e2e_limit_s},
        "requests_from": _requests_text(inputs),
        "assumptions": _assumptions(inputs),
        "columns": list(COLUMNS),
    }


def _requests_text(inputs: Inputs) -> str:
    asked = inputs.study.requests
    return asked if isinstance(asked, str) else "the study itself"


def _assumptions(inputs: Inputs) -> Row:
    """Every number that the result rests on, by system, model and stack."""
    listed: Row = {}
    for ready in inputs.ready.values():
        for system in (ready.system, ready.prefill_system, ready.forward_system or ready.system):
            listed[system.name] = list(data_of(system))
        listed[ready.model.name] = model_facts(ready.model)
        listed[ready.asked.stack] = list(data_of(load_serving(ready.asked.stack)))
    return listed
