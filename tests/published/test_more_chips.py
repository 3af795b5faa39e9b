"""Chips written from published data alone: totals, formats, memory and names as published, nothing fitted on them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cosim import library
from cosim.datum import Datum
from cosim.hardware.checks import TOLERANCE, chip_checks
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip, read_chip
from cosim.hardware.lower import KERNEL_CONSTANTS, lower_chip

chip_of = cache(load_chip)
FACTS = Path(__file__).parents[3] / "shared" / "facts"

# Name, fitted chip that lends the constants of its kernels (- where it has no tiles), memory [GB], bandwidth [GB/s],
# dense peaks [TFLOP/s], as makers or those who queried the device give them. Memory is what holds weights: SRAM where
# there is no DRAM.
TABLE = """
a10 a100-80gb-sxm 24 600 fp16/bf16=125 tf32=62.5 int8=250 int4=500
a100-40gb-pcie a100-80gb-sxm 40 1555 fp16/bf16=312 tf32=156 int8=624 int4=1248
a100-80gb-pcie a100-80gb-sxm 80 1935 fp16/bf16=312 tf32=156 int8=624 int4=1248
a100-80gb-pcie-mig-1g10gb a100-80gb-sxm 9.75 242 fp16/bf16=40.4 tf32=20.2 int8=80.9 int4=161.8
a100-80gb-sxm-330w a100-80gb-sxm 80 2039 fp16/bf16=312 tf32=156 int8=624 int4=1248
a100-80gb-sxm-vgpu a100-80gb-sxm 80 2039 fp16/bf16=312 tf32=156 int8=624 int4=1248
a2 a100-80gb-sxm 16 200 fp16/bf16=18 tf32=9 int8=36 int4=72
a30 a100-80gb-sxm 24 933 fp16/bf16=165 tf32=82 int8=330 int4=661
a40 a100-80gb-sxm 48 696 fp16/bf16=149.7 tf32=74.8 int8=299.3 int4=598.7
apple-m1 h100-sxm 8 68.3 fp16/fp32=2.29
apple-m1-max h100-sxm 64 400 fp16/fp32=10.6
apple-m1-ultra h100-sxm 128 800 fp16/fp32=21.2
apple-m2-max h100-sxm 96 400 fp16/fp32=13.6
apple-m2-ultra h100-sxm 192 800 fp16/fp32=27.2
apple-m3-max h100-sxm 128 400 fp16/fp32=14.1
apple-m3-ultra h100-sxm 512 819 fp16/fp32=28.3
arc-pro-b60 h100-sxm 24 456 fp16/bf16=98.3 int8=197 tf32=49.2
ascend-910b - 64 1600 fp16/bf16=376 int8=752
ascend-910c - 128 3200 fp16/bf16=752 int8=1504
ascend-950dt - 96 4000 bf16/fp16=486 fp8=919 fp4=1783
b100 h100-sxm 192 8000 fp16/bf16=1750 tf32=875 fp8/fp6/int8=3500 fp4=7000
b300-sxm h100-sxm 288 8000 fp16/bf16=2250 tf32=1125 fp8/fp6=4500 fp4=13500 int8=153.5
cerebras-wse2 - 40 20000000 fp16=7480
cerebras-wse3 - 44 21000000 fp16=15840
gaudi2 - 96 2460 bf16/fp16=432 fp8=865
gaudi3 - 128 3700 bf16/fp8=1677 fp16/tf32=459 fp32=229
gb300 h100-sxm 288 8000 fp16/bf16=2500 tf32=1250 fp8/fp6=5000 fp4=15000 int8=165
gh200 h100-sxm 96 4000 fp16/bf16=989 tf32=494.5 fp8/int8=1979
gh200-144gb h100-sxm 144 4900 fp16/bf16=989 tf32=494.5 fp8/int8=1979
graphcore-bow - 0.941 65400 fp16=350 fp32=87.5
graphcore-gc200 - 0.941 47500 fp16=250 fp32=62.5
groq-lp30 - 0.5 150000 fp8=1230
groq-lpu1 - 0.23 80000 int8=750 fp16=188
h100-96gb-hbm2e h100-sxm 96 2400 fp16/bf16=989 tf32=494.5 fp8/int8=1979
h100-nvl h100-sxm 94 3900 fp16/bf16=835.5 tf32=417.5 fp8/int8=1671
h100-pcie h100-sxm 80 2000 fp16/bf16=756 tf32=378 fp8/int8=1513
h100-sxm-vgpu h100-sxm 80 2000 fp16/bf16=756 tf32=378 fp8/int8=1513
h20 h100-sxm 96 4000 fp16/bf16=148 tf32=74 fp8/int8=296
h200-nvl h100-sxm 141 4800 fp16/bf16=835.5 tf32=417.5 fp8/int8=1671
h800-sxm h100-sxm 80 3350 fp16/bf16=989 tf32=494.5 fp8/int8=1979
inferentia1 - 8.6 53.7 fp16/bf16=64 int8=128
inferentia2 - 34.36 820 fp16/bf16/tf32/fp8=190 int8=380 fp32=47.5
jetson-agx-orin a100-80gb-sxm 64 204.8 fp16/bf16=42.6 tf32=21.3 int8=85.2
jetson-orin-nx a100-80gb-sxm 16 102.4 fp16/bf16=15 tf32=7.5 int8=30.1
l4 l40s 24 300 fp16/bf16=121 tf32=60 fp8/int8=242 int4=485
l40 l40s 48 864 fp16/bf16=181 tf32=90.5 fp8/int8=362 int4=724
maia-100 - 64 1800 bf16=800
mali-g52 - 8 32.3 fp32=0.1024 fp16=0.2048
mali-g610 - 16 33.8 fp32=0.512 fp16=1.024
mi100 h100-sxm 32 1229 fp32=46.1 fp16/int8=184.6 bf16=92.3
mi210 h100-sxm 64 1638 fp32=45.3 fp16/bf16/int8=181
mi250-gcd h100-sxm 64 1638 fp32=45.3 fp16/bf16/int8=181
mi250x h100-sxm 128 3277 fp32=95.7 fp16/bf16/int8=383
mi250x-gcd h100-sxm 64 1638 fp32=47.9 fp16/bf16/int8=191.5
mi300a h100-sxm 128 5300 tf32=490.3 fp16/bf16=980.6 fp8/int8=1961.2
mi325x h100-sxm 256 6000 tf32=653.7 fp16/bf16=1307.4 fp8/int8=2614.9
mi350x h100-sxm 288 8000 fp16/bf16=2300 fp8/int8=4600 fp6/fp4=9200
mi455x - 432 23300 fp16/bf16/int8=5000 fp8/fp6=10000 fp4=20000
mtia-300 - 216 6100 bf16=600 fp8=1200
mtia-400 - 288 9200 bf16=3000 fp8=6000 mxfp4=12000
mtia-500 - 512 27600 bf16=5000 fp8=10000 mxfp4=30000
mtia-v1 - 64 176 int8=102.4 fp16/bf16=51.2
mtia-v2 - 128 204.8 int8=354 fp16/bf16=177
pvc-max-1550 h100-sxm 128 3277 fp16/bf16=839 tf32=419 int8=1678
qualcomm-ai100-pro - 32 137 fp16=125 int8=375
qualcomm-ai100-std - 16 137 fp16=110 int8=325
qualcomm-ai100-ultra - 128 548 fp16=290 int8=870
rebellions-atom - 16 256 fp16=32 int8=128
rtx-2000e-ada l40s 16 224 fp16/bf16=35.6 tf32=17.8 fp8/int8=71.2 int4=142.4
rtx-3070 a100-80gb-sxm 8 448 fp16/bf16=40.6 tf32=20.3 int8=162.5 int4=325
rtx-3080 a100-80gb-sxm 10 760 fp16/bf16=59.5 tf32=29.8 int8=238.1 int4=476.3
rtx-3080-ti a100-80gb-sxm 12 912 fp16/bf16=68.2 tf32=34.1 int8=272.8 int4=545.6
rtx-3090 a100-80gb-sxm 24 936 fp16/bf16=71.2 tf32=35.6 int8=284.7 int4=569.3
rtx-4000-ada l40s 20 360 fp16/bf16=106.91 tf32=53.45 fp8/int8=213.81 int4=427.62
rtx-4070-ti l40s 12 504 fp16/bf16=80.2 tf32=40.1 fp8=160.4 int8=320.7 int4=641.4
rtx-4080 l40s 16 717 fp16/bf16=97.5 tf32=48.7 fp8=194.9 int8=389.9 int4=779.8
rtx-4090 l40s 24 1008 fp16/bf16=165.2 tf32=82.6 fp8=330.3 int8=660.6
rtx-5000-ada l40s 32 576 fp16/bf16=261.12 tf32=130.56 fp8/int8=522.24 int4=1040
rtx-5090 l40s 32 1792 fp16/bf16=209.5 tf32=104.8 fp8=419 int8=838 fp4=1676
rtx-6000-ada l40s 48 960 fp16/bf16=364.2 tf32=182.1 fp8/int8=728.5 int4=1457
rtx-a6000 a100-80gb-sxm 48 768 fp16/bf16=154.8 tf32=77.4 int8=309.7 int4=619.3
rtx-pro-6000-server l40s 96 1597 fp16/bf16=467.8 tf32=233.9 fp8/int8/fp6=935.6 fp4=1871.2
sn40l - 64 1600 bf16=638
t4 a100-80gb-sxm 16 320 fp16=65 int8=130 int4=260
tpu-8i - 288 8601 bf16=1101 fp8=8808 fp4=10100
tpu-8t - 216 6528 bf16=996.1 fp8=5976.9 fp4=12600
tpu-v2 - 16 716 bf16=46
tpu-v3 - 32 900 bf16=123
tpu-v3-core - 16 450 bf16=61.5
tpu-v4 - 32 1228 bf16/int8=275
tpu-v4i - 8 614 bf16/int8=138
tpu-v5e - 16 819 bf16=197 int8=394 int4=788
tpu-v6e - 32 1640 bf16/fp8=918 int8=1836 int4=3680
trainium1 - 34.36 820 fp16/bf16/tf32/fp8=190 int8=380 fp32=47.5
trainium3 - 154.6 4900 fp16/bf16/tf32=671 mxfp8/mxfp4=2517 fp32=183
tt-blackhole-p150 - 32 512 fp8=774 fp16/bf16=194
tt-wormhole-n150 - 12 288 fp8=262 fp16/bf16=74
v100-32gb-pcie h100-sxm 32 900 fp16=112
vr200 - 288 22000 fp16/bf16=4000 tf32=2000 fp8/fp6=17500 fp4=35000 int8=2500
"""
# Formats that follow from a published one: of the same element width, or of the same units.
FOLLOW = {
    "mxfp8": "fp8",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
    "fp6": "fp8",
    "int4": "int8",
}
# What is known not to add up, and declared in the file.
DECLARED = {
    "b300-sxm": {"peak.fp4"},
    "inferentia2": {"peak.bf16", "peak.fp16", "peak.fp32", "peak.fp8", "peak.int8", "peak.tf32"},
    "tpu-8t": {"peak.fp4"},
    "trainium1": {"peak.bf16", "peak.fp16", "peak.fp32", "peak.fp8", "peak.int8", "peak.tf32"},
    "trainium3": {"peak.bf16", "peak.fp16", "peak.fp32", "peak.tf32"},
}
# Named by the facts, which have no matrix peak of them in a floating-point format, or not the size and bandwidth of the
# memory that holds weights.
LEFT_OUT = {
    "dmatrix-corsair",
    "etched-sohu",
    "gaudi1",
    "lightmatter-envise",
    "lightmatter-passage-m1000",
    "qualcomm-ai100-dm2",
    "qualcomm-ai100-dm2e",
    "qualcomm-ai100-lite",
    "recaccel-n3000",
    "sima-mlsoc",
    "untether-speedai240-preview",
    "untether-speedai240-slim",
}


GENERATIONS = {
    "volta": ("v100",),
    "turing": ("t4",),
    "ada and hopper": ("h", "gh", "l4", "rtx-4", "rtx-2000e-ada", "rtx-5000-ada", "rtx-6000-ada"),
    "blackwell": ("b1", "b2", "b3", "gb", "rtx-5090", "rtx-pro", "vr"),
}
FOLDERS = {"AWS": "amazon", "NVIDIA and Groq": "groq"}


class Row(NamedTuple):
    lender: str
    gigabytes: float
    bandwidth: float
    peaks: dict[str, float]


def _row(words: list[str]) -> Row:
    peaks: dict[str, float] = {}
    for word in words[3:]:
        names, _, value = word.partition("=")
        peaks |= dict.fromkeys(names.split("/"), float(value))
    return Row(words[0], float(words[1]), float(words[2]), peaks)


ROWS = {line.split()[0]: _row(line.split()[1:]) for line in TABLE.strip().splitlines()}
TILES = sorted(name for name, row in ROWS.items() if row.lender != "-")


def facts_table() -> list[dict[str, str]]:
    """Rows of the table of names. Skips where the facts are not beside the checkout."""
    path = FACTS / "names_accelerators.csv"
    if not path.is_file():
        pytest.skip("the folder of facts is not beside this checkout")
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def data_in(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every datum of a description as written, by its path; published totals and sources apart."""
    if not isinstance(node, dict):
        return
    if "kind" in node and "value" in node:
        yield path, node
        return
    for key, inner in node.items():
        if key not in ("sources", "published"):
            yield from data_in(inner, (*path, key))


