"""What a compiler of networks leaves of a graph: never more bytes or kernels, the same FLOP; small ones by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.dtypes import bytes_per_element
from cosim.mapping.compiled import compiled
from cosim.mapping.device import DeviceGraph
from cosim.mapping.plan import Plan, lower_plan
from cosim.mapping.shard import quantise, shard
from cosim.overrides import Varied, vary
from cosim.records import array
from cosim.schema import validated
from cosim.workload.graph import prefill_graph
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.network import Network, lower_network

NETWORKS = ["resnet-50", "retinanet", "dlrm", "dlrm-v2", "rnnt", "swin-tiny", "stable-diffusion-xl", "3d-unet"]
DTYPES = ["bf16", "int8", "fp8", "nvfp4"]


def device(network: str | list[dict[str, Any]], dtype: str, items: float = 3.0) -> DeviceGraph:
    if isinstance(network, str):
        model = lower_workload(Varied(load_workload(network)))
    else:
        named = [{"name": f"l{index}", **layer} for index, layer in enumerate(network)]
        about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "an item", "layers": named}
        model = lower_network(Varied(validated(Network, about)))
    plan = lower_plan(vary(Varied(Plan(dtype=dtype)), {}))
    return shard(prefill_graph(model, array(items), array(1.0)), plan)


@settings(max_examples=30, deadline=None)
@given(network=st.sampled_from(NETWORKS), dtype=st.sampled_from(DTYPES), items=st.integers(1, 64))
def test_nothing_moves_more_and_nothing_computes_less(network: str, dtype: str, items: int) -> None:
    before = device(network, dtype, float(items))
    after = compiled(before, dtype)
    assert [op.name for op in after.matmuls] == [op.name for op in before.matmuls]
    assert [op.name for op in after.vectors] == [op.name for op in before.vectors]
    for old, new in zip(before.matmuls, after.matmuls, strict=True):
        assert new.output_bytes <= old.output_bytes
        assert bytes_per_element(new.dtype) <= bytes_per_element(old.dtype)
        assert all(np.all(getattr(new, d) == getattr(old, d)) for d in ("m", "n", "k", "batch", "count"))
    for was, is_now in zip(before.vectors, after.vectors, strict=True):
        assert np.all(is_now.read_bytes <= was.read_bytes)
        assert np.all(is_now.read_bytes >= is_now.gathered_bytes)
        assert np.all(is_now.write_bytes <= was.write_bytes)
        assert np.all((is_now.flop == was.flop) & (is_now.special == was.special) & (is_now.count == was.count))
        assert is_now.launched == (not was.follows)


@settings(max_examples=20, deadline=None)
@given(network=st.sampled_from(NETWORKS), items=st.integers(1, 64))
def test_16_bits_stay_16_bits(network: str, items: int) -> None:
    before = device(network, "bf16", float(items))
    after = compiled(before, "bf16")
    assert [op.output_bytes for op in after.matmuls] == [op.output_bytes for op in before.matmuls]
    assert [op.dtype for op in after.matmuls] == [op.dtype for op in before.matmuls]
    for old, new in zip(before.vectors, after.vectors, strict=True):
        if not old.follows:
            assert np.all(new.read_bytes == old.read_bytes)
            assert np.all(new.write_bytes == old.write_bytes)


def test_a_sum_reads_the_other_tensor_alone() -> None:
    layers: list[dict[str, Any]] = [
        {"kind": "linear", "inputs": 64, "outputs": 32, "rows": 10},
        {"kind": "add", "rows": 10, "width": 32},
    ]
    (before,) = device(layers, "int8").vectors
    (after,) = compiled(device(layers, "int8"), "int8").vectors
    numbers = 3 * 10 * 32
    assert (float(before.read_bytes), float(before.write_bytes)) == (2 * numbers * 2, numbers * 2)
    assert (float(after.read_bytes), float(after.write_bytes)) == (numbers, 0)
    assert before.launched
    assert not after.launched


@pytest.mark.parametrize("kind", ["activation", "copy"])
def test_what_reads_one_tensor_moves_nothing(kind: str) -> None:
    layers: list[dict[str, Any]] = [
        {"kind": "linear", "inputs": 64, "outputs": 32},
        {"kind": kind, "rows": 1, "width": 32},
    ]
    (after,) = compiled(device(layers, "bf16"), "bf16").vectors
    assert (float(after.read_bytes), float(after.write_bytes), after.launched) == (0.0, 0.0, False)


def test_norms_and_pools_stay_kernels_with_narrow_tensors() -> None:
    layers: list[dict[str, Any]] = [{"kind": "norm", "rows": 10, "width": 32}, {"kind": "softmax", "width": 8}]
    for old, new in zip(device(layers, "fp8").vectors, compiled(device(layers, "fp8"), "fp8").vectors, strict=True):
        assert new.launched
        assert float(new.read_bytes) == float(old.read_bytes) / 2
        assert float(new.write_bytes) == float(old.write_bytes) / 2


def test_rows_of_a_table_are_as_wide_as_the_table() -> None:
    layers: list[dict[str, Any]] = [{"kind": "gather", "lookups": 4, "width": 128, "table_rows": 1000}]
    (before,), (after,) = device(layers, "int8").vectors, compiled(device(layers, "int8"), "int8").vectors
    assert float(after.gathered_bytes) == float(before.gathered_bytes) == 3 * 4 * 256
    assert float(after.write_bytes) == float(before.write_bytes) / 2


def test_products_of_two_tensors_are_as_narrow_as_these() -> None:
    layers: list[dict[str, Any]] = [{"kind": "product", "rows": 4, "columns": 5, "depth": 6}]
    assert device(layers, "int8").matmuls[0].dtype == "bf16"
    (narrow,) = compiled(device(layers, "int8"), "int8").matmuls
    assert (narrow.dtype, narrow.output_bytes) == ("int8", 1.0)
    (wide,) = compiled(device(layers, "fp32"), "fp32").matmuls
    assert (wide.dtype, wide.output_bytes) == ("bf16", 2.0)


def test_quantisers_are_no_kernels_of_their_own() -> None:
    op = quantise(array(1000.0), "int8", array(1.0))
    graph = DeviceGraph("prefill", (), (), (op,), ())
    assert compiled(graph, "int8").vectors == ()
