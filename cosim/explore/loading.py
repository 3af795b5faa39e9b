"""Storage of a system where a training step is asked to read its samples: the system's own, or what is usual."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cosim.datum import Datum
from cosim.hardware.lower import SystemArrays
from cosim.hardware.reliability import load_reliability
from cosim.mapping.plan import ScenarioArrays
from cosim.records import array


def usual_storage() -> Datum:
    """Bandwidth at which a node reads from storage where its system does not say, with its range."""
    return load_reliability().read_bandwidth


def reads_unsaid(machine: SystemArrays, scenario: ScenarioArrays) -> bool:
    """Whether samples are read and the system does not say how fast."""
    return bool(np.any(np.isfinite(scenario.bytes_per_sample)) and np.any(np.isnan(machine.storage)))


def with_storage(machine: SystemArrays, scenario: ScenarioArrays) -> SystemArrays:
    """The system with the usual bandwidth where samples are read and it does not say its own. Raises SpecError."""
    return replace(machine, storage=array(usual_storage().si)) if reads_unsaid(machine, scenario) else machine
