"""Request logs replayed: the header, our own times without error, scaled ones with it, what is skipped and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cosim
from cosim.errors import InfeasibleError, SpecError
from cosim.validation.cases import read_cases
from cosim.validation.serving import QUANTITIES, replay, validate_serving
from cosim.validation.serving_log import deployment_of, header_path, read_header

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Write = Callable[..., Path]
HEADER: dict[str, Any] = {
    "name": "mine",
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "workload": "llama-3.1-8b",
    "num_accelerators": 1,
    "engine": "vLLM 0.19.0",
    "weights_dtype": "bf16",
    "kv_dtype": "bf16",
    "scheduler": {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "max_model_len": None, "policy": "fcfs"},
    "kv_cache": {"num_gpu_blocks": 2000, "block_size": 16, "gpu_memory_utilization": 0.9},
    "dataset": "drawn",
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A log of so many requests with made-up times, or with `times` by quantity, and its header."""

    def _write(count: int = 40, times: dict[str, Any] | None = None, **header: Any) -> Path:
        random = np.random.default_rng(0)
        path = tmp_path / "log.csv"
        arrival = np.cumsum(random.exponential(0.1, count))
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write("# made up\n")
            out = csv.writer(file)
            out.writerow(["request_id", "arrival", "input_len", "output_len", *QUANTITIES])
            for index in range(count):
                row = [f"r{index}", arrival[index], 200 + 10 * index, 1 + index % 7]
                out.writerow([*row, *((1.0 if times is None else times[name][index]) for name in QUANTITIES)])
        header_path(path).write_text(json.dumps({**HEADER, **header}), encoding="utf-8")
        return path

    return _write


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_a_log_of_our_own_times_is_met(write: Write, factor: float) -> None:
    first = write()
    own = replay(read_cases("serving", first), first).predicted
    found = validate_serving(write(times={name: values * factor for name, values in own.items()}))
    assert found["kind"] == "serving"
    assert set(found["groups"]) == set(QUANTITIES)
    for group in found["groups"].values():
        for name in ("median_abs_error", "p90_abs_error"):
            assert group[name] == pytest.approx(abs(1.0 / factor - 1.0), abs=1e-9)
        for name in ("mean", "p50", "p90", "p99"):
            assert group[f"error_of_{name}"] == pytest.approx(1.0 / factor - 1.0, abs=1e-9)
    assert found["evaluated"] + len(found["skipped"]) == found["cases"] == 120
    assert {row["id"] for row in found["rows"]} >= {"r0 ttft_s", "r39 e2e_s"}


def test_what_has_no_answer_is_skipped_with_its_reason(write: Write) -> None:
    found = validate_serving(write(scheduler={"max_model_len": 500}))
    reasons = {each["id"]: each["reason"] for each in found["skipped"]}
    assert reasons["r0 tpot_s"] == "tpot_s was not measured" or "one token" in reasons["r0 tpot_s"]
    assert reasons["r39 e2e_s"] == "the request is refused"
    assert found["about"]["refused"]["max_context"] > 0
    blank = {name: [""] * 40 if name == "tpot_s" else [1.0] * 40 for name in QUANTITIES}
    found = validate_serving(write(times=blank))
    assert found["groups"]["tpot_s"]["evaluated"] == 0
    assert found["groups"]["tpot_s"]["error_of_mean"] is None
    assert found["groups"]["ttft_s"]["evaluated"] == 40


def test_the_order_of_the_log_does_not_matter(write: Write) -> None:
    path = write()
    straight = replay(read_cases("serving", path), path)
    cases = list(reversed(read_cases("serving", path)))
    for name in QUANTITIES:
        assert np.array_equal(replay(cases, path).predicted[name][::-1], straight.predicted[name], equal_nan=True)


def test_a_header_is_a_deployment(write: Write) -> None:
    header = read_header(write())
    asked, completed = deployment_of(header)
    assert completed == []
    assert (asked.system, asked.workload, asked.stack) == ("dgx-h100", "llama-3.1-8b", "vllm")
    assert (asked.scheduler.token_budget, asked.scheduler.max_sequences) == (2048, 64)
    assert (asked.scheduler.memory_share, asked.scheduler.block_tokens, asked.scheduler.max_context) == (0.9, 16, None)
    assert asked.plan.dtype == "bf16"
    path = write(weights_dtype="fp16", system="not-known")
    asked, completed = deployment_of(read_header(path))
    assert asked.plan.dtype == "bf16"
    assert completed == [f"system {asked.system} in place of not-known"]


