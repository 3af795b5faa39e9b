"""The closed form of every pipeline schedule: passes of the busiest stage, and the bubble that the schedule leaves.

F, B, W are the forward pass, the input gradient (with what is recomputed) and the weight gradient of a micro-batch on a
stage; p stages, m micro-batches, h = p/2 - 1. Bubble of equal stages without transfers, m at least p:

    1f1b, gpipe  (p - 1)(F + B + W)
    zb-h1        (p - 1) max(F + B - W, F, B)
    zb-v         (p - 1)/2 max(2B - W, 2F - W, 2F - B, F + B - W, F, B)
    dualpipe     max(2h F, h (2F + B - W), h (2B - W) + max(h - 1, 0) F, h B + max(h - 1, 0) F), to some 0.5 % of a step

Published (B there with or without W, here always without): Huang et al. 2019 and Narayanan et al. 2021 for the first;
Qi et al. 2023, (p - 1)(F + B - W) for ZB-H1, none for ZB-V where F = B = W, not counting the (p - 1) F / 2 until the
last stage has its first pass; DeepSeek-V3 report, table 2, h (F&B + (B + W) - 3W) for DualPipe, F&B being a
forward and a full backward pass run as one: here they take turns, F&B = F + B + W, which makes h (F + 2B - W).
The published forms hold for W up to F and B (zb-h1) and F = B = W (zb-v, dualpipe); the rest follows from the same
orders of passes (`cosim.engines.orders`).

Stages that differ: gpipe is exact; zb-h1 takes the most over stages; zb-v and dualpipe know the first stage, which has
embedding and head, and a mean of the others, which is approximate, and so are transfers that take more than some 0.5 %
of a stage's passes.
"""

from __future__ import annotations

import numpy as np

from cosim.engines.case import Case
from cosim.engines.data_parallel import Closing, behind_pieces
from cosim.engines.pipeline import Piece, Schedule, pipeline_time
from cosim.engines.step import OpCost
from cosim.mapping.device import DeviceGraph
from cosim.mapping.plan import PlanArrays
from cosim.mapping.schedules import SPLIT
from cosim.records import Array, array

PAIR_LINES = (
    # (least h, (passes of the end stage that are left out: forward, backward whole of its near piece, forward and input
    # gradient, weight gradient of the far one; passes of others instead: F, B, W; transfers)), each as (times h, and).
    (1.0, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0), (2, 0), (0, 0), (0, 0))),
    (1.0, ((0, 0), (1, 0), (1, 0), (1, 0), (2, 0), (2, 0), (2, 0), (0, 0))),
    (1.0, ((0, 0), (2, 0), (1, 0), (1, 0), (2, 0), (4, 0), (2, 0), (1, 0))),
    (1.0, ((2, 1), (1, 0), (2, 1), (2, 1), (6, 2), (3, 1), (3, 1), (0, 0))),
    (1.0, ((2, 1), (2, 0), (2, 1), (2, 1), (6, 2), (5, 1), (3, 1), (1, 0))),
    (1.0, ((0, 1), (2, 0), (2, 0), (2, 1), (3, 0), (6, 0), (3, 1), (2, 0))),
    (1.0, ((0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (3, 1), (1, 0))),
    (2.0, ((0, 1), (1, 0), (2, -1), (2, 0), (3, 0), (4, -2), (3, 0), (1, 0))),
    (2.0, ((0, 1), (2, 0), (2, -1), (2, 0), (3, 0), (6, -2), (3, 0), (2, 0))),
    (2.0, ((0, 1), (1, 0), (1, -1), (1, 0), (1, 0), (4, -2), (1, 0), (1, 0))),
    (2.0, ((0, 1), (0, 0), (1, -1), (1, 0), (1, 0), (2, -2), (1, 0), (0, 0))),
    (2.0, ((0, 1), (1, 0), (1, 0), (1, 1), (1, 0), (4, 0), (1, 1), (1, 0))),
    (2.0, ((0, 1), (0, 0), (1, 0), (1, 1), (1, 0), (2, 0), (1, 1), (0, 0))),
)
V_LINES = (
    # (F, B, W, transfers; transfers fewer in all): each a longest way through pieces, per stage but one and in passes
    # of a piece.
    (0.0, 2.0, -1.0, 6.0, 2.0),
    (2.0, 0.0, -1.0, 6.0, 2.0),
    (2.0, -1.0, 0.0, 5.0, 2.0),
    (1.0, 1.0, -1.0, 6.0, 0.0),
    (1.0, 0.0, 0.0, 5.0, 0.0),
    (0.0, 1.0, 0.0, 5.0, 2.0),
)


