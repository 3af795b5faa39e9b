"""Samples of a training step as both engines need them: how long the storage of the plan's nodes reads."""

from __future__ import annotations

import numpy as np

from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.records import Array, array
from cosim.timing.loading import loading_seconds


def loading(case: Case) -> Array:
    """Time to read the samples of a step [s], (P,) or (): nothing where their size is not known.

    A node that the plan fills in part reads with all it has. Raises SpecError where storage is unknown.
    """
    asked, system = case.scenario.bytes_per_sample, case.system
    if not np.any(np.isfinite(asked)):
        return array(0.0)
    if np.any(np.isnan(system.storage)):
        hint = f"{system.name} does not say how fast its nodes read: give server.storage"
        raise SpecError("needs the bandwidth of storage", field="scenario.bytes_per_sample", hint=hint)
    nodes = np.ceil(case.plan.chips / system.node_chips)
    return loading_seconds(case.scenario.global_batch, asked, nodes, system.storage)
