"""The look that figures share."""

from __future__ import annotations

import struct
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.report.style import COLOURS, MARKERS, colour_of, labelled, new_figure, save


@given(names=st.lists(st.text(max_size=4), max_size=len(COLOURS), unique=True))
def test_every_name_has_a_colour_of_its_own_while_there_are_any(names: list[str]) -> None:
    colours = colour_of(names)
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)
    assert set(colours.values()) <= set(COLOURS)


def test_a_name_keeps_its_colour_when_others_follow_and_colours_come_round() -> None:
    few, many = colour_of(["a", "b"]), colour_of([*"abcdefghijklmn"])
    assert {name: many[name] for name in few} == few
    assert many["m"] == many["a"]


def test_colours_and_markers_are_distinct() -> None:
    assert len(set(COLOURS)) == len(COLOURS) == len(set(MARKERS)) == len(MARKERS)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_figure_has_its_panels_side_by_side(columns: int) -> None:
    figure, panels = new_figure(6.0, 2.0, columns, shared_y=True)
    assert len(panels) == len(figure.axes) == columns
    assert tuple(figure.get_size_inches()) == (6.0, 2.0)
    panels[0].set_ylim(3.0, 4.0)
    assert panels[-1].get_ylim() == (3.0, 4.0)


@pytest.mark.parametrize(("panels", "across"), [(1, 1), (2, 2), (5, 3), (6, 3), (4, 1)])
def test_panels_fill_rows_and_share_a_scale_within_a_row_only(panels: int, across: int) -> None:
    figure, found = new_figure(6.0, 4.0, panels, across=across, shared_y=True)
    assert figure.axes == found
    specs = [axes.get_subplotspec() for axes in found]
    places = [(spec.rowspan.start, spec.colspan.start) for spec in specs if spec is not None]
    assert places == [(index // across, index % across) for index in range(panels)]
    found[0].set_ylim(3.0, 4.0)
    assert [axes.get_ylim() == (3.0, 4.0) for axes in found] == [row == 0 for row, _ in places]
    _, alone = new_figure(6.0, 4.0, panels, across=across)
    alone[0].set_ylim(3.0, 4.0)
    assert [axes.get_ylim() == (3.0, 4.0) for axes in alone] == [True] + [False] * (panels - 1)


def test_a_figure_is_saved_twice_alike_as_drawing_and_as_picture(tmp_path: Path) -> None:
    before = mpl.rcParams["svg.fonttype"]
    for folder in ("a", "b"):
        figure, (axes,) = new_figure(4.0, 2.0, 1)
        axes.plot([1.0, 2.0], [3.0, 4.0], "o-", label="some line")
        axes.legend()
        axes.set_title("Title stays text")
        save(figure, tmp_path / folder / "deep", "one")
    one, other = (tmp_path / folder / "deep" / "one.svg" for folder in "ab")
    assert one.read_bytes() == other.read_bytes()
    text = one.read_text(encoding="utf-8")
    assert "<svg" in text
    assert ">Title stays text<" in text
    assert "dc:date" not in text
    assert mpl.rcParams["svg.fonttype"] == before
    picture = one.with_suffix(".png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (520, 260)  # 4 x 2 inch at 130 dots per inch


def test_a_system_is_marked_where_its_chip_is_estimated() -> None:
    assert labelled("asic-8", {"confidence": "estimated"}) == "asic-8 (estimated)"
    assert labelled("dgx-h100", {"confidence": "measured"}) == labelled("dgx-h100", {}) == "dgx-h100"