@pytest.mark.parametrize(
    ("section", "setting", "said"),
    [
        ("kv_cache", {"enable_prefix_caching": True}, ["kv_cache.enable_prefix_caching true"]),
        ("kv_cache", {"enable_prefix_caching": False, "num_kv_tokens": 32000, "num_cpu_blocks": None}, []),
        ("scheduler", {"scheduler_reserve_full_isl": True, "max_num_partial_prefills": 1, "policy": "fcfs"}, []),
        ("scheduler", {"scheduler_reserve_full_isl": False}, ["scheduler.scheduler_reserve_full_isl false"]),
        ("scheduler", {"max_num_partial_prefills": 2}, ["scheduler.max_num_partial_prefills 2"]),
        ("scheduler", {"long_prefill_token_threshold": 0, "async_scheduling": True}, []),
        ("scheduler", {"long_prefill_token_threshold": 512}, ["scheduler.long_prefill_token_threshold 512"]),
        ("scheduler", {"policy": "priority"}, ['scheduler.policy "priority"']),
        ("scheduler", {"of_tomorrow": 1}, ["scheduler.of_tomorrow 1"]),
    ],
)
def test_settings_that_are_not_modelled_are_told(
    write: Write, section: str, setting: dict[str, Any], said: list[str]
) -> None:
    assert validate_serving(write(4, **{section: setting}))["about"]["not_modelled"] == said


def test_a_host_that_schedules_ahead_is_hidden(write: Write) -> None:
    def span(**scheduler: Any) -> float:
        path = write(scheduler=scheduler)
        return replay(read_cases("serving", path), path).run.busy_s[0]

    plain = span()
    assert span(async_scheduling=True) < span(async_scheduling=False) == plain


def test_prompts_in_pieces_are_as_the_header_says(write: Write) -> None:
    for said, batching in ((True, "chunked"), (False, "prefill_first"), (None, None)):
        asked, _ = deployment_of(read_header(write(scheduler={"enable_chunked_prefill": said})))
        assert asked.scheduler.batching == batching


@pytest.mark.parametrize(
    ("header", "ranks", "said"),
    [
        ({"num_accelerators": 4}, 4, ["data ranks 4 on 4 chips"]),
        ({"num_accelerators": 4, "tp": 4}, 1, []),
        ({"num_accelerators": 5, "tp": 2}, 2, ["data ranks 2 on 5 chips", "1 of 5 chips idle"]),
        ({"num_accelerators": 4, "dp": 2}, 2, ["2 of 4 chips idle"]),
        ({"num_accelerators": 4, "dp": 4}, 4, []),
        ({"num_accelerators": 4, "ep": 2, "workload": "qwen3-30b-a3b"}, 4, ["data ranks 4 on 4 chips"]),
        ({"num_accelerators": 1, "dp": 2}, 2, ["2 chips in place of 1"]),
        ({"num_accelerators": 1, "tp": 2}, 1, ["2 chips in place of 1"]),
    ],
)
def test_chips_are_filled_with_replicas_or_idle(
    write: Write, header: dict[str, Any], ranks: int, said: list[str]
) -> None:
    asked, completed = deployment_of(read_header(write(**header)))
    assert (asked.plan.data_parallel, completed) == (ranks, said)


def test_replicas_that_fill_the_chips_share_the_requests(write: Write) -> None:
    path = write()
    (one,) = replay(read_cases("serving", path), path).run.busy_s
    write(num_accelerators=4)
    several = replay(read_cases("serving", path), path).run.busy_s
    assert len(several) == 4
    assert 0.0 < several[1] < several[0] < one


@pytest.mark.parametrize(
    ("header", "formats", "said"),
    [
        ({"weights_dtype": "fp16"}, ("fp16", None, "bf16"), []),
        ({"weights_dtype": "bf16", "kv_dtype": "fp32"}, ("fp16", None, "bf16"), []),
        ({"weights_dtype": "fp8"}, ("fp16", "fp8", "bf16"), ["products fp16 of weights in fp8"]),
        ({"weights_dtype": "int4"}, ("fp16", "int4", "bf16"), ["products fp16 of weights in int4"]),
    ],
)
def test_a_format_that_the_chip_has_not_is_widened(
    write: Write, header: dict[str, Any], formats: tuple[str | None, ...], said: list[str]
) -> None:
    path = write(accelerator="v100-32gb-sxm", system="dgx-v100", **header)
    asked, completed = deployment_of(read_header(path))
    assert ((asked.plan.dtype, asked.plan.weights_dtype, asked.plan.kv_dtype), completed) == (formats, said)
    assert validate_serving(path)["evaluated"] > 100


