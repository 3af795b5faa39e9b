"""Goodput of a training run: step of an estimate, failures of the data, simulated, and the closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosim.engines.case import new_tokens
from cosim.engines.goodput import GoodputRun, simulate_run
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.estimate import Estimate
from cosim.explore.goodput_asked import RULES, Asked, check_asked, interval_of
from cosim.hardware.reliability import Reliability
from cosim.records import at
from cosim.timing.goodput import LOST, Cause, Expected, LongRun, Stragglers, expected_run, mean_between_failures
from cosim.workload.graph import parameters

SLOWEST_RUN = 100.0
"""A run expected to take so many times its work is refused: it would practically never end."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """The answer: the run as it was set up, what is expected in closed form, and one simulated run a seed."""

    estimate: Estimate
    reliability: Reliability
    asked: Asked
    steps: float
    step_s: float
    state_bytes: float
    run: LongRun
    expected: Expected
    runs: tuple[GoodputRun, ...]

    def to_row(self) -> dict[str, Any]:
        """Plain values: what was asked, means over the seeds, their spread, the closed form beside them."""
        base, run, asked = self.estimate.to_row(), self.run, self.asked
        mean = mean_between_failures(run.causes)
        return {
            "system": base["system"],
            "workload": base["workload"],
            "chips": base["chips"],
            "nodes": run.nodes,
            "spares": run.spares,
            "elastic": run.elastic,
            "replicas": run.replicas,
            "steps": self.steps,
            "step_s": self.step_s,
            "tokens": self.steps * _step_tokens(self.estimate),
            "work_s": run.work_s,
            "state_bytes": self.state_bytes,
            "checkpoint": asked.save,
            "interval_rule": asked.interval if asked.interval in RULES else "given",
            "interval_s": run.interval_s,
            "checkpoint_s": run.save_s,
            "readable_after_s": run.lag_s,
            "restart_s": run.restart_s,
            "mean_between_failures_s": mean if math.isfinite(mean) else None,
            "seed": asked.seed,
            "seeds": asked.seeds,
            "goodput": self._over(lambda one: one.goodput),
            "effective_training_time": self._over(lambda one: one.effective),
            "time_s": self._over(lambda one: one.wall_s),
            "lost_s": {name: _mean([one.lost_s[name] for one in self.runs]) for name in LOST},
            "failures": {c.name: _mean([one.failures[c.name] for one in self.runs]) for c in run.causes},
            "expected": {
                "goodput": self.expected.goodput,
                "time_s": self.expected.wall_s,
                "lost_s": dict(self.expected.lost_s),
                "failures": dict(self.expected.failures),
            },
            "unverified": unverified(self.reliability),
        }

    def _over(self, of: Callable[[GoodputRun], float]) -> dict[str, float]:
        values = np.array([of(one) for one in self.runs])
        low, high = np.percentile(values, [5.0, 95.0])
        return {"mean": float(values.mean()), "p5": float(low), "p95": float(high)}


def goodput(estimate: Estimate, reliability: Reliability, asked: Asked) -> Goodput:
    """A training run of the estimate's step with failures. Raises SpecError, InfeasibleError.

    Run k of the seeds has a generator of its own, spawned from `asked.seed`.
    """
    check_asked(asked)
    _one_step(estimate)
    row = estimate.to_row()
    step_s = float(row["time_s"])
    steps = _steps(estimate, asked)
    state = state_bytes(estimate)
    run = long_run(estimate, reliability, asked, steps * step_s)
    expected = expected_run(run)
    if not expected.wall_s < SLOWEST_RUN * run.work_s:
        mean = mean_between_failures(run.causes)
        raise InfeasibleError(
            "goodput",
            f"something fails every {mean:.4g} s, a checkpoint cycle takes {run.interval_s + run.save_s:.4g} s "
            f"and a restart {run.restart_s:.4g} s: the run practically never ends",
            "shorten the interval, the checkpoint or reliability.job_start, or use fewer nodes",
        )
    generators = [np.random.default_rng(part) for part in np.random.SeedSequence(asked.seed).spawn(asked.seeds)]
    runs = tuple(
        simulate_run(run, random, spans=asked.spans and number == 0) for number, random in enumerate(generators)
    )
    return Goodput(estimate, reliability, asked, steps, step_s, state, run, expected, runs)


def long_run(estimate: Estimate, reliability: Reliability, asked: Asked, work_s: float) -> LongRun:
    """Seconds, rates and nodes of a run. Raises SpecError."""
    case, row = at(estimate.case, 0), estimate.to_row()
    chips, node_chips = int(row["chips"]), int(case.system.node_chips)
    nodes = math.ceil(chips / node_chips)
    state = state_bytes(estimate)
    save_s = state / (nodes * reliability.write_bandwidth.si)
    lag_s = 0.0
    if asked.save == "async":
        lag_s, save_s = save_s, float(row["memory_bytes.optimizer"]) / reliability.snapshot_bandwidth.si
    restart_s = reliability.job_start.si + state / (nodes * reliability.read_bandwidth.si)
    causes = causes_of(reliability, chips, nodes)
    spares = math.ceil(nodes * reliability.spare_share.si) if asked.spares is None else asked.spares
    replicas = int(case.plan.data)
    outside = [chip for chip in asked.stragglers if not 0 <= chip < chips]
    if outside:
        raise SpecError("is no chip of the run", field="straggler", value=outside[0], hint=f"it has {chips}, from 0")
    named: dict[int, float] = {}
    for chip, factor in asked.stragglers.items():
        named[chip // node_chips] = max(named.get(chip // node_chips, 1.0), factor)
    return LongRun(
        work_s=work_s,
        interval_s=interval_of(asked, save_s, lag_s, mean_between_failures(causes), float(row["time_s"]), work_s),
        save_s=save_s,
        lag_s=lag_s,
        restart_s=restart_s,
        causes=causes,
        nodes=nodes,
        spares=spares,
        node_chips=node_chips,
        replicas=replicas,
        replica_nodes=nodes / replicas,
        elastic=asked.elastic,
        stragglers=Stragglers(asked.slow_spread, named),
    )


def causes_of(reliability: Reliability, chips: int, nodes: int) -> tuple[Cause, ...]:
    """Failures of the whole job by component: how many of it there are over the time between failures of one."""
    counts = {"chip": chips, "node": nodes, "job": 1}
    return tuple(
        Cause(
            name,
            counts[part.per] / part.mtbf.si,
            0.0 if part.planned else (part.detection or reliability.detection).si,
            part.repair.si if part.repair is not None else 0.0,
            part.planned,
        )
        for name, part in reliability.components.items()
    )


def state_bytes(estimate: Estimate) -> float:
    """Bytes of a checkpoint: what the optimizer keeps of every parameter; the weights follow from it."""
    case = at(estimate.case, 0)
    if case.software is None:
        raise SpecError("is not a training estimate", field="estimated", value=case.phase)
    return float(parameters(case.model)) * float(case.software.optimizer_bytes)


def unverified(reliability: Reliability) -> list[str]:
    """Paths of the data that no source backs."""
    from cosim.explore.assumptions import data_of

    return [str(row["path"]) for row in data_of(reliability) if "unverified" in str(row["source"])]


def _steps(estimate: Estimate, asked: Asked) -> float:
    if asked.steps is not None:
        return float(asked.steps)
    return math.ceil(float(asked.tokens or 0.0) / _step_tokens(estimate))


def _step_tokens(estimate: Estimate) -> float:
    return float(new_tokens(at(estimate.case, 0)))


def _one_step(estimate: Estimate) -> None:
    """Raises SpecError for what is not one step of training."""
    if estimate.case.phase != "train":
        raise SpecError("is not a training estimate", field="estimated", value=estimate.case.phase)
    if len(estimate.result.time) != 1:
        hint = "a run is simulated for one step time"
        raise SpecError("is more than one point", field="estimated", value=len(estimate.result.time), hint=hint)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
