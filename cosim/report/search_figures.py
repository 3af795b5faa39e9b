"""Figures of a search: the front over two objectives, the time of the ten best, what fits by tensor and pipeline."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.engines.analytic import BREAKDOWN
from cosim.explore.metrics import unit_of
from cosim.report.style import COLOURS, colour_of, new_figure
from cosim.report.sweep_figures import number_text
from cosim.report.tables import training_plan_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PAIRS = 3


def front_figure(run: dict[str, Any]) -> Figure:
    """The front over every two objectives, three pairs at most: a front over all of them is no line over two."""
    from matplotlib.ticker import EngFormatter

    names = list(run["front_points"])
    pairs = list(itertools.combinations(names, 2))[:MOST_PAIRS]
    figure, panels = new_figure(4.6 * len(pairs), 3.8, len(pairs))
    for axes, (across, up) in zip(panels, pairs, strict=True):
        x, y = (np.array(run["front_points"][name], dtype=np.float64) for name in (across, up))
        known = np.isfinite(x) & np.isfinite(y)
        axes.plot(x[known], y[known], "o", color=COLOURS[0], markersize=3, label="front")
        columns = [next(goal["column"] for goal in run["goals"] if goal["text"] == name) for name in (across, up)]
        for place, found in enumerate(run["objectives"], start=1):
            best = found["best"]
            if best is not None and all(best[column] is not None for column in columns):
                at = [best[column] for column in columns]
                # Bests that coincide: each later star lies inside the one before.
                size, colour = max(15.0 - 3.0 * place, 4.0), COLOURS[place % len(COLOURS)]
                axes.plot(*at, "*", color=colour, markersize=size, label=found["objective"])
        for side, name, column in zip((axes.xaxis, axes.yaxis), (across, up), columns, strict=True):
            side.set_label_text(name, fontsize=9)
            side.set_major_formatter(EngFormatter(unit_of(column)))
        axes.legend(fontsize=7, frameon=False)
    return figure


def strategy_text(row: dict[str, Any]) -> str:
    """A training plan in short, with SP where norms are split along the sequence."""
    return f"{training_plan_text(row)}{', SP' if row['plan.sequence_parallel'] else ''}"


def top_figure(run: dict[str, Any]) -> Figure:
    """Parts of the time of the ten best by the first objective."""
    rows = run["objectives"][0]["top"]
    figure, (axes,) = new_figure(8.6, 1.4 + 0.4 * len(rows), 1)
    colours = colour_of(BREAKDOWN)
    places, left = list(range(len(rows))), [0.0] * len(rows)
    for part in BREAKDOWN:
        widths = [row[f"breakdown_s.{part}"] for row in rows]
        if max(widths) > 0.0:
            axes.barh(places, widths, left=left, color=colours[part], label=part, height=0.66)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    labels = [strategy_text(row).replace(", ", "\n", 1) for row in rows]
    axes.set_yticks(places, labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step, s", fontsize=9)
    axes.set_title(run["objectives"][0]["objective"], fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def fits_figure(run: dict[str, Any]) -> Figure:
    """A map over tensor and pipeline degrees: the best by the first objective, strategies that fit of those legal."""
    cells = run["fits"]
    tensors, pipelines = (sorted({cell[name] for cell in cells}) for name in ("tensor", "pipeline"))
    figure, (axes,) = new_figure(2.4 + 0.85 * len(tensors), 1.8 + 0.42 * len(pipelines), 1)
    axes.grid(visible=False)
    worth = np.full((len(pipelines), len(tensors)), np.nan)
    for cell in cells:
        if cell["best"] is not None:
            worth[pipelines.index(cell["pipeline"]), tensors.index(cell["tensor"])] = cell["best"]
    goal = run["goals"][0]
    shades = "viridis_r" if goal["sign"] > 0 else "viridis"
    drawn = axes.imshow(np.ma.masked_invalid(worth), origin="lower", aspect="auto", cmap=shades)
    for cell in cells:
        at = (tensors.index(cell["tensor"]), pipelines.index(cell["pipeline"]))
        _cell(axes, cell, at)
    axes.set_xticks(range(len(tensors)), [str(degree) for degree in tensors])
    axes.set_yticks(range(len(pipelines)), [str(degree) for degree in pipelines])
    axes.set_xlabel("tensor degree", fontsize=9)
    axes.set_ylabel("pipeline degree", fontsize=9)
    axes.set_title(f"{goal['text']}; strategies that fit of those legal", fontsize=9)
    if np.isfinite(worth).any():
        figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    return figure


def _cell(axes: Axes, cell: dict[str, Any], at: tuple[int, int]) -> None:
    """One square: hatched where nothing fits, its numbers where something does."""
    from matplotlib.patches import Rectangle

    count = f"{cell['fit']:,}/{cell['legal']:,}"
    if cell["best"] is None:
        corner = (at[0] - 0.5, at[1] - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="#EEEEEE", edgecolor="#999999", hatch="///", linewidth=0))
        axes.annotate(count, at, ha="center", va="center", fontsize=6, backgroundcolor="#EEEEEE")
        return
    # A plate behind the words is readable on dark and light.
    text = f"{number_text(cell['best'])}\n{count}"
    plate = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
    axes.annotate(text, at, ha="center", va="center", fontsize=6, bbox=plate)
