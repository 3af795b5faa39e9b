"""Systems: chips in tiers, the server around them, and the building."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.system import Facility, Server, System, Tier, closed, size_of
from cosim.schema import validated

CONSTANTS = {"protocols": {"bulk": {"start": "5 us", "hop": "1 us", "share": 1}}}
TIER = {"name": "node", "kind": "switch", "size": 8, "link": "scale_up", "constants": CONSTANTS}
FACILITY = {"pue": 1.2, "energy_price": "0.08 USD/kWh", "lifetime_years": 4}


def system(chip: Chip, **more: Any) -> System:
    raw = {"name": "s", "title": "S", "chip": chip, "nodes": 1, "tiers": [TIER], "server": {"power": "2 kW"}}
    return validated(System, {**raw, "facility": FACILITY, **more})


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 4096), nodes=st.integers(1, 4096))
def test_chips_are_those_of_a_node_times_the_nodes(peaks_only: Chip, size: int, nodes: int) -> None:
    assert system(peaks_only, tiers=[{**TIER, "size": size}], nodes=nodes).chips == size * nodes


def test_tiers_beyond_the_first_do_not_count_chips_twice(peaks_only: Chip) -> None:
    outer = {**TIER, "name": "cluster", "size": 1}
    assert system(peaks_only, tiers=[TIER, outer], nodes=16).chips == 128


def test_shipped_systems_have_eight_chips_on_one_node(dgx: System, slice_of_eight: System) -> None:
    assert (dgx.chips, slice_of_eight.chips) == (8, 8)


def test_a_tier_offers_a_ring_unless_told() -> None:
    tier = validated(Tier, TIER)
    assert tier.constants.algorithms == ("ring",)
    assert tier.shape == ()
    assert tier.wrap
    assert tier.constants.in_network_share is None
    assert tier.bandwidth is None


def test_nodes_may_be_of_several_tiers(peaks_only: Chip) -> None:
    tiers = [{**TIER, "name": "pair", "size": 2}, {**TIER, "name": "host", "size": 4}, {**TIER, "name": "net"}]
    del tiers[2]["size"]
    flat, deep = system(peaks_only, tiers=tiers, nodes=3), system(peaks_only, tiers=tiers, nodes=3, nodes_are="host")
    assert (flat.node_tier, flat.node_chips, flat.chips) == (0, 2, 6)
    assert (deep.node_tier, deep.node_chips, deep.chips) == (1, 8, 24)


@pytest.mark.parametrize(
    ("shape", "change", "rings"),
    [
        ([4, 4], {}, (True, True)),
        ([4, 4], {"wrap": False}, (False, False)),
        ([8, 16], {"wrap_from": 16}, (False, True)),
        ([4, 4, 8], {"wrap_from": 4, "optical": True}, (True, True, True)),
        ([4, 4, 2], {"wrap_from": 4, "optical": True}, (False, False, False)),
    ],
)
def test_rings_of_a_torus_close_where_its_size_lets_them(
    shape: list[int], change: dict[str, Any], rings: tuple[bool, ...]
) -> None:
    tier = validated(Tier, {**TIER, "kind": "torus", "size": math.prod(shape), "shape": shape, **change})
    assert closed(tier) == rings


def test_the_size_of_a_torus_is_that_of_its_shape() -> None:
    bare = {name: value for name, value in TIER.items() if name != "size"}
    assert size_of(validated(Tier, {**bare, "kind": "torus", "shape": [4, 4, 3]})) == 48
    assert size_of(validated(Tier, bare)) is None
    assert size_of(validated(Tier, TIER)) == 8


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "hypercube"}, "kind"),
        ({"size": 0}, "size"),
        ({"size": 2.5}, "size"),
        ({"latency": "1 MHz"}, "latency"),
        ({"latency": "-1 us"}, "latency"),
        ({"constants": {**CONSTANTS, "algorithms": ["ring", "magic"]}}, "constants.algorithms.1"),
        ({"constants": {**CONSTANTS, "in_network_share": 1.5}}, "constants.in_network_share"),
        ({"constants": {}}, "constants.protocols"),
        ({"bandwidth": "450 GB"}, "bandwidth"),
        ({"shape": [2, 2.5]}, "shape.1"),
        ({"wrp": True}, "wrp"),
    ],
)
def test_a_tier_refuses_what_it_cannot_be(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        validated(Tier, {**TIER, **change})
    assert caught.value.field == field


def test_latency_may_be_nothing() -> None:
    assert validated(Tier, {**TIER, "latency": 0}).latency.si == 0.0


def test_server_power_is_a_power_and_its_price_may_be_unknown() -> None:
    server = validated(Server, {"power": "4.6 kW"})
    assert server.power.si == 4600.0
    assert server.price is None
    with pytest.raises(SpecError, match="power: wrong unit"):
        validated(Server, {"power": "4.6 kWh"})


def test_energy_is_priced_per_joule_inside() -> None:
    facility = validated(Facility, FACILITY)
    assert facility.energy_price.si == pytest.approx(0.08 / 3.6e6)  # 1 kWh = 3.6 MJ
    with pytest.raises(SpecError, match="energy_price: wrong unit"):
        validated(Facility, {**FACILITY, "energy_price": "0.08 USD"})


@pytest.mark.parametrize("field", ["name", "title", "chip", "nodes", "tiers", "server", "facility"])
def test_what_every_system_needs_is_asked_for_by_name(dgx: System, field: str) -> None:
    raw = {name: getattr(dgx, name) for name in System.model_fields if name != field}
    with pytest.raises(SpecError, match=f"{field}: is missing"):
        validated(System, raw)
