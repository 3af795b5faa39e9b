"""The update of an optimizer that a plan asks for: passes over gradients and state, Newton-Schulz products.

    pass        reads of the optimizer x gradient + state in; cleared gradient + state + weight out, at DRAM bandwidth
    matrix      iterations x (A = X X^T, B = A A, X B) of its momentum X, a x b with a the shorter side, in bf16

Each tensor rank orthogonalises the part of a matrix that it holds (block-wise), matrices as the stack joins them
(query, key and value are one). Ranks that share out state deal out whole matrices, so that one has one at the least.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cosim.engines.case import Case
from cosim.engines.step import op_costs
from cosim.mapping.device import ACTIVATION_DTYPE, DeviceGraph, DeviceMatmul, DeviceVector
from cosim.mapping.optimizers import UpdateArrays
from cosim.mapping.routing import expert_sharers
from cosim.mapping.schedules import copies
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import Stages, by_group
from cosim.mapping.state import is_matrix, matrices_of, touched
from cosim.mapping.training import shared_out
from cosim.mapping.widths import element_bytes
from cosim.records import Array, array
from cosim.timing.energy import step_energy
from cosim.timing.vector import vector_cost


@dataclass(frozen=True, slots=True)
class Update:
    """An update on a stage of each class (4, P): seconds and dynamic J of a chip."""

    time: Array
    energy: Array


def planned_update(
    case: Case, software: SoftwareArrays, update: UpdateArrays, changed: DeviceGraph, stage: Stages
) -> Update:
    """The update of all parameters of `changed` by `update`. Nothing where nothing is updated."""
    if case.scenario.updates == "nothing":
        none = np.zeros_like(stage.layers)
        return Update(none, none)
    passed = _pass(case, software, update, changed, stage)
    if not np.any(update.iterations > 0.0):
        return passed
    products = _products(case, update, changed, stage)
    return Update(passed.time + products.time, passed.energy + products.energy)


def _pass(case: Case, software: SoftwareArrays, update: UpdateArrays, changed: DeviceGraph, stage: Stages) -> Update:
    """The elementwise part."""
    chip, plan = case.system.chip, case.plan
    found = touched(changed, stage, update, copies(plan.schedule))
    # Of tables the rows in hand alone are updated: with their gradients, behind the passes.
    dense = (replace(each, tables=array(0.0)) for each in (found.numbers, found.state, found.reads, found.flop))
    numbers, state, reads, flop = (shared_out(each, plan, 1.0) for each in dense)
    read = reads * software.gradient_bytes + state
    written = numbers * (software.gradient_bytes + element_bytes(plan, software)) + state
    op = DeviceVector("optimizer", "step", array(1.0), read, written, flop, numbers, np.zeros_like(read))
    cost = vector_cost(op, chip)
    return Update(cost.time + chip.launch.gap, step_energy(cost, chip, "fp32")[0])


def _products(case: Case, update: UpdateArrays, changed: DeviceGraph, stage: Stages) -> Update:
    """Newton-Schulz iterations on every matrix."""
    plan, gap = case.plan, case.system.chip.launch.gap
    matrices = [op for op in changed.matmuls if is_matrix(op)]
    kernels = {op.name: op for op in op_costs(case, DeviceGraph("update", _kernels(matrices, update), (), (), ()))}
    total = energy = longest = np.zeros_like(stage.layers)
    for op in matrices:
        own = [kernels[name] for name in _names(op)]
        each: Array = sum((kernel.count * (kernel.cost.time + gap) for kernel in own), array(0.0))
        ranks = expert_sharers(plan) if op.routed else plan.sharers
        held = copies(plan.schedule) * by_group(stage, op.group) * op.count * matrices_of(op)
        mine = held * np.where(plan.zero >= 1.0, 1.0 / ranks, 1.0)
        total = total + mine * each
        longest = np.maximum(longest, np.minimum(np.ceil(held), 1.0) * each)
        energy = energy + mine * sum((kernel.count * kernel.energy for kernel in own), array(0.0))
    return Update(np.maximum(total, longest), energy)


def _names(op: DeviceMatmul) -> tuple[str, str, str]:
    return f"{op.name}.gram", f"{op.name}.square", f"{op.name}.apply"


def _kernels(matrices: list[DeviceMatmul], update: UpdateArrays) -> tuple[DeviceMatmul, ...]:
    """The three products of an iteration for each matrix, `iterations` times."""
    found: list[DeviceMatmul] = []
    for op in matrices:
        short, long = np.minimum(op.n, op.k), np.maximum(op.n, op.k)
        shapes = ((short, short, long), (short, short, short), (short, long, short))
        found += [
            DeviceMatmul(name, "step", update.iterations, *shape, ACTIVATION_DTYPE, np.zeros_like(short))
            for name, shape in zip(_names(op), shapes, strict=True)
        ]
    return tuple(found)
