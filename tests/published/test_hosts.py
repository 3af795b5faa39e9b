"""Hosts of cards, boards and small computers: what a case means that names a chip and no system."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cosim import library
from cosim.hardware.load import load_system, usual_systems
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.mapping.placement import placed
from cosim.overrides import Varied
from cosim.records import array
from cosim.timing.collective import all_reduce

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
CASES = Path(__file__).parents[3] / "shared" / "cases"
MIB = 2.0**20

# Chip, its usual system, chips of a host, GB/s each way that a chip has to its nearest peers, GB/s of all chips of a
# host together (- where the nearest peers are all).
TABLE = """
a10 a10-8gpu-pcie4 8 32 10.8
a2 a2-8gpu-pcie4 8 16 5.4
t4 t4-8gpu-pcie3 8 16 5.4
l4 l4-8gpu-pcie4 8 32 10.8
l40 l40-10gpu-pcie4 10 32 10.8
rtx-4090 rtx-4090-8gpu-pcie4 8 32 10.8
rtx-4000-ada rtx-4000-ada-4gpu-pcie4 4 32 20.5
rtx-5000-ada rtx-5000-ada-4gpu-pcie4 4 32 20.5
rtx-6000-ada rtx-6000-ada-4gpu-pcie4 4 32 20.5
a30 a30-10gpu-pcie4 10 100 10.8
a40 a40-8gpu-pcie4 8 56.24 10.8
rtx-3090 rtx-3090-6gpu-pcie4 6 56.24 10.8
rtx-a6000 rtx-a6000-4gpu-pcie4 4 56.24 20.5
a100-40gb-pcie a100-40gb-pcie-8gpu 8 300 10.8
a100-80gb-pcie a100-80gb-pcie-8gpu 8 300 10.8
h100-pcie h100-pcie-8gpu 8 300 21.6
h100-nvl h100-nvl-8gpu 8 300 21.6
h100-sxm-vgpu h100-sxm-vgpu-8gpu 8 300 21.6
h200-nvl h200-nvl-8gpu 8 450 21.6
rtx-2000e-ada rtx-2000e-ada-1gpu 1 16 -
rtx-3070 rtx-3070-1gpu 1 32 -
rtx-3080 rtx-3080-1gpu 1 32 -
rtx-3080-ti rtx-3080-ti-1gpu 1 32 -
rtx-4070-ti rtx-4070-ti-1gpu 1 32 -
rtx-4080 rtx-4080-1gpu 1 32 -
rtx-5090 rtx-5090-1gpu 1 64 -
a100-80gb-pcie-mig-1g10gb a100-80gb-pcie-mig-7x1g10gb 7 32 -
a100-80gb-sxm-330w dgx-a100-330w 8 300 -
a100-80gb-sxm-vgpu a100-80gb-sxm-vgpu-4gpu 4 300 -
v100-16gb dgx-v100-16gb 8 150 -
gh200-144gb gh200-144gb-1gpu-ndr 1 450 -
mi250x-gcd mi250x-8gcd 8 200 125
inferentia1 inf1.6xlarge 4 34.4 -
qualcomm-ai100-std qualcomm-ai100-std-16 16 128 -
qualcomm-ai100-pro qualcomm-ai100-pro-18 18 128 -
qualcomm-ai100-ultra qualcomm-ai100-ultra-8 8 128 -
rebellions-atom rebellions-atom-1 1 32 -
apple-m1 m1-1 1 5 -
apple-m1-max m1-max-1 1 5 -
apple-m1-ultra m1-ultra-1 1 5 -
apple-m2-max m2-max-1 1 5 -
apple-m2-ultra m2-ultra-1 1 5 -
apple-m3-max m3-max-1 1 5 -
apple-m3-ultra m3-ultra-1 1 5 -
jetson-agx-orin jetson-agx-orin-1 1 1.25 -
jetson-orin-nx jetson-orin-nx-1 1 0.125 -
mali-g52 mali-g52-1 1 0.125 -
mali-g610 mali-g610-1 1 0.125 -
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]
NAMES = [row[1] for row in ROWS]
CARDS = [row[1] for row in ROWS if row[4] != "-" and row[0] != "mi250x-gcd"]


