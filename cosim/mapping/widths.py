"""Bytes of an element where software runs the whole model in the plan's format instead of 16 bits beside it.

Mixed precision keeps activations, norms, embedding and head at 16 bits whatever the linear layers run in; eager
software without it runs everything in one format: in fp32 twice the bytes of every tensor.
"""

from __future__ import annotations

from dataclasses import replace

from cosim.dtypes import bytes_per_element
from cosim.hardware.lower import SystemArrays
from cosim.mapping.device import (
    ACTIVATION_BYTES,
    ACTIVATION_DTYPE,
    DeviceGraph,
    DeviceMatmul,
    DeviceVector,
)
from cosim.mapping.plan import PlanArrays
from cosim.mapping.software import SoftwareArrays
from cosim.workload.ops import Graph


def element_bytes(plan: PlanArrays, software: SoftwareArrays) -> float:
    """Bytes of an activation or a weight as the passes use it; never less than 16 bits."""
    return ACTIVATION_BYTES if software.mixed else max(bytes_per_element(plan.dtype), ACTIVATION_BYTES)


def widened(device: DeviceGraph, graph: Graph, plan: PlanArrays, software: SoftwareArrays) -> DeviceGraph:
    """Ops of `device` with tensors of `element_bytes`; `graph` says which saved tensors are activations."""
    wide = element_bytes(plan, software)
    if wide == ACTIVATION_BYTES:
        return device
    factor = wide / ACTIVATION_BYTES
    # Adapters keep tensors that the graph does not know: activations too.
    whole = {tensor.name for tensor in graph.saved if tensor.element_bytes != ACTIVATION_BYTES}
    return replace(
        device,
        matmuls=tuple(_matmul(op, plan.dtype, factor, wide) for op in device.matmuls),
        vectors=tuple(_vector(op, factor) for op in device.vectors),
        collectives=tuple(
            replace(op, size_bytes=op.size_bytes * factor, far_bytes=op.far_bytes * factor) for op in device.collectives
        ),
        saved=tuple(
            tensor if tensor.name in whole else replace(tensor, size_bytes=tensor.size_bytes * factor)
            for tensor in device.saved
        ),
    )


def _matmul(op: DeviceMatmul, dtype: str, factor: float, wide: float) -> DeviceMatmul:
    narrow = op.dtype == ACTIVATION_DTYPE
    return replace(
        op,
        dtype=dtype,
        weight_bytes=op.weight_bytes * (factor if narrow else 1.0),
        # A gradient that is kept is read and written in a format of its own.
        output_bytes=max(op.output_bytes, wide),
    )


def _vector(op: DeviceVector, factor: float) -> DeviceVector:
    return replace(
        op,
        read_bytes=op.read_bytes * factor,
        write_bytes=op.write_bytes * factor,
        weight_bytes=op.weight_bytes * factor,
        gathered_bytes=op.gathered_bytes * factor,
    )


def one_format(system: SystemArrays, software: SoftwareArrays) -> SystemArrays:
    """The system as software without mixed precision uses it: products in fp32 on the vector engine where the matrix
    engine has none.
    """
    chip = system.chip
    if software.mixed or "fp32" in chip.matrix.peak:
        return system
    peak = {**chip.matrix.peak, "fp32": chip.vector_peak}
    return replace(system, chip=replace(chip, matrix=replace(chip.matrix, peak=peak)))
