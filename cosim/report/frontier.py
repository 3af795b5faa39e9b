"""The trade of serving: tokens/s per chip against tokens/s per user, over batch, plans chosen anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.records import Array
from cosim.report.style import MARKERS, colour_of, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = (
    "system",
    "phase",
    "precision",
    "quality",
    "feasible",
    "tokens_per_s_per_chip",
    "tokens_per_s_per_user",
)


def read_points(folder: Path) -> dict[str, NDArray[Any]]:
    """The columns of results.parquet that the figure needs, as arrays. Raises SpecError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "results.parquet"
    try:
        table = pq.read_table(path, columns=list(_NEEDED))
    except (pa.ArrowException, OSError):
        raise SpecError("is missing or cannot be read", file=path, hint="run the experiment again") from None
    return {name: table[name].to_numpy() for name in _NEEDED}


def pareto(per_user: Array, per_chip: Array) -> NDArray[np.intp]:
    """Indices of the points that no other beats in both, from the fastest user on. Ties keep the first."""
    order = np.lexsort((-per_chip, -per_user))
    best, kept = -np.inf, []
    for index in order:
        if per_chip[index] > best:
            best = per_chip[index]
            kept.append(index)
    return np.array(kept, dtype=np.intp)


def frontier_figure(run: dict[str, Any], points: dict[str, NDArray[Any]]) -> Figure:
    """One panel a precision: the decode front of each system at its own kernel quality, tiers marked."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    precisions = list(dict.fromkeys(finding["precision"] for finding in run["findings"]))
    limits = sorted({f["limit_s"] for f in run["findings"] if f["phase"] == "decode"})
    figure, panels = new_figure(4.4 * len(precisions), 3.9, len(precisions), shared_y=True)
    colours = colour_of(list(run["systems"]))
    names = {name: labelled(name, about) for name, about in run["systems"].items()}
    base = (points["phase"] == "decode") & (points["quality"] == "own") & points["feasible"].astype(bool)
    for axes, precision in zip(panels, precisions, strict=True):
        for place, system in enumerate(run["systems"]):
            rows = np.flatnonzero(base & (points["precision"] == precision) & (points["system"] == system))
            if rows.size == 0:
                continue
            user, chip = points["tokens_per_s_per_user"][rows], points["tokens_per_s_per_chip"][rows]
            front = pareto(user, chip)
            style = f"{MARKERS[place % len(MARKERS)]}-"
            axes.plot(
                user[front], chip[front], style, color=colours[system], markersize=3, linewidth=1, label=names[system]
            )
        for limit in limits:
            axes.axvline(1.0 / limit, color="#888888", linewidth=0.8, linestyle="--")
            axes.annotate(
                f"{limit * 1e3:g} ms", (1.0 / limit, 1.0), xycoords=("data", "axes fraction"), fontsize=7, va="top"
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"decode, {precision}", fontsize=9)
        axes.set_xlabel("tokens/s per user", fontsize=9)
    panels[0].set_ylabel("tokens/s per chip", fontsize=9)
    # A system may lack the first panel's format: the legend is of all panels.
    shown = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [label for label in names.values() if label in shown]
    lines = [shown[label] for label in order]
    figure.legend(lines, order, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure
