"""Training graphs of networks: batch norms of their own, kept tensors by hand, tables that replicas share out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.overrides import Varied
from cosim.records import array
from cosim.schema import validated
from cosim.workload.graph import model_flop, prefill_graph
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.model import ModelArrays
from cosim.workload.network import Network, lower_network
from cosim.workload.network_training import network_training_graph, trained_layers
from cosim.workload.ops import Graph
from cosim.workload.training import training_graph

CONV: dict[str, Any] = {"kind": "conv", "inputs": 4, "outputs": 6, "kernel": 3, "height": 8, "norm": True}
LINEAR: dict[str, Any] = {"kind": "linear", "inputs": 8, "outputs": 10, "rows": 5}
TABLE: dict[str, Any] = {"kind": "gather", "lookups": 12, "width": 16, "table_rows": 1000, "outputs": 3}
SCAN: dict[str, Any] = {"kind": "scan", "tokens": "tokens", "heads": 4, "head_dim": 8, "state": 16, "groups": 2}


def model(*layers: dict[str, Any]) -> ModelArrays:
    named = [{"name": f"l{index}", **layer} for index, layer in enumerate(layers)]
    about = {"kind": "network", "name": "n", "title": "t", "source": "s", "input": "an item", "layers": named}
    return lower_network(Varied(validated(Network, about)))


def graph(*layers: dict[str, Any], items: float = 2.0, tokens: float = 64.0) -> Graph:
    return network_training_graph(model(*layers).network, array(items), array(tokens))


def kept(made: Graph) -> dict[str, float]:
    """Bytes by name, all layers of a kind together."""
    return {
        op.name: float(op.count * op.m * sum((axis.size for axis in op.width), array(0.0)) * op.element_bytes)
        for op in made.saved
    }


def test_a_batch_norm_is_two_kernels_and_its_numbers_are_its_own() -> None:
    made = graph(CONV)
    assert [op.name for op in made.vectors] == ["l0.statistics", "l0.norm"]
    statistics, norm = made.vectors
    assert (statistics.forward_only, norm.forward_only) == (True, False)
    assert (float(made.matmuls[0].bias), float(norm.parameters), norm.scales) == (0.0, 12.0, True)
    assert kept(made) == {"l0.input": 2 * 2 * 64 * 4, "l0.norm.input": 2 * 2 * 64 * 6}


def test_a_depthwise_convolution_keeps_the_numbers_of_its_taps() -> None:
    made = graph({**CONV, "outputs": 4, "groups": 4})
    convolution, _, norm = made.vectors
    assert (float(convolution.parameters), float(norm.parameters)) == (4 * 9, 8.0)


@pytest.mark.parametrize(
    ("layer", "bytes_kept"),
    [
        (LINEAR, {"l0.input": 2 * 2 * 5 * 8}),
        ({"kind": "norm", "rows": 5, "width": 8, "reads": 2, "writes": 2}, {"l0.input": 2 * 2 * 40}),
        ({"kind": "activation", "rows": 5, "width": 8}, {"l0.input": 2 * 2 * 40}),
        ({"kind": "activation", "rows": 5, "width": 8, "reads": 2}, {"l0.input": 2 * 2 * 80}),
        ({"kind": "softmax", "rows": 5, "width": 8}, {"l0.output": 2 * 2 * 40}),
        ({"kind": "add", "rows": 5, "width": 8}, {}),
        ({"kind": "copy", "rows": 5, "width": 8}, {}),
        ({"kind": "upsample", "channels": 3, "height": 4}, {}),
        ({"kind": "pool", "channels": 3, "height": 8, "kernel": 2, "stride": 2}, {"l0.places": 2 * 16 * 3}),
        (TABLE, {}),
        (
            {"kind": "product", "rows": 3, "columns": 4, "depth": 5, "products": 6},
            {"l0.input": 2 * 2 * 6 * 15, "l0.right": 2 * 2 * 6 * 20},
        ),
        (
            {"kind": "attention", "heads": 4, "kv_heads": 2, "head_dim": 8, "tokens": 10},
            {"l0.queries": 2 * 2 * 10 * 32, "l0.sums": 4 * 2 * 10 * 4, "l0.keys_and_values": 2 * 2 * 10 * 32},
        ),
        # Of the scan B and C once, and X.
        (
            {**SCAN, "chunk": 32},
            {"l0.scores.input": 2 * 128 * 32, "l0.scores.right": 2 * 128 * 32, "l0.states.right": 2 * 128 * 32},
        ),
    ],
)
def test_kept_tensors_by_hand(layer: dict[str, Any], bytes_kept: dict[str, float]) -> None:
    assert kept(graph(layer)) == bytes_kept


@settings(max_examples=30, deadline=None)
@given(items=st.integers(1, 64), count=st.integers(1, 9))
def test_kept_bytes_are_in_proportion_to_items_and_layers(items: int, count: int) -> None:
    layers = (CONV, LINEAR, {"kind": "softmax", "rows": 5, "width": 8})
    one = sum(kept(graph(*layers, items=1.0)).values())
    many = sum(kept(graph(*({**layer, "count": count} for layer in layers), items=items)).values())
    assert many == pytest.approx(items * count * one)


def test_tables_that_are_shared_out_send_indices_and_rows() -> None:
    whole, shared = graph(TABLE), graph({**TABLE, "sharded": True})
    assert whole.collectives == ()
    indices, rows = shared.collectives
    assert (float(indices.m * indices.width) * 2, float(rows.m * rows.width) * 2) == (2 * 12 * 8, 2 * 3 * 16 * 2)
    assert (indices.gradient_width is None, rows.gradient_width is None) == (False, True)
    assert [op.sharded for op in shared.vectors] == [True]


def test_pieces_are_the_layers_with_weights() -> None:
    layers = model({**CONV, "count": 3}, {**LINEAR, "count": 2}, TABLE, {"kind": "copy", "width": 2}).network
    assert float(trained_layers(layers)) == 5.0


NETWORKS = sorted(
    name for name in library.names("workloads") if load_workload(name).model_dump().get("kind") == "network"
)


def small_weights(made: Graph) -> float:
    """Biases of products, and the numbers that elementwise kernels own."""
    biases = [op.count * op.bias * op.n[0].size * (1.0 if op.batch is None else op.batch.size) for op in made.matmuls]
    return float(sum((op.count * op.parameters for op in made.vectors), sum(biases, array(0.0))))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_shipped_network_trains_the_work_and_the_weights_that_it_serves(name: str) -> None:
    net = lower_workload(Varied(load_workload(name)))
    items, tokens = array(3.0), array(64.0)
    served, trained = prefill_graph(net, items, tokens), training_graph(net, items, tokens, fused=True)
    assert float(model_flop(net, trained)) == pytest.approx(float(model_flop(net, served)), rel=1e-12)
    assert small_weights(trained) == pytest.approx(small_weights(served), rel=1e-12)
