"""Systems as published: chips, links, peaks, memory, racks, fabrics; each prices collectives over all its chips."""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cosim import documents, library
from cosim.errors import SpecError
from cosim.hardware.collectives import CollectiveLibrary
from cosim.hardware.load import described, load_system, usual_systems
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System, closed, size_of
from cosim.hardware.vary import vary_system
from cosim.mapping.placement import Placement, placed
from cosim.overrides import Varied
from cosim.records import array
from cosim.schema import validated
from cosim.timing.collective import all_gather, all_reduce, uniform_all_to_all

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
FACTS = Path(__file__).parents[3] / "shared" / "facts"
EVERY = tuple(library.names("systems"))
MIB, GIB = 2.0**20, 2.0**30

# Chips as the file has it, GB/s each way that a chip has inside its node and beyond it (- where no network is told).
TABLE = """
dgx-v100 8 150 6.25
dgx-2 16 150 6.25
dgx-a100 8 300 25
dgx-h100 8 450 50
dgx-h200 8 450 50
dgx-b200 8 900 50
dgx-b300 8 900 100
gb200-nvl72 72 900 50
gb300-nvl72 72 900 100
vera-rubin-nvl72 72 1800 200
groq-lpx-256 256 1250 -
mi210-4gpu 4 150 25
mi300x-8gpu 8 448 50
mi355x-8gpu 8 535.5 50
helios-mi455x-72 72 1800 300
trn1.32xlarge 16 192 6.25
trn1n.32xlarge 16 192 12.5
inf2.48xlarge 12 96 -
trn2-16 16 512 25
trn2-ultraserver-64 64 512 25
trn3-ultraserver-64 64 1280 25
trn3-ultraserver-144 144 1280 25
maia-100-4 4 450 150
maia-200-6144 6144 1050 350
mtia-400-72 72 1200 100
mtia-450-72 72 1200 100
mtia-500-72 72 1200 100
gaudi2-8 8 262.5 37.5
gaudi3-8 8 525 75
cloudmatrix-384 384 392 50
atlas-950-superpod 8192 840 840
graphcore-bow-pod64 64 160 12.5
a100-8gpu-1node 8 300 25
a100-8gpu-800gbps-per-node 8 300 12.5
a100-40gb-8gpu-roce-1600gbps 8 300 25
a100-80gb-8gpu-roce-1600gbps 8 300 25
jean-zay-a100-8x-omnipath-4x100g 8 300 6.25
perlmutter-a100-4gpu-slingshot11 4 300 25
h100-8gpu-node 8 450 50
torchtitan-h100-96gb-8gpu-roce 8 450 50
vista-gh200-1gpu-ndr 1 450 50
l40s-8gpu-pcie4 8 32 25
l40s-8gpu-pcie4-switches 8 32 25
rtx-pro-6000-8gpu-pcie5 8 64 50
arc-pro-b60-4gpu-pcie5 4 28.4 -
azure-nd40rs-v2 8 150 1.5625
azure-nd96asr-v4 8 300 25
azure-nd96amsr-a100-v4 8 300 25
azure-nd96isr-h100-v5 8 450 50
azure-nd96isr-h200-v5 8 450 50
azure-nd96isr-mi300x-v5 8 448 50
azure-nd128isr-gb200-v6 72 900 50
azure-nd128isr-gb300-v6 72 900 100
dgx-superpod-h100 256 450 50
azure-eagle-14400 14400 450 50
azure-gb300-4608 4608 900 100
meta-24k-h100-roce 24576 450 50
meta-24k-h100-ib 24576 450 50
deepseek-v3-2048 2048 200 50
colossus-100k-h100 100000 450 50
aws-rainier-500k 500000 512 25
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]
NAMED_IN_CASES = [
    "dgx-a100",
    "a100-8gpu-1node",
    "a100-8gpu-800gbps-per-node",
    "a100-40gb-8gpu-roce-1600gbps",
    "a100-80gb-8gpu-roce-1600gbps",
    "jean-zay-a100-8x-omnipath-4x100g",
    "perlmutter-a100-4gpu-slingshot11",
    "dgx-h100",
    "h100-8gpu-node",
    "torchtitan-h100-96gb-8gpu-roce",
    "dgx-h200",
    "dgx-b200",
    "dgx-b300",
    "gb200-nvl72",
    "gb300-nvl72",
    "vista-gh200-1gpu-ndr",
    "l40s-8gpu-pcie4",
    "rtx-pro-6000-8gpu-pcie5",
    "arc-pro-b60-4gpu-pcie5",
    "mi300x-8gpu",
    "trn1.32xlarge",
]
POD_SHAPES = {
    "tpu-v2-pod": (16, 16),
    "tpu-v3-pod": (32, 32),
    "tpu-v4-pod": (16, 16, 16),
    "tpu-v5e-pod": (16, 16),
    "tpu-v5p-pod": (16, 20, 28),
    "tpu-v6e-pod": (16, 16),
    "tpu-v7x-pod": (16, 24, 24),
    "tpu-8t-pod": (20, 20, 24),
}


@cache
def system(name: str) -> System:
    return load_system(name)


@cache
def lowered(name: str) -> SystemArrays:
    return lower_system(Varied(system(name)))


def everybody(name: str) -> tuple[SystemArrays, Placement]:
    """The system and the group of all its chips; two nodes where a node is one chip and there is a way between."""
    machine = lowered(name)
    if system(name).chips == 1.0 and len(machine.tiers) > 1:
        machine = lower_system(vary_system(Varied(system(name)), {"nodes": 2}))
    return machine, placed(machine.chips, array(1.0), [tier.size for tier in machine.tiers])


def whole_pod(name: str) -> Varied[System]:
    return vary_system(Varied(system(name)), {"tiers.pod.shape": POD_SHAPES[name]})


@pytest.mark.parametrize(("name", "chips", "inside", "beyond"), ROWS, ids=[row[0] for row in ROWS])
def test_chips_and_bandwidths_are_as_published(name: str, chips: str, inside: str, beyond: str) -> None:
    machine, node = lowered(name), system(name).node_tier
    assert system(name).chips == float(chips)
    assert float(machine.tiers[0].bandwidth) / 1e9 == pytest.approx(float(inside), rel=0.01)
    outer = machine.tiers[node + 1 :]
    if beyond == "-":
        assert not outer
    else:
        assert float(outer[-1].bandwidth * outer[-1].oversubscription) / 1e9 == pytest.approx(float(beyond), rel=0.01)


def test_every_name_that_measured_cases_use_loads() -> None:
    assert set(NAMED_IN_CASES) <= set(EVERY)


@pytest.mark.skipif(not (FACTS / "names_systems.csv").is_file(), reason="the table of facts is not at hand")
def test_the_table_of_facts_names_no_other_and_has_the_same_chips() -> None:
    with (FACTS / "names_systems.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] != "(blank)"]
    assert {row["name"] for row in rows} == set(NAMED_IN_CASES)
    for row in rows:
        found = system(row["name"])
        assert found.chip.name in row["accelerator"].split(";")
        if row["name"] != "l40s-8gpu-pcie4":  # a pair, two pairs, two sockets
            assert size_of(found.tiers[0]) == float(row["chips_per_scale_up_domain"])


@pytest.mark.parametrize(
    ("name", "dtype", "petaflops", "within"),
    [
        ("dgx-v100", "fp16", 1.0, 0.01),
        ("dgx-2", "fp16", 2.0, 0.01),
        ("dgx-a100", "bf16", 2.5, 0.01),
        ("dgx-h100", "bf16", 7.9, 0.01),
        ("dgx-b200", "bf16", 18.0, 0.01),
        ("gb200-nvl72", "bf16", 180.0, 0.01),
        ("gb300-nvl72", "fp4", 1080.0, 0.01),
        ("vera-rubin-nvl72", "fp4", 2520.0, 0.01),
        ("groq-lpx-256", "fp8", 315.0, 0.01),
        ("mi300x-8gpu", "bf16", 10.5, 0.01),
        ("mi355x-8gpu", "bf16", 20.0, 0.01),
        ("helios-mi455x-72", "fp8", 720.0, 0.01),  # dense: AMD's 1.4 EFLOP/s halved, as the chip's
        ("trn1.32xlarge", "bf16", 3.04, 0.04),  # AWS gives chips 190, their cores 184 TFLOP/s
        ("inf2.48xlarge", "bf16", 2.28, 0.04),
        ("trn2-16", "fp8", 20.8, 0.04),
        ("trn2-ultraserver-64", "fp8", 83.2, 0.04),
        ("trn3-ultraserver-64", "mxfp8", 161.0, 0.01),
        ("trn3-ultraserver-144", "mxfp8", 362.0, 0.01),
        ("maia-100-4", "bf16", 3.2, 0.01),
        ("maia-200-6144", "fp4", 61000.0, 0.01),
        ("cloudmatrix-384", "bf16", 289.0, 0.01),
        ("atlas-950-superpod", "fp8", 8000.0, 0.07),  # rounded: chips of 0.92 and not 1 PFLOP/s
        ("tpu-8i-pod", "fp4", 11600.0, 0.01),
    ],
)
def test_peaks_of_nodes_and_racks_are_as_published(name: str, dtype: str, petaflops: float, within: float) -> None:
    peak = lowered(name).chip.matrix.peak
    assert float(peak[dtype]) * system(name).chips / 1e15 == pytest.approx(petaflops, rel=within)


@pytest.mark.parametrize(
    ("name", "chips", "dtype", "petaflops", "within"),
    [
        ("tpu-v2-pod", 256, "bf16", 11.8, 0.01),
        ("tpu-v3-pod", 1024, "bf16", 126.0, 0.01),
        ("tpu-v4-pod", 4096, "bf16", 1130.0, 0.01),
        ("tpu-v5e-pod", 256, "bf16", 50.4, 0.01),
        ("tpu-v5p-pod", 8960, "bf16", 4100.0, 0.01),
        ("tpu-v6e-pod", 256, "bf16", 235.0, 0.01),
        ("tpu-v7x-pod", 9216, "fp8", 42500.0, 0.01),
        ("tpu-8t-pod", 9600, "fp4", 121000.0, 0.06),  # coverage has 12.6 PFLOP/s a chip, JAX 11.95
    ],
)
def test_whole_pods_have_their_chips_and_peak(
    name: str, chips: int, dtype: str, petaflops: float, within: float
) -> None:
    pod = whole_pod(name)
    assert pod.spec.chips == chips
    assert all(closed(pod.spec.tiers[0]))
    assert float(lower_system(pod).chip.matrix.peak[dtype]) * chips / 1e15 == pytest.approx(petaflops, rel=within)


@pytest.mark.parametrize(
    ("name", "terabytes", "within"),
    [
        ("dgx-h200", 1.13, 0.01),
        ("dgx-b200", 1.44, 0.07),  # 180 GB of 192 are usable
        ("dgx-b300", 2.3, 0.01),
        ("gb200-nvl72", 13.4, 0.04),  # 186 GB of 192
        ("gb300-nvl72", 20.7, 0.01),
        ("vera-rubin-nvl72", 20.7, 0.01),
        ("groq-lpx-256", 0.128, 0.01),
        ("mi300x-8gpu", 1.5, 0.03),
        ("mi355x-8gpu", 2.3, 0.01),
        ("helios-mi455x-72", 31.0, 0.01),
        ("maia-200-6144", 1300.0, 0.03),
        ("cloudmatrix-384", 49.0, 0.01),
        ("trn3-ultraserver-144", 20.7 * 1.0995, 0.10),  # TiB
    ],
)
def test_memory_of_nodes_and_racks_is_as_published(name: str, terabytes: float, within: float) -> None:
    capacity = float(lowered(name).chip.memory["dram"].capacity)
    assert capacity * system(name).chips / 1e12 == pytest.approx(terabytes, rel=within)


@pytest.mark.parametrize(
    ("name", "terabytes"),
    [
        ("gb200-nvl72", 130.0),
        ("gb300-nvl72", 130.0),
        ("vera-rubin-nvl72", 260.0),
        ("helios-mi455x-72", 260.0),
        ("groq-lpx-256", 640.0),
    ],
)
def test_racks_carry_both_ways_what_is_published(name: str, terabytes: float) -> None:
    rack = lowered(name).tiers[0]
    assert 2.0 * float(rack.bandwidth * rack.size) / 1e12 == pytest.approx(terabytes, rel=0.01)


@pytest.mark.parametrize(("name", "kilowatts"), [("mtia-400-72", 86.0), ("mtia-500-72", 122.0), ("gb300-nvl72", 135.0)])
def test_power_of_racks_is_as_published(name: str, kilowatts: float) -> None:
    found = system(name)
    chips = found.chips * found.chip.power.limit.si
    server = found.server.power.si if name == "gb300-nvl72" else 0.0  # of MTIA racks only the chips are told
    assert (chips + server) / 1e3 == pytest.approx(kilowatts, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tiers", "radix", "endpoints"),
    [
        ("dgx-superpod-h100", ("unit", "pod"), 64, 64**2 / 2),
        ("deepseek-v3-2048", ("leaf", "plane"), 64, 16384 / 8),
        ("meta-24k-h100-ib", ("leaf", "spine", "core"), 64, 64**3 / 4),
        ("colossus-100k-h100", ("leaf", "spine", "core"), 128, 524_288),
        ("azure-gb300-4608", ("rack", "cluster"), 144, 10_368),
    ],
)
def test_levels_of_a_fat_tree_join_what_its_switches_can(
    name: str, tiers: tuple[str, ...], radix: int, endpoints: float
) -> None:
    found = {tier.name: tier for tier in system(name).tiers}
    assert np.prod([size_of(found[tier]) for tier in tiers]) == endpoints
    ports = found[tiers[-1]].radix
    assert ports is not None
    assert ports.si == radix


@pytest.mark.parametrize("name", ["dgx-superpod-h100", "meta-24k-h100-roce", "maia-200-4", "cerebras-cs3"])
def test_a_fabric_joins_no_more_than_it_can(name: str) -> None:
    found = system(name)
    most = np.prod([size_of(tier) for tier in found.tiers[found.node_tier + 1 :]])
    assert vary_system(Varied(found), {"nodes": most}).spec.nodes.si == most
    with pytest.raises(SpecError, match="nodes at most"):
        vary_system(Varied(found), {"nodes": most + 1.0})


def test_the_top_of_llama_3s_fabric_has_a_seventh() -> None:
    tiers = {tier.name: tier for tier in lowered("meta-24k-h100-roce").tiers}
    assert [float(tiers[name].size) for name in ("node", "rack", "pod", "cluster")] == [8, 2, 192, 8]
    assert float(tiers["pod"].bandwidth) == pytest.approx(7.0 * float(tiers["cluster"].bandwidth))
    machine, sizes = lowered("meta-24k-h100-roce"), [tier.size for tier in tiers.values()]
    inside, across = (
        float(uniform_all_to_all(array(GIB), placed(array(64.0), array(stride), sizes), machine).time)
        for stride in (48.0, 384.0)
    )
    assert across > 2.0 * inside  # eight racks of the same pod, and eight ranks in each of the pods


def test_an_ultraserver_is_four_instances_joined_by_links_of_their_own() -> None:
    node, server, network = lowered("trn2-ultraserver-64").tiers
    assert (node.kind, node.shape, server.kind, float(server.size)) == ("torus", (4, 4), "ring", 4.0)
    assert [float(tier.bandwidth) / 1e9 for tier in (node, server, network)] == [512.0, 128.0, 25.0]
    assert all(node.closed)
    two = vary_system(Varied(system("trn2-ultraserver-64")), {"nodes": 8})
    assert [float(tier.size) for tier in lower_system(two).tiers] == [16.0, 4.0, 2.0]


def test_a_system_on_the_links_of_an_ultraserver_reduces_sooner_than_on_the_network() -> None:
    apart = lower_system(vary_system(Varied(system("trn2-16")), {"nodes": 4}))
    together = lowered("trn2-ultraserver-64")
    times = [
        float(all_reduce(array(GIB), placed(array(64.0), array(1.0), [t.size for t in machine.tiers]), machine).time)
        for machine in (together, apart)
    ]
    assert times[0] < times[1]


@pytest.mark.parametrize(
    ("name", "shape", "rings"),
    [
        ("tpu-v5p-pod", (4, 4, 4), (True, True, True)),
        ("tpu-v5p-pod", (4, 4, 8), (True, True, True)),
        ("tpu-v5p-pod", (2, 4, 4), (False, False, False)),  # less than a cube: none closes
        ("tpu-v4-pod", (4, 4, 6), (False, False, False)),
        ("tpu-v5e-pod", (16, 16), (True, True)),
        ("tpu-v5e-pod", (8, 16), (False, True)),
        ("tpu-v6e-pod", (4, 4), (False, False)),
        ("tpu-8t-pod", (12, 8, 4), (True, True, True)),
    ],
)
def test_rings_of_a_slice_close_where_it_holds_whole_blocks(
    name: str, shape: tuple[int, ...], rings: tuple[bool, ...]
) -> None:
    slice_ = vary_system(Varied(system(name)), {"tiers.pod.shape": shape}).spec
    assert closed(slice_.tiers[0]) == rings
    assert slice_.chips == np.prod(shape)


def test_a_slice_without_rings_takes_about_twice_as_long() -> None:
    times = []
    for wrap in (4, 5):
        made = lower_system(vary_system(Varied(system("tpu-v5p-pod")), {"tiers.pod.wrap_from": wrap}))
        times.append(float(all_reduce(array(GIB), placed(array(64.0), array(1.0), [array(64.0)] * 2), made).time))
    assert times[1] / times[0] == pytest.approx(2.0, rel=0.05)


def test_cards_of_a_gaudi_node_share_ports_evenly_over_their_peers() -> None:
    for name, rate in (("gaudi2-8", 12.5), ("gaudi3-8", 25.0)):
        node = lowered(name).tiers[0]
        assert node.kind == "mesh"
        assert float(node.bandwidth) / 7.0 / 1e9 == pytest.approx(3.0 * rate, rel=0.01)


def test_planes_and_switches_are_as_published() -> None:
    def planes(name: str, tier: int) -> float:
        found = system(name).tiers[tier].planes
        assert found is not None
        return found.si

    assert [planes("maia-100-4", 1), planes("cloudmatrix-384", 0), planes("cloudmatrix-384", 1)] == [3, 7, 7]
    assert [planes(name, 0) for name in ("dgx-a100", "dgx-h100", "dgx-2", "gb200-nvl72")] == [6, 4, 6, 18]
    assert system("deepseek-v3-2048").tiers[1].rails
    assert system("dgx-v100").tiers[0].kind == "hypercube_mesh"
    assert system("perlmutter-a100-4gpu-slingshot11").tiers[1].kind == "dragonfly"


@pytest.mark.parametrize("name", EVERY)
def test_every_system_prices_collectives_over_all_its_chips(name: str) -> None:
    machine, group = everybody(name)
    alone = float(group.total) == 1.0
    # Computers and cards alone: without a second chip and a way to it.
    assert alone == (system(name).chips == 1.0 and len(machine.tiers) == 1)
    assert float(group.total) == pytest.approx(float(machine.chips))
    fastest = max(float(tier.bandwidth) for tier in machine.tiers)
    for collective in (all_reduce, all_gather, uniform_all_to_all):
        small, large = (float(collective(array(size), group, machine).time) for size in (512.0, GIB))
        assert np.isfinite([small, large]).all()
        if alone:
            assert small == large == 0.0
            continue
        assert 0.0 < small < large
        share = 1.0 if collective is all_reduce else 0.5  # of two ranks each gathers a half
        assert large >= share * GIB / fastest


@pytest.mark.parametrize("name", EVERY)
def test_every_system_has_sources_ranges_and_a_name_of_its_own(name: str) -> None:
    found = system(name)
    assert found.name == name
    assert found.sources
    power = found.server.power
    assert power.si > 0.0
    assert power.low is None or power.low <= power.value
    assert all(tier.collectives for tier in found.tiers)


@pytest.mark.parametrize(
    ("name", "tier"),
    [("dgx-2", 0), ("perlmutter-a100-4gpu-slingshot11", 0), ("meta-24k-h100-roce", 3), ("tpu-v2-pod", 0)],
)
def test_what_is_only_remembered_says_so(name: str, tier: int) -> None:
    found = system(name).tiers[tier]
    datum = found.wrap_from or found.oversubscription or found.size
    assert datum is not None
    assert "unverified recollection" in datum.source


@pytest.mark.parametrize(
    ("name", "base"), [("vera-rubin-nvl144", "vera-rubin-nvl72"), ("llama3-24k-roce", "meta-24k-h100-roce")]
)
def test_two_names_of_one_system_are_one_system(name: str, base: str) -> None:
    one, other = system(name), system(base)
    assert one.tiers == other.tiers
    assert (one.chip, one.nodes, one.server) == (other.chip, other.nodes, other.server)


def test_no_chip_has_two_usual_systems() -> None:
    files = [documents.read(path).data for path in library.names("systems").values()]
    chips = Counter(data["chip"] for data in files if data.get("usual"))
    assert set(chips.values()) == {1}
    assert set(chips) == set(usual_systems())
    for chip, name in usual_systems().items():
        assert system(name).chip.name == chip


@pytest.mark.parametrize("name", ["oneccl-pcie", "neuron", "neuron-efa", "habana-hccl", "ascend-hccl", "groq-c2c"])
def test_libraries_without_measurements_are_estimates_with_ranges(name: str) -> None:
    data, files = described(name, "collectives")
    found = validated(CollectiveLibrary, data, files[0], files[1:])
    assert not found.fitted_on
    for protocol in found.protocols.values():
        for datum in (protocol.start, protocol.hop):
            assert datum.kind == "estimated"
            assert datum.low is not None
            assert datum.high is not None
            assert datum.low < datum.value < datum.high
