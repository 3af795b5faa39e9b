"""Stacked breakdown: where the time of a step goes, for every system's winner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosim.engines.analytic import BREAKDOWN
from cosim.report.style import colour_of, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def breakdown_figure(run: dict[str, Any]) -> Figure:
    """One panel a goal in the study's first precision: exposed time of a step by part, stacked per system."""
    first = run["findings"][0]["precision"]
    found = [finding for finding in run["findings"] if finding["precision"] == first]
    figure, panels = new_figure(4.2 * len(found), 3.4, len(found))
    colours = colour_of(BREAKDOWN)
    for axes, finding in zip(panels, found, strict=True):
        rows = [(entry["system"], entry["row"]) for entry in finding["entries"] if entry["row"] is not None]
        places = list(range(len(rows)))
        left = [0.0] * len(rows)
        for part in BREAKDOWN:
            widths = [row[f"breakdown_s.{part}"] * 1e3 for _, row in rows]
            if max(widths, default=0.0) > 0.0:
                axes.barh(places, widths, left=left, color=colours[part], label=part, height=0.62)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(places, [name for name, _ in rows])
        axes.invert_yaxis()
        axes.set_title(f"{finding['goal']} ({first})", fontsize=9)
        axes.set_xlabel("time of a step, ms", fontsize=9)
    handles, labels = _legend(panels)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


def _legend(panels: list[Any]) -> tuple[list[Any], list[str]]:
    """One entry a part over all panels, in the order of BREAKDOWN."""
    seen: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    order = [part for part in BREAKDOWN if part in seen]
    return [seen[part] for part in order], order
