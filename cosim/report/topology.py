"""The network of a system as a figure: its tiers as boxes in boxes, and what all-reduces reach against their size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosim.report.style import COLOURS, MARKERS, new_figure
from cosim.report.tier_pictures import FIRST, Field, height, picture
from cosim.timing.algorithms import ALGORITHMS
from cosim.units import format_si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
WIDTH, WORDS, PAD, GAP, HEAD = 6.4, 2.5, 0.14, 0.24, 0.26
"""Of the drawing, its words beside a picture, the edge of a box, between boxes, a box's title [inch]."""


def topology_figure(content: Row) -> Figure:
    """Left the tiers, the widest outside; right the bus bandwidth of all-reduces, a line for each tier of chips."""
    tiers = [tier for tier in reversed(content["tiers"]) if tier["units"] > 1.0]
    high = max(sum(_room(tier) for tier in tiers) - GAP, 1.0)
    figure, (left, right) = new_figure(WIDTH + 5.0, max(high + 0.75, 3.6), 2)
    grid = left.get_gridspec()
    if grid is not None:
        grid.set_width_ratios([WIDTH, 4.4])
    left.set_axis_off()
    left.set(xlim=(-0.02, WIDTH + 0.02), ylim=(-0.02, high + 0.02), aspect="equal", anchor="N")
    chips = content["network"][0]["chips"]
    left.set_title(f"{content['name']}: {chips:,g} {content['chip']}", fontsize=10)
    _boxes(left, tiers, high)
    _bus_bandwidth(right, content["all_reduce"])
    return figure


def _room(tier: Row) -> float:
    """Height of a tier's box less what lies in it [inch]."""
    return 2.0 * PAD + HEAD + max(height(tier), 0.18 * len(_about(tier))) + GAP


def _boxes(axes: Axes, tiers: list[Row], high: float) -> None:
    """Every tier in the box of the wider one, below its picture; the unit that it is stands out."""
    from matplotlib.patches import FancyBboxPatch, Polygon

    if not tiers:
        axes.text(WIDTH / 2.0, high / 2.0, "one chip: nothing joins it to others", ha="center", fontsize=9)
    top, before = high, None
    for depth, tier in enumerate(tiers):
        left, right, bottom = PAD * depth, WIDTH - PAD * depth, PAD * depth
        shade = ("#FFFFFF", "#F4F6F8")[depth % 2]
        style = "round,pad=0,rounding_size=0.08"
        box = FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle=style, facecolor=shade)
        box.set(edgecolor="#666666", linewidth=0.9, zorder=-2.0 * len(tiers) + 2.0 * depth)
        axes.add_patch(box)
        if before is not None:
            corners = [
                (before[0] - 0.06, before[1]),
                (before[0] + 0.06, before[1]),
                (right, top - 0.03),
                (left, top - 0.03),
            ]
            axes.add_patch(Polygon(corners, facecolor=FIRST, alpha=0.25, linewidth=0, zorder=0.5))
        _words(axes, tier, left + PAD, top - PAD)
        lower = top - PAD - HEAD - max(height(tier), 0.18 * len(_about(tier)))
        opens = depth < len(tiers) - 1
        field = Field(left + PAD + WORDS, lower, right - PAD, top - PAD - HEAD, opens)
        before = picture(axes, tier, field)
        top = lower - GAP


def _words(axes: Axes, tier: Row, left: float, top: float) -> None:
    title = f"{tier['name']}: {tier['kind'].replace('_', ' ')} of {tier['joins']}"
    axes.text(left, top, title, fontsize=9, fontweight="bold", va="top")
    for index, line in enumerate(_about(tier)):
        axes.text(left, top - HEAD - 0.18 * index, line, fontsize=7.5, va="top", color="#333333")


def _about(tier: Row) -> list[str]:
    """What stands beside the picture of a tier."""
    share = " for all together" if tier["kind"] == "bus" else " a chip and direction"
    lines = [format_si(tier["bandwidth"], "B/s") + share]
    if tier["kind"] == "torus":
        count = sum(tier["closed"])
        which = (
            "no ring closes"
            if count == 0
            else "every ring closes"
            if count == len(tier["closed"])
            else "some rings close"
        )
        lines.append(f"{'x'.join(f'{length:g}' for length in tier['shape'])}, {which}")
    if tier["oversubscription"] != 1.0:
        lines.append(f"oversubscribed {tier['oversubscription']:g}:1")
    if tier["bisection"] is not None:
        lines.append(f"{format_si(tier['bisection'], 'B/s')} across the middle")
    wires = "" if tier["links"] is None else f", {tier['links']:g} wire{'s' if tier['links'] > 1.0 else ''}"
    lines.append(f"farthest {tier['steps']:g} step{'s' if tier['steps'] > 1.0 else ''}{wires}")
    if tier["switches"] is None:
        lines.append(f"switches: {tier['unknown'].get('switches', 'unknown')}")
    elif tier["switches"] > 0.0:
        planes = f" in {tier['planes']:g} planes" if tier["planes"] > 1.0 else ""
        rails = ", on rails" if tier["rails"] else ""
        lines.append(f"{tier['switches']:,g} switch{'es' if tier['switches'] > 1.0 else ''}{planes}{rails}")
    known = [format_si(tier[name], unit, 3) for name, unit in (("power", "W"), ("price", "USD")) if tier[name]]
    return [*lines, ", ".join(known)] if known else lines


def _bus_bandwidth(axes: Axes, rows: list[Row]) -> None:
    """A line for each group of chips; the mark tells the algorithm."""
    from matplotlib.lines import Line2D

    groups = list(dict.fromkeys((row["tier"], row["chips"]) for row in rows))
    used = [name for name in ALGORITHMS if any(row["algorithm"] == name for row in rows)]
    keys = []
    for (tier, chips), colour in zip(groups, COLOURS, strict=False):
        mine = [row for row in rows if (row["tier"], row["chips"]) == (tier, chips)]
        axes.loglog([row["bytes"] for row in mine], [row["bus_bandwidth"] for row in mine], color=colour, linewidth=1.4)
        for name in used:
            marked = [row for row in mine if row["algorithm"] == name]
            places = [row["bytes"] for row in marked], [row["bus_bandwidth"] for row in marked]
            axes.scatter(*places, color=colour, marker=MARKERS[ALGORITHMS.index(name)], s=18, linewidths=0)
        keys.append(Line2D([], [], color=colour, label=f"{tier}, {chips:,g} chips"))
    for name in used:
        marker = MARKERS[ALGORITHMS.index(name)]
        label = name.replace("_", " ")
        keys.append(Line2D([], [], color="#555555", marker=marker, linestyle="", markersize=5, label=label))
    axes.set_title("all-reduce", fontsize=10)
    axes.set_xlabel("size", fontsize=9)
    axes.set_ylabel("bus bandwidth", fontsize=9)
    if not rows:
        axes.text(0.5, 0.5, "one chip: nothing to reduce", ha="center", transform=axes.transAxes, fontsize=9)
        return
    ticks = {2.0**10: "1 KiB", 2.0**15: "32 KiB", 2.0**20: "1 MiB", 2.0**25: "32 MiB", 2.0**30: "1 GiB"}
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), labels=list(ticks.values()))
    axes.yaxis.set_major_formatter(lambda value, _: format_si(value, "B/s", 3))
    axes.legend(handles=keys, fontsize=8, loc="lower right", frameon=False)
