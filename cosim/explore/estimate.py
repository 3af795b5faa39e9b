"""One point now: the plan that is given, or the best of all legal ones, and every operator of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosim.dtypes import kv_dtype_for
from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case, Phase
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.compare import with_quality
from cosim.explore.explain import explain
from cosim.explore.rows import Columns, columns, row
from cosim.explore.space import best_native, candidates_at, searched
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.mapping.plan import Plan, Scenario, ScenarioArrays, lower_plan, lower_scenario
from cosim.overrides import Overrides, Varied, vary
from cosim.records import array, map_leaves, points, take
from cosim.workload.model import Model, ModelArrays, lower_model

_DEGREES = ("tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches")


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer for a batch of points: the case as it was run, its estimates, how the plan was found.

    `plans_tried` is 0 where the plan was given. `spread` is (best, worst) time of a single point over the ranges
    of its chip's kernel quality, launch and start of collectives [s], None where nothing has a range.
    """

    case: Case
    result: Estimates
    plans_tried: int
    confidence: str
    defaults: Mapping[str, object]
    spread: tuple[float, float] | None = None

    def table(self) -> Columns:
        """Columns of all points."""
        return columns(self.case, self.result, quality="own", confidence=self.confidence)

    def to_row(self, index: int = 0) -> dict[str, Any]:
        """One point as plain values, NaN as None."""
        return row(self.table(), index)


def estimate(
    phase: Phase, system: Varied[System], model: Varied[Model], plan: Overrides, scenario: Overrides
) -> Estimate:
    """Estimate of a step. `plan` and `scenario` are overrides of their defaults, scalars or arrays.

    Without degrees in `plan`, scalar points get the best plan that fits. Raises SpecError on bad input;
    InfeasibleError when nothing fits, or when a given plan of a single point breaks a limit.
    """
    machine, network = lower_system(system), lower_model(model)
    asked = vary(Varied(Scenario()), scenario, root="scenario.")
    scenarios = lower_scenario(asked)
    planned = vary(Varied(Plan()), plan, root="plan.")
    _same_length({"system": system, "workload": model, "plan": planned, "scenario": asked})
    chosen = _with_formats(plan, machine)
    given = [name for name in _DEGREES if name in plan]
    defaults = _defaults(phase, plan, scenario, chosen)
    confidence = system.spec.chip.confidence
    if not given and _is_scalar(machine, network, scenarios):
        tried, case = _best(phase, machine, network, scenarios, chosen)
        return Estimate(case, evaluate(case), tried, confidence, defaults, _spread(case, system))
    if not given:
        raise SpecError(
            "a plan is needed for arrays of points",
            field="plan",
            hint="give plan.tensor_parallel, or estimate the points one by one",
        )
    plans = lower_plan(vary(Varied(Plan()), chosen, root="plan."))
    case = Case(phase, machine, network, plans, scenarios)
    result = evaluate(case)
    if points(case) == 1 and not result.feasible[0]:
        raise explain(case, result)
    return Estimate(case, result, 0, confidence, defaults, _spread(case, system))


def _spread(case: Case, system: Varied[System]) -> tuple[float, float] | None:
    """(best, worst) time of a point at the ends of every range; the plan stays as it is."""
    if points(case) != 1 or system.arrays:
        return None
    ends = [with_quality(case.system, system, side, None) for side in ("high", "low")]
    if None in ends:
        return None
    unlimited = replace(case.scenario, ttft_limit=array(np.inf), tpot_limit=array(np.inf))
    cases = [replace(case, system=end, scenario=unlimited) for end in ends if end is not None]
    best, worst = (float(evaluate(each).time[0]) for each in cases)
    return best, worst


def _same_length(parts: Mapping[str, Varied[Any]]) -> None:
    """Raises SpecError naming two paths whose arrays differ in length."""
    lengths = {
        f"{root}.{path}": len(a) for root, part in parts.items() for path, a in part.arrays.items() if len(a) > 1
    }
    for path, length in lengths.items():
        first, wanted = next(iter(lengths.items()))
        if length != wanted:
            raise SpecError(
                f"holds {length} points, {first} holds {wanted}", field=path, hint="one length for all arrays"
            )


def _with_formats(plan: Overrides, machine: SystemArrays) -> dict[str, Any]:
    """The plan's overrides with the formats that were left open: best native weights, their cache format."""
    dtype = plan.get("dtype") or best_native(machine.chip)
    return {**plan, "dtype": dtype, "kv_dtype": plan.get("kv_dtype") or kv_dtype_for(str(dtype))}


def _defaults(phase: Phase, plan: Overrides, scenario: Overrides, chosen: Overrides) -> dict[str, object]:
    """What the user left open and what was taken, to be said in the output."""
    taken: dict[str, object] = {}
    for name in ("batch", "context"):
        if name not in scenario:
            taken[f"scenario.{name}"] = getattr(Scenario(), name)
    for name in ("dtype", "kv_dtype"):
        if name not in plan:
            taken[f"plan.{name}"] = chosen[name]
    return taken | {"phase": phase}


def _is_scalar(*records: object) -> bool:
    return all(points(record) == 1 for record in records)


def _best(
    phase: Phase,
    machine: SystemArrays,
    network: ModelArrays,
    scenario: ScenarioArrays,
    plan: Overrides,
) -> tuple[int, Case]:
    """Number of plans tried and the case of the fastest that fits. Raises InfeasibleError, explained."""
    scalars = map_leaves(network, lambda leaf: leaf.reshape(()))
    chips, batch = int(np.max(machine.chips)), int(np.max(scenario.batch))
    found = candidates_at(scalars, chips, batch, phase)
    if found.plans == 0:
        raise InfeasibleError(
            "plan",
            f"no tensor x pipeline x data degrees on {chips} chips divide {network.name} and batch {batch}",
            "change scenario.batch or system.nodes",
        )
    dtype = str(plan["dtype"])
    everything = searched(phase, machine, network, scenario, dtype, found)
    formats = lower_plan(vary(Varied(Plan()), dict(plan), root="plan."))
    chosen = replace(everything.plan, kv_dtype=formats.kv_dtype, all_reduce=formats.all_reduce)
    everything = replace(everything, plan=chosen)
    result = evaluate(everything)
    if not result.feasible.any():
        raise explain(everything, result)
    index = int(np.nanargmin(result.time))
    return found.plans, take(everything, np.array([index], dtype=np.intp))
