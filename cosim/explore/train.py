"""One training step now: the plan that is given, or the best of all legal ones.

The space of a search: tensor x pipeline x data on all chips, for long sequences context too, micro-batches that
divide, pieces of a stage, ZeRO stage, recompute; sequence parallelism always (it costs nothing and saves memory). What
is set stays set; `estimate` takes a plan with a degree as given whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.training import with_micro_batches
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.explain import explain
from cosim.hardware.lower import ChipArrays, SystemArrays
from cosim.mapping.legal import divisors, expert_degrees, legal_plans
from cosim.mapping.plan import RECOMPUTES, Plan, PlanArrays, Scenario, ScenarioArrays
from cosim.mapping.software import SoftwareArrays
from cosim.mapping.stages import ENDS, comes_out_even
from cosim.overrides import Overrides
from cosim.records import map_leaves, points, take
from cosim.timing.cost import math_dtype
from cosim.workload.model import ModelArrays

MOST_MICRO_BATCH = 16
MOST_TOKENS = 65536
"""Micro-batches of more sequences than `MOST_MICRO_BATCH` are tried while they have no more tokens than this: beyond it
kernels gain nothing by more rows."""
MOST_PIECES = 24
LEAST_PIECE = 4096
"""Tokens of a sequence below which a rank is left no less of it: shorter ones fit on a rank."""
ZERO_STAGES = (0, 1, 2, 3)
"""All of them: 2 saves less than 3 and gathers no weights again, so that it is fastest where it fits."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best plan as a case of one point, its estimates, and how many plans were tried."""

    case: Case
    result: Estimates
    tried: int


def training_dtype(chip: ChipArrays) -> str:
    """Format of a training step where none is asked for: 16 bits, or the widest format of the chip."""
    return math_dtype(chip)


def check_network_plan(network: ModelArrays, plan: Plan, scenario: Scenario) -> None:
    """Refuses what a network of layers has not when it is trained. Raises SpecError."""
    hint = f"{network.name} is a network of layers: data_parallel, micro_batch, zero and dtype are its plan"
    usual = Plan()
    for name in ("recompute", "virtual_pipeline", "schedule", "sequence_parallel", "context_parallel"):
        if getattr(plan, name) != getattr(usual, name):
            raise SpecError("is not part of a network", field=f"plan.{name}", value=getattr(plan, name), hint=hint)
    if plan.zero >= 3:
        hint = "plan.zero up to 2: which of its layers' weights are whole at a time is not modelled"
        raise SpecError("is not modelled for a network", field="plan.zero", value=plan.zero, hint=hint)
    if scenario.updates == "adapters":
        raise SpecError("is not part of a network", field="scenario.updates", value=scenario.updates, hint=hint)


def best_plan(
    system: SystemArrays,
    model: ModelArrays,
    scenario: ScenarioArrays,
    software: SoftwareArrays,
    plan: PlanArrays,
    given: Overrides,
) -> Found:
    """The fastest plan that fits among those that agree with `given`. Raises InfeasibleError, explained."""
    case = space(system, model, scenario, software, plan, given)
    if case is None:
        raise InfeasibleError(
            "plan",
            f"no degrees on {int(np.max(system.chips))} chips divide {model.name} and "
            f"global batch {int(np.max(scenario.global_batch))} as asked",
            "change scenario.global_batch, system.nodes or what is set of the plan",
        )
    result = evaluate(case)
    if not result.feasible.any():
        raise explain(with_micro_batches(case), result)
    # Of plans that wait for the same samples that which has most time left.
    order = np.lexsort((result.time - result.breakdown["data_loading"], result.time))
    best = take(case, order[:1].astype(np.intp))
    return Found(best, evaluate(best), points(case))


