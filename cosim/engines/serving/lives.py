"""What happens to replicas besides requests: they fail and are repaired, more are started, some are let go."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import numpy as np

from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Autoscale, Failures
from cosim.engines.serving.station import Station

Events = Generator[Any, Any, None]


class Keeper(Protocol):
    """The cluster, as those who change its replicas see it."""

    def lost(self, requests: list[Request]) -> None:
        """Requests of a replica that failed are sent again."""

    def opened(self) -> None:
        """A replica takes requests again."""


def fail(station: Station, failures: Failures, random: np.random.Generator, keeper: Keeper) -> Events:
    """A replica's failures and repairs, each after an exponential time; one that does not run does not fail."""
    env = station.env
    while True:
        yield env.timeout(float(random.exponential(failures.mean_up_s)))
        if station.since < 0.0:
            continue
        keeper.lost(station.crash())
        yield env.timeout(float(random.exponential(failures.mean_repair_s)))
        station.up = True
        station.settle()
        if station.live:
            keeper.opened()


def scale(stations: Sequence[Station], settings: Autoscale, keeper: Keeper) -> Events:
    """Follows the measure: wanted = ceil(replicas x measure / target), between least and most."""
    env = stations[0].env
    busy = [0.0] * len(stations)
    changed = -math.inf
    while True:
        yield env.timeout(settings.interval_s)
        now = float(env.now)
        live = [station for station in stations if station.live or station.starting]
        worked, busy = busy, [station.replica.busy(now) for station in stations]
        if settings.measure == "queue":
            measure = sum(len(station.replica.batch.queue) for station in stations) / len(live)
        else:
            measure = sum(busy) - sum(worked)
            measure /= settings.interval_s * len(live)
        wanted = math.ceil(len(live) * measure / settings.target - 1e-9)
        wanted = min(max(wanted, settings.least), settings.most)
        if wanted == len(live) or now - changed < settings.cool_down_s:
            continue
        changed = now
        if wanted > len(live):
            spare = [station for station in stations if not station.live and not station.starting]
            for station in spare[: wanted - len(live)]:
                env.process(_start(station, settings.start_s, keeper))
        else:
            # Those that are about to start are kept for the next look.
            serving = [station for station in live if station.live]
            going = min(len(live) - wanted, len(serving) - settings.least)
            for station in reversed(serving[len(serving) - max(going, 0) :]):
                station.live = False
                station.settle()


def _start(station: Station, start_s: float, keeper: Keeper) -> Events:
    """Paid for from the first moment, of use after `start_s`."""
    station.starting = True
    if station.since < 0.0:
        station.since = float(station.env.now)
    yield station.env.timeout(start_s)
    station.starting, station.live = False, True
    keeper.opened()
