"""Laws of the network as events: bounds of wires and bisection, more is never slower, bytes are conserved."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cosim.engines.network.graph import build
from cosim.engines.network.simulate import NetworkRun, Request, simulate_collectives
from cosim.hardware.lower import SystemArrays

Made = Callable[..., SystemArrays]
BYTES = 1e9
INNER: list[dict[str, Any]] = [
    {"kind": "switch", "size": 4},
    {"kind": "mesh", "size": 4},
    {"kind": "ring", "size": 4},
    {"kind": "torus", "shape": (2, 3), "closed": (False, True)},
    {"kind": "hypercube_mesh", "size": 4},
    {"kind": "bus", "size": 4},
]
OUTER: list[dict[str, Any]] = [
    {"kind": "fat_tree", "size": 3, "link": "nic", "bandwidth": 20e9},
    {"kind": "fat_tree", "size": 3, "link": "nic", "bandwidth": 20e9, "rails": True},
    {"kind": "dragonfly", "shape": (2, 2), "link": "nic", "bandwidth": 20e9},
    {"kind": "torus", "shape": (3,), "bandwidth": 20e9, "closed": (False,)},
    {"kind": "switch", "size": 2, "bandwidth": 20e9},
]
ALGORITHMS = ("ring", "tree", "hierarchical", "halving_doubling")
PLANS = st.tuples(st.sampled_from(INNER), st.sampled_from(OUTER))
OPS = st.sampled_from(["all_reduce", "all_gather", "alltoall", "broadcast"])
many = functools.partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def made(network_on: Made, plan: tuple[dict[str, Any], ...]) -> SystemArrays:
    return network_on(*(tier | {"algorithms": ("ring", "tree")} for tier in plan))


def run(system: SystemArrays, op: str, chips: tuple[int, ...], **given_: Any) -> NetworkRun:  # any
    return simulate_collectives(system, [Request(op, BYTES, chips, "ring")], **given_)


def groups(chips: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, chips - 1), min_size=2, max_size=chips).map(lambda found: tuple(sorted(found)))


@many(max_examples=60)
@given(plan=PLANS, op=OPS, data=st.data())
def test_never_faster_than_the_wires_of_a_unit(
    network_on: Made, plan: tuple[dict[str, Any], ...], op: str, data: st.DataObject
) -> None:
    system = made(network_on, plan)
    chips = data.draw(groups(int(system.chips)))
    held, ranks = int(system.tiers[0].size), len(chips)
    time = run(system, op, chips).outcomes[0].time_s
    for unit in {chip // held for chip in chips}:
        inside = sum(chip // held == unit for chip in chips)
        if inside == ranks:
            continue
        # What must come into a unit: all that it has not, over the ports of all its chips.
        owed = {
            "all_reduce": BYTES,
            "broadcast": BYTES if unit != 0 else 0.0,
            "all_gather": BYTES * (ranks - inside) / ranks,
            "alltoall": BYTES / ranks * inside * (ranks - inside),
        }[op]
        assert time >= owed / (held * float(system.tiers[1].bandwidth)) * (1.0 - 1e-9)


@many(max_examples=40)
@given(shape=st.sampled_from([(4,), (6,), (4, 2), (4, 4)]), closed=st.booleans())
def test_never_faster_than_the_bisection(network_on: Made, shape: tuple[int, ...], closed: bool) -> None:
    system = network_on({"kind": "torus", "shape": shape, "closed": tuple(closed for _ in shape)})
    graph = build(system)
    chips = np.arange(graph.chips)
    lower = graph.tiers[0].along(chips, 0) < shape[0] // 2
    across = graph.chips // shape[0] * (2 if closed and shape[0] > 1 else 1) * float(graph.capacity[0])
    time = run(system, "alltoall", tuple(range(graph.chips))).outcomes[0].time_s
    owed = BYTES / graph.chips * lower.sum() * (~lower).sum()
    assert time >= owed / across * (1.0 - 1e-9)


@many(max_examples=60)
@given(plan=PLANS, op=OPS, tier=st.sampled_from([0, 1]), factor=st.floats(1.0, 10.0), data=st.data())
def test_more_bandwidth_is_never_slower(
    network_on: Made, plan: tuple[dict[str, Any], ...], op: str, tier: int, factor: float, data: st.DataObject
) -> None:
    system = made(network_on, plan)
    chips = data.draw(groups(int(system.chips)))
    tiers = list(system.tiers)
    tiers[tier] = replace(tiers[tier], bandwidth=tiers[tier].bandwidth * factor)
    faster = replace(system, tiers=tuple(tiers))
    before, after = (run(one, op, chips).outcomes[0].time_s for one in (system, faster))
    if op == "alltoall":
        # Flows that share fairly may end a little later where others got faster: by a tenth at most.
        assert after <= before * 1.1
    else:
        assert after <= before * (1.0 + 1e-9)


@many(max_examples=40)
@given(plan=PLANS, op=OPS, factor=st.floats(0.05, 1.0), seed=st.integers(0, 10_000))
def test_a_degraded_link_never_helps_a_ring(
    network_on: Made, plan: tuple[dict[str, Any], ...], op: str, factor: float, seed: int
) -> None:
    from cosim.engines.network.links import name_of

    assume(op != "alltoall")
    system = made(network_on, plan)
    graph = build(system)
    there = np.flatnonzero(graph.there)
    name = name_of(graph, int(there[seed % len(there)]))
    chips = tuple(range(graph.chips))
    whole, worse = run(system, op, chips), run(system, op, chips, degraded={name: factor})
    assert worse.end_s >= whole.end_s * (1.0 - 1e-9)
    assert worse.end_s <= whole.end_s / factor * (1.0 + 1e-9)


@many(max_examples=40)
@given(plan=PLANS, op=OPS, data=st.data())
def test_permuting_ranks_inside_a_tier_changes_nothing(
    network_on: Made, plan: tuple[dict[str, Any], ...], op: str, data: st.DataObject
) -> None:
    assume(plan[0]["kind"] in ("switch", "mesh", "bus"))
    system = made(network_on, plan)
    held = int(system.tiers[0].size)
    chips = data.draw(groups(int(system.chips)))
    if plan[1].get("rails") or plan[1]["kind"] == "torus":
        # Ranks that are alone on their rail meet others by way of the unit: which of them is a choice.
        places, units = {chip % held for chip in chips}, {chip // held for chip in chips}
        chips = tuple(unit * held + place for unit in sorted(units) for place in sorted(places))
        assume(len(chips) > 1)
    order = data.draw(st.permutations(range(held)))
    moved = tuple(chip // held * held + order[chip % held] for chip in chips)
    one, two = (run(system, op, group).outcomes[0].time_s for group in (chips, moved))
    assert two == pytest.approx(one, rel=1e-6)


@many(max_examples=60)
@given(plan=PLANS, data=st.data())
def test_bytes_are_conserved_on_every_link(
    network_on: Made, plan: tuple[dict[str, Any], ...], data: st.DataObject
) -> None:
    system = made(network_on, plan)
    chips = data.draw(groups(int(system.chips)))
    found = run(system, "alltoall", chips, background=[(0, int(system.chips) - 1, 1e9)])
    total = np.zeros(len(found.capacity))
    for piece in found.intervals:
        assert np.all(piece.rate <= found.capacity[piece.links] * (1.0 + 1e-6))
        total[piece.links] += piece.rate * (piece.end_s - piece.start_s)
    assert total == pytest.approx(found.carried, rel=1e-6, abs=1.0)
    plain = run(system, "alltoall", chips)
    if plan[0]["kind"] == "switch":
        # Every rank of the group sends its bytes for the others out of a port, and gets as many.
        tier = found.graph.tiers[1]
        units = np.array(chips) // tier.held
        leaving = sum(np.sum(units != unit) * np.sum(units == unit) for unit in np.unique(units)) * BYTES / len(chips)
        ports = plain.carried[tier.first : tier.first + 2 * tier.chips]
        if tier.kind in ("switch", "fat_tree", "dragonfly"):
            assert ports.sum() == pytest.approx(2 * leaving)


@many(max_examples=40)
@given(plan=PLANS, op=OPS, delay=st.floats(0.0, 0.1), late=st.integers(0, 11))
def test_a_late_chip_costs_no_more_than_its_delay(
    network_on: Made, plan: tuple[dict[str, Any], ...], op: str, delay: float, late: int
) -> None:
    system = made(network_on, plan)
    chips = tuple(range(int(system.chips)))
    whole = run(system, op, chips).end_s
    found = run(system, op, chips, stragglers={late % len(chips): delay}).end_s
    assert max(whole, delay) * (1.0 - 1e-9) <= found or op == "alltoall"
    assert found <= (whole + delay) * (1.0 + 1e-9)


@many(max_examples=30)
@given(plan=PLANS, op=OPS, factor=st.floats(1.0, 100.0))
def test_more_bytes_take_longer(network_on: Made, plan: tuple[dict[str, Any], ...], op: str, factor: float) -> None:
    system = made(network_on, plan)
    chips = tuple(range(int(system.chips)))
    times = [
        simulate_collectives(system, [Request(op, size, chips)]).outcomes[0].time_s for size in (1e6, 1e6 * factor)
    ]
    assert times[1] >= times[0] * (1.0 - 1e-9)
