"""Collectives against measured latencies and bus bandwidths, and the wires that none may exceed."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.placement import Placement, tensor_placement
from cosim.overrides import Varied
from cosim.records import array
from cosim.timing.collective import all_gather, all_reduce, reach

MIB, GIB = 2.0**20, 2.0**30
SYSTEMS = st.sampled_from(["dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8"])
SIZE = st.floats(0.0, 35.0).map(lambda power: 2.0**power)
RANKS = st.sampled_from([2.0, 4.0, 8.0])


@functools.cache
def system(name: str, nodes: int = 1) -> SystemArrays:
    return lower_system(vary_system(Varied(load_system(name)), {"nodes": nodes}))


def reduce_time(name: str, ranks: float, size: float) -> float:
    group = tensor_placement(array(ranks), array(8.0))
    return float(all_reduce(array(size), group, system(name)).time)


def bus_bandwidth(ranks: float, size: float, time: float) -> float:
    """As nccl-tests define it for all-reduce [B/s]."""
    return size / time * 2.0 * (ranks - 1.0) / ranks


@pytest.mark.parametrize(
    ("name", "ranks", "size", "measured"),
    [
        ("dgx-h100", 8.0, 512 * MIB, 445e9),
        ("mi300x-8gpu", 8.0, 4 * GIB, 313e9),
        ("mi300x-8gpu", 2.0, 4 * GIB, 47.7e9),
    ],
)
def test_bus_bandwidth_of_a_large_all_reduce_is_within_a_tenth(
    name: str, ranks: float, size: float, measured: float
) -> None:
    assert bus_bandwidth(ranks, size, reduce_time(name, ranks, size)) == pytest.approx(measured, rel=0.10)


def test_an_all_gather_gains_nothing_from_the_switch() -> None:
    # H200 on the same switch measures 361 GB/s at 512 MiB, of 450 on the wire.
    size = 512 * MIB
    time = float(all_gather(array(size), tensor_placement(array(8.0), array(8.0)), system("dgx-h100")).time)
    assert size / time * 7.0 / 8.0 == pytest.approx(361e9, rel=0.10)


@pytest.mark.parametrize(("ranks", "measured"), [(2.0, 6.2e-6), (4.0, 9.7e-6), (8.0, 15.6e-6)])
def test_latency_of_a_small_all_reduce_is_within_a_third(ranks: float, measured: float) -> None:
    assert reduce_time("dgx-h100", ranks, 512.0) == pytest.approx(measured, rel=0.35)


@settings(max_examples=60, deadline=None)
@given(SYSTEMS, SIZE, RANKS)
def test_a_group_over_two_nodes_is_never_cheaper_than_inside_one(name: str, size: float, ranks: float) -> None:
    two = system(name, 2)
    inside, spread = Placement(array(ranks), array(1.0)), Placement(array(ranks / 2.0), array(2.0))
    assert all_reduce(array(size), inside, two).time <= all_reduce(array(size), spread, two).time
    assert all_gather(array(size), inside, two).time <= all_gather(array(size), spread, two).time


@settings(max_examples=60, deadline=None)
@given(SYSTEMS, SIZE, st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.integers(2, 16))
def test_another_node_is_never_free(name: str, size: float, inner: float, nodes: int) -> None:
    wide = system(name, 16)
    fewer = all_reduce(array(size), Placement(array(inner), array(nodes - 1.0)), wide)
    more = all_reduce(array(size), Placement(array(inner), array(float(nodes))), wide)
    assert more.time >= fewer.time


@settings(max_examples=60, deadline=None)
@given(SYSTEMS, SIZE, RANKS)
def test_no_all_reduce_inside_a_node_passes_its_wires(name: str, size: float, ranks: float) -> None:
    tier = system(name).tiers[0]
    time = reduce_time(name, ranks, size)
    assert bus_bandwidth(ranks, size, time) <= float(reach(tier, array(ranks)))


@settings(max_examples=60, deadline=None)
@given(SYSTEMS, SIZE, st.sampled_from([1.0, 2.0, 8.0]), st.integers(2, 16))
def test_neither_tier_carries_more_than_its_wires(name: str, size: float, inner: float, nodes: int) -> None:
    wide = system(name, 16)
    group = Placement(array(inner), array(float(nodes)))
    time = float(all_reduce(array(size), group, wide).time)
    # What a chip must send: 2 (k-1)/k of the data inside, of its share across.
    inside = 2.0 * (inner - 1.0) / inner * size / float(wide.tiers[0].bandwidth)
    across = 2.0 * (nodes - 1.0) / nodes * size / inner / float(wide.tiers[1].bandwidth)
    assert time >= inside + across


@settings(max_examples=40, deadline=None)
@given(SYSTEMS, SIZE)
def test_a_group_of_one_costs_nothing(name: str, size: float) -> None:
    assert reduce_time(name, 1.0, size) == 0.0
    alone = all_gather(array(size), Placement(array(1.0), array(1.0)), system(name))
    assert (float(alone.time), float(alone.wire_bytes)) == (0.0, 0.0)
