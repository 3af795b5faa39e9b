"""The closed form of a training step: passes of a micro-batch, the pipeline, data-parallel traffic, the optimizer.

    layer pass   the longer of device time and host time; the backward pass holds what is recomputed
    pipeline     chain / v + (m - 1 / v) slowest            chain: every stage once, forward and back, and transfers
    reduction    what the backward pass of the last micro-batch does not hide, after the first stage's last one
    optimizer    bytes of its state over DRAM bandwidth

`slowest` is the busiest stage, or the mean over stages with their transfers where that is more: a micro-batch
returns to the first stage only after its way through all. Durations come from `step`, as in serving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case, device_graph, micro_batch_graph, stage_classes
from cosim.engines.step import CLASSES_OF_TIME, GroupCosts, OpCost, group_costs, op_costs
from cosim.mapping.backward import RECOMPUTED, backward, recomputed
from cosim.mapping.placement import data_placement, stage_hops, tensor_placement
from cosim.mapping.shard import ACTIVATION_BYTES, DeviceGraph, DeviceVector
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, by_group
from cosim.mapping.training import group_parameters, stage_parameters
from cosim.records import Array, array
from cosim.timing.collective import all_gather, all_reduce, reduce_scatter, send
from cosim.timing.energy import kernel_energy, link_energy
from cosim.timing.vector import vector_cost

TRAINING_PARTS = (*CLASSES_OF_TIME, "host", "bubble", "data_parallel", "optimizer")


@dataclass(frozen=True, slots=True)
class StepTable:
    """Durations that both engines read, shape (4, P) by stage class unless said otherwise [s].

    `forward` and `backward` of one micro-batch on a whole stage; `classes` their sum by class of time, `host` what
    the host adds to it; `inside`, `across` transfers of a micro-batch inside and across nodes (P,) with their
    counts; `reduction` and `optimizer` after the last micro-batch; `energy` dynamic J per chip and step.
    """

    stage: Stages
    forward: Array
    backward: Array
    classes: dict[str, Array]
    host: Array
    inside: Array
    across: Array
    inside_time: Array
    across_time: Array
    reduction: Array
    optimizer: Array
    energy: Array


@dataclass(frozen=True, slots=True)
class Passes:
    """Ops of one micro-batch of one rank: forward, what is run again, gradients."""

    forward: DeviceGraph
    again: DeviceGraph
    gradients: DeviceGraph
    forward_ops: tuple[OpCost, ...]
    again_ops: tuple[OpCost, ...]
    gradient_ops: tuple[OpCost, ...]


def software_of(case: Case) -> SoftwareArrays:
    """The training software of a case. Raises ValueError for a case that serves."""
    if case.software is None:
        raise ValueError("a training case needs its software")
    return case.software


def passes(case: Case) -> Passes:
    """Every kernel of a micro-batch with its cost; what runs again costs what it cost before."""
    software, plan = software_of(case), case.plan
    graph, device = micro_batch_graph(case), device_graph(case)
    gradients = backward(device, graph, sequence_parallel=plan.sequence_parallel, software=software)
    again = recomputed(device, plan.recompute)
    together = DeviceGraph(
        "train",
        (*device.matmuls, *gradients.matmuls),
        (*device.attentions, *gradients.attentions),
        (*device.vectors, *gradients.vectors),
        (),
    )
    costs = {op.name: op for op in op_costs(case, together)}

    def of(part: DeviceGraph) -> tuple[OpCost, ...]:
        kernels = (part.matmuls, part.attentions, part.vectors)
        return tuple(costs[op.name.removesuffix(RECOMPUTED)] for kind in kernels for op in kind)

    return Passes(device, again, gradients, of(device), of(again), of(gradients))


def step_table(case: Case) -> StepTable:
    """Durations and energies of a step: made once, summed by the closed form, scheduled by the events."""
    software, stage, every = software_of(case), stage_classes(case), passes(case)
    overlap = software.tensor_overlap
    forward = group_costs(case, every.forward, every.forward_ops)
    again = group_costs(case, every.again, every.again_ops)
    gradients = group_costs(case, every.gradients, every.gradient_ops, overlap=overlap)
    classes = {name: np.zeros_like(stage.layers + forward["layer"].time) for name in CLASSES_OF_TIME}
    ahead, back, host, energy = (np.zeros_like(classes["matmul"]) for _ in range(4))
    gathers = _weight_gathers(case, every.forward, forward)
    for group in forward:
        runs = by_group(stage, group)
        returning = [part[group] for part in (again, gradients) if group in part]
        for cost in (forward[group], *returning):
            for name in CLASSES_OF_TIME:
                classes[name] += runs * getattr(cost, name)
            energy += runs * cost.energy
        out, ret = forward[group].time, sum((cost.time for cost in returning), array(0.0))
        late_out = np.maximum(_host(software, [forward[group]]) - out, 0.0)
        late_ret = np.maximum(_host(software, returning) - ret, 0.0)
        exposed = gathers if group == "layer" else (array(0.0), array(0.0))
        classes["collective"] += runs * (exposed[0] + exposed[1])
        ahead += runs * (out + late_out + exposed[0])
        back += runs * (ret + late_ret + exposed[1])
        host += runs * (late_out + late_ret)
    inside, across, within, beyond, link = _hops(case)
    held = stage_parameters(every.forward, stage)
    reduced, wire = _reduction(case, held, back)
    update, update_energy = _optimizer(case, held)
    micro = case.plan.micro_batches
    total = micro * (energy + 2.0 * link) + link_energy(wire, case.system.chip) + update_energy
    return StepTable(stage, ahead, back, classes, host, inside, across, within, beyond, reduced, update, total)


def step_parts(case: Case, table: StepTable) -> dict[str, Array]:
    """Exposed parts of a step [s]: the busiest stage's own times m times, what it waits for, what follows."""
    stage, plan = table.stage, case.plan
    busy = table.forward + table.backward
    present = stage.count > 0.0
    own = np.where(present, busy, -np.inf)
    slowest = np.expand_dims(np.argmax(own, axis=0), 0)

    def at_slowest(values: Array) -> Array:
        chosen: Array = np.take_along_axis(np.broadcast_to(values, own.shape), slowest, axis=0)[0]
        return chosen

    m = plan.micro_batches
    parts = {name: m * at_slowest(table.classes[name]) for name in CLASSES_OF_TIME}
    parts["host"] = m * at_slowest(table.host) + software_of(case).host_step
    pipeline = pipeline_time(table, plan.pipeline, m, plan.virtual)
    parts["bubble"] = np.maximum(pipeline - m * at_slowest(busy), 0.0)
    # A stage ends its last backward pass before the ones in front of it: its reduction may be done by then.
    lead = (np.cumsum(stage.count * table.backward, axis=0) - stage.count * table.backward) / plan.virtual
    after = np.where(present, table.reduction + table.optimizer - lead, -np.inf)
    last = np.expand_dims(np.argmax(after, axis=0), 0)
    update = np.take_along_axis(np.broadcast_to(table.optimizer, own.shape), last, axis=0)[0]
    parts["optimizer"] = update
    parts["data_parallel"] = np.max(after, axis=0) - update
    return parts


