"""The `search:` section of serving: which deployments are tried, within which limits, what is best, what is checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from cosim.datum import Seconds
from cosim.dtypes import Dtype
from cosim.errors import SpecError, nearest
from cosim.explore.search_file import Degrees, Names, Whole
from cosim.schema import Frozen
from cosim.workload.requests.lengths import Tokens

Layout = Literal["together", "apart", "split"]
"""together: replicas do prompts and answers; apart: a pool of replicas does prompts, another one answers; split:
replicas do both, with feed-forward layers on chips of their own."""
LAYOUTS: tuple[str, ...] = get_args(Layout)
Objective = Literal["tokens_per_s_per_chip", "tokens_per_s_per_user", "usd_per_million_tokens", "tokens_per_j"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]
STATISTICS: tuple[str, ...] = get_args(Statistic)
Check = Literal["closed_loop", "poisson", "none"]
BUDGETS = (1024, 2048, 4096, 8192, 16384)
"""Tokens of a step that are tried where none are listed."""


def _word(known: tuple[str, ...]) -> BeforeValidator:
    """Refuses a word that is none of these, with the nearest."""

    def checked(raw: object) -> object:
        for word in raw if isinstance(raw, list | tuple) else [raw]:
            if word is not None and word not in known:
                raise SpecError("is none of the names", value=word, hint=nearest(str(word), known))
        return raw

    return BeforeValidator(checked)


def _one_or_more(raw: object) -> Any:  # noqa: ANN401  # whatever the file holds
    """A single value stands for a list of one."""
    return raw if raw is None or isinstance(raw, list | tuple) else [raw]


Formats = Annotated[tuple[Dtype, ...] | None, BeforeValidator(_one_or_more)]
Layouts = Annotated[tuple[Layout, ...], BeforeValidator(_one_or_more), _word(LAYOUTS)]


class ServingSpace(Frozen):
    """Values of each dimension that are tried: `all` that are legal, one, or a list. Data replicas follow."""

    systems: Names = None
    """Systems of the library beside the one that is asked about; each is given the same number of chips."""
    layout: Layouts = ("together", "apart")
    tensor: Degrees = None
    pipeline: Degrees = None
    """Stages; left out: powers of two and what divides the chips."""
    data: Degrees = None
    """Ranks of a replica that share experts and have sequences of their own; 1 in a dense model."""
    expert: Degrees = None
    dtype: Formats = None
    """Formats of the products; left out: the fastest of the chip."""
    weights_dtype: Formats = None
    """Formats of the weights in memory, narrower than the products; left out: that of the products."""
    kv_dtype: Formats = None
    """Formats of the cache; left out: that of the stack's recipes."""
    token_budget: Degrees = None
    """Most tokens of a step, which is the most of a prompt in one piece; left out: 1,024 to 16,384 and the stack's."""
    max_sequences: Degrees = None
    """Most sequences in flight of a replica, with attention in data parallel of each rank; left out: from one to the
    stack's most, each a tenth above the last."""
    prefill_replicas: Degrees = None
    """Replicas of the pool of prompts, where it is apart; left out: all numbers that leave no chip over."""

    feed_forward: Degrees = None
    """Chips for feed-forward layers of a replica that is split; left out: all numbers that are legal."""
    micro_batches: Degrees = None
    """Parts of a batch that take turns between the sides of a replica that is split; left out: 2 and 3."""

    @model_validator(mode="after")
    def _not_empty(self) -> ServingSpace:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if values == ():
                raise SpecError("lists nothing", field=name, hint="leave it out for its default")
            twice = [value for index, value in enumerate(values or ()) if value in values[:index]]
            if twice:
                raise SpecError("is listed twice", field=name, value=str(twice[0]), hint="name each once")
        return self


class ServingSearch(Frozen):
    """Every legal deployment of a model on so many chips: the best within the limits, the front, its capacity."""

    prompt: Tokens
    """Tokens of a prompt."""
    output: Tokens
    """Tokens of an answer, the first one too."""
    ttft_limit: Seconds | None = None
    """Most time to the first token."""
    tpot_limit: Seconds | None = None
    """Most time of each further token."""
    objective: Annotated[Objective, _word(OBJECTIVES)] = "tokens_per_s_per_chip"
    chips: Whole | None = None
    """Chips of a deployment; left out: those of the system."""
    stack: str = "vllm"
    """Serving stack of the library, or a file."""
    space: ServingSpace = ServingSpace()
    check: Annotated[Check, _word(get_args(Check))] = "closed_loop"
    """How front members are simulated: with as many requests in flight as the closed form has, or with Poisson
    arrivals at its rate."""
    simulated: Annotated[int, Field(ge=2, le=1000)] = 8
    """Front members that are simulated at the most, the best among them, before the best that keeps its limits is
    looked for."""
    capacity: bool = True
    """Whether the largest rate of requests of the best deployment is looked for."""
    statistic: Annotated[Statistic, _word(STATISTICS)] = "p90"
    """Of the simulated latencies, what must keep the limits. The closed form gives means."""
    requests: Annotated[int, Field(ge=20, le=1_000_000)] = 500
    """Requests of a simulation at the least; five times those in flight where that is more."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _holds(self) -> ServingSearch:
        if self.output < 2 and self.tpot_limit is not None:
            hint = "a request of one token has no next one"
            raise SpecError("limits nothing", field="tpot_limit", value=self.tpot_limit, hint=hint)
        return self
