"""Every number of a result by its column name: one definition for tables, constraints and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cosim.engines.analytic import BREAKDOWN, Estimates
from cosim.engines.case import Case
from cosim.explore import mfu
from cosim.mapping.memory import HELD
from cosim.records import Array

Die = Mapping[str, Array]
"""Area and TDP of the chip, see `cosim.explore.die.die_columns`."""
Metric = Callable[[Case, Estimates, Die], Array]

DIE_METRICS = ("area_mm2", "tdp_w")
"""Known of a design before anything is timed."""
MAXIMISED = (
    "tokens_per_s_per_chip",
    "tokens_per_s_per_user",
    "tokens_per_s_per_mm2",
    "items_per_s",
    "mfu",
    *mfu.NAMES,
    "tokens_per_j_chip",
    "tokens_per_j_server",
    "tokens_per_j_facility",
)
"""Of these more is better, and none is ever zero."""
UNITS: dict[str, str] = {
    "time_s": "s",
    "tokens_per_s_per_chip": "token/s",
    "tokens_per_s_per_user": "token/s",
    "tokens_per_s_per_mm2": "token/s/mm2",
    "items_per_s": "item/s",
    "energy_j": "J",
    "power_w": "W",
    "tokens_per_j_chip": "token/J",
    "tokens_per_j_server": "token/J",
    "tokens_per_j_facility": "token/J",
    "area_mm2": "mm2",
    "tdp_w": "W",
    "usd_per_token": "USD",
    "energy_per_token_j": "J",
    "days": "d",
    "scenario.bytes_per_sample": "B",
}


def per_chip(_case: Case, result: Estimates, _die: Die) -> Array:
    """Tokens/s per chip."""
    rate: Array = result.tokens / result.time / result.chips
    return rate


def per_user(case: Case, result: Estimates, _die: Die) -> Array:
    """Tokens/s of one sequence; unknown in training."""
    if case.phase == "train":
        return np.full_like(result.time, np.nan)
    rate: Array = result.tokens / case.scenario.batch / result.time
    return rate


def per_area(case: Case, result: Estimates, die: Die) -> Array:
    """Tokens/s per mm2 of the chip's dies."""
    rate: Array = per_chip(case, result, die) / die["area_mm2"]
    return rate


def items(case: Case, result: Estimates, _die: Die) -> Array:
    """Steps of a sequence, or passes of a network's item, that the whole system does a second: batch / time."""
    batch = case.scenario.global_batch if case.phase == "train" else case.scenario.batch
    rate: Array = batch / result.time
    return rate


METRICS: dict[str, Metric] = {
    "time_s": lambda _case, result, _die: result.time,
    "tokens_per_s_per_chip": per_chip,
    "tokens_per_s_per_user": per_user,
    "tokens_per_s_per_mm2": per_area,
    "items_per_s": items,
    "mfu": lambda _case, result, _die: result.utilisation,
    "energy_j": lambda _case, result, _die: result.energy,
    "power_w": lambda _case, result, _die: result.power,
    "clock": lambda _case, result, _die: result.clock,
    "tokens_per_j_chip": lambda _case, result, _die: result.tokens / result.energy,
    "tokens_per_j_server": lambda _case, result, _die: result.tokens / result.server_energy,
    "tokens_per_j_facility": lambda _case, result, _die: result.tokens / result.facility_energy,
    "chips": lambda _case, result, _die: result.chips,
}


def metric(name: str, case: Case, result: Estimates, die: Die) -> Array:
    """Column `name` of every point, shape (P,). Raises KeyError for no number of a result."""
    if name in DIE_METRICS:
        values = die[name]
    elif name in mfu.NAMES:
        values = mfu.mfu(name, case, result)
    elif name.startswith("memory_bytes."):
        values = result.memory[name.removeprefix("memory_bytes.")]
    elif name.startswith("breakdown_s."):
        values = result.breakdown[name.removeprefix("breakdown_s.")]
    else:
        values = METRICS[name](case, result, die)
    return np.broadcast_to(values, result.time.shape)


def metric_names() -> list[str]:
    """Every number of a result that can be constrained or maximised."""
    memory = [f"memory_bytes.{kind}" for kind in HELD]
    return [*METRICS, *DIE_METRICS, *mfu.NAMES, *memory, *(f"breakdown_s.{name}" for name in BREAKDOWN)]


def unit_of(column: str) -> str:
    """Unit of a result column, empty where it has none."""
    if column.startswith("breakdown_s."):
        return "s"
    if column.startswith("memory_bytes."):
        return "B"
    return UNITS.get(column, "")
