"""Serving: limits hold in every step, tokens add up, and who should gain by a setting does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cosim.engines.serving.cluster import serve
from cosim.engines.serving.layout import USUAL, Layout
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.result import SEGMENT, ServingRun
from cosim.engines.serving.settings import Cluster, Pool, Routing, Scheduler, Swap
from cosim.engines.serving.table import StepTable
from cosim.records import Array

TOKENS, CONTEXTS = np.array([1.0, 30.0, 3000.0]), np.array([1.0, 100.0, 5000.0])
GRID = TOKENS[:, None] * CONTEXTS
TABLE = StepTable(TOKENS, CONTEXTS, 4e-3 + 1e-5 * TOKENS, 1e-6 * TOKENS, 1e-9 * GRID, 2e-8 * GRID)
PLAIN = Scheduler(300, token_budget=128, max_sequences=10, block_tokens=8)
SCHEDULERS = st.builds(
    Scheduler,
    st.sampled_from([120, 300]),
    st.just("chunked"),
    st.sampled_from(["first_come", "priority", "fair", "shortest"]),
    st.sampled_from([32, 128]),
    st.integers(1, 20),
    st.just(8),
    st.sampled_from([0.0, 0.05]),
    st.just(Swap(1e4, 1e9)),
    st.sampled_from([0, 8, 32]),
    layout=st.sampled_from([USUAL, Layout(3), Layout(0, 3, 1, 100)]),
)


def chunks(count: int, rate: float, seed: int, size: int = 64, output: int = 30) -> Iterator[Chunk]:
    """Poisson requests of three clients and classes, a quarter of them turns of a few sessions."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1.0 / rate, count))
    prompt = np.minimum(random.geometric(1.0 / 80, count), 400)
    answers = np.minimum(random.geometric(1.0 / output, count), 200)
    kinds = random.integers(0, 3, (2, count))
    session = np.where(random.random(count) < 0.25, random.integers(0, 5, count), -1)
    for start in range(0, count, size):
        part = slice(start, start + size)
        yield Chunk(arrivals[part], prompt[part], answers[part], kinds[0, part], kinds[1, part], session[part])


def run(scheduler: Scheduler, *made: Any, replicas: int = 1, routing: Routing = "round_robin", **more: Any) -> Any:
    """Totals, records [N, 12], segments by column."""
    records: list[Any] = []
    segments: list[Any] = []
    cluster = Cluster(Pool(TABLE, scheduler, replicas), routing)
    totals = serve(
        cluster,
        chunks(*made, **more),
        np.random.default_rng(0),
        records=records.extend,
        segments=segments.extend,
        check=True,
    )
    columns = dict(zip(SEGMENT, np.array(segments, dtype=np.float64).T, strict=True))
    return totals, np.array(sorted(records), dtype=np.float64), columns


@given(SCHEDULERS, st.integers(0, 10**6), st.sampled_from([10.0, 300.0]), st.integers(1, 3))
@examples(max_examples=40)
def test_limits_hold_and_tokens_add_up(scheduler: Scheduler, seed: int, rate: float, replicas: int) -> None:
    if scheduler.token_budget < scheduler.max_sequences:
        scheduler = replace(scheduler, max_sequences=scheduler.token_budget)
    totals, records, segments = run(scheduler, 60, rate, seed, replicas=replicas)
    assert totals.finished + sum(totals.refused.values()) == 60
    assert segments["decodes"].max() <= scheduler.max_sequences
    assert segments["kv_blocks"].max() <= scheduler.kv_blocks
    assert np.all(segments["prefill_tokens"] + segments["decodes"] <= scheduler.token_budget)
    assert np.all(segments["seconds"] > 0.0)
    # Whoever decodes in a step is given a token; each prompt gives its first (moves to the host lose nothing).
    assert np.sum(segments["steps"] * segments["decodes"]) == records[:, 3].sum() - len(records)
    for replica in range(replicas):
        mine = segments["replica"] == replica
        starts, ends = segments["start_s"][mine], (segments["start_s"] + segments["seconds"])[mine]
        assert np.all(starts[1:] >= ends[:-1] - 1e-9)
        assert totals.busy_s[replica] == pytest.approx(segments["seconds"][mine].sum())
        assert totals.most_blocks[replica] == segments["kv_blocks"][mine].max(initial=0)


