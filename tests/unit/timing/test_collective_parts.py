"""Parts of the closed form: what is read off it is what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.hardware.tiers import ProtocolArrays
from cosim.mapping.placement import Placement
from cosim.records import array
from cosim.timing.collective_parts import OPS, group_of, parts_of

Made = Callable[..., SystemArrays]
QUICK = ProtocolArrays("quick", array(1e-6), array(0.5e-6), array(0.1), copies=False)
BULK = ProtocolArrays("bulk", array(5e-6), array(2e-6), array(0.9))
TWO: dict[str, Any] = {"size": 8, "protocols": (QUICK, BULK)}


def group(*ranks: float) -> Placement:
    return Placement(tuple(array(one) for one in ranks), tuple(array(1.0) for _ in ranks))


def numbers(placement: Placement) -> tuple[list[float], list[float]]:
    return [float(one) for one in placement.ranks], [float(one) for one in placement.stride]


@pytest.mark.parametrize(
    ("chips", "ranks", "stride"),
    [
        (range(8), [8, 1], [1, 1]),
        (range(16), [8, 2], [1, 1]),
        ([0, 8, 16], [1, 3], [1, 1]),
        ([0, 2, 4, 8, 10, 12], [3, 2], [2, 1]),
        ([5, 0, 1, 6], [4, 1], [1, 1]),
        ([0, 1, 2, 8, 9], [2.5, 2], [1, 1]),
    ],
)
def test_a_group_of_chips_lies_on_tiers(chips: list[int], ranks: list[float], stride: list[float]) -> None:
    assert numbers(group_of(chips, [8, 4])) == (ranks, stride)


def test_a_small_message_takes_the_protocol_that_starts_first(network_on: Made) -> None:
    system = network_on(TWO)
    small, large = (parts_of("all_reduce", size, group(8.0), system, "ring") for size in (1e3, 1e9))
    assert [one.parts[0].protocol for one in (small, large)] == ["quick", "bulk"]
    assert (small.parts[0].start_s, small.parts[0].hops_s) == pytest.approx((1e-6, 14 * 0.5e-6))
    assert (large.parts[0].start_s, large.parts[0].hops_s) == pytest.approx((5e-6, 14 * 2e-6))
    assert (small.parts[0].shares, large.parts[0].shares) == ({0: 0.1}, {0: 0.9})


def test_the_local_copy_is_a_part(network_on: Made) -> None:
    system = network_on(TWO | {"copy_share": 2.0})
    large, small = (parts_of("all_gather", size, group(8.0), system, "ring").parts[0] for size in (8e9, 1e3))
    assert large.copy_s == pytest.approx(1e9 / 200e9)
    assert small.copy_s == 0.0  # its protocol does not copy


def test_latency_of_wires_and_switches_is_in_the_hops(network_on: Made) -> None:
    plain, far = (
        parts_of("all_gather", 1e6, group(4.0), network_on({"size": 4, "latency": s}), "ring") for s in (0.0, 2e-6)
    )
    assert far.parts[0].hops_s - plain.parts[0].hops_s == pytest.approx(3 * 2e-6)
    assert far.parts[0].start_s == pytest.approx(plain.parts[0].start_s)


def test_a_tier_that_the_group_does_not_use_has_no_part_in_it(network_on: Made) -> None:
    inside = network_on(TWO)
    slow = {"size": 4, "bandwidth": 1e6, "protocols": (replace(BULK, start=array(1.0)),)}
    for op in OPS:
        ranks = 2.0 if op == "send_recv" else 8.0
        alone, beside = (
            parts_of(op, 1e8, group(ranks, *more), system)
            for system, more in (
                (inside, ()),
                (network_on(TWO, slow), (1.0,)),
            )
        )
        assert beside == alone
    # The same for a tier inside, of which one rank a unit is in the group.
    across = parts_of("all_reduce", 1e8, group(1.0, 8.0), network_on({"size": 4, "kind": "mesh"}, TWO), "ring")
    assert across.time_s == pytest.approx(parts_of("all_reduce", 1e8, group(8.0), inside, "ring").time_s)
    assert across.parts[0].shares == {1: 0.9}


def test_phases_of_a_hierarchy_are_rings_of_their_tiers(network_on: Made) -> None:
    outer = {"size": 4, "link": "nic", "bandwidth": 10e9, "protocols": (replace(BULK, hop=array(7e-6)),)}
    found = parts_of("all_reduce", 1e6, group(8.0, 4.0), network_on(TWO, outer), "hierarchical")
    assert found.algorithm == "hierarchical"
    assert [list(part.shares) for part in found.parts] == [[0], [1]]
    assert found.parts[1].hops_s == pytest.approx(2 * 3 * 7e-6)
    assert found.parts[0].hops_s in (pytest.approx(7 * 0.5e-6), pytest.approx(7 * 2e-6))


def test_a_group_of_one_has_no_parts(network_on: Made) -> None:
    found = parts_of("all_reduce", 1e6, group(1.0), network_on(TWO))
    assert (found.time_s, found.parts) == (0.0, ())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    op=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "broadcast"]),
    size=st.floats(1e2, 1e10),
    ranks=st.sampled_from([(8.0, 1.0), (8.0, 3.0), (2.0, 4.0), (1.0, 4.0)]),
)
def test_parts_and_wire_make_the_closed_form(network_on: Made, op: str, size: float, ranks: tuple[float, ...]) -> None:
    system = network_on(TWO | {"copy_share": 1.5}, TWO | {"size": 4, "bandwidth": 20e9})
    found = parts_of(op, size, group(*ranks), system, "ring")
    part, k = found.parts[0], ranks[0] * ranks[1]
    data = size * (1.0 if op == "broadcast" else (k - 1) / k * (2.0 if op == "all_reduce" else 1.0))
    wires = {0: data / 80e9, 1: data / (16e9 * ranks[0])}
    wire = max(wires[tier] / share for tier, share in part.shares.items())
    assert part.latency_s + part.copy_s + wire == pytest.approx(found.time_s, rel=1e-6)


@pytest.mark.parametrize(
    ("op", "algorithm", "said"),
    [("all_redux", "fastest", "unknown collective.*nearest: all_re"), ("all_reduce", "rung", "no tier has such")],
)
def test_unknown_names_are_told(network_on: Made, op: str, algorithm: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parts_of(op, 1e6, group(8.0), network_on(TWO), algorithm)


def test_tiers_need_a_protocol_in_common(network_on: Made) -> None:
    other = (replace(QUICK, name="a"), replace(BULK, name="b"))
    system = network_on(TWO, {"size": 4, "protocols": other})
    with pytest.raises(SpecError, match=r"no protocol in common|no algorithm"):
        parts_of("all_reduce", 1e6, group(8.0, 4.0), system, "ring")


def test_a_hierarchy_copies_its_own_part_once_in_two_passes(network_on: Made) -> None:
    system = network_on(
        TWO | {"copy_share": 2.0, "protocols": (BULK,)}, {"size": 4, "link": "nic", "protocols": (BULK,)}
    )
    found = parts_of("all_reduce", 16e9, group(8.0, 4.0), system, "hierarchical")
    # 2 GB of 16 a rank inside, half of it each pass; 0.5 GB of 2 across.
    assert [part.copy_s for part in found.parts] == pytest.approx([1e9 / 200e9, 0.5e9 / 200e9])
    wires = 2 * 7 / 8 * 16e9 / 72e9 + 2 * 3 / 4 * 2e9 / 72e9
    latency = sum(part.latency_s for part in found.parts) + found.parts[0].latency_s
    assert latency + wires + 2 * found.parts[0].copy_s + found.parts[1].copy_s == pytest.approx(found.time_s)