def value_of(name: str, path: tuple[str, ...]) -> object:
    """What a chip has at a path; None where a field was taken back."""
    node: object = chip_of(name)
    for part in path:
        node = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
    return node


def constants(chip: Chip) -> dict[str, Datum]:
    return {} if chip.calibration is None else dict(chip.calibration.constants)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_chip_loads_under_its_name_and_says_what_it_rests_on(name: str) -> None:
    chip = chip_of(name)
    assert chip.name == name == library.find("accelerators", name).stem
    assert library.find("accelerators", name).parent.name == FOLDERS.get(chip.maker, chip.maker.lower())
    assert chip.confidence in ("published", "estimated")
    assert chip.sources


@pytest.mark.parametrize("name", sorted(ROWS))
def test_published_totals_hold_or_the_deviation_is_known(name: str) -> None:
    checks = chip_checks(chip_of(name))
    assert "bandwidth.dram" in {check.name for check in checks}
    apart = {check.name for check in checks if abs(check.deviation) > TOLERANCE}
    assert apart == DECLARED.get(name, set())
    assert all(check.passes for check in checks)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_formats_and_peaks_are_the_published_ones(name: str) -> None:
    row, chip = ROWS[name], chip_of(name)
    derived = {dtype: float(peak) / 1e12 for dtype, peak in lower_chip(chip).matrix.peak.items()}
    declared = {check.removeprefix("peak.") for check in chip.published.deviations}
    held = {dtype: peak for dtype, peak in row.peaks.items() if dtype not in declared}
    assert {dtype: derived[dtype] for dtype in held} == pytest.approx(held, rel=TOLERANCE)
    for dtype in declared:
        assert derived[dtype] < chip.published.peak[dtype].si / 1e12  # a chip is never better than what is published
    for dtype in set(derived) - set(row.peaks):
        beside = derived[FOLLOW[dtype]]
        assert derived[dtype] == pytest.approx(2.0 * beside if dtype == "int4" else beside, rel=TOLERANCE)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_memory_is_the_published_one(name: str) -> None:
    dram = lower_chip(chip_of(name)).memory["dram"]
    found = float(dram.capacity) / 1e9, float(dram.bandwidth) / 1e9
    assert found == pytest.approx((ROWS[name].gigabytes, ROWS[name].bandwidth), rel=TOLERANCE)


