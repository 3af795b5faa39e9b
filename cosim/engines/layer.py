"""One run of a group, a layer say, forward and back: the longer of device and host, and traffic that it cannot hide.

    forward    device time, what the host takes longer, gathered weights that stay exposed, the link to the host
    backward   the same of gradients and of what runs again; of layers that do not recompute without the latter

Where only the first layers of a stage recompute, a run is the mean over the layers of the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cosim.engines.step import GroupCosts
from cosim.mapping.software import SoftwareArrays
from cosim.records import Array, array
from cosim.timing.collective import exposed


@dataclass(frozen=True, slots=True)
class LayerPass:
    """Seconds of one run of a group, (P,) or by stage class (4, P): both passes, and what is in them.

    `host` is what the host adds to the device, `waits` exposed traffic of the data ranks, both passes together.
    """

    forward: Array
    backward: Array
    host: Array
    waits: Array
    offload: Array
    """What the link to the host takes longer than everything else."""


def layer_pass(
    forward: GroupCosts,
    again: GroupCosts,
    gradients: GroupCosts,
    traffic: tuple[Array, Array],
    *,
    share: Array,
    software: SoftwareArrays,
    cores: Array,
    moved: tuple[Array, Array],
) -> LayerPass:
    """Passes of a group whose weights are gathered and gradients scattered in `traffic` seconds forward and back.

    `share` of its runs compute again what `again` says; `moved` are seconds of the link to the host, out and back.
    """
    out = _pass([forward], traffic[0], software, cores)
    back = _pass([again, gradients], traffic[1], software, cores)
    if np.any(share != 1.0):
        less = _pass([gradients], traffic[1], software, cores)
        back = tuple(share * one + (1.0 - share) * other for one, other in zip(back, less, strict=True))
    ahead, behind = sum(out, array(0.0)), sum(back, array(0.0))
    late = np.maximum(moved[0] - ahead, 0.0), np.maximum(moved[1] - behind, 0.0)
    return LayerPass(ahead + late[0], behind + late[1], out[1] + back[1], out[2] + back[2], late[0] + late[1])


def _pass(costs: list[GroupCosts], traffic: Array, software: SoftwareArrays, cores: Array) -> tuple[Array, ...]:
    """Device time, what the host takes longer, exposed traffic [s]."""
    device: Array = sum((cost.time for cost in costs), array(0.0))
    issued: Array = sum((host_seconds(cost, software) for cost in costs), array(0.0))
    late = later(issued, device, software.host_blend)
    # Traffic hides behind a device that waits for its host as behind one that works.
    waits = exposed(traffic, device + late, cores) if software.gradient_overlap else traffic
    return device, late, waits


def later(host: Array, device: Array, blend: Array) -> Array:
    """What a host of so many seconds adds to a device [s]: (host^b + device^b)^(1/b) - device, b of the stack.

    With b without limit the host adds what it takes longer. A finite one is eager code, in which each waits for the
    other in places whichever takes longer over the pass.
    """
    most = np.maximum(host, device)
    if np.all(np.isinf(blend)):
        return most - device
    whole = np.where(most > 0.0, most, 1.0)
    both: Array = whole * ((host / whole) ** blend + (device / whole) ** blend) ** (1.0 / blend)
    return np.where(np.isinf(blend), most, np.where(most > 0.0, both, 0.0)) - device


def host_seconds(cost: GroupCosts, software: SoftwareArrays) -> Array:
    """Host time to issue the kernels and collectives of a pass [s]."""
    kernels: Array = cost.kernels * software.host_kernel
    return kernels + cost.collectives * software.host_collective + cost.exchanges * software.host_exchange


def together(forward: GroupCosts, again: GroupCosts, gradients: GroupCosts, share: Array) -> GroupCosts:
    """All passes of a group, of which a `share` of its runs computes again."""
    names = [field.name for field in fields(GroupCosts)]
    return GroupCosts(
        **{name: getattr(forward, name) + share * getattr(again, name) + getattr(gradients, name) for name in names}
    )
