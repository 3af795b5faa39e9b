"""The space of deployments as arrays: every legal replica of a model, and what it is run with, no loop over points.

chips of a replica = tensor x pipeline x data. Data ranks share the experts (attention in data parallel): there are
several only where the experts lie over all ranks, else ranks that share nothing are replicas. A pipeline has as many
micro-batches as stages. System and formats make cells: one cell, one structure.

    together   replicas x chips of a replica = chips
    apart      see `cosim.explore.serving.pools`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cosim.dtypes import bytes_per_element
from cosim.engines.case import Case
from cosim.engines.served import Demand
from cosim.errors import SpecError
from cosim.explore.objectives import Money
from cosim.explore.serving.search_file import BUDGETS, ServingSpace
from cosim.explore.space import best_native
from cosim.hardware.lower import SystemArrays
from cosim.mapping.legal import LIMITS, Verdict, divisibility, divisors
from cosim.mapping.plan import PlanArrays, ScenarioArrays
from cosim.mapping.serving import ServingArrays
from cosim.records import Array, array
from cosim.workload.model import ModelArrays

Table = dict[str, Array]
RISE = 1.1
"""Most sequences that are tried, each over the one before."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a space stands on: a model, requests of one kind, chips, the stack and its format of the cache."""

    model: ModelArrays
    prompt: float
    output: float
    chips: int
    stack: ServingArrays
    narrow_cache: str | None = None
    """Format of the cache that goes with weights of 8 bits and fewer; None is 16 bits."""

    @property
    def held_tokens(self) -> float:
        """Cached tokens of a sequence on average, or where all are kept free from the start at its end."""
        return self.prompt + (self.output if self.stack.reserves_whole else self.output / 2.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """A system that has the chips, as arrays, what its chips cost, and how far it is known."""

    name: str
    system: SystemArrays
    money: Money
    confidence: str


@dataclass(frozen=True, slots=True)
class Cell:
    """Deployments of one structure: a system, formats of products, weights (None: the same) and cache."""

    machine: Machine
    dtype: str
    weights_dtype: str | None
    kv_dtype: str

    @property
    def label(self) -> str:
        """Its formats in words."""
        weights = "" if self.weights_dtype is None else f", weights {self.weights_dtype}"
        return f"{self.dtype}{weights}, cache {self.kv_dtype}"


def cells_of(space: ServingSpace, machines: Sequence[Machine], ground: Ground) -> list[Cell]:
    """Every system with every set of formats that it has. Raises SpecError where none has any."""
    found: list[Cell] = []
    for machine in machines:
        chip = machine.system.chip
        for dtype, stored in product(space.dtype or (best_native(chip),), space.weights_dtype or (None,)):
            held = str(stored or dtype)
            if dtype not in chip.matrix.peak or bytes_per_element(held) > bytes_per_element(dtype):
                continue
            narrow = bytes_per_element(held) <= 1.0 and ground.narrow_cache is not None
            own = str(ground.narrow_cache) if narrow else "bf16"
            other = None if stored == dtype else stored
            found += [Cell(machine, dtype, other, str(cache)) for cache in space.kv_dtype or (own,)]
    if not found:
        known = {name for machine in machines for name in machine.system.chip.matrix.peak}
        hint = f"formats of these chips: {', '.join(sorted(known))}; weights no wider than the products"
        raise SpecError("has no set of formats that any chip has", field="space.dtype", hint=hint)
    return list({(cell.machine.name, cell.label): cell for cell in found}.values())


def replicas_of(cell: Cell, space: ServingSpace, ground: Ground) -> tuple[Table, str]:
    """Degrees of every legal replica of at most all chips, each (R,), and the limit that stops most of the others."""
    model, chips = ground.model, ground.chips
    heads, layers = int(model.heads), int(model.layers)
    stages = [each for each in range(1, min(layers, chips) + 1) if chips % each == 0 or each & (each - 1) == 0]
    experts = divisors(int(model.experts)) if model.is_moe else [1]
    table = crossed(
        {},
        tensor=_either(space.tensor, divisors(heads)),
        pipeline=_either(space.pipeline, stages),
        data=_either(space.data, experts),
        expert=_either(space.expert, experts),
    )
    table = kept(table, size_of(table) <= chips)
    # Ranks that do not share experts are replicas.
    alone, together = table["data"] == 1.0, table["expert"] == table["tensor"] * table["data"]
    table = kept(table, alone | together)
    if not table["tensor"].size:
        return table, "chips"
    verdict = _verdict(cell, table, ground)
    legal = np.broadcast_to(verdict.code == 0, table["tensor"].shape)
    counts = np.bincount(verdict.code[verdict.code > 0], minlength=len(LIMITS))
    return kept(table, legal), "" if legal.all() else LIMITS[int(np.argmax(counts))].name


def levels_of(space: ServingSpace, ground: Ground) -> dict[str, list[int]]:
    """Values of what a replica is run with: tokens of a step, sequences."""
    stack = ground.stack
    most = int(np.max(stack.max_sequences))
    steps = int(np.ceil(np.log(most) / np.log(RISE))) + 1
    every = sorted({min(round(RISE**step), most) for step in range(steps)} | {most})
    budgets = sorted({*BUDGETS, int(np.max(stack.token_budget))})
    return {
        "token_budget": sorted(space.token_budget or budgets),
        "max_sequences": sorted(space.max_sequences or every),
    }


def together_of(replicas: Table, levels: Mapping[str, Sequence[int]], ground: Ground) -> Table:
    """Deployments of replicas that do prompts and answers: these times what they are run with, each (P,)."""
    size = size_of(replicas)
    whole = kept(replicas, np.mod(ground.chips, size) == 0.0)
    whole = whole | {"replicas": ground.chips / size_of(whole)}
    return crossed(whole, token_budget=levels["token_budget"], max_sequences=levels["max_sequences"])


def case_of(cell: Cell, table: Table, ground: Ground) -> Case:
    """One replica of each row as a case of phase serve, with its stack."""
    one, most = array(1.0), array(np.inf)
    tokens = array(ground.prompt + ground.output)
    plan = PlanArrays(
        tensor=table["tensor"],
        pipeline=table["pipeline"],
        data=table["data"],
        micro_batches=table["pipeline"],
        dtype=cell.dtype,
        kv_dtype=cell.kv_dtype,
        all_reduce="fastest",
        expert=table["expert"],
        weights_dtype=cell.weights_dtype,
    )
    stack = replace(
        ground.stack,
        token_budget=table.get("token_budget", ground.stack.token_budget),
        max_sequences=table.get("max_sequences", ground.stack.max_sequences),
    )
    scenario = ScenarioArrays(one, tokens, one, most, most)
    return Case("serve", cell.machine.system, ground.model, plan, scenario, stack=stack)


def demand_of(table: Table, ground: Ground) -> Demand:
    """What is asked of one replica of each row: as many requests in flight as it may hold."""
    flying = table["max_sequences"] * table["data"]
    return Demand(np.full_like(flying, ground.prompt), np.full_like(flying, ground.output), flying)


def size_of(table: Table) -> Array:
    """Chips of a replica."""
    return table["tensor"] * table["pipeline"] * table["data"]


def crossed(table: Table, **more: Sequence[float]) -> Table:
    """Every row with every value of further columns, the last one fastest."""
    for name, values in more.items():
        rows = len(next(iter(table.values()))) if table else 1
        table = {known: np.repeat(column, len(values)) for known, column in table.items()}
        table[name] = np.tile(array(values), rows)
    return table


def kept(table: Table, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Table:
    """The rows that a mask or an index names."""
    return {name: column[rows] for name, column in table.items()}


def _either(asked: tuple[int, ...] | None, every: list[int]) -> list[int]:
    return every if asked is None else sorted(asked)


def _verdict(cell: Cell, table: Table, ground: Ground) -> Verdict:
    """Limits of the degrees, of each replica alone."""
    case = case_of(cell, table, ground)
    scenario = replace(case.scenario, batch=case.plan.data * case.plan.micro_batches)
    return divisibility(case.plan, scenario, ground.model, array(float(ground.chips)), "serve")