@pytest.mark.parametrize("name", TILES)
def test_constants_of_kernels_are_carried_over_and_say_so(name: str) -> None:
    chip, lender = chip_of(name), chip_of(ROWS[name].lender)
    assert chip.calibration is not None
    assert chip.calibration.library == chip.kernels
    assert chip.name not in chip.calibration.fitted_on
    assert chip.calibration.held_out is None
    own = constants(chip)
    assert {datum.kind for datum in own.values()} == {"estimated"}
    assert set(own) <= set(KERNEL_CONSTANTS)
    if chip.maker == lender.maker and chip.kernels == lender.kernels:
        assert {constant: datum.value for constant, datum in own.items()} == {
            constant: datum.value for constant, datum in constants(lender).items()
        }


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(TILES)))
def test_a_chip_without_tiles_has_no_constants_of_kernels(name: str) -> None:
    chip = chip_of(name)
    assert chip.matrix.kind in ("systolic", "roofline")
    assert chip.calibration is None


@pytest.mark.parametrize("name", sorted(ROWS))
def test_nothing_is_fitted_on_the_chip(name: str) -> None:
    quality = chip_of(name).quality
    shares = [quality.matmul, quality.attention, quality.memory, quality.collective, *quality.matmul_formats.values()]
    for datum in shares:
        assert "odd rows" not in datum.source
    assert {datum.kind for datum in constants(chip_of(name)).values()} <= {"estimated"}
    assert quality.attention.kind == "estimated"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_what_is_not_measured_has_a_range(name: str) -> None:
    chip = chip_of(name)
    for datum in (chip.quality.matmul, chip.quality.attention, chip.quality.memory, chip.quality.collective):
        assert (datum.low, datum.high) != (None, None)
    assert (chip.power.limit.kind != "estimated") or chip.power.limit.low is not None
    assert chip.power.idle.kind != "estimated" or chip.power.idle.low is not None


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_what_was_measured_on_its_base_is_not_said_to_be_measured_on_a_chip(name: str) -> None:
    _, chain = read_chip(name)
    bases = [document for document in chain[1:] if "constants" not in document.data]
    theirs = {path: datum for document in reversed(bases) for path, datum in data_in(document.data)}
    own = dict(data_in(chain[0].data))
    lent = {path for path, datum in theirs.items() if datum["kind"] == "measured" and value_of(name, path) is not None}
    assert lent <= set(own)
    for path in lent:
        assert own[path]["kind"] != "measured" or own[path] != theirs[path] or own[path]["source"] == name


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_a_quality_that_was_not_measured_has_a_range(name: str) -> None:
    quality = chip_of(name).quality
    shares = [quality.matmul, quality.attention, quality.memory, quality.collective, *quality.matmul_formats.values()]
    for datum in shares:
        assert datum.kind == "measured" or (datum.low, datum.high) != (None, None)


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_formats_follow_the_generation(name: str) -> None:
    formats = set(lower_chip(chip_of(name)).matrix.peak)
    family = next((family for family, starts in GENERATIONS.items() if name.startswith(starts)), "")
    if chip_of(name).maker == "NVIDIA":
        assert ("fp8" in formats) == (family in ("ada and hopper", "blackwell"))
        assert ("nvfp4" in formats) == (family == "blackwell")
        assert ("bf16" in formats) == (family not in ("volta", "turing"))


def test_names_are_those_of_the_facts() -> None:
    table = {row["name"] for row in facts_table()}
    assert set(ROWS) <= table
    assert table - set(library.names("accelerators")) <= LEFT_OUT


def test_one_core_of_a_tpu_v3_is_half_of_it() -> None:
    core, whole = lower_chip(chip_of("tpu-v3-core")), lower_chip(chip_of("tpu-v3"))
    assert float(core.matrix.peak["bf16"]) * 2.0 == pytest.approx(float(whole.matrix.peak["bf16"]))
    assert float(core.memory["dram"].bandwidth) * 2.0 == pytest.approx(float(whole.memory["dram"].bandwidth))
    assert float(core.memory["dram"].capacity) * 2.0 == pytest.approx(float(whole.memory["dram"].capacity))
    assert float(core.power.limit) * 2.0 == float(whole.power.limit)
