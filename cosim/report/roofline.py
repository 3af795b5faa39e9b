"""Roofline with the operators on it: what each system's winner does with its peak and its bandwidth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.report.style import MARKERS, colour_of, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def roofline_figure(run: dict[str, Any]) -> Figure:
    """One panel a phase: attainable FLOP/s against FLOP per DRAM byte, and where every operator lies."""
    goals = _one_goal_per_phase(run)
    figure, panels = new_figure(5.6 * len(goals), 4.4, len(goals), shared_y=True)
    for axes, goal in zip(panels, goals, strict=True):
        _panel(axes, run, goal)
    panels[0].set_ylabel("achieved FLOP/s per chip", fontsize=9)
    panels[0].legend(fontsize=7, loc="lower right", frameon=False)
    return figure


def intensity(operator: dict[str, Any]) -> tuple[float, float] | None:
    """(FLOP per DRAM byte, FLOP/s) of an operator; None for one that does neither."""
    if operator["flop"] <= 0.0 or operator["dram_bytes"] <= 0.0:
        return None
    return operator["flop"] / operator["dram_bytes"], operator["flop"] / operator["time_s"]


def _one_goal_per_phase(run: dict[str, Any]) -> list[str]:
    """The loosest goal of each phase: the last that the findings name."""
    last = {finding["phase"]: finding["goal"] for finding in run["findings"]}
    return [goal for goal in last.values() if goal in run["operators"]]


def _panel(axes: Axes, run: dict[str, Any], goal: str) -> None:
    colours = colour_of(list(run["systems"]))
    precision = run["findings"][0]["precision"]
    x = np.geomspace(0.5, 2e4, 200)
    labelled: set[str] = set()
    for system, line in run["rooflines"].items():
        dtype = precision if precision in line["peak"] else next(iter(line["peak"]))
        roof = np.minimum(line["peak"][dtype], x * line["bandwidth"])
        axes.loglog(x, roof, color=colours[system], linewidth=1.4, label=f"{system} ({dtype})")
        for operator in run["operators"][goal].get(system, []):
            place = intensity(operator)
            if operator["kind"] == "vector" or place is None:
                continue
            labelled.add(operator["name"])
            marker = MARKERS[sorted(labelled).index(operator["name"]) % len(MARKERS)]
            axes.plot(*place, marker, color=colours[system], markersize=5, alpha=0.85)
            if system == next(iter(run["rooflines"])):
                axes.annotate(operator["name"], place, fontsize=6, xytext=(4, -8), textcoords="offset points")
    axes.set_title(goal, fontsize=9)
    axes.set_xlabel("FLOP per DRAM byte", fontsize=9)
    axes.set_xlim(0.5, 2e4)
    axes.set_ylim(1e11, 1e16)
