"""Training software as data: how it fuses attention, what it keeps and overlaps, what its host costs.

One file per family and release in `accelerators/software`. Fitted numbers belong to a family, never to a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field, model_validator

from cosim.datum import Bandwidth, Capacity, Count, Datum, Factor, FlopPerCycle, Kind, Quantity, Time
from cosim.errors import SpecError
from cosim.hardware.load import described
from cosim.mapping.plan import Degree, Recompute, StateDtype
from cosim.records import Array, array
from cosim.schema import Frozen, Source, validated

if TYPE_CHECKING:
    from cosim.mapping.optimizers import UpdateArrays

Bytes = Annotated[Datum, Quantity("B", open_low=False)]
Multiple = Annotated[Datum, Quantity("", open_low=False)]
T = TypeVar("T")


class Choice(Frozen, Generic[T]):
    """A choice that software makes where a run does not, with where that is known from."""

    value: T
    kind: Kind
    source: str
    note: str | None = None


class Defaults(Frozen):
    """What a run of a stack does that does not say otherwise; None: not known, or its own to say.

    Only measured runs are completed so, see `cosim.validation.training_rows`: a plan has defaults of its own.
    """

    recompute: Choice[Recompute] | None = None
    recompute_words: dict[str, Choice[Recompute]] = {}
    """The stack's own words for what it computes again, each with the nearest level that is modelled."""
    recompute_modules: dict[str, Choice[str]] = {}
    """The stack's own words for parts of layers, each with the modules of a plan that it means."""
    sequence_parallel: Choice[bool] | None = None
    """Where there are tensor ranks."""
    zero: Choice[Annotated[int, Field(ge=0, le=3)]] | None = None
    micro_batch: Choice[Literal["whole"] | Degree] | None = None
    """`whole`: all sequences of a replica at once."""
    layout: Choice[Literal["data", "fastest"]] | None = None
    """Degrees of a run that names none: replicas on all chips, or the fastest plan that fits (tuned runs)."""
    ranks_per_chip: Count | None = None
    """Ranks of a tensor or data group that one chip holds where the stack's degrees count smaller units."""


class Rates(Frozen):
    """What the stack's kernels and traffic reach, over what the chip's own libraries do; None is as much."""

    matmul: Factor | None = None
    vector: Factor | None = None
    """Elementwise work, norms, softmax: below 1 where a stack runs more and smaller kernels than the graph holds."""
    collective: Factor | None = None
    """Between ranks of every kind but those below; less than 1 where ranks wait for each other."""
    exchange: Factor | None = None
    """Tokens to their experts and back: with what a stack does to sort and count them."""


class Software(Frozen):
    """A training stack. Sizes are per parameter."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    attention: Literal["fused", "unfused"]
    """One kernel, or scores, softmax, dropout and context each their own."""
    gradient_bytes: Capacity
    """Gradient kept between micro-batches."""
    reduced_bytes: Capacity
    """Gradient as it crosses the network."""
    optimizer_bytes: Capacity
    """Master weight and moments."""
    master_bytes: Bytes | None = None
    """Of these the master weight, 0 where the weight is its own; None: not known."""
    optimizer: str = "adamw"
    """What these bytes are those of: an optimizer of the library."""
    optimizer_dtype: StateDtype = "fp32"
    """Format of the moments."""
    fused_accumulation: bool
    """Whether the product of a weight gradient adds to what is kept; if not, a kernel of its own does."""
    tensor_overlap: bool
    """Whether sums of input gradients run behind the products of weight gradients."""
    tensor_pieces: bool = False
    """Whether gathers and scatters of sequence parallelism run beside the product that they feed, or that feeds them,
    both cut into as many pieces as there are tensor ranks."""
    gradient_overlap: bool
    """Whether the data-parallel reduction runs behind the backward pass of the last micro-batch."""
    host_kernel: Time
    """Host time to issue one kernel; a layer pass takes the longer of device and host."""
    host_blend: Factor | None = None
    """Exponent of the sum in which device and host make a layer pass, see `cosim.engines.layer.later`. None: the longer
    of both alone counts."""
    host_collective: Time | None = None
    """Host time to issue one collective: streams wait for each other. None is that of a kernel."""
    host_step: Time
    """Host time of an optimizer step that no kernel hides: scaling, norms, logging."""
    host_exchange: Time | None = None
    """Host time that an exchange of tokens with their experts adds: counts are read back before the next kernel can be
    issued. None is nothing."""
    shard_copy: Bandwidth | None = None
    """Rate at which weights that ZeRO 3 gathers, and gradients that ZeRO 2 and 3 scatter, pass through flat buffers.

    Added to their time on links. None: they are sent from where they lie.
    """
    rates: Rates = Rates()
    attention_per_core: FlopPerCycle | None = None
    """Most that a fused attention kernel does in a core's cycle: kernels of an older generation of instructions run no
    faster on cores that have newer ones. None: as fast as the chip's own."""
    mixed: bool = True
    """Mixed precision: activations, norms, embedding and head at 16 bits beside linear layers in the plan's format. If
    not, the whole model runs in the plan's format."""
    bucket: Capacity | None = None
    """Gradients that are reduced at once, as they cross the network; None: those of a layer."""
    library_buffers: Bytes | None = None
    """Buffers of the library of collectives on a chip; None is nothing."""
    message_buffers: Multiple | None = None
    """Buffers for messages of tensor and expert ranks, in the largest of them; None is nothing."""
    workspace: Bytes | None = None
    """Of kernels; None is nothing."""
    fragmentation: Multiple | None = None
    """What the allocator cannot use, over the saved tensors; None is nothing."""
    vocabulary: Count | None = None
    """Padded vocabulary where a case does not state one: the family's usual."""
    defaults: Defaults = Defaults()

    @model_validator(mode="after")
    def _fused_is_narrow(self) -> Software:
        if not self.mixed and self.attention == "fused":
            hint = "fused attention is modelled at 16 bits: mixed: true, or attention: unfused"
            raise SpecError("needs unfused attention", field="mixed", value=False, hint=hint)
        return self


