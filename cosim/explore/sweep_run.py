"""Runs a sweep to a run folder: parts in parallel processes where it pays, each kept as it is done.

A part is a range of designs in one case. Its table is written whole or not at all, so a run that was killed goes on
from what it has. The first part is done here; if the rest would take long, more processes share it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cosim.explore.experiment import Study
from cosim.explore.run import Progress, hashes_of
from cosim.explore.store import RunFolder, arrow_table, content_hash, host, stamp, write_json, write_part, write_parts
from cosim.explore.sweep import Part, SweepInputs, run_part
from cosim.explore.sweep_file import Sweep
from cosim.explore.sweep_findings import about_sweep, sweep_findings
from cosim.explore.sweep_inputs import read_sweep
from cosim.overrides import ROOTS, split_overrides
from cosim.schema import validated

ONE_PLAN_DESIGNS = 16_384
SEARCHED_DESIGNS = 512
"""Designs of a part, without and with a search: a second or less of work each."""
WORTH_A_POOL_S = 6.0
"""Work left from which starting more processes pays."""


def run_sweep(
    study: Study,
    out: Path,
    *,
    overrides: Mapping[str, Any],
    resume: bool,
    progress: Progress,
    report: Callable[[Path], object],
    jobs: int | None = None,
) -> Path:
    """Runs the sweep of `study` into the folder `out`; see `cosim.explore.run.run_study`."""
    started = time.perf_counter()
    if not isinstance(study.experiment, Sweep):
        raise TypeError("not a sweep")
    inputs, files = read_sweep(study.experiment, study.document, split_overrides(overrides, ROOTS))
    parts = list(parts_of(inputs))
    identity = stamp(study.document.text, overrides, hashes_of(files))
    folder = RunFolder(out)
    folder.start(content_hash(json.dumps(identity, sort_keys=True, default=str)), resume=resume)
    designs = inputs.grid.size * len(inputs.systems)
    cases = len(inputs.study.cases)
    progress(0, len(parts), f"{designs:,} designs x {cases} cases")
    missing = [index for index in range(len(parts)) if not folder.table_path(index).is_file()]
    for done, index in enumerate(_work(inputs, parts, missing, folder, jobs), start=len(parts) - len(missing) + 1):
        part = parts[index]
        progress(done, len(parts), f"{part.system}, {inputs.study.cases[part.case].workload}")
    rows, feasible = write_parts(folder, len(parts))
    evaluated = time.perf_counter() - started
    content = {
        **identity,
        "name": study.name,
        "kind": inputs.study.kind,
        "question": inputs.study.question,
        "host": host(),
        **about_sweep(inputs),
        "points": rows,
        "designs": designs,
        "feasible_points": feasible,
        "elapsed_s": evaluated,
        "points_per_s": rows / evaluated,
        **sweep_findings(folder.partial, inputs, overrides),
    }
    write_json(folder.partial / "run.json", content)
    progress(0, 0, "figures and page")
    report(folder.partial)
    return folder.finish()


def sweep_table(space: Mapping[str, Any], progress: Progress) -> Any:  # noqa: ANN401  # pyarrow ships no types
    """The whole result of a sweep given as data, as an Arrow table. Raises SpecError."""
    import pyarrow as pa

    study = validated(Sweep, {"kind": "sweep", "question": "", **space})
    inputs, _ = read_sweep(study, None, {root: {} for root in ROOTS})
    parts, tables = list(parts_of(inputs)), []
    for index, part in enumerate(parts):
        progress(index, len(parts), inputs.study.cases[part.case].workload)
        tables.append(arrow_table(run_part(inputs, part), inputs.units))
    return pa.concat_tables(tables).unify_dictionaries()


def parts_of(inputs: SweepInputs) -> Iterator[Part]:
    """Every part in the order of the result: case, then system, then design."""
    step = ONE_PLAN_DESIGNS if inputs.study.search is None else SEARCHED_DESIGNS
    for case in range(len(inputs.study.cases)):
        for system in inputs.systems:
            for start in range(0, inputs.grid.size, step):
                yield Part(system, case, start, min(start + step, inputs.grid.size))


def _work(
    inputs: SweepInputs, parts: list[Part], missing: list[int], folder: RunFolder, jobs: int | None
) -> Iterator[int]:
    """Does every missing part and yields its index when its table is on disk."""
    remaining = list(missing)
    begun = time.perf_counter()
    workers = min(jobs or os.cpu_count() or 1, len(missing))
    while remaining:
        index = remaining.pop(0)
        run_and_keep(inputs, parts[index], folder.table_path(index))
        yield index
        spent = time.perf_counter() - begun
        done = len(missing) - len(remaining)
        if workers > 1 and spent / done * len(remaining) > WORTH_A_POOL_S:
            break
    if remaining:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = {
                pool.submit(run_and_keep, inputs, parts[index], folder.table_path(index)): index for index in remaining
            }
            for future in as_completed(waiting):
                future.result()
                yield waiting[future]


def run_and_keep(inputs: SweepInputs, part: Part, path: Path) -> None:
    """Evaluates a part and writes its table: all that a process is asked."""
    write_part(path, run_part(inputs, part), inputs.units)
