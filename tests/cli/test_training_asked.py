"""What a person who asks for training leaves out, or asks for in the wrong way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., tuple[int, str, str]]
LLAMA = ("estimate", "train", "--system", "dgx-h100", "--workload", "llama-3.1-8b")


def row_of(call: Call, *asked: str) -> dict[str, Any]:
    code, out, err = call(*asked, "--json", "-")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def sets(**values: object) -> list[str]:
    return [word for path, value in values.items() for word in ("--set", f"{path.replace('__', '.')}={value}")]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (sets(plan__schedule="interleaved"), "1f1b with plan.virtual_pipeline above 1"),
        (["--straggler", "1=1.2", "--straggler", "1=1.5"], "is named twice"),
        (["--slow-spread", "-0.1"], "is out of range"),
        (["--slow-spread", "0.1", "--seed", "-1"], "seed: is negative"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_message(call: Call, asked: list[str], said: str) -> None:
    code, out, err = call(*LLAMA, *asked)
    assert (code, out) == (2, "")
    assert said in err


def test_an_encoder_is_asked_for_no_more_tokens_than_it_was_made_for(call: Call) -> None:
    row = row_of(call, *LLAMA[:4], "--workload", "bert-base")
    assert row["scenario.context"] == row["defaults"]["scenario.context"] == 512


def test_short_sequences_are_tried_in_large_micro_batches(call: Call) -> None:
    asked = (
        *LLAMA[:4],
        "--workload",
        "bert-large-pretraining",
        *sets(scenario__global_batch=2048, scenario__context=128),
    )
    best = row_of(call, *asked)
    given = sets(plan__data_parallel=8, plan__zero=1, plan__micro_batch=256)
    assert best["plan.micro_batch"] > 16
    assert best["time_s"] <= row_of(call, *asked, *given)["time_s"] * (1.0 + 1e-12)


def test_a_network_takes_all_items_of_a_replica_at_once(call: Call) -> None:
    asked = (*LLAMA[:4], "--workload", "resnet-50", *sets(scenario__global_batch=256, plan__data_parallel=8))
    assert row_of(call, *asked)["plan.micro_batch"] == 32
    assert row_of(call, *asked, *sets(plan__micro_batch=4))["plan.micro_batch"] == 4


@pytest.mark.parametrize(("schedule", "pieces"), [("zb-v", 2), ("dualpipe", 2), ("zb-h1", 1)])
def test_pieces_follow_from_the_schedule(call: Call, schedule: str, pieces: int) -> None:
    plan = sets(plan__schedule=schedule, plan__tensor_parallel=2, plan__pipeline_parallel=4, scenario__global_batch=16)
    assert row_of(call, *LLAMA, *plan)["plan.virtual_pipeline"] == pieces


def test_stages_that_do_not_divide_the_layers_are_tried_with_pieces_that_come_out_even(call: Call) -> None:
    asked = ("estimate", "train", "--system", "dgx-h100", "--workload", "llama-3.1-405b")
    run = sets(system__nodes=2048, scenario__context=8192, scenario__global_batch=2048)
    given = sets(plan__tensor_parallel=8, plan__pipeline_parallel=16, plan__data_parallel=128, plan__virtual_pipeline=8)
    more = sets(plan__sequence_parallel="true", plan__zero=1, plan__recompute="full")
    best, one = row_of(call, *asked, *run), row_of(call, *asked, *run, *given, *more)
    assert best["time_s"] <= one["time_s"] * (1.0 + 1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_optimizer_that_is_named_updates_the_rows_in_hand_of_tables_alone(call: Call, optimizer: str) -> None:
    run = sets(scenario__global_batch=55296, plan__data_parallel=8, plan__micro_batch=6912)
    usual, named = (
        row_of(call, *LLAMA[:4], "--workload", "dlrm", *run, *more) for more in ([], sets(plan__optimizer=optimizer))
    )
    assert named["breakdown_s.optimizer"] <= usual["breakdown_s.optimizer"] * 1.01


def test_a_long_run_of_a_network_counts_items(call: Call) -> None:
    asked = ("goodput", "--system", "dgx-h100", "--workload", "resnet-50", *sets(scenario__global_batch=2048))
    code, out, err = call(*asked, "--tokens", "1.28e9", "--seeds", "1", "--json", "-")
    assert code == 0, err
    assert json.loads(out)["steps"] == 625_000


EXPERTS = ("--system", "dgx-h100", "--workload", "mixtral-8x7b", "--set", "system.nodes=8")
PLAN = ("plan.tensor_parallel=8", "plan.data_parallel=8", "plan.sequence_parallel=true", "plan.zero=1")


def experts_asked(call: Call, *settings: str) -> dict[str, Any]:
    words = [word for setting in (*PLAN, *settings) for word in ("--set", setting)]
    code, out, err = call("estimate", "train", *EXPERTS, *words, "--json", "-")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_ranks_of_an_expert_are_a_choice_of_the_plan(call: Call) -> None:
    follows = experts_asked(call, "plan.expert_parallel=8")
    whole = experts_asked(call, "plan.expert_parallel=8", "plan.expert_tensor_parallel=1")
    assert (follows["plan.expert_tensor_parallel"], whole["plan.expert_tensor_parallel"]) == (None, 1)
    # The same experts on every rank; tokens travel inside the tensor group in place of a sum of all of them.
    assert whole["memory_bytes.weights"] == follows["memory_bytes.weights"]
    assert whole["breakdown_s.collective"] != follows["breakdown_s.collective"]
    words = [word for setting in (*PLAN, "plan.expert_parallel=8") for word in ("--set", setting)]
    code, out, _ = call("estimate", "train", *EXPERTS, *words, "--set", "plan.expert_tensor_parallel=2")
    assert code == 0
    assert "x experts 8 of 2 ranks each," in out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("plan.expert_tensor_parallel=0", "plan.expert_tensor_parallel: Input should be greater than or equal to 1"),
        ("plan.expert_tensor_parallel=3", "leaves a remainder of"),
    ],
)
def test_a_width_of_experts_that_cannot_be_is_one_message(call: Call, setting: str, said: str) -> None:
    words = [word for each in (*PLAN, "plan.expert_parallel=8", setting) for word in ("--set", each)]
    code, out, err = call("estimate", "train", *EXPERTS, *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_serving_has_no_width_of_experts(call: Call) -> None:
    code, _, err = call("estimate", "decode", *EXPERTS, "--set", "plan.expert_tensor_parallel=2")
    assert (code, "is not part of decode" in err) == (2, True)


PLACED = ("plan.tensor_parallel=2", "plan.pipeline_parallel=4", "plan.data_parallel=8", "scenario.global_batch=64")


def placed(call: Call, *settings: str) -> dict[str, Any]:
    return row_of(call, *LLAMA, *(w for each in ("system.nodes=8", *PLACED, *settings) for w in ("--set", each)))


def test_the_order_of_ranks_is_a_choice_of_the_plan(call: Call) -> None:
    usual, same, near = placed(call), placed(call, "plan.order=tp-cp-ep-dp-pp"), placed(call, "plan.order=tp-cp-pp-dp")
    assert usual == same
    assert (usual["plan.order"], near["plan.order"]) == ("tp-cp-dp-pp", "tp-cp-pp-dp")
    assert near["breakdown_s.data_parallel"] > usual["breakdown_s.data_parallel"]
    words = [w for each in ("system.nodes=8", *PLACED, "plan.order=tp-cp-pp-dp") for w in ("--set", each)]
    code, out, _ = call(*LLAMA, *words)
    assert (code, ", order tp-cp-pp-dp," in out) == (0, True)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("tp-pp-dp", "plan.order: is no order of ranks (got 'tp-pp-dp'); each of tp, cp, dp, pp once, and ep or not"),
        ("dp-tp-cp-pp", "plan.order: is an order that is not modelled"),
        ("tp-cp-dp-vp", "plan.order: is no kind of rank (got 'vp')"),
    ],
)
def test_words_that_are_no_order_are_one_message(call: Call, order: str, said: str) -> None:
    code, out, err = call(*LLAMA, "--set", f"plan.order={order}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


FP8 = ("plan.tensor_parallel=8", "plan.dtype=fp8", "scenario.global_batch=8")


def in_fp8(call: Call, system: str, *settings: str) -> dict[str, Any]:
    words = [word for each in (*FP8, *settings) for word in ("--set", each)]
    return row_of(call, "estimate", "train", "--system", system, "--workload", "llama-3.1-8b", *words)


def test_the_recipe_of_fp8_is_a_choice_of_the_plan(call: Call) -> None:
    plain, named = in_fp8(call, "dgx-h100"), in_fp8(call, "dgx-h100", "plan.fp8_recipe=tensor")
    blocks = in_fp8(call, "dgx-h100", "plan.fp8_recipe=block")
    assert plain == named
    assert (plain["plan.fp8_recipe"], blocks["plan.fp8_recipe"]) == ("tensor", "block")
    assert blocks["breakdown_s.matmul"] > plain["breakdown_s.matmul"]
    # The attention's output is read once where it is quantised.
    assert blocks["breakdown_s.vector"] < plain["breakdown_s.vector"]
    there = [in_fp8(call, "dgx-b200", *more) for more in ((), ("plan.fp8_recipe=block",))]
    slower = [after["breakdown_s.matmul"] / before["breakdown_s.matmul"] for before, after in ((plain, blocks), there)]
    # Where the matrix engine scales by block products wait for the bytes of scales alone.
    assert slower[0] > slower[1]
    words = [word for each in (*FP8, "plan.fp8_recipe=block") for word in ("--set", each)]
    code, out, _ = call(*LLAMA, *words)
    assert (code, ", fp8 in blocks, megatron" in out) == (0, True)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (("plan.fp8_recipe=block",), "plan.fp8_recipe: is a recipe of fp8 (got 'block'); plan.dtype=fp8"),
        (("plan.fp8_recipe=block", "plan.dtype=bf16"), "plan.fp8_recipe: is a recipe of fp8"),
        (("plan.fp8_recipe=rows", "plan.dtype=fp8"), "plan.fp8_recipe:"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_message(call: Call, setting: tuple[str, ...], said: str) -> None:
    code, out, err = call(*LLAMA, *(word for each in setting for word in ("--set", each)))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
