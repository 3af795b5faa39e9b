"""The space of training strategies as arrays: every legal combination of what is searched, no loop over points.

A strategy has numbers (degrees, micro-batch, pieces, ZeRO stage, recompute), which are arrays along the points axis,
and choices (schedule, sequence parallelism, context exchange, modules that are computed again, the optimizer), which
make cells: one cell, one case. chips = tensor x context x pipeline x data; whatever data is left to follow from the
others has the value `all`. Layers that recompute, shares that are offloaded, modules and optimizer are as the plan has
them unless they are listed.

Of values that make no difference only the first counts, so that nothing is priced twice: a schedule where there is one
stage, sequence parallelism without tensor ranks, an exchange without context ranks, a ZeRO stage without replicas,
selective recompute where attention is fused, modules where whole layers are computed again, a number of layers where
nothing is, ranks of an expert that follow from the degrees, an order of kinds
of which one rank each is there. Legality is that of the engines,
`cosim.mapping.legal.divisibility`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.explore.strategy_rows import Table, crossed, kept, lie_otherwise, whole_pieces, with_experts
from cosim.mapping.legal import LIMITS, Verdict, divisibility, divisors
from cosim.mapping.plan import MODULES, RECOMPUTES, SCHEDULES, PlanArrays, ScenarioArrays
from cosim.mapping.schedules import PIECES
from cosim.mapping.stages import ENDS
from cosim.records import array, map_leaves
from cosim.workload.model import ModelArrays

NUMBERS = ("tensor", "pipeline", "context", "data", "micro_batch", "virtual", "expert", "zero", "recompute")
"""Fields of `PlanArrays` that a strategy sets, in the order in which they are crossed."""
LISTED = ("expert_tensor", "recompute_layers", "offload_activations", "offload_weights", "offload_optimizer")
"""Fields of `PlanArrays` that a strategy sets only where values are listed; layers are inf where all recompute, ranks
of an expert 0 where they follow."""
EXCHANGES = ("ring", "all_gather", "all_to_all")
FULL = RECOMPUTES.index("full")
MOST_STRATEGIES = 10_000_000
Numbers = tuple[int, ...]
Shares = tuple[float, ...]
Modules = tuple[str, ...]
Optional = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """Values of each dimension as asked; None is every legal one, of LISTED, modules and optimizer that of the plan."""

    tensor: Numbers | None = None
    pipeline: Numbers | None = None
    data: Numbers | None = None
    context: Numbers | None = None
    expert: Numbers | None = None
    micro_batch: Numbers | None = None
    virtual_pipeline: Numbers | None = None
    zero: Numbers | None = None
    recompute: tuple[str, ...] | None = None
    schedule: tuple[str, ...] | None = None
    sequence_parallel: tuple[bool, ...] | None = None
    context_exchange: tuple[str, ...] | None = None
    recompute_modules: tuple[str, ...] | None = None
    """Each as a plan has it: "norms,mlp"."""
    expert_tensor: Shares | None = None
    recompute_layers: Shares | None = None
    offload_activations: Shares | None = None
    offload_weights: Shares | None = None
    offload_optimizer: Shares | None = None
    optimizer: tuple[str, ...] | None = None
    optimizer_dtype: tuple[str, ...] | None = None
    order: tuple[str, ...] | None = None
    fp8_recipe: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """What a space stands on: one model, so many chips, the global batch, the length, whether attention is fused."""

    model: ModelArrays
    chips: int
    batch: int
    length: int
    fused: bool


@dataclass(frozen=True, slots=True)
class Values:
    """Values of every dimension on one ground, rising and each once; `data` None follows from the others."""

    tensor: Numbers
    pipeline: Numbers
    data: Numbers | None
    context: Numbers
    expert: Numbers
    micro_batch: Numbers
    virtual: Numbers
    zero: Numbers
    recompute: Numbers
    schedule: tuple[str, ...]
    sequence_parallel: tuple[bool, ...]
    context_exchange: tuple[str, ...]
    recompute_modules: tuple[Modules, ...] | None = None
    expert_tensor: Shares | None = None
    recompute_layers: Shares | None = None
    offload_activations: Shares | None = None
    offload_weights: Shares | None = None
    offload_optimizer: Shares | None = None
    optimizer: tuple[str, ...] | None = None
    optimizer_dtype: tuple[str, ...] | None = None
    order: tuple[str, ...] | None = None
    fp8_recipe: tuple[str, ...] | None = None
    any_pieces: bool = False
    """Whether pieces are listed, and may then come out uneven."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What all strategies of a cell share. `first`: of the first three whether it is the first of those that are tried.

    None is as the plan has it.
    """

    schedule: str = "1f1b"
    sequence_parallel: bool = False
    context_exchange: str = "ring"
    first: tuple[bool, bool, bool] = (True, True, True)
    recompute_modules: Modules | None = None
    optimizer: str | None = None
    optimizer_dtype: str | None = None
    first_modules: bool = True
    """Whether these modules are the first that are tried."""
    order: str | None = None
    earlier: tuple[str, ...] = ()
    """Orders that are tried before this one."""
    fp8_recipe: str | None = None


def grounded(model: ModelArrays, chips: float, scenario: ScenarioArrays, *, fused: bool) -> Ground:
    """The ground of a system's chips and a scenario of one point."""
    scalars = map_leaves(model, lambda leaf: leaf.reshape(-1)[0])
    batch, length = int(np.max(scenario.global_batch)), int(np.max(scenario.context))
    return Ground(scalars, int(chips), batch, length, fused)


