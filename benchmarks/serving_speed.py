"""Speed of the simulation of serving, printed: requests a CPU second, and memory over a long run.

    python benchmarks/serving_speed.py              10,000 even requests, a made trace on 8 replicas
    python benchmarks/serving_speed.py TRACE.csv    a trace as well: columns TIMESTAMP, ContextTokens, GeneratedTokens
    python benchmarks/serving_speed.py --million    1,000,000 requests: memory after each 100,000

Seconds are CPU seconds of one process on whatever machine this is. The table of steps is made up: its size, not its
values, is what takes time.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cosim.engines.serving.cluster import serve
from cosim.engines.serving.request import Chunk
from cosim.engines.serving.settings import Cluster, Pool, Scheduler, Speculation
from cosim.engines.serving.table import StepTable
from cosim.records import array

CHUNK = 4096
SCHEDULER = Scheduler(kv_blocks=20_000)


def made_table() -> StepTable:
    """14 counts of tokens by 9 contexts; some milliseconds a step."""
    tokens = array(2.0 ** np.arange(14))
    contexts = array([1.0, 128.0, *2.0 ** np.arange(9, 16)])
    linear = 5e-3 + 1e-5 * tokens
    prefill = 1e-5 + 5e-10 * tokens[:, None] * contexts
    decode = 1e-5 + 1e-8 * tokens[:, None] * contexts
    return StepTable(tokens, contexts, linear, 1e-4 + 1e-6 * tokens, prefill, decode)


def even(count: int, rate: float) -> Iterator[Chunk]:
    """Poisson arrivals of 512 tokens in, 128 out."""
    random = np.random.default_rng(0)
    at = 0.0
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        arrivals = at + np.cumsum(random.exponential(1.0 / rate, size))
        at = float(arrivals[-1])
        yield Chunk(arrivals, np.full(size, 512), np.full(size, 128))


def uneven(count: int, rate: float) -> Iterator[Chunk]:
    """Lengths that vary as those of a chat do: lognormal, about 1,150 in and 210 out."""
    random = np.random.default_rng(0)
    arrivals = np.cumsum(random.exponential(1.0 / rate, count))
    prompt = np.clip(random.lognormal(6.55, 1.0, count), 1, 14_000).astype(np.int64)
    output = np.clip(random.lognormal(5.1, 0.7, count), 1, 1_500).astype(np.int64)
    yield Chunk(arrivals, prompt, output)


def traced(path: Path) -> Chunk:
    """A trace of arrivals and lengths."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [dt.datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    prompt = np.array([int(row["ContextTokens"]) for row in rows])
    output = np.array([int(row["GeneratedTokens"]) for row in rows])
    order = np.argsort(times, kind="stable")
    arrivals = np.array(times)[order]
    return Chunk(arrivals - arrivals[0], prompt[order], np.maximum(output[order], 1))


def timed(name: str, cluster: Cluster, chunks: Iterator[Chunk]) -> None:
    """Runs and prints one row; records and segments are made and counted."""
    rows = [0, 0]

    def count_records(made: Sequence[object]) -> None:
        rows[0] += len(made)

    def count_segments(made: Sequence[object]) -> None:
        rows[1] += len(made)

    start = time.process_time()
    run = serve(cluster, chunks, np.random.default_rng(0), records=count_records, segments=count_segments)
    spent = time.process_time() - start
    busy = sum(run.busy_s) / max(run.makespan_s * len(run.busy_s), 1e-30)
    print(f"{name:<52}{run.finished / spent:>10,.0f} requests/s{spent:>8.2f} s{rows[1]:>9,} segments{busy:>7.0%} busy")


def million() -> None:
    """A million requests, and how much memory they took so far."""
    done = 0

    def seen(made: Sequence[object]) -> None:
        nonlocal done
        before, done = done, done + len(made)
        if before // 100_000 != done // 100_000:
            print(f"{done:>12,} requests{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:>8.0f} MiB")

    start = time.process_time()
    serve(Cluster(Pool(made_table(), SCHEDULER)), even(1_000_000, 30.0), records=seen)
    print(f"{1_000_000 / (time.process_time() - start):,.0f} requests/s")


def main() -> None:
    """Prints all rows."""
    if "--million" in sys.argv:
        million()
        return
    pool = Pool(made_table(), SCHEDULER)
    for rate in (5.0, 30.0, 60.0):
        timed(f"10,000 of 512 + 128 at {rate:g}/s, one replica", Cluster(pool), even(10_000, rate))
    stepped = Cluster(replace(pool, scheduler=replace(SCHEDULER, jump=False)))
    timed("  the same at 30/s, step by step", stepped, even(10_000, 30.0))
    drafts = Cluster(replace(pool, scheduler=replace(SCHEDULER, speculation=Speculation((0.8, 0.6), n_gram=True))))
    timed("  the same at 30/s, two drafts", drafts, even(10_000, 30.0))
    timed("19,366 of a chat at 40/s, 8 replicas", Cluster(replace(pool, replicas=8)), uneven(19_366, 40.0))
    loaded = Cluster(replace(pool, replicas=8), "least_loaded")
    timed("  the same, least loaded first", loaded, uneven(19_366, 40.0))
    for name in sys.argv[1:]:
        timed(f"{Path(name).name}, 8 replicas", Cluster(replace(pool, replicas=8)), iter([traced(Path(name))]))


if __name__ == "__main__":
    main()
