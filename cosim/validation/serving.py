"""Measured request logs against the simulation: the same requests, at their arrivals and lengths, on the same system.

Of every request the first token, the time of each further one and the whole are compared; of all of them together
their mean and percentiles (`error_of_p90` and so on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cosim.engines.serving.cluster import serve
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.result import Record, ServingRun
from cosim.engines.serving.settings import Cluster, Pool
from cosim.errors import SpecError
from cosim.explore.serving.deployed import Deployed, deployed
from cosim.explore.serving.metrics import percentiles
from cosim.explore.serving.records import latencies, later, of_tuples
from cosim.hardware.load import load_system
from cosim.records import Array, array
from cosim.validation.cases import Case, read_cases
from cosim.validation.serving_log import LogHeader, deployment_of, header_path, not_modelled, read_header, request_fault
from cosim.validation.statistics import macro_median, summary

QUANTITIES = ("ttft_s", "tpot_s", "e2e_s")
STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Replayed:
    """The requests of a log as they were simulated: columns by quantity (N,), NaN where a request has no answer."""

    header: LogHeader
    predicted: dict[str, Array]
    run: ServingRun
    modelled_blocks: int
    used_blocks: int
    completed: tuple[str, ...]
    faults: dict[int, str]
    """Why a line says no request, by its place in the log."""


def validate_serving(log: Path) -> dict[str, Any]:
    """Errors of every request of a log, in the schema of `cosim validate`. Raises SpecError, InfeasibleError."""
    cases = read_cases("serving", log)
    replayed = replay(cases, log)
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    groups: dict[str, dict[str, Any]] = {}
    errors: dict[str, list[float]] = {}
    for quantity in QUANTITIES:
        own, lacking = _compared(cases, replayed, quantity)
        skipped += lacking
        rows += own
        measured, predicted = (array([row[name] for row in own]) for name in ("measured", "predicted"))
        errors[quantity] = [row["error"] for row in own]
        macro = {"macro_median_abs_error": macro_median({quantity: errors[quantity]})}
        groups[quantity] = {**summary(predicted, measured), **macro, **_of_all(predicted, measured)}
    found = [[row[name] for row in rows] for name in ("predicted", "measured")]
    return {
        "kind": "serving",
        "cases": len(cases) * len(QUANTITIES),
        "skipped": skipped,
        **summary(found[0], found[1]),
        "macro_median_abs_error": macro_median(errors),
        "groups": groups,
        "rows": rows,
        "about": _about(replayed),
    }


def replay(cases: Sequence[Case], log: Path) -> Replayed:
    """The requests of a log served by the deployment of its header. Raises SpecError, InfeasibleError."""
    header = read_header(log)
    try:
        asked, completed = deployment_of(header)
        ready = deployed(header.name, asked, _sized(asked.system, header.num_accelerators), None)
    except SpecError as error:
        raise error.at(file=header_path(log)) from None
    cluster, modelled, used = _with_blocks(ready, header)
    cluster = _with_host(cluster, header)
    faults = {place: fault for place, case in enumerate(cases) if (fault := request_fault(case))}
    chunk, order = _chunk([(place, case) for place, case in enumerate(cases) if place not in faults])
    rows: list[Record] = []
    run = serve(cluster, [chunk], np.random.default_rng(0), records=rows.extend)
    predicted = {name: np.full(len(cases), np.nan) for name in QUANTITIES}
    if rows:
        served = later(of_tuples(rows), ready.start_s, ready.start_steps)
        place = order[served.request.astype(np.int64)]
        found = latencies(served)
        for name in QUANTITIES:
            predicted[name][place] = found[name]
    return Replayed(header, predicted, run, modelled, used, tuple(completed), faults)


def _sized(system: str | None, chips: int) -> dict[str, dict[str, Any]]:
    """Nodes for so many chips where the system has fewer."""
    spec = load_system(str(system))
    if chips <= spec.chips:
        return {}
    return {"system": {"nodes": int(np.ceil(chips / spec.node_chips))}}


def _with_blocks(ready: Deployed, header: LogHeader) -> tuple[Cluster, int, int]:
    """The cluster with the blocks that the engine counted, the blocks of the model of memory, those taken."""
    pool, given = ready.cluster.pool, header.kv_cache.num_gpu_blocks
    # Engines count blocks of tokens, each of all that a long sequence keeps of them.
    unit = pool.scheduler.layout.unit
    modelled = pool.scheduler.kv_blocks // unit
    if given is None:
        return ready.cluster, modelled, modelled
    used = given * int(ready.pool.case.plan.data)
    scheduler = replace(pool.scheduler, kv_blocks=used * unit)
    return replace(ready.cluster, pool=Pool(pool.table, scheduler, pool.replicas)), modelled, used


def _with_host(cluster: Cluster, header: LogHeader) -> Cluster:
    """The cluster with the host beside or before the chip, where the header says which; else as the stack has it."""
    hidden, pool = header.scheduler.async_scheduling, cluster.pool
    if hidden is None:
        return cluster
    return replace(cluster, pool=replace(pool, table=replace(pool.table, host_hidden=hidden)))


def _chunk(requests: Sequence[tuple[int, Case]]) -> tuple[Chunk, Any]:
    """Requests, each with its place in the log, by arrival; and their places in that order."""
    places = np.array([place for place, _ in requests], dtype=np.int64)
    columns = [array([case.number(name) for _, case in requests]) for name in ("arrival", "input_len", "output_len")]
    order = np.argsort(columns[0], kind="stable")
    arrival, prompt, output = (column[order] for column in columns)
    return Chunk(arrival, prompt.astype(np.int64), output.astype(np.int64)), places[order]


def _compared(
    cases: Sequence[Case], replayed: Replayed, quantity: str
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows of one quantity, and requests of which it is not known with the reason."""
    rows, skipped = [], []
    for place, (case, value) in enumerate(zip(cases, replayed.predicted[quantity].tolist(), strict=True)):
        name, measured = f"{case.id} {quantity}", case.number(quantity)
        if place in replayed.faults:
            skipped.append({"id": name, "reason": replayed.faults[place]})
        elif measured is None or not measured > 0.0:
            skipped.append({"id": name, "reason": f"{quantity} was not measured"})
        elif not value > 0.0:
            reason = "one token has no next one" if quantity == "tpot_s" else "the request is refused"
            skipped.append({"id": name, "reason": reason})
        else:
            rows.append({"id": name, "measured": measured, "predicted": value, "error": value / measured - 1.0})
    return rows, skipped


def _of_all(predicted: Array, measured: Array) -> dict[str, float | None]:
    """Statistic of the predicted requests over that of the measured, less 1."""
    if not len(measured):
        return {f"error_of_{name}": None for name in STATISTICS}
    ours, theirs = percentiles(predicted), percentiles(measured)
    return {f"error_of_{name}": ours[name] / theirs[name] - 1.0 for name in STATISTICS}


def _about(replayed: Replayed) -> dict[str, Any]:
    """What was simulated: settings that were taken, and what the scheduler did."""
    run = replayed.run
    return {
        "log": replayed.header.name,
        "requests": len(replayed.predicted["e2e_s"]) - len(replayed.faults),
        "requests_left_out": len(replayed.faults),
        "completed": list(replayed.completed),
        "not_modelled": not_modelled(replayed.header),
        "kv_blocks_modelled": replayed.modelled_blocks,
        "kv_blocks_used": replayed.used_blocks,
        "preemptions": run.preemptions,
        "refused": dict(run.refused),
        "steps": run.steps,
        "makespan_s": run.makespan_s,
    }
