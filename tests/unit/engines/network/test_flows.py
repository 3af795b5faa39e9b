"""Flows as events: when they start and end, who waits for whom, and that no byte is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.network.flows import Burst, FlowRun, run_flows
from cosim.engines.network.routes import Loads
from cosim.errors import SimulationError
from cosim.records import Array


def burst(size: float | list[float], *links: int, flows: int = 1, weight: float = 1.0) -> Burst:
    """Flows that each pass all the links."""
    flow = np.repeat(np.arange(flows), len(links))
    link = np.tile(np.array(links, dtype=np.int64), flows)
    ones = np.ones(flows)
    return Burst("b", Loads(flow, link, np.full(len(flow), weight), flows), ones * size, ones, ones * np.inf)


def run(capacity: list[float], *bursts: Burst, series: bool = True) -> FlowRun:
    return run_flows(np.array(capacity), bursts, series=series)


def integral(found: FlowRun, links: int) -> Array:
    total = np.zeros(links)
    for piece in found.intervals:
        total[piece.links] += piece.rate * (piece.end_s - piece.start_s)
    return total


def test_bytes_over_bandwidth() -> None:
    found = run([10.0], burst(40.0, 0))
    assert (found.end_s, found.carried.tolist()) == ((4.0,), [40.0])
    assert found.flow_end_s[0].tolist() == [4.0]


def test_latency_comes_first_and_the_tail_last() -> None:
    found = run([10.0], replace(burst(40.0, 0), at_s=1.0, latency_s=2.0, tail_s=3.0))
    assert (found.ready_s, found.first_byte_s, found.end_s) == ((1.0,), (3.0,), (10.0,))
    assert [(piece.start_s, piece.end_s) for piece in found.intervals] == [(3.0, 7.0)]


def test_a_second_flow_halves_the_first_while_both_run() -> None:
    # 20 B alone, then 20 each in turn at 5 B/s until the first is through at 6 s.
    found = run([10.0], burst(40.0, 0), replace(burst(40.0, 0), at_s=2.0))
    assert found.end_s == pytest.approx((6.0, 8.0))
    assert [piece.rate.tolist() for piece in found.intervals] == [[10.0], [10.0], [10.0]]


def test_a_burst_waits_for_others_to_end() -> None:
    found = run(
        [10.0, 10.0], replace(burst(10.0, 0), tail_s=1.0), burst(40.0, 1), replace(burst(10.0, 0), after=(0, 1))
    )
    assert found.end_s == pytest.approx((2.0, 4.0, 5.0))


def test_flows_of_a_burst_end_one_by_one() -> None:
    found = run([10.0], burst([10.0, 20.0, 30.0], 0, flows=3))
    assert found.flow_end_s[0] == pytest.approx([3.0, 5.0, 6.0])
    assert found.end_s == pytest.approx((6.0,))


def test_all_changes_of_one_instant_are_solved_once() -> None:
    many = [burst(10.0, place) for place in range(20)]
    assert run([10.0] * 20, *many).solved == 1
    assert run([10.0], burst(10.0, 0, flows=50)).solved == 1


def test_nothing_to_send_takes_its_latency() -> None:
    found = run([10.0], replace(burst(0.0, 0), latency_s=0.5))
    assert found.end_s == (0.5,)
    assert found.carried.tolist() == [0.0]


def test_background_goes_on_and_nobody_waits_for_it() -> None:
    endless = replace(burst(np.inf, 0), most=np.array([4.0]), endless=True)
    found = run([10.0], burst(60.0, 0), endless)
    assert found.end_s[0] == pytest.approx(10.0)
    assert np.isnan(found.end_s[1])
    assert found.carried == pytest.approx([100.0])


def test_a_ring_puts_its_weight_on_each_link() -> None:
    found = run([10.0, 20.0], burst(40.0, 0, 1, weight=2.0))
    assert found.end_s == pytest.approx((8.0,))
    assert found.carried == pytest.approx([80.0, 80.0])


def test_without_a_series_the_answer_is_the_same() -> None:
    bursts = (burst(40.0, 0), replace(burst(40.0, 0, 1), at_s=2.0))
    kept, left = run([10.0, 5.0], *bursts), run([10.0, 5.0], *bursts, series=False)
    assert (kept.end_s, kept.carried.tolist()) == (left.end_s, left.carried.tolist())
    assert (len(kept.intervals) > 0, len(left.intervals)) == (True, 0)


def test_flows_that_cannot_end_are_named() -> None:
    with pytest.raises(SimulationError, match=r"flows do not end.*waiting: stuck"):
        run([0.0], replace(burst(1.0, 0), name="stuck"))
    circle = [replace(burst(1.0, 0), after=(1,)), replace(burst(1.0, 0), after=(0,))]
    with pytest.raises(SimulationError, match="flows do not end"):
        run([1.0], *circle)


@st.composite
def plays(draw: st.DrawFn) -> tuple[list[float], list[Burst]]:
    links = draw(st.integers(1, 4))
    capacity = draw(st.lists(st.floats(1.0, 50.0), min_size=links, max_size=links))
    bursts = []
    for place in range(draw(st.integers(1, 6))):
        over = draw(st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True))
        flows = draw(st.integers(1, 4))
        sizes = draw(st.lists(st.just(0.0) | st.floats(0.1, 100.0), min_size=flows, max_size=flows))
        made = burst(sizes, *over, flows=flows, weight=draw(st.floats(0.1, 4.0)))
        waits = draw(st.sets(st.integers(0, place - 1))) if place else set()
        times = draw(st.tuples(*[st.just(0.0) | st.floats(0.0, 5.0)] * 3))
        most = np.array(draw(st.lists(st.just(np.inf) | st.floats(0.5, 10.0), min_size=flows, max_size=flows)))
        made = replace(made, after=tuple(waits), at_s=times[0], latency_s=times[1], tail_s=times[2], most=most)
        bursts.append(made)
    return capacity, bursts


@settings(max_examples=100, deadline=None)
@given(play=plays())
def test_bytes_are_conserved_on_every_link(play: tuple[list[float], list[Burst]]) -> None:
    capacity, bursts = play
    found = run(capacity, *bursts)
    owed = np.zeros(len(capacity))
    for one in bursts:
        owed += np.bincount(one.loads.link, one.loads.weight * one.size[one.loads.flow], minlength=len(capacity))
    assert found.carried == pytest.approx(owed, rel=1e-6, abs=1e-6)
    assert integral(found, len(capacity)) == pytest.approx(owed, rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(play=plays())
def test_no_link_is_ever_too_full_and_time_goes_on(play: tuple[list[float], list[Burst]]) -> None:
    capacity, bursts = play
    found = run(capacity, *bursts)
    clock = 0.0
    for piece in found.intervals:
        assert piece.start_s >= clock
        clock = piece.end_s
        assert np.all(piece.rate <= np.array(capacity)[piece.links] * (1.0 + 1e-6))
    for place, one in enumerate(bursts):
        ready = max([one.at_s, *(found.end_s[other] for other in one.after)])
        assert found.ready_s[place] == pytest.approx(ready, abs=1e-12)
        alone = max(np.max(one.size / one.most), np.max(one.size * one.loads.weight[0] / max(capacity)))
        assert found.end_s[place] >= (ready + one.latency_s + alone + one.tail_s) * (1.0 - 1e-6)
