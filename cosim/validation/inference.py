"""Predictions of measured inference runs by the closed form: rows of one structure are one batch.

static      a batch of one kind; its first token, its steps, or its rates over all of it
in flight   so many requests at once in a steady state
offered     so many a second
full        as many as memory and the stack hold
limited     as many as keep the limits of a server scenario, by their means: a steady state has no percentiles
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.engines.case import Case
from cosim.engines.served import Demand, Served, apart, in_flight, static_batch
from cosim.engines.served_memory import room
from cosim.engines.served_rate import offered, within
from cosim.errors import InfeasibleError, SpecError
from cosim.mapping.serving import ServingArrays
from cosim.records import array, at, points, stacked, structure
from cosim.timing.collective import send
from cosim.units import format_si
from cosim.validation.cases import Case as Row
from cosim.validation.inference_possible import impossible
from cosim.validation.inference_rows import Asked, asked
from cosim.validation.inference_twins import with_twins
from cosim.validation.row_system import CannotAnswerError, Systems

ENGINES: dict[str, Callable[[Case, Demand], Served]] = {
    "static": static_batch,
    "in_flight": in_flight,
    "full": in_flight,
    "limited": within,
    "offered": offered,
}
FILLING = ("full",)
"""Runs that take as many sequences as they can hold."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Predicted and measured value of a row in its own quantity, or the reason of none; what was completed."""

    predicted: float | None
    measured: float | None
    reason: str = ""
    completed: tuple[str, ...] = ()
    waiting: float = math.nan
    """Part of the time to the first token that is spent behind other requests."""
    starved: bool = False
    """Whether a run that fills its chips holds fewer sequences than its stack may: memory is the limit."""
    system: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one structure that are asked together: their places, what each is asked, and all of it as arrays."""

    places: tuple[int, ...]
    asked: tuple[Asked, ...]
    case: Case
    demand: Demand


def answers(rows: Sequence[Row], systems: Systems | None = None) -> list[Answer]:
    """Answers to all rows, in order; systems as their files say or as `systems` has them."""
    batches, reasons = batches_of(rows, systems)
    found = {index: Answer(None, rows[index].number("measured_value"), reason) for index, reason in reasons.items()}
    tried: dict[int, list[tuple[float, Answer]]] = {}
    for batch in batches:
        for index, each, served in zip(batch.places, batch.asked, served_batch(batch), strict=True):
            measured = rows[index].number("measured_value")
            if isinstance(served, str):
                found[index] = Answer(None, measured, served)
            else:
                tried.setdefault(index, []).append((float(served.rate), _answer(served, each, measured)))
    for index, several in tried.items():
        # A tuned run has the layout of the highest rate.
        found[index] = max(several, key=lambda one: one[0])[1]
    return [found[index] for index in range(len(rows))]


def _answer(served: Served, wanted: Asked, measured: float | None) -> Answer:
    """What a run sees in the quantity of its row, or that it does not follow."""
    value = in_quantity(served, wanted)
    if not (np.isfinite(value) and value > 0.0):
        return Answer(None, measured, f"no {wanted.quantity} follows from this run")
    stack, ttft = wanted.case.stack, float(served.ttft)
    fills = wanted.run in FILLING and stack is not None
    return Answer(
        value,
        measured,
        completed=wanted.completed,
        waiting=float(served.waits) / ttft if ttft > 0.0 else math.nan,
        system=wanted.case.system.name,
        starved=fills and stack is not None and float(served.held) < float(stack.max_sequences),
    )


def batches_of(rows: Sequence[Row], systems: Systems | None = None) -> tuple[list[Batch], dict[int, str]]:
    """Rows in every layout that they may have, those of one structure together; why others cannot be answered."""
    wanted, reasons = _read(rows, systems)
    together: dict[tuple[object, ...], list[tuple[int, Asked]]] = {}
    kept = _Structures()
    for index, read in wanted.items():
        for each in _layouts(read):
            parts = (each.case.system, each.case.model, each.case.stack)
            own = (each.case.plan, each.case.scenario, each.demand, each.prefill)
            key = (each.run, *(kept.number(part) for part in parts), structure(own))
            together.setdefault(key, []).append((index, each))
    return [
        Batch(
            tuple(index for index, _ in batch),
            tuple(each for _, each in batch),
            stacked([each.case for _, each in batch]),
            stacked([each.demand for _, each in batch]),
        )
        for batch in together.values()
    ], reasons


def _read(rows: Sequence[Row], systems: Systems | None) -> tuple[dict[int, Asked], dict[int, str]]:
    """What each row asks, by place, and why others ask nothing that can be answered."""
    wanted: dict[int, Asked] = {}
    reasons: dict[int, str] = {}
    for index, row in enumerate(with_twins(rows)):
        try:
            wanted[index] = asked(row, systems)
        except CannotAnswerError as error:
            reasons[index] = str(error)
    never = impossible(rows, wanted)
    return {index: each for index, each in wanted.items() if index not in never}, reasons | never


class _Structures:
    """Numbers of structures; what many rows share is one object, which is walked once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        # Objects are kept, so that no other takes their identity.
        self._seen: dict[int, tuple[object, int]] = {}

    def number(self, record: object) -> int:
        """Equal for records of equal structure."""
        if id(record) not in self._seen:
            number = self._numbers.setdefault(structure(record), len(self._numbers))
            self._seen[id(record)] = (record, number)
        return self._seen[id(record)][1]


