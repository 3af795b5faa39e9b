"""The pipeline in closed form: micro-batches and stages, pieces of a stage, transfers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.pipeline import Schedule, pipeline_time
from cosim.mapping.stages import stages
from cosim.records import array

MILLI = st.integers(1, 4000).map(lambda number: number / 1000.0)
SLACK = 1.0 + 1e-12


def schedule_of(forward: list[float], back: list[float], layers: int, pipeline: int, **hops: float) -> Schedule:
    """Stages that take these seconds by class, with transfers by name."""
    ahead, behind = (np.array(each)[:, None] for each in (forward, back))
    counts = {name: array(hops.get(name, 0.0)) for name in ("inside", "across", "inside_time", "across_time")}
    return Schedule(stages(array(layers), array(pipeline)), ahead, behind, **counts)


def whole(schedule: Schedule, pipeline: int, micro_batches: int, pieces: int = 1) -> float:
    return float(pipeline_time(schedule, array(pipeline), array(micro_batches), array(pieces))[0])


@settings(max_examples=60, deadline=None)
@given(time=st.tuples(MILLI, MILLI), pipeline=st.integers(1, 64), micro=st.integers(1, 200))
def test_equal_stages_take_micro_batches_and_stages_less_one(
    time: tuple[float, float], pipeline: int, micro: int
) -> None:
    schedule = schedule_of([time[0]] * 4, [time[1]] * 4, pipeline, pipeline)
    found = whole(schedule, pipeline, micro)
    assert found == pytest.approx((micro + pipeline - 1) * sum(time), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    time=st.tuples(MILLI, MILLI),
    pipeline=st.integers(2, 64),
    pieces=st.integers(2, 8),
    rounds=st.integers(1, 20),
)
def test_pieces_divide_the_time_until_every_stage_has_work(
    time: tuple[float, float], pipeline: int, pieces: int, rounds: int
) -> None:
    schedule = schedule_of([time[0]] * 4, [time[1]] * 4, pipeline * pieces, pipeline)
    micro = rounds * pipeline
    found = whole(schedule, pipeline, micro, pieces)
    assert found == pytest.approx((micro + (pipeline - 1) / pieces) * sum(time), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    forward=st.tuples(*[MILLI] * 4),
    back=st.tuples(*[MILLI] * 4),
    layers=st.integers(2, 40),
    pipeline=st.integers(2, 12),
    micro=st.integers(1, 40),
    moved=st.integers(0, 3000),
)
def test_a_pipeline_is_no_faster_than_its_busiest_stage_or_one_way_through(
    forward: tuple[float, ...], back: tuple[float, ...], layers: int, pipeline: int, micro: int, moved: int
) -> None:
    layers, hop = max(layers, pipeline), moved / 1000.0
    schedule = schedule_of(list(forward), list(back), layers, pipeline, across=pipeline - 1.0, across_time=hop)
    count = schedule.stage.count[:, 0]
    busy = np.repeat(np.array(forward) + np.array(back), count.astype(int))
    assert len(busy) == pipeline
    found = whole(schedule, pipeline, micro)
    once = busy.sum() + 2.0 * (pipeline - 1) * hop
    assert found >= micro * busy.max() * (1.0 - 1e-12)
    assert found >= once * (1.0 - 1e-12)
    # Never worse than one micro-batch after the other.
    assert found <= (micro * (once + hop)) * SLACK
    if micro == 1:
        assert found == pytest.approx(once, rel=1e-12)


def test_transfers_by_hand() -> None:
    # Four stages of 3 s, 0.5 s to each neighbour and back: once through 12 + 3; each further micro-batch waits for
    # a stage and the way to the next, 3.75 s of the ring or 3.5 of a pair.
    schedule = schedule_of([1.0] * 4, [2.0] * 4, 4, 4, across=3.0, across_time=0.5)
    assert whole(schedule, 4, 1) == pytest.approx(15.0)
    assert whole(schedule, 4, 9) == pytest.approx(15.0 + 8 * 3.75)
    # Two pieces: 12 / 2 + (8 - 1 / 2) x 3, the way once and from the last to the first: 3 + 4
    assert whole(schedule, 4, 8, 2) == pytest.approx(28.5 + 3.0 + 4.0)


def test_one_stage_sends_nothing() -> None:
    schedule = schedule_of([1.0] * 4, [2.0] * 4, 4, 1, across_time=100.0, inside_time=100.0)
    assert whole(schedule, 1, 7) == pytest.approx(21.0)


def test_classes_without_a_stage_do_not_count() -> None:
    # Six layers on four stages: two middle stages of two layers; the lean class has none.
    schedule = schedule_of([1.0, 2.0, 99.0, 1.0], [2.0, 3.0, 99.0, 2.0], 6, 4)
    found = whole(schedule, 4, 10)
    # Down to the third stage, nine rounds there, and the last stage's 3 less the forward pass of 2 that runs meanwhile.
    assert found == pytest.approx((3 + 5 + 5) + 9 * 5.0 + (3 - 2))
