"""The file of a search: system, workload and batch, which strategies are tried, what is best, what must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from cosim.dtypes import FP8_RECIPES, TRAINING_PRECISIONS, Dtype, Fp8Recipe
from cosim.errors import SpecError, nearest
from cosim.explore.objectives import KNOWN, MORE_IS_BETTER, parse_asked
from cosim.explore.strategy_space import EXCHANGES, Asked
from cosim.mapping.order import ORDERS
from cosim.mapping.plan import RECOMPUTES, SCHEDULES, ContextExchange, Plan, Recompute, ScheduleName, Share, StateDtype
from cosim.schema import Frozen

Whole = Annotated[int, Field(ge=1, le=1_000_000)]
DEFAULT_ROWS = 200_000


def listed(raw: object) -> Any:  # noqa: ANN401  # whatever the file holds
    """A single value stands for a list of one; `all` is None, as what is left out."""
    if raw in (None, "all"):
        return None
    return raw if isinstance(raw, list | tuple) else [raw]


def _switches(raw: object) -> Any:  # noqa: ANN401  # whatever the file holds
    """`on` and `off` as flags."""
    words = {"on": True, "off": False}
    return _each(raw, lambda word: words.get(word, word) if isinstance(word, str) else word)


def _among(known: tuple[str, ...]) -> Callable[[object], Any]:
    """What refuses a word that is none of these, with the nearest."""

    def checked(word: object) -> object:
        if not isinstance(word, str) or word not in known:
            raise SpecError("is none of the names", value=word, hint=nearest(str(word), known))
        return word

    return lambda raw: _each(raw, checked)


def _each(raw: object, change: Callable[[Any], object]) -> Any:  # noqa: ANN401  # whatever the file holds
    values = listed(raw)
    return None if values is None else [change(value) for value in values]


def _one_or_more(item: dict[str, Any], every: str | None = "all") -> WithJsonSchema:
    """JSON Schema of one value, a list, or `all`."""
    words: list[dict[str, Any]] = [] if every is None else [{"const": every}]
    return WithJsonSchema({"anyOf": [*words, item, {"type": "array", "items": item, "minItems": 1}]})


def _texts(raw: object) -> Any:  # noqa: ANN401  # whatever the file holds
    """Modules of each text as a plan writes them."""
    values = _several(raw)
    return None if values is None else [Plan(recompute_modules=str(word)).recompute_modules for word in values]


def _orders(raw: object) -> Any:  # noqa: ANN401  # whatever the file holds
    """Orders as a plan writes them."""
    values = _several(raw)
    return None if values is None else [Plan(order=word).order for word in values]


def _several(raw: object) -> list[Any] | None:
    """A single value stands for a list of one; there is no `all` of what is endless."""
    if raw is None:
        return None
    return list(raw) if isinstance(raw, list | tuple) else [raw]


WHOLE = {"type": "integer", "minimum": 1}
Degrees = Annotated[tuple[Whole, ...] | None, BeforeValidator(listed), _one_or_more(WHOLE)]
Stages = Annotated[
    tuple[Annotated[int, Field(ge=0, le=3)], ...] | None,
    BeforeValidator(listed),
    _one_or_more({"type": "integer", "minimum": 0, "maximum": 3}),
]
Schedules = Annotated[
    tuple[ScheduleName, ...] | None, BeforeValidator(_among(SCHEDULES)), _one_or_more({"enum": list(SCHEDULES)})
]
Recomputes = Annotated[
    tuple[Recompute, ...] | None, BeforeValidator(_among(RECOMPUTES)), _one_or_more({"enum": list(RECOMPUTES)})
]
Switches = Annotated[
    tuple[bool, ...] | None, BeforeValidator(_switches), _one_or_more({"enum": ["on", "off", True, False]})
]
Exchanges = Annotated[
    tuple[ContextExchange, ...] | None, BeforeValidator(_among(EXCHANGES)), _one_or_more({"enum": list(EXCHANGES)})
]
Recipes = Annotated[
    tuple[Fp8Recipe, ...] | None, BeforeValidator(_several), _one_or_more({"enum": list(FP8_RECIPES)}, None)
]
Orders = Annotated[tuple[str, ...] | None, BeforeValidator(_orders), _one_or_more({"enum": list(ORDERS)}, None)]
Again = Annotated[tuple[str, ...] | None, BeforeValidator(_texts), _one_or_more({"type": "string"}, None)]
Layers = Annotated[
    tuple[Whole | Literal["all"], ...] | None,
    BeforeValidator(_several),
    _one_or_more({"anyOf": [WHOLE, {"const": "all"}]}, None),
]
Widths = Annotated[
    tuple[Whole | Literal["follows"], ...] | None,
    BeforeValidator(_several),
    _one_or_more({"anyOf": [WHOLE, {"const": "follows"}]}, None),
]
Shares = Annotated[
    tuple[Share, ...] | None,
    BeforeValidator(_several),
    _one_or_more({"type": "number", "minimum": 0, "maximum": 1}, None),
]
Names = Annotated[tuple[str, ...] | None, BeforeValidator(_several), _one_or_more({"type": "string"}, None)]
Formats = Annotated[
    tuple[StateDtype, ...] | None,
    BeforeValidator(_several),
    _one_or_more({"enum": list(get_args(StateDtype))}, None),
]


class Space(Frozen):
    """Values of each dimension that are tried: `all` that are legal, one, or a list."""

    tensor: Degrees = None
    pipeline: Degrees = None
    data: Degrees = None
    """Follows from the chips and the other degrees; listed, it keeps only these."""
    context: Degrees = None
    expert: Degrees = None
    expert_tensor: Widths = None
    """Ranks of one expert, or what follows from the other degrees; left out: that."""
    micro_batch: Degrees = None
    virtual_pipeline: Degrees = None
    schedule: Schedules = None
    zero: Stages = None
    recompute: Recomputes = None
    sequence_parallel: Switches = None
    """on, off."""
    context_exchange: Exchanges = None
    recompute_modules: Again = None
    """Each a text as in a plan: "norms,mlp"; left out: none."""
    recompute_layers: Layers = None
    """First layers of each stage that recompute, or all of them; left out: all."""
    offload_activations: Shares = None
    """Shares in the host's memory; left out: 0."""
    offload_weights: Shares = None
    offload_optimizer: Shares = None
    optimizer: Names = None
    """Optimizers of the library; left out: the software's own."""
    optimizer_dtype: Formats = None
    """Formats of its state; left out: the software's own."""
    fp8_recipe: Recipes = None
    """What has a scale where the precision is fp8; left out: a tensor."""
    order: Orders = None
    """Orders of the kinds of ranks; left out: the usual one."""

    @model_validator(mode="after")
    def _not_empty(self) -> Space:
        for name in type(self).model_fields:
            if getattr(self, name) == ():
                raise SpecError("lists nothing", field=name, hint="leave it out for its default")
        return self

    def asked(self) -> Asked:
        """The same as the enumeration takes it."""
        layers = self.recompute_layers
        finite = None if layers is None else tuple(float("inf") if each == "all" else float(each) for each in layers)
        wide = self.expert_tensor
        ranks = None if wide is None else tuple(0.0 if each == "follows" else float(each) for each in wide)
        worded = ("recompute_layers", "expert_tensor")
        others = {name: getattr(self, name) for name in type(self).model_fields if name not in worded}
        return Asked(**others, recompute_layers=finite, expert_tensor=ranks)


