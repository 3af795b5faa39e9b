"""What a search is for: numbers of a strategy that are made least or most, and the date that the fewest chips meet.

Every goal becomes a number that less is better of; a strategy that misses the date, or whose number is unknown, is
infinitely bad at that goal and may still be good at another.

    usd_per_token       chip time at its price over its life + facility energy at its price, per trained token
    energy_per_token_j  energy of the chips per trained token
    days                tokens of the run / tokens of a step x time of a step / goodput
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cosim.economics.price import SECONDS_PER_YEAR
from cosim.engines.analytic import Estimates
from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.explore.constraints import Constraint, parse_constraints
from cosim.explore.metrics import MAXIMISED, Die, metric, metric_names
from cosim.hardware.system import System
from cosim.records import Array

SECONDS_PER_DAY = 86400.0
OWN = ("usd_per_token", "energy_per_token_j", "nodes")
"""Columns that a search adds to those of any result."""
UNKNOWN_IN_TRAINING = ("tokens_per_s_per_user", "memory_bytes.kv")
KNOWN = tuple(name for name in (*metric_names(), *OWN) if name not in UNKNOWN_IN_TRAINING)
MORE_IS_BETTER = (*MAXIMISED, "clock")


@dataclass(frozen=True, slots=True)
class Date:
    """A run of `tokens` that must be done in `days`, of which a share `goodput` is spent in steps that count."""

    tokens: float
    days: float
    goodput: float = 1.0


@dataclass(frozen=True, slots=True)
class Goal:
    """The least (`sign` 1) or the most (-1) of a column; with a date, of those strategies that meet it."""

    text: str
    column: str
    sign: float
    date: Date | None = None

    def worth(self, numbers: dict[str, Array]) -> Array:
        """What less is better of, inf where it is unknown or the date is missed."""
        value = self.sign * numbers[self.column]
        if self.date is not None:
            value = np.where(numbers["days"] <= self.date.days, value, np.inf)
        return np.where(np.isnan(value), np.inf, value)


@dataclass(frozen=True, slots=True)
class Money:
    """What a chip-second and a joule cost; NaN where the chip has no price."""

    usd_per_chip_s: float
    usd_per_j: float


def money_of(spec: System) -> Money:
    """Prices of a system: its chip over the life that the facility gives it, its energy."""
    life = spec.facility.lifetime_years.si * SECONDS_PER_YEAR
    price = np.nan if spec.chip.price is None else spec.chip.price.si
    return Money(price / life, spec.facility.energy_price.si)


def parse_asked(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Constraints of a search, on its own columns too. Raises SpecError."""
    found = parse_constraints(texts, OWN)
    for index, constraint in enumerate(found):
        if constraint.column in UNKNOWN_IN_TRAINING:
            raise SpecError("is unknown in training", field=f"constraints.{index}", value=constraint.text)
    return found


def numbers_of(names: Iterable[str], case: Case, result: Estimates, die: Die, money: Money) -> dict[str, Array]:
    """Columns `names` of every point, each of shape (P,)."""
    return {name: _number(name, case, result, die, money) for name in dict.fromkeys(names)}


def days_of(date: Date, result: Estimates) -> Array:
    """Days that a run takes at the time of a step [d]."""
    steps = date.tokens / result.tokens
    found: Array = steps * result.time / (SECONDS_PER_DAY * date.goodput)
    return found


def _number(name: str, case: Case, result: Estimates, die: Die, money: Money) -> Array:
    if name == "usd_per_token":
        spent = money.usd_per_chip_s * result.chips * result.time + money.usd_per_j * result.facility_energy
        per_token: Array = spent / result.tokens
        return per_token
    if name == "energy_per_token_j":
        return result.energy / result.tokens
    if name == "nodes":
        return np.broadcast_to(case.system.chips / case.system.node_chips, result.time.shape)
    return metric(name, case, result, die)
