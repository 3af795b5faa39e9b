"""Collectives on a system as events: several at once, with degraded links, late chips and other traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cosim.engines.network.flows import Burst, FlowRun, Interval, run_flows
from cosim.engines.network.graph import Graph, Index, build
from cosim.engines.network.links import degraded as with_factors
from cosim.engines.network.links import name_of
from cosim.engines.network.routes import around, routes
from cosim.engines.network.schedules import Work, schedule
from cosim.errors import SpecError
from cosim.hardware.lower import SystemArrays
from cosim.records import Array
from cosim.timing.collective_parts import Parts, group_of, parts_of

Traffic = tuple[int, int, float]
"""From a chip, to a chip, at so many bytes a second."""


@dataclass(frozen=True, slots=True)
class Request:
    """A collective of `size` bytes, as nccl-tests count them, on chips by number."""

    op: str
    size: float
    chips: tuple[int, ...]
    algorithm: str = "fastest"
    start_s: float = 0.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One collective: when it began and ended [s], how, its closed form [s], the bus bandwidth of both [B/s]."""

    name: str
    op: str
    size: float
    ranks: int
    start_s: float
    end_s: float
    algorithm: str
    protocol: str
    closed_form_s: float
    phases: tuple[tuple[str, float, float], ...]
    """Name, first byte and end of each of its bursts [s]."""

    @property
    def time_s(self) -> float:
        """From its start to its end."""
        return self.end_s - self.start_s

    @property
    def bus_bandwidth(self) -> float:
        """Of the simulation."""
        return bus_bandwidth(self.op, self.size, self.ranks, self.time_s)

    @property
    def closed_form_bus_bandwidth(self) -> float:
        """Of the closed form, where nothing contends."""
        return bus_bandwidth(self.op, self.size, self.ranks, self.closed_form_s)


@dataclass(frozen=True, slots=True)
class NetworkRun:
    """All collectives of a run, what links carried, and the links themselves."""

    outcomes: tuple[Outcome, ...]
    graph: Graph
    capacity: Array
    carried: Array
    """Bytes past every link [L]."""
    intervals: tuple[Interval, ...] = field(repr=False)
    flows: int
    solved: int

    @property
    def end_s(self) -> float:
        """When the last collective has ended."""
        return max(outcome.end_s for outcome in self.outcomes)

    def busiest(self, number: int = 5) -> list[tuple[str, float]]:
        """Links by name with the share of their bandwidth that they used until the end, the fullest first."""
        share = np.divide(
            self.carried, self.capacity * self.end_s, out=np.zeros_like(self.carried), where=self.capacity > 0.0
        )
        order = np.argsort(-share, kind="stable")[:number]
        return [(name_of(self.graph, int(link)), float(share[link])) for link in order if share[link] > 0.0]

    def utilisation(self, link: str) -> tuple[Array, Array]:
        """Instants [N] and the share of a link in use from each of them on [N]. Raises SpecError."""
        names = {name_of(self.graph, int(one)): int(one) for one in np.flatnonzero(self.graph.there)}
        if link not in names:
            raise SpecError("no link has this name", field="link", value=link)
        return self.series(names[link])

    def series(self, link: int) -> tuple[Array, Array]:
        """The same by place of the link."""
        starts = np.array([piece.start_s for piece in self.intervals] + [self.end_s])
        used = [float(piece.rate[piece.links == link].sum()) for piece in self.intervals] + [0.0]
        return starts, np.array(used) / self.capacity[link]


FACTORS: dict[str, float] = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0}


def bus_bandwidth(op: str, size: float, ranks: int, time_s: float) -> float:
    """Bytes over time, times 2 (k-1)/k of an all-reduce, (k-1)/k of a gather, scatter or all-to-all [B/s]."""
    if time_s <= 0.0:
        return 0.0
    factor = FACTORS.get(op)
    return size / time_s * (1.0 if factor is None else factor * (ranks - 1) / ranks)


