"""What is known of measured inference runs, as data: lengths of tasks, habits of load generators, fits, draft heads.

`experiments/validation/inference_known.yaml` holds it, with the named sets of the suite `inference-accuracy`.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cosim import documents, library
from cosim.dtypes import Dtype
from cosim.schema import Frozen, validated
from cosim.validation.cases import Case as Row
from cosim.validation.training_known import Condition, Fit, NamedSet

DATA = Path("experiments") / "validation" / "inference_known.yaml"
INTERACTIVE = "interactive limits"
"""What notes say of a run under the limits of the interactive scenario."""
Positive = Annotated[float, Field(gt=0)]
Figure = Literal["median_abs_error", "mean_abs_error", "p90_abs_error", "macro_median_abs_error", "coverage"]


class Limits(Frozen):
    """Limits of a scenario on the times of a first and of each further token [s]; None: no limit."""

    ttft_limit: Positive | None = None
    tpot_limit: Positive | None = None


class Task(Limits):
    """A workload of MLPerf: mean tokens of a prompt and an answer, and the limits of its server scenario [s].

    `long` is a length at the 90th percentile over the mean: of the answer, of the prompt where nothing follows.
    """

    prompt: Positive
    output: Positive
    interactive: Limits | None = None
    """Limits of its interactive scenario; None: it has none."""
    long: Positive = 1.0
    beams: Annotated[int, Field(ge=1)] = 1
    """Answers that are followed at once, of which one is kept; they share the prompt."""
    counts: Literal["samples", "tokens"] = "samples"
    """Unit of its rates where a file says samples."""
    source: str

    def limits(self, notes: str) -> Limits:
        """Those of the scenario that the notes of a row name."""
        return self.interactive if self.interactive is not None and INTERACTIVE in notes else self

    def at(self, percentile: float) -> tuple[float, float]:
        """Tokens of a prompt and an answer: the means, or from the 90th percentile on long ones."""
        factor = self.long if percentile >= 0.9 else 1.0
        return (self.prompt, self.output * factor) if self.output > 1.0 else (self.prompt * factor, self.output)


class Client(Frozen):
    """A load generator whose runs are told by conditions; all must hold."""

    name: str
    when: tuple[Condition, ...]
    lengths: Positive = 1.0
    """Mean lengths over nominal ones."""
    waves: Positive = math.inf
    """Requests of a run over those in flight."""
    requests: Positive = math.inf
    """Requests of a run at an offered rate."""
    formats: tuple[Dtype, ...] = ()
    """Formats of tuned runs that do not say one: the first that the chip multiplies."""
    alike: bool = False
    """Whether all requests of a run have the same lengths."""
    in_process: bool = False
    """Whether it calls the engine in its own process, so that no request passes the front end of a server."""
    shares_query: bool = False
    """Whether all chips work on one query of several samples."""
    source: str


class Variant(Frozen):
    """Software of a stack that has a file of its own, told by conditions; all must hold."""

    stack: str
    when: tuple[Condition, ...] = Field(min_length=1)
    reason: str


class Doubt(NamedSet):
    """Rows that cannot be what they say, and why: they stay in every figure, and are told apart beside them."""

    reason: str


class RowFile(Frozen):
    """A file of a folder of measured runs."""

    file: str
    disaggregated: bool = False
    """Whether prompts and answers have chips of their own in it."""
    fitted: bool = False
    """Whether constants of stacks were fitted on half of its runs."""


class DraftHeads(Frozen):
    """Workloads that bring heads which draft tokens, and why that is held of them."""

    workloads: tuple[str, ...] = Field(min_length=1)
    reason: str


class RowSet(NamedSet):
    """Rows that are told apart by name, and the figures that are asked of them; None: either."""

    files: tuple[str, ...] = ()
    """Only of these; none: of all."""
    experts: bool | None = None
    """Whether the model is a mixture of experts."""
    drafts: bool | None = False
    """Whether the model has draft heads and the row does not say that they were idle."""
    disaggregated: bool | None = False
    loaded: bool | None = None
    """Whether a request waits behind others for more than `QUEUEING` of its time to the first token."""
    starved: bool | None = None
    """Whether memory holds fewer sequences than the stack may."""
    asked: dict[Figure, Positive] = {}


class Known(Frozen):
    """Tasks by workload, and clients; the first that holds counts. Files, fits and sets of a suite of measured runs."""

    tasks: dict[str, Task]
    clients: tuple[Client, ...]
    variants: tuple[Variant, ...] = ()
    files: tuple[RowFile, ...] = ()
    draft_heads: tuple[DraftHeads, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    fits: tuple[Fit, ...] = ()
    sets: tuple[RowSet, ...] = ()
    chips_left_out: dict[Figure, Positive] = {}
    """Figures that are asked of chips from their specification alone."""

    def client(self, row: Row) -> Client | None:
        """The load generator of a row; None where none is known."""
        for client in self.clients:
            if all(condition.holds(row) for condition in client.when):
                return client
        return None

    def stack(self, row: Row) -> str:
        """The serving stack of a row: that of its column, or a variant of it; blank where it names none."""
        for variant in self.variants:
            if all(condition.holds(row) for condition in variant.when):
                return variant.stack
        return row.values.get("software_stack", "").strip()

    def doubted(self, row: Row) -> bool:
        """Whether the row cannot be what it says."""
        return any(each.holds(row) for each in self.doubts)

    def may_draft(self, row: Row) -> bool:
        """Whether the row's model has draft heads, and it does not say that nothing was drafted."""
        name = row.values.get("workload", "").strip()
        heads = any(name in each.workloads for each in self.draft_heads)
        return heads and row.values.get("spec_decode", "").strip() != "no"


def in_fitted_half(row: Row) -> bool:
    """Whether constants may be fitted on the row: MD5 of its run's name is even, so that a run stays in one half."""
    name = row.values.get("point_id", "").strip() or row.id
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 0


@lru_cache(maxsize=1)
def known() -> Known:
    """What the file says."""
    document = documents.read(library.shipped() / DATA)
    return validated(Known, document.data, document)
