"""What a row of MLPerf says by its scenario: samples of a query, chips that work on it, what its rate counts.

single stream   a query of one sample, the next one as it ends; the time is that of the 90th percentile
multi stream    a query of eight samples, at the 99th percentile; by that percentile it is told from a run of single
                stream that the rules allow in its place, as in the place of offline
whole query     an engine takes it as one batch on one chip; where the runtime shares it out, each chip takes whole
                samples, the same number of them at most
rate            of the unit that the benchmark has for the task, whatever the column is called
"""

from __future__ import annotations

import math
from dataclasses import replace

from cosim.validation.cases import Case as Row
from cosim.validation.inference_known import Known
from cosim.validation.named import workload
from cosim.validation.row_system import CannotAnswerError

MLPERF = "mlperf"
SAMPLES = 8
"""Of a query of multi stream (rules since v1.1)."""
SINGLE = "percentile p90"
"""What notes say of a run of single stream."""
BATCHES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 16384.0, 131072.0)
"""Items of a network on a chip at once to choose from, where a run fills chips and says no batch."""
UNKNOWN_ITEMS = ("3d-unet",)
"""Networks of which a sample takes many items, nobody here knows how many: windows of a scan."""


def is_mlperf(row: Row) -> bool:
    """Whether the row is a result of MLPerf, under whatever key."""
    source = row.values.get("source", "").strip()
    return row.values.get("source_key", "").strip() == MLPERF or source.startswith("mlcommons")


def is_stream(row: Row) -> bool:
    """Whether the row is the time of one query: single or multi stream, or such a run in the place of offline."""
    return row.values.get("source_key", "").strip() == MLPERF and row.values.get("measured_quantity") == "e2e_s"


def as_run(row: Row, facts: Known) -> tuple[Row, tuple[str, ...]]:
    """The row as its scenario was run, and what was filled in: a query of a stream is one static batch on one chip."""
    values = dict(row.values)
    told: list[str] = []
    task = facts.tasks.get(values.get("workload", "").strip())
    counts = task is not None and task.counts == "tokens"
    if counts and is_mlperf(row) and values.get("measured_quantity") == "samples_per_s":
        values["measured_quantity"] = "output_tokens_per_s"
        told.append("rate of tokens, the unit of the task")
    client = facts.client(row) if is_mlperf(row) else None
    if client is not None and client.formats == ("fp32",) and not values.get("weights_dtype", "").strip():
        values["weights_dtype"] = "fp32"
        told.append("weights_dtype fp32, as trained")
    if is_stream(row):
        multi = values.get("point_id", "").lower().endswith("multistream") and SINGLE not in values.get("notes", "")
        samples = SAMPLES if multi else 1
        share = row.number("num_accelerators") or 1.0
        each = math.ceil(samples / share) if client is not None and client.shares_query else samples
        values |= {"mode": "static", "batch": str(each), "num_accelerators": "1"}
        told.append(f"query {samples} samples, {each} on a chip")
    return replace(row, values=values), tuple(told)


def fills(row: Row) -> bool:
    """Whether the chips work on as many items at once as is best: offline and server runs that say no batch."""
    return not row.values.get("batch", "").strip() and row.values.get("mode", "").strip() in ("offline", "server")


def passes(row: Row) -> float:
    """Passes of the row's network that make up a sample: steps of an image, pairs of a user; long ones of a stream.

    Raises CannotAnswerError where that is not known.
    """
    network = workload(row.values.get("workload", "").strip())
    mean = getattr(network, "items_per_sample", None)
    if mean is None and is_mlperf(row) and network.name in UNKNOWN_ITEMS:
        raise CannotAnswerError(f"how many items of {network.name} make up a sample is not known")
    long = getattr(network, "items_per_long_sample", None)
    found = long if long is not None and is_stream(row) else mean
    return 1.0 if found is None else float(found.si)
