"""Runs a serving study to a run folder: a part is one deployment with one seed, kept as it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosim.engines.serving.replica import Segment
from cosim.engines.serving.result import SEGMENT
from cosim.explore.experiment import Study
from cosim.explore.run import Progress, hashes_of
from cosim.explore.serving import serve_rows
from cosim.explore.serving.demand import hashes_of_data
from cosim.explore.serving.records import Served
from cosim.explore.serving.search import search_deployments
from cosim.explore.serving.serve_file import Serve
from cosim.explore.serving.serve_findings import about_serve
from cosim.explore.serving.serve_inputs import Inputs, read_serve
from cosim.explore.serving.simulate import Outcome, simulate
from cosim.explore.serving.store import RecordWriter
from cosim.explore.store import RunFolder, content_hash, host, stamp, write_json
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied, vary
from cosim.workload.load import load_workload

Row = dict[str, Any]


def seeds_of(study: Serve) -> list[np.random.SeedSequence]:
    """A sequence for each run: the same whatever other runs there are."""
    return [np.random.SeedSequence([study.seed, number]) for number in range(study.seeds)]


def one_run(
    inputs: Inputs,
    name: str,
    seed: np.random.SeedSequence,
    taken: Callable[[Served], None] | None,
    tell: Callable[[int], None],
) -> Outcome:
    """One deployment with one seed. Raises SpecError."""
    warm_up = inputs.study.warm_up
    ready, pattern = inputs.ready[name], inputs.patterns[name]
    return simulate(ready, pattern, inputs.limits, seed, warm_up_s=warm_up, taken=taken, progress=tell)


def run_serve(
    study: Study,
    out: Path,
    *,
    overrides: Mapping[str, Any],
    resume: bool,
    progress: Progress,
    report: Callable[[Path], object],
) -> Path:
    """Runs the serving study into the folder `out`; see `cosim.explore.run.run_study`."""
    started = time.perf_counter()
    if not isinstance(study.experiment, Serve):
        raise TypeError("not a study of serving")
    inputs = read_serve(study.experiment, overrides, study.document)
    read = {name: value for each in inputs.patterns.values() for name, value in hashes_of_data(each).items()}
    identity = stamp(study.document.text, overrides, {**hashes_of(list(inputs.files)), **read})
    folder = RunFolder(out)
    folder.start(content_hash(json.dumps(identity, sort_keys=True, default=str)), resume=resume)
    parts = _evaluated(inputs, folder, progress)
    rows = _rows(inputs, parts)
    progress(0, 0, "records of all requests")
    served = _records(inputs, folder)
    _timeline(inputs, folder)
    searched = _searched(inputs, progress)
    _write_rows(folder, rows)
    elapsed = time.perf_counter() - started
    content = {
        **identity,
        "name": study.name,
        "kind": "serve",
        "question": inputs.study.question,
        "host": host(),
        "seed": inputs.study.seed,
        "seeds": inputs.study.seeds,
        **about_serve(inputs, parts, rows),
        "search": searched,
        "points": len(inputs.ready) + len(inputs.infeasible),
        "feasible_points": len(inputs.ready),
        "requests": served,
        "elapsed_s": elapsed,
        "points_per_s": served / elapsed,
    }
    write_json(folder.partial / "run.json", content)
    progress(0, 0, "figures and page")
    report(folder.partial)
    return folder.finish()


def _evaluated(inputs: Inputs, folder: RunFolder, progress: Progress) -> dict[str, list[Row]]:
    """Every deployment with every seed: stored ones taken up, others simulated and stored."""
    found: dict[str, list[Row]] = {}
    seeds = seeds_of(inputs.study)
    each = {name: inputs.patterns[name].count or 0 for name in inputs.ready}
    total = sum(each.values()) * len(seeds) if all(each.values()) else len(each) * len(seeds)
    index = done = 0
    for name in inputs.ready:
        unit = each[name] if all(each.values()) else 1
        for number, seed in enumerate(seeds):
            told = f"{name}, seed {number}"
            progress(done, total, told)
            path = folder.parts / f"{index:05d}.json"
            if not path.is_file():

                def tell(served: int, done: int = done, unit: int = unit, told: str = told) -> None:
                    progress(done + min(served, unit) if unit > 1 else done, total, told)

                with RecordWriter(folder.table_path(index)) as writer:
                    outcome = one_run(inputs, name, seed, writer.add, tell)
                if number == 0:
                    _keep_segments(_segments(folder, index), name, outcome.segments)
                _keep(path, outcome, number)
            found.setdefault(name, []).append(json.loads(path.read_text(encoding="utf-8")))
            index, done = index + 1, done + unit
    progress(total, total, "simulated")
    return found


def _searched(inputs: Inputs, progress: Progress) -> Row | None:
    """What the study's search finds; None where it has none. Raises SpecError."""
    study, changes = inputs.study, inputs.changes
    if study.search is None or study.system is None or study.workload is None:
        return None
    system = vary_system(Varied(load_system(study.system)), changes["system"])
    model = vary(Varied(load_workload(study.workload)), changes["workload"], root="workload.")
    limits = {"ttft_limit": study.limits.ttft, "tpot_limit": study.limits.tpot}
    # What the search does not say is the study's.
    usual = {"stack": study.stack, **{name: value for name, value in limits.items() if value is not None}}
    asked = {**usual, **study.search.model_dump(exclude_unset=True)}
    return search_deployments(asked, [system], model, progress).findings


