"""Descriptions of requests: units, what belongs together, what is refused and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.schema import validated
from cosim.workload.requests.description import RequestPattern

Pattern = Callable[..., RequestPattern]
SESSIONS = {"turns": {"kind": "fixed", "tokens": 3}, "think": "10 s"}


def refused(pattern: Pattern, **changes: object) -> SpecError:
    raw: dict[str, Any] = pattern().model_dump(exclude_unset=True)
    raw = {name: value for name, value in {**raw, **changes}.items() if value is not None}
    with pytest.raises(SpecError) as caught:
        validated(RequestPattern, raw)
    return caught.value


def test_numbers_may_have_their_units(pattern: Pattern) -> None:
    arrivals = {"kind": "bursts", "on": "2 kHz", "off": 0, "mean_on": "1 min", "mean_off": "500 ms"}
    found = pattern(arrivals=arrivals, duration="2 h").arrivals
    assert found is not None
    assert found.kind == "bursts"
    assert (found.on, found.off, found.mean_on, found.mean_off) == (2000.0, 0.0, 60.0, 0.5)
    assert pattern(duration="2 h").duration == 7200.0


def test_without_more_there_is_one_client_and_nothing_is_shared(pattern: Pattern) -> None:
    plain = pattern()
    assert [client.share for client in plain.clients] == [1.0]
    assert (plain.sessions, plain.system_prompts, plain.rank_correlation) == (None, None, 0.0)


@pytest.mark.parametrize("kind", ["poisson", "gamma", "deterministic", "bursts", "diurnal", "piecewise", "closed"])
def test_every_kind_of_arrivals_can_be_described(pattern: Pattern, kind: str) -> None:
    fields: dict[str, dict[str, object]] = {
        "gamma": {"rate": 1, "cv": 2},
        "bursts": {"on": 5, "off": 1, "mean_on": 10, "mean_off": 10},
        "diurnal": {"period": "24 h", "rates": [1, "2 Hz", 0]},
        "piecewise": {"durations": ["10 s", 20], "rates": [1, 0]},
        "closed": {"concurrency": 8},
    }
    found = pattern(arrivals={"kind": kind, **fields.get(kind, {"rate": 1})}).arrivals
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"arrivals": {"kind": "gamma", "rate": 5, "cv": -1}}, "arrivals.cv", "greater than or equal"),
        ({"arrivals": {"kind": "gamma", "rate": 5, "vc": 1}}, "arrivals.vc", "unknown field"),
        ({"arrivals": {"kind": "poisson", "rate": "5 s"}}, "arrivals.rate", "wrong unit"),
        ({"arrivals": {"kind": "poisson", "rate": 0}}, "arrivals.rate", "greater than 0"),
        ({"arrivals": {"kind": "diurnal", "period": 9, "rates": [0, 0]}}, "arrivals.rates", "nothing ever comes"),
        ({"arrivals": {"kind": "piecewise", "durations": [1], "rates": [1, 2]}}, "arrivals.rates", "every duration"),
        ({"arrivals": {"kind": "piecewise", "durations": [1], "rates": [0]}}, "arrivals.rates", "nothing ever comes"),
        ({"arrivals": None}, "arrivals", "is missing"),
        ({"prompt": None}, "prompt", "is missing"),
        ({"output": None}, "output", "is missing"),
        ({"count": None}, "count", "never ends"),
        ({"joint": {"rows": [[1, 2]]}}, "joint", "one or the other"),
        ({"joint": {"rows": [[1, 2]], "file": "x"}, "prompt": None, "output": None}, "joint", "rows and a file"),
        ({"joint": {"rows": [[1, 0]]}, "prompt": None, "output": None}, "joint.rows.0.1", "greater than or equal"),
        ({"clients": [{"share": 0.4}, {"share": 0.4}]}, "clients", "not 1 in all"),
        ({"clients": []}, "clients", "at least 1"),
        ({"trace": {"file": "x.parquet"}, "arrivals": None}, "prompt", "a trace says it already"),
        ({"rank_correlation": 1.5}, "rank_correlation", "less than or equal"),
        ({"system_prompts": {"share": 0, "tokens": 5}}, "system_prompts.share", "greater than 0"),
        ({"arrivals": {"kind": "closed", "concurrency": 4}, "count": None}, "count", "closed loop"),
        ({"arrivals": {"kind": "closed", "concurrency": 4}, "duration": 5}, "count", "closed loop"),
        ({"arrivals": {"kind": "closed", "concurrency": 4}, "sessions": SESSIONS}, "sessions", "a request a turn"),
        ({"promt": 5}, "promt", "nearest: prompt"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_field(
    pattern: Pattern, changes: dict[str, object], field: str, said: str
) -> None:
    error = refused(pattern, **changes)
    assert error.field == field
    assert said in str(error)


def test_pieces_end_by_themselves_and_a_trace_too(pattern: Pattern) -> None:
    arrivals = {"kind": "piecewise", "durations": [10], "rates": [1]}
    assert pattern(arrivals=arrivals, count=None).count is None
    alone = {"kind": "requests", "name": "t", "title": "t", "source": "s", "trace": {"file": "t.parquet", "speed": 2}}
    found = RequestPattern.model_validate(alone).trace
    assert found is not None
    assert (found.file, found.speed) == ("t.parquet", 2.0)
