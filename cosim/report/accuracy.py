"""Tables of the errors of `cosim validate`, for the screen and as a page in Markdown: text only, no physics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cosim.units import format_si

FIGURES = ("median_abs_error", "mean_abs_error", "p90_abs_error", "bias")
FIGURES_HEAD = ("rows", "median", "mean", "p90", "bias")
WORST = 10
UNKNOWN = "-"
ABOUT = "Errors are predicted over measured less one; of times, a negative bias is too fast."
POINTS = "Kernels of TPU, AMD, Trainium and ASIC chips stand on few measured points or on none."
FITTED = (
    "A fitted chip has constants that were measured on its own table of 16-bit products; a chip that was never fitted "
    "has none or carries those of another chip."
)
SPREAD = (
    "Spread: slowest over fastest serving stack, the median of shapes that several measured. Last columns: median "
    "error of launch-, memory- and compute-bound shapes, by the largest of launch, bytes at full bandwidth and FLOP "
    "at full peak."
)
WATTS = (
    "Average watts: dynamic energy over time, plus idle, not capped. At the measured time the error is that of the "
    "energy alone. The tables do not say how they measured; the numbers read as the average of the package over a loop "
    "of the kernel."
)
GENERATIONS = (
    "16-bit kernels. Constants of kernels and their quality were fitted anew on the other chips alone. A chip's own "
    "table is in its prediction only by what its file rests on: the energies of H100 and L40S are set from their best "
    "rates, and so is the DRAM rate of the H100."
)
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its title and what to know when reading it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def accuracy_page(found: Found) -> str:
    """The answer of `cosim validate` as a page in Markdown."""
    asked = f"{found['evaluated']:,} of {found.get('shapes', found['cases']):,}"
    return page_of(f"Accuracy: {found['kind']}", f"{asked} cases answered. {ABOUT} {POINTS}", sections(found))


def page_of(title: str, about: str, tables: Iterable[Section]) -> str:
    """Tables as a page in Markdown."""
    lines = [f"# {title}", "", about]
    for section in tables:
        lines += ["", f"## {section.title}", ""] + ([section.note, ""] if section.note else [])
        lines += [_line(section.head), _line(["---", *["---:"] * (len(section.head) - 1)]), *map(_line, section.rows)]
    return "\n".join(lines) + "\n"


def sections(found: Found) -> list[Section]:
    """Every table that has rows: figures by group, then what the kind adds, the worst rows, what was left out."""
    tables = silicon_sections(found) if found["kind"] == "silicon" else [_overall(found), _worst("Worst", _rank(found))]
    every = (*tables, generations(found.get("left_out", ())), _left_out(found))
    return [section for section in every if section.rows]


def silicon_sections(found: Found) -> list[Section]:
    """Figures by group, fitted and never fitted side by side, layers, watts, and the worst shapes of each side."""
    return [
        _groups(found),
        _side_by_side(found["fits"]),
        _layers(found["layers"]),
        _power(found["power"]),
        *(_worst(f"Worst shapes, {group}", rows) for group, rows in found["worst"].items()),
    ]


def generations(found: Sequence[Found]) -> Section:
    """One row a fitted chip: its errors where only chips of other generations were fitted."""
    rows = [[row["accelerator"], row.get("kind", ""), ", ".join(row["fitted_on"]), *figures(row)] for row in found]
    return Section("Leave one generation out", ["chip", "kernels", "fitted on", *FIGURES_HEAD], rows, GENERATIONS)


def figures(row: Found) -> list[str]:
    """Rows, median, mean, 90th percentile and bias."""
    return [f"{row['evaluated']:,}", *(percent(row[key]) for key in FIGURES)]


def percent(value: float | None) -> str:
    """A fraction as people read it."""
    return UNKNOWN if value is None else f"{value:.1%}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _overall(found: Found) -> Section:
    rows = [["all", *figures(found)], *([name, *figures(row)] for name, row in found["groups"].items())]
    return Section("Errors", ["group", *FIGURES_HEAD], rows)


def _groups(found: Found) -> Section:
    regimes = ("launch", "memory", "compute")
    rows = [
        [
            name,
            row.get("fit", "both"),
            *figures(row),
            UNKNOWN if row["spread"] is None else f"{row['spread']:.2f}",
            *(percent(row["regimes"][regime]["median_abs_error"]) for regime in regimes),
        ]
        for name, row in found["groups"].items()
    ]
    return Section("Errors by group", ["group", "chip is", *FIGURES_HEAD, "spread", *regimes], rows, SPREAD)


def _side_by_side(fits: Found) -> Section:
    """One row a kind, formats and regime; the figures of fitted chips beside those of the others."""
    formats = list(dict.fromkeys(name for side in fits.values() for name in side))
    rows = []
    for name in formats:
        known = [side.get(name) for side in fits.values()]
        rows.append([name, "all", *(cell for side in known for cell in _short(side))])
        for regime in ("launch", "memory", "compute"):
            each = [None if side is None else side["regimes"][regime] for side in known]
            rows.append([name, regime, *(cell for side in each for cell in _short(side))])
    head = [f"{fit}: {word}" for fit in fits for word in ("rows", "median", "p90", "bias")]
    chips = [sorted({chip for row in side.values() for chip in row["accelerators"]}) for side in fits.values()]
    named = [f"{fit.capitalize()}: {', '.join(each) or 'none'}." for fit, each in zip(fits, chips, strict=True)]
    note = " ".join([*named, FITTED])
    return Section("Fitted and never fitted", ["kernels", "bound by", *head], rows, note)


def _short(row: Found | None) -> list[str]:
    if row is None or not row["evaluated"]:
        return [UNKNOWN] * 4
    return [f"{row['evaluated']:,}", *(percent(row[key]) for key in ("median_abs_error", "p90_abs_error", "bias"))]


def _layers(layers: Sequence[Found]) -> Section:
    """One row a chip, format and layer: error of its products in both phases, weighted by time."""
    together: dict[tuple[str, ...], dict[str, Found]] = {}
    lacking: dict[str, dict[str, None]] = {}
    for row in layers:
        layer = row["workload"] + ("" if row["tensor_parallel"] == 1 else f", 1 of {row['tensor_parallel']} ranks")
        together.setdefault((row["accelerator"], row["fit"], row["dtype"], layer), {})[row["phase"]] = row
        lacking.setdefault(layer, {}).update(dict.fromkeys(row["lacks"]))
    rows = [
        [*key, *(cell for row in phases.values() for cell in (percent(row["error"]), _held(row)))]
        for key, phases in together.items()
    ]
    phases = [f"{row['phase']}, {row['rows']} rows" for row in next(iter(together.values()), {}).values()]
    note = "Sum of predicted over sum of measured, of the products of one layer that the table holds (held of all)."
    lists = [f"{layer}: {', '.join(names)}" for layer, names in lacking.items() if names]
    note += f" Some table lacks, of {'; of '.join(lists)}." if lists else ""
    head = ["chip", "is", "format", "layer", *(cell for phase in phases for cell in (phase, "held"))]
    return Section("Products of a layer, weighted by time", head, rows, note)


def _held(row: Found) -> str:
    return f"{row['products']} of {row['products'] + len(row['lacks'])}"


def _power(power: Sequence[Found]) -> Section:
    rows = [
        [
            f"{row['accelerator']} {row['phase']} {row['dtype']}/{row['kv_dtype']}",
            f"{row['evaluated']:,}",
            percent(row["median_abs_error"]),
            percent(row["bias"]),
            percent(row["at_measured_time"]["median_abs_error"]),
            percent(row["at_measured_time"]["bias"]),
            *(_range(row[name]) for name in ("measured_w", "modelled_w")),
            f"{row['idle_w']:.0f} / {row['limit_w']:.0f}",
        ]
        for row in power
    ]
    head = ["kernels", "rows", "median", "bias", "median at measured time", "bias at measured time"]
    head += ["measured W (least, median, most)", "modelled W (the same)", "idle / limit W"]
    return Section("Watts of attention kernels", head, rows, WATTS)


def _range(values: Found) -> str:
    return " ".join(f"{values[name]:.0f}" for name in ("least", "median", "most"))


def _rank(found: Found) -> list[Found]:
    """The rows farthest from their measurement: too fast by half counts as too slow by twice."""
    rows = [row for row in found["rows"] if row["predicted"] > 0.0 and row["measured"] > 0.0]
    return sorted(rows, key=lambda row: -abs(math.log(row["predicted"] / row["measured"])))[:WORST]


def _worst(title: str, rows: Sequence[Found]) -> Section:
    """Measured, predicted and error; for kernels also what bounds the prediction and the spread over stacks."""
    has_bound = any("bound" in row for row in rows)

    def shown(value: float) -> str:
        return format_si(value, "s") if has_bound else f"{value:.4g}"

    lines = [
        [row["id"], shown(row["measured"]), shown(row["predicted"]), percent(row["error"])]
        + ([row["bound"], _spread(row), row["why"]] if has_bound else [])
        for row in rows
    ]
    more = ["prediction bound by", "spread over stacks", "why"] if has_bound else []
    return Section(title, ["case", "measured", "predicted", "error", *more], lines)


def _spread(row: Found) -> str:
    return "one stack" if row["stacks"] == 1 else f"{row['spread']:.2f} of {row['stacks']}"


def _left_out(found: Found) -> Section:
    return Section("Left out", ["reason", "rows"], left_out_rows(found["skipped"]))


def left_out_rows(skipped: Iterable[Found]) -> list[list[str]]:
    """Reasons with the rows that they left out, most first."""
    count: Counter[str] = Counter()
    for skip in skipped:
        count[skip["reason"]] += skip.get("rows", 1)
    return [[reason, f"{rows:,}"] for reason, rows in count.most_common()]
