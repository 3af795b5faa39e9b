"""A long run as a trace that Perfetto opens: one track a cause, days on the axis.

Chrome trace event format, JSON, gzipped: `ts` and `dur` in microseconds of the run's own clock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosim.engines.goodput import GoodputRun
from cosim.report.timeline import MICRO, write_trace
from cosim.timing.goodput import LOST

TRACKS = ("training", *LOST)


def goodput_timeline(run: GoodputRun, title: str) -> dict[str, Any]:
    """The trace of a run: training first, then causes in the order of results, those that occur."""
    found = {span.resource for span in run.spans}
    tracks = {name: tid for tid, name in enumerate((name for name in TRACKS if name in found), start=1)}
    events: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": title}}]
    for name, tid in tracks.items():
        where = {"ph": "M", "pid": 1, "tid": tid}
        events.append({"name": "thread_name", **where, "args": {"name": name}})
        events.append({"name": "thread_sort_index", **where, "args": {"sort_index": tid}})
    events += [
        {
            "name": span.label,
            "cat": span.resource,
            "ph": "X",
            "pid": 1,
            "tid": tracks[span.resource],
            "ts": span.start_s * MICRO,
            "dur": (span.end_s - span.start_s) * MICRO,
        }
        for span in sorted(run.spans, key=lambda span: (span.start_s, tracks[span.resource]))
    ]
    # Perfetto shows long times as days and hours by itself.
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_goodput_timeline(path: Path, run: GoodputRun, title: str) -> Path:
    """Writes the trace, gzipped where the name ends in .gz, whole or not at all. Raises SpecError."""
    return write_trace(path, goodput_timeline(run, title))