def pipeline_time(table: StepTable, pipeline: Array, micro_batches: Array, virtual: Array) -> Array:
    """From the first forward to the last backward pass of the first stage [s], shape (P,)."""
    busy = table.forward + table.backward
    count = table.stage.count
    moves = 2.0 * (table.inside * table.inside_time + table.across * table.across_time)
    chain = np.sum(count * busy, axis=0)
    slowest = np.max(np.where(count > 0.0, busy, 0.0), axis=0)
    # A ring of stages with as many micro-batches in it as stages: transfers are not hidden. The worst pair of
    # neighbours has one of the slower kind between them.
    transfer = np.where(table.across > 0.0, table.across_time, table.inside_time)
    pair = np.where(pipeline > 1.0, chain / pipeline + transfer, 0.0)
    ring = np.maximum((chain + moves) / pipeline, pair)
    slowest = np.where(virtual > 1.0, slowest, np.maximum(slowest, ring))
    # Interleaved: a micro-batch also returns from the last stage to the first between pieces.
    wraps = (virtual - 1.0) * pipeline * 2.0 * transfer
    total: Array = chain / virtual + moves + wraps + (micro_batches - 1.0 / virtual) * slowest
    return total


def _host(software: SoftwareArrays, costs: list[GroupCosts]) -> Array:
    """Host time to issue the kernels of a layer pass, collectives among them [s]."""
    issued: Array = sum((cost.kernels for cost in costs), array(0.0))
    return issued * software.host_kernel


