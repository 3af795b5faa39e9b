"""Rows of a serving study: means and intervals over seeds, unknowns, units, what is infeasible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import InfeasibleError
from cosim.explore.serving.confidence import student_interval
from cosim.explore.serving.deployed import Deployed
from cosim.explore.serving.serve_file import Deployment
from cosim.explore.serving.serve_rows import about, refused, rows_of, summed_up, table_of, unit_of

NAN = float("nan")


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0.0, 1e6), min_size=2, max_size=9))
def test_a_summary_holds_mean_and_student_interval(values: list[float]) -> None:
    row = summed_up([{"ttft_s.p50": value} for value in values])
    expected = student_interval(np.array(values))
    assert row["ttft_s.p50"] == pytest.approx(expected.mean)
    assert row["ttft_s.p50.low"] <= row["ttft_s.p50"] <= row["ttft_s.p50.high"]
    assert row["ttft_s.p50.high"] == pytest.approx(expected.high)


def test_one_seed_has_no_interval_and_an_unknown_stays_unknown() -> None:
    row = summed_up([{"a": 3.0, "b": NAN}])
    assert row["a"] == 3.0
    assert np.isnan([row["a.low"], row["b"], row["b.high"]]).all()
    assert np.isnan(summed_up([{"b": 1.0}, {"b": NAN}])["b"])


def test_a_table_has_units_and_nulls() -> None:
    rows = [
        {"deployment": "a", "row": "seed", "ttft_s.p50": 0.5, "power_w": NAN, "feasible": True, "chips": 2},
        {"deployment": "b", "row": "summary", "feasible": False, "limit": "memory"},
    ]
    table = table_of(rows)
    assert table.num_rows == 2
    assert table["ttft_s.p50"].to_pylist() == [0.5, None]
    assert table["power_w"].to_pylist() == [None, None]
    assert table["feasible"].to_pylist() == [True, False]
    assert table["limit"].to_pylist() == [None, "memory"]
    assert table.schema.field("ttft_s.p50").metadata == {b"unit": b"s"}
    assert table.schema.field("chips").metadata is None


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ttft_s.p99", "s"),
        ("itl_s.mean.high", "s"),
        ("makespan_s", "s"),
        ("output_tokens_per_s", "token/s"),
        ("output_tokens_per_s.low", "token/s"),
        ("requests_per_s", "1/s"),
        ("usd_per_million_tokens", "USD"),
        ("memory_bytes.kv", "B"),
        ("good_share", ""),
        ("plan.tensor_parallel", ""),
    ],
)
def test_units(name: str, unit: str) -> None:
    assert unit_of(name) == unit


STAGES = {"tensor_parallel": 1, "pipeline_parallel": 2, "dtype": "bf16"}


@pytest.mark.usefixtures("shipped_files_read_once")
def test_what_a_deployment_is(ready: Callable[..., Deployed]) -> None:
    row = about("mine", ready(replicas=2, prefill={"replicas": 1}))
    assert (row["deployment"], row["system"], row["workload"]) == ("mine", "dgx-h100", "llama-3.1-8b")
    assert (row["replicas"], row["prefill_replicas"], row["chips_per_replica"]) == (2, 1, 1.0)
    assert (row["plan.dtype"], row["plan.weights_dtype"], row["plan.kv_dtype"]) == ("bf16", "bf16", "bf16")
    assert (row["plan.micro_batches"], about("p", ready(plan=STAGES))["plan.micro_batches"]) == (1.0, 2.0)
    assert row["memory_bytes.weights"] == pytest.approx(16.06e9, rel=0.01)
    kinds = ("weights", "kv", "activations", "gradients", "optimizer", "other")
    assert row["memory_bytes.total"] == pytest.approx(sum(row[f"memory_bytes.{kind}"] for kind in kinds))
    assert row["memory_bytes.gradients"] == row["memory_bytes.optimizer"] == 0.0
    assert row["feasible"] is True
    words = [row[name] for name in ("phase", "limit", "limit_by", "quality", "confidence")]
    assert words == ["serve", "", None, "own", "measured"]
    assert about("both", ready(prefill={"system": "asic-8"}))["confidence"] == "estimated"
    moe = about(
        "moe", ready(workload="qwen3-30b-a3b", plan={"tensor_parallel": 1, "expert_parallel": 2, "dtype": "bf16"})
    )
    assert (moe["plan.expert_parallel"], moe["plan.data_parallel"], moe["chips_per_replica"]) == (2.0, 2.0, 2.0)


@pytest.mark.usefixtures("shipped_files_read_once")
def test_one_seed_is_one_row(ready: Callable[..., Deployed]) -> None:
    made = ready()
    (row,) = rows_of("mine", made, [{"ttft_s.p50": 0.5}])
    assert (row["row"], row["seed"], row["ttft_s.p50"]) == ("summary", 0, 0.5)
    several = rows_of("mine", made, [{"ttft_s.p50": 0.5}, {"ttft_s.p50": 0.7}])
    assert [(each["row"], each["seed"]) for each in several] == [("seed", 0), ("seed", 1), ("summary", None)]
    assert several[-1]["ttft_s.p50"] == pytest.approx(0.6)
    table = table_of([row])
    # What nobody knows is a column of numbers without one.
    assert str(table.schema.field("limit_by").type) == str(table.schema.field("ttft_s.p50.low").type) == "double"


def test_what_is_infeasible_is_a_row_with_its_limit() -> None:
    error = InfeasibleError("memory", "lacks 3 GB", "use more chips")
    row = refused("big", Deployment(system="s", workload="w"), error)
    assert (row["feasible"], row["limit"], row["limit_text"]) == (False, "memory", str(error))
    assert "use more chips" in row["limit_text"]
    assert (row["phase"], row["limit_by"]) == ("serve", None)
