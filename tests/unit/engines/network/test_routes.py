"""Routes between chips: whole, over tiers, and round links that have failed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.engines.network.graph import Graph, build
from cosim.engines.network.links import degraded, name_of
from cosim.engines.network.routes import Loads, around, gathered, routes
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays

Made = Callable[..., SystemArrays]
RAILS = ({"name": "node", "size": 4}, {"name": "net", "kind": "fat_tree", "size": 3, "rails": True, "link": "nic"})
PLAIN = ({"name": "node", "size": 4}, {"name": "net", "kind": "fat_tree", "size": 3, "link": "nic"})


def named(graph: Graph, source: int, target: int, reach: int | None = None) -> list[str]:
    found = routes(graph, np.array([source]), np.array([target]), reach)
    return sorted(name_of(graph, int(link)) for link in found.link)


def distance(shape: tuple[int, ...], closed: bool, source: int, target: int) -> int:
    """Hops between two units of a torus, by hand."""
    total, before = 0, 1
    for length in shape:
        apart = abs(source // before % length - target // before % length)
        total += min(apart, length - apart) if closed else apart
        before *= length
    return total


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from([(4,), (5,), (2, 3), (4, 4), (3, 4, 2)]),
    closed=st.booleans(),
    ends=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
)
def test_a_torus_takes_as_many_hops_as_its_distance(
    network_on: Made, shape: tuple[int, ...], closed: bool, ends: tuple[int, int]
) -> None:
    graph = build(network_on({"kind": "torus", "shape": shape, "closed": tuple(closed for _ in shape)}))
    chips = math.prod(shape)
    source, target = (end % chips for end in ends)
    found = routes(graph, np.array([source]), np.array([target]))
    assert found.weight.sum() == pytest.approx(distance(shape, closed, source, target))
    assert np.all(graph.there[found.link])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tiers=st.lists(
        st.sampled_from(
            [
                {"kind": "switch", "size": 3},
                {"kind": "mesh", "size": 3},
                {"kind": "torus", "shape": (3, 2)},
                {"kind": "fat_tree", "size": 2, "rails": True},
                {"kind": "hypercube_mesh", "size": 4, "link": "other"},
            ]
        ),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 99),
)
def test_many_pairs_at_once_are_each_alone(network_on: Made, tiers: list[dict[str, Any]], seed: int) -> None:
    graph = build(network_on(*tiers))
    source, target = np.random.default_rng(seed).integers(0, graph.chips, (2, 12))
    together = routes(graph, source, target)
    assert np.all(np.diff(together.flow) >= 0)
    for pair in range(12):
        alone = routes(graph, source[pair : pair + 1], target[pair : pair + 1])
        mine = together.flow == pair
        assert sorted(together.link[mine]) == sorted(alone.link)
        assert (source[pair] == target[pair]) == (not mine.any())


def test_rails_go_inside_to_the_place_of_the_receiver_first(network_on: Made) -> None:
    graph = build(network_on(*RAILS))
    assert named(graph, 1, 5) == ["net0.node0.chip1.up", "net0.node1.chip1.down"]
    assert named(graph, 1, 6) == [
        "net0.node0.chip2.up",
        "net0.node1.chip2.down",
        "node0.chip1.up",
        "node0.chip2.down",
    ]


def test_a_plain_tree_goes_straight(network_on: Made) -> None:
    graph = build(network_on(*PLAIN))
    assert named(graph, 1, 6) == ["net0.leaf0.up", "net0.leaf1.down", "net0.node0.chip1.up", "net0.node1.chip2.down"]


def test_a_port_that_tiers_share_is_used_by_both(network_on: Made) -> None:
    shared = build(network_on({"name": "a", "size": 2}, {"name": "b", "size": 2}))
    assert named(shared, 0, 3) == ["a0.chip0.up", "a1.chip1.down", "b0.a0.chip0.up", "b0.a1.chip1.down"]
    apart = build(network_on({"name": "a", "size": 2}, {"name": "b", "size": 2, "link": "other"}))
    assert named(apart, 0, 3) == ["b0.a0.chip0.up", "b0.a1.chip1.down"]


def test_a_bus_carries_all_that_meets_inside_it_of_a_group_that_reaches_it(network_on: Made) -> None:
    graph = build(network_on({"name": "a", "size": 2, "link": "own"}, {"name": "b", "kind": "bus", "size": 2}))
    assert named(graph, 0, 1, reach=0) == ["a0.chip0.up", "a0.chip1.down"]
    assert named(graph, 0, 1, reach=1) == ["a0.chip0.up", "a0.chip1.down", "b0.bus"]
    assert named(graph, 0, 2, reach=1) == ["b0.bus"]


def test_engines_feed_every_flow_of_their_chip(network_on: Made) -> None:
    graph = build(network_on({"name": "m", "kind": "mesh", "size": 3, "engine_rate": 1e9}))
    assert named(graph, 2, 0) == ["m0.chip2.engines", "m0.link[2,0]"]


def test_loads_are_gathered_flow_by_flow() -> None:
    found = gathered([(np.array([1, 0]), np.array([5, 6]), 1.0), (np.array([0]), np.array([7]), 0.5)], 3)
    assert (found.flow.tolist(), found.link.tolist(), found.weight.tolist()) == ([0, 0, 1], [6, 7, 5], [1.0, 0.5, 1.0])
    assert found.counts.tolist() == [2, 1, 0]
    assert gathered([], 2).counts.tolist() == [0, 0]


def round_about(graph: Graph, factors: dict[str, float], source: int, target: int) -> list[str]:
    capacity = degraded(graph, factors)
    found = around(graph, capacity, routes(graph, np.array([source]), np.array([target])))
    assert np.all(capacity[found.link] > 0.0)
    return [name_of(graph, int(link)) for link in found.link]


def test_a_ring_goes_the_other_way_round(network_on: Made) -> None:
    graph = build(network_on({"name": "r", "kind": "ring", "size": 5}))
    assert round_about(graph, {"r0.x+[0]": 0.0}, 0, 1) == [f"r0.x-[{at}]" for at in (0, 4, 3, 2)]


def test_a_torus_goes_round_in_three_hops(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (4, 4)}))
    assert len(round_about(graph, {"t0.x+[0,0]": 0.0}, 0, 1)) == 3
    assert len(round_about(graph, {"t0.x+[0,0]": 0.0, "t0.y?[0,0]": 0.0}, 0, 1)) == 3


def test_a_mesh_goes_over_another_chip(network_on: Made) -> None:
    graph = build(network_on({"name": "m", "kind": "mesh", "size": 4}))
    found = round_about(graph, {"m0.link[0,1]": 0.0}, 0, 1)
    assert len(found) == 2
    assert found[0].startswith("m0.link[0,")


@pytest.mark.parametrize("tiers", [PLAIN, RAILS])
def test_a_chip_without_its_port_uses_that_of_its_neighbour(
    network_on: Made, tiers: tuple[dict[str, Any], ...]
) -> None:
    graph = build(network_on(*tiers))
    out = round_about(graph, {"net0.node0.chip1.up": 0.0}, 1, 5)
    assert {"node0.chip1.up", "node0.chip2.down", "net0.node0.chip2.up"} <= set(out)
    into = round_about(graph, {"net0.node1.chip1.down": 0.0, "net0.node1.chip2.down": 0.0}, 1, 5)
    assert {"net0.node1.chip3.down", "node1.chip3.up", "node1.chip1.down"} <= set(into)


def test_weights_of_a_failed_link_move_with_it(network_on: Made) -> None:
    graph = build(network_on({"name": "r", "kind": "ring", "size": 4}))
    loads = routes(graph, np.array([0, 3]), np.array([2, 2]))
    moved = around(graph, degraded(graph, {"r0.x+[0]": 0.0}), loads)
    assert isinstance(moved, Loads)
    # Half of the first flow went over x+[0]; now three links back instead of one forward.
    assert moved.weight[moved.flow == 0].sum() == pytest.approx(2.0 - 0.5 + 1.5)
    assert moved.weight[moved.flow == 1].tolist() == [1.0]


@pytest.mark.parametrize(
    ("tiers", "factors", "pair", "said"),
    [
        (
            [{"name": "t", "kind": "torus", "shape": (4,), "closed": (False,)}],
            {"t0.x+[1]": 0.0},
            (0, 3),
            r"tier 't': link t0.x\+\[1\] has failed.*1 failed links cut the tier in two",
        ),
        ([{"name": "n", "size": 4}], {"n0.chip2.down": 0.0}, (0, 2), "tier 'n': link n0.chip2.down has failed"),
        ([{"name": "b", "kind": "bus", "size": 4}], {"b0.bus": 0.0}, (0, 2), "tier 'b': link b0.bus has failed"),
        (PLAIN, {"net0.leaf1.down": 0.0}, (0, 5), "tier 'net': link net0.leaf1.down has failed"),
        (PLAIN, {"net0.node0.chip?.up": 0.0}, (0, 5), "tier 'net'.*all 4 ports of its unit have failed"),
    ],
)
def test_a_network_cut_in_two_says_where(
    network_on: Made, tiers: list[dict[str, Any]], factors: dict[str, float], pair: tuple[int, int], said: str
) -> None:
    graph = build(network_on(*tiers))
    with pytest.raises(SpecError, match=said):
        round_about(graph, factors, *pair)
