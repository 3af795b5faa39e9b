"""Descriptions of requests as lists and details."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosim import library
from cosim.errors import SpecError
from cosim.explore.catalogue import details
from cosim.explore.requests import DRAWN, request_details, request_facts
from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.load import load_requests
from cosim.workload.requests.records import requests_of
from cosim.workload.requests.table import write_requests

ABOUT = {"kind": "requests", "name": "t", "title": "a trace", "source": "ours"}


def test_a_list_says_how_requests_come() -> None:
    assert request_facts(load_requests("chat"))["arrivals"] == "gamma"
    assert request_facts(load_requests("assistant")).items() >= {"arrivals": "bursts", "turns": "zipf"}.items()
    traced = RequestPattern.model_validate({**ABOUT, "trace": {"file": "some/where/t.parquet"}})
    assert request_facts(traced) == {"title": "a trace", "arrivals": "trace t.parquet"}


@pytest.mark.parametrize("name", sorted(library.names("requests")))
def test_all_that_a_description_says_is_shown_with_its_source(name: str) -> None:
    pattern = load_requests(name)
    shown = details(name)
    paths = {row["path"] for row in shown["data"]}
    assert {path.partition(".")[0] for path in paths} == pattern.model_fields_set - set(ABOUT)
    assert {row["source"] for row in shown["data"]} == {pattern.source}
    assert (shown["kind"], shown["title"], shown["checks"]) == ("request", pattern.title, [])


def test_what_is_drawn_is_described_and_said_to_be_drawn() -> None:
    rows = {row["path"]: row for row in request_details(load_requests("assistant"))["derived"]}
    assert rows["requests"]["value"] == "10,000"
    assert 0.5 < float(rows["shared_prefix"]["value"]) < 1.0
    assert rows["rate"]["source"] == "first 10,000 requests, seed 0"


def test_a_long_stream_is_not_drawn_whole() -> None:
    many = load_requests("chat").model_copy(update={"count": 500_000_000})
    rows = {row["path"]: row["value"] for row in request_details(many)["derived"]}
    assert rows["requests"] == f"{DRAWN:,}"


def test_lists_of_clients_and_rates_are_shown_by_path() -> None:
    rows = {row["path"]: row["value"] for row in request_details(load_requests("assistant"))["data"]}
    assert (rows["clients.0.share"], rows["clients.1.priority"]) == ("0.7", "1")
    day = {row["path"]: row["value"] for row in request_details(load_requests("reasoning"))["data"]}
    assert day["arrivals.rates"].split()[:2] == ["19.31", "22.25"]


def test_a_trace_is_shown_from_its_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    traced = RequestPattern.model_validate({**ABOUT, "trace": {"file": str(path)}})
    with pytest.raises(SpecError, match="no such file"):
        request_details(traced)
    write_requests(path, iter([requests_of(np.array([0.0, 2.0]), [10, 20], 5)]))
    shown = request_details(traced)
    assert [row["path"] for row in shown["data"]] == ["trace.file"]
    assert {row["path"]: row["value"] for row in shown["derived"]}["mean_prompt_tokens"] == "15"
