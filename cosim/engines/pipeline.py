"""The closed form of a pipeline that trains: 1F1B, and interleaved with v pieces a stage.

One piece: the longest way through the schedule, see `cosim.engines.rings`.
Several pieces: enough micro-batches are under way to hide transfers, except on the way in and out, where a micro-batch
goes round once for each of the v - 1 next pieces, and where transfers are longer than passes:
    time      most over stages e of  (through(0..e) + beyond) / v + (m - 1 / v) passes of e,  + transfers + rounds
    beyond    the stages behind e, less the two forward passes for each of them that e runs meanwhile
which is chain / v + (m - 1 / v) slowest where no stage is slower than the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cosim.engines.rings import Line, longest_way
from cosim.mapping.stages import Stages, summed_up
from cosim.records import Array, array


@dataclass(frozen=True, slots=True)
class Piece:
    """Passes of one micro-batch on one piece of a stage of each class (4, P) [s]; `backward` holds `weight`."""

    forward: Array
    backward: Array
    weight: Array


@dataclass(frozen=True, slots=True)
class Schedule:
    """Durations of one micro-batch [s]: `forward`, `backward` on a whole stage of each class (4, P).

    `weight` is the part of `backward` that makes weight gradients; `pieces` are passes by piece where pieces differ.
    `inside`, `across` count the transfers between neighbours in a node and beyond (P,), each of its time.
    """

    stage: Stages
    forward: Array
    backward: Array
    inside: Array
    across: Array
    inside_time: Array
    across_time: Array
    weight: Array = field(default_factory=lambda: array(0.0))
    pieces: tuple[Piece, ...] = ()

    @property
    def way(self) -> Array:
        """All transfers from the first stage to the last (P,) [s]."""
        return self.inside * self.inside_time + self.across * self.across_time

    @property
    def slower(self) -> Array:
        """Time of the slower kind of transfer that the pipeline has (P,) [s]."""
        return np.where(self.across > 0.0, self.across_time, self.inside_time)


def pipeline_time(schedule: Schedule, pipeline: Array, micro_batches: Array, virtual: Array) -> Array:
    """From the first forward to the last backward pass of the first stage [s], shape (P,)."""
    several = np.asarray(virtual > 1.0)
    if not np.any(several):
        return longest_way(_line(schedule, pipeline), micro_batches)
    busy = schedule.forward + schedule.backward
    count = schedule.stage.count
    moves = 2.0 * schedule.way
    rounds = _rounds(schedule, schedule.way + schedule.slower, pipeline, micro_batches, virtual)
    rounds = np.where(pipeline > 1.0, rounds, 0.0)
    # A stage with others behind it runs two forward passes for each of them while their passes are under way.
    behind = np.sum(count, axis=0) - summed_up(count)
    before = summed_up(count * busy)
    beyond = np.sum(count * busy, axis=0) - before
    waits = before + np.maximum(beyond - 2.0 * behind * schedule.forward, 0.0)
    each = waits / virtual + (micro_batches - 1.0 / virtual) * busy
    interleaved: Array = np.max(np.where(count > 0.0, each, 0.0), axis=0) + moves + rounds
    if np.all(several):
        return interleaved
    return np.where(several, interleaved, longest_way(_line(schedule, pipeline), micro_batches))


def _line(schedule: Schedule, pipeline: Array) -> Line:
    """The stages and the ways there and back between them."""
    hop = 2.0 * schedule.way / np.maximum(pipeline - 1.0, 1.0)
    return Line(schedule.stage, schedule.forward, schedule.backward, hop, 2.0 * schedule.slower)


def _rounds(schedule: Schedule, way: Array, pipeline: Array, micro_batches: Array, virtual: Array) -> Array:
    """What an interleaved schedule waits for micro-batches that go all the way round between pieces [s].

    `way` is the time of all transfers of a round. On the way in (forward) and out (backward) a group of as many passes
    of the slowest stage hides a round; in between each of its steps has a pass of the other kind to hide behind.
    """
    count = schedule.stage.count
    busy = np.where(count > 0.0, schedule.forward + schedule.backward, 0.0)
    slowest = np.expand_dims(np.argmax(busy, axis=0), 0)
    both = np.take_along_axis(busy, slowest, axis=0)[0] / virtual
    waits: Array = np.zeros_like(both)
    for passes in (schedule.forward, schedule.backward):
        own = np.take_along_axis(np.broadcast_to(passes, busy.shape), slowest, axis=0)[0] / virtual
        around = np.sum(count * passes, axis=0) / virtual + way
        ends = (virtual - 1.0) * np.maximum(around - pipeline * own, 0.0)
        between = (virtual - 1.0) * (micro_batches - pipeline) * np.maximum(around / pipeline - both, 0.0)
        waits = waits + ends + between
    return waits
