"""Parameters of one rank by stage and group, dense and routed apart: other ranks hold copies of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cosim.mapping.device import DeviceGraph, DeviceMatmul, DeviceVector
from cosim.mapping.stages import Stages, by_group
from cosim.records import Array, array

Owner = DeviceMatmul | DeviceVector


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of one rank: those that every replica holds, and those of routed experts; `layers` they make up.

    `tables` are those of tables that the replicas share out, counted whole.
    """

    shared: Array = field(default_factory=lambda: array(0.0))
    routed: Array = field(default_factory=lambda: array(0.0))
    layers: Array = field(default_factory=lambda: array(0.0))
    tables: Array = field(default_factory=lambda: array(0.0))


def parameters_of(op: Owner) -> Array:
    """Parameters of one run of an op."""
    return op.parameters


def stage_parameters(
    device: DeviceGraph, stage: Stages, copies: float = 1.0, each: Callable[[Owner], Array] = parameters_of
) -> Weights:
    """Parameters of one rank on a stage of each class (4, P); `copies` of every weight in the pipeline.

    `each` is what is summed of an op where that is not its parameters.
    """
    return stage_weights(group_parameters(device, each), stage, copies)


def stage_weights(groups: Mapping[str, Weights], stage: Stages, copies: float = 1.0) -> Weights:
    """The same from the parameters of one run of each group."""
    shared = routed = tables = np.zeros_like(stage.layers)
    for group, held in groups.items():
        runs = copies * by_group(stage, group)
        shared, routed = shared + runs * held.shared, routed + runs * held.routed
        tables = tables + runs * held.tables
    return Weights(shared, routed, copies * stage.layers, tables)


def group_parameters(device: DeviceGraph, each: Callable[[Owner], Array] = parameters_of) -> dict[str, Weights]:
    """Parameters of one rank per run of each group; `each` as in `stage_parameters`."""
    held: dict[str, Weights] = {}
    for op in owners(device):
        own, numbers = held.get(op.group, Weights()), op.count * each(op)
        if isinstance(op, DeviceVector) and op.sharded:
            held[op.group] = replace(own, tables=own.tables + numbers)
            continue
        routed = is_routed(op)
        shared = own.shared if routed else own.shared + numbers
        held[op.group] = Weights(shared, own.routed + numbers if routed else own.routed, tables=own.tables)
    return held


def owners(device: DeviceGraph) -> tuple[Owner, ...]:
    """Ops that may have parameters."""
    return (*device.matmuls, *device.vectors)


def is_routed(op: Owner) -> bool:
    """Whether its parameters are experts."""
    return isinstance(op, DeviceMatmul) and op.routed
