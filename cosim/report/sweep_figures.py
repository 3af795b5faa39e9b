"""Figures of a sweep: heat map with what stops the rest, fronts, and what the next mm2 buys."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosim.explore.pareto import pareto
from cosim.explore.sweep_findings import Points, points_of
from cosim.records import Array
from cosim.report.style import COLOURS, MARKERS, labelled, new_figure
from cosim.units import format_si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("///", "...", "xxx", "|||", "ooo", "+++", "---", "***", "OO", "\\\\")
MOST_TICKS, MOST_NUMBERED = 12, 120
DOTS = 3000
"""Points of the cloud behind a front; the front itself is of all."""


def level_text(value: object, unit: str) -> str:
    """A value of an axis as people read it: powers of two of bytes as MiB."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if unit == "B" and size <= value < 1024 * size and value % size == 0:
            return f"{value / size:g} {name}"
    return format_si(float(value), unit, 3)


def number_text(value: float | None) -> str:
    """A number in three digits or all of its whole part."""
    if value is None:
        return "unknown"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def path_text(path: str) -> str:
    """The end of a path that tells it from others: matrix.rows."""
    words = path.split(".")
    return ".".join(words[-3:] if len(words) > 2 and words[-2].isdigit() else words[-2:])


def case_title(case: dict[str, Any], run: dict[str, Any]) -> str:
    """Workload, phase, and the system where there are several or its chip is estimated."""
    name = labelled(case["system"], case)
    several = len({each["system"] for each in run["cases"]}) > 1 or name != case["system"]
    return f"{case['workload']} {case['phase']}" + (f", {name}" if several else "")


