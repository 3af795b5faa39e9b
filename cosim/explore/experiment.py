"""The study file: what is compared, at which lengths, limits, precisions and kernel quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosim import documents, library
from cosim.datum import Seconds
from cosim.documents import Document
from cosim.dtypes import TRAINING_PRECISIONS, Dtype
from cosim.errors import SpecError, nearest
from cosim.explore.axes import Names
from cosim.explore.search_file import StrategySearch
from cosim.explore.serving.serve_file import Serve
from cosim.explore.sweep_file import Sweep
from cosim.schema import Frozen, validated

KINDS = ("compare", "train", "sweep", "search", "serve")
Positive = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]


class Lengths(Frozen):
    """Tokens of a request."""

    input: Positive
    output: Positive


class DecodeStudy(Frozen):
    """Tiers of time per output token; the best plan and batch is found for each."""

    tpot_limits: tuple[Seconds, ...]


class PrefillStudy(Frozen):
    """Most time of a prefill step."""

    ttft_limit: Seconds


class EqualQuality(Frozen):
    """The software that every chip gets in the column of equal kernels."""

    matmul: Share
    attention: Share
    memory: Share
    collective: Share
    launch_gap: Seconds
    collective_start: Seconds
    """Base latency of a collective inside a node."""
    source: str


class TrainingRun(Frozen):
    """One model and the batch it is trained with; `length` tokens a sequence."""

    workload: str
    global_batch: Positive
    length: Positive


class TrainingStudy(Frozen):
    """Systems that train, each with the same number of chips and within the same power."""

    systems: Annotated[tuple[str, ...], Field(min_length=1)]
    chips: Positive
    """Chips of every system; what the first one draws at the facility is the power of all."""
    runs: Annotated[tuple[TrainingRun, ...], Field(min_length=1)]
    precision: Dtype = "bf16"
    software: str = "megatron"
    """Training software of the library: the same for all."""

    @model_validator(mode="after")
    def _no_repeats(self) -> TrainingStudy:
        for field in ("systems", "runs"):
            values = getattr(self, field)
            twice = [value for index, value in enumerate(values) if value in values[:index]]
            if twice:
                raise SpecError("is listed twice", field=field, value=str(twice[0]), hint="name each once")
        if self.precision not in TRAINING_PRECISIONS:
            hint = f"formats to train in: {', '.join(TRAINING_PRECISIONS)}"
            raise SpecError("is no format to train in", field="precision", value=self.precision, hint=hint)
        return self


class Compare(Frozen):
    """Systems that serve workloads, prefill and decode apart, and train others."""

    kind: Literal["compare"]
    question: str
    systems: Annotated[tuple[str, ...], Field(min_length=1)]
    workload: Names
    """One name or several."""
    max_chips: Positive | None = None
    """1, 2, 4, ... nodes up to so many chips, the best per chip; one node where it holds more. None: as many nodes
    as each system has."""
    scenario: Lengths
    decode: DecodeStudy | None = None
    """None compares prefill alone; networks of layers have no other phase."""
    prefill: PrefillStudy
    precisions: Annotated[tuple[Dtype | Literal["native"], ...], Field(min_length=1)]
    """Formats that all serve in; `native` is each chip's best one."""
    equal_quality: EqualQuality
    max_batch: Positive = 2048
    """Largest batch per replica that is tried."""
    training: TrainingStudy | None = None

    @model_validator(mode="after")
    def _no_duplicates(self) -> Compare:
        for field in ("systems", "workload", "precisions"):
            values = getattr(self, field)
            twice = [value for index, value in enumerate(values) if value in values[:index]]
            if twice:
                raise SpecError("is listed twice", field=field, value=twice[0], hint="name each once")
        return self


class Train(TrainingStudy):
    """Systems that train, and nothing else."""

    kind: Literal["train"]
    question: str
    equal_quality: EqualQuality


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment as read: its name, content and file."""

    name: str
    experiment: Compare | Train | Sweep | StrategySearch | Serve
    document: Document

    @property
    def serving(self) -> Compare | None:
        """The part that serves; None for a study of training alone."""
        return self.experiment if isinstance(self.experiment, Compare) else None

    @property
    def compared(self) -> Compare | Train:
        """The experiment where it compares systems. Raises SpecError for another kind."""
        if isinstance(self.experiment, Sweep | StrategySearch | Serve):
            raise SpecError("compares no systems", file=self.document.path, field="kind", value=self.experiment.kind)
        return self.experiment

    @property
    def training(self) -> TrainingStudy | None:
        """The part that trains, if there is one."""
        if isinstance(self.experiment, Sweep | StrategySearch | Serve):
            return None
        return self.experiment if isinstance(self.experiment, Train) else self.experiment.training


def load_study(name: str) -> Study:
    """The experiment called `name`, or in the file `name`. Raises SpecError."""
    path: Path = library.find("experiments", name)
    document = documents.read(path)
    kind = document.data.get("kind")
    if kind not in KINDS:
        raise SpecError(
            "unknown kind of experiment" if kind is not None else "is missing",
            file=document.path,
            line=document.line("kind"),
            field="kind",
            value=kind,
            hint=nearest(str(kind), KINDS),
        )
    data = document.data
    if kind == "sweep":
        return Study(path.stem, validated(Sweep, data, document), document)
    if kind == "search":
        return Study(path.stem, validated(StrategySearch, data, document), document)
    if kind == "serve":
        return Study(path.stem, validated(Serve, data, document), document)
    if kind == "train":
        return Study(path.stem, validated(Train, data, document), document)
    return Study(path.stem, validated(Compare, data, document), document)
