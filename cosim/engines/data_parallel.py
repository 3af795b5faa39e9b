"""What data ranks send each other, and the optimizer's update.

    ZeRO 0   all-reduce of gradients after the last micro-batch
    ZeRO 1   reduce-scatter of gradients, all-gather of weights before the next step
    ZeRO 2   gradients scattered in every micro-batch, because a shard has no room for their sum
    ZeRO 3   weights gathered in every pass of every micro-batch too
    shard    ZeRO inside groups of so many replicas; after the last micro-batch each shard is summed over the groups

Software that overlaps sends layer by layer, or bucket by bucket where it has these, behind the passes: what is left is
the last one's share, or what the passes are too short for, and the cores that collectives take meanwhile. Every bucket
starts anew. Experts have replicas of their own: the ranks that expert parallelism leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case
from cosim.engines.pipeline import Schedule
from cosim.engines.stack import as_stack_sends, as_stack_shards
from cosim.mapping.device import DeviceVector
from cosim.mapping.placement import Placement, group_placement, pair_placement, stage_stride
from cosim.mapping.plan import PlanArrays
from cosim.mapping.routing import expert_group, expert_replicas, expert_sharers
from cosim.mapping.schedules import BOTH_ENDS
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, in_front
from cosim.mapping.weights import Weights
from cosim.mapping.widths import element_bytes
from cosim.records import Array, array
from cosim.timing.collective import CollectiveCost, all_gather, all_reduce, reduce_scatter
from cosim.timing.energy import step_energy
from cosim.timing.vector import vector_cost
from cosim.workload.network_training import trained_layers


@dataclass(frozen=True, slots=True)
class Closing:
    """Traffic of a step's ends on a stage of each class (4, P): weights gathered before it, gradients reduced after.

    Seconds when nothing hides them; `layers` pieces that weights are gathered in one by one, `buckets` that gradients
    are reduced in; `wire_bytes` of one chip.
    """

    gather: Array
    reduce: Array
    layers: Array
    buckets: Array
    wire_bytes: Array

    def waits(self, schedule: Schedule, plan: PlanArrays, cores: Array, *, overlap: bool) -> tuple[Array, Array]:
        """What a step takes longer before its first pass is done (P,), and each stage after its last one (4, P) [s].

        The passes that traffic hides behind lose cores to it, and so does every stage that waits for them.
        """
        present = schedule.stage.count > 0.0
        if not overlap:
            before = np.where(present, self.gather - _reached(schedule.forward, schedule, plan), 0.0)
            return np.max(before, axis=0), np.where(present, self.reduce - self._lead(schedule, plan, 0.0), -np.inf)
        ahead, back = schedule.forward / plan.virtual, schedule.backward / plan.virtual
        left = np.maximum(self.gather - _reached(schedule.forward, schedule, plan), 0.0)
        start = np.where(
            present, behind_pieces(left, ahead, _apart(schedule.forward, schedule, plan), plan, self.layers), 0.0
        )
        # Stage after stage works beside what is left of its own gathering.
        beside = np.minimum(left, schedule.stage.count * ahead)
        before = np.maximum(np.max(start, axis=0), cores * np.sum(beside, axis=0))
        slower = cores * np.minimum(self.reduce / plan.virtual, back)
        after = behind_pieces(self.reduce, back, _apart(schedule.backward, schedule, plan), plan, self.buckets)
        chain = np.sum(schedule.stage.count * slower, axis=0)
        # A stage that waits for its traffic has lost nothing to it that it would not have waited for.
        after = np.maximum(after - slower, 0.0) + chain
        return before, np.where(present, after - self._lead(schedule, plan, slower), -np.inf)

    def _lead(self, schedule: Schedule, plan: PlanArrays, slower: Array | float) -> Array:
        """How long before the first stage a stage of each class ends its last backward pass (4, P) [s]."""
        return _reached(schedule.backward + slower * plan.virtual, schedule, plan)


def _reached(passes: Array, schedule: Schedule, plan: PlanArrays) -> Array:
    """Passes of a piece on the stages in front of the first one of each class (4, P) [s]."""
    return in_front(schedule.stage.count * passes) / plan.virtual


def layer_traffic(
    case: Case, software: SoftwareArrays, held: Weights, updated: Weights | None = None
) -> tuple[Array, Array, Array]:
    """Of one run of a group in every micro-batch: gather [s], reduce-scatter [s], bytes that a chip sends, (P,).

    Both are zero below ZeRO 3 and 2; gathers happen twice, forward and back. `updated` weights alone have gradients;
    None is all that are held.
    """
    zero = case.plan.zero
    if not np.any(zero >= 2.0):
        return array(0.0), array(0.0), array(0.0)
    gather = scatter = wire = array(0.0)
    wide = element_bytes(case.plan, software)
    parts = zip(_replicated(case, held), _replicated(case, held if updated is None else updated), strict=True)
    for whole, changed in parts:
        weights, gradients = whole.numbers * wide, changed.numbers * software.reduced_bytes
        taken = as_stack_shards(all_gather(weights, whole.inside, case.system), weights, software)
        given = as_stack_shards(reduce_scatter(gradients, changed.inside, case.system), gradients, software)
        gather = gather + np.where(zero >= 3.0, taken.time, 0.0)
        scatter = scatter + np.where(zero >= 2.0, given.time, 0.0)
        wire = wire + np.where(zero >= 3.0, 2.0 * taken.wire_bytes, 0.0) + np.where(zero >= 2.0, given.wire_bytes, 0.0)
    return gather, scatter, wire


def closing(case: Case, software: SoftwareArrays, owned: Weights, stage: Stages) -> Closing:
    """Gathers before and reductions after a step, of all weights of a stage that are updated."""
    zero = case.plan.zero
    gather = reduce = wire = buckets = np.zeros_like(owned.shared + owned.routed)
    for part in _replicated(case, owned):
        gradients = part.numbers * software.reduced_bytes
        pieces = _buckets(gradients, software)
        several = 1.0 if pieces is None else pieces
        plain = as_stack_sends(all_reduce(gradients / several, part.every, case.system), software)
        given = as_stack_sends(reduce_scatter(gradients / several, part.inside, case.system), software)
        shared = as_stack_sends(all_reduce(gradients / several / part.sharers, part.across, case.system), software)
        plain, given, shared = (_times(cost, several) for cost in (plain, given, shared))
        buckets = buckets + (0.0 if pieces is None else pieces)
        taken = as_stack_sends(
            all_gather(part.numbers * element_bytes(case.plan, software), part.inside, case.system), software
        )
        once = (zero >= 1.0) & (zero < 2.0)
        reduce = reduce + np.where(zero < 1.0, plain.time, np.where(once, given.time, 0.0) + shared.time)
        gather = gather + np.where((zero >= 1.0) & (zero < 3.0), taken.time, 0.0)
        scattered = np.where(once, given.wire_bytes, 0.0) + shared.wire_bytes
        wire = wire + np.where(zero < 1.0, plain.wire_bytes, scattered)
        wire = wire + np.where((zero >= 1.0) & (zero < 3.0), taken.wire_bytes, 0.0)
    trained = case.scenario.updates != "adapters"
    if case.model.tied_embeddings and case.plan.schedule not in BOTH_ENDS and trained:
        time, sent = _tied(case, software)
        ends = stage.embeds + stage.heads
        reduce, wire = reduce + ends * time, wire + ends * sent
    if case.plan.schedule == "dualpipe":
        time, sent = _twins(case, software, owned)
        reduce, wire = reduce + time, wire + sent
    layers = np.maximum(trained_layers(case.model.network) if case.model.network else owned.layers, 1.0)
    layers = np.broadcast_to(layers, stage.layers.shape)
    return Closing(gather, reduce, layers, np.where(buckets > 0.0, buckets, layers), wire)


def _buckets(gradients: Array, software: SoftwareArrays) -> Array | None:
    """Pieces that gradients of so many bytes are reduced in, at least one; None: layer by layer."""
    if not np.any(software.bucket > 0.0):
        return None
    return np.maximum(np.ceil(gradients / software.bucket), 1.0)


def _times(cost: CollectiveCost, count: Array | float) -> CollectiveCost:
    """So many of a collective one after the other."""
    return (
        cost if isinstance(count, float) else replace(cost, time=cost.time * count, wire_bytes=cost.wire_bytes * count)
    )


def _tied(case: Case, software: SoftwareArrays) -> tuple[Array, Array]:
    """Sum of the gradients of a table that the first and the last stage both hold [s], and bytes sent (P,)."""
    plan = case.plan
    size = np.ceil(case.model.vocab / plan.tensor) * case.model.hidden * software.reduced_bytes
    pair = pair_placement(stage_stride(plan) * (plan.pipeline - 1.0), case.system.sizes)
    cost = as_stack_sends(all_reduce(size, pair, case.system), software)
    apart = plan.pipeline > 1.0
    return np.where(apart, cost.time, 0.0), np.where(apart, cost.wire_bytes, 0.0)


def _twins(case: Case, software: SoftwareArrays, owned: Weights) -> tuple[Array, Array]:
    """Sum of the gradients of all weights that two stages of a pipeline both hold [s], and bytes sent (4, P).

    The stages of a pair lie 1 to p - 1 apart: all are taken to be half the pipeline apart. Under ZeRO each rank sums
    what is left of its gradients after their reduction.
    """
    plan = case.plan
    pair = pair_placement(stage_stride(plan) * plan.pipeline / 2.0, case.system.sizes)
    ranks = plan.replicas, expert_replicas(plan)
    shared, routed = (
        numbers * np.where(plan.zero >= 1.0, 1.0 / each, 1.0)
        for numbers, each in zip((owned.shared, owned.routed), ranks, strict=True)
    )
    cost = as_stack_sends(all_reduce((shared + routed) * software.reduced_bytes, pair, case.system), software)
    return cost.time, cost.wire_bytes


def optimizer_step(case: Case, software: SoftwareArrays, owned: Weights) -> tuple[Array, Array]:
    """Time [s] and energy [J] of the update on a stage of each class: one pass over gradient, state and weight."""
    chip = case.system.chip
    if case.scenario.updates == "nothing":
        none = np.zeros_like(owned.shared + owned.routed)
        return none, none
    share, routed = (
        np.where(case.plan.zero >= 1.0, 1.0 / ranks, 1.0) for ranks in (case.plan.sharers, expert_sharers(case.plan))
    )
    mine = owned.shared * share + owned.routed * routed
    # Gradients are read twice (their norm, the update) and cleared; state is read and written.
    read = mine * (2.0 * software.gradient_bytes + software.optimizer_bytes)
    written = mine * (software.gradient_bytes + software.optimizer_bytes + element_bytes(case.plan, software))
    op = DeviceVector("optimizer", "step", array(1.0), read, written, 12.0 * mine, mine, np.zeros_like(read))
    cost = vector_cost(op, chip)
    return cost.time + chip.launch.gap, step_energy(cost, chip, "fp32")[0]


@dataclass(frozen=True, slots=True)
class Copies:
    """Weights of a rank and the ranks that hold copies: `every` one, `sharers` of them `inside` a group that shares out
    states, and `across` the groups.
    """

    numbers: Array
    sharers: Array
    every: Placement
    inside: Placement
    across: Placement


def _replicated(case: Case, weights: Weights) -> list[Copies]:
    """Weights with the groups of ranks that hold copies of them: all replicas, or those of an expert."""
    plan, sizes = case.plan, case.system.sizes
    kinds = [(weights.shared, plan.tensor, plan.replicas, plan.sharers)]
    if case.model.is_moe:
        kinds.append((weights.routed, expert_group(plan), expert_replicas(plan), expert_sharers(plan)))
    return [
        Copies(
            numbers,
            sharers,
            group_placement(plan, first, copies, sizes),
            group_placement(plan, first, sharers, sizes),
            group_placement(plan, first * sharers, copies / sharers, sizes),
        )
        for numbers, first, copies, sharers in kinds
    ]


def _apart(passes: Array, schedule: Schedule, plan: PlanArrays) -> Array:
    """Time between passes of one micro-batch on two pieces of a stage (P,) [s]: a round, or the slowest's group."""
    count = schedule.stage.count
    way = schedule.way + schedule.slower
    group = plan.pipeline * np.max(np.where(count > 0.0, passes, 0.0), axis=0) / plan.virtual
    longest: Array = np.maximum(np.sum(count * passes, axis=0) / plan.virtual + way, group)
    return longest


def behind_pieces(time: Array, first: Array, apart: Array, plan: PlanArrays, layers: Array) -> Array:
    """What is exposed of `time` sent layer by layer behind passes of a piece of `first`, pieces lying `apart` [s].

    The last piece has one pass to hide behind; pieces before it also the time between.
    """
    each = time / plan.virtual
    per_piece = np.maximum(np.floor(layers / plan.virtual), 1.0)
    window = first * (1.0 - 1.0 / per_piece)
    last = np.maximum(each / per_piece, each - window)
    whole = time - window - (plan.virtual - 1.0) * apart
    exposed: Array = np.maximum(last, whole)
    return exposed
