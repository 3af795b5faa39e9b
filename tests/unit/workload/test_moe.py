"""The routed feed-forward: which ops it is made of, what is routed in it, and how often it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.overrides import Varied, vary
from cosim.records import Array, array
from cosim.workload.blocks import feed_forward_block
from cosim.workload.model import Model, ModelArrays, lower_model
from cosim.workload.moe import repeats, routed_block, routing_of
from cosim.workload.ops import Graph, Matmul
from cosim.workload.tokens import Tokens

Describe = Callable[..., Model]
Lowered = Callable[..., ModelArrays]
Choices = dict[str, Any]
UNIFORM = array(0.0)
TOKENS = Tokens("decode", array(3), array(1), array(40))


def block_of(model: ModelArrays, imbalance: Array = UNIFORM) -> Graph:
    return routed_block(model, TOKENS, imbalance)


def matmul(graph: Graph, name: str) -> Matmul:
    (found,) = [op for op in graph.matmuls if op.name == name]
    return found


def elements(op: Matmul) -> float:
    """Weights of one of its products."""
    return sum(float(axis.size) for axis in op.n) * (float(op.k.size) + op.bias)


@pytest.mark.parametrize(
    ("phase", "nodes"),
    [("prefill", 3.0), ("train", 3.0), ("decode", np.inf)],  # few tokens are sent copy by copy
)
def test_routing_is_that_of_the_model_the_scenario_and_the_phase(
    lowered: Lowered, routed_choices: Choices, phase: str, nodes: float
) -> None:
    model = lowered(**routed_choices, expert_groups=4, groups_per_token=3)
    routing = routing_of(model, array(0.25), phase)
    numbers = (routing.experts, routing.chosen, routing.nodes, routing.imbalance)
    assert tuple(float(number) for number in numbers) == (8.0, 2.0, nodes, 0.25)


@pytest.mark.parametrize("phase", ["prefill", "train", "decode"])
def test_a_router_without_groups_has_no_limit_of_nodes(lowered: Lowered, routed_choices: Choices, phase: str) -> None:
    assert float(routing_of(lowered(**routed_choices), UNIFORM, phase).nodes) == np.inf


@pytest.mark.parametrize(("query", "nodes"), [(1, np.inf), (40, 3.0)])
def test_a_block_is_routed_as_its_phase_is(lowered: Lowered, routed_choices: Choices, query: int, nodes: float) -> None:
    model = lowered(**routed_choices, expert_groups=4, groups_per_token=3)
    tokens = Tokens("decode" if query == 1 else "prefill", array(3), array(query), array(40))
    block = routed_block(model, tokens, UNIFORM)
    routings = [op.routed for op in (*block.matmuls, *block.vectors, *block.collectives) if op.routed is not None]
    assert {float(routing.nodes) for routing in routings} == {nodes}


@pytest.mark.parametrize(
    ("group", "times"), [("layer", 6.0), ("dense", 2.0), ("moe", 4.0), ("embed", 1.0), ("head", 1.0)]
)
def test_groups_run_as_often_as_the_model_has_their_layers(
    lowered: Lowered, routed_choices: Choices, group: str, times: float
) -> None:
    assert float(repeats(lowered(**routed_choices, dense_layers=2), group)) == times


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=8))
def test_dense_and_routed_layers_are_all_layers_at_every_point(
    describe: Describe, routed_choices: Choices, drawn: list[tuple[int, int]]
) -> None:
    dense, routed = np.array(drawn, dtype=float).T
    spec = describe(**routed_choices, layers=300)
    model = lower_model(vary(Varied(spec), {"layers": dense + routed, "dense_layers": dense}))
    assert repeats(model, "moe").tolist() == routed.tolist()
    assert (repeats(model, "dense") + repeats(model, "moe")).tolist() == repeats(model, "layer").tolist()


@pytest.mark.parametrize(("gated", "into"), [(True, [32.0, 32.0]), (False, [32.0])])
def test_a_router_scores_all_experts_and_each_expert_is_a_small_feed_forward(
    lowered: Lowered, routed_choices: Choices, gated: bool, into: list[float]
) -> None:
    block = block_of(lowered(**routed_choices, gated=gated))
    router, first, second = block.matmuls
    assert [op.name for op in block.matmuls] == ["router", "expert_in", "expert_out"]
    assert ([float(axis.size) for axis in router.n], float(router.k.size)) == ([8.0], 64.0)
    assert ([float(axis.size) for axis in first.n], float(first.k.size)) == (into, 64.0)
    assert ([float(axis.size) for axis in second.n], float(second.k.size)) == ([64.0], 32.0)
    activation = next(op for op in block.vectors if op.name == "expert_activation")
    assert (activation.reads, activation.writes, activation.splits) == (float(len(into)), 1.0, True)


def test_the_router_is_whole_on_every_rank_at_sixteen_bits(lowered: Lowered, routed_choices: Choices) -> None:
    block = block_of(lowered(**routed_choices))
    assert {op.name: (op.split, op.precision) for op in block.matmuls} == {
        "router": ("none", "head"),
        "expert_in": ("n", "linear"),
        "expert_out": ("k", "linear"),
    }


def test_what_works_on_chosen_tokens_is_routed_and_nothing_else(lowered: Lowered, routed_choices: Choices) -> None:
    block = block_of(lowered(**routed_choices, shared_experts=1), array(0.5))
    ops = (*block.matmuls, *block.vectors, *block.collectives)
    routed = {op.name for op in ops if op.routed is not None}
    assert routed == {
        "expert_in",
        "expert_out",
        "permute",
        "expert_activation",
        "unpermute",
        "dispatch",
        "combine",
    }
    assert {float(op.routed.imbalance) for op in ops if op.routed is not None} == {0.5}


def test_rows_are_those_before_routing(lowered: Lowered, routed_choices: Choices) -> None:
    model = lowered(**routed_choices, shared_experts=1)
    block = routed_block(model, Tokens("prefill", array(3), array(40), array(40)), UNIFORM)
    assert {float(op.m) for op in (*block.matmuls, *block.vectors, *block.collectives)} == {120.0}
    assert {op.group for op in (*block.matmuls, *block.vectors, *block.collectives)} == {"moe"}
    assert block.phase == "prefill"


def test_tokens_go_out_come_back_and_are_summed_over_tensor_ranks(lowered: Lowered, routed_choices: Choices) -> None:
    block = block_of(lowered(**routed_choices))
    found = [(op.name, op.kind, float(op.width), op.into) for op in block.collectives]
    assert found == [
        ("dispatch", "dispatch", 64.0, ""),
        ("combine", "combine", 64.0, ""),
        ("moe_sum", "routed_sum", 64.0, "router"),
    ]
    # Shared experts are split over the tensor ranks whatever tokens do.
    shared = block_of(lowered(**{**routed_choices, "shared_experts": 1}))
    assert [op.kind for op in shared.collectives if op.name == "moe_sum"] == ["all_reduce"]


@pytest.mark.parametrize(
    ("changes", "biased"),
    [
        ({}, set()),
        ({"router_bias": True}, {"router"}),
        ({"ffn_bias": True}, {"expert_in", "expert_out", "shared_in", "shared_out"}),
        ({"qkv_bias": True, "output_bias": True}, set()),
    ],
)
def test_router_and_experts_have_biases_of_their_own(
    lowered: Lowered, routed_choices: Choices, changes: dict[str, bool], biased: set[str]
) -> None:
    block = block_of(lowered(**routed_choices, shared_experts=1, **changes))
    assert {op.name for op in block.matmuls if op.bias} == biased


@pytest.mark.parametrize(("shared", "gated"), [(1, True), (3, True), (2, False)])
def test_shared_experts_are_one_feed_forward_of_their_joint_width(
    lowered: Lowered, routed_choices: Choices, shared: int, gated: bool
) -> None:
    model = lowered(**routed_choices, shared_experts=shared, gated=gated)
    block, alone = block_of(model), feed_forward_block(lowered(ffn=32 * shared, gated=gated), TOKENS)
    for mine, dense in (("shared_in", "ffn_in"), ("shared_out", "ffn_out")):
        one, other = matmul(block, mine), matmul(alone, dense)
        assert [float(axis.size) for axis in one.n] == [float(axis.size) for axis in other.n]
        assert (float(one.k.size), one.split, one.routed) == (float(other.k.size), other.split, None)
    act, added = (next(op for op in block.vectors if op.name == f"shared_{name}") for name in ("activation", "sum"))
    assert (act.reads, float(act.width[0].size)) == (alone.vectors[0].reads, 32.0 * shared)
    assert (added.reads, added.writes, float(added.width[0].size)) == (2.0, 1.0, 64.0)


def test_without_shared_experts_nothing_is_added(lowered: Lowered, routed_choices: Choices) -> None:
    block = block_of(lowered(**routed_choices))
    assert not [op.name for op in (*block.matmuls, *block.vectors) if op.name.startswith("shared")]


@settings(max_examples=60, deadline=None)
@given(
    hidden=st.integers(1, 9000),
    width=st.integers(1, 20_000),
    experts=st.integers(1, 512),
    shared=st.integers(0, 4),
    flags=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_weights_of_a_block_are_router_experts_and_shared_experts(
    lowered: Lowered, hidden: int, width: int, experts: int, shared: int, flags: list[bool]
) -> None:
    gated, biased, router_bias = flags
    changes = {"gated": gated, "ffn_bias": biased, "router_bias": router_bias, "shared_experts": shared}
    block = block_of(lowered(hidden=hidden, experts=experts, expert_ffn=width, **changes))
    first = width * (1 + gated)
    expert = first * (hidden + biased) + hidden * (width + biased)
    assert elements(matmul(block, "router")) == experts * (hidden + router_bias)
    assert elements(matmul(block, "expert_in")) + elements(matmul(block, "expert_out")) == expert
    joint = sum(elements(op) for op in block.matmuls if op.name.startswith("shared"))
    # The shared ones are one product: their second bias is one.
    assert joint == (shared * (first * (hidden + biased) + hidden * width) + hidden * biased if shared else 0)
