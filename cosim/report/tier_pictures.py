"""Pictures of a tier by its kind, in inches: switches over their units, rings, grids, meshes, groups.

Each takes the axes, the tier's row and the field it may fill, and gives the middle of the lower edge of its first unit,
which a figure opens. Long rows are cut: so many units, then "... x 72".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosim.report.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
Place = tuple[float, float]
Cell = tuple[int, int, int]
UNIT, LINE, WRAP, SWITCH, FIRST = COLOURS[0], "#999999", COLOURS[1], "#333333", COLOURS[4]
SIDE = 0.15
"""Of a unit [inch]."""
MOST_IN_ROW, MOST_AROUND, MOST_ALONG = 8, 12, 4
ACROSS, UP, BACK = 0.5, 0.36, (0.115, 0.085)
"""Between neighbours of a grid: to the right, up, and to the back in both directions [inch]."""


@dataclass(frozen=True)
class Field:
    """Where a picture goes [inch], and whether its first unit is opened below."""

    left: float
    bottom: float
    right: float
    top: float
    opens: bool

    @property
    def middle(self) -> Place:
        """Its centre."""
        return (self.left + self.right) / 2.0, (self.bottom + self.top) / 2.0


def picture(axes: Axes, tier: Row, field: Field) -> Place:
    """Draws a tier; the lower edge of its first unit."""
    return _DRAW[tier["kind"]](axes, tier, field)


def height(tier: Row) -> float:
    """Inches that a picture needs."""
    if tier["kind"] == "torus":
        shown = [min(length, MOST_ALONG) for length in tier["shape"]]
        across, back = (shown[1] if len(shown) > 1 else 1), (shown[2] if len(shown) > 2 else 1)
        return 0.4 + UP * (across - 1) + BACK[1] * (back - 1)
    if tier["kind"] == "fat_tree" and (tier["levels"] or 0.0) > 1.0:
        return 0.45 + 0.4 * float(tier["levels"])
    return {"switch": 0.85, "fat_tree": 0.85, "bus": 0.75}.get(tier["kind"], 1.35)


def _switch(axes: Axes, tier: Row, field: Field) -> Place:
    """Every unit at every switch; one box with a question mark where their number is unknown."""
    count = tier["switches"]
    known = count is not None and count >= 1.0
    shown = min(int(count), 4) if known else 1
    places = _row(field, shown, field.top - 0.1, 0.62)
    units = _units_row(tier, field)
    _links(axes, [(high, low) for high in places for low in units])
    for place in places:
        _box(axes, place, "switch" if known else "switches: ?", 0.5 if known else 0.8)
    if known and count > shown:
        _more(axes, places[-1], count, 0.3)
    return _units(axes, tier, units, field)


def _fat_tree(axes: Axes, tier: Row, field: Field) -> Place:
    """Levels of switches above the units; one wide box where their number is unknown."""
    levels = tier["levels"]
    units = _units_row(tier, field)
    if levels is None:
        middle = (sum(x for x, _ in units) / len(units), field.top - 0.1)
        _links(axes, [((x, middle[1]), (x, y)) for x, y in units])
        _box(axes, middle, "fat tree, levels: ?", max(units[-1][0] - units[0][0] + 0.4, 1.0))
        return _units(axes, tier, units, field)
    if levels == 1.0:
        return _switch(axes, tier, field)
    names = ("leaf", "spine") if levels == 2.0 else ("leaf", "middle", "top")
    below: Sequence[Place] = units
    for level, name in enumerate(names):
        width = max(2, min(3, len(units) // 2)) if level < len(names) - 1 else 2
        places = _row(field, width, field.bottom + SIDE / 2.0 + 0.42 * (level + 1), 0.85)
        _links(axes, _joined(places, below, every=level > 0))
        below = places
        for place in places:
            _box(axes, place, name, 0.5)
    return _units(axes, tier, units, field)


def _bus(axes: Axes, tier: Row, field: Field) -> Place:
    """Units that hang on one wire."""
    units = _units_row(tier, field)
    high = field.top - 0.15
    _links(axes, [((x, high), (x, y)) for x, y in units])
    axes.plot([units[0][0] - 0.25, units[-1][0] + 0.25], [high, high], color=SWITCH, linewidth=3.0, zorder=2)
    return _units(axes, tier, units, field)


def _around(axes: Axes, tier: Row, field: Field) -> Place:
    """A ring, a mesh of all pairs or a hypercube: units around a circle, the first one lowest."""
    count = int(tier["units"])
    shown = min(count, MOST_AROUND if tier["kind"] != "hypercube_mesh" else 16)
    units = _circle(field, shown, (field.top - field.bottom - SIDE) / 2.0)
    if tier["kind"] == "ring":
        pairs = [(i, (i + 1) % shown) for i in range(shown)] if shown > 2 else [(0, 1)]
    elif tier["kind"] == "mesh":
        pairs = [(i, j) for i in range(shown) for j in range(i)]
    else:
        # Along a Gray code neighbours on the circle are neighbours of the cube.
        rank = {i ^ (i >> 1): i for i in range(16)}
        pairs = [(rank[i], rank[i ^ (1 << bit)]) for bit in range(4) for i in range(16) if i < i ^ (1 << bit)]
        pairs = [pair for pair in pairs if max(pair) < shown]
    _links(axes, [(units[i], units[j]) for i, j in pairs])
    if count > shown:
        _more(axes, (max(x for x, _ in units), field.middle[1]), count)
    return _units(axes, tier, units, field, all_shown=True)


def _torus(axes: Axes, tier: Row, field: Field) -> Place:
    """A grid, in depth where it has three dimensions; what closes is drawn along the nearest edges."""
    shape = [*tier["shape"], 1, 1][: max(len(tier["shape"]), 3)]
    closes = [*tier["closed"], False, False]
    shown = [min(int(length), MOST_ALONG) for length in shape[:3]]
    left = field.middle[0] - (ACROSS * (shown[0] - 1) + BACK[0] * (shown[2] - 1)) / 2.0 - 0.2
    low = field.bottom + SIDE / 2.0

    def at(i: int, j: int, k: int) -> Place:
        return left + ACROSS * i + BACK[0] * k, low + UP * j + BACK[1] * k

    cells = [(i, j, k) for k in reversed(range(shown[2])) for j in range(shown[1]) for i in range(shown[0])]
    for cell in cells:
        for axis in range(3):
            further = tuple(place + (axis == d) for d, place in enumerate(cell))
            if further[axis] < shown[axis]:
                cut = shape[axis] > shown[axis] and further[axis] == shown[axis] - 1
                _links(axes, [(at(*cell), at(*further))], style=":" if cut else "-")
    for start, end, bow in _closing(shown, closes):
        _arc(axes, at(*start), at(*end), bow)
    last = [length - 1 for length in shown]
    lengths = "x".join(f"{length:g}" for length in tier["shape"])
    axes.text(at(last[0], 0, last[2])[0] + 0.28, field.middle[1], lengths, fontsize=8, va="center")
    places = [at(*cell) for cell in cells]
    # The nearest corner is the first unit.
    first = places.index(at(0, 0, 0))
    _units(
        axes,
        tier,
        [places[first], *places[:first], *places[first + 1 :]],
        field,
        all_shown=True,
        side=0.09 if shown[2] > 1 else SIDE,
    )
    return places[first][0], places[first][1] - SIDE / 2.0


def _closing(shown: Sequence[int], closes: Sequence[bool]) -> list[tuple[Cell, Cell, float]]:
    """Wires that close rings, and how far they bow: all of a plane; in depth one each way, along the nearest edges."""
    x, y, z = (length - 1 for length in shown)
    if z > 0:
        edges = [((0, y, z), (x, y, z), -0.22), ((0, 0, 0), (0, y, 0), -0.22), ((x, 0, 0), (x, 0, z), 0.35)]
        return [edge for axis, edge in enumerate(edges) if closes[axis]]
    rows = [((0, j, 0), (x, j, 0), -0.14) for j in range(shown[1]) if closes[0] and x > 0]
    return rows + [((i, 0, 0), (i, y, 0), -0.22) for i in range(shown[0]) if closes[1] and y > 0]


def _dragonfly(axes: Axes, tier: Row, field: Field) -> Place:
    """Groups around a circle, all joined; of each group a few routers, all joined."""
    routers, groups = tier["shape"] if len(tier["shape"]) == 2 else (tier["units"], 1)
    count = min(math.ceil(tier["units"] / routers), 6)
    small = min(int(routers), 4)
    centres = _circle(field, count, (field.top - field.bottom) / 2.0 - 0.22) if count > 1 else [field.middle]
    _links(axes, [(a, b) for i, a in enumerate(centres) for b in centres[:i]], colour=WRAP)
    units: list[Place] = []
    for group, (x, y) in enumerate(centres):
        there = min(small, int(tier["units"] - group * routers))
        turned = [-math.pi / 2.0 + 2.0 * math.pi * i / small for i in range(there)]
        mine = [(x + 0.14 * math.cos(angle), y + 0.14 * math.sin(angle)) for angle in turned]
        _links(axes, [(a, b) for i, a in enumerate(mine) for b in mine[:i]])
        units += mine
    if tier["units"] > len(units):
        _more(axes, (max(x for x, _ in units), field.middle[1]), groups, what=" groups")
    return _units(axes, tier, units, field, all_shown=True, side=0.09)


def _units_row(tier: Row, field: Field) -> list[Place]:
    count = min(int(tier["units"]), MOST_IN_ROW)
    return _row(field, count, field.bottom + SIDE / 2.0, min(0.34, (field.right - field.left - 0.7) / MOST_IN_ROW))


def _row(field: Field, count: int, y: float, step: float) -> list[Place]:
    """So many places side by side, a little left of the middle of the field: what is cut stands to the right."""
    start = field.middle[0] - 0.2 - step * (count - 1) / 2.0
    return [(start + step * i, y) for i in range(count)]


def _circle(field: Field, count: int, radius: float) -> list[Place]:
    """Places around the middle of the field, the first lowest."""
    (x, y), whole = field.middle, 2.0 * math.pi
    angles = [-math.pi / 2.0 + whole * i / count for i in range(count)]
    return [(x + 1.3 * radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _units(
    axes: Axes, tier: Row, places: Sequence[Place], field: Field, *, all_shown: bool = False, side: float = SIDE
) -> Place:
    """Squares at the places, the first marked where it is opened; what is cut is told."""
    from matplotlib.patches import Rectangle

    for index, (x, y) in enumerate(places):
        face = FIRST if index == 0 and field.opens else UNIT
        corner = (x - side / 2.0, y - side / 2.0)
        axes.add_patch(Rectangle(corner, side, side, facecolor=face, edgecolor="white", linewidth=0.6, zorder=4))
    if not all_shown and tier["units"] > len(places):
        _more(axes, places[-1], tier["units"], SIDE)
    return places[0][0], places[0][1] - side / 2.0


def _more(axes: Axes, after: Place, count: float, gap: float = 0.15, what: str = "") -> None:
    axes.text(after[0] + gap, after[1], f"... x {count:,g}{what}", fontsize=8, va="center", ha="left")


def _box(axes: Axes, middle: Place, text: str, width: float) -> None:
    """A switch with its name."""
    from matplotlib.patches import FancyBboxPatch

    corner = (middle[0] - width / 2.0, middle[1] - 0.075)
    style = "round,pad=0,rounding_size=0.04"
    axes.add_patch(
        FancyBboxPatch(
            corner, width, 0.15, boxstyle=style, facecolor="white", edgecolor=SWITCH, linewidth=0.9, zorder=3
        )
    )
    axes.text(*middle, text, fontsize=6.5, ha="center", va="center", zorder=5)


def _links(axes: Axes, pairs: Sequence[tuple[Place, Place]], *, style: str = "-", colour: str = LINE) -> None:
    for start, end in pairs:
        across, up = zip(start, end, strict=True)
        axes.plot(across, up, color=colour, linewidth=0.7, linestyle=style, zorder=1)


def _joined(high: Sequence[Place], low: Sequence[Place], *, every: bool) -> list[tuple[Place, Place]]:
    """Every place with every other, or each of the lower with the one above it."""
    if every:
        return [(above, below) for above in high for below in low]
    return [(high[i * len(high) // len(low)], below) for i, below in enumerate(low)]


def _arc(axes: Axes, start: Place, end: Place, bow: float) -> None:
    """A wire that closes a ring."""
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            start, end, connectionstyle=f"arc3,rad={bow}", arrowstyle="-", color=WRAP, linewidth=1.1, zorder=2
        )
    )


_DRAW: dict[str, Callable[[Axes, Row, Field], Place]] = {
    "switch": _switch,
    "fat_tree": _fat_tree,
    "bus": _bus,
    "ring": _around,
    "mesh": _around,
    "hypercube_mesh": _around,
    "torus": _torus,
    "dragonfly": _dragonfly,
}
