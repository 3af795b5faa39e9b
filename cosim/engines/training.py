"""A training step: durations of its passes by stage, and the closed form that sums them.

    layer pass   the longer of device time and host time; the backward pass holds what is recomputed
    pipeline     see `cosim.engines.pipeline`; reductions, gathers and the update see `cosim.engines.data_parallel`

A total is the busiest stage's own times m times, what it waits for, and what follows. Durations come from `step`,
as in serving; the event engine schedules the same table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.boundary import boundary_transfers
from cosim.engines.case import Case, device_graph, micro_batch_graph, split_layers, stage_classes, with_adapters
from cosim.engines.data_parallel import Closing, closing, layer_traffic, optimizer_step
from cosim.engines.layer import layer_pass
from cosim.engines.offload import moved
from cosim.engines.optimizer import planned_update
from cosim.engines.pipeline import Piece, Schedule
from cosim.engines.schedules import closing_waits, schedule_time, weight_seconds
from cosim.engines.step import CLASSES_OF_TIME, OpCost, group_costs, op_costs
from cosim.mapping.adapters import gradients_of_adapters
from cosim.mapping.backward import RECOMPUTED, backward, recomputed
from cosim.mapping.device import DeviceAttention, DeviceGraph, DeviceMatmul, DeviceVector
from cosim.mapping.placement import tensor_placement
from cosim.mapping.recompute import layers_again
from cosim.mapping.schedules import copies, hops, pieces
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, at_class, by_group, fullest
from cosim.mapping.training import updated_part
from cosim.mapping.weights import Weights, group_parameters, stage_parameters
from cosim.mapping.widths import element_bytes, widened
from cosim.records import Array, array
from cosim.timing.collective import all_gather
from cosim.timing.energy import link_energy
from cosim.workload.ops import Graph


@dataclass(frozen=True, slots=True)
class StepTable:
    """Durations that both engines read, shape (4, P) by stage class unless said otherwise [s].

    `schedule`: passes of one micro-batch on a whole stage and transfers; `classes` the passes by class of time, `host`
    what the host adds to them and `offload` the link to its memory; `closing`: traffic of the data ranks before and
    after; `optimizer` the update, of which `swap` waits for that link; `again_flop` of products run again in a
    micro-batch;
    `energy` dynamic J per chip and step; `clocked` seconds of one micro-batch
    that follow the clock of the cores, `core_energy` the part of `energy` that follows their voltage.
    """

    schedule: Schedule
    classes: dict[str, Array]
    host: Array
    closing: Closing
    optimizer: Array
    energy: Array
    clocked: Array
    core_energy: Array
    offload: Array
    swap: Array
    again_flop: Array

    @property
    def stage(self) -> Stages:
        """Stage classes."""
        return self.schedule.stage


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
    plan, graph = case.plan, micro_batch_graph(case)
    device = device_graph(case, graph)
    gradients = _gradients(case, graph)
    again = recomputed(device, plan.recompute, plan.recompute_modules)
    together = DeviceGraph(
        "train",
        (*device.matmuls, *gradients.matmuls),
        (*device.attentions, *gradients.attentions),
        (*device.vectors, *gradients.vectors),
        (),
    )
    costs = {op.name: op for op in op_costs(case, together)}

    def of(part: DeviceGraph) -> tuple[OpCost, ...]:
        kinds: tuple[tuple[DeviceMatmul | DeviceAttention | DeviceVector, ...], ...]
        kinds = (part.matmuls, part.attentions, part.vectors)
        ops = [op for kind in kinds for op in kind]
        return tuple(replace(costs[op.name.removesuffix(RECOMPUTED)], name=op.name, count=op.count) for op in ops)

    return Passes(device, again, gradients, of(device), of(again), of(gradients))


def _gradients(case: Case, graph: Graph) -> DeviceGraph:
    """Gradient ops of a micro-batch: of all weights, or of adapters alone."""
    software, plan = software_of(case), case.plan
    device = with_adapters(shard(graph, plan, case.system.node_chips), case)
    gradients = backward(device, graph, plan, software)
    if case.scenario.updates == "adapters":
        gradients = gradients_of_adapters(device, gradients)
    return widened(gradients, graph, plan, software)


def kernels(case: Case) -> tuple[OpCost, ...]:
    """Every kernel of a micro-batch in the order of its passes: forward, run again, gradients."""
    every = passes(case)
    return (*every.forward_ops, *every.again_ops, *every.gradient_ops)


def step_table(case: Case) -> StepTable:
    """Durations and energies of a step: made once, summed by the closed form, scheduled by the events."""
    software, stage, every = software_of(case), stage_classes(case), passes(case)
    cores = case.system.chip.collective_cores
    forward = group_costs(case, every.forward, every.forward_ops)
    again = group_costs(case, every.again, every.again_ops)
    gradients = group_costs(case, every.gradients, every.gradient_ops, overlap=software.tensor_overlap)
    changed = updated_part(every.forward, case.scenario.updates)
    held, updated = group_parameters(every.forward), group_parameters(changed)
    classes = {name: np.zeros_like(stage.layers + forward["layer"].time) for name in CLASSES_OF_TIME}
    host, energy, clocked, core, offload = (np.zeros_like(classes["matmul"]) for _ in range(5))
    tier = moved(case, software, every.forward, stage)
    weights = weight_seconds(case, every.forward, every.gradient_ops)
    passes_of: dict[str, tuple[Array, Array, Array]] = {}
    for group in forward:
        runs = by_group(stage, group)
        share = layers_again(stage, case.plan, group)
        ways = [(part[group], of) for part, of in ((again, share), (gradients, array(1.0))) if group in part]
        for cost, of in ((forward[group], array(1.0)), *ways):
            for name in CLASSES_OF_TIME:
                classes[name] += runs * of * getattr(cost, name)
            energy += runs * of * cost.energy
            clocked += runs * of * cost.clocked
            core += runs * of * cost.core_energy
        owns = held.get(group, Weights()), updated.get(group, Weights())
        gathered, scattered, wire = layer_traffic(case, software, *owns)
        layer = layer_pass(
            forward[group],
            again.get(group),
            gradients.get(group),
            (gathered, gathered + scattered),
            share=share,
            software=software,
            cores=cores,
            moved=tier.seconds(group),
        )
        offload += runs * layer.offload
        energy += runs * link_energy(tier.bytes_of(group), case.system.chip)
        classes["collective"] += runs * layer.waits
        host += runs * layer.host
        passes_of[group] = layer.forward, layer.backward, weights.get(group, array(0.0))
        energy += runs * link_energy(wire, case.system.chip)
    inside, across, within, beyond, link = _hops(case)
    owned = stage_parameters(changed, stage, copies(case.plan.schedule))
    ends = closing(case, software, owned, stage)
    update, update_energy = _update(case, software, changed, stage)
    swap = np.maximum(tier.update_seconds - update, 0.0)
    whole = _on(stage, passes_of)
    total = case.plan.micro_batches * (energy + hops(case.plan) * link)
    total = total + link_energy(ends.wire_bytes + tier.update_out + tier.update_in, case.system.chip) + update_energy
    return StepTable(
        schedule=Schedule(
            stage,
            whole.forward,
            whole.backward,
            inside,
            across,
            within,
            beyond,
            whole.weight,
            tuple(_on(part, passes_of) for part in pieces(split_layers(case), case.plan.schedule)),
        ),
        classes=classes,
        host=host,
        closing=ends,
        optimizer=update + swap,
        offload=offload,
        swap=swap,
        again_flop=_again_flop(case, stage, every.again_ops),
        energy=total,
        clocked=clocked,
        core_energy=case.plan.micro_batches * core,
    )


def _again_flop(case: Case, stage: Stages, again_ops: tuple[OpCost, ...]) -> Array:
    """FLOP of products and attention that a micro-batch runs again on a stage of each class (4, P)."""
    flop = np.zeros_like(stage.layers)
    for op in again_ops:
        if op.kind != "vector":
            runs = by_group(stage, op.group) * layers_again(stage, case.plan, op.group)
            flop = flop + runs * op.count * op.cost.flop
    return flop


def step_parts(case: Case, table: StepTable) -> dict[str, Array]:
    """Exposed parts of a step [s]: the busiest stage's own times m times, what it waits for, what follows."""
    schedule, plan, software = table.schedule, case.plan, software_of(case)
    stage, cores = table.stage, case.system.chip.collective_cores
    busy = schedule.forward + schedule.backward
    slowest = fullest(stage, busy)

    def at_slowest(values: Array) -> Array:
        return at_class(values, slowest)

    m = plan.micro_batches
    parts = {name: m * at_slowest(table.classes[name]) for name in CLASSES_OF_TIME}
    parts["host"] = m * at_slowest(table.host) + host_step(case)
    pipeline = schedule_time(schedule, plan)
    parts["bubble"] = np.maximum(pipeline - m * at_slowest(busy), 0.0)
    before, after = closing_waits(table.closing, schedule, plan, cores, overlap=software.gradient_overlap)
    ends = after + table.optimizer
    update, end = at_class(table.optimizer, fullest(stage, ends)), np.max(ends, axis=0)
    # A stage that ended early may have begun its update before the first one ended.
    parts["optimizer"] = np.minimum(update, end)
    parts["data_parallel"] = before + end - parts["optimizer"]
    swap = np.minimum(at_class(table.swap, fullest(stage, ends)), parts["optimizer"])
    parts["optimizer"] = parts["optimizer"] - swap
    parts["offload"] = m * at_slowest(table.offload) + swap
    return parts


