"""Where the difference between two points comes from, component by component.

Three views: the parts of a step's time, its operators, and the components of the machine. The last asks what the ratio
of tokens/s per chip owes to each component: every mixture of the two machines is evaluated, and a component's share is
the mean of what it changes over all orders in which components can be exchanged (Shapley), on the logarithm, so that
the factors of all components multiply to the whole ratio. Capacity is left out of mixtures: it decides whether a point
fits, not how fast it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from cosim.engines.analytic import BREAKDOWN, evaluate
from cosim.engines.case import Case
from cosim.errors import SpecError
from cosim.explore.command import settings
from cosim.explore.estimate import Estimate
from cosim.explore.findings import operator_rows
from cosim.hardware.lower import ChipArrays, PowerArrays, SystemArrays
from cosim.records import Array, array, map_leaves, points, stacked, structure

COMPONENTS: dict[str, str] = {
    "matrix": "matrix engine, its cores, scratch and kernel constants",
    "vector": "vector and special-function units",
    "cache": "caches that cores share",
    "dram": "DRAM bandwidth",
    "network": "links and tiers",
    "quality": "kernel quality",
    "launch": "launch and host",
    "power": "power limit, idle and energies",
    "plan": "plan, batch, number of chips, model",
}
HEADLINES = (
    "time_s",
    "tokens_per_s_per_chip",
    "tokens_per_s_per_user",
    "mfu",
    "energy_j",
    "power_w",
    "tokens_per_j_chip",
    "memory_bytes.total",
    "area_mm2",
    "tdp_w",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """From point A to point B: headlines, parts of the time [s], operators [s], factors of tokens/s per chip."""

    labels: tuple[str, str]
    asked: tuple[str, str]
    headlines: dict[str, tuple[float | None, float | None]]
    parts: dict[str, tuple[float, float]]
    operators: dict[str, tuple[float, float]]
    factors: dict[str, float]
    ratio: float

    def as_json(self) -> dict[str, Any]:
        """Plain data, lists for pairs."""
        return {
            "a": self.labels[0],
            "b": self.labels[1],
            "asked": list(self.asked),
            "headlines": {name: list(pair) for name, pair in self.headlines.items()},
            "breakdown_s": {name: list(pair) for name, pair in self.parts.items()},
            "operators_s": {name: list(pair) for name, pair in self.operators.items()},
            "factors": self.factors,
            "ratio": self.ratio,
        }


def difference(first: Estimate, second: Estimate, labels: tuple[str, str]) -> Difference:
    """What lies between two estimates of one point each, of one phase and workload. Raises SpecError."""
    a, b = first.case, second.case
    if points(a) > 1 or points(b) > 1:
        raise SpecError("is between two points", field="diff", hint="no arrays")
    if (a.phase, a.model.name) != (b.phase, b.model.name):
        what = f"{a.phase} of {a.model.name} and {b.phase} of {b.model.name}"
        raise SpecError("needs one phase and workload", field="diff", value=what)
    one, two = first.to_row(), second.to_row()
    named = [operators_of(case) for case in (a, b)]
    factors = shares(a, b)
    return Difference(
        labels=labels,
        asked=(_asked(one), _asked(two)),
        headlines={name: (one[name], two[name]) for name in HEADLINES},
        parts={name: (one[f"breakdown_s.{name}"], two[f"breakdown_s.{name}"]) for name in BREAKDOWN},
        operators={name: (named[0].get(name, 0.0), named[1].get(name, 0.0)) for name in {**named[0], **named[1]}},
        factors=factors,
        ratio=two["tokens_per_s_per_chip"] / one["tokens_per_s_per_chip"],
    )


def _asked(row: dict[str, Any]) -> str:
    """Plan and scenario of a row, written as they are set."""
    return " ".join(f"{path}={value}" for path, value in settings(row).items())


def operators_of(case: Case) -> dict[str, float]:
    """Seconds of every operator over all layers and micro-batches of one replica, by name."""
    found: dict[str, float] = {}
    for op in operator_rows(case):
        found[op["name"]] = found.get(op["name"], 0.0) + op["count"] * op["time_s"]
    return found


def shares(a: Case, b: Case) -> dict[str, float]:
    """Factor on tokens/s per chip that each component brings, from a to b; their product is the ratio."""
    names = players(a, b)
    masks = list(product((False, True), repeat=len(names)))
    chosen = [{part for name, on in zip(names, mask, strict=True) if on for part in name} for mask in masks]
    mixtures = [mixed(a, b, parts) for parts in chosen]
    value = dict(zip(masks, np.log(_rates(mixtures)), strict=True))
    count = len(names)
    found: dict[str, float] = {}
    for place, name in enumerate(names):
        total = 0.0
        for mask in masks:
            if mask[place]:
                continue
            size = sum(mask)
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            total += weight * float(value[(*mask[:place], True, *mask[place + 1 :])] - value[mask])
        found[" + ".join(name)] = math.exp(total)
    return found


def players(a: Case, b: Case) -> list[tuple[str, ...]]:
    """Components that are exchanged, those that cannot be exchanged alone joined."""
    joined: list[str] = ["plan"]
    if not all(_runs(one.plan.dtype, other.system.chip) for one, other in ((a, b), (b, a))):
        joined.append("matrix")
    sizes = [[float(np.max(tier.size)) for tier in case.system.tiers] for case in (a, b)]
    if sizes[0] != sizes[1] or not all(_has_algorithm(one, other) for one, other in ((a, b), (b, a))):
        joined.append("network")
    return [*((name,) for name in COMPONENTS if name not in joined), tuple(joined)]


def _has_algorithm(planned: Case, other: Case) -> bool:
    """Whether the other's network has the all-reduce that a plan insists on."""
    name = planned.plan.all_reduce
    return name == "fastest" or all(name in tier.algorithms for tier in other.system.tiers)


