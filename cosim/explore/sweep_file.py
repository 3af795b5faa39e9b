"""The file of a sweep: systems and cases, axes, constraints, what is maximised, whether plans are searched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cosim.dtypes import Dtype
from cosim.errors import SpecError, nearest
from cosim.explore.axes import Axis, Names
from cosim.explore.constraints import parse_constraints
from cosim.explore.metrics import MAXIMISED
from cosim.schema import Frozen

SEARCHED = (
    "plan.tensor_parallel",
    "plan.pipeline_parallel",
    "plan.data_parallel",
    "plan.expert_parallel",
    "plan.micro_batches",
    "scenario.batch",
)
Positive = Annotated[int, Field(ge=1, le=10_000_000)]


class SweepCase(Frozen):
    """A workload and phase that every design is asked. `plan` and `scenario` are paths below their roots."""

    workload: str
    phase: Literal["prefill", "decode", "train"]
    plan: dict[str, Any] = {}
    """Degrees and formats; with `search` only formats and algorithms."""
    scenario: dict[str, Any] = {}


class Search(Frozen):
    """The best plan and batch of every design, within the constraints and the case's limits on time."""

    max_batch: Positive = 1024
    """Largest batch per replica that is tried."""


class Sweep(Frozen):
    """Designs that axes span, each asked every case."""

    kind: Literal["sweep"]
    question: str
    system: Names
    """One system or several; each is swept alike."""
    cases: Annotated[tuple[SweepCase, ...], Field(min_length=1, max_length=64)]
    axes: Annotated[tuple[Axis, ...], Field(max_length=16)]
    power: Literal["derived", "given"] = "given"
    """`derived`: limit and idle of each design are the TDP and the static power of its own silicon."""
    constraints: tuple[str, ...] = ()
    """On outputs: "area_mm2 <= 858", "time_s <= 50 ms". The limits of silicon hold for designs anyway."""
    silicon: bool = True
    """Whether reticle and edge for memory and links bind; false for chips that exist."""
    maximise: str = "tokens_per_s_per_chip"
    """Output column that the best design, plan and batch have most of."""
    search: Search | None = None
    """None: one plan each, as the cases give it."""
    heat_map: Annotated[tuple[str, ...], Field(max_length=2)] = ()
    """Two paths of axes for the map; empty: the first two axes."""
    precision: Dtype | None = None
    """Format of every case that names none; None: each chip's best."""

    @model_validator(mode="after")
    def _holds(self) -> Sweep:
        parse_constraints(self.constraints)
        if self.maximise not in MAXIMISED:
            hint = nearest(self.maximise, MAXIMISED)
            raise SpecError("names no number of which more is better", field="maximise", value=self.maximise, hint=hint)
        paths = [path for axis in self.axes for path in axis.path]
        twice = [path for index, path in enumerate(paths) if path in paths[:index]]
        if twice:
            raise SpecError("is on two axes", field="axes", value=twice[0], hint="a path has one axis")
        self._only_searched()
        if len(self.heat_map) == 1:
            raise SpecError("needs two paths", field="heat_map", hint="one for each side of the map")
        for path in self.heat_map:
            if path not in paths:
                raise SpecError("is on no axis", field="heat_map", value=path, hint=nearest(path, paths))
        return self

    def _only_searched(self) -> None:
        """A search finds degrees and batch of serving steps: nothing that is given would then be used."""
        if self.search is None:
            return
        for index, case in enumerate(self.cases):
            if case.phase == "train":
                raise SpecError(
                    "is not searched in a sweep", field=f"cases.{index}.phase", hint="give plans, no search"
                )
            given = [f"plan.{name}" for name in case.plan] + [f"scenario.{name}" for name in case.scenario]
            for path in given:
                if path in SEARCHED:
                    raise SpecError("is what the search finds", field=f"cases.{index}.{path}", hint="leave it out")
        for index, axis in enumerate(self.axes):
            for path in axis.path:
                if path in SEARCHED:
                    raise SpecError(
                        "is what the search finds", field=f"axes.{index}.path", value=path, hint="leave it out"
                    )
