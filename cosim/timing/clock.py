"""The clock that a chip sustains under its power limit.

    time(f)    = rest + max(least, clocked / f)            f the clock over that of the peak
    energy(f)  = fixed + core (floor + (1 - floor) f)^2    voltage follows the clock down to its floor
    the highest f <= 1 with  energy(f) + idle time(f) <= limit time(f)

Controllers average over milliseconds: a step of a model is one window, and a kernel that is repeated alone another.
Below a tenth of the clock a chip has no lower one; it waits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.hardware.lower import PowerArrays
from cosim.records import Array

LEAST_CLOCK = 0.1
HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Load:
    """What runs in a window, shape (N,): seconds at the full clock that follow it (`clocked`), that do not (`rest`),
    and the least that the clocked part takes whatever the clock (`least`, DRAM beside it); dynamic J of the cores at
    the full voltage (`core`) and of the rest (`fixed`).
    """

    rest: Array
    clocked: Array
    least: Array
    fixed: Array
    core: Array


@dataclass(frozen=True, slots=True)
class Sustained:
    """Clock over that of the peak, time [s] and dynamic energy [J] of the window at it; shape (N,)."""

    clock: Array
    time: Array
    energy: Array


def sustained(load: Load, power: PowerArrays) -> Sustained:
    """The highest clock whose average power stays at the limit, by bisection where the full one does not."""
    parts = (load.rest, load.clocked, load.least, load.fixed, load.core, power.limit, power.idle, power.floor_voltage)
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    every = tuple(np.broadcast_to(part, shape).reshape(-1) for part in parts)
    full = np.ones(every[0].shape)
    time, energy, budget = _at(full, every)
    over = np.flatnonzero(energy > budget * time)
    if over.size:
        few = tuple(part[over] for part in every)
        low, high = np.full(over.shape, LEAST_CLOCK), np.ones(over.shape)
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            time_there, energy_there, limit = _at(middle, few)
            holds = energy_there <= limit * time_there
            low, high = np.where(holds, middle, low), np.where(holds, high, middle)
        full[over] = low
        time[over], energy[over], _ = _at(low, few)
    # Below the least clock a chip waits.
    return Sustained(full.reshape(shape), np.maximum(time, energy / budget).reshape(shape), energy.reshape(shape))


def _at(clock: Array, parts: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Time [s], dynamic energy [J] and the budget [W] at a clock."""
    rest, clocked, least, fixed, core, limit, idle, floor = parts
    time = rest + np.maximum(least, clocked / clock)
    return time, fixed + core * (floor + (1.0 - floor) * clock) ** 2, limit - idle


def sustained_seconds(rest: float, clocked: float, fixed: float, core: float, *, budget: float, floor: float) -> float:
    """Seconds of one window of this load (as in `Load`, nothing beside it) with `budget` W above the idle draw.

    The same as `sustained`, for callers of many single windows: Newton's method on the cubic that the balance of energy
    is in the clock, which is convex and comes down to its root from the full one.
    """
    time = rest + clocked
    if fixed + core <= budget * time:
        return time
    clock, rise = 1.0, 1.0 - floor
    for _ in range(HALVINGS):
        volts = floor + rise * clock
        over = clock * (fixed + core * volts * volts - budget * rest) - budget * clocked
        slope = fixed + core * volts * (volts + 2.0 * rise * clock) - budget * rest
        step = over / slope if slope > 0.0 else clock
        clock -= step
        if clock <= LEAST_CLOCK or step <= 1e-13:
            break
    if clock > LEAST_CLOCK:
        return rest + clocked / clock
    # Below the least clock a chip waits.
    volts = floor + rise * LEAST_CLOCK
    return max(rest + clocked / LEAST_CLOCK, (fixed + core * volts * volts) / budget)
