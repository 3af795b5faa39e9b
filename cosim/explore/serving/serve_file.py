"""The file of a serving study, `kind: serve`: deployments side by side under the same requests.

What stands at the top is shared by all; a deployment gives what is its own. Sections are merged field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from cosim.datum import Seconds
from cosim.dtypes import Dtype
from cosim.engines.serving.settings import Batching, Policy, Reserve, Routing
from cosim.errors import SpecError
from cosim.explore.serving.search_file import ServingSearch
from cosim.mapping.plan import Algorithms, Degree
from cosim.schema import Frozen, validated
from cosim.units import parse_quantity
from cosim.workload.requests.description import Pause, Rate, RequestPattern

Share = Annotated[float, Field(ge=0, le=1)]
Several = Annotated[int, Field(ge=1, le=10_000_000)]
INLINE = {"kind": "requests", "name": "inline", "title": "of the study", "source": "the study"}
N_GRAM = "n_gram"
"""Drafts that are looked up in the text and cost nothing."""


def _requests(raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
    """A name, or a description written in place. Raises SpecError."""
    if isinstance(raw, RequestPattern) or (isinstance(raw, str) and raw):
        return raw
    if not isinstance(raw, Mapping):
        hint = "a name ('cosim list requests'), a file, or the fields of a description"
        raise SpecError("says no requests", value=raw, hint=hint)
    return validated(RequestPattern, {**INLINE, **raw})


def _rate_of_bytes(raw: Any) -> Any:  # noqa: ANN401  # whatever the file holds
    return None if raw is None else parse_quantity(raw, "B/s")


_WORDS = "a name of workloads/requests, a file, or the fields of 'cosim schema requests'"
Asked = Annotated[
    str | RequestPattern,
    PlainValidator(_requests),
    WithJsonSchema({"description": _WORDS, "anyOf": [{"type": "string"}, {"type": "object"}]}),
]
ByteRate = Annotated[float | None, PlainValidator(_rate_of_bytes), WithJsonSchema({"type": ["string", "number"]})]


class ServingPlan(Frozen):
    """Degrees and formats of a deployment. Without degrees the least tensor degree that has room is taken, and said."""

    tensor_parallel: Degree | None = None
    pipeline_parallel: Degree | None = None
    data_parallel: Degree | None = None
    """Replicas; of them, ranks whose experts are shared out beyond the tensor ranks are one (attention data parallel).
    """
    expert_parallel: Degree | None = None
    micro_batches: Degree | None = None
    """None: as many as stages."""
    dtype: Dtype | None = None
    """None: the chip's best native format."""
    weights_dtype: Dtype | None = None
    kv_dtype: Dtype | None = None
    """None: the stack's for weights of 8 bits and fewer, else 16 bits."""
    latent: Literal["best", "absorbed", "expanded"] = "best"
    algorithm: Algorithms = Algorithms()


class SchedulerSettings(Frozen):
    """One replica's scheduler; None is as the stack has it. See docs/model/7-scheduler.md."""

    batching: Batching | None = None
    policy: Policy = "first_come"
    token_budget: Several | None = None
    """Tokens of a step, of each rank of attention data parallelism."""
    max_sequences: Several | None = None
    """Sequences in flight, of each rank."""
    kv_blocks: Several | None = None
    """At most so many, where memory holds more. None: what memory holds."""
    block_tokens: Several = 16
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.01
    memory_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of the chip's memory, for weights, cache and all else. None: the stack's."""
    reserve: Reserve | None = None
    """Room that a sequence is admitted with: whole, for all of its answer; grown, blocks as it comes to need them."""
    swap: bool = False
    """Sequences that lose their place move to the host instead of being computed anew."""
    prefix_cache: bool = False
    prefix_tokens: Several | None = None
    """Tokens of a block of shared text; None: as requests name them, else `block_tokens`."""
    ageing: Seconds = 60.0
    output_weight: Annotated[float, Field(gt=0)] = 2.0
    max_context: Annotated[int, Field(ge=2)] | None = None
    """Longer requests are refused. None: the model's positions."""


class ServingScenario(Frozen):
    """What is asked, where it differs from the description of the requests."""

    rate: Rate | None = None
    """Requests per second, in place of the description's."""
    count: Several | None = None
    concurrency: Several | None = None
    """Of a closed loop."""
    expert_imbalance: Annotated[float, Field(ge=0, le=100)] = 0.0