def cases_of(run: dict[str, Any], table: Any) -> list[tuple[dict[str, Any], Points]]:  # noqa: ANN401  # pyarrow
    """Every case of a run with its rows."""
    systems = len({case["system"] for case in run["cases"]})
    return [(case, points_of(table, index // systems, case["system"])) for index, case in enumerate(run["cases"])]


def heat_map_figure(run: dict[str, Any], table: Any) -> Figure:  # noqa: ANN401  # pyarrow ships no types
    """One panel a case: the best over all other axes; where nothing is feasible, hatched by the limit that binds."""
    found = cases_of(run, table)
    across = min(len(found), 2)
    figure, panels = new_figure(5.6 * across, 4.4 * -(-len(found) // across), len(found), across=across)
    for axes, (case, points) in zip(panels, found, strict=True):
        _heat_map(axes, run, case, points)
    return figure


def heat_cells(run: dict[str, Any], points: Points) -> tuple[Array, NDArray[np.str_], list[list[Any]]]:
    """Best value, binding limit where there is none, and the levels of both axes; shapes (y, x).

    The limit that binds is that of the designs that came furthest: what only the rest meets earlier is not what stops
    all of them. A sweep of one axis has one row.
    """
    sides = [_column(points, path) for path in run["heat_map"]]
    sides += [np.zeros(points.rows.size)] * (2 - len(sides))
    levels = [list(dict.fromkeys(sorted(side.tolist()))) for side in sides]
    at = [np.searchsorted(np.array(known), side) for known, side in zip(levels, sides, strict=True)]
    shape = (len(levels[1]), len(levels[0]))
    cell = at[1] * shape[1] + at[0]
    limit = points.words("limit")
    worth = np.where(limit == "", points.number(run["maximise"]), np.nan)
    best = np.full(shape[0] * shape[1], -np.inf)
    np.maximum.at(best, cell, np.where(np.isnan(worth), -np.inf, worth))
    names = np.array(["", *run["limit_order"]])
    place = {str(name): index for index, name in enumerate(names)}
    furthest = np.zeros(best.size, dtype=np.intp)
    np.maximum.at(furthest, cell, np.array([place[str(name)] for name in limit], dtype=np.intp))
    # Linked axes leave cells that no design falls into: no limit stands there.
    binding = names[furthest]
    value = np.where(np.isneginf(best), np.nan, best)
    return value.reshape(shape), np.where(np.isnan(value), binding, "").reshape(shape), levels


def runs(cells: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(x, y, width) of every run of cells side by side in a row: long axes have few runs and many cells."""
    padded = np.pad(cells, ((0, 0), (1, 1))).astype(np.int8)
    turns = np.diff(padded, axis=1)
    begins, ends = np.argwhere(turns == 1), np.argwhere(turns == -1)
    return [(int(x), int(y), int(end - x)) for (y, x), (_, end) in zip(begins, ends, strict=True)]


def _column(points: Points, path: str) -> NDArray[Any]:
    words = points.table.schema.field(path).type
    return points.words(path) if str(words).startswith(("dictionary", "string")) else points.number(path)


def _heat_map(axes: Axes, run: dict[str, Any], case: dict[str, Any], points: Points) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    value, binding, levels = heat_cells(run, points)
    axes.grid(visible=False)
    drawn = axes.imshow(np.ma.masked_invalid(value), origin="lower", aspect="auto", cmap="viridis")
    limits = [name for name in dict.fromkeys(binding.ravel().tolist()) if name]
    for place, name in enumerate(limits):
        cells = [Rectangle((x - 0.5, y - 0.5), width, 1) for x, y, width in runs(binding == name)]
        hatch = HATCHES[place % len(HATCHES)]
        drawn_over = PatchCollection(cells, linewidth=0, hatch=hatch, facecolor="#EEEEEE", edgecolor="#777777")
        axes.add_collection(drawn_over)
    for (y, x), best in np.ndenumerate(value):
        if np.isfinite(best) and value.size <= MOST_NUMBERED:
            shade = "white" if best < np.nanmean(value) else "black"
            axes.annotate(number_text(float(best)), (x, y), ha="center", va="center", fontsize=7, color=shade)
    if len(run["heat_map"]) < 2:
        axes.set_yticks([])
    for side, path, known in zip((axes.xaxis, axes.yaxis), run["heat_map"], levels, strict=False):
        some = np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_TICKS)).astype(int)).tolist()
        side.set_ticks(some, [level_text(known[at], run["units"].get(path, "")) for at in some])
        side.set_label_text(path_text(path), fontsize=9)
    axes.set_title(f"{case_title(case, run)}: best {run['maximise']}", fontsize=9)
    figure = axes.get_figure(root=True)
    if figure is not None and np.isfinite(value).any():
        figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    keys = [
        Patch(facecolor="#EEEEEE", edgecolor="#777777", hatch=HATCHES[place % len(HATCHES)], label=f"no design: {name}")
        for place, name in enumerate(limits)
    ]
    if keys:
        axes.legend(handles=keys, fontsize=7, loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2, frameon=False)


def fronts_figure(run: dict[str, Any], table: Any) -> Figure:  # noqa: ANN401  # pyarrow ships no types
    """A row a case: tokens/s per chip against die area, and tokens/J against tokens/s per user."""
    found = cases_of(run, table)
    figure, panels = new_figure(10.6, 3.9 * len(found), 2 * len(found), across=2)
    for place, (case, points) in enumerate(found):
        left, right = panels[2 * place], panels[2 * place + 1]
        ok = points.words("limit") == ""
        pairs = (
            (left, "area_mm2", run["maximise"], -1.0),
            (right, "tokens_per_s_per_user", "tokens_per_j_chip", 1.0),
        )
        for axes, across, up, sign in pairs:
            x, y = points.number(across)[ok], points.number(up)[ok]
            known = np.isfinite(x) & np.isfinite(y)
            _front(axes, x[known], y[known], sign, "unknown" if ok.any() else "no feasible design")
            base = case["base"]
            if base is not None and base[across] is not None and base[up] is not None:
                axes.plot(
                    base[across],
                    base[up],
                    "*",
                    color=COLOURS[1],
                    markersize=11,
                    label=f"{labelled(case['system'], case)} as is",
                )
            axes.set_xlabel(across, fontsize=9)
            axes.set_ylabel(up, fontsize=9)
            axes.set_title(case_title(case, run), fontsize=9)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7, frameon=False)
    return figure


def _front(axes: Axes, x: Array, y: Array, sign: float, nothing: str) -> None:
    """The cloud thinned, the front whole; `nothing` is said where there is none."""
    if x.size == 0:
        axes.annotate(nothing, (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=9)
        return
    some = np.linspace(0, x.size - 1, min(DOTS, x.size)).astype(np.intp)
    axes.plot(x[some], y[some], ".", color="#BBBBBB", markersize=2, rasterized=True, label="feasible designs")
    front = pareto(sign * x, y)
    axes.plot(x[front], y[front], "o-", color=COLOURS[0], markersize=3, linewidth=1, label="front")


def next_area_figure(run: dict[str, Any], table: Any) -> Figure:  # noqa: ANN401  # pyarrow ships no types
    """One panel a case: along the front over area, what each further mm2 brings, by the axes that were turned."""
    from matplotlib.ticker import FuncFormatter

    found = cases_of(run, table)
    across = min(len(found), 2)
    figure, panels = new_figure(5.4 * across, 3.9 * -(-len(found) // across), len(found), across=across)
    for axes, (case, points) in zip(panels, found, strict=True):
        gains = area_gains(run, points)
        kinds = list(dict.fromkeys(what for *_, what in gains))
        for place, what in enumerate(kinds):
            own = [(area, gain) for area, gain, name in gains if name == what]
            mark = MARKERS[place % len(MARKERS)]
            colour = COLOURS[place % len(COLOURS)]
            axes.plot([area for area, _ in own], [gain for _, gain in own], mark, color=colour, label=what)
        if gains:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda gain, _place: f"{gain:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda gain, _place: f"{gain:g}"))
            axes.tick_params(which="minor", labelsize=7)
            axes.legend(fontsize=6, frameon=False, title="what changed along the front", title_fontsize=7)
        axes.set_xlabel("area_mm2", fontsize=9)
        axes.set_ylabel(f"{run['maximise']} per further mm2", fontsize=9)
        axes.set_title(case_title(case, run), fontsize=9)
    return figure


def area_gains(run: dict[str, Any], points: Points) -> list[tuple[float, float, str]]:
    """(area reached, gain per mm2, axes that changed) between neighbours on the concave front over area.

    The concave front leaves out designs that a mixture of their neighbours beats, so that gains fall with area.
    """
    ok = np.flatnonzero(points.words("limit") == "")
    area, worth = points.number("area_mm2")[ok], points.number(run["maximise"])[ok]
    known = np.isfinite(area) & np.isfinite(worth)
    ok, area, worth = ok[known], area[known], worth[known]
    front = pareto(-area, worth)
    hull: list[int] = []
    for place in front.tolist():
        while len(hull) > 1 and _slope(area, worth, hull[-2], place) >= _slope(area, worth, hull[-2], hull[-1]):
            hull.pop()
        hull.append(place)
    paths = [axis["shown"] for axis in run["axes"]]
    values = {path: _column(points, path)[ok] for path in paths}
    gains = []
    for one, other in itertools.pairwise(hull):
        changed = [path_text(path) for path in paths if values[path][one] != values[path][other]]
        what = ", ".join(changed)
        gains.append((float(area[other]), _slope(area, worth, one, other), what))
    return gains


def _slope(x: Array, y: Array, one: int, other: int) -> float:
    return float((y[other] - y[one]) / (x[other] - x[one]))
