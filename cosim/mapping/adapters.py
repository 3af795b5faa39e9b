"""Adapters of low rank beside frozen weights (LoRA, Hu et al. 2021): what a rank runs more, and what it leaves out.

    forward    y = x W + (x A) B      two narrow products and a sum for every linear layer outside routed experts
    backward   x.grad = y.grad W^T + ((y.grad B^T) A^T): the frozen product alone, the two of the adapter, a sum;
               no gradient of W, of its bias, of norm scales, of the embedding

A is [k, rank], B [rank, n], both in 16 bits. Under tensor parallelism each rank holds the share of A and B that its
part of W meets; the sum of `rank` numbers a token that this asks for is left out, as a share of rank / width of the
layer's own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.mapping.device import (
    ACTIVATION_BYTES,
    ACTIVATION_DTYPE,
    DeviceGraph,
    DeviceMatmul,
    DeviceSaved,
    DeviceVector,
)
from cosim.records import Array

INTO, OUT, SUM = ".adapter_in", ".adapter_out", ".adapter_sum"
"""Endings of an adapter's products, x A and (x A) B, and of its sum with the frozen product."""
OF_WEIGHTS = (".wgrad", ".bias", ".accumulate", ".scales")
"""Endings of gradient kernels that make or keep the gradient of weights."""
ADAPTED_GROUPS = frozenset({"layer", "dense"})


def adapted(device: DeviceGraph, rank: Array) -> DeviceGraph:
    """The forward pass with adapters of inner width `rank`."""
    frozen = [op for op in device.matmuls if is_adapted(op)]
    return replace(
        device,
        matmuls=(*device.matmuls, *(each for op in frozen for each in _products(op, rank))),
        vectors=(*device.vectors, *(_sum(op, op.n, SUM) for op in frozen)),
        saved=(*device.saved, *(_kept(op, rank) for op in frozen)),
    )


def is_adapted(op: DeviceMatmul) -> bool:
    """Whether a product has an adapter: linear layers of attention and of the dense feed-forward."""
    return op.group in ADAPTED_GROUPS and not op.activations and not op.routed and not is_adapter(op.name)


def is_adapter(name: str) -> bool:
    """Whether an op belongs to an adapter."""
    return any(ending in name for ending in (INTO, OUT, SUM))


def adapters_of(device: DeviceGraph) -> DeviceGraph:
    """The products of adapters alone: what is updated."""
    return DeviceGraph(device.phase, tuple(op for op in device.matmuls if is_adapter(op.name)), (), (), ())


def gradients_of_adapters(device: DeviceGraph, gradients: DeviceGraph) -> DeviceGraph:
    """Gradient ops that are left where all but adapters are frozen; `device` is the forward pass with them."""
    # Both gradients of a product of two activations are passed on.
    inner = tuple(f"{op.name}." for op in device.matmuls if op.activations)
    sums = tuple(_sum(op, op.k, f"{SUM}.grad") for op in device.matmuls if is_adapted(op))
    return replace(
        gradients,
        matmuls=tuple(op for op in gradients.matmuls if op.name.startswith(inner) or _is_left(op.name, op.group)),
        vectors=(*(op for op in gradients.vectors if _is_left(op.name, op.group) and SUM not in op.name), *sums),
        collectives=tuple(op for op in gradients.collectives if op.group != "embed"),
    )


def _is_left(name: str, group: str) -> bool:
    """Whether a gradient kernel runs: those of the embedding and of frozen weights do not."""
    return group != "embed" and (is_adapter(name) or not name.endswith(OF_WEIGHTS))


def _products(op: DeviceMatmul, rank: Array) -> tuple[DeviceMatmul, DeviceMatmul]:
    """x A and (x A) B of a frozen product."""
    width = rank + np.zeros_like(op.n)
    return _product(op, INTO, width, op.k), _product(op, OUT, op.n, width)


def _product(op: DeviceMatmul, ending: str, n: Array, k: Array) -> DeviceMatmul:
    parameters = n * k
    return DeviceMatmul(
        f"{op.name}{ending}",
        op.group,
        op.count,
        op.m,
        n,
        k,
        ACTIVATION_DTYPE,
        parameters * ACTIVATION_BYTES,
        parameters=parameters,
    )


def _sum(op: DeviceMatmul, width: Array, ending: str) -> DeviceVector:
    """Two tensors of `width` numbers a row read and their sum written."""
    elements = op.m * width
    moved, none = elements * ACTIVATION_BYTES, np.zeros_like(elements)
    return DeviceVector(f"{op.name}{ending}", op.group, op.count, 2.0 * moved, moved, elements, none, none)


def _kept(op: DeviceMatmul, rank: Array) -> DeviceSaved:
    """x A, which the gradient of B reads."""
    return DeviceSaved(
        f"{op.name}{INTO}", op.group, op.count, op.m * rank * ACTIVATION_BYTES, core=False, boundary=False
    )