def test_blocks_that_the_engine_counted_are_taken(write: Write) -> None:
    path = write()
    found = replay(read_cases("serving", path), path)
    assert (found.used_blocks, max(found.run.most_blocks) <= 2000) == (2000, True)
    assert found.modelled_blocks > 20_000
    path = write(kv_cache={})
    assert replay(read_cases("serving", path), path).used_blocks > 20_000


def test_ranks_that_share_experts_hold_their_blocks_each(write: Write) -> None:
    moe = {"workload": "qwen3-30b-a3b", "num_accelerators": 2, "ep": 2, "dp": 2}
    path = write(**moe)
    found = replay(read_cases("serving", path), path)
    assert found.used_blocks == 4000
    path = write(num_accelerators=2, dp=2)
    assert len(replay(read_cases("serving", path), path).run.busy_s) == 2


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"engine": "vlm 1"}, "engine: is no serving stack of the library.*nearest: vllm"),
        ({"accelerator": "abacus", "system": ""}, "system: is not in the library, nor a system of its chip"),
        ({"workload": "llama"}, "workload: no workload has this name"),
        ({"tp": 0}, "tp: .*greater than or equal to 1"),
        ({"num_accelerators": 0}, "num_accelerators: .*greater than or equal to 1"),
    ],
)
def test_a_header_that_cannot_be_served(write: Write, header: dict[str, Any], message: str) -> None:
    path = write(**header)
    with pytest.raises(SpecError, match=message) as error:
        validate_serving(path)
    assert error.value.file == header_path(path)


def _with_line(path: Path, request: str, column: int, value: str) -> Path:
    """The log with another value in a column of one request."""
    lines = path.read_text(encoding="utf-8").splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith(f"{request},"))
    fields = lines[place].split(",")
    lines[place] = ",".join([*fields[:column], value, *fields[column + 1 :]])
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (1, "", "arrival is not a number from 0"),
        (1, "-1", "arrival is not a number from 0"),
        (2, "zero", "input_len is not a whole number from 1"),
        (2, "1e300", "input_len is not a whole number from 1"),
        (3, "0", "output_len is not a whole number from 1"),
        (3, "2.5", "output_len is not a whole number from 1"),
    ],
)
def test_a_bad_line_is_left_out_and_the_rest_is_replayed(write: Write, column: int, value: str, reason: str) -> None:
    found = validate_serving(_with_line(write(), "r1", column, value))
    assert {each["reason"] for each in found["skipped"] if each["id"].startswith("r1 ")} == {reason}
    assert (found["about"]["requests"], found["about"]["requests_left_out"]) == (39, 1)
    assert found["evaluated"] + len(found["skipped"]) == found["cases"] == 120
    # The rest is as if the line were not there.
    path = write()
    without = [case for case in read_cases("serving", path) if case.id != "r1"]
    own = dict(zip((case.id for case in without), replay(without, path).predicted["e2e_s"], strict=True))
    assert {row["id"].split()[0]: row["predicted"] for row in found["rows"] if row["id"].endswith(" e2e_s")} == own


def test_a_log_of_bad_lines_alone_has_no_figure(write: Write) -> None:
    found = validate_serving(_with_line(write(1), "r0", 1, ""))
    assert (found["evaluated"], len(found["skipped"]), found["median_abs_error"]) == (0, 3, None)


def test_a_log_needs_its_header(write: Write) -> None:
    path = write()
    header_path(path).unlink()
    with pytest.raises(SpecError, match="no such file"):
        validate_serving(path)


def test_a_model_that_does_not_fit_says_so(write: Write) -> None:
    with pytest.raises(InfeasibleError, match="memory"):
        validate_serving(write(workload="llama-3.1-70b"))


def test_from_python_and_with_a_group(write: Write) -> None:
    path = write()
    assert cosim.validate("serving", path)["cases"] == 120
    with pytest.raises(SpecError, match="--group: does not go with --kind serving"):
        cosim.validate("serving", path, group="arrival")
