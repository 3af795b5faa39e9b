"""Time of the link to the host's memory: what a layer's passes and the update move over it.

    forward   the longer of saved tensors out and weights in           per run of a group and micro-batch
    backward  saved tensors and weights in
    update    the longer of state in, and state and new weights out

Each is exposed where it is longer than what it runs beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.engines.case import Case, device_graph
from cosim.mapping.device import DeviceGraph
from cosim.mapping.offload import host_of, offloads
from cosim.mapping.schedules import copies
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages
from cosim.mapping.training import kept_bytes, shared_out, state_bytes, updated_part
from cosim.mapping.weights import Weights, group_parameters, stage_parameters
from cosim.mapping.widths import element_bytes
from cosim.records import Array, array


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes over the link to the host: of one run of each group out and in, and the same of an update (4, P).

    `bandwidth` [B/s] is that of the link in each direction.
    """

    saved: dict[str, Array]
    weights: dict[str, Array]
    update_out: Array
    update_in: Array
    bandwidth: Array

    def seconds(self, group: str) -> tuple[Array, Array]:
        """Of one run of a group, forward and back."""
        saved, weights = self.saved.get(group, array(0.0)), self.weights.get(group, array(0.0))
        return np.maximum(saved, weights) / self.bandwidth, (saved + weights) / self.bandwidth

    def bytes_of(self, group: str) -> Array:
        """Of one run of a group, both passes and directions."""
        return 2.0 * (self.saved.get(group, array(0.0)) + self.weights.get(group, array(0.0)))

    @property
    def update_seconds(self) -> Array:
        """Of an update on a stage of each class (4, P)."""
        return np.maximum(self.update_out, self.update_in) / self.bandwidth


def moved(case: Case, software: SoftwareArrays, stage: Stages) -> Moved:
    """What a step moves. Raises SpecError where the system has no host tier."""
    plan, none = case.plan, array(0.0)
    bandwidth = host_of(case.system, plan).bandwidth
    if not offloads(plan):
        return Moved({}, {}, none, none, bandwidth)
    device = device_graph(case)
    wide, updates = element_bytes(plan, software), case.scenario.updates
    kept = kept_bytes(device, stage, plan)
    saved = {group: plan.offload_activations * size for group, size in kept.items() if group not in {"embed", "head"}}
    held = group_parameters(device)
    weights = {group: plan.offload_weights * shared_out(own, plan, 3.0) * wide for group, own in held.items()}
    state = plan.offload_optimizer * state_bytes(device, stage, plan, software, updates)
    changed = Weights() if updates == "nothing" else _changed(case, device, stage)
    renewed = plan.offload_weights * shared_out(changed, plan, 3.0) * wide
    return Moved(saved, weights, state + renewed, state, bandwidth)


def _changed(case: Case, device: DeviceGraph, stage: Stages) -> Weights:
    return stage_parameters(updated_part(device, case.scenario.updates), stage, copies(case.plan.schedule))
