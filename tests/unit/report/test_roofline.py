"""The roofline: roofs from peaks and bandwidths, operators below them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from cosim.report.roofline import intensity, roofline_figure
from cosim.report.style import colour_of


@given(flop=st.floats(1.0, 1e18), dram=st.floats(1.0, 1e15), time=st.floats(1e-9, 1e3))
def test_an_operators_place_is_flop_a_byte_and_flop_a_second(flop: float, dram: float, time: float) -> None:
    place = intensity({"flop": flop, "dram_bytes": dram, "time_s": time})
    assert place is not None
    assert place[0] * dram == pytest.approx(flop)
    assert place[1] * time == pytest.approx(flop)
    assert place[1] / place[0] == pytest.approx(dram / time)  # the bandwidth that it draws


@pytest.mark.parametrize(("flop", "dram"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_what_neither_computes_nor_reads_has_no_place(flop: float, dram: float) -> None:
    assert intensity({"flop": flop, "dram_bytes": dram, "time_s": 1.0}) is None


def test_no_operator_of_a_winner_is_above_its_roof(content: dict[str, Any]) -> None:
    for systems in content["operators"].values():
        for system, operators in systems.items():
            roof = content["rooflines"][system]
            placed = [(o, intensity(o)) for o in operators if o["kind"] != "vector"]
            assert sum(place is not None for _, place in placed) >= 5
            for operator, place in placed:
                if place is not None:
                    most = min(roof["peak"][operator["dtype"]], place[0] * roof["bandwidth"])
                    assert place[1] <= most * (1 + 1e-9), operator["name"]


def marks(panel: Axes) -> list[tuple[float, float, str]]:
    """Place and colour of every operator that is drawn."""
    found = [(c.get_offsets(), c.get_facecolors()) for c in panel.collections if isinstance(c, PathCollection)]
    pairs = [pair for places, colours in found for pair in zip(np.asarray(places), colours, strict=True)]
    return [(float(place[0]), float(place[1]), to_hex(colour).upper()) for place, colour in pairs]


def test_a_phase_has_its_panel_with_a_roof_and_the_operators_of_each_system(content: dict[str, Any]) -> None:
    panels = roofline_figure(content).axes
    goals = [finding["goal"] for finding in content["findings"]]
    assert [panel.get_title() for panel in panels] == [f"{goal}, roofs in bf16" for goal in goals]
    for panel, goal in zip(panels, goals, strict=True):
        for system, colour in colour_of(list(content["systems"])).items():
            (roof,) = (line for line in panel.lines if line.get_color() == colour)
            peak, bandwidth = content["rooflines"][system]["peak"]["bf16"], content["rooflines"][system]["bandwidth"]
            x, y = (np.asarray(values) for values in roof.get_data())
            assert y[-1] == peak
            assert y[0] == pytest.approx(x[0] * bandwidth)
            drawn = {(right, up) for right, up, mark in marks(panel) if mark == colour}
            placed = [intensity(o) for o in content["operators"][goal][system] if o["kind"] != "vector"]
            assert drawn == set(placed)


def test_a_chip_without_the_format_has_no_roof_of_another(content: dict[str, Any]) -> None:
    lines = copy.deepcopy(content["rooflines"])
    first, *others = lines
    lines[first]["peak"] = {"fp8": lines[first]["peak"].pop("bf16")}
    colours = colour_of(list(content["systems"]))
    for panel in roofline_figure({**content, "rooflines": lines}).axes:
        assert {line.get_color() for line in panel.lines} == {colours[name] for name in others}


def test_every_operator_lies_within_the_panel(content: dict[str, Any]) -> None:
    for panel in roofline_figure(content).axes:
        (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
        assert len(marks(panel)) >= 10
        for across, up, _ in marks(panel):
            assert left <= across <= right
            assert low <= up <= high


def test_an_operator_has_one_marker_and_the_legend_names_systems_and_operators(content: dict[str, Any]) -> None:
    panel = roofline_figure(content).axes[0]
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert names[:2] == list(content["systems"])
    assert {"qkv", "attention", "ffn_in", "ffn_out", "logits"} <= set(names[2:])
    assert len(names) == len(set(names))


def test_of_several_limits_of_a_phase_the_loosest_is_drawn(content: dict[str, Any]) -> None:
    decode, prefill = content["findings"]
    tight = {**decode, "goal": "llama-3.1-8b decode, TPOT <= 1 ms", "limit_s": 0.001}
    operators = {**content["operators"], tight["goal"]: {}}
    panels = roofline_figure({**content, "findings": [tight, decode, prefill], "operators": operators}).axes
    assert [panel.get_title().split(", roofs")[0] for panel in panels] == [decode["goal"], prefill["goal"]]


def test_every_workload_has_its_own_panel_a_phase_at_its_loosest_limit(content: dict[str, Any]) -> None:
    decode, prefill = content["findings"]
    tight = {**decode, "goal": "llama-3.1-8b decode, TPOT <= 1 ms", "limit_s": 0.001}
    found = [tight, decode, prefill]
    found += [{**f, "workload": "other", "goal": f["goal"].replace("llama-3.1-8b", "other")} for f in found]
    operators = dict.fromkeys((f["goal"] for f in found), content["operators"][decode["goal"]])
    figure = roofline_figure({**content, "findings": found, "operators": operators})
    goals = [decode["goal"], prefill["goal"], found[4]["goal"], found[5]["goal"]]
    assert [panel.get_title().split(", roofs")[0] for panel in figure.axes] == goals
    specs = [panel.get_subplotspec() for panel in figure.axes]
    assert [(s.rowspan.start, s.colspan.start) for s in specs if s] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [bool(panel.get_ylabel()) for panel in figure.axes] == [True, False, True, False]


def test_a_study_without_winners_still_shows_the_roofs(content: dict[str, Any]) -> None:
    nothing = {goal: {} for goal in content["operators"]}
    for panel in roofline_figure({**content, "operators": nothing}).axes:
        assert (len(panel.lines), marks(panel)) == (2, [])
