"""Figures of a sweep from rows written by hand: heat cells, fronts, what the next mm2 buys, words on axes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cosim.explore.sweep_findings import Points, points_of
from cosim.report.style import save
from cosim.report.sweep_figures import (
    area_gains,
    case_title,
    cases_of,
    fronts_figure,
    heat_cells,
    heat_map_figure,
    level_text,
    next_area_figure,
    number_text,
    path_text,
    runs,
)

Row = dict[str, Any]
X, Y = "system.chip.matrix.rows", "system.chip.memory.dram.stacks"
"""In the order in which a design meets them, after none: not that of the alphabet."""
LIMITS = ["", "reticle", "memory_edge", "tdp_w <= 800"]


def table(rows: list[Row], *, choice: bool = False) -> pa.Table:
    """Rows of one case and system as a result has them; an infeasible one has no outputs."""
    made = []
    for place, row in enumerate(rows):
        worth = row["worth"] if row["limit"] == "" else None
        made.append(
            {
                "design": place,
                "case": 0,
                "system": "asic-8",
                "phase": "decode",
                X: str(row["x"]) if choice else float(row["x"]),
                Y: float(row["y"]),
                "limit": row["limit"],
                "tokens_per_s_per_chip": worth,
                "tokens_per_s_per_user": None if worth is None else 1000.0 / (1.0 + worth),
                "tokens_per_j_chip": worth,
                "area_mm2": row.get("area"),
            }
        )
    names = ["tokens_per_s_per_chip", "tokens_per_s_per_user", "tokens_per_j_chip", "area_mm2"]
    found = pa.Table.from_pylist(made)
    for name in names:
        found = found.set_column(found.column_names.index(name), name, found[name].cast(pa.float64()))
    limit = found.column_names.index("limit")
    return found.set_column(limit, "limit", found["limit"].combine_chunks().dictionary_encode())


def run(**changes: Any) -> Row:
    base = {"tokens_per_s_per_chip": 5.0, "area_mm2": 700.0, "tokens_per_s_per_user": 9.0, "tokens_per_j_chip": 1.0}
    case = {"system": "asic-8", "workload": "llama", "phase": "decode", "confidence": "estimated", "base": base}
    return {
        "cases": [case],
        "axes": [{"paths": [X], "shown": X, "levels": []}, {"paths": [Y], "shown": Y, "levels": []}],
        "heat_map": [X, Y],
        "maximise": "tokens_per_s_per_chip",
        "units": {},
        "limit_order": LIMITS[1:],
        **changes,
    }


def points(rows: list[Row], **options: Any) -> Points:
    return points_of(table(rows, **options), 0, "asic-8")


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "x": st.sampled_from([64, 128, 32]),
            "y": st.sampled_from([8, 4]),
            "limit": st.sampled_from(LIMITS),
            "worth": st.integers(1, 9).map(float),
            "area": st.sampled_from([400.0, 500.0, 600.0, 700.0, None]),
        }
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, choice=st.booleans())
def test_a_cell_has_its_best_value_or_the_limit_of_those_that_came_furthest(rows: list[Row], *, choice: bool) -> None:
    value, binding, (across, up) = heat_cells(run(), points(rows, choice=choice))
    assert across == sorted({str(row["x"]) if choice else float(row["x"]) for row in rows})
    assert up == sorted({float(row["y"]) for row in rows})
    assert value.shape == binding.shape == (len(up), len(across))
    for (y, x), best in np.ndenumerate(value):
        here = [row for row in rows if row["y"] == up[y] and str(row["x"]) == str(across[x]).removesuffix(".0")]
        worth = [row["worth"] for row in here if row["limit"] == ""]
        if worth:
            assert (best, binding[y, x]) == (max(worth), "")
        elif here:
            assert np.isnan(best)
            assert str(binding[y, x]) == max((row["limit"] for row in here), key=LIMITS.index)
        else:
            assert np.isnan(best)
            assert binding[y, x] == ""


@pytest.mark.parametrize(("order", "binds"), [(LIMITS[1:], "memory_edge"), (["memory_edge", "reticle"], "reticle")])
def test_the_limit_that_stops_one_last_stands_before_the_one_that_stops_most(order: list[str], binds: str) -> None:
    stopped = ["reticle", "reticle", "memory_edge", "reticle"]
    rows = [{"x": 32, "y": 4, "limit": limit, "worth": 1.0} for limit in stopped]
    _, binding, _ = heat_cells(run(limit_order=order), points(rows))
    assert binding.tolist() == [[binds]]


def test_a_cell_that_no_design_falls_into_has_neither_value_nor_limit() -> None:
    rows = [
        {"x": 32, "y": 4, "limit": "reticle", "worth": 1.0},
        {"x": 64, "y": 8, "limit": "memory_edge", "worth": 1.0},
    ]
    value, binding, _ = heat_cells(run(), points(rows))
    assert np.isnan(value).all()
    assert binding.tolist() == [["reticle", ""], ["", "memory_edge"]]


@settings(max_examples=80, deadline=None)
@given(rows=ROWS)
def test_gains_fall_with_area_and_lead_along_feasible_designs(rows: list[Row]) -> None:
    gains = area_gains(run(), points(rows))
    feasible = {(row["area"], row["worth"]) for row in rows if row["limit"] == "" and row["area"] is not None}
    areas, slopes = [area for area, *_ in gains], [gain for _, gain, _ in gains]
    assert areas == sorted(set(areas))
    assert all(one > other for one, other in itertools.pairwise(slopes))
    assert all(slope > 0 for slope in slopes)
    assert set(areas) <= {area for area, _ in feasible}
    if gains:
        total = sum(
            gain * (area - before)
            for (area, gain, _), before in zip(gains, [min(a for a, _ in feasible), *areas], strict=False)
        )
        smallest = max(worth for area, worth in feasible if area == min(a for a, _ in feasible))
        assert smallest + total == pytest.approx(max(worth for _, worth in feasible))


def test_gains_name_the_axes_that_were_turned() -> None:
    rows = [
        {"x": 32, "y": 4, "limit": "", "worth": 10.0, "area": 400.0},
        {"x": 64, "y": 4, "limit": "", "worth": 20.0, "area": 410.0},
        {"x": 64, "y": 8, "limit": "", "worth": 25.0, "area": 420.0},
        {"x": 32, "y": 8, "limit": "", "worth": 12.0, "area": 415.0},
        {"x": 128, "y": 4, "limit": "", "worth": 28.0, "area": 430.0},
        {"x": 128, "y": 8, "limit": "reticle", "worth": 99.0, "area": 900.0},
    ]
    assert area_gains(run(), points(rows)) == [
        (410.0, pytest.approx(1.0), "matrix.rows"),
        (420.0, pytest.approx(0.5), "dram.stacks"),
        (430.0, pytest.approx(0.3), "matrix.rows, dram.stacks"),
    ]


def test_gains_name_linked_axes_by_the_path_that_is_shown() -> None:
    rows = [{"x": x, "y": 4, "limit": "", "worth": float(x), "area": 400.0 + x} for x in (32, 64)]
    linked = {"paths": ["system.chip.count", X], "shown": X, "levels": [32, 64]}
    assert [what for *_, what in area_gains(run(axes=[linked]), points(rows))] == ["matrix.rows"]


@pytest.mark.parametrize("limit", ["", "reticle"])
def test_one_design_or_none_has_no_next_area(limit: str) -> None:
    assert area_gains(run(), points([{"x": 32, "y": 4, "limit": limit, "worth": 1.0, "area": 400.0}])) == []


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2.0**21, "B", "2 MiB"),
        (3 * 2.0**30, "B", "3 GiB"),
        (2048, "B", "2 KiB"),
        (36e9, "B", "36 GB"),
        (1.25e9, "Hz", "1.25 GHz"),
        (12.5e9, "B/s", "12.5 GB/s"),
        (128, "", "128"),
        (0.75, "", "0.75"),
        ("fp8", "", "fp8"),
        (True, "", "True"),
    ],
)
def test_levels_are_read_as_people_write_them(value: object, unit: str, text: str) -> None:
    assert level_text(value, unit) == text


def test_numbers_have_three_digits_or_all_of_their_whole_part() -> None:
    texts = [number_text(value) for value in (None, 0.01234, 12.345, 99.94, 123.4, 12345.6)]
    assert texts == ["unknown", "0.0123", "12.3", "99.9", "123", "12,346"]


def test_paths_and_cases_have_short_names() -> None:
    assert (path_text(X), path_text("plan.dtype")) == ("matrix.rows", "plan.dtype")
    assert path_text("system.chip.memory.scratch.0.capacity") == "scratch.0.capacity"
    case = run()["cases"][0]
    # An estimated chip is named even where there is no other.
    assert case_title(case, run()) == "llama decode, asic-8 (estimated)"
    known = {**case, "confidence": "measured"}
    assert case_title(known, run(cases=[known])) == "llama decode"
    other = {**case, "system": "dgx-h100", "confidence": "measured"}
    both = run(cases=[case, other])
    assert case_title(case, both) == "llama decode, asic-8 (estimated)"
    assert case_title(known, both) == "llama decode, asic-8"
    assert case_title(other, both) == "llama decode, dgx-h100"


def test_cases_and_systems_meet_their_own_rows() -> None:
    names = [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    rows = pa.table(
        {"case": [case for _, case in names], "system": [name for name, _ in names], "design": [10, 11, 12, 13]}
    )
    found = run(cases=[{"system": name} for name, _ in names])
    assert [points.number("design").tolist() for _, points in cases_of(found, rows)] == [[10], [11], [12], [13]]


SOME = [
    {"x": x, "y": y, "limit": "" if (x, y) != (32, 8) else "reticle", "worth": x * y / 10.0, "area": 3.0 * x + y}
    for x in (32, 64, 128)
    for y in (4, 8)
]
ONE = [{"x": 32, "y": 4, "limit": "", "worth": 3.0, "area": 400.0}]
NONE = [{"x": x, "y": y, "limit": "reticle", "worth": 1.0, "area": 900.0} for x in (32, 64) for y in (4, 8)]
UNKNOWN = [{"x": x, "y": y, "limit": "", "worth": x + y, "area": None} for x in (32, 64) for y in (4, 8)]
EDGE = {"some": SOME, "one": ONE, "none": NONE, "unknown": UNKNOWN}


@pytest.mark.parametrize("draw", [heat_map_figure, fronts_figure, next_area_figure])
@pytest.mark.parametrize("rows", EDGE)
def test_every_figure_can_be_drawn_and_saved_quietly(tmp_path: Path, draw: Any, rows: str) -> None:
    case = run()["cases"][0]
    if rows in ("none", "unknown"):
        case = {**case, "base": dict.fromkeys(case["base"])}
    figure = draw(run(cases=[case]), table(EDGE[rows]))
    assert isinstance(figure, Figure)
    save(figure, tmp_path, "drawn")
    assert (tmp_path / "drawn.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert (tmp_path / "drawn.png").stat().st_size > 3000


def test_the_map_says_what_binds_and_the_base_is_a_star() -> None:
    figure = heat_map_figure(run(), table(NONE))
    words = [text.get_text() for axes in figure.axes if (legend := axes.get_legend()) for text in legend.get_texts()]
    assert words == ["no design: reticle"]
    figure = fronts_figure(run(), table(SOME))
    words = [text.get_text() for axes in figure.axes if (legend := axes.get_legend()) for text in legend.get_texts()]
    assert {"front", "feasible designs"} <= set(words)
    assert any("as is" in word for word in words)


def test_every_limit_has_its_own_hatch_over_its_own_cells_and_in_the_legend() -> None:
    rows = [
        {"x": 32, "y": 4, "limit": "reticle", "worth": 1.0},
        {"x": 64, "y": 4, "limit": "memory_edge", "worth": 1.0},
        {"x": 32, "y": 8, "limit": "memory_edge", "worth": 1.0},
        {"x": 64, "y": 8, "limit": "", "worth": 1.0},
        {"x": 128, "y": 4, "limit": "memory_edge", "worth": 1.0},
        {"x": 128, "y": 8, "limit": "reticle", "worth": 1.0},
    ]
    axes = heat_map_figure(run(), table(rows)).axes[0]
    places = {}
    for hatched in axes.collections:
        boxes = [path.get_extents() for path in hatched.get_paths()]
        places[hatched.get_hatch()] = {
            (x, y)
            for box in boxes
            for x in range(round(box.x0 + 0.5), round(box.x1 + 0.5))
            for y in range(round(box.y0 + 0.5), round(box.y1 + 0.5))
        }
    legend = axes.get_legend()
    assert legend is not None
    keys = {
        text.get_text(): patch.get_hatch() for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert len(places) == 2
    assert places[keys["no design: reticle"]] == {(0, 0), (2, 1)}
    assert places[keys["no design: memory_edge"]] == {(1, 0), (2, 0), (0, 1)}


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_runs_cover_every_cell_that_is_set_once_and_never_touch(cells: list[list[bool]]) -> None:
    found = list(runs(np.array(cells)))
    covered = [(y, at) for x, y, width in found for at in range(x, x + width)]
    assert len(covered) == len(set(covered))
    assert set(covered) == {(y, x) for y, row in enumerate(cells) for x, cell in enumerate(row) if cell}
    assert not any((x + width, y) == (other, row) for x, y, width in found for other, row, _ in found)


@pytest.mark.parametrize("count", [3, 12, 13, 30])
def test_a_long_axis_has_at_most_twelve_ticks_from_end_to_end_at_their_own_levels(count: int) -> None:
    rows = [{"x": 10 * x, "y": y, "limit": "", "worth": 1.0 + x} for x in range(1, count + 1) for y in (4, 8)]
    axes = heat_map_figure(run(), table(rows)).axes[0]
    ticks = [round(float(at)) for at in axes.get_xticks()]
    assert len(ticks) == min(count, 12)
    assert (ticks[0], ticks[-1]) == (0, count - 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(10 * (at + 1)) for at in ticks]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4", "8"]


def test_a_front_in_a_figure_is_a_front() -> None:
    axes = fronts_figure(run(), table(SOME)).axes[0]
    (front,) = [line for line in axes.get_lines() if line.get_label() == "front"]
    pairs = [(row["area"], row["worth"]) for row in SOME if row["limit"] == ""]
    for area, worth in zip(front.get_xdata(), front.get_ydata(), strict=True):
        assert not any(a <= area and w >= worth and (a, w) != (area, worth) for a, w in pairs)


@pytest.mark.parametrize("axes", [1, 0])
def test_a_sweep_of_one_axis_or_none_has_a_map_too(axes: int) -> None:
    some = run(axes=run()["axes"][:axes], heat_map=[X, Y][:axes])
    assert isinstance(heat_map_figure(some, table(SOME[::2])), Figure)
