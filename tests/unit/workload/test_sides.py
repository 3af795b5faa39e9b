"""Both sides of a split model: together they are the whole graph, each operator on one of them."""

from __future__ import annotations

import pytest

from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.ops import Graph
from cosim.workload.sides import side_of
from cosim.workload.step import step_graph
from cosim.workload.work import Work

MODELS = ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "nemotron-3-nano-30b-a3b", "flan-t5-xl", "whisper-large-v3"]
MIXED = Work(array(2.0), array(512.0), array(0.0), array(8.0), array(1000.0), array(10.0))


def whole(model: str) -> Graph:
    return step_graph(lower_workload(Varied(load_workload(model))), MIXED)


def names(graph: Graph) -> list[str]:
    return [op.name for op in (*graph.matmuls, *graph.attentions, *graph.vectors, *graph.collectives)]


@pytest.mark.parametrize("model", MODELS)
def test_every_operator_is_on_one_side(model: str) -> None:
    graph = whole(model)
    near, far = side_of(graph, "attention"), side_of(graph, "feed_forward")
    assert sorted(names(near) + names(far)) == sorted(names(graph))
    assert side_of(graph, "whole") is graph


@pytest.mark.parametrize("model", MODELS)
def test_attention_embedding_and_head_are_near_and_experts_far(model: str) -> None:
    graph = whole(model)
    near, far = side_of(graph, "attention"), side_of(graph, "feed_forward")
    assert not far.attentions
    assert {op.group for op in (*far.matmuls, *far.vectors)} <= {"layer", "dense", "moe"}
    assert not any(op.group in ("dense", "moe") for op in (*near.matmuls, *near.vectors))
    assert all(op.routed is None for op in near.matmuls)
    assert far.matmuls
