"""What must hold of simulated runs, over many seeds: fewer failures, more spares and the best interval never cost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from cosim.engines.goodput import simulate_run
from cosim.timing.checkpoint import best_interval
from cosim.timing.goodput import Cause, LongRun, mean_between_failures

DAY, HOUR = 86400.0, 3600.0
RUN = LongRun(
    work_s=20.0 * DAY,
    interval_s=1800.0,
    save_s=60.0,
    lag_s=0.0,
    restart_s=600.0,
    causes=(Cause("gpu", 1.0 / (4.0 * HOUR), 300.0, 24.0 * HOUR),),
    nodes=64,
    spares=5,
    node_chips=8,
    replicas=16,
    replica_nodes=4.0,
)
SEEDS = 40


def goodput(run: LongRun) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    seeds = np.random.SeedSequence(5).spawn(SEEDS)
    found = np.array([simulate_run(run, np.random.default_rng(seed)).goodput for seed in seeds])
    return float(found.mean()), float(found.std() / np.sqrt(SEEDS))


def rises(values: list[tuple[float, float]]) -> bool:
    """Whether means do not fall, beyond three standard errors."""
    pairs = itertools.pairwise(values)
    return all(high[0] - low[0] > -3.0 * (low[1] + high[1]) for low, high in pairs)


def slower(run: LongRun, factor: float) -> LongRun:
    return replace(run, causes=tuple(replace(cause, rate=cause.rate / factor) for cause in run.causes))


@pytest.mark.parametrize("elastic", [False, True])
def test_more_time_between_failures_never_costs(elastic: bool) -> None:
    values = [goodput(slower(replace(RUN, elastic=elastic), factor)) for factor in (0.5, 1.0, 2.0, 4.0)]
    assert rises(values)
    assert values[-1][0] > values[0][0] + 0.05


@pytest.mark.parametrize("elastic", [False, True])
def test_more_spares_never_cost(elastic: bool) -> None:
    values = [goodput(replace(RUN, spares=spares, elastic=elastic)) for spares in (0, 2, 4, 8, 16)]
    assert rises(values)
    assert values[-1][0] > values[0][0] + 0.05


@pytest.mark.parametrize("change", [{"save_s": 240.0}, {"restart_s": 2400.0}, {"interval_s": 4.0 * HOUR}])
def test_what_takes_longer_costs(change: dict[str, float]) -> None:
    run = replace(RUN, spares=20)
    assert goodput(replace(run, **change))[0] < goodput(run)[0]  # type: ignore[arg-type]  # all are floats


def test_the_best_interval_beats_twice_and_half_of_it() -> None:
    run = replace(RUN, spares=40, save_s=200.0)
    best = float(best_interval(np.float64(run.save_s), np.float64(mean_between_failures(run.causes))))
    values = {factor: goodput(replace(run, interval_s=factor * best)) for factor in (0.5, 1.0, 2.0)}
    for factor in (0.5, 2.0):
        assert values[1.0][0] > values[factor][0]


def test_an_elastic_job_beats_one_that_waits() -> None:
    few = replace(RUN, spares=1)
    assert goodput(replace(few, elastic=True))[0] > goodput(few)[0] + 0.1
