"""Measured inference rows as cases and demands: what is read, what is completed, why a row is not answered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.validation.cases import Case
from cosim.validation.inference_known import known
from cosim.validation.inference_reader import Reader
from cosim.validation.inference_rows import QUANTITIES, Asked, asked
from cosim.validation.row_system import CannotAnswerError

ROW: dict[str, object] = {
    "workload": "llama-3.1-8b",
    "accelerator": "h100-sxm",
    "system": "dgx-h100",
    "num_accelerators": 2,
    "tp": 2,
    "weights_dtype": "bf16",
    "batch": 16,
    "batch_kind": "static_batch",
    "input_len": 512,
    "output_len": 128,
    "measured_quantity": "tpot_s",
    "measured_value": 0.01,
    "software_stack": "vllm",
}


def row(**values: object) -> Case:
    return Case("r", 2, {name: str(value) for name, value in {**ROW, **values}.items()})


def read(**values: object) -> Asked:
    return asked(row(**values))


def reason(**values: object) -> str:
    with pytest.raises(CannotAnswerError) as caught:
        read(**values)
    return str(caught.value)


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.integers(1, 100_000),
    output=st.integers(1, 10_000),
    batch=st.integers(1, 4096),
    quantity=st.sampled_from(QUANTITIES),
)
def test_lengths_and_batch_are_as_written(prompt: int, output: int, batch: int, quantity: str) -> None:
    found = read(input_len=prompt, output_len=output, batch=batch, measured_quantity=quantity)
    demand = found.demand
    assert (float(demand.prompt), float(demand.output), float(demand.concurrency)) == (prompt, output, batch)
    assert (found.run, found.quantity, found.case.phase) == ("static", quantity, "serve")
    assert math.isinf(float(demand.waves))


@pytest.mark.parametrize(
    ("kind", "mode", "run"),
    [
        ("static_batch", "", "static"),
        ("max_concurrency", "server", "in_flight"),
        ("offered QPS", "server", "offered"),
        ("engine max", "", "full"),
        ("engine max (1024)", "offline", "full"),
        ("", "static", "static"),
        ("", "offline", "full"),
        ("", "server", "full"),
    ],
)
def test_how_a_row_was_run(kind: str, mode: str, run: str) -> None:
    assert read(batch_kind=kind, mode=mode, offered_qps=1.0, workload="gpt-oss-20b").run == run


@pytest.mark.parametrize(("mode", "run"), [("offline", "full"), ("server", "limited"), ("static", "static")])
def test_a_task_of_a_benchmark_has_the_lengths_of_its_data(mode: str, run: str) -> None:
    found = read(workload="llama-2-70b", batch_kind="", batch="", input_len="", output_len="", mode=mode)
    task = known().tasks["llama-2-70b"]
    assert found.run == run
    assert (float(found.demand.prompt), float(found.demand.output)) == (task.prompt, task.output)
    assert any(name.startswith("lengths") for name in found.completed)


@pytest.mark.parametrize(
    ("workload", "notes", "limits"),
    [
        ("llama-2-70b", "", (2.0, 0.2)),
        ("llama-2-70b", "best of 2; interactive limits", (0.45, 0.04)),
        ("gpt-j-6b", "", (20.0, math.inf)),
        ("gpt-j-6b", "interactive limits", (20.0, math.inf)),  # it has no such scenario
    ],
)
def test_a_server_scenario_has_the_limits_of_its_task(workload: str, notes: str, limits: tuple[float, float]) -> None:
    blank = {"batch_kind": "", "batch": "", "input_len": "", "output_len": "", "workload": workload, "notes": notes}
    found = read(**blank, mode="server")
    assert (float(found.case.scenario.ttft_limit), float(found.case.scenario.tpot_limit)) == limits
    assert any(name.startswith("limits") for name in found.completed)
    free = read(**blank, mode="offline").case.scenario
    assert math.isinf(float(free.ttft_limit))
    assert math.isinf(float(free.tpot_limit))


@pytest.mark.parametrize(
    ("columns", "quantity"),
    [
        ({"workload": "llama-3.1-8b", "source_key": "mlperf"}, "output_tokens_per_s"),
        ({"workload": "llama-3.1-8b", "source_key": "another"}, "samples_per_s"),
        ({"workload": "gpt-j-6b", "source_key": "mlperf"}, "samples_per_s"),
    ],
)
def test_a_benchmark_that_counts_tokens_calls_them_samples_at_times(columns: dict[str, object], quantity: str) -> None:
    blank = {"batch_kind": "", "batch": "", "input_len": "", "output_len": "", "mode": "server"}
    found = read(**blank, **columns, measured_quantity="samples_per_s")
    assert found.quantity == quantity
    assert any(name.startswith("rate of tokens") for name in found.completed) == (quantity != "samples_per_s")


def test_a_load_generator_inside_the_engine_passes_no_front_end() -> None:
    inside = read(workload="llama-2-70b", source_key="mlperf").case.stack
    outside = read(workload="llama-2-70b").case.stack
    assert inside is not None
    assert outside is not None
    assert float(inside.request_start) == 0.0 < float(outside.request_start)
    assert inside.name == outside.name


def test_a_row_that_tells_more_of_its_software_has_that_ones_file() -> None:
    stacks = [
        read(software_stack="tensorrt-llm", framework=framework).case.stack
        for framework in ("TensorRT-LLM 0.14 + Triton backend", "trtllm 1.2.0rc2", "")
    ]
    assert [stack.name for stack in stacks if stack is not None] == [
        "tensorrt-llm-triton",
        "tensorrt-llm",
        "tensorrt-llm",
    ]


def test_a_client_that_draws_lengths_draws_shorter_ones() -> None:
    found = read(notes="InferenceX sweep", batch_kind="max_concurrency")
    client = next(client for client in known().clients if client.name == "InferenceX")
    assert float(found.demand.prompt) == pytest.approx(512 * client.lengths)
    assert float(found.demand.output) == pytest.approx(128 * client.lengths)
    assert float(found.demand.waves) == client.waves


def test_a_rate_is_offered_or_all_at_once() -> None:
    offers = {"batch_kind": "offered QPS"}
    assert float(read(**offers, offered_qps=2.5).demand.rate) == 2.5
    assert math.isinf(float(read(**offers, offered_qps="inf").demand.rate))
    assert math.isnan(float(read().demand.rate))


def test_the_first_token_asks_for_no_answer() -> None:
    assert float(read(measured_quantity="ttft_s", output_len="").demand.output) == 1.0
    assert float(read(output_len=0).demand.output) == 1.0
    assert float(read(input_len=0).demand.prompt) == 0.0


@pytest.mark.parametrize(
    ("missing", "quantity"), [("input_len", "tpot_s"), ("output_len", "tpot_s"), ("output_len", "e2e_s")]
)
def test_lengths_that_a_quantity_needs_are_never_guessed(missing: str, quantity: str) -> None:
    with pytest.raises(CannotAnswerError, match=f"{missing} is unknown"):
        read(**{missing: "", "measured_quantity": quantity})


def test_a_prompt_of_many_times_the_positions_is_no_run() -> None:
    with pytest.raises(CannotAnswerError, match="many times the model's 131072 positions"):
        read(input_len=1e12)


@pytest.mark.parametrize(("column", "text"), [("weights_dtype", "fp7"), ("kv_dtype", "fp9")])
def test_a_format_that_nobody_knows_is_a_reason(column: str, text: str) -> None:
    with pytest.raises(CannotAnswerError, match=f"{column} {text} is not known"):
        read(**{column: text})


def test_an_open_format_is_the_better_that_the_chip_has() -> None:
    found = read(weights_dtype="fp8-or-fp4", accelerator="b200-sxm", system="dgx-b200")
    assert found.case.plan.dtype in ("nvfp4", "mxfp4", "fp4")
    assert any("for fp8-or-fp4" in each for each in found.completed)
    assert read(weights_dtype="fp8-or-fp4").case.plan.dtype == "fp8"


def test_chips_that_no_degree_names_are_replicas_and_said() -> None:
    found = read(tp=4, dp="", num_accelerators=8)
    assert float(found.case.plan.data) == 2.0
    assert "dp 2" in found.completed


def test_a_batch_that_is_not_told_is_one_where_it_is_static() -> None:
    found = read(batch="")
    assert float(found.demand.concurrency) == 1.0
    assert "batch 1" in found.completed
    assert math.isnan(float(read(batch="", batch_kind="engine max").demand.concurrency))
    assert reason(batch="", batch_kind="max_concurrency") == "batch is unknown"


@pytest.mark.parametrize(
    ("columns", "degrees"),
    [
        ({"tp": 2}, (2, 1, 1, 1)),
        ({"tp": 8, "num_accelerators": 8}, (8, 1, 1, 1)),
        ({"tp": 2, "pp": 4, "num_accelerators": 8}, (2, 4, 1, 1)),
        ({"tp": "", "pp": 2, "num_accelerators": 8}, (4, 2, 1, 1)),
        ({"tp": 1, "dp": 8, "num_accelerators": 8}, (1, 1, 8, 1)),
        ({"tp": 1, "dp": 8, "num_accelerators": 8, "workload": "mixtral-8x7b"}, (1, 1, 8, 8)),
        ({"tp": 8, "ep": 8, "num_accelerators": 8, "workload": "mixtral-8x7b"}, (8, 1, 1, 8)),
        ({"tp": 8, "ep": 8, "num_accelerators": 8}, (8, 1, 1, 1)),  # a dense model has no experts
        ({"tp": 4, "num_accelerators": 2}, (2, 1, 1, 1)),  # ranks that are parts of a chip
    ],
)
def test_degrees_of_a_row(columns: dict[str, object], degrees: tuple[int, ...]) -> None:
    plan = read(**columns).case.plan
    assert tuple(int(x) for x in (plan.tensor, plan.pipeline, plan.data, plan.expert)) == degrees


def test_pools_have_plans_of_their_own_and_as_many_workers_as_take_the_chips() -> None:
    columns = {"tp": "P2/D4", "num_accelerators": 10, "batch": 64, "batch_kind": "max_concurrency"}
    found = read(**columns)
    assert found.prefill is not None
    assert (found.run, found.workers) == ("apart", (1.0, 2.0))
    assert (int(found.prefill.tensor), int(found.case.plan.tensor)) == (2, 4)
    assert (found.prefill.dtype, found.case.plan.dtype) == ("bf16", "bf16")
    said = read(**columns, notes="3 prefill + 1 decode")
    assert said.workers == (3.0, 1.0)
    assert "workers 3 prefill, 1 decode" in said.completed


@pytest.mark.parametrize(
    ("columns", "degrees"),
    [
        ({"ep": "P1/D1", "dp": "P1/D8"}, (1, 8, 8)),  # no rank of a worker holds all experts for itself
        ({"ep": "P1/D4", "dp": "P1/D8"}, (1, 8, 4)),
        ({"ep": "P1/D1", "dp": "P1/D1"}, (1, 1, 1)),
    ],
)
def test_ranks_of_a_worker_that_share_out_requests_share_out_experts(
    columns: dict[str, object], degrees: tuple[int, ...]
) -> None:
    found = read(
        workload="mixtral-8x7b",
        tp="P1/D1",
        num_accelerators=16,
        batch_kind="max_concurrency",
        notes="1 prefill + 1 decode",
        **columns,
    )
    plan = found.case.plan
    assert tuple(int(x) for x in (plan.tensor, plan.data, plan.expert)) == degrees


def test_attention_may_be_replicated_where_the_notes_say_so() -> None:
    found = read(workload="deepseek-v3", tp=8, num_accelerators=8, notes="attention data parallelism", system="")
    plan = found.case.plan
    assert (int(plan.tensor), int(plan.data), int(plan.expert)) == (1, 8, 8)
    assert "attention data parallel over 8" in found.completed


def test_a_row_without_degrees_has_a_choice_of_them() -> None:
    found = read(tp="", num_accelerators=8)
    assert found.layouts == (1, 2, 4, 8)
    assert "tp of the fastest plan" in found.completed
    assert read(tp="", num_accelerators=1).layouts == ()
    assert read(tp=2).layouts == ()


def test_a_network_is_whole_on_every_chip() -> None:
    found = read(workload="bert-large", tp="", num_accelerators=8, input_len=128, output_len=0)
    plan = found.case.plan
    assert (int(plan.tensor), int(plan.data)) == (1, 8)


@pytest.mark.parametrize(
    ("columns", "formats"),
    [
        ({}, ("bf16", None, "bf16")),
        ({"weights_dtype": "fp16"}, ("bf16", None, "bf16")),
        ({"weights_dtype": ""}, ("bf16", None, "bf16")),
        ({"weights_dtype": "fp8"}, ("fp8", None, "fp8")),  # the stack's format of the cache
        ({"weights_dtype": "fp8", "kv_dtype": "fp16"}, ("fp8", None, "bf16")),
        ({"weights_dtype": "fp8", "kv_dtype": "int8"}, ("fp8", None, "int8")),
        ({"weights_dtype": "int4"}, ("bf16", "int4", "fp8")),  # no chip multiplies it: kept narrow, widened
        ({"weights_dtype": "int8", "software_stack": "llama.cpp"}, ("bf16", "int8", "bf16")),
        ({"weights_dtype": "fp8", "accelerator": "a100-80gb-sxm", "system": "dgx-a100"}, ("bf16", "fp8", "fp8")),
    ],
)
def test_formats_of_products_weights_and_cache(
    columns: dict[str, object], formats: tuple[str, str | None, str]
) -> None:
    plan = read(**columns).case.plan
    assert (plan.dtype, plan.weights_dtype, plan.kv_dtype) == formats


def test_what_was_filled_in_is_said() -> None:
    assert read(kv_dtype="bf16").completed == ()
    found = read(weights_dtype="int4", system="").completed
    assert found == ("system dgx-h100", "products bf16 of weights in int4", "kv_dtype fp8")


def test_a_stack_that_is_not_named_is_the_plain_one() -> None:
    named, plain = (read(software_stack=name).case.stack for name in ("vllm", ""))
    assert named is not None
    assert plain is not None
    assert (named.name, plain.name) == ("vllm", "other")


def test_models_of_one_structure_make_one_batch() -> None:
    assert read().case.model.name == ""
    assert np.isfinite(read().case.system.chip.memory["dram"].capacity)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"workload": "no-model"}, "workload no-model is not in the library"),
        ({"workload": ""}, r"workload (blank) is not in the library"),
        ({"software_stack": "no-stack"}, "serving stack no-stack is not in the library"),
        ({"accelerator": "no-chip", "system": ""}, "nor a usual one of no-chip"),
        ({"measured_quantity": "joules"}, "measured quantity or value is unknown"),
        ({"measured_value": ""}, "measured quantity or value is unknown"),
        ({"measured_value": -1}, "measured quantity or value is unknown"),
        ({"batch_kind": "mixed bag"}, "batch_kind mixed bag is not modelled"),
        ({"batch_kind": "", "mode": "odd"}, "mode odd is not modelled"),
        ({"batch_kind": "", "mode": ""}, "mode (blank) is not modelled"),
        ({"tp": "P2/D4", "num_accelerators": 2}, "no number of workers of 2 and 4 chips makes 2"),
        ({"tp": 1.5}, "tp 1.5 is not a whole number"),
        ({"tp": "two"}, "tp two is not a number of zero or more"),
        ({"batch": -3}, "batch -3 is not a number of zero or more"),
        ({"weights_dtype": "fp32", "accelerator": "l4", "system": "l4-8gpu-pcie4"}, ""),
    ],
)
def test_why_a_row_cannot_be_answered(columns: dict[str, object], words: str) -> None:
    if words:
        assert words in reason(**columns)
    else:
        # What a chip multiplies in no unit of its own is run in the nearest that it has, or said.
        assert read(**columns).case.plan.dtype in ("fp32", "tf32")


def test_a_reader_says_what_is_not_there() -> None:
    reader = Reader(row(tp="0", ep="inf", notes=" words "))
    assert (reader.number("tp"), reader.number("ep"), reader.number("absent")) == (None, None, None)
    assert (reader.given("notes"), reader.given("absent"), reader.degree("batch")) == ("words", "", 16)
    reader.complete("tp", 4)
    assert reader.completed == ["tp 4"]
