"""Switches and cables: published sizes of fabrics, Clos arithmetic by hand, planes, rails, wires of tori and meshes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosim.hardware.fabric import Parts, clos, most_ends, over, parts, planes, ports
from cosim.hardware.memory import Link
from cosim.hardware.system import Tier
from cosim.schema import validated

CONSTANTS = {"protocols": {"bulk": {"start": "1 us", "hop": "1 us", "share": 1}}}
ONE = validated(Link, {"technology": "400G", "count": 1, "rate": "400 Gb/s"})
NVLINK = validated(Link, {"technology": "NVLink 5", "count": 18, "rate": "50 GB/s"})
ICI = validated(Link, {"technology": "ICI", "count": 6, "rate": "90 GB/s"})


def tier(kind: str, **more: Any) -> Tier:
    return validated(Tier, {"name": "t", "kind": kind, "link": "l", "constants": CONSTANTS, **more})


@pytest.mark.parametrize(
    ("radix", "two", "three"),
    [(64, 2_048, 65_536), (128, 8_192, 524_288), (144, 10_368, 746_496), (512, 131_072, 33_554_432)],
)
def test_published_sizes_of_fabrics(radix: int, two: int, three: int) -> None:
    assert (most_ends(radix, 1), most_ends(radix, 2), most_ends(radix, 3)) == (radix, two, three)
    for levels, ends in ((1, radix), (2, two), (3, three)):
        full, past = clos(ends, radix), clos(ends + 1, radix)
        assert full is not None
        assert full.levels == levels
        assert past is None if levels == 3 else past is not None and past.levels == levels + 1


@pytest.mark.parametrize(
    ("ends", "radix", "share", "levels", "switches", "wires"),
    [
        (64, 64, 1.0, 1, 1, 0),
        (128, 64, 1.0, 2, 4 + 2, 128),
        (2_048, 64, 1.0, 2, 64 + 32, 2_048),
        (65_536, 64, 1.0, 3, 2_048 + 2_048 + 1_024, 131_072),  # 5 r^2 / 4
        (2_688, 64, 2.0, 2, 64 + 21, 1_344),  # 42 ports of a leaf lead down
        (3_584, 64, 7.0, 2, 64 + 8, 512),  # 56 of them
    ],
)
def test_clos_by_hand(ends: float, radix: float, share: float, levels: int, switches: float, wires: float) -> None:
    found = clos(ends, radix, share)
    assert found is not None
    assert (found.levels, found.switches, found.wires) == (levels, switches, wires)


def test_ports_beyond_the_top_take_switches_and_room() -> None:
    plain, led_on = clos(1_024, 64), clos(1_024, 64, 1.0, 1_024)
    assert plain is not None
    assert led_on is not None
    # A pod of a three-level tree: 32 leaves, and 32 switches above with as many ports up as down.
    assert (plain.switches, led_on.switches, led_on.levels) == (32 + 16, 32 + 32, 2)
    over_full = clos(1_025, 64, 1.0, 1_025)
    assert over_full is not None
    assert over_full.levels == 3


@given(
    ends=st.integers(1, 100_000),
    radix=st.integers(2, 256).map(lambda half: 2.0 * half),
    share=st.floats(1.0, 8.0),
)
def test_a_tree_has_the_ports_that_it_needs_and_no_level_too_many(ends: int, radix: float, share: float) -> None:
    found = clos(ends, radix, share)
    if found is None:
        assert ends > most_ends(radix, 3, share)
        return
    # Every end takes one port, every wire two.
    assert ends + 2.0 * found.wires <= found.switches * radix
    assert found.levels == 1 or ends > most_ends(radix, found.levels - 1, share)
    more = clos(ends + 1, radix, share)
    assert more is None or more.switches >= found.switches


def test_a_chip_has_the_ports_that_its_bandwidth_holds() -> None:
    assert ports(tier("switch"), NVLINK) == 18.0
    assert ports(tier("switch", planes=18), NVLINK) == 1.0
    assert ports(tier("switch", planes=4), NVLINK) == 4.5
    # Eight planes of one card: a port each, at an eighth of its speed.
    assert ports(tier("fat_tree", planes=8), ONE) == 1.0
    # 400 Gb/s that eight chips share are half a card of 100 Gb/s each.
    shared = validated(Link, {"technology": "EDR", "count": 1, "rate": "100 Gb/s"})
    assert ports(tier("fat_tree", bandwidth="50 Gb/s"), shared) == 0.5
    # Of a link known by its total alone there is one.
    assert ports(tier("fat_tree"), validated(Link, {"technology": "x", "bandwidth": "10 GB/s"})) == 1.0
    assert (planes(tier("switch")), over(tier("switch")), over(tier("fat_tree", oversubscription=3))) == (1.0, 1.0, 3.0)


def test_a_rack_of_72_has_18_switches() -> None:
    by_planes = parts(tier("switch", radix=72, planes=18), NVLINK, 72.0, 1.0)
    assert by_planes == Parts(1.0, 18.0, 1_296.0)
    # Told only the radix, the 1,296 ports take as many.
    assert parts(tier("switch", radix=72), NVLINK, 72.0, 1.0).switches == 18.0
    # Told only the planes, each is one switch.
    assert parts(tier("switch", planes=18), NVLINK, 72.0, 1.0) == by_planes


def test_a_switch_of_too_few_ports_joins_nothing() -> None:
    found = parts(tier("switch", radix=64, planes=18), NVLINK, 72.0, 1.0)
    assert math.isnan(found.switches)
    assert found.unknown == "72 do not meet at one switch of radix 64"


def test_rails_have_a_switch_for_every_place() -> None:
    assert parts(tier("switch", radix=64, rails=True), ONE, 32.0, 8.0) == Parts(1.0, 8.0, 256.0)


def test_a_fat_tree_over_nodes() -> None:
    assert parts(tier("fat_tree", radix=64), ONE, 16.0, 8.0) == Parts(2.0, 6.0, 256.0)
    assert parts(tier("fat_tree", radix=64, planes=2), ONE, 16.0, 8.0) == Parts(2.0, 12.0, 512.0)
    assert parts(tier("fat_tree"), ONE, 16.0, 8.0).unknown == "radix is not given"
    assert parts(tier("fat_tree"), ONE, 1.0, 8.0) == Parts(0.0, 0.0, 0.0)
    huge = parts(tier("fat_tree", radix=64), ONE, 16_384.0, 8.0)
    assert huge.unknown == "131,072 ends are more than three levels of radix 64 join"


def test_a_tier_above_switches_is_one_stage_of_what_leaves_them() -> None:
    # Eight pods of 3,072 chips of whose wires one of seven leaves.
    found = parts(tier("fat_tree", radix=64, oversubscription=7), ONE, 8.0, 3_072.0, leaving=True)
    ends = math.ceil(8 * 3_072 / 7)
    assert found == Parts(1.0, math.ceil(ends / 64), ends)
    # More units than a switch has ports take more levels.
    assert parts(tier("fat_tree", radix=64), ONE, 65.0, 32.0, leaving=True).levels == 3.0


def test_a_clos_told_level_by_level_is_the_same() -> None:
    whole = clos(8_192, 64)
    assert whole is not None
    assert whole.levels == 3
    # Pods of 1,024 ends whose top leads as many wires on, and the stage above the eight of them.
    pod = parts(tier("fat_tree", radix=64), ONE, 128.0, 8.0, beyond=1_024.0)
    top = parts(tier("fat_tree", radix=64), ONE, 8.0, 1_024.0, leaving=True)
    assert 8.0 * pod.switches + top.switches == whole.switches
    assert 8.0 * pod.cables + top.cables == 8_192 + whole.wires


def test_rails_of_a_unit_meet_at_their_leaves_and_units_at_spines() -> None:
    # DeepSeek-V3: 2,048 chips on eight planes of two layers of 64 ports, 64 leaves and 32 spines.
    unit = parts(tier("fat_tree", radix=64, rails=True), ONE, 32.0, 8.0, beyond=256.0)
    spines = parts(tier("fat_tree", radix=64, rails=True), ONE, 8.0, 256.0, leaving=True)
    assert (unit.levels, 8 * unit.switches, spines.levels, spines.switches) == (1.0, 64.0, 1.0, 32.0)
    # A rail of more than a switch joins needs levels, which join the rails.
    assert parts(tier("fat_tree", radix=64, rails=True), ONE, 65.0, 8.0).levels == 2.0


@pytest.mark.parametrize(
    ("one", "link", "units", "cables"),
    [
        (tier("mesh"), validated(Link, {"technology": "xGMI", "count": 7, "rate": "64 GB/s"}), 8.0, 28.0),
        (tier("ring"), validated(Link, {"technology": "x", "count": 2, "rate": "48 GB/s"}), 12.0, 12.0),
        (tier("bus"), ONE, 4.0, 4.0),
        (tier("torus", shape=[4, 4, 4]), ICI, 64.0, 192.0),
        (tier("torus", shape=[2, 2, 2], wrap=False), ICI, 8.0, 12.0),
        (
            tier("torus", shape=[16, 1], wrap_from=16),
            validated(Link, {"technology": "i", "count": 4, "rate": "45 GB/s"}),
            16.0,
            16.0,
        ),
        (tier("hypercube_mesh"), validated(Link, {"technology": "n", "count": 3, "rate": "25 GB/s"}), 8.0, 12.0),
    ],
)
def test_cables_of_wired_chips(one: Tier, link: Link, units: float, cables: float) -> None:
    assert parts(one, link, units, 1.0) == Parts(0.0, 0.0, cables)


def test_optical_switches_of_a_pod() -> None:
    pod = tier("torus", shape=[16, 16, 16], wrap_from=4, optical=True)
    # TPU v4: 48 of them for 64 cubes, one for each two opposite wires of a cube.
    assert parts(pod, ICI, 4_096.0, 1.0).switches == 48.0
    inside = tier("torus", shape=[2, 2, 2], wrap_from=4, optical=True)
    assert parts(inside, ICI, 8.0, 1.0).switches == 0.0


def test_a_dragonfly_has_a_router_a_unit() -> None:
    made = parts(tier("dragonfly", shape=[4, 9]), ONE, 36.0, 2.0)
    assert made.switches == 36.0
    # 72 ends, 6 wires inside each of 9 groups, 72 global ends that make 36 wires.
    assert made.cables == 72 + 54 + 36
    assert parts(tier("dragonfly", shape=[4, 9], radix=7), ONE, 36.0, 2.0).switches == 36.0  # 2 + 3 + 2
    assert (
        parts(tier("dragonfly", shape=[4, 9], radix=6), ONE, 36.0, 2.0).unknown == "a router needs 7 ports, radix is 6"
    )
    assert "needs a shape" in parts(tier("dragonfly"), ONE, 36.0, 2.0).unknown
    assert parts(tier("dragonfly", shape=[4, 9]), ONE, 4.0, 2.0).levels == 2.0
