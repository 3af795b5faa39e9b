"""Timing: the true time comes back whatever the kernel's length; cold operands are cold; medians by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.measure.points import Attention, Copy, Launch, Matmul, Point
from cosim.measure.timing import FEWEST, MOST, REPLAYS, ROUNDS, TARGET_S, UnableError, copies_of, runs_of, timed

sizes = st.integers(1, 2**15)
points = st.one_of(
    st.builds(Matmul, st.just("bf16"), sizes, sizes, sizes, st.booleans()),
    st.builds(Copy, st.integers(1, 2**32), st.booleans()),
    st.builds(Attention, st.just("bf16"), st.just("decode"), sizes, st.just(1), sizes, *[st.just(8)] * 3),
    st.builds(Launch, st.sampled_from(("stream_gap", "graph_gap")), st.just(1000)),
)
caches = st.floats(1e6, 1e9)


@given(point=points, cache=caches)
def test_a_steady_clock_gives_the_true_time(point: Point, cache: float, fake_device: Any) -> None:
    device = fake_device()
    found = timed(device, point, cache)
    assert found.seconds == pytest.approx(device.seconds_of(point), rel=1e-9)
    assert found.spread == pytest.approx(1.0, rel=1e-12)
    assert found.repeats == device.loops[-1][1] * REPLAYS * ROUNDS


@given(point=points, cache=caches, runs=st.integers(1, MOST))
def test_twice_the_cache_lies_between_two_uses_of_cold_operands(point: Point, cache: float, runs: int) -> None:
    copies = copies_of(point, runs, cache)
    assert 1 <= copies <= runs
    if point.warm:
        assert copies == 1
    elif copies < runs:  # used again in a replay: the others come between
        assert (copies - 1) * point.operand_bytes >= 2.0 * cache * (1.0 - 1e-12)
        assert (copies - 2) * point.operand_bytes < 2.0 * cache  # and no more than it takes


@given(point=points, cache=caches)
def test_only_a_cold_point_is_flushed_before_a_replay(point: Point, cache: float, fake_device: Any) -> None:
    device = fake_device()
    timed(device, point, cache)
    assert {flush for *_, flush in device.loops} == {0.0 if point.warm else 2.0 * cache}


@given(seconds=st.floats(0.0, 10.0))
def test_a_replay_is_long_enough_and_not_too_long(seconds: float) -> None:
    runs = runs_of(seconds)
    assert FEWEST <= runs <= MOST
    if runs < MOST:
        assert runs * seconds >= 0.8 * TARGET_S
    if runs > FEWEST:
        assert runs * seconds <= 1.2 * TARGET_S


def test_runs_by_hand() -> None:
    assert [runs_of(seconds) for seconds in (0.0, 1e-6, 1e-5, 1e-4, 1.0)] == [1000, 1000, 500, 50, 4]


def test_the_median_of_the_rounds_medians_and_their_spread(fake_device: Any) -> None:
    # Rounds of three replays: (9, 1, 1) (1, 2, 9) (3, 3, 3) (9, 4, 1) (1, 5, 5) have medians 1, 2, 3, 4, 5.
    factors = (9, 1, 1, 1, 2, 9, 3, 3, 3, 9, 4, 1, 1, 5, 5)
    device = fake_device(drift=lambda n: factors[n] if n < len(factors) else 1.0)
    point = Copy(2**24)
    found = timed(device, point, 50e6)
    assert found.seconds == pytest.approx(3.0 * device.seconds_of(point), rel=1e-9)
    assert found.spread == pytest.approx(5.0, rel=1e-9)


def test_one_disturbed_replay_does_not_shorten_the_measurement(fake_device: Any) -> None:
    device = fake_device(drift=lambda n: 1000.0 if n == 0 else 1.0)
    timed(device, Copy(2**24), 50e6)
    # 2 us + 33.6 MB / 4 TB/s = 10.4 us
    assert [runs for _, runs, *_ in device.loops] == [4, round(5e-3 / device.seconds_of(Copy(2**24)))]


def test_launches_run_as_often_as_they_say(fake_device: Any) -> None:
    device = fake_device()
    assert timed(device, Launch("lone_kernel", 1), 0.0).method == "stream"
    assert timed(device, Launch("graph_gap", 1000), 0.0).method == "graph"
    assert [runs for _, runs, *_ in device.loops] == [1, 1000]


def test_without_the_size_of_the_cache_nothing_is_called_cold(fake_device: Any) -> None:
    device = fake_device()
    with pytest.raises(UnableError, match="size of the last cache is unknown"):
        timed(device, Copy(4096, warm=False), 0.0)
    assert device.loops == []
    assert timed(device, Copy(4096), 0.0).seconds > 0.0


def test_a_clock_that_stands_still_measures_nothing(fake_device: Any) -> None:
    with pytest.raises(UnableError, match="clock does not resolve"):
        timed(fake_device(drift=lambda _: 0.0), Copy(4096), 50e6)
