"""The backward pass of one rank, derived op by op from its forward pass.

    product C = A W       input gradient dA = dC W^T, weight gradient dW = A^T dC added to what is kept, by the
                          product itself or by a kernel of its own; bias gradient: column sums of dC
    both activations      the same two products, nothing kept
    convolution           the same two: dC is gathered through the window into places of the input, of which it reads
                          each number of dC once
    fused attention       one kernel that computes the scores again (timing knows its FLOP)
    gather                gradients added to their rows
    elementwise           reads gradients of what it wrote and the inputs it read, writes gradients of those;
                          with weights of its own (norm scales) a second kernel reads both again
    sum over ranks        its conjugate: the sum of input gradients of the product that follows it

Recompute runs forward ops again first: the attention core, modules, or the whole layer with its collectives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from cosim.mapping.context import context_collectives
from cosim.mapping.device import (
    ACTIVATION_BYTES,
    EXPERT_GATHER,
    EXPERT_SCATTER,
    DeviceAttention,
    DeviceCollective,
    DeviceGraph,
    DeviceMatmul,
    DeviceVector,
)
from cosim.mapping.plan import RECOMPUTES, PlanArrays
from cosim.mapping.recompute import share_again
from cosim.mapping.shard import JOINED, SLICES
from cosim.mapping.software import SoftwareArrays
from cosim.records import Array
from cosim.workload.ops import Graph

RECOMPUTED = ".again"
SELECTIVE, FULL = float(RECOMPUTES.index("selective")), float(RECOMPUTES.index("full"))
Op = TypeVar("Op", DeviceMatmul, DeviceAttention, DeviceVector, DeviceCollective)


def backward(device: DeviceGraph, graph: Graph, plan: PlanArrays, software: SoftwareArrays) -> DeviceGraph:
    """Gradient ops of every op of `device`, as `software` fuses them."""
    sequence_parallel = plan.sequence_parallel
    attentions = tuple(replace(op, name=f"{op.name}.grad", backward=True) for op in device.attentions)
    owners = [op for op in device.matmuls if not op.activations]
    scales = [op for op in device.vectors if op.has_scales]
    apart = [] if software.fused_accumulation else owners
    return DeviceGraph(
        "backward",
        tuple(each for op in device.matmuls for each in _products(op, software)),
        attentions,
        (
            *(_elementwise(op, software) for op in device.vectors if not op.forward_only),
            *(_scale_gradient(op) for op in scales),
            *(_bias_gradient(op) for op in owners if op.bias),
            *(_accumulation(op, software.gradient_bytes) for op in apart),
        ),
        (
            *_sums(device, graph, sequence_parallel=sequence_parallel),
            *context_collectives(attentions, plan, backward=True),
        ),
    )


def recomputed(device: DeviceGraph, recompute: Array, modules: tuple[str, ...] = ()) -> DeviceGraph:
    """What the backward pass runs again before the gradients: nothing, the attention core, or the layer; `modules` too.

    `recompute` is an index in RECOMPUTES, a number along the points axis: ops that a point does not run again have
    count 0 there.
    """
    layer = np.where(recompute >= FULL, 1.0, 0.0)
    core = np.where(recompute >= SELECTIVE, 1.0, 0.0)

    def again(op: Op) -> Op:
        is_core = isinstance(op, DeviceAttention) or getattr(op, "core", False)
        # What its own way back computes again is run once more where the layer is.
        own = 1.0 if getattr(op, "again", False) else 0.0
        share = np.maximum(core if is_core else layer, share_again(op, device, modules))
        if isinstance(op, DeviceCollective) and op.beside:
            op = replace(op, beside=op.beside + RECOMPUTED)
        return replace(op, name=op.name + RECOMPUTED, count=op.count * (own + share))

    def inside(ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """Ops that some point runs again."""
        found = [again(op) for op in ops if op.group not in {"embed", "head"}]
        return tuple(op for op in found if np.any(op.count > 0.0))

    return DeviceGraph(
        "recompute",
        inside(device.matmuls),
        inside(device.attentions),
        inside(device.vectors),
        inside(device.collectives),
    )


def _products(op: DeviceMatmul, software: SoftwareArrays) -> tuple[DeviceMatmul, DeviceMatmul]:
    """Input gradient [m, k] over n, and weight gradient [k, n] over m, read and written where it is kept."""
    # A convolution gathers the gradient through its window: each place of the input is reached by its own taps.
    rows, wide, deep = op.m * op.pixels, op.k / op.taps, op.n * op.taps / op.pixels
    into = replace(op, name=f"{op.name}.dgrad", m=rows, n=wide, k=deep, distinct=1.0 / op.taps)
    kept = software.fused_accumulation and not op.activations
    # All points of a batch have one software, whose name is structure: its sizes are one number.
    moved = 2.0 * float(np.max(software.gradient_bytes)) if kept else op.output_bytes
    # Of a weight gradient both operands are scaled as activations.
    weight = replace(
        op, name=f"{op.name}.wgrad", m=op.k, n=op.n, k=op.m, output_bytes=moved, scales=(op.scales[0],) * 2
    )
    return into, weight


def _elementwise(op: DeviceVector, software: SoftwareArrays) -> DeviceVector:
    """Reads the gradients of its outputs and its saved inputs, writes the gradients of its inputs.

    Of a gather that is to add each gradient to its row; of a table that is shared out, to update the row at once, with
    the optimizer's state read and written.
    """
    state = op.gathered_bytes / ACTIVATION_BYTES * software.optimizer_bytes if op.sharded else 0.0
    return replace(
        op,
        name=f"{op.name}.grad",
        read_bytes=op.write_bytes + op.read_bytes + state,
        write_bytes=op.read_bytes + state,
        gathered_bytes=op.gathered_bytes + state,
        flop=2.0 * op.flop,
        special=0.0 * op.special,
    )


def _scale_gradient(op: DeviceVector) -> DeviceVector:
    """Column sums over inputs and gradients of outputs."""
    moved, none = op.read_bytes + op.write_bytes, 0.0 * op.read_bytes
    return replace(op, name=f"{op.name}.scales", read_bytes=moved, write_bytes=none, flop=op.flop, special=none)


def _bias_gradient(op: DeviceMatmul) -> DeviceVector:
    """Column sums of the gradient of a product's output."""
    elements = op.m * op.n * op.batch
    none = np.zeros_like(elements)
    read = elements * ACTIVATION_BYTES
    return DeviceVector(f"{op.name}.bias", op.group, op.count, read, none, elements, none, none)


