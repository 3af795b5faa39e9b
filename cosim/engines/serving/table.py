"""Seconds of a step of serving by what is in it, read from a table, and runs of decode steps in closed form.

    device  = linear(new + decodes v) + head(sampled + decodes (v - 1)) + prefill(new, pairs / new)
              + decode(decodes, context / decodes) + drafted draft(decodes)
    host    = host_step_s + host_sequence_s sampled
    seconds = max(device, host) where the host is hidden, else device + host
    issued  = device is no less than issue_s where no graph is replayed: with prompts, where `graph_decodes` says so,
              else beyond graph_tokens

Where the limit of power may hold a step with prompts down (`limited`), device is what `cosim.engines.serving.limited`
says of its terms together: decodes beside prompts draw less than these, so that the sum of what each takes alone is too
long. v are the tokens that a decoding sequence puts into a step: 1, or 1 + drafts that are verified; `drafted` of them
are made by a model of their own. Each term is piecewise
linear between points of the grid, so it rises wherever the table does. Past the last point it goes on with the last
slope (never less than nothing); below the first context it stays.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cosim.engines.serving.limited import Limited, QuickLimited
from cosim.engines.serving.lookup import looked_up, row_of
from cosim.errors import SpecError
from cosim.records import Array


@dataclass(frozen=True)
class StepTable:
    """Seconds over new tokens [T] and keys [C]; raises SpecError for arrays that are no table.

    `tokens` rise from 1. `linear_s` [T] is everything but attention over the new tokens of all sequences, `head_s` [T]
    the sampled rows, `prefill_s` [T, C] attention of new prompt tokens that see so many keys each on average,
    `decode_s` [T, C] that of so many decoding sequences at a mean context, `draft_s` [T] a draft token for so many.
    """

    tokens: Array
    contexts: Array
    linear_s: Array
    head_s: Array
    prefill_s: Array
    decode_s: Array
    host_step_s: float = 0.0
    host_sequence_s: float = 0.0
    host_hidden: bool = False
    draft_s: Array | None = None
    issue_s: float = 0.0
    """Least seconds of the device in a step with prompts whose kernels the host issues one by one."""
    issue_decode_s: float = 0.0
    """The same of a step of decodes alone."""
    graph_tokens: float = 0.0
    """Most tokens of a step that is replayed as a graph, of all ranks."""
    graph_decodes: bool = False
    """Whether steps of decodes alone are."""
    limited: Limited | None = None
    """Loads of the same terms where the chips' limit of power may hold a step with prompts down."""

    def __post_init__(self) -> None:
        for name, axis in (("tokens", self.tokens), ("contexts", self.contexts)):
            if axis.ndim != 1 or not len(axis) or not np.all(np.diff(axis) > 0.0) or not axis[0] >= 0.0:
                raise SpecError("does not rise", field=f"table.{name}", hint="give rising numbers along one axis")
        if self.tokens[0] != 1.0:
            raise SpecError("does not start at 1", field="table.tokens", value=float(self.tokens[0]))
        full = (len(self.tokens), len(self.contexts))
        shapes = {"linear_s": full[:1], "head_s": full[:1], "draft_s": full[:1], "prefill_s": full, "decode_s": full}
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != shape:
                raise SpecError(f"has shape {values.shape}, not {shape}", field=f"table.{name}")
            if not (np.all(np.isfinite(values)) and np.all(values >= 0.0)):
                raise SpecError("is not a time everywhere", field=f"table.{name}", hint="give seconds, 0 or more")
        for name in ("host_step_s", "host_sequence_s", "issue_s", "issue_decode_s"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise SpecError("is not a time", field=f"table.{name}", value=getattr(self, name))

    def seconds(
        self,
        new: int,
        pairs: float,
        decodes: int,
        context: float,
        sampled: int,
        verified: int = 1,
        drafted: int = 0,
    ) -> float:
        """Seconds of a step.

        `new` prompt tokens that see `pairs` keys together, the sum over chunks of c (past + (c + 1) / 2);
        `decodes` sequences with `context` cached tokens together; `sampled` sequences that are given a token.
        """
        quick = self._quick
        host = self.host_step_s + self.host_sequence_s * sampled
        rows = new + decodes * verified, sampled + decodes * (verified - 1)
        if new and quick.limited is not None:
            device = quick.limited.seconds(rows, (new, pairs), (decodes, context), 0.0 if self.host_hidden else host)
            device += drafted * quick.draft(decodes) if drafted and decodes else 0.0
            device = max(device, self._issued(rows[0], alone=False))
            return max(device, host) if self.host_hidden else device + host
        device = quick.linear(rows[0]) + quick.head(rows[1])
        if new:
            offset, slope = quick.prefill_row(new)
            mean = pairs / new
            cell = bisect_right(quick.grid, mean)
            device += offset[cell] + slope[cell] * mean
        if decodes:
            offset, slope = quick.decode_row(decodes)
            mean = context / decodes
            cell = bisect_right(quick.grid, mean)
            device += offset[cell] + slope[cell] * mean
            if drafted:
                device += drafted * quick.draft(decodes)
        device = max(device, self._issued(rows[0], alone=not new))
        return max(device, host) if self.host_hidden else device + host

    def _issued(self, tokens: int, *, alone: bool) -> float:
        """Seconds in which the host issues the kernels of a step; 0 where a graph is replayed."""
        replayed = tokens <= self.graph_tokens or (self.graph_decodes and alone)
        return 0.0 if replayed else self.issue_decode_s if alone else self.issue_s

    def decode_run(self, decodes: int, context: float, steps: int) -> float:
        """Seconds of decode-only steps, one after the other, in which every context grows by one a step."""
        return self.run(decodes, context, decodes, steps)[1]

    def steps_before(self, decodes: int, context: float, span_s: float, most: int) -> int:
        """Steps of such a run of at most `most` that begin before `span_s` is over."""
        return self.run(decodes, context, decodes, most, span_s)[0] if span_s > 0.0 else 0

    def run(
        self,
        decodes: int,
        context: float,
        grown: float,
        steps: int,
        span_s: float = math.inf,
        verified: int = 1,
        drafted: int = 0,
    ) -> tuple[int, float]:
        """Steps that begin before `span_s` (at least one, at most `steps`) and their seconds.

        All contexts together grow by `grown` a step. Inside a cell of the grid a step costs first + rise j: the sum is
        an arithmetic series, the number of steps within a span a root of its square.
        """
        quick = self._quick
        grid = quick.grid
        offset, slope = quick.decode_row(decodes)
        fixed = quick.linear(decodes * verified) + quick.head(decodes * verified)
        if drafted:
            fixed += drafted * quick.draft(decodes)
        host = self.host_step_s + self.host_sequence_s * decodes
        # The device is no faster than its kernels are issued, nor a step than a host that hides behind it.
        least = max(self._issued(decodes * verified, alone=True), host if self.host_hidden else 0.0)
        after = 0.0 if self.host_hidden else host
        mean, grows = context / decodes, grown / decodes
        done, total = 0, 0.0
        while done < steps:
            cell = bisect_right(grid, mean)
            count = steps - done
            if cell < len(grid) and grows > 0.0:
                count = min(count, int((grid[cell] - mean) / grows) + 1)
            first, rise = fixed + offset[cell] + slope[cell] * mean, slope[cell] * grows
            if least > 0.0:
                count, first, rise = _behind(least, count, first, rise)
            first += after
            took = count * first + 0.5 * rise * count * (count - 1)
            if total + took >= span_s:
                count = _first_past(span_s - total, count, first, rise)
                return done + count, total + count * first + 0.5 * rise * count * (count - 1)
            done, total, mean = done + count, total + took, mean + count * grows
        return done, total

    @cached_property
    def _quick(self) -> _Quick:
        return _Quick(self)


def _behind(least: float, count: int, first: float, rise: float) -> tuple[int, float, float]:
    """The steps from here on in which the same of device and host is the longer: count, first, rise."""
    if first < least:
        crossing = math.ceil((least - first) / rise) if rise > 0.0 else count
        return max(min(count, crossing), 1), least, 0.0
    if rise < 0.0:
        count = max(min(count, int((least - first) / rise) + 1), 1)
    return count, first, rise


def _first_past(span: float, most: int, first: float, rise: float) -> int:
    """Least count of steps, first + rise j each, that take `span` or more."""

    def took(count: int) -> float:
        return count * first + 0.5 * rise * count * (count - 1)

    half = first - 0.5 * rise
    root = math.sqrt(max(half * half + 2.0 * rise * span, 0.0))
    count = math.ceil(2.0 * span / (half + root)) if half + root > 0.0 else most
    count = max(min(count, most), 1)
    # The root is rounded: it may lie one to either side.
    while count > 1 and took(count - 1) >= span:
        count -= 1
    while count < most and took(count) < span:
        count += 1
    return count


class _Quick:
    """A table as plain lists: token counts looked up, rows over contexts made when first asked for."""

    def __init__(self, table: StepTable) -> None:
        self.grid: list[float] = table.contexts.tolist()
        self.linear = looked_up(table.tokens, table.linear_s)
        self.head = looked_up(table.tokens, table.head_s)
        self.draft = looked_up(table.tokens, np.zeros(len(table.tokens)) if table.draft_s is None else table.draft_s)
        self.limited = None if table.limited is None else QuickLimited(table.limited, table.tokens, table.contexts)
        self.prefill_row = row_of(table.tokens, table.contexts, table.prefill_s)
        self.decode_row = row_of(table.tokens, table.contexts, table.decode_s)
