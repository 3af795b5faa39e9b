"""The page of a sweep: what to build, what stopped the rest, what area buys, and the commands behind every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosim.explore.sweep_findings import read_results
from cosim.report.page import inline
from cosim.report.style import labelled, save
from cosim.report.sweep_figures import (
    case_title,
    fronts_figure,
    heat_map_figure,
    level_text,
    next_area_figure,
    number_text,
    path_text,
)
from cosim.report.tables import plan_text, training_plan_text

FIGURES = {
    "heat_map": "The best over all other axes. Hatched: no design, by the limit that stops those that came furthest.",
    "fronts": "Every feasible design, and those that no other beats in both; star: the system as its file has it.",
    "next_area": "What the next mm2 buys: along the concave front over die area, gain per mm2 and what was changed.",
}
MOST_LISTED = 40
DESIGN_HEAD = ["area", "TDP", "per chip", "per mm2", "per user", "tokens/J", "batch", "plan", "bottleneck"]


def make_sweep_report(folder: Path, run: dict[str, Any]) -> Path:
    """Figures (svg, png) and report.html of a finished sweep in `folder`; returns the page."""
    table, figures = read_results(folder), folder / "figures"
    if run["heat_map"]:
        save(heat_map_figure(run, table), figures, "heat_map")
    save(fronts_figure(run, table), figures, "fronts")
    save(next_area_figure(run, table), figures, "next_area")
    page = folder / "report.html"
    drawings = {name: inline(figures / f"{name}.svg") for name in FIGURES if name != "heat_map" or run["heat_map"]}
    page.write_text(render_sweep(run, drawings), encoding="utf-8")
    return page


def render_sweep(run: dict[str, Any], drawings: dict[str, str]) -> str:
    """The page as text; `drawings` are SVG elements by figure name."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "sweep.html.j2").read_text(encoding="utf-8"))
    return template.render(
        run=run,
        sentences=[sentence(run, case) for case in run["cases"]],
        cases=[_shown(run, case) for case in run["cases"]],
        axes=[_axis(run, axis) for axis in run["axes"]],
        # Our own drawings, made a moment ago by matplotlib: the only text that is not escaped.
        figures=[(name, FIGURES[name], Markup(drawing)) for name, drawing in drawings.items()],  # noqa: S704
    )


def sentence(run: dict[str, Any], case: dict[str, Any]) -> str:
    """The best design of a case in one sentence, against the system as it is, and what stopped most."""
    head = f"{case_title(case, run)}: "
    stopped = ", ".join(f"{name} {count:,}" for name, count in case["limits"].items())
    if case["best"] is None:
        return f"{head}no design of {case['designs']:,} is feasible ({stopped})."
    best, base, name = case["best"], case["base"], run["maximise"]
    text = f"{head}best of {case['feasible']:,} feasible designs has {name} {number_text(best[name])}"
    if base is not None and base[name] is not None:
        text += f", {best[name] / base[name]:.2f} times {labelled(case['system'], case)} as it is"
    if best["area_mm2"] is not None:
        text += f", on {best['area_mm2']:,.0f} mm2 with {best['tdp_w']:,.0f} W"
    text += f": {design_text(run, best)}" if run["axes"] else ""
    return f"{text}. Infeasible: {stopped or 'none'}."


def design_text(run: dict[str, Any], row: dict[str, Any]) -> str:
    """The axes of a design: matrix.rows 128, dram.stacks 6."""
    paths = [axis["shown"] for axis in run["axes"]]
    return ", ".join(f"{path_text(path)} {level_text(row[path], run['units'].get(path, ''))}" for path in paths)


def _shown(run: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    paths = [axis["shown"] for axis in run["axes"]]
    rows = [("best", case["best"]), *((f"front {n}", row) for n, row in enumerate(case["front"], start=1))]
    rows = [(label, row) for label, row in rows if row is not None]
    base = [(f"{labelled(case['system'], case)} as is", case["base"])] if case["base"] is not None else []
    return {
        "title": case_title(case, run),
        "head": ["design", *(path_text(path) for path in paths), *DESIGN_HEAD],
        "lines": [_line(run, paths, label, row) for label, row in rows + base],
        "steps": [_step(run, step) for step in case["steps"]],
        "commands": [row["command"] for _, row in rows],
    }


def _line(run: dict[str, Any], paths: list[str], label: str, row: dict[str, Any]) -> list[str]:
    axes = [level_text(row[path], run["units"].get(path, "")) if path in row else "" for path in paths]
    if not row["feasible"]:
        return [label, *axes, f"cannot: {row['limit']}", *[""] * (len(DESIGN_HEAD) - 1)]
    trains = row["phase"] == "train"
    return [
        label,
        *axes,
        number_text(row["area_mm2"]),
        number_text(row["tdp_w"]),
        number_text(row["tokens_per_s_per_chip"]),
        number_text(row["tokens_per_s_per_mm2"]),
        number_text(row["tokens_per_s_per_user"]),
        number_text(row["tokens_per_j_chip"]),
        str(row["scenario.global_batch" if trains else "scenario.batch"]),
        training_plan_text(row) if trains else plan_text(row),
        row["bottleneck"],
    ]


def _step(run: dict[str, Any], step: dict[str, Any]) -> list[str]:
    unit = run["units"].get(step["path"], "")
    area = step["area_mm2"]
    gain = "" if step["change"] is None else f"{step['change']:+.1%}"
    per = ""
    if step["change"] is not None and area:
        per = f"{100.0 * step['change'] / area:+.3f} % per mm2"
    return [
        path_text(step["path"]),
        f"{level_text(step['from'], unit)} to {level_text(step['to'], unit)}",
        "unknown" if area is None else f"{area:+,.1f} mm2",
        gain or f"stopped by {step['limit']}",
        per,
    ]


def _axis(run: dict[str, Any], axis: dict[str, Any]) -> tuple[str, str]:
    unit, levels = run["units"].get(axis["shown"], ""), axis["levels"]
    shown = [level_text(level, unit) for level in (levels if len(levels) <= MOST_LISTED else [*levels[:3], levels[-1]])]
    text = (
        ", ".join(shown) if len(levels) <= MOST_LISTED else f"{', '.join(shown[:3])} ... {shown[3]} ({len(levels):,})"
    )
    return ", ".join(axis["paths"]), text
