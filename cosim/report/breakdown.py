"""Stacked breakdown: where the time of a step goes, for every system's winner, serving and training."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from cosim.engines.analytic import BREAKDOWN
from cosim.report.style import colour_of, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ACROSS = 3
"""Panels side by side: a workload has two tiers of decode and one of prefill in the common study."""


def breakdown_figure(run: dict[str, Any]) -> Figure:
    """One panel a serving goal in the study's first precision: exposed time of a step by part, stacked per system."""
    first = run["findings"][0]["precision"]
    found = [finding for finding in run["findings"] if finding["precision"] == first]
    return _stacked(run, found, [f"{finding['goal']} ({first})" for finding in found], "ms", 1e3)


def training_figure(run: dict[str, Any]) -> Figure:
    """The same of every training run with equal chips: seconds of a step."""
    found = [finding for finding in run["training"] if finding["per"] == "chip"]
    return _stacked(run, found, [f"{finding['goal']} ({finding['precision']})" for finding in found], "s", 1.0)


def _stacked(run: dict[str, Any], found: list[dict[str, Any]], titles: list[str], unit: str, scale: float) -> Figure:
    most = max((len(finding["entries"]) for finding in found), default=1)
    columns = min(max(len(found), 1), MOST_ACROSS)
    height = max(3.4, 1.2 + 0.3 * most) * -(-max(len(found), 1) // columns)
    figure, panels = new_figure(max(4.2 * columns, 6.4), height, max(len(found), 1), across=columns)
    colours = colour_of(BREAKDOWN)
    for axes, finding, title in zip(panels, found, titles, strict=True):
        rows = [(entry["system"], entry["row"]) for entry in finding["entries"] if entry["row"] is not None]
        places = list(range(len(rows)))
        left = [0.0] * len(rows)
        for part in BREAKDOWN:
            widths = [row[f"breakdown_s.{part}"] * scale for _, row in rows]
            if max(widths, default=0.0) > 0.0:
                axes.barh(places, widths, left=left, color=colours[part], label=part, height=0.62)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(places, [labelled(name, run["systems"][name]) for name, _ in rows])
        axes.invert_yaxis()
        axes.set_title(textwrap.fill(title, 44, break_on_hyphens=False), fontsize=9)
        axes.set_xlabel(f"time of a step, {unit}", fontsize=9)
    handles, labels = _legend(panels)
    columns = min(len(labels), 5)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _legend(panels: list[Any]) -> tuple[list[Any], list[str]]:
    """One entry a part over all panels, in the order of BREAKDOWN."""
    seen: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    order = [part for part in BREAKDOWN if part in seen]
    return [seen[part] for part in order], order
