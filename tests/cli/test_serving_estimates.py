"""`cosim estimate` with weights in another format, of hybrids and of encoders; `cosim validate --kind inference`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., tuple[int, str, str]]
ASK = ["--system", "dgx-h100", "--workload", "llama-3.1-8b"]
HEAD = "id,source,workload,accelerator,system,num_accelerators,tp,batch,batch_kind,input_len,output_len,"
ROWS = """\
# two answers and a row that has none
{head}measured_quantity,measured_value,software_stack
a,lab,llama-3.1-8b,h100-sxm,dgx-h100,1,1,1,static_batch,512,128,tpot_s,0.006,vllm
b,lab,llama-3.1-8b,h100-sxm,,1,1,64,max_concurrency,512,128,output_tokens_per_s,4000,vllm
c,lab,no-model,h100-sxm,dgx-h100,1,1,1,static_batch,512,128,tpot_s,0.006,vllm
"""


def answer(call: Call, *words: str) -> dict[str, float]:
    code, out, err = call("estimate", *words, "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, float] = json.loads(out)
    return found


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("plan", [[], ["--set", "plan.tensor_parallel=2"]])
def test_weights_in_four_bits_take_less_memory_and_no_more_time(call: Call, phase: str, plan: list[str]) -> None:
    sixteen, four = (
        answer(call, phase, *ASK, *plan, "--set", "plan.dtype=bf16", *more)
        for more in ([], ["--set", "plan.weights_dtype=int4"])
    )
    assert (sixteen["plan.weights_dtype"], four["plan.weights_dtype"]) == ("", "int4")
    assert four["time_s"] <= sixteen["time_s"]
    chips = [row["plan.tensor_parallel"] * row["plan.pipeline_parallel"] for row in (sixteen, four)]
    whole = [row["memory_bytes.weights"] * count for row, count in zip((sixteen, four), chips, strict=True)]
    assert whole[1] < 0.45 * whole[0]


def test_the_format_of_the_weights_is_shown(call: Call) -> None:
    code, out, _ = call("estimate", "decode", *ASK, "--set", "plan.weights_dtype=int4", "--set", "plan.dtype=bf16")
    assert code == 0
    assert "bf16, weights int4, KV bf16" in out
    plain = call("estimate", "decode", *ASK)[1]
    assert "weights" not in next(line for line in plain.splitlines() if line.startswith("  plan"))


def test_a_plan_that_does_not_fit_is_explained_in_its_formats(call: Call) -> None:
    words = ["estimate", "decode", "--system", "dgx-h100", "--workload", "llama-3.1-405b", "--set", "plan.dtype=bf16"]
    given = ["--set", "plan.tensor_parallel=1", "--set", "plan.weights_dtype=int4"]
    code, _, err = call(*words, *given)
    assert code == 2
    assert "bf16, weights int4" in err.split("it fits with")[0]
    assert "bf16, weights int4" in err.split("it fits with")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("decode --set plan.weights_dtype=int3", "plan.weights_dtype: Input should be"),
        ("decode --set plan.dtype=fp8 --set plan.weights_dtype=bf16", "plan.weights_dtype: is wider than the products"),
        ("prefill --set plan.dtype=bf16 --set plan.weights_dtype=fp32", "products are in bf16"),
        ("train --set plan.weights_dtype=int4", "plan.weights_dtype: is not part of train"),
    ],
)
def test_a_format_that_makes_no_sense_is_refused_in_one_message(call: Call, words: str, message: str) -> None:
    code, out, err = call("estimate", *words.split(), *ASK)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("error:") == 1


@pytest.mark.parametrize("workload", ["nemotron-h-56b", "nemotron-3-nano-30b-a3b"])
def test_a_hybrid_is_served_in_both_phases(call: Call, workload: str) -> None:
    asked = ["--system", "dgx-h100", "--workload", workload, "--set", "plan.tensor_parallel=8"]
    short, long = (answer(call, "decode", *asked, "--set", f"scenario.context={size}") for size in (200, 8000))
    assert answer(call, "prefill", *asked)["time_s"] > short["time_s"] > 0.0
    # Few layers attend: forty times the context is far from forty times the cache.
    assert short["memory_bytes.kv"] < long["memory_bytes.kv"] < 40 * short["memory_bytes.kv"]
    assert short["time_s"] < long["time_s"] < 2 * short["time_s"]


def test_an_encoder_is_one_pass_and_near_its_description_as_layers(call: Call) -> None:
    more = ["--set", "plan.data_parallel=8", "--set", "scenario.context=384", "--set", "scenario.batch=64"]
    model, layers = (
        answer(call, "prefill", "--system", "dgx-h100", "--workload", name, *more)
        for name in ("bert-large-pretraining", "bert-large")
    )
    assert (model["memory_bytes.kv"], model["plan.kv_dtype"]) == (0, "")
    assert model["time_s"] == pytest.approx(layers["time_s"], rel=0.15)
    assert model["breakdown_s.matmul"] == pytest.approx(layers["breakdown_s.matmul"], rel=0.02)
    assert model["breakdown_s.attention"] == pytest.approx(layers["breakdown_s.attention"], rel=0.02)


def test_measured_runs_are_compared_and_what_is_not_answered_is_listed(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(ROWS.format(head=HEAD), encoding="utf-8")
    code, out, _ = call("validate", "--kind", "inference", "--cases", file, "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["cases"], found["evaluated"]) == ("inference", 3, 2)
    assert found["skipped"] == [{"id": "c", "reason": "workload no-model is not in the library"}]
    for row in found["rows"]:
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1.0)
    assert {row["id"] for row in found["rows"]} == {"a", "b"}


def test_a_file_without_a_column_that_is_needed_is_refused(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,workload,accelerator\na,b,c\n", encoding="utf-8")
    code, out, err = call("validate", "--kind", "inference", "--cases", file)
    assert (code, out) == (2, "")
    assert "measured_quantity" in err