def _hops(case: Case) -> tuple[Array, Array, Array, Array, Array]:
    """Transfers between stages: counts inside and across nodes, time of each [s], energy per chip [J]."""
    tiers, chip, plan = case.system.tiers, case.system.chip, case.plan
    size = plan.micro_batch * case.scenario.context * case.model.hidden * ACTIVATION_BYTES
    inside, across = stage_hops(plan.tensor * plan.data, plan.pipeline, tiers[0].size)
    within, beyond = (send(size / plan.tensor, tiers[index], case.system) for index in (0, -1))
    if not plan.sequence_parallel:
        # Every rank sends its slice and the receivers put the whole together inside their group.
        joined = all_gather(size, tensor_placement(plan.tensor, tiers[0].size), case.system).time
        within, beyond = within + joined, beyond + joined
    alone = plan.pipeline > 1.0
    return inside, across, within, beyond, np.where(alone, link_energy(size / plan.tensor, chip), 0.0)


def _reduction(case: Case, held: Array, back: Array) -> tuple[Array, Array]:
    """Exposed time of the gradient reduction and weight gathering after the last micro-batch; bytes sent (4, P).

    ZeRO 2 and 3 scatter every micro-batch's gradients, because a shard has no room for the sum.
    """
    software, plan, system = software_of(case), case.plan, case.system
    group = data_placement(plan.tensor, plan.data, system.tiers[0].size)
    gradients = held * software.reduced_bytes
    plain = all_reduce(gradients, group, system)
    scattered = reduce_scatter(gradients, group, system)
    gathered = all_gather(held * ACTIVATION_BYTES, group, system)
    often = np.where(plan.zero >= 2.0, plan.micro_batches, 1.0)
    split = scattered.time + np.where(plan.zero >= 3.0, 0.0, gathered.time)
    time = np.where(plan.zero >= 1.0, split, plain.time)
    extra = (often - 1.0) * scattered.time
    if software.gradient_overlap:
        # The first layer's bucket has nothing left to hide behind.
        layers = np.maximum(plan.virtual, 1.0)
        window = back / plan.virtual
        time = np.maximum(time / np.maximum(layers * 8.0, 1.0), time - window)
        extra = np.maximum(extra - (often - 1.0) * window, 0.0)
    wire = np.where(plan.zero >= 1.0, often * scattered.wire_bytes + gathered.wire_bytes, plain.wire_bytes)
    many = plan.data > 1.0
    return np.where(many, time + extra, 0.0), np.where(many, wire, 0.0)


def _weight_gathers(case: Case, device: DeviceGraph, forward: dict[str, GroupCosts]) -> tuple[Array, Array]:
    """Exposed time per layer to gather the weights under ZeRO 3, forward and backward [s]."""
    plan, system = case.plan, case.system
    if not np.any(plan.zero >= 3.0):
        return array(0.0), array(0.0)
    held = group_parameters(device).get("layer", array(0.0))
    group = data_placement(plan.tensor, plan.data, system.tiers[0].size)
    time = all_gather(held * ACTIVATION_BYTES, group, system).time
    sharded = (plan.zero >= 3.0) & (plan.data > 1.0)
    if software_of(case).gradient_overlap:
        work = forward["layer"].time
        ahead, back = np.maximum(time - work, 0.0), np.maximum(time - 2.0 * work, 0.0)
    else:
        ahead, back = time, time
    return np.where(sharded, ahead, 0.0), np.where(sharded, back, 0.0)


def _optimizer(case: Case, held: Array) -> tuple[Array, Array]:
    """Time [s] and energy [J] of the update on a stage of each class: one pass over gradient, state and weight."""
    software, plan, chip = software_of(case), case.plan, case.system.chip
    share = np.where(plan.zero >= 1.0, 1.0 / plan.data, 1.0)
    mine = held * share
    # Gradients are read twice (their norm, the update) and cleared; state is read and written.
    read = mine * (2.0 * software.gradient_bytes + software.optimizer_bytes)
    written = mine * (software.gradient_bytes + software.optimizer_bytes + ACTIVATION_BYTES)
    zero = np.zeros_like(read)
    op = DeviceVector("optimizer", "step", array(1.0), read, written, 12.0 * mine, mine, zero)
    cost = vector_cost(op, chip)
    return cost.time + chip.launch.gap, kernel_energy(cost, chip, "fp32")


def with_micro_batches(case: Case) -> Case:
    """The case with the micro-batches per replica that its global batch makes."""
    plan = case.plan
    count = case.scenario.global_batch / (plan.data * plan.micro_batch)
    return replace(case, plan=replace(plan, micro_batches=count))
