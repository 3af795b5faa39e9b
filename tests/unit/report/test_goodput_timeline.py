"""The timeline of a long run: a track a cause, times of the run, equal files for equal runs."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from cosim.engines.goodput import GoodputRun, simulate_run
from cosim.errors import SpecError
from cosim.report.goodput_timeline import TRACKS, goodput_timeline, write_goodput_timeline
from cosim.timing.goodput import Cause, LongRun, Stragglers

RUN = LongRun(
    10 * 86400.0,
    3600.0,
    30.0,
    0.0,
    300.0,
    (Cause("gpu", 1e-4, 60.0, 86400.0), Cause("planned", 1e-5, planned=True)),
    8,
    spares=1,
    stragglers=Stragglers(0.02),
)


@pytest.fixture(scope="module")
def run() -> GoodputRun:
    return simulate_run(RUN, np.random.default_rng(2), spans=True)


def test_every_cause_that_occurs_has_a_track_in_order(run: GoodputRun) -> None:
    events = goodput_timeline(run, "a run")["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    lost = {name for name, time_s in run.lost_s.items() if time_s > 0.0}
    assert names == [name for name in TRACKS if name in {"training", *lost}]
    assert events[0]["args"]["name"] == "a run"


def test_slices_are_the_spans_in_microseconds(run: GoodputRun) -> None:
    slices = [event for event in goodput_timeline(run, "a run")["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == len(run.spans)
    assert max(each["ts"] + each["dur"] for each in slices) == pytest.approx(run.wall_s * 1e6)
    assert [each["ts"] for each in slices] == sorted(each["ts"] for each in slices)
    waited = sum(each["dur"] for each in slices if each["cat"] == "waiting")
    assert waited == pytest.approx(run.lost_s["waiting"] * 1e6)


def test_slices_of_a_track_do_not_overlap(run: GoodputRun) -> None:
    for track in TRACKS:
        spans = sorted((span.start_s, span.end_s) for span in run.spans if span.resource == track)
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert start >= end - 1e-6, track


def test_a_file_is_written_whole_or_refused(run: GoodputRun, tmp_path: Path) -> None:
    first, second = (write_goodput_timeline(tmp_path / name, run, "a run") for name in ("a.json.gz", "b.json.gz"))
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(gzip.decompress(first.read_bytes()))["traceEvents"]
    with pytest.raises(SpecError, match="cannot be written"):
        write_goodput_timeline(tmp_path / "none" / "a.json", run, "a run")
