"""One tier in numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cosim.hardware.fabric import Parts
from cosim.hardware.system import Tier
from cosim.hardware.tier_facts import TierFacts, tier_facts
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.records import array
from cosim.schema import validated

CONSTANTS = {"protocols": {"bulk": {"start": "1 us", "hop": "2 us", "share": 1}}}
FAST = ProtocolArrays("fast", array(1e-6), array(0.5e-6), array(0.5))
BULK = ProtocolArrays("bulk", array(1e-6), array(2e-6), array(1.0))


def facts(kind: str, units: float, made: Parts, chips: float = 1.0, **more: Any) -> TierFacts:
    spec = validated(Tier, {"name": "t", "kind": kind, "link": "l", "constants": CONSTANTS, **more})
    arrays = TierArrays("t", kind, "l", array(units), array(1e9), (FAST, BULK), ("ring",), shape=spec.shape)
    return tier_facts(spec, arrays, made, chips, 3.0)


@pytest.mark.parametrize(
    ("kind", "made", "steps", "links"),
    [
        ("switch", Parts(1.0, 2.0, 8.0), 1.0, 2.0),
        ("bus", Parts(0.0, 0.0, 8.0), 1.0, 2.0),
        ("mesh", Parts(0.0, 0.0, 28.0), 1.0, 1.0),
        ("ring", Parts(0.0, 0.0, 8.0), 4.0, 4.0),
        ("hypercube_mesh", Parts(0.0, 0.0, 12.0), 3.0, 3.0),
        ("fat_tree", Parts(1.0, 1.0, 8.0), 1.0, 2.0),
        ("fat_tree", Parts(3.0, 9.0, 24.0), 1.0, 6.0),
    ],
)
def test_steps_and_wires_between_the_farthest(kind: str, made: Parts, steps: float, links: float) -> None:
    found = facts(kind, 8.0, made)
    assert (found.steps, found.links, found.chips, found.instances) == (steps, links, 8.0, 3.0)
    # The fastest hop of the library, and nothing beyond it.
    assert found.latency == pytest.approx(0.5e-6 * (steps if kind in ("ring", "hypercube_mesh") else 1.0))


def test_a_dragonfly_goes_over_a_global_wire_and_two_local_ones() -> None:
    across = facts("dragonfly", 8.0, Parts(3.0, 8.0, 30.0), shape=[4, 2], switch_latency="1 us")
    assert across.links == 5.0
    assert across.latency == pytest.approx(0.5e-6 + 4e-6)
    assert facts("dragonfly", 4.0, Parts(2.0, 4.0, 10.0), shape=[4, 2]).links == 3.0


def test_wires_add_to_every_step() -> None:
    assert facts("ring", 8.0, Parts(0.0, 0.0, 8.0), latency="1 us").latency == pytest.approx(4 * 1.5e-6)
    switched = facts("switch", 8.0, Parts(1.0, 2.0, 8.0), latency="1 us", switch_latency="2 us")
    assert switched.latency == pytest.approx(0.5e-6 + 1e-6 + 2e-6)


def test_costs_are_counts_times_what_one_takes() -> None:
    own = {"switch_power": "100 W", "cable_power": "10 W", "switch_price": 5000, "cable_price": 50}
    found = facts("switch", 8.0, Parts(1.0, 2.0, 8.0), **own)
    assert (found.power, found.price) == (280.0, 10_400.0)
    assert found.unknown == {}


def test_what_is_unknown_has_a_reason_each() -> None:
    nothing = Parts(math.nan, math.nan, math.nan, "radix is not given")
    found = facts("fat_tree", 8.0, nothing, switch_power="100 W")
    assert found.unknown == {
        **dict.fromkeys(("levels", "switches", "cables", "links", "switch_power"), "radix is not given"),
        **{name: f"{name} is not given" for name in ("cable_power", "switch_price", "cable_price")},
    }
    assert math.isnan(found.power)
    assert math.isnan(found.price)


def test_a_dragonfly_without_a_shape_has_no_bisection() -> None:
    found = facts("dragonfly", 8.0, Parts(math.nan, math.nan, math.nan, "a dragonfly needs a shape"))
    assert math.isnan(found.bisection)
    assert found.unknown["bisection"] == found.unknown["links"] == "a dragonfly needs a shape"


def test_one_unit_needs_nothing() -> None:
    found = facts("fat_tree", 1.0, Parts(0.0, 0.0, 0.0))
    assert (found.steps, found.links, found.latency, found.power, found.price) == (0.0,) * 5
    assert list(found.unknown) == ["bisection"]
