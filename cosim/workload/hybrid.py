"""The forward graph of a hybrid's layers in training: Mamba-2 mixers between attention and feed-forward blocks.

A mixer is a product in, a short convolution of each channel, the scan in chunks (`network_graph.scan_ops`), a gated
norm and a product out. As its published kernel does it, the mixer keeps what the product in made and what the scan
made; convolution and scan are run again on the way back, whatever the plan recomputes.
"""

from __future__ import annotations

from dataclasses import replace

from cosim.records import array
from cosim.workload.blocks import joined, scaled
from cosim.workload.elementwise import norm_flop, norm_parameters
from cosim.workload.layers import LayerArrays
from cosim.workload.mamba import MambaArrays
from cosim.workload.model import ModelArrays
from cosim.workload.network_graph import scan_ops
from cosim.workload.ops import Axis, Collective, Graph, Matmul, Saved, Vector, whole
from cosim.workload.tokens import Tokens

HALF = 2.0
"""Bytes of an activation."""


def mixer(model: ModelArrays, mamba: MambaArrays, tokens: Tokens) -> Graph:
    """One Mamba-2 mixer and the sum over tensor ranks; heads and groups are split."""
    rows, hidden = tokens.rows, whole(model.hidden)
    inner, shared = Axis(mamba.heads, mamba.head_dim), Axis(mamba.groups, mamba.state)
    joint = (inner, shared, shared)
    made = (inner, *joint, Axis(mamba.heads, array(1.0)))
    into = Matmul("mamba_in", "layer", rows, made, hidden, "n")
    out = Matmul("mamba_out", "layer", rows, (hidden,), inner, "k")
    channels = mamba.inner + 2.0 * mamba.groups * mamba.state
    taps = 2.0 * mamba.kernel
    convolution = Vector(
        "convolution",
        "layer",
        rows,
        joint,
        1.0,
        1.0,
        flop=taps + 6.0,
        special=1.0,
        splits=True,
        parameters=channels * (mamba.kernel + 1.0),
        scales=True,
        again=True,
    )
    norm = Vector(
        "gated_norm",
        "layer",
        rows,
        (inner,),
        2.0,
        1.0,
        flop=norm_flop(model) + 2.0,
        special=1.0,
        splits=True,
        parameters=mamba.inner,
        scales=True,
    )
    products, kernels = _scan(mamba, tokens)
    saved = (
        Saved("mamba_input", "layer", rows, (hidden,), HALF, sequence=True),
        Saved("mamba_projected", "layer", rows, made, HALF, splits=True),
        Saved("scan_output", "layer", rows, (inner,), HALF, splits=True),
        Saved("mamba_output", "layer", rows, (inner,), HALF, splits=True),
    )
    summed = Collective("mamba_sum", "layer", "all_reduce", rows, model.hidden, into="mamba_in", out_of="mamba_out")
    return Graph("train", (into, *products, out), (), (convolution, *kernels, norm), (summed,), saved)


def _scan(mamba: MambaArrays, tokens: Tokens) -> tuple[tuple[Matmul, ...], tuple[Vector, ...]]:
    """The kernels of the scan, whose heads (or groups, of the scores) tensor ranks share out."""
    names = ("heads", "head_dim", "state", "groups", "chunk")
    sizes = {name: getattr(mamba, name) for name in names} | {"tokens": tokens.query}
    ops = scan_ops(LayerArrays("scan", "scan", array(1.0), sizes, (), {}), sizes, tokens.sequences)
    products = [replace(op, batch=_batch(op, mamba), split="batch", again=True) for op in ops if isinstance(op, Matmul)]
    kernels = [replace(op, splits=True, again=True) for op in ops if isinstance(op, Vector)]
    return tuple(products), tuple(kernels)


def _batch(op: Matmul, mamba: MambaArrays) -> Axis:
    """Products of an op as heads, or groups, of so many chunks each."""
    pieces = mamba.groups if op.name.endswith(".scores") else mamba.heads
    batch = array(1.0) if op.batch is None else op.batch.size
    return Axis(pieces, batch / pieces)


def hybrid_layers(
    model: ModelArrays, mamba: MambaArrays, tokens: Tokens, attention: Graph, forward: Graph, routed: Graph
) -> Graph:
    """All layers of a hybrid: each kind of block in its share of them, a norm and a sum with the stream in each."""
    rows, width = tokens.rows, (whole(model.hidden),)
    scales = norm_parameters(model)
    norm = Vector(
        "norm", "layer", rows, width, 1.0, 1.0, flop=norm_flop(model), parameters=scales, sequence=True, scales=True
    )
    add = Vector("residual", "layer", rows, width, 2.0, 1.0, flop=3.0, sequence=True)
    kept = (Saved("layer_input", "layer", rows, width, HALF, sequence=True, boundary=True),)
    parts = (
        scaled(mixer(model, mamba, tokens), mamba.mamba),
        scaled(attention, mamba.attention),
        scaled(forward, mamba.dense),
        routed,
        Graph("train", (), (), (norm, add), (), kept),
    )
    return joined("train", parts)
