"""One point now: the plan that is given, or the best of all legal ones, and every operator of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosim.dtypes import TRAINING_PRECISIONS, bytes_per_element, kv_dtype_for
from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case, Phase, check_recompute
from cosim.engines.training import with_micro_batches
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.compare import at_range_end
from cosim.explore.die import chip_of, die_columns
from cosim.explore.explain import explain
from cosim.explore.loading import reads_unsaid, usual_storage, with_storage
from cosim.explore.rows import Columns, columns, row
from cosim.explore.space import best_native, candidates_at, searched, with_choices
from cosim.explore.train import best_plan, check_network_plan, training_dtype
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.mapping.optimizers import planned_software
from cosim.mapping.placement import tensor_placement
from cosim.mapping.plan import Plan, PlanArrays, Scenario, ScenarioArrays, lower_plan, lower_scenario
from cosim.mapping.schedules import PIECES
from cosim.mapping.widths import one_format
from cosim.overrides import Overrides, Varied, vary
from cosim.records import Array, array, map_leaves, points, take
from cosim.timing.collective import check_algorithm
from cosim.workload.load import Workload, lower_workload
from cosim.workload.model import ModelArrays
from cosim.workload.network import has_phase

_DEGREES = ("tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches", "expert_parallel")
_TRAINING_ONLY = (
    "shard",
    "micro_batch",
    "context_parallel",
    "context_exchange",
    "expert_tensor_parallel",
    "virtual_pipeline",
    "sequence_parallel",
    "zero",
    "recompute",
    "recompute_modules",
    "recompute_layers",
    "offload_activations",
    "offload_weights",
    "offload_optimizer",
    "software",
    "order",
    "fp8_recipe",
    "schedule",
    "optimizer",
    "optimizer_dtype",
)


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
    die: Mapping[str, Array]
    """Area and TDP, see `die_columns`."""
    spread: tuple[float, float] | None = None

    def table(self) -> Columns:
        """Columns of all points."""
        return columns(self.case, self.result, quality="own", confidence=self.confidence, die=self.die)

    def to_row(self, index: int = 0) -> dict[str, Any]:
        """One point as plain values, NaN as None."""
        return row(self.table(), index)


def estimate(
    phase: Phase, system: Varied[System], model: Varied[Workload], plan: Overrides, scenario: Overrides
) -> Estimate:
    """Estimate of a step. `plan` and `scenario` are overrides of their defaults, scalars or arrays.

    Without degrees in `plan`, scalar points get the best plan that fits. Raises SpecError on bad input;
    InfeasibleError when nothing fits, or when a given plan of a single point breaks a limit.
    """
    machine, network = lower_system(system), lower_workload(model)
    prepared = prepare(phase, machine, network, plan, scenario)
    planned, plans, scenarios = prepared.planned, prepared.plans, prepared.scenarios
    _same_length({"system": system, "workload": model, "plan": planned, "scenario": prepared.asked})
    given = [name for name in _DEGREES if name in plan]
    defaults = _defaults(phase, network, plan, scenario, prepared.formats)
    if phase == "train":
        defaults |= _storage_taken(machine, scenarios)
        machine = with_storage(machine, scenarios)
    confidence, die = system.spec.chip.confidence, die_columns(chip_of(system))
    if phase == "train":
        case, result, tried = _training(machine, network, scenarios, planned, plans, plan)
        return Estimate(case, result, tried, confidence, defaults, die, _spread(case, system))
    if given:
        check_algorithm(plans.all_reduce, tensor_placement(plans.tensor, machine.sizes), machine)
    if not given and _is_scalar(machine, network, scenarios):
        tried, case = _best(phase, machine, network, scenarios, plans)
        check_algorithm(plans.all_reduce, tensor_placement(case.plan.tensor, machine.sizes), machine)
        return Estimate(case, evaluate(case), tried, confidence, defaults, die, _spread(case, system))
    if not given:
        raise SpecError(
            "a plan is needed for arrays of points",
            field="plan",
            hint="give plan.tensor_parallel, or estimate the points one by one",
        )
    case = Case(phase, machine, network, plans, scenarios)
    result = evaluate(case)
    if points(case) == 1 and not result.feasible[0]:
        raise explain(case, result)
    return Estimate(case, result, 0, confidence, defaults, die, _spread(case, system))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan and a scenario as asked: with overrides, formats filled in, and as arrays."""

    planned: Varied[Plan]
    asked: Varied[Scenario]
    formats: Mapping[str, str]
    plans: PlanArrays
    scenarios: ScenarioArrays


