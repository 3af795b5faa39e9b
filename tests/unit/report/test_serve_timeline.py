"""The timeline of a serving study: slices, counters and tracks by hand, whatever the order of replicas."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.report.serve_timeline import serve_timeline, write_serve_timeline


@pytest.fixture(scope="module")
def made_row() -> Callable[..., dict[str, Any]]:
    def made(**changes: Any) -> dict[str, Any]:
        usual = {"start_s": 1.0, "steps": 1.0, "seconds": 0.5, "prefill_tokens": 50.0, "decodes": 2.0}
        return {"deployment": "a", **usual, "kv_blocks": 7.0, "waiting": 4.0, "replica": 0.0, **changes}

    return made


@given(places=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=30))
def test_every_deployment_is_a_process_and_every_replica_a_track(
    made_row: Callable[..., dict[str, Any]], places: list[tuple[str, int]]
) -> None:
    rows = [made_row(deployment=name, replica=float(replica)) for name, replica in places]
    events = serve_timeline(rows)["traceEvents"]
    named = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    slices = [event for event in events if event["ph"] == "X"]
    assert [(named[event["pid"]], event["tid"] - 1) for event in slices] == places
    tracks = [(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"]
    assert len(tracks) == len(set(tracks)) == len(set(places))


def test_a_file_is_whole_or_not_there(made_row: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = write_serve_timeline(tmp_path / "t.json.gz", [made_row()])
    assert json.loads(gzip.decompress(path.read_bytes())) == serve_timeline([made_row()])
    with pytest.raises(SpecError, match="cannot be written"):
        write_serve_timeline(tmp_path / "none" / "t.json", [made_row()])


def test_slices_and_counters_by_hand(made_row: Callable[..., dict[str, Any]]) -> None:
    rows = [made_row(), made_row(replica=1, decodes=3, prefill_tokens=0, steps=5, start_s=2.0)]
    events = serve_timeline(rows)["traceEvents"]
    first, second = (event for event in events if event["ph"] == "X")
    assert (first["name"], first["cat"], first["ts"], first["dur"]) == (
        "50 prompt tokens + 2 decode",
        "prefill",
        1e6,
        5e5,
    )
    assert (second["name"], second["cat"], second["tid"]) == ("3 decode, 5 steps", "decode", 2)
    counters = [event for event in events if event["ph"] == "C"]
    assert counters[0] == {"name": "replica 0 KV blocks", "ph": "C", "pid": 1, "ts": 1.5e6, "args": {"held": 7}}
    assert counters[1]["args"] == {"decoding": 2, "waiting": 4}
