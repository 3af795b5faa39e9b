"""The front of serving: what is on it, and that the figure shows the points of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cosim.report.frontier import frontier_figure, pareto, read_points
from cosim.report.style import colour_of

SPEEDS = st.floats(0.1, 100.0) | st.sampled_from([1.0, 2.0, 3.0])
POINTS = st.lists(st.tuples(SPEEDS, SPEEDS), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def points(small_run: Path) -> dict[str, np.ndarray]:
    return read_points(small_run)


@pytest.fixture(scope="module")
def figure(content: dict[str, Any], points: dict[str, np.ndarray]) -> Figure:
    return frontier_figure(content, points)


@settings(max_examples=60, deadline=None)
@given(pairs=POINTS)
def test_no_point_of_the_front_is_beaten_and_every_other_point_is_met(pairs: list[tuple[float, float]]) -> None:
    user, chip = np.array(pairs).T
    front = pareto(user, chip)
    for index in range(len(pairs)):
        as_good = (user >= user[index]) & (chip >= chip[index])
        beaten = bool(np.any(as_good & ((user > user[index]) | (chip > chip[index]))))
        assert not (beaten and index in front)
        assert any(as_good[kept] for kept in front)


@settings(max_examples=60, deadline=None)
@given(pairs=POINTS)
def test_the_front_runs_from_the_fastest_user_to_the_fullest_chip_without_doubles(
    pairs: list[tuple[float, float]],
) -> None:
    user, chip = np.array(pairs).T
    front = pareto(user, chip)
    assert user[front[0]] == user.max()
    assert chip[front[-1]] == chip.max()
    assert np.all(np.diff(user[front]) < 0.0)
    assert np.all(np.diff(chip[front]) > 0.0)


def test_of_equal_points_the_first_is_kept() -> None:
    assert pareto(np.array([1.0, 2.0, 2.0]), np.array([5.0, 3.0, 3.0])).tolist() == [1, 0]


def test_the_points_are_those_of_the_run(points: dict[str, np.ndarray], content: dict[str, Any]) -> None:
    assert {len(values) for values in points.values()} == {content["points"]}
    assert set(points["system"]) == set(content["systems"])
    assert set(points["precision"]) == {"bf16"}


def test_every_system_has_its_front_in_its_colour(figure: Figure, content: dict[str, Any]) -> None:
    (panel,) = figure.axes
    colours = colour_of(list(content["systems"]))
    drawn = {line.get_label(): line.get_color() for line in panel.lines if not str(line.get_label()).startswith("_")}
    assert drawn == colours
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(colours)


def test_what_is_drawn_are_feasible_decode_points_at_own_kernels(figure: Figure, points: dict[str, np.ndarray]) -> None:
    (panel,) = figure.axes
    for system in ("dgx-h100", "mi300x-8gpu"):
        line = next(line for line in panel.lines if line.get_label() == system)
        rows = (points["system"] == system) & (points["phase"] == "decode") & (points["quality"] == "own")
        rows &= points["feasible"].astype(bool)
        user, chip = points["tokens_per_s_per_user"][rows], points["tokens_per_s_per_chip"][rows]
        drawn = set(zip(*line.get_data(), strict=True))
        assert drawn <= set(zip(user, chip, strict=True))
        assert max(u for u, _ in drawn) == user.max()
        assert max(c for _, c in drawn) == chip.max()


def test_a_limit_is_a_line_at_the_users_rate_and_says_its_time(figure: Figure) -> None:
    (panel,) = figure.axes
    upright = [line for line in panel.lines if len(set(line.get_xdata())) == 1 and line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in upright] == [pytest.approx(50.0)]  # 20 ms a token
    assert "20 ms" in [text.get_text() for text in panel.texts]


def test_each_precision_has_its_panel(content: dict[str, Any], points: dict[str, np.ndarray]) -> None:
    two = [*content["findings"], *({**f, "precision": "fp8"} for f in content["findings"])]
    panels = frontier_figure({**content, "findings": two}, points).axes
    assert [panel.get_title() for panel in panels] == ["llama-3.1-8b decode, bf16", "llama-3.1-8b decode, fp8"]
    assert not [line for line in panels[1].lines if line.get_linestyle() == "-"]  # no such points in this run


def test_each_workload_has_its_row_of_panels_with_its_own_points(
    content: dict[str, Any], points: dict[str, np.ndarray]
) -> None:
    # A second model that serves twice as much: the points of the first, doubled.
    more = {name: np.concatenate([values, values]) for name, values in points.items()}
    second = np.arange(2 * content["points"]) >= content["points"]
    more["workload"] = np.where(second, "other", more["workload"].astype(object))
    more["tokens_per_s_per_chip"] = np.where(second, 2.0, 1.0) * more["tokens_per_s_per_chip"]
    found = content["findings"]
    found = [*found, *({**f, "workload": "other"} for f in found)]
    found = [{**f, "precision": precision} for f in found for precision in ("bf16", "fp8")]
    figure = frontier_figure({**content, "findings": found}, more)
    titles = [f"{name} decode, {precision}" for name in ("llama-3.1-8b", "other") for precision in ("bf16", "fp8")]
    assert [panel.get_title() for panel in figure.axes] == titles
    specs = [panel.get_subplotspec() for panel in figure.axes]
    assert [(s.rowspan.start, s.colspan.start) for s in specs if s] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [bool(panel.get_ylabel()) for panel in figure.axes] == [True, False, True, False]
    assert [bool(panel.get_xlabel()) for panel in figure.axes] == [False, False, True, True]
    first, other = figure.axes[0], figure.axes[2]
    for system in content["systems"]:
        lines = [next(line for line in panel.lines if line.get_label() == system) for panel in (first, other)]
        assert np.array_equal(lines[1].get_xdata(), lines[0].get_xdata())
        assert np.array_equal(lines[1].get_ydata(), 2.0 * np.asarray(lines[0].get_ydata()))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(content["systems"])


def test_a_workload_that_is_not_decoded_shows_its_prefill_without_tiers(
    content: dict[str, Any], points: dict[str, np.ndarray]
) -> None:
    prefill = [finding for finding in content["findings"] if finding["phase"] == "prefill"]
    (panel,) = frontier_figure({**content, "findings": prefill}, points).axes
    assert panel.get_title() == "llama-3.1-8b prefill, bf16"
    assert len(panel.lines) == len(content["systems"])
    rows = (points["phase"] == "prefill") & (points["quality"] == "own")
    known = set(points["tokens_per_s_per_chip"][rows].tolist())
    assert all(set(line.get_ydata().tolist()) <= known for line in panel.lines)
