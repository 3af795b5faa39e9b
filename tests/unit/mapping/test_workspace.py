"""Memory that holds no tensor of the model: by hand, in the sum, and nothing where a stack is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.mapping.memory import KINDS, Memory
from cosim.mapping.plan import PlanArrays
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.mapping.stages import stages
from cosim.mapping.training import training_memory
from cosim.mapping.workspace import largest_message
from cosim.records import array
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
SoftwareOf = Callable[..., SoftwareArrays]
LENGTH = 1024.0


def memory(model: ModelArrays, plan: PlanArrays, software: SoftwareArrays) -> Memory:
    device = shard(training_graph(model, array(1.0), array(LENGTH), fused=software.fused), plan)
    return training_memory(device, stages(model.layers, plan.pipeline), plan, software, array(2e9))


@settings(max_examples=30, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 8]),
    pipeline=st.sampled_from([1, 4]),
    fragmentation=st.floats(0.0, 0.5),
    workspace=st.floats(0.0, 4e9),
    library_=st.floats(0.0, 4e9),
    messages=st.integers(0, 4),
)
def test_each_is_its_number_and_the_sum_grows_by_them(
    model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf, **drawn: Any
) -> None:
    model = model_of("llama-3.1-8b")
    plan = plan_of(tensor_parallel=drawn["tensor"], pipeline_parallel=drawn["pipeline"])
    numbers = {"fragmentation": drawn["fragmentation"], "workspace": drawn["workspace"]}
    numbers |= {"library_buffers": drawn["library_"], "message_buffers": drawn["messages"]}
    plain, more = (memory(model, plan, software_of(**each)) for each in ({}, numbers))
    alone = drawn["tensor"] * drawn["pipeline"] == 1
    message = LENGTH * 4096 * 2.0 * (drawn["tensor"] > 1)
    expected = 0.0 if alone else drawn["library_"] + drawn["messages"] * message
    assert float(more.buffers[0]) == pytest.approx(expected)
    activations = float(more.activations[0])
    assert float(more.workspace[0]) == pytest.approx(drawn["workspace"] + drawn["fragmentation"] * activations)
    assert float(more.total[0]) == pytest.approx(sum(float(getattr(more, kind)[0]) for kind in KINDS))
    assert float(more.total[0]) >= float(plain.total[0])
    assert float(plain.buffers[0]) == float(plain.workspace[0]) == 0.0


def test_tokens_of_experts_are_the_largest_message(model_of: ModelOf, plan_of: PlanOf) -> None:
    model = model_of("mixtral-8x7b")

    def message(**plan: Any) -> float:
        asked = plan_of(**plan)
        graph = training_graph(model, array(1.0), array(LENGTH), fused=True)
        return float(largest_message(shard(graph, asked, array(8.0)), asked))

    assert message() == 0.0
    assert message(tensor_parallel=2) == LENGTH * 4096 * 2.0
    assert message(expert_parallel=8, data_parallel=8) > 1.5 * LENGTH * 4096 * 2.0


@pytest.mark.parametrize("name", sorted(library.names("software")))
def test_no_stack_of_the_library_says_any(name: str) -> None:
    arrays = lower_software(load_software(name))
    for field in ("library_buffers", "message_buffers", "workspace", "fragmentation"):
        assert float(getattr(arrays, field)) == 0.0


def test_a_stack_of_ones_own_says_them(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = "base: megatron\nname: own\ntitle: Ours\nworkspace: 64 MiB\nlibrary_buffers: 1 GB\nfragmentation: 0.05\n"
    path.write_text(f"{text}message_buffers: 2\n", encoding="utf-8")
    arrays = lower_software(load_software(str(path)))
    assert float(arrays.workspace) == 2.0**26
    assert float(arrays.library_buffers) == 1e9
    assert float(arrays.fragmentation) == 0.05
    assert float(arrays.message_buffers) == 2.0


def test_rows_that_the_ranks_of_an_expert_join_may_be_the_largest_message(model_of: ModelOf, plan_of: PlanOf) -> None:
    plan = plan_of(data_parallel=8, expert_parallel=2, expert_tensor_parallel=4)
    device = shard(training_graph(model_of("mixtral-8x7b"), array(1), array(4096), fused=True), plan)
    sizes = {op.name: float(op.size_bytes + op.far_bytes) for op in device.collectives}
    assert float(largest_message(device, plan)) == sizes["dispatch.joined"] > sizes["dispatch"]
