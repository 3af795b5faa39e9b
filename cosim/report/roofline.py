"""Roofline with the operators on it: what each system's winner does with its peak and its bandwidth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.report.style import MARKERS, colour_of, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def roofline_figure(run: dict[str, Any]) -> Figure:
    """A row a workload, a panel a phase: attainable FLOP/s against FLOP per DRAM byte, and where operators lie."""
    goals = _one_goal_per_phase(run)
    across = min(2, len(goals))
    figure, panels = new_figure(5.6 * across, 4.4 * -(-len(goals) // across), len(goals), across=across, shared_y=True)
    for axes, goal in zip(panels, goals, strict=True):
        _panel(axes, run, goal)
    for axes in panels[::across]:
        axes.set_ylabel("achieved FLOP/s per chip", fontsize=9)
    return figure


def intensity(operator: dict[str, Any]) -> tuple[float, float] | None:
    """(FLOP per DRAM byte, FLOP/s) of an operator; None for one that does neither."""
    if operator["flop"] <= 0.0 or operator["dram_bytes"] <= 0.0:
        return None
    return operator["flop"] / operator["dram_bytes"], operator["flop"] / operator["time_s"]


def _one_goal_per_phase(run: dict[str, Any]) -> list[str]:
    """The loosest goal of each workload and phase: the last that the findings name."""
    last = {(finding["workload"], finding["phase"]): finding["goal"] for finding in run["findings"]}
    return [goal for goal in last.values() if goal in run["operators"]]


def _panel(axes: Axes, run: dict[str, Any], goal: str) -> None:
    """Roofs of every system and its operators: colour tells the system, marker the operator."""
    from matplotlib.lines import Line2D

    colours, precision = colour_of(list(run["systems"])), run["findings"][0]["precision"]
    x = np.geomspace(0.5, 2e4, 200)
    shapes: dict[str, str] = {}
    marks: dict[str, list[tuple[float, float, str]]] = {}
    for system, line in run["rooflines"].items():
        # A chip without the format has no roof here; its operators are those of another goal.
        if precision in line["peak"]:
            roof = np.minimum(line["peak"][precision], x * line["bandwidth"])
            axes.loglog(x, roof, color=colours[system], linewidth=1.4)
        for operator in run["operators"][goal].get(system, []):
            place = intensity(operator)
            if operator["kind"] == "vector" or place is None:
                continue
            shapes.setdefault(operator["name"], MARKERS[len(shapes) % len(MARKERS)])
            marks.setdefault(operator["name"], []).append((*place, colours[system]))
    # One drawing an operator, not one a mark: there are hundreds.
    for name, found in marks.items():
        across, up, colour = zip(*found, strict=True)
        axes.scatter(across, up, c=colour, marker=shapes[name], s=25, alpha=0.8, linewidths=0)
    systems = [
        Line2D([], [], color=colours[name], label=labelled(name, run["systems"][name])) for name in run["rooflines"]
    ]
    keys = [Line2D([], [], color="#555555", marker=m, linestyle="", markersize=5, label=n) for n, m in shapes.items()]
    axes.legend(handles=[*systems, *keys], fontsize=7, loc="lower right", frameon=False, ncols=2)
    axes.set_title(f"{goal}, roofs in {precision}", fontsize=9)
    axes.set_xlabel("FLOP per DRAM byte", fontsize=9)
    axes.set_xlim(0.5, 2e4)
    axes.set_ylim(1e11, 1e16)
