"""One collective in words: its closed form, and the same as flows where that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cosim.engines.network.groups import beside as groups_beside
from cosim.engines.network.simulate import NetworkRun, Request, Traffic, bus_bandwidth, simulate_collectives
from cosim.errors import SpecError
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.placement import Placement
from cosim.overrides import Varied, split_overrides
from cosim.records import points
from cosim.timing.algorithms import GATHERS
from cosim.timing.collective import check_algorithm
from cosim.timing.collective_parts import Parts, group_of, parts_of
from cosim.units import parse_quantity

Value = TypeVar("Value")
BUSIEST = 5
ALIASES = {"all_to_all": "alltoall", "reduce": "broadcast"}
NO_BYTES = 1e-9
"""Bytes of a barrier: fewer than take any time."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A collective as it is typed: names, texts with units. What `simulate` is needed for asks for it."""

    op: str
    system: str
    size: str | float
    ranks: int | None = None
    stride: int = 1
    algorithm: str = "fastest"
    repeat: int = 1
    beside: tuple[str, ...] = ()
    degrade: tuple[str, ...] = ()
    straggler: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    simulate: bool = False

    @property
    def as_flows(self) -> bool:
        """Whether anything needs the simulation."""
        return self.simulate or self.repeat > 1 or any((self.beside, self.degrade, self.straggler, self.background))


@dataclass(frozen=True, slots=True)
class CollectiveAnswer:
    """The closed form of the first group, and the run of all, None where it was not asked for."""

    system: SystemArrays
    request: Request
    closed: Parts
    run: NetworkRun | None

    def to_row(self) -> dict[str, Any]:
        """Plain values: of the closed form first, then `simulated` with one entry a collective."""
        request, ranks = self.request, len(self.request.chips)
        row: dict[str, Any] = {
            "system": self.system.name,
            "chips": int(self.system.chips),
            "tiers": {tier.name: int(tier.size) for tier in self.system.tiers},
            "op": request.op,
            "bytes": request.size,
            "ranks": ranks,
            "algorithm": self.closed.algorithm,
            "protocol": ", ".join(dict.fromkeys(part.protocol for part in self.closed.parts)),
            "time_s": self.closed.time_s,
            "bus_bandwidth": bus_bandwidth(request.op, request.size, ranks, self.closed.time_s),
        }
        if self.run is None:
            return row | {"simulated": None, "busiest_links": None, "flows": None}
        outcomes = [
            {
                "name": one.name,
                "op": one.op,
                "bytes": one.size,
                "ranks": one.ranks,
                "start_s": one.start_s,
                "end_s": one.end_s,
                "time_s": one.time_s,
                "algorithm": one.algorithm,
                "bus_bandwidth": one.bus_bandwidth,
                "closed_form_s": one.closed_form_s,
            }
            for one in self.run.outcomes
        ]
        links = [{"name": name, "used": used} for name, used in self.run.busiest(BUSIEST)]
        return row | {"simulated": outcomes, "busiest_links": links, "flows": self.run.flows}


def collective_request(asked: Asked, overrides: Mapping[str, Any]) -> CollectiveAnswer:
    """A collective on a named system with overrides by path. Raises SpecError."""
    changes = split_overrides(overrides, ("system",))["system"]
    system = lower_system(vary_system(Varied(load_system(asked.system)), changes))
    op, size = _named(asked)
    sizes = [int(tier.size) for tier in system.tiers]
    ranks = asked.ranks if asked.ranks is not None else 2 if op == "send_recv" else int(system.chips)
    if ranks * asked.repeat > int(system.chips):
        tiers = " x ".join(f"{tier.name} {int(tier.size)}" for tier in system.tiers)
        hint = f"{system.name} has {int(system.chips)} chips ({tiers}); ask for fewer, or set system.nodes"
        raise SpecError(f"{asked.repeat} x {ranks} ranks are more than the system", field="ranks", hint=hint)
    chips = groups_beside(ranks, asked.stride, sizes, asked.repeat, int(system.chips))
    requests = [Request(op, size, one, asked.algorithm) for one in chips]
    requests += [_beside(text, sizes) for text in asked.beside]
    closed = closed_form(system, requests[0])
    if not asked.as_flows:
        return CollectiveAnswer(system, requests[0], closed, None)
    return CollectiveAnswer(system, requests[0], closed, _simulated(system, requests, asked))


