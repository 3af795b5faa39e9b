"""Whom an algorithm can serve: tiers, libraries, kinds, powers of two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import TierArrays
from cosim.mapping.placement import placed
from cosim.records import array
from cosim.timing.algorithms import ALGORITHMS, GATHERS, TIMES, is_legal
from cosim.timing.way import Way

TierOf = Callable[..., TierArrays]
NetworkOf = Callable[..., SystemArrays]
MB = array(1e6)


@pytest.fixture
def legal(tier_of: TierOf, network_of: NetworkOf) -> Callable[..., set[str]]:
    """Names of what can serve a group of `ranks` on tiers of two kinds, whose libraries have everything."""

    def names(inner: str, outer: str, ranks: float, stride: float = 1.0) -> set[str]:
        shape = {"shape": (4, 2)} if inner == "torus" else {}
        tiers = tier_of(inner, 8, algorithms=ALGORITHMS, **shape), tier_of(outer, 4, algorithms=ALGORITHMS)
        system = network_of(*tiers)
        way = Way(system, placed(array(ranks), array(stride), system.sizes))
        return {name for name in ALGORITHMS if bool(np.all(is_legal(way, name)))}

    return names


def test_inside_a_switch_all_but_a_hierarchy(legal: Callable[..., set[str]]) -> None:
    assert legal("switch", "fat_tree", 8) == set(ALGORITHMS) - {"hierarchical"}
    assert legal("switch", "fat_tree", 6) == set(ALGORITHMS) - {"hierarchical", "halving_doubling"}


def test_over_two_tiers_nothing_that_serves_one(legal: Callable[..., set[str]]) -> None:
    assert legal("switch", "fat_tree", 16) == {"ring", "tree", "halving_doubling", "hierarchical"}


@pytest.mark.parametrize("kind", ["mesh", "ring", "torus", "hypercube_mesh"])
def test_chips_that_are_wired_up_have_no_tree_and_no_switch(legal: Callable[..., set[str]], kind: str) -> None:
    assert legal(kind, "fat_tree", 8) == {"ring", "direct"}
    # Beyond them a tree is a chain inside.
    assert legal(kind, "fat_tree", 16) == {"ring", "tree", "hierarchical"}


def test_a_group_of_one_rank_a_unit_meets_on_the_outer_tier(legal: Callable[..., set[str]]) -> None:
    assert legal("mesh", "fat_tree", 4, 8) == set(ALGORITHMS) - {"hierarchical"}


def test_every_algorithm_has_its_time(tier_of: TierOf, network_of: NetworkOf) -> None:
    assert set(TIMES) == set(ALGORITHMS)
    assert set(GATHERS) < set(ALGORITHMS)
    inner = tier_of("switch", 8, algorithms=ALGORITHMS, in_network=0.5, in_network_start=1e-5)
    system = network_of(inner, tier_of("fat_tree", 4, algorithms=ALGORITHMS))
    way = Way(system, placed(array(8.0), array(1.0), system.sizes))
    for name, time in TIMES.items():
        twice, once = (float(time(way, MB, times)) for times in (2.0, 1.0))
        # A switch that adds up has whole sums alone.
        assert twice > once > 0.0 or name == "in_network"
