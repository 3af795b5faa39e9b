"""Memory levels by role, outermost first: dram, cache, scratch, host, or any further name.

Bandwidth derives from primaries where they are known:
    stacked DRAM   stacks x pins x pin_rate / 8     (and capacity = stacks x stack_capacity)
    per-core SRAM  cores x bytes_per_cycle x clock
and is a datum of its own where they are not.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cosim.datum import Bandwidth, BytePerCycle, Capacity, Count, Frequency, Time
from cosim.errors import SpecError
from cosim.schema import Frozen


class MemoryLevel(Frozen):
    """One level of the hierarchy. `capacity` is what software can use, per chip or per core."""

    technology: str
    capacity: Capacity | None = None
    """In a file only where `stack_capacity` is unknown."""
    stack_capacity: Capacity | None = None
    """Usable capacity of one stack; the level holds `stacks` times this."""
    capacity_physical: Capacity | None = None
    capacity_shown: Capacity | None = None
    """What the driver shows of it: makers count stacks in binary and sell them in decimal units. None: the capacity.
    Serving stacks take a share of this."""
    reserved: Capacity | None = None
    """Taken by the runtime before a model is loaded (driver, context, fragmentation)."""
    shared_by: Literal["chip", "core"] = "chip"
    partitions: Count | None = None
    """Parts that each keep a copy of what their own cores read, so that it holds that much less; None: one."""
    latency: Time | None = None
    stacks: Count | None = None
    pins: Count | None = None
    """Data pins of one stack."""
    pin_rate: Bandwidth | None = None
    """Rate of one pin; written in Gb/s."""
    bytes_per_cycle: BytePerCycle | None = None
    """Per core; with `clock`."""
    clock: Frequency | None = None
    bandwidth: Bandwidth | None = None
    """Of the whole chip. In a file only where the primaries are unknown."""

    @model_validator(mode="after")
    def _has_a_capacity(self) -> MemoryLevel:
        if self.capacity is None and None in (self.stacks, self.stack_capacity):
            raise SpecError("is missing", field="capacity", hint="give capacity, or stacks and stack_capacity")
        return self

    @property
    def has_primaries(self) -> bool:
        """Whether the bandwidth follows from structure."""
        stacked = None not in (self.stacks, self.pins, self.pin_rate)
        return stacked or None not in (self.bytes_per_cycle, self.clock)


class Link(Frozen):
    """One kind of port of a chip, per direction."""

    technology: str
    count: Count | None = None
    rate: Bandwidth | None = None
    """Of one link in one direction."""
    bandwidth: Bandwidth | None = None
    """Of all links in one direction; in a file only where count and rate are unknown."""

    @property
    def has_primaries(self) -> bool:
        """Whether the total follows from count and rate."""
        return self.count is not None and self.rate is not None
