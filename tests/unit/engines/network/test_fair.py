"""Max-min fair rates: no link too full, no flow that could have more without taking it from a poorer one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.network.fair import fair_rates
from cosim.engines.network.routes import Loads
from cosim.records import Array

FREE = np.inf


def loads_of(rows: list[dict[int, float]]) -> Loads:
    """Flows as links with weights."""
    flow = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    link = np.array([one for row in rows for one in row], dtype=np.int64)
    return Loads(flow, link, np.array([one for row in rows for one in row.values()], dtype=float), len(rows))


def rates(
    capacity: list[float],
    rows: list[dict[int, float]],
    most: list[float] | None = None,
    fair: list[float] | None = None,
) -> list[float]:
    ones = np.ones(len(rows))
    limits = ones * FREE if most is None else np.array(most)
    found = fair_rates(np.array(capacity), loads_of(rows), limits, ones if fair is None else np.array(fair))
    return [float(one) for one in found]


@pytest.mark.parametrize(
    ("capacity", "rows", "expected"),
    [
        ([10.0], [{0: 1.0}], [10.0]),
        ([10.0], [{0: 1.0}, {0: 1.0}], [5.0, 5.0]),
        # The line of three: the long flow and one short share the narrow link, the other short takes the rest.
        ([10.0, 4.0], [{0: 1.0, 1: 1.0}, {0: 1.0}, {1: 1.0}], [2.0, 8.0, 2.0]),
        # A ring that puts two bytes on a link for one of its own.
        ([12.0], [{0: 2.0}, {0: 1.0}], [4.0, 4.0]),
        ([12.0, 2.0], [{0: 1.0, 1: 0.5}, {0: 1.0}], [4.0, 8.0]),
    ],
)
def test_rates_by_hand(capacity: list[float], rows: list[dict[int, float]], expected: list[float]) -> None:
    assert rates(capacity, rows) == pytest.approx(expected)


def test_a_flow_with_a_most_leaves_the_rest_to_others() -> None:
    assert rates([10.0], [{0: 1.0}, {0: 1.0}, {0: 1.0}], most=[1.0, FREE, FREE]) == pytest.approx([1.0, 4.5, 4.5])
    assert rates([10.0], [{0: 1.0}, {0: 1.0}], most=[20.0, FREE]) == pytest.approx([5.0, 5.0])


def test_the_pace_of_a_flow_weighs_its_part() -> None:
    assert rates([9.0], [{0: 1.0}, {0: 1.0}], fair=[2.0, 1.0]) == pytest.approx([6.0, 3.0])
    # A seventh of a byte on each of seven links, at a pace of seven: as much of the link as a plain flow.
    assert rates([10.0], [{0: 1.0 / 7.0}, {0: 1.0}], fair=[7.0, 1.0]) == pytest.approx([35.0, 5.0])


def test_a_link_without_capacity_stops_its_flows() -> None:
    assert rates([0.0, 5.0], [{0: 1.0, 1: 1.0}, {1: 1.0}]) == pytest.approx([0.0, 5.0])


def test_a_flow_without_links_has_its_most() -> None:
    assert rates([1.0], [{}, {0: 1.0}], most=[3.0, FREE]) == pytest.approx([3.0, 1.0])
    assert rates([1.0], []) == []


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Loads, Array, Array]:
    links = draw(st.integers(1, 6))
    number = draw(st.integers(1, 12))
    positive = st.floats(0.1, 10.0)
    rows = [
        draw(st.dictionaries(st.integers(0, links - 1), positive, min_size=1, max_size=links)) for _ in range(number)
    ]
    capacity = draw(st.lists(st.floats(0.5, 100.0), min_size=links, max_size=links))
    most = draw(st.lists(st.just(FREE) | st.floats(0.01, 20.0), min_size=number, max_size=number))
    fair = draw(st.lists(positive, min_size=number, max_size=number))
    return np.array(capacity), loads_of(rows), np.array(most), np.array(fair)


def used(loads: Loads, rate: Array, links: int) -> Array:
    found: Array = np.bincount(loads.link, loads.weight * rate[loads.flow], minlength=links).astype(float)
    return found


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_no_link_is_too_full_and_every_flow_has_a_reason(problem: tuple[Array, Loads, Array, Array]) -> None:
    capacity, loads, most, fair = problem
    rate = fair_rates(*problem)
    load = used(loads, rate, len(capacity))
    assert np.all(load <= capacity * (1.0 + 1e-6))
    assert np.all(rate <= most * (1.0 + 1e-9))
    level = rate / fair
    for flow in range(loads.flows):
        if rate[flow] >= most[flow] * (1.0 - 1e-6):
            continue
        mine = loads.link[loads.flow == flow]
        # Its bottleneck: a full link on which nobody has a higher level.
        full = [link for link in mine if load[link] >= capacity[link] * (1.0 - 1e-6)]
        assert any(level[flow] >= level[loads.flow[loads.link == link]].max() * (1.0 - 1e-6) for link in full)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), factor=st.floats(0.1, 10.0))
def test_rates_scale_with_the_network(problem: tuple[Array, Loads, Array, Array], factor: float) -> None:
    capacity, loads, most, fair = problem
    plain, scaled = fair_rates(*problem), fair_rates(capacity * factor, loads, most * factor, fair)
    assert scaled == pytest.approx(plain * factor, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), seed=st.integers(0, 999))
def test_the_order_of_flows_is_no_matter(problem: tuple[Array, Loads, Array, Array], seed: int) -> None:
    capacity, loads, most, fair = problem
    order = np.random.default_rng(seed).permutation(loads.flows)
    rows = [
        dict(zip(loads.link[loads.flow == one].tolist(), loads.weight[loads.flow == one].tolist(), strict=True))
        for one in order
    ]
    again = fair_rates(capacity, loads_of(rows), most[order], fair[order])
    assert again == pytest.approx(fair_rates(*problem)[order], rel=1e-6)
