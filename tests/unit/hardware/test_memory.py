"""Memory levels and links: which primaries make a bandwidth, and which numbers a level may have."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.hardware.memory import Link, MemoryLevel
from cosim.schema import validated

STACKED = {"stacks": 5, "pins": 1024, "pin_rate": "5.23 Gb/s"}
PER_CORE = {"bytes_per_cycle": "128 B/cycle", "clock": "1.83 GHz"}
WIRED = {"count": 18, "rate": "25 GB/s"}


def level(**more: Any) -> MemoryLevel:
    return validated(MemoryLevel, {"technology": "SRAM", "capacity": "50 MB", **more})


def link(**more: Any) -> Link:
    return validated(Link, {"technology": "NVLink", **more})


@pytest.mark.parametrize(
    "kept", [set(names) for size in range(6) for names in itertools.combinations([*STACKED, *PER_CORE], size)]
)
def test_bandwidth_has_primaries_exactly_when_one_set_is_whole(kept: set[str]) -> None:
    given = {name: value for name, value in {**STACKED, **PER_CORE}.items() if name in kept}
    assert level(**given).has_primaries == (set(STACKED) <= kept or set(PER_CORE) <= kept)


@pytest.mark.parametrize("kept", [(), ("count",), ("rate",), ("count", "rate")])
def test_a_link_has_primaries_when_count_and_rate_are_known(kept: tuple[str, ...]) -> None:
    assert link(**{name: WIRED[name] for name in kept}).has_primaries == (len(kept) == 2)


def test_a_bandwidth_alone_is_no_primary() -> None:
    assert not level(bandwidth="7 TB/s").has_primaries
    assert not link(bandwidth="450 GB/s").has_primaries


def test_bits_per_second_of_a_pin_are_bytes_inside() -> None:
    rate = level(**STACKED).pin_rate
    assert rate is not None
    assert rate.si == pytest.approx(5.23e9 / 8)


def test_usable_and_physical_capacity_are_two_fields() -> None:
    both = level(capacity_physical="80 GiB", reserved="4 GB")
    assert both.capacity.si == 50e6
    assert both.capacity_physical is not None
    assert both.capacity_physical.si == 80 * 2**30


def test_a_level_is_shared_by_the_chip_unless_told() -> None:
    assert level().shared_by == "chip"
    assert level(shared_by="core").shared_by == "core"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shared_by": "node"}, "shared_by"),
        ({"capacity": "50 MB/s"}, "capacity"),
        ({"capacity": 0}, "capacity"),
        ({"bandwidth": "3.35 TB"}, "bandwidth"),
        ({"pins": 1024.5}, "pins"),
        ({"stacks": 0}, "stacks"),
        ({"latency": "-1 ns"}, "latency"),
        ({"clock": "1 ns"}, "clock"),
        ({"bytes_per_cycle": "128 B"}, "bytes_per_cycle"),
        ({"latncy": "1 ns"}, "latncy"),
    ],
)
def test_a_level_refuses_numbers_of_the_wrong_unit_or_range(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        level(**change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"stacks": 5},
        {"stack_capacity": "16 GB"},
        {"capacity_physical": "80 GiB", "reserved": "4 GB"},
    ],
)
def test_a_level_needs_a_capacity_or_stacks_of_a_known_one(raw: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        validated(MemoryLevel, {"technology": "HBM3", **raw})
    assert (caught.value.problem, caught.value.field) == ("is missing", "capacity")
    assert caught.value.hint == "give capacity, or stacks and stack_capacity"


def test_stacks_of_a_known_capacity_need_no_total() -> None:
    stacked = validated(MemoryLevel, {"technology": "HBM3", "stacks": 5, "stack_capacity": "16 GB"})
    assert stacked.capacity is None
    assert not stacked.has_primaries  # of its bandwidth


def test_a_level_needs_its_technology() -> None:
    with pytest.raises(SpecError, match="technology: is missing"):
        validated(MemoryLevel, {"capacity": "50 MB"})
