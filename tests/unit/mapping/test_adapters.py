"""Adapters beside frozen weights: what a rank runs more going forward, and what it leaves out coming back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.mapping.adapters import INTO, OUT, SUM, adapted, adapters_of, gradients_of_adapters, is_adapted, is_adapter
from cosim.mapping.backward import backward
from cosim.mapping.device import DeviceGraph
from cosim.mapping.plan import PlanArrays
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays
from cosim.records import array
from cosim.workload.model import ModelArrays
from cosim.workload.training import training_graph

ModelOf = Callable[..., ModelArrays]
PlanOf = Callable[..., PlanArrays]
SoftwareOf = Callable[..., SoftwareArrays]
Both = Callable[..., tuple[DeviceGraph, DeviceGraph, DeviceGraph]]


@pytest.fixture(scope="session")
def both(model_of: ModelOf, plan_of: PlanOf, software_of: SoftwareOf) -> Both:
    """Plain forward pass of a rank, the one with adapters, and the gradients that are left."""

    def build(
        name: str = "llama-3.1-8b", software: str = "megatron", rank: float = 16, **fields: object
    ) -> tuple[DeviceGraph, DeviceGraph, DeviceGraph]:
        plan, stack = plan_of(**fields), software_of(software)
        graph = training_graph(model_of(name), plan.micro_batch, array(1024), fused=stack.fused)
        plain = shard(graph, plan)
        device = adapted(plain, array(rank))
        return plain, device, gradients_of_adapters(device, backward(device, graph, plan, stack))

    return build


def flop(device: DeviceGraph, ending: str = "") -> float:
    """FLOP of the products of one layer whose names end so."""
    own = [op for op in device.matmuls if op.group == "layer" and op.name.endswith(ending)]
    return float(sum(np.sum(2.0 * op.count * op.batch * op.m * op.n * op.k) for op in own))


def parameters(device: DeviceGraph) -> float:
    return float(sum(np.sum(op.count * op.parameters) for op in device.matmuls))


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 256), tensor=st.sampled_from([1, 2, 4, 8]))
def test_an_adapter_is_two_products_and_a_sum_beside_each_linear_layer(both: Both, rank: int, tensor: int) -> None:
    plain, device, _ = both(rank=rank, tensor_parallel=tensor)
    bases = [op for op in plain.matmuls if is_adapted(op)]
    own = {op.name: op for op in device.matmuls}
    assert len(device.matmuls) == len(plain.matmuls) + 2 * len(bases)
    assert len(device.vectors) == len(plain.vectors) + len(bases)
    for op in bases:
        into, out = own[f"{op.name}{INTO}"], own[f"{op.name}{OUT}"]
        assert (float(into.k), float(into.n), float(into.m)) == (float(op.k), rank, float(op.m))
        assert (float(out.k), float(out.n), float(out.count)) == (rank, float(op.n), float(op.count))
    trained = parameters(adapters_of(device))
    assert trained == sum(float(op.count) * rank * float(op.n + op.k) for op in bases)
    assert parameters(device) == parameters(plain) + trained


def test_the_parameters_of_rank_16_on_llama_8b_by_hand(both: Both) -> None:
    _, device, _ = both()
    # A layer: query, key and value as one product (4096 to 6144), output, gate and up as one, down.
    widths = [(4096, 4096 + 2 * 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)]
    assert parameters(adapters_of(device)) == pytest.approx(16 * sum(k + n for k, n in widths), rel=0.2)


@pytest.mark.parametrize("software", ["megatron", "megatron-2022"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt3-175b"])
def test_frozen_weights_have_no_gradients_and_adapters_have(both: Both, name: str, software: str) -> None:
    _, device, left = both(name, software)
    made = {op.name for op in (*left.matmuls, *left.vectors)}
    for op in device.matmuls:
        if op.activations:
            continue
        assert f"{op.name}.dgrad" in made
        assert (f"{op.name}.wgrad" in made) == is_adapter(op.name)
        assert (f"{op.name}.accumulate" in made) == (is_adapter(op.name) and software == "megatron-2022")
    assert not {word for word in made if word.endswith((".scales", ".bias"))}
    assert not [op for op in (*left.vectors, *left.collectives) if op.group == "embed"]
    assert sorted(word for word in made if SUM in word) == sorted(
        f"{op.name}{SUM}.grad" for op in device.matmuls if is_adapted(op)
    )


def test_products_of_activations_keep_both_gradients(both: Both) -> None:
    _, device, left = both("gpt3-175b", "megatron-2022")
    made = {op.name for op in left.matmuls}
    inner = [op.name for op in device.matmuls if op.activations]
    assert inner
    assert {f"{name}{ending}" for name in inner for ending in (".dgrad", ".wgrad")} <= made


def test_the_way_back_of_frozen_products_is_as_much_work_as_the_way_there(both: Both) -> None:
    plain, _, left = both()
    assert flop(left, ".dgrad") == pytest.approx(flop(plain), rel=0.02)
    narrow = flop(left, ".wgrad")
    assert 0.0 < narrow < 0.02 * flop(plain)


def test_experts_embedding_and_head_have_no_adapters(both: Both) -> None:
    _, device, _ = both("mixtral-8x7b")
    assert {op.group for op in device.matmuls if is_adapter(op.name)} == {"layer"}
    assert not [op for op in device.matmuls if op.routed and is_adapter(op.name)]


def test_what_an_adapter_keeps_is_its_inner_tensor(both: Both) -> None:
    plain, device, _ = both(rank=8, micro_batch=2)
    more = [tensor for tensor in device.saved if tensor not in plain.saved]
    assert len(more) == len([op for op in plain.matmuls if is_adapted(op)])
    assert {float(tensor.size_bytes) for tensor in more} == {2 * 1024 * 8 * 2.0}
