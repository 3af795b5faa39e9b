"""Predictions for measured cases, in the row's own quantity; a row that cannot be answered says why.

matmul    a kernel timed alone: see `cosim.validation.kernels`
attention a kernel timed alone: see `cosim.validation.attention`
collective one operation timed alone: see `cosim.validation.collective`
training  an optimizer step of a given plan: see `cosim.validation.training`
inference a served point or a static batch: see `cosim.validation.inference`
systolic  cycles of one array, fill and drain exposed

Logs of requests (serving) are simulated whole and not row by row: see `cosim.validation.serving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosim import library
from cosim.dtypes import DTYPES, EITHER
from cosim.hardware.load import load_chip
from cosim.hardware.lower import ChipArrays, lower_chip
from cosim.records import Array, array
from cosim.timing.systolic import DATAFLOWS, cycles
from cosim.validation import attention, collective, inference, training
from cosim.validation.cases import Case
from cosim.validation.faults import kernel_fault
from cosim.validation.kernels import matmul_kernel


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one case: predicted and measured in its own quantity, or the reason of none."""

    case: Case
    predicted: float | None
    measured: float | None
    group: tuple[str, ...]
    reason: str = ""
    completed: tuple[str, ...] | None = None
    """What the row left open and was filled in; None of kinds whose rows say all."""


def predict(kind: str, cases: Sequence[Case]) -> list[Prediction]:
    """Predictions of every case, in order."""
    answer = {
        "systolic": _systolic,
        "matmul": _matmul,
        "attention": _attention,
        "collective": _collective,
        "training": _training,
        "inference": _inference,
    }
    return answer[kind](cases)


def _collective(cases: Sequence[Case]) -> list[Prediction]:
    """One group for each system, operation and number of ranks."""
    columns = ("system", "accelerator", "op", "ranks")
    return [
        Prediction(case, time, case.number("measured_s"), tuple(case.values.get(name, "") for name in columns), reason)
        for case, (time, reason) in zip(cases, collective.answers(cases), strict=True)
    ]


def _attention(cases: Sequence[Case]) -> list[Prediction]:
    """One group for each accelerator, phase and pair of formats."""
    columns = ("accelerator", "phase", "dtype", "kv_dtype")
    return [
        Prediction(case, time, case.number("measured_s"), tuple(case.values.get(name, "") for name in columns), reason)
        for case, (time, reason) in zip(cases, attention.answers(cases), strict=True)
    ]


def _training(cases: Sequence[Case]) -> list[Prediction]:
    """One group for each source, accelerator and workload."""
    found = training.answers(cases)
    groups = [tuple(case.values.get(name, "") for name in ("source", "accelerator", "workload")) for case in cases]
    return [
        Prediction(case, answer.predicted, answer.measured, group, answer.reason, answer.completed)
        for case, answer, group in zip(cases, found, groups, strict=True)
    ]


def _inference(cases: Sequence[Case]) -> list[Prediction]:
    """One group for each source, accelerator and workload."""
    found = inference.answers(cases)
    names = ("source_key" if cases and "source_key" in cases[0].values else "source", "accelerator", "workload")
    groups = [tuple(case.values.get(name, "") for name in names) for case in cases]
    return [
        Prediction(case, answer.predicted, answer.measured, group, answer.reason, answer.completed)
        for case, answer, group in zip(cases, found, groups, strict=True)
    ]


def _systolic(cases: Sequence[Case]) -> list[Prediction]:
    out: list[Prediction] = []
    for case in cases:
        flow = case.values.get("dataflow", "")
        dims = [case.number(name) for name in ("M", "N", "K", "rows", "cols")]
        known = [array(d) for d in dims if d is not None and d > 0]
        measured = case.number("cycles")
        if len(known) < len(dims) or measured is None or measured <= 0 or flow not in DATAFLOWS:
            out.append(Prediction(case, None, None, (flow,), "a dimension, the dataflow or the cycles are unknown"))
            continue
        m, n, k, rows, columns = known
        out.append(Prediction(case, float(cycles(m, n, k, rows, columns, flow)), measured, (flow,)))
    return out


def _matmul(cases: Sequence[Case]) -> list[Prediction]:
    """Rows of one (accelerator, dtype, warm) are costed in one call."""
    answers: dict[int, Prediction] = {}
    together: dict[tuple[str, str, bool], list[int]] = {}
    for index, case in enumerate(cases):
        key = (case.values["accelerator"], case.values["dtype"])
        fault = kernel_fault("matmul", case)
        if fault:
            answers[index] = Prediction(case, None, None, key, fault)
        else:
            together.setdefault((*key, case.number("warm") != 0.0), []).append(index)
    known = library.names("accelerators")
    chips = {name: lower_chip(load_chip(name)) for name in {name for name, _, _ in together} if name in known}
    for (accelerator, dtype, warm), rows in together.items():
        chip = chips.get(accelerator)
        able = [] if chip is None else [each for each in EITHER.get(dtype, (dtype,)) if each in chip.matrix.peak]
        reason = "" if able else _unanswerable(accelerator, dtype, known=chip is not None)
        times = [_times([cases[i] for i in rows], chip, each, warm=warm) for each in able if chip is not None]
        predicted = np.min(times, axis=0) if times else None
        for place, index in enumerate(rows):
            value = None if predicted is None else float(predicted[place])
            measured = cases[index].number("measured_s")
            answers[index] = Prediction(cases[index], value, measured, (accelerator, dtype), reason)
    return [answers[index] for index in range(len(cases))]


def _unanswerable(accelerator: str, dtype: str, *, known: bool) -> str:
    if not known:
        return f"accelerator {accelerator} is not in the library"
    if dtype not in DTYPES and dtype not in EITHER:
        return f"unknown dtype {dtype}"
    return f"{accelerator} has no matrix rate in {dtype}"


def _times(rows: Sequence[Case], chip: ChipArrays, dtype: str, *, warm: bool) -> Array:
    """Seconds of each row's kernel timed alone."""
    dims = {name: array([row.number(name) for row in rows]) for name in ("m", "n", "k")}
    batch = array([row.number("batch") or 1.0 for row in rows])
    return matmul_kernel({**dims, "batch": batch}, chip, dtype, warm=warm).time