class Finish(Frozen):
    """A run of so many tokens that must be done in so many days: asks for the fewest chips."""

    tokens: Annotated[float, Field(gt=0)]
    days: Annotated[float, Field(gt=0)]
    goodput: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the days that is spent in steps that count, see `cosim goodput`."""


class Objective(Frozen):
    """What the best strategy has least or most of, or a date that the fewest chips must meet."""

    minimise: str | None = None
    """Column of the result."""
    maximise: str | None = None
    """Column of the result."""
    finish: Finish | None = None

    @model_validator(mode="after")
    def _one(self) -> Objective:
        given = [name for name in ("minimise", "maximise", "finish") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SpecError("needs one of minimise, maximise, finish", value=", ".join(given) or None)
        column = self.minimise or self.maximise
        if column is not None and column not in KNOWN:
            raise SpecError("names no number of a result", field=given[0], value=column, hint=nearest(column, KNOWN))
        return self


def _objective(raw: object) -> object:
    """A bare column is minimised, unless more of it is better."""
    if not isinstance(raw, str):
        return raw
    return {"maximise" if raw in MORE_IS_BETTER else "minimise": raw}


def _objectives(raw: object) -> object:
    return [_objective(each) for each in (raw if isinstance(raw, list | tuple) else [raw])]


class StrategySearch(Frozen):
    """Every legal training strategy of a model on a system: the best by each objective, and why others are worse."""

    kind: Literal["search"]
    question: str
    system: str
    nodes: Annotated[tuple[Whole, ...] | None, BeforeValidator(listed), _one_or_more(WHOLE, None)] = None
    """Nodes that are tried, one number or several; None: as the system has."""
    workload: str
    phase: Literal["train"] = "train"
    scenario: dict[str, Any] = {}
    """Paths below `scenario`: global_batch, context."""
    software: str = "megatron"
    """Training software of the library, or a file."""
    precision: Annotated[
        tuple[Dtype, ...] | None, BeforeValidator(listed), _one_or_more({"enum": list(TRAINING_PRECISIONS)}, None)
    ] = None
    """One format or several; None: 16 bits."""
    plan: dict[str, Any] = {}
    """Paths below `plan` that all strategies share and that are no dimension of the space: shard, algorithm."""
    space: Space = Space()
    objectives: Annotated[
        tuple[Objective, ...],
        Field(min_length=1),
        BeforeValidator(_objectives),
        _one_or_more({"anyOf": [{"enum": list(KNOWN)}, {"type": "object"}]}, None),
    ]
    """Columns, `minimise: COLUMN`, `maximise: COLUMN`, or `finish: {tokens, days}`."""
    constraints: tuple[str, ...] = ()
    """On numbers of the result: "memory_bytes.total <= 72 GB"."""
    rows: Annotated[int, Field(ge=1, le=20_000_000)] = DEFAULT_ROWS
    """Most rows of the result: all legal strategies where these are no more, else those that fit, else the best by each
    objective and the front; the run says which."""

    @model_validator(mode="after")
    def _holds(self) -> StrategySearch:
        parse_asked(self.constraints)
        for name in self.plan:
            if name in SEARCHED:
                hint = f"write it as space.{SEARCHED[name]}"
                raise SpecError("is a dimension of the space", field=f"plan.{name}", hint=hint)
        for name in self.precision or ():
            if name not in TRAINING_PRECISIONS:
                hint = f"formats to train in: {', '.join(TRAINING_PRECISIONS)}"
                raise SpecError("is no format to train in", field="precision", value=name, hint=hint)
        if sum(each.finish is not None for each in self.objectives) > 1:
            raise SpecError("has two dates", field="objectives", hint="one finish")
        for field in ("objectives", "precision", "nodes"):
            values = getattr(self, field) or ()
            twice = [value for index, value in enumerate(values) if value in values[:index]]
            if twice:
                raise SpecError("is listed twice", field=field, value=str(twice[0]), hint="name each once")
        return self


SEARCHED = {
    "tensor_parallel": "tensor",
    "pipeline_parallel": "pipeline",
    "data_parallel": "data",
    "context_parallel": "context",
    "expert_parallel": "expert",
    "expert_tensor_parallel": "expert_tensor",
    "micro_batch": "micro_batch",
    "virtual_pipeline": "virtual_pipeline",
    "schedule": "schedule",
    "zero": "zero",
    "recompute": "recompute",
    "sequence_parallel": "sequence_parallel",
    "context_exchange": "context_exchange",
    "recompute_modules": "recompute_modules",
    "recompute_layers": "recompute_layers",
    "offload_activations": "offload_activations",
    "offload_weights": "offload_weights",
    "offload_optimizer": "offload_optimizer",
    "optimizer": "optimizer",
    "optimizer_dtype": "optimizer_dtype",
    "order": "order",
    "fp8_recipe": "fp8_recipe",
}
"""Dimension of the space by the path of a plan that it sets."""
FIXED = {"dtype": "precision", "software": "software", "micro_batches": "space.micro_batch"}
"""Paths of a plan that a search says in other places."""
NOT_SEARCHED = {
    "shard": "it divides the replicas, which differ between strategies: one number in plan, search again for another",
    "algorithm": "the fastest of every collective is taken already",
    "kv_dtype": "training keeps no cache",
    "weights_dtype": "training keeps weights in the format of their products, or in the optimizer's",
    "latent": "training has one form of latent attention",
}
"""Paths of a plan that no search tries, and why."""
