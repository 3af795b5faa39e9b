"""Traces row by row as requests: Azure, Mooncake, and CSV or JSON lines with columns of known names."""

from __future__ import annotations

from array import array as packed
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from cosim.errors import SpecError, nearest
from cosim.records import Array, array
from cosim.workload.requests.records import Blocks, Int, Requests, by_arrival, offsets_of, requests_of
from cosim.workload.requests.trace_lines import Place, Row, number, rows, whole

MOONCAKE_TOKENS = 512
"""Tokens of a block of Mooncake's traces: part of their format."""
_NAMES: Mapping[str, tuple[str, ...]] = {
    "arrival": ("arrival_s", "arrival", "arrived_at", "arrival_time", "TIMESTAMP",
                "Timestamp", "timestamp", "timestamp_s"),
    "arrival_ms": ("arrival_ms", "timestamp_ms"),
    "prompt": ("prompt_tokens", "input_tokens", "ContextTokens", "num_prefill_tokens", "Request tokens",
               "input_length", "input_len", "prompt_len", "prompt_length"),
    "output": ("output_tokens", "GeneratedTokens", "num_decode_tokens", "Response tokens", "output_length",
               "output_len"),
    "session": ("session", "session_id", "conversation_id"),
    "client": ("client", "client_id", "user", "user_id"),
    "priority": ("priority",),
}  # fmt: skip


@dataclass
class _Columns:
    """Columns as they grow, packed: 8 bytes a cell."""

    arrival: packed[float] = field(default_factory=lambda: packed("d"))
    prompt: packed[int] = field(default_factory=lambda: packed("q"))
    output: packed[int] = field(default_factory=lambda: packed("q"))
    session: packed[int] = field(default_factory=lambda: packed("q"))
    client: packed[int] = field(default_factory=lambda: packed("q"))
    priority: packed[int] = field(default_factory=lambda: packed("q"))
    counts: packed[int] = field(default_factory=lambda: packed("q"))
    ids: packed[int] = field(default_factory=lambda: packed("q"))


@dataclass(frozen=True, slots=True)
class TraceRows:
    """A trace as read: requests by arrival, the first at 0. Where the file has no arrivals all are 0."""

    requests: Requests
    timed: bool
    """Whether the file has arrivals."""
    sorted_already: bool
    """Whether the file had them in this order."""


def read_rows(path: Path, style: str) -> TraceRows:
    """The requests of a trace of format azure, mooncake, csv or jsonl. Raises SpecError with file and line."""
    columns = _Columns()
    names: dict[str, str] | None = None
    known: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for place, row in rows(path, as_json=style in ("mooncake", "jsonl")):
        if names is None:
            names = _columns_of(row, place)
        columns.arrival.append(_arrival(row, names, place, in_ms=style == "mooncake"))
        columns.prompt.append(whole(row, names["prompt"], place, 1))
        columns.output.append(whole(row, names["output"], place, 1))
        columns.session.append(_numbered(row, names.get("session"), known[0], place, -1))
        columns.client.append(_numbered(row, names.get("client"), known[1], place, 0))
        columns.priority.append(whole(row, names["priority"], place, -(2**31)) if "priority" in names else 0)
        if "hash_ids" in row or style == "mooncake":
            _blocks(row, columns, place)
    if names is None:
        raise SpecError("holds no request", file=path)
    return _requests(columns, path, timed="arrival" in names or "arrival_ms" in names)


def seen_before(blocks: Blocks, prompt_tokens: Int) -> Int:
    """Leading tokens of every prompt (N,) whose blocks an earlier row had too: what a cache without end could hold."""
    seen: set[int] = set()
    found = np.zeros(len(prompt_tokens), np.int64)
    for row in range(len(prompt_tokens)):
        ids = blocks.of(row).tolist()
        fresh = next((at for at, block in enumerate(ids) if block not in seen), len(ids))
        found[row] = fresh * blocks.tokens
        seen.update(ids[fresh:])
    return np.minimum(found, prompt_tokens)


