"""Tokens between expert ranks: bytes inside the node and beyond it, at the same time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.lower import ProtocolArrays, SystemArrays
from cosim.mapping.placement import Placement
from cosim.records import Array, array
from cosim.timing import collective
from cosim.timing.collective import CollectiveCost

BYTES = st.just(0.0) | st.floats(1.0, 1e11)
SIXTEEN = Placement(array(8.0), array(2.0))


def all_to_all(near: Array, far: Array, system: SystemArrays, group: Placement = SIXTEEN) -> CollectiveCost:
    return collective.all_to_all(near, far, group, system)


def with_tier(system: SystemArrays, index: int, **changes: object) -> SystemArrays:
    tiers = list(system.tiers)
    tiers[index] = dataclasses.replace(tiers[index], **changes)
    return dataclasses.replace(system, tiers=tuple(tiers))


@pytest.mark.parametrize(
    ("near", "far", "seconds"),
    [
        (0.0, 0.0, 0.0),
        (1e9, 0.0, 7.2e-6 + 1e9 / 360e9),  # 6.6 + 0.6 us, 450 GB/s x 0.8
        (0.0, 1e9, 9.3e-6 + 1e9 / 40e9),  # 6.6 + 2.7 us, 50 GB/s x 0.8
        (1e9, 1e9, 9.3e-6 + 1e9 / 40e9),  # both at once: the cluster is slower
        (9e9, 0.9e9, 7.2e-6 + 9e9 / 360e9),  # 25.0 ms inside, 22.5 ms beyond
        (8.0, 8.0, 9.3e-6),
    ],
)
def test_times_on_two_nodes_by_hand(two_h100_nodes: SystemArrays, near: float, far: float, seconds: float) -> None:
    cost = all_to_all(array(near), array(far), two_h100_nodes)
    assert float(cost.time) == pytest.approx(seconds, rel=1e-4)
    assert float(cost.wire_bytes) == near + far


@settings(max_examples=60, deadline=None)
@given(near=BYTES, far=BYTES)
def test_two_ways_take_as_long_as_the_longer(two_h100_nodes: SystemArrays, near: float, far: float) -> None:
    inside, beyond, both = (
        float(all_to_all(array(n), array(f), two_h100_nodes).time) for n, f in ((near, 0.0), (0.0, far), (near, far))
    )
    assert both == max(inside, beyond)
    assert (both == 0.0) == (near + far == 0.0)


@settings(max_examples=60, deadline=None)
@given(near=BYTES, far=BYTES, factor=st.floats(1.0, 100.0))
def test_more_bytes_are_never_faster(two_h100_nodes: SystemArrays, near: float, far: float, factor: float) -> None:
    less, more = (all_to_all(array(near * f), array(far * f), two_h100_nodes) for f in (1.0, factor))
    assert more.time >= less.time
    assert more.wire_bytes >= less.wire_bytes


@settings(max_examples=60, deadline=None)
@given(near=BYTES, far=BYTES, tier=st.sampled_from([0, 1]), factor=st.floats(1.0, 20.0))
def test_a_faster_tier_is_never_slower(
    two_h100_nodes: SystemArrays, near: float, far: float, tier: int, factor: float
) -> None:
    bandwidth = two_h100_nodes.tiers[tier].bandwidth
    faster = with_tier(two_h100_nodes, tier, bandwidth=bandwidth * factor)
    before, after = (all_to_all(array(near), array(far), system).time for system in (two_h100_nodes, faster))
    assert after <= before


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(st.tuples(BYTES, BYTES), min_size=1, max_size=12))
def test_a_batch_equals_each_alone(two_h100_nodes: SystemArrays, drawn: list[tuple[float, float]]) -> None:
    near, far = np.array(drawn).T
    together = all_to_all(near, far, two_h100_nodes)
    alone = [all_to_all(array(n), array(f), two_h100_nodes) for n, f in drawn]
    assert together.time == pytest.approx([float(cost.time) for cost in alone], rel=1e-12)
    assert together.wire_bytes.tolist() == [float(cost.wire_bytes) for cost in alone]


def test_each_way_takes_the_fastest_protocol_of_its_tier(two_h100_nodes: SystemArrays) -> None:
    slow_start = ProtocolArrays(array(3e-6), array(10e-6), array(1.0))
    system = two_h100_nodes
    for tier in (0, 1):
        system = with_tier(system, tier, share=array(0.5), protocols=(slow_start,))
    # The short start at half of the wire for 8 B, the later one at all of it for 1 GB
    assert float(all_to_all(array(8.0), array(0.0), system).time) == pytest.approx(7.2e-6, rel=1e-4)
    assert float(all_to_all(array(1e9), array(0.0), system).time) == pytest.approx(13e-6 + 1e9 / 360e9)
    assert float(all_to_all(array(0.0), array(1e9), system).time) == pytest.approx(13e-6 + 1e9 / 40e9)


def test_a_tier_with_an_efficiency_of_its_own_reaches_that(two_h100_nodes: SystemArrays) -> None:
    own = with_tier(two_h100_nodes, 1, efficiency=array(0.4))
    assert float(all_to_all(array(0.0), array(1e9), own).time) == pytest.approx(9.3e-6 + 1e9 / 20e9)
    assert float(all_to_all(array(1e9), array(0.0), own).time) == pytest.approx(7.2e-6 + 1e9 / 360e9)


def test_a_mesh_sends_over_all_its_links_at_once(mi300x_node: SystemArrays) -> None:
    # Seven links of 64 GB/s to seven others, 0.8 of it
    assert float(all_to_all(array(1e9), array(0.0), mi300x_node).time) == pytest.approx(7.2e-6 + 1e9 / 358.4e9)


def test_two_ranks_of_a_mesh_have_one_link(mi300x_node: SystemArrays) -> None:
    pair = Placement(array(2.0), array(1.0))
    # one link of 64 GB/s, of which 80 % are reached
    assert float(all_to_all(array(1e9), array(0.0), mi300x_node, pair).time) == pytest.approx(7.2e-6 + 1e9 / 51.2e9)