@cache
def system(name: str) -> System:
    return load_system(name)


@cache
def lowered(name: str) -> SystemArrays:
    return lower_system(Varied(system(name)))


@cache
def usual() -> dict[str, str]:
    return usual_systems()


def summed(name: str, ranks: float) -> float:
    """Seconds of an all-reduce of 64 MiB over the first `ranks` chips."""
    machine = lowered(name)
    group = placed(array(ranks), array(1.0), machine.sizes)
    return float(all_reduce(array(64.0 * MIB), group, machine).time)


@pytest.mark.parametrize(("chip", "name", "chips", "near", "host"), ROWS, ids=[row[0] for row in ROWS])
def test_a_chip_named_alone_means_its_host(chip: str, name: str, chips: str, near: str, host: str) -> None:
    found, tiers = system(name), lowered(name).tiers
    assert usual()[chip] == name
    assert found.chip.name == chip
    assert found.chips == found.node_chips == float(chips)
    assert float(tiers[0].bandwidth) / 1e9 == pytest.approx(float(near), rel=1e-3)
    if host == "-":
        assert found.node_tier == 0
    else:
        assert float(tiers[found.node_tier].bandwidth) / 1e9 == pytest.approx(float(host), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_power_around_chips_is_an_estimate_with_its_range(name: str) -> None:
    power, chip = system(name).server.power, system(name).chip.power.limit
    if name in ("dgx-a100-330w", "dgx-v100-16gb"):
        return  # what the whole node of a maker draws
    assert power.kind == "estimated"
    assert power.low is not None
    assert power.high is not None
    assert power.low < power.value < power.high
    # A host draws less than all its chips, but for one small chip on a board.
    assert power.si <= max(system(name).chips * chip.si, 10.0)


@pytest.mark.parametrize("name", CARDS)
def test_what_cards_share_beyond_their_nearest_is_lent_and_said_to_be(name: str) -> None:
    found = system(name)
    for tier in found.tiers[1 : found.node_tier + 1]:
        assert tier.kind == "bus"
        assert "PCIe" in found.chip.links[tier.link].technology
        assert tier.bandwidth is not None
        assert tier.bandwidth.kind == "estimated"
        assert "unverified recollection" in tier.bandwidth.source
        assert tier.bandwidth.low is not None
        assert tier.bandwidth.high is not None
        assert tier.bandwidth.low < tier.bandwidth.value < tier.bandwidth.high


@pytest.mark.parametrize("name", CARDS)
def test_an_all_reduce_over_more_cards_is_never_faster(name: str) -> None:
    held = np.cumprod([float(tier.size) for tier in lowered(name).tiers[: system(name).node_tier + 1]])
    times = [summed(name, ranks) for ranks in held]
    assert times == sorted(times)
    assert all(time > 0.0 for time in times)


def test_bridged_cards_beat_bare_ones_in_a_pair_and_not_in_a_host() -> None:
    bridged, bare = "a40-8gpu-pcie4", "rtx-4090-8gpu-pcie4"
    assert summed(bridged, 2.0) < summed(bare, 2.0)
    assert summed(bridged, 8.0) == pytest.approx(summed(bare, 8.0), rel=0.25)


def test_two_cards_alone_stay_what_they_were() -> None:
    two = system("a100-80gb-pcie-2gpu")
    assert not two.usual
    assert two.chips == 2.0
    assert two.tiers[0].link == system("a100-80gb-pcie-8gpu").tiers[0].link == "scale_up"


@pytest.mark.skipif(not (CASES / "inference.csv").is_file(), reason="the measured cases are not at hand")
def test_every_blank_system_of_a_measured_chip_has_a_usual_one() -> None:
    counts = defaultdict(set)
    for file in ("inference.csv", "inference_disaggregated.csv", "inference_other.csv"):
        with (CASES / file).open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(line for line in lines if not line.startswith("#")):
                if not row["system"]:
                    counts[row["accelerator"]].add(float(row["num_accelerators"]))
    known = library.names("accelerators")
    assert counts
    for chip, needed in counts.items():
        if chip in known:
            found = system(usual()[chip])
            # More chips than a host holds need a network between hosts.
            assert max(needed) <= found.node_chips or len(found.tiers) > found.node_tier + 1
