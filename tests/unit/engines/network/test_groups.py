"""Chips of a group by number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.network.groups import beside, spread
from cosim.errors import SpecError
from cosim.mapping.placement import tensor_placement
from cosim.records import array
from cosim.timing.collective_parts import group_of


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3), part=st.floats(0.0, 1.0))
def test_a_group_is_spread_as_the_closed_form_has_it(sizes: list[int], part: float) -> None:
    chips = 1
    for size in sizes:
        chips *= size
    ranks = max(1, round(part * chips))
    found = spread(ranks, sizes)
    assert len(set(found)) == ranks
    assert all(0 <= chip < chips for chip in found)
    wanted = tensor_placement(array(float(ranks)), [array(float(size)) for size in sizes])
    own = group_of(found, sizes)
    # Units of every tier, counted from outside: ranks of all tiers from it on.
    assert [float(one) for one in own.ranks[-1:]] == [float(one) for one in wanted.ranks[-1:]]
    assert float(own.total) == pytest.approx(ranks)


def test_by_hand() -> None:
    assert spread(6, [8, 4]) == (0, 1, 2, 3, 4, 5)
    assert spread(12, [8, 4]) == (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13)
    assert spread(9, [8, 4]) == (0, 1, 2, 3, 4, 8, 9, 10, 11)
    assert spread(5, [2, 2, 2]) == (0, 1, 2, 4, 5)


def test_groups_lie_beside_each_other() -> None:
    assert beside(2, 1, [8], 3) == [(0, 1), (2, 3), (4, 5)]
    assert beside(2, 4, [8], 4) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert beside(2, 2, [8], 4) == [(0, 2), (1, 3), (4, 6), (5, 7)]
    assert beside(3, 1, [2, 2]) == [(0, 1, 2)]


@settings(max_examples=60)
@given(ranks=st.integers(1, 6), stride=st.integers(1, 5), turns=st.integers(1, 3))
def test_no_chip_is_in_two_groups(ranks: int, stride: int, turns: int) -> None:
    groups = stride * turns
    chips = [chip for group in beside(ranks, stride, [ranks * groups], groups) for chip in group]
    assert sorted(chips) == list(range(ranks * groups))


@pytest.mark.parametrize(("numbers", "said"), [((0, 1, 1), "ranks"), ((1, 0, 1), "stride"), ((1, 1, 0), "repeat")])
def test_less_than_one_is_refused(numbers: tuple[int, int, int], said: str) -> None:
    ranks, stride, groups = numbers
    with pytest.raises(SpecError, match=f"{said}: is less than 1"):
        beside(ranks, stride, [8], groups)
