"""The training part of a study: every system on every run, with equal chips and with equal power at the facility.

Equal power means what is provisioned: chips at their limit and the servers around them, times PUE. The power of all
is that of the first system with the study's chips; others take as many nodes as fit, rounded down to a number that
divides well (2^a 3^b), and are ranked by tokens/s per kW so that what rounding leaves does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cosim.engines.training import with_micro_batches
from cosim.errors import SpecError
from cosim.explore.compare import QUALITIES, Block, Goal, with_quality
from cosim.explore.experiment import EqualQuality, TrainingRun, TrainingStudy
from cosim.explore.train import space
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import load_software, lower_software
from cosim.overrides import Varied
from cosim.records import points
from cosim.workload.model import ModelArrays

KILO = 1e3


def training_goals(study: TrainingStudy) -> list[Goal]:
    """Both boundaries of every run, in the order of the study."""
    return [goal for run in study.runs for goal in _goals(run, study)]


def training_blocks(
    study: TrainingStudy,
    systems: Mapping[str, Varied[System]],
    models: Mapping[str, ModelArrays],
    equal: EqualQuality,
) -> Iterator[Block]:
    """Every plan of every system, run and boundary at each quality. What has no legal plan is left out, said later."""
    for run in study.runs:
        by_chips, by_power = _goals(run, study)
        for name, varied in systems.items():
            same = with_nodes(varied, nodes_of(varied, study.chips))
            budget = provisioned_w(
                with_nodes(systems[study.systems[0]], nodes_of(systems[study.systems[0]], study.chips))
            )
            # A system fits its own budget whatever rounding does.
            most = int(budget / provisioned_w(with_nodes(varied, 1)) * (1.0 + 1e-12))
            fits = with_nodes(varied, _round_count(most)) if most else None
            if name == study.systems[0]:
                fits = same
            for goal, system in ((by_chips, same), (by_power, fits)):
                if system is not None:
                    yield from _blocks(study, run, goal, name, system, models[run.workload], equal)


def nodes_of(varied: Varied[System], chips: int) -> int:
    """Nodes that hold `chips`. Raises SpecError where they do not divide."""
    spec = varied.spec
    per_node = int(spec.chips / spec.nodes.si)
    if chips % per_node:
        hint = f"{spec.name} has {per_node} chips a node"
        raise SpecError("is not a whole number of nodes", field="chips", value=chips, hint=hint)
    return chips // per_node


def with_nodes(varied: Varied[System], nodes: int) -> Varied[System]:
    """The system with so many nodes."""
    return vary_system(varied, {"nodes": nodes})


def provisioned_w(varied: Varied[System]) -> float:
    """Power that a facility must have for the system: chips at their limit, servers, times PUE [W]."""
    spec = varied.spec
    return (spec.chips * spec.chip.power.limit.si + spec.nodes.si * spec.server.power.si) * spec.facility.pue.si


def _goals(run: TrainingRun, study: TrainingStudy) -> tuple[Goal, Goal]:
    text = f"training {run.workload}, {run.global_batch:,} x {run.length:,} tokens"
    powered = f"{text}, facility power of {study.chips:,} chips of {study.systems[0]}"
    return (
        Goal("train", np.inf, f"{text}, {study.chips:,} chips each", "chip", run.workload),
        Goal("train", np.inf, powered, "kW", run.workload),
    )


def _round_count(most: int) -> int:
    """The largest 2^a 3^b up to `most`."""
    counts: list[int] = [2**a * 3**b for a in range(21) for b in range(13)]
    return max(count for count in counts if count <= most)


def _blocks(
    study: TrainingStudy,
    run: TrainingRun,
    goal: Goal,
    name: str,
    varied: Varied[System],
    model: ModelArrays,
    equal: EqualQuality,
) -> Iterator[Block]:
    lowered = lower_system(varied)
    if study.precision not in lowered.chip.matrix.peak:
        return
    software = lower_software(load_software(study.software))
    plan = lower_plan(Varied(Plan(dtype=study.precision)))
    scenario = lower_scenario(Varied(Scenario(context=run.length, global_batch=run.global_batch)))
    scale = 1.0 if goal.per == "chip" else varied.spec.chips / provisioned_w(varied) * KILO
    for quality in QUALITIES:
        machine: SystemArrays | None = with_quality(lowered, varied, quality, equal)
        case = None if machine is None else space(machine, model, scenario, software, plan, {})
        if case is not None:
            filled = with_micro_batches(case)
            count, label = points(case), study.precision
            yield Block(name, "train", label, quality, filled, count, goal.name, scale, run.workload)