@dataclass(frozen=True, slots=True)
class SoftwareArrays:
    """Training software as the engines see it; sizes in bytes per parameter, times in seconds."""

    name: str
    fused: bool
    gradient_bytes: Array
    reduced_bytes: Array
    optimizer_bytes: Array
    fused_accumulation: bool
    tensor_overlap: bool
    gradient_overlap: bool
    host_kernel: Array
    host_step: Array
    mixed: bool = True
    tensor_pieces: bool = False
    host_blend: Array = field(default_factory=lambda: array(np.inf))
    host_collective: Array = field(default_factory=lambda: array(0.0))
    host_exchange: Array = field(default_factory=lambda: array(0.0))
    matmul_rate: Array = field(default_factory=lambda: array(1.0))
    vector_rate: Array = field(default_factory=lambda: array(1.0))
    collective_rate: Array = field(default_factory=lambda: array(1.0))
    shard_copy: Array = field(default_factory=lambda: array(np.inf))
    exchange_rate: Array = field(default_factory=lambda: array(1.0))
    attention_per_core: Array = field(default_factory=lambda: array(np.inf))
    """FLOP per core and cycle; inf where the stack has the chip's own kernels."""
    update: UpdateArrays | None = None
    """The optimizer that a plan asks for; None: `optimizer_bytes` of state, one pass."""
    bucket: Array = field(default_factory=lambda: array(0.0))
    """Bytes reduced at once; 0 where that is a layer's."""
    library_buffers: Array = field(default_factory=lambda: array(0.0))
    message_buffers: Array = field(default_factory=lambda: array(0.0))
    workspace: Array = field(default_factory=lambda: array(0.0))
    fragmentation: Array = field(default_factory=lambda: array(0.0))


def load_software(name: str) -> Software:
    """The software called `name`, or in the file `name`. Raises SpecError."""
    data, chain = described(name, "software")
    return validated(Software, data, chain[0], chain[1:])


def lower_software(software: Software) -> SoftwareArrays:
    """Arrays of a training stack."""
    return SoftwareArrays(
        name=software.name,
        fused=software.attention == "fused",
        gradient_bytes=array(software.gradient_bytes.si),
        reduced_bytes=array(software.reduced_bytes.si),
        optimizer_bytes=array(software.optimizer_bytes.si),
        fused_accumulation=software.fused_accumulation,
        tensor_overlap=software.tensor_overlap,
        gradient_overlap=software.gradient_overlap,
        host_kernel=array(software.host_kernel.si),
        host_step=array(software.host_step.si),
        mixed=software.mixed,
        tensor_pieces=software.tensor_pieces,
        shard_copy=array(np.inf if software.shard_copy is None else software.shard_copy.si),
        host_blend=array(np.inf if software.host_blend is None else software.host_blend.si),
        host_collective=array((software.host_collective or software.host_kernel).si),
        host_exchange=_or_nothing(software.host_exchange),
        matmul_rate=_rate(software.rates.matmul),
        vector_rate=_rate(software.rates.vector),
        collective_rate=_rate(software.rates.collective),
        exchange_rate=_rate(software.rates.exchange),
        attention_per_core=array(np.inf if software.attention_per_core is None else software.attention_per_core.si),
        bucket=_or_nothing(software.bucket),
        library_buffers=_or_nothing(software.library_buffers),
        message_buffers=_or_nothing(software.message_buffers),
        workspace=_or_nothing(software.workspace),
        fragmentation=_or_nothing(software.fragmentation),
    )


def _rate(factor: Datum | None) -> Array:
    return array(1.0 if factor is None else factor.si)


def _or_nothing(datum: Datum | None) -> Array:
    return array(0.0 if datum is None else datum.si)
