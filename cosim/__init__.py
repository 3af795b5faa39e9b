"""cosim: hardware/software co-design performance simulator for AI accelerators.

The names below are the promised interface; they load on first use, so that importing cosim is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# The package cosim.workload and the function cosim.workload() share a promised name. Importing the (empty)
# package once and forgetting the attribute leaves the name to __getattr__ below; the import system sets an
# attribute only when it first loads a package, so it does not come back.
import cosim.workload  # noqa: F401
from cosim.version import __version__

del globals()["workload"]

if TYPE_CHECKING:
    from cosim.api import (
        Strategy,
        chip,
        diff,
        estimate_decode,
        estimate_prefill,
        estimate_training,
        run,
        search,
        search_serving,
        simulate_collective,
        simulate_goodput,
        simulate_serving,
        simulate_training,
        sweep,
        system,
        workload,
    )
    from cosim.errors import CosimError, InfeasibleError, SimulationError, SpecError
    from cosim.validation.run import validate

_HOMES = {
    "CosimError": "cosim.errors",
    "InfeasibleError": "cosim.errors",
    "SimulationError": "cosim.errors",
    "SpecError": "cosim.errors",
    "Strategy": "cosim.api",
    "chip": "cosim.api",
    "diff": "cosim.api",
    "estimate_decode": "cosim.api",
    "estimate_prefill": "cosim.api",
    "estimate_training": "cosim.api",
    "run": "cosim.api",
    "search": "cosim.api",
    "search_serving": "cosim.api",
    "simulate_collective": "cosim.api",
    "simulate_goodput": "cosim.api",
    "simulate_serving": "cosim.api",
    "simulate_training": "cosim.api",
    "sweep": "cosim.api",
    "system": "cosim.api",
    "validate": "cosim.validation.run",
    "workload": "cosim.api",
}

__all__ = [
    "CosimError",
    "InfeasibleError",
    "SimulationError",
    "SpecError",
    "Strategy",
    "__version__",
    "chip",
    "diff",
    "estimate_decode",
    "estimate_prefill",
    "estimate_training",
    "run",
    "search",
    "search_serving",
    "simulate_collective",
    "simulate_goodput",
    "simulate_serving",
    "simulate_training",
    "sweep",
    "system",
    "validate",
    "workload",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the module protocol
    if name not in _HOMES:
        raise AttributeError(f"module 'cosim' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
