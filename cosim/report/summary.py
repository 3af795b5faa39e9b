"""A run in a few sentences, whatever its kind: what the screen shows after `cosim run`."""

from __future__ import annotations

from typing import Any

from cosim.report.tables import bottom_line, verdict


def summary(run: dict[str, Any]) -> tuple[str, list[str]]:
    """The bottom line and one sentence a finding."""
    if run["kind"] == "sweep":
        from cosim.report.sweep_page import sentence

        line = f"{run['designs']:,} designs, {run['feasible_points']:,} of {run['points']:,} points feasible"
        return line, [sentence(run, case) for case in run["cases"]]
    if run["kind"] == "search":
        from cosim.report.search_page import headline, sentences

        return headline(run), sentences(run)
    if run["kind"] == "serve":
        from cosim.report import serve_page

        return serve_page.headline(run), serve_page.sentences(run)
    return bottom_line(run), verdict(run)
