"""Tiers as arrays: sizes from nodes, bandwidth from links, constants from libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System, Tier
from cosim.hardware.tiers import TierArrays, spans
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.records import array


def lowered(system: System, **changes: object) -> SystemArrays:
    """The system with numbers changed; dots are written as two underscores."""
    return lower_system(vary_system(Varied(system), {name.replace("__", "."): v for name, v in changes.items()}))


def with_tier(system: System, index: int, **fields: object) -> System:
    """The system with fields of a tier that are no numbers changed."""
    tiers = list(system.tiers)
    tiers[index] = tiers[index].model_copy(update=fields)
    return system.model_copy(update={"tiers": tuple(tiers)})


def tier(system: System, index: int, **changes: object) -> TierArrays:
    return lowered(system, **{f"tiers__{index}__{name}": value for name, value in changes.items()}).tiers[index]


def span(most: list[float | None], nodes: float, node_tier: int = 0) -> list[float]:
    return [float(size) for size in spans([None if m is None else array(m) for m in most], array(nodes), node_tier)]


@pytest.mark.parametrize(
    ("most", "nodes", "node_tier", "sizes"),
    [
        ([8, None], 1, 0, [8, 1]),
        ([8, None], 16, 0, [8, 16]),
        ([8, 32], 16, 0, [8, 16]),  # the last joins what there is, not what it could
        ([8, 4, None], 16, 0, [8, 4, 4]),
        ([8, 4, None], 3, 0, [8, 3, 1]),  # fewer than a rack of four
        ([8, 4, None], 18, 0, [8, 4, 5]),  # the last rack is half full
        ([8, 4, 8, None], 64, 0, [8, 4, 8, 2]),
        ([2, 2, 2, None], 4, 2, [2, 2, 2, 4]),  # a node of three tiers is full
        ([8], 1, 0, [8]),
        ([64, None], 140, 0, [64, 140]),
    ],
)
def test_sizes_of_tiers_by_hand(most: list[float | None], nodes: float, node_tier: int, sizes: list[float]) -> None:
    assert span(most, nodes, node_tier) == sizes


@settings(max_examples=100, deadline=None)
@given(
    node=st.lists(st.integers(1, 16), min_size=1, max_size=3),
    between=st.lists(st.integers(1, 16), max_size=3),
    nodes=st.integers(1, 5000),
)
def test_all_nodes_are_joined_and_no_tier_is_more_than_full(node: list[int], between: list[int], nodes: int) -> None:
    found = span([*node, *between, None], nodes, len(node) - 1)
    assert found[: len(node)] == node
    beyond = found[len(node) :]
    assert math.prod(beyond) >= nodes
    assert all(size <= most for size, most in zip(beyond, between, strict=False))
    # One unit of the last tier fewer would leave some out, and a tier that is not full is the last but for ones.
    assert (beyond[-1] - 1) * math.prod(beyond[:-1]) < nodes
    short = [index for index, most in enumerate(between) if beyond[index] < most]
    assert all(size == 1.0 for index in short for size in beyond[index + 1 :])


def test_sizes_follow_the_points_axis() -> None:
    sizes = spans([array(8), array(4), None], array([1, 4, 18]), 0)
    assert [np.broadcast_to(size, (3,)).tolist() for size in sizes] == [[8, 8, 8], [1, 4, 4], [1, 1, 5]]


def test_nodes_of_a_shipped_system(dgx: System) -> None:
    system = lowered(dgx, nodes=16)
    assert [float(size) for size in system.sizes] == [8.0, 16.0]
    assert (float(system.chips), float(system.node_chips), system.node_tier) == (128.0, 8.0, 0)
    many = lowered(dgx, nodes=[1, 2, 64])
    assert many.sizes[1].tolist() == [1.0, 2.0, 64.0]
    assert many.chips.tolist() == [8.0, 16.0, 512.0]


def test_a_tier_has_the_link_of_its_chip_or_its_own_bandwidth(dgx: System) -> None:
    assert float(tier(dgx, 0).bandwidth) == 450e9
    assert float(tier(dgx, 1).bandwidth) == 50e9
    assert float(lowered(dgx, chip__links__scale_up__bandwidth="200 GB/s").tiers[0].bandwidth) == 200e9
    assert float(tier(dgx, 0, bandwidth="100 GB/s").bandwidth) == 100e9


@pytest.mark.parametrize("over", [1.0, 7.0])
def test_what_is_oversubscribed_divides_the_bandwidth(dgx: System, over: float) -> None:
    shared = tier(dgx, 1, oversubscription=over)
    assert float(shared.bandwidth) == pytest.approx(50e9 / over)
    assert float(shared.oversubscription) == over
    assert float(tier(dgx, 1, bandwidth="25 GB/s", oversubscription=over).bandwidth) == pytest.approx(25e9 / over)
    assert float(tier(dgx, 1).oversubscription) == 1.0


@pytest.mark.parametrize(
    ("kind", "switches"),
    [("switch", 1), ("fat_tree", 1), ("dragonfly", 1), ("mesh", 0), ("bus", 0), ("ring", 0), ("hypercube_mesh", 0)],
)
def test_a_way_is_its_wire_and_the_switch_on_it(dgx: System, kind: str, switches: int) -> None:
    made = with_tier(dgx, 1, kind=kind, size=dgx.tiers[0].size)
    far = tier(made, 1, latency="0.5 us", switch_latency="0.25 us")
    assert float(far.latency) == pytest.approx(0.5e-6 + switches * 0.25e-6)
    assert float(tier(made, 1).latency) == 0.0


def test_a_torus_joins_the_product_of_its_shape(slice_of_eight: System) -> None:
    plain = with_tier(slice_of_eight, 0, size=None, shape=(4, 2, 3))
    own = lower_system(Varied(plain)).tiers[0]
    assert (float(own.size), own.shape) == (24.0, (4, 2, 3))
    assert own.most is not None
    assert float(own.most) == 24.0


@pytest.mark.parametrize(
    ("fields", "closes"),
    [
        ({"wrap": True}, (True, True, True)),
        ({"wrap": False}, (False, False, False)),
        ({"wrap_from": 4}, (True, False, True)),
        ({"wrap_from": 4, "optical": True}, (False, False, False)),
        ({"wrap_from": 2, "optical": True}, (True, True, True)),
        ({"wrap_from": 16}, (False, False, False)),
    ],
)
def test_rings_close_where_they_are_long_enough(
    slice_of_eight: System, fields: dict[str, object], closes: tuple[bool, ...]
) -> None:
    count = {"value": fields["wrap_from"], "kind": "given", "source": "test"} if "wrap_from" in fields else None
    described = slice_of_eight.tiers[0].model_dump(exclude_none=True) | fields | {"shape": (4, 2, 8), "size": None}
    own = Tier.model_validate(described | {"wrap_from": count})
    made = slice_of_eight.model_copy(update={"tiers": (own, *slice_of_eight.tiers[1:])})
    assert lower_system(Varied(made)).tiers[0].closed == closes


def test_constants_come_from_the_library_and_may_be_replaced(dgx: System) -> None:
    own = tier(dgx, 0)
    library = dgx.tiers[0].constants
    assert own.algorithms == library.algorithms
    assert [protocol.name for protocol in own.protocols] == list(library.protocols)
    for protocol in own.protocols:
        given = library.protocols[protocol.name]
        assert [float(v) for v in (protocol.start, protocol.hop, protocol.share)] == [
            given.start.si,
            given.hop.si,
            given.share.si,
        ]
        assert protocol.copies == given.copies
    faster = tier(dgx, 0, constants__protocols__LL__hop="0.1 us", constants__in_network_share=0.5)
    assert float(faster.protocols[0].hop) == pytest.approx(0.1e-6)
    assert float(faster.in_network) == 0.5
    assert float(faster.protocols[1].hop) == float(own.protocols[1].hop)


def test_what_a_library_does_not_say_costs_nothing(dgx: System) -> None:
    network = tier(load_system("asic-8"), 1)
    assert (network.copy_share, network.engine_rate, network.efficiency, network.most) == (None, None, None, None)
    plain = (network.in_network, network.in_network_start, network.memory_traffic, network.send_share)
    assert [float(value) for value in plain] == [0.0, 0.0, 0.0, 0.0]
    # What collectives reach is the tier's own, or the library's.
    shared = tier(dgx, 1).efficiency
    assert shared is not None
    assert float(shared) == 0.9
    limited = tier(dgx, 1, constants__engine_rate="40 GB/s", constants__memory_traffic=2.0, efficiency=0.9)
    assert [float(v) for v in (limited.engine_rate, limited.memory_traffic, limited.efficiency)] == [40e9, 2.0, 0.9]


def test_numbers_of_a_tier_follow_the_points_axis(dgx: System) -> None:
    system = lowered(dgx, tiers__1__oversubscription=[1.0, 2.0, 4.0], nodes=[1, 2, 4])
    assert system.tiers[1].bandwidth.tolist() == [50e9, 25e9, 12.5e9]
    assert system.tiers[1].size.tolist() == [1.0, 2.0, 4.0]
    assert system.tiers[0].bandwidth.shape == ()
