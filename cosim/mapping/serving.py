"""Serving software as data: how it batches, what its host costs, what its kernels reach.

One file a family in `accelerators/serving`. Fitted numbers belong to a family, never to a run, a model or a chip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cosim.datum import BytePerCycle, Count, Datum, Factor, Time
from cosim.dtypes import Dtype
from cosim.hardware.load import described
from cosim.records import Array, array
from cosim.schema import Frozen, Source, validated

Policy = Literal["chunked", "first", "static"]
"""chunked: pieces of prompts fill what decodes leave of a step's tokens; first: steps of prompts alone, decodes wait;
static: a batch is formed, filled and run to its end."""


class ServingRates(Frozen):
    """What the stack's kernels and traffic reach, over what the chip's own libraries do; None is as much."""

    matmul: Factor | None = None
    routed: Factor | None = None
    """Grouped products of routed experts; None: as other products."""
    attention: Factor | None = None
    vector: Factor | None = None
    collective: Factor | None = None
    exchange: Factor | None = None
    """Tokens to their experts and back."""


class Serving(Frozen):
    """A serving stack."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    policy: Policy
    token_budget: Count
    """Most tokens of one step."""
    max_sequences: Count
    """Most sequences in flight on a replica."""
    memory_share: Factor
    """Of a chip's memory, as its driver shows it, that weights, cache and all else may take together."""
    share_of_free: bool = False
    """Whether that share is of what weights and a full step leave, for the cache alone."""
    host_step: Time | None = None
    """Host time of a step: scheduling, inputs, sampling, handing tokens on. None: that of the chip."""
    host_sequence: Time | None = None
    """Host time of each sequence in it. None is nothing."""
    host_hidden: bool = False
    """Whether the host prepares a step while the device runs the one before: the longer of both counts."""
    host_kernel: Time | None = None
    """Host time to issue one kernel where no graph is replayed. None: all steps run as graphs."""
    graph_tokens: Count | None = None
    """Most tokens of a step that is replayed as a graph. None: no step is, where kernels have a host time."""
    graph_decodes: bool = False
    """Whether steps without prompts are replayed as graphs whatever their tokens."""
    routed_start: Time | None = None
    """Time on the device of what routes the tokens of a layer, beside the kernels of its graph: sorting, counting,
    scaling. None is nothing."""
    sum_start: Time | None = None
    """Least time of the stack's own kernel that sums small messages over the ranks of a node. None: it has none."""
    kv_dtype: Dtype | None = None
    """Format of the cache that the stack's recipes give weights of 8 bits and fewer. None: 16 bits."""
    reserve: Literal["whole", "grown"] = "grown"
    """What a sequence holds of the cache when it is admitted: room for its whole answer, or for what it has."""
    request_start: Time | None = None
    """From the arrival of a request to the step that takes it, and from its token back: front end. None: nothing."""
    request_steps: Factor | None = None
    """The same in steps of its own: requests that are taken up a step late, steps that are issued ahead, tokens that
    are handed on in groups. None: nothing."""
    weight_only: tuple[Dtype, ...] = ()
    """Formats that weights are kept in and widened from: products run in 16 bits."""
    compiles: bool = False
    """Whether it compiles networks: `cosim.mapping.compiled`."""
    networks: str | None = None
    """The stack that runs models without a cache beside it: an engine without a scheduler. None: itself."""
    read_per_core: BytePerCycle | None = None
    """Most that the stack's products take from memory in a core's cycle. None: as fast as it comes."""
    stored_on_vector: Factor | None = None
    """Rate of dot products with weights that are widened over the vector units' peak: of few rows. More rows first
    write their weights in 16 bits, and read these. None: all are widened on the way to the matrix units."""
    rates: ServingRates = ServingRates()


@dataclass(frozen=True, slots=True)
class ServingArrays:
    """Serving software as the engines see it; times in seconds."""

    name: str
    policy: str
    token_budget: Array
    max_sequences: Array
    memory_share: Array
    share_of_free: bool
    host_step: Array
    """NaN: that of the chip."""
    host_sequence: Array
    host_hidden: bool
    host_kernel: Array
    graph_tokens: Array
    graph_decodes: bool
    routed_start: Array
    reserves_whole: bool
    request_start: Array
    sum_start: Array
    """inf where the stack has no such kernel."""
    request_steps: Array = field(default_factory=lambda: array(0.0))
    compiles: bool = False
    read_per_core: Array = field(default_factory=lambda: array(np.inf))
    stored_on_vector: Array = field(default_factory=lambda: array(np.inf))
    matmul_rate: Array = field(default_factory=lambda: array(1.0))
    routed_rate: Array = field(default_factory=lambda: array(1.0))
    attention_rate: Array = field(default_factory=lambda: array(1.0))
    vector_rate: Array = field(default_factory=lambda: array(1.0))
    collective_rate: Array = field(default_factory=lambda: array(1.0))
    exchange_rate: Array = field(default_factory=lambda: array(1.0))


def load_serving(name: str) -> Serving:
    """The stack called `name`, or in the file `name`. Raises SpecError."""
    data, chain = described(name, "serving")
    return validated(Serving, data, chain[0], chain[1:])


def lower_serving(serving: Serving) -> ServingArrays:
    """Arrays of a serving stack."""
    rates = serving.rates
    return ServingArrays(
        name=serving.name,
        policy=serving.policy,
        token_budget=array(serving.token_budget.si),
        max_sequences=array(serving.max_sequences.si),
        memory_share=array(serving.memory_share.si),
        share_of_free=serving.share_of_free,
        host_step=_or(serving.host_step, np.nan),
        host_sequence=_or(serving.host_sequence, 0.0),
        host_hidden=serving.host_hidden,
        host_kernel=_or(serving.host_kernel, 0.0),
        graph_tokens=_or(serving.graph_tokens, 0.0),
        graph_decodes=serving.graph_decodes,
        routed_start=_or(serving.routed_start, 0.0),
        reserves_whole=serving.reserve == "whole",
        request_start=_or(serving.request_start, 0.0),
        request_steps=_or(serving.request_steps, 0.0),
        sum_start=_or(serving.sum_start, np.inf),
        compiles=serving.compiles,
        read_per_core=_or(serving.read_per_core, np.inf),
        stored_on_vector=_or(serving.stored_on_vector, np.inf),
        matmul_rate=_or(rates.matmul, 1.0),
        routed_rate=_or(rates.routed or rates.matmul, 1.0),
        attention_rate=_or(rates.attention, 1.0),
        vector_rate=_or(rates.vector, 1.0),
        collective_rate=_or(rates.collective, 1.0),
        exchange_rate=_or(rates.exchange, 1.0),
    )


def _or(datum: Datum | None, other: float) -> Array:
    return array(other if datum is None else datum.si)
