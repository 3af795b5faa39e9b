"""All-to-alls: bytes inside the node and beyond it at once, links that tiers share, peers that overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.mapping.placement import Placement
from cosim.records import array
from cosim.timing.collective import CollectiveCost, all_to_all, send_pair, uniform_all_to_all

TierOf = Callable[..., TierArrays]
NetworkOf = Callable[..., SystemArrays]
BYTES = st.just(0.0) | st.floats(1.0, 1e11)
US, MS, GB = 1e-6, 1e-3, array(1e9)


def group(*ranks: float) -> Placement:
    return Placement(tuple(array(r) for r in ranks), tuple(array(1.0) for _ in ranks))


SIXTEEN = group(8, 2)


def routed(near: float, far: float, system: SystemArrays, where: Placement = SIXTEEN) -> CollectiveCost:
    return all_to_all(array(near), array(far), where, system)


def with_tier(system: SystemArrays, index: int, **changes: object) -> SystemArrays:
    tiers = list(system.tiers)
    tiers[index] = replace(tiers[index], **changes)
    return replace(system, tiers=tuple(tiers))


@pytest.fixture(scope="module")
def two(tier_of: TierOf, network_of: NetworkOf) -> SystemArrays:
    """8 chips at 100 GB/s, 5 and 1 us; 4 nodes at 10 GB/s, 7 and 3 us, on links of their own."""
    return network_of(tier_of(), tier_of("fat_tree", 4, 10, 7, 3, link="scale_out"))


@pytest.mark.parametrize(
    ("near", "far", "seconds"),
    [
        (0.0, 0.0, 0.0),
        (1e9, 0.0, 5 * US + 7 * US + 10 * MS),  # a hop to each of seven others
        (0.0, 1e9, 7 * US + 8 * 3 * US + 100 * MS),  # and of eight beyond
        (1e9, 1e9, 7 * US + 7 * US + 24 * US + 100 * MS),  # both at once: the cluster is slower
        (9e9, 0.3e9, 7 * US + 7 * US + 24 * US + 90 * MS),  # 90 ms inside, 30 ms beyond
    ],
)
def test_times_on_two_nodes_by_hand(two: SystemArrays, near: float, far: float, seconds: float) -> None:
    cost = routed(near, far, two)
    assert float(cost.time) == pytest.approx(seconds, rel=1e-12)
    assert float(cost.wire_bytes) == near + far


def test_a_node_of_several_tiers_shares_out_what_stays_in_it(tier_of: TierOf, network_of: NetworkOf) -> None:
    # Of 7 peers in the node one is the partner, two are beyond it on the board, four beyond that.
    board, chassis = tier_of("switch", 2, 70, link="b"), tier_of("switch", 2, 35, link="c")
    system = network_of(tier_of("switch", 2, link="a"), board, chassis, tier_of("fat_tree", 4, 10), node_tier=2)
    cost = routed(7e9, 0.0, system, group(2, 2, 2, 1))
    assert float(cost.time) == pytest.approx(5 * US + (1 + 2 + 4) * US + 4e9 / 35e9, rel=1e-12)
    # What leaves is met on the racks, as a share of the peers there.
    spine = network_of(tier_of("switch", 2), tier_of("fat_tree", 2, 10, link="leaf"), tier_of("fat_tree", 2, 5))
    cost = routed(0.0, 6e9, spine, group(2, 2, 2))
    assert float(cost.time) == pytest.approx(5 * US + (2 + 4) * US + 4e9 / 5e9, rel=1e-12)


def test_bytes_for_a_node_without_peers_still_cross_it(two: SystemArrays) -> None:
    # The caller says what is sent; one rank a node has no near peers, and a node alone none beyond.
    assert float(routed(1e9, 0.0, two, group(1, 4)).time) == pytest.approx(6 * US + 10 * MS)
    assert float(routed(0.0, 1e9, two, group(8, 1)).time) == pytest.approx(10 * US + 100 * MS)


def test_without_a_network_all_of_it_stays_on_the_node(tier_of: TierOf, network_of: NetworkOf) -> None:
    cost = routed(1e9, 1e9, network_of(tier_of()), group(8))
    assert float(cost.time) == pytest.approx(12 * US + 20 * MS)


def test_what_leaves_by_the_same_links_crosses_them_too(two: SystemArrays) -> None:
    same = with_tier(two, 1, link="scale_up")
    assert float(routed(9e9, 0.3e9, same).time) == pytest.approx(38 * US + 93 * MS, rel=1e-12)


def test_a_bus_carries_what_passes_it_from_inside(tier_of: TierOf, network_of: NetworkOf) -> None:
    # Pairs on a switch, two pairs on a bus of 40 GB/s over the same slots: all of 4 x 3 GB passes it.
    system = network_of(tier_of("switch", 2), tier_of("bus", 2, 40), node_tier=1)
    assert float(routed(3e9, 0.0, system, group(2, 2)).time) == pytest.approx(5 * US + 3 * US + 12 / 40, rel=1e-12)


@pytest.mark.parametrize(("share", "hops"), [(1.0, 7.0), (0.5, 4.0), (0.0, 1.0)])
def test_sends_to_several_peers_overlap(two: SystemArrays, share: float, hops: float) -> None:
    system = with_tier(two, 0, send_share=array(share))
    assert float(routed(8.0, 0.0, system).time) == pytest.approx((5 + hops) * US, rel=1e-4)


def test_the_first_peer_of_a_torus_is_as_far_as_its_middle(tier_of: TierOf, network_of: NetworkOf) -> None:
    # Of 3 + 3 hops round half are crossed: 3, and one for each further peer of fifteen.
    system = network_of(tier_of("torus", shape=(4, 4)))
    assert float(routed(8.0, 0.0, system, group(16)).time) == pytest.approx((5 + 3 + 14) * US, rel=1e-4)


def test_the_same_part_for_every_rank_by_hand(two: SystemArrays) -> None:
    # An eighth for each, its own among them; a sixteenth, seven near and eight far.
    inside, beyond = uniform_all_to_all(GB, group(8, 1), two), uniform_all_to_all(GB, group(8, 2), two)
    assert float(inside.time) == pytest.approx(12 * US + 8.75 * MS, rel=1e-12)
    assert float(inside.wire_bytes) == 0.875e9
    assert float(beyond.time) == pytest.approx(38 * US + 50 * MS, rel=1e-12)
    assert float(beyond.wire_bytes) == 0.9375e9


def test_a_rank_copies_the_part_that_it_sends_itself(two: SystemArrays) -> None:
    system = with_tier(two, 0, copy_share=array(2.0))
    # 125 MB at 200 GB/s; bytes of routed tokens are those of others alone.
    assert float(uniform_all_to_all(GB, group(8, 1), system).time) == pytest.approx(12 * US + 9.375 * MS, rel=1e-12)
    assert float(routed(1e9, 0.0, system).time) == float(routed(1e9, 0.0, two).time)


def test_the_same_part_for_all_is_the_routed_kind_with_those_bytes(two: SystemArrays) -> None:
    uniform = uniform_all_to_all(array(16e6), SIXTEEN, two)
    near_and_far = routed(7e6, 8e6, two)
    assert float(uniform.time) == pytest.approx(float(near_and_far.time), rel=1e-12)
    assert float(uniform.wire_bytes) == float(near_and_far.wire_bytes)


def test_two_ranks_exchange_as_a_pair_sends(two: SystemArrays) -> None:
    for pair in (group(2, 1), group(1, 2)):
        exchanged, sent = uniform_all_to_all(array(2e9), pair, two), send_pair(GB, pair, two)
        assert float(exchanged.time) == pytest.approx(float(sent.time), rel=1e-12)


@pytest.mark.parametrize(("ranks", "seconds"), [(8, 1e9 / 70e9), (2, 1e9 / 10e9)])
def test_a_mesh_sends_over_the_links_to_its_members(
    tier_of: TierOf, network_of: NetworkOf, ranks: int, seconds: float
) -> None:
    system = network_of(tier_of("mesh", 8, 70))
    time = float(routed(1e9, 0.0, system, group(ranks)).time)
    assert time == pytest.approx((5 + ranks - 1) * US + seconds, rel=1e-12)


def test_each_takes_the_fastest_protocol(two: SystemArrays) -> None:
    soon, bulk = (
        ProtocolArrays(name, array(start * US), array(hop * US), array(share))
        for name, start, hop, share in (("soon", 2, 0.5, 0.5), ("bulk", 10, 3, 1.0))
    )
    system = with_tier(with_tier(two, 0, protocols=(soon, bulk)), 1, protocols=(soon, bulk))
    assert float(routed(8.0, 0.0, system).time) == pytest.approx(5.5 * US, rel=1e-3)
    assert float(routed(1e9, 0.0, system).time) == pytest.approx(31 * US + 10 * MS)
    assert float(routed(0.0, 1e9, system).time) == pytest.approx(34 * US + 100 * MS)


def test_a_tier_with_an_efficiency_of_its_own_reaches_that(two: SystemArrays) -> None:
    own = with_tier(two, 1, efficiency=array(0.4))
    assert float(routed(0.0, 1e9, own).time) == pytest.approx(31 * US + 1e9 / 4e9)
    assert float(routed(1e9, 0.0, own).time) == float(routed(1e9, 0.0, two).time)


@settings(max_examples=60, deadline=None)
@given(near=BYTES, far=BYTES)
def test_two_ways_at_once_take_between_the_longer_and_both(two: SystemArrays, near: float, far: float) -> None:
    inside, beyond, both = (float(routed(n, f, two).time) for n, f in ((near, 0.0), (0.0, far), (near, far)))
    assert max(inside, beyond) <= both <= (inside + beyond) * (1.0 + 1e-12)
    assert (both == 0.0) == (near + far == 0.0)


@settings(max_examples=60, deadline=None)
@given(near=BYTES, far=BYTES, factor=st.floats(1.0, 100.0))
def test_more_bytes_are_never_faster(two: SystemArrays, near: float, far: float, factor: float) -> None:
    less, more = (routed(near * f, far * f, two) for f in (1.0, factor))
    assert more.time >= less.time
    assert more.wire_bytes >= less.wire_bytes


@settings(max_examples=60, deadline=None)
@given(near=BYTES, far=BYTES, tier=st.sampled_from([0, 1]), factor=st.floats(1.0, 20.0))
def test_a_faster_tier_is_never_slower(two: SystemArrays, near: float, far: float, tier: int, factor: float) -> None:
    faster = with_tier(two, tier, bandwidth=two.tiers[tier].bandwidth * factor)
    assert routed(near, far, faster).time <= routed(near, far, two).time


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(st.tuples(BYTES, BYTES, st.sampled_from([1, 2, 8])), min_size=1, max_size=12))
def test_a_batch_equals_each_alone(two: SystemArrays, drawn: list[tuple[float, float, float]]) -> None:
    near, far, inner = np.array(drawn).T
    together = all_to_all(near, far, Placement((inner, array(2.0)), (array(1.0), array(1.0))), two)
    alone = [routed(n, f, two, group(i, 2)) for n, f, i in drawn]
    assert together.time == pytest.approx([float(cost.time) for cost in alone], rel=1e-12)
    assert together.wire_bytes.tolist() == [float(cost.wire_bytes) for cost in alone]
