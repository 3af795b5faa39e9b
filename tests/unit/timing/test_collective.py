"""Collectives by hand: each algorithm on one, two and three tiers, protocols, copies, what is legal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.mapping.placement import Placement
from cosim.records import Array, array
from cosim.timing.algorithms import ALGORITHMS
from cosim.timing.collective import (
    CollectiveCost,
    all_gather,
    all_reduce,
    barrier,
    broadcast,
    exposed,
    reduce_scatter,
    send,
    send_pair,
    taken,
)
from cosim.timing.way import reached

TierOf = Callable[..., TierArrays]
NetworkOf = Callable[..., SystemArrays]
US, MS, GB = 1e-6, 1e-3, array(1e9)
EIGHT = Placement((array(8.0),), (array(1.0),))


def group(*ranks: float) -> Placement:
    """Ranks on every tier, next to each other."""
    return Placement(tuple(array(r) for r in ranks), tuple(array(1.0) for _ in ranks))


def named(cost: CollectiveCost) -> str:
    return ALGORITHMS[int(cost.algorithm)]


def protocol(name: str, start: float, hop: float, share: float, *, copies: bool = True) -> ProtocolArrays:
    """Start and hop in us."""
    return ProtocolArrays(name, array(start * US), array(hop * US), array(share), copies)


@pytest.fixture
def one(tier_of: TierOf, network_of: NetworkOf) -> SystemArrays:
    """8 chips on a switch, 100 GB/s, 5 us and 1 us a hop; the switch adds up at half of the wire after 9 us."""
    tier = tier_of(algorithms=ALGORITHMS, in_network=0.5, in_network_start=9e-6)
    return network_of(tier, tier_of("fat_tree", 16, 10, 7, 3, link="scale_out"))


@pytest.fixture
def two(tier_of: TierOf, network_of: NetworkOf) -> SystemArrays:
    """8 chips on a switch of 100 GB/s, 16 of those on a fat tree of 10 GB/s a chip, 7 us and 3 us a hop."""
    outer = tier_of("fat_tree", 16, 10, 7, 3, link="scale_out", algorithms=ALGORITHMS)
    return network_of(tier_of(), outer)


@pytest.fixture
def three(tier_of: TierOf, network_of: NetworkOf) -> SystemArrays:
    """4 chips of 100 GB/s, 2 of those at 40, 3 of those at 10; starts 5, 6, 7 us, hops 1, 2, 4 us."""
    rack = tier_of("switch", 2, 40, 6, 2)
    return network_of(tier_of("switch", 4), rack, tier_of("fat_tree", 3, 10, 7, 4, algorithms=ALGORITHMS))


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("ring", 5 * US + 14 * US + 17.5 * MS),  # 14 hops; 1.75 GB over 100 GB/s
        ("tree", 5 * US + 6 * US + 20 * MS),  # up and down 3 levels; all of it twice
        ("halving_doubling", 5 * US + 6 * US + 17.5 * MS),
        ("direct", 5 * US + 2 * US + 17.5 * MS),
        ("in_network", 9 * US + 22.5 * MS),  # 1 + 1/8 of 1 GB over 50 GB/s
    ],
)
def test_an_all_reduce_of_eight_chips_on_a_switch(one: SystemArrays, name: str, seconds: float) -> None:
    cost = all_reduce(GB, group(8, 1), one, name)
    assert (named(cost), float(cost.time)) == (name, pytest.approx(seconds, rel=1e-12))
    assert float(cost.wire_bytes) == (1.125e9 if name == "in_network" else 1.75e9)


@pytest.mark.parametrize(("name", "hops"), [("ring", 7), ("halving_doubling", 3), ("direct", 1)])
@pytest.mark.parametrize("collective", [all_gather, reduce_scatter])
def test_half_of_an_all_reduce(
    one: SystemArrays, collective: Callable[..., CollectiveCost], name: str, hops: int
) -> None:
    cost = collective(GB, group(8, 1), one, name)
    assert (named(cost), float(cost.time)) == (name, pytest.approx(5 * US + hops * US + 8.75 * MS, rel=1e-12))
    assert float(cost.wire_bytes) == 0.875e9


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        # 2 x 14 hops inside, 2 x 1 across. All eight send 15/8 GB together: 80 GB/s leave a node.
        ("ring", 7 * US + 28 * US + 6 * US + 1.875e9 / 80e9),
        # A chain of 8 and a tree of 2, up and down; 2 GB over 80 GB/s.
        ("tree", 7 * US + 14 * US + 6 * US + 25 * MS),
        # 3 levels inside and 1 across, twice; 1.75 GB at 100 GB/s, then an eighth at 10.
        ("halving_doubling", 7 * US + 6 * US + 6 * US + 17.5 * MS + 12.5 * MS),
        # Scatter and gather inside: 5 + 7 us and 8.75 ms each; across 7 + 2 x 3 us and 12.5 ms.
        ("hierarchical", 2 * (12 * US + 8.75 * MS) + 13 * US + 12.5 * MS),
    ],
)
def test_an_all_reduce_over_two_nodes(two: SystemArrays, name: str, seconds: float) -> None:
    cost = all_reduce(GB, group(8, 2), two, name)
    assert (named(cost), float(cost.time)) == (name, pytest.approx(seconds, rel=1e-12))
    assert float(cost.wire_bytes) == 1.875e9


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("ring", 7 * US + 14 * US + 3 * US + 0.9375e9 / 80e9),
        ("halving_doubling", 7 * US + 3 * US + 3 * US + 8.75 * MS + 6.25 * MS),
        # 125 MB of each chip's part across, 7 + 3 us and 6.25 ms; then inside 5 + 7 us and 8.75 ms.
        ("hierarchical", 10 * US + 6.25 * MS + 12 * US + 8.75 * MS),
    ],
)
@pytest.mark.parametrize("collective", [all_gather, reduce_scatter])
def test_a_gather_over_two_nodes(
    two: SystemArrays, collective: Callable[..., CollectiveCost], name: str, seconds: float
) -> None:
    cost = collective(GB, group(8, 2), two, name)
    assert (named(cost), float(cost.time)) == (name, pytest.approx(seconds, rel=1e-12))
    assert float(cost.wire_bytes) == 0.9375e9


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        # Of 23 steps one way 6 x 3 are inside fours, 3 x 1 inside racks, 2 beyond; 23/12 GB at 4 x 2 x 10 GB/s.
        ("ring", 7 * US + 2 * (18 * 1 + 3 * 2 + 2 * 4) * US + 23e9 / 12 / 80e9),
        # Chain of 4, a level of 2, two levels for 3.
        ("tree", 7 * US + 2 * (3 * 1 + 1 * 2 + 2 * 4) * US + 25 * MS),
        # Inside 5 + 3 us and 7.5 ms, racks 6 + 2 us and 125 MB at 40 GB/s, each twice;
        # beyond 7 + 4 x 4 us and 4/3 of 125 MB at 10 GB/s.
        ("hierarchical", 2 * (8 * US + 7.5 * MS + 8 * US + 3.125 * MS) + 23 * US + 125e6 * 4 / 3 / 10e9),
    ],
)
def test_an_all_reduce_over_three_tiers(three: SystemArrays, name: str, seconds: float) -> None:
    cost = all_reduce(GB, group(4, 2, 3), three, name)
    assert (named(cost), float(cost.time)) == (name, pytest.approx(seconds, rel=1e-12))
    assert float(cost.wire_bytes) == pytest.approx(23e9 / 12)


def test_a_hierarchical_gather_over_three_tiers(three: SystemArrays) -> None:
    cost = all_gather(GB, group(4, 2, 3), three, "hierarchical")
    inside, rack, beyond = 8 * US + 7.5 * MS, 8 * US + 3.125 * MS, 15 * US + 125e6 * 2 / 3 / 10e9
    assert float(cost.time) == pytest.approx(inside + rack + beyond, rel=1e-12)


def test_a_tier_that_a_group_does_not_use_is_stepped_over(three: SystemArrays) -> None:
    # 4 ranks in each of 3 racks: 9 steps inside and 2 beyond one way; the racks' 6 us and 2 us are not met.
    cost = all_reduce(GB, group(4, 1, 3), three, "ring")
    assert float(cost.time) == pytest.approx(7 * US + 2 * (9 * 1 + 2 * 4) * US + 2 * 11 / 12 * 1e9 / 40e9, rel=1e-12)


def test_one_chip_of_every_node_has_its_own_wire_only(two: SystemArrays) -> None:
    cost = all_reduce(GB, group(1, 16), two, "ring")
    assert float(cost.time) == pytest.approx(7 * US + 30 * 3 * US + 1.875e9 / 10e9, rel=1e-12)
    assert float(all_reduce(GB, group(1, 16), two, "tree").time) == pytest.approx(7 * US + 8 * 3 * US + 0.2, rel=1e-12)


@pytest.mark.parametrize(("ranks", "levels"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3)])
def test_a_tree_has_as_many_levels_as_the_logarithm_rounded_up(one: SystemArrays, ranks: int, levels: int) -> None:
    cost = all_reduce(array(0.0), group(ranks, 1), one, "tree")
    assert float(cost.time) == pytest.approx(5 * US + 2 * levels * US)


@pytest.mark.parametrize(("kind", "rate"), [("mesh", 30e9), ("switch", 70e9)])
def test_a_full_mesh_reaches_its_members_directly(
    tier_of: TierOf, network_of: NetworkOf, kind: str, rate: float
) -> None:
    # Seven links of 10 GB/s: 4 ranks have three of them; a switch gives all seven.
    cost = all_reduce(GB, group(4), network_of(tier_of(kind, 8, 70, algorithms=("direct",))))
    assert float(cost.time) == pytest.approx(7 * US + 1.5e9 / rate, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "fields", "ranks", "hops", "rate"),
    [
        ("bus", {"size": 4, "gbs": 40}, 4, 3, 10e9),
        ("ring", {"size": 8}, 8, 7, 100e9),
        ("ring", {"size": 8}, 4, 3, 50e9),  # an open line
        ("torus", {"shape": (4, 4)}, 16, 6, 100e9),  # along both dimensions at once
        ("torus", {"shape": (4, 4), "closed": (False, False)}, 16, 6, 50e9),
        ("torus", {"shape": (4, 4)}, 8, 4, 75e9),  # a ring of 4, a line of 2
        ("hypercube_mesh", {"size": 8, "gbs": 60}, 4, 3, 40e9),
        ("fat_tree", {"size": 64, "gbs": 25, "oversubscription": 4}, 64, 63, 25e9),  # what is left over is in gbs
    ],
)
def test_a_ring_on_every_kind_of_tier(
    tier_of: TierOf,
    network_of: NetworkOf,
    kind: str,
    fields: dict[str, object],
    ranks: int,
    hops: int,
    rate: float,
) -> None:
    system = network_of(tier_of(kind, **fields))
    reduced, gathered = (call(GB, group(ranks), system, "ring") for call in (all_reduce, all_gather))
    part = (ranks - 1) / ranks * 1e9 / rate
    assert float(reduced.time) == pytest.approx(5 * US + 2 * hops * US + 2 * part, rel=1e-12)
    assert float(gathered.time) == pytest.approx(5 * US + hops * US + part, rel=1e-12)


def test_a_strided_group_uses_the_dimension_that_it_lies_along(tier_of: TierOf, network_of: NetworkOf) -> None:
    # Four ranks four apart fill the second ring of a 4 x 4 torus, a half of the links.
    system = network_of(tier_of("torus", shape=(4, 4)))
    across = Placement((array(4.0),), (array(4.0),))
    assert float(all_reduce(GB, across, system).time) == pytest.approx(5 * US + 6 * US + 1.5e9 / 50e9, rel=1e-12)


def test_groups_beside_each_other_share_a_bus(tier_of: TierOf, network_of: NetworkOf) -> None:
    # Two groups of 4 on one bus of 40 GB/s, and the ranks of units below it send together.
    strided = Placement((array(4.0),), (array(2.0),))
    cost = all_reduce(GB, strided, network_of(tier_of("bus", 8, 40)))
    assert float(cost.time) == pytest.approx(5 * US + 6 * US + 1.5e9 / 5e9, rel=1e-12)
    # Two pairs on a bus: 4 ranks share 40 GB/s, whoever's unit they are in.
    pairs = network_of(tier_of("switch", 2), tier_of("bus", 2, 40, 6, 2))
    paired = all_reduce(GB, group(2, 2), pairs)
    assert float(paired.time) == pytest.approx(6 * US + 2 * (2 * 1 + 1 * 2) * US + 1.5e9 / 10e9, rel=1e-12)


def test_a_wire_and_its_switches_add_to_every_hop(tier_of: TierOf, network_of: NetworkOf) -> None:
    system = network_of(tier_of(latency=0.5e-6))
    assert float(all_reduce(array(0.0), EIGHT, system).time) == pytest.approx(5 * US + 14 * 1.5 * US)
    assert float(send(array(0.0), 0, system)) == pytest.approx(6.5 * US)


def test_an_engine_that_feeds_less_than_the_links_bounds_them(tier_of: TierOf, network_of: NetworkOf) -> None:
    system = network_of(tier_of(engine_rate=25e9))
    assert float(all_gather(GB, EIGHT, system).time) == pytest.approx(12 * US + 0.875e9 / 25e9)


def test_a_tier_reaches_its_own_share_of_the_wire_or_the_chips(tier_of: TierOf, network_of: NetworkOf) -> None:
    system = network_of(tier_of(efficiency=0.4), tier_of("fat_tree", 2, 10, 7, 3))
    quality = replace(system.chip.quality, collective=array(0.8))
    system = replace(system, chip=replace(system.chip, quality=quality))
    assert [float(reached(system, tier)) for tier in system.tiers] == [0.4, 0.8]
    assert float(send(GB, 0, system)) == pytest.approx(6 * US + 1e9 / 40e9)
    assert float(send(GB, 1, system)) == pytest.approx(10 * US + 1e9 / 8e9)


def two_protocols(system: SystemArrays, **fields: object) -> SystemArrays:
    """Its first tier with one protocol that starts soon at half of the wire, and one at all of it."""
    soon, bulk = protocol("soon", 2, 0.5, 0.5, copies=False), protocol("bulk", 10, 3, 1.0)
    return replace(system, tiers=(replace(system.tiers[0], protocols=(soon, bulk), **fields), *system.tiers[1:]))


def test_small_messages_start_soon_and_large_ones_take_the_wire(one: SystemArrays) -> None:
    system = two_protocols(one, algorithms=("ring",))
    # They meet where 2 + 14 x 0.5 + 2 w = 10 + 14 x 3 + w: w = 43 us, 1.75 B over 100 GB/s.
    meeting = 43 * US * 100e9 / 1.75
    for size, start, hop, share in ((0.0, 2, 0.5, 0.5), (0.99 * meeting, 2, 0.5, 0.5), (1.01 * meeting, 10, 3, 1.0)):
        time = float(all_reduce(array(size), group(8, 1), system).time)
        assert time == pytest.approx((start + 14 * hop) * US + 1.75 * size / (share * 100e9), rel=1e-12)


def test_a_rank_copies_its_own_part_beside_what_it_sends(one: SystemArrays) -> None:
    # 125 MB at twice the link, in the protocol that copies.
    system = two_protocols(one, algorithms=("ring", "direct", "halving_doubling", "tree"), copy_share=array(2.0))
    gathered = all_gather(GB, group(8, 1), system, "ring")
    assert float(gathered.time) == pytest.approx(10 * US + 7 * 3 * US + 8.75 * MS + 0.625 * MS, rel=1e-12)
    for name, hops in (("ring", 14), ("direct", 2), ("halving_doubling", 6)):
        time = float(all_reduce(GB, group(8, 1), system, name).time)
        assert time == pytest.approx(10 * US + hops * 3 * US + 17.5 * MS + 0.625 * MS, rel=1e-12)
    # A tree has no part of its own, and what starts soon does not copy: 5.5 us, 8.75 kB at 50 GB/s.
    assert float(all_reduce(GB, group(8, 1), system, "tree").time) == pytest.approx(28 * US + 20 * MS, rel=1e-12)
    assert float(all_gather(array(1e4), group(8, 1), system, "ring").time) == pytest.approx(5.5 * US + 0.175 * US)


def test_the_parts_that_hierarchical_phases_copy_are_those_of_one_all_reduce(two: SystemArrays) -> None:
    copying = replace(two, tiers=(replace(two.tiers[0], copy_share=array(2.0)), two.tiers[1]))
    times = [float(all_reduce(GB, group(8, 2), each, "hierarchical").time) for each in (two, copying)]
    # 125 MB inside, half with each phase, and 62.5 MB of what crosses, at 200 GB/s.
    assert times[1] - times[0] == pytest.approx(0.625 * MS + 0.3125 * MS, rel=1e-9)


def test_tiers_speak_one_protocol_and_start_as_late_as_the_latest(tier_of: TierOf, network_of: NetworkOf) -> None:
    inner = tier_of(protocols=(protocol("a", 1, 1, 0.5), protocol("b", 20, 1, 1.0)))
    outer = tier_of("fat_tree", 2, 100, protocols=(protocol("c", 0, 0, 1.0), protocol("a", 4, 2, 0.25)))
    # Only "a" is known on both: 4 us, 28 + 2 x 2 us, and 1.875 GB at 50 GB/s inside, at 8 x 25 GB/s beyond.
    cost = all_reduce(GB, group(8, 2), network_of(inner, outer))
    assert float(cost.time) == pytest.approx(4 * US + 32 * US + 37.5 * MS, rel=1e-12)


def test_a_tier_of_one_protocol_sends_what_the_others_speak_with_it(tier_of: TierOf, network_of: NetworkOf) -> None:
    outer = tier_of("fat_tree", 2, 100, protocols=(protocol("a", 8, 2, 0.5), protocol("b", 50, 2, 1.0)))
    system = network_of(tier_of(), outer)
    # "a": 8 + 28 + 4 us; the wire inside is the slower of the two whatever is spoken beyond.
    assert float(all_reduce(GB, group(8, 2), system).time) == pytest.approx(40 * US + 18.75 * MS, rel=1e-12)


def test_the_switch_adds_up_whatever_the_protocols(one: SystemArrays) -> None:
    times = [float(all_reduce(GB, group(8, 1), each, "in_network").time) for each in (one, two_protocols(one))]
    assert times[0] == times[1]


def test_a_huge_message_is_no_trouble_to_a_tier_that_does_not_add_up(one: SystemArrays) -> None:
    # 1 PB: the network beside the switch has no in-switch reduction, and nothing overflows.
    assert named(all_reduce(array(1e15), group(8, 1), one, "in_network")) == "in_network"


def test_a_batch_takes_what_is_fastest_for_every_point(one: SystemArrays) -> None:
    # Direct is two hops; at 0.9 of the wire the switch's 1 + 1/8 beats 2 x 7/8, and not the 1 of two ranks.
    fast = replace(one, tiers=(replace(one.tiers[0], in_network=array(0.9)), one.tiers[1]))
    at = Placement((array([8, 8, 2, 1, 8]), array([1, 1, 1, 1, 2])), (array(1.0), array(1.0)))
    cost = all_reduce(array([8.0, 1e9, 1e9, 1e9, 1e9]), at, fast)
    assert [ALGORITHMS[int(index)] for index in cost.algorithm] == ["direct", "in_network", "ring", "ring", "ring"]
    assert cost.time[3] == 0.0
    assert cost.wire_bytes.tolist() == [14.0, 1.125e9, 1e9, 0.0, 1.875e9]


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("direct", (8, 2)), ("in_network", (8, 2)), ("hierarchical", (8, 1)), ("halving_doubling", (6, 1))],
)
def test_what_an_algorithm_cannot_serve_takes_the_fastest(
    one: SystemArrays, two: SystemArrays, name: str, ranks: tuple[float, float]
) -> None:
    for network in (one, two):
        system = replace(network, tiers=tuple(replace(tier, algorithms=ALGORITHMS) for tier in network.tiers))
        forced, free = all_reduce(GB, group(*ranks), system, name), all_reduce(GB, group(*ranks), system)
        assert named(forced) != name
        assert (named(forced), float(forced.time)) == (named(free), float(free.time))


def test_the_library_of_the_outermost_tier_says_what_is_legal(one: SystemArrays) -> None:
    # Its switch has a tree, its network only a ring.
    assert named(all_reduce(array(0.0), group(8, 1), one, "tree")) == "tree"
    assert named(all_reduce(array(0.0), group(8, 2), one, "tree")) == "ring"


def test_gathers_have_no_tree_and_no_switch(one: SystemArrays) -> None:
    free = all_gather(GB, group(8, 1), one)
    for name in ("tree", "in_network"):
        forced = all_gather(GB, group(8, 1), one, name)
        assert (named(forced), float(forced.time)) == (named(free), float(free.time))


def test_an_algorithm_that_no_tier_has_is_refused(three: SystemArrays) -> None:
    system = replace(three, tiers=tuple(replace(tier, algorithms=("ring",)) for tier in three.tiers))
    message = r"plan\.algorithm\.all_reduce: no tier has such a collective \(got 'tre'\); the tiers have ring"
    with pytest.raises(SpecError, match=message):
        all_reduce(GB, group(4, 2, 3), system, "tre")


def test_a_library_that_cannot_serve_a_group_says_so(tier_of: TierOf, network_of: NetworkOf) -> None:
    system = network_of(tier_of(), tier_of("fat_tree", 2, 10, 7, 3, algorithms=("direct",)))
    assert float(all_reduce(GB, group(1, 2), system).time) > 0.0
    with pytest.raises(SpecError, match="no algorithm of the libraries serves this group"):
        all_reduce(GB, group(8, 2), system)


def test_a_broadcast_runs_down_a_chain(one: SystemArrays, two: SystemArrays) -> None:
    inside, beyond = broadcast(GB, group(8, 1), one), broadcast(GB, group(8, 2), two)
    assert float(inside.time) == pytest.approx(5 * US + 7 * US + 10 * MS, rel=1e-12)
    # 14 steps inside and one beyond; eight chips of a node hand on an eighth each.
    assert float(beyond.time) == pytest.approx(7 * US + 17 * US + 12.5 * MS, rel=1e-12)
    assert float(inside.wire_bytes) == 1e9


def test_a_barrier_is_a_reduction_of_nothing(one: SystemArrays, two: SystemArrays) -> None:
    assert float(barrier(group(8, 1), one).time) == pytest.approx(7 * US)  # direct
    assert float(barrier(group(8, 2), two).time) == pytest.approx(19 * US)  # halving and doubling
    assert float(barrier(group(8, 2), two).wire_bytes) == 0.0


def test_a_transfer_takes_one_hop_of_its_tier(two: SystemArrays, tier_of: TierOf, network_of: NetworkOf) -> None:
    assert float(send(GB, 0, two)) == pytest.approx(6 * US + 10 * MS)
    assert float(send(GB, 1, two)) == pytest.approx(10 * US + 100 * MS)
    # One link of seven; one of six.
    assert float(send(GB, 0, network_of(tier_of("mesh", 8, 70)))) == pytest.approx(6 * US + 100 * MS)
    torus = network_of(tier_of("torus", shape=(4, 4, 4), gbs=60))
    assert float(send(GB, 0, torus)) == pytest.approx(6 * US + 100 * MS)


def test_a_pair_is_sent_on_the_tier_that_it_spans(two: SystemArrays) -> None:
    pairs = Placement((array([2.0, 1.0, 1.0]), array([1.0, 2.0, 1.0])), (array(1.0), array(1.0)))
    cost = send_pair(GB, pairs, two)
    assert cost.time.tolist() == [float(send(GB, 0, two)), float(send(GB, 1, two)), 0.0]
    assert cost.wire_bytes.tolist() == [1e9, 1e9, 0.0]


def test_what_is_hidden_costs_the_cores_that_it_takes() -> None:
    # Longer than the work, shorter than it, nothing to hide behind.
    time, behind = array([5.0, 3.0, 3.0]), array([3.0, 5.0, 0.0])
    assert exposed(time, behind, array(0.1)).tolist() == pytest.approx([2.0 + 0.3, 0.3, 3.0])


def cost_of(wire: float, time: float) -> CollectiveCost:
    return CollectiveCost(array(time), array(wire), array(0.0))


@pytest.mark.parametrize(
    ("busy", "lost"),
    [
        (0.0, 0.1),  # the cores
        (0.85, 0.1),  # 0.85 + 0.2 passes the memory by less than the cores take
        (0.95, 0.15),
        (1.0, 0.2),
    ],
)
def test_work_beside_a_collective_loses_cores_or_memory(
    tier_of: TierOf, network_of: NetworkOf, busy: float, lost: float
) -> None:
    # Three bytes of memory for one that is sent, in the greatest of the tiers.
    system = network_of(tier_of(memory_traffic=1.0), tier_of(memory_traffic=3.0))
    memory = float(system.chip.memory["dram"].bandwidth * system.chip.quality.memory)
    system = replace(system, chip=replace(system.chip, collective_cores=array(0.1)))
    cost = cost_of(wire=0.2 * memory / 3.0, time=1.0)
    assert float(taken(cost, system, array(busy))) == pytest.approx(lost)


def test_no_collective_takes_no_memory_and_no_more_than_all(one: SystemArrays) -> None:
    system = replace(one, tiers=tuple(replace(tier, memory_traffic=array(2.0)) for tier in one.tiers))
    cores = system.chip.collective_cores
    assert float(taken(cost_of(wire=1e9, time=0.0), system, array(1.0))) == float(cores)
    assert float(taken(cost_of(wire=1e18, time=1.0), system, array(1.0))) == 1.0
    # Where no tier knows its traffic, only cores are lost.
    assert float(taken(cost_of(wire=1e18, time=1.0), one, array(1.0))) == float(cores)


def test_points_of_a_batch_each_lose_their_own(one: SystemArrays) -> None:
    tier = replace(one.tiers[0], memory_traffic=array(1.0))
    system = replace(one, tiers=(tier, one.tiers[1]))
    memory = float(system.chip.memory["dram"].bandwidth * system.chip.quality.memory)
    wire: Array = np.array([0.5, 0.25]) * memory
    lost = taken(CollectiveCost(array([1.0, 1.0]), wire, array([0.0, 0.0])), system, array(1.0))
    assert lost.tolist() == pytest.approx([0.5, 0.25])
