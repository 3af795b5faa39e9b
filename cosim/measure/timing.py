"""How a kernel is timed on any device: enough runs between two events, several rounds, the median.

warm   all runs use the same operands
cold   runs cycle through copies of the operands whose total is more than twice the last cache; where a kernel
       is too small for that, every run of a replay has its own copy. A read of twice the cache goes before.
time   median over rounds of the round's median replay, over the runs of a replay
spread slowest over fastest of these medians
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from cosim.errors import CosimError
from cosim.measure.points import Launch, Point

ROUNDS, REPLAYS = 5, 3
TARGET_S = 5e-3
"""Length of a replay: far above the resolution of events, and short enough for thousands of points."""
TRIAL, FEWEST, MOST = 4, 4, 1000
"""Runs of the first try, and least and most runs of a replay."""


class UnableError(CosimError):
    """A point that the device cannot run, with the reason; `lost` where the device answers no more."""

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        self.lost = lost
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device says of itself; empty text and 0 are unknown."""

    name: str
    torch: str
    driver: str = ""
    clock: str = ""
    power_limit: str = ""
    cache_bytes: float = 0.0
    memory_bytes: float = 0.0
    cores: int = 0


class Loop(Protocol):
    """A number of runs of one kernel, ready to be replayed."""

    @property
    def method(self) -> str:
        """`graph` or `stream`."""

    def seconds(self) -> float:
        """Time of one replay by the device's clock [s]. Raises UnableError."""


class Device(Protocol):
    """What can run points."""

    @property
    def facts(self) -> Facts:
        """What it is."""

    def lacks(self, kind: str, dtype: str) -> str:
        """Why it cannot run `kind` in `dtype`; empty where it can."""

    def loop(self, point: Point, runs: int, copies: int, flush_bytes: float) -> Loop:
        """`runs` runs over `copies` copies of the operands in turn; `flush_bytes` are read before a replay.

        Raises UnableError.
        """


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one run [s], slowest over fastest round, the runs behind it, and how they were launched."""

    seconds: float
    spread: float
    repeats: int
    method: str


def timed(device: Device, point: Point, cache_bytes: float) -> Timing:
    """The time of a point on a device whose last cache holds `cache_bytes`. Raises UnableError."""
    if not point.warm and not cache_bytes > 0.0:
        raise UnableError("the size of the last cache is unknown, so operands cannot be kept out of it")
    flush = 0.0 if point.warm else 2.0 * cache_bytes
    if isinstance(point, Launch):
        runs = point.runs
    else:
        trial = device.loop(point, TRIAL, copies_of(point, TRIAL, cache_bytes), flush)
        # The least of a few: what disturbs one replay would leave all rounds too short.
        runs = runs_of(min(trial.seconds() for _ in range(REPLAYS)) / TRIAL)
        del trial  # its operands make room for the next
    loop = device.loop(point, runs, copies_of(point, runs, cache_bytes), flush)
    rounds = [median(loop.seconds() for _ in range(REPLAYS)) for _ in range(ROUNDS)]
    if not min(rounds) > 0.0:
        raise UnableError("the device's clock does not resolve it")
    return Timing(median(rounds) / runs, max(rounds) / min(rounds), runs * REPLAYS * ROUNDS, loop.method)


def runs_of(seconds: float) -> int:
    """Runs of a replay for a kernel that takes about `seconds`."""
    return MOST if seconds <= TARGET_S / MOST else max(FEWEST, round(TARGET_S / seconds))


def copies_of(point: Point, runs: int, cache_bytes: float) -> int:
    """Copies of the operands for `runs` runs: between two uses of one, twice the cache is read or written."""
    if point.warm:
        return 1
    return min(runs, math.ceil(2.0 * cache_bytes / point.operand_bytes) + 1)
