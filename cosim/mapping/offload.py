"""A second tier of memory: shares of activations, weights and optimizer state that lie in the host's.

    on chip   what is not offloaded, and buffers: two layers of activations and of weights, two layers of state
    host      what is offloaded, of every chip of a node in the node's memory
    moved     activations out behind the forward pass of their layer and back behind its backward pass; weights in
              behind both; state in and out behind the update on the chip, and new weights out with it

The link to the host is a port of its own, the same rate each way at once. An update by the host's processor is not
modelled. What a layer keeps for itself alone (embedding and head) stays on the chip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.mapping.plan import PlanArrays
from cosim.records import Array, array

SHARES = ("activations", "weights", "optimizer")


@dataclass(frozen=True, slots=True)
class Host:
    """The second tier of one chip: bytes that it may hold there, bytes/s of its link in each direction."""

    capacity: Array
    bandwidth: Array


def offloads(plan: PlanArrays) -> bool:
    """Whether any point keeps something in the host's memory."""
    return any(bool(np.any(share(plan, name) > 0.0)) for name in SHARES)


def share(plan: PlanArrays, name: str) -> Array:
    """Share of `activations`, `weights` or `optimizer` that is offloaded."""
    found: Array = getattr(plan, f"offload_{name}")
    return found


def host_of(system: SystemArrays, plan: PlanArrays) -> Host:
    """The host's memory as the chips of a system have it: without limit where nothing is offloaded.

    Raises SpecError where something is and the system does not say how much there is or how fast it is reached.
    """
    if not offloads(plan):
        return Host(array(np.inf), array(np.inf))
    name = next(f"plan.offload_{each}" for each in SHARES if np.any(share(plan, each) > 0.0))
    level = system.chip.memory.get("host")
    capacity = system.host_capacity if level is None else level.capacity
    bandwidth = system.chip.links.get("host") if level is None else level.bandwidth
    if not np.all(np.isfinite(capacity)):
        hint = f"{system.name} does not say how much memory its hosts have: give system.server.memory, such as 2 TB"
        raise SpecError("needs a second tier of memory", field=name, hint=hint)
    if bandwidth is None:
        hint = f"{system.chip.name} does not say how fast it reaches its host: give links.host"
        raise SpecError("needs a link to the second tier of memory", field=name, hint=hint)
    return Host(capacity, bandwidth)


def on_chip(held: Array, away: Array, buffer: Array) -> Array:
    """Bytes on the chip of `held` bytes of which `away` are offloaded through a buffer of `buffer` bytes."""
    return held - away + np.minimum(buffer, away)