def _layouts(wanted: Asked) -> list[Asked]:
    """The row in each of the layouts, and with each of the batches, that it may have."""
    plan, out = wanted.case.plan, []
    chips = float(plan.tensor * plan.data)
    for tensor in wanted.layouts:
        changed = replace(plan, tensor=array(tensor), data=array(chips / tensor))
        out.append(replace(wanted, case=replace(wanted.case, plan=changed)))
    out = out or [wanted]
    if not wanted.batches:
        return out
    batches = [array(batch) for batch in wanted.batches]
    return [replace(each, demand=replace(each.demand, concurrency=batch)) for each in out for batch in batches]


def served_batch(batch: Batch, stack: ServingArrays | None = None) -> list[Served | str]:
    """What each row of a batch sees, or the reason why none can be answered; `stack` takes the place of theirs."""
    case, demand, run = batch.case, batch.demand, batch.asked[0].run
    if stack is not None:
        case = replace(case, stack=stack)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            served = _apart(batch.asked, case, demand) if run == "apart" else ENGINES[run](case, demand)
    except (SpecError, InfeasibleError) as error:
        return [str(error)] * len(batch.asked)
    total = max(points(case), points(demand), len(batch.asked))
    full = Served(**{name: _all(getattr(served, name), total) for name in Served.__slots__})
    unfit = _all(_too_heavy(case, demand), total)
    return [str(unfit[place]) or at(full, place) for place in range(len(batch.asked))]


def _too_heavy(case: Case, demand: Demand) -> NDArray[np.str_]:
    """Why a row cannot have run: weights that are more than a chip's memory; blank where they are not."""
    if case.model.network:
        return np.array([""])
    weights = room(case, demand.prompt + demand.output).weights
    shown = np.broadcast_to(case.system.chip.memory["dram"].shown, weights.shape)
    told = [
        f"does not fit: weights of a chip take {format_si(float(own), 'B')} of {format_si(float(most), 'B')}"
        if own > most
        else ""
        for own, most in zip(np.atleast_1d(weights), np.atleast_1d(shown), strict=True)
    ]
    return np.array(told)


def _apart(batch: Sequence[Asked], case: Case, demand: Demand) -> Served:
    """Disaggregated rows: the cache of a prompt crosses from worker to worker by the rail of each chip."""
    prefill = replace(case, plan=stacked([each.prefill for each in batch if each.prefill is not None]))
    prefills, decodes = (array([each.workers[place] for each in batch]) for place in (0, 1))
    # A rank hands the cache of its prompt to its peer over the outermost network.
    size = room(case, demand.prompt).per_sequence
    moved = send(size, len(case.system.tiers) - 1, case.system)
    return apart(case, prefill, demand, (prefills, decodes), moved)


def _all(values: NDArray[Any], total: int) -> NDArray[Any]:
    return np.broadcast_to(values, (total,))


def in_quantity(served: Served, wanted: Asked) -> float:
    """What a run sees in the quantity of its row; rates over all chips."""
    demand = wanted.demand
    prompt, output = float(demand.prompt), float(demand.output)
    rate, ttft = float(served.rate), float(served.ttft)
    if wanted.quantity == "input_tokens_per_s" and wanted.run == "static":
        # Prompts alone, whatever answers follow.
        return float(demand.concurrency) * prompt / ttft if ttft > 0.0 else np.nan
    return {
        "input_tokens_per_s": rate * prompt,
        "ttft_s": ttft,
        "tpot_s": float(served.tpot),
        "e2e_s": float(served.e2e) * wanted.items,
        "output_tokens_per_s": rate * output,
        "tokens_per_s": rate * (prompt + output),
        "samples_per_s": rate / wanted.items,
    }[wanted.quantity]
