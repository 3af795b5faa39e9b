"""The closed form of a pipeline that trains: 1F1B, and interleaved with v pieces a stage.

    time      chain / v + transfers + (m - 1 / v) slowest
    chain     every stage once, forward and back
    slowest   the busiest stage; with one piece also any ring of stages with its transfers, over the stages in it:
              a ring holds as many micro-batches as stages, so its transfers are not hidden

With more pieces than one the schedule starts enough micro-batches to hide transfers, except on the way in and out,
where a micro-batch goes round once for each of the v - 1 next pieces, and where transfers are longer than passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cosim.mapping.stages import Stages
from cosim.records import Array


@dataclass(frozen=True, slots=True)
class Schedule:
    """Durations of one micro-batch [s]: `forward`, `backward` on a whole stage of each class (4, P).

    `inside`, `across` count the transfers between neighbours in a node and beyond (P,), each of its time.
    """

    stage: Stages
    forward: Array
    backward: Array
    inside: Array
    across: Array
    inside_time: Array
    across_time: Array


def pipeline_time(schedule: Schedule, pipeline: Array, micro_batches: Array, virtual: Array) -> Array:
    """From the first forward to the last backward pass of the first stage [s], shape (P,)."""
    busy = schedule.forward + schedule.backward
    count = schedule.stage.count
    moves = 2.0 * (schedule.inside * schedule.inside_time + schedule.across * schedule.across_time)
    chain = np.sum(count * busy, axis=0)
    slowest = np.max(np.where(count > 0.0, busy, 0.0), axis=0)
    # The worst pair of neighbours has one of the slower kind between them.
    transfer = np.where(schedule.across > 0.0, schedule.across_time, schedule.inside_time)
    pair = np.where(pipeline > 1.0, chain / pipeline + transfer, 0.0)
    ring = np.maximum((chain + moves) / pipeline, pair)
    rounds = _rounds(schedule, moves / 2.0 + transfer, pipeline, micro_batches, virtual)
    rounds = np.where((virtual > 1.0) & (pipeline > 1.0), rounds, 0.0)
    slowest = np.where(virtual > 1.0, slowest, np.maximum(slowest, ring))
    total: Array = chain / virtual + moves + rounds + (micro_batches - 1.0 / virtual) * slowest
    return total


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
