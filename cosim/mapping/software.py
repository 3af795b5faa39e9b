"""Training software as data: how it fuses attention, what it keeps and overlaps, what its host costs.

One file per family and release in `accelerators/software`. Fitted numbers belong to a family, never to a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cosim.datum import Capacity, Count, Time
from cosim.hardware.load import described
from cosim.records import Array, array
from cosim.schema import Frozen, Source, validated


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
    fused_accumulation: bool
    """Whether the product of a weight gradient adds to what is kept; if not, a kernel of its own does."""
    tensor_overlap: bool
    """Whether sums of input gradients run behind the products of weight gradients."""
    gradient_overlap: bool
    """Whether the data-parallel reduction runs behind the backward pass of the last micro-batch."""
    host_kernel: Time
    """Host time to issue one kernel or collective; a layer pass takes the longer of device and host."""
    host_step: Time
    """Host time of an optimizer step that no kernel hides: scaling, norms, logging."""
    vocabulary: Count | None = None
    """Padded vocabulary where a case does not state one: the family's usual."""


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
    )
