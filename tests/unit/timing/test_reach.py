"""What wires give a group: each kind by hand, all-to-alls against routes that are counted link by link."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.tiers import TierArrays
from cosim.records import array
from cosim.timing.reach import all_to_all_wire, ring_bandwidth, ring_hops

TierOf = Callable[..., TierArrays]
ONE = array(1.0)
SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=3).map(tuple)
Place = tuple[int, ...]
Link = tuple[Place, int, int]
"""Where it leaves, its dimension, its direction."""


def ring(tier: TierArrays, ranks: object, stride: float = 1, shared: object = None) -> list[float]:
    """Bandwidth of a ring [GB/s]."""
    k = array(ranks)
    given = ring_bandwidth(tier, k, array(stride), k if shared is None else array(shared)) / 1e9
    return np.atleast_1d(np.broadcast_to(given, k.shape)).tolist()


def exchange(tier: TierArrays, ranks: float, sent: float, stride: float = 1) -> float:
    return float(all_to_all_wire(tier, array(ranks), array(stride), array(sent), array(ranks)))


@pytest.mark.parametrize("kind", ["switch", "fat_tree", "dragonfly"])
def test_a_switch_gives_every_group_all_of_its_links(tier_of: TierOf, kind: str) -> None:
    assert ring(tier_of(kind, 8, 450), [1, 2, 5, 8]) == [450.0] * 4


def test_a_bus_is_shared_by_all_that_send(tier_of: TierOf) -> None:
    assert ring(tier_of("bus", 8, 40), [2, 4, 8]) == [20.0, 10.0, 5.0]
    assert ring(tier_of("bus", 2, 40), 2, shared=16) == [2.5]


def test_a_mesh_gives_the_links_to_the_members(tier_of: TierOf) -> None:
    # 7 links of 64 GB/s: a pair has one, four have three, all have seven
    assert ring(tier_of("mesh", 8, 448), [2, 4, 8]) == pytest.approx([64.0, 192.0, 448.0])


def test_a_hypercube_gives_the_dimensions_that_are_spanned(tier_of: TierOf) -> None:
    assert ring(tier_of("hypercube_mesh", 16, 100), [2, 4, 5, 8, 16]) == pytest.approx([25, 50, 75, 75, 100])


@pytest.mark.parametrize(
    ("shape", "closed", "ranks", "stride", "gbs"),
    [
        ((4, 4, 4), (True,) * 3, 64, 1, 600),
        ((4, 4, 4), (False,) * 3, 64, 1, 300),
        ((4, 4, 4), (True,) * 3, 16, 1, 400),
        ((4, 4, 4), (True,) * 3, 4, 1, 200),
        ((4, 4, 4), (True,) * 3, 2, 1, 100),  # half a ring: a line
        ((4, 4, 4), (True,) * 3, 8, 1, 300),  # a ring of 4 and a line of 2
        ((4, 4, 4), (True, True, False), 64, 1, 500),
        ((4, 4, 4), (True,) * 3, 4, 4, 200),  # the second dimension alone
        ((4, 4, 4), (True,) * 3, 4, 16, 200),  # the third
        ((4, 4, 4), (True,) * 3, 16, 4, 400),  # the second and third
        ((4, 4, 4), (True,) * 3, 32, 2, 500),  # every other chip along the first
        ((8, 2), (True, True), 16, 1, 600),
        ((8, 2), (True, True), 2, 8, 300),  # both links of a ring of two
        ((16,), (True,), 8, 1, 300),
        ((4, 4, 4), (True,) * 3, 1, 1, 200),  # alone: anything but nothing
    ],
)
def test_a_torus_gives_the_rings_and_lines_that_a_group_spans(
    tier_of: TierOf, shape: Place, closed: tuple[bool, ...], ranks: int, stride: int, gbs: float
) -> None:
    assert ring(tier_of("torus", shape=shape, closed=closed, gbs=600), ranks, stride) == pytest.approx([gbs])


def test_a_ring_closes_only_where_all_are_in_it(tier_of: TierOf) -> None:
    assert ring(tier_of("ring", 8, 100), [2, 7, 8]) == pytest.approx([50.0, 50.0, 100.0])


@pytest.mark.parametrize("kind", ["switch", "bus", "mesh", "ring", "hypercube_mesh", "fat_tree"])
def test_an_engine_feeds_no_more_than_it_can(tier_of: TierOf, kind: str) -> None:
    free, fed = tier_of(kind, 8, 100), tier_of(kind, 8, 100, engine_rate=7e9)
    assert ring(fed, 8) == pytest.approx([min(ring(free, 8)[0], 7.0)])
    assert exchange(fed, 8, 7e9) >= 7e9 / 7e9 * (1.0 - 1e-12)


@pytest.mark.parametrize(
    ("shape", "ranks", "stride", "hops"),
    [
        ((4, 4, 4), 64, 1, 9),
        ((4, 4, 4), 16, 1, 6),
        ((4, 4, 4), 8, 1, 4),
        ((4, 4, 4), 3, 1, 2),
        ((4, 4, 4), 4, 4, 3),
        ((2, 2, 2), 8, 1, 3),
        ((4, 4), 1, 1, 0),
    ],
)
def test_a_torus_is_crossed_dimension_by_dimension(
    tier_of: TierOf, shape: Place, ranks: int, stride: int, hops: int
) -> None:
    assert float(ring_hops(tier_of("torus", shape=shape), array(ranks), array(stride))) == hops


@pytest.mark.parametrize("kind", ["switch", "bus", "mesh", "ring", "hypercube_mesh", "fat_tree", "dragonfly"])
def test_elsewhere_a_ring_has_a_step_less_than_ranks(tier_of: TierOf, kind: str) -> None:
    assert ring_hops(tier_of(kind), array([1, 2, 8]), ONE).tolist() == [0.0, 1.0, 7.0]


def routes(a: Place, b: Place, shape: Place, *, closed: bool) -> Iterator[tuple[Link, float]]:
    """Links that what a sends to b takes, axis after axis the short way, half of it each way where both are."""
    if a == b:
        return
    axis = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    length, up = shape[axis], (b[axis] - a[axis]) % shape[axis]
    ways = {1: up, -1: length - up} if closed else {1 if b[axis] > a[axis] else -1: abs(b[axis] - a[axis])}
    shortest = [way for way, steps in ways.items() if steps == min(ways.values())]
    for way in shortest:
        for step in range(ways[way]):
            yield ((*a[:axis], (a[axis] + way * step) % length, *a[axis + 1 :]), axis, way), 1.0 / len(shortest)
    yield from routes((*a[:axis], b[axis], *a[axis + 1 :]), b, shape, closed=closed)


def busiest(shape: Place, *, closed: bool, stride: int = 1) -> float:
    """Most that a link carries when every place sends one byte to all others, or to those `stride` apart."""
    load: dict[Link, float] = defaultdict(float)
    places = [place[::-1] for place in itertools.product(*(range(length) for length in reversed(shape)))]
    for (i, a), (j, b) in itertools.permutations(enumerate(places), 2):
        if (i - j) % stride == 0:
            for link, share in routes(a, b, shape, closed=closed):
                load[link] += share
    return max(load.values(), default=0.0)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, closed=st.booleans())
def test_an_all_to_all_on_a_torus_takes_as_long_as_its_busiest_link(
    tier_of: TierOf, shape: Place, closed: bool
) -> None:
    ranks = math.prod(shape)
    tier = tier_of("torus", shape=shape, closed=tuple(closed for _ in shape), gbs=2 * len(shape))  # 1 GB/s a link
    assert exchange(tier, ranks, (ranks - 1) * 1e9) == pytest.approx(busiest(shape, closed=closed))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_an_all_to_all_on_a_hypercube_loads_every_dimension_alike(tier_of: TierOf, dimensions: int) -> None:
    # A hypercube is a grid of lines of two.
    size = 2**dimensions
    tier = tier_of("hypercube_mesh", size, dimensions)  # 1 GB/s a link
    assert exchange(tier, size, (size - 1) * 1e9) == pytest.approx(busiest((2,) * dimensions, closed=False))


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_part_of_a_hypercube_is_a_hypercube_on_its_own_links(tier_of: TierOf, ranks: int) -> None:
    whole, own = tier_of("hypercube_mesh", 16, 100), tier_of("hypercube_mesh", ranks, 25 * math.log2(ranks))
    assert exchange(whole, ranks, 1e9) == pytest.approx(exchange(own, ranks, 1e9))


def test_an_all_to_all_elsewhere_by_hand(tier_of: TierOf) -> None:
    assert exchange(tier_of("switch"), 8, 7e9) == pytest.approx(0.07)
    assert exchange(tier_of("fat_tree", 64, 25), 8, 7e9) == pytest.approx(0.28)
    # A GB to each of seven over links of 10 GB/s; to one over its one link.
    assert exchange(tier_of("mesh", 8, 70), 8, 7e9) == pytest.approx(0.1)
    assert exchange(tier_of("mesh", 8, 70), 2, 1e9) == pytest.approx(0.1)
    assert exchange(tier_of("bus", 8, 40), 8, 7e9) == pytest.approx(56 / 40)
    # A ring of 8, 1 GB to each other place: 8 x 8 / 8 GB over links of 50 GB/s. A line of 4: 4 x 4 / 4.
    assert exchange(tier_of("ring"), 8, 7e9) == pytest.approx(8 / 50)
    assert exchange(tier_of("ring"), 4, 3e9) == pytest.approx(4 / 50)


def test_a_longer_torus_is_bound_by_its_longest_dimension(tier_of: TierOf) -> None:
    # Of B bytes on every rank a link carries B l / 8 round a ring, B l / 4 along a line.
    held = 64e9
    for shape, closed, paths in (((4, 4, 4), True, 4 / 8), ((16, 2, 2), True, 16 / 8), ((4, 4, 4), False, 4 / 4)):
        tier = tier_of("torus", shape=shape, closed=(closed,) * 3, gbs=600)
        assert exchange(tier, 64, held * 63 / 64) == pytest.approx(held * paths / 100e9)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, closed=st.booleans(), data=st.data())
def test_wires_never_give_more_than_a_chip_has(
    tier_of: TierOf, shape: Place, closed: bool, data: st.DataObject
) -> None:
    size = math.prod(shape)
    tier = tier_of("torus", shape=shape, closed=tuple(closed for _ in shape))
    ranks = data.draw(st.integers(1, size))
    stride = data.draw(st.integers(1, max(size // ranks, 1)))
    (given,) = ring(tier, ranks, stride)
    assert 0.0 < given <= 100.0
    assert 0.0 <= float(ring_hops(tier, array(ranks), array(stride))) <= max(sum(shape) - len(shape), 0)
    # All that is sent leaves on some link.
    assert exchange(tier, ranks, 1e9, stride) >= (0.01 if ranks > 1 else 0.0) * (1.0 - 1e-12)


@pytest.mark.parametrize(("shape", "stride"), [((16,), 2), ((16,), 4), ((4, 4), 2), ((4, 4), 4), ((8, 2), 4)])
def test_groups_interleaved_on_a_torus_share_its_links(tier_of: TierOf, shape: Place, stride: int) -> None:
    # All of the groups run at once, as replicas beside tensor ranks do; 1 GB/s a link.
    ranks = math.prod(shape) // stride
    tier = tier_of("torus", shape=shape, gbs=2 * len(shape))
    loaded = busiest(shape, closed=True, stride=stride)
    assert exchange(tier, ranks, (ranks - 1) * 1e9, stride) == pytest.approx(loaded)


def test_rings_interleaved_on_a_ring_share_its_links(tier_of: TierOf) -> None:
    # Of groups that lie s apart every link carries s.
    tier = tier_of("torus", shape=(16,), gbs=100)
    assert [ring(tier, 16 // s, s)[0] for s in (1, 2, 4, 8)] == pytest.approx([100.0, 50.0, 25.0, 12.5])


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["switch", "bus", "mesh", "ring", "torus", "hypercube_mesh"]),
    rows=st.lists(st.sampled_from([(1, 1), (2, 1), (2, 4), (4, 2), (8, 1), (4, 4), (16, 1)]), min_size=1, max_size=6),
)
def test_a_batch_of_groups_equals_each_alone(tier_of: TierOf, kind: str, rows: list[tuple[int, int]]) -> None:
    tier = tier_of(kind, 16, shape=(4, 4) if kind == "torus" else ())
    ranks, stride = array([k for k, _ in rows]), array([apart for _, apart in rows])
    together = np.broadcast_to(ring_bandwidth(tier, ranks, stride, ranks) / 1e9, ranks.shape)
    assert together.tolist() == pytest.approx([ring(tier, k, s)[0] for k, s in rows])
    sent = np.broadcast_to(all_to_all_wire(tier, ranks, stride, array(1e9), ranks), ranks.shape)
    assert sent.tolist() == pytest.approx([exchange(tier, k, 1e9, s) for k, s in rows])
    assert ring_hops(tier, ranks, stride).tolist() == [float(ring_hops(tier, array(k), array(s))) for k, s in rows]
