"""Runs whose prompts alone ask for more than their chips' peak are told, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.validation.cases import Case
from cosim.validation.inference import answers
from cosim.validation.inference_possible import flop_per_token, impossible, peak_needed
from cosim.validation.inference_rows import Asked, asked
from cosim.validation.named import named_model

ROW = {
    "workload": "llama-3.1-8b",
    "weights_dtype": "bf16",
    "kv_dtype": "bf16",
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "num_accelerators": 1,
    "tp": 1,
    "batch": 64,
    "input_len": 2000,
    "output_len": 100,
    "mode": "server",
    "batch_kind": "max_concurrency",
    "software_stack": "vllm",
    "point_id": "one",
}
PEAK = 989.4e12


def run(ttft: float, tpot: float, **columns: Any) -> list[Case]:
    """Both rows of a run."""
    pairs = (("ttft_s", ttft), ("tpot_s", tpot))
    made = [{**ROW, "measured_quantity": name, "measured_value": value, **columns} for name, value in pairs]
    return [Case(str(n), n, {name: str(cell) for name, cell in row.items()}) for n, row in enumerate(made)]


def read(rows: list[Case]) -> dict[int, Asked]:
    return {place: asked(row) for place, row in enumerate(rows)}


@pytest.mark.parametrize(("name", "billions"), [("llama-3.1-8b", 6.98), ("llama-3.1-70b", 68.5), ("gpt-oss-120b", 4.5)])
def test_a_token_of_a_prompt_meets_all_that_is_no_table_and_its_experts_alone(name: str, billions: float) -> None:
    assert flop_per_token(named_model(name)) == pytest.approx(2e9 * billions, rel=0.03)


@settings(max_examples=30, deadline=None)
@given(ttft=st.floats(1e-3, 100.0), tpot=st.floats(1e-4, 1.0), chips=st.sampled_from([1, 2, 8]))
def test_the_peak_that_a_run_needs_by_hand(ttft: float, tpot: float, chips: int) -> None:
    rows = run(ttft, tpot, num_accelerators=chips, tp=chips)
    first = read(rows)[0]
    flop = flop_per_token(first.case.model)
    tokens = 64 / (ttft + 99 * tpot) * 2000
    assert peak_needed(first, ttft, tpot, flop) == pytest.approx(tokens * flop / (chips * PEAK), rel=0.01)
    told = impossible(rows, read(rows))
    assert set(told) == ({0, 1} if tokens * flop > 1.001 * chips * PEAK else set()) or np.isclose(
        tokens * flop, chips * PEAK, rtol=0.01
    )


def test_a_run_past_its_peak_is_not_answered_and_says_why() -> None:
    found = answers([*run(0.1, 0.005), *run(2.0, 0.05, point_id="two")])
    assert [each.predicted is None for each in found] == [True, True, False, False]
    assert "impossible as it says: prompts take 3.0" in found[0].reason
    assert found[0].measured == 0.1


def test_one_time_alone_tells_nothing() -> None:
    rows = run(1e-3, 1e-4)
    assert set(impossible(rows, read(rows))) == {0, 1}
    for place in (0, 1):
        one = [rows[place]]
        assert impossible(one, read(one)) == {}
    nameless = run(1e-3, 1e-4, point_id="")
    assert impossible(nameless, read(nameless)) == {}


def test_workers_of_both_pools_count() -> None:
    rows = run(0.1, 0.005, tp="P1/D1", num_accelerators=8, notes="4 prefill + 4 decode workers")
    first = read(rows)[0]
    one = read(run(0.1, 0.005))[0]
    flop = flop_per_token(one.case.model)
    assert peak_needed(first, 0.1, 0.005, flop) == pytest.approx(peak_needed(one, 0.1, 0.005, flop) / 8.0)
    assert impossible(rows, read(rows)) == {}


def test_batches_are_no_runs_in_flight() -> None:
    rows = run(1e-3, 1e-4, batch_kind="static_batch", mode="static")
    assert impossible(rows, read(rows)) == {}
