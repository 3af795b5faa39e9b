"""A collective as it is typed: groups, texts with units, and what is wrong with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cosim.engines.network.simulate import Request
from cosim.errors import SpecError
from cosim.explore.collective import Asked, closed_form, collective_request, one_point
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
TWO = {"system.nodes": 2}
ASKED = Asked("all_reduce", "dgx-h100", "64MiB")


def test_the_closed_form_alone_runs_no_flows() -> None:
    answer = collective_request(ASKED, TWO)
    row = answer.to_row()
    assert answer.run is None
    assert (row["simulated"], row["busiest_links"], row["flows"]) == (None, None, None)
    assert (row["bytes"], row["ranks"], row["chips"]) == (64 * 2**20, 16, 16)
    assert row["tiers"] == {"node": 8, "cluster": 2}
    assert row["bus_bandwidth"] == pytest.approx(row["bytes"] / row["time_s"] * 2 * 15 / 16)


def test_flows_are_run_where_they_are_asked_for() -> None:
    row = collective_request(replace(ASKED, simulate=True), TWO).to_row()
    (one,) = row["simulated"]
    assert one["time_s"] == pytest.approx(row["time_s"], rel=0.01)
    assert one["closed_form_s"] == row["time_s"]
    # A chip's own ports carry all of it, eight cards a node together no less.
    assert row["busiest_links"][0]["name"].startswith("node")


@pytest.mark.parametrize(
    "given",
    [
        {"repeat": 2, "ranks": 8},
        {"beside": ("alltoall:1MiB:4",)},
        {"degrade": ("node0.chip0.up=0.5",)},
        {"straggler": ("1=20us",)},
        {"background": ("0:8=1GB/s",)},
    ],
)
def test_whatever_needs_flows_asks_for_them(given: dict[str, object]) -> None:
    assert replace(ASKED, **given).as_flows  # type: ignore[arg-type]
    assert collective_request(replace(ASKED, **given), TWO).run is not None  # type: ignore[arg-type]


def test_groups_beside_each_other_are_counted() -> None:
    answer = collective_request(replace(ASKED, ranks=2, stride=8, repeat=8), TWO)
    assert answer.run is not None
    assert [one.ranks for one in answer.run.outcomes] == [2] * 8
    assert answer.request.chips == (0, 8)


@pytest.mark.parametrize(("ranks", "number"), [("4", 4), ("8-15", 8), ("0,8", 2), ("3", 3)])
def test_ranks_beside_are_a_number_a_range_or_a_list(ranks: str, number: int) -> None:
    answer = collective_request(replace(ASKED, ranks=8, beside=(f"alltoall:1MiB:{ranks}",)), TWO)
    assert answer.run is not None
    assert answer.run.outcomes[1].ranks == number
    assert answer.run.outcomes[1].size == 2**20


def test_a_transfer_has_two_chips_unless_told() -> None:
    assert collective_request(replace(ASKED, op="send_recv"), TWO).request.chips == (0, 1)
    assert collective_request(replace(ASKED, op="send_recv", ranks=2, stride=8), TWO).request.chips == (0, 8)


def test_units_of_delays_and_rates() -> None:
    plain = collective_request(replace(ASKED, simulate=True), TWO).to_row()["simulated"][0]["time_s"]
    late = collective_request(replace(ASKED, straggler=("3=250us",)), TWO).to_row()["simulated"][0]["time_s"]
    assert late - plain == pytest.approx(250e-6)
    busy = collective_request(replace(ASKED, background=("0:8=20GB/s",)), TWO).to_row()["simulated"][0]["time_s"]
    assert busy > plain


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ranks": 17}, r"1 x 17 ranks are more than the system.*16 chips \(node 8 x cluster 2\)"),
        ({"ranks": 8, "repeat": 3}, "3 x 8 ranks are more"),
        ({"ranks": 0}, "ranks: is less than 1"),
        ({"ranks": 4, "stride": 8}, "is no chip of the system"),
        ({"size": "64 furlongs"}, "bytes: unknown unit"),
        ({"size": "64 GB/s"}, "bytes: wrong unit"),
        ({"op": "all_redux"}, "op: unknown collective"),
        ({"algorithm": "rung"}, "no tier has such a collective"),
        ({"degrade": ("node0.chip0.up",)}, "degrade: is not LINK=0.5"),
        ({"degrade": ("node0.chip0.up=slow",)}, "degrade: is not a number"),
        ({"degrade": ("node9.chip0.up=0.5",)}, "no link has this name"),
        ({"straggler": ("one=20us",)}, "is no number of a chip"),
        ({"straggler": ("1=20MB",)}, "straggler: wrong unit"),
        ({"background": ("0=20GB/s",)}, "background: is not FROM:TO=10GB/s"),
        ({"background": ("0:8",)}, "background: is not FROM:TO=10GB/s"),
        ({"beside": ("alltoall:1MiB",)}, "beside: is not OP:BYTES:RANKS"),
        ({"beside": ("alltoall:1MiB:9-8",)}, "beside: names no chips"),
        ({"beside": ("alltoall:1MiB:20-24",)}, "is no chip of the system"),
        ({"system": "dgx-h1000"}, "dgx-h1000"),
    ],
)
def test_what_is_wrong_is_told(given: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        collective_request(replace(ASKED, **given), TWO)  # type: ignore[arg-type]


def test_only_the_system_can_be_set() -> None:
    with pytest.raises(SpecError, match="a path starts with one of system"):
        collective_request(ASKED, {"plan.tensor_parallel": 2})


def test_flows_are_of_one_point() -> None:
    system = lower_system(vary_system(Varied(load_system("dgx-h100")), {"nodes": np.array([1.0, 2.0])}))
    with pytest.raises(SpecError, match="is more than one point"):
        one_point(system)
    with pytest.raises(SpecError, match="is more than one point"):
        closed_form(system, Request("all_reduce", 1e6, (0, 1)))