def simulate_collectives(
    system: SystemArrays,
    requests: Sequence[Request],
    *,
    degraded: Mapping[str, float] | None = None,
    stragglers: Mapping[int, float] | None = None,
    background: Sequence[Traffic] = (),
    stepwise: bool = False,
    series: bool = True,
) -> NetworkRun:
    """Runs `requests` at once on a system of one point (0-d leaves).

    `degraded`: share that links give, by name or pattern. `stragglers`: seconds that chips are late. `background`:
    traffic that wants a rate as long as the collectives run. Raises SpecError for a group, a chip or a link that is not
    there, and where links that have failed cut a tier in two.
    """
    graph = build(system)
    capacity = with_factors(graph, degraded or {})
    late = {_chip(system, chip, "straggler"): _delay(delay) for chip, delay in (stragglers or {}).items()}
    if not requests:
        raise SpecError("no collective is asked for", field="requests")
    bursts: list[Burst] = []
    spans: list[tuple[int, int]] = []
    parts: list[Parts] = []
    for number, request in enumerate(requests):
        chips = _chips(system, request)
        group = group_of(chips.tolist(), [tier.size for tier in graph.tiers])
        found = parts_of(request.op, request.size, group, system, request.algorithm)
        name = request.name or f"{request.op} {number}"
        mine = {chip: delay for chip, delay in late.items() if chip in set(chips.tolist())}
        work = Work(
            system,
            graph,
            capacity,
            name,
            request.op,
            request.size,
            chips,
            found,
            request.start_s,
            mine,
            len(bursts),
        )
        made = schedule(work, stepwise=stepwise)
        spans.append((len(bursts), len(bursts) + len(made)))
        bursts += made
        parts.append(found)
    bursts += [_traffic(system, graph, capacity, one) for one in background]
    run = run_flows(capacity, bursts, series=series)
    outcomes = tuple(
        _outcome(request, number, found, span, bursts, run)
        for number, (request, found, span) in enumerate(zip(requests, parts, spans, strict=True))
    )
    flows = sum(len(burst.size) for burst in bursts)
    return NetworkRun(outcomes, graph, capacity, run.carried, run.intervals, flows, run.solved)


def _outcome(
    request: Request, number: int, parts: Parts, span: tuple[int, int], bursts: list[Burst], run: FlowRun
) -> Outcome:
    places = range(*span)
    phases = [(bursts[place].name, run.first_byte_s[place], run.end_s[place]) for place in places]
    protocols = dict.fromkeys(part.protocol for part in parts.parts)
    return Outcome(
        name=request.name or f"{request.op} {number}",
        op=request.op,
        size=request.size,
        ranks=len(set(request.chips)),
        start_s=request.start_s,
        end_s=run.end_s[span[1] - 1],
        algorithm=parts.algorithm,
        protocol=", ".join(protocols),
        closed_form_s=parts.time_s,
        phases=tuple(phases),
    )


def _chips(system: SystemArrays, request: Request) -> Index:
    """Chips of a group in their order. Raises SpecError for none, a chip twice, or one that is not there."""
    if not request.size >= 0.0 or not np.isfinite(request.size):
        raise SpecError("is no number of bytes", field="bytes", value=request.size)
    there = int(system.chips)
    if len(request.chips) > there:
        tiers = " x ".join(f"{tier.name} {float(tier.size):g}" for tier in system.tiers)
        hint = f"{system.name} has {there} chips ({tiers}); ask for fewer, or set system.nodes"
        raise SpecError("is a group larger than the system", field="ranks", value=len(request.chips), hint=hint)
    for chip in request.chips:
        _chip(system, chip, "ranks")
    if len(set(request.chips)) < len(request.chips) or not request.chips:
        raise SpecError("names a chip twice, or none", field="ranks", value=list(request.chips)[:8])
    if request.op == "send_recv":
        if len(request.chips) != 2:
            hint = "name the sender and the receiver"
            raise SpecError("takes two chips", field="ranks", value=len(request.chips), hint=hint)
        return np.array(request.chips, dtype=np.int64)
    return np.array(sorted(request.chips), dtype=np.int64)


def _chip(system: SystemArrays, chip: int, field: str) -> int:
    there = int(system.chips)
    if not 0 <= chip < there:
        hint = f"{system.name} has chips 0 to {there - 1}"
        raise SpecError("is no chip of the system", field=field, value=chip, hint=hint)
    return chip


def _delay(seconds: float) -> float:
    if not seconds >= 0.0 or not np.isfinite(seconds):
        raise SpecError("is no delay", field="straggler", value=seconds, hint="seconds from 0 on")
    return seconds


def _traffic(system: SystemArrays, graph: Graph, capacity: Array, traffic: Traffic) -> Burst:
    """A flow between two chips that never ends."""
    source, target, rate = traffic
    ends = [np.array([_chip(system, chip, "background")]) for chip in (source, target)]
    if source == target or not rate > 0.0:
        hint = "two chips and a rate above 0"
        raise SpecError("is no traffic", field="background", value=list(traffic), hint=hint)
    loads = around(graph, capacity, routes(graph, ends[0], ends[1]))
    one = np.ones(1)
    name = f"traffic {source} to {target}"
    return Burst(name, loads, one * np.inf, one, one * rate, endless=True)
