"""Tables of the suite `inference-accuracy`, for the screen and as a page in Markdown: text only, no physics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cosim.report.accuracy import UNKNOWN, Found, Section, figures, left_out_rows, page_of, percent

TITLE = "Accuracy: inference"
ABOUT = (
    "Errors are predicted over measured less one, of what a row measured. The bias is of times, with rates turned "
    "into them: a negative one, the median, is too fast. Macro is the mean over groups of source, chip and workload "
    "of their medians, so that no table counts more for being long. Coverage is rows answered of rows asked."
)
HEAD = ("rows", "of", "median", "mean", "p90", "bias", "macro")
FIGURES = {
    "median_abs_error": "median",
    "mean_abs_error": "mean",
    "p90_abs_error": "p90",
    "macro_median_abs_error": "macro median",
    "coverage": "coverage",
}
ASKED = (
    "Figures that the project has set itself. Unless a set says otherwise, models with draft heads whose rows do not "
    "say that nothing was drafted, and disaggregated runs, are not in it. Loaded: by the prediction a request waits "
    "behind others for more than a third of its time to the first token. Starved: memory holds fewer sequences than "
    "the stack may."
)
OVERALL = (
    "The last two lines are apart: they are in none of the tables by quantity, stack, source and chip, and were never "
    "fitted."
)
DOUBTS = (
    "Rows that cannot be what they say. They stay in every figure of this page; without them all rows together have a "
    "median of {median}, a mean of {mean} and a macro of {macro}."
)
SETS = "Every named set, those that nothing is asked of too."
FITS = (
    "Constants: those of the stack's file that were fitted on its measured runs. Runs whose name has an even MD5 may "
    "be fitted on, the others are held out; of a stack without constants every row is. The grid of values was settled "
    "with both halves in view, so that the held-out half is no proof against a wrong form of the model. Networks and "
    "percentiles of MLPerf are in no fit."
)
LEFT_OUT = (
    "Each chip that has constants fitted on it, or lent by one that has, from its specification alone: generic kernels "
    "with the quality of a new chip, the draw on real data of the other generation, collectives of a library that is "
    "fitted to nothing. Constants of stacks stay. Chips without fitted constants stand as they are."
)
FARTHEST = "Groups whose median is farthest off by its logarithm."


def inference_page(found: Found) -> str:
    """The answer of the suite as a page in Markdown."""
    asked = f"{found['evaluated']:,} of {found['cases']:,} measured rows answered."
    missing = f" Not at hand: {', '.join(found['missing'])}." if found["missing"] else ""
    return page_of(TITLE, f"{asked}{missing} {ABOUT}", inference_sections(found))


def inference_sections(found: Found) -> list[Section]:
    """Every table that has rows."""
    every = (
        _asked(found["asked_for"]),
        _named("Errors", "rows", found["overall"], OVERALL),
        _named("Sets", "set", found["sets"], SETS),
        _named("By measured quantity", "quantity", found["quantities"]),
        _doubts(found),
        _stacks(found["stacks"]),
        _named("By source", "source", found["sources"]),
        _named("By chip", "chip", found["chips"]),
        _named("Apart: may draft", "stack, quantity", found["apart"]["may draft"], _heads(found["draft_heads"])),
        _named("Apart: disaggregated", "stack, quantity", found["apart"]["disaggregated"]),
        _left_out(found["left_out"]),
        _named("Farthest off", "source, chip, workload", {row["group"]: row for row in found["farthest"]}, FARTHEST),
        Section("Not answered", ["reason", "rows"], left_out_rows(found["skipped"])),
    )
    return [section for section in every if section.rows]


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Rows answered and asked, errors, macro."""
    rows, *errors = figures(dict(row))
    return [rows, f"{row['asked']:,}", *errors, percent(row["macro_median_abs_error"])]


def _named(title: str, column: str, rows: Mapping[str, Found], note: str = "") -> Section:
    lines = [[name, *_cells(row)] for name, row in rows.items() if row["asked"]]
    return Section(title, [column, *HEAD], lines, note)


def _asked(rows: Sequence[Found]) -> Section:
    """Asked and found side by side; a set without rows is neither met nor not met."""
    words = {None: UNKNOWN, True: "met", False: "not met"}
    lines = [
        [
            row["set"],
            FIGURES[row["figure"]],
            f"{row['rows']:,}",
            percent(row["asked"]),
            percent(row["found"]),
            words[row["met"]],
        ]
        for row in rows
    ]
    return Section("Asked and found", ["set", "figure", "rows", "asked", "found", "met"], lines, ASKED)


def _stacks(stacks: Mapping[str, Found]) -> Section:
    lines = [
        [
            name,
            *_cells(row),
            f"{len(row['constants'])}",
            *(cell for half in ("fitted", "held_out") for cell in _half(row[half])),
        ]
        for name, row in stacks.items()
    ]
    head = [
        "stack",
        *HEAD,
        "constants",
        "fitted rows",
        "their median",
        "macro",
        "held-out rows",
        "their median",
        "macro",
    ]
    return Section("By software stack", head, lines, FITS)


def _half(row: Found) -> list[str]:
    return [f"{row['evaluated']:,}", percent(row["median_abs_error"]), percent(row["macro_median_abs_error"])]


def _heads(heads: Sequence[Found]) -> str:
    """Why rows are told apart, model by model."""
    told = "; ".join(f"{', '.join(row['workloads'])}: {row['reason']}" for row in heads)
    return f"Models with draft heads whose rows do not say that nothing was drafted. {told}."


def _doubts(found: Found) -> Section:
    """Rows that are doubted, rule by rule, and what the figures are without them."""
    lines = [[row["name"], row["reason"], *_cells(row)[:3]] for row in found["doubts"] if row["asked"]]
    names = {"median": "median_abs_error", "mean": "mean_abs_error", "macro": "macro_median_abs_error"}
    note = DOUBTS.format(**{name: percent(found["undoubted"][key]) for name, key in names.items()})
    return Section("Doubted", ["rows", "why", *HEAD[:3]], lines, note)


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
