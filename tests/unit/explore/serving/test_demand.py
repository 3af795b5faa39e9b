"""Requests of a study: in place, by name, beside it; another rate; as the simulation takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.explore.serving.demand import block_tokens_of, chunks_of, hashes_of_data, loop_of, pattern_of, varied_pattern
from cosim.explore.serving.serve_file import ServingScenario
from cosim.workload.requests.description import RequestPattern
from cosim.workload.requests.records import Blocks, requests_of
from cosim.workload.requests.table import write_requests

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Pattern = Callable[..., RequestPattern]
TEXT = """\
kind: requests
name: mine
title: mine
source: a test
count: 3
arrivals: {kind: deterministic, rate: 1 Hz}
prompt: {kind: fixed, tokens: 7}
output: {kind: fixed, tokens: 3}
"""


def test_a_name_a_file_beside_the_study_and_a_description(tmp_path: Path, pattern: Pattern) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT, encoding="utf-8")
    found, files = pattern_of("mine.yaml", tmp_path)
    assert (found.count, files) == (3, [tmp_path / "mine.yaml"])
    assert pattern_of("chat")[0].name == "chat"
    assert pattern_of(pattern()) == (pattern(), [])
    with pytest.raises(SpecError, match="no description of requests has this name"):
        pattern_of("chatt", tmp_path)


def test_another_rate_count_or_concurrency(pattern: Pattern) -> None:
    changed = varied_pattern(pattern(), ServingScenario(rate=50.0, count=9))
    assert changed.count == 9
    assert changed.arrivals is not None
    assert changed.arrivals.kind == "poisson"
    assert changed.arrivals.rate == 50.0
    closed = pattern(arrivals={"kind": "closed", "concurrency": 2})
    assert varied_pattern(closed, ServingScenario(concurrency=7)).arrivals.concurrency == 7  # type: ignore[union-attr]  # closed
    assert varied_pattern(closed, ServingScenario()) is closed


@pytest.mark.parametrize(
    ("fields", "asked", "message"),
    [
        ({"arrivals": {"kind": "closed", "concurrency": 2}}, {"rate": 3.0}, r"scenario\.rate: is not one of these"),
        ({}, {"concurrency": 3}, r"scenario\.concurrency: is of a closed loop"),
    ],
)
def test_what_requests_have_not(pattern: Pattern, fields: dict[str, Any], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        varied_pattern(pattern(**fields), ServingScenario(**asked))


def test_chunks_are_the_requests(pattern: Pattern) -> None:
    chunks = list(chunks_of(pattern(20_000), np.random.default_rng(0), 0))
    assert sum(len(chunk.arrival_s) for chunk in chunks) == 20_000
    assert len(chunks) == 3
    assert all(np.all(chunk.prompt_tokens == 256) and chunk.block_ids is None for chunk in chunks)
    assert chunks[1].arrival_s[0] >= chunks[0].arrival_s[-1]


def test_users_of_a_closed_loop_pass_the_front_end_again(pattern: Pattern) -> None:
    closed = pattern(arrivals={"kind": "closed", "concurrency": 2, "think": "3 s"})
    (chunk,) = chunks_of(closed, np.random.default_rng(0), 0)
    assert np.all(chunk.arrival_s == 0.0)
    loop = loop_of(closed, 0.5)
    assert loop is not None
    assert (loop.concurrency, loop.think_s, loop.total) == (2, 3.5, 200)
    assert loop_of(pattern(), 0.5) is None


def test_shared_text_is_named_where_it_is_cached(pattern: Pattern) -> None:
    shared = pattern(system_prompts={"share": 1.0, "tokens": 64}, block_tokens=32)
    assert block_tokens_of(shared) == 32
    assert block_tokens_of(pattern()) is None
    (chunk,) = chunks_of(shared, np.random.default_rng(0), 32)
    assert chunk.block_offsets is not None
    assert chunk.block_ids is not None
    first = chunk.block_ids[chunk.block_offsets[:-1]]
    assert np.all(first == first[0])
    (bare,) = chunks_of(shared, np.random.default_rng(0), 0)
    assert bare.block_ids is None
    with pytest.raises(SpecError, match=r"scheduler\.prefix_tokens: are other blocks.*blocks of 32 tokens"):
        list(chunks_of(shared, np.random.default_rng(0), 16))


def test_a_trace_says_its_own_blocks(tmp_path: Path) -> None:
    blocks = Blocks(np.array([0, 1, 3]), np.array([5, 5, 6]), 512)
    requests = requests_of([0.0, 1.0], [600, 1100], [5, 5], blocks=blocks)
    write_requests(tmp_path / "log.parquet", iter([requests]))
    text = "kind: requests\nname: log\ntitle: log\nsource: test\ntrace: {file: log.parquet}\n"
    (tmp_path / "log.yaml").write_text(text, encoding="utf-8")
    pattern, _ = pattern_of("log.yaml", tmp_path)
    assert block_tokens_of(pattern) == 512
    (chunk,) = chunks_of(pattern, np.random.default_rng(0), 512)
    assert chunk.prompt_tokens.tolist() == [600, 1100]
    (digest,) = hashes_of_data(pattern).values()
    assert digest == hashlib.sha256((tmp_path / "log.parquet").read_bytes()).hexdigest()
    (tmp_path / "log.parquet").unlink()
    with pytest.raises(SpecError, match=r"log\.parquet: cannot be read"):
        hashes_of_data(pattern)


def test_what_is_drawn_reads_no_table(pattern: Pattern) -> None:
    assert hashes_of_data(pattern()) == {}
