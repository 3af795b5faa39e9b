"""A deployment of a serving study made ready: descriptions read, overrides set, pools lowered, the cluster set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cosim import library
from cosim.engines.serving.settings import Autoscale, Cluster, Failures, Pool
from cosim.engines.serving.steps import StepEnergy
from cosim.errors import SpecError
from cosim.explore.serving.case import Replicas, Wanted, replicas_of
from cosim.explore.serving.serve_file import N_GRAM, AutoscaleSettings, Deployment, PrefillPool, SchedulerSettings
from cosim.explore.serving.split import Beside
from cosim.explore.serving.transfer import transfer_of
from cosim.hardware.load import described, load_system, read_system
from cosim.hardware.lower import SystemArrays
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.serving import load_serving
from cosim.overrides import Varied, vary
from cosim.schema import validated
from cosim.workload.load import Workload, load_workload

ROOTS = ("system", "workload", "plan", "scheduler", "scenario", "limits", "prefill", "feed_forward")
"""What a path of an override of a serving study may start with."""
FIELDS = ("replicas", "routing", "stack")
"""Fields of a deployment that may be overridden as they stand."""
Changes = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Side:
    """Chips of one system in every replica of a pool, with the energy of their part of a step."""

    pool: int
    """Index of the pool in `Deployed.pools`."""
    system: System
    arrays: SystemArrays
    chips: float
    energy: StepEnergy
    draft_energy: StepEnergy | None = None


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment that can be simulated."""

    name: str
    asked: Deployment
    system: System
    prefill_system: System
    model: Workload
    pool: Replicas
    prefill: Replicas | None
    cluster: Cluster
    start_s: float
    """From the arrival of a request to the scheduler, and from its token back: the front end."""
    start_steps: float = 0.0
    """The same in steps of the request."""
    forward_system: System | None = None
    """Of chips that do feed-forward layers alone."""

    @property
    def entry(self) -> Replicas:
        """The pool that requests come to first."""
        return self.pool if self.prefill is None else self.prefill

    @property
    def pools(self) -> tuple[tuple[Replicas, System], ...]:
        """Every pool with its system, the one that decodes first."""
        first = (self.pool, self.system)
        return (first,) if self.prefill is None else (first, (self.prefill, self.prefill_system))

    @property
    def sides(self) -> tuple[Side, ...]:
        """Chips of every pool, those of one system and one part of a replica together."""
        found = []
        for index, (pool, system) in enumerate(self.pools):
            own = pool.case.system
            found.append(Side(index, system, own, pool.own_chips, pool.energy, pool.draft_energy))
            if pool.split is not None and pool.forward_energy is not None:
                far, spec = pool.split.feed_forward.system, self.forward_system or system
                found.append(Side(index, spec, far, pool.forward_chips, pool.forward_energy))
        return tuple(found)

    @property
    def chips(self) -> float:
        """Chips of all pools at the start."""
        return sum(pool.count * pool.chips for pool, _ in self.pools)


def varied_deployment(asked: Deployment, changes: Changes) -> Deployment:
    """The deployment with `changes` of its own sections by path. Raises SpecError for what it has not."""
    found: dict[str, Any] = {}
    for root in ("plan", "scheduler", "scenario"):
        if changes.get(root):
            found[root] = vary(Varied(getattr(asked, root)), changes[root], root=f"{root}.").spec
    for root, lacks in (
        ("prefill", "has no pool that only prefills"),
        ("feed_forward", "has no chips for feed-forward layers alone"),
    ):
        if changes.get(root):
            section = getattr(asked, root)
            if section is None:
                raise SpecError(lacks, field=root, hint="describe it in the file")
            found[root] = vary(Varied(section), changes[root], root=f"{root}.").spec
    own = {name: value for name, value in changes.get("", {}).items() if name in FIELDS}
    if own:
        read = validated(Deployment, own)
        found |= {name: getattr(read, name) for name in own}
    return asked.model_copy(update=found)


