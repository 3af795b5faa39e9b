"""A training step: durations of its passes by stage, and the closed form that sums them.

    layer pass   the longer of device time and host time; the backward pass holds what is recomputed
    pipeline     see `cosim.engines.pipeline`; reductions, gathers and the update see `cosim.engines.data_parallel`

A total is the busiest stage's own times m times, what it waits for, and what follows. Durations come from `step`,
as in serving; the event engine schedules the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.boundary import boundary_transfers
from cosim.engines.case import Case, device_graph, micro_batch_graph, split_layers, stage_classes, with_adapters
from cosim.engines.data_parallel import Closing, closing, layer_traffic, optimizer_step
from cosim.engines.layer import layer_pass, together
from cosim.engines.offload import moved
from cosim.engines.optimizer import planned_update
from cosim.engines.pipeline import Piece, Schedule
from cosim.engines.schedules import closing_waits, schedule_time, weight_seconds
from cosim.engines.step import CLASSES_OF_TIME, GroupCosts, OpCost, group_costs, op_costs, summed
from cosim.mapping.adapters import gradients_of_adapters
from cosim.mapping.backward import RECOMPUTED, backward, recomputed
from cosim.mapping.device import DeviceAttention, DeviceGraph, DeviceMatmul, DeviceVector
from cosim.mapping.placement import stage_stride, tensor_group
from cosim.mapping.recompute import layers_again
from cosim.mapping.schedules import copies, hops, pieces
from cosim.mapping.shard import shard
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, at_class, by_group, fullest
from cosim.mapping.training import updated_part
from cosim.mapping.weights import Weights, group_parameters, stage_weights
from cosim.mapping.widths import element_bytes, widened
from cosim.records import Array, array
from cosim.timing.collective import all_gather
from cosim.timing.energy import link_energy
from cosim.workload.ops import Graph


@dataclass(frozen=True, slots=True)
class GroupPasses:
    """One run of a group in one micro-batch (P,): the forward pass, what is computed again, the gradients.

    `again_flop` of products and attention that run again; `weight` are the seconds of weight gradients; `held` the
    parameters of a rank, `updated` those with gradients.
    """

    forward: GroupCosts
    again: GroupCosts
    gradients: GroupCosts
    again_flop: Array
    weight: Array
    held: Weights
    updated: Weights


@dataclass(frozen=True, slots=True)
class Rounds:
    """One micro-batch on a stage of each class (4, P): passes and transfers (`schedule`), passes by class of time [s].

    `host` is what the host adds to them; `energy` dynamic J per chip, `link` of one transfer (P,); `clocked` seconds
    follow the clock of the cores, `core_energy` their voltage; `offload`: passes wait for the host's memory [s];
    `again_flop` of products that run again.
    """

    schedule: Schedule
    classes: dict[str, Array]
    host: Array
    energy: Array
    link: Array
    clocked: Array
    core_energy: Array
    offload: Array
    again_flop: Array

    @property
    def stage(self) -> Stages:
        """Stage classes."""
        return self.schedule.stage


@dataclass(frozen=True, slots=True)
class Ends:
    """Before the first and after the last micro-batch on a stage of each class (4, P): traffic of the data ranks, the
    update [s], of which `swap` waits for the host's memory, and the energy of both per chip [J].
    """

    closing: Closing
    optimizer: Array
    energy: Array
    swap: Array


@dataclass(frozen=True, slots=True)
class Busiest:
    """Of one micro-batch (P,): seconds of the busiest stage by class, what its host adds, its passes (`busy`).

    Over all stages: J of one chip of each, `core_energy` of it with the voltage of the cores, and the share of their
    seconds that follows the clock (`clocked`).
    """

    classes: dict[str, Array]
    host: Array
    offload: Array
    busy: Array
    energy: Array
    clocked: Array
    core_energy: Array
    again_flop: Array


@dataclass(frozen=True, slots=True)
class StepTable:
    """Durations that both engines read, shape (4, P) by stage class [s]; `energy` is dynamic J per chip and step."""

    rounds: Rounds
    ends: Ends
    energy: Array

    @property
    def schedule(self) -> Schedule:
        """Passes and transfers of one micro-batch."""
        return self.rounds.schedule

    @property
    def stage(self) -> Stages:
        """Stage classes."""
        return self.rounds.schedule.stage

    @property
    def classes(self) -> dict[str, Array]:
        """Passes of one micro-batch by class of time."""
        return self.rounds.classes

    @property
    def closing(self) -> Closing:
        """Traffic of the data ranks."""
        return self.ends.closing

    @property
    def optimizer(self) -> Array:
        """The update."""
        return self.ends.optimizer


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


def group_passes(case: Case) -> dict[str, GroupPasses]:
    """Passes of a micro-batch through one run of each group, and the weights that it holds."""
    software, every = software_of(case), passes(case)
    cut = case.plan.tensor if software.tensor_pieces else None
    forward = group_costs(case, every.forward, every.forward_ops, pieces=cut)
    again = group_costs(case, every.again, every.again_ops, pieces=cut)
    gradients = group_costs(case, every.gradients, every.gradient_ops, overlap=software.tensor_overlap, pieces=cut)
    weights = weight_seconds(case, every.forward, every.gradient_ops)
    held = group_parameters(every.forward)
    updated = group_parameters(updated_part(every.forward, case.scenario.updates))
    found = {}
    for group, cost in forward.items():
        twice, back = (summed([part[group]] if group in part else [], cost) for part in (again, gradients))
        own = held.get(group, Weights()), updated.get(group, Weights())
        flop = _again_flop(every.again_ops, group, cost.kernels)
        found[group] = GroupPasses(cost, twice, back, flop, weights.get(group, array(0.0)), *own)
    return found


def _again_flop(ops: tuple[OpCost, ...], group: str, like: Array) -> Array:
    """FLOP of products and attention that one run of a group computes again."""
    return sum(
        (op.count * op.cost.flop for op in ops if op.group == group and op.kind != "vector"), np.zeros_like(like)
    )


def rounds_of(case: Case, groups: Mapping[str, GroupPasses]) -> Rounds:
    """What stages do for one micro-batch, from what groups take."""
    software, stage = software_of(case), stage_classes(case)
    cores = case.system.chip.collective_cores
    classes = {name: np.zeros_like(stage.layers + groups["layer"].forward.time) for name in CLASSES_OF_TIME}
    host, energy, clocked, core, offload, flop = (np.zeros_like(classes["matmul"]) for _ in range(6))
    tier = moved(case, software, stage)
    passes_of: dict[str, tuple[Array, Array, Array]] = {}
    for group, own in groups.items():
        runs, share = by_group(stage, group), layers_again(stage, case.plan, group)
        gathered, scattered, wire = layer_traffic(case, software, own.held, own.updated)
        layer = layer_pass(
            own.forward,
            own.again,
            own.gradients,
            (gathered, gathered + scattered),
            share=share,
            software=software,
            cores=cores,
            moved=tier.seconds(group),
        )
        both = together(own.forward, own.again, own.gradients, share)
        for name in CLASSES_OF_TIME:
            classes[name] += runs * (getattr(both, name) + (layer.waits if name == "collective" else 0.0))
        host += runs * layer.host
        offload += runs * layer.offload
        flop += runs * share * own.again_flop
        energy += runs * (both.energy + link_energy(wire + tier.bytes_of(group), case.system.chip))
        clocked += runs * both.clocked
        core += runs * both.core_energy
        # Weight gradients have their share of what the way back waits for.
        back = share * own.again.time + own.gradients.time
        passes_of[group] = layer.forward, layer.backward, own.weight * layer.backward / np.where(back > 0.0, back, 1.0)
    inside, across, within, beyond, link = _hops(case)
    whole = _on(stage, passes_of)
    schedule = Schedule(
        stage,
        whole.forward,
        whole.backward,
        inside,
        across,
        within,
        beyond,
        whole.weight,
        tuple(_on(part, passes_of) for part in pieces(split_layers(case), case.plan.schedule)),
    )
    return Rounds(schedule, classes, host, energy, link, clocked, core, offload, flop)


def ends_of(case: Case, groups: Mapping[str, GroupPasses]) -> Ends:
    """What surrounds the micro-batches of a step: traffic of the data ranks and the update."""
    software, stage = software_of(case), stage_classes(case)
    owned = stage_weights({group: own.updated for group, own in groups.items()}, stage, copies(case.plan.schedule))
    traffic, tier = closing(case, software, owned, stage), moved(case, software, stage)
    update, energy = _update(case, software, owned, stage)
    swap = np.maximum(tier.update_seconds - update, 0.0)
    sent = traffic.wire_bytes + tier.update_out + tier.update_in
    return Ends(traffic, update + swap, link_energy(sent, case.system.chip) + energy, swap)


def _update(case: Case, software: SoftwareArrays, owned: Weights, stage: Stages) -> tuple[Array, Array]:
    """Time [s] and energy [J] of the update on a stage of each class (4, P)."""
    if software.update is None:
        return optimizer_step(case, software, owned)
    changed = updated_part(device_graph(case), case.scenario.updates)
    planned = planned_update(case, software, software.update, changed, stage)
    return planned.time, planned.energy


def step_table(case: Case) -> StepTable:
    """Durations and energies of a step: made once, summed by the closed form, scheduled by the events."""
    groups = group_passes(case)
    rounds, ends = rounds_of(case, groups), ends_of(case, groups)
    energy = case.plan.micro_batches * (rounds.energy + hops(case.plan) * rounds.link) + ends.energy
    return StepTable(rounds, ends, energy)


def busiest(rounds: Rounds) -> Busiest:
    """What the sums of a step need of its stages."""
    schedule, stage = rounds.schedule, rounds.stage
    busy = schedule.forward + schedule.backward
    slowest = fullest(stage, busy)
    times: Array = sum(rounds.classes.values(), array(0.0))

    def over(values: Array) -> Array:
        total: Array = np.sum(stage.count * values, axis=0)
        return total

    return Busiest(
        classes={name: at_class(values, slowest) for name, values in rounds.classes.items()},
        host=at_class(rounds.host, slowest),
        offload=at_class(rounds.offload, slowest),
        busy=at_class(busy, slowest),
        energy=over(rounds.energy),
        clocked=over(rounds.clocked) / over(times),
        core_energy=over(rounds.core_energy),
        again_flop=over(rounds.again_flop),
    )


def step_parts(case: Case, table: StepTable) -> dict[str, Array]:
    """Exposed parts of a step [s], see `exposed_parts`."""
    return exposed_parts(case, table.schedule, busiest(table.rounds), table.ends)


def exposed_parts(case: Case, schedule: Schedule, own: Busiest, ends: Ends) -> dict[str, Array]:
    """Exposed parts of a step [s]: the busiest stage's own times m times, what it waits for, what follows."""
    plan, software, cores = case.plan, software_of(case), case.system.chip.collective_cores
    m = plan.micro_batches
    parts = {name: m * own.classes[name] for name in CLASSES_OF_TIME}
    parts["host"] = m * own.host + host_step(case)
    parts["bubble"] = np.maximum(schedule_time(schedule, plan) - m * own.busy, 0.0)
    before, after = closing_waits(ends.closing, schedule, plan, cores, overlap=software.gradient_overlap)
    last = after + ends.optimizer
    update, end = at_class(ends.optimizer, fullest(schedule.stage, last)), np.max(last, axis=0)
    # A stage that ended early may have begun its update before the first one ended.
    parts["optimizer"] = np.minimum(update, end)
    parts["data_parallel"] = before + end - parts["optimizer"]
    swap = np.minimum(at_class(ends.swap, fullest(schedule.stage, last)), parts["optimizer"])
    parts["optimizer"] = parts["optimizer"] - swap
    parts["offload"] = m * own.offload + swap
    return parts


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
    inside, across, within, beyond = boundary_transfers(size / plan.tensor, stage_stride(plan), case, plan.chips)
    if not plan.sequence_parallel:
        # Every rank sends its slice and the receivers put the whole together inside their group.
        joined = all_gather(size, tensor_group(plan, case.system.sizes), case.system).time
        within, beyond = within + joined, beyond + joined
    reached = software_of(case).collective_rate
    within, beyond = within / reached, beyond / reached
    alone = plan.pipeline > 1.0
    return inside, across, within, beyond, np.where(alone, link_energy(size / plan.tensor, chip), 0.0)


def with_micro_batches(case: Case) -> Case:
    """The case with the micro-batches per replica that its global batch makes."""
    plan = case.plan
    count = case.scenario.global_batch / (plan.data * plan.micro_batch)
    return replace(case, plan=replace(plan, micro_batches=count))
