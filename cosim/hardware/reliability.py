"""Reliability as data: how often each component fails, how long it takes to see it, to go on and to repair.

One file of the library (`accelerators/technology/reliability.yaml`); a user's own of the same name is found first.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from cosim.datum import Bandwidth, Datum, Quantity, Time
from cosim.errors import SpecError
from cosim.hardware.load import described
from cosim.schema import Frozen, Source, validated

NAME = "reliability"
"""The file of the library."""
Lasting = Annotated[Datum, Quantity("s")]
Share = Annotated[Datum, Quantity("", open_low=False, high=1.0)]


class Component(Frozen):
    """What fails: independently, at a constant rate."""

    per: Literal["chip", "node", "job"]
    """What there is one of: `mtbf` is that of one."""
    mtbf: Lasting
    """Mean time between failures of one."""
    repair: Time | None = None
    """Until the node that held it can be used again; None: the node is fit at once."""
    detection: Time | None = None
    """Until the job is known to have stopped; None: as for all."""
    planned: bool = False
    """Told in advance: the job saves its state and stops, nothing is detected and nothing lost."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        for name in ("repair", "detection"):
            if self.planned and getattr(self, name) is not None:
                raise SpecError(
                    "does not belong to what is planned", field=name, hint="a planned stop leaves nodes whole"
                )
        return self


class Reliability(Frozen):
    """Everything that the goodput of a run rests on beside its step time."""

    name: str
    title: str
    sources: dict[str, Source] = {}
    components: dict[str, Component]
    detection: Time
    """From a failure until the job is stopped."""
    job_start: Time
    """From a stopped job to its first step, without loading the state."""
    write_bandwidth: Bandwidth
    """Of storage, per node of the job."""
    read_bandwidth: Bandwidth
    """Of storage, per node of the job."""
    snapshot_bandwidth: Bandwidth
    """Of one chip into its host's memory: what an asynchronous checkpoint stops the job for."""
    spare_share: Share
    """Spare nodes over nodes of the job, where no number is asked for."""


def load_reliability(name: str = NAME) -> Reliability:
    """The reliability called `name`, or in the file `name`. Raises SpecError."""
    data, chain = described(name, "technology")
    return validated(Reliability, data, chain[0], chain[1:])
