"""Descriptions of requests as lists and details: what `cosim list` and `cosim show` print of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import BaseModel

from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.stream import request_stream
from cosim.workload.requests.summary import summary_of

Item = dict[str, Any]
DRAWN = 20_000
"""Requests that are drawn to say what a description is like."""
_ABOUT = ("kind", "name", "title", "source")


def request_facts(pattern: RequestPattern) -> Item:
    """The main words of a description: how requests come."""
    if pattern.trace is not None:
        return {"title": pattern.title, "arrivals": f"trace {pattern.trace.file.rpartition('/')[2]}"}
    arrivals = pattern.arrivals
    facts = {"title": pattern.title, "arrivals": "unknown" if arrivals is None else arrivals.kind}
    return facts if pattern.sessions is None else {**facts, "turns": pattern.sessions.turns.kind}


def request_details(pattern: RequestPattern) -> Item:
    """What a description says, with its source, and what the first of its requests are like with seed 0.

    Raises SpecError where a file that it names cannot be read.
    """
    given = [
        {"path": path, "value": value, "kind": "given", "source": pattern.source, "note": ""}
        for name in type(pattern).model_fields
        if name not in _ABOUT and name in pattern.model_fields_set
        for path, value in _below(getattr(pattern, name), name)
    ]
    few = pattern.model_copy(update={"count": min(pattern.count or DRAWN, DRAWN)})
    about = summary_of(request_stream(few, np.random.default_rng(0))).to_row()
    source = f"first {about['requests']:,} requests, seed 0"
    derived = [
        {"path": path, "value": f"{value:,.6g}", "kind": "derived", "source": source, "note": ""}
        for path, value in about.items()
        if value is not None
    ]
    return {"title": pattern.title, "data": given, "derived": derived}


def _below(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Every value below a field by its path; lists of numbers in one line."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name in value.model_fields_set:
                yield from _below(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, each in enumerate(value):
            yield from _below(each, f"{path}.{index}")
    elif isinstance(value, tuple):
        yield path, " ".join(f"{each:g}" if isinstance(each, float | int) else str(each) for each in value[:20])
    else:
        yield path, f"{value:g}" if isinstance(value, float) else str(value)
