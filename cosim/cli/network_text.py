"""How the network of a system looks on a terminal: its tiers from the widest in, all-reduces against size."""

from __future__ import annotations

from typing import Any

from cosim.cli.output import table
from cosim.units import format_si

Row = dict[str, Any]
_HEAD = ["network", "kind", "joins", "per chip", "radix", "over", "switches", "bisection", "farthest", "latency"]
_UNKNOWN = "unknown"


def network_text(content: Row) -> str:
    """Tiers, the whole, what is unknown and why, shapes of an optical torus, all-reduces."""
    tiers, (whole,) = content["tiers"], content["network"]
    rows = [_tier(tier, depth) for depth, tier in enumerate(reversed(tiers))]
    parts = [table([*_HEAD, "power", "price"], [*rows, _whole(whole)])]
    reasons = [f"  {tier['name']:<10} {_reasons(tier)}" for tier in reversed(tiers) if _reasons(tier)]
    if reasons:
        parts.append("\n".join(["unknown", *reasons]))
    if content["shapes"]:
        head = ["shapes of the same chips", "tier", "closes", "bisection", "farthest"]
        parts.append(table(head, [_shape(row) for row in content["shapes"]]))
    parts.append(_all_reduce(content["all_reduce"]))
    return "\n\n".join(parts)


def _tier(tier: Row, depth: int) -> list[str]:
    name = "   " * (depth - 1) + "└─ " + tier["name"] if depth else tier["name"]
    shape = " as " + "x".join(f"{length:g}" for length in tier["shape"]) if tier["shape"] else ""
    return [
        name + (" (node)" if tier["node"] else ""),
        kind_text(tier),
        tier["joins"] + shape,
        format_si(tier["bandwidth"], "B/s") + (" for all" if tier["kind"] == "bus" else ""),
        "-" if tier["radix"] is None else f"{tier['radix']:g}",
        f"{tier['oversubscription']:g}:1",
        *_numbers(tier),
    ]


def _whole(whole: Row) -> list[str]:
    return ["in all", "", f"{whole['chips']:,g} chips", "", "", "", *_numbers(whole)]


def _numbers(row: Row) -> list[str]:
    """Switches, bisection, steps and wires to the farthest, latency, power, price."""
    if row["chips"] <= 1.0 or row["units"] <= 1.0:
        return ["-"] * 6
    wires = _UNKNOWN if row["links"] is None else f"{row['links']:g}"
    far = f"{row['steps']:g} step{'s' if row['steps'] > 1.0 else ''}, {wires} wires"
    switches = _UNKNOWN if row["switches"] is None else f"{row['switches']:,g}"
    shown = [_si(row[name], unit) for name, unit in (("bisection", "B/s"), ("latency", "s"))]
    costs = [_si(row[name], unit) for name, unit in (("power", "W"), ("price", "USD"))]
    return [switches, shown[0], far, shown[1], *costs]


def kind_text(tier: Row) -> str:
    """The kind in words: rails, planes, which rings close."""
    words = [tier["kind"].replace("_", " ")]
    words += ["on rails"] if tier["rails"] else []
    words += [f"in {tier['planes']:g} planes"] if tier["planes"] > 1.0 else []
    if tier["kind"] == "torus":
        closed = tier["closed"]
        words.append("closed" if all(closed) else "partly closed" if any(closed) else "open")
    return ", ".join(words)


def _reasons(tier: Row) -> str:
    """What is unknown of a tier: first what its file does not give, then what follows from that."""
    if tier["units"] <= 1.0:
        return ""
    absent = [name for name, why in tier["unknown"].items() if why == f"{name} is not given"]
    by_reason: dict[str, list[str]] = {}
    for name, why in tier["unknown"].items():
        if name not in absent:
            by_reason.setdefault(why, []).append(name)
    parts = [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]
    return "; ".join([*parts, f"not given: {', '.join(absent)}"] if absent else parts)


def _shape(row: Row) -> list[str]:
    shape = "x".join(f"{length:g}" for length in row["shape"])
    closes = "yes" if row["closes"] else "no"
    return [shape, row["tier"], closes, format_si(row["bisection"], "B/s"), f"{row['steps']:g} steps"]


def _all_reduce(rows: list[Row]) -> str:
    """A line a size, three columns a group: time, bus bandwidth, algorithm."""
    if not rows:
        return "one chip: there is nothing to reduce"
    groups = list(dict.fromkeys((row["tier"], row["chips"]) for row in rows))
    head = ["all-reduce"]
    for tier, chips in groups:
        head += [f"{tier}, {chips:,g} chips", "bus", ""]
    lines = []
    for size in dict.fromkeys(row["bytes"] for row in rows):
        cells = [bytes_text(size)]
        for row in (row for row in rows if row["bytes"] == size):
            cells += [format_si(row["time_s"], "s"), format_si(row["bus_bandwidth"], "B/s"), row["algorithm"]]
        lines.append(cells)
    return table(head, lines)


def bytes_text(size: float) -> str:
    """A power of two as people read it: 16 KiB."""
    for step, unit in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if size >= step:
            return f"{size / step:g} {unit}"
    return f"{size:g} B"


def _si(value: float | None, unit: str) -> str:
    return _UNKNOWN if value is None else format_si(value, unit)
