"""The description of one chip: engines, memory, links, power, die, package, price, kernel quality."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cosim.datum import (
    Area,
    Bandwidth,
    Count,
    EnergyPerByte,
    EnergyPerFlop,
    Factor,
    FlopRate,
    Money,
    Power,
    Ratio,
    Time,
)
from cosim.dtypes import Dtype
from cosim.errors import SpecError, nearest
from cosim.hardware.compute import KernelConstants, MatrixEngine, SpecialEngine, VectorEngine
from cosim.hardware.memory import Link, MemoryLevel
from cosim.schema import Frozen, Source

Role = str


class PowerSpec(Frozen):
    """Electrical limits and the energy of each act."""

    limit: Power
    """Sustained limit of the package (TDP)."""
    idle: Power
    floor_voltage: Ratio | None = None
    """Voltage at no clock over that at the full one, on the line that clocks follow; None: it does not fall."""
    energy_per_flop: dict[Dtype, EnergyPerFlop]
    energy_per_byte: dict[str, EnergyPerByte]
    """By memory role, and `link` for bytes sent off the chip."""
    real_data: Factor | None = None
    """Energy of the cores on numbers of real models, hour after hour, over that on operands of a benchmark, which the
    energies above and the limit are set on; None: as much."""


class Die(Frozen):
    """Silicon of the package."""

    node: str
    area: Area | None = None
    """Published, of all compute dies together; None is unknown. A check on the area that follows from structure."""
    dies: Count | None = None
    cores: Count | None = None
    """On silicon, spares included; None: as many as work."""
    stacks: Count | None = None
    """Sites of memory stacks on silicon; None: as many as work."""
    transistors: Count | None = None
    package: str | None = None


class Quality(Frozen):
    """Kernel quality: measured rate over peak at the modelled clock, per class, with its range.

    A chip without measurements carries the range seen over vendors and becomes an interval.
    """

    matmul: Ratio
    """Of every format that `matmul_formats` does not name."""
    attention: Ratio
    memory: Ratio
    """Achievable share of DRAM bandwidth in streaming kernels."""
    collective: Ratio
    matmul_formats: dict[Dtype, Ratio] = {}
    """Formats whose kernels are measured to be better or worse than `matmul`."""


class LaunchSpec(Frozen):
    """Time between kernels and per step that no engine is busy."""

    gap: Time
    """From one kernel of a chain to the next (graph replay)."""
    latency: Time
    """What a kernel timed alone takes beyond the gap: fill and drain."""
    host_step: Time
    """Host work per serving step that is not hidden: scheduling, sampling, transfer of tokens."""


class Published(Frozen):
    """Published totals: checks on the primaries, never inputs. `deviations` declare those that fail."""

    peak: dict[Dtype, FlopRate] = {}
    bandwidth: dict[Role, Bandwidth] = {}
    links: dict[str, Bandwidth] = {}
    deviations: dict[str, str] = {}
    """Check name -> reason why the total and the primaries disagree by more than 2 %."""


class Chip(Frozen):
    """One accelerator package. Numbers are data with source; `calibration` holds fitted constants apart."""

    name: str
    title: str
    maker: str
    status: Literal["shipping", "announced", "template"]
    confidence: Literal["measured", "published", "estimated"]
    """What the times of this chip's kernels rest on. Energies are estimates on every chip."""
    sources: dict[str, Source] = {}
    cores: Count | None = None
    """SM, CU or tensor cores; None where the structure is unknown."""
    matrix: MatrixEngine
    vector: VectorEngine
    special: SpecialEngine
    memory: dict[Role, MemoryLevel]
    links: dict[str, Link]
    power: PowerSpec
    die: Die
    price: Money | None = None
    """Of one package; None is unknown."""
    collective_cores: Ratio | None = None
    """Share of the cores that a collective takes while it runs behind other work; None: it has engines of its own."""
    launch: LaunchSpec
    quality: Quality
    kernels: str | None = None
    """Library of kernels whose constants fill what `calibration` does not give."""
    calibration: KernelConstants | None = None
    published: Published = Published()

    @model_validator(mode="after")
    def _whole(self) -> Chip:
        if "dram" not in self.memory:
            raise SpecError("memory has no 'dram' level", hint="name the level that holds weights 'dram'")
        if "scale_up" not in self.links:
            raise SpecError("links have no 'scale_up'", hint="name the links inside a node 'scale_up'")
        if self.cores is None and self.matrix.kind != "roofline":
            raise SpecError("cores are missing", hint="give 'cores', or 'matrix: {kind: roofline, peak: ...}'")
        for role in self.memory:
            if role not in self.power.energy_per_byte and role != "host":
                hint = nearest(role, self.power.energy_per_byte)
                raise SpecError(f"power.energy_per_byte has no entry for memory level '{role}'", hint=hint)
        for dtype in ("fp32", *getattr(self.matrix, "rate", self.matrix.peak)):
            if dtype not in self.power.energy_per_flop:
                raise SpecError(f"power.energy_per_flop has no entry for {dtype}", hint="every format needs its energy")
        if "link" not in self.power.energy_per_byte:
            raise SpecError("power.energy_per_byte has no entry for 'link'", hint="bytes sent off the chip cost energy")
        if self.power.limit.si <= self.power.idle.si:
            raise SpecError(
                "is not above power.idle",
                field="power.limit",
                value=self.power.limit.text,
                hint="the limit covers idle",
            )
        return self

    @property
    def is_fitted(self) -> bool:
        """Whether the constants of its kernels were fitted on measurements of this very chip."""
        return self.calibration is not None and self.name in self.calibration.fitted_on
