"""Runs a search to a run folder or to a record: parts with progress, each kept as it is done, what they say at the end.

A part is a range of strategies of one cell. Its estimates are written whole or not at all, so that a run that was
killed goes on from what it has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cosim.explore.experiment import Study
from cosim.explore.neighbours import Neighbour, neighbours_of
from cosim.explore.run import Progress, hashes_of
from cosim.explore.search import (
    Answer,
    Judged,
    Part,
    SearchInputs,
    answered,
    judged,
    kept_of,
    parts_of,
    rows_of,
    run_part,
    tables_of,
)
from cosim.explore.search_file import StrategySearch
from cosim.explore.search_findings import about_search, search_findings
from cosim.explore.search_inputs import read_search, searched_inputs
from cosim.explore.store import RunFolder, arrow_table, content_hash, host, stamp, write_json, write_results
from cosim.hardware.system import System
from cosim.overrides import ROOTS, Varied, split_overrides
from cosim.schema import validated
from cosim.workload.load import Workload


def run_search(
    study: Study,
    out: Path,
    *,
    overrides: Mapping[str, Any],
    resume: bool,
    progress: Progress,
    report: Callable[[Path], object],
) -> Path:
    """Runs the search of `study` into the folder `out`; see `cosim.explore.run.run_study`."""
    started = time.perf_counter()
    if not isinstance(study.experiment, StrategySearch):
        raise TypeError("not a search")
    inputs, files = read_search(study.experiment, study.document, split_overrides(overrides, ROOTS))
    identity = stamp(study.document.text, overrides, hashes_of(files))
    folder = RunFolder(out)
    folder.start(content_hash(json.dumps(identity, sort_keys=True, default=str)), resume=resume)
    answer = _evaluated(inputs, progress, folder)
    chosen, others, kept = kept_of(answer)
    evaluated = time.perf_counter() - started
    progress(0, 0, "rows and reasons")
    rows = write_results(folder.partial, tables_of(answer, chosen, others=others))
    content = {
        **identity,
        "name": study.name,
        "kind": "search",
        "question": inputs.study.question,
        "host": host(),
        **about_search(inputs),
        "points": inputs.legal,
        "feasible_points": answer.feasible,
        "rows": rows,
        "kept": kept,
        "elapsed_s": evaluated,
        "points_per_s": inputs.legal / evaluated,
        **search_findings(answer, overrides),
    }
    write_json(folder.partial / "run.json", content)
    progress(0, 0, "figures and page")
    report(folder.partial)
    return folder.finish()


def size_text(inputs: SearchInputs) -> str:
    """The size of a space, as it is said before anything is evaluated."""
    return f"{inputs.size:,} combinations, {inputs.legal:,} legal strategies in {len(inputs.cells)} cells"


def _evaluated(inputs: SearchInputs, progress: Progress, folder: RunFolder | None = None) -> Answer:
    """Every part judged: stored ones taken up, others evaluated and stored."""
    parts = list(parts_of(inputs))
    found: list[tuple[Part, Judged]] = []
    progress(0, len(parts), size_text(inputs))
    for index, part in enumerate(parts):
        result = None if folder is None else folder.part(index)
        if result is None:
            result = run_part(inputs, part)
            if folder is not None:
                folder.keep(index, result)
        found.append((part, judged(inputs, part, result)))
        fit = sum(len(done.rows) for _, done in found)
        progress(index + 1, len(parts), f"{inputs.cells[part.cell].choices.schedule}, {fit:,} fit so far")
    return answered(inputs, found)


@dataclass(frozen=True)
class Found:
    """A strategy that a search found: every column of its row by name."""

    row: Mapping[str, Any]

    def to_row(self) -> dict[str, Any]:
        """All columns as plain values."""
        return dict(self.row)

    def __contains__(self, column: object) -> bool:
        """Whether it has such a column."""
        return column in self.row

    def __getitem__(self, column: str) -> Any:  # noqa: ANN401  # a number, a word or a flag
        """One column."""
        return self.row[column]


@dataclass(frozen=True)
class SearchResult:
    """What a search found: the best, the front, the neighbours of the best, the table of all."""

    answer: Answer

    @property
    def size(self) -> int:
        """Combinations of all values whose degrees multiply to the chips."""
        return self.answer.inputs.size

    @property
    def legal(self) -> int:
        """Strategies that were evaluated."""
        return self.answer.inputs.legal

    @property
    def feasible(self) -> int:
        """Strategies that fit and keep the constraints."""
        return self.answer.feasible

    @cached_property
    def _findings(self) -> dict[str, Any]:
        return search_findings(self.answer, {})

    @property
    def limits(self) -> dict[str, int]:
        """Strategies by the first limit that they break."""
        found: dict[str, int] = self._findings["limits"]
        return found

    @property
    def nearest(self) -> dict[str, Any] | None:
        """Where nothing fits: the strategy that came nearest, what takes how much, what would fit."""
        found: dict[str, Any] | None = self._findings["nearest"]
        return found

    @property
    def best(self) -> Found | None:
        """The best by the first objective; None where nothing fits."""
        return self.best_by.get(self.answer.inputs.goals[0].text)

    @cached_property
    def best_by(self) -> dict[str, Found]:
        """The best by each objective that a strategy meets, by its words ("least time_s")."""
        return {each["objective"]: Found(each["best"]) for each in self._findings["objectives"] if each["best"]}

    @cached_property
    def front(self) -> tuple[Found, ...]:
        """Strategies that no other beats in all objectives, best by the first objective first."""
        return tuple(Found(each) for each in rows_of(self.answer, self.answer.front))

    @cached_property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """Steps of one dimension from the best by each objective, with the reason why each is worse."""
        every = range(len(self.answer.inputs.goals))
        return tuple(each for place in every for each in neighbours_of(self.answer, place))

    def table(self) -> Any:  # noqa: ANN401  # pyarrow ships no types
        """Rows of strategies as an Arrow table, those that fit first (`kept` says which), units in its metadata."""
        import pyarrow as pa

        chosen, others, _ = kept_of(self.answer)
        tables = tables_of(self.answer, chosen, others=others)
        return pa.concat_tables([arrow_table(table, {}) for table in tables]).unify_dictionaries()

    @property
    def kept(self) -> str:
        """What the table has rows of."""
        return kept_of(self.answer)[2]


def search_record(
    study: Mapping[str, Any], system: Varied[System], model: Varied[Workload], progress: Progress
) -> SearchResult:
    """A search given as data, on a system and workload at hand, in this process. Raises SpecError."""
    asked = validated(StrategySearch, {"kind": "search", "question": "", **study})
    inputs = searched_inputs(asked, system, model)
    return SearchResult(_evaluated(inputs, progress))
