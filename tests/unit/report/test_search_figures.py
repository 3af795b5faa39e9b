"""Figures of a search: what is drawn is what was found."""

from __future__ import annotations

from typing import Any

import pytest

from cosim.engines.analytic import BREAKDOWN
from cosim.report.search_figures import MOST_PAIRS, fits_figure, front_figure, strategy_text, top_figure

Row = dict[str, Any]


def row(time: float, **more: Any) -> Row:
    plan = {"tensor": 8, "pipeline": 2, "data": 1, "expert": 1, "context": 1}
    found: Row = {f"plan.{name}_parallel": degree for name, degree in plan.items()}
    found |= {"plan.virtual_pipeline": 1, "plan.schedule": "1f1b", "plan.zero": 0, "plan.micro_batch": 1}
    found |= {"plan.recompute": "none", "plan.sequence_parallel": True, "time_s": time, "mfu": 1.0 / time}
    found |= {f"breakdown_s.{part}": 0.0 for part in BREAKDOWN}
    return found | {"breakdown_s.matmul": time * 0.75, "breakdown_s.bubble": time * 0.25} | more


@pytest.fixture
def run() -> Row:
    goals = [("least time_s", "time_s", 1.0), ("most mfu", "mfu", -1.0)]
    rows = [row(2.0), row(4.0)]
    return {
        "goals": [{"text": text, "column": column, "sign": sign} for text, column, sign in goals],
        "front_points": {"least time_s": [2.0, 3.0, 4.0], "most mfu": [0.5, None, 0.6]},
        "objectives": [
            {"objective": text, "column": column, "best": best, "top": rows}
            for (text, column, _), best in zip(goals, (rows[0], None), strict=True)
        ],
        "fits": [
            {"tensor": 1, "pipeline": 1, "legal": 1200, "fit": 0, "best": None},
            {"tensor": 8, "pipeline": 1, "legal": 20, "fit": 5, "best": 3.5},
            {"tensor": 8, "pipeline": 2, "legal": 10, "fit": 10, "best": 2.0},
        ],
    }


def test_the_front_is_drawn_where_both_numbers_are_known_and_the_best_as_a_star(run: Row) -> None:
    (axes,) = front_figure(run).axes
    front, star = axes.get_lines()
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(2.0, 0.5), (4.0, 0.6)]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2.0], [0.5])
    assert star.get_label() == "least time_s"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("least time_s", "most mfu")


def test_three_pairs_of_objectives_at_most(run: Row) -> None:
    names = ["least time_s", "most mfu", "least a", "least b"]
    run["goals"] += [{"text": f"least {name}", "column": name, "sign": 1.0} for name in "ab"]
    run["front_points"] = {name: [1.0] for name in names}
    run["objectives"] = run["objectives"][1:]
    assert len(front_figure(run).axes) == MOST_PAIRS


def test_the_parts_of_every_bar_add_up_to_its_time(run: Row) -> None:
    (axes,) = top_figure(run).axes
    ends = [max(bar.get_x() + bar.get_width() for bars in axes.containers for bar in [bars[place]]) for place in (0, 1)]
    assert ends == pytest.approx([2.0, 4.0])
    assert [bars.get_label() for bars in axes.containers] == ["matmul", "bubble"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["TP8 PP2 DP1 mb1\nrecompute none, SP"] * 2


def test_the_map_hatches_where_nothing_fits_and_counts_everywhere(run: Row) -> None:
    axes = fits_figure(run).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0/1,200", "2\n10/10", "3.5\n5/20"]
    assert [patch.get_hatch() for patch in axes.patches] == ["///"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "8"]
    drawn = axes.images[0].get_array()
    assert drawn is not None
    assert drawn.tolist() == [[None, 3.5], [None, 2.0]]


def test_a_map_without_anything_that_fits_has_no_scale(run: Row) -> None:
    run["fits"] = run["fits"][:1]
    assert len(fits_figure(run).axes) == 1


def test_a_strategy_in_short() -> None:
    assert strategy_text(row(1.0)) == "TP8 PP2 DP1 mb1, recompute none, SP"
    assert strategy_text(row(1.0, **{"plan.sequence_parallel": False})) == "TP8 PP2 DP1 mb1, recompute none"
