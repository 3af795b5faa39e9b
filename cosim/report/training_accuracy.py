"""Tables of the suite `training-accuracy`, for the screen and as a page in Markdown: text only, no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cosim.report.accuracy import UNKNOWN, Found, Section, figures, left_out_rows, page_of, percent

TITLE = "Accuracy: training steps"
ABOUT = (
    "Errors are of the time of a step, predicted over measured less one, whatever was measured (rates are turned into "
    "times): a negative bias, the median error, is too fast. Macro is the mean over pairs of source and chip of their "
    "medians, so that no table counts more for being long. Coverage is rows answered of rows asked."
)
HEAD = ("rows", "of", "median", "mean", "p90", "bias", "macro")
FITS = (
    "Constants: those that were fitted on rows of the stack, of its own file or of a chip's. Half of the groups of "
    "rows may be fitted on (of the table of small models the odd rows); the other half is held out. Of a stack without "
    "constants every row is held out."
)
KINDS = (
    "A row may be of several kinds. Degrees not said: the stack's layout, or the fastest plan that fits. Recompute "
    "that a row does not state is the stack's usual."
)
SETS = "Sets that others publish figures of."
FLAGS = "Rows that their own sources or notes call wrong; the second line of the first table leaves them out."
CHOICE = (
    "Layouts of one run (workload, chips, batch, length and format alike). Regret: measured time of the layout that "
    "is predicted best over the best measured one, less one. Tau: Kendall's rank correlation over pairs that are more "
    "than 5 % apart. Flagged rows are left out."
)
LEFT_OUT = (
    "Each chip that has constants fitted on it, or lent by one that has, from its specification alone: generic kernels "
    "with the quality of a new chip, the draw on real data of the other generation, collectives of a library that is "
    "fitted to nothing. Constants of stacks stay. Chips without fitted constants stand as they are."
)


def training_page(found: Found) -> str:
    """The answer of the suite as a page in Markdown."""
    asked = f"{found['evaluated']:,} of {found['cases']:,} measured steps answered."
    missing = f" Not at hand: {', '.join(found['missing'])}." if found["missing"] else ""
    return page_of(TITLE, f"{asked}{missing} {ABOUT}", training_sections(found))


def training_sections(found: Found) -> list[Section]:
    """Every table that has rows."""
    every = (
        _overall(found),
        _sets(found["sets"]),
        _flags(found["flags"]),
        _named("By chip", "chip", found["chips"]),
        _named("By source", "source", found["sources"]),
        _stacks(found["stacks"]),
        _named("By kind of strategy", "strategy", found["strategy"], KINDS),
        _named("By recompute", "recompute", found["recompute"]),
        _named("By format", "precision", found["precision"]),
        _choice(found["sweeps"]),
        _left_out(found["left_out"]),
        _sweeps(found["sweeps"]),
        Section("Not answered", ["reason", "rows"], left_out_rows(found["skipped"])),
    )
    return [section for section in every if section.rows]


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Rows answered and asked, errors, macro."""
    rows, *errors = figures(dict(row))
    return [rows, f"{row['asked']:,}", *errors, percent(row["macro_median_abs_error"])]


def _named(title: str, column: str, rows: Mapping[str, Found], note: str = "") -> Section:
    return Section(title, [column, *HEAD], [[name, *_cells(row)] for name, row in rows.items()], note)


def _overall(found: Found) -> Section:
    flagged = sum(row["asked"] for row in found["flags"])
    rows = {
        "all": {**found, "asked": found["cases"]},
        f"without {flagged} flagged": found["sound"],
        "of these, no constant fitted on the row": found["held_out"],
    }
    return _named("Errors", "rows", rows)


def _sets(rows: Mapping[str, Found]) -> Section:
    lines = [
        [name, *_cells(row)[:2], *(percent(row[key]) for key in ("mean_abs_error", "max_abs_error", "bias"))]
        for name, row in rows.items()
    ]
    return Section("Published sets", ["set", "rows", "of", "mean", "most", "bias"], lines, SETS)


def _flags(flags: Sequence[Found]) -> Section:
    lines = [[row["name"], row["reason"], *_cells(row)[:2], *_cells(row)[2:4], percent(row["bias"])] for row in flags]
    return Section("Flagged rows", ["rule", "reason", "rows", "of", "median", "mean", "bias"], lines, FLAGS)


def _stacks(stacks: Mapping[str, Found]) -> Section:
    lines = [
        [
            name,
            *_cells(row)[:-1],
            f"{len(row['constants'])}",
            *(cell for half in ("fitted", "held_out") for cell in _half(row[half])),
        ]
        for name, row in stacks.items()
    ]
    head = ["stack", *HEAD[:-1], "constants", "fitted rows", "their median", "held-out rows", "their median"]
    return Section("By software stack", head, lines, FITS)


def _half(row: Found) -> list[str]:
    return [f"{row['evaluated']:,}", percent(row["median_abs_error"])]


def _choice(sweeps: Sequence[Found]) -> Section:
    """One line a source: the median over its sweeps."""
    lines = []
    for source in dict.fromkeys(row["source"] for row in sweeps):
        own = [row for row in sweeps if row["source"] == source]
        regrets = [row["regret"] for row in own]
        ranks = [row["tau"] for row in own if row["tau"] is not None]
        lines.append(
            [
                source,
                f"{len(own)}",
                f"{sum(row['layouts'] for row in own):,}",
                percent(float(np.median(regrets))),
                percent(float(np.mean(regrets))),
                percent(max(regrets)),
                f"{sum(regret == 0.0 for regret in regrets)}",
                f"{np.median(ranks):.2f}" if ranks else UNKNOWN,
            ]
        )
    head = ["source", "sweeps", "layouts", "regret, median", "mean", "most", "best one chosen", "tau, median"]
    return Section("Choice of the layout", head, lines, CHOICE)


def _sweeps(sweeps: Sequence[Found]) -> Section:
    lines = [
        [
            row["source"],
            row["run"],
            f"{row['layouts']}",
            percent(row["spread"]),
            percent(row["regret"]),
            UNKNOWN if row["tau"] is None else f"{row['tau']:.2f}",
        ]
        for row in sweeps
    ]
    note = "Spread: the slowest layout over the fastest, less one. No tau: no two layouts are 5 % apart."
    return Section("Each sweep", ["source", "run", "layouts", "spread", "regret", "tau"], lines, note)


def _left_out(rows: Sequence[Found]) -> Section:
    lines = [
        [
            row["accelerator"],
            ", ".join(row["replaced"]) or "nothing was fitted",
            f"{row['evaluated']:,}",
            *(percent(row["as_it_stands"][key]) for key in ("median_abs_error", "bias")),
            *(percent(row[key]) for key in ("median_abs_error", "mean_abs_error", "p90_abs_error", "bias")),
        ]
        for row in rows
    ]
    head = ["chip", "replaced", "rows", "as it stands: median", "bias"]
    head += ["left out: median", "mean", "p90", "bias"]
    return Section("Chips left out one at a time", head, lines, LEFT_OUT)
