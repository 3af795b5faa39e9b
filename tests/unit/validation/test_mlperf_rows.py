"""Rows of MLPerf by their scenario: samples of a query, chips that work on it, units, items of a sample."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.validation.cases import Case
from cosim.validation.inference import answers
from cosim.validation.inference_known import Client, Task, known
from cosim.validation.inference_rows import Asked, asked
from cosim.validation.mlperf_rows import BATCHES, as_run, fills, is_mlperf, is_stream, passes
from cosim.validation.row_system import CannotAnswerError

ROW: dict[str, object] = {
    "source": "mlcommons/inference_results",
    "source_key": "mlperf",
    "workload": "resnet-50",
    "accelerator": "a30",
    "num_accelerators": 1,
    "mode": "static",
    "measured_quantity": "e2e_s",
    "measured_value": 0.001,
    "software_stack": "tensorrt-llm",
    "framework": "TensorRT 8.6.0",
    "point_id": "mlperf:v3.0|A30|1|1|resnet50|SingleStream",
    "notes": "percentile p90 latency ns",
}
MULTI = {"point_id": "mlperf:v3.0|A30|1|1|resnet50|MultiStream", "notes": "percentile p99 latency ns"}
OTHER = {"software_stack": "other", "framework": "QUALCOMM Cloud AI SDK", "accelerator": "qualcomm-ai100-std"}


def row(**values: object) -> Case:
    return Case("r", 2, {name: str(value) for name, value in {**ROW, **values}.items()})


def read(**values: object) -> Asked:
    return asked(row(**values))


def size(found: Asked) -> float:
    return float(found.demand.concurrency)


def seconds(**values: object) -> float:
    (found,) = answers([row(**values)])
    assert found.predicted is not None, found.reason
    return found.predicted


@pytest.mark.parametrize(
    ("values", "batch"),
    [
        ({}, 1),
        (MULTI, 8),
        ({**MULTI, "notes": "percentile p90 latency ns"}, 1),
        ({**MULTI, "notes": "percentile per v5.1 summary (MultiStream p99, SingleStream p90)"}, 8),
        ({"mode": "offline", "point_id": "mlperf:v3.0|A30|1|1|resnet50|offline"}, 1),
    ],
)
def test_a_query_of_a_stream_is_one_static_batch_on_one_chip(values: dict[str, object], batch: int) -> None:
    found = read(**values, num_accelerators=4)
    assert (found.run, size(found), float(found.case.plan.data)) == ("static", batch, 1.0)
    assert any(told.startswith("query ") for told in found.completed)


@settings(max_examples=20, deadline=None)
@given(cards=st.integers(1, 20))
def test_runtimes_that_share_a_query_give_each_chip_whole_samples(cards: int) -> None:
    assert size(read(**MULTI, **OTHER, num_accelerators=cards)) == -(-8 // cards)
    assert size(read(**MULTI, num_accelerators=cards)) == 8


def test_more_chips_answer_a_single_query_no_sooner() -> None:
    assert seconds(num_accelerators=4) == seconds()
    assert seconds(**MULTI) > seconds()


def test_rows_of_others_stay_as_they_are() -> None:
    own = row(source="", source_key="ft_bert")
    assert not is_mlperf(own)
    assert not is_stream(own)
    assert as_run(own, known()) == (own, ())
    rate = row(measured_quantity="samples_per_s", mode="offline")
    assert is_mlperf(rate)
    assert not is_stream(rate)
    assert as_run(rate, known()) == (rate, ())


@pytest.mark.parametrize(("workload", "counts"), [("whisper-large-v3", "tokens"), ("gpt-j-6b", "samples")])
def test_rates_are_in_the_unit_of_the_task(workload: str, counts: str) -> None:
    assert known().tasks[workload].counts == counts
    found, told = as_run(row(workload=workload, measured_quantity="samples_per_s", mode="offline"), known())
    assert found.values["measured_quantity"] == {"tokens": "output_tokens_per_s"}.get(counts, "samples_per_s")
    assert bool(told) == (counts == "tokens")


@settings(max_examples=30, deadline=None)
@given(
    prompt=st.floats(1.0, 1e4),
    output=st.floats(1.0, 1e4),
    long=st.floats(1.0, 3.0),
    percentile=st.floats(0.0, 1.0),
)
def test_long_samples_are_longer_where_they_take_time(
    prompt: float, output: float, long: float, percentile: float
) -> None:
    task = Task(prompt=prompt, output=output, long=long, source="s")
    found = task.at(percentile)
    factor = long if percentile >= 0.9 else 1.0
    assert found == ((prompt, output * factor) if output > 1.0 else (prompt * factor, output))


def test_a_stream_has_the_lengths_of_its_percentile() -> None:
    task = known().tasks["bert-large"]
    assert float(read(workload="bert-large").demand.prompt) == pytest.approx(task.prompt * task.long)
    rate = read(workload="bert-large", mode="offline", measured_quantity="samples_per_s", notes="")
    assert float(rate.demand.prompt) == task.prompt


def test_beams_are_sequences_of_a_stream_and_tokens_of_a_server() -> None:
    task = known().tasks["gpt-j-6b"]
    own = {"workload": "gpt-j-6b", "accelerator": "h100-sxm"}
    assert size(read(**own)) == task.beams == 4
    rate = read(**own, mode="offline", measured_quantity="samples_per_s")
    assert float(rate.demand.output) == pytest.approx(task.output * task.beams)


def test_chips_that_are_filled_take_the_best_batch() -> None:
    offline = {"mode": "offline", "measured_quantity": "samples_per_s", "notes": ""}
    found = read(**offline, num_accelerators=2)
    assert fills(row(**offline))
    assert found.batches == tuple(2 * each for each in BATCHES)
    assert found.case.stack is not None
    assert found.case.stack.host_hidden
    best = seconds(**offline)
    given_one = [seconds(**offline, batch=each, batch_kind="static_batch") for each in BATCHES]
    assert best == pytest.approx(max(given_one), rel=0.1)
    assert read().batches == ()
    assert not fills(row(**offline, batch=8))


@pytest.mark.parametrize(
    ("stack", "workload", "engine"),
    [
        ("tensorrt-llm", "resnet-50", "tensorrt"),
        ("tensorrt-llm", "bert-large", "tensorrt"),
        ("tensorrt-llm", "whisper-large-v3", "tensorrt-llm"),
        ("other", "resnet-50", "compiled"),
        ("fastertransformer", "swin-tiny", "fastertransformer"),
    ],
)
def test_models_without_a_cache_run_in_the_engine_beside_the_stack(stack: str, workload: str, engine: str) -> None:
    found = read(software_stack=stack, workload=workload, accelerator="h100-sxm")
    assert found.case.stack is not None
    assert found.case.stack.name == engine


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({}, "int8"),
        ({"workload": "bert-large", "point_id": "mlperf:v3.0|A30|1|1|bert-99|SingleStream"}, "int8"),
        ({"workload": "bert-large", "point_id": "mlperf:v3.0|A30|1|1|bert-99.9|Server"}, "bf16"),
        ({"workload": "rnnt"}, "bf16"),
        ({"workload": "gpt-j-6b", "accelerator": "h100-sxm"}, "fp8"),
        ({"software_stack": "other", "framework": "onnxruntime", "accelerator": "rtx-4090"}, "fp32"),
    ],
)
def test_formats_follow_the_accuracy_that_is_asked(values: dict[str, object], dtype: str) -> None:
    assert read(**values).case.plan.dtype == dtype


def test_passes_of_a_sample() -> None:
    assert passes(row()) == 1.0
    assert passes(row(workload="dlrm")) == 270.0
    assert passes(row(workload="rnnt")) == 1.8
    assert passes(row(workload="rnnt", measured_quantity="samples_per_s")) == 1.0
    with pytest.raises(CannotAnswerError, match="how many items of 3d-unet"):
        passes(row(workload="3d-unet"))
    assert passes(row(workload="3d-unet", source="", source_key="a paper")) == 1.0


def test_clients_say_whether_they_share_a_query() -> None:
    assert not Client(name="c", when=(), source="s").shares_query
    assert {client.name for client in known().clients if client.shares_query} == {
        "MLPerf, reference implementations",
        "MLPerf, runtimes of makers",
    }


def test_a_chip_without_8_bit_floats_keeps_weights_in_4_bits() -> None:
    plan = read(workload="gpt-j-6b", accelerator="jetson-agx-orin").case.plan
    assert (plan.dtype, plan.weights_dtype) == ("bf16", "int4")
