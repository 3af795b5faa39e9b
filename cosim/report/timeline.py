"""A run of the event engine as a trace that Perfetto opens: one track a resource, one slice an occupied interval.

Chrome trace event format, JSON, gzipped: `ts` and `dur` in microseconds, `pid` 1, `tid` one per resource.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from cosim.engines.events import EventRun
from cosim.errors import SpecError

MICRO = 1e6


def timeline(run: EventRun, title: str) -> dict[str, Any]:
    """The trace of a run: names of tracks first, stages by number with what belongs to them, then slices by start."""
    tracks = {name: index for index, name in enumerate(dict.fromkeys(_in_order(run)), start=1)}
    named: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": title}},
        *(_named("thread_name", "name", name, tid) for name, tid in tracks.items()),
        *(_named("thread_sort_index", "sort_index", tid, tid) for tid in tracks.values()),
    ]
    slices = [
        {
            "name": span.label,
            "cat": span.resource.split()[0],
            "ph": "X",
            "pid": 1,
            "tid": tracks[span.resource],
            "ts": span.start_s * MICRO,
            "dur": (span.end_s - span.start_s) * MICRO,
        }
        for span in sorted(run.spans, key=lambda span: (span.start_s, tracks[span.resource]))
    ]
    return {"traceEvents": named + slices, "displayTimeUnit": "ms"}


def write_timeline(path: Path, run: EventRun, title: str) -> Path:
    """Writes the trace, gzipped where the name ends in .gz, whole or not at all. Raises SpecError."""
    return write_trace(path, timeline(run, title))


def write_trace(path: Path, trace: dict[str, Any]) -> Path:
    """Writes any trace in the same way. Raises SpecError."""
    text = json.dumps(trace)
    draft = path.with_name(path.name + ".draft")
    try:
        if path.suffix == ".gz":
            # No name and no time of writing inside: equal runs give equal files.
            draft.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            draft.write_text(text, encoding="utf-8")
        draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        reason = error.strerror or type(error).__name__
        raise SpecError(f"cannot be written: {reason}", file=path, hint="name another --timeline") from None
    return path


def _in_order(run: EventRun) -> list[str]:
    """Resources: stages with what belongs to them, by number."""

    def place(resource: str) -> tuple[int, int, str]:
        numbers = [int(word) for word in resource.split() if word.isdigit()]
        return (numbers[0] if numbers else -1), 0 if resource.startswith("stage") else 1, resource

    return sorted({span.resource for span in run.spans}, key=place)


def _named(kind: str, key: str, value: object, tid: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 1, "tid": tid, "args": {key: value}}
