"""Tables and sentences of the page, from the findings of a run: text only, no markup."""

from __future__ import annotations

from typing import Any

from cosim.report.style import labelled
from cosim.units import format_si

Cells = list[list[str]]
RANKING_HEAD = [
    "system",
    "tokens/s/chip, own kernels",
    "range",
    "equal kernels",
    "break-even quality",
    "tokens/s/user",
    "batch",
    "plan",
    "plans tried",
    "MFU",
    "bottleneck",
]
COST_HEAD = [
    "system",
    "power per chip",
    "energy per step",
    "tokens/J chip",
    "tokens/J server",
    "weights",
    "KV cache",
    "other",
    "chip price",
    "USD per M tokens",
    "break-even price",
]
WHOLE_HEAD = ["system", "output tokens/s/chip", "share of chips in prefill", "USD per M output tokens"]
_TRAINING = [
    "range",
    "equal kernels",
    "break-even quality",
    "chips",
    "s per step",
    "plan",
    "plans tried",
    "MFU",
    "bottleneck",
    "memory per chip",
    "power per chip",
    "tokens/J facility",
    "USD per M tokens",
]
TRAINING_HEAD = {
    "chip": ["system", "tokens/s/chip, own kernels", *_TRAINING],
    "kW": ["system", "tokens/s per facility kW, own kernels", *_TRAINING],
}
UNKNOWN = "unknown"


def commands(finding: dict[str, Any]) -> list[str]:
    """The commands that make the rows of a ranking again, best first."""
    return [entry["command"] for entry in finding["entries"] if entry["row"] is not None]


def ranking(finding: dict[str, Any]) -> Cells:
    """One row a system, best first: rate at its own quality, its range, at equal quality, what would turn it."""
    return [_ranked(entry) for entry in finding["entries"]]


def costs(finding: dict[str, Any]) -> Cells:
    """One row a system that serves: power, energy, memory by kind, money."""
    return [_cost(entry) for entry in finding["entries"] if entry["row"] is not None]


def whole(group: dict[str, Any]) -> Cells:
    """One row a system: both phases of a request together."""
    return [
        [
            labelled(entry["system"], entry),
            _number(entry["rate"]),
            "" if entry["prefill_share"] is None else f"{entry['prefill_share']:.0%}",
            UNKNOWN if entry["usd_per_million"] is None else f"{entry['usd_per_million']:.3g}",
        ]
        for entry in group["entries"]
    ]


def training(finding: dict[str, Any]) -> Cells:
    """One row a system, best first: rate, range, equal quality, what would turn it, and its plan."""
    return [_trained(entry) for entry in finding["entries"]]


def _trained(entry: dict[str, Any]) -> list[str]:
    if entry["row"] is None:
        return [labelled(entry["system"], entry), f"cannot: {entry['why']}", *[""] * len(_TRAINING)]
    row, cost = entry["row"], entry["usd_per_million"]
    low, high = entry["usd_per_million_low"], entry["usd_per_million_high"]
    return [
        labelled(entry["system"], entry),
        _number(entry["rate"]),
        _interval(entry).strip(" ()"),
        _number(entry.get("rate_equal")),
        _break_even(entry["break_even"]),
        f"{row['chips']:,}",
        f"{row['time_s']:.3g}",
        training_plan_text(row),
        f"{entry['plans']:,}",
        f"{row['mfu']:.1%}",
        row["bottleneck"],
        format_si(row["memory_bytes.total"], "B", 3),
        format_si(row["power_w"], "W", 3),
        f"{row['tokens_per_j_facility']:.3g}",
        UNKNOWN if cost is None else _spread(cost, low, high, ".3g"),
    ]


def training_plan_text(row: dict[str, Any]) -> str:
    """TP x PP x DP, experts, pieces, micro-batch, ZeRO, recompute."""
    degrees = "TP{} PP{} DP{}".format(*(row[f"plan.{name}_parallel"] for name in ("tensor", "pipeline", "data")))
    experts = f" EP{row['plan.expert_parallel']}" if row["plan.expert_parallel"] > 1 else ""
    pieces = f" v{row['plan.virtual_pipeline']}" if row["plan.virtual_pipeline"] > 1 else ""
    if row["plan.schedule"] != "1f1b":
        pieces += f" {row['plan.schedule']}"
    zero = f" ZeRO{row['plan.zero']}" if row["plan.zero"] else ""
    degrees += f" CP{row['plan.context_parallel']}" if row["plan.context_parallel"] > 1 else ""
    return f"{degrees}{experts}{pieces} mb{row['plan.micro_batch']}{zero}, recompute {row['plan.recompute']}"


