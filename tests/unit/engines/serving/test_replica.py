"""Replicas: jumps are the steps that they stand for, nothing is lost, and small cases are as by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.settings import ClosedLoop, Cluster, Pool, Scheduler, Speculation, Swap

SPECULATIONS = st.sampled_from(
    [None, Speculation((0.8, 0.5)), Speculation((0.9, 0.7, 0.2), expected=True), Speculation((0.6,), n_gram=True)]
)


@st.composite
def schedulers(draw: Any) -> Scheduler:
    """Settings of every kind, some with room for two or three requests only."""
    batching = draw(st.sampled_from(["chunked", "prefill_first", "static"]))
    block = draw(st.sampled_from([1, 8, 16]))
    static = batching == "static"
    return Scheduler(
        kv_blocks=draw(st.sampled_from([1300, 2500, 20000])) // block,
        batching=batching,
        policy=draw(st.sampled_from(["first_come", "priority", "fair", "shortest"])),
        token_budget=draw(st.sampled_from([64, 256, 1000])) + (500 if batching != "chunked" else 0),
        max_sequences=draw(st.integers(1, 16)),
        block_tokens=block,
        watermark=draw(st.sampled_from([0.0, 0.02])),
        swap=draw(st.sampled_from([None, Swap(1e5, 2e10)])),
        prefix_tokens=draw(st.sampled_from([0, 1, 4])) * block,
        ageing_s=draw(st.sampled_from([0.1, 10.0])),
        speculation=None if static else draw(SPECULATIONS),
    )


@given(schedulers(), st.integers(0, 10**6), st.sampled_from([1.0, 8.0, 100.0]), st.sampled_from([None, 3, 20]))
@settings(max_examples=150)
def test_jumps_are_the_steps_that_they_stand_for(
    table: Any, poisson: Any, served: Any, scheduler: Scheduler, seed: int, rate: float, clients: int | None
) -> None:
    loop = None if clients is None else ClosedLoop(clients, think_s=0.013)
    runs = [
        served(
            Cluster(Pool(table(host_hidden=seed % 2 == 0), replace(scheduler, jump=jump))),
            poisson(40, rate, seed),
            closed_loop=loop,
        )
        for jump in (True, False)
    ]
    jumped, stepped = runs
    np.testing.assert_allclose(jumped.records, stepped.records, rtol=1e-9, atol=1e-9)
    assert len(jumped.segments) <= len(stepped.segments)
    assert jumped.run.steps == stepped.run.steps
    assert jumped.run.refused == stepped.run.refused
    assert jumped.run.busy_s == pytest.approx(stepped.run.busy_s, rel=1e-9)


@given(schedulers(), st.integers(0, 10**6), st.sampled_from([2.0, 100.0]))
@settings(max_examples=60)
def test_tokens_are_conserved(
    table: Any, poisson: Any, served: Any, scheduler: Scheduler, seed: int, rate: float
) -> None:
    chunks = list(poisson(40, rate, seed))
    answer = served(Cluster(Pool(table(), scheduler)), chunks)
    run, rows = answer.run, answer.records
    assert run.requests == 40
    assert run.finished == len(rows)
    assert run.finished + sum(run.refused.values()) == 40
    assert run.prompt_tokens == rows[:, 2].sum()
    assert run.output_tokens == rows[:, 3].sum()
    assert run.cached_tokens == rows[:, 4].sum()
    computed = run.prompt_tokens - run.cached_tokens
    assert run.prefill_tokens == sum(segment[3] for segment in answer.segments)
    assert run.prefill_tokens >= computed
    if not run.preemptions:
        assert run.prefill_tokens == computed
    assert np.all(rows[:, 1] <= rows[:, 8] + 1e-12)
    assert np.all(rows[:, 8] < rows[:, 9])
    assert np.all((rows[:, 9] < rows[:, 10]) == (rows[:, 3] > 1))
    assert sum(segment[2] for segment in answer.segments) == pytest.approx(run.busy_s[0])