def first(totals: ServingRun, records: Array, _segments: Any) -> tuple[ServingRun, bytes]:
    """What two runs are compared by."""
    return totals, records.tobytes()


@given(st.integers(0, 10**6), st.sampled_from([1, 7, 60]))
@examples(max_examples=10)
def test_how_requests_are_cut_into_chunks_is_no_matter(seed: int, size: int) -> None:
    assert first(*run(PLAIN, 60, 100.0, seed, size=size)) == first(*run(PLAIN, 60, 100.0, seed))


def test_sinks_change_nothing() -> None:
    totals, _, _ = run(PLAIN, 200, 50.0, 4)
    assert serve(Cluster(Pool(TABLE, PLAIN)), chunks(200, 50.0, 4), np.random.default_rng(0)) == totals


def waits(records: Array) -> Array:
    """Seconds before a request was first scheduled [N]."""
    return np.asarray(records[:, 8] - records[:, 1])


def test_classes_wait_by_rank_and_none_for_ever() -> None:
    scheduler = replace(PLAIN, policy="priority", max_sequences=3, ageing_s=5.0)
    _, records, _ = run(scheduler, 600, 40.0, 1)
    mean = [waits(records)[records[:, 6] == rank].mean() for rank in range(3)]
    assert mean[0] < mean[1] < mean[2]
    _, plain, _ = run(replace(scheduler, policy="first_come"), 600, 40.0, 1)
    # A class costs at most its ageing more than no class at all.
    assert waits(records).max() < waits(plain).max() + 2 * 5.0


def test_the_shortest_first_waits_less_on_average() -> None:
    # Prompts alone, as it goes by their length; more come than can be served.
    scheduler = replace(PLAIN, max_sequences=3)
    plain, short = (
        waits(run(replace(scheduler, policy=policy, ageing_s=1e6), 600, 600.0, 2, output=1)[1])
        for policy in ("first_come", "shortest")
    )
    assert short.mean() < plain.mean()
    assert short.max() > plain.max()


def flood(policy: Any) -> tuple[float, float]:
    """Mean waits of a client that sends little beside one that floods."""
    little, much = np.arange(20) * 0.5, np.arange(2000) * 0.005
    arrivals = np.concatenate([little, much])
    order = np.argsort(arrivals, kind="stable")
    client = np.concatenate([np.zeros(20), np.ones(2000)]).astype(np.int64)[order]
    chunk = Chunk(arrivals[order], np.full(2020, 50), np.full(2020, 20), client=client)
    records: list[Any] = []
    serve(Cluster(Pool(TABLE, replace(PLAIN, policy=policy, max_sequences=4))), [chunk], records=records.extend)
    rows = np.array(sorted(records), dtype=np.float64)
    return tuple(float(waits(rows)[rows[:, 5] == each].mean()) for each in (0, 1))  # type: ignore[return-value]  # two


def test_a_client_that_floods_waits_for_itself() -> None:
    fair, plain = flood("fair"), flood("first_come")
    assert fair[0] < 0.05 * plain[0]
    assert fair[1] < 1.1 * plain[1]


def test_a_prefix_cache_computes_less_and_ends_sooner() -> None:
    without, _, _ = run(PLAIN, 300, 60.0, 3)
    cached, records, _ = run(replace(PLAIN, prefix_tokens=8, kv_blocks=3000), 300, 60.0, 3)
    assert cached.cached_tokens == records[:, 4].sum() > 0
    assert cached.prefill_tokens == without.prefill_tokens - cached.cached_tokens
    assert cached.makespan_s <= without.makespan_s


def test_looking_at_load_shortens_waits() -> None:
    scheduler = replace(PLAIN, max_sequences=3)
    chance, two, least = (
        waits(run(scheduler, 1500, 90.0, 6, replicas=4, routing=routing)[1]).mean()
        for routing in ("random", "power_of_two", "least_loaded")
    )
    assert max(two, least) < 0.9 * chance
