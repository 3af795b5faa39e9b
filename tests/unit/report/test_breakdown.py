"""The stacked breakdown: bars are the times of the winners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cosim.engines.analytic import BREAKDOWN
from cosim.explore.store import read_run
from cosim.report.breakdown import breakdown_figure, training_figure
from cosim.report.style import labelled

Entry = dict[str, Any]
Make = Callable[..., Entry]
SYSTEMS: dict[str, Entry] = {name: {"confidence": "measured"} for name in "abcdef"}


def lengths(panel: Axes) -> dict[str, list[float]]:
    """Width of every bar by part, from the top system down."""
    return {str(bars.get_label()): [bar.get_width() for bar in bars] for bars in panel.containers}


def test_a_panel_a_goal_shows_every_winner_whole(content: dict[str, Any]) -> None:
    panels = breakdown_figure(content).axes
    assert len(panels) == len(content["findings"])
    for panel, finding in zip(panels, content["findings"], strict=True):
        assert panel.get_title() == f"{finding['goal']} (bf16)"
        rows = [entry["row"] for entry in finding["entries"]]
        assert [label.get_text() for label in panel.get_yticklabels()] == [e["system"] for e in finding["entries"]]
        parts = lengths(panel)
        for place, row in enumerate(rows):
            total = sum(widths[place] for widths in parts.values())
            assert total == pytest.approx(row["time_s"] * 1e3, rel=1e-9)


def test_bars_lie_end_to_end_in_the_order_of_the_parts(content: dict[str, Any]) -> None:
    for panel in breakdown_figure(content).axes:
        shown = list(lengths(panel))
        assert shown == [part for part in BREAKDOWN if part in shown]
        ends = [0.0] * len(panel.containers[0])
        for bars in panel.containers:
            assert [bar.get_x() for bar in bars] == pytest.approx(ends, abs=1e-9)
            ends = [bar.get_x() + bar.get_width() for bar in bars]


def test_a_part_that_takes_no_time_anywhere_is_left_out_of_bars_and_legend(entry: Make, finding: Make) -> None:
    one, other = entry("a"), entry("b")
    for each in (one, other):
        each["row"]["breakdown_s.throttle"] = 0.0
    figure = breakdown_figure({"systems": SYSTEMS, "findings": [finding(one, other)]})
    shown = [part for part in BREAKDOWN if part != "throttle"]
    assert list(lengths(figure.axes[0])) == shown
    assert [text.get_text() for text in figure.legends[0].get_texts()] == shown


def test_a_part_of_one_panel_is_in_the_legend_once(entry: Make, finding: Make) -> None:
    one, other = entry("a"), entry("a")
    one["row"]["breakdown_s.collective"] = 0.0
    figure = breakdown_figure(
        {"systems": SYSTEMS, "findings": [finding(one), finding(other, goal="llama prefill, TTFT <= 2 s")]}
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(BREAKDOWN)
    assert "collective" not in lengths(figure.axes[0])


def test_panels_lie_row_by_row_in_the_order_of_the_findings(entry: Make, finding: Make) -> None:
    tiers = ("decode, TPOT <= 15 ms", "decode, TPOT <= 50 ms", "prefill, TTFT <= 2 s")
    goals = [f"{workload} {tier}" for workload in ("llama", "mixtral", "qwen") for tier in tiers][:-1]
    run = {"systems": SYSTEMS, "findings": [finding(entry("a"), goal=goal) for goal in goals]}
    figure = breakdown_figure(run)
    assert [panel.get_title() for panel in figure.axes] == [f"{goal} (fp8)" for goal in goals]
    # A row a workload; the last row has a place left.
    assert places(figure) == [(index // 3, index % 3) for index in range(8)]
    run["findings"] = run["findings"][:2]
    assert places(breakdown_figure(run)) == [(0, 0), (0, 1)]


def places(figure: Figure) -> list[tuple[int, int]]:
    """Row and column of every panel."""
    found = [panel.get_subplotspec() for panel in figure.axes]
    return [(spec.rowspan.start, spec.colspan.start) for spec in found if spec is not None]


def test_a_system_that_cannot_serve_has_no_bar_and_only_the_first_precision_is_drawn(
    entry: Make, finding: Make
) -> None:
    first = finding(entry("a"), entry("b", able=False), precision="bf16")
    second = finding(entry("b"), entry("a"), precision="fp8")
    figure = breakdown_figure({"systems": SYSTEMS, "findings": [first, second]})
    assert len(figure.axes) == 1
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a"]


def test_a_study_without_any_winner_is_drawn_empty(entry: Make, finding: Make) -> None:
    (panel,) = breakdown_figure({"systems": SYSTEMS, "findings": [finding(entry("a", able=False))]}).axes
    assert panel.containers == []


# Training.


def test_a_panel_a_training_run_with_equal_chips_shows_every_winner_whole_in_seconds(training_run: Path) -> None:
    content = read_run(training_run)
    (panel,) = training_figure(content).axes
    finding = content["training"][0]
    assert finding["per"] == "chip"
    assert panel.get_title().split() == f"{finding['goal']} (bf16)".split()
    assert panel.get_xlabel() == "time of a step, s"
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        labelled(e["system"], e) for e in finding["entries"]
    ]
    parts = lengths(panel)
    assert "optimizer" in parts
    for place, entry in enumerate(finding["entries"]):
        total = sum(widths[place] for widths in parts.values())
        assert total == pytest.approx(entry["row"]["time_s"], rel=1e-9)


def test_equal_power_is_not_drawn_and_runs_lie_side_by_side(trained: Make, training: Make) -> None:
    runs = [training(trained("a"), trained("b", able=False), goal=f"training {model}, 8 chips each") for model in "xy"]
    power = training(trained("b"), trained("a"), goal="training x, facility power", per="kW")
    panels = training_figure({"systems": SYSTEMS, "training": [runs[0], power, runs[1]]}).axes
    assert [panel.get_title() for panel in panels] == [f"training {model}, 8 chips each (bf16)" for model in "xy"]
    for panel in panels:
        assert [label.get_text() for label in panel.get_yticklabels()] == ["a"]
        assert list(lengths(panel)) == list(BREAKDOWN)


def test_a_long_title_of_a_panel_is_wrapped_between_words(trained: Make, training: Make) -> None:
    goal = "training " + "llama-3.1-8b, mixtral-8x7b " * 2 + "4,096 tokens, 2,048 chips each"
    (panel,) = training_figure({"systems": SYSTEMS, "training": [training(trained("a"), goal=goal)]}).axes
    lines = panel.get_title().split("\n")
    assert len(lines) > 1
    assert all(len(line) <= 44 for line in lines)
    assert " ".join(lines) == f"{goal} (bf16)"


def test_training_that_nobody_can_do_is_drawn_empty(trained: Make, training: Make) -> None:
    (panel,) = training_figure({"systems": SYSTEMS, "training": [training(trained("a", able=False))]}).axes
    assert panel.containers == []
