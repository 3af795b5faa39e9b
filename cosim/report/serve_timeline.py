"""The first steps of a serving study as a trace that Perfetto opens: a process a deployment, a track a replica.

Slices are runs of alike steps; counters follow the cache of each replica and the requests in flight on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cosim.report.timeline import MICRO, write_trace

Row = Mapping[str, Any]


def serve_timeline(rows: Iterable[Row]) -> dict[str, Any]:
    """The trace of runs of steps: rows with the columns of segments.parquet, in the order in which they began."""
    processes: dict[str, int] = {}
    tracks: dict[tuple[str, int], int] = {}
    named: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for row in rows:
        name, replica = str(row["deployment"]), int(row["replica"])
        if name not in processes:
            processes[name] = len(processes) + 1
            named.append({"name": "process_name", "ph": "M", "pid": processes[name], "args": {"name": name}})
        pid = processes[name]
        if (name, replica) not in tracks:
            tracks[name, replica] = replica + 1
            where = {"ph": "M", "pid": pid, "tid": replica + 1}
            named.append({"name": "thread_name", **where, "args": {"name": f"replica {replica}"}})
            named.append({"name": "thread_sort_index", **where, "args": {"sort_index": replica}})
        events += _shown(row, pid, replica)
    return {"traceEvents": named + events, "displayTimeUnit": "ms"}


def _shown(row: Row, pid: int, replica: int) -> list[dict[str, Any]]:
    """A slice and what is counted as it ends."""
    start, end = float(row["start_s"]) * MICRO, (float(row["start_s"]) + float(row["seconds"])) * MICRO
    decodes, prompts, steps = int(row["decodes"]), int(row["prefill_tokens"]), int(row["steps"])
    words = [f"{prompts} prompt tokens"] if prompts else []
    words += [f"{decodes} decode"] if decodes else []
    label = " + ".join(words) + (f", {steps} steps" if steps > 1 else "")
    counts = {
        f"replica {replica} KV blocks": {"held": int(row["kv_blocks"])},
        f"replica {replica} requests": {"decoding": decodes, "waiting": int(row["waiting"])},
    }
    span = {"name": label, "cat": "prefill" if prompts else "decode", "ph": "X", "pid": pid, "tid": replica + 1}
    args = {"steps": steps, "prompt_tokens": prompts, "decodes": decodes}
    return [
        {**span, "ts": start, "dur": end - start, "args": args},
        *({"name": name, "ph": "C", "pid": pid, "ts": end, "args": values} for name, values in counts.items()),
    ]


def write_serve_timeline(path: Path, rows: Iterable[Row]) -> Path:
    """Writes the trace, gzipped where the name ends in .gz, whole or not at all. Raises SpecError."""
    return write_trace(path, serve_timeline(rows))