def weight_seconds(case: Case, device: DeviceGraph, gradient_ops: tuple[OpCost, ...]) -> dict[str, Array]:
    """Device time of the weight gradients in one run of each group (P,) [s].

    Products of weight gradients, sums for biases and scales, additions to what is kept, with the gap of each; not the
    second product of an op between activations, whose gradients go on. Collectives stay with the input gradient.
    """
    between = {f"{op.name}.wgrad" for op in device.matmuls if op.activations}
    kinds = (".wgrad", ".bias", ".scales", ".accumulate")
    found: dict[str, Array] = {}
    for op in gradient_ops:
        if op.name.endswith(kinds) and op.name not in between:
            found[op.group] = found.get(op.group, array(0.0)) + op.count * (op.cost.time + case.system.chip.launch.gap)
    return found


def schedule_time(schedule: Schedule, plan: PlanArrays) -> Array:
    """From the first pass of a step to the end of its last (P,) [s], traffic of the data ranks left out."""
    if plan.schedule == "1f1b":
        return pipeline_time(schedule, plan.pipeline, plan.micro_batches, plan.virtual)
    forms = {"gpipe": _gpipe, "zb-h1": _zero_bubble, "zb-v": _shape_v, "dualpipe": _both_ways}
    alone = plan.micro_batches * _most(schedule, schedule.forward + schedule.backward)
    return np.where(plan.pipeline > 1.0, forms[plan.schedule](schedule, plan), alone)


def closing_waits(
    closing: Closing, schedule: Schedule, plan: PlanArrays, cores: Array, *, overlap: bool
) -> tuple[Array, Array]:
    """What a step takes longer before its first pass is done (P,), and each stage after its last one (4, P) [s].

    Where weight gradients are passes of their own all stages are taken to end at the same time, and reductions hide
    behind the last of them on each piece. Between the last ones of two pieces zb-v runs a weight gradient for each
    stage behind, dualpipe those and what comes back late.
    """
    present = schedule.stage.count > 0.0
    before, after = closing.waits(schedule, plan, cores, overlap=overlap)
    several = plan.pipeline > 1.0
    if plan.schedule not in SPLIT or not np.any(several):
        return before, after
    f, w, reached, apart_f, apart_w = _ends(schedule, plan)
    left = np.maximum(closing.gather - reached, 0.0)
    if not overlap:
        ahead, behind = np.max(np.where(present, left, 0.0), axis=0), np.where(present, closing.reduce, -np.inf)
        return np.where(several, ahead, before), np.where(several, behind, after)
    start = behind_pieces(left, f, apart_f, plan, closing.layers)
    beside = np.minimum(left, schedule.stage.count * f)
    ahead = np.maximum(np.max(np.where(present, start, 0.0), axis=0), cores * np.sum(beside, axis=0))
    exposed = behind_pieces(closing.reduce, w, apart_w, plan, closing.buckets)
    exposed = exposed + cores * np.minimum(closing.reduce, plan.virtual * w)
    return np.where(several, ahead, before), np.where(several, np.where(present, exposed, -np.inf), after)


def _ends(schedule: Schedule, plan: PlanArrays) -> tuple[Array, Array, Array, Array, Array]:
    """Of a piece of each stage class (4, P) [s]: forward pass, weight gradient, passes in front of its first one.

    And the time from the first pass of one piece to that of the other, and so between their last weight gradients.
    """
    p, count = plan.pipeline, schedule.stage.count
    size = 2.0 if plan.schedule == "zb-v" else 1.0
    f, w = schedule.forward / size, schedule.weight / size
    b = schedule.backward / size - w
    place = np.cumsum(count, axis=0) - count
    end = place + np.maximum(count - 1.0, 0.0)
    if plan.schedule != "dualpipe":
        return f, w, place * f, (2.0 * (p - 1.0 - end) + 1.0) * f, (p - end) * w
    h = p / 2.0 - 1.0
    near = np.minimum(place, p - 1.0 - place)
    inner = np.where(count > 1.0, h, np.minimum(near, h))
    late = np.maximum(h + 1.0 - 2.0 * inner, 0.0) * b + (h + 1.0 - inner) * w
    return f, w, near * f, (p - 1.0 - 2.0 * inner) * f, late


