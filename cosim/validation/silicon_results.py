"""Figures of the suite `silicon`: by chip and formats, by regime, fitted and never fitted apart, worst shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError, nearest
from cosim.records import Array
from cosim.validation.calibrate import Rows
from cosim.validation.left_out import figures, left_out
from cosim.validation.silicon import FITS, KINDS, REGIMES, Answered, answer, rows_of
from cosim.validation.silicon_files import tables_root
from cosim.validation.silicon_layers import layers
from cosim.validation.silicon_power import powers
from cosim.validation.silicon_tables import Shapes
from cosim.validation.statistics import errors, macro_median, summary

WORST = 10
DISAGREE = 2.0
"""Stacks that differ more than this measure different kernels."""
LARGE_GROUP = 32.0
"""Heads of a key/value head from which stacks part ways."""
Found = dict[str, Any]


def validate_silicon(
    kind: str | None = None,
    *,
    group: str | None = None,
    every: bool = False,
    leave_out: bool = False,
    root: Path | None = None,
) -> Found:
    """Errors on the measured kernels under `root` (the installed tables), in the layout of `cosim validate`.

    `groups` are those of the column `group`, or chip and formats; each has `spread` (median of slowest over fastest
    stack, of shapes with several) and `regimes`. `fits` holds fitted and never fitted chips by kind and formats,
    `left_out` (where it is asked for) each fitted chip as the other generations predict it, `worst` the worst shapes
    by kind, `layers` the products of layers, `power` modelled against measured watts. `cases` counts the shapes asked
    of `shapes` in the tables; `skipped` has rows of the tables by reason. Raises SpecError.
    """
    place = tables_root() if root is None else root
    suite = answer(kind, every=every, root=place)
    table = _Frame(suite.answered)
    default = ["accelerator", "formats"]
    if group is not None and group not in table.words:
        known = [name for name in table.words if name != "formats"]
        raise SpecError("is no column of the tables", field="--group", value=group, hint=nearest(group, known))
    by_chip = {name: table.errors[rows] for name, rows in table.groups(default).items()}
    return {
        "kind": "silicon",
        "cases": len(table.errors),
        "shapes": sum(each.of for each in suite.answered),
        "skipped": [{"id": f"{e.system} {e.kind}", "reason": e.reason, "rows": e.rows} for e in suite.left_out],
        **summary(table.predicted, table.measured),
        "macro_median_abs_error": macro_median({name: sizes.tolist() for name, sizes in by_chip.items()}),
        "groups": {
            " ".join(name): {**table.named(rows), **table.figures(rows)}
            for name, rows in table.groups(default if group is None else [group]).items()
        },
        "fits": _by_fit(table),
        "worst": {", ".join(key): table.worst(rows) for key, rows in sorted(table.groups(["fit", "kind"]).items())},
        "layers": layers(suite),
        "power": powers(suite, place, every=every),
        "rows": table.rows(np.arange(len(table.errors))),
        **({"left_out": _left_out(suite.answered)} if leave_out else {}),
    }


def _left_out(answered: Sequence[Answered]) -> list[Found]:
    """Every fitted chip as the other generations predict it, by kind."""
    found: list[Found] = []
    for kind, parts in KINDS.items():
        tables: dict[str, list[Rows]] = {}
        for each in answered:
            if each.shapes.kind in parts:
                tables.setdefault(each.target.name, []).append(rows_of(each.shapes))
        found += [{"kind": kind, **row} for row in figures(left_out(tables))]
    return found


class _Frame:
    """All rows as columns: words to group by, numbers to sum up."""

    def __init__(self, answered: Sequence[Answered]) -> None:
        self.answered = answered
        self.words = columns(answered)
        self.predicted = _joined([each.predicted for each in answered])
        self.measured = _joined([each.shapes.measured for each in answered])
        self.spread = _joined([each.shapes.spread for each in answered])
        self.stacks = _joined([each.shapes.stacks for each in answered])
        self.errors = errors(self.predicted, self.measured)

    def groups(self, names: Sequence[str]) -> dict[tuple[str, ...], NDArray[np.intp]]:
        """Rows by their words in some columns, in the order in which they come; numbers by size."""
        if not self.errors.size:
            return {}
        found, first, inverse = np.unique(
            np.stack([self.words[name] for name in names]), axis=1, return_index=True, return_inverse=True
        )
        keys = [tuple(map(str, key)) for key in found.T]
        numeric = len(names) == 1 and all(key[0].isdigit() for key in keys)
        order = sorted(range(len(keys)), key=lambda place: int(keys[place][0]) if numeric else int(first[place]))
        return {keys[place]: np.flatnonzero(inverse == place) for place in order}

    def figures(self, rows: NDArray[np.intp]) -> Found:
        """Errors of some rows, the spread of their measurements, and the errors by regime."""
        several = rows[self.stacks[rows] > 1.0]
        regimes = {name: rows[self.words["regime"][rows] == name] for name in REGIMES}
        return {
            **summary(self.predicted[rows], self.measured[rows]),
            "spread": float(np.median(self.spread[several])) if several.size else None,
            "regimes": {name: summary(self.predicted[here], self.measured[here]) for name, here in regimes.items()},
        }

    def named(self, rows: NDArray[np.intp]) -> dict[str, str]:
        """What all of some rows have in common."""
        names = ("accelerator", "fit", "kind", "phase", "dtype", "kv_dtype")
        return {name: str(self.words[name][rows[0]]) for name in names if len(set(self.words[name][rows])) == 1}

    def worst(self, rows: NDArray[np.intp]) -> list[Found]:
        """The rows farthest from their measurement: too fast by half counts as too slow by twice."""
        ratio = np.abs(np.log(self.predicted[rows] / self.measured[rows]))
        places = rows[np.argsort(-ratio, kind="stable")[:WORST]]
        more = ("regime", "bound", "stacks")
        return [
            {
                **row,
                **{name: str(self.words[name][place]) for name in more},
                "stacks": int(self.stacks[place]),
                "spread": float(self.spread[place]),
                "why": self._why(int(place)),
            }
            for row, place in zip(self.rows(places), places, strict=True)
        ]

    def _why(self, place: int) -> str:
        """What is known of a shape that comes out badly: how well it was measured, then what is special of it."""
        words = {name: str(column[place]) for name, column in self.words.items()}
        if self.stacks[place] > 1.0 and self.spread[place] > DISAGREE:
            return f"stacks differ {self.spread[place]:.1f} times"
        heads = [float(words.get(name) or 0.0) for name in ("heads", "kv_heads")]
        if words["phase"] == "decode" and heads[0] > LARGE_GROUP * max(heads[1], 1.0):
            return f"a group of {heads[0] / heads[1]:.0f} heads, served together or one by one"
        alone = "; one stack measured it" if self.stacks[place] == 1.0 else ""
        return f"{words['regime']}-bound by its sizes, {words['bound']}-bound in the model{alone}"

    def rows(self, places: NDArray[np.intp]) -> list[Found]:
        """Rows as every kind of validation gives them."""
        start = np.cumsum([0, *(len(each.predicted) for each in self.answered)])
        part = np.searchsorted(start, places, side="right") - 1
        numbers = (column[places].tolist() for column in (self.measured, self.predicted, self.errors))
        return [
            {
                "id": _id(self.answered[which].target.name, self.answered[which].shapes, place - int(start[which])),
                "measured": measured,
                "predicted": predicted,
                "error": error,
            }
            for which, place, measured, predicted, error in zip(part.tolist(), places.tolist(), *numbers, strict=True)
        ]


def _by_fit(table: _Frame) -> dict[str, dict[str, Found]]:
    """Figures of all fitted and of all never fitted chips, by kind and formats."""
    found: dict[str, dict[str, Found]] = {fit: {} for fit in FITS}
    for (formats, fit), rows in table.groups(["formats", "fit"]).items():
        chips = sorted(set(table.words["accelerator"][rows].tolist()))
        found[fit][formats] = {"accelerators": chips, **table.figures(rows)}
    return found


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)


def _id(accelerator: str, shapes: Shapes, place: int) -> str:
    """Name of a shape, as in the files of cases."""
    size = {name: f"{values[place]:.0f}" for name, values in shapes.dims.items()}
    if shapes.kind == "matmul":
        return f"mm-{accelerator}-{shapes.dtype}-{size['m']}x{size['n']}x{size['k']}"
    of = "b{batch}-q{query_len}-c{context_len}-h{heads}-{kv_heads}-d{head_dim}-w{window}".format(**size)
    return f"at-{accelerator}-{shapes.kind}-{of}-{shapes.dtype}-{shapes.kv_dtype}"


def columns(answered: Sequence[Answered]) -> dict[str, NDArray[Any]]:
    """Every column of the rows that figures can be grouped by, blank where a kind has none."""
    dims = dict.fromkeys(name for each in answered for name in each.shapes.dims)
    out: dict[str, list[Any]] = {}
    for each in answered:
        shapes, rows = each.shapes, len(each.predicted)
        is_matmul = shapes.kind == "matmul"
        words = {
            "accelerator": each.target.name,
            "fit": each.target.fit,
            "kind": "matmul" if is_matmul else "attention",
            "phase": "" if is_matmul else shapes.kind,
            "dtype": shapes.dtype,
            "kv_dtype": shapes.kv_dtype,
            "formats": each.formats,
        }
        values: dict[str, Iterable[str]] = {name: [word] * rows for name, word in words.items()}
        values["regime"] = each.regime.tolist()
        values["bound"] = each.bound.tolist()
        for name, numbers in {**dict.fromkeys(dims), **shapes.dims, "stacks": shapes.stacks}.items():
            values[name] = [""] * rows if numbers is None else [f"{number:.0f}" for number in numbers.tolist()]
        for name, column in values.items():
            out.setdefault(name, []).extend(column)
    return {name: np.array(column) for name, column in out.items()}
