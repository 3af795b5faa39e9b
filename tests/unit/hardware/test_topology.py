"""Bandwidth between halves and steps between the farthest units, by kind of tier."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.hardware.topology import bisection, dimensions, held, steps, system_bisection
from cosim.records import array

KINDS = ("switch", "fat_tree", "bus", "mesh", "ring", "hypercube_mesh", "torus", "dragonfly")
PROTOCOL = ProtocolArrays("bulk", array(1e-6), array(1e-6), array(1.0))
GB = 1e9


def tier(kind: str, size: float, bandwidth: float = 100 * GB, **more: Any) -> TierArrays:
    own = {"name": kind, "kind": kind, "link": "l", "size": array(size), "bandwidth": array(bandwidth)}
    return TierArrays(**{**own, "protocols": (PROTOCOL,), "algorithms": ("ring",), **more})


def torus(*shape: int, bandwidth: float = 100 * GB, closes: bool = True, size: float | None = None) -> TierArrays:
    count = float(math.prod(shape)) if size is None else size
    return tier("torus", count, bandwidth, shape=shape, closed=(closes,) * len(shape))


@st.composite
def any_tier(draw: st.DrawFn) -> TierArrays:
    """A tier of any kind, full or in part, with a bandwidth."""
    kind, bandwidth = draw(st.sampled_from(KINDS)), draw(st.floats(1.0, 1e13))
    if kind == "torus":
        shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
        size = float(draw(st.integers(1, math.prod(shape))))
        closed = tuple(draw(st.booleans()) for _ in shape)
        return tier(kind, size, bandwidth, shape=shape, closed=closed)
    if kind == "dragonfly":
        shape = (draw(st.integers(1, 16)), draw(st.integers(1, 32)))
        return tier(kind, float(draw(st.integers(1, math.prod(shape)))), bandwidth, shape=shape)
    if kind == "hypercube_mesh":
        return tier(kind, 2.0 ** draw(st.integers(0, 10)), bandwidth)
    return tier(kind, float(draw(st.integers(1, 5000))), bandwidth)


@given(one=any_tier(), chips=st.integers(1, 128))
def test_no_half_gets_more_than_the_other_can_send(one: TierArrays, chips: int) -> None:
    found = float(bisection(one, array(float(chips))))
    injection = float(one.bandwidth) * (1.0 if one.kind == "bus" else float(one.size) * chips)
    assert 0.0 <= found <= injection / 2.0 * (1.0 + 1e-12)
    assert (found > 0.0) == (float(one.size) > 1.0)


@given(one=any_tier(), more=st.floats(1.0, 100.0), chips=st.integers(1, 16))
def test_more_bandwidth_is_never_less_between_halves(one: TierArrays, more: float, chips: int) -> None:
    wider = TierArrays(**{n: getattr(one, n) for n in one.__slots__} | {"bandwidth": one.bandwidth * more})
    before, after = (bisection(each, array(float(chips))) for each in (one, wider))
    assert after == pytest.approx(more * before)


@given(shape=st.lists(st.integers(1, 8), min_size=2, max_size=3), closes=st.booleans())
def test_the_order_of_a_torus_dimensions_is_no_matter(shape: list[int], closes: bool) -> None:
    found = {
        (float(bisection(torus(*order, closes=closes), array(1.0))), float(steps(torus(*order, closes=closes))))
        for order in itertools.permutations(shape)
    }
    assert len(found) == 1


@given(one=any_tier())
def test_a_batch_of_sizes_is_its_single_ones(one: TierArrays) -> None:
    sizes = np.array([1.0, float(one.size)])
    batch = TierArrays(**{name: getattr(one, name) for name in one.__slots__} | {"size": sizes})
    assert np.broadcast_to(bisection(batch, array(2.0)), (2,))[1] == pytest.approx(bisection(one, array(2.0)))
    assert steps(batch)[1] == steps(one)
    assert (bisection(batch, array(2.0))[0], steps(batch)[0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("one", "across", "far"),
    [
        (tier("switch", 8.0, 450 * GB), 4 * 450 * GB, 1),
        (tier("switch", 9.0, 450 * GB), 4 * 450 * GB, 1),  # the smaller half has four
        (tier("fat_tree", 16.0, 50 * GB), 8 * 50 * GB, 1),
        (tier("bus", 4.0, 20 * GB), 10 * GB, 1),
        (tier("mesh", 8.0, 448 * GB), 16 * 64 * GB, 1),  # 4 x 4 links of 64 GB/s
        (tier("ring", 12.0, 96 * GB), 2 * 48 * GB, 6),
        (tier("ring", 2.0, 96 * GB), 96 * GB, 1),
        (tier("hypercube_mesh", 8.0, 150 * GB), 4 * 50 * GB, 3),
        (torus(4, 4, 4, bandwidth=540 * GB), 2 * 16 * 90 * GB, 6),
        (torus(16, 20, 28, bandwidth=540 * GB), 2 * 320 * 90 * GB, 8 + 10 + 14),  # the pod of TPU v5p
        (torus(2, 2, 2, bandwidth=540 * GB, closes=False), 4 * 90 * GB, 3),
        (torus(4, 1, bandwidth=400 * GB, closes=False), 100 * GB, 3),
        (torus(4, 4, bandwidth=400 * GB, size=8.0), 2 * 2 * 100 * GB, 2 + 1),  # two rows: 4 wires along, 4 between
        (tier("dragonfly", 8.0, 100 * GB, shape=(4, 2)), 4 * 100 * GB, 1),
        (tier("dragonfly", 36.0, 100 * GB, shape=(4, 9)), 20 * 400 * GB / 8, 1),
        (tier("dragonfly", 10.0, 100 * GB, shape=(4, 3)), 2 * 1000 * GB / 3 / 2, 1),  # two of three groups in full
        (tier("dragonfly", 5.0, 100 * GB, shape=(4, 2)), 2 * 100 * GB, 1),  # the smaller half has two
    ],
)
def test_by_hand(one: TierArrays, across: float, far: float) -> None:
    assert bisection(one, array(1.0)) == pytest.approx(across)
    assert steps(one) == far


def test_chips_of_a_unit_send_together_except_on_a_bus() -> None:
    for kind in ("switch", "mesh", "ring"):
        assert bisection(tier(kind, 8.0), array(4.0)) == pytest.approx(4.0 * bisection(tier(kind, 8.0), array(1.0)))
    assert bisection(tier("bus", 8.0), array(4.0)) == bisection(tier("bus", 8.0), array(1.0))


def test_an_open_torus_has_half_of_a_closed_one_and_is_wider() -> None:
    open_one, closed_one = torus(4, 4, closes=False), torus(4, 4)
    assert 2.0 * bisection(open_one, array(1.0)) == bisection(closed_one, array(1.0))
    assert (steps(open_one), steps(closed_one)) == (6.0, 4.0)


def test_a_ring_that_is_not_full_does_not_close() -> None:
    (along, closes), (rows, _) = dimensions(torus(4, 4, size=3.0))
    assert (float(along), bool(closes), float(rows)) == (3.0, False, 1.0)


def test_a_dragonfly_without_a_shape_is_unknown_not_zero() -> None:
    assert math.isnan(float(bisection(tier("dragonfly", 8.0), array(1.0))))
    assert bisection(tier("dragonfly", 1.0), array(1.0)) == 0.0


def test_units_hold_the_chips_of_the_tiers_below() -> None:
    assert [float(each) for each in held([tier("switch", 8.0), tier("torus", 4.0)])] == [1.0, 8.0, 32.0]


def test_the_least_cut_is_through_the_narrowest_tier() -> None:
    node, cluster = tier("switch", 8.0, 450 * GB), tier("fat_tree", 16.0, 50 * GB)
    assert system_bisection([node, cluster], array(128.0), [False, False]) == 64 * 50 * GB
    slow = tier("bus", 8.0, 12 * GB)
    # A network that all chips reach joins the halves of a slow node too.
    assert system_bisection([slow, tier("fat_tree", 2.0, 900 * GB)], array(16.0), [False] * 2) == 8 * 900 * GB
    # On rails of one level the network does not join the two halves of a node.
    assert system_bisection([slow, tier("switch", 2.0, 900 * GB)], array(16.0), [False, True]) == 2 * 6 * GB


def test_wired_units_do_not_join_the_halves_of_what_lies_inside() -> None:
    node, ring = tier("mesh", 4.0, 3 * GB), tier("ring", 4.0, 100 * GB)
    assert system_bisection([node, ring], array(16.0), [False, True]) == 4 * 4 * GB


def test_one_chip_has_no_halves() -> None:
    assert system_bisection([tier("ring", 1.0)], array(1.0), [True]) == 0.0


@given(tiers=st.lists(any_tier(), min_size=1, max_size=3))
def test_a_system_has_no_more_than_its_widest_halves(tiers: list[TierArrays]) -> None:
    chips = float(held(tiers)[-1])
    found = float(system_bisection(tiers, array(chips), [False] * len(tiers)))
    used = [one for one in tiers if float(one.size) > 1.0]
    if used:
        outer = used[-1]
        share = 0.5 * float(outer.bandwidth) * (1.0 if outer.kind == "bus" else chips)
        assert found <= share * (1.0 + 1e-9)
