"""The page of a design review: one HTML file, everything inside it, nothing fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosim.errors import SpecError
from cosim.explore.store import read_run
from cosim.report import tables
from cosim.report.breakdown import breakdown_figure, training_figure
from cosim.report.frontier import frontier_figure, read_points
from cosim.report.roofline import roofline_figure
from cosim.report.style import save

SERVING_FIGURES = {
    "frontier": "Tokens/s per chip against tokens/s per user over batch, best plans, own kernel quality.",
    "breakdown": "Where the time of a step goes for each system's best plan.",
    "roofline": "Operators on the roofline, first precision of the study; roofs at published peaks.",
}
TRAINING_FIGURES = {
    "training": "Where the time of an optimizer step goes for each system's best plan, equal chips.",
}


def report_run(folder: Path) -> Path:
    """Figures and page of the run in `folder`, from what it stored. Raises SpecError for no run folder."""
    try:
        run = read_run(folder)
        if run["kind"] == "sweep":
            from cosim.report.sweep_page import make_sweep_report

            return make_sweep_report(folder, run)
        if run["kind"] == "search":
            from cosim.report.search_page import make_search_report

            return make_search_report(folder, run)
        if run["kind"] == "serve":
            from cosim.report.serve_page import make_serve_report

            return make_serve_report(folder, run)
        return make_report(folder, run)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecError(f"cannot be read or written: {reason}", file=error.filename or folder) from None


def make_report(folder: Path, run: dict[str, Any]) -> Path:
    """Figures (svg, png) and report.html of a finished run in `folder`; returns the page."""
    figures = folder / "figures"
    if run["findings"]:
        save(frontier_figure(run, read_points(folder)), figures, "frontier")
        save(breakdown_figure(run), figures, "breakdown")
        save(roofline_figure(run), figures, "roofline")
    if run["training"]:
        save(training_figure(run), figures, "training")
    page = folder / "report.html"
    page.write_text(render(run, {name: inline(figures / f"{name}.svg") for name in captions(run)}), encoding="utf-8")
    return page


def captions(run: dict[str, Any]) -> dict[str, str]:
    """The figures that the parts of a run have, with their captions."""
    serving = SERVING_FIGURES if run["findings"] else {}
    return serving | (TRAINING_FIGURES if run["training"] else {})


def render(run: dict[str, Any], drawings: dict[str, str]) -> str:
    """The page as text; `drawings` are SVG elements by figure name."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))
    groups = [
        {
            "title": f"{finding['goal']}, {finding['precision']}",
            "ranking": tables.ranking(finding),
            "costs": tables.costs(finding),
            "commands": tables.commands(finding),
        }
        for finding in run["findings"]
    ]
    return template.render(
        run=run,
        bottom_line=tables.bottom_line(run),
        verdict=tables.verdict(run),
        groups=groups,
        wholes=[(f"{g['goal']}, {g['precision']}", tables.whole(g)) for g in run["whole_requests"]],
        whole_head=tables.WHOLE_HEAD,
        training=[
            {
                "title": finding["goal"],
                "head": tables.TRAINING_HEAD[finding["per"]],
                "lines": tables.training(finding),
                "commands": tables.commands(finding),
            }
            for finding in run["training"]
        ],
        ranking_head=tables.RANKING_HEAD,
        cost_head=tables.COST_HEAD,
        # Our own drawings, made a moment ago by matplotlib: the only text that is not escaped.
        figures=[(name, caption, Markup(drawings[name])) for name, caption in captions(run).items()],  # noqa: S704
    )


def inline(path: Path) -> str:
    """An SVG file as an element: without the XML head and the reference to the SVG document type."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