def _gpipe(schedule: Schedule, plan: PlanArrays) -> Array:
    """All forward, then all back: each is a line of stages and transfers whose slowest sets the pace."""
    total = 2.0 * schedule.way
    for passes in (schedule.forward, schedule.backward):
        pace = np.maximum(_most(schedule, passes), schedule.slower)
        total = total + np.sum(schedule.stage.count * passes, axis=0) + (plan.micro_batches - 1.0) * pace
    return total


def _zero_bubble(schedule: Schedule, plan: PlanArrays) -> Array:
    """ZB-H1: most over stages e of what comes before its first input gradient, its passes, and what is left after.

    The stage has run a forward pass for each stage behind it when its first gradient comes, and keeps e + 1 weight
    gradients for the end, while the last input gradient goes up to the stage a that then ends last.
    """
    p, m = plan.pipeline, plan.micro_batches
    f, w = schedule.forward, schedule.weight
    b = schedule.backward - w
    hop = schedule.way / np.maximum(p - 1.0, 1.0)
    starts = np.cumsum(schedule.stage.count, axis=0) - schedule.stage.count
    places = [
        *starts,
        *np.maximum(starts + schedule.stage.count - 1.0, 0.0),
        np.minimum(m, p) - 1.0,
        p - np.minimum(m, p),
    ]
    longest: Array = np.zeros_like(hop + m)
    for place in places:
        end = np.minimum(place, p - 1.0)
        behind = p - 1.0 - end
        own_f, own_w = _at(schedule, f, end), _at(schedule, w, end)
        busy = m * (own_f + own_w + _at(schedule, b, end))
        there = _before(schedule, f, end) + end * hop
        both = _before(schedule, f + b, p) - _before(schedule, f + b, end + 1.0) + 2.0 * behind * hop
        ahead = there + np.maximum(both - np.minimum(behind, m - 1.0) * own_f, 0.0)
        after: Array = np.zeros_like(busy)
        kept = np.minimum(end + 1.0, m) * own_w
        for first in (np.zeros_like(end), np.minimum(end, m - 1.0)):
            up = _before(schedule, b, end) - _before(schedule, b, first) + (end - first) * hop
            after = np.maximum(after, up + np.minimum(first + 1.0, m) * _at(schedule, w, first) - kept)
        longest = np.maximum(longest, ahead + busy + after)
    # A stage of the way in also waits for transfers between its first gradients: m is at least p there.
    zigzag = np.clip(m - 2.0, 0.0, p - 1.0) * hop
    chain = _before(schedule, f + b, p) + 2.0 * schedule.way
    ring = chain + _at(schedule, w, np.zeros_like(p)) + (m - 1.0) * (chain + _at(schedule, w, np.zeros_like(p))) / p
    found: Array = np.maximum(longest + zigzag, ring)
    return found


def _shape_v(schedule: Schedule, plan: PlanArrays) -> Array:
    """ZB-V: the first stage's passes, with embedding and head, or those of the others and a line of V_LINES.

    The first stage waits for its second piece while others pass a micro-batch down and up, and hides n of its own first
    passes and n weight gradients in that; so again on the way back.
    """
    p, m = plan.pipeline, plan.micro_batches
    n = p - 1.0
    whole = schedule.forward + schedule.backward
    b = schedule.backward - schedule.weight
    near, far = (_first(piece) for piece in schedule.pieces)
    f_o, b_o, w_o = (_others(schedule, values, 1.0) / 2.0 for values in (schedule.forward, b, schedule.weight))
    ways = schedule.way
    hop = ways / np.maximum(n, 1.0)
    down = n * (2.0 * f_o - near[0])
    back = n * (2.0 * b_o - near[1]) - p / 2.0 * near[2] - (p / 2.0 - 1.0) * far[2]
    own = m * whole[0] + np.maximum(down + 5.0 * ways, down + back + 6.0 * ways)
    lines = [n * (x * f_o + y * b_o + z * w_o) + (moves * n - less) * hop for x, y, z, moves, less in V_LINES]
    other = m * _most(schedule, np.where(_is_first(schedule), 0.0, whole)) + np.maximum.reduce(lines)
    chain = np.sum(schedule.stage.count * (schedule.forward + b), axis=0) + 4.0 * ways
    found: Array = np.maximum.reduce(np.broadcast_arrays(own, other, m * chain / p))
    return found


