"""The page: one file that fetches nothing, escapes what it is told, and lists what it rests on."""

from __future__ import annotations

import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.explore.store import read_run
from cosim.report.page import SERVING_FIGURES, TRAINING_FIGURES, captions, render, report_run
from cosim.report.tables import TRAINING_HEAD, commands, training

FETCHING = {"src", "href", "xlink:href", "srcset", "poster", "action", "formaction", "data", "background", "cite"}
DRAWINGS = dict.fromkeys(SERVING_FIGURES, "<svg></svg>")


def parsed(text: str) -> tuple[list[tuple[str, dict[str, str]]], list[list[str]]]:
    """Tags with their attributes, and the cells of every table row."""
    tags: list[tuple[str, dict[str, str]]] = []
    rows: list[list[str]] = []
    open_: list[str] = []
    parser = HTMLParser()

    def start(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        tags.append((tag, {name: value or "" for name, value in attributes}))
        open_.append(tag)
        if tag == "tr":
            rows.append([])
        if tag in ("td", "th"):
            rows[-1].append("")

    def end(tag: str) -> None:
        open_[:] = open_[: len(open_) - open_[::-1].index(tag) - 1]

    def data(text: str) -> None:
        if open_ and open_[-1] in ("td", "th"):
            rows[-1][-1] += text

    parser.handle_starttag, parser.handle_endtag, parser.handle_data = start, end, data  # type: ignore[method-assign]
    parser.feed(text)
    return tags, rows


@pytest.fixture(scope="module")
def page(small_run: Path) -> str:
    return (small_run / "report.html").read_text(encoding="utf-8")


def test_the_page_fetches_nothing(page: str) -> None:
    tags, _ = parsed(page)
    for tag, attributes in tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base", "form")
        for name, value in attributes.items():
            assert name not in FETCHING or value.startswith("#"), f"{tag} {name}={value}"
            assert not name.startswith("on"), f"{tag} {name}"
    assert "@import" not in page
    for reference in re.findall(r"url\(([^)]*)\)", page):
        assert reference.strip("'\" ").startswith("#")


def test_the_page_is_whole_and_shows_three_drawings(page: str, content: dict[str, Any]) -> None:
    tags, _ = parsed(page)
    names = [tag for tag, _ in tags]
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert f"<title>{content['question']}</title>" in page
    assert names.count("svg") == names.count("figure") == 3
    assert [attributes["id"] for tag, attributes in tags if tag == "figure"] == list(SERVING_FIGURES)
    assert "<?xml" not in page
    assert page.count("<!DOCTYPE") == 1


def test_references_within_a_drawing_meet_their_target(page: str) -> None:
    tags, _ = parsed(page)
    ids = {attributes["id"] for _, attributes in tags if "id" in attributes}
    wanted = {a["xlink:href"] for _, a in tags if "xlink:href" in a} | set(re.findall(r"url\((#[^)]*)\)", page))
    assert wanted
    assert {reference.removeprefix("#") for reference in wanted} <= ids


def test_every_assumption_is_on_the_page_with_its_kind_and_source(page: str, content: dict[str, Any]) -> None:
    _, rows = parsed(page)
    shown = {tuple(row) for row in rows if len(row) == 4}
    listed = [item for items in content["assumptions"].values() for item in items]
    assert len(listed) > 150
    for item in listed:
        source = item["source"] + (f"; {item['note']}" if item["note"] else "")
        assert (item["path"], item["value"], item["kind"], source) in shown
        assert item["source"]


def test_the_page_shows_rankings_verdicts_and_warnings(page: str, content: dict[str, Any]) -> None:
    _, rows = parsed(page)
    for finding in content["findings"]:
        for entry in finding["entries"]:
            assert [row for row in rows if row and row[0] == entry["system"] and f"{entry['rate']:,.0f}" in row]
    for warning in content["warnings"]:
        assert warning in page
    assert f"{content['points']:,} points, {content['feasible_points']:,} feasible" in page


def test_the_page_tells_how_to_make_it_again(page: str, content: dict[str, Any], study_text: str) -> None:
    assert f"<pre>{study_text}" in page
    for name, digest in content["inputs"].items():
        assert f"{name} {digest[:12]}" in page


def printed(page: str) -> list[list[str]]:
    """Commands below each ranking of the page, as a reader copies them."""
    blocks = re.findall(r"<details><summary>The same rows[^<]*</summary><pre>(.*?)</pre></details>", page, re.DOTALL)
    return [html.unescape(block).splitlines() for block in blocks]


def test_below_each_ranking_are_the_commands_of_its_rows(page: str, content: dict[str, Any]) -> None:
    assert printed(page) == [commands(finding) for finding in content["findings"]]
    assert all(len(lines) == 2 for lines in printed(page))
    assert all(line.startswith("cosim estimate ") for lines in printed(page) for line in lines)
    _, _, rankings = page.partition("<h2>Rankings</h2>")
    titles = [f"{finding['goal']}, bf16".replace("<", "&lt;") for finding in content["findings"]]
    order = [rankings.index(title) for title in titles]
    places = [match.start() for match in re.finditer("The same rows", rankings)]
    assert sorted([*order, *places]) == [order[0], places[0], order[1], places[1]]


def test_overrides_are_told_on_the_page(content: dict[str, Any]) -> None:
    text = render({**content, "overrides": {"system.nodes": 2}}, DRAWINGS)
    assert "<code>--set system.nodes=2</code>" in text


def test_what_a_user_wrote_is_text_and_never_markup(content: dict[str, Any]) -> None:
    evil = "<script>alert('x')</script>&\"<img src=http://x/y>"
    assumption = {"path": evil, "value": evil, "kind": evil, "source": evil, "note": evil}
    told = {**content, "question": evil, "experiment_text": evil, "overrides": {evil: evil}, "warnings": [evil]}
    told |= {"systems": {evil: {"title": evil, "chip": evil}}, "workload": {"name": evil, "title": evil}}
    told["findings"] = [
        {**f, "goal": evil, "entries": [{**e, "command": evil} for e in f["entries"]]} for f in content["findings"]
    ]
    text = render({**told, "assumptions": {evil: [assumption]}, "inputs": {evil: "00" * 32}}, DRAWINGS)
    tags, rows = parsed(text)
    assert not {"script", "img"} & {tag for tag, _ in tags}
    assert [evil, evil, evil, f"{evil}; {evil}"] in rows
    assert printed(text) == [[evil, evil], [evil, evil]]


def test_a_page_without_warnings_and_winners_is_made(content: dict[str, Any]) -> None:
    cannot = [{**e, "row": None, "rate": None, "why": "too slow"} for e in content["findings"][0]["entries"]]
    findings = [{**content["findings"][0], "entries": cannot}]
    text = render({**content, "warnings": [], "findings": findings}, DRAWINGS)
    assert "No system meets any of the limits." in text
    assert "cannot: too slow" in text
    assert "Before you trust a row" not in text
    assert printed(text) == []
    assert "The same rows" not in text


def test_figures_and_page_are_made_again_alike_from_what_was_stored(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_run, folder)
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "figures")
    assert report_run(folder) == folder / "report.html"
    again, before = ({p.name: p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (folder, small_run))
    assert again == before


def test_drawings_are_put_in_as_they_are_in_the_folder(small_run: Path, page: str) -> None:
    for name in SERVING_FIGURES:
        drawing = (small_run / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert drawing[drawing.index("<svg") :].strip() in page


def test_what_is_no_run_folder_gets_no_page(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a run folder"):
        report_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


# A run of training alone.


@pytest.fixture(scope="module")
def training_page(training_run: Path) -> str:
    return (training_run / "report.html").read_text(encoding="utf-8")


def test_the_page_of_training_alone_has_its_figure_and_its_tables(training_page: str, training_run: Path) -> None:
    content = read_run(training_run)
    tags, rows = parsed(training_page)
    assert [attributes["id"] for tag, attributes in tags if tag == "figure"] == ["training"]
    assert {path.name for path in (training_run / "figures").iterdir()} == {"training.svg", "training.png"}
    assert f"<title>{content['question']}</title>" in training_page
    assert [finding["per"] for finding in content["training"]] == ["chip", "kW"]
    for finding in content["training"]:
        assert TRAINING_HEAD[finding["per"]] in rows
        for line in training(finding):
            assert line in rows
    assert printed(training_page) == [commands(finding) for finding in content["training"]]
    assert all(line.startswith("cosim estimate train ") for lines in printed(training_page) for line in lines)
    headings = re.findall(r"<h2>(.*?)</h2>", training_page)
    assert "Training" in headings
    assert not {"Rankings", "Whole requests"} & set(headings)


def test_the_page_of_training_fetches_nothing_and_lists_what_it_rests_on(
    training_page: str, training_run: Path
) -> None:
    content = read_run(training_run)
    tags, rows = parsed(training_page)
    for tag, attributes in tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base", "form")
        assert all(name not in FETCHING or value.startswith("#") for name, value in attributes.items())
    listed = {
        (item["path"], item["value"], item["kind"]) for items in content["assumptions"].values() for item in items
    }
    assert listed <= {tuple(row[:3]) for row in rows if len(row) == 4}
    for name, digest in content["inputs"].items():
        assert f"{name} {digest[:12]}" in training_page


def test_figures_are_those_of_the_parts_that_a_run_has(content: dict[str, Any], training_run: Path) -> None:
    trains = read_run(training_run)
    assert list(captions(content)) == list(SERVING_FIGURES)
    assert list(captions(trains)) == list(TRAINING_FIGURES)
    both = {**content, "training": trains["training"]}
    assert list(captions(both)) == [*SERVING_FIGURES, *TRAINING_FIGURES]
    text = render(both, dict.fromkeys(captions(both), "<svg></svg>"))
    assert re.findall(r"<h2>(.*?)</h2>", text)[1:5] == ["Figures", "Training", "Whole requests", "Rankings"]


def test_the_page_of_training_is_made_again_alike_from_what_was_stored(training_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(training_run, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    assert report_run(folder) == folder / "report.html"
    again, before = ({p.name: p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (folder, training_run))
    assert again == before
