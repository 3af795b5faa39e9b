"""What holds for every collective on every network: bounds of the wires, monotony, batches, order of nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.mapping.placement import Placement, placed
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
    uniform_all_to_all,
)

TierOf = Callable[..., TierArrays]
NetworkOf = Callable[..., SystemArrays]
Collective = Callable[[Array, Placement, SystemArrays], CollectiveCost]

SIZE = st.just(0.0) | st.floats(0.0, 37.0).map(lambda power: 2.0**power)
ENDPOINTS = ("ring", "tree", "halving_doubling", "direct", "hierarchical")
"""Algorithms in which only chips add up."""
ALL: tuple[Collective, ...] = (all_reduce, all_gather, reduce_scatter, broadcast, uniform_all_to_all)
SHAPES = {2: (2,), 4: (4,), 8: (4, 2), 16: (4, 4)}
ROUNDING = 1.0 + 1e-9


@dataclass(frozen=True)
class Level:
    """A tier as it is drawn, and how many of its units the group uses."""

    kind: str
    size: int
    ranks: int
    gbs: float
    start: float
    hop: float
    closed: bool


@st.composite
def levels(
    draw: st.DrawFn, kinds: tuple[str, ...] = ("switch", "bus", "mesh", "ring", "torus", "hypercube_mesh")
) -> Level:
    size = draw(st.sampled_from([2, 4, 8, 16]))
    return Level(
        kind=draw(st.sampled_from(kinds)),
        size=size,
        ranks=draw(st.sampled_from([r for r in (1, 2, 4, 8, 16) if r <= size])),
        gbs=draw(st.sampled_from([1.0, 25.0, 100.0, 900.0])),
        start=draw(st.sampled_from([0.0, 2.0, 20.0])),
        hop=draw(st.sampled_from([0.0, 0.5, 5.0])),
        closed=draw(st.booleans()),
    )


NETWORKS = st.lists(levels(), min_size=1, max_size=3)
SWITCHED = st.lists(levels(("switch", "bus", "fat_tree")), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def build(tier_of: TierOf, network_of: NetworkOf) -> Callable[..., SystemArrays]:
    """The network of some levels; every tier has the algorithms."""

    def _build(drawn: list[Level], algorithms: tuple[str, ...] = ENDPOINTS) -> SystemArrays:
        return network_of(*(_tier(tier_of, level, algorithms) for level in drawn))

    return _build


def _tier(tier_of: TierOf, level: Level, algorithms: tuple[str, ...]) -> TierArrays:
    shape = SHAPES[level.size] if level.kind == "torus" else ()
    fields = {"shape": shape, "closed": tuple(level.closed for _ in shape), "algorithms": algorithms}
    fields |= {"in_network": 0.9, "in_network_start": 1e-6}
    return tier_of(level.kind, level.size, level.gbs, level.start, level.hop, **fields)


def group_of(drawn: list[Level]) -> Placement:
    return Placement(tuple(array(level.ranks) for level in drawn), tuple(array(1.0) for _ in drawn))


def bisection(level: Level, below: int) -> float:
    """Bytes a second that half of a group's units on a tier can send to the other half; `below` ranks are in each."""
    rate, k = level.gbs * 1e9, level.ranks
    half = k // 2
    if level.kind == "bus":
        return rate
    if level.kind in ("switch", "fat_tree"):
        return half * below * rate
    if level.kind == "mesh":
        return half * half * below * rate / (level.size - 1)
    if level.kind == "hypercube_mesh":
        return half * below * rate / math.log2(level.size)
    shape = SHAPES[level.size] if level.kind == "torus" else (level.size,)
    closed = level.closed if level.kind == "torus" else True
    link, left, cuts = rate / len(shape) / 2.0, k, []
    for length in shape:
        along = min(left, length)
        left //= along
        # A ring is cut twice, a line once; lines beside each other are as many as the other ranks.
        cuts += [(2 if closed and along == length else 1) * k / along * link] if along > 1 else []
    return below * min(cuts)