@dataclass(frozen=True, slots=True)
class Given:
    """A system and a model at hand, in place of those that a deployment names."""

    system: Varied[System] | None = None
    model: Varied[Workload] | None = None


def deployed(
    name: str, given: Deployment, changes: Changes, prefix_tokens: int | None, at_hand: Given | None = None
) -> Deployed:
    """The deployment `name` with overrides. Raises SpecError, InfeasibleError.

    `prefix_tokens`: tokens of a block by which requests name shared text.
    """
    asked, hand = varied_deployment(given, changes), at_hand or Given()
    if asked.system is None or asked.workload is None:
        raise SpecError("is missing", field="system" if asked.system is None else "workload")
    system = vary_system(hand.system or Varied(_named("system", load_system, asked.system)), changes.get("system", {}))
    model = hand.model or Varied(_named("workload", load_workload, asked.workload))
    model = vary(model, changes.get("workload", {}), root="workload.")
    for root, varied in (("system", system), ("workload", model)):
        if varied.arrays:
            hint = "one deployment is one point: simulate them one by one"
            raise SpecError("holds points", field=f"{root}.{next(iter(varied.arrays))}", hint=hint)
    drafts = asked.speculation
    draft = (
        None
        if drafts is None or drafts.draft == N_GRAM
        else Varied(_named("speculation.draft", load_workload, drafts.draft))
    )
    wanted = Wanted(
        system=system,
        model=model,
        plan=asked.plan,
        stack=_named("stack", load_serving, asked.stack),
        scheduler=asked.scheduler,
        replicas=asked.replicas,
        expert_imbalance=asked.scenario.expert_imbalance,
        speculation=drafts,
        draft=draft,
        prefix_tokens=prefix_tokens,
        beside=_beside(asked, system, changes),
    )
    prefill, second, together = None, system, asked.prefill is not None and asked.prefill.system is None
    if asked.prefill is not None:
        second, before = _prefill_pool(asked, asked.prefill, wanted, changes)
        prefill = replicas_of(before)
    taken = prefill.count * prefill.chips if together and prefill is not None else 0.0
    pool = replicas_of(replace(wanted, taken=taken))
    if together and prefill is not None:
        _fits(pool, prefill, _drawn(asked, pool))
    cluster = _cluster(asked, pool, prefill)
    engine = (pool if prefill is None else prefill).case.stack
    start, steps = (0.0, 0.0) if engine is None else (float(engine.request_start), float(engine.request_steps))
    return Deployed(
        name,
        asked,
        system.spec,
        second.spec,
        model.spec,
        pool,
        prefill,
        cluster,
        start,
        steps,
        None if wanted.beside is None else wanted.beside.system.spec,
    )


def _named(field: str, load: Callable[[str], T], name: str) -> T:
    """What a field names. Raises SpecError that names the field where there is nothing of this name."""
    try:
        return load(name)
    except SpecError as error:
        if error.file is not None or error.field is not None:
            raise
        raise SpecError(error.problem, field=field, value=error.value, hint=error.hint) from None


def _prefill_pool(
    asked: Deployment, before: PrefillPool, wanted: Wanted, changes: Changes
) -> tuple[Varied[System], Wanted]:
    """The system of the pool that only prefills, and what is wanted of it: as the other pool where nothing is said."""
    system = wanted.system
    if before.system is not None:
        system = vary_system(Varied(_named("prefill.system", load_system, before.system)), changes.get("system", {}))
    sections: dict[str, Any] = {}
    for name, kind in (("plan", type(asked.plan)), ("scheduler", SchedulerSettings)):
        own, shared = getattr(before, name), getattr(asked, name)
        said = {field: getattr(shared, field) for field in shared.model_fields_set - {"data_parallel"}}
        # A system of its own has plans of its own.
        said = {} if before.system is not None and name == "plan" else said
        sections[name] = kind(**{**said, **{field: getattr(own, field) for field in own.model_fields_set}})
    if before.scheduler.reserve == "whole":
        hint = "scheduler.reserve is that of the pool that decodes"
        raise SpecError("decodes no answer", field="prefill.scheduler.reserve", value="whole", hint=hint)
    sections["scheduler"] = sections["scheduler"].model_copy(update={"reserve": "grown"})
    return system, Wanted(
        system=system,
        model=wanted.model,
        stack=wanted.stack if before.stack is None else _named("prefill.stack", load_serving, before.stack),
        replicas=before.replicas,
        expert_imbalance=wanted.expert_imbalance,
        prefix_tokens=wanted.prefix_tokens,
        **sections,
    )


