"""Descriptions for the hardware tests: shipped ones, one chip known by its peaks only, and a place to write files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.system import System

PEAKS_ONLY = """\
name: peaks-only
title: A chip of which only the peaks are told
maker: nobody
status: announced
confidence: published
sources:
  talk: {text: "keynote, slide 12"}
  memory-lane: {text: "what somebody recalls", checked: false}
matrix:
  kind: roofline
  peak:
    bf16: {value: 2, unit: PFLOP/s, kind: datasheet, source: talk}
    fp8: {value: 5, unit: PFLOP/s, kind: datasheet, source: memory-lane}
vector:
  peak: {value: 60, unit: TFLOP/s, kind: estimated, source: talk}
special:
  peak: {value: 8, unit: Top/s, kind: estimated, source: talk}
memory:
  dram:
    technology: HBM3E
    capacity: {value: 216, unit: GB, kind: datasheet, source: talk}
    bandwidth: {value: 7, unit: TB/s, kind: datasheet, source: talk}
links:
  scale_up:
    technology: Ethernet
    bandwidth: {value: 1.4, unit: TB/s, kind: datasheet, source: talk}
power:
  limit: {value: 750, unit: W, kind: datasheet, source: talk}
  idle: 100 W
  energy_per_flop:
    fp32: 1.2 pJ/FLOP
    bf16: 0.4 pJ/FLOP
    fp8: 0.2 pJ/FLOP
  energy_per_byte:
    dram: 4 pJ/bit
    link: 5.5 pJ/bit
die:
  node: N3
launch: {gap: 1 us, latency: 1 us, host_step: 0.4 ms}
quality: {matmul: 0.7, attention: 0.5, memory: 0.85, collective: 0.8}
published:
  bandwidth:
    dram: {value: 7, unit: TB/s, kind: datasheet, source: talk}
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file in a folder of this test and gives its path as a name for the loader."""

    def _write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return _write


@pytest.fixture(scope="session")
def peaks_only_text() -> str:
    return PEAKS_ONLY


@pytest.fixture(scope="session")
def peaks_only(tmp_path_factory: pytest.TempPathFactory) -> Chip:
    path = tmp_path_factory.mktemp("chips") / "peaks-only.yaml"
    path.write_text(PEAKS_ONLY, encoding="utf-8")
    return load_chip(str(path))


@pytest.fixture(scope="session")
def h100() -> Chip:
    return load_chip("h100-sxm")


@pytest.fixture(scope="session")
def tpu() -> Chip:
    return load_chip("tpu-v5p")


@pytest.fixture(scope="session")
def dgx() -> System:
    return load_system("dgx-h100")


@pytest.fixture(scope="session")
def slice_of_eight() -> System:
    return load_system("tpu-v5p-8")
