"""Serving from the command line: shipped studies, overrides, one message for a fault, a log against the simulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cosim.explore.store import read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Call = Callable[..., tuple[int, str, str]]
TEXT = """\
kind: serve
question: How many?
system: dgx-h100
workload: llama-3.1-8b
plan: {tensor_parallel: 1, dtype: bf16}
requests: chat
scenario: {count: 60}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["serving-h100", "serving-gpu-vs-asic"])
def test_shipped_studies_end_in_seconds(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("run", name, "--out", "found")
    assert code == 0, err
    run = read_run(tmp_path / "found")
    assert run["elapsed_s"] < 20.0
    assert out.splitlines()[0] == run["question"]
    assert out.splitlines()[-1] == "page: found/report.html"
    assert not run["infeasible"]
    shares = [each["summary"]["good_share"] for each in run["deployments"]]
    assert len(shares) == 3
    assert all(0.0 < share <= 1.0 for share in shares)
    assert f"{run['requests']}" in err.replace(",", "")


def test_json_and_overrides(call: Call, mine: Path) -> None:
    code, _, err = call(
        "run",
        mine,
        "--out",
        "found",
        "--set",
        "scheduler.max_sequences=4",
        "--set",
        "limits.ttft=1 ms",
        "--json",
        "a.json",
    )
    assert code == 0, err
    found = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert found["bottom_line"] == "no deployment keeps ttft 1 ms with any request"
    row = pq.read_table("found/results.parquet").to_pylist()[0]
    assert (row["scheduler.max_sequences"], row["finished"]) == (4, 60)
    assert call("report", "found")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "requests: chat",
            "requests: chatt",
            "mine.yaml:6: no description of requests has this name (got 'chatt'); nearest: chat",
        ),
        ("stack", "stack", "system.nodes=2"),
        ("dtype: bf16", "dtype: bf17", "mine.yaml:5: plan.dtype"),
        ("kind: serve", "kind: serv", "nearest: serve"),
        ("llama-3.1-8b", "llama-3.1-405b", "does not fit: memory: llama-3.1-405b on dgx-h100"),
    ],
)
def test_one_message_for_a_fault(call: Call, mine: Path, old: str, new: str, message: str) -> None:
    mine.write_text(TEXT.replace(old, new), encoding="utf-8")
    extra = ("--set", "plan.data_parallel=9") if old == "stack" else ()
    code, out, err = call("run", mine, "--out", "found", *extra)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("found").exists()


def test_schema_and_list(call: Call) -> None:
    code, out, _ = call("schema", "serve")
    assert code == 0
    fields = json.loads(out)["properties"]
    assert {"system", "requests", "deployments", "prefill", "autoscale", "speculation", "search"} <= set(fields)
    code, out, _ = call("list", "experiments")
    assert "serving-gpu-vs-asic" in out
    assert call("show", "serving-h100")[0] == 0


def test_a_log_against_the_simulation(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    header = {
        "name": "mine",
        "accelerator": "h100-sxm",
        "system": "dgx-h100",
        "workload": "llama-3.1-8b",
        "engine": "vLLM 0.19",
        "kv_cache": {"num_gpu_blocks": 1000, "block_size": 16},
    }
    Path("log.header.json").write_text(json.dumps(header), encoding="utf-8")
    rows = [
        "request_id,arrival,input_len,output_len,ttft_s,tpot_s,e2e_s",
        "a,0,300,20,0.1,0.01,0.3",
        "b,1,300,20,0.1,0.01,0.3",
    ]
    Path("log.csv").write_text("\n".join(rows), encoding="utf-8")
    code, out, err = call("validate", "--kind", "serving", "--cases", "log.csv")
    assert code == 0, err
    assert "serving: 6 of 6 cases answered" in out
    assert "error of" in out
    assert "1,000 KV blocks (memory model: " in out
