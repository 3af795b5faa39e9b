"""What is known of measured inference runs, as data: lengths of the tasks of MLPerf, habits of load generators.

`experiments/validation/inference_known.yaml` holds it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cosim import documents, library
from cosim.dtypes import Dtype
from cosim.schema import Frozen, validated
from cosim.validation.cases import Case as Row
from cosim.validation.training_known import Condition

DATA = Path("experiments") / "validation" / "inference_known.yaml"
Positive = Annotated[float, Field(gt=0)]


class Task(Frozen):
    """A workload of MLPerf: mean tokens of a prompt and an answer, and the limits of its server scenario [s]."""

    prompt: Positive
    output: Positive
    ttft_limit: Positive | None = None
    tpot_limit: Positive | None = None
    source: str


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
    source: str


class Known(Frozen):
    """Tasks by workload, and clients; the first that holds counts."""

    tasks: dict[str, Task]
    clients: tuple[Client, ...]

    def client(self, row: Row) -> Client | None:
        """The load generator of a row; None where none is known."""
        for client in self.clients:
            if all(condition.holds(row) for condition in client.when):
                return client
        return None


@lru_cache(maxsize=1)
def known() -> Known:
    """What the file says."""
    document = documents.read(library.shipped() / DATA)
    return validated(Known, document.data, document)
