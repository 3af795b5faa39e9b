"""The parallel plan and the scenario it serves or trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from cosim.datum import Bytes, Seconds
from cosim.dtypes import Dtype, Fp8Recipe
from cosim.errors import SpecError, nearest
from cosim.hardware.collectives import Algorithm
from cosim.mapping.order import USUAL, checked_order
from cosim.overrides import Varied
from cosim.records import Array, array
from cosim.schema import Frozen

Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)]
Degree = Annotated[int, Field(ge=1, le=1_000_000)]


Share = Annotated[float, Field(ge=0, le=1)]


class Algorithms(Frozen):
    """Collective algorithm by operation; `fastest` takes the best that the tier's library has."""

    all_reduce: Literal["fastest", Algorithm] = "fastest"


Recompute = Literal["none", "selective", "full"]
RECOMPUTES: tuple[str, ...] = get_args(Recompute)
Updates = Literal["all", "adapters", "nothing"]
ContextExchange = Literal["ring", "all_gather", "all_to_all"]
ScheduleName = Literal["1f1b", "gpipe", "zb-h1", "zb-v", "dualpipe"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
MODULES = ("core_attention", "attention", "latent", "norms", "activation", "mlp", "moe", "elementwise", "products")
"""Parts of a layer that can be computed again by themselves."""
StateDtype = Literal["fp32", "bf16", "int8"]


class Plan(Frozen):
    """Degrees of parallelism, micro-batches and formats. chips = tensor x context x pipeline x data.

    What only training knows: micro_batch, virtual_pipeline, context_parallel, sequence_parallel, zero, shard,
    recompute, recompute_modules, recompute_layers, offload_*, software, schedule, optimizer, optimizer_dtype.
    What only serving knows: micro_batches (training derives it), kv_dtype, weights_dtype.
    """

    tensor_parallel: Degree = 1
    pipeline_parallel: Degree = 1
    data_parallel: Degree = 1
    micro_batches: Degree = 1
    dtype: Dtype = "bf16"
    """Format of the linear layers and of their weights; embedding, head and norms stay at 16 bits."""
    weights_dtype: Dtype | None = None
    """Format of these weights in memory where that is narrower than the products': w4a16 is int4 here, bf16 above."""
    fp8_recipe: Fp8Recipe = "tensor"
    """What has a scale where dtype is fp8: a tensor, or 1 x 128 of activations and 128 x 128 of weights."""
    kv_dtype: Dtype = "bf16"
    algorithm: Algorithms = Algorithms()
    expert_parallel: Degree = 1
    """Ranks that share out the routed experts. More than the tensor ranks: replicas share them too, and tokens travel
    (data-parallel attention where tensor_parallel is 1); fewer: each expert is split over what is left."""
    expert_tensor_parallel: Degree | None = None
    """Ranks that share one expert's width, whatever the tensor degree: every token then travels to its experts. None is
    what expert_parallel leaves of the tensor ranks."""
    latent: Literal["best", "absorbed", "expanded"] = "best"
    """Form of latent attention; best is absorbed in decode, expanded otherwise."""
    micro_batch: Degree = 1
    """Sequences of one micro-batch of a replica."""
    virtual_pipeline: Degree = 1
    """Pieces of the model that each stage holds; more than one is the interleaved schedule."""
    context_parallel: Degree = 1
    """Ranks that share out the tokens of every sequence; they hold the same weights."""
    context_exchange: ContextExchange = "ring"
    """How their attention sees all keys and values: handed round while it works, gathered before it, or heads for
    tokens exchanged before and after it."""
    sequence_parallel: bool = False
    """Norms and residuals split over the tensor ranks along the sequence."""
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    """What data ranks share out: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    shard: Degree | None = None
    """Neighbouring replicas that share it out among themselves; groups of them hold the same and sum their gradients.
    None is all replicas."""
    recompute: Recompute = "none"
    """What the backward pass computes again: nothing, the attention core, or whole layers."""
    recompute_modules: str = ""
    """Modules that it computes again besides, as "norms,mlp": see `cosim.mapping.recompute`."""
    recompute_layers: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Layers of each stage that compute again what the two above say: its first ones. None is all."""
    offload_activations: Share = 0.0
    """Share of the saved tensors of layers that waits in the host's memory, see `cosim.mapping.offload`."""
    offload_weights: Share = 0.0
    """Share of the weights that lies there and is read in every pass."""
    offload_optimizer: Share = 0.0
    """Share of the optimizer's state that lies there and passes the chip in every update."""
    software: str = "megatron"
    """Training software of the library, or a file: how kernels are fused, what overlaps, what the host costs."""
    order: str = USUAL
    """Kinds of ranks, innermost first, see `cosim.mapping.order`: where the pipeline lies, and the replicas."""
    schedule: ScheduleName = "1f1b"
    """Order of the passes of a pipeline; 1f1b is interleaved where virtual_pipeline is more than one."""
    optimizer: str | None = None
    """Optimizer of the library, or a file: what is kept of a parameter, what its update costs. None: as the software
    says."""
    optimizer_dtype: StateDtype | None = None
    """Format of its state; None: as the software says."""

    @field_validator("recompute_modules", mode="before")
    @classmethod
    def _known_modules(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        named = [word.strip() for word in value.split(",") if word.strip()]
        for word in named:
            if word not in MODULES:
                raise SpecError("no module has this name", value=word, hint=nearest(word, MODULES))
        return ",".join(name for name in MODULES if name in named)

    @field_validator("order", mode="before")
    @classmethod
    def _ordered(cls, value: object) -> object:
        return checked_order(value) if isinstance(value, str) else value

    @field_validator("schedule", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if isinstance(value, str) and value not in SCHEDULES:
            hint = "1f1b with plan.virtual_pipeline above 1" if value == "interleaved" else nearest(value, SCHEDULES)
            raise SpecError("no schedule has this name", value=value, hint=hint)
        return value


class Scenario(Frozen):
    """What is asked of the system. Lengths in tokens, limits in seconds."""

    batch: Degree = 1
    """Sequences in flight over the whole system."""
    context: Tokens = 2048
    """Decode: cached tokens that a step reads. Prefill: length of the prompts. Training: of the sequences."""
    global_batch: Annotated[int, Field(ge=1, le=1_000_000_000)] = 512
    """Training: sequences of one optimizer step over the whole system."""
    updates: Updates = "all"
    """Training: what a step updates. All weights; adapters of low rank beside frozen weights (LoRA); or nothing: a
    forward and backward pass whose gradients are summed over the replicas and then left."""
    adapter_rank: Degree = 16
    """Training of adapters: their inner width."""
    bytes_per_sample: Bytes | None = None
    """Training: what is read from storage for one sequence or item [B], see `cosim.timing.loading`. None is unknown:
    reading is then no bound."""
    capacity: Tokens | None = None
    """Cached tokens that memory must hold per sequence, at least `context`; None is `context`."""
    ttft_limit: Seconds | None = None
    """Most time of a prefill step [s]."""
    tpot_limit: Seconds | None = None
    """Most time of a decode step [s]."""
    expert_imbalance: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Load of the busiest expert rank beyond what chance gives, as a share; 0 is a uniform router."""

    @model_validator(mode="after")
    def _holds_what_it_reads(self) -> Scenario:
        if self.capacity is not None and self.capacity < self.context:
            hint = "memory must hold at least the context that a step reads"
            raise SpecError("is less than context", field="capacity", value=self.capacity, hint=hint)
        return self


@dataclass(frozen=True, slots=True)
class PlanArrays:
    """A plan as the engines see it."""

    tensor: Array
    pipeline: Array
    data: Array
    micro_batches: Array
    dtype: str
    kv_dtype: str
    all_reduce: str
    micro_batch: Array = field(default_factory=lambda: array(1.0))
    virtual: Array = field(default_factory=lambda: array(1.0))
    zero: Array = field(default_factory=lambda: array(0.0))
    shard: Array = field(default_factory=lambda: array(np.inf))
    """Replicas that share out states; inf is all of them."""
    expert: Array = field(default_factory=lambda: array(1.0))
    expert_tensor: Array = field(default_factory=lambda: array(0.0))
    """Ranks that share one expert as asked; 0 is what follows from the others, see `cosim.mapping.routing`."""
    recompute: Array = field(default_factory=lambda: array(0.0))
    """Index in RECOMPUTES: a number, so that a search over it is one batch."""
    context: Array = field(default_factory=lambda: array(1.0))
    context_exchange: str = "ring"
    sequence_parallel: bool = False
    latent: str = "best"
    weights_dtype: str | None = None
    schedule: str = "1f1b"
    order: str = USUAL
    fp8_recipe: str = "tensor"
    recompute_modules: tuple[str, ...] = ()
    recompute_layers: Array = field(default_factory=lambda: array(np.inf))
    """Layers of each stage that recompute; inf is all of them."""

    offload_activations: Array = field(default_factory=lambda: array(0.0))
    offload_weights: Array = field(default_factory=lambda: array(0.0))
    offload_optimizer: Array = field(default_factory=lambda: array(0.0))

    @property
    def replicas(self) -> Array:
        """Ranks that hold the same weights: data replicas, and those that share out their sequences."""
        return self.context * self.data

    @property
    def sharers(self) -> Array:
        """Replicas that share out what ZeRO shares out."""
        return np.minimum(self.shard, self.replicas)

    @property
    def chips(self) -> Array:
        """Chips that the plan occupies."""
        return self.tensor * self.pipeline * self.replicas


@dataclass(frozen=True, slots=True)
class ScenarioArrays:
    """A scenario as the engines see it; limits are inf where there is none."""

    batch: Array
    context: Array
    capacity: Array
    ttft_limit: Array
    tpot_limit: Array
    global_batch: Array = field(default_factory=lambda: array(512.0))
    expert_imbalance: Array = field(default_factory=lambda: array(0.0))
    updates: str = "all"
    adapter_rank: Array = field(default_factory=lambda: array(16.0))
    bytes_per_sample: Array = field(default_factory=lambda: array(np.nan))
    """NaN where it is not known."""


def lower_plan(varied: Varied[Plan]) -> PlanArrays:
    """Arrays of a plan with its overrides."""
    plan, arrays = varied.spec, varied.arrays
    return PlanArrays(
        tensor=arrays.get("tensor_parallel", array(plan.tensor_parallel)),
        pipeline=arrays.get("pipeline_parallel", array(plan.pipeline_parallel)),
        data=arrays.get("data_parallel", array(plan.data_parallel)),
        micro_batches=arrays.get("micro_batches", array(plan.micro_batches)),
        dtype=plan.dtype,
        kv_dtype=plan.kv_dtype,
        all_reduce=plan.algorithm.all_reduce,
        micro_batch=arrays.get("micro_batch", array(plan.micro_batch)),
        virtual=arrays.get("virtual_pipeline", array(plan.virtual_pipeline)),
        zero=arrays.get("zero", array(plan.zero)),
        shard=arrays.get("shard", array(np.inf if plan.shard is None else plan.shard)),
        expert=arrays.get("expert_parallel", array(plan.expert_parallel)),
        expert_tensor=arrays.get("expert_tensor_parallel", array(plan.expert_tensor_parallel or 0)),
        latent=plan.latent,
        weights_dtype=plan.weights_dtype,
        context=arrays.get("context_parallel", array(plan.context_parallel)),
        context_exchange=plan.context_exchange,
        sequence_parallel=plan.sequence_parallel,
        recompute=array(RECOMPUTES.index(plan.recompute)),
        schedule=plan.schedule,
        order=plan.order,
        fp8_recipe=plan.fp8_recipe,
        offload_activations=arrays.get("offload_activations", array(plan.offload_activations)),
        offload_weights=arrays.get("offload_weights", array(plan.offload_weights)),
        offload_optimizer=arrays.get("offload_optimizer", array(plan.offload_optimizer)),
        recompute_modules=tuple(plan.recompute_modules.split(",")) if plan.recompute_modules else (),
        recompute_layers=arrays.get(
            "recompute_layers", array(np.inf if plan.recompute_layers is None else plan.recompute_layers)
        ),
    )


def lower_scenario(varied: Varied[Scenario]) -> ScenarioArrays:
    """Arrays of a scenario with its overrides."""
    scenario, arrays = varied.spec, varied.arrays

    def number(name: str, default: Array | float) -> Array:
        value = getattr(scenario, name)
        return arrays.get(name, array(default if value is None else value))

    context = number("context", 0.0)
    capacity = number("capacity", context)
    if np.any(capacity < context):
        hint = "memory must hold at least the context that a step reads"
        raise SpecError("is less than context", field="scenario.capacity", value=float(np.min(capacity)), hint=hint)
    inf = float("inf")
    return ScenarioArrays(
        batch=number("batch", 0.0),
        context=context,
        capacity=capacity,
        ttft_limit=number("ttft_limit", inf),
        tpot_limit=number("tpot_limit", inf),
        global_batch=number("global_batch", 0.0),
        expert_imbalance=number("expert_imbalance", 0.0),
        updates=scenario.updates,
        adapter_rank=number("adapter_rank", 0.0),
        bytes_per_sample=number("bytes_per_sample", np.nan),
    )
