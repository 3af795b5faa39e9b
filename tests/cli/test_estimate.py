"""`cosim estimate`: one point, and every way in which it can be asked wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim import library

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
ASKED = ("estimate", "decode", "--system", "dgx-h100", "--workload", "llama-3.1-8b")
PROMISED = """system workload phase chips plan.tensor_parallel plan.pipeline_parallel plan.data_parallel
plan.micro_batches plan.dtype plan.kv_dtype scenario.batch scenario.context feasible limit limit_by time_s
tokens_per_s_per_chip tokens_per_s_per_user mfu memory_bytes.weights memory_bytes.kv memory_bytes.activations
memory_bytes.gradients memory_bytes.optimizer memory_bytes.other memory_bytes.total energy_j power_w bottleneck
breakdown_s.matmul breakdown_s.attention breakdown_s.vector breakdown_s.launch breakdown_s.collective
breakdown_s.bubble breakdown_s.host quality confidence"""


def asked(call: Call, *settings: str, phase: str = "decode") -> dict[str, Any]:
    """The JSON of an estimate with these settings."""
    sets = [word for setting in settings for word in ("--set", setting)]
    code, out, err = call("estimate", phase, *ASKED[2:], *sets, "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def refused(call: Call, *settings: str) -> str:
    """The one line on standard error of an estimate that is refused."""
    code, out, err = call(*ASKED, *(word for setting in settings for word in ("--set", setting)))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    return err


def test_json_has_the_promised_columns_and_its_breakdown_adds_up(call: Call) -> None:
    row = asked(call)
    assert set(PROMISED.split()) <= set(row)
    parts = sum(value for name, value in row.items() if name.startswith("breakdown_s."))
    assert parts == pytest.approx(row["time_s"], rel=1e-12)
    assert (row["feasible"], row["limit"], row["limit_by"]) == (True, "", None)


def test_what_is_left_open_is_the_documented_default_and_said(call: Call) -> None:
    row = asked(call)
    assert (row["scenario.batch"], row["scenario.context"], row["plan.dtype"]) == (1, 2048, "fp8")
    assert row["defaults"]["scenario.batch"] == 1
    assert row["plans_tried"] > 1
    out = call(*ASKED)[1]
    assert "defaults taken: scenario.batch=1, scenario.context=2048" in out
    assert f"(best of {row['plans_tried']} plans on all chips)" in out


def test_settings_reach_all_four_roots(call: Call) -> None:
    slow = "system.chip.memory.dram.bandwidth=1 TB/s"
    given = ("plan.tensor_parallel=2", "scenario.batch=64", "scenario.context=4096", "plan.dtype=bf16")
    plain, changed = asked(call, *given), asked(call, *given, slow, "workload.layers=16")
    assert (plain["chips"], plain["scenario.batch"], plain["plan.dtype"]) == (2, 64, "bf16")
    assert (plain["plans_tried"], "plan.dtype" in plain["defaults"]) == (0, False)
    # Half the layers halve keys and values: 2 x 8 heads x 128 x 2 B x 4,096 tokens x 64 / 2 chips per layer.
    assert plain["memory_bytes.kv"] == 32 * 2 * 8 * 128 * 2 * 4096 * 64 // 2
    assert changed["memory_bytes.kv"] == plain["memory_bytes.kv"] // 2
    # Half the bytes at 1 of 3.35 TB/s.
    assert changed["breakdown_s.attention"] == pytest.approx(1.67 * plain["breakdown_s.attention"], rel=0.1)


def test_the_given_best_plan_is_the_best_plan(call: Call) -> None:
    free = asked(call, "scenario.batch=8")
    degrees = ("tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches")
    fixed = asked(call, "scenario.batch=8", *(f"plan.{name}={free[f'plan.{name}']}" for name in degrees))
    assert fixed["time_s"] == pytest.approx(free["time_s"], rel=1e-12)
    worse = asked(call, "scenario.batch=8", "plan.data_parallel=8")
    assert worse["time_s"] >= free["time_s"]


def test_operators_are_listed_when_asked_for(call: Call) -> None:
    code, out, _ = call(*ASKED, "--ops")
    listed = json.loads(call(*ASKED, "--ops", "--json", "-")[1])["operators"]
    assert code == 0
    assert {"qkv", "attention", "ffn_in", "ffn_out", "logits"} <= {operator["name"] for operator in listed}
    for operator in listed:
        assert any(line.startswith(f"{operator['name']} ") for line in out.splitlines())
        assert {"shape", "count", "tiling", "bound", "dram_bytes", "utilisation", "time_s"} <= set(operator)
    assert "operators" not in asked(call)


def test_prefill_is_slower_and_reads_no_more_than_its_prompts(call: Call) -> None:
    decode, prefill = asked(call), asked(call, phase="prefill")
    assert (decode["phase"], prefill["phase"]) == ("decode", "prefill")
    assert prefill["time_s"] > decode["time_s"]
    assert prefill["tokens_per_s_per_chip"] > 100 * decode["tokens_per_s_per_chip"]


def test_system_and_workload_may_be_files(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: dgx-h100\nname: mine\nnodes: 2\n", encoding="utf-8")
    whole = library.find("workloads", "llama-3.1-8b").read_text(encoding="utf-8")
    half = whole.replace("layers: 32", "layers: 16").replace("name: llama-3.1-8b", "name: half")
    half = "".join(line for line in half.splitlines(keepends=True) if not line.startswith("published_parameters"))
    (tmp_path / "half.yaml").write_text(half, encoding="utf-8")
    files = ("--system", tmp_path / "mine.yaml", "--workload", tmp_path / "half.yaml")
    code, out, err = call("estimate", "decode", *files, "--json", "-")
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert (row["system"], row["workload"], row["chips"]) == ("mine", "half", 16)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("scenario.batches=2", "scenario.batches: unknown path; nearest: scenario.batch"),
        ("system.chip.memory.dram.bandwith=3 TB/s", "memory.dram.bandwidth"),
        ("cluster.nodes=2", "cluster.nodes: unknown path; a path starts with one of system, workload, plan, scenario"),
        ("nodes=2", "nodes: unknown path"),
        ("system.chip.memory.dram.bandwidth=3.35 TB", "wrong unit (got '3.35 TB'); did you mean 3.35 TB/s?"),
        ("system.chip.power.limit=700 watts", "unknown unit (got 'watts')"),
        ("system.chip.power.limit=-700 W", "is out of range"),
        ("system.chip.quality.matmul=1.2", "at most 1"),
        ("system.chip.power.limit=nan", "finite number"),
        ("scenario.batch=nan", "scenario.batch: Input should be a finite number"),
        ("scenario.batch=1e400", "scenario.batch: Input should be a finite number"),
        ("scenario.batch=0", "scenario.batch: Input should be greater than or equal to 1"),
        ("scenario.batch=1.5", "scenario.batch: Input should be a valid integer"),
        ("scenario.batch=many", "scenario.batch: Input should be a valid integer"),
        ("scenario.tpot_limit=20 GB", "scenario.tpot_limit: wrong unit"),
        ("workload.heads=7", "workload.heads: must be a multiple of kv_heads"),
        ("plan.dtype=bf61", "plan.dtype: Input should be"),
        ("plan.dtype=fp64", "plan.dtype: h100-sxm has no matrix rate for this format (got 'fp64')"),
        ("scenario.batch", "--set: is not path=value (got 'scenario.batch')"),
    ],
)
def test_a_wrong_setting_is_told_with_its_path_and_what_would_be_right(call: Call, setting: str, said: str) -> None:
    err = refused(call, setting)
    assert err.startswith("error: ")
    assert said in err


@pytest.mark.parametrize(
    ("settings", "limit", "said"),
    [
        (("plan.tensor_parallel=3",), "tensor_parallel", "must divide heads"),
        (("plan.tensor_parallel=16",), "chips", "no more chips than the system has"),
        (("plan.data_parallel=8", "scenario.batch=7"), "batch", "must divide the batch"),
        (("scenario.tpot_limit=1 us",), "tpot_limit", "s too slow"),
        (("scenario.batch=64", "scenario.context=131072", "plan.tensor_parallel=1"), "memory", "it fits with"),
        (("workload.layers=3000",), "memory", "of 80 GB per chip (weights"),
    ],
)
def test_a_plan_that_breaks_a_limit_names_it_and_the_way_out(
    call: Call, settings: tuple[str, ...], limit: str, said: str
) -> None:
    err = refused(call, *settings)
    assert err.startswith(f"does not fit: {limit}: ")
    assert said in err


def test_a_model_that_does_not_fit_says_what_takes_how_much_and_where_it_fits(call: Call) -> None:
    code, _, err = call(
        "estimate", "decode", "--system", "dgx-h100", "--workload", "llama-3.1-405b", "--set", "plan.dtype=bf16"
    )
    assert code == 2
    # 405.9 B parameters of 2 B are 812 GB; eight chips have 640 GB, sixteen 1,280 GB.
    assert "does not fit: memory: " in err
    assert "weights 101 GB" in err
    assert "on 16 chips (system.nodes=2)" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("estimate", "decod", *ASKED[2:]), "unknown phase (got 'decod'); nearest: decode"),
        ((*ASKED[:3], "dgx-h101", *ASKED[4:]), "no system has this name (got 'dgx-h101'); nearest: dgx-h100"),
        ((*ASKED[:3], "h100-sxm", *ASKED[4:]), "no system has this name"),
        ((*ASKED[:5], "llama-3.1-9b"), "no workload has this name (got 'llama-3.1-9b'); nearest: llama-3.1-8b"),
        ((*ASKED[:5], "none.yaml"), "none.yaml: no such file"),
        ((*ASKED, "--json", "none/a.json"), "--json: cannot be written"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(
    refused: Callable[[tuple[str, ...]], str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(arguments)
