"""`cosim estimate train`: one optimizer step on the screen, as JSON, kernel by kernel, as a timeline."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
ASKED = ("estimate", "train", "--system", "dgx-h100", "--workload", "llama-3.1-8b")
SMALL = ("scenario.global_batch=16",)
GIVEN = (
    *SMALL,
    "plan.tensor_parallel=2",
    "plan.pipeline_parallel=2",
    "plan.data_parallel=2",
    "plan.micro_batch=2",
    "plan.virtual_pipeline=4",
    "plan.zero=1",
    "plan.recompute=full",
    "plan.sequence_parallel=true",
)
PROMISED = """system workload phase chips plan.tensor_parallel plan.pipeline_parallel plan.data_parallel
plan.expert_parallel plan.micro_batches plan.micro_batch plan.virtual_pipeline plan.sequence_parallel plan.zero
plan.recompute plan.software plan.dtype scenario.global_batch scenario.context feasible limit limit_by time_s
time_s_best time_s_worst tokens_per_s_per_chip mfu memory_bytes.weights memory_bytes.activations memory_bytes.gradients
memory_bytes.optimizer memory_bytes.other memory_bytes.total energy_j power_w bottleneck breakdown_s.matmul
breakdown_s.attention breakdown_s.vector breakdown_s.launch breakdown_s.collective breakdown_s.bubble
breakdown_s.data_parallel breakdown_s.optimizer breakdown_s.host breakdown_s.throttle breakdown_s.offload
breakdown_s.data_loading memory_bytes.kv memory_bytes.buffers memory_bytes.workspace memory_bytes.host mfu.model_6n
mfu.causal mfu.full mfu.hardware scenario.bytes_per_sample tokens_per_s_per_user quality confidence plans_tried
defaults"""


def sets(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def asked(call: Call, *settings: str, ops: bool = False, system: str = "dgx-h100") -> dict[str, Any]:
    """The JSON of a training estimate with these settings."""
    options = ["--ops"] if ops else []
    arguments = [*ASKED[:3], system, *ASKED[4:], *sets(settings), *options, "--json", "-"]
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def line(text: str, name: str) -> str:
    return next(part for part in text.splitlines() if part.strip().startswith(name))


def test_json_has_the_promised_columns_and_its_parts_add_up(call: Call) -> None:
    row = asked(call, *SMALL)
    assert set(PROMISED.split()) <= set(row)
    for prefix, total in (("breakdown_s.", "time_s"), ("memory_bytes.", "memory_bytes.total")):
        parts = sum(value for name, value in row.items() if name.startswith(prefix) and name != total)
        assert parts == pytest.approx(row[total], rel=1e-12)
    assert (row["feasible"], row["limit"], row["limit_by"]) == (True, "", None)
    assert row["time_s_best"] < row["time_s"] < row["time_s_worst"]


def test_what_is_left_open_is_said_on_the_screen_and_in_json(call: Call) -> None:
    row = asked(call)
    assert (row["scenario.global_batch"], row["scenario.context"], row["plan.dtype"]) == (512, 2048, "bf16")
    assert row["defaults"] == {
        "scenario.global_batch": 512,
        "scenario.context": 2048,
        "plan.dtype": "bf16",
        "plan.software": "megatron",
        "phase": "train",
        "scenario.bytes_per_sample": "unknown (loading is no bound)",
    }
    code, out, err = call(*ASKED)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "train of llama-3.1-8b on dgx-h100, 8 chips"
    assert line(out, "asked").endswith(
        "global batch 512, length 2048   (defaults taken: scenario.global_batch=512, scenario.context=2048, "
        "plan.dtype=bf16, plan.software=megatron, scenario.bytes_per_sample=unknown (loading is no bound))"
    )
    assert line(out, "plan").endswith(f"(best of {row['plans_tried']} plans on all chips)")


def test_a_given_plan_is_shown_with_all_that_training_has(call: Call) -> None:
    code, out, err = call(*ASKED, *sets((*GIVEN, "plan.dtype=fp8", "plan.software=megatron-2022")))
    assert (code, err) == (0, "")
    plan = "tensor 2 x pipeline 2 x data 2, micro-batches 4 of 2, 4 pieces a stage, sequence parallel, zero 1, "
    assert line(out, "plan").strip() == f"plan        {plan}recompute full, fp8, megatron-2022 (given)"
    assert line(out, "asked").endswith(
        "global batch 16, length 2048   (defaults taken: scenario.context=2048, "
        "scenario.bytes_per_sample=unknown (loading is no bound))"
    )
    for name in ("time", "speed", "energy", "breakdown", "memory", "confidence"):
        assert line(out, name)
    assert "tokens/s/user" not in out
    assert "KV" not in out


def test_what_a_plan_does_not_have_is_not_shown(call: Call) -> None:
    plain = line(call(*ASKED, *sets((*SMALL, "plan.tensor_parallel=8")))[1], "plan")
    plan = "tensor 8 x pipeline 1 x data 1, micro-batches 16 of 1, zero 0, recompute none, bf16, megatron (given)"
    assert plain.strip() == f"plan        {plan}"
    experts = ("plan.tensor_parallel=2", "plan.data_parallel=4", "plan.expert_parallel=8", "plan.zero=3", *SMALL)
    shown = call(*ASKED[:5], "mixtral-8x7b", "--set", "workload.layers=8", *sets(experts))
    assert "tensor 2 x pipeline 1 x data 4 x experts 8, micro-batches 4 of 1" in line(shown[1], "plan")


def test_shares_of_time_and_memory_are_those_of_the_row(call: Call) -> None:
    row, out = asked(call, *GIVEN), call(*ASKED, *sets(GIVEN))[1]
    for name, prefix in (("breakdown", "breakdown_s."), ("memory", "memory_bytes.")):
        shown = line(out, name)
        shares = [int(share) for share in re.findall(r"\((\d+)%\)", shown)]
        assert shares == sorted(shares, reverse=True)
        assert abs(sum(shares) - 100) <= len(shares) / 2
        for key, value in row.items():
            part = key.removeprefix(prefix)
            if key.startswith(prefix) and part != "total":
                assert (f"{part} " in shown) == (value > 0.0)
    assert f"bottleneck {row['bottleneck']}, MFU {row['mfu']:.1%}" in line(out, "time")
    assert f"{row['tokens_per_s_per_chip']:,.4g} tokens/s/chip" in line(out, "speed")


def test_settings_reach_all_four_roots(call: Call) -> None:
    plain = asked(call, *GIVEN)
    other = asked(call, *GIVEN, "workload.layers=16", "system.chip.matrix.clock=0.9 GHz", "scenario.context=1024")
    assert (plain["plan.micro_batches"], plain["plan.virtual_pipeline"]) == (4, 4)
    assert (plain["plan.recompute"], plain["plan.sequence_parallel"], plain["plans_tried"]) == ("full", True, 0)
    assert other["scenario.context"] == 1024
    # Half the layers of half the length at half the clock.
    assert other["breakdown_s.matmul"] == pytest.approx(plain["breakdown_s.matmul"] / 2, rel=0.15)
    assert other["memory_bytes.weights"] < plain["memory_bytes.weights"]


def test_the_given_best_plan_is_the_best_plan(call: Call) -> None:
    free = asked(call, *SMALL)
    names = [
        name
        for name in free
        if name.startswith("plan.") and name != "plan.micro_batches" and free[name] not in ("", None)
    ]
    fixed = asked(call, *SMALL, *(f"{name}={free[name]}" for name in names))
    assert fixed["time_s"] == pytest.approx(free["time_s"], rel=1e-12)
    assert (free["plans_tried"] > 100, fixed["plans_tried"]) == (True, 0)
    assert asked(call, *GIVEN)["time_s"] >= free["time_s"]


def test_groups_that_share_states_are_shown_and_kept(call: Call) -> None:
    groups = ("plan.data_parallel=8", "plan.zero=3", "plan.shard=4", "scenario.global_batch=64")
    assert "zero 3 over 4," in line(call(*ASKED, *sets(groups))[1], "plan")
    row = asked(call, *groups)
    assert row["plan.shard"] == 4
    assert asked(call, *groups[:2], groups[3])["plan.shard"] is None
    assert row["memory_bytes.optimizer"] == pytest.approx(
        2 * asked(call, *groups[:2], groups[3])["memory_bytes.optimizer"], rel=1e-9
    )
    code, _, err = call(*ASKED, *sets((*groups[:2], "plan.shard=3", groups[3])))
    assert (code, "shard: " in err, "leaves 2 replicas over" in err) == (2, True, True)


def test_what_a_step_updates_is_shown_and_changes_it(call: Call) -> None:
    small = ("plan.data_parallel=8", "plan.zero=3", "scenario.global_batch=64")
    whole, few, none = (asked(call, *small, f"scenario.updates={each}") for each in ("all", "adapters", "nothing"))
    assert whole["time_s"] > none["time_s"] > few["time_s"]
    assert (few["scenario.adapter_rank"], whole["scenario.adapter_rank"]) == (16, None)
    shown = call(*ASKED, *sets((*small, "scenario.updates=adapters", "scenario.adapter_rank=8")))[1]
    assert ", updates adapters of rank 8 " in line(shown, "asked")
    assert ", updates nothing" in line(call(*ASKED, *sets((*small, "scenario.updates=nothing")))[1], "asked")


def test_a_rank_of_adapters_needs_adapters(call: Call) -> None:
    code, _, err = call(*ASKED, *sets((*GIVEN, "scenario.adapter_rank=8")))
    assert (code, "scenario.adapter_rank: is the rank of adapters" in err) == (2, True)
    code, _, err = call("estimate", "decode", *ASKED[2:], *sets(("scenario.updates=nothing",)))
    assert (code, "scenario.updates: is not part of decode" in err) == (2, True)


def test_what_is_set_without_degrees_stays_in_the_search(call: Call) -> None:
    free, full = asked(call, *SMALL), asked(call, *SMALL, "plan.recompute=full", "plan.zero=3", "plan.micro_batch=2")
    assert (full["plan.recompute"], full["plan.zero"], full["plan.micro_batch"]) == ("full", 3, 2)
    assert 0 < full["plans_tried"] < free["plans_tried"]
    assert full["time_s"] > free["time_s"]


def test_operators_of_every_pass_are_listed(call: Call) -> None:
    plain, again = asked(call, *SMALL, "plan.tensor_parallel=8", ops=True), asked(call, *GIVEN, ops=True)
    names = {operator["name"] for operator in plain["operators"]}
    products = {"qkv", "attention_out", "ffn_in", "ffn_out", "logits"}
    assert names >= products | {f"{name}.dgrad" for name in products} | {f"{name}.wgrad" for name in products}
    assert names >= {"attention", "attention.grad", "norm", "norm.grad", "cross_entropy", "cross_entropy.grad"}
    assert not {name for name in names if name.endswith(".again")}
    more = {operator["name"] for operator in again["operators"]}
    assert {"qkv.again", "attention.again", "norm.again"} <= more
    assert "logits.again" not in more
    counts = {operator["name"]: operator["count"] for operator in plain["operators"]}
    # 32 layers or one head in each of 16 micro-batches.
    assert {counts[f"qkv{pass_}"] for pass_ in ("", ".dgrad", ".wgrad")} == {512}
    assert (counts["logits.wgrad"], counts["norm"]) == (16, 1024)
    code, out, _ = call(*ASKED, *sets(GIVEN), "--ops")
    assert code == 0
    for operator in again["operators"]:
        assert any(text.startswith(f"{operator['name']} ") for text in out.splitlines())
    assert "operators" not in asked(call, *SMALL)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_kernels_make_up_the_time_of_one_stage(call: Call, recompute: str) -> None:
    row = asked(call, *SMALL, "plan.tensor_parallel=8", f"plan.recompute={recompute}", ops=True)
    for kind in ("matmul", "attention", "vector"):
        listed = sum(op["count"] * op["time_s"] for op in row["operators"] if op["kind"] == kind)
        assert listed == pytest.approx(row[f"breakdown_s.{kind}"], rel=1e-9)


def trace_of(path: Path) -> tuple[set[str], list[dict[str, Any]]]:
    """Names of tracks, and slices, of a gzipped timeline."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return {one["args"]["name"] for one in events if one["name"] == "thread_name"}, [
        one for one in events if one["ph"] == "X"
    ]


