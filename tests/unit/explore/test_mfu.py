"""Use of the matrix engines by each definition: what it counts by hand, and how they compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.explore.estimate import estimate
from cosim.explore.metrics import MAXIMISED, metric_names
from cosim.explore.mfu import NAMES
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.workload.load import load_model, load_workload

SYSTEM, PEAK = "dgx-h100", 132 * 4096 * 1.83e9
ROOMY = {"chip.memory.dram.capacity": "100 TB"}


def row_of(model: str = "llama-3.1-8b", context: int = 2048, **plan: Any) -> dict[str, Any]:
    degrees = {"tensor_parallel": 8, "zero": 1, **plan}
    scenario = {"global_batch": 16, "context": context, **degrees.pop("scenario", {})}
    system = vary_system(Varied(load_system(SYSTEM)), ROOMY)
    return estimate("train", system, Varied(load_model(model)), degrees, scenario).to_row()


def test_every_definition_is_a_column_of_which_more_is_better() -> None:
    assert set(NAMES) <= set(metric_names()) & set(MAXIMISED)
    row = row_of()
    assert all(0.0 < row[name] < 1.0 for name in NAMES)


def test_llama_8b_by_hand() -> None:
    row = row_of(recompute="none")
    h, kv, f, layers, vocab, s = 4096, 1024, 14336, 32, 128256, 2048
    n = layers * (2 * h * h + 2 * h * kv + 3 * h * f + 2 * h) + vocab * h + h
    tokens = 16 * s
    per = row["time_s"] * 8 * PEAK
    assert row["mfu.model_6n"] == pytest.approx(6 * n * tokens / per, rel=1e-6)
    full = 12 * layers * h * s
    assert row["mfu.full"] == pytest.approx((6 * n + full) * tokens / per, rel=1e-6)
    assert row["mfu.causal"] == pytest.approx((6 * n + full * (s + 1) / (2 * s)) * tokens / per, rel=1e-6)
    assert row["mfu.hardware"] == row["mfu.causal"]
    assert row["mfu"] == pytest.approx(row["mfu.causal"], rel=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    context=st.sampled_from([512, 2048, 8192]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    model=st.sampled_from(["llama-3.1-8b", "qwen3-32b", "mixtral-8x7b"]),
    pipeline=st.sampled_from([1, 2]),
)
def test_they_count_more_and_more(context: int, recompute: str, model: str, pipeline: int) -> None:
    room = {"scenario": {"context": context, "global_batch": 8}, "zero": 3, "pipeline_parallel": pipeline}
    row = row_of(model, recompute=recompute, tensor_parallel=8 // pipeline, **room)
    assert row["mfu.model_6n"] < row["mfu.causal"] < row["mfu.full"]
    assert row["mfu.hardware"] >= row["mfu.causal"]
    assert (row["mfu.hardware"] > row["mfu.causal"]) == (recompute != "none")


def test_full_recompute_runs_the_forward_pass_of_the_layers_again() -> None:
    row = row_of(recompute="full", context=4096)
    h, vocab, layers, s = 4096, 128256, 32, 4096
    tokens, per = 16 * s, row["time_s"] * 8 * PEAK
    head = 6 * vocab * h * tokens / per
    again = row["mfu.hardware"] - row["mfu.causal"]
    assert again == pytest.approx((row["mfu.causal"] - head) / 3.0, rel=1e-3)
    half = row_of(recompute="full", recompute_layers=layers // 2, context=4096)
    assert (half["mfu.hardware"] - half["mfu.causal"]) * half["time_s"] == pytest.approx(
        again * row["time_s"] / 2.0, rel=1e-9
    )


def test_adapters_count_two_thirds() -> None:
    row, plain = row_of(scenario={"updates": "adapters"}, recompute="none"), row_of(recompute="none")
    ratio = row["mfu.model_6n"] * row["time_s"] / (plain["mfu.model_6n"] * plain["time_s"])
    assert ratio == pytest.approx(2.0 / 3.0, rel=1e-9)


def test_serving_has_none_of_them() -> None:
    found = estimate(
        "prefill", Varied(load_system(SYSTEM)), Varied(load_model("llama-3.1-8b")), {"tensor_parallel": 8}, {"batch": 1}
    )
    for name in NAMES:
        assert np.isnan(found.table()[name]).all()
        assert found.to_row()[name] is None


def test_a_network_has_none_of_them() -> None:
    network = Varied(load_workload("resnet-50"))
    found = estimate("train", Varied(load_system(SYSTEM)), network, {"data_parallel": 8}, {"global_batch": 512})
    row = found.to_row()
    assert 0.0 < row["mfu"] < 1.0
    assert [row[name] for name in NAMES] == [None] * len(NAMES)
