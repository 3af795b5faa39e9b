"""Ranked entries with numbers written by hand, in the shape that a run gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cosim.engines.analytic import BREAKDOWN

Entry = dict[str, Any]


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
        made: Entry = {**copy.deepcopy(shape), "system": system}
        made["row"] |= row
        made["break_even"] = {"factor": None, "reason": "no rival", "against": None}
        made |= {name: None for name in made if "usd" in name or name == "price"}
        if not able:
            made |= {"row": None, "why": "infeasible: memory"}
            rate = None
        return made | dict.fromkeys(("rate", "rate_equal", "rate_low", "rate_high"), rate) | changes

    return _entry


@pytest.fixture
def finding() -> Callable[..., Entry]:
    """A finding of these entries, best first."""

    def _finding(*entries: Entry, goal: str = "decode, TPOT <= 15 ms", precision: str = "fp8") -> Entry:
        phase = goal.partition(",")[0]
        return {"goal": goal, "phase": phase, "limit_s": 0.015, "precision": precision, "entries": list(entries)}

    return _finding