def values_on(ground: Ground, asked: Asked) -> Values:
    """Every dimension's values: those asked, or all that can be legal on this ground."""
    model, chips = ground.model, ground.chips
    known = divisors(chips)
    layers = int(model.layers)
    recomputes = tuple(range(len(RECOMPUTES)))
    if asked.recompute is not None:
        recomputes = _rising(tuple(RECOMPUTES.index(name) for name in asked.recompute))
    if ground.fused and 0 in recomputes:
        # With fused attention there is no attention core to compute again.
        recomputes = tuple(level for level in recomputes if RECOMPUTES[level] != "selective")
    schedules = SCHEDULES if asked.schedule is None else asked.schedule
    exchanges = EXCHANGES if asked.context_exchange is None else asked.context_exchange
    contexts = known if ground.fused and not model.network else [1]
    return Values(
        tensor=_either(asked.tensor, known),
        pipeline=_either(asked.pipeline, [degree for degree in known if degree <= layers]),
        data=None if asked.data is None else _rising(asked.data),
        context=_either(asked.context, contexts),
        expert=_either(asked.expert, divisors(int(model.experts)) if model.is_moe else [1]),
        micro_batch=_either(asked.micro_batch, divisors(ground.batch)),
        virtual=_either(asked.virtual_pipeline, _pieces(layers, schedules)),
        zero=_either(asked.zero, [0, 1, 2, 3]),
        recompute=recomputes,
        schedule=tuple(name for name in SCHEDULES if name in schedules),
        sequence_parallel=tuple(sorted(set(asked.sequence_parallel or (False, True)))),
        context_exchange=tuple(name for name in EXCHANGES if name in exchanges),
        recompute_modules=_modules(asked.recompute_modules),
        **{name: None if own is None else tuple(sorted(set(own))) for name, own in _listed(asked).items()},
        optimizer=_once(asked.optimizer),
        optimizer_dtype=_once(asked.optimizer_dtype),
        order=_once(asked.order),
        fp8_recipe=_once(asked.fp8_recipe),
        any_pieces=asked.virtual_pipeline is not None,
    )


def _listed(record: Asked | Values) -> dict[str, Shares | None]:
    return {name: getattr(record, name) for name in LISTED}


