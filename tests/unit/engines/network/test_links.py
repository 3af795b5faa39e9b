"""Names of links, links between two units, and what is left of links that are degraded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosim.engines.network.graph import Graph, build
from cosim.engines.network.links import degraded, joining, name_of
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays

Made = Callable[..., SystemArrays]


def names(graph: Graph) -> list[str]:
    return [name_of(graph, int(link)) for link in np.flatnonzero(graph.there)]


def path(graph: Graph, depth: int, source: int, target: int) -> list[tuple[str, float]]:
    """Names and parts of what joins two chips on a tier."""
    hops = joining(graph.tiers[depth], np.array([source]), np.array([target]))
    return [(name_of(graph, int(link)), part) for which, links, part in hops for link in links if len(which)]


@pytest.mark.parametrize(
    ("tiers", "there"),
    [
        ([{"name": "node", "size": 8}], ["node0.chip5.up", "node0.chip7.down"]),
        (
            [{"name": "node", "size": 8}, {"name": "cluster", "kind": "fat_tree", "size": 4}],
            ["node3.chip5.up", "cluster0.node3.chip5.up", "cluster0.leaf2.up", "cluster0.leaf2.down"],
        ),
        (
            [{"name": "node", "size": 2}, {"name": "rack", "size": 3}, {"name": "hall", "kind": "fat_tree", "size": 2}],
            ["hall0.rack1.node2.chip1.down", "rack1.node2.chip0.up", "hall0.leaf1.up", "node5.chip1.up"],
        ),
        ([{"name": "cube", "kind": "torus", "shape": (4, 4, 4)}], ["cube0.x+[1,2,3]", "cube0.z-[0,0,0]"]),
        ([{"name": "pair", "size": 2}, {"name": "host", "kind": "bus", "size": 2}], ["host0.bus", "pair1.chip0.up"]),
        (
            [{"name": "node", "size": 2}, {"name": "pod", "kind": "mesh", "size": 3}],
            ["pod0.place1.link[0,2]", "pod0.place0.link[2,1]"],
        ),
        ([{"name": "box", "kind": "hypercube_mesh", "size": 8}], ["box0.d2[1,0,1]"]),
        (
            [{"name": "node", "size": 2}, {"name": "fly", "kind": "dragonfly", "shape": (2, 3)}],
            ["fly0.router5.out", "fly0.router0.in", "fly0.group0-group2"],
        ),
        ([{"name": "loop", "kind": "ring", "size": 5, "engine_rate": 1e9}], ["loop0.x-[4]", "loop0.chip3.engines"]),
    ],
)
def test_every_link_has_a_name_of_its_own(network_on: Made, tiers: list[dict[str, Any]], there: list[str]) -> None:
    found = names(build(network_on(*tiers)))
    assert len(set(found)) == len(found)
    assert set(there) <= set(found)


def test_a_line_has_no_link_past_its_end(network_on: Made) -> None:
    found = names(build(network_on({"name": "line", "kind": "torus", "shape": (3,), "closed": (False,)})))
    assert found == ["line0.x+[0]", "line0.x+[1]", "line0.x-[1]", "line0.x-[2]"]


def test_switches_are_passed_up_and_down(network_on: Made) -> None:
    graph = build(network_on({"name": "node", "size": 4}, {"name": "net", "kind": "fat_tree", "size": 2}))
    assert path(graph, 0, 1, 3) == [("node0.chip1.up", 1.0), ("node0.chip3.down", 1.0)]
    assert path(graph, 1, 1, 7) == [
        ("net0.node0.chip1.up", 1.0),
        ("net0.leaf0.up", 1.0),
        ("net0.leaf1.down", 1.0),
        ("net0.node1.chip3.down", 1.0),
    ]


def test_a_dragonfly_is_crossed_by_one_bundle_between_groups(network_on: Made) -> None:
    graph = build(network_on({"name": "n", "size": 1}, {"name": "fly", "kind": "dragonfly", "shape": (2, 3)}))
    assert [name for name, _ in path(graph, 1, 0, 1)] == [
        "fly0.n0.chip0.up",
        "fly0.router0.out",
        "fly0.router1.in",
        "fly0.n1.chip0.down",
    ]
    assert "fly0.group0-group2" in [name for name, _ in path(graph, 1, 0, 5)]


def test_a_torus_goes_dimension_by_dimension_the_shorter_way(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (5, 5)}))
    assert path(graph, 0, 0, 4 + 5) == [("t0.x-[0,0]", 1.0), ("t0.y+[4,0]", 1.0)]
    assert path(graph, 0, 0, 2) == [("t0.x+[0,0]", 1.0), ("t0.x+[1,0]", 1.0)]


def test_half_goes_each_way_where_both_are_as_long(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "ring", "size": 4}))
    assert sorted(path(graph, 0, 0, 2)) == [(f"t0.x{way}", 0.5) for way in ("+[0]", "+[1]", "-[0]", "-[3]")]


def test_a_line_has_one_way(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (4,), "closed": (False,)}))
    assert path(graph, 0, 3, 0) == [(f"t0.x-[{at}]", 1.0) for at in (3, 2, 1)]


def test_a_hypercube_changes_one_coordinate_after_the_other(network_on: Made) -> None:
    graph = build(network_on({"name": "h", "kind": "hypercube_mesh", "size": 8}))
    assert [name for name, _ in path(graph, 0, 0, 5)] == ["h0.d0[0,0,0]", "h0.d2[1,0,0]"]


def test_names_and_patterns_degrade(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (3, 3)}))
    one = degraded(graph, {"t0.x+[1,2]": 0.5})
    assert (one != graph.capacity).sum() == 1
    assert one.min() == pytest.approx(0.5 * graph.capacity[0])
    many = degraded(graph, {"t0.x+[*": 0.25, "t0.?-[0,0]": 0.0})
    assert (many == 0.25 * graph.capacity).sum() == 9
    assert (many == 0.0).sum() == 2
    assert degraded(graph, {}).tolist() == graph.capacity.tolist()


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"t0.x+[1,7]": 0.5}, r"no link has this name.*nearest: t0.x\+"),
        ({"nothing*": 0.5}, "no link has this name"),
        ({"t0.x+[1,2]": 1.5}, "is no share"),
        ({"t0.x+[1,2]": -0.1}, "is no share"),
        ({"t0.x+[1,2]": float("nan")}, "is no share"),
    ],
)
def test_unknown_links_and_factors_are_refused(network_on: Made, factors: dict[str, float], said: str) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (3, 3)}))
    with pytest.raises(SpecError, match=said):
        degraded(graph, factors)


def test_the_last_group_of_a_dragonfly_may_be_smaller(network_on: Made) -> None:
    fly = {"name": "fly", "kind": "dragonfly", "shape": (2, 4), "size": 5}
    graph = build(network_on({"name": "n", "size": 1}, fly))
    assert {name for name in names(graph) if "group" in name} == {
        f"fly0.group{one}-group{two}" for one in range(3) for two in range(3) if one != two
    }
    assert "fly0.group0-group2" in [name for name, _ in path(graph, 1, 1, 4)]
    assert "fly0.group2-group1" in [name for name, _ in path(graph, 1, 4, 3)]
