"""Shipped chips and systems with what is fitted or estimated pinned to round numbers, lowered to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import ChipArrays, SystemArrays, lower_chip, lower_system
from cosim.hardware.tiers import ProtocolArrays, TierArrays
from cosim.overrides import Varied
from cosim.records import array

QUALITY = {"quality.matmul": 0.75, "quality.attention": 0.5, "quality.memory": 0.8}
# A step of 0.1 us, an epilogue of 1 us and so on, at 1.83 GHz.
TILES = {
    "step_cycles": 183.0,
    "epilogue_cycles": 1830.0,
    "cache_share": 0.5,
    "cache_feed": 0.8,
    "dram_share": 1.0,
    "attention_start": 2e-6,
    "block_step_cycles": 1830.0,
    "block_cycles": 3660.0,
    "split_step_cycles": 183.0,
    "split_item_cycles": 3660.0,
    "attention_split": 4e-6,
    "group_limit": 16.0,
    "narrow_gain": 1.5,
}
ENERGY = {
    "energy_per_flop.fp32": 1.2e-12,
    "energy_per_flop.bf16": 0.4e-12,
    "energy_per_flop.fp8": 0.2e-12,
    "energy_per_byte.dram": 36e-12,
    "energy_per_byte.scratch": 2e-12,
    "energy_per_byte.link": 44e-12,
}


def pinned(name: str, numbers: dict[str, float]) -> ChipArrays:
    power = {f"power.{path}": value for path, value in ENERGY.items()}
    return lower_chip(load_chip(name), {path: array(value) for path, value in (QUALITY | power | numbers).items()})


@pytest.fixture(scope="session")
def h100() -> ChipArrays:
    """132 cores, 989 TFLOP/s in bf16, 3.35 TB/s of which 2.68 are reached, 50 MB of cache in one part."""
    constants = {f"calibration.constants.{name}": value for name, value in TILES.items()}
    levels = {
        "memory.dram.bandwidth": 3.35e12,
        "memory.cache.bandwidth": 7e12,
        "memory.cache.partitions": 1.0,
        "matrix.multicast": 1.0,
        "memory.scratch.bandwidth": 132 * 240e9,
        "power.energy_per_byte.cache": 12.5e-12,
        "quality.matmul_formats.fp8": 0.7,
    }
    return pinned("h100-sxm", constants | levels)


@pytest.fixture(scope="session")
def tpu() -> ChipArrays:
    """8 arrays of 128 x 128 at 1.75 GHz, 2.8 TB/s of which 2.24 are reached, 128 MiB of scratch."""
    return pinned("tpu-v5p", {"memory.dram.bandwidth": 2.8e12, "memory.scratch.bandwidth": 60e12})


@pytest.fixture(scope="session")
def asic() -> ChipArrays:
    return pinned("asic-template", {})


@pytest.fixture(scope="session")
def tier_of() -> Callable[..., TierArrays]:
    """A tier: kind, units, GB/s of a chip, and one protocol that starts in `start` and steps in `hop` us."""

    def build(
        kind: str = "switch", size: float = 8, gbs: float = 100, start: float = 5, hop: float = 1, **fields: Any
    ) -> TierArrays:
        shape = fields.get("shape", ())
        protocol = ProtocolArrays("plain", array(start * 1e-6), array(hop * 1e-6), array(1.0))
        own: dict[str, Any] = {
            "name": kind,
            "link": "scale_up",
            "protocols": (protocol,),
            "algorithms": ("ring",),
            "send_share": array(1.0),
            "closed": tuple(True for _ in shape),
        }
        numbers = {name: array(value) if isinstance(value, int | float) else value for name, value in fields.items()}
        units = array(float(math.prod(shape)) if shape else size)
        return TierArrays(kind=kind, size=units, bandwidth=array(gbs * 1e9), **{**own, **numbers})

    return build


@pytest.fixture(scope="session")
def network_of() -> Callable[..., SystemArrays]:
    """H100 chips that reach all of the wire on any tiers; the first one makes a node unless told."""
    whole = replace(lower_system(Varied(load_system("dgx-h100"))), chip=pinned("h100-sxm", {"quality.collective": 1.0}))

    def build(*tiers: TierArrays, node_tier: int = 0) -> SystemArrays:
        node = math.prod((tier.size for tier in tiers[: node_tier + 1]), start=array(1.0))
        chips = math.prod((tier.size for tier in tiers), start=array(1.0))
        return replace(whole, tiers=tiers, node_tier=node_tier, node_chips=node, chips=chips)

    return build
