"""Serving as events against queueing theory and formulas that it never reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosim.engines.serving.cluster import serve
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.settings import ClosedLoop, Cluster, Pool, Scheduler, Speculation, Transfer
from cosim.engines.serving.table import StepTable
from cosim.records import Array

MEAN = 100
"""Steps of a service."""
STEP_S = 1.0 / MEAN
"""So that a service takes 1 s on average."""
Answer = Callable[[Cluster, Chunk], Array]


def even_steps(step_s: float = STEP_S) -> StepTable:
    """Every step takes the same, whatever is in it."""
    tokens, none = np.array([1.0]), np.zeros((1, 1))
    return StepTable(tokens, tokens, tokens * step_s, np.zeros(1), none, none)


def answer(cluster: Cluster, chunk: Chunk) -> Array:
    """Records in the order of requests [N, 12]."""
    rows: list[Any] = []
    serve(cluster, [chunk], np.random.default_rng(0), records=rows.extend)
    return np.array(sorted(rows), dtype=np.float64)


def queue(servers: int, load: float, count: int, *, spread: bool, replicas: int = 1, seed: int = 3) -> Array:
    """Waits of Poisson requests [s, N] for `servers` places; services of 1 s, exponential or all the same."""
    random = np.random.default_rng(seed)
    output = random.geometric(1.0 / MEAN, count) if spread else np.full(count, MEAN)
    arrivals = np.cumsum(random.exponential(1.0 / (load * servers * replicas), count))
    scheduler = Scheduler(10**7, max_sequences=servers, token_budget=100)
    rows = answer(Cluster(Pool(even_steps(), scheduler, replicas)), Chunk(arrivals, np.full(count, 1), output))
    return np.asarray(rows[:, 8] - rows[:, 1])


def agrees(waits: Array, expected: float, late: float = 0.0) -> None:
    """The mean lies within three standard errors of blocks, `late` for what is cut into steps."""
    blocks = waits[: len(waits) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = float(blocks.std(ddof=1)) / math.sqrt(len(blocks))
    assert error < 0.1 * expected
    assert abs(waits.mean() - expected) < 3.0 * error + late


@pytest.mark.parametrize(("spread", "expected"), [(True, 0.7 / 0.3), (False, 0.5 * 0.7 / 0.3)])
def test_one_server_waits_as_mm1_and_md1_do(spread: bool, expected: float) -> None:
    """Wait = rho / (1 - rho) services, half of it where all are the same (Pollaczek and Khinchine)."""
    agrees(queue(1, 0.7, 50_000, spread=spread), expected)


def erlang_c(servers: int, load: float) -> float:
    """Chance that all servers are busy."""
    offered = load * servers
    full = offered**servers / math.factorial(servers) / (1.0 - load)
    return full / (sum(offered**count / math.factorial(count) for count in range(servers)) + full)


def test_a_batch_of_places_waits_as_mmc_does() -> None:
    """Where steps take the same whatever is in them, places of a batch are servers. A step may have to end first."""
    expected = erlang_c(5, 0.85) / (5 * 0.15)
    agrees(queue(5, 0.85, 50_000, spread=True, seed=5), expected, late=STEP_S)


def test_turns_make_arrivals_even() -> None:
    """Every second of Poisson arrivals: E2/D/1 waits less than M/D/1 at the same load and more than nothing."""
    single, pair = queue(1, 0.7, 20_000, spread=False), queue(1, 0.7, 20_000, spread=False, replicas=2)
    assert 0.3 * single.mean() < pair.mean() < 0.7 * single.mean()


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_full_closed_loop_is_its_formula(replicas: int) -> None:
    """Clients that think as long as they like: rate = clients / (answer + think) where nobody waits."""
    count, clients, think = 60 * replicas, 6 * replicas, 0.25
    chunk = Chunk(np.zeros(count), np.full(count, 10), np.full(count, 50))
    run = serve(
        Cluster(Pool(even_steps(), Scheduler(10_000), replicas)), [chunk], closed_loop=ClosedLoop(clients, think)
    )
    rounds = count // clients
    assert run.makespan_s == pytest.approx(rounds * 50 * STEP_S + (rounds - 1) * think)


def test_a_static_batch_is_its_formula() -> None:
    """Prefill of all prompts, then decode steps of all until the longest ends, over batches of four."""
    tokens, contexts = np.array([1.0, 10.0, 1000.0]), np.array([1.0, 50.0, 600.0])
    grid = tokens[:, None] * contexts
    table = StepTable(tokens, contexts, 1e-3 + 1e-5 * tokens, 1e-6 * tokens, 2e-8 * grid, 3e-8 * grid**0.9)
    output = np.array([5, 9, 20, 3, 7, 7, 7, 7])
    scheduler = Scheduler(10_000, batching="static", max_sequences=4)
    rows = answer(Cluster(Pool(table, scheduler)), Chunk(np.zeros(8), np.full(8, 40), output))
    clock = 0.0
    for batch in (output[:4], output[4:]):
        clock += table.seconds(4 * 40, 4 * 40 * 20.5, 0, 0, 4)
        ends = [clock]
        for step in range(batch.max() - 1):
            ends.append(ends[-1] + table.seconds(0, 0.0, 4, 4 * (40 + step), 4))
        expected = [ends[steps - 1] for steps in batch]
        np.testing.assert_allclose(rows[: len(batch), 10], expected, rtol=1e-9)
        rows, clock = rows[len(batch) :], ends[-1]


def test_drafts_speed_a_lone_answer_by_their_mean() -> None:
    """Tokens a second of one sequence: mean tokens of a step over its seconds."""
    drafts = Speculation((0.8, 0.6, 0.4), n_gram=True)
    scheduler = Scheduler(10**6, speculation=drafts, token_budget=2000)
    rows = answer(Cluster(Pool(even_steps(), scheduler)), Chunk(np.zeros(1), np.full(1, 1), np.full(1, 20_001)))
    took = rows[0, 10] - rows[0, 9]
    assert 20_000 / took == pytest.approx(drafts.mean_tokens / STEP_S, rel=0.02)


def test_prefill_apart_is_two_queues_and_a_wire() -> None:
    """One that comes alone: prefill, latency and bytes, decode."""
    transfer = Transfer(0.2, 1000.0, 2.0)
    cluster = Cluster(
        Pool(even_steps(0.5), Scheduler(1000)), prefill=Pool(even_steps(3.0), Scheduler(1000)), transfer=transfer
    )
    rows = answer(cluster, Chunk(np.array([1.0]), np.array([300]), np.array([11])))
    assert tuple(rows[0, 8:11]) == pytest.approx((1.0, 4.0, 4.0 + 0.2 + 0.6 + 5.0))


def test_the_wire_is_a_queue_of_its_own() -> None:
    """Transfers faster than one a second pile up behind one link as M/D/1 does; a second link lets them through."""
    random = np.random.default_rng(1)
    count = 20_000
    arrivals = np.cumsum(random.exponential(1.0 / 0.7, count))
    chunk = Chunk(arrivals, np.full(count, 10), np.full(count, 2))
    waits = []
    for links in (1, 2):
        cluster = Cluster(
            Pool(even_steps(1e-6), Scheduler(10**6)),
            prefill=Pool(even_steps(1e-6), Scheduler(10**6)),
            transfer=Transfer(0.0, 10.0, 1.0, links),
        )
        rows = answer(cluster, chunk)
        waits.append(rows[:, 10] - rows[:, 9] - 1.0)
    agrees(waits[0], 0.5 * 0.7 / 0.3)
    assert waits[1].mean() < 0.2 * waits[0].mean()