def cut_bound(drawn: list[Level], crossing: Callable[[int, int], float]) -> float:
    """Least seconds that bytes need to cross the middle of any tier; `crossing(units, ranks below)` bytes one way."""
    below, least = 1, 0.0
    for level in drawn:
        if level.ranks > 1:
            least = max(least, crossing(level.ranks, below) / bisection(level, below))
        below *= level.ranks
    return least


@settings(max_examples=150, deadline=None)
@given(drawn=NETWORKS, size=SIZE, name=st.sampled_from(("fastest", *ENDPOINTS)))
def test_no_reduction_passes_the_middle_of_any_tier_faster_than_its_wires(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, name: str
) -> None:
    system, group = build(drawn), group_of(drawn)
    # Either half has to hear of all that the other one summed up: half of it scattered, half gathered.
    reduced = float(all_reduce(array(size), group, system, name).time)
    assert reduced * ROUNDING >= cut_bound(drawn, lambda _units, _below: size)
    gathered = float(all_gather(array(size), group, system, name).time)
    assert gathered * ROUNDING >= cut_bound(drawn, lambda _units, _below: size / 2.0)


@settings(max_examples=100, deadline=None)
@given(drawn=NETWORKS, size=SIZE)
def test_no_all_to_all_passes_the_middle_of_any_tier_faster_than_its_wires(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float
) -> None:
    each = size / math.prod(level.ranks for level in drawn)
    time = float(uniform_all_to_all(array(size), group_of(drawn), build(drawn)).time)
    assert time * ROUNDING >= cut_bound(drawn, lambda units, below: each * (units // 2 * below) ** 2)


@settings(max_examples=100, deadline=None)
@given(drawn=NETWORKS, size=SIZE, name=st.sampled_from(("fastest", *ENDPOINTS)))
def test_no_chip_sends_faster_than_all_of_its_links(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, name: str
) -> None:
    """The bus bandwidth of a group inside one tier is at most the wire of a chip."""
    system, group = build(drawn), group_of(drawn)
    used = [level for level in drawn if level.ranks > 1]
    if len(used) == 1 and used[0].kind != "bus":
        for collective in (all_reduce, all_gather, reduce_scatter):
            cost = collective(array(size), group, system, name)
            assert float(cost.time) * used[0].gbs * 1e9 * ROUNDING >= float(cost.wire_bytes)


@settings(max_examples=60, deadline=None)
@given(level=levels(), size=SIZE)
def test_a_direct_reduction_is_an_exchange_of_parts_there_and_back(
    build: Callable[..., SystemArrays], level: Level, size: float
) -> None:
    # Links between neighbours carry what goes to the ranks behind them too.
    one = replace(level, start=0.0, hop=0.0)
    system, group = build([one], ("direct",)), group_of([one])
    there = float(uniform_all_to_all(array(size), group, system).time)
    assert float(all_reduce(array(size), group, system).time) == pytest.approx(2.0 * there, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(size=SIZE, ranks=st.sampled_from([2, 3, 8]), share=st.floats(0.05, 1.0))
def test_a_switch_that_adds_up_takes_every_byte_once(
    tier_of: TierOf, network_of: NetworkOf, size: float, ranks: int, share: float
) -> None:
    system = network_of(tier_of(algorithms=("in_network",), in_network=share))
    assert float(all_reduce(array(size), group_of_ranks(ranks), system).time) * ROUNDING >= size / 100e9


def group_of_ranks(*ranks: float) -> Placement:
    return Placement(tuple(array(each) for each in ranks), tuple(array(1.0) for _ in ranks))


@settings(max_examples=100, deadline=None)
@given(drawn=NETWORKS, size=SIZE, tier=st.integers(0, 2), factor=st.floats(1.0, 20.0), name=st.sampled_from(ENDPOINTS))
def test_a_better_tier_is_never_slower(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, tier: int, factor: float, name: str
) -> None:
    tier %= len(drawn)
    level = drawn[tier]
    group, before = group_of(drawn), build(drawn, (name, "ring"))
    for change in ({"gbs": level.gbs * factor}, {"start": level.start / factor}, {"hop": level.hop / factor}):
        after = build([*drawn[:tier], replace(level, **change), *drawn[tier + 1 :]], (name, "ring"))
        for collective in ALL:
            times = [float(collective(array(size), group, system).time) for system in (before, after)]
            assert times[1] <= times[0] * ROUNDING
        assert float(send(array(size), tier, after)) <= float(send(array(size), tier, before)) * ROUNDING


@settings(max_examples=100, deadline=None)
@given(drawn=NETWORKS, size=SIZE, factor=st.floats(1.0, 100.0), name=st.sampled_from(("fastest", *ENDPOINTS)))
def test_more_bytes_are_never_cheaper(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, factor: float, name: str
) -> None:
    system, group = build(drawn), group_of(drawn)
    small, large = array(size), array(size * factor)
    for collective in ALL:
        less, more = (collective(each, group, system) for each in (small, large))
        assert 0.0 <= less.time <= more.time * ROUNDING
        assert 0.0 <= less.wire_bytes <= more.wire_bytes * ROUNDING
    for call in (all_reduce, all_gather):
        assert call(small, group, system, name).time <= call(large, group, system, name).time * ROUNDING


@settings(max_examples=100, deadline=None)
@given(drawn=NETWORKS, size=SIZE)
def test_the_fastest_is_no_slower_than_any_that_is_named(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float
) -> None:
    system, group = build(drawn, ALGORITHMS), group_of(drawn)
    for collective in (all_reduce, all_gather, reduce_scatter):
        free = collective(array(size), group, system)
        named = [collective(array(size), group, system, name) for name in ALGORITHMS]
        assert all(free.time <= cost.time * ROUNDING for cost in named)
        # And is one of them.
        chosen = named[int(free.algorithm)]
        assert (float(chosen.time), float(chosen.algorithm)) == (float(free.time), float(free.algorithm))


@settings(max_examples=80, deadline=None)
@given(drawn=SWITCHED, size=SIZE, name=st.sampled_from(["ring", "tree", "direct"]))
def test_another_rank_or_node_is_never_free_where_all_share_the_wires(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, name: str
) -> None:
    # Not on a mesh or torus, where more ranks bring more links; on the outermost tier, whose ranks add none below.
    fewer, more = ([*drawn[:-1], replace(drawn[-1], ranks=ranks)] for ranks in (drawn[-1].ranks, drawn[-1].ranks + 1))
    system = build(drawn, (name, "ring"))
    # Of an all-to-all less stays on inner tiers where more ranks share the same bytes.
    for collective in ALL if len(drawn) == 1 else ALL[:-1]:
        times = [float(collective(array(size), group_of(each), system).time) for each in (fewer, more)]
        assert times[0] <= times[1] * ROUNDING


@settings(max_examples=60, deadline=None)
@given(drawn=NETWORKS, size=SIZE)
def test_a_group_of_one_costs_nothing(build: Callable[..., SystemArrays], drawn: list[Level], size: float) -> None:
    system = build(drawn, ALGORITHMS)
    alone = group_of([replace(level, ranks=1) for level in drawn])
    for collective in (*ALL, send_pair):
        cost = collective(array([size, 1e12]), alone, system)
        assert np.broadcast_to(cost.time, (2,)).tolist() == [0.0, 0.0]
        assert np.broadcast_to(cost.wire_bytes, (2,)).tolist() == [0.0, 0.0]
    assert float(barrier(alone, system).time) == 0.0


@settings(max_examples=60, deadline=None)
@given(drawn=NETWORKS, size=SIZE, name=st.sampled_from(ENDPOINTS))
def test_scattering_a_sum_is_gathering_backwards_and_both_are_the_reduction(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, name: str
) -> None:
    system, group = build(drawn, (name, "ring")), group_of(drawn)
    scattered, gathered = (call(array(size), group, system, name) for call in (reduce_scatter, all_gather))
    assert (float(scattered.time), float(scattered.wire_bytes)) == (float(gathered.time), float(gathered.wire_bytes))
    if name != "tree":
        reduced = all_reduce(array(size), group, system, name)
        assert float(reduced.wire_bytes) == pytest.approx(2.0 * float(gathered.wire_bytes), rel=1e-12)
        # One after the other they start more often, and else take as long.
        starts = sum(level.start for level in drawn if level.ranks > 1) * 1e-6
        both = 2.0 * float(gathered.time)
        assert float(reduced.time) <= both * ROUNDING
        assert both <= (float(reduced.time) + starts) * ROUNDING


PROTOCOL = st.tuples(st.floats(0.0, 5e-5), st.floats(0.0, 2e-5), st.floats(0.05, 1.0))


def protocols(drawn: list[tuple[float, float, float]]) -> tuple[ProtocolArrays, ...]:
    return tuple(
        ProtocolArrays(str(i), array(s), array(h), array(share), copies=i % 2 == 0)
        for i, (s, h, share) in enumerate(drawn)
    )


@settings(max_examples=60, deadline=None)
@given(size=SIZE, inner=st.sampled_from([1, 2, 8]), outer=st.sampled_from([1, 3]), data=st.data())
def test_another_protocol_never_slows_and_their_order_is_nothing(
    tier_of: TierOf, network_of: NetworkOf, size: float, inner: int, outer: int, data: st.DataObject
) -> None:
    fast, slow = (data.draw(st.lists(PROTOCOL, min_size=3, max_size=3)) for _ in range(2))

    def times(keep: list[int]) -> list[float]:
        own = [tuple(protocols(each)[i] for i in keep) for each in (fast, slow)]
        tiers = (tier_of(protocols=own[0], copy_share=2.0), tier_of("fat_tree", 3, 10, protocols=own[1]))
        system, where = network_of(*tiers), group_of_ranks(inner, outer)
        sent = [float(send(array(size), t, system)) for t in range(2)]
        return [float(call(array(size), where, system).time) for call in ALL] + sent

    every, two, back = times([0, 1, 2]), times([0, 1]), times([2, 1, 0])
    assert all(more <= less * ROUNDING for more, less in zip(every, two, strict=True))
    assert back == pytest.approx(every, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(SIZE, st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 5])),
        min_size=1,
        max_size=10,
    ),
    name=st.sampled_from(("fastest", *ALGORITHMS)),
)
def test_a_batch_of_groups_equals_each_alone_in_any_order(
    tier_of: TierOf, network_of: NetworkOf, rows: list[tuple[float, float, float, float]], name: str
) -> None:
    # A tier with a protocol that another has not, one with a single one, and one with all.
    own = protocols([(1e-6, 1e-6, 0.2), (5e-6, 2e-6, 0.6), (2e-5, 3e-6, 1.0)])
    three = network_of(
        tier_of("mesh", 4, protocols=own[:2], algorithms=ALGORITHMS, in_network=0.8, copy_share=2.0),
        tier_of("torus", shape=(2,), gbs=60),
        tier_of("fat_tree", 5, 10, protocols=own, algorithms=ALGORITHMS),
    )
    size, *ranks = np.array(rows).T
    group = Placement(tuple(ranks), tuple(array(1.0) for _ in ranks))
    for collective in ALL:
        named = (name,) if collective in (all_reduce, all_gather, reduce_scatter) else ()
        together = collective(size, group, three, *named)
        back = Placement(tuple(each[::-1] for each in ranks), group.stride)
        reverse = collective(size[::-1], back, three, *named)
        alone = [collective(array(b), group_of_ranks(*each), three, *named) for b, *each in rows]
        for field in ("time", "wire_bytes", "algorithm"):
            found = getattr(together, field)
            assert np.broadcast_to(found, size.shape) == pytest.approx(
                [float(getattr(c, field)) for c in alone], rel=1e-12
            )
            assert np.array_equal(
                np.broadcast_to(getattr(reverse, field), size.shape)[::-1], np.broadcast_to(found, size.shape)
            )


