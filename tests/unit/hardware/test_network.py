"""The network of a system in numbers: tiers and the whole, what is unknown and why."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cosim.hardware.load import load_system
from cosim.hardware.network import network_facts
from cosim.hardware.system import System
from cosim.hardware.tier_facts import TierFacts
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied

GIVEN = {"switch_power": "1 kW", "switch_price": 10_000, "cable_power": "20 W", "cable_price": 100}


def facts(system: System, **changes: Any) -> tuple[tuple[TierFacts, ...], TierFacts]:
    return network_facts(vary_system(Varied(system), changes))


def cluster(system: System, nodes: int, **more: Any) -> tuple[tuple[TierFacts, ...], TierFacts]:
    """16 nodes of 8 on a fat tree of radix 64 with all that costs."""
    own = {f"tiers.{tier}.{name}": value for tier in ("node", "cluster") for name, value in GIVEN.items()}
    radix = {"tiers.node.radix": 64, "tiers.node.planes": 4, "tiers.cluster.radix": 64}
    return facts(system, nodes=nodes, **own, **radix, **more)


def test_every_number_of_a_cluster_by_hand(dgx: System) -> None:
    (node, outer), whole = cluster(dgx, 16)
    assert (node.units, node.chips, node.instances, node.switches, node.cables) == (8.0, 8.0, 16.0, 4.0, 144.0)
    assert (outer.units, outer.chips, outer.instances, outer.levels) == (16.0, 128.0, 1.0, 2.0)
    assert (outer.switches, outer.cables, outer.links) == (6.0, 256.0, 4.0)
    assert outer.power == pytest.approx(6e3 + 256 * 20)
    assert outer.price == pytest.approx(60_000 + 25_600)
    assert (node.bisection, outer.bisection) == (4 * 450e9, 64 * 50e9)
    assert whole.switches == 16 * 4 + 6
    assert whole.cables == 16 * 144 + 256
    assert whole.power == pytest.approx(16 * node.power + outer.power)
    assert whole.price == pytest.approx(16 * node.price + outer.price)
    assert (whole.chips, whole.bisection, whole.steps, whole.links) == (128.0, 64 * 50e9, 1.0, 4.0)
    assert whole.unknown == {}


def test_a_cluster_of_one_node_has_nothing_beyond_it(dgx: System) -> None:
    (node, outer), whole = cluster(dgx, 1)
    assert math.isnan(outer.bisection)
    assert outer.unknown == {"bisection": "joins one unit: nothing crosses it"}
    assert (outer.switches, outer.cables, outer.power, outer.steps, outer.latency) == (0.0,) * 5
    assert (whole.bisection, whole.power, whole.latency) == (node.bisection, node.power, node.latency)


def test_what_is_not_given_is_unknown_with_its_reason_and_the_rest_is_not(dgx: System) -> None:
    (_, outer), whole = facts(dgx, nodes=16, **{"tiers.node.planes": 4})
    assert math.isnan(outer.switches)
    assert outer.unknown["switches"] == "radix is not given"
    assert outer.unknown["links"] == "radix is not given"
    assert outer.unknown["switch_power"] == "switch_power is not given"
    assert outer.bisection == 64 * 50e9
    assert not math.isnan(outer.latency)  # nothing beyond the hop, however many switches
    assert whole.unknown["switches"] == "cluster: radix is not given"
    assert set(whole.unknown) >= {"cables", "links", "switch_power", "cable_price"}
    for fact in (outer, whole):
        values = {name for name in TierFacts.__slots__ if isinstance(getattr(fact, name), float)}
        assert {name for name in values if math.isnan(getattr(fact, name))} == set(fact.unknown)


def test_latency_counts_hops_wires_and_switches_on_the_way(dgx: System) -> None:
    own = {"tiers.cluster.latency": "100 ns", "tiers.cluster.switch_latency": "1 us"}
    (_, outer), _ = cluster(dgx, 16, **own)
    hop = min(float(protocol.hop.si) for protocol in dgx.tiers[1].constants.protocols.values())
    # Leaf, spine, leaf.
    assert outer.latency == pytest.approx(hop + 3e-6 + 100e-9)
    (_, unknown), _ = facts(dgx, nodes=16, **own)
    assert math.isnan(unknown.latency)
    assert unknown.unknown["latency"] == "radix is not given"


def test_wired_chips_have_no_switches_and_a_hop_a_step(slice_of_eight: System) -> None:
    (slice_, _), whole = facts(slice_of_eight)
    hop = slice_of_eight.tiers[0].constants.protocols["bulk"].hop.si
    assert (slice_.levels, slice_.switches, slice_.cables) == (0.0, 0.0, 12.0)
    assert (slice_.steps, slice_.links) == (3.0, 3.0)
    assert slice_.latency == pytest.approx(3.0 * hop)
    assert slice_.switch_power == 0.0
    assert math.isnan(slice_.power)
    assert whole.unknown["cable_power"] == "slice: cable_power is not given"


def test_the_farthest_chips_of_switched_tiers_need_only_the_widest() -> None:
    _, whole = facts(load_system("tpu-v5p-64"), nodes=4)
    # Inside a cube of 4x4x4 six steps, between cubes one: any chip reaches any cube.
    assert whole.steps == 6.0


def with_tiers(system: System, *changes: dict[str, Any]) -> System:
    tiers = [system.tiers[min(i, 1)].model_copy(update=change) for i, change in enumerate(changes)]
    return system.model_copy(update={"tiers": tuple(tiers)})


def test_rails_of_one_level_come_on_top_of_the_node(dgx: System) -> None:
    railed = with_tiers(dgx, {}, {"kind": "switch", "rails": True})
    _, whole = facts(railed, nodes=16, **{"tiers.node.planes": 4, "tiers.cluster.radix": 64})
    assert (whole.steps, whole.links) == (2.0, 4.0)
    # The cut along the nodes is 3.2 TB/s, that along the places all switches of the nodes.
    assert whole.bisection == 64 * 50e9


def test_wired_nodes_come_on_top_of_the_node(dgx: System) -> None:
    (_, ring), whole = facts(with_tiers(dgx, {}, {"kind": "ring"}), nodes=8)
    assert (ring.steps, whole.steps) == (4.0, 5.0)
    assert whole.bisection == 8 * 50e9


def test_pods_lead_on_to_a_wider_tier_over_the_same_links(dgx: System) -> None:
    pods = with_tiers(dgx, {}, {"name": "pod"}, {"name": "cluster"})
    sizes = {"tiers.pod.size": 128, "tiers.pod.radix": 64, "tiers.cluster.radix": 64, "tiers.node.planes": 4}
    (_, pod, outer), _ = facts(pods, nodes=8 * 128, **sizes)
    # A pod of 1,024 chips: 32 leaves, and above them 32 switches with half of their ports up.
    assert (pod.units, pod.switches, pod.levels) == (128.0, 64.0, 2.0)
    assert outer.units == 8.0
    (_, alone, _), _ = facts(pods, nodes=128, **sizes)
    assert alone.switches == 32 + 16
    (_, _, thin), _ = facts(pods, nodes=8 * 128, **sizes, **{"tiers.cluster.oversubscription": 8})
    assert thin.switches < outer.switches
    (_, thin_pod, _), _ = facts(pods, nodes=8 * 128, **sizes, **{"tiers.cluster.oversubscription": 8})
    # 1,024 wires from the leaves and an eighth of them on, at 64 ports.
    assert thin_pod.switches == 32 + 18
    assert thin.bisection == pytest.approx(outer.bisection / 8.0)


def test_rails_and_planes_of_a_cluster_told_level_by_level(dgx: System) -> None:
    levels = with_tiers(dgx, {}, {"name": "leaf", "rails": True}, {"name": "spine"})
    own = {"tiers.leaf.size": 32, "tiers.leaf.radix": 64, "tiers.spine.radix": 64, "tiers.node.planes": 4}
    (node, leaf, spine), whole = facts(levels, nodes=256, **own)
    assert (leaf.switches, leaf.instances, spine.switches) == (8.0, 8.0, 32.0)
    assert whole.switches == 256 * node.switches + 64 + 32
    assert (leaf.links, spine.links) == (2.0, 4.0)
    # To another place under the same leaves: over the node, then over the rail.
    assert (whole.steps, whole.links) == (2.0, 4.0)
    apart = with_tiers(dgx, {}, {"name": "leaf", "rails": True}, {"name": "spine", "rails": True})
    # Where planes never meet, another place of another unit is a step inside the node and one over both levels.
    assert (facts(apart, nodes=256, **own)[1].steps, facts(apart, nodes=256, **own)[1].links) == (2.0, 6.0)


def test_nodes_that_do_not_fill_the_last_pod_send_no_more_than_they_are(dgx: System) -> None:
    pods = with_tiers(dgx, {}, {"name": "pod"}, {"name": "cluster"})
    (node, pod, outer), whole = facts(pods, nodes=33, **{"tiers.pod.size": 32})
    assert (node.instances, pod.instances, outer.instances) == (33.0, 2.0, 1.0)
    assert (pod.chips, outer.chips, whole.chips) == (256.0, 264.0, 264.0)
    assert whole.bisection == pytest.approx(132 * 50e9)


def test_a_chip_alone_has_no_network() -> None:
    (alone,), whole = facts(load_system("m4-max-1"))
    assert (alone.chips, whole.chips, whole.steps, whole.switches, whole.power) == (1.0, 1.0, 0.0, 0.0, 0.0)
    assert math.isnan(whole.bisection)