class LimitSettings(Frozen):
    """A request is good if it keeps every limit."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None


class PrefillPool(Frozen):
    """Replicas that only prefill; what is left out is as in the pool that decodes."""

    system: str | None = None
    """Chips of its own; None: of the same system."""
    plan: ServingPlan = ServingPlan()
    stack: str | None = None
    scheduler: SchedulerSettings = SchedulerSettings()
    replicas: Several | None = None


class FeedForwardPlan(Frozen):
    """Degrees of the feed-forward side of a replica. Without any the least number of chips in a node that has room."""

    tensor_parallel: Degree | None = None
    data_parallel: Degree | None = None
    """Ranks that share out the tokens; None: as many as share the experts beyond the tensor ranks."""
    expert_parallel: Degree | None = None


class FeedForward(Frozen):
    """Chips of their own for the feed-forward layers of each replica, whose other chips do attention and all else.

    `plan` is then that of the attention side: its data ranks all belong to one replica. Formats are shared.
    """

    system: str | None = None
    """None: further chips of the same system."""
    plan: FeedForwardPlan = FeedForwardPlan()
    micro_batches: Degree = 2
    """Parts of a batch that take turns between the sides."""


class TransferSettings(Frozen):
    """The way of a cache from prefill to decode; None is as the modelled network has it."""

    latency: Pause | None = None
    bandwidth: ByteRate = None
    """Of the link of one chip."""
    concurrent: Several | None = None


class AutoscaleSettings(Frozen):
    """Replicas follow the queue or their use."""

    measure: Literal["queue", "utilisation"]
    target: Annotated[float, Field(gt=0)]
    least: Several = 1
    most: Several
    interval: Seconds = 10.0
    start: Pause = 60.0
    cool_down: Pause = 0.0


class FailureSettings(Frozen):
    """Mean times of replicas until they fail, and until they are repaired."""

    mean_up: Seconds
    mean_repair: Seconds


class SpeculationSettings(Frozen):
    """Drafts of every decoding sequence in a step."""

    draft: str = N_GRAM
    """A smaller workload on the same chips, or n_gram."""
    acceptance: Annotated[tuple[Share, ...], Field(min_length=1, max_length=64)] | Share
    """Chance of each draft if all before it held; one number is the same for all `drafts`."""
    drafts: Annotated[int, Field(ge=1, le=64)] | None = None
    """None: as many as `acceptance` lists."""
    expected: bool = False

    @model_validator(mode="after")
    def _counted(self) -> SpeculationSettings:
        listed = isinstance(self.acceptance, tuple)
        if listed is not (self.drafts is None):
            hint = "give a list of chances alone, or one chance and drafts"
            raise SpecError("does not go with acceptance", field="drafts", value=self.drafts, hint=hint)
        return self

    @property
    def chances(self) -> tuple[float, ...]:
        """Chance of each draft."""
        if isinstance(self.acceptance, tuple):
            return self.acceptance
        return (self.acceptance,) * (self.drafts or 1)


class Deployment(Frozen):
    """What serves: replicas of a model on a system, their scheduler, what stands before and around them."""

    system: str | None = None
    workload: str | None = None
    plan: ServingPlan = ServingPlan()
    stack: str = "vllm"
    """Serving software of the library, or a file."""
    scheduler: SchedulerSettings = SchedulerSettings()
    scenario: ServingScenario = ServingScenario()
    replicas: Several | Literal["all"] | None = None
    """In place of plan.data_parallel; all: as many as the system's chips hold. None is one."""
    routing: Routing = "round_robin"
    prefill: PrefillPool | None = None
    feed_forward: FeedForward | None = None
    transfer: TransferSettings = TransferSettings()
    autoscale: AutoscaleSettings | None = None
    failures: FailureSettings | None = None
    speculation: SpeculationSettings | None = None


class Serve(Deployment):
    """Requests served by one deployment or by several side by side, simulated with every seed."""

    kind: Literal["serve"]
    question: str
    requests: Asked
    limits: LimitSettings = LimitSettings()
    warm_up: Pause = 0.0
    """Requests that come before are served and not counted."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Runs; of each all random draws are its own, and the same for every deployment."""
    seed: Annotated[int, Field(ge=0)] = 0
    deployments: dict[str, Deployment] = {}
    """By name; empty: the one that the top describes, named as its system."""
    search: ServingSearch | None = None
    """Every legal deployment of the workload on the system at the top, beside those that are named."""

    @model_validator(mode="after")
    def _whole(self) -> Serve:
        for name, each in self.merged().items():
            at = f"deployments.{name}." if self.deployments else ""
            for field in ("system", "workload"):
                if getattr(each, field) is None:
                    raise SpecError("is missing", field=f"{at}{field}", hint=f"'cosim list {field}s' names them")
        if self.search is not None:
            for field in ("system", "workload"):
                if getattr(self, field) is None:
                    raise SpecError("is missing", field=field, hint="a search is on the system and workload of the top")
        return self

    def merged(self) -> dict[str, Deployment]:
        """Every deployment by name, with what all share."""
        if not self.deployments:
            return {self.system or "deployment": Deployment(**_given(self, Deployment))}
        shared = _given(self, Deployment)
        return {name: Deployment(**_joined(shared, _given(own, Deployment))) for name, own in self.deployments.items()}


def _given(spec: Frozen, kind: type[Frozen]) -> dict[str, Any]:
    """Fields of `kind` that were written down, sections as they are."""
    return {name: getattr(spec, name) for name in kind.model_fields if name in spec.model_fields_set}


def _joined(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the own fields first; sections of one kind field by field."""
    out = dict(shared)
    for name, value in own.items():
        before = out.get(name)
        if isinstance(before, Frozen) and isinstance(value, Frozen):
            kind = type(value)
            out[name] = kind(**_joined(_given(before, kind), _given(value, kind)))
        else:
            out[name] = value
    return out
