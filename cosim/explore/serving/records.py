"""Records of served requests as columns, and what a user feels of each: latencies by their definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cosim.errors import SpecError
from cosim.records import Array, array

LATENCIES = ("ttft_s", "tpot_s", "tpot_with_first_s", "e2e_s", "queueing_s", "normalized_s")


@dataclass(frozen=True, slots=True)
class Served:
    """N requests that were answered, columns of shape (N,). Times count from the start of the run."""

    request: Array
    arrival_s: Array
    prompt_tokens: Array
    output_tokens: Array
    cached_tokens: Array
    """Tokens of the prompt that were in a cache."""
    client: Array
    priority: Array
    replica: Array
    scheduled_s: Array
    """When the request first was part of a step."""
    first_token_s: Array
    finished_s: Array
    preemptions: Array

    def __len__(self) -> int:
        return len(self.arrival_s)


COLUMNS = tuple(field.name for field in fields(Served))
_ORDER = ("arrival_s", "scheduled_s", "first_token_s", "finished_s")


def served_of(columns: Mapping[str, object]) -> Served:
    """The record of columns by name. Raises SpecError for one that is missing, or times out of order."""
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise SpecError("is missing from the records", field=missing[0])
    served = Served(**{name: np.atleast_1d(array(columns[name])) for name in COLUMNS})
    for before, after in pairwise(_ORDER):
        # Written so that NaN fails.
        wrong = ~(getattr(served, after) >= getattr(served, before))
        if np.any(wrong):
            row = int(np.argmax(wrong))
            value = float(getattr(served, after)[row])
            raise SpecError(f"is before {before}, in row {row}", field=after, value=value)
    if np.any(served.output_tokens < 1):
        row = int(np.argmax(served.output_tokens < 1))
        raise SpecError(f"is less than 1, in row {row}", field="output_tokens", value=float(served.output_tokens[row]))
    return served


def of_tuples(rows: Sequence[Sequence[float]]) -> Served:
    """The record of rows in the order of `COLUMNS`, as an engine hands them out. Raises SpecError."""
    table = array(rows).reshape(-1, len(COLUMNS))
    return served_of(dict(zip(COLUMNS, table.T, strict=True)))


def where(served: Served, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Served:
    """The rows that a mask or an index (M,) names."""
    return Served(**{name: getattr(served, name)[chosen] for name in COLUMNS})


def later(served: Served, seconds: float, steps: float = 0.0) -> Served:
    """The same requests with a front end between their arrival and all that follows: seconds, and steps of their own.

    A request of one token has no step of its own.
    """
    after = served.output_tokens - 1.0
    own = np.where(after > 0.0, (served.finished_s - served.first_token_s) / np.maximum(after, 1.0), 0.0)
    late = seconds + steps * own
    return replace(served, **{name: getattr(served, name) + late for name in _ORDER[1:]})


def latencies(served: Served) -> dict[str, Array]:
    """Latencies of every request [s], (N,) each.

    ttft_s             first token - arrival
    tpot_s             (finished - first token) / (output - 1); NaN for one token, which has no next one
    tpot_with_first_s  (finished - arrival) / output
    e2e_s              finished - arrival
    queueing_s         scheduled - arrival
    normalized_s       e2e / output: latency per output token, as Orca and vLLM define it; equal to tpot_with_first_s
    """
    e2e = served.finished_s - served.arrival_s
    after_first = served.output_tokens - 1.0
    several = after_first > 0.0
    tpot = np.full(len(served), np.nan)
    np.divide(served.finished_s - served.first_token_s, after_first, out=tpot, where=several)
    return {
        "ttft_s": served.first_token_s - served.arrival_s,
        "tpot_s": tpot,
        "tpot_with_first_s": e2e / served.output_tokens,
        "e2e_s": e2e,
        "queueing_s": served.scheduled_s - served.arrival_s,
        "normalized_s": e2e / served.output_tokens,
    }


def steady(served: Served, warm_up: float = 0.0, cool_down: float = 0.0) -> Served:
    """The requests without the first and last of them by arrival: shares of all, in [0, 1) together. Raises SpecError.

    A run begins and ends with fewer requests under way than it has in between.
    """
    for name, share in (("warm_up", warm_up), ("cool_down", cool_down)):
        if not 0.0 <= share < 1.0:
            raise SpecError("must be a share from 0 to below 1", field=name, value=share)
    count = len(served)
    first, last = int(np.floor(count * warm_up)), count - int(np.floor(count * cool_down))
    if first >= last:
        raise SpecError("leave no request", field="warm_up and cool_down", value=f"{warm_up} and {cool_down}")
    return where(served, np.argsort(served.arrival_s, kind="stable")[first:last])