def prepare(
    phase: Phase, machine: SystemArrays, network: ModelArrays, plan: Overrides, scenario: Overrides
) -> Prepared:
    """Plan and scenario from overrides of their defaults. Raises SpecError for what the phase or model has not."""
    scenario = {**_usual_length(network, scenario), **scenario}
    plan = {**_usual_plan(network, plan, scenario), **plan} if phase == "train" else plan
    asked = vary(Varied(Scenario()), scenario, root="scenario.")
    planned = vary(Varied(Plan()), plan, root="plan.")
    has_phase(network, phase)
    _belongs(phase, plan, scenario)
    if "adapter_rank" in scenario and asked.spec.updates != "adapters":
        hint = "scenario.updates=adapters trains them"
        raise SpecError("is the rank of adapters", field="scenario.adapter_rank", hint=hint)
    if not network.causal and phase != "train":
        _of_encoder(network, plan, scenario)
    if network.network:
        _of_network(network, plan, scenario)
        if phase == "train":
            check_network_plan(network, planned.spec, asked.spec)
    if "latent" in plan and not network.is_latent:
        hint = f"{network.name} has ordinary attention"
        raise SpecError("is the form of latent attention", field="plan.latent", hint=hint)
    formats = _formats(phase, plan, planned.spec, machine)
    return Prepared(planned, asked, formats, lower_plan(vary(planned, formats, root="plan.")), lower_scenario(asked))


def _usual_length(network: ModelArrays, scenario: Overrides) -> Overrides:
    """The usual length of a model that was made for shorter ones: as long as it can."""
    usual, most = Scenario().context, float(np.min(network.max_positions))
    return {"context": int(most)} if network.has_tokens and "context" not in scenario and most < usual else {}


def _usual_plan(network: ModelArrays, plan: Overrides, scenario: Overrides) -> Overrides:
    """What follows from a plan that is given: pieces of its schedule, all items of a network's replica at once."""
    found: dict[str, Any] = {}
    pieces = PIECES.get(str(plan.get("schedule", "")))
    if pieces is not None and "virtual_pipeline" not in plan:
        found["virtual_pipeline"] = int(pieces)
    data, batch = plan.get("data_parallel"), scenario.get("global_batch", Scenario().global_batch)
    if network.network and "micro_batch" not in plan and np.ndim(data or 0) == np.ndim(batch) == 0 and data:
        share, rest = divmod(int(batch), int(data))
        found |= {"micro_batch": share} if share and not rest else {}
    return found


def _spread(case: Case, system: Varied[System]) -> tuple[float, float] | None:
    """(best, worst) time of a point at the ends of every range; the plan stays as it is."""
    if points(case) != 1 or system.arrays:
        return None
    high, low = (at_range_end(case.system, system, best=best) for best in (True, False))
    if high is None or low is None:
        return None
    unlimited = replace(case.scenario, ttft_limit=array(np.inf), tpot_limit=array(np.inf))
    best, worst = (evaluate(replace(case, system=end, scenario=unlimited)).time for end in (high, low))
    return float(best[0]), float(worst[0])


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


def _training(
    machine: SystemArrays,
    network: ModelArrays,
    scenario: ScenarioArrays,
    planned: Varied[Plan],
    plans: PlanArrays,
    plan: Overrides,
) -> tuple[Case, Estimates, int]:
    """The case of a training step, its estimates, the plans tried: with a degree as given, or the best that agrees."""
    software = planned_software(planned.spec)
    machine = one_format(machine, software)
    case = with_micro_batches(Case("train", machine, network, plans, scenario, software))
    check_recompute(case)
    if any(name in plan for name in _DEGREES):
        result = evaluate(case)
        if points(case) == 1 and not result.feasible[0]:
            raise explain(case, result)
        return case, result, 0
    if not _is_scalar(machine, network, scenario, plans):
        raise SpecError(
            "a plan is needed for arrays of points",
            field="plan",
            hint="give plan.tensor_parallel, or estimate the points one by one",
        )
    found = best_plan(machine, network, scenario, software, plans, plan)
    return with_micro_batches(found.case), found.result, found.tried


def _belongs(phase: Phase, plan: Overrides, scenario: Overrides) -> None:
    """Refuses what only the other kind of phase knows: nothing is read and then not used."""
    serving: dict[str, tuple[str, ...]] = {
        "plan": ("micro_batches", "kv_dtype", "weights_dtype", "latent"),
        "scenario": ("batch", "capacity", "ttft_limit", "tpot_limit"),
    }
    training = {"plan": _TRAINING_ONLY, "scenario": ("global_batch", "updates", "adapter_rank", "bytes_per_sample")}
    other, hint = (serving, "training has plan.micro_batch and scenario.global_batch")
    if phase != "train":
        other, hint = (training, "it belongs to 'estimate train'")
    for root, given in (("plan", plan), ("scenario", scenario)):
        for name in other[root]:
            if name in given:
                raise SpecError(f"is not part of {phase}", field=f"{root}.{name}", hint=hint)


