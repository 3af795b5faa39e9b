"""One group on the tiers: what it uses, what a ring reaches, steps of a ring round all ranks, protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.mapping.placement import placed
from cosim.records import array
from cosim.timing.way import Way, chain, protocol_of, ringed, sent_over, tiers_of

TierOf = Callable[..., TierArrays]
NetworkOf = Callable[..., SystemArrays]


@pytest.fixture(scope="session")
def two(tier_of: TierOf, network_of: NetworkOf) -> SystemArrays:
    """Switches of 8 chips at 100 GB/s, joined by a fat tree of 4 at 10 GB/s; 5 and 7 us to start, 1 and 3 us a step."""
    return network_of(tier_of("switch", 8, 100, 5, 1), tier_of("fat_tree", 4, 10, 7, 3))


def way(system: SystemArrays, ranks: float, stride: float = 1.0) -> Way:
    return Way(system, placed(array(ranks), array(stride), system.sizes))


def test_a_group_uses_the_tiers_that_it_meets_on(two: SystemArrays) -> None:
    assert [bool(way(two, 8).uses(t)) for t in tiers_of(way(two, 8))] == [True, False]
    assert [bool(way(two, 16).uses(t)) for t in (0, 1)] == [True, True]
    assert [bool(way(two, 4, 8).uses(t)) for t in (0, 1)] == [False, True]
    assert float(way(two, 8).busy(1, array(3.0))) == 0.0
    assert float(way(two, 16).busy(1, array(3.0))) == 3.0


def test_all_ranks_of_a_unit_send_together_where_a_ring_leaves_it(two: SystemArrays) -> None:
    whole = way(two, 16)
    assert (float(whole.ring(0)), float(whole.ring(1))) == (100e9, 10e9)
    assert (float(whole.flat(0)), float(whole.flat(1))) == (100e9, 80e9)


@settings(max_examples=40, deadline=None)
@given(inside=st.sampled_from([1, 2, 4, 8]), units=st.integers(1, 4))
def test_the_steps_of_a_ring_are_one_less_than_its_ranks(two: SystemArrays, inside: int, units: int) -> None:
    group = way(two, inside, 1.0) if units == 1 else way(two, 8 * units)
    ranks = inside if units == 1 else 8 * units
    steps = [float(chain(group, t)) for t in (0, 1)]
    assert sum(steps) == pytest.approx(ranks - 1)
    assert steps[1] == pytest.approx(units - 1)


def test_what_is_sent_starts_once_as_late_as_the_latest_tier(two: SystemArrays) -> None:
    # 7 us, 2 steps of 1 and 1 of 3 us, and the longer of 4 and 6 us on the wires; one after the other 10 us
    steps, wires = [array(2.0), array(1.0)], [array(4e-6), array(6e-6)]
    assert float(sent_over(way(two, 16), steps, wires)) == pytest.approx(18e-6)
    assert float(sent_over(way(two, 16), steps, wires, together=False)) == pytest.approx(22e-6)
    nothing = [array(0.0), array(0.0)]
    assert float(sent_over(way(two, 16), nothing, nothing)) == 0.0


def test_a_tier_with_one_protocol_sends_everything_with_it(two: SystemArrays) -> None:
    inner = two.tiers[0]
    assert protocol_of(inner, "anything") is inner.protocols[0]
    other = ProtocolArrays("late", array(1e-3), array(1e-6), array(1.0))
    several = replace(inner, protocols=(*inner.protocols, other))
    assert protocol_of(several, "late") is other
    assert protocol_of(several, "anything") is None


def test_what_leaves_a_rank_is_all_but_its_own_part() -> None:
    assert ringed(np.array([1.0, 2.0, 4.0])).tolist() == [0.0, 0.5, 0.75]
