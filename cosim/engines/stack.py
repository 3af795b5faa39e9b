"""What a training stack reaches of the rates of a chip's own kernels and libraries.

    kernel      seconds / rate of its class
    attention   at least  FLOP / (FLOP per core and cycle x cores x clock)  of the kernels that the stack has
    traffic     seconds / rate of its kind: experts' exchanges apart
    shards      and bytes / rate of the buffers that they pass through

Rates are constants of the stack (`cosim.mapping.software.Rates`), the same on every chip and for every model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.hardware.lower import ChipArrays
from cosim.mapping.software import SoftwareArrays
from cosim.records import Array
from cosim.timing.collective import CollectiveCost
from cosim.timing.cost import KernelCost


def as_stack_runs(cost: KernelCost, kind: str, software: SoftwareArrays, chip: ChipArrays) -> KernelCost:
    """A kernel of class `kind` (matmul, attention, vector) as the stack runs it; shapes as in `cost`."""
    if kind == "attention":
        return _attention(cost, software, chip)
    rate = software.matmul_rate if kind == "matmul" else software.vector_rate
    return replace(cost, time=cost.time / rate, compute=cost.compute / rate, memory=cost.memory / rate)


def as_stack_sends(cost: CollectiveCost, software: SoftwareArrays | None, *, exchange: bool = False) -> CollectiveCost:
    """A collective as the stack runs it; `exchange`: of tokens with their experts. Serving has no rates here."""
    if software is None:
        return cost
    return replace(cost, time=cost.time / (software.exchange_rate if exchange else software.collective_rate))


def as_stack_shards(cost: CollectiveCost, size: Array, software: SoftwareArrays) -> CollectiveCost:
    """A collective of `size` bytes of a layer's weights or gradients, with their copy through flat buffers."""
    sent = as_stack_sends(cost, software)
    return replace(sent, time=sent.time + np.where(cost.wire_bytes > 0.0, size, 0.0) / software.shard_copy)


def _attention(cost: KernelCost, software: SoftwareArrays, chip: ChipArrays) -> KernelCost:
    """No faster than the stack's kernel on all cores; a chip of unknown cores has no such bound."""
    clock = chip.matrix.clock
    if chip.cores is None or clock is None:
        return cost
    least: Array = cost.flop / (software.attention_per_core * chip.cores * clock)
    longer = least / np.where(cost.time > 0.0, cost.time, np.inf)
    return replace(cost, time=np.maximum(cost.time, least), compute=cost.compute * np.maximum(longer, 1.0))
