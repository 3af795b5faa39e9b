"""From file to grid: values in their units, ranges spread, every fault one message at its line and nothing on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosim.errors import SpecError
from cosim.explore.experiment import load_study
from cosim.explore.run import split_overrides
from cosim.explore.studies import run_experiment
from cosim.explore.sweep import ROOTS, Part, SweepInputs, run_part
from cosim.explore.sweep_file import Sweep
from cosim.explore.sweep_inputs import read_sweep

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

FILE = """\
kind: sweep
question: Which of a few designs serves a small model best?
system: asic-8
axes:
  - {path: system.chip.matrix.rows, values: [64, 128]}
  - path: system.chip.memory.dram.stacks
    values: [4, 6]
cases:
  - workload: llama-3.1-8b
    phase: decode
    plan: {tensor_parallel: 8, dtype: fp8}
    scenario: {batch: 64, context: 2048}
constraints: [tdp_w <= 2000]
"""
ROWS, STACKS = "system.chip.matrix.rows", "system.chip.memory.dram.stacks"
AXIS = "  - {path: system.chip.matrix.rows, values: [64, 128]}\n"


def read(folder: Path, text: str, **overrides: Any) -> SweepInputs:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    study = load_study(str(path))
    assert isinstance(study.experiment, Sweep)
    changes = {name.replace("__", "."): value for name, value in overrides.items()}
    return read_sweep(study.experiment, study.document, split_overrides(changes, ROOTS))[0]


def with_axes(*axes: str) -> str:
    """The file with these axes in place of the first."""
    return FILE.replace(AXIS, "".join(f"  - {axis}\n" for axis in axes))


@pytest.mark.parametrize(
    ("axis", "path", "levels", "unit"),
    [
        ("{path: system.chip.matrix.clock, values: [1.25 GHz, 1.5e9, 2000 MHz]}", None, (1.25e9, 1.5e9, 2e9), "Hz"),
        ("{path: system.chip.memory.scratch.capacity, values: [2 MiB, 4 MB]}", None, (2.0**21, 4e6), "B"),
        ("{path: system.chip.links.scale_up.rate, values: [400 Gb/s, 25 GB/s]}", None, (50e9, 25e9), "B/s"),
        ("{path: system.chip.power.limit, values: [0.7 kW, 900]}", None, (700.0, 900.0), "W"),
        ("{path: system.nodes, values: [1, 2]}", None, (1.0, 2.0), ""),
        ("{path: system.tiers.node.latency, values: [1 us]}", None, (1e-6,), "s"),
        ("{path: workload.layers, values: [8, 16, 32]}", None, (8.0, 16.0, 32.0), ""),
        ("{path: plan.tensor_parallel, values: [4, 8]}", None, (4.0, 8.0), ""),
        ("{path: scenario.batch, from: 1, to: 16, scale: powers_of_two}", None, (1.0, 2.0, 4.0, 8.0, 16.0), ""),
        ("{path: scenario.tpot_limit, values: [5 ms, 1]}", None, (0.005, 1.0), "s"),
        ("{path: scenario.ttft_limit, values: [500 ms, 2]}", None, (0.5, 2.0), "s"),
        ("{path: plan.dtype, values: [bf16, fp8]}", None, ("bf16", "fp8"), ""),
        ("{path: system.chip.matrix.shadow_weights, values: [true, false]}", None, (True, False), ""),
        ("{path: system.chip.die.node, values: [TSMC N5, TSMC N3E]}", None, ("TSMC N5", "TSMC N3E"), ""),
        ("{path: system.chip.matrix.clock, from: 1 GHz, to: 2 GHz, count: 3}", None, (1e9, 1.5e9, 2e9), "Hz"),
        ("{path: system.chip.memory.scratch.capacity, from: 2 MiB, to: 8 MiB, scale: powers_of_two}", None,
         (2.0**21, 2.0**22, 2.0**23), "B"),
        ("{path: system.chip.quality.matmul, from: 0.2, to: 0.8, count: 3, scale: log}", None, (0.2, 0.4, 0.8), ""),
    ],
)  # fmt: skip
def test_values_are_read_by_the_description_that_the_path_belongs_to(
    tmp_path: Path, axis: str, path: str | None, levels: tuple[Any, ...], unit: str
) -> None:
    inputs = read(tmp_path, with_axes(axis))
    ((path, found),) = inputs.grid.levels[0].items()
    assert inputs.units[path] == unit
    if isinstance(levels[0], float):
        assert found == pytest.approx(levels)
    else:
        assert found == levels
    assert inputs.grid.shape == (len(levels), 2)


def test_linked_paths_step_together_each_in_its_unit(tmp_path: Path) -> None:
    paths = "[system.chip.matrix.clock, system.chip.memory.scratch.capacity]"
    axis = f"{{path: {paths}, from: [1 GHz, 2 MiB], to: [2 GHz, 4 MiB], count: 3}}"
    inputs = read(tmp_path, with_axes(axis))
    assert inputs.grid.levels[0] == {
        "system.chip.matrix.clock": pytest.approx((1e9, 1.5e9, 2e9)),
        "system.chip.memory.scratch.capacity": pytest.approx((2.0**21, 3.0 * 2**20, 2.0**22)),
    }
    assert inputs.grid.numbers(np.array([2]))["system.chip.matrix.clock"] == pytest.approx([1.5e9])


def test_overrides_change_what_is_swept_from(tmp_path: Path) -> None:
    inputs = read(tmp_path, FILE, system__nodes=2, workload__layers=8, plan__dtype="bf16", scenario__context=1024)
    assert inputs.systems["asic-8"].spec.nodes.si == 2
    assert inputs.models["llama-3.1-8b"].spec.layers == 8
    assert inputs.study.cases[0].plan == {"tensor_parallel": 8, "dtype": "bf16"}
    assert inputs.study.cases[0].scenario == {"batch": 64, "context": 1024}


def test_several_systems_share_the_axes(tmp_path: Path) -> None:
    text = FILE.replace("asic-8", "[asic-8, dgx-h100]").replace(AXIS, "") + "silicon: false\n"
    inputs = read(tmp_path, text)
    assert list(inputs.systems) == ["asic-8", "dgx-h100"]
    assert inputs.grid.shape == (2,)


BAD = {
    "an unknown path": (AXIS, "  - {path: system.chip.matrix.row, values: [1]}\n", "nearest: system.chip.matrix.rows"),
    "an unknown root": (AXIS, "  - {path: chip.matrix.rows, values: [1]}\n", "starts with one of system"),
    "a path of nothing": (AXIS, "  - {path: system, values: [1]}\n", "unknown path"),
    "a path of no number": (AXIS, "  - {path: system.chip.matrix, values: [1]}\n", "system.chip.matrix"),
    "a wrong unit": (AXIS, "  - {path: system.chip.matrix.clock, values: [1 GHz, 2 GB]}\n", "a value in Hz is wanted"),
    "a wrong unit of a range": (
        AXIS, "  - {path: system.chip.matrix.clock, from: 1 GHz, to: 2 GB/s, count: 3}\n", "a value in Hz is wanted"),
    "a range of a choice": (AXIS, "  - {path: plan.dtype, from: bf16, to: fp8, count: 2}\n", "a range needs numbers"),
    "an unknown choice": (AXIS, "  - {path: plan.dtype, values: [bf16, fp5]}\n", "fp8"),
    "a count of powers": (
        AXIS, "  - {path: system.chip.matrix.rows, from: 32, to: 64, count: 2, scale: powers_of_two}\n",
        "powers of two count themselves"),
    "a log range from zero": (
        AXIS, "  - {path: system.chip.launch.gap, from: 0, to: 1 us, count: 3, scale: log}\n", "needs 0 < from <= to"),
    "fractional rows": (
        AXIS, "  - {path: system.chip.matrix.rows, from: 32, to: 65, count: 3}\n", "must be a whole number"),
    "fractional layers": (AXIS, "  - {path: workload.layers, from: 8, to: 15, count: 3}\n", "workload.layers"),
    "rows out of bounds": (AXIS, "  - {path: system.chip.matrix.rows, values: [64, 0]}\n", "at least 1"),
    "a negative number": (AXIS, "  - {path: system.chip.matrix.clock, values: [-1 GHz]}\n", "it must be more than 0"),
    "a number that is not finite": (AXIS, "  - {path: system.chip.matrix.clock, values: [.nan]}\n", ""),
    "a path on two axes": (AXIS, AXIS + AXIS, "is on two axes"),
    "a path on two axes by another name": (
        AXIS, "".join(f"  - {{path: system.tiers.{name}.latency, values: [1 us]}}\n" for name in ("node", "0")),
        "is on two axes"),
    "steps of linked paths": (
        AXIS, "  - {path: [system.chip.matrix.rows, system.chip.matrix.columns], values: [[1, 2, 3]]}\n",
        "has not one value for each path"),
    "a derived value and its primary": (
        AXIS, AXIS + "  - {path: system.chip.matrix.peak.bf16, values: [900 TFLOP/s]}\n", "is derived from"),
    "a total and its stacks": (
        AXIS, "  - {path: system.chip.memory.dram.bandwidth, values: [7 TB/s]}\n", "is derived from"),
    "structure of a roofline chip": ("asic-8", "maia-200-4", "is known by its peaks only"),
    "an unknown system": ("asic-8", "asic-9", "nearest: asic-8"),
    "an unknown workload": ("llama-3.1-8b", "llama-3.1-9b", "nearest: llama-3.1-8b"),
    "a path that one system lacks": (
        "system: asic-8", "system: [asic-8, dgx-h100]", "system.chip.matrix.rows"),
    "a heat map of no axis": (
        "constraints:", "heat_map: [system.chip.matrix.rows, system.chip.cores]\nconstraints:", "is on no axis"),
    "what is unknown of the phase maximised": (
        "phase: decode\n    plan: {tensor_parallel: 8, dtype: fp8}\n    scenario: {batch: 64, context: 2048}",
        "phase: train\n    plan: {tensor_parallel: 8}\nmaximise: tokens_per_s_per_user",
        "is unknown for this chip or phase"),
    "a number of which less is better maximised": (
        "constraints:", "maximise: time_s\nconstraints:", "names no number of which more is better"),
    "a constraint on what is unknown of the chip": (
        "system: asic-8", "system: tpu-v5p-8", "tdp_w is unknown for this chip or phase"),
    "power of silicon that is unknown": (
        "system: asic-8", "system: tpu-v5p-8\npower: derived", "no area is known of ICI"),
    "a choice of unknown silicon": (
        AXIS, "  - {path: system.chip.die.node, values: [TSMC N5, Intel 18A, TSMC N3E]}\n",
        "nothing is known of node 'Intel 18A'"),
    "an unknown column": ("tdp_w <= 2000", "tpd_w <= 2000", "nearest: tdp_w"),
    "a malformed constraint": ("tdp_w <= 2000", "tdp_w is small", "is not COLUMN <= VALUE"),
    "a constraint in a wrong unit": ("tdp_w <= 2000", "tdp_w <= 2 ms", "a value in W is wanted"),
    "an unknown field of a plan": ("tensor_parallel: 8", "tensor_paralel: 8", "nearest: plan.tensor_parallel"),
    "a plan of training in decode": ("tensor_parallel: 8", "zero: 1", "is not part of decode"),
    "a scenario that holds less than it reads": (
        "context: 2048", "context: 2048, capacity: 1024", "is less than context"),
    "a search in training": (
        "phase: decode\n    plan: {tensor_parallel: 8, dtype: fp8}\n    scenario: {batch: 64, context: 2048}",
        "phase: train\nsearch: {}", "is not searched in a sweep"),
    "degrees beside a search": ("constraints:", "search: {}\nconstraints:", "tensor_parallel"),
    "a degree as an axis of a search": (
        AXIS, "  - {path: plan.pipeline_parallel, values: [1, 2]}\nsearch: {}\n", "is what the search finds"),
    "the power limit as an axis where it is derived": (
        AXIS, "  - {path: system.chip.power.limit, values: [700 W]}\npower: derived\n", "system.chip.power.limit"),
    "too many designs": (
        AXIS, "".join(f"  - {{path: system.chip.quality.{name}, from: 0.1, to: 0.9, count: 65536}}\n"
                      for name in ("matmul", "attention", "memory", "collective")), "spans too many designs"),
    "more designs than fit": (
        AXIS, "".join(f"  - {{path: system.chip.quality.{name}, from: 0.1, to: 0.9, count: 10000}}\n"
                      for name in ("matmul", "attention")), "spans too many designs"),
}  # fmt: skip


def broken(fault: str) -> str:
    """The file with one fault in it."""
    old, new, _ = BAD[fault]
    assert old in FILE
    text = FILE.replace(old, new)
    # A key among the axes belongs to the end of the file.
    lines = text.splitlines(keepends=True)
    moved = [line for line in lines if line in ("search: {}\n", "power: derived\n")]
    return "".join([line for line in lines if line not in moved] + moved)


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_one_message_with_file_and_line_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    text = broken(fault)
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        run_experiment(str(path), tmp_path / "out", overrides={}, progress=lambda *_: None, report=lambda f: f)
    assert BAD[fault][2] in str(caught.value)
    assert str(caught.value.file) == str(path)
    assert caught.value.line is not None
    assert 1 <= caught.value.line <= len(text.splitlines())
    assert len(str(caught.value).splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("an unknown path", "  - {path: system.chip.matrix.row,"),
        ("a wrong unit", "  - {path: system.chip.matrix.clock,"),
        ("fractional rows", "  - {path: system.chip.matrix.rows,"),
        ("a choice of unknown silicon", "  - {path: system.chip.die.node,"),
        ("an unknown system", "system:"),
        ("an unknown workload", "  - workload: llama"),
        ("a heat map of no axis", "heat_map:"),
        ("an unknown column", "constraints:"),
        ("what is unknown of the phase maximised", "maximise:"),
        ("a number of which less is better maximised", "maximise:"),
        ("a constraint on what is unknown of the chip", "constraints:"),
        ("an unknown field of a plan", "  - workload: llama"),
        ("a total and its stacks", "  - {path: system.chip.memory.dram.bandwidth,"),
    ],
)
def test_the_line_is_the_one_that_has_the_fault(tmp_path: Path, fault: str, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, broken(fault))
    assert caught.value.line is not None
    assert broken(fault).splitlines()[caught.value.line - 1].startswith(line)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"system__chip__matrix__row": 1}, "unknown path"),
        ({"system__chip__matrix__rows": 1.5}, "whole number"),
        ({"chip__matrix__rows": 1}, "did you mean system.chip.matrix.rows?"),
        ({"workload__layer": 1}, "nearest: workload.layers"),
        ({"plan__dtype": "fp5"}, "fp8"),
        ({"system__chip__memory__dram__bandwidth": 7e12}, "is derived from"),
    ],
)
def test_a_wrong_override_is_one_message(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem.replace("?", r"\?")):
        read(tmp_path, FILE, **changes)


TRAINED = """\
kind: sweep
question: Which?
system: dgx-h100
axes:
  - {path: system.server.storage, values: [1 GB/s, 4 GB/s]}
cases:
  - workload: llama-3.1-8b
    phase: train
    plan: {tensor_parallel: 8}
    scenario: {global_batch: 16, bytes_per_sample: 1 GB}
"""


def test_storage_is_an_axis_of_training(tmp_path: Path) -> None:
    inputs = read(tmp_path, TRAINED)
    table = run_part(inputs, Part("dgx-h100", 0, 0, 2))
    np.testing.assert_allclose(table["time_s"], [16.0, 4.0], rtol=1e-12)
    np.testing.assert_allclose(table["scenario.bytes_per_sample"], 1e9)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("recompute_modules: moe", "is no module of this model"),
        ("recompute_layers: 4", "says how many layers compute what again"),
    ],
)
def test_what_a_model_cannot_compute_again_is_refused_at_its_case(tmp_path: Path, plan: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        read(tmp_path, TRAINED.replace("tensor_parallel: 8", f"tensor_parallel: 8, {plan}"))
    assert caught.value.line == 7