def _update(case: Case, software: SoftwareArrays, changed: DeviceGraph, stage: Stages) -> tuple[Array, Array]:
    """Time [s] and energy [J] of the update on a stage of each class (4, P)."""
    if software.update is None:
        return optimizer_step(case, software, stage_parameters(changed, stage, copies(case.plan.schedule)))
    planned = planned_update(case, software, software.update, changed, stage)
    return planned.time, planned.energy


def _on(stage: Stages, passes_of: dict[str, tuple[Array, Array, Array]]) -> Piece:
    """Passes of one micro-batch on what `stage` holds: runs of every group times its seconds."""
    zero = np.zeros_like(stage.layers)
    sums = [sum((by_group(stage, group) * each[kind] for group, each in passes_of.items()), zero) for kind in range(3)]
    return Piece(*sums)


def host_step(case: Case) -> Array:
    """Host time of an optimizer step [s]; none where nothing is updated."""
    host: Array = software_of(case).host_step * (0.0 if case.scenario.updates == "nothing" else 1.0)
    return host


def _hops(case: Case) -> tuple[Array, Array, Array, Array, Array]:
    """Transfers between stages: counts inside and across nodes, time of each [s], energy per chip [J]."""
    chip, plan = case.system.chip, case.plan
    wide = element_bytes(plan, software_of(case))
    size = plan.micro_batch * case.scenario.context / plan.context * case.model.hidden * wide
    inside, across, within, beyond = boundary_transfers(size / plan.tensor, plan.tensor * plan.replicas, case)
    if not plan.sequence_parallel:
        # Every rank sends its slice and the receivers put the whole together inside their group.
        joined = all_gather(size, tensor_placement(plan.tensor, case.system.sizes, plan.chips), case.system).time
        within, beyond = within + joined, beyond + joined
    alone = plan.pipeline > 1.0
    return inside, across, within, beyond, np.where(alone, link_energy(size / plan.tensor, chip), 0.0)


def with_micro_batches(case: Case) -> Case:
    """The case with the micro-batches per replica that its global batch makes."""
    plan = case.plan
    count = case.scenario.global_batch / (plan.data * plan.micro_batch)
    return replace(case, plan=replace(plan, micro_batches=count))