def plan_text(row: dict[str, Any]) -> str:
    """TP x PP x DP, micro-batches where they matter, format."""
    degrees = "TP{} PP{} DP{}".format(*(row[f"plan.{name}_parallel"] for name in ("tensor", "pipeline", "data")))
    micro = f" m{row['plan.micro_batches']}" if row["plan.pipeline_parallel"] > 1 else ""
    return f"{degrees}{micro} {row['plan.dtype']}, KV {row['plan.kv_dtype']}"


def bottom_line(run: dict[str, Any]) -> str:
    """Who leads how often, and in how many cases that is clear of the ranges of kernel quality."""
    leads: dict[str, int] = {}
    clear = decided = 0
    for finding in run["findings"]:
        able = [entry for entry in finding["entries"] if entry["row"] is not None]
        if able:
            decided += 1
            name = labelled(able[0]["system"], able[0])
            leads[name] = leads.get(name, 0) + 1
            clear += _clear(able[0], [e for e in finding["entries"] if e is not able[0]])
    if not decided:
        return training_line(run) or "No system meets any of the limits."
    most = ", ".join(f"{name} leads {count}" for name, count in sorted(leads.items(), key=lambda item: -item[1]))
    whole_line = _whole_line(run["whole_requests"])
    trained = training_line(run)
    return (
        f"{whole_line}{trained}{' ' if trained else ''}Of {decided} serving cases {most}; "
        f"in {clear} of them the lead is clear of what is unknown about kernels."
    )


def training_line(run: dict[str, Any]) -> str:
    """Who trains each run fastest with equal chips and within equal power; empty where nothing is trained."""
    parts = []
    for finding in run["training"]:
        able = [entry for entry in finding["entries"] if entry["row"] is not None]
        if not able:
            parts.append(f"{finding['goal']}: no system can")
            continue
        clear = _clear(able[0], [e for e in finding["entries"] if e is not able[0]])
        first, *others = [labelled(entry["system"], entry) for entry in able]
        ahead = f" ({able[0]['rate'] / able[1]['rate']:.2f} times {others[0]})" if others else ""
        parts.append(f"{finding['goal']}: {first}{ahead}{'' if clear else ', ranges overlap'}")
    return f"Training, first of each: {'; '.join(parts)}." if parts else ""


def _whole_line(groups: list[dict[str, Any]]) -> str:
    """Who serves whole requests of each workload best in the first precision at the loosest limit."""
    if not groups:
        return ""
    text = ""
    last = {group["workload"]: group for group in groups if group["precision"] == groups[0]["precision"]}
    for group in last.values():
        able = [entry for entry in group["entries"] if entry["rate"] is not None]
        if not able:
            text += f"Whole requests ({group['goal']}, {group['precision']}): no system can. "
            continue
        text += (
            f"Whole requests ({group['goal']}, {group['precision']}): {labelled(able[0]['system'], able[0])} serves "
        )
        text += f"{_number(able[0]['rate'])} output tokens/s per chip, prefill included"
        if len(able) > 1:
            text += f", {able[0]['rate'] / able[1]['rate']:.2f} times {labelled(able[1]['system'], able[1])}"
        text += ". "
    return text


def verdict(run: dict[str, Any]) -> list[str]:
    """One sentence a goal and precision: who leads, by how much, how sure, and what would change it."""
    return [_sentence(finding) for finding in [*run["findings"], *run["training"]]]


