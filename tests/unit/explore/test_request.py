"""A request in names and paths: the same answer as from descriptions, and errors that name the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosim.engines.case import Phase
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.estimate import estimate
from cosim.explore.request import ROOTS, estimate_request
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied, vary
from cosim.workload.load import load_model

MODEL = """\
name: tiny
title: "A model of my own"
source: "made up"
layers: 2
hidden: 1024
ffn: 4096
heads: 8
kv_heads: 8
head_dim: 128
vocab: 1000
gated: true
norm: rms
position: rotary
max_positions: 4096
"""


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_overrides_reach_all_four_roots(phase: Phase) -> None:
    overrides = {
        "system.nodes": 2,
        "system.chip.memory.dram.bandwidth": "5 TB/s",
        "workload.layers": 40,
        "plan.tensor_parallel": 8,
        "plan.pipeline_parallel": 2,
        "scenario.batch": 6,
        "scenario.context": "500",
    }
    found = estimate_request(phase, "dgx-h100", "llama-3.1-8b", overrides)
    row = found.to_row()
    assert (row["system"], row["workload"], row["phase"]) == ("dgx-h100", "llama-3.1-8b", phase)
    assert (row["chips"], row["plan.tensor_parallel"], row["scenario.batch"], row["scenario.context"]) == (
        16,
        8,
        6,
        500,
    )
    assert float(found.case.model.layers) == 40.0
    assert float(found.case.system.chip.memory["dram"].bandwidth) == 5e12


def test_words_and_descriptions_give_the_same_answer() -> None:
    overrides = {"system.nodes": 2, "workload.layers": 20, "plan.dtype": "bf16", "scenario.batch": 6}
    machine = vary_system(Varied(load_system("mi300x-8gpu")), {"nodes": 2})
    model = vary(Varied(load_model("qwen3-32b")), {"layers": 20})
    direct = estimate("decode", machine, model, {"dtype": "bf16"}, {"batch": 6})
    assert estimate_request("decode", "mi300x-8gpu", "qwen3-32b", overrides).to_row() == direct.to_row()


def test_nothing_given_is_the_best_plan_of_the_defaults() -> None:
    found = estimate_request("decode", "asic-8", "llama-3.1-8b", {})
    assert found.plans_tried == 4  # tensor x pipeline = 8 for one sequence
    assert set(found.defaults) == {"scenario.batch", "scenario.context", "plan.dtype", "plan.kv_dtype", "phase"}


def test_a_workload_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(MODEL, encoding="utf-8")
    assert estimate_request("decode", "dgx-h100", str(path), {}).to_row()["workload"] == "tiny"


def test_arrays_are_points() -> None:
    overrides = {"plan.tensor_parallel": 8, "scenario.batch": [1, 2, 4], "system.chip.matrix.clock": [1e9, 1.5e9, 2e9]}
    found = estimate_request("prefill", "dgx-h100", "llama-3.1-8b", overrides)
    assert [found.to_row(index)["scenario.batch"] for index in range(3)] == [1, 2, 4]


@pytest.mark.parametrize(
    ("phase", "hint"),
    [("prefil", "nearest: prefill"), ("decoding", "nearest: decode"), ("serve", "known: decode, prefill, train")],
)
def test_an_unknown_phase_is_refused(phase: str, hint: str) -> None:
    with pytest.raises(SpecError, match=f"^unknown phase \\(got '{phase}'\\); {hint}"):
        estimate_request(phase, "dgx-h100", "llama-3.1-8b", {})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sytem.nodes", r"^sytem\.nodes: unknown path; .*nearest: system"),
        ("nodes", r"^nodes: unknown path; did you mean system\.nodes"),
        ("system", r"^system: unknown path; a path starts with one of"),
        (
            "system.chip.memory.dram.bandwith",
            r"^system\.chip\.memory\.dram\.bandwith: unknown path; nearest: .*bandwidth",
        ),
        ("workload.layer", r"^workload\.layer: unknown path; nearest: workload\.layers"),
        ("plan.tensor", r"^plan\.tensor: unknown path; nearest: plan\.tensor_parallel"),
        ("scenario.batches", r"^scenario\.batches: unknown path; nearest: scenario\.batch"),
    ],
)
def test_an_unknown_path_is_refused_with_the_nearest(path: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate_request("decode", "dgx-h100", "llama-3.1-8b", {path: 1})


@pytest.mark.parametrize(
    ("system", "workload", "message"),
    [
        ("dgx-h10", "llama-3.1-8b", r"no system has this name \(got 'dgx-h10'\); nearest: dgx-h100"),
        ("dgx-h100", "llama-3.1-7b", r"no workload has this name \(got 'llama-3.1-7b'\); nearest: llama-3"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(system: str, workload: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate_request("decode", system, workload, {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"system.chip.memory.dram.bandwidth": "4 TB"},
            r"^system\.chip\.memory\.dram\.bandwidth: wrong unit.*did you mean 4 TB/s",
        ),
        ({"system.nodes": 0}, r"^system\.nodes: is out of range"),
        ({"workload.kv_heads": 7}, r"^workload\.heads: must be a multiple of kv_heads"),
        ({"plan.micro_batches": -1}, r"^plan\.micro_batches: "),
        (
            {"system.chip.cores": 100, "system.chip.matrix.peak.bf16": 1e15},
            r"^system\.chip\.matrix\.peak\.bf16: is derived",
        ),
    ],
)
def test_a_bad_value_is_refused_where_it_was_set(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate_request("decode", "dgx-h100", "llama-3.1-8b", overrides)


def test_a_point_that_does_not_fit_is_told_apart_from_bad_input() -> None:
    with pytest.raises(InfeasibleError, match="tensor_parallel: tensor 3 x pipeline 1 x data 1"):
        estimate_request("decode", "dgx-h100", "llama-3.1-8b", {"plan.tensor_parallel": 3})


def test_paths_have_four_roots() -> None:
    assert ROOTS == ("system", "workload", "plan", "scenario")


# Training.


def test_a_training_request_reaches_all_four_roots() -> None:
    overrides = {
        "system.nodes": 4,
        "system.chip.memory.dram.bandwidth": "5 TB/s",
        "workload.layers": 40,
        "plan.tensor_parallel": 2,
        "plan.pipeline_parallel": 4,
        "plan.data_parallel": 4,
        "plan.virtual_pipeline": 5,
        "plan.micro_batch": 2,
        "plan.zero": "1",
        "plan.recompute": "selective",
        "plan.sequence_parallel": True,
        "plan.software": "megatron-2022",
        "scenario.global_batch": 64,
        "scenario.context": "500",
    }
    found = estimate_request("train", "dgx-h100", "llama-3.1-8b", overrides)
    row = found.to_row()
    assert (row["phase"], row["chips"], row["plan.micro_batches"], row["scenario.context"]) == ("train", 32, 8, 500)
    assert (row["plan.virtual_pipeline"], row["plan.zero"], row["plan.recompute"]) == (5, 1, "selective")
    assert (row["plan.sequence_parallel"], row["plan.software"]) == (True, "megatron-2022")
    assert float(found.case.model.layers) == 40.0
    assert float(found.case.system.chip.memory["dram"].bandwidth) == 5e12


def test_words_and_descriptions_give_the_same_training_step() -> None:
    overrides = {"system.nodes": 2, "workload.layers": 20, "plan.recompute": "full", "scenario.global_batch": 16}
    machine = vary_system(Varied(load_system("mi300x-8gpu")), {"nodes": 2})
    model = vary(Varied(load_model("qwen3-32b")), {"layers": 20})
    direct = estimate("train", machine, model, {"recompute": "full"}, {"global_batch": 16})
    asked = estimate_request("train", "mi300x-8gpu", "qwen3-32b", overrides)
    assert asked.to_row() == direct.to_row()
    assert asked.plans_tried == direct.plans_tried > 0


def test_the_best_training_plan_of_the_defaults() -> None:
    found = estimate_request("train", "asic-8", "llama-3.1-8b", {})
    assert found.to_row()["feasible"]
    assert set(found.defaults) == {
        "scenario.global_batch",
        "scenario.context",
        "plan.dtype",
        "plan.software",
        "scenario.bytes_per_sample",
        "phase",
    }


def test_training_software_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: megatron\nname: mine\ntitle: Of my own\nhost_step: 1 s\n", encoding="utf-8")
    settings = {"plan.tensor_parallel": 8, "scenario.global_batch": 8}
    usual = estimate_request("train", "dgx-h100", "llama-3.1-8b", settings).to_row()
    mine = estimate_request("train", "dgx-h100", "llama-3.1-8b", {**settings, "plan.software": str(path)}).to_row()
    assert mine["plan.software"] == "mine"
    assert mine["time_s"] - usual["time_s"] == pytest.approx(0.995, rel=1e-6)  # 5 ms until now


@pytest.mark.parametrize(
    ("phase", "path", "message"),
    [
        ("train", "plan.micro_batches", r"^plan\.micro_batches: is not part of train; training has plan\.micro_batch"),
        ("train", "scenario.batch", r"^scenario\.batch: is not part of train"),
        ("decode", "plan.zero", r"^plan\.zero: is not part of decode; it belongs to 'estimate train'"),
        ("decode", "scenario.global_batch", r"^scenario\.global_batch: is not part of decode"),
        ("prefill", "plan.virtual_pipeline", r"^plan\.virtual_pipeline: is not part of prefill"),
    ],
)
def test_what_belongs_to_the_other_phase_is_refused(phase: str, path: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        estimate_request(phase, "dgx-h100", "llama-3.1-8b", {path: 1})
