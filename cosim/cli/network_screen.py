"""How a collective looks on a terminal."""

from __future__ import annotations

from typing import Any

from cosim.cli.output import table
from cosim.units import format_si

Row = dict[str, Any]


def collective_text(row: Row) -> str:
    """What was asked, closed form, flows, busiest links."""
    tiers = " x ".join(f"{name} {size}" for name, size in row["tiers"].items())
    machine = f"{row['system']} ({tiers})"
    lines = [
        f"{row['op']} of {format_si(row['bytes'], 'B')} on {row['ranks']} of {row['chips']} chips of {machine}",
        f"  closed form  {format_si(row['time_s'], 's')}, {_how(row)}, {_bus(row)}",
    ]
    outcomes = row["simulated"]
    if outcomes is None:
        return "\n".join(lines)
    slowest = max(one["end_s"] for one in outcomes)
    told = _bus(outcomes[0]) if len(outcomes) == 1 else f"{len(outcomes)} collectives at once"
    lines.append(f"  as flows     {format_si(slowest, 's')}, {row['flows']:,} flows, {told}")
    if len(outcomes) > 1:
        head = ["collective", "ranks", "bytes", "algorithm", "closed form", "as flows", "bus bandwidth"]
        lines += ["", table(head, [_outcome(one) for one in outcomes]), ""]
    links = ", ".join(f"{link['name']} {link['used']:.0%}" for link in row["busiest_links"])
    lines.append(f"  busiest      {links or 'none'}")
    return "\n".join(lines)


def _outcome(one: Row) -> list[str]:
    times = [format_si(one[name], "s") for name in ("closed_form_s", "time_s")]
    moved = format_si(one["bytes"], "B")
    return [
        one["name"],
        str(one["ranks"]),
        moved,
        one["algorithm"],
        *times,
        f"{format_si(one['bus_bandwidth'], 'B/s')}",
    ]


def _how(row: Row) -> str:
    # A switch that adds up knows no protocol.
    told = row["protocol"] and row["algorithm"] != "in_network"
    return f"{row['algorithm']} ({row['protocol']})" if told else str(row["algorithm"])


def _bus(row: Row) -> str:
    return f"bus bandwidth {format_si(row['bus_bandwidth'], 'B/s')}"
