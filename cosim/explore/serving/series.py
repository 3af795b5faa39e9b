"""What replicas do over time, from runs of steps as they come: batch, cache and queue by bins of time, token gaps.

Time is cut into BINS bins of equal width. What ends past the last of them doubles the width, two bins becoming one:
memory stays flat however long a run is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.engines.serving.replica import Segment
from cosim.engines.serving.result import SEGMENT
from cosim.explore.serving.histogram import Histogram, counted, empty
from cosim.records import Array, array

BINS = 400
WIDTH_S = 0.25
KEPT = 20_000
"""Runs of steps that a timeline shows, from the start."""
FOLLOWED = ("busy", "decodes", "blocks", "waiting")


@dataclass(frozen=True, slots=True)
class Means:
    """Over the time in which replicas worked: sequences that decode, blocks of the cache, requests that wait."""

    batch: float
    blocks: float
    waiting: float


class Series:
    """Follows the replicas of a pool: `add` takes runs of steps in the order of result.SEGMENT.

    `pauses`: steps of prompts alone delay sequences that decode already (prefill first). `step_tokens` are those that a
    step gives a sequence on average, more than 1 with drafts.
    """

    def __init__(self, *, pauses: bool = False, step_tokens: float = 1.0) -> None:
        self.width_s, self.pauses, self.step_tokens = WIDTH_S, pauses, step_tokens
        self._bins = np.zeros((len(FOLLOWED), BINS))
        self._sums = np.zeros(len(FOLLOWED))
        self._gaps: dict[int, tuple[float, int]] = {}
        self.token_gaps: Histogram = empty()

    def add(self, rows: list[Segment]) -> None:
        """Counts runs of steps."""
        if not rows:
            return
        columns = dict(zip(SEGMENT, array(rows).T, strict=True))
        start, seconds = columns["start_s"], columns["seconds"]
        values = np.stack([np.ones_like(start), columns["decodes"], columns["kv_blocks"], columns["waiting"]])
        self._sums += (values * seconds).sum(axis=1)
        self._fit(float((start + seconds).max()))
        first = np.floor(start / self.width_s).astype(np.int64)
        last = np.minimum(np.floor((start + seconds) / self.width_s).astype(np.int64), BINS - 1)
        counts = np.maximum(last - first, 0) + 1
        row = np.repeat(np.arange(len(start)), counts)
        place = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.maximum(start[row], place * self.width_s)
        inside = np.maximum(np.minimum((start + seconds)[row], (place + 1) * self.width_s) - begins, 0.0)
        for index, value in enumerate(values):
            self._bins[index] += np.bincount(place, weights=value[row] * inside, minlength=BINS)
        self._count_gaps(columns)

    def _fit(self, end_s: float) -> None:
        while end_s > BINS * self.width_s:
            self._bins = np.concatenate(
                [self._bins.reshape(len(FOLLOWED), -1, 2).sum(axis=2), np.zeros((len(FOLLOWED), BINS // 2))], axis=1
            )
            self.width_s *= 2.0

    def _count_gaps(self, columns: dict[str, Array]) -> None:
        """Times between tokens of a sequence: a step that decodes gives one to each, and what prompts alone took
        before it delayed those that were decoding already. With drafts it gives m on average, taken to come evenly:
        gaps of 1 / m of its seconds, m of them.
        """
        tokens = self.step_tokens
        each = columns["seconds"] / columns["steps"]
        decodes = columns["decodes"]
        weights = columns["steps"] * decodes
        if self.pauses:
            late = self._delayed(columns)
            self.token_gaps = counted(self.token_gaps, late[0] / tokens, late[1] * tokens)
            weights = np.maximum(weights - late[2], 0.0)
        self.token_gaps = counted(self.token_gaps, each / tokens, weights * tokens)

    def _delayed(self, columns: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Gaps [s] of sequences that waited for prompts, how many, and tokens of each run that are these (N,)."""
        taken = np.zeros(len(columns["seconds"]))
        gaps, counts = [], []
        rows = zip(
            columns["replica"].astype(np.int64).tolist(),
            columns["seconds"].tolist(),
            columns["steps"].tolist(),
            columns["decodes"].astype(np.int64).tolist(),
            columns["kv_blocks"].tolist(),
            strict=True,
        )
        for index, (replica, seconds, steps, decodes, blocks) in enumerate(rows):
            waited, before = self._gaps.get(replica, (0.0, 0))
            if not decodes:
                self._gaps[replica] = (waited + seconds, before)
                continue
            if waited > 0.0 and before:
                late = min(before, decodes)
                taken[index] = late
                gaps.append(waited + seconds / steps)
                counts.append(float(late))
            # Where no block is held any more, all of them have ended.
            self._gaps[replica] = (0.0, decodes if blocks else 0)
        return array(gaps), array(counts), taken

    def means(self) -> Means:
        """Means over the time at work; NaN where nothing was done."""
        busy = self._sums[0]
        batch, blocks, waiting = (self._sums[1:] / busy) if busy else np.full(3, np.nan)
        return Means(float(batch), float(blocks), float(waiting))

    def drawn(self, end_s: float) -> dict[str, Any]:
        """By bins up to the end: seconds, and means over time of all replicas together."""
        used = max(min(int(np.ceil(end_s / self.width_s)), BINS), 1)
        means = self._bins[:, :used] / self.width_s
        found = {name: means[index].tolist() for index, name in enumerate(FOLLOWED)}
        return {"time_s": (np.arange(used) * self.width_s).tolist(), **found}
