"""The look that all figures share: colours that colour-blind readers can tell apart, no pyplot state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, darkest first, and four of Tol's.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C8C8C",
    "#882255",
    "#999933",
    "#332288",
    "#AA4499",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h", "<", ">", "p")


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """One colour a name, by order."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def labelled(name: str, about: Mapping[str, Any]) -> str:
    """A system as tables and figures name it: marked where all that is said of its chip is estimated."""
    return f"{name} (estimated)" if about.get("confidence") == "estimated" else name


def new_figure(
    width: float, height: float, panels: int, *, across: int | None = None, shared_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure [inch] with so many panels, row by row, `across` of them side by side (all, if it is not given)."""
    from matplotlib.figure import Figure

    columns = panels if across is None else across
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(-(-panels // columns), columns, squeeze=False, sharey="row" if shared_y else False)
    everything = list(grid.flat)
    for axes in everything[panels:]:
        axes.remove()
    for axes in everything[:panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    return figure, everything[:panels]


def save(figure: Figure, folder: Path, name: str) -> None:
    """Writes `name`.svg (text stays text, no date) and `name`.png into `folder`."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    # The first drawing has laid it out; the second takes the places as they are.
    figure.set_layout_engine("none")
    figure.savefig(folder / f"{name}.png", dpi=130)


def save_one(figure: Figure, path: Path) -> None:
    """Writes a figure as .svg or .png, by the ending, whole or not at all. Raises SpecError."""
    import matplotlib as mpl

    from cosim.errors import SpecError

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise SpecError("is no kind of figure", field="--figure", value=path.name, hint="end it in .svg or .png")
    draft = path.with_name(path.name + ".draft")
    try:
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
            figure.savefig(draft, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
        draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SpecError(f"cannot be written: {error.strerror}", file=path, field="--figure") from None
