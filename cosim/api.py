"""The Python interface: the same nouns and verbs as the commands.

    import cosim
    h100 = cosim.system("dgx-h100", nodes=2)
    llama = cosim.workload("llama-3.1-70b")
    cosim.estimate_decode(h100, llama, batch=64, context=4096).to_row()

Numbers may be arrays along one points axis; text with a unit ("4 TB/s") and bare SI numbers are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.engines.events import EventRun
from cosim.explore.estimate import Estimate, estimate
from cosim.hardware.chip import Chip
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_chip, vary_system
from cosim.mapping.plan import Plan
from cosim.overrides import Overrides, Varied, vary
from cosim.workload.load import Workload, load_workload

if TYPE_CHECKING:
    import pyarrow as pa

    from cosim.engines.network.simulate import NetworkRun, Request, Traffic
    from cosim.explore.difference import Difference
    from cosim.explore.goodput import Goodput
    from cosim.explore.run import Progress
    from cosim.explore.search_run import SearchResult
    from cosim.explore.serving.asked import ServingResult
    from cosim.explore.serving.search import ServingResult as ServingSearchResult

Strategy = Plan
"""A parallel plan: Strategy(tensor_parallel=8, dtype=\"fp8\")."""
Number = float | np.ndarray[tuple[int], np.dtype[np.float64]]
Changes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChipHandle:
    """A chip of the library, or from a file, with overrides."""

    varied: Varied[Chip]

    @property
    def spec(self) -> Chip:
        """The description: every number with unit, kind and source."""
        return self.varied.spec

    def vary(self, changes: Changes) -> ChipHandle:
        """The chip with numbers replaced by path ("memory.dram.stacks"). Raises SpecError."""
        return ChipHandle(vary_chip(self.varied, _below(changes, "chip")))


@dataclass(frozen=True, slots=True)
class SystemHandle:
    """A system of the library, or from a file, with overrides."""

    varied: Varied[System]

    @property
    def spec(self) -> System:
        """The description: every number with unit, kind and source."""
        return self.varied.spec

    def vary(self, changes: Changes) -> SystemHandle:
        """The system with numbers replaced by path ("chip.memory.dram.bandwidth", "nodes"). Raises SpecError."""
        return SystemHandle(vary_system(self.varied, _below(changes, "system")))


@dataclass(frozen=True, slots=True)
class WorkloadHandle:
    """A model or network of the library, or from a file, with overrides."""

    varied: Varied[Workload]

    @property
    def spec(self) -> Workload:
        """The description with its source."""
        return self.varied.spec

    def vary(self, changes: Changes) -> WorkloadHandle:
        """The model with numbers replaced by path ("layers"). Raises SpecError."""
        return WorkloadHandle(vary(self.varied, _below(changes, "workload"), root="workload."))


def chip(name: str) -> ChipHandle:
    """The chip called `name`, or in the file `name`. Raises SpecError."""
    return ChipHandle(Varied(load_chip(name)))


def system(name: str, **changes: Number | str) -> SystemHandle:
    """The system called `name`, or in the file `name`; keywords are top-level paths (nodes=16). Raises SpecError."""
    return SystemHandle(Varied(load_system(name))).vary(changes)


def workload(name: str) -> WorkloadHandle:
    """The model or network called `name`, or in the file `name` (YAML or hub config.json). Raises SpecError."""
    return WorkloadHandle(Varied(load_workload(name)))


def estimate_decode(
    system: SystemHandle, workload: WorkloadHandle, plan: Strategy | Overrides | None = None, **scenario: Number
) -> Estimate:
    """Time, memory and energy of one decode step: a new token for every sequence.

    `scenario`: batch, context [token], capacity [token], tpot_limit [s]. `plan` None searches all legal plans.
    Raises SpecError on bad input, InfeasibleError when a single point does not fit.
    """
    return estimate("decode", system.varied, workload.varied, _plan(plan), scenario)


def estimate_prefill(
    system: SystemHandle, workload: WorkloadHandle, plan: Strategy | Overrides | None = None, **scenario: Number
) -> Estimate:
    """Time, memory and energy of one prefill step: `batch` prompts of `context` tokens. See `estimate_decode`.

    Of a network: one forward pass over `batch` items, with `context` tokens where its layers ask for tokens.
    """
    return estimate("prefill", system.varied, workload.varied, _plan(plan), scenario)


def estimate_training(
    system: SystemHandle, workload: WorkloadHandle, plan: Strategy | Overrides | None = None, **scenario: Number
) -> Estimate:
    """Time, memory and energy of one optimizer step.

    `scenario`: global_batch, context (length of the sequences) [token]. `plan` without degrees searches the rest:
    Strategy(recompute="full") keeps that and tries all degrees. Raises SpecError, InfeasibleError.
    """
    return estimate("train", system.varied, workload.varied, _plan(plan), scenario)


def simulate_training(
    estimated: Estimate,
    index: int = 0,
    *,
    stragglers: Mapping[int, float] | None = None,
    slow_spread: float = 0.0,
    seed: int = 0,
) -> EventRun:
    """Point `index` of a training estimate as events: its time and the spans of every stage, link and stream.

    `stragglers`: how many times as long passes of a chip take, by its number in the plan; `slow_spread`: passes of any
    chip take 1 + this x |z|, z normal, drawn from `seed`. Raises SpecError for another phase, no such point or chip,
    InfeasibleError for a point that is infeasible.
    """
    from cosim.engines.slow_ranks import SlowRanks
    from cosim.errors import SpecError
    from cosim.explore.explain import explain
    from cosim.explore.simulate import simulated
    from cosim.records import take

    count = len(estimated.result.time)
    if estimated.case.phase != "train":
        raise SpecError("is not a training estimate", field="estimated", value=estimated.case.phase)
    if not 0 <= index < count:
        raise SpecError("is no point of the estimate", field="index", value=index, hint=f"it has {count}, from 0")
    if not estimated.result.feasible[index]:
        one = np.array([index], dtype=np.intp)
        raise explain(take(estimated.case, one), take(estimated.result, one))
    return simulated(estimated.case, index, SlowRanks(slow_spread, dict(stragglers or {}), seed))


def simulate_goodput(
    estimated: Estimate,
    *,
    tokens: float | None = None,
    steps: float | None = None,
    interval: str | float = "best",
    checkpoint: str = "blocking",
    spares: int | None = None,
    elastic: bool = False,
    slow_spread: float = 0.0,
    stragglers: Mapping[int, float] | None = None,
    reliability: str = "reliability",
    changes: Changes | None = None,
    seeds: int = 20,
    seed: int = 0,
    spans: bool = False,
) -> Goodput:
    """A run of `tokens` or `steps` of a training estimate with failures: `seeds` simulated runs and the closed form.

    `interval`: work between checkpoints, best, daly, young or a time. `checkpoint`: blocking or async. `stragglers`:
    how many times as long steps of a chip take. `reliability`: failures by component, a name or a file; `changes` of
    it by path ("components.gpu.mtbf"). `spans` keeps what happened when in the first run.
    Raises SpecError, InfeasibleError.
    """
    from cosim.explore.goodput import goodput
    from cosim.explore.goodput_asked import Asked
    from cosim.explore.goodput_request import varied_reliability

    asked = Asked(
        tokens, steps, interval, checkpoint, spares, elastic, slow_spread, dict(stragglers or {}), seeds, seed, spans
    )
    return goodput(estimated, varied_reliability(reliability, _below(changes or {}, "reliability")), asked)


def simulate_serving(
    system: SystemHandle | str,
    workload: WorkloadHandle | str,
    requests: str | Changes,
    *,
    plan: Strategy | Overrides | None = None,
    seeds: int = 1,
    **settings: Any,  # noqa: ANN401  # sections of a file, checked where they are read
) -> ServingResult:
    """Requests served by replicas of a workload on a system, simulated with `seeds` runs.

    `requests`: a name (`cosim list requests`), a file, or the fields of a description. `settings` hold what a file of
    `cosim schema serve` does: stack, scheduler, replicas, routing, prefill, feed_forward, transfer, autoscale,
    failures, speculation, scenario, limits, warm_up, seed. Raises SpecError on bad input, InfeasibleError where the
    model does not fit.
    """
    from cosim.explore.serving.asked import serve_asked

    machine = system if isinstance(system, SystemHandle) else SystemHandle(Varied(load_system(system)))
    model = workload if isinstance(workload, WorkloadHandle) else WorkloadHandle(Varied(load_workload(workload)))
    given = requests if isinstance(requests, str) else dict(requests)
    degrees = plan.model_dump(exclude_unset=True) if isinstance(plan, Strategy) else _plan(plan)
    asked = {"plan": degrees, "requests": given, **settings}
    return serve_asked(machine.varied, model.varied, asked, seeds=seeds)


def simulate_collective(
    system: SystemHandle,
    op: str,
    size: float | str,
    ranks: int | Sequence[int] | None = None,
    *,
    algorithm: str = "fastest",
    degraded: Mapping[str, float] | None = None,
    stragglers: Mapping[int, float] | None = None,
    background: Sequence[Traffic] = (),
    beside: Sequence[Request] = (),
) -> NetworkRun:
    """A collective of `size` bytes as flows on links: `ranks` chips, or these chips; None is all.

    `degraded`: share that links give, by name or pattern, 0 for one that has failed. `stragglers`: seconds that chips
    are late. `background`: (from, to, bytes/s). `beside`: other collectives at once. Raises SpecError.
    """
    from cosim.engines.network.groups import beside as groups_beside
    from cosim.engines.network.simulate import Request as OneRequest
    from cosim.engines.network.simulate import simulate_collectives
    from cosim.explore.collective import one_point
    from cosim.hardware.lower import lower_system
    from cosim.units import parse_quantity

    machine = one_point(lower_system(system.varied))
    asked = int(machine.chips) if ranks is None else ranks
    sizes = [int(tier.size) for tier in machine.tiers]
    chips = (
        groups_beside(asked, 1, sizes, chips=int(machine.chips))[0]
        if isinstance(asked, int)
        else tuple(map(int, asked))
    )
    first = OneRequest(op, parse_quantity(size, "B"), chips, algorithm)
    return simulate_collectives(
        machine, [first, *beside], degraded=degraded, stragglers=stragglers, background=background
    )


def diff(first: Estimate, second: Estimate, labels: tuple[str, str] = ("a", "b")) -> Difference:
    """Where the difference between two estimates of one point each comes from: time, operators, components.

    Raises SpecError where they are not of one phase and workload.
    """
    from cosim.explore.difference import difference

    return difference(first, second, labels)


def sweep(space: Changes, *, progress: Progress | None = None) -> pa.Table:
    """Every point of a sweep as an Arrow table; `space` holds what the file of a sweep does (see `cosim schema sweep`).

    Units are in the columns' metadata. In this process, nothing is written. Raises SpecError.
    """
    from cosim.explore.sweep_run import sweep_table

    return sweep_table(space, progress or (lambda _done, _of, _what: None))


def search(
    system: SystemHandle,
    workload: WorkloadHandle,
    objectives: Sequence[str | Changes] | str = ("time_s",),
    constraints: str | Sequence[str] = (),
    space: Changes | None = None,
    *,
    nodes: int | Sequence[int] | None = None,
    precision: str | Sequence[str] | None = None,
    software: str = "megatron",
    plan: Changes | None = None,
    rows: int | None = None,
    progress: Progress | None = None,
    **scenario: Any,  # noqa: ANN401  # numbers and names, checked where they are read
) -> SearchResult:
    """Every legal training strategy of a workload on a system: the best, the front, why each neighbour is worse.

    `objectives`: columns ("time_s"), {"minimise": column}, {"maximise": column}, or {"finish": {"tokens": 15e12,
    "days": 60}} for the fewest chips of the `nodes` that are tried. `constraints`: "memory_bytes.total <= 72 GB".
    `space`: values of a dimension, one, a list or "all" (see `cosim schema search`). `scenario`: global_batch, context.
    In this process, nothing is written. Raises SpecError.
    """
    from cosim.explore.search_run import search_record

    asked: dict[str, Any] = {
        "system": system.spec.name,
        "workload": workload.spec.name,
        "objectives": objectives,
        "constraints": [constraints] if isinstance(constraints, str) else list(constraints),
        "space": dict(space or {}),
        "nodes": nodes if nodes is None or isinstance(nodes, int) else list(nodes),
        "precision": precision if precision is None or isinstance(precision, str) else list(precision),
        "software": software,
        "plan": _below(plan or {}, "plan"),
        "scenario": scenario,
    }
    asked |= {} if rows is None else {"rows": rows}
    return search_record(asked, system.varied, workload.varied, progress or (lambda _done, _of, _what: None))


def search_serving(
    system: SystemHandle | Sequence[SystemHandle],
    workload: WorkloadHandle,
    *,
    prompt: int,
    output: int,
    ttft_limit: float | str | None = None,
    tpot_limit: float | str | None = None,
    space: Changes | None = None,
    progress: Progress | None = None,
    **asked: Any,  # noqa: ANN401  # fields of a search, checked where they are read
) -> ServingSearchResult:
    """Every legal deployment of a model on so many chips: the best, the front, both checked by simulation, capacity.

    Requests have `prompt` and `output` tokens. `space`: values of a dimension, one, a list or "all". `asked`: chips,
    stack, objective, check, statistic, requests, seed, ... (see docs/serving-search.md). Several systems are each
    given the same number of chips. In this process, nothing is written. Raises SpecError.
    """
    from cosim.explore.serving.search import search_deployments

    systems = [system] if isinstance(system, SystemHandle) else list(system)
    limits = {"ttft_limit": ttft_limit, "tpot_limit": tpot_limit}
    study = {"prompt": prompt, "output": output, **limits, "space": dict(space or {}), **asked}
    found = progress or (lambda _done, _of, _what: None)
    return search_deployments(study, [each.varied for each in systems], workload.varied, found)


def run(name: str, out: str | Path | None = None, *, changes: Changes | None = None, resume: bool = False) -> Path:
    """Runs the experiment called `name`, or in the file `name`, and returns its run folder (page: report.html).

    Raises SpecError on bad input, before anything is written.
    """
    from cosim.explore.studies import run_experiment
    from cosim.report.page import report_run

    folder = Path("runs") / Path(name).stem if out is None else Path(out)
    return run_experiment(
        name, folder, overrides=changes or {}, resume=resume, progress=lambda _done, _of, _what: None, report=report_run
    )


def _plan(plan: Strategy | Overrides | None) -> Overrides:
    if plan is None:
        return {}
    if isinstance(plan, Strategy):
        chosen = {name: getattr(plan, name) for name in plan.model_fields_set - {"algorithm"}}
        return chosen | {f"algorithm.{name}": value for name, value in plan.algorithm}
    return _below(plan, "plan")


def _below(changes: Changes, root: str) -> dict[str, Any]:
    """Paths with or without their root: "system.nodes" is "nodes" of a system."""
    return {path.removeprefix(f"{root}."): value for path, value in changes.items()}