def _runs(dtype: str, chip: ChipArrays) -> bool:
    return dtype in chip.matrix.peak


def mixed(a: Case, b: Case, from_b: set[str]) -> Case:
    """The machine and plan of a with the components `from_b` of b; capacity and limits on time do not bind."""

    def of(component: str) -> Case:
        return b if component in from_b else a

    chips = {name: of(name).system.chip for name in COMPONENTS}
    memory = {"dram": chips["dram"].memory["dram"]}
    memory |= {role: level for role, level in chips["cache"].memory.items() if role not in ("dram", "scratch")}
    memory |= {role: level for role, level in chips["matrix"].memory.items() if role == "scratch"}
    memory["dram"] = replace(memory["dram"], capacity=array(np.inf))
    power = _power(of("power").system.chip, (a if of("power") is b else b).system.chip, set(memory))
    chip = ChipArrays(
        name=a.system.chip.name,
        cores=chips["matrix"].cores,
        matrix=chips["matrix"].matrix,
        vector_peak=chips["vector"].vector_peak,
        special_peak=chips["vector"].special_peak,
        memory=memory,
        links=chips["network"].links,
        power=power,
        launch=chips["launch"].launch,
        quality=chips["quality"].quality,
        kernel=chips["matrix"].kernel,
        collective_cores=chips["network"].collective_cores,
    )
    planned, network = of("plan"), of("network").system
    system = SystemArrays(
        name=a.system.name,
        chip=chip,
        chips=planned.system.chips,
        node_chips=network.node_chips,
        node_tier=network.node_tier,
        tiers=network.tiers,
        server_power=of("power").system.server_power,
        pue=of("power").system.pue,
        host_capacity=array(np.inf),
        # Whoever reads samples has a storage; the other may have none that is known.
        storage=np.where(np.isnan(network.storage), planned.system.storage, network.storage),
    )
    free = replace(planned.scenario, ttft_limit=array(np.inf), tpot_limit=array(np.inf))
    mixture = replace(planned, system=system, scenario=free)
    return map_leaves(mixture, lambda leaf: leaf.reshape(-1)[0])


def _power(own: ChipArrays, other: ChipArrays, roles: set[str]) -> PowerArrays:
    """A chip's power, for a mixture with memory `roles`: the other's energy of a format or level that it lacks.

    A level that the chip has and the mixture has not is left out, for energy on chip is charged at the levels named.
    """
    mine, theirs = own.power.energy_per_byte, other.power.energy_per_byte
    kept = {role: energy for role, energy in mine.items() if role in roles or role not in own.memory}
    lent = {role: theirs[role] for role in roles if role in theirs and role not in mine}
    return replace(
        own.power,
        energy_per_flop={**other.power.energy_per_flop, **own.power.energy_per_flop},
        energy_per_byte={**kept, **lent},
    )


def _rates(mixtures: Sequence[Case]) -> Array:
    """Tokens/s per chip of every mixture: those of one structure in one call."""
    cells: dict[object, list[int]] = {}
    for place, mixture in enumerate(mixtures):
        cells.setdefault(structure(mixture), []).append(place)
    rates = np.full(len(mixtures), np.nan)
    for rows in cells.values():
        result = evaluate(stacked([mixtures[row] for row in rows]))
        rates[rows] = result.tokens / result.time / result.chips
    return rates