def _sentence(finding: dict[str, Any]) -> str:
    head = f"{finding['goal']}, {finding['precision']}: "
    able = [entry for entry in finding["entries"] if entry["row"] is not None]
    reasons = "; ".join(
        f"{labelled(entry['system'], entry)} cannot: {entry['why']}"
        for entry in finding["entries"]
        if entry not in able
    )
    if not able:
        return head + (f"{reasons}." if finding["phase"] == "train" else "no system meets the limit.")
    leader = able[0]
    per = finding.get("per", "chip")
    text = f"{head}{labelled(leader['system'], leader)} leads with {_number(leader['rate'])} tokens/s per {per}"
    text += _interval(leader)
    if len(able) > 1:
        second = able[1]
        text += f", {leader['rate'] / second['rate']:.2f} times {labelled(second['system'], second)}"
        rivals = [entry for entry in finding["entries"] if entry is not leader]
        text += "" if _clear(leader, rivals) else "; their ranges overlap, so the order is open"
    factor = leader["break_even"]["factor"]
    if factor is not None:
        text += f"; it stays first until its kernels fall to {factor:.2f} of their quality"
    equal = _order(able, "rate_equal")
    own = [labelled(entry["system"], entry) for entry in able]
    text += "; equal kernels give " + ("the same order" if equal == own else "the order " + ", ".join(equal))
    return f"{text}; {reasons}." if reasons and finding["phase"] == "train" else f"{text}."


def _clear(leader: dict[str, Any], rivals: list[dict[str, Any]]) -> bool:
    """Whether the leader's low end is above every rival's high end; a low end that cannot serve is 0."""
    ranged = "rate_low" in leader and leader["has_range"]
    low = (leader["rate_low"] or 0.0) if ranged else leader["rate"]
    highest = max((max(r.get("rate_high") or 0.0, r["rate"] or 0.0) for r in rivals), default=0.0)
    return bool(low > highest)


def _order(entries: list[dict[str, Any]], key: str) -> list[str]:
    return [labelled(entry["system"], entry) for entry in sorted(entries, key=lambda e: -(e.get(key) or 0.0))]


def _ranked(entry: dict[str, Any]) -> list[str]:
    if entry["row"] is None:
        return [labelled(entry["system"], entry), f"cannot: {entry['why']}", *[""] * (len(RANKING_HEAD) - 2)]
    row = entry["row"]
    return [
        labelled(entry["system"], entry),
        _number(entry["rate"]),
        _interval(entry).strip(" ()"),
        _number(entry.get("rate_equal")),
        _break_even(entry["break_even"]),
        _number(row["tokens_per_s_per_user"]),
        str(row["scenario.batch"]),
        plan_text(row),
        str(entry["plans"]),
        f"{row['mfu']:.1%}",
        row["bottleneck"],
    ]


def _cost(entry: dict[str, Any]) -> list[str]:
    row = entry["row"]
    other = row["memory_bytes.activations"] + row["memory_bytes.other"]
    price, cost, even = entry["price"], entry["usd_per_million"], entry["break_even_price_usd"]
    low, high = entry["break_even_price_low_usd"], entry["break_even_price_high_usd"]
    rival = labelled(str(entry["break_even_rival"]), {"confidence": entry.get("break_even_rival_confidence")})
    return [
        labelled(entry["system"], entry),
        format_si(row["power_w"], "W", 3),
        format_si(row["energy_j"], "J", 3),
        f"{row['tokens_per_j_chip']:.3g}",
        f"{row['tokens_per_j_server']:.3g}",
        format_si(row["memory_bytes.weights"], "B", 3),
        format_si(row["memory_bytes.kv"], "B", 3),
        format_si(other, "B", 3),
        UNKNOWN if price is None else f"{price['text']}, {price['kind']}",
        UNKNOWN if cost is None else _spread(cost, entry["usd_per_million_low"], entry["usd_per_million_high"], ".3g"),
        "no priced rival" if even is None else f"{_spread(even, low, high, ',.0f')} USD to match {rival}",
    ]


def _spread(value: float, low: float, high: float, form: str) -> str:
    shown = [format(v, form) for v in (value, low, high)]
    return shown[0] if shown[1] == shown[2] else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _break_even(found: dict[str, Any]) -> str:
    if found["factor"] is None:
        return str(found["reason"])
    return f"x {found['factor']:.2f} to tie {labelled(found['against'], {'confidence': found['against_confidence']})}"


def _interval(entry: dict[str, Any]) -> str:
    low, high = entry.get("rate_low"), entry.get("rate_high")
    if low is None or high is None or _number(low) == _number(high):
        return ""
    return f" ({_number(low)} to {_number(high)})"


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
