"""`cosim.simulate_serving`: settings as data, rows and records as promised, the same as from a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import cosim
from cosim.explore.studies import run_experiment

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
REQUESTS = {
    "count": 80,
    "arrivals": {"kind": "poisson", "rate": "10 Hz"},
    "prompt": {"kind": "fixed", "tokens": 300},
    "output": {"kind": "fixed", "tokens": 20},
}
PLAN = cosim.Strategy(tensor_parallel=1, dtype="bf16")


def test_rows_and_records() -> None:
    found = cosim.simulate_serving("dgx-h100", "llama-3.1-8b", REQUESTS, plan=PLAN, seeds=2, limits={"ttft": "1 s"})
    row = found.to_row()
    assert row["ttft_s.p50.low"] < row["ttft_s.p50"] < row["ttft_s.p50.high"]
    assert row["good_share"] == 1.0
    assert found.table().num_rows == 2
    records = found.records(1)
    assert records.num_rows == 80
    assert records.schema.field("arrival_s").metadata == {b"unit": b"s"}
    latency = records["finished_s"].to_numpy() - records["arrival_s"].to_numpy()
    assert np.mean(latency) == pytest.approx(found.rows()[1]["e2e_s.mean"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.outcomes = ()  # type: ignore[misc]  # what is tested


def test_the_same_as_from_a_file(tmp_path: Path) -> None:
    text = (
        "kind: serve\nquestion: x\nsystem: dgx-h100\nworkload: llama-3.1-8b\n"
        "plan: {tensor_parallel: 1, dtype: bf16}\nreplicas: 2\nseed: 4\nrequests:\n  count: 80\n"
        "  arrivals: {kind: poisson, rate: 10 Hz}\n  prompt: {kind: fixed, tokens: 300}\n"
        "  output: {kind: fixed, tokens: 20}\n"
    )
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    name, quiet = str(tmp_path / "mine.yaml"), lambda *_: None
    folder = run_experiment(name, tmp_path / "out", overrides={}, progress=quiet, report=lambda _: None)
    stored = pq.read_table(folder / "results.parquet").to_pylist()[0]
    row = cosim.simulate_serving("dgx-h100", "llama-3.1-8b", REQUESTS, plan=PLAN, replicas=2, seed=4).to_row()
    for column in ("ttft_s.p99", "e2e_s.mean", "tokens_per_j_chip", "usd_per_million_tokens", "mean_batch"):
        assert row[column] == pytest.approx(stored[column])


def test_handles_with_overrides() -> None:
    slow = cosim.system("dgx-h100").vary({"chip.memory.dram.pin_rate": "2 Gb/s"})
    small = cosim.workload("llama-3.1-8b").vary({"layers": 16})
    usual = cosim.simulate_serving(cosim.system("dgx-h100"), "llama-3.1-8b", REQUESTS, plan=PLAN).to_row()
    assert (
        cosim.simulate_serving(slow, "llama-3.1-8b", REQUESTS, plan=PLAN).to_row()["tpot_s.mean"] > usual["tpot_s.mean"]
    )
    half = cosim.simulate_serving("dgx-h100", small, REQUESTS, plan=PLAN).to_row()
    assert half["tpot_s.mean"] < 0.7 * usual["tpot_s.mean"]


def test_faults_are_one_message() -> None:
    with pytest.raises(cosim.SpecError, match="no description of requests has this name"):
        cosim.simulate_serving("dgx-h100", "llama-3.1-8b", "chatt")
    with pytest.raises(cosim.SpecError, match=r"replica: unknown field.*nearest: replicas"):
        cosim.simulate_serving("dgx-h100", "llama-3.1-8b", REQUESTS, replica=3)
    with pytest.raises(cosim.InfeasibleError, match=r"memory: llama-3.1-405b"):
        cosim.simulate_serving("dgx-h100", "llama-3.1-405b", REQUESTS, plan=PLAN)
