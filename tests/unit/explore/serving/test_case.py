"""From descriptions to replicas: more room never holds less, blocks by hand, formats, degrees, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.serving.layout import Layout
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.serving.case import LEAST_SEQUENCES, Replicas, Wanted, held, memory_text, replicas_of
from cosim.explore.serving.serve_file import SchedulerSettings, ServingPlan, SpeculationSettings
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.mapping.serving import load_serving
from cosim.overrides import Varied, vary
from cosim.workload.load import load_workload

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
Made = Callable[..., Wanted]


@pytest.fixture(scope="module")
def wanted() -> Made:
    def made(system: str = "dgx-h100", model: str = "llama-3.1-8b", stack: str = "vllm", **fields: Any) -> Wanted:
        plan = ServingPlan(**{"tensor_parallel": 1, "dtype": "bf16", **fields.pop("plan", {})})
        scheduler = SchedulerSettings(**fields.pop("scheduler", {}))
        changes = fields.pop("changes", {})
        machine = vary_system(Varied(load_system(system)), changes)
        return Wanted(machine, Varied(load_workload(model)), plan, load_serving(stack), scheduler, **fields)

    return made


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.5, 0.9), more=st.floats(0.01, 0.09), tensor=st.sampled_from([1, 2, 4]))
def test_more_memory_and_more_chips_never_hold_fewer_blocks(share: float, more: float, tensor: int) -> None:
    def blocks(memory_share: float, degree: int) -> int:
        machine = Varied(load_system("dgx-h100"))
        plan = ServingPlan(tensor_parallel=degree, dtype="bf16")
        scheduler = SchedulerSettings(memory_share=memory_share)
        model = Varied(load_workload("llama-3.1-8b"))
        return replicas_of(Wanted(machine, model, plan, load_serving("vllm"), scheduler)).scheduler.kv_blocks

    few = blocks(share, tensor)
    assert blocks(share + more, tensor) > few
    assert blocks(share, 2 * tensor) > 2 * few  # the weights are shared out too


@settings(max_examples=15, deadline=None)
@given(tensor=st.sampled_from([1, 2, 4, 8]), nodes=st.integers(1, 3))
def test_all_replicas_take_the_chips_that_there_are(tensor: int, nodes: int) -> None:
    machine = vary_system(Varied(load_system("dgx-h100")), {"nodes": nodes})
    plan = ServingPlan(tensor_parallel=tensor, dtype="bf16")
    model = Varied(load_workload("llama-3.1-8b"))
    found = replicas_of(Wanted(machine, model, plan, load_serving("vllm"), SchedulerSettings(), replicas="all"))
    assert found.count * found.chips == 8 * nodes


def test_the_scheduler_knows_what_a_sequence_keeps(wanted: Made) -> None:
    assert replicas_of(wanted()).scheduler.layout == Layout()
    hybrid = replicas_of(wanted(model="nemotron-3-nano-30b-a3b")).scheduler
    assert hybrid.layout.state > 100
    # Blocks that are asked for are those of tokens past the window.
    mixed = replicas_of(wanted(model="gpt-oss-20b", scheduler={"kv_blocks": 100})).scheduler
    assert (mixed.layout, mixed.kv_blocks) == (Layout(0, 2, 1, 128), 100)


def test_blocks_by_hand(wanted: Made) -> None:
    found = replicas_of(wanted(scheduler={"memory_share": 0.8}))
    # Keys and values of 8 heads of 128 in 32 layers of 2 bytes: 131,072 B a token.
    assert found.token_bytes == 2 * 8 * 128 * 32 * 2
    room = found.room
    left = 0.8 * float(room.most) / 0.8 - float(room.weights + room.activations + room.other)
    assert found.scheduler.kv_blocks == int(left // (16 * 131_072))
    assert float(room.weights) == pytest.approx(2 * 8.03e9, rel=0.01)
    assert replicas_of(wanted(scheduler={"kv_blocks": 100})).scheduler.kv_blocks == 100
    assert replicas_of(wanted(scheduler={"kv_blocks": 10_000_000})).scheduler.kv_blocks < 10_000_000


def test_a_model_that_drafts_is_cut_as_the_other(wanted: Made) -> None:
    drafts = SpeculationSettings(draft="qwen3-0.6b", acceptance=(0.7,))
    small = vary(Varied(load_workload("llama-3.1-8b")), {"heads": 6, "kv_heads": 2}, root="workload.")
    with pytest.raises(InfeasibleError, match=r"llama-3\.1-8b on dgx-h100"):
        replicas_of(wanted(model="llama-3.1-70b", plan={"tensor_parallel": 4}, speculation=drafts, draft=small))
    # A dense one beside shared experts has none to share.
    dense = Varied(load_workload("llama-3.1-8b"))
    plan = {"tensor_parallel": 1, "expert_parallel": 2}
    beside = replicas_of(wanted(model="qwen3-30b-a3b", plan=plan, speculation=drafts, draft=dense))
    alone = replicas_of(wanted(model="qwen3-30b-a3b", plan=plan))
    assert float(beside.room.weights - alone.room.weights) == pytest.approx(2 * 8.03e9, rel=0.01)


def test_a_pipeline_has_as_many_micro_batches_as_stages_unless_said(wanted: Made) -> None:
    own, said = (replicas_of(wanted(plan={"pipeline_parallel": 4, **more})) for more in ({}, {"micro_batches": 1}))
    assert float(own.case.plan.micro_batches) == own.completed["plan.micro_batches"] == 4.0
    assert float(said.case.plan.micro_batches) == 1.0
    assert "plan.micro_batches" not in said.completed
    assert "plan.micro_batches" not in replicas_of(wanted()).completed
    # Four stages that take turns do a large step in 4 + 3 quarters of stages, one after the other in 4 whole ones.
    assert own.table.linear_s[-1] < 0.6 * said.table.linear_s[-1]


def test_the_stack_gives_what_the_scheduler_leaves_open(wanted: Made) -> None:
    stack = load_serving("vllm")
    found = replicas_of(wanted())
    assert found.scheduler.token_budget == stack.token_budget.si
    assert found.scheduler.max_sequences == stack.max_sequences.si
    assert found.scheduler.batching == "chunked"
    assert {"scheduler.token_budget", "scheduler.max_sequences", "replicas", "plan.kv_dtype"} <= set(found.completed)
    own = replicas_of(wanted(scheduler={"token_budget": 512, "max_sequences": 64, "batching": "static"}))
    assert (own.scheduler.token_budget, own.scheduler.max_sequences, own.scheduler.batching) == (512, 64, "static")
    assert "scheduler.token_budget" not in own.completed
    assert replicas_of(wanted(stack="sglang")).scheduler.batching == "prefill_first"


def test_fewer_sequences_where_a_step_has_no_room_for_all_drafts(wanted: Made) -> None:
    drafts = SpeculationSettings(acceptance=0.5, drafts=3)
    found = replicas_of(wanted(scheduler={"token_budget": 1024}, speculation=drafts))
    assert found.scheduler.max_sequences == 1024 // 4
    assert found.completed["scheduler.max_sequences"] == 256
    assert found.scheduler.verified == 4
    with pytest.raises(SpecError, match="token_budget: is too small"):
        replicas_of(wanted(scheduler={"token_budget": 1024, "max_sequences": 300}, speculation=drafts))


def test_a_model_that_drafts_takes_time_memory_and_energy(wanted: Made) -> None:
    settings_ = SpeculationSettings(draft="llama-3.1-8b", acceptance=(0.7,))
    small = Varied(load_workload("llama-3.1-8b"))
    found = replicas_of(wanted(model="llama-3.1-70b", plan={"tensor_parallel": 4}, speculation=settings_, draft=small))
    plain = replicas_of(wanted(model="llama-3.1-70b", plan={"tensor_parallel": 4}))
    alone = replicas_of(wanted(plan={"tensor_parallel": 4}))
    assert float(found.room.weights) == pytest.approx(float(plain.room.weights + alone.room.weights))
    assert found.token_bytes == pytest.approx(plain.token_bytes + alone.token_bytes)
    assert float(found.room.activations) == max(float(plain.room.activations), float(alone.room.activations))
    assert found.scheduler.kv_blocks == int(float(found.room.left) // (16 * found.token_bytes))
    assert plain.draft_energy is None
    assert found.draft_energy is not None
    assert found.draft_energy.linear_j[0] == pytest.approx(alone.energy.linear_j[0])
    assert found.table.draft_s is not None
    assert 0.0 < found.table.draft_s[0] < found.table.linear_s[0]


def test_formats_that_are_left_open(wanted: Made) -> None:
    plain = replicas_of(wanted(plan={"dtype": None}))
    assert plain.completed["plan.dtype"] == plain.case.plan.dtype == "fp8"
    assert plain.case.plan.kv_dtype == str(load_serving("vllm").kv_dtype)
    assert replicas_of(wanted()).case.plan.kv_dtype == "bf16"
    kept = replicas_of(wanted(stack="llama.cpp", plan={"dtype": "int4"}))
    assert (kept.case.plan.dtype, kept.case.plan.weights_dtype) == ("bf16", "int4")
    assert "int4" in str(kept.completed["plan.weights_dtype"])
    with pytest.raises(SpecError, match=r"plan\.dtype: has no matrix rate.*nvfp4.*h100-sxm has"):
        replicas_of(wanted(plan={"dtype": "nvfp4"}))


def test_the_least_tensor_degree_with_room_is_taken(wanted: Made) -> None:
    found = replicas_of(wanted(model="llama-3.1-70b", plan={"tensor_parallel": None}))
    degree = found.completed["plan.tensor_parallel"]
    assert degree == found.chips == 4  # 141 GB of weights: two chips hold them and hardly any cache
    assert float(found.room.sequences) >= LEAST_SEQUENCES
    assert "plan.tensor_parallel" not in replicas_of(wanted()).completed


def test_experts_beyond_the_tensor_ranks_make_one_replica(wanted: Made) -> None:
    plan = {"expert_parallel": 4, "data_parallel": 8}
    found = replicas_of(wanted(model="qwen3-30b-a3b", plan=plan, scheduler={"token_budget": 2048}))
    assert (found.count, found.chips, float(found.case.plan.data)) == (2, 4.0, 4.0)
    # Budget and cache are those of all ranks together.
    assert found.scheduler.token_budget == 4 * 2048
    # A prompt is on one rank.
    assert found.scheduler.longest_piece == 2048
    alone = replicas_of(wanted(model="qwen3-30b-a3b", plan={"tensor_parallel": 2}))
    assert alone.count == 1
    with pytest.raises(SpecError, match=r"plan\.data_parallel: leaves ranks over"):
        replicas_of(wanted(model="qwen3-30b-a3b", plan={**plan, "data_parallel": 6}))


def test_swap_crosses_the_link_to_the_host(wanted: Made) -> None:
    swap = replicas_of(wanted(scheduler={"swap": True})).scheduler.swap
    assert swap is not None
    assert swap.token_bytes == 131_072
    assert 1e10 < swap.bandwidth < 1e12
    assert replicas_of(wanted()).scheduler.swap is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replicas": 9}, r"replicas: of 1 chips are more than the 8 of dgx-h100.*system.nodes=2"),
        ({"replicas": 2, "plan": {"data_parallel": 4}}, "replicas: is said twice"),
        ({"model": "resnet-50"}, "workload: has no tokens to serve"),
        ({"scheduler": {"prefix_cache": True, "prefix_tokens": 24}}, "prefix_tokens: does not fill blocks"),
    ],
)
def test_what_is_refused(wanted: Made, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replicas_of(wanted(**fields))


@pytest.mark.parametrize(
    ("fields", "limit", "words"),
    [
        ({"model": "llama-3.1-405b"}, "memory", ["weights 81", "lacks", "a sequence of 4,096 tokens takes"]),
        ({"plan": {"tensor_parallel": 3}}, "tensor_parallel", ["remainder"]),
        ({"plan": {"tensor_parallel": 16}}, "chips", ["more than there are"]),
        ({"plan": {"expert_parallel": 2}}, "expert_parallel", ["remainder"]),
    ],
)
def test_what_is_infeasible_says_the_limit(wanted: Made, fields: dict[str, Any], limit: str, words: list[str]) -> None:
    with pytest.raises(InfeasibleError) as error:
        replicas_of(wanted(**fields))
    assert error.value.limit == limit
    assert all(word in str(error.value) for word in words), str(error.value)


def test_memory_in_words(wanted: Made) -> None:
    found = replicas_of(wanted())
    text = memory_text(found.room)
    assert "16.1 GB" in text
    assert "are left" in text
    assert held(found.case) == found.room


def test_a_workload_with_overrides_is_another_one(wanted: Made) -> None:
    half = wanted()
    shorter = vary(half.model, {"layers": 16}, root="workload.")
    found: Replicas = replicas_of(Wanted(half.system, shorter, half.plan, half.stack, half.scheduler))
    assert found.token_bytes == 131_072 / 2
    assert np.all(found.table.decode_s <= replicas_of(half).table.decode_s + 1e-9)
