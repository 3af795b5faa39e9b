"""Deployments by events: the closed loop beside the closed form, arrivals that only hurry, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosim.engines.serving.settings import Cluster
from cosim.errors import SpecError
from cosim.explore.serving.deployments import Cell, Ground, Machine, cells_of
from cosim.explore.serving.scores import scored_together
from cosim.explore.serving.search_file import ServingSearch
from cosim.explore.serving.simulated import Requests, at_rate, cluster_of, in_loop, poisson_requests
from cosim.records import array

ROW: dict[str, float] = {
    "apart": 0.0,
    "tensor": 2.0,
    "pipeline": 1.0,
    "data": 1.0,
    "expert": 1.0,
    "replicas": 2.0,
    "token_budget": 2048.0,
    "max_sequences": 16.0,
}
BEFORE = {f"prefill_{name}": value for name, value in ROW.items() if name not in ("apart", "max_sequences")}


@pytest.fixture(scope="module")
def cell(study: Callable[..., ServingSearch], ground: Callable[..., Ground], machine: Callable[..., Machine]) -> Cell:
    return cells_of(study().space, [machine()], ground())[0]


def test_only_the_clock_hurries() -> None:
    one = poisson_requests(100, 20, 50, seed=3)
    slow, fast = one.at_rate(2.0), one.at_rate(8.0)
    np.testing.assert_allclose(slow.arrival_s, 4.0 * fast.arrival_s)
    assert slow.prompt_tokens.tolist() == fast.prompt_tokens.tolist() == [100] * 50
    assert one.gaps.mean() == pytest.approx(1.0, abs=0.4)
    assert len(one) == 50


def test_a_lone_request_by_hand(even_cluster: Callable[..., Cluster]) -> None:
    # 100 tokens: 10 ms + 2 ms; then steps of 10 ms + 20 us.
    seen = in_loop(even_cluster(), Requests(np.ones(20), np.full(20, 100.0), np.full(20, 20.0)), 1, 0)
    assert seen.ttft_s["mean"] == pytest.approx(0.012)
    assert seen.tpot_s["p99"] == pytest.approx(0.01002)
    assert seen.requests_per_s == pytest.approx(1.0 / (0.012 + 19 * 0.01002))
    assert (seen.kept_up, seen.preemptions, seen.requests) == (True, 0, 20)


def test_the_front_end_is_in_the_first_token_and_in_the_loop(even_cluster: Callable[..., Cluster]) -> None:
    # The same lone request, 50 ms later; its tokens follow as fast, and the next one comes after 50 ms more.
    columns = (np.ones(20), np.full(20, 100.0), np.full(20, 20.0))
    seen = in_loop(even_cluster(), Requests(*columns, start_s=0.05), 1, 0)
    assert seen.ttft_s["mean"] == pytest.approx(0.062)
    assert seen.tpot_s["p99"] == pytest.approx(0.01002)
    assert seen.requests_per_s == pytest.approx(1.0 / (0.062 + 19 * 0.01002))
    # Requests that come at a rate are late, not fewer.
    early, late = (at_rate(even_cluster(), poisson_requests(100, 20, 200, 0, start), 3.0, 0) for start in (0.0, 0.05))
    assert late.ttft_s["p90"] == pytest.approx(early.ttft_s["p90"] + 0.05)
    assert (late.requests_per_s, late.kept_up) == (pytest.approx(early.requests_per_s), early.kept_up)


def test_a_rate_is_served_while_it_can_be(even_cluster: Callable[..., Cluster]) -> None:
    requests = poisson_requests(100, 20, 300, seed=0)
    few = at_rate(even_cluster(), requests, 5.0, 0)
    assert few.requests_per_s == pytest.approx(5.0, rel=0.2)
    many = at_rate(even_cluster(), requests, 500.0, 0)
    assert many.requests_per_s < 50.0
    assert (few.kept_up, many.kept_up) == (True, False)
    assert at_rate(even_cluster(), requests, 5.0, 0) == few


def test_a_deployment_as_a_cluster(cell: Cell, ground: Callable[..., Ground]) -> None:
    made = cluster_of(cell, ROW, ground())
    assert (made.pool.replicas, made.routing, made.prefill) == (2, "least_loaded", None)
    scheduler = made.pool.scheduler
    assert (scheduler.token_budget, scheduler.max_sequences, scheduler.batching) == (2048, 16, "chunked")
    # 2 x 141 GB x 0.9 less 16 GB of weights, over 131,072 B a token.
    assert scheduler.kv_blocks * 16 == pytest.approx((2 * 141e9 * 0.9 - 16e9) / 131_072, rel=0.1)


def test_pools_apart_as_a_cluster(cell: Cell, ground: Callable[..., Ground]) -> None:
    row = {**ROW, **BEFORE, "apart": 1.0, "replicas": 1.0, "prefill_replicas": 1.0}
    made = cluster_of(cell, row, ground())
    assert made.prefill is not None
    assert made.transfer is not None
    assert (made.prefill.replicas, made.pool.replicas, made.transfer.concurrent) == (1, 1, 1)
    assert made.transfer.token_bytes == pytest.approx(131_072 / 2)
    seen = in_loop(made, poisson_requests(1000, 100, 100, 0), 8, 0)
    assert seen.requests_per_s > 0.0


@pytest.mark.parametrize("change", [{"max_sequences": 4.0}, {"max_sequences": 32.0}, {"tensor": 4.0, "replicas": 1.0}])
def test_the_closed_form_lies_beside_it(
    cell: Cell, study: Callable[..., ServingSearch], ground: Callable[..., Ground], change: dict[str, Any]
) -> None:
    row = {**ROW, **change}
    table = {name: array([value]) for name, value in row.items() if name != "apart"}
    scores = scored_together(cell, table, ground(), study(ttft_limit=None, tpot_limit=None))
    flying = int(row["max_sequences"] * row["replicas"])
    seen = in_loop(cluster_of(cell, row, ground()), poisson_requests(1000, 100, 5 * flying + 50, 0), flying, 0)
    assert seen.requests_per_s == pytest.approx(float(scores.requests_per_s[0]), rel=0.2)
    assert seen.tpot_s["mean"] == pytest.approx(float(scores.tpot_s[0]), rel=0.2)


def test_what_cannot_be_run(even_cluster: Callable[..., Cluster]) -> None:
    with pytest.raises(SpecError, match="concurrency: is more than there are requests"):
        in_loop(even_cluster(), poisson_requests(100, 20, 20, 0), 21, 0)
    with pytest.raises(SpecError, match="kv_blocks: refuses requests; 20 of 20"):
        at_rate(even_cluster(), poisson_requests(200_000, 20, 20, 0), 1.0, 0)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_one_at_a_time_waits_as_at_one_server(even_cluster: Callable[..., Cluster], load: float) -> None:
    # Equal jobs of S seconds: wait rho S / (2 (1 - rho)).
    took = 0.012 + 19 * 0.01002
    seen = at_rate(even_cluster(most=1), poisson_requests(100, 20, 6000, 1), load / took, 0)
    wait = load * took / (2.0 * (1.0 - load))
    assert seen.ttft_s["mean"] - 0.012 == pytest.approx(wait, rel=0.15)
    assert seen.requests_per_s == pytest.approx(load / took, rel=0.05)
    assert seen.kept_up


def test_more_in_flight_have_more_rate_and_slower_tokens(even_cluster: Callable[..., Cluster]) -> None:
    seen = [in_loop(even_cluster(most=32), poisson_requests(100, 20, 200, 0), flying, 0) for flying in (1, 4, 16, 32)]
    rates, tokens = ([getattr(each, name) for each in seen] for name in ("requests_per_s", "tpot_s"))
    assert rates == sorted(rates)
    means = [each["mean"] for each in tokens]
    assert means == sorted(means)


def test_ranks_of_their_own_have_more_places(
    study: Callable[..., ServingSearch], ground: Callable[..., Ground], machine: Callable[..., Machine]
) -> None:
    own = ground(model="qwen3-30b-a3b")
    (one,) = cells_of(study().space, [machine()], own)
    row = {**ROW, "tensor": 1.0, "data": 4.0, "expert": 4.0, "replicas": 1.0}
    scheduler = cluster_of(one, row, own).pool.scheduler
    assert (scheduler.max_sequences, scheduler.token_budget, scheduler.longest_piece) == (64, 8192, 2048)
    alone = cluster_of(one, {**ROW, "tensor": 1.0, "replicas": 4.0}, own).pool.scheduler
    # Experts are held once by four ranks: more than four times the cache of one.
    assert scheduler.kv_blocks > 4 * alone.kv_blocks


def test_weights_that_leave_no_block_are_refused(
    study: Callable[..., ServingSearch], ground: Callable[..., Ground], machine: Callable[..., Machine]
) -> None:
    (one,) = cells_of(study().space, [machine(capacity=0.1)], ground())
    with pytest.raises(SpecError, match="memory: holds no block of the cache"):
        cluster_of(one, {**ROW, "tensor": 1.0}, ground())
