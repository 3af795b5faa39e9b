"""Ranked entries with numbers written by hand, in the shape that a run gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim.engines.analytic import BREAKDOWN
from cosim.explore.run import run_study
from cosim.report.page import report_run

TRAINS = """\
kind: train
question: Which of two machines trains a small model?
systems: [dgx-h100, asic-8]
chips: 8
runs:
  - {workload: llama-3.1-8b, global_batch: 8, length: 2048}
equal_quality:
  {matmul: 0.75, attention: 0.5, memory: 0.82, collective: 0.8, launch_gap: 2 us, collective_start: 5 us, source: ours}
"""
Entry = dict[str, Any]
NO_RIVAL = {"factor": None, "reason": "no rival", "against": None, "against_confidence": None}


@pytest.fixture
def entry(content: dict[str, Any]) -> Callable[..., Entry]:
    """One system's entry of a finding: 100 tokens/s/chip unless told; `able` False is one that cannot serve."""
    shape = content["findings"][0]["entries"][0]
    row = {
        "plan.tensor_parallel": 4,
        "plan.pipeline_parallel": 1,
        "plan.data_parallel": 2,
        "plan.micro_batches": 1,
        "plan.dtype": "fp8",
        "plan.kv_dtype": "fp8",
        "scenario.batch": 64,
        "tokens_per_s_per_user": 12.5,
        "mfu": 0.125,
        "bottleneck": "matmul",
        "power_w": 650.0,
        "energy_j": 52.0,
        "memory_bytes.weights": 40e9,
        "memory_bytes.kv": 20e9,
        "memory_bytes.activations": 1e9,
        "memory_bytes.other": 4e9,
        **{f"breakdown_s.{name}": 0.001 for name in BREAKDOWN},
    }

    def _entry(system: str, rate: float | None = 100.0, *, able: bool = True, **changes: object) -> Entry:
        made: Entry = {**copy.deepcopy(shape), "system": system, "command": f"cosim estimate decode --system {system}"}
        made["row"] |= row
        made["break_even"] = dict(NO_RIVAL)
        made |= {name: None for name in made if "usd" in name or name == "price"}
        if not able:
            made |= {"row": None, "why": "infeasible: memory"}
            del made["command"]
            rate = None
        return made | dict.fromkeys(("rate", "rate_equal", "rate_low", "rate_high"), rate) | changes

    return _entry


@pytest.fixture
def finding() -> Callable[..., Entry]:
    """A finding of these entries, best first; workload and phase are the first two words of the goal."""

    def _finding(*entries: Entry, goal: str = "llama decode, TPOT <= 15 ms", precision: str = "fp8") -> Entry:
        workload, phase = goal.partition(",")[0].split()
        made: Entry = {"goal": goal, "workload": workload, "phase": phase, "limit_s": 0.015, "per": "chip"}
        return made | {"precision": precision, "entries": list(entries)}

    return _finding


@pytest.fixture
def trained() -> Callable[..., Entry]:
    """One system's entry of a training finding: 1,000 tokens/s unless told; `able` False is one that cannot train."""
    row = {
        "chips": 2048,
        "plan.tensor_parallel": 8,
        "plan.pipeline_parallel": 4,
        "plan.data_parallel": 64,
        "plan.expert_parallel": 1,
        "plan.micro_batch": 2,
        "plan.virtual_pipeline": 1,
        "plan.context_parallel": 1,
        "plan.context_exchange": "ring",
        "plan.zero": 1,
        "plan.recompute": "full",
        "time_s": 12.3456,
        "mfu": 0.4567,
        "bottleneck": "matmul",
        "memory_bytes.total": 64.32e9,
        "power_w": 612.0,
        "tokens_per_j_facility": 0.8765,
        **{f"breakdown_s.{name}": 0.5 for name in BREAKDOWN},
    }

    def _trained(system: str, rate: float | None = 1000.0, *, able: bool = True, **changes: object) -> Entry:
        money = {f"usd_per_million{end}": None for end in ("", "_low", "_high")}
        made: Entry = {"system": system, "why": "", "row": copy.deepcopy(row), "plans": 12345, "has_range": True}
        made["command"] = f"cosim estimate train --system {system}"
        made |= {"break_even": dict(NO_RIVAL), "price": None, **money}
        if not able:
            made |= {"row": None, "why": "infeasible: memory"}
            del made["command"]
            rate = None
        return made | dict.fromkeys(("rate", "rate_equal", "rate_low", "rate_high"), rate) | changes

    return _trained


@pytest.fixture
def training() -> Callable[..., Entry]:
    """A training finding of these entries, best first."""

    def _training(*entries: Entry, goal: str = "training a model, 2,048 chips each", per: str = "chip") -> Entry:
        return {
            "goal": goal,
            "workload": "",
            "phase": "train",
            "limit_s": None,
            "per": per,
            "precision": "bf16",
            "entries": list(entries),
        }

    return _training


@pytest.fixture(scope="session")
def training_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study of training alone, with figure and page."""
    path = tmp_path_factory.mktemp("trains") / "trains.yaml"
    path.write_text(TRAINS, encoding="utf-8")
    return run_study(
        str(path), path.parent / "run", overrides={}, progress=lambda _done, _of, _what: None, report=report_run
    )
