"""One point as events, whatever its phase."""

from __future__ import annotations

from cosim.engines.case import Case
from cosim.engines.events import EventRun, simulate
from cosim.engines.slow_ranks import SlowRanks
from cosim.engines.train_events import simulate_training
from cosim.errors import SpecError


def simulated(case: Case, index: int = 0, slow: SlowRanks | None = None) -> EventRun:
    """The event run of point `index` of a case; `slow` chips of a training step. Raises SpecError."""
    if case.phase == "train":
        return simulate_training(case, index, slow)
    if slow:
        raise SpecError("is known of training steps alone", field="straggler", value=case.phase)
    return simulate(case, index)
