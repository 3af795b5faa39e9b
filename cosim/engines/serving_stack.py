"""What a serving stack makes of a step: rates of its kernels, its own sums, what its host costs.

kernel   seconds / rate of its class
stored   weights widened beside the matrix units: of few rows dot products, of more a copy in 16 bits, then a product
sum      the faster of the chip's library and the stack's own kernel, in which every rank reads all others:
start + (ranks - 1) bytes / bandwidth, inside the innermost tier
host     step + sequences x each + kernels x issue; behind the device, or after it
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cosim.hardware.lower import ChipArrays, SystemArrays
from cosim.mapping.device import ACTIVATION_BYTES, DeviceCollective, DeviceMatmul
from cosim.mapping.placement import Placement
from cosim.mapping.serving import ServingArrays
from cosim.mapping.stages import Stages
from cosim.records import Array
from cosim.timing.collective import CollectiveCost
from cosim.timing.cost import KernelCost, dram_rate

if TYPE_CHECKING:
    from cosim.engines.case import Case
    from cosim.engines.step import StageCosts

DOT_ROWS = 8.0
"""Most rows of a product that runs as dot products (MMVQ_MAX_BATCH_SIZE of ggml) [unverified recollection]."""


def served_by(
    cost: KernelCost, kind: str, stack: ServingArrays, chip: ChipArrays, product: DeviceMatmul | None
) -> KernelCost:
    """A kernel of class `kind` (matmul, attention, vector) as the stack runs it; `product`: what it is, if one."""
    rate = {
        "matmul": stack.routed_rate if product is not None and product.routed else stack.matmul_rate,
        "attention": stack.attention_rate,
        "vector": stack.vector_rate,
    }[kind]
    own = replace(cost, time=cost.time / rate, compute=cost.compute / rate, memory=cost.memory / rate)
    if product is None:
        return own
    least = np.zeros_like(cost.flop)
    if product.stored is not None and np.any(np.isfinite(stack.stored_on_vector)):
        few = product.m <= DOT_ROWS
        least = np.where(few, cost.flop / (stack.stored_on_vector * chip.vector_peak), 0.0)
        copied = 2.0 * ACTIVATION_BYTES * product.n * product.k * product.batch / dram_rate(chip)
        # Few rows are dot products: no tile of the matrix units is left empty.
        own = replace(
            own,
            time=np.where(few, own.memory, own.time + copied),
            compute=np.where(few, 0.0, own.compute),
            memory=own.memory + np.where(few, 0.0, copied),
        )
    if chip.cores is not None and chip.matrix.clock is not None:
        least = np.maximum(least, cost.dram_bytes / (stack.read_per_core * chip.cores * chip.matrix.clock))
    return replace(own, time=np.maximum(own.time, least), compute=np.maximum(own.compute, least))


def sent_by(
    cost: CollectiveCost, op: DeviceCollective, group: Placement, system: SystemArrays, stack: ServingArrays | None
) -> CollectiveCost:
    """A collective as the stack runs it; `group` are the tensor ranks."""
    if stack is None:
        return cost
    if op.kind == "all_to_all":
        return replace(cost, time=cost.time / stack.exchange_rate)
    time = cost.time / stack.collective_rate
    if op.kind == "all_reduce":
        inner = system.tiers[0]
        near = (group.total == group.ranks[0]) & (group.total > 1.0)
        own = stack.sum_start + (group.total - 1.0) * op.size_bytes / inner.bandwidth
        time = np.where(near & (op.size_bytes > 0.0), np.minimum(time, own), time)
    return replace(cost, time=time)


def host_seconds(case: Case) -> Array:
    """Host time of a step by itself: what every step takes, and every sequence of a rank [s]."""
    own = case.system.chip.launch.host_step
    stack, work = case.stack, case.work
    if stack is None or work is None:
        return own
    sequences = (work.decodes + work.chunks) / case.plan.data
    host: Array = np.where(np.isnan(stack.host_step), own, stack.host_step) + sequences * stack.host_sequence
    return host


def issued_seconds(costs: StageCosts, stage: Stages, stack: ServingArrays) -> Array:
    """Host time to issue the kernels of a step one by one [s]."""
    found: Array = np.sum(stage.count * costs.kernels, axis=0) * stack.host_kernel
    return found


def serving_host(case: Case, costs: StageCosts, stage: Stages, device: Array) -> Array:
    """Host time that a step adds to its `device` time [s]; of a training-free chip alone: its own."""
    stack, work = case.stack, case.work
    host = host_seconds(case)
    if stack is None or work is None:
        return host
    ranks = case.plan.data
    issued = issued_seconds(costs, stage, stack)
    replayed = work.tokens / ranks <= stack.graph_tokens
    if stack.graph_decodes:
        replayed = replayed | (work.chunks <= 0.0)
    late: Array = np.where(replayed, 0.0, np.maximum(issued - device, 0.0))
    return late + (np.maximum(host - device - late, 0.0) if stack.host_hidden else host)
