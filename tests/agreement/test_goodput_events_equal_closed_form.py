"""Long runs as events take the expected time of the closed form: nearly where that is of first order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cosim.engines.goodput import GoodputRun, simulate_run
from cosim.timing.goodput import LOST, Cause, LongRun, Stragglers, expected_run

DAY, HOUR = 86400.0, 3600.0
SEEDS = 60
BUG = Cause("software", 1.0 / (6.0 * HOUR), 120.0)
GPU = Cause("gpu", 1.0 / (4.0 * HOUR), 300.0, 24.0 * HOUR)
UPDATE = Cause("planned", 1.0 / DAY, planned=True)
PLAIN = LongRun(20.0 * DAY, 1800.0, 60.0, 0.0, 600.0, (BUG, replace(GPU, repair_s=0.0)), 64, node_chips=8)
PLAIN = replace(PLAIN, replicas=16, replica_nodes=4.0)
WITHIN = {
    "plain": (PLAIN, 0.003),
    "failures every half hour": (
        replace(PLAIN, work_s=4.0 * DAY, causes=(replace(BUG, rate=1.0 / 1800.0),)),
        0.03,
    ),
    "rare checkpoints": (replace(PLAIN, interval_s=4.0 * HOUR), 0.02),
    "planned stops": (replace(PLAIN, causes=(*PLAIN.causes, UPDATE)), 0.01),
    "asynchronous": (replace(PLAIN, save_s=1.0, lag_s=300.0), 0.01),
    "few spares": (replace(PLAIN, work_s=40.0 * DAY, causes=(BUG, GPU), spares=5), 0.03),
    "no spares": (replace(PLAIN, work_s=20.0 * DAY, causes=(BUG, GPU)), 0.03),
    "slow chips": (replace(PLAIN, stragglers=Stragglers(0.02)), 0.01),
    "elastic": (replace(PLAIN, work_s=40.0 * DAY, causes=(BUG, GPU), spares=2, elastic=True), 0.03),
}


def runs(run: LongRun, seeds: int = SEEDS) -> list[GoodputRun]:
    return [simulate_run(run, np.random.default_rng(part)) for part in np.random.SeedSequence(11).spawn(seeds)]


@pytest.mark.parametrize("name", WITHIN)
def test_the_mean_over_seeds_is_the_closed_form(name: str) -> None:
    run, within = WITHIN[name]
    found, expected = runs(run), expected_run(run)
    wall = np.array([one.wall_s for one in found])
    assert float(wall.mean()) == pytest.approx(expected.wall_s, rel=within)
    for cause in LOST:
        mean = float(np.mean([one.lost_s[cause] for one in found]))
        assert mean == pytest.approx(expected.lost_s[cause], abs=within * expected.wall_s), cause
    for cause in run.causes:
        count = np.array([one.failures[cause.name] for one in found])
        # Four standard errors, and what the closed form leaves out.
        slack = 4.0 * count.std() / np.sqrt(SEEDS) + within * expected.failures[cause.name]
        assert abs(count.mean() - expected.failures[cause.name]) < slack + 0.5, cause.name


def test_a_replica_that_is_complete_again_restarts_the_job() -> None:
    run = WITHIN["elastic"][0]
    restarts = float(np.mean([one.lost_s["restart"] for one in runs(run)]))
    alone = expected_run(replace(run, elastic=False, spares=100)).lost_s["restart"]
    assert restarts == pytest.approx(expected_run(run).lost_s["restart"], rel=0.04)
    assert alone < 0.95 * restarts


def test_where_it_is_exact_only_chance_is_between_them() -> None:
    found, expected = runs(PLAIN, 250), expected_run(PLAIN)
    wall = np.array([one.wall_s for one in found])
    assert abs(wall.mean() - expected.wall_s) < 3.5 * wall.std() / np.sqrt(len(wall))
    for cause in ("recomputed", "detection", "restart", "checkpoint"):
        lost = np.array([one.lost_s[cause] for one in found])
        assert abs(lost.mean() - expected.lost_s[cause]) < 3.5 * lost.std() / np.sqrt(len(lost)), cause
