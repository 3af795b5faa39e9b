"""The graph of one forward pass of a network: each layer as products, attention or elementwise kernels.

conv    implicit GEMM: m = items x output pixels, n = outputs / groups, k = inputs / groups x kernel^2, one product
        a group; of A only the input tensor is distinct, not its patches, and a core fetches no place of a row of
        the window twice. Depthwise: vector work.
lstm    see `_lstm`
gather  rows read at random
scan    see `scan_ops`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cosim.records import Array, array
from cosim.workload.layers import LayerArrays
from cosim.workload.ops import Attention, Axis, Graph, Matmul, Vector, whole

Op = Matmul | Attention | Vector
Sizes = Mapping[str, Array]
FP32 = 2.0
"""An fp32 number in elements of 16 bits."""


def network_graph(layers: tuple[LayerArrays, ...], items: Array, tokens: Array) -> Graph:
    """One pass over `items` items of `tokens` tokens each (where layers ask for tokens)."""
    ops = [op for layer in layers for op in ops_of(layer, layer.at(tokens), items)]
    return Graph(
        "prefill",
        tuple(op for op in ops if isinstance(op, Matmul)),
        tuple(op for op in ops if isinstance(op, Attention)),
        tuple(op for op in ops if isinstance(op, Vector)),
    )


def ops_of(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    """The kernels of one layer of sizes `at` over `items` items; turns after the first have no weights of their own."""
    ops = _BUILDERS[layer.kind](layer, at, items)
    return ops if np.all(layer.turns == 1.0) else (*ops, *(_again(op, layer.turns - 1.0) for op in ops))


def _again(op: Op, turns: Array) -> Op:
    """The same kernel `turns` more times."""
    more: dict[str, Any] = {"name": f"{op.name}.again", "count": op.count * turns}
    if isinstance(op, Matmul):
        more |= {"owns_weights": False, "bias": 0}
    elif isinstance(op, Vector):
        more |= {"parameters": array(0.0), "table": None}
    return replace(op, **more)


def _conv(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    made = math.prod(_outputs(layer, at), start=array(1.0))
    rows, taps = items * made, at["kernel"] * at["kernel_width"] * at["kernel_depth"]
    pixels = at["height"] * at["width"] * at["depth"] / made
    biases = 2 if layer.choices["norm"] else int(layer.choices["bias"])
    # Points of a batch may be of both kinds: each has an op, which runs nowhere else.
    deep = (at["groups"] == at["inputs"]) & (at["groups"] > 1.0)
    found: list[Op] = []
    if np.any(deep):
        owned, read = at["outputs"] * (taps + biases), np.minimum(pixels, taps) * at["inputs"] / at["outputs"]
        work = _vector(layer, rows, at["outputs"], read, 1.0, flop=2.0 * taps, parameters=owned)
        found.append(replace(work, count=layer.count * np.where(deep, 1.0, 0.0)))
    if not np.all(deep):
        product = Matmul(
            layer.name,
            "layer",
            rows,
            (whole(at["outputs"] / at["groups"]),),
            whole(at["inputs"] / at["groups"] * taps),
            "none",
            bias=biases,
            batch=whole(at["groups"]),
            distinct=np.minimum(pixels / taps, 1.0),
            taps=taps,
            pixels=pixels,
            fetched=np.minimum(at["stride"] / at["kernel_width"], 1.0),
        )
        found.append(replace(product, count=layer.count * np.where(deep, 0.0, 1.0)))
    return tuple(found)


def _linear(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    tied = bool(layer.choices["tied"])
    return (
        Matmul(
            layer.name,
            "layer",
            items * at["rows"],
            (whole(at["outputs"]),),
            whole(at["inputs"]),
            "none",
            "head" if tied else "linear",
            bias=bool(layer.choices["bias"]),
            owns_weights=not tied,
            count=layer.count,
        ),
    )


def _product(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    batch = items * at["products"]
    return (_activations(layer, "", (at["rows"], at["columns"], at["depth"]), batch),)


def _attention(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    return (
        Attention(
            layer.name,
            "layer",
            "prefill",
            items,
            at["tokens"],
            at["context"],
            at["heads"],
            at["kv_heads"],
            at["head_dim"],
            array(0.0),
            causal=bool(layer.choices["causal"]),
            count=layer.count,
            cached_keys=False,
        ),
    )


def _norm(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    rms = layer.choices["style"] == "rms"
    scales = at["width"] * (1.0 if rms else 2.0) if layer.choices["affine"] else array(0.0)
    return (_elementwise(layer, at, items, flop=5.0 if rms else 8.0, parameters=scales),)


def _activation(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    exponential = bool(layer.choices["exponential"])
    work = _elementwise(layer, at, items, flop=6.0 if exponential else 1.0, special=float(exponential))
    return (replace(work, follows=True),)


def _softmax(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    return (_elementwise(layer, at, items, flop=5.0, special=1.0),)


def _add(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    work = _elementwise(layer, at, items, flop=at["reads"] - 1.0, parameters=at["parameters"])
    return (replace(work, follows=True),)


def _copy(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    return (replace(_elementwise(layer, at, items), follows=True),)


def _pool(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    height, width = _outputs(layer, at)
    read, taps = at["height"] * at["width"] / (height * width), at["kernel"] * at["kernel_width"]
    return (_vector(layer, items * height * width, at["channels"], np.minimum(read, taps), 1.0, flop=taps),)


def _upsample(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    rows = items * at["height"] * at["width"]
    return (_vector(layer, rows, at["channels"], 1.0, at["factor"] ** 2),)


def _gather(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    """Rows that are summed cost an addition an element."""
    each = at["lookups"] / at["outputs"]
    table = Axis(at["table_rows"], at["width"])
    rows = items * at["outputs"]
    return (_vector(layer, rows, at["width"], 0.0, 1.0, flop=each - 1.0, table=table, gathers=each),)


def scan_ops(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    """The chunked form of the state-space duality (Dao & Gu 2024), as the five kernels of its published software.

    Of H heads of P, state N, G groups that share B and C, chunks of Q tokens (at most all of them), per chunk:
        scores   C B^T            2 Q Q N a group
        states   B^T (decay X)    2 Q N P a head
        passing  state = decay state + new state, element by element, fp32
        output   [decay scores | C] [X; state]    2 Q (Q + N) P a head
        decay    sums of dt A along the chunk; an exponential for each of the Q (Q + 1) / 2 pairs a head
    that is 2 Q N G + 2 H P (Q + 2 N) FLOP a token. Heads of a group read the same B, C and scores. Each head owns
    A, D and the bias of dt.
    """
    chunk = np.minimum(at["chunk"], at["tokens"])
    chunks = items * np.ceil(at["tokens"] / chunk)
    heads, wide, state = at["heads"], at["head_dim"], at["state"]
    shared, pairs = at["groups"] / heads, (chunk + 1.0) / 2.0
    tokens, numbers = items * at["tokens"], chunks * heads
    return (
        _activations(layer, ".scores", (chunk, chunk, state), chunks * at["groups"]),
        _activations(layer, ".states", (state, wide, chunk), numbers, shared),
        _activations(layer, ".output", (chunk, wide, chunk + state), numbers, shared),
        _vector(
            layer,
            tokens,
            heads,
            1.0,
            FP32,
            name=".decay",
            flop=2.0 * pairs + 4.0,
            special=pairs + 2.0,
            parameters=3.0 * heads,
        ),
        _vector(layer, numbers, wide * state, FP32, FP32, name=".passing", flop=2.0),
    )


def _lstm(layer: LayerArrays, at: Sizes, items: Array) -> tuple[Op, ...]:
    """Of h cells and T steps: products of all inputs at once, then a product of the state a step, and the gates.

    input   2 T inputs 4 h FLOP      step   2 h 4 h FLOP, T times, the same weights
    gates   three sigmoids and two hyperbolic tangents a cell, in the kernel of the step; two biases of four gates
    """
    cells, steps = at["outputs"], at["tokens"]
    four = whole(4.0 * cells)
    into = Matmul(
        f"{layer.name}.input", "layer", items * steps, (four,), whole(at["inputs"]), "none", count=layer.count
    )
    step = Matmul(
        f"{layer.name}.step",
        "layer",
        items,
        (four,),
        whole(cells),
        "none",
        owns_weights=False,
        count=layer.count * steps,
    )
    # It owns the weights of the step, which would else be counted once a step.
    owned = 4.0 * cells * (cells + 2.0)
    gates = _vector(layer, items * steps, cells, 5.0, 2.0, name=".gates", flop=26.0, special=5.0, parameters=owned)
    return into, step, gates


def _outputs(layer: LayerArrays, at: Sizes) -> tuple[Array, ...]:
    """Height, width and (of a convolution) depth of what a window over the input makes; never less than one."""
    made = []
    for side, kernel in (("height", "kernel"), ("width", "kernel_width"), ("depth", "kernel_depth")):
        if side not in at:
            continue
        # A stride of more than a side of one has nowhere to go.
        if layer.choices["padding"] == "same":
            made.append(np.ceil(at[side] / at["stride"]))
        else:
            made.append(np.maximum(np.floor((at[side] - at[kernel]) / at["stride"]) + 1.0, 1.0))
    return tuple(made)


def _elementwise(
    layer: LayerArrays,
    at: Sizes,
    items: Array,
    *,
    flop: Array | float = 0.0,
    special: float = 0.0,
    parameters: Array | None = None,
) -> Vector:
    """A kernel on rows x width of an item, with as many tensors read and written as the layer says."""
    owned = array(0.0) if parameters is None else parameters
    rows = items * at["rows"]
    return _vector(layer, rows, at["width"], at["reads"], at["writes"], flop=flop, special=special, parameters=owned)


def _vector(
    layer: LayerArrays,
    rows: Array,
    width: Array,
    reads: Array | float,
    writes: Array | float,
    *,
    name: str = "",
    flop: Array | float = 0.0,
    special: Array | float = 0.0,
    parameters: Array | None = None,
    table: Axis | None = None,
    gathers: Array | None = None,
) -> Vector:
    owned = array(0.0) if parameters is None else parameters
    return Vector(
        f"{layer.name}{name}",
        "layer",
        rows,
        (whole(width),),
        reads,
        writes,
        flop=flop,
        special=special,
        parameters=owned,
        table=table,
        count=layer.count,
        gathers=gathers,
    )


def _activations(
    layer: LayerArrays, name: str, shape: tuple[Array, Array, Array], batch: Array, distinct: Array | None = None
) -> Matmul:
    """Products [m, k] x [k, n] of tensors that other layers made, at 16 bits."""
    m, n, k = shape
    return Matmul(
        f"{layer.name}{name}",
        "layer",
        m,
        (whole(n),),
        whole(k),
        "none",
        "head",
        count=layer.count,
        batch=whole(batch),
        activations=True,
        distinct=array(1.0) if distinct is None else distinct,
    )


_BUILDERS = {
    "conv": _conv,
    "linear": _linear,
    "product": _product,
    "attention": _attention,
    "norm": _norm,
    "activation": _activation,
    "softmax": _softmax,
    "add": _add,
    "copy": _copy,
    "pool": _pool,
    "upsample": _upsample,
    "gather": _gather,
    "scan": scan_ops,
    "lstm": _lstm,
}