def _named(asked: Asked) -> tuple[str, float]:
    """The operation that is priced and its bytes: a reduce is a broadcast backwards, a barrier a sum of no bytes."""
    if asked.op == "barrier":
        return "all_reduce", NO_BYTES
    return ALIASES.get(asked.op, asked.op), _quantity(asked.size, "B", "bytes")


def _check_named(request: Request, group: Placement, system: SystemArrays) -> None:
    """Raises SpecError for an algorithm that the operation or the group cannot have."""
    if request.algorithm == "fastest":
        return
    if request.op not in ("all_reduce", "all_gather", "reduce_scatter"):
        raise SpecError(f"{request.op} has one way to run", field="algorithm", value=request.algorithm)
    if request.op != "all_reduce" and request.algorithm not in GATHERS:
        hint = f"{request.op} has {', '.join(GATHERS)}"
        raise SpecError("is no algorithm of this operation", field="algorithm", value=request.algorithm, hint=hint)
    try:
        check_algorithm(request.algorithm, group, system)
    except SpecError as error:
        raise SpecError(error.problem, field="algorithm", value=error.value, hint=error.hint) from None


def closed_form(system: SystemArrays, request: Request) -> Parts:
    """The closed form of a request on a system of one point. Raises SpecError."""
    one_point(system)
    there = int(system.chips)
    if not 0.0 < request.size < math.inf:
        raise SpecError("is no number of bytes", field="bytes", value=request.size, hint="more than 0, and finite")
    if max(request.chips) >= there:
        raise SpecError("is no chip of the system", field="ranks", value=max(request.chips), hint=f"it has {there}")
    group = group_of(request.chips, [int(tier.size) for tier in system.tiers])
    _check_named(request, group, system)
    return parts_of(request.op, request.size, group, system, request.algorithm)


def one_point(system: SystemArrays) -> SystemArrays:
    """The system itself. Raises SpecError where its numbers are arrays of points."""
    if points(system) > 1:
        hint = "flows run one at a time"
        raise SpecError("is more than one point", field="system", value=points(system), hint=hint)
    return system


def _simulated(system: SystemArrays, requests: Sequence[Request], asked: Asked) -> NetworkRun:
    return simulate_collectives(
        system,
        requests,
        degraded=dict(
            _pair(text, "degrade", "LINK=0.5", str, lambda t: _number(t, "degrade")) for text in asked.degrade
        ),
        stragglers=dict(
            _pair(text, "straggler", "RANK=20us", _whole, lambda t: _quantity(t, "s", "straggler"))
            for text in asked.straggler
        ),
        background=[_traffic(text) for text in asked.background],
    )


def _beside(text: str, sizes: Sequence[int]) -> Request:
    """`OP:BYTES:RANKS`; RANKS is a number of chips, a range 8-15, or chips 0,8,16."""
    op, size, ranks = _three(text)
    if "," in ranks:
        chips = tuple(_whole(one) for one in ranks.split(","))
    elif "-" in ranks:
        first, _, last = ranks.partition("-")
        chips = tuple(range(_whole(first), _whole(last) + 1))
    else:
        chips = groups_beside(_whole(ranks), 1, sizes)[0]
    if not chips:
        raise SpecError("names no chips", field="beside", value=text, hint="for example alltoall:64MiB:8-15")
    return Request(op, _quantity(size, "B", "beside"), chips)


def _three(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    if len(parts) != 3:
        raise SpecError("is not OP:BYTES:RANKS", field="beside", value=text, hint="for example alltoall:64MiB:8-15")
    return parts[0], parts[1], parts[2]


def _traffic(text: str) -> Traffic:
    form = "FROM:TO=10GB/s"
    ends, rate = _pair(text, "background", form, str, lambda t: _quantity(t, "B/s", "background"))
    source, colon, target = ends.partition(":")
    if not colon:
        raise SpecError(f"is not {form}", field="background", value=text)
    return _whole(source), _whole(target), rate


def _pair(
    text: str, field: str, form: str, left: Callable[[str], Value], right: Callable[[str], float]
) -> tuple[Value, float]:
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise SpecError(f"is not {form}", field=field, value=text)
    return left(name), right(value)


def _quantity(text: str | float, unit: str, field: str) -> float:
    try:
        return parse_quantity(text, unit)
    except SpecError as error:
        raise SpecError(error.problem, field=field, value=error.value, hint=error.hint) from None


def _number(text: str, field: str) -> float:
    return _quantity(text, "", field)


def _whole(text: str) -> int:
    if not text.strip().isdigit():
        raise SpecError("is no number of a chip", field="ranks", value=text, hint="chips count from 0")
    return int(text)