def test_a_timeline_of_a_training_step_is_written_beside_the_estimate(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "step.json.gz"
    code, out, err = call(*ASKED, *sets((*GIVEN, "plan.software=megatron-2022")), "--timeline", path)
    assert (code, err.startswith("timeline: ")) == (0, True)
    assert out.startswith("train of llama-3.1-8b on dgx-h100, 8 chips")
    tracks, slices = trace_of(path)
    assert tracks == {f"stage {stage}" for stage in (0, 1)} | {f"data ranks of stage {stage}" for stage in (0, 1)} | {
        f"link {ends}, {way}" for ends in ("0 to 1", "1 to 0") for way in ("forward", "backward")
    }
    labels = {one["name"] for one in slices}
    assert {"forward 0 piece 0", "backward 3 piece 3", "gather", "reduce", "optimizer"} <= labels
    row = asked(call, *GIVEN, "plan.software=megatron-2022")
    ends = max(one["ts"] + one["dur"] for one in slices) / 1e6
    # All but the host's 5 ms after the last update.
    assert ends + 0.005 == pytest.approx(row["time_s"] - row["breakdown_s.throttle"], rel=5e-3)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_timeline_of_a_serving_step(call: Call, tmp_path: Path, phase: str) -> None:
    path = tmp_path / "step.json.gz"
    plan = ("plan.tensor_parallel=2", "plan.pipeline_parallel=4", "plan.micro_batches=4", "scenario.batch=16")
    code, _, err = call("estimate", phase, *ASKED[2:], *sets(plan), "--timeline", path)
    assert (code, err.startswith("timeline: ")) == (0, True)
    tracks, slices = trace_of(path)
    assert tracks == {f"stage {stage}" for stage in range(4)} | {f"link {stage}" for stage in range(3)}
    assert {one["name"] for one in slices} >= {f"step 0 micro-batch {micro}" for micro in range(4)}


def test_a_timeline_without_gz_is_plain_and_json_still_takes_the_screen(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    code, out, _ = call(*ASKED, *sets(GIVEN), "--timeline", path, "--json", "-")
    assert (code, json.loads(out)["phase"]) == (0, "train")
    assert json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("plan.micro_batches=2",), "plan.micro_batches: is not part of train; training has plan.micro_batch"),
        (("plan.kv_dtype=fp8",), "plan.kv_dtype: is not part of train"),
        (("scenario.batch=8",), "scenario.batch: is not part of train"),
        (("scenario.tpot_limit=1 s",), "scenario.tpot_limit: is not part of train"),
        (("plan.zero=4",), "plan.zero: Input should be less than or equal to 3 (got 4)"),
        (("plan.recompute=half",), "plan.recompute: Input should be 'none', 'selective' or 'full' (got 'half')"),
        (("plan.software=megatrn",), "no software has this name (got 'megatrn'); nearest: megatron"),
        (("scenario.global_batch=0",), "scenario.global_batch: Input should be greater than or equal to 1"),
        (("scenario.global_batch=nan",), "scenario.global_batch: Input should be a finite number"),
        (("plan.dtype=mxfp8",), "plan.dtype: h100-sxm has no matrix rate for this format (got 'mxfp8')"),
        (("plan.sequence_parallel=maybe",), "plan.sequence_parallel: Input should be a valid boolean"),
    ],
)
def test_a_wrong_setting_of_training_is_one_message(
    refused: Callable[[tuple[str, ...]], str], settings: tuple[str, ...], said: str
) -> None:
    assert said in refused((*ASKED, *sets(settings)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("estimate", "trian", *ASKED[2:]), "unknown phase (got 'trian'); nearest: train"),
        (
            ("estimate", "decode", *ASKED[2:], "--set", "plan.zero=1"),
            "plan.zero: is not part of decode; it belongs to 'estimate train'",
        ),
        (
            ("estimate", "prefill", *ASKED[2:], "--set", "scenario.global_batch=8"),
            "scenario.global_batch: is not part of prefill",
        ),
        (
            (*ASKED, "--set", "scenario.global_batch=16", "--timeline", "none/step.json.gz"),
            "none/step.json.gz: cannot be written: No such file or directory; name another --timeline",
        ),
    ],
)
def test_what_is_asked_wrongly_is_one_message(
    refused: Callable[[tuple[str, ...]], str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(arguments)


@pytest.mark.parametrize(
    ("settings", "limit", "said"),
    [
        (("plan.data_parallel=8",), "memory", "; the nearest strategy that fits is tensor "),
        (("workload.layers=3000",), "memory", "use more nodes (system.nodes), more tensor or pipeline parallelism"),
        (("plan.tensor_parallel=3",), "tensor_parallel", "must divide heads"),
        (("plan.pipeline_parallel=4", "plan.virtual_pipeline=9"), "virtual_pipeline", "stages x pieces be at most"),
        (("plan.data_parallel=8", "plan.micro_batch=3"), "batch", "data_parallel x micro_batch the global batch"),
        (("plan.micro_batch=3",), "plan", "no degrees on 8 chips divide llama-3.1-8b and global batch 16 as asked"),
        (("scenario.context=200000", "plan.tensor_parallel=8"), "positions", "raise workload.max_positions"),
    ],
)
def test_a_plan_that_breaks_a_limit_names_it_and_the_way_out(
    call: Call, settings: tuple[str, ...], limit: str, said: str
) -> None:
    code, out, err = call(*ASKED, *sets((*SMALL, *settings)))
    assert (code, out) == (2, "")
    assert err.startswith(f"does not fit: {limit}: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_use_by_each_definition_and_what_lies_in_the_hosts_memory_are_shown(call: Call) -> None:
    row = asked(call, *GIVEN)
    code, out, err = call(*ASKED, *sets(GIVEN))
    assert (code, err) == (0, "")
    uses = [row[f"mfu.{name}"] for name in ("model_6n", "causal", "full", "hardware")]
    assert [f"{use:.1%}" for use in uses] == re.findall(r"[0-9.]+%", line(out, "MFU"))
    assert uses == sorted(uses)
    assert "host memory" not in out
    away = ("plan.offload_optimizer=0.5", "plan.optimizer=muon", "plan.recompute=none")
    away += ("plan.recompute_modules=norms,mlp", "plan.recompute_layers=2")
    code, out, err = call(*ASKED, *sets((*GIVEN, *away)))
    assert (code, err) == (0, "")
    assert line(out, "plan").endswith(
        "recompute norms and mlp of 2 layers a stage, bf16, megatron, muon in fp32, offloads optimizer 50% (given)"
    )
    assert line(out, "host memory").strip().endswith("of a chip offloaded")
    assert " host " not in line(out, "memory  ")


def test_samples_that_storage_reads_slowly_are_the_step_in_both_engines(call: Call, tmp_path: Path) -> None:
    slow = sets((*GIVEN, "scenario.bytes_per_sample=1 GB", "system.server.storage=2 GB/s"))
    code, out, err = call(*ASKED, *slow, "--timeline", str(tmp_path / "step.json.gz"))
    assert code == 0
    assert "8 s as events, 8 s in closed form" in err
    assert "bottleneck data_loading" in line(out, "time")
    assert "1 GB a sample" in line(out, "asked")
    code, out, _ = call(*ASKED, *sets((*GIVEN, "scenario.bytes_per_sample=1 GB")))
    assert "system.server.storage=0.98 GB/s (0.65 GB/s to 3.4 GB/s)" in line(out, "asked")


@pytest.mark.parametrize("degrees", [(), GIVEN])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("plan.recompute_modules=moe", "plan.recompute_modules: is no module of this model"),
        ("scenario.bytes_per_sample=3 s", "scenario.bytes_per_sample: wrong unit"),
        ("scenario.bytes_per_sample=0", "scenario.bytes_per_sample: Input should be greater than 0"),
    ],
)
def test_what_the_model_has_not_is_one_message_with_and_without_a_plan(
    call: Call, degrees: tuple[str, ...], wrong: str, words: str
) -> None:
    code, _, err = call(*ASKED, *sets((*degrees, wrong)))
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_layers_that_compute_nothing_again_are_refused_with_and_without_a_plan(call: Call) -> None:
    for degrees in ((), ("plan.tensor_parallel=8",)):
        code, _, err = call(*ASKED, *sets((*SMALL, *degrees, "plan.recompute_layers=4")))
        assert (code, err.count("\n")) == (2, 1)
        assert "says how many layers compute what again" in err
