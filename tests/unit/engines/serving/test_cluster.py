"""Clusters: nothing is lost between replicas, the same seed is the same run, memory stays flat."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.cluster import serve
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.settings import (
    Autoscale,
    ClosedLoop,
    Cluster,
    Failures,
    Pool,
    Routing,
    Scheduler,
    Speculation,
    Transfer,
)
from cosim.errors import SimulationError, SpecError

PLAIN = Scheduler(400, token_budget=256, max_sequences=12, prefix_tokens=16)
MOVE = Transfer(1e-3, 1e10, 1e5, 2)


@st.composite
def clusters(draw: Any) -> dict[str, Any]:
    """What a cluster may have besides its pools."""
    scale = st.builds(
        Autoscale,
        st.sampled_from(["queue", "utilisation"]),
        st.sampled_from([0.5, 0.9]),
        st.just(1),
        st.just(4),
        st.sampled_from([0.05, 0.5]),
        st.just(0.2),
        st.sampled_from([0.0, 1.0]),
    )
    # What a prefix-aware router sees of a cache depends on when its idle blocks go, so jumps are not steps there.
    names = [name for name in get_args(Routing) if name != "prefix_aware"]
    return {
        "routing": draw(st.sampled_from(names)),
        "autoscale": draw(st.none() | scale),
        "failures": draw(st.none() | st.builds(Failures, st.sampled_from([0.5, 5.0]), st.just(0.3))),
    }


@given(
    clusters(),
    st.booleans(),
    st.sampled_from(["chunked", "prefill_first"]),
    st.sampled_from([None, Speculation((0.8, 0.3))]),
    st.integers(0, 10**6),
    st.sampled_from([5.0, 100.0]),
    st.sampled_from([None, ClosedLoop(7, 0.013)]),
    st.sampled_from(["grown", "whole"]),
)
@settings(max_examples=50)
def test_jumps_are_steps_and_nothing_is_lost(
    table: Any,
    poisson: Any,
    served: Any,
    more: dict[str, Any],
    apart: bool,
    batching: Any,
    speculation: Any,
    seed: int,
    rate: float,
    loop: Any,
    reserve: Any,
) -> None:
    scheduler = replace(PLAIN, batching=batching, token_budget=800, speculation=speculation, reserve=reserve)
    runs = []
    for jump in (True, False):
        own = replace(scheduler, jump=jump)
        prefill = Pool(table(0.7), own, 2) if apart else None
        cluster = Cluster(Pool(table(), own, 3), prefill=prefill, transfer=MOVE if apart else None, **more)
        runs.append(served(cluster, poisson(60, rate, seed), seed, closed_loop=loop))
    jumped, stepped = runs
    np.testing.assert_allclose(jumped.records, stepped.records, rtol=1e-9, atol=1e-9)
    run = jumped.run
    assert run.finished + sum(run.refused.values()) == run.requests == 60
    assert sorted(set(jumped.records[:, 0])) == list(jumped.records[:, 0])
    # Whatever decodes where prefill is apart has moved; who has one token has not.
    if apart and not run.failures:
        moved = jumped.records[:, 3] > 1
        assert run.transfers == moved.sum()
        assert run.transferred_tokens == jumped.records[moved, 2].sum()
        assert np.all(jumped.records[moved, 7] < len(run.busy_s) - 2)
        assert np.all(jumped.records[~moved, 7] >= len(run.busy_s) - 2)


@pytest.mark.parametrize("routing", get_args(Routing))
def test_the_same_seed_is_the_same_run(table: Any, poisson: Any, served: Any, routing: Routing) -> None:
    scheduler = replace(PLAIN, speculation=Speculation((0.7,)))
    cluster = Cluster(Pool(table(), scheduler, 3), routing, failures=Failures(3.0, 0.2))
    first, second, other = (served(cluster, poisson(200, 60.0, 5), seed) for seed in (1, 1, 2))
    assert first.records.tobytes() == second.records.tobytes()
    assert first.run == second.run
    assert first.segments == second.segments
    assert first.records.tobytes() != other.records.tobytes()


def test_prefix_aware_routing_finds_what_is_cached(table: Any, poisson: Any, served: Any) -> None:
    rates = [
        served(Cluster(Pool(table(), replace(PLAIN, kv_blocks=4000), 3), routing), poisson(300, 20.0, 2)).run.hit_rate
        for routing in ("prefix_aware", "session_sticky", "round_robin")
    ]
    assert min(rates[:2]) > rates[2] + 0.02


def test_a_request_that_moves_by_hand(fixed: Any, chunk: Any, served: Any) -> None:
    # Prefill 2 s, move 0.5 + 10 tokens / 5, decode 1 s each; one link, so the second moves after the first.
    transfer = Transfer(0.5, 5.0, 1.0)
    cluster = Cluster(Pool(fixed(1.0), Scheduler(100)), prefill=Pool(fixed(2.0), Scheduler(100)), transfer=transfer)
    answer = served(cluster, [chunk([0.0, 0.0, 0.0], 10, [3, 3, 1])])
    times = [(row[9], row[10], row[7]) for row in answer.records]
    assert times == [(2.0, 6.5, 1.0 - 1.0), (2.0, 9.0, 0.0), (2.0, 2.0, 1.0)]
    assert answer.run.busy_s == pytest.approx((4.0, 2.0))


def test_prefill_replicas_hold_blocks_until_they_have_moved(fixed: Any, chunk: Any, served: Any) -> None:
    transfer = Transfer(10.0, 1e9, 1.0)
    prefill = Pool(fixed(1.0), Scheduler(2, watermark=0.0))
    answer = served(
        Cluster(Pool(fixed(1.0), Scheduler(100)), prefill=prefill, transfer=transfer),
        [chunk([0.0, 0.0], 20, 2)],
    )
    assert answer.records[:, 8] == pytest.approx([0.0, 11.0])


def test_a_replica_that_fails_faster_than_it_answers_is_told(fixed: Any, chunk: Any) -> None:
    cluster = Cluster(Pool(fixed(1.0), Scheduler(100)), failures=Failures(0.1, 0.1))
    with pytest.raises(SpecError, match=r"failures.mean_up: .*request 0 was lost 1,000 times"):
        serve(cluster, [chunk([0.0], 10, 5)], np.random.default_rng(0))


def test_a_failed_replica_loses_its_work(fixed: Any, chunk: Any) -> None:
    class Waits:
        """Fails after 2.5 s, is repaired 4 s later, and never again."""

        def __init__(self) -> None:
            self.waits = iter([2.5, 4.0, 1e9])

        def exponential(self, _mean: float) -> float:
            return next(self.waits)

        def spawn(self, count: int) -> list[Waits]:
            return [Waits() for _ in range(count)]

    cluster = Cluster(Pool(fixed(1.0), Scheduler(100)), failures=Failures(1.0, 1.0))
    records: list[Any] = []
    run = serve(cluster, [chunk([0.0], 10, 5)], Waits(), records=records.extend)  # type: ignore[arg-type]  # its waits
    assert (run.failures, run.resent, run.finished) == (1, 1, 1)
    assert records[0][8:11] == (0.0, 7.5, 11.5)
    assert run.busy_s == (pytest.approx(7.5),)


def test_replicas_follow_the_queue(fixed: Any, chunk: Any, served: Any) -> None:
    pool = Pool(fixed(1.0), Scheduler(100, max_sequences=1))
    rows = [chunk(np.arange(60) * 0.5, 10, 2)]
    scale = Autoscale("queue", 1.0, 1, 5, 1.0, 2.0, 0.0)
    alone, scaled = served(Cluster(pool), rows), served(Cluster(pool, "least_loaded", autoscale=scale), rows)
    assert scaled.run.makespan_s < 0.5 * alone.run.makespan_s
    assert scaled.run.most_replicas == 5
    assert alone.run.replica_s == pytest.approx(alone.run.makespan_s)
    assert scaled.run.makespan_s < scaled.run.replica_s < 5 * scaled.run.makespan_s
    # The first look, at 1 s, finds one that waits for each of 1: as wanted. At 2 s there are 2 that wait.
    used = scaled.records[:, 7]
    assert scaled.records[used > 0, 8].min() >= 4.0


def test_a_closed_loop_keeps_its_clients(fixed: Any, chunk: Any, served: Any) -> None:
    pool = Pool(fixed(1.0), Scheduler(1000))
    answer = served(Cluster(pool), [chunk([0.0] * 50, 10, 3)], closed_loop=ClosedLoop(4, 0.5, 12))
    assert answer.run.requests == 12
    np.testing.assert_allclose(answer.records[:, 1], np.repeat([0.0, 3.5, 7.0], 4))
    np.testing.assert_allclose(answer.records[:, 10], np.repeat([3.0, 6.5, 10.0], 4))


def test_nothing_to_serve(table: Any, chunk: Any, served: Any) -> None:
    for rows in ([], [chunk([])], [chunk([0.0], 10**6)]):
        answer = served(Cluster(Pool(table(), PLAIN)), rows)
        assert (answer.run.finished, answer.run.makespan_s) == (0, 0.0)
        assert served(Cluster(Pool(table(), PLAIN)), rows, closed_loop=ClosedLoop(3)).run.finished == 0


@pytest.mark.parametrize(
    "cluster",
    [
        lambda pool: Cluster(pool, failures=Failures(1.0, 1.0)),
        lambda pool: Cluster(pool, "random"),
        lambda pool: Cluster(replace(pool, scheduler=replace(PLAIN, speculation=Speculation((0.5,))))),
    ],
)
def test_chance_needs_a_generator(table: Any, chunk: Any, cluster: Any) -> None:
    with pytest.raises(SpecError, match="generator"):
        serve(cluster(Pool(table(), PLAIN)), [chunk([0.0])])


def test_memory_is_flat(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.engines.serving.result.AT_ONCE", 64)

    def peak(count: int) -> int:
        def chunks() -> Any:
            random = np.random.default_rng(0)
            for start in range(0, count, 100):
                arrivals = (start + np.sort(random.random(100)) * 100) / 50.0
                yield Chunk(arrivals, np.full(100, 100), np.full(100, 20))

        tracemalloc.start()
        serve(Cluster(Pool(table(), PLAIN)), chunks(), records=len, segments=len)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(6000) < 1.2 * peak(1500)


def test_a_request_takes_fractions_of_a_millisecond(table: Any, poisson: Any) -> None:
    rows = list(poisson(3000, 20.0, 0, 512, 128))
    start = time.process_time()
    serve(Cluster(Pool(table(), Scheduler(10**5))), rows)
    assert (time.process_time() - start) / 3000 < 5e-4


def test_what_cannot_end_says_so(table: Any, chunk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.engines.serving.replica.Replica.begin", lambda _: False)
    with pytest.raises(SimulationError, match="1 requests"):
        serve(Cluster(Pool(table(), PLAIN)), [chunk([0.0])])


@pytest.mark.parametrize("routing", ["round_robin", "least_loaded", "least_kv"])
@pytest.mark.parametrize("think_s", [None, 0.1])
def test_a_request_at_the_end_of_a_step_gets_into_the_next_however_it_is_rounded(
    fixed: Any, chunk: Any, served: Any, routing: Any, think_s: float | None
) -> None:
    # Steps of 0.1 s added up, and arrivals at their multiples: they differ in the last digits, to either side.
    arrivals = 0.1 * np.arange(1, 90)
    loop = None if think_s is None else ClosedLoop(3, think_s)
    ends = []
    for jump in (True, False):
        scheduler = Scheduler(1000, max_sequences=50, token_budget=4096, jump=jump)
        cluster = Cluster(Pool(fixed(0.1), scheduler, 2), routing)
        ends.append(served(cluster, [chunk(arrivals, 10, np.arange(1, 90) % 23 + 1)], closed_loop=loop).records)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.0, atol=1e-7)
    # Nobody waits: a step begins whenever one comes.
    np.testing.assert_allclose(ends[0][:, 9] - ends[0][:, 1], 0.1, atol=1e-7)


def test_replicas_are_paid_for_until_the_last_answer(fixed: Any, chunk: Any, served: Any) -> None:
    pool = Pool(fixed(1.0), Scheduler(20, token_budget=1000), 2)
    # The third is too large for the cache, and comes long after the others have ended.
    answer = served(Cluster(pool), [chunk([0.0, 0.0, 100.0], [16, 16, 900], [3, 2, 2])])
    assert answer.run.refused == {"kv_blocks": 1}
    assert answer.run.makespan_s == pytest.approx(3.0)
    assert answer.run.replica_s == pytest.approx(2 * 3.0)
