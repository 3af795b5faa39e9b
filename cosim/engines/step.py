"""Durations and energies of one micro-batch on every stage class: the table that both engines read.

The closed form sums it up; the event engine schedules it. Neither has an op time of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cosim.engines.boundary import boundary_transfers
from cosim.engines.case import Case
from cosim.engines.serving_stack import sent_by, served_by
from cosim.engines.stack import as_stack_runs, as_stack_sends
from cosim.hardware.lower import ChipArrays
from cosim.mapping.device import (
    ACTIVATION_BYTES,
    ACTIVATION_DTYPE,
    EXPERT_GATHER,
    EXPERT_SCATTER,
    DeviceAttention,
    DeviceCollective,
    DeviceGraph,
    DeviceMatmul,
    DeviceVector,
)
from cosim.mapping.placement import (
    Placement,
    context_placement,
    expert_placement,
    expert_tensor_placement,
    group_placement,
    serving_stage,
    tensor_group,
)
from cosim.mapping.stages import Stages, by_group
from cosim.records import Array, array, points, take
from cosim.timing.attention import attention_cost
from cosim.timing.blocks import in_blocks, promotion_energy
from cosim.timing.collective import (
    CollectiveCost,
    all_gather,
    all_reduce,
    all_to_all,
    exposed,
    reduce_scatter,
    taken,
    uniform_all_to_all,
)
from cosim.timing.cost import KernelCost, math_dtype
from cosim.timing.energy import link_energy, step_energy
from cosim.timing.matmul import matmul_cost
from cosim.timing.vector import vector_cost
from cosim.workload.ops import Attention

CLASSES_OF_TIME = ("matmul", "attention", "vector", "launch", "collective")
POWER = ("energy", "clocked", "core_energy")
ROUTER = "router"
"""The product that a routed layer begins with."""
ISSUED = ("kernels", "collectives", "exchanges")


@dataclass(frozen=True, slots=True)
class OpCost:
    """One operator of one rank and micro-batch: its cost per run, its group and how often it runs in it."""

    name: str
    kind: str
    group: str
    count: Array
    dims: tuple[Array, ...]
    dtype: str
    cost: KernelCost
    energy: Array
    core_energy: Array
    """The part of `energy` that falls with the voltage of the cores."""
    launched: bool = True
    """Whether it is a kernel of its own."""


@dataclass(frozen=True, slots=True)
class ClassTimes:
    """Seconds by class of time, and dynamic J per chip, of one micro-batch.

    `clocked` seconds follow the clock of the cores, `core_energy` their voltage.
    """

    matmul: Array
    attention: Array
    vector: Array
    launch: Array
    collective: Array
    energy: Array
    clocked: Array
    core_energy: Array

    @property
    def time(self) -> Array:
        """Sum of the exposed parts, in the order of CLASSES_OF_TIME [s]."""
        total: Array = sum((getattr(self, name) for name in CLASSES_OF_TIME), array(0.0))
        return total


@dataclass(frozen=True, slots=True)
class StageCosts(ClassTimes):
    """On a stage of each class, shape (4, P), with the kernels that are issued there."""

    kernels: Array = field(default_factory=lambda: array(0.0))


@dataclass(frozen=True, slots=True)
class GroupCosts(ClassTimes):
    """In one run of a group, arrays (P,), with the kernels and the collectives that are issued.

    `exchanges` are the collectives that carry tokens to experts or back.
    """

    kernels: Array
    collectives: Array
    exchanges: Array


@dataclass(frozen=True, slots=True)
class Transfers:
    """Between neighbouring stages of a replica: how many, and the time of each [s], inside and across nodes."""

    inside: Array
    across: Array
    inside_time: Array
    across_time: Array
    energy: Array
    """Of one transfer per sending chip [J]."""


def op_costs(case: Case, device: DeviceGraph) -> tuple[OpCost, ...]:
    """Cost of every unique kernel of the case; arrays of shape (P,). Kernels of one kind in one call."""
    chip, count = case.system.chip, points(case)
    matmuls = _matmul_costs(device.matmuls, chip, count)
    attentions = [_attention(op, chip, count) for op in device.attentions]
    vectors = [_vector(op, chip, count) for op in device.vectors]
    every = (*matmuls, *attentions, *vectors)
    software, stack = case.software, case.stack
    if stack is not None:
        products = {op.name: op for op in device.matmuls}
        return tuple(replace(op, cost=served_by(op.cost, op.kind, stack, chip, products.get(op.name))) for op in every)
    if software is None:
        return every
    return tuple(replace(op, cost=as_stack_runs(op.cost, op.kind, software, chip)) for op in every)


def without_work(op: OpCost, kind: str) -> OpCost:
    """The kernel, or, where it is of `kind`, one that is launched and does nothing."""
    if op.kind != kind:
        return op
    idle, none = replace(op.cost, time=np.zeros_like(op.cost.time)), np.zeros_like(op.energy)
    return replace(op, cost=idle, energy=none, core_energy=none)


def stage_costs(case: Case, device: DeviceGraph, ops: Sequence[OpCost], stage: Stages) -> StageCosts:
    """Sums over the ops of each stage class, with the gap of every kernel and the collectives."""
    shape = np.broadcast_shapes(stage.layers.shape, (len(stage.layers), points(case)))
    sums = {name: np.zeros(shape) for name in (*CLASSES_OF_TIME, *POWER, "kernels")}
    for group, cost in group_costs(case, device, ops).items():
        runs = by_group(stage, group)
        for name in sums:
            sums[name] += runs * getattr(cost, name)
    return StageCosts(**sums)


def group_costs(
    case: Case, device: DeviceGraph, ops: Sequence[OpCost], *, overlap: bool = False, pieces: Array | None = None
) -> dict[str, GroupCosts]:
    """Cost of one run of each group (a layer, the embedding, the head) of one micro-batch, arrays (P,).

    With `overlap` a collective that has a kernel to run behind is exposed only where it takes longer. With `pieces` one
    that feeds a product, or is fed by it, runs beside it piece by piece: the first or last piece has nothing to hide
    behind.
    """
    chip, count = case.system.chip, points(case)
    names = (*CLASSES_OF_TIME, *POWER, *ISSUED)
    groups = dict.fromkeys([*(op.group for op in ops), *(op.group for op in device.collectives)])
    sums = {group: {name: np.zeros(count) for name in names} for group in groups}
    behind: dict[str, KernelCost] = {}
    for op in ops:
        own = sums[op.group]
        own[op.kind] += op.count * op.cost.time
        issued = op.count if op.launched else 0.0 * op.count
        own["launch"] += issued * chip.launch.gap
        if op.group == "moe" and op.name == ROUTER and case.stack is not None:
            own["launch"] += op.count * case.stack.routed_start
        own["energy"] += op.count * op.energy
        own["core_energy"] += op.count * op.core_energy
        own["clocked"] += op.count * op.cost.clocked
        own["kernels"] += issued
        behind[op.name] = op.cost
    group = tensor_group(case.plan, case.system.sizes)
    for collective in device.collectives:
        exchange = collective.kind == "all_to_all"
        cost = as_stack_sends(_collective(collective, case, group), case.software, exchange=exchange)
        cost = sent_by(cost, collective, group, case.system, case.stack)
        time = cost.time
        if (overlap or collective.hides) and collective.behind in behind:
            work = behind[collective.behind]
            time = exposed(time, work.time, taken(cost, case.system, _dram_busy(work, chip)))
        elif pieces is not None and collective.beside in behind:
            work, first = behind[collective.beside], time / pieces
            time = first + exposed(time - first, work.time, taken(cost, case.system, _dram_busy(work, chip)))
        own = sums[collective.group]
        own["collective"] += collective.count * time
        own["energy"] += collective.count * link_energy(cost.wire_bytes, chip)
        # A group of one rank issues nothing.
        sent = np.where(cost.wire_bytes > 0.0, collective.count, 0.0)
        own["collectives"] += sent
        own["exchanges"] += sent if exchange else 0.0
    return {group: GroupCosts(**own) for group, own in sums.items()}


def summed(costs: Sequence[GroupCosts], like: GroupCosts) -> GroupCosts:
    """Several passes of a group together, nothing of the shape of `like` where there are none."""
    names = (*CLASSES_OF_TIME, *POWER, *ISSUED)
    none = np.zeros_like(like.kernels)
    return GroupCosts(**{name: sum((getattr(cost, name) for cost in costs), none) for name in names})


def _dram_busy(cost: KernelCost, chip: ChipArrays) -> Array:
    """Share of the achievable DRAM bandwidth that a kernel takes while it runs."""
    rate = chip.memory["dram"].bandwidth * chip.quality.memory
    busy: Array = np.minimum(cost.dram_bytes / rate / np.where(cost.time > 0.0, cost.time, np.inf), 1.0)
    return busy


def transfers(case: Case) -> Transfers:
    """Activations of one micro-batch handed from stage to stage, one tensor rank to its peer."""
    if case.work is not None:
        tokens = case.work.tokens / (case.plan.data * case.plan.micro_batches)
    else:
        sequences = case.scenario.batch / (case.plan.data * case.plan.micro_batches)
        tokens = sequences * (case.scenario.context if case.phase == "prefill" else 1.0)
    # Each rank sends its slice of the hidden vector; the receivers gather inside their group for free
    # because the next layer's first collective needs no more than the slices.
    size = tokens * case.model.hidden * ACTIVATION_BYTES / case.plan.tensor
    inside, across, within, beyond = boundary_transfers(size, serving_stage(case.plan), case)
    return Transfers(inside, across, within, beyond, link_energy(size, case.system.chip))


def _matmul_costs(ops: tuple[DeviceMatmul, ...], chip: ChipArrays, count: int) -> list[OpCost]:
    """All matmuls of one format stacked to (ops x P) and costed by one call."""
    found: dict[str, OpCost] = {}
    kinds = dict.fromkeys((op.dtype, op.output_bytes, op.stored, op.scales) for op in ops)
    for asked, moved, stored, scales in kinds:
        same = [op for op in ops if (op.dtype, op.output_bytes, op.stored, op.scales) == (asked, moved, stored, scales)]
        # The head is kept at 16 bits; a chip without such a rate runs it in the widest format it has.
        dtype = math_dtype(chip) if asked == ACTIVATION_DTYPE else asked
        names = ("m", "n", "k", "batch", "distinct", "fetched")
        dims = {d: np.concatenate([np.broadcast_to(getattr(op, d), (count,)) for op in same]) for d in names}
        point = np.tile(np.arange(count, dtype=np.intp), len(same))
        stacked = take(chip, point)
        cost = matmul_cost(
            **dims, chip=stacked, dtype=dtype, resident="activations", output_bytes=moved, weights=stored
        )
        if any(scales):
            plain = {name: dims[name] for name in ("m", "n", "k", "batch", "distinct")}
            cost = in_blocks(cost, **plain, chip=stacked, dtype=dtype, scales=scales)
        energy, core = step_energy(cost, stacked, dtype)
        if any(scales):
            added = promotion_energy(dims["m"], dims["n"], dims["k"], dims["batch"], stacked)
            energy, core = energy + added, core + added
        for index, op in enumerate(same):
            rows = np.arange(index * count, (index + 1) * count, dtype=np.intp)
            own = take(cost, rows)
            shape = (op.m, op.n, op.k)
            powers = (energy[rows], core[rows])
            found[op.name] = OpCost(op.name, "matmul", op.group, op.count, shape, dtype, own, *powers)
    return [found[op.name] for op in ops]


def _attention(op: DeviceAttention, chip: ChipArrays, count: int) -> OpCost:
    cost = attention_cost(op.op, chip, op.kv_dtype, backward=op.backward)
    local: Attention = op.op
    dims = (local.batch, local.query, local.context, local.heads, local.kv_heads, local.head_dim)
    powers = _powers(cost, chip, math_dtype(chip), count)
    return OpCost(op.name, "attention", op.group, op.count, dims, op.kv_dtype, cost, *powers)


def _vector(op: DeviceVector, chip: ChipArrays, count: int) -> OpCost:
    cost = vector_cost(op, chip)
    dims = (op.read_bytes, op.write_bytes)
    powers = _powers(cost, chip, "fp32", count)
    return OpCost(op.name, "vector", op.group, op.count, dims, "bf16", cost, *powers, launched=op.launched)


def _powers(cost: KernelCost, chip: ChipArrays, dtype: str, count: int) -> tuple[Array, Array]:
    """Dynamic energy of a kernel and the part of the cores, (P,)."""
    whole, core = step_energy(cost, chip, dtype)
    return np.broadcast_to(whole, (count,)), np.broadcast_to(core, (count,))


def _collective(op: DeviceCollective, case: Case, group: Placement) -> CollectiveCost:
    """Cost of one run; `group` are the tensor ranks."""
    if op.kind == "all_reduce":
        return all_reduce(op.size_bytes, group, case.system, case.plan.all_reduce)
    if op.kind == "all_to_all":
        experts = expert_placement(case.plan, case.system.sizes)
        return all_to_all(op.size_bytes, op.far_bytes, experts, case.system)
    if op.kind == "table_exchange":
        replicas = group_placement(case.plan, case.plan.tensor, case.plan.replicas, case.system.sizes)
        return uniform_all_to_all(op.size_bytes, replicas, case.system)
    if op.kind.startswith("context"):
        return _of_context(op, case)
    if op.kind in (EXPERT_GATHER, EXPERT_SCATTER):
        group = expert_tensor_placement(case.plan, case.system.sizes)
    if op.kind in ("reduce_scatter", EXPERT_SCATTER):
        return reduce_scatter(op.size_bytes, group, case.system)
    return all_gather(op.size_bytes, group, case.system)


def _of_context(op: DeviceCollective, case: Case) -> CollectiveCost:
    """Keys and values joined, their gradients scattered, or heads exchanged for tokens."""
    group = context_placement(case.plan, case.system.sizes)
    if op.kind == "context_exchange":
        return uniform_all_to_all(op.size_bytes, group, case.system)
    if op.kind == "context_scatter":
        return reduce_scatter(op.size_bytes, group, case.system)
    return all_gather(op.size_bytes, group, case.system)
