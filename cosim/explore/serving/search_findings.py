"""What a search over deployments says: why the best is best, what each limit costs, both figures, what came nearest."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosim.explore.serving.front import Found, best_of, nearest_of, stopped
from cosim.explore.serving.scores import LIMITS, UNITS
from cosim.explore.serving.search import Checked, ServingResult, scored
from cosim.explore.serving.split_space import FORWARD

Row = dict[str, Any]
WHOLE = (
    "tensor",
    "pipeline",
    "data",
    "expert",
    "replicas",
    "token_budget",
    "max_sequences",
    "concurrency",
    *FORWARD,
)
ALIKE = (
    *("tensor", "pipeline", "data", "expert", "prefill_tensor", "prefill_pipeline", "prefill_data", "apart", "cell"),
    *FORWARD,
)
"""What makes two deployments plans of one kind, whatever they are run with."""
FRONT_SHOWN = 40
BYTES_PER_GB = 1e9


def serving_findings(result: ServingResult) -> Row:
    """Everything that is said of a search."""
    found, best = result.found, result.best
    checked = {each.index: each for each in result.checked}
    limit = result.capacity
    return {
        "size": len(found),
        "feasible": int(found.fits.sum()),
        "objective": result.study.objective,
        "stack": result.study.stack,
        "limits": stopped(found),
        "best": None if best is None else beside(result, best, checked.get(best)),
        "why": () if best is None else why_best(result, best),
        "limits_cost": () if best is None else limits_cost(result, best),
        "holds": None if result.holds is None else beside(result, result.holds, checked.get(result.holds)),
        "front": [beside(result, int(each), checked.get(int(each))) for each in result.front[:FRONT_SHOWN]],
        "front_size": len(result.front),
        "nearest": nearest(result) if best is None else None,
        "capacity": None
        if limit is None
        else {
            "requests_per_s": limit.rate,
            "tokens_per_s_per_chip": limit.rate * result.ground.output / result.ground.chips,
            "statistic": limit.statistic,
            "broken_above": limit.broken,
            "trials": len(limit.trials),
        },
        "closed_form_s": result.closed_form_s,
        "simulation_s": result.simulation_s,
    }


def described(found: Found, index: int) -> Row:
    """A deployment as plain values: system, formats, degrees, what it reaches."""
    cell, row = found.cell_of(index), found.row(index)
    row.pop("cell")
    split = "forward_tensor" in row
    layout = "apart" if row.pop("apart") else "split" if split else "together"
    whole = {*WHOLE, *(f"prefill_{name}" for name in WHOLE)}
    plain = {name: int(value) if name in whole else value for name, value in row.items()}
    about = {"system": cell.machine.name, "layout": layout, "dtype": cell.dtype, "kv_dtype": cell.kv_dtype}
    stored = cell.weights_dtype or cell.dtype
    code = LIMITS[int(found.code[index])]
    return {**about, "weights_dtype": stored, "plan": plan_text(found, index), "limit": code, **plain}


def beside(result: ServingResult, index: int, checked: Checked | None) -> Row:
    """A deployment with what the simulation saw of it: `simulated` is None where it was not asked."""
    row: Row = {**described(result.found, index), "simulated": None}
    if checked is not None:
        seen, name = checked.seen, result.study.statistic
        row["simulated"] = {
            "ttft_s": seen.ttft_s["mean"],
            "tpot_s": seen.tpot_s["mean"],
            f"ttft_s.{name}": seen.ttft_s[name],
            f"tpot_s.{name}": seen.tpot_s[name],
            "requests_per_s": seen.requests_per_s,
            "tokens_per_s_per_chip": seen.requests_per_s * result.ground.output / result.ground.chips,
            "preemptions": seen.preemptions,
            "requests": seen.requests,
            "broken": checked.broken,
        }
    return row


def plan_text(found: Found, index: int) -> str:
    """A deployment in words."""
    cell, row = found.cell_of(index), found.row(index)
    own = _pool_text(row, "")
    if "forward_tensor" in row:
        chips, parts = row["forward_tensor"] * row["forward_data"], row["micro_batches"]
        own = f"{own} beside {chips:.0f} for feed-forward, {parts:.0f} micro-batches"
    if row["apart"]:
        own = f"prompts on {_pool_text(row, 'prefill_')}, answers on {own}"
    return f"{cell.machine.name}: {own}; {cell.label}"


def _pool_text(row: Row, side: str) -> str:
    if f"{side}tensor" not in row:
        return "any pool"
    degrees = ("tensor", "pipeline", "data", "expert")
    known = [f"{name} {row[side + name]:.0f}" for name in degrees if row.get(side + name, 1.0) > 1.0]
    count = row.get(f"{side}replicas")
    text = ("" if count is None else f"{count:.0f} x ") + (" ".join(known) or "1 chip")
    run = {"token_budget": "tokens a step", "max_sequences": "sequences"}
    apart = {"token_budget"} if row["apart"] and not side else set()
    told = [f"{row[side + name]:.0f} {word}" for name, word in run.items() if side + name in row and name not in apart]
    return f"{text} ({', '.join(told)})" if told else text


def why_best(result: ServingResult, best: int) -> tuple[str, ...]:
    """How far ahead it is of the best of each other kind of plan, nearest first, and what binds it."""
    found, objective = result.found, result.study.objective
    texts = []
    worth = found.table[objective]
    kinds = np.stack([np.nan_to_num(found.table.get(name, np.zeros(len(found)))) for name in ALIKE])
    other = found.fits & (kinds != kinds[:, [best]]).any(axis=0)
    rival = best_of(found, objective, other)
    if rival is not None:
        ratio = worth[rival] / worth[best] - 1.0
        texts.append(f"the next other plan, {plan_text(found, rival)}, has {ratio:+.1%} {objective}")
    more = _neighbour(found, best)
    if more is not None:
        name = LIMITS[int(found.code[more])]
        texts.append(
            f"{found.table['max_sequences'][more]:.0f} sequences in place of {_most(found, best)} break {name}"
        )
    return tuple(texts)


def _most(found: Found, index: int) -> str:
    return f"{found.table['max_sequences'][index]:.0f}"


def _neighbour(found: Found, best: int) -> int | None:
    """The same deployment with the next higher number of sequences, where that breaks a limit."""
    names = [name for name in found.table if name in {*ALIKE, "token_budget", "prefill_token_budget", "replicas"}]
    names += [name for name in found.table if name == "prefill_replicas"]
    same = np.ones(len(found), dtype=bool)
    for name in names:
        column = np.nan_to_num(found.table[name])
        same &= column == column[best]
    most = found.table["max_sequences"]
    rows = np.flatnonzero(same & (most > most[best]))
    if not rows.size:
        return None
    first = int(rows[np.argmin(most[rows])])
    return None if found.fits[first] else first


def limits_cost(result: ServingResult, best: int) -> tuple[Row, ...]:
    """Of each limit of time the best that there were without it, and how much more of the objective it has."""
    objective, own = result.study.objective, float(result.found.table[result.study.objective][best])
    rows: list[Row] = []
    for name in result.limits:
        free = scored(result.study.model_copy(update={name: None}), result.ground, result.machines)
        other = best_of(free, objective)
        if other is not None:
            there = float(free.table[objective][other])
            row = {"limit": name, "objective": objective, "without": there, "change": there / own - 1.0}
            rows.append({**row, "plan": plan_text(free, other)})
    return tuple(rows)


def nearest(result: ServingResult) -> Row | None:
    """Where nothing fits: the deployment that came furthest, the limit that it breaks, what lacks."""
    found = result.found
    index = nearest_of(found)
    if index is None:
        return None
    name, lacks = LIMITS[int(found.code[index])], float(found.shortfall[index])
    said = f"{lacks / BYTES_PER_GB:.3g} GB of a chip" if name == "memory" else f"{lacks:.3g} {UNITS[name]}"
    return {"plan": plan_text(found, index), "limit": name, "shortfall": lacks, "why": f"{name}: lacks {said}"}
