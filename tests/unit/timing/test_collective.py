"""Collectives over tiers: hand-worked times, reach of each topology, the choice of an algorithm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.lower import ProtocolArrays, SystemArrays, TierArrays
from cosim.mapping.placement import Placement
from cosim.records import array
from cosim.timing.collective import (
    ALGORITHMS,
    CollectiveCost,
    all_gather,
    all_reduce,
    reach,
    reached,
    reduce_scatter,
    send,
)

SIZE = st.floats(1.0, 1e11)
INNER = st.sampled_from([1.0, 2.0, 3.0, 4.0, 8.0])
OUTER = st.sampled_from([1.0, 2.0])


def group(inner: object, outer: object = 1.0) -> Placement:
    return Placement(array(inner), array(outer))


def named(cost: CollectiveCost) -> str:
    return ALGORITHMS[int(cost.algorithm)]


@pytest.fixture
def torus() -> TierArrays:
    """4 x 4 x 4 with wrap, 600 GB/s per chip."""
    zero = array(0.0)
    us = array(1e-6)
    return TierArrays("pod", "torus", array(64.0), array(600e9), us, us, zero, zero, ("ring",), (4, 4, 4), wrap=True)


@settings(max_examples=60, deadline=None)
@given(SIZE, INNER, OUTER, st.floats(1.0, 100.0))
def test_more_bytes_are_never_cheaper(
    two_h100_nodes: SystemArrays, size: float, inner: float, outer: float, factor: float
) -> None:
    small, large = array(size), array(size * factor)
    for collective in (all_reduce, all_gather):
        before = collective(small, group(inner, outer), two_h100_nodes)
        after = collective(large, group(inner, outer), two_h100_nodes)
        assert after.time >= before.time
        assert after.wire_bytes >= before.wire_bytes


@settings(max_examples=60, deadline=None)
@given(SIZE, INNER, OUTER)
def test_the_fastest_is_no_slower_than_any_that_is_named(
    two_h100_nodes: SystemArrays, size: float, inner: float, outer: float
) -> None:
    chosen = all_reduce(array(size), group(inner, outer), two_h100_nodes)
    for name in two_h100_nodes.tiers[0].algorithms:
        assert chosen.time <= all_reduce(array(size), group(inner, outer), two_h100_nodes, name).time


@settings(max_examples=60, deadline=None)
@given(SIZE, INNER, OUTER)
def test_gathering_costs_less_than_reducing(
    two_h100_nodes: SystemArrays, size: float, inner: float, outer: float
) -> None:
    ring = all_reduce(array(size), group(inner, outer), two_h100_nodes, "ring")
    assert all_gather(array(size), group(inner, outer), two_h100_nodes).time <= ring.time


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SIZE, INNER, OUTER), min_size=1, max_size=12))
def test_a_batch_of_groups_equals_each_alone(
    two_h100_nodes: SystemArrays, rows: list[tuple[float, float, float]]
) -> None:
    size, inner, outer = np.array(rows).T
    together = all_reduce(size, Placement(inner, outer), two_h100_nodes)
    alone = [all_reduce(array(s), group(i, o), two_h100_nodes) for s, i, o in rows]
    assert together.time == pytest.approx([float(cost.time) for cost in alone], rel=1e-12)
    assert together.algorithm.tolist() == [float(cost.algorithm) for cost in alone]


@pytest.mark.parametrize("collective", [all_reduce, all_gather, reduce_scatter])
def test_a_group_of_one_costs_nothing(two_h100_nodes: SystemArrays, collective: Callable[..., CollectiveCost]) -> None:
    cost = collective(np.array([1.0, 1e12]), group(1.0), two_h100_nodes)
    assert cost.time.tolist() == [0.0, 0.0]
    assert cost.wire_bytes.tolist() == [0.0, 0.0]


def test_a_small_message_on_a_switch_is_steps_of_latency(two_h100_nodes: SystemArrays) -> None:
    # Base 6.6 us + 2 x 7 hops of 0.6 us; 8 B add nothing that shows
    cost = all_reduce(array(8.0), group(8.0), two_h100_nodes)
    assert float(cost.time) == pytest.approx(15.0e-6, rel=1e-4)
    assert named(cost) == "ring"


def test_a_large_message_on_eight_chips_is_reduced_in_the_switch(two_h100_nodes: SystemArrays) -> None:
    # 25 us + 1 GB x (1 + 1/8) over 450 GB/s x 0.6 = 4.192 ms; a ring takes 1.75 GB over 360 GB/s
    cost = all_reduce(array(1e9), group(8.0), two_h100_nodes)
    assert float(cost.time) == pytest.approx(25e-6 + 1.125e9 / 270e9)
    assert named(cost) == "in_network"


def test_two_chips_gain_nothing_in_the_switch(two_h100_nodes: SystemArrays) -> None:
    # 6.6 + 2 x 0.6 us + 1 GB over 450 GB/s x 0.8
    cost = all_reduce(array(1e9), group(2.0), two_h100_nodes)
    assert named(cost) == "ring"
    assert float(cost.time) == pytest.approx(7.8e-6 + 1e9 / 360e9)


def test_two_nodes_reduce_inside_and_exchange_their_shares(two_h100_nodes: SystemArrays) -> None:
    # Inside by ring: 15.0 us + 1.75 GB / 360 GB/s. Across: an eighth of the data, 1.0 x 125 MB over
    # 50 GB/s x 0.8, 6.6 us + 2 hops of 2.7 us
    cost = all_reduce(array(1e9), group(8.0, 2.0), two_h100_nodes)
    assert float(cost.time) == pytest.approx(15.0e-6 + 1.75e9 / 360e9 + 12.0e-6 + 125e6 / 40e9)
    assert named(cost) == "ring"
    # 2 x 7/8 of 1 GB inside, 2 x 1/2 of 125 MB across
    assert float(cost.wire_bytes) == 1.75e9 + 0.125e9


def test_gathering_over_two_nodes_by_hand(two_h100_nodes: SystemArrays) -> None:
    # Inside 6.6 + 7 x 0.6 us + 0.875 GB / 360 GB/s; across 6.6 + 2.7 us + 62.5 MB / 40 GB/s
    cost = all_gather(array(1e9), group(8.0, 2.0), two_h100_nodes)
    assert float(cost.time) == pytest.approx(10.8e-6 + 0.875e9 / 360e9 + 9.3e-6 + 62.5e6 / 40e9)
    assert float(cost.wire_bytes) == 0.875e9 + 0.0625e9


def test_a_slice_sums_along_its_three_open_dimensions(tpu_slice: SystemArrays) -> None:
    # 540 GB/s over three dimensions, half a ring each, 0.8 of it: 216 GB/s; 2 us + 2 x 3 hops of 1 us
    cost = all_reduce(array(1e9), group(8.0), tpu_slice)
    assert float(cost.time) == pytest.approx(8e-6 + 1.75e9 / 216e9)


def test_a_full_mesh_reaches_only_the_members(mi300x_node: SystemArrays) -> None:
    # 7 links of 64 GB/s: a pair has one, four have three, all have seven
    tier = mi300x_node.tiers[0]
    assert reach(tier, np.array([2.0, 4.0, 8.0])) == pytest.approx([64e9, 192e9, 448e9])


def test_a_switch_gives_every_group_all_its_links(two_h100_nodes: SystemArrays) -> None:
    for ranks in (2.0, 5.0, 8.0):
        assert float(reach(two_h100_nodes.tiers[0], array(ranks))) == 450e9


def test_a_torus_uses_the_dimensions_that_a_group_spans(torus: TierArrays) -> None:
    # One ring of 4 uses a third of the links, 16 chips two, 64 all three
    assert reach(torus, np.array([2.0, 4.0, 16.0, 64.0])) == pytest.approx([200e9, 200e9, 400e9, 600e9])


def test_an_open_line_is_half_a_ring(torus: TierArrays) -> None:
    line = dataclasses.replace(torus, wrap=False)
    assert reach(line, array(64.0)) == pytest.approx(300e9)


def test_a_torus_is_crossed_dimension_by_dimension(torus: TierArrays, tpu_slice: SystemArrays) -> None:
    # 3 + 3 + 3 hops there and back instead of 63: 1 us + 2 x 9 us
    pod = dataclasses.replace(tpu_slice, tiers=(torus, tpu_slice.tiers[1]))
    assert float(all_reduce(array(1e-3), group(64.0), pod).time) == pytest.approx(19e-6)


@pytest.mark.parametrize(("ranks", "hops"), [(2.0, 1), (3.0, 2), (4.0, 3), (16.0, 6)])
def test_a_part_of_a_torus_is_crossed_in_the_hops_that_it_spans(
    torus: TierArrays, tpu_slice: SystemArrays, ranks: float, hops: int
) -> None:
    pod = dataclasses.replace(tpu_slice, tiers=(torus, tpu_slice.tiers[1]))
    assert float(all_reduce(array(1e-3), group(ranks), pod).time) == pytest.approx(1e-6 + 2 * hops * 1e-6)


def test_a_full_mesh_is_two_hops_for_any_number(mi300x_node: SystemArrays) -> None:
    # 6.6 us + 2 x 0.6 us: scatter to all, gather from all
    for ranks in (4.0, 8.0):
        cost = all_reduce(array(1e-3), group(ranks), mi300x_node)
        assert float(cost.time) == pytest.approx(7.8e-6)
        assert named(cost) == "direct"


def test_a_tree_needs_fewer_steps_than_a_ring_of_many(two_h100_nodes: SystemArrays) -> None:
    node, cluster = two_h100_nodes.tiers
    wide = dataclasses.replace(two_h100_nodes, tiers=(node, dataclasses.replace(cluster, algorithms=("ring", "tree"))))
    cost = all_reduce(array(1e-3), group(1.0, 64.0), wide)
    # 6.6 us + 2 x 6 levels of 2.7 us; a ring of 64 takes 126 hops
    assert float(cost.time) == pytest.approx(6.6e-6 + 12 * 2.7e-6)


def test_a_transfer_takes_the_links_of_its_pair(two_h100_nodes: SystemArrays, mi300x_node: SystemArrays) -> None:
    # 6.6 + 0.6 us + 1 MB over 450 GB/s x 0.8, or over one link of 64 GB/s
    assert float(send(array(1e6), two_h100_nodes.tiers[0], two_h100_nodes)) == pytest.approx(7.2e-6 + 1e6 / 360e9)
    assert float(send(array(1e6), mi300x_node.tiers[0], mi300x_node)) == pytest.approx(7.2e-6 + 1e6 / 51.2e9)


def test_an_algorithm_that_the_library_has_not_is_refused(two_h100_nodes: SystemArrays) -> None:
    message = r"plan\.algorithm\.all_reduce: tier 'node' has no such all-reduce \(got 'tree'\); it has ring, in_network"
    with pytest.raises(SpecError, match=message):
        all_reduce(array(1e6), group(8.0), two_h100_nodes, "tree")


def with_tier(system: SystemArrays, **changes: object) -> SystemArrays:
    """The system with its first tier changed."""
    return dataclasses.replace(system, tiers=(dataclasses.replace(system.tiers[0], **changes), *system.tiers[1:]))


def protocol(latency: float, base: float, share: float) -> ProtocolArrays:
    return ProtocolArrays(array(latency), array(base), array(share))


@pytest.fixture
def two_protocols(two_h100_nodes: SystemArrays) -> SystemArrays:
    """Ring alone; a hop of 0.6 us after 6.6 us at half of 360 GB/s, or of 3 us after 10 us at all of it."""
    return with_tier(two_h100_nodes, algorithms=("ring",), share=array(0.5), protocols=(protocol(3e-6, 10e-6, 1.0),))


def test_a_small_message_takes_the_short_start_and_a_large_one_the_whole_wire(two_protocols: SystemArrays) -> None:
    small, large = (all_reduce(array(size), group(8.0), two_protocols) for size in (8.0, 1e9))
    assert float(small.time) == pytest.approx(6.6e-6 + 14 * 0.6e-6, rel=1e-4)
    assert float(large.time) == pytest.approx(10e-6 + 14 * 3e-6 + 1.75e9 / 360e9)
    # They meet where 15 us + 2 w = 52 us + w: w = 37 us, 7.61 MB
    meeting = 37e-6 * 360e9 / 1.75
    for size, hop, base, share in ((0.99 * meeting, 0.6e-6, 6.6e-6, 0.5), (1.01 * meeting, 3e-6, 10e-6, 1.0)):
        time = float(all_reduce(array(size), group(8.0), two_protocols).time)
        assert time == pytest.approx(base + 14 * hop + 1.75 * size / (share * 360e9))


def test_gathers_and_transfers_choose_a_protocol_too(two_protocols: SystemArrays) -> None:
    gathered = [float(all_gather(array(size), group(8.0), two_protocols).time) for size in (8.0, 1e9)]
    assert gathered == pytest.approx([6.6e-6 + 7 * 0.6e-6, 10e-6 + 7 * 3e-6 + 0.875e9 / 360e9], rel=1e-4)
    sent = [float(send(array(size), two_protocols.tiers[0], two_protocols)) for size in (8.0, 1e9)]
    assert sent == pytest.approx([6.6e-6 + 0.6e-6, 10e-6 + 3e-6 + 1e9 / 360e9], rel=1e-4)


PROTOCOL = st.tuples(st.floats(0.0, 2e-5), st.floats(0.0, 5e-5), st.floats(0.05, 1.0))


@settings(max_examples=60, deadline=None)
@given(size=SIZE, inner=INNER, outer=OUTER, first=PROTOCOL, others=st.lists(PROTOCOL, max_size=3))
def test_another_protocol_never_slows_and_the_fastest_is_taken(
    two_h100_nodes: SystemArrays,
    size: float,
    inner: float,
    outer: float,
    first: tuple[float, float, float],
    others: list[tuple[float, float, float]],
) -> None:
    def time(own: tuple[float, float, float], *more: tuple[float, float, float]) -> list[float]:
        latency, base, share = own
        tier = {"latency": array(latency), "base_latency": array(base), "share": array(share)}
        system = with_tier(two_h100_nodes, **tier, protocols=tuple(protocol(*each) for each in more))
        where = group(inner, outer)
        found = [each(array(size), where, system).time for each in (all_reduce, all_gather, reduce_scatter)]
        return [float(each) for each in (*found, send(array(size), system.tiers[0], system))]

    alone = time(first)
    together = time(first, *others)
    assert all(fast <= slow * (1.0 + 1e-12) for fast, slow in zip(together, alone, strict=True))
    # A transfer takes the least of its protocols, in whatever order they are given.
    every = [time(each)[-1] for each in (first, *others)]
    assert together[-1] == pytest.approx(min(every), rel=1e-12)
    assert time(*others, first)[-1] == pytest.approx(together[-1], rel=1e-12)


def test_a_tier_may_reach_a_share_of_its_wire_of_its_own(two_h100_nodes: SystemArrays) -> None:
    own = with_tier(two_h100_nodes, efficiency=array(0.4))
    assert float(reached(own, own.tiers[0])) == 0.4
    assert float(reached(own, own.tiers[1])) == 0.8  # the chip's
    # 7.2 us and 1 MB over 450 GB/s x 0.4
    assert float(send(array(1e6), own.tiers[0], own)) == pytest.approx(7.2e-6 + 1e6 / 180e9)


def test_the_switch_has_one_way_to_reduce_whatever_the_protocols(two_h100_nodes: SystemArrays) -> None:
    fast = with_tier(two_h100_nodes, protocols=(protocol(0.0, 0.0, 1.0),), share=array(0.1))
    times = [all_reduce(array(1e9), group(8.0), system, "in_network").time for system in (two_h100_nodes, fast)]
    assert float(times[0]) == float(times[1])


@settings(max_examples=60, deadline=None)
@given(size=SIZE, inner=INNER, outer=OUTER)
def test_scattering_a_sum_is_gathering_backwards(
    two_h100_nodes: SystemArrays, size: float, inner: float, outer: float
) -> None:
    where = group(inner, outer)
    scattered, gathered = (each(array(size), where, two_h100_nodes) for each in (reduce_scatter, all_gather))
    assert float(scattered.time) == float(gathered.time)
    assert float(scattered.wire_bytes) == float(gathered.wire_bytes)
    # The two together move the bytes of a ring that reduces to all.
    both = float(scattered.wire_bytes + gathered.wire_bytes)
    ring = float(all_reduce(array(size), where, two_h100_nodes, "ring").wire_bytes)
    assert both == pytest.approx(ring, rel=1e-12)


def test_a_ring_of_one_tier_is_a_scatter_and_a_gather_that_start_once(two_h100_nodes: SystemArrays) -> None:
    size, where = array(1e9), group(8.0)
    halves = reduce_scatter(size, where, two_h100_nodes).time + all_gather(size, where, two_h100_nodes).time
    ring = all_reduce(size, where, two_h100_nodes, "ring").time
    assert float(halves - ring) == pytest.approx(6.6e-6, rel=1e-6)
