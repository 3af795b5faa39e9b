"""From a training estimate to a long run: rates, bytes, intervals, and what cannot be asked."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosim.errors import InfeasibleError, SpecError
from cosim.explore.estimate import Estimate
from cosim.explore.goodput import causes_of, goodput, long_run, state_bytes, unverified
from cosim.explore.goodput_asked import Asked
from cosim.explore.goodput_request import varied_reliability
from cosim.explore.request import estimate_request
from cosim.hardware.reliability import load_reliability
from cosim.timing.checkpoint import best_interval, daly, young
from cosim.timing.goodput import LOST, mean_between_failures

PLAN = {"plan.tensor_parallel": 4, "plan.pipeline_parallel": 1, "plan.zero": 1, "plan.recompute": "full"}
DAY = 86400.0
PARAMETERS = 8.03e9
RELIABILITY = load_reliability()


@functools.cache
def step(nodes: int = 4) -> Estimate:
    asked = {"system.nodes": nodes, "scenario.global_batch": 8 * nodes, **PLAN, "plan.data_parallel": 2 * nodes}
    return estimate_request("train", "dgx-h100", "llama-3.1-8b", asked)


def run_of(**changes: Any) -> Any:
    asked = Asked(**{"steps": 10_000.0, "seeds": 3, **changes})
    return goodput(step(), RELIABILITY, asked)


def test_rates_are_those_of_all_parts() -> None:
    causes = {cause.name: cause for cause in causes_of(RELIABILITY, 16384, 2048)}
    seconds = 54.0 * DAY
    assert causes["gpu"].rate * seconds == pytest.approx(196.0, rel=1e-4)
    assert sum(cause.rate for cause in causes.values()) * seconds == pytest.approx(466.0, rel=1e-4)
    assert mean_between_failures(tuple(causes.values())) * 419.0 == pytest.approx(seconds, rel=1e-4)
    assert (causes["gpu"].detection_s, causes["gpu"].repair_s) == (180.0, DAY)
    assert (causes["planned"].detection_s, causes["planned"].planned) == (0.0, True)
    assert causes["software"].repair_s == 0.0


def test_a_component_of_the_job_and_one_seen_late() -> None:
    changes = {"components.software.per": "job", "components.gpu.detection": "1 h"}
    causes = {cause.name: cause for cause in causes_of(varied_reliability("reliability", changes), 80, 10)}
    assert causes["software"].rate == pytest.approx(1.0 / (42130.0 * 3600.0))
    assert causes["gpu"].detection_s == 3600.0


def test_the_state_is_what_the_optimizer_keeps() -> None:
    state = state_bytes(step())
    assert state == pytest.approx(12.0 * PARAMETERS, rel=0.01)
    run = long_run(step(), RELIABILITY, Asked(steps=10.0), 1e6)
    assert (run.nodes, run.spares, run.node_chips, run.replicas, run.replica_nodes) == (4, 1, 8, 8, 0.5)
    assert run.save_s == pytest.approx(state / (4 * 0.98e9))
    assert run.restart_s == pytest.approx(300.0 + run.save_s)
    behind = long_run(step(), RELIABILITY, Asked(steps=10.0, save="async"), 1e6)
    assert behind.lag_s == run.save_s
    # Of 8 replicas each keeps an eighth of a quarter of the state.
    assert behind.save_s == pytest.approx(state / 32 / 20e9, rel=0.01)


def test_the_interval_follows_its_rule_in_whole_steps() -> None:
    step_s = float(step().to_row()["time_s"])
    for name, rule in (("best", best_interval), ("daly", daly), ("young", young)):
        run = run_of(interval=name, steps=1e6).run
        exact = float(rule(np.float64(run.save_s), np.float64(mean_between_failures(run.causes))))
        assert run.interval_s == pytest.approx(exact, abs=step_s)
        assert run.interval_s / step_s == pytest.approx(round(run.interval_s / step_s))
    assert run_of(interval="30 min").run.interval_s == pytest.approx(1800.0, abs=step_s)
    assert run_of(interval=1e-9).run.interval_s == step_s
    assert run_of(interval=1e12).run.interval_s == 10_000.0 * step_s


def test_tokens_are_steps_of_a_batch() -> None:
    tokens = 32.0 * 2048.0
    answer = run_of(steps=None, tokens=1000.5 * tokens)
    assert answer.steps == 1001.0
    assert answer.to_row()["tokens"] == 1001.0 * tokens
    assert answer.run.work_s == pytest.approx(1001.0 * answer.step_s)


def test_the_row_holds_means_spread_and_the_closed_form() -> None:
    answer = run_of(steps=3e6, seeds=8)
    row = answer.to_row()
    assert list(row["lost_s"]) == list(row["expected"]["lost_s"]) == list(LOST)
    assert row["goodput"]["p5"] <= row["goodput"]["mean"] <= row["goodput"]["p95"]
    assert row["time_s"]["mean"] == pytest.approx(row["work_s"] + sum(row["lost_s"].values()))
    assert row["time_s"]["mean"] == pytest.approx(row["expected"]["time_s"], rel=0.02)
    assert row["failures"].keys() == row["expected"]["failures"].keys()
    assert (row["chips"], row["nodes"], row["seed"], row["interval_rule"]) == (32, 4, 0, "best")
    assert all(math.isfinite(value) for value in row["lost_s"].values())
    assert "detection" in row["unverified"]
    assert "components.gpu.mtbf" not in unverified(RELIABILITY)


def test_a_seed_gives_the_same_answer_and_one_more_run_leaves_the_others() -> None:
    three, four = run_of(steps=1e6, seeds=3, spans=True), run_of(steps=1e6, seeds=4)
    assert [one.wall_s for one in three.runs] == [one.wall_s for one in four.runs[:3]]
    assert run_of(steps=1e6, seed=1).runs != three.runs
    assert three.runs[0].spans
    assert three.runs[1].spans == four.runs[0].spans == ()


def test_without_failures_only_checkpoints_cost() -> None:
    never = RELIABILITY.model_copy(update={"components": {}})
    answer = goodput(step(), never, Asked(steps=100.0, seeds=2))
    row = answer.to_row()
    assert row["mean_between_failures_s"] is None
    assert answer.run.interval_s == answer.run.work_s
    assert row["time_s"]["mean"] == pytest.approx(answer.run.work_s + answer.run.save_s)
    assert row["failures"] == {}


def test_stragglers_are_named_by_chip() -> None:
    run = run_of(stragglers={9: 1.3, 8: 1.5, 0: 1.1}).run
    assert dict(run.stragglers.named) == {1: 1.5, 0: 1.1}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": None}, "give one of the two"),
    ({"tokens": 1e9}, "give one of the two"),
    ({"steps": 0.0}, "steps: must be more than 0"),
    ({"steps": math.nan}, "steps: must be more than 0"),
    ({"steps": 1.5}, "whole number"),
    ({"steps": None, "tokens": -1.0}, "tokens: must be more than 0"),
    ({"save": "never"}, "checkpoint: is no way to save"),
    ({"interval": "weekly"}, "interval: is no rule"),
    ({"interval": "3 GB"}, "interval: wrong unit"),
    ({"interval": "0 s"}, "interval: must be more than 0"),
    ({"interval": "nan s"}, "interval: is not a finite number"),
    ({"interval": "1 s", "save": "async"}, "interval: is too short"),
    ({"spares": -1}, "spares: is out of range"),
    ({"seeds": 0}, "seeds: is out of range"),
    ({"seed": -1}, "seed: must be at least 0"),
    ({"slow_spread": -0.1}, "slow-spread: is out of range"),
    ({"stragglers": {0: 0.9}}, "straggler: is no factor"),
    ({"stragglers": {32: 1.1}}, "straggler: is no chip of the run"),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=[said for _, said in BAD])
def test_what_cannot_be_asked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        run_of(**changes)


def test_only_one_step_of_training_makes_a_run() -> None:
    decode = estimate_request("decode", "dgx-h100", "llama-3.1-8b", {})
    with pytest.raises(SpecError, match="not a training estimate"):
        goodput(decode, RELIABILITY, Asked(steps=10.0))
    two = replace(step(), result=replace(step().result, time=np.array([1.0, 2.0])))
    with pytest.raises(SpecError, match="more than one point"):
        goodput(two, RELIABILITY, Asked(steps=10.0))


def test_a_run_that_would_never_end_is_infeasible() -> None:
    hopeless = varied_reliability("reliability", {"components.gpu.mtbf": "20 min"})
    with pytest.raises(InfeasibleError, match="never ends"):
        goodput(step(), hopeless, Asked(steps=1e6))
