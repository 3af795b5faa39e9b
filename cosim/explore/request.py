"""A request in words (names, paths) to an estimate: what the command line and scripts ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosim.engines.case import Phase
from cosim.errors import SpecError, nearest
from cosim.explore.estimate import Estimate, estimate
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import ROOTS, Varied, split_overrides, vary
from cosim.workload.load import load_workload


def estimate_request(phase: str, system: str, workload: str, overrides: Mapping[str, Any]) -> Estimate:
    """Estimate of `phase` for named system and workload with overrides by path. Raises SpecError, InfeasibleError."""
    known: dict[str, Phase] = {"train": "train", "prefill": "prefill", "decode": "decode"}
    if phase not in known:
        raise SpecError("unknown phase", value=phase, hint=nearest(phase, known))
    parts = split_overrides(overrides, ROOTS)
    machine = vary_system(Varied(load_system(system)), parts["system"])
    model = vary(Varied(load_workload(workload)), parts["workload"], root="workload.")
    return estimate(known[phase], machine, model, parts["plan"], parts["scenario"])
