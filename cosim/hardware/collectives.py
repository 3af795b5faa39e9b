"""What a library of collectives needs to start and to step, per way of joining chips: data, not code.

A message of B bytes takes, with the protocol that is fastest for it,

    start + steps x hop + bytes on the wire / (bandwidth x share) + own part / local copy

Libraries of constants lie in `accelerators/collectives/`; a tier names one and may replace single numbers.
"""

from __future__ import annotations

from typing import Literal

from cosim.datum import Bandwidth, Factor, Ratio, Time
from cosim.schema import Frozen, Source

Algorithm = Literal["ring", "tree", "halving_doubling", "direct", "hierarchical", "in_network"]


class Protocol(Frozen):
    """A way to send. Low-latency ones start soon and reach little of the wire, bulk ones the reverse."""

    start: Time
    """Of one collective, whatever its steps."""
    hop: Time
    """Of one step from rank to rank."""
    share: Ratio
    """Of the bandwidth that collectives reach on the tier."""
    copies: bool = True
    """Whether a rank copies its own part beside what it sends."""


class CollectiveConstants(Frozen):
    """Constants of the collectives of one library on one kind of tier."""

    protocols: dict[str, Protocol]
    """A message takes the fastest."""
    algorithms: tuple[Algorithm, ...] = ("ring",)
    """What the library has; a torus runs its ring along all dimensions at once."""
    reach: Ratio | None = None
    """Share of the wire that collectives reach on its kind of link; None: the chip's `quality.collective`."""
    copy_share: Factor | None = None
    """Pace of the local copy of a rank's own part, over the link's bandwidth; None: it costs nothing."""
    send_share: Factor | None = None
    """Part of a hop that every further peer of an all-to-all adds; None: sends to all peers start together."""
    in_network_start: Time | None = None
    """Time of an in-switch reduction of no bytes; with `in_network` in `algorithms`."""
    in_network_share: Ratio | None = None
    """Share of link bandwidth that in-switch reduction reaches."""
    engine_rate: Bandwidth | None = None
    """What the channels or copy engines of a chip feed at most, whatever its links; None: the links limit."""
    memory_traffic: Factor | None = None
    """Bytes that pass a chip's memory for each byte that it sends; None: unknown, nothing is taken."""
    fitted_on: tuple[str, ...] = ()
    """Systems whose measurements the constants were fitted on."""
    data: str | None = None
    """What they were fitted on, in words."""
    held_out: str | None = None
    """Errors on what was not fitted, in words."""


class CollectiveLibrary(CollectiveConstants):
    """A file of constants that tiers of one kind share."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    lent: Factor | None = None
    """Range of a constant on a system that it was not fitted on: the value over and times this."""
