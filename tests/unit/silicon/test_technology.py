"""The technology file: every number sourced and in its unit, nodes ordered, a user's own found first."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cosim import library
from cosim.dtypes import DTYPES
from cosim.errors import SpecError
from cosim.explore.assumptions import data_of
from cosim.silicon.technology import Technology, load_technology

FINER = ("TSMC N7", "TSMC N6", "TSMC N5", "TSMC N3", "TSMC N2")


def test_the_shipped_technology_is_read_in_si(technology: Technology) -> None:
    assert technology.name == "silicon"
    assert technology.mac.systolic["bf16"].si == pytest.approx(854e-6)
    assert technology.sram.cache.si == pytest.approx(2.486 / 2**20)
    assert technology.network.si == pytest.approx(14.16e-12)
    assert technology.link_edge.si == pytest.approx(304e9 / 8)
    assert (technology.reticle.si, technology.leakage.si) == (858.0, 0.09)


def test_every_number_has_a_kind_and_a_source(technology: Technology) -> None:
    rows = list(data_of(technology))
    assert len(rows) > 50
    assert [row for row in rows if not row["kind"] or not row["source"]] == []
    assert [row for row in rows if "without a source" in row["source"]] == []


def test_the_reference_node_is_one_and_finer_ones_shrink(technology: Technology) -> None:
    nodes = [next(node for node in technology.nodes if name in node.names) for name in FINER]
    assert (nodes[0].logic.si, nodes[0].sram.si) == (1.0, 1.0)
    for coarse, fine in itertools.pairwise(nodes):
        assert fine.logic.si < coarse.logic.si
        assert fine.sram.si <= coarse.sram.si


@pytest.mark.parametrize("group", ["nodes", "memory", "links"])
def test_a_name_stands_in_one_entry_only(technology: Technology, group: str) -> None:
    names = [name for entry in getattr(technology, group) for name in entry.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["tile", "systolic"])
def test_formats_are_known_ones_and_half_the_width_is_half_the_area(technology: Technology, kind: str) -> None:
    areas = getattr(technology.mac, kind)
    assert set(areas) <= set(DTYPES)
    assert areas["fp8"].si == pytest.approx(areas["bf16"].si / 2)
    assert areas["mxfp4"].si == pytest.approx(areas["bf16"].si / 4)
    assert areas["tf32"].si == pytest.approx(areas["bf16"].si * 2)
    assert areas["fp32"].si > areas["tf32"].si


def test_a_users_own_technology_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = library.find("technology", "silicon").read_text(encoding="utf-8")
    folder = tmp_path / "accelerators" / "technology"
    folder.mkdir(parents=True)
    (folder / "silicon.yaml").write_text(text.replace("value: 858", "value: 429"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_technology().reticle.si == 429.0
    monkeypatch.undo()
    assert load_technology().reticle.si == 858.0


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("unit: W/mm2", "unit: W", "leakage"),
        ("reticle:", "reticles:", "reticles"),
        ("value: 1.27", "value: -1", "aspect"),
        ("systolic: {value: 0.155", "systolic: {value: -0.155", "control.systolic"),
        ("    fp32: {value: 3416", "    fp33: {value: 3416", "mac.systolic.fp33"),
    ],
)
def test_a_fault_is_told_with_its_file_and_line(tmp_path: Path, old: str, new: str, field: str) -> None:
    text = library.find("technology", "silicon").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_technology(str(path))
    assert (str(caught.value.file), caught.value.field) == (str(path), field)
    assert caught.value.line is not None
    assert field.rpartition(".")[2] in path.read_text(encoding="utf-8").splitlines()[caught.value.line - 1]


def test_an_unknown_technology_is_refused() -> None:
    with pytest.raises(SpecError, match="no technology has this name"):
        load_technology("silicone")
