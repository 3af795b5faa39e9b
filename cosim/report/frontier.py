"""The trade of serving: tokens/s per chip against tokens/s per user, over batch, plans chosen anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.explore.pareto import pareto
from cosim.report.style import MARKERS, colour_of, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NEEDED = (
    "system",
    "workload",
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
    return {name: _plain(table[name]) for name in _NEEDED}


def _plain(column: Any) -> NDArray[Any]:  # noqa: ANN401  # pyarrow ships no types
    """A column as numpy knows it; words as fixed-width text, which compares quickly."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return np.asarray(column.to_numpy())
    whole = column.combine_chunks()
    names = np.array(whole.dictionary.to_pylist())
    return np.asarray(names[whole.indices.to_numpy()])


def frontier_figure(run: dict[str, Any], points: dict[str, NDArray[Any]]) -> Figure:
    """A row a workload, a panel a precision: the front of each system, own kernel quality, tiers of decode marked.

    The front is that of decode, and of prefill for a workload that is not decoded.
    """
    found = run["findings"]
    workloads, precisions = (
        list(dict.fromkeys(finding[key] for finding in found)) for key in ("workload", "precision")
    )
    across = len(precisions)
    size = (4.4 * across, 0.6 + 3.3 * len(workloads))
    figure, panels = new_figure(*size, across * len(workloads), across=across, shared_y=True)
    names = {name: labelled(name, about) for name, about in run["systems"].items()}
    decoded = {finding["workload"] for finding in found if finding["phase"] == "decode"}
    base = (points["quality"] == "own") & points["feasible"].astype(bool)
    wanted = [(workload, precision) for workload in workloads for precision in precisions]
    for axes, (workload, precision) in zip(panels, wanted, strict=True):
        phase = "decode" if workload in decoded else "prefill"
        rows = base & (points["phase"] == phase) & (points["precision"] == precision) & (points["workload"] == workload)
        _fronts(axes, run, points, rows, names)
        if phase == "decode":
            _tiers(axes, run)
        axes.set_title(f"{workload} {phase}, {precision}", fontsize=9)
    for axes in panels[::across]:
        axes.set_ylabel("tokens/s per chip", fontsize=9)
    for axes in panels[-across:]:
        axes.set_xlabel("tokens/s per user", fontsize=9)
    # A system may lack the first panel's format: the legend is of all panels.
    shown = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [label for label in names.values() if label in shown]
    lines = [shown[label] for label in order]
    figure.legend(lines, order, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure


def _fronts(
    axes: Axes, run: dict[str, Any], points: dict[str, NDArray[Any]], rows: NDArray[np.bool_], names: dict[str, str]
) -> None:
    """The front of every system among `rows`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colours = colour_of(list(run["systems"]))
    for place, system in enumerate(run["systems"]):
        own = np.flatnonzero(rows & (points["system"] == system))
        if own.size == 0:
            continue
        user, chip = points["tokens_per_s_per_user"][own], points["tokens_per_s_per_chip"][own]
        front = pareto(user, chip)
        style = f"{MARKERS[place % len(MARKERS)]}-"
        axes.plot(
            user[front], chip[front], style, color=colours[system], markersize=3, linewidth=1, label=names[system]
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _tiers(axes: Axes, run: dict[str, Any]) -> None:
    """The limits of the study on a decode step, as the tokens/s of a user that they ask for."""
    for limit in sorted({f["limit_s"] for f in run["findings"] if f["phase"] == "decode"}):
        axes.axvline(1.0 / limit, color="#888888", linewidth=0.8, linestyle="--")
        place_at = (1.0 / limit, 1.0)
        axes.annotate(f"{limit * 1e3:g} ms", place_at, xycoords=("data", "axes fraction"), fontsize=7, va="top")