def _modules(asked: tuple[str, ...] | None) -> tuple[Modules, ...] | None:
    """Modules of each text in the order of the model's, each set once."""
    if asked is None:
        return None
    named = [tuple(text.split(",")) if text else () for text in asked]
    return tuple(dict.fromkeys(tuple(name for name in MODULES if name in each) for each in named))


def _once(asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if asked is None else tuple(dict.fromkeys(asked))


def _either(asked: Numbers | None, every: list[int]) -> Numbers:
    return tuple(every) if asked is None else _rising(asked)


def _rising(values: Numbers) -> Numbers:
    return tuple(sorted(set(values)))


def _pieces(layers: int, schedules: tuple[str, ...]) -> list[int]:
    """Pieces a stage can hold that come out even under 1f1b, what the others ask for."""
    found = {*divisors(layers), *divisors(layers + int(ENDS))} if "1f1b" in schedules else set()
    found |= {int(PIECES[name]) for name in schedules if name in PIECES}
    return sorted(found)


def choices_of(values: Values) -> list[Choices]:
    """Every cell of a space, in order."""
    kinds = (values.schedule, values.sequence_parallel, values.context_exchange)
    modules: tuple[Modules | None, ...] = values.recompute_modules or (None,)
    optimizers: Optional = values.optimizer or (None,)
    formats: Optional = values.optimizer_dtype or (None,)
    orders: Optional = values.order or (None,)
    recipes: Optional = values.fp8_recipe or (None,)
    return [
        Choices(
            schedule,
            together,
            exchange,
            (schedule == kinds[0][0], together == kinds[1][0], exchange == kinds[2][0]),
            *(again, optimizer, dtype, again == modules[0]),
            order=order,
            earlier=tuple(each for each in orders[: orders.index(order)] if each is not None),
            fp8_recipe=recipe,
        )
        for schedule, together, exchange, again, optimizer, dtype, order, recipe in product(
            *kinds, modules, optimizers, formats, orders, recipes
        )
    ]


def size_of(values: Values, ground: Ground) -> int:
    """Combinations of all values whose degrees multiply to the chips, before any other limit."""
    degrees = len(_degrees(values, ground)["tensor"])
    others = (values.micro_batch, values.virtual, values.expert, values.zero, values.recompute)
    listed = [own for own in _listed(values).values() if own is not None]
    return degrees * math.prod(len(each) for each in (*others, *listed)) * len(choices_of(values))


def legal_table(values: Values, ground: Ground, choices: Choices, base: PlanArrays, scenario: ScenarioArrays) -> Table:
    """Numbers of every legal strategy of a cell, each of shape (P,), rising in the order of `NUMBERS`.

    Values are crossed one dimension after the other and what cannot be legal any more is dropped at once; the engines'
    own limits have the last word.
    """
    batch, layers = float(ground.batch), float(ground.model.layers)
    first_schedule, first_together, first_exchange = choices.first
    table = _degrees(values, ground)
    keep = np.mod(batch, table["data"]) == 0.0
    keep &= first_schedule | (table["pipeline"] > 1.0)
    keep &= first_together | (table["tensor"] > 1.0)
    keep &= first_exchange | (table["context"] > 1.0)
    for order in choices.earlier:
        keep &= lie_otherwise(table, order, str(choices.order))
    table = crossed(kept(table, keep), "micro_batch", values.micro_batch)
    table = kept(table, np.mod(batch, table["data"] * table["micro_batch"]) == 0.0)
    table = crossed(table, "virtual", values.virtual)
    table = kept(table, whole_pieces(table, choices.schedule, batch, layers, any_pieces=values.any_pieces))
    table = with_experts(table, values.expert, values.expert_tensor)
    table = crossed(kept(table, _legal(table, ground, choices, base, scenario)), "zero", values.zero)
    alone = (table["context"] * table["data"] == 1.0) & (table["zero"] != values.zero[0])
    table = crossed(kept(table, ~alone), "recompute", values.recompute)
    if not choices.first_modules:
        table = kept(table, table["recompute"] < FULL)
    table = _with_listed(table, values, choices, base)
    # All that a ZeRO stage can break is the number of replicas that share states.
    shared = ground.model.is_moe or bool(np.isfinite(base.shard).any())
    return kept(table, _legal(table, ground, choices, base, scenario)) if shared else table


def _with_listed(table: Table, values: Values, choices: Choices, base: PlanArrays) -> Table:
    """Every row with the values that are listed; where nothing is computed again there is no number of layers."""
    for name, own in _listed(values).items():
        if own is not None and name not in table:
            table = crossed(table, name, own)
    if values.recompute_layers is None:
        return table
    modules = base.recompute_modules if choices.recompute_modules is None else choices.recompute_modules
    nothing = (table["recompute"] == 0.0) & (not modules)
    table = kept(table, ~nothing | (table["recompute_layers"] == values.recompute_layers[0]))
    nothing = (table["recompute"] == 0.0) & (not modules)
    return table | {"recompute_layers": np.where(nothing, np.inf, table["recompute_layers"])}


def nearest_limit(values: Values, ground: Ground, base: PlanArrays, scenario: ScenarioArrays) -> str:
    """The limit that stops those combinations that come furthest; "chips" where no degrees multiply to these.

    Of a large space the least pieces, ZeRO stage and recompute stand for all.
    """
    table = crossed(_degrees(values, ground), "micro_batch", values.micro_batch)
    table = crossed(with_experts(table, values.expert, values.expert_tensor), "virtual", values.virtual)
    table = crossed(crossed(table, "zero", values.zero[:1]), "recompute", values.recompute[:1])
    if not len(table["tensor"]):
        return "chips"
    codes = _verdict(table, ground, choices_of(values)[0], base, scenario).code
    return LIMITS[int(np.max(codes))].name


def plan_of(table: Table, choices: Choices, base: PlanArrays) -> PlanArrays:
    """The strategies of a cell as a plan; micro-batches follow from the global batch, formats from `base`."""
    chosen = replace(
        base,
        schedule=choices.schedule,
        sequence_parallel=choices.sequence_parallel,
        context_exchange=choices.context_exchange,
    )
    if choices.order is not None:
        chosen = replace(chosen, order=choices.order)
    if choices.fp8_recipe is not None:
        chosen = replace(chosen, fp8_recipe=choices.fp8_recipe)
    if choices.recompute_modules is not None:
        chosen = replace(chosen, recompute_modules=choices.recompute_modules)
    numbers: dict[str, Any] = dict(table)
    return replace(chosen, **numbers)


def _degrees(values: Values, ground: Ground) -> Table:
    """Tensor, pipeline, context and data degrees that multiply to the chips."""
    kinds = [np.array(each, dtype=np.int64) for each in (values.tensor, values.pipeline, values.context)]
    tensor, pipeline, context = (axis.ravel() for axis in np.meshgrid(*kinds, indexing="ij"))
    ranks = tensor * pipeline * context
    data = ground.chips // ranks
    keep = data * ranks == ground.chips
    if values.data is not None:
        keep &= np.isin(data, values.data)
    found = {"tensor": tensor, "pipeline": pipeline, "context": context, "data": data}
    return {name: array(column[keep]) for name, column in found.items()}


def _legal(
    table: Table, ground: Ground, choices: Choices, base: PlanArrays, scenario: ScenarioArrays
) -> NDArray[np.bool_]:
    """Rows that break no limit of the engines that needs no cost."""
    code = _verdict(table, ground, choices, base, scenario).code
    found: NDArray[np.bool_] = np.broadcast_to(code == 0, (len(table["tensor"]),))
    return found


def _verdict(table: Table, ground: Ground, choices: Choices, base: PlanArrays, scenario: ScenarioArrays) -> Verdict:
    """Limits of the engines that need no cost, at each row."""
    plan = plan_of(table, choices, base)
    plan = replace(plan, micro_batches=ground.batch / (plan.data * plan.micro_batch))
    return divisibility(plan, scenario, ground.model, array(ground.chips), "train")
