"""Systems: chips in tiers, the server around them, and the building."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import SpecError
from cosim.hardware.chip import Chip
from cosim.hardware.system import Facility, Server, System, Tier
from cosim.schema import validated

TIER = {"name": "node", "kind": "switch", "size": 8, "link": "scale_up", "latency": "1 us", "base_latency": "5 us"}
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


def test_a_tier_offers_the_common_algorithms_unless_told() -> None:
    tier = validated(Tier, TIER)
    assert "ring" in tier.algorithms
    assert "in_network" not in tier.algorithms  # it needs numbers of its own
    assert tier.shape == ()
    assert tier.wrap
    assert tier.in_network is None
    assert tier.bandwidth is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "hypercube"}, "kind"),
        ({"size": 0}, "size"),
        ({"size": 2.5}, "size"),
        ({"latency": "1 MHz"}, "latency"),
        ({"latency": "-1 us"}, "latency"),
        ({"algorithms": ["ring", "magic"]}, "algorithms.1"),
        ({"in_network": 1.5}, "in_network"),
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