def _accumulation(op: DeviceMatmul, gradient_bytes: Array) -> DeviceVector:
    """Adds a micro-batch's weight gradient to what is kept."""
    elements = op.k * op.n * op.batch
    none = np.zeros_like(elements)
    read = elements * (ACTIVATION_BYTES + gradient_bytes)
    return DeviceVector(
        f"{op.name}.accumulate", op.group, op.count, read, elements * gradient_bytes, elements, none, none
    )


def _sums(device: DeviceGraph, graph: Graph, *, sequence_parallel: bool) -> tuple[DeviceCollective, ...]:
    """Conjugates of the forward collectives.

    The sum of a product's input gradients can run behind its weight gradient. Under sequence parallelism the
    gradient is gathered, scattered behind the weight gradient, and the saved slice of the input gathered behind
    the input gradient.
    """
    sizes = {op.name: op for op in device.collectives}
    found: list[DeviceCollective] = []
    for op in graph.collectives:
        if op.routed is not None:
            # Gradients travel the way back: out where tokens came in.
            found.append(replace(sizes[op.name], name=f"{op.name}.grad"))
            joined = sizes.get(f"{op.name}{JOINED}")
            if joined is not None:
                kind = EXPERT_SCATTER if joined.kind == EXPERT_GATHER else EXPERT_GATHER
                found.append(replace(joined, name=f"{joined.name}.grad", kind=kind))
            continue
        if op.kind == "table_exchange":
            if op.gradient_width is None:
                found.append(replace(sizes[op.name], name=f"{op.name}.grad"))
            continue
        name, behind = f"{op.name}.grad", f"{op.into}.wgrad"
        forward = sizes.get(op.name)
        scattered = forward is not None and forward.kind == "reduce_scatter"
        if scattered and forward is not None:
            beside = f"{op.out_of}.dgrad" if op.out_of else ""
            found.append(replace(forward, name=f"{name}_gather", kind="all_gather", beside=beside))
        if not op.into:
            continue
        slices = sizes.get(f"{op.name}{SLICES}")
        if slices is not None:
            found.append(replace(slices, name=f"{name}{SLICES}"))
        count = op.count if forward is None else forward.count
        width = op.width if op.gradient_width is None else op.gradient_width
        size = op.m * width * ACTIVATION_BYTES
        if not sequence_parallel or op.gradient_width is not None:
            found.append(DeviceCollective(name, op.group, "all_reduce", count, size, behind))
            continue
        found.append(DeviceCollective(name, op.group, "reduce_scatter", count, size, behind))
        found.append(DeviceCollective(f"{name}_input", op.group, "all_gather", count, size, f"{op.into}.dgrad"))
    return tuple(found)