def _keep(path: Path, outcome: Outcome, number: int) -> None:
    """A part on disk, whole or not at all; what is drawn is that of the first seed."""
    drawn = {"series": outcome.series, "distributions": outcome.distributions}
    draft = path.with_suffix(".draft")
    content = {"row": outcome.row, "refused": dict(outcome.run.refused), **(drawn if number == 0 else {})}
    write_json(draft, content)
    draft.rename(path)


def _segments(folder: RunFolder, index: int) -> Path:
    return folder.parts / f"{index:05d}.segments"


def _keep_segments(path: Path, name: str, segments: Sequence[Segment]) -> None:
    """Runs of steps of a part, for its timeline."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = zip(*segments, strict=True) if segments else ((),) * len(SEGMENT)
    arrays = [pa.array(list(column), pa.float64()) for column in columns]
    table = pa.table(arrays, names=list(SEGMENT)).add_column(0, "deployment", pa.array([name] * len(segments)))
    pq.write_table(table, path, compression="zstd")


def _timeline(inputs: Inputs, folder: RunFolder) -> None:
    """segments.parquet: the first runs of steps of every deployment with its first seed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = [_segments(folder, index * inputs.study.seeds) for index in range(len(inputs.ready))]
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in paths]), folder.partial / "segments.parquet")


def _rows(inputs: Inputs, parts: Mapping[str, list[Row]]) -> list[Row]:
    """Rows of all deployments, then those that break a limit."""
    rows: list[Row] = []
    for name, ready in inputs.ready.items():
        rows += serve_rows.rows_of(name, ready, [_numbers(part["row"]) for part in parts[name]])
    return rows + [serve_rows.refused(name, asked, error) for name, (asked, error) in inputs.infeasible.items()]


def _numbers(row: Mapping[str, Any]) -> Row:
    """A stored row: what is null there is unknown."""
    return {name: float("nan") if value is None else value for name, value in row.items()}


def _write_rows(folder: RunFolder, rows: list[Row]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(serve_rows.table_of(rows), folder.partial / "results.parquet", compression="zstd")


def _records(inputs: Inputs, folder: RunFolder) -> int:
    """requests.parquet of all parts in order, with deployment and seed; memory is a batch's. Returns the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, index, rows = None, 0, 0
    for name in inputs.ready:
        for seed in range(inputs.study.seeds):
            with pq.ParquetFile(folder.table_path(index)) as stored:
                for batch in stored.iter_batches():
                    table = pa.Table.from_batches([batch])
                    count = table.num_rows
                    names = pa.array([name], pa.string()).dictionary_encode().take(pa.array(np.zeros(count, np.int32)))
                    table = table.add_column(0, "seed", pa.array(np.full(count, seed)))
                    table = table.add_column(0, "deployment", names)
                    if writer is None:
                        path = folder.partial / "requests.parquet"
                        writer = pq.ParquetWriter(path, table.schema, compression="zstd")
                    writer.write_table(table)
                    rows += count
                index += 1
    if writer is not None:
        writer.close()
    return rows