@settings(max_examples=40, deadline=None)
@given(drawn=NETWORKS, size=SIZE)
def test_what_differs_by_point_may_be_any_of_the_numbers(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float
) -> None:
    """Bytes, ranks, bandwidth or a protocol as (P,) beside scalars give what they give alone."""
    system, group = build(drawn, ALGORITHMS), group_of(drawn)
    tier, twice = system.tiers[-1], np.array([1.0, 2.0])
    protocol = tier.protocols[0]
    changes = (
        {"bandwidth": tier.bandwidth * twice},
        {"protocols": (replace(protocol, hop=protocol.hop * twice),)},
        {"efficiency": 1.0 / twice},
    )
    for collective in (*ALL, send_pair):
        scalar = float(collective(array(size), group, system).time)
        for change in changes:
            mixed = replace(system, tiers=(*system.tiers[:-1], replace(tier, **change)))
            assert np.broadcast_to(collective(array(size), group, mixed).time, (2,))[0] == pytest.approx(scalar)
        points = Placement((group.ranks[0] * np.ones(2), *group.ranks[1:]), group.stride)
        many = np.broadcast_to(collective(array(size), points, system).time, (2,))
        assert many.tolist() == pytest.approx([scalar, scalar])


@settings(max_examples=40, deadline=None)
@given(size=SIZE, shape=st.permutations([2, 4, 4]), algorithms=st.permutations(ENDPOINTS))
def test_the_order_of_dimensions_and_of_algorithms_is_nothing(
    tier_of: TierOf, network_of: NetworkOf, size: float, shape: list[int], algorithms: list[str]
) -> None:
    first = network_of(tier_of("torus", shape=(2, 4, 4), algorithms=ENDPOINTS))
    other = network_of(tier_of("torus", shape=tuple(shape), algorithms=tuple(algorithms)))
    for collective in ALL:
        times = [float(collective(array(size), group_of_ranks(32), system).time) for system in (first, other)]
        assert times[0] == pytest.approx(times[1], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(drawn=NETWORKS, size=SIZE, data=st.data())
def test_any_group_that_is_placed_has_a_time(
    build: Callable[..., SystemArrays], drawn: list[Level], size: float, data: st.DataObject
) -> None:
    # Ranks that do not divide evenly are fractions of a unit.
    chips = math.prod(level.size for level in drawn)
    ranks = data.draw(st.integers(1, chips))
    stride = data.draw(st.integers(1, chips // ranks))
    system = build(drawn, ALGORITHMS)
    group = placed(array(ranks), array(stride), system.sizes)
    for collective in ALL:
        cost = collective(array(size), group, system)
        assert np.isfinite(cost.time)
        assert (cost.time > 0.0) == (ranks > 1 and (size > 0.0 or _starts(drawn, group, collective)))
        assert 0.0 <= cost.wire_bytes <= 2.0 * size


def _starts(drawn: list[Level], group: Placement, collective: Collective) -> bool:
    """Whether a collective of no bytes takes time: an all-to-all of nothing does not even start."""
    used = [level for level, ranks in zip(drawn, group.ranks, strict=True) if ranks > 1.0]
    return collective is not uniform_all_to_all and any(level.start + level.hop > 0.0 for level in used)


@settings(max_examples=60, deadline=None)
@given(time=st.floats(0.0, 10.0), behind=st.floats(0.0, 10.0), cores=st.floats(0.0, 1.0))
def test_what_is_exposed_lies_between_the_longer_part_and_the_whole(time: float, behind: float, cores: float) -> None:
    found = float(exposed(array(time), array(behind), array(cores)))
    assert max(time - behind, 0.0) - 1e-12 <= found <= time + 1e-12
    assert float(exposed(array(time), array(behind), array(1.0))) == pytest.approx(time, abs=1e-12)
    assert float(exposed(array(time), array(0.0), array(cores))) == time