def _of_network(network: ModelArrays, plan: Overrides, scenario: Overrides) -> None:
    """Refuses what a network has not: a cache, a router, and where its items have one size a number of tokens."""
    fixed = () if network.has_tokens else ("context",)
    hint = f"{network.name} is a network of layers; what it is asked is scenario.batch"
    for root, given, names in (
        ("plan", plan, ("kv_dtype", "latent")),
        ("scenario", scenario, ("capacity", "tpot_limit", "expert_imbalance", *fixed)),
    ):
        for name in names:
            if name in given:
                raise SpecError("is not part of a network", field=f"{root}.{name}", hint=hint)


def _of_encoder(network: ModelArrays, plan: Overrides, scenario: Overrides) -> None:
    """Refuses what an encoder has not: a cache and answers."""
    for root, given, names in (("plan", plan, ("kv_dtype",)), ("scenario", scenario, ("capacity", "tpot_limit"))):
        for name in names:
            if name in given:
                hint = f"{network.name} keeps no cache and gives no answer"
                raise SpecError("is not part of an encoder", field=f"{root}.{name}", hint=hint)


def _formats(phase: Phase, plan: Overrides, planned: Plan, machine: SystemArrays) -> dict[str, str]:
    """Formats as given, or where left open: best native weights, and the cache format that goes with them.

    Training takes 16 bits where nothing is said.
    """
    if phase == "train":
        dtype = str(plan.get("dtype") or training_dtype(machine.chip))
        if dtype not in TRAINING_PRECISIONS:
            hint = f"formats to train in: {', '.join(TRAINING_PRECISIONS)}"
            raise SpecError("is no format to train in", field="plan.dtype", value=dtype, hint=hint)
        if plan.get("fp8_recipe") == "block" and dtype != "fp8":
            hint = f"plan.dtype=fp8; the scales of {dtype} are its own, or it has none"
            raise SpecError("is a recipe of fp8", field="plan.fp8_recipe", value="block", hint=hint)
        return {"dtype": dtype, "kv_dtype": "bf16"}
    dtype = str(plan.get("dtype") or best_native(machine.chip))
    stored = planned.weights_dtype
    if stored is not None and bytes_per_element(stored) > bytes_per_element(dtype):
        hint = f"products are in {dtype}: keep weights in no wider a format, or give a wider plan.dtype"
        raise SpecError("is wider than the products", field="plan.weights_dtype", value=stored, hint=hint)
    return {"dtype": dtype, "kv_dtype": str(plan.get("kv_dtype") or kv_dtype_for(dtype))}


def _defaults(
    phase: Phase, model: ModelArrays, plan: Overrides, scenario: Overrides, formats: Overrides
) -> dict[str, object]:
    """What the user left open and what was taken, to be said in the output."""
    taken: dict[str, object] = {}
    trains = phase == "train"
    for name in ("global_batch" if trains else "batch", *(("context",) if model.has_tokens else ())):
        if name not in scenario:
            taken[f"scenario.{name}"] = {**_usual_length(model, scenario)}.get(name, getattr(Scenario(), name))
    for name in ("dtype", "kv_dtype") if model.keeps_cache and not trains else ("dtype",):
        if name not in plan:
            taken[f"plan.{name}"] = formats[name]
    if trains and "software" not in plan:
        taken["plan.software"] = Plan().software
    if not model.has_tokens:
        taken["tokens"] = "one per item"
    return taken | {"phase": phase}


def _storage_taken(machine: SystemArrays, scenario: ScenarioArrays) -> dict[str, object]:
    """What is taken of reading samples: that it is no bound, or the usual bandwidth of storage."""
    if np.any(np.isnan(scenario.bytes_per_sample)):
        return {"scenario.bytes_per_sample": "unknown (loading is no bound)"}
    return {"system.server.storage": usual_storage().text} if reads_unsaid(machine, scenario) else {}


def _is_scalar(*records: object) -> bool:
    return all(points(record) == 1 for record in records)


def _best(
    phase: Phase,
    machine: SystemArrays,
    network: ModelArrays,
    scenario: ScenarioArrays,
    plan: PlanArrays,
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
    everything = searched(phase, machine, network, scenario, plan.dtype, found)
    everything = replace(everything, plan=with_choices(everything.plan, plan))
    result = evaluate(everything)
    if not result.feasible.any():
        raise explain(everything, result)
    index = int(np.nanargmin(result.time))
    return found.plans, take(everything, np.array([index], dtype=np.intp))
