"""One point as events, whatever its phase."""

from __future__ import annotations

from cosim.engines.case import Case
from cosim.engines.events import EventRun, simulate
from cosim.engines.train_events import simulate_training


def simulated(case: Case, index: int = 0) -> EventRun:
    """The event run of point `index` of a case."""
    return simulate_training(case, index) if case.phase == "train" else simulate(case, index)
