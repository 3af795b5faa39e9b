"""Links of every kind of tier: how many, how fast, and what the whole of a chip's links gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.engines.network.graph import WIRED, build
from cosim.engines.network.links import ends
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays

Made = Callable[..., SystemArrays]
INNER: list[dict[str, Any]] = [
    {"kind": "switch", "size": 4},
    {"kind": "bus", "size": 3},
    {"kind": "mesh", "size": 5},
    {"kind": "ring", "size": 6},
    {"kind": "torus", "shape": (4, 3)},
    {"kind": "torus", "shape": (4, 2), "closed": (False, False)},
    {"kind": "hypercube_mesh", "size": 8},
    {"kind": "fat_tree", "size": 4},
    {"kind": "dragonfly", "shape": (2, 3)},
]
TIERS = st.lists(st.sampled_from(INNER), min_size=1, max_size=3)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tiers=TIERS)
def test_tiers_of_any_depth_share_out_the_list_of_links(network_on: Made, tiers: list[dict[str, Any]]) -> None:
    graph = build(network_on(*tiers))
    assert sum(tier.count for tier in graph.tiers) == len(graph.capacity) == len(graph.there)
    assert graph.chips == np.prod([tier.size for tier in graph.tiers])
    first = 0
    for tier in graph.tiers:
        assert tier.first == first
        assert tier.wholes * tier.span == graph.chips
        first += tier.count
    assert np.all(graph.capacity[graph.there] > 0.0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tiers=TIERS)
def test_wires_of_a_chip_together_give_its_bandwidth(network_on: Made, tiers: list[dict[str, Any]]) -> None:
    graph = build(network_on(*tiers))
    for tier in graph.tiers:
        if tier.kind not in WIRED:
            continue
        links = np.arange(tier.first, tier.first + tier.count)
        links = links[graph.there[links]]
        tail, head = ends(tier, links)
        assert np.all(tail // tier.span == head // tier.span)
        assert np.all(tail % tier.held == head % tier.held)
        assert np.all(tail != head)
        out = np.bincount(tail, graph.capacity[links], minlength=graph.chips)
        into = np.bincount(head, graph.capacity[links], minlength=graph.chips)
        # A line ends: chips there have fewer links. All others have the whole 80 of 100 GB/s.
        assert np.all(out <= 80e9 * (1 + 1e-12))
        assert out == pytest.approx(into)
        if all(tier.closed) or tier.kind == "mesh":
            assert out == pytest.approx(80e9)


def test_capacities_by_hand(network_on: Made) -> None:
    mesh = build(network_on({"kind": "mesh", "size": 5}))
    assert mesh.capacity[mesh.there] == pytest.approx(80e9 / 4)
    assert mesh.there.sum() == 20
    torus = build(network_on({"kind": "torus", "shape": (4, 4, 4)}))
    assert torus.capacity == pytest.approx(80e9 / 6)
    assert torus.there.sum() == 64 * 6
    line = build(network_on({"kind": "torus", "shape": (4, 2), "closed": (False, True)}))
    assert line.there.sum() == 2 * (3 + 3) + 8 * 2
    cube = build(network_on({"kind": "hypercube_mesh", "size": 8}))
    assert cube.capacity == pytest.approx(80e9 / 3)
    assert build(network_on({"kind": "bus", "size": 4})).capacity.tolist() == [80e9]


def test_oversubscription_narrows_what_leaves_a_unit_and_not_its_ports(network_on: Made) -> None:
    # The bandwidth of a lowered tier is already what is left: 100 GB/s of ports of 400.
    graph = build(network_on({"size": 4}, {"kind": "fat_tree", "size": 3, "oversubscription": 4}))
    tier = graph.tiers[1]
    own = graph.capacity[tier.first :]
    assert own[: 2 * 12] == pytest.approx(320e9)
    assert own[2 * 12 :] == pytest.approx(4 * 80e9)
    assert len(own) == 2 * 12 + 2 * 3


def test_rails_have_ports_alone(network_on: Made) -> None:
    graph = build(network_on({"size": 4}, {"kind": "fat_tree", "size": 3, "rails": True}))
    assert graph.tiers[1].by_place
    assert graph.tiers[1].count == 2 * 12


def test_a_dragonfly_has_a_bundle_for_each_pair_of_groups(network_on: Made) -> None:
    graph = build(network_on({"size": 2}, {"kind": "dragonfly", "shape": (3, 4)}))
    own = graph.capacity[graph.tiers[1].first :]
    there = graph.there[graph.tiers[1].first :]
    ports, routers = 2 * 24, 2 * 12
    assert there[ports + routers :].sum() == 4 * 3
    # Three routers of two chips share three other groups.
    assert own[ports + routers :] == pytest.approx(3 * 2 * 80e9 / 3)


def test_engines_limit_a_chip_whatever_its_links(network_on: Made) -> None:
    graph = build(network_on({"kind": "mesh", "size": 3, "engine_rate": 50e9}))
    assert graph.tiers[0].engines
    assert graph.capacity[-3:] == pytest.approx(40e9)
    assert len(graph.capacity) == 9 + 3


def test_the_tier_of_a_link_is_found(network_on: Made) -> None:
    graph = build(network_on({"size": 4}, {"kind": "ring", "size": 3}))
    assert [graph.tier_of(link).name for link in (0, 23, 24, len(graph.capacity) - 1)] == ["tier0"] * 2 + ["tier1"] * 2


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ([{"kind": "torus", "shape": (4, 4), "size": 8}], r"tier 'tier0' is a torus of 16 and holds 8.*\[4, 4\]"),
        ([{"kind": "hypercube_mesh", "size": 6}], "tier 'tier0' is a hypercube_mesh of 8 and holds 6|of 4 and holds 6"),
        ([{"size": 4}, {"kind": "fat_tree", "size": 2, "bandwidth": 0.0}], "tier 'tier1' has no bandwidth"),
    ],
)
def test_what_cannot_be_built_says_which_tier_and_number(
    network_on: Made, tiers: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        build(network_on(*tiers))