def _beside(asked: Deployment, system: Varied[System], changes: Changes) -> Beside | None:
    """Chips for the feed-forward layers; overrides of the system are those of both. Raises SpecError."""
    section = asked.feed_forward
    if section is None:
        return None
    if section.system is None:
        return Beside(system, section, together=True)
    found = Varied(_named("feed_forward.system", load_system, section.system))
    return Beside(vary_system(found, changes.get("system", {})), section, together=False)


def _drawn(asked: Deployment, pool: Replicas) -> float:
    """Chips of a replica that the deployment's own system gives."""
    return pool.chips if asked.feed_forward is None or asked.feed_forward.system is None else pool.own_chips


def _fits(pool: Replicas, prefill: Replicas, drawn: float) -> None:
    """Raises SpecError where two pools of one system have more chips than it; `drawn`: of a replica that decodes."""
    chips = pool.count * drawn + prefill.count * prefill.chips
    system = pool.case.system
    if chips > float(system.chips):
        nodes = -(-chips // float(system.node_chips))
        hint = f"set system.nodes={nodes:g}, or give prefill.system"
        says = f"and the pool that decodes take {chips:g} chips, {system.name} has {float(system.chips):g}"
        raise SpecError(says, field="prefill.replicas", value=prefill.count, hint=hint)


def _cluster(asked: Deployment, pool: Replicas, prefill: Replicas | None) -> Cluster:
    """The cluster as the simulation takes it. Raises SpecError."""
    failures = asked.failures
    before = transfer = None
    if prefill is not None and asked.prefill is not None:
        transfer = transfer_of(prefill, pool, asked.transfer, together=asked.prefill.system is None)
        before = Pool(prefill.table, prefill.scheduler, prefill.count)
    return Cluster(
        pool=Pool(pool.table, pool.scheduler, pool.count),
        routing=asked.routing,
        prefill=before,
        transfer=transfer,
        autoscale=None if asked.autoscale is None else _autoscale(asked.autoscale, pool, _drawn(asked, pool)),
        failures=None if failures is None else Failures(failures.mean_up, failures.mean_repair),
    )


def _autoscale(asked: AutoscaleSettings, pool: Replicas, drawn: float) -> Autoscale:
    """Raises SpecError where a system has no chips for the most replicas; `drawn`: of a replica from its own."""
    needs = [(pool.case.system, drawn)]
    if pool.split is not None and drawn < pool.chips:
        needs.append((pool.split.feed_forward.system, pool.forward_chips))
    for system, chips in needs:
        have = float(system.chips)
        if asked.most * chips > have:
            hint = f"set system.nodes={-(-asked.most * chips // float(system.node_chips)):g}"
            says = f"needs more than the {have:g} chips that there are"
            raise SpecError(says, field="autoscale.most", value=asked.most, hint=hint)
    return Autoscale(asked.measure, asked.target, asked.least, asked.most, asked.interval, asked.start, asked.cool_down)


def files_of(asked: Deployment) -> list[Path]:
    """Every file that the deployment is read from."""
    systems = [asked.system, *(None if part is None else part.system for part in (asked.prefill, asked.feed_forward))]
    found = [document.path for name in systems if name for document in read_system(name)[1]]
    models = [asked.workload]
    if asked.speculation is not None and asked.speculation.draft != N_GRAM:
        models.append(asked.speculation.draft)
    found += [library.find("workloads", name) for name in models if name]
    stacks = [asked.stack, None if asked.prefill is None else asked.prefill.stack]
    return found + [document.path for name in stacks if name for document in described(name, "serving")[1]]
