"""Compute engines of a chip: matrix (three kinds), vector, special functions; each its own clock.

Rates count FLOP with 1 FMA = 2 FLOP, dense. Peaks follow from the primaries:
    tile machine     peak = cores x rate x clock                             rate per core
    systolic array   peak = cores x arrays x rows x columns x rate x clock   rate per processing element
    roofline         peak is the datum: structure unknown
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cosim.datum import Capacity, Count, Factor, FlopPerCycle, FlopRate, Frequency, OpPerCycle, OpRate
from cosim.dtypes import Dtype
from cosim.schema import Frozen, Source

Dataflow = Literal["ws", "os", "is"]


class TileMachine(Frozen):
    """Matrix engine of a GPU: cores that each work on an output tile."""

    kind: Literal["tile"]
    clock: Frequency
    """Clock of the matrix units at their published peak."""
    rate: dict[Dtype, FlopPerCycle]
    """FLOP per cycle and core for each format."""
    multicast: Count | None = None
    """Neighbouring cores that one read of the last cache can serve; None: every core reads for itself."""
    peak: dict[Dtype, FlopRate] = {}
    """Replaces the derived peak of a format when overridden; left out in files."""


class SystolicArray(Frozen):
    """Matrix engine of a TPU-like chip: arrays of processing elements."""

    kind: Literal["systolic"]
    arrays: Count
    """Arrays per core."""
    rows: Count
    columns: Count
    clock: Frequency
    rate: dict[Dtype, FlopPerCycle]
    """FLOP per cycle and processing element for each format."""
    dataflows: tuple[Dataflow, ...] = ("ws",)
    """Weight, output or input stationary: what the chip can do; the fastest is taken per product."""
    shadow_weights: bool = True
    """The next fold's stationary operand loads, and outputs drain, while this one computes."""
    prefetch: bool = True
    """DRAM traffic of a product runs while the arrays work; off: it comes before and after."""
    peak: dict[Dtype, FlopRate] = {}


class RooflineEngine(Frozen):
    """Matrix engine known by its peaks alone: no structure can be swept."""

    kind: Literal["roofline"]
    peak: dict[Dtype, FlopRate]


MatrixEngine = Annotated[TileMachine | SystolicArray | RooflineEngine, Field(discriminator="kind")]


class VectorEngine(Frozen):
    """Vector units: FLOP per cycle and core with a clock, or a peak alone."""

    clock: Frequency | None = None
    rate: FlopPerCycle | None = None
    """fp32 FLOP per cycle and core."""
    registers: Capacity | None = None
    """Register file of a core; it takes area, no kernel is bound by it here."""
    peak: FlopRate | None = None


class SpecialEngine(Frozen):
    """Special-function units (exponential and the like): per cycle and core, or a peak alone."""

    clock: Frequency | None = None
    rate: OpPerCycle | None = None
    peak: OpRate | None = None


class KernelConstants(Frozen):
    """Constants of the kernels of a tile machine: those of a library of kernels, the chip's own where it has some."""

    library: str | None = None
    """The library of kernels that the chip names, `accelerators/kernels/NAME.yaml`."""
    fitted_on: tuple[str, ...] = ()
    """Chips whose measurements they were fitted on; on any other chip they are estimates."""
    data: str
    """Data set that they were fitted on, with the split held out."""
    held_out: str | None = None
    """Error on the rows that were not fitted."""
    lent: Factor | None = None
    """Factor, up and down, of the range that constants have on a chip that they were not fitted on."""
    constants: dict[str, Factor] = {}
    """Values by name; `cosim.hardware.lower.KERNEL_CONSTANTS` lists what each means."""


class KernelLibrary(KernelConstants):
    """A file of kernel constants that chips of one class share."""

    name: str
    title: str
    sources: dict[str, Source] = {}
