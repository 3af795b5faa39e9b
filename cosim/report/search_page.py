"""The page of a search: the best strategy by each objective, why its neighbours are worse, the front, what fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosim.report.page import inline
from cosim.report.search_figures import fits_figure, front_figure, strategy_text, top_figure
from cosim.report.style import save
from cosim.report.sweep_figures import number_text
from cosim.report.tables import training_plan_text
from cosim.units import format_si

FIGURES = {
    "front": "Strategies that no other beats in all objectives; star: the best by each.",
    "top": "Where the time of a step goes for the ten best strategies of the first objective, best on top.",
    "fits": "Best by the first objective for every tensor and pipeline degree; how many of the legal strategies fit. "
    "Hatched: none.",
}
HEAD = ["", "nodes", "strategy", "format", "step", "MFU", "tokens/s/chip", "memory", "USD/M tokens", "J/token"]
NEIGHBOUR_HEAD = ["dimension", "step", "follows", "objective", "why"]


def make_search_report(folder: Path, run: dict[str, Any]) -> Path:
    """Figures (svg, png) and report.html of a finished search in `folder`; returns the page."""
    figures = folder / "figures"
    made = {"fits": fits_figure(run)}
    if len(run["goals"]) > 1 and run["front"]:
        made["front"] = front_figure(run)
    if run["objectives"][0]["top"]:
        made["top"] = top_figure(run)
    for name, figure in made.items():
        save(figure, figures, name)
    page = folder / "report.html"
    drawings = {name: inline(figures / f"{name}.svg") for name in FIGURES if name in made}
    page.write_text(render_search(run, drawings), encoding="utf-8")
    return page


def render_search(run: dict[str, Any], drawings: dict[str, str]) -> str:
    """The page as text; `drawings` are SVG elements by figure name."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "search.html.j2").read_text(encoding="utf-8"))
    return template.render(
        run=run,
        headline=headline(run),
        sentences=sentences(run),
        head=head(run),
        neighbour_head=NEIGHBOUR_HEAD,
        objectives=[_shown(run, found) for found in run["objectives"]],
        front=[_line(run, str(place), row) for place, row in enumerate(run["front"], start=1)],
        space=[(name, _levels_text(levels)) for name, levels in run["space"].items()],
        # Our own drawings, made a moment ago by matplotlib: the only text that is not escaped.
        figures=[(name, FIGURES[name], Markup(drawing)) for name, drawing in drawings.items()],  # noqa: S704
    )


def headline(run: dict[str, Any]) -> str:
    """Size of the space, what of it is legal, what of that fits, and what stops the rest."""
    stopped = ", ".join(f"{name} {count:,}" for name, count in run["limits"].items())
    text = (
        f"{run['size']:,} combinations, {run['points']:,} legal strategies, {run['feasible_points']:,} fit"
        f"{' and keep the constraints' if run['constraints'] else ''}"
    )
    return f"{text} (others: {stopped})" if stopped else text


def sentences(run: dict[str, Any]) -> list[str]:
    """The best by each objective and the neighbours that come nearest; where nothing fits, what would."""
    said = [sentence(found) for found in run["objectives"]]
    near = run["nearest"]
    if near is not None:
        said = [f"nothing fits; nearest: {near['plan']}", near["why"]]
        if near["fits"]:
            said.append(f"the nearest strategy that fits is {near['fits']}")
    if run["front_size"] > 1:
        said.append(f"{run['front_size']} strategies on the front; results: {run['kept']}")
    return said


def sentence(found: dict[str, Any]) -> str:
    """The best by one objective, with the neighbour that comes nearest."""
    best = found["best"]
    if best is None:
        return f"{found['objective']}: {found['why']}"
    text = (
        f"{found['objective']}: {number_text(best[found['column']])} with {training_plan_text(best)}"
        f"{', sequence parallel' if best['plan.sequence_parallel'] else ''}, {best['plan.dtype']} on {best['chips']:,} "
        f"chips: {format_si(best['time_s'], 's')} a step, MFU {best['mfu']:.1%}, "
        f"{format_si(best['memory_bytes.total'], 'B', 3)} a chip, bottleneck {best['bottleneck']}"
    )
    worse = [each for each in found["neighbours"] if each["change"]]
    stopped = [each for each in found["neighbours"] if each["limit"]]
    if worse:
        near = min(worse, key=lambda each: float(each["change"]))
        text += f"; nearest neighbour {near['dimension']} {near['before']} to {near['after']}: {near['why']}"
    if stopped:
        text += f"; {len(stopped)} of {len(found['neighbours'])} neighbours break a limit"
    return text


def head(run: dict[str, Any]) -> list[str]:
    """Columns of a table of strategies."""
    return [*HEAD, *(["days"] if _dated(run) else [])]


def _dated(run: dict[str, Any]) -> bool:
    return any("days" in row for row in run["front"])


def _shown(run: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    best = found["best"]
    return {
        "title": found["objective"],
        "why": found["why"],
        "lines": [_line(run, "best" if place == 0 else str(place + 1), row) for place, row in enumerate(found["top"])],
        "neighbours": [neighbour_line(each) for each in found["neighbours"]],
        "command": "" if best is None else best["command"],
    }


def _line(run: dict[str, Any], label: str, row: dict[str, Any]) -> list[str]:
    cost, energy = row["usd_per_token"], row["energy_per_token_j"]
    cells = [
        label,
        f"{row['nodes']:g}",
        strategy_text(row),
        row["plan.dtype"],
        format_si(row["time_s"], "s"),
        f"{row['mfu']:.1%}",
        number_text(row["tokens_per_s_per_chip"]),
        format_si(row["memory_bytes.total"], "B", 3),
        "unknown" if cost is None else f"{cost * 1e6:.3g}",
        f"{energy:.3g}",
    ]
    return [*cells, *([number_text(row["days"])] if _dated(run) else [])]


def neighbour_line(each: dict[str, Any]) -> list[str]:
    """A neighbour as a row of a table."""
    change = f"stopped by {each['limit']}" if each["limit"] else "unmet"
    if each["change"] is not None:
        change = "the same" if abs(each["change"]) < 1e-9 else f"{each['change']:.2%} worse"
    return [each["dimension"], f"{each['before']} to {each['after']}", each["also"], change, each["why"]]


def _levels_text(levels: list[Any]) -> str:
    return ", ".join(str(level) for level in levels) or "from the other degrees"
