"""The figure of a network: boxes in boxes with words that do not collide, all-reduces beside them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from cosim.explore.catalogue import varied_system
from cosim.explore.network import network_picture
from cosim.report.topology import topology_figure

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
SYSTEMS = [
    ("dgx-h100", {"nodes": 16}),
    (
        "dgx-h100",
        {"nodes": 1000, "tiers.node.planes": 4, "tiers.cluster.radix": 64, "tiers.cluster.oversubscription": 2},
    ),
    ("gb200-nvl72", {}),
    ("tpu-v5p-64", {"nodes": 4}),
    ("mi300x-8gpu", {}),
    ("l40s-8gpu-pcie4", {"nodes": 2}),
    ("trn2-16", {}),
    ("m4-max-1", {}),
]


def figure(name: str, changes: dict[str, Any]) -> Figure:
    return topology_figure(network_picture(varied_system(name, changes)))


@pytest.mark.parametrize(("name", "changes"), SYSTEMS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(SYSTEMS)])
def test_no_two_words_overlap_and_all_are_inside(name: str, changes: dict[str, Any]) -> None:
    shown = figure(name, changes)
    canvas = FigureCanvasAgg(shown)
    canvas.draw()
    left = shown.axes[0]
    extents = [(text.get_text(), text.get_window_extent()) for text in left.texts if text.get_text()]
    whole = left.get_window_extent()
    for (one, here), (two, there) in itertools.combinations(extents, 2):
        assert not here.overlaps(there), f"{one} | {two}"
    units = [patch.get_window_extent() for patch in left.patches if type(patch) is Rectangle]
    for text, here in extents:
        assert not any(here.overlaps(unit) for unit in units), text
        assert whole.x0 - 1 <= here.x0 <= here.x1 <= whole.x1 + 1, text
        assert whole.y0 - 1 <= here.y0 <= here.y1 <= whole.y1 + 1, text


def test_boxes_lie_in_boxes_and_units_open_into_them() -> None:
    left = figure("l40s-8gpu-pcie4", {"nodes": 2}).axes[0]
    boxes = [patch for patch in left.patches if isinstance(patch, FancyBboxPatch) and patch.get_width() > 2.0]
    assert len(boxes) == 4
    for outer, inner in itertools.pairwise(boxes):
        assert outer.get_x() < inner.get_x()
        assert outer.get_y() < inner.get_y()
        assert outer.get_x() + outer.get_width() > inner.get_x() + inner.get_width()
        assert outer.get_y() + outer.get_height() > inner.get_y() + inner.get_height()
    assert sum(isinstance(patch, Polygon) for patch in left.patches) == 3
    words = [text.get_text() for text in left.texts]
    for title in ("cluster: fat tree of 2 hosts", "host: bus of 2 sockets", "pair: switch of 2 chips"):
        assert title in words


def test_words_tell_bandwidth_bisection_switches_and_what_is_unknown() -> None:
    changes = {"nodes": 16, "tiers.cluster.radix": 64, "tiers.cluster.oversubscription": 2}
    words = [text.get_text() for text in figure("dgx-h100", changes).axes[0].texts]
    assert {"25 GB/s a chip and direction", "oversubscribed 2:1", "1.6 TB/s across the middle"} <= set(words)
    assert "farthest 1 step, 4 wires" in words
    assert "4 switches in 4 planes" in words
    assert "switches: radix is not given" in [t.get_text() for t in figure("dgx-h100", {"nodes": 2}).axes[0].texts]
    torus = [text.get_text() for text in figure("tpu-v5p-64", {}).axes[0].texts]
    assert "4x4x4, every ring closes" in torus


def test_power_and_price_are_told_where_they_are_known() -> None:
    own = {"switch_power": "1 kW", "cable_power": "10 W", "switch_price": 20_000, "cable_price": 500}
    costs = {f"tiers.cluster.{key}": value for key, value in own.items()}
    shown = figure("dgx-h100", {"nodes": 8, "tiers.cluster.radix": 64, **costs})
    assert "1.64 kW, 52,000 USD" in [text.get_text() for text in shown.axes[0].texts]


def test_a_line_a_group_of_chips_against_size() -> None:
    content = network_picture(varied_system("dgx-h100", {"nodes": 16}))
    right = topology_figure(content).axes[1]
    lines = [line for line in right.lines if len(line.get_xdata()) > 2]
    assert len(lines) == 2
    rows = content["all_reduce"]
    for line, tier in zip(lines, ("node", "cluster"), strict=True):
        mine = [row for row in rows if row["tier"] == tier]
        assert list(line.get_xdata()) == [row["bytes"] for row in mine]
        assert list(line.get_ydata()) == [row["bus_bandwidth"] for row in mine]
    legend = right.get_legend()
    assert legend is not None
    named = [text.get_text() for text in legend.get_texts()]
    algorithms = {row["algorithm"].replace("_", " ") for row in rows}
    assert set(named) == {"node, 8 chips", "cluster, 128 chips"} | algorithms


def test_a_chip_alone_is_said_to_be_alone() -> None:
    left, right = figure("m4-max-1", {}).axes
    assert [text.get_text() for text in left.texts] == ["one chip: nothing joins it to others"]
    assert [text.get_text() for text in right.texts] == ["one chip: nothing to reduce"]
