"""Average power of attention kernels: modelled against the watts that some tables measured.

    modelled = dynamic energy / time + idle,    dynamic energy as `cosim.timing.energy` counts it

Nothing is capped at the limit of the package. Two times are used: the predicted one, and the measured one of the
same stacks, which leaves the energy's own error. The column reads as the average of the package over a loop of the
kernel: it never falls to what an idle chip draws and may pass the limit a little, as a controller lets it for a moment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cosim.records import Array
from cosim.timing.cost import math_dtype
from cosim.timing.energy import kernel_energy
from cosim.validation.silicon import SAMPLE, Suite, Target, kernel, sampled
from cosim.validation.silicon_tables import Shapes, read_tables
from cosim.validation.statistics import summary


def powers(suite: Suite, root: Path, *, every: bool = False) -> list[dict[str, Any]]:
    """One row a chip, phase and formats whose tables have watts. Raises SpecError for tables that cannot be read."""
    asked = dict.fromkeys((target.system, shapes.kind) for target, shapes in suite.tables if shapes.kind != "matmul")
    targets = {target.system: target for target, _ in suite.tables}
    return [
        compared(targets[system], shapes if every else sampled(shapes, SAMPLE))
        for system, kind in asked
        for shapes in read_tables(root, system, kind, powered=True).shapes
        if shapes.power.size
    ]


def compared(target: Target, shapes: Shapes) -> dict[str, Any]:
    """Errors of modelled watts, at the predicted and at the measured time, and the range of the measured ones."""
    found = kernel(shapes, target.chip)
    energy = kernel_energy(found.cost, target.chip, math_dtype(target.chip))
    at_predicted, at_measured = (watts(energy, time, target) for time in (found.time, shapes.measured))
    return {
        "accelerator": target.name,
        "fit": target.fit,
        "phase": shapes.kind,
        "dtype": shapes.dtype,
        "kv_dtype": shapes.kv_dtype,
        **summary(at_predicted, shapes.power),
        "at_measured_time": summary(at_measured, shapes.power),
        "measured_w": _range(shapes.power),
        "modelled_w": _range(at_predicted),
        "idle_w": float(target.chip.power.idle),
        "limit_w": float(target.chip.power.limit),
    }


def watts(energy: Array, time: Array, target: Target) -> Array:
    """Average power [W] of kernels that spend `energy` [J] beyond idle in `time` [s]."""
    return energy / time + target.chip.power.idle


def _range(values: Array) -> dict[str, float]:
    parts = (np.min(values), np.median(values), np.max(values))
    return {name: float(value) for name, value in zip(("least", "median", "most"), parts, strict=True)}
