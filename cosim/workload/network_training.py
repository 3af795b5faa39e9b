"""The forward graph of a training step of a network of layers, and what is kept for the way back, from its own ops.

    batch norm      folded into its convolution when serving: here two kernels, one that takes statistics and one that
                    reads again, scales and writes
    kept            by a product what it reads; by attention queries, keys, values and a sum a row; by a norm or an
                    activation what it reads; by a pooling a byte a result; by the scan, which runs again, its input
    tables          of a gather that is `sharded`: shared out over the replicas, indices and rows sent all-to-all

A tensor that two layers read is counted with each of them, which makes memory a little more than it is. Gradients are
`cosim.mapping.backward`'s, for products of the input too, which the first layer of a network does not need.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.records import Array, array
from cosim.workload.layers import LayerArrays
from cosim.workload.network_graph import Op, Sizes, ops_of
from cosim.workload.ops import Attention, Axis, Collective, Graph, Matmul, Saved, Vector, whole

HALF, MASK, FULL = 2.0, 1.0, 4.0
"""Bytes of an activation, of a flag, of an fp32 number."""
INDEX_BYTES = 8.0
KEEPS_INPUT = ("norm", "activation")
"""Layers whose elementwise kernel keeps what it reads."""
KEEPS_OUTPUT = ("softmax",)


def network_training_graph(layers: tuple[LayerArrays, ...], items: Array, tokens: Array) -> Graph:
    """One forward pass over `items` items of `tokens` tokens each (where layers ask for tokens), with saved tensors."""
    ops: list[Op] = []
    saved: list[Saved] = []
    sent: list[Collective] = []
    for layer in layers:
        sizes = layer.at(tokens)
        own = _trained(layer, ops_of(layer, sizes, items))
        ops += own
        saved += [each for op in own for each in _kept(layer, op)]
        sent += _exchanges(layer, sizes, items)
    return Graph(
        "train",
        tuple(op for op in ops if isinstance(op, Matmul)),
        tuple(op for op in ops if isinstance(op, Attention)),
        tuple(op for op in ops if isinstance(op, Vector)),
        tuple(sent),
        tuple(saved),
    )


def trained_layers(layers: tuple[LayerArrays, ...]) -> Array:
    """Layers with weights of their own: the pieces in which gradients can be sent."""
    return sum((layer.count for layer in layers if layer.kind in {"conv", "linear"}), array(0.0))


def is_sharded(layer: LayerArrays) -> bool:
    """Whether the replicas share out its table in training."""
    return bool(layer.choices.get("sharded", False))


def _trained(layer: LayerArrays, ops: tuple[Op, ...]) -> list[Op]:
    """A layer's ops as they run in training, in order."""
    found: list[Op] = []
    for op in ops:
        if isinstance(op, Attention):
            found.append(replace(op, phase="train"))
        elif isinstance(op, Vector):
            owns = op.table is None and bool(np.any(op.parameters > 0.0))
            found.append(replace(op, scales=owns, again=layer.kind == "scan", sharded=is_sharded(layer)))
        else:
            found.append(replace(op, again=layer.kind == "scan"))
    if layer.kind != "conv" or not layer.choices["norm"]:
        return found
    # Of a depthwise convolution the two numbers a channel are the norm's, not its own.
    return [each for op in found for each in _with_norm(op)]


def _with_norm(op: Op) -> tuple[Op, ...]:
    """A convolution without the batch norm that serving folds into it, and the kernels of that norm."""
    if isinstance(op, Attention):
        return (op,)
    width = op.width if isinstance(op, Vector) else (Axis(_products(op), op.n[0].size),)
    channels = _columns(width)
    rows, name = op.m, op.name
    statistics = Vector(
        f"{name}.statistics", "layer", rows, width, 1.0, 0.0, flop=3.0, count=op.count, forward_only=True
    )
    norm = Vector(
        f"{name}.norm", "layer", rows, width, 1.0, 1.0, flop=4.0, parameters=2.0 * channels, count=op.count, scales=True
    )
    if isinstance(op, Vector):
        return replace(op, parameters=op.parameters - 2.0 * channels), statistics, norm
    return replace(op, bias=0), statistics, norm


def _products(op: Matmul) -> Array:
    return array(1.0) if op.batch is None else op.batch.size


def _kept(layer: LayerArrays, op: Op) -> tuple[Saved, ...]:
    """Tensors that the gradients of an op read."""
    if isinstance(op, Attention):
        queries, keys = op.batch * op.query, op.batch * op.context
        return (
            _tensor(op, "queries", queries, op.heads * op.head_dim),
            _tensor(op, "sums", queries, op.heads, FULL),
            _tensor(op, "keys_and_values", keys, op.kv_heads * (op.head_dim + op.values)),
        )
    if isinstance(op, Matmul):
        left = _tensor(op, "input", op.m * _products(op), op.k.size * op.distinct)
        right = _tensor(op, "right", op.k.size * _products(op), _columns(op.n))
        return _scanned(op, left, right) if op.again else (left, right) if op.activations else (left,)
    width = _columns(op.width)
    if layer.kind in KEEPS_INPUT or (layer.kind == "conv" and not op.forward_only):
        # A norm that joins a branch to the stream keeps their sum; a product of tensors keeps them all.
        reads = op.reads if layer.kind == "activation" else np.minimum(op.reads, 1.0)
        return (_tensor(op, "input", op.m, width * reads),)
    if layer.kind in KEEPS_OUTPUT:
        return (_tensor(op, "output", op.m, width),)
    return (_tensor(op, "places", op.m, width, MASK),) if layer.kind == "pool" else ()


def _scanned(op: Matmul, left: Saved, right: Saved) -> tuple[Saved, ...]:
    """Of the scan B and C, which the scores read, and X, which the states do: all else is made again."""
    if op.name.endswith(".scores"):
        return left, right
    return (right,) if op.name.endswith(".states") else ()


def _tensor(op: Op, name: str, rows: Array, width: Array, each: float = HALF) -> Saved:
    return Saved(f"{op.name}.{name}", "layer", rows, (whole(width),), each, count=op.count)


def _columns(axes: tuple[Axis, ...]) -> Array:
    return sum((axis.size for axis in axes), array(0.0))


def _exchanges(layer: LayerArrays, at: Sizes, items: Array) -> list[Collective]:
    """Indices out to the ranks that have their rows, and rows back, where a table is shared out."""
    if layer.kind != "gather" or not is_sharded(layer):
        return []
    asked = at["lookups"] * INDEX_BYTES / HALF
    count = layer.count
    indices = Collective(
        f"{layer.name}.indices", "layer", "table_exchange", items, asked, count, gradient_width=array(0.0)
    )
    rows = Collective(f"{layer.name}.rows", "layer", "table_exchange", items * at["outputs"], at["width"], count)
    return [indices, rows]