def _both_ways(schedule: Schedule, plan: PlanArrays) -> Array:
    """DualPipe: the passes of the two end stages, which hold embedding and head, and the longest way beside them.

    Neighbours run a forward and a backward pass as one and hand both on at its end: the ring of all stages holds p - 1
    pairs of transfers and p pairs of passes. A way that leaves the end stage to fill or drain the pipeline takes passes
    of the others (`f_o`, `b_o`, `w_o`) in place of its own on the near piece (embedding) and the far one (head).
    """
    p, m = plan.pipeline, plan.micro_batches
    whole = schedule.forward + schedule.backward
    b = schedule.backward - schedule.weight
    near, far = (_first(piece) for piece in schedule.pieces)
    f_o, b_o, w_o = (_others(schedule, values, 2.0) for values in (schedule.forward, b, schedule.weight))
    h = p / 2.0 - 1.0
    hop = schedule.way / np.maximum(p - 1.0, 1.0)
    lines: list[Array] = [np.zeros_like(hop)]
    for least, counts in PAIR_LINES:
        own_f, own_bw, far_fb, far_w, f, b_of, w_of, moves = (each * h + once for each, once in counts)
        gained = f * f_o + b_of * b_o + w_of * w_o + moves * hop
        lost = own_f * near[0] + own_bw * (near[1] + near[2]) + far_fb * (far[0] + far[1]) + far_w * far[2]
        lines.append(np.where(h >= least, gained - lost, 0.0))
    longest = np.where(h > 0.0, np.maximum.reduce(np.broadcast_arrays(*lines)), 0.0)
    # Two transfers go the same way at the end of a pair of passes, one after the other.
    moves = 4.5 * p - 8.0 + np.where(p > 2.0, 0.0, 2.0)
    # A ring of all stages, or all but one end: what the others are shorter by hides transfers.
    shorter = np.maximum(whole[0] - _others(schedule, whole, 2.0), 0.0)
    ring = 2.0 * (1.0 - 1.0 / p) * hop - (1.0 - 2.0 / p) * shorter
    part = (p - 2.0) / np.maximum(p - 1.0, 1.0) * (2.0 * hop - shorter)
    pace = np.maximum(np.maximum(ring, part), 0.0)
    found: Array = m * whole[0] + longest + moves * hop + (m - 2.0 * p) * pace
    return np.maximum(found, m * _most(schedule, whole))


def _is_first(schedule: Schedule) -> Array:
    """1 for the class of the first stage (4, P), else 0."""
    mark = np.zeros_like(schedule.stage.count)
    mark[0] = 1.0
    return mark


def _first(piece: Piece) -> tuple[Array, Array, Array]:
    """Forward pass, input gradient and weight gradient of a piece on the first stage (P,)."""
    return piece.forward[0], piece.backward[0] - piece.weight[0], piece.weight[0]


def _others(schedule: Schedule, values: Array, ends: float) -> Array:
    """Mean of `values` (4, P) over the stages but `ends` ones like the first; the first's where there is no other."""
    count = np.sum(schedule.stage.count, axis=0)
    rest = np.sum(schedule.stage.count * values, axis=0) - ends * values[0]
    mean: Array = np.where(count > ends, rest / np.maximum(count - ends, 1.0), values[0])
    return mean


def _most(schedule: Schedule, values: Array) -> Array:
    """The most of `values` (4, P) among classes that have a stage (P,)."""
    found: Array = np.max(np.where(schedule.stage.count > 0.0, values, 0.0), axis=0)
    return found


def _before(schedule: Schedule, values: Array, position: Array) -> Array:
    """Sum of `values` (4, P) over the stages in front of `position` (P,)."""
    count = schedule.stage.count
    start = np.cumsum(count, axis=0) - count
    found: Array = np.sum(np.clip(position - start, 0.0, count) * values, axis=0)
    return found


def _at(schedule: Schedule, values: Array, position: Array) -> Array:
    """`values` (4, P) of the stage at `position` (P,)."""
    return _before(schedule, values, position + 1.0) - _before(schedule, values, position)
