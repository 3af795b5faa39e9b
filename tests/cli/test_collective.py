"""`cosim collective`: a collective on the screen, as JSON and as a timeline, and every way to ask wrongly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
ASKED = ("collective", "all_reduce", "--system", "dgx-h100", "--bytes", "64MiB", "--set", "system.nodes=2")


def asked(call: Call, *more: str) -> dict[str, Any]:
    code, out, err = call(*ASKED, *more, "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_closed_form_is_shown_alone(call: Call) -> None:
    code, out, err = call(*ASKED)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "all_reduce of 67.11 MB on 16 of 16 chips of dgx-h100 (node 8 x cluster 2)"
    assert "closed form" in out
    assert "bus bandwidth" in out
    assert "as flows" not in out


def test_flows_are_shown_beside_it_with_the_busiest_links(call: Call) -> None:
    _, out, _ = call(*ASKED, "--simulate", "--algorithm", "ring")
    row = asked(call, "--simulate", "--algorithm", "ring")
    assert row["algorithm"] == "ring"
    assert row["simulated"][0]["time_s"] == pytest.approx(row["time_s"], rel=0.01)
    assert "as flows" in out
    assert row["busiest_links"][0]["name"] in out


def test_an_algorithm_that_is_named_is_taken(call: Call) -> None:
    assert [asked(call, "--algorithm", name)["algorithm"] for name in ("ring", "tree")] == ["ring", "tree"]


def test_many_at_once_are_a_table(call: Call) -> None:
    more = ("--ranks", "2", "--stride", "8", "--repeat", "3", "--beside", "alltoall:1MiB:0-15")
    _, out, _ = call(*ASKED, *more)
    assert "4 collectives at once" in out
    assert "alltoall 3" in out
    found = asked(call, *more)["simulated"]
    assert [one["op"] for one in found] == ["all_reduce"] * 3 + ["alltoall"]


def test_what_is_degraded_late_or_busy_takes_longer(call: Call) -> None:
    plain = asked(call, "--simulate", "--algorithm", "ring")["simulated"][0]["time_s"]
    for more in (
        ("--degrade", "cluster0.node1.chip3.*=0.5"),
        ("--straggler", "4=2ms"),
        ("--background", "0:8=30GB/s"),
    ):
        assert asked(call, "--algorithm", "ring", *more)["simulated"][0]["time_s"] > plain


def test_the_timeline_is_written_and_told_on_the_side(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    code, out, err = call(*ASKED, "--timeline", path)
    assert code == 0
    assert str(path) in err
    assert "as flows" in out
    trace = json.loads(gzip.decompress(path.read_bytes()))
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X", "C"}


def test_json_goes_to_a_file_beside_the_screen(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    code, out, _ = call(*ASKED, "--json", path)
    assert (code, "closed form" in out) == (0, True)
    assert json.loads(path.read_text())["op"] == "all_reduce"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--ranks", "17"), "16 chips (node 8 x cluster 2)"),
        (("--algorithm", "rung"), "has no such all-reduce"),
        (("--degrade", "leaf7=0.5"), "no link has this name"),
        (
            ("--degrade", "cluster0.leaf1.up=0", "--algorithm", "ring"),
            "tier 'cluster': link cluster0.leaf1.up has failed",
        ),
        (("--straggler", "99=1us"), "is no chip of the system"),
        (("--background", "0-8=1GB/s"), "is not FROM:TO=10GB/s"),
        (("--beside", "alltoall"), "is not OP:BYTES:RANKS"),
        (("--set", "plan.zero=1"), "a path starts with one of system"),
        (("--timeline", "none/a.json.gz"), "cannot be written"),
    ],
)
def test_one_message_for_what_is_wrong(
    refused: Callable[[tuple[str, ...]], str], more: tuple[str, ...], said: str
) -> None:
    assert said in refused((*ASKED, *more))


@pytest.mark.parametrize(
    ("op", "size", "said"), [("sum", "1MB", "unknown collective"), ("all_reduce", "1s", "wrong unit")]
)
def test_unknown_operations_and_units(refused: Callable[[tuple[str, ...]], str], op: str, size: str, said: str) -> None:
    assert said in refused(("collective", op, "--system", "dgx-h100", "--bytes", size))
