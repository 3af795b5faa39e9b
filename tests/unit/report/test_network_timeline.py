"""A run of the network as a trace: a track a collective, counters of busy links, slices that nest."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.engines.network.simulate import NetworkRun, Request, simulate_collectives
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.report.network_timeline import COUNTERS, network_timeline, write_network_timeline

Made = Callable[..., SystemArrays]


@pytest.fixture(scope="module")
def run(network_on: Made) -> NetworkRun:
    system = network_on(
        {"name": "node", "size": 4},
        {"name": "net", "kind": "fat_tree", "size": 4, "link": "nic", "bandwidth": 20e9},
    )
    requests = [
        Request("all_reduce", 1e9, tuple(range(16)), "hierarchical", name="gradients"),
        Request("alltoall", 1e8, tuple(range(8)), start_s=1e-3),
    ]
    return simulate_collectives(system, requests, stragglers={3: 5e-4}, background=[(0, 15, 1e9)])


def events(run: NetworkRun, kind: str) -> list[dict[str, Any]]:
    return [event for event in network_timeline(run, "a title")["traceEvents"] if event["ph"] == kind]


def test_every_collective_has_a_track_with_its_name(run: NetworkRun) -> None:
    names = [event["args"]["name"] for event in events(run, "M") if event["name"] == "thread_name"]
    assert names == ["gradients", "alltoall 1"]
    assert events(run, "M")[0]["args"]["name"] == "a title"


def test_slices_of_a_track_nest_and_end_with_the_collective(run: NetworkRun) -> None:
    for track, outcome in enumerate(run.outcomes, start=1):
        mine = [event for event in events(run, "X") if event["tid"] == track]
        whole, *phases = mine
        assert whole["ts"] == pytest.approx(outcome.start_s * 1e6)
        assert whole["dur"] == pytest.approx(outcome.time_s * 1e6)
        clock = whole["ts"]
        for phase in phases:
            assert phase["ts"] >= clock - 1e-6
            clock = phase["ts"] + phase["dur"]
        assert clock <= whole["ts"] + whole["dur"] + 1e-6
    assert [event["name"] for event in events(run, "X") if event["tid"] == 1][1:] == [
        "gradients node",
        "gradients net",
        "gradients node",
    ]


def test_counters_are_of_the_busiest_links_and_end_at_nothing(run: NetworkRun) -> None:
    counters = events(run, "C")
    names = {event["name"] for event in counters}
    assert names == {name for name, _ in run.busiest(COUNTERS)}
    for name in names:
        mine = [event for event in counters if event["name"] == name]
        assert [event["ts"] for event in mine] == sorted(event["ts"] for event in mine)
        assert mine[-1]["args"]["percent"] == 0.0
        assert 0.0 < max(event["args"]["percent"] for event in mine) <= 100.0 + 1e-6


def test_the_file_is_gzipped_and_holds_still(run: NetworkRun, tmp_path: Path) -> None:
    first, second = (write_network_timeline(tmp_path / f"{n}.json.gz", run, "a title") for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(gzip.decompress(first.read_bytes())) == network_timeline(run, "a title")


def test_a_place_that_cannot_be_written_is_told(run: NetworkRun, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot be written.*--timeline"):
        write_network_timeline(tmp_path / "none" / "a.json.gz", run, "a title")