def space(
    system: SystemArrays,
    model: ModelArrays,
    scenario: ScenarioArrays,
    software: SoftwareArrays,
    plan: PlanArrays,
    given: Overrides,
) -> Case | None:
    """Every plan that agrees with `given` as one case, all choices along the points axis; None where none divides."""
    scalars = map_leaves(model, lambda leaf: leaf.reshape(-1)[0])
    chips, batch = int(np.max(system.chips)), int(np.max(scenario.global_batch))
    # With fused attention there is no attention core to compute again.
    offered = [RECOMPUTES.index(name) for name in RECOMPUTES if not (software.fused and name == "selective")]
    offered = offered[:1] if model.network else offered
    recomputes = [int(np.max(plan.recompute))] if "recompute" in given else offered
    length = int(np.max(scenario.context))
    rows = [
        (*row, context, again)
        for context in (
            _contexts(chips, length, given)
            if "context_parallel" in given or (software.fused and not model.network)
            else [1]
        )
        for row in _numbers(scalars, chips // context, batch, length, context, given)
        for again in recomputes
    ]
    if not rows:
        return None
    table = np.array(rows, dtype=np.float64)
    tensor, pipeline, data, micro, pieces, zero, expert, context, again = (
        table[:, c].copy() for c in range(table.shape[1])
    )
    chosen = replace(
        plan,
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        micro_batch=micro,
        virtual=pieces,
        zero=zero,
        expert=expert,
        context=context,
        recompute=again,
        sequence_parallel=plan.sequence_parallel if "sequence_parallel" in given else True,
    )
    return Case("train", system, model, chosen, scenario, software)


def _contexts(chips: int, length: int, given: Overrides) -> list[int]:
    """Context degrees tried: the one that is asked for, or powers of two that leave each rank a long piece."""
    if "context_parallel" in given:
        asked = int(_number(given["context_parallel"]))
        return [asked] if chips % asked == 0 else []
    return [degree for degree in divisors(chips) if degree & (degree - 1) == 0 and length >= degree * LEAST_PIECE] or [
        1
    ]


def _numbers(
    model: ModelArrays, chips: int, batch: int, length: int, context: int, given: Overrides
) -> list[tuple[int, ...]]:
    """Rows (tensor, pipeline, data, micro-batch, pieces, ZeRO stage, experts) that divide, in rising order."""
    layers = int(model.layers)
    wide = int(_number(given.get("expert_tensor_parallel") or 0))
    # Items of a network are small beside sequences.
    most = batch if model.network else max(MOST_MICRO_BATCH, MOST_TOKENS * context // length)
    return [
        (tensor, pipeline, data, micro, pieces, zero, expert)
        for tensor, pipeline, data in legal_plans(model, chips)
        if _agrees(given, tensor_parallel=tensor, pipeline_parallel=pipeline, data_parallel=data) and batch % data == 0
        for micro in divisors(batch // data)
        if _agrees(given, micro_batch=micro) and (micro <= most or "micro_batch" in given)
        for pieces in _pieces(layers, pipeline, batch // (data * micro), asked="virtual_pipeline" in given)
        if _agrees(given, virtual_pipeline=pieces)
        for zero in _zeros(given, data * context, network=bool(model.network))
        for expert in expert_degrees(model, tensor, data * context, wide)
        if _agrees(given, expert_parallel=expert)
    ]


def _agrees(given: Overrides, **tried: int) -> bool:
    return all(_number(given.get(name, value)) == value for name, value in tried.items())


def _number(value: Any) -> float:  # noqa: ANN401  # a number, or an array of one
    return float(np.ravel(value)[0])


def _zeros(given: Overrides, data: int, *, network: bool) -> tuple[int, ...]:
    """ZeRO stages tried: the one that is asked for, or those that differ for so many replicas."""
    if "zero" in given:
        return (int(_number(given["zero"])),)
    return (ZERO_STAGES[:3] if network else ZERO_STAGES) if data > 1 else (0,)


def _pieces(layers: int, pipeline: int, micro_batches: int, *, asked: bool) -> list[int]:
    """Pieces per stage that are tried where stages divide the micro-batches: those that come out even, or any asked."""
    if pipeline == 1 or micro_batches % pipeline:
        return [1]
    most = (layers + int(ENDS)) // pipeline
    if asked:
        return list(range(1, most + 1))
    tried = [pieces for pieces in range(2, min(most, MOST_PIECES) + 1) if comes_out_even(layers, pipeline * pieces)]
    return [1, *tried]