def _columns_of(row: Row, place: Place) -> dict[str, str]:
    """Name of the column for each thing that a request has. Raises SpecError where lengths are missing."""
    found = {}
    for what, known in _NAMES.items():
        name = next((each for each in known if each in row), None)
        if name is not None:
            found[what] = name
    for what in ("prompt", "output"):
        if what not in found:
            best = nearest(_NAMES[what][0], [str(name) for name in row])
            hint = f"known names: {', '.join(_NAMES[what])}; {best}"
            raise SpecError(f"has no column of {what} lengths", file=place.file, line=1, hint=hint)
    return found


def _arrival(row: Row, names: dict[str, str], place: Place, *, in_ms: bool) -> float:
    """Arrival [s], not yet from zero on; 0 where the file has none."""
    if "arrival_ms" in names:
        return number(row, names["arrival_ms"], place, 0.0) / 1e3
    if "arrival" not in names:
        return 0.0
    raw = row.get(names["arrival"])
    if isinstance(raw, str) and "-" in raw[1:] and ":" in raw:
        try:
            return datetime.fromisoformat(raw.strip()).timestamp()
        except ValueError:
            raise place.fault("is not a date with a time", names["arrival"], raw) from None
    return number(row, names["arrival"], place, 0.0) / (1e3 if in_ms else 1.0)


def _numbered(row: Row, name: str | None, known: dict[str, int], place: Place, absent: int) -> int:
    """Number of a word in order of appearance; `absent` where there is none."""
    if name is None or row.get(name) in (None, ""):
        return absent
    word = row[name]
    if isinstance(word, list | dict):
        raise place.fault("must be a number or a word", name, word)
    return known.setdefault(str(word), len(known))


def _blocks(row: Row, columns: _Columns, place: Place) -> None:
    """The ids of a row's blocks. Raises SpecError."""
    ids = row.get("hash_ids")
    right = isinstance(ids, list) and all(type(each) is int and 0 <= each < 2**63 for each in ids)
    if not isinstance(ids, list) or not right:
        raise place.fault("must be a list of whole numbers", "hash_ids", ids)
    if len(ids) > -(-columns.prompt[-1] // MOONCAKE_TOKENS):
        hint = f"a block is {MOONCAKE_TOKENS} tokens"
        raise place.fault("has more blocks than the prompt", "hash_ids", len(ids), hint)
    columns.counts.append(len(ids))
    columns.ids.extend(ids)


def _requests(columns: _Columns, path: Path, *, timed: bool) -> TraceRows:
    arrival = array(columns.arrival)
    blocks = None
    if len(columns.counts):
        if len(columns.counts) != len(arrival):
            raise SpecError("has hash_ids in some lines only", file=path)
        counts = np.array(columns.counts, dtype=np.int64)
        blocks = Blocks(offsets_of(counts), np.array(columns.ids, dtype=np.int64), MOONCAKE_TOKENS)
    order = _rising(arrival)
    whole_columns = (np.array(each) for each in (columns.session, columns.priority, columns.client))
    session, priority, client = whole_columns
    plain = Requests(
        arrival - arrival.min(),
        np.array(columns.prompt),
        np.array(columns.output),
        session,
        np.zeros(len(arrival), np.int64),
        priority,
        client,
        blocks,
    )
    requests = plain if order else by_arrival(plain)
    prefix = 0 if requests.blocks is None else seen_before(requests.blocks, requests.prompt_tokens)
    made = requests_of(
        requests.arrival_s,
        requests.prompt_tokens,
        requests.output_tokens,
        session=requests.session,
        prefix=prefix,
        priority=requests.priority,
        client=requests.client,
        blocks=requests.blocks,
    )
    return TraceRows(made, timed, order)


def _rising(arrival: Array) -> bool:
    return bool(np.all(arrival[1:] >= arrival[:-1]))
