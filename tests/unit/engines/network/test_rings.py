"""What rings put on links: every rank sends and receives as much as passes it, spread over all links it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.engines.network.graph import Graph, build
from cosim.engines.network.links import ends, name_of
from cosim.engines.network.rings import channels, ring, round_tier
from cosim.engines.network.routes import Loads
from cosim.hardware.lower import SystemArrays

Made = Callable[..., SystemArrays]


def weights(graph: Graph, loads: Loads) -> dict[str, float]:
    total = np.bincount(loads.link, loads.weight, minlength=len(graph.capacity))
    return {name_of(graph, int(link)): float(total[link]) for link in np.flatnonzero(total)}


def one(graph: Graph, chips: list[int], depth: int = 0, channel: int = 0) -> dict[str, float]:
    return weights(graph, round_tier(graph, depth, np.array(chips), channel))


def test_a_switch_sees_one_byte_in_and_out_of_each_rank(network_on: Made) -> None:
    graph = build(network_on({"name": "n", "size": 4}))
    assert one(graph, [0, 1, 3]) == {f"n0.chip{chip}.{way}": 1.0 for chip in (0, 1, 3) for way in ("up", "down")}


def test_a_bus_sees_one_for_each_rank(network_on: Made) -> None:
    graph = build(network_on({"name": "b", "kind": "bus", "size": 4}))
    assert one(graph, [0, 1, 3]) == {"b0.bus": 3.0}


def test_a_mesh_spreads_over_all_pairs_of_the_group(network_on: Made) -> None:
    graph = build(network_on({"name": "m", "kind": "mesh", "size": 8}))
    found = one(graph, [0, 2, 5])
    assert set(found.values()) == {0.5}
    assert len(found) == 6


def test_a_hypercube_uses_the_dimensions_that_a_smaller_cube_spans(network_on: Made) -> None:
    graph = build(network_on({"name": "h", "kind": "hypercube_mesh", "size": 8}))
    found = one(graph, [0, 1, 4, 5])
    assert set(found.values()) == {0.5}
    assert {name[:5] for name in found} == {"h0.d0", "h0.d2"}
    assert len(found) == 8


@pytest.mark.parametrize(
    ("closed", "chips", "links", "weight"),
    [
        (True, [0, 1, 2, 3], 8, 0.5),  # both ways round
        (True, [0, 1], 2, 1.0),  # a piece of the ring: there and back
        (False, [0, 1, 2, 3], 6, 1.0),
        (True, [0, 2], 4, 1.0),  # over the chip between
    ],
)
def test_a_ring_of_wires_by_hand(network_on: Made, closed: bool, chips: list[int], links: int, weight: float) -> None:
    graph = build(network_on({"kind": "torus", "shape": (4,), "closed": (closed,)}))
    found = one(graph, chips)
    assert (len(found), set(found.values())) == (links, {weight})


def test_a_torus_uses_all_dimensions_at_once(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (4, 3)}))
    found = one(graph, list(range(12)))
    assert len(found) == 48
    assert set(found.values()) == {0.25}
    # Half of x and all of y: one ring there and back in x, two in y.
    part = one(graph, [0, 1, 4, 5, 8, 9])
    assert set(part.values()) == {1.0 / 3.0}
    assert sum(name.startswith("t0.x") for name in part) == 6
    assert sum(name.startswith("t0.y") for name in part) == 12


def test_ranks_that_make_no_box_pass_from_each_to_the_next(network_on: Made) -> None:
    graph = build(network_on({"name": "t", "kind": "torus", "shape": (4, 4)}))
    found = round_tier(graph, 0, np.array([0, 1, 6]), 0)
    assert found.weight.sum() == pytest.approx(1 + 2 + 3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tier=st.sampled_from(
        [
            {"kind": "switch", "size": 6},
            {"kind": "mesh", "size": 6},
            {"kind": "torus", "shape": (3, 2)},
            {"kind": "torus", "shape": (3, 2), "closed": (False, True)},
        ]
    ),
    chips=st.sets(st.integers(0, 11), min_size=2, max_size=12),
)
def test_as_much_leaves_a_chip_as_arrives(network_on: Made, tier: dict[str, Any], chips: set[int]) -> None:
    graph = build(network_on(tier, {"kind": "mesh", "size": 2}))
    own = graph.tiers[0]
    found = round_tier(graph, 0, np.array(sorted(chips)), 0)
    if own.kind == "switch":
        into = found.link - own.first >= own.chips
        chip, sign = (found.link - own.first) % own.chips, np.where(into, 1.0, -1.0)
        net = np.bincount(chip, sign * found.weight, minlength=graph.chips)
    else:
        tail, head = ends(own, found.link)
        net = np.bincount(head, found.weight, minlength=graph.chips) - np.bincount(
            tail, found.weight, minlength=graph.chips
        )
    assert net == pytest.approx(np.zeros(graph.chips), abs=1e-12)


def test_every_rank_of_a_unit_has_a_channel_over_its_own_port(network_on: Made) -> None:
    graph = build(network_on({"name": "n", "size": 4}, {"name": "c", "kind": "fat_tree", "size": 3, "rails": True}))
    chips = np.arange(12)
    assert [channels(graph, chips, depth) for depth in (0, 1)] == [1, 4]
    loads = ring(graph, chips, {0: 1.0, 1: 1.0})
    assert loads.flows == 4
    for channel in range(4):
        mine = loads.link[(loads.flow == channel) & (loads.link >= graph.tiers[1].first)]
        names = {name_of(graph, int(link)) for link in mine}
        assert names == {f"c0.n{node}.chip{channel}.{way}" for node in range(3) for way in ("up", "down")}
    # All channels together: a byte of each past every port inside, one past every port outside.
    total = weights(graph, loads)
    assert {total[f"n1.chip{chip}.up"] for chip in range(4)} == {4.0}
    assert {total[f"c0.n1.chip{chip}.up"] for chip in range(4)} == {1.0}


def test_a_protocol_takes_more_of_the_wire(network_on: Made) -> None:
    graph = build(network_on({"size": 2}, {"kind": "fat_tree", "size": 2}))
    loads = ring(graph, np.arange(4), {0: 1.0, 1: 0.5})
    inner = loads.link < graph.tiers[1].first
    assert set(loads.weight[inner]) == {1.0}
    assert set(loads.weight[~inner]) == {2.0}


def test_uneven_units_share_the_fewest_channels(network_on: Made) -> None:
    graph = build(network_on({"size": 4}, {"kind": "fat_tree", "size": 2}))
    assert ring(graph, np.array([0, 1, 2, 4, 5]), {0: 1.0, 1: 1.0}).flows == 2


def test_engines_pass_what_their_chip_sends(network_on: Made) -> None:
    graph = build(network_on({"name": "m", "kind": "mesh", "size": 4, "engine_rate": 10e9}))
    found = one(graph, [0, 1, 2])
    assert {name: load for name, load in found.items() if "engines" in name} == {
        f"m0.chip{chip}.engines": 1.0 for chip in range(3)
    }


def test_channels_of_uneven_units_stay_on_rails_that_all_have(network_on: Made) -> None:
    graph = build(network_on({"name": "n", "size": 4}, {"name": "c", "kind": "fat_tree", "size": 2, "rails": True}))
    chips = np.array([0, 1, 2, 3, 4, 5, 7])
    for channel, place in enumerate((0, 1, 3)):
        assert {name.split(".")[2] for name in one(graph, list(chips), 1, channel)} == {f"chip{place}"}
