"""A long run as events: it adds up, repeats itself, and does by hand what a schedule of failures asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.goodput import GoodputRun, simulate_run
from cosim.errors import SimulationError
from cosim.timing.goodput import LOST, Cause, LongRun, Stragglers

HOUR = 3600.0
GPU = Cause("gpu", 1.0 / (4.0 * HOUR), 100.0, 10.0 * HOUR)
BUG = Cause("software", 1.0 / (9.0 * HOUR), 50.0)
UPDATE = Cause("planned", 1.0 / (30.0 * HOUR), planned=True)
RUN = LongRun(
    work_s=100.0 * HOUR,
    interval_s=1000.0,
    save_s=20.0,
    lag_s=0.0,
    restart_s=200.0,
    causes=(GPU, BUG, UPDATE),
    nodes=16,
    spares=4,
    node_chips=8,
    replicas=8,
    replica_nodes=2.0,
)


class Scripted:
    """A generator whose waits are given; every choice is the first."""

    def __init__(self, waits: list[float]) -> None:
        self.waits: Iterator[float] = iter(waits)

    def exponential(self, _scale: float) -> float:
        return next(self.waits, 1e12)

    def choice(self, _count: int, p: Any = None) -> int:  # noqa: ARG002
        return 0

    def integers(self, _count: int) -> int:
        return 0

    def random(self) -> float:
        return 0.5


def scripted(run: LongRun, *waits: float, spans: bool = True) -> GoodputRun:
    return simulate_run(run, cast("np.random.Generator", Scripted(list(waits))), spans=spans)


def one(cause: Cause, **changes: Any) -> LongRun:
    return replace(RUN, work_s=3000.0, causes=(cause,), **changes)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from([0.0, 60.0]),
    st.sampled_from([0.0, 0.02]),
    st.floats(100.0, 1e4),
)
def test_useful_and_lost_time_are_the_whole(
    seed: int, spares: int, elastic: bool, lag: float, spread: float, interval: float
) -> None:  # fmt: skip
    run = replace(
        RUN, spares=spares, elastic=elastic, lag_s=lag, stragglers=Stragglers(spread, {1: 1.3}), interval_s=interval
    )
    found = simulate_run(run, np.random.default_rng(seed), spans=True)
    assert found.useful_s == pytest.approx(run.work_s)
    assert tuple(found.lost_s) == LOST
    assert min(found.lost_s.values()) >= -1e-6
    assert found.wall_s == pytest.approx(found.useful_s + sum(found.lost_s.values()))
    assert found.goodput <= found.effective <= 1.0
    assert max(span.end_s for span in found.spans) == pytest.approx(found.wall_s)
    for cause in ("detection", "restart", "waiting"):
        drawn = sum(span.end_s - span.start_s for span in found.spans if span.resource == cause)
        assert drawn == pytest.approx(found.lost_s[cause])


def test_a_seed_repeats_itself_and_another_does_not() -> None:
    first, again, other = (simulate_run(RUN, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first.wall_s != other.wall_s
    assert first.spans == ()


def test_nothing_fails() -> None:
    found = scripted(one(GPU))
    assert found.wall_s == 3060.0
    assert found.lost_s["checkpoint"] == 60.0
    assert found.goodput == pytest.approx(3000.0 / 3060.0)


def test_a_failure_goes_back_to_the_last_checkpoint() -> None:
    # At 1,500: 480 s since the checkpoint at 1,020 are lost, 100 until it is seen, 200 to restart.
    found = scripted(one(BUG), 1500.0)
    assert found.lost_s["recomputed"] == 480.0
    assert (found.lost_s["detection"], found.lost_s["restart"], found.lost_s["checkpoint"]) == (50.0, 200.0, 60.0)
    assert found.wall_s == 3060.0 + 480.0 + 50.0 + 200.0
    assert found.failures == {"software": 1}
    # While a checkpoint is written, all of the cycle is lost, and the time of writing.
    found = scripted(one(BUG), 1010.0)
    assert (found.lost_s["recomputed"], found.lost_s["checkpoint"]) == (1000.0, 70.0)


def test_a_restart_may_fail() -> None:
    found = scripted(one(BUG), 500.0, 150.0)
    assert found.lost_s["restart"] == 350.0
    assert found.lost_s["detection"] == 100.0
    assert found.failures == {"software": 2}


def test_a_checkpoint_that_is_not_yet_written_is_of_no_use() -> None:
    # The second is taken at 2,040 and can be read at 2,340.
    late = one(BUG, lag_s=300.0)
    assert scripted(late, 2339.0).lost_s["recomputed"] == pytest.approx(1000.0 + 299.0)
    assert scripted(late, 2341.0).lost_s["recomputed"] == pytest.approx(301.0)
    # The run ends when its last checkpoint can be read.
    assert scripted(late).wall_s == 3360.0


def test_a_planned_stop_loses_nothing() -> None:
    found = scripted(one(UPDATE), 1500.0)
    assert found.lost_s["recomputed"] == 0.0
    # 1,500 of work and one checkpoint; then 20 to save, 200 to restart; 1,500 left take two checkpoints.
    assert found.wall_s == 3000.0 + 20.0 + 20.0 + 200.0 + 40.0
    assert found.failures == {"planned": 1}


def test_spares_take_the_place_of_nodes_until_there_is_none() -> None:
    run = one(GPU, spares=1)
    assert scripted(run, 500.0).lost_s["waiting"] == 0.0
    found = scripted(run, 500.0, 1e9, 500.0)
    # The first node is back at 500 + 36,000; the second failure is seen at 500 + 100 + 200 + 500 + 100.
    assert found.lost_s["waiting"] == pytest.approx(36500.0 - 1400.0)


def test_an_elastic_job_goes_on_with_fewer_replicas() -> None:
    run = replace(one(GPU, spares=0, elastic=True), work_s=30000.0, interval_s=1e6)
    found = scripted(run, 700.0)
    assert found.lost_s["waiting"] == 0.0
    # 7 of 8 replicas; from 1,000 on 30,000 of work take 34,286, so that it ends before the node is back at 36,700.
    assert found.lost_s["shrunk"] == pytest.approx(30000.0 / 7.0)
    assert found.wall_s == pytest.approx(1000.0 + 30000.0 * 8.0 / 7.0 + 20.0)
    longer = scripted(replace(run, work_s=40000.0), 700.0)
    # It comes back: 35,700 s at 7 / 8, a checkpoint and a restart, the rest at full speed.
    assert longer.lost_s["shrunk"] == pytest.approx(35700.0 / 8.0)
    assert longer.lost_s["restart"] == 400.0
    assert any(span.label == "87.50% of the replicas" for span in longer.spans)


def test_the_slowest_chip_sets_the_step_until_its_node_is_swapped() -> None:
    slow = one(GPU, stragglers=Stragglers(0.0, {0: 1.5, 5: 1.2}))
    assert scripted(slow).lost_s["stragglers"] == pytest.approx(1500.0)
    # Node 0 fails first thing: the next slowest is 1.2.
    swapped = scripted(slow, 1.0)
    assert swapped.lost_s["stragglers"] == pytest.approx(600.0)
    assert swapped.effective > swapped.goodput


def test_a_repaired_node_is_as_good_as_any() -> None:
    slow = one(GPU, nodes=2, spares=0, stragglers=Stragglers(0.0, {0: 1.5}))
    found = scripted(slow, 1.0)
    assert found.lost_s["waiting"] > 0.0
    assert found.lost_s["stragglers"] == 0.0


def test_checkpoints_are_drawn_where_they_are() -> None:
    spans = scripted(one(BUG), 1500.0).spans
    saved = [(span.start_s, span.end_s) for span in spans if span.resource == "checkpoint"]
    assert saved[0] == (1000.0, 1020.0)
    lost = next(span for span in spans if span.resource == "recomputed")
    assert (lost.start_s, lost.end_s) == (1020.0, 1500.0)


def test_a_run_that_gets_nowhere_is_stopped() -> None:
    hopeless = replace(one(BUG), causes=(replace(BUG, rate=1.0),))
    with pytest.raises(SimulationError, match="gets nowhere"):
        simulate_run(hopeless, np.random.default_rng(0))
