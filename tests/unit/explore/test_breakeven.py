"""The break-even quality: the crossing itself, both ends at which there is none, limits on time."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case, Phase
from cosim.explore.breakeven import LEAST, MOST, PLANS_KEPT, _promising, break_even
from cosim.explore.compare import Goal, scaled_quality, winner
from cosim.explore.space import batch_grid, candidates_over, on_nodes, searched, unlimited
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.records import take
from cosim.workload.load import load_model
from cosim.workload.model import lower_model

SYSTEMS = ("dgx-h100", "tpu-v5p-8", "asic-8")
GOALS = {"decode": Goal("decode", 0.02), "prefill": Goal("prefill", 2.0)}
# Seventeen factors over [1/4, 4], then seventeen over one step of those: what is found is at most this much above.
STEP = (MOST / LEAST) ** (1.0 / 16.0 / 16.0)


@functools.cache
def block(name: str, phase: Phase) -> tuple[Case, Estimates]:
    """Plans and batches of Llama-3.1-8B on one system, without a power limit so that only quality counts."""
    machine = lower_system(vary_system(Varied(load_system(name)), {"chip.power.limit": 1e5}))
    model = lower_model(Varied(load_model("llama-3.1-8b")))
    found = candidates_over(model, 8, batch_grid(24), phase)
    case = searched(phase, machine, model, unlimited(1.0, 2048.0, 2048.0), "bf16", found)
    return case, evaluate(case)


def best_rate(name: str, phase: Phase, factor: float, limit_s: float | None = None) -> float:
    """Most tokens/s/chip within the goal over all plans and batches when every quality is scaled."""
    case, _ = block(name, phase)
    goal = GOALS[phase] if limit_s is None else Goal(phase, limit_s)
    result = evaluate(replace(case, system=scaled_quality(case.system, np.array(factor))))
    index = winner(result, goal)
    return 0.0 if index is None else float(result.tokens[index] / result.time[index] / result.chips[index])


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(SYSTEMS), phase=st.sampled_from(["prefill", "decode"]), factor=st.floats(0.4, 1.25))
def test_at_the_break_even_factor_the_target_is_reached_and_just_below_it_is_not(
    name: str, phase: Phase, factor: float
) -> None:
    target = best_rate(name, phase, factor)
    found = break_even(*block(name, phase), GOALS[phase], target)
    assert found.factor is not None
    assert found.reason == ""
    # Below it only where the rate is flat: qualities end at 1.
    assert found.factor <= factor * STEP * (1.0 + 1e-9)
    assert best_rate(name, phase, found.factor) >= target * (1.0 - 1e-9)
    assert best_rate(name, phase, found.factor / STEP / (1.0 + 1e-9)) < target


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_harder_target_asks_for_better_kernels(name: str, phase: Phase) -> None:
    own = best_rate(name, phase, 1.0)
    factors = [break_even(*block(name, phase), GOALS[phase], share * own).factor for share in (0.7, 0.8, 0.9, 1.0)]
    known = [factor for factor in factors if factor is not None]
    assert len(known) == 4
    assert known == sorted(known)
    assert 1.0 / STEP <= known[-1] <= STEP


@pytest.mark.parametrize("name", SYSTEMS)
def test_perfect_kernels_have_an_end(name: str) -> None:
    perfect = best_rate(name, "prefill", MOST)
    assert break_even(*block(name, "prefill"), GOALS["prefill"], 0.999 * perfect).factor is not None
    beyond = break_even(*block(name, "prefill"), GOALS["prefill"], 1.001 * perfect)
    assert (beyond.factor, beyond.reason) == (None, "not reached even with perfect kernels")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_lead_that_a_quarter_of_the_quality_keeps_has_no_break_even(name: str) -> None:
    target = 0.5 * best_rate(name, "decode", LEAST)
    found = break_even(*block(name, "decode"), Goal("decode", 10.0), target)
    assert (found.factor, found.reason) == (None, "still ahead at 0.25 of its quality")


@functools.cache
def experts(phase: Phase) -> tuple[Case, Estimates]:
    """Plans and batches of a mixture of experts on up to four nodes: they differ in experts and replicas too."""
    model = lower_model(Varied(load_model("gpt-oss-120b")))
    found = candidates_over(model, [8, 16, 32], batch_grid(24), phase)
    machine = on_nodes(lower_system(Varied(load_system("dgx-h100"))), found.tensor * found.pipeline * found.data)
    case = searched(phase, machine, model, unlimited(1.0, 2048.0, 2048.0), "fp8", found)
    return case, evaluate(case)


@settings(max_examples=20, deadline=None)
@given(phase=st.sampled_from(["prefill", "decode"]), exponent=st.floats(-3.0, 1.0))
def test_kept_are_all_feasible_points_of_the_plans_that_serve_best(phase: Phase, exponent: float) -> None:
    case, result = experts(phase)
    limit = 10.0**exponent
    plan = case.plan
    plans = np.stack([plan.tensor, plan.pipeline, plan.expert, plan.data], axis=1)
    rate = np.where(result.feasible, result.tokens / result.time / result.chips, -np.inf)
    within = result.feasible & (result.time <= limit)
    # Where nothing meets the limit the fastest come nearest to it.
    score = np.where(within, rate, -np.inf) if within.any() else np.where(result.feasible, -result.time, -np.inf)
    order = [index for index in np.argsort(-score, kind="stable") if np.isfinite(score[index])]
    best = list(dict.fromkeys(tuple(plans[index]) for index in order))[:PLANS_KEPT]
    expected = [index for index in range(len(rate)) if result.feasible[index] and tuple(plans[index]) in best]
    assert _promising(case, result, Goal(phase, limit)).tolist() == expected
    assert len(best) == PLANS_KEPT or len(best) == len({tuple(plans[index]) for index in order})


def test_plans_that_differ_in_experts_or_replicas_alone_are_different_plans() -> None:
    case, result = experts("decode")
    kept = _promising(case, result, Goal("decode", np.inf))
    plan = take(case, kept).plan
    few = set(zip(plan.tensor, plan.pipeline, strict=True))
    every = set(zip(plan.tensor, plan.pipeline, plan.expert, plan.data, strict=True))
    assert len(few) < len(every) == PLANS_KEPT


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_few_plans_kept_of_a_mixture_of_experts_break_even_where_all_plans_do(phase: Phase, factor: float) -> None:
    case, result = experts(phase)

    def best(scale: float) -> float:
        scaled = evaluate(replace(case, system=scaled_quality(case.system, np.array(scale))))
        index = winner(scaled, GOALS[phase])
        return 0.0 if index is None else float(scaled.tokens[index] / scaled.time[index] / scaled.chips[index])

    found = break_even(case, result, GOALS[phase], best(factor)).factor
    assert found is not None
    assert found <= factor * STEP * (1.0 + 1e-9)
    assert best(found) >= best(factor) * (1.0 - 1e-9)
    assert best(found / STEP / (1.0 + 1e-9)) < best(factor)


def test_better_kernels_may_be_what_meets_the_limit() -> None:
    # At its own quality no step is as fast as the limit; the plans that come nearest are tried.
    name: str = "asic-8"
    case, result = block(name, "prefill")
    limit = 0.9 * float(np.nanmin(result.time))
    assert winner(result, Goal("prefill", limit)) is None
    found = break_even(case, result, Goal("prefill", limit), 1.0)
    assert found.factor is not None
    assert found.factor > 1.0
    assert best_rate(name, "prefill", found.factor, limit) >= 1.0
    assert best_rate(name, "prefill", found.factor / STEP / (1.0 + 1e-9), limit) == 0.0


def test_what_fits_nowhere_has_no_break_even() -> None:
    case, _ = block("dgx-h100", "decode")
    large = replace(case, scenario=replace(case.scenario, capacity=np.array(1e9)))
    result = evaluate(large)
    assert not result.feasible.any()
    found = break_even(large, result, GOALS["decode"], 1.0)
    assert found.factor is None
    assert found.reason == "no plan meets the limit at any quality tried"
