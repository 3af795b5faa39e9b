"""Collectives as flows equal their closed form within 1 %, where nothing contends.

The closed form of the tiers that a group spans is what is compared: `parts_of` leaves the others out of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from cosim.engines.network.groups import beside, spread
from cosim.engines.network.simulate import Outcome, Request, simulate_collectives
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied

Made = Callable[..., SystemArrays]
WITHIN = 0.01
SHIPPED = ("dgx-h100", "dgx-a100", "dgx-v100", "mi300x-8gpu", "tpu-v5p-64", "trn2-16", "asic-8", "maia-200-4")
ALGORITHMS = ("fastest", "ring", "tree", "halving_doubling", "direct", "in_network", "hierarchical")
NOT_THERE = "no tier has such a collective"
GATHERED = ("ring", "direct", "halving_doubling")
SIZES = st.floats(3.0, 10.0).map(lambda power: 10.0**power)
INNER: list[dict[str, Any]] = [
    {"kind": "switch", "size": 4},
    {"kind": "switch", "size": 8},
    {"kind": "mesh", "size": 6},
    {"kind": "ring", "size": 4},
    {"kind": "torus", "shape": (4, 4)},
    {"kind": "torus", "shape": (2, 2, 2), "closed": (False, False, False)},
    {"kind": "torus", "shape": (4, 3), "closed": (True, False)},
    {"kind": "hypercube_mesh", "size": 8},
    {"kind": "bus", "size": 4},
]
OUTER: list[dict[str, Any]] = [
    {"kind": "fat_tree", "size": 4, "link": "nic", "bandwidth": 10e9},
    {"kind": "fat_tree", "size": 3, "link": "nic", "bandwidth": 10e9, "rails": True},
    {"kind": "fat_tree", "size": 4, "link": "nic", "bandwidth": 5e9, "oversubscription": 4},
    {"kind": "dragonfly", "shape": (4, 2), "link": "nic", "bandwidth": 10e9},
    {"kind": "ring", "size": 3, "link": "nic", "bandwidth": 10e9},
    {"kind": "mesh", "size": 3, "link": "nic", "bandwidth": 10e9},
]
PLANS = st.tuples(st.sampled_from(INNER), st.none() | st.sampled_from(OUTER))


@functools.cache
def shipped(name: str, nodes: int) -> SystemArrays:
    return lower_system(vary_system(Varied(load_system(name)), {"nodes": nodes}))


def outcome(system: SystemArrays, op: str, size: float, chips: tuple[int, ...], algorithm: str = "fastest") -> Outcome:
    return simulate_collectives(system, [Request(op, size, chips, algorithm)]).outcomes[0]


def agrees(one: Outcome) -> None:
    event(f"{one.op} {one.algorithm}")
    assert one.time_s == pytest.approx(one.closed_form_s, rel=WITHIN)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(SHIPPED),
    nodes=st.sampled_from([1, 2, 4]),
    part=st.sampled_from([1.0, 0.5, 0.25]),
    op=st.sampled_from(["all_reduce", "broadcast"]),
    algorithm=st.sampled_from(ALGORITHMS),
    size=SIZES,
)
def test_shipped_systems(name: str, nodes: int, part: float, op: str, algorithm: str, size: float) -> None:
    system = shipped(name, nodes)
    have = {each for tier in system.tiers for each in tier.algorithms}
    assume(algorithm in ("fastest", *have))
    ranks = max(2, int(part * float(system.chips)))
    agrees(outcome(system, op, size, spread(ranks, [int(tier.size) for tier in system.tiers]), algorithm))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(SHIPPED),
    nodes=st.sampled_from([1, 3]),
    op=st.sampled_from(["all_gather", "reduce_scatter"]),
    size=SIZES,
)
def test_rings_of_gathers_on_shipped_systems(name: str, nodes: int, op: str, size: float) -> None:
    system = shipped(name, nodes)
    chips = tuple(range(int(system.chips)))
    found = outcome(system, op, size, chips, "ring")
    assert found.algorithm == "ring"
    agrees(found)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([name for name in SHIPPED if name != "tpu-v5p-64"]), nodes=st.sampled_from([1, 2]), size=SIZES
)
def test_all_to_all_on_shipped_systems(name: str, nodes: int, size: float) -> None:
    # The cubes of tpu-v5p-64 share one link with their pod: there its own traffic is in its way.
    system = shipped(name, nodes)
    agrees(outcome(system, "alltoall", size, tuple(range(int(system.chips)))))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=PLANS,
    op=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "broadcast"]),
    algorithm=st.sampled_from(ALGORITHMS),
    size=SIZES,
)
def test_whole_systems_of_drawn_tiers(
    network_on: Made, plan: tuple[dict[str, Any], dict[str, Any] | None], op: str, algorithm: str, size: float
) -> None:
    if op in ("all_gather", "reduce_scatter"):
        assume(algorithm in GATHERED)
    # Only switches add up; gathers in a hierarchy have a test of their own, by hand.
    switched = plan[0]["kind"] == "switch" and plan[1] is None
    left_out = ("fastest", *(() if switched else ("in_network",)), *(() if op == "all_reduce" else ("hierarchical",)))
    have = tuple(name for name in ALGORITHMS if name not in left_out)
    assume(algorithm in ("fastest", *have))
    system = network_on(*(tier | {"algorithms": have} for tier in plan if tier))
    agrees(outcome(system, op, size, tuple(range(int(system.chips))), algorithm))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=PLANS, size=SIZES)
def test_all_to_all_over_drawn_tiers(
    network_on: Made, plan: tuple[dict[str, Any], dict[str, Any] | None], size: float
) -> None:
    # Meshes and rings of units pass each other's bytes on inside: there the two tiers are in each other's way.
    assume(plan[1] is None or plan[1]["kind"] in ("fat_tree", "dragonfly"))
    # A bus inside carries nothing of what leaves it, in both.
    system = network_on(*(tier for tier in plan if tier))
    agrees(outcome(system, "alltoall", size, tuple(range(int(system.chips)))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    inner=st.sampled_from([tier for tier in INNER if tier["kind"] != "bus"]),
    outer=st.sampled_from(OUTER),
    size=SIZES,
    stride=st.sampled_from([1, 2, 4]),
    ranks=st.sampled_from([2, 4]),
)
def test_groups_that_lie_apart(
    network_on: Made, inner: dict[str, Any], outer: dict[str, Any], size: float, stride: int, ranks: int
) -> None:
    algorithms = ("ring", "tree")
    system = network_on(inner | {"algorithms": algorithms}, outer | {"algorithms": algorithms, "oversubscription": 1})
    chips = beside(ranks, stride, [int(tier.size) for tier in system.tiers])[0]
    held = int(system.tiers[0].size)
    assume(max(chips) < int(system.chips))
    # A group that is even over units, and one box of a torus inside each.
    assume(len({sum(chip // held == unit for chip in chips) for unit in {chip // held for chip in chips}}) == 1)
    assume(inner["kind"] not in ("torus", "hypercube_mesh", "ring") or (stride == 1 and max(chips) < held))
    assume(inner["kind"] != "torus" or inner["shape"][0] % ranks == 0)
    agrees(outcome(system, "all_reduce", size, chips))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=PLANS, size=SIZES, far=st.booleans())
def test_one_transfer(
    network_on: Made, plan: tuple[dict[str, Any], dict[str, Any] | None], size: float, far: bool
) -> None:
    # Two neighbours of a bus share it in the closed form; a transfer has it alone.
    assume(plan[0]["kind"] != "bus" or (far and plan[1] is not None))
    system = network_on(*(tier | {"oversubscription": 1} for tier in plan if tier))
    other = int(system.tiers[0].size) if far and plan[1] else 1
    agrees(outcome(system, "send_recv", size, (0, other)))


@settings(max_examples=30, deadline=None)
@given(size=SIZES, ranks=st.sampled_from([2, 4]))
def test_a_bus_that_groups_share_is_shared_in_both(size: float, ranks: int) -> None:
    # Groups of every second or fourth card fill the host's bus together, as the closed form takes for granted.
    system = shipped("l40s-8gpu-pcie4", 1)
    everyone = outcome(system, "all_reduce", size, tuple(range(8)), "ring")
    agrees(everyone)
    half = outcome(system, "all_gather", size, tuple(range(ranks)), "ring")
    agrees(half)


def test_sixteen_thousand_ranks_on_rails_are_eight_streams() -> None:
    changes = {"nodes": 2048, "tiers.1.rails": True}
    system = lower_system(vary_system(Varied(load_system("dgx-h100")), changes))
    run = simulate_collectives(system, [Request("all_reduce", 1e9, tuple(range(16384)), "ring")], series=False)
    assert run.flows == 8
    assert run.outcomes[0].time_s == pytest.approx(run.outcomes[0].closed_form_s, rel=WITHIN)
