"""Streams: same seed same bytes whatever the chunk, rates and moments converge, memory stays flat."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cosim.errors import SpecError
from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.records import COLUMNS, ClosedLoop, Requests, joined, requests_of
from cosim.workload.requests.stream import all_requests, closed_loop, request_stream
from cosim.workload.requests.table import write_requests

Pattern = Callable[..., RequestPattern]
ARRIVALS: list[dict[str, Any]] = [
    {"kind": "poisson", "rate": 10},
    {"kind": "gamma", "rate": 10, "cv": 2},
    {"kind": "deterministic", "rate": 10},
    {"kind": "bursts", "on": 30, "off": 2, "mean_on": 0.2, "mean_off": 0.5},
    {"kind": "diurnal", "period": 60, "rates": [5, 10, 15]},
    {"kind": "piecewise", "durations": [500, 500, 4000], "rates": [5, 15, 10], "cv": 0.5},
]
SESSIONS = {"turns": {"kind": "uniform", "low": 1, "high": 4}, "think": "3 s"}
each_kind = pytest.mark.parametrize("arrivals", ARRIVALS, ids=lambda arrivals: arrivals["kind"])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bytes_of(requests: Requests) -> bytes:
    columns = [getattr(requests, name) for name in COLUMNS]
    blocks = requests.blocks
    return b"".join(column.tobytes() for column in columns + ([] if blocks is None else [blocks.offsets, blocks.ids]))


@each_kind
@pytest.mark.parametrize("sessions", [None, SESSIONS], ids=["requests", "turns"])
def test_same_seed_same_bytes_whatever_the_chunk(
    pattern: Pattern, arrivals: dict[str, Any], sessions: dict[str, Any] | None
) -> None:
    described = pattern(arrivals=arrivals, sessions=sessions, count=6000)
    first = all_requests(described, generator(3))
    cut = list(request_stream(described, generator(3), rows=700))
    assert max(len(chunk) for chunk in cut) == 700
    assert bytes_of(joined(cut)) == bytes_of(first)
    assert bytes_of(all_requests(described, generator(4))) != bytes_of(first)


@each_kind
def test_rates_converge_and_arrivals_rise(pattern: Pattern, arrivals: dict[str, Any]) -> None:
    requests = all_requests(pattern(arrivals=arrivals, count=30_000), generator(1))
    assert len(requests) == 30_000
    assert np.all(np.diff(requests.arrival_s) >= 0.0)
    assert requests.arrival_s[0] > 0.0
    assert len(requests) / requests.arrival_s[-1] == pytest.approx(10.0, rel=0.04)


def test_moments_of_lengths_converge(pattern: Pattern) -> None:
    prompt = {"kind": "lognormal", "mean": 800, "cv": 0.7}
    requests = all_requests(pattern(count=40_000, prompt=prompt, rank_correlation=0.5), generator())
    assert requests.prompt_tokens.mean() == pytest.approx(800.0, rel=0.02)
    assert requests.prompt_tokens.std() / requests.prompt_tokens.mean() == pytest.approx(0.7, rel=0.05)
    assert requests.output_tokens.mean() == pytest.approx(20.0, rel=0.01)
    assert spearmanr(requests.prompt_tokens, requests.output_tokens).statistic == pytest.approx(0.5, abs=0.02)


@settings(max_examples=25)
@given(st.integers(1, 3000), st.floats(0.5, 100), st.booleans())
def test_count_and_duration_end_a_stream(pattern: Pattern, count: int, duration: float, turns: bool) -> None:
    sessions = SESSIONS if turns else None
    both = list(request_stream(pattern(count=count, duration=duration, sessions=sessions), generator()))
    long = list(request_stream(pattern(count=None, duration=duration, sessions=sessions), generator()))
    found, timed = (sum(len(chunk) for chunk in chunks) for chunks in (both, long))
    assert found == min(count, timed)
    assert all(chunk.arrival_s[-1] < duration for chunk in long)
    if found:
        assert bytes_of(joined(both)) == bytes_of(all_requests(pattern(count=found, sessions=sessions), generator()))


def test_the_lengths_do_not_depend_on_the_arrivals(pattern: Pattern) -> None:
    first, second = (all_requests(pattern(arrivals=arrivals), generator()) for arrivals in ARRIVALS[:2])
    assert first.prompt_tokens.tolist() == second.prompt_tokens.tolist()
    assert first.arrival_s.tolist() != second.arrival_s.tolist()


def test_pairs_stay_pairs(pattern: Pattern) -> None:
    rows = [[10, 1], [20, 2], [30, 3]]
    requests = all_requests(pattern(joint={"rows": rows}, prompt=None, output=None, count=3000), generator())
    assert np.all(requests.prompt_tokens == 10 * requests.output_tokens)
    assert np.bincount(requests.output_tokens)[1:] / 3000 == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_million_requests_in_flat_memory(pattern: Pattern) -> None:
    described = pattern(count=1_000_000, sessions=SESSIONS)
    tracemalloc.start()
    try:
        stream = request_stream(described.model_copy(update={"block_tokens": 4096}), generator(), rows=8192)
        count, last = 0, 0.0
        for chunk in islice(stream, 40):
            count += len(chunk)
            assert chunk.arrival_s[0] >= last
            last = float(chunk.arrival_s[-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40 * 8192
    # All of these rows would be 18 MB without their blocks.
    assert peak < 12e6


def test_a_closed_loop_has_no_arrivals_yet(pattern: Pattern) -> None:
    described = pattern(arrivals={"kind": "closed", "concurrency": 64, "think": "2 s"}, count=10_000)
    assert closed_loop(described) == ClosedLoop(64, 2.0, 10_000)
    assert closed_loop(pattern()) is None
    requests = all_requests(described, generator())
    assert len(requests) == 10_000
    assert np.all(np.isnan(requests.arrival_s))
    assert requests.prompt_tokens.mean() == pytest.approx(200.0, rel=0.02)


def test_a_trace_is_given_out_as_it_is_or_faster(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_requests(path, iter([requests_of([0.0, 1.0, 4.0], [5, 6, 7], 1, client=[2, 0, 1])]))
    fields = {"kind": "requests", "name": "t", "title": "t", "source": "s"}
    plain = RequestPattern.model_validate({**fields, "trace": {"file": str(path)}})
    assert all_requests(plain, generator()).arrival_s.tolist() == [0.0, 1.0, 4.0]
    fast = RequestPattern.model_validate({**fields, "trace": {"file": str(path), "speed": 4}, "duration": 1})
    requests = all_requests(fast, generator())
    assert requests.arrival_s.tolist() == [0.0, 0.25]
    assert requests.client.tolist() == [2, 0]


def test_a_stream_of_nothing_says_so(pattern: Pattern, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no request comes"):
        all_requests(pattern(arrivals={"kind": "deterministic", "rate": 1}, duration=0.5), generator())
    missing = pattern(joint={"file": str(tmp_path / "none.parquet")}, prompt=None, output=None)
    with pytest.raises(SpecError, match="no such file"):
        all_requests(missing, generator())
