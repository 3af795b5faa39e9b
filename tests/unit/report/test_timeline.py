"""A run of the event engine as a trace: every span a slice on its resource's track, in files that hold still."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.events import EventRun, Span
from cosim.errors import SpecError
from cosim.explore.request import estimate_request
from cosim.explore.simulate import simulated
from cosim.report.timeline import timeline, write_timeline

RESOURCES = (
    "stage 0",
    "stage 1",
    "stage 10",
    "link 0 to 1, forward",
    "link 1 to 0, backward",
    "data ranks of stage 0",
    "link 3",
)
MILLI = st.integers(0, 10_000).map(lambda number: number / 1000.0)
SPANS = st.lists(
    st.builds(
        lambda resource, label, start, long: Span(resource, label, start, start + long),
        st.sampled_from(RESOURCES),
        st.sampled_from(["forward 0", "backward 12 piece 1", "optimizer", "step 3 micro-batch 0", 'quoted "label"']),
        MILLI,
        MILLI,
    ),
    max_size=30,
)
ASKED = {
    "train": {
        "plan.tensor_parallel": 2,
        "plan.pipeline_parallel": 2,
        "plan.data_parallel": 2,
        "plan.zero": 1,
        "plan.recompute": "full",
        "scenario.global_batch": 8,
    },
    "decode": {"plan.tensor_parallel": 2, "plan.pipeline_parallel": 4, "plan.micro_batches": 4, "scenario.batch": 16},
    "prefill": {"plan.tensor_parallel": 2, "plan.pipeline_parallel": 4, "plan.micro_batches": 4, "scenario.batch": 16},
}


def run_of(spans: list[Span]) -> EventRun:
    end = max((span.end_s for span in spans), default=0.0)
    return EventRun(end, tuple(spans), (end,))


def tracks_of(trace: dict[str, Any]) -> dict[int, str]:
    """Names by number, in the order of the file."""
    return {one["tid"]: one["args"]["name"] for one in trace["traceEvents"] if one["name"] == "thread_name"}


def slices_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in trace["traceEvents"] if one["ph"] == "X"]


@pytest.fixture(scope="module")
def ran() -> dict[str, EventRun]:
    return {
        phase: simulated(estimate_request(phase, "dgx-h100", "llama-3.1-8b", settings).case)
        for phase, settings in ASKED.items()
    }


@settings(max_examples=60, deadline=None)
@given(spans=SPANS)
def test_every_span_is_a_slice_on_the_track_of_its_resource_in_microseconds(spans: list[Span]) -> None:
    trace = timeline(run_of(spans), "a title")
    tracks = tracks_of(trace)
    assert list(tracks) == list(range(1, len(tracks) + 1))
    assert set(tracks.values()) == {span.resource for span in spans}
    slices = slices_of(trace)
    shown = sorted((tracks[one["tid"]], one["name"], one["ts"], one["dur"]) for one in slices)
    wanted = sorted((s.resource, s.label, s.start_s * 1e6, (s.end_s - s.start_s) * 1e6) for s in spans)
    assert shown == wanted
    assert all(before["ts"] <= after["ts"] for before, after in pairwise(slices))
    assert {one["pid"] for one in trace["traceEvents"]} == {1}
    assert all(one["cat"] == tracks[one["tid"]].split()[0] for one in slices)


def test_names_come_first_and_are_sorted_as_they_are_numbered() -> None:
    spans = [Span(resource, "x", 0.0, 1.0) for resource in reversed(RESOURCES)]
    events = timeline(run_of(spans), "a title")["traceEvents"]
    kinds = [one["ph"] for one in events]
    assert kinds == ["M"] * (1 + 2 * len(RESOURCES)) + ["X"] * len(RESOURCES)
    assert events[0] == {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "a title"}}
    order = {one["tid"]: one["args"]["sort_index"] for one in events if one["name"] == "thread_sort_index"}
    assert order == {tid: tid for tid in range(1, len(RESOURCES) + 1)}


def test_tracks_lie_stage_by_stage_with_what_belongs_to_each() -> None:
    spans = [Span(resource, "x", 0.0, 1.0) for resource in RESOURCES]
    assert list(tracks_of(timeline(run_of(spans), "")).values()) == [
        "stage 0",
        "data ranks of stage 0",
        "link 0 to 1, forward",
        "stage 1",
        "link 1 to 0, backward",
        "link 3",
        "stage 10",
    ]


def test_a_run_without_spans_is_a_trace_without_tracks() -> None:
    assert timeline(run_of([]), "nothing")["traceEvents"] == [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "nothing"}}
    ]


@pytest.mark.parametrize("phase", sorted(ASKED))
def test_slices_of_a_step_lie_side_by_side_and_end_with_it(ran: dict[str, EventRun], phase: str) -> None:
    trace = timeline(ran[phase], phase)
    for tid in tracks_of(trace):
        own = [one for one in slices_of(trace) if one["tid"] == tid]
        assert own
        for before, after in pairwise(own):
            assert after["ts"] >= before["ts"] + before["dur"] - 1e-3
    last = max(one["ts"] + one["dur"] for one in slices_of(trace))
    # The host comes after the last update of a training step.
    assert last / 1e6 <= ran[phase].step_ends_s[-1] * (1 + 1e-12)


def test_a_training_step_shows_stages_links_and_traffic(ran: dict[str, EventRun]) -> None:
    tracks = list(tracks_of(timeline(ran["train"], "")).values())
    assert tracks == [
        "stage 0",
        "data ranks of stage 0",
        "link 0 to 1, forward",
        "stage 1",
        "data ranks of stage 1",
        "link 1 to 0, backward",
    ]
    assert len(slices_of(timeline(ran["train"], ""))) == len(ran["train"].spans)


@pytest.mark.parametrize("name", ["step.json", "step.json.gz"])
def test_a_file_holds_the_trace_and_equal_runs_give_equal_files(
    ran: dict[str, EventRun], tmp_path: Path, name: str
) -> None:
    path = write_timeline(tmp_path / name, ran["train"], "a step")
    read: Callable[[bytes], bytes] = gzip.decompress if name.endswith(".gz") else bytes
    assert json.loads(read(path.read_bytes())) == timeline(ran["train"], "a step")
    again = write_timeline(tmp_path / f"again-{name}", ran["train"], "a step")
    assert again.read_bytes() == path.read_bytes()
    assert {one.name for one in tmp_path.iterdir()} == {name, f"again-{name}"}


def test_a_file_that_is_there_is_replaced(ran: dict[str, EventRun], tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text("older", encoding="utf-8")
    write_timeline(tmp_path / "step.json", ran["decode"], "newer")
    assert json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))["displayTimeUnit"] == "ms"


def test_what_cannot_be_written_is_refused_and_leaves_nothing(ran: dict[str, EventRun], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be written: No such file or directory; name another --timeline"):
        write_timeline(tmp_path / "none" / "step.json.gz", ran["train"], "")
    assert list(tmp_path.iterdir()) == []
