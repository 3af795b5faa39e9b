"""A run of the network as a trace that Perfetto opens: tracks of collectives, counters of the busiest links.

Chrome trace event format, JSON, gzipped: `ts` and `dur` in microseconds, counters in percent of a link.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cosim.engines.network.simulate import NetworkRun
from cosim.report.timeline import MICRO, write_trace

COUNTERS = 12
"""Links that are drawn."""


def network_timeline(run: NetworkRun, title: str) -> dict[str, Any]:
    """The trace of a run: names of tracks, slices of every phase from its first byte to its end, use of links."""
    events: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": title}}]
    for track, outcome in enumerate(run.outcomes, start=1):
        where = {"pid": 1, "tid": track}
        events.append({"name": "thread_name", "ph": "M", **where, "args": {"name": outcome.name}})
        events.append({"name": "thread_sort_index", "ph": "M", **where, "args": {"sort_index": track}})
        label = f"{outcome.op}, {outcome.algorithm}"
        whole = [(label, outcome.start_s, outcome.end_s)]
        phases = sorted({phase for phase in outcome.phases if phase[2] > phase[1]}, key=lambda each: each[1:])
        for name, start, end in (*whole, *_lone(phases)):
            events.append(
                {
                    "name": name,
                    "cat": outcome.op,
                    "ph": "X",
                    **where,
                    "ts": start * MICRO,
                    "dur": (end - start) * MICRO,
                }
            )
    return {"traceEvents": events + _counters(run), "displayTimeUnit": "ms"}


def write_network_timeline(path: Path, run: NetworkRun, title: str) -> Path:
    """Writes the trace, gzipped where the name ends in .gz, whole or not at all. Raises SpecError."""
    return write_trace(path, network_timeline(run, title))


def _lone(phases: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Phases that do not overlap one before them: slices of one track must nest."""
    found: list[tuple[str, float, float]] = []
    for phase in phases:
        if not found or phase[1] >= found[-1][2]:
            found.append(phase)
    return found


def _counters(run: NetworkRun) -> list[dict[str, Any]]:
    """Use of the busiest links, one event where it changes."""
    used = np.divide(run.carried, run.capacity, out=np.zeros_like(run.carried), where=run.capacity > 0.0)
    events: list[dict[str, Any]] = []
    for (name, _), link in zip(run.busiest(COUNTERS), np.argsort(-used, kind="stable"), strict=False):
        starts, share = run.series(int(link))
        changed = np.flatnonzero(np.diff(share, prepend=-1.0))
        events += [
            {"name": name, "ph": "C", "pid": 1, "ts": float(starts[i]) * MICRO, "args": {"percent": 100 * share[i]}}
            for i in changed
        ]
    return sorted(events, key=lambda event: float(event["ts"]))
