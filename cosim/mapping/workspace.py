"""Memory that holds no tensor of the model: buffers of collectives, workspace of libraries, what fragments.

    buffers     fixed buffers of the library, and so many of the largest message that tensor or expert ranks exchange
    workspace   fixed workspace of kernels, and a share of the saved tensors that the allocator cannot use

All are numbers of the training software, and nothing where it does not give them.
"""

from __future__ import annotations

import numpy as np

from cosim.mapping.device import EXPERT_GATHER, EXPERT_SCATTER, DeviceGraph
from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_tensor
from cosim.mapping.software import SoftwareArrays
from cosim.records import Array, array


def buffer_bytes(device: DeviceGraph, plan: PlanArrays, software: SoftwareArrays) -> Array:
    """Bytes of buffers of collectives on a chip; nothing for a chip that is alone."""
    several = np.where(plan.chips > 1.0, 1.0, 0.0)
    if not np.any(software.message_buffers > 0.0):
        return several * software.library_buffers
    return several * (software.library_buffers + software.message_buffers * largest_message(device, plan))


def largest_message(device: DeviceGraph, plan: PlanArrays) -> Array:
    """Bytes of the largest message inside a layer that is sent over tensor or expert ranks."""
    most, wide = array(0.0), expert_tensor(plan)
    for op in device.collectives:
        if op.group in {"embed", "head"} or op.kind.startswith("context"):
            continue
        own = {"all_to_all": plan.expert, EXPERT_GATHER: wide, EXPERT_SCATTER: wide}.get(op.kind, plan.tensor)
        most = np.maximum(most, np.where((own > 1.0) & (op.count > 0.0), op.size_bytes + op.far_bytes, 0.0))
    return most


def workspace_bytes(saved: Array, software: SoftwareArrays) -> Array:
    """Workspace and what fragments beside `saved` bytes of saved tensors."""
    return software.workspace + software.fragmentation * saved
