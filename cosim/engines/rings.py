"""1F1B with one piece a stage: the longest way through its passes, found among rings of stages.

Stage s with n(s) stages behind it runs n(s) forward passes more before its first backward one, and as many backward
ones after its last forward one. The way in goes down to a stage s, with the n(s) forward passes on the slowest stage
up to it, and turns there; so does the way out, with backward passes. Between the two, at a stage e, m - 1 - n(e)
micro-batches go round e alone, or round a ring [a, e] of stages, which takes as many as it has stages:

    time    most over rings [a, e] of  in(e) + out(e) - through(0..e) + turns
    in      most over s from e on of  through(0..s) + n(s) max(forward of 0..s);  out: with backward passes
    turns   as many whole rings as go, and what is left round e and its like

With m - 1 up to n(e) no backward pass of e comes before its last forward one: a way turns once, at s. Each is a way
that the schedule has, so that no time is too long. Looked at: the first and the last stage of each class, and rings of
a stage, two neighbours, a class in part, and whole classes in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.mapping.stages import CLASSES, Stages
from cosim.records import Array


@dataclass(frozen=True, slots=True)
class Line:
    """Stages in a row with passes of one micro-batch on a stage of each class (4, P) [s] and ways between them (P,).

    `hop` is the mean time of a transfer there and back, `slower` that of the slower kind.
    """

    stage: Stages
    forward: Array
    backward: Array
    hop: Array
    slower: Array


def longest_way(line: Line, micro_batches: Array) -> Array:
    """From the first forward to the last backward pass of the first stage (P,) [s]."""
    count, more = line.stage.count, micro_batches - 1.0
    longest: Array = np.zeros(np.broadcast_shapes(count[0].shape, line.hop.shape, more.shape))
    way_in, way_out = longest, longest
    for end in reversed(range(len(CLASSES))):
        for first in (False, True):
            here = count[end] > (1.0 if first else 0.0)
            if not np.any(here):
                continue
            behind, through = _place(line, end, first=first)
            forward, backward = _slowest(line, line.forward, end), _slowest(line, line.backward, end)
            alone = np.minimum(behind, more)
            way_in = np.where(here, np.maximum(way_in, through + alone * forward), way_in)
            way_out = np.where(here, np.maximum(way_out, through + alone * backward), way_out)
            once = through + alone * (forward + backward) + (more - alone) * np.maximum(forward, backward)
            twice = way_in + way_out - through + _turns(line, more - alone, end, first=first)
            found = np.where(more > behind, np.maximum(once, twice), once)
            longest = np.where(here, np.maximum(longest, found), longest)
    return longest


def _place(line: Line, end: int, *, first: bool) -> tuple[Array, Array]:
    """Of the first or the last stage of a class (P,): stages behind it, and the way down to it and back [s]."""
    count, busy = line.stage.count, line.forward + line.backward
    less = count[end] - 1.0 if first else np.zeros_like(count[end])
    upto = np.sum(count[: end + 1], axis=0) - less
    through = np.sum((count * busy)[: end + 1], axis=0) - less * busy[end] + (upto - 1.0) * line.hop
    return np.sum(count, axis=0) - upto, through


def _slowest(line: Line, passes: Array, end: int) -> Array:
    """The longest pass of the stages up to class `end` (P,) [s]."""
    found: Array = np.max(np.where(line.stage.count[: end + 1] > 0.0, passes[: end + 1], 0.0), axis=0)
    return found


def _turns(line: Line, left: Array, end: int, *, first: bool) -> Array:
    """The most time that `left` micro-batches take round rings that end there (P,) [s]."""
    count, busy, hop, slower = line.stage.count, line.forward + line.backward, line.hop, line.slower
    one, own, several = np.ones_like(count[end]), busy[end], (count[end] > 1.0) & (not first)

    def rounds(size: Array, whole: Array) -> Array:
        # A class without a stage has no ring: what is found for it is not looked at.
        turned = np.floor((left + 1e-9) / np.maximum(size, 1.0))
        rest = left - turned * size
        # A ring of as many stages of the class as are left, or of two with the slower way between.
        wide = np.maximum((np.minimum(rest, count[end]) - 1.0) * hop, slower)
        found: Array = turned * whole + rest * own + np.where(several & (rest > 1.5), wide, 0.0)
        return found

    stages, held = (one, own) if first else (count[end], count[end] * own)
    most = rounds(stages, held + (stages - 1.0) * hop)
    if np.any(several):
        most = np.maximum(most, np.where(several, rounds(2.0 * one, 2.0 * own + slower), 0.0))
    for start in range(end - 1, -1, -1):
        here = count[start] > 0.0
        if not np.any(here):
            continue
        two = rounds(2.0 * one, busy[start] + own + slower)
        most = np.maximum(most, np.where(here & (stages == 1.0), two, 0.0))
        stages, held = stages + count[start], held + count[start] * busy[start]
        most = np.maximum(most, np.where(here, rounds(stages, held + (stages - 1.0) * hop), 0.0))
    return most
