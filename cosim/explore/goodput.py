"""Goodput of a training run: step time from an estimate, failures from data, closed form and simulation side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from cosim.engines.goodput import GoodputRun, simulate_run
from cosim.errors import InfeasibleError, SpecError, nearest
from cosim.explore.estimate import Estimate
from cosim.hardware.reliability import Reliability
from cosim.mapping.plan import PlanArrays
from cosim.records import at
from cosim.timing.checkpoint import best_interval, daly, young
from cosim.timing.goodput import LOST, Cause, Expected, LongRun, Stragglers, expected_run, mean_between_failures
from cosim.units import parse_quantity
from cosim.workload.graph import parameters

RULES = {"best": best_interval, "daly": daly, "young": young}
SAVES = ("blocking", "async")
MOST_SEEDS = 10_000
SLOWEST_RUN = 100.0
"""A run expected to take so many times its work is refused: it would practically never end."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a run beside its step: how long it is, how it saves, what it has in hand.

    One of `tokens`, `steps`. `interval` is a rule (best, daly, young) or a time. `spares` None takes the share of the
    data. `stragglers` are factors by chip; `slow_spread` that of the normal law of all chips.
    """

    tokens: float | None = None
    steps: float | None = None
    interval: str | float = "best"
    save: str = "blocking"
    spares: int | None = None
    elastic: bool = False
    slow_spread: float = 0.0
    stragglers: Mapping[int, float] = field(default_factory=dict)
    seeds: int = 20
    seed: int = 0


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
            "lost_s": {name: self._mean(lambda one, name=name: one.lost_s[name]) for name in LOST},
            "failures": {cause.name: self._mean(lambda one, c=cause.name: one.failures[c]) for cause in run.causes},
            "expected": {
                "goodput": self.expected.goodput,
                "time_s": self.expected.wall_s,
                "lost_s": dict(self.expected.lost_s),
                "failures": dict(self.expected.failures),
            },
            "unverified": unverified(self.reliability),
        }

    def _mean(self, of: Any) -> float:  # noqa: ANN401  # a function of a run
        return float(np.mean([of(one) for one in self.runs]))

    def _over(self, of: Any) -> dict[str, float]:  # noqa: ANN401  # a function of a run
        values = np.array([of(one) for one in self.runs])
        low, high = np.percentile(values, [5.0, 95.0])
        return {"mean": float(values.mean()), "p5": float(low), "p95": float(high)}


def goodput(estimate: Estimate, reliability: Reliability, asked: Asked) -> Goodput:
    """A training run of the estimate's step with failures. Raises SpecError, InfeasibleError.

    Run k of the seeds has a generator of its own, spawned from `asked.seed`.
    """
    _sound(estimate, asked)
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
    runs = tuple(simulate_run(run, random, spans=number == 0) for number, random in enumerate(generators))
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
        interval_s=_interval(asked, save_s, lag_s, causes, float(row["time_s"]), work_s),
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


def _interval(
    asked: Asked, save_s: float, lag_s: float, causes: tuple[Cause, ...], step_s: float, work_s: float
) -> float:
    """Work between checkpoints [s], in whole steps, one at least and the whole run at most. Raises SpecError."""
    if asked.interval in RULES:
        mean = mean_between_failures(causes)
        rule = RULES[cast("Literal['best', 'daly', 'young']", asked.interval)]
        found = float(rule(np.float64(save_s), np.float64(mean))) if math.isfinite(mean) else work_s
    else:
        if isinstance(asked.interval, str) and asked.interval.isalpha():
            raise SpecError("is no rule", field="interval", value=asked.interval, hint=nearest(asked.interval, RULES))
        found = _quantity(asked.interval, "s", "interval")
        if not found > 0.0:
            raise SpecError("must be more than 0", field="interval", value=asked.interval)
        if found < lag_s:
            hint = f"a checkpoint is written for {lag_s:.4g} s behind the job, one at a time"
            raise SpecError("is too short", field="interval", value=asked.interval, hint=hint)
    # One checkpoint is written at a time.
    steps = max(round(found / step_s), math.ceil(lag_s / step_s), 1)
    return min(steps * step_s, work_s)


def _steps(estimate: Estimate, asked: Asked) -> float:
    if asked.steps is not None:
        return float(asked.steps)
    return math.ceil(float(asked.tokens or 0.0) / _step_tokens(estimate))


def _step_tokens(estimate: Estimate) -> float:
    scenario = at(estimate.case, 0).scenario
    return float(scenario.global_batch * scenario.context)


def _sound(estimate: Estimate, asked: Asked) -> None:
    """Raises SpecError for what cannot be asked."""
    if estimate.case.phase != "train":
        raise SpecError("is not a training estimate", field="estimated", value=estimate.case.phase)
    if len(estimate.result.time) != 1:
        hint = "a run is simulated for one step time"
        raise SpecError("is more than one point", field="estimated", value=len(estimate.result.time), hint=hint)
    if (asked.tokens is None) == (asked.steps is None):
        raise SpecError("give one of the two", field="tokens, steps", hint="for example --tokens 1e12")
    for name in ("tokens", "steps"):
        value = getattr(asked, name)
        if value is not None and not (math.isfinite(value) and value > 0.0):
            raise SpecError("must be more than 0", field=name, value=value)
    if asked.steps is not None and asked.steps != round(asked.steps):
        raise SpecError("must be a whole number", field="steps", value=asked.steps)
    if asked.save not in SAVES:
        raise SpecError("is no way to save", field="checkpoint", value=asked.save, hint=nearest(asked.save, SAVES))
    if asked.spares is not None and asked.spares < 0:
        raise SpecError("must be at least 0", field="spares", value=asked.spares)
    if not 1 <= asked.seeds <= MOST_SEEDS:
        raise SpecError("is out of range", field="seeds", value=asked.seeds, hint=f"1 to {MOST_SEEDS}")
    if asked.seed < 0:
        raise SpecError("must be at least 0", field="seed", value=asked.seed)
    if not 0.0 <= asked.slow_spread <= 1.0:
        raise SpecError("is out of range", field="slow-spread", value=asked.slow_spread, hint="0 to 1")
    for chip, factor in asked.stragglers.items():
        if not (math.isfinite(factor) and factor >= 1.0):
            hint = "how many times as long its steps take, at least 1"
            raise SpecError("is no factor", field="straggler", value=f"{chip}={factor}", hint=hint)


def _quantity(text: str | float, unit: str, field: str) -> float:
    try:
        found = parse_quantity(text, unit)
    except SpecError as error:
        raise SpecError(error.problem, field=field, value=error.value, hint=error.hint) from None
    if not math.isfinite(found):
        raise SpecError("is not a finite number", field=field, value=text)
    return found
