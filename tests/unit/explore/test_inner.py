"""The inner search against brute force: every legal plan at every power of two, one design at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import cosim
from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.explore.inner import best_plans
from cosim.explore.request import estimate_request
from cosim.explore.space import candidates_over, searched
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import LIMITS
from cosim.mapping.plan import Scenario, lower_scenario
from cosim.overrides import Varied, vary
from cosim.records import Array, map_leaves
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Row = dict[str, Any]
MOST, CONTEXT = 32, 4096
SYSTEMS: dict[str, list[Row]] = {
    "asic-8": [
        {"path": "system.chip.matrix.rows", "values": [64, 128]},
        {"path": "system.chip.memory.dram.stacks", "values": [1, 6]},
    ],
    "dgx-h100": [{"path": "system.chip.links.scale_up.rate", "values": ["5 GB/s", "25 GB/s"]}],
    "tpu-v5p-8": [
        {"path": "system.chip.matrix.arrays", "values": [1, 4]},
        {"path": "system.chip.launch.host_step", "values": ["0.1 ms", "1 ms"]},
    ],
}
MODELS = ("llama-3.1-8b", "mixtral-8x7b")
Worth = Callable[[Case, Estimates], Array]
GOALS: dict[str, tuple[list[str], Worth]] = {
    "free": ([], lambda _case, result: result.time > 0.0),
    "fast": (["time_s <= 6 ms"], lambda _case, result: result.time <= 0.006),
    "lean": (["memory_bytes.total <= 8 GB"], lambda _case, result: result.memory["total"] <= 8e9),
    "shared": (
        ["tokens_per_s_per_user >= 100", "power_w <= 400"],
        lambda _case, result: (result.time <= 0.01) & (result.power <= 400.0),
    ),
}


@functools.cache
def described(system: str, model: str) -> tuple[Varied[System], Varied[Model]]:
    return Varied(load_system(system)), Varied(load_model(model))


def swept(system: str, model: str, constraints: list[str], axes: list[Row], **changes: Any) -> list[Row]:
    case = {"workload": model, "phase": "decode", "plan": {"dtype": "bf16"}, "scenario": {"context": CONTEXT}}
    space: Row = {"system": system, "cases": [case], "axes": axes, "silicon": False, "constraints": constraints}
    return list(cosim.sweep({**space, "search": {"max_batch": MOST}, **changes}).to_pylist())


@dataclass(frozen=True)
class Brute:
    """Every candidate of one design with its estimates."""

    case: Case
    result: Estimates
    plans: int


def brute(system: str, model: str, changes: Row, phase: Any = "decode") -> Brute:
    machine, network = described(system, model)
    own = {path.removeprefix("system."): value for path, value in changes.items() if path.startswith("system.")}
    layers = {path.removeprefix("workload."): value for path, value in changes.items() if path.startswith("workload.")}
    arrays = map_leaves(lower_model(vary(network, layers)), lambda leaf: leaf.reshape(()))
    lowered = lower_system(vary_system(machine, own))
    found = candidates_over(arrays, int(lowered.chips), 2 ** np.arange(MOST.bit_length()), phase)
    scenario = lower_scenario(vary(Varied(Scenario()), {"context": CONTEXT}))
    case = searched(phase, lowered, arrays, scenario, "bf16", found)
    return Brute(case, evaluate(case), found.plans)


def rate(found: Brute) -> Array:
    result = found.result
    rates: Array = np.where(result.feasible, result.tokens / result.time / result.chips, -np.inf)
    return rates


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_no_plan_at_any_power_of_two_beats_the_one_that_is_found(system: str, model: str, goal: str) -> None:
    constraints, allowed = GOALS[goal]
    axes = SYSTEMS[system]
    for row in swept(system, model, constraints, axes):
        every = brute(system, model, {axis["path"]: row[axis["path"]] for axis in axes})
        with np.errstate(invalid="ignore"):
            worth = np.where(allowed(every.case, every.result), rate(every), -np.inf)
        assert row["plans_tried"] == every.plans
        assert row["feasible"] == bool(np.isfinite(worth).any())
        if row["feasible"]:
            assert row["tokens_per_s_per_chip"] >= worth.max() * (1.0 - 1e-12)
            assert row["scenario.batch"] <= MOST * row["plan.data_parallel"]


@pytest.mark.parametrize("model", MODELS)
def test_the_found_point_is_the_estimate_of_its_plan_and_satisfies_the_constraints(model: str) -> None:
    axes = SYSTEMS["asic-8"]
    for row in swept("asic-8", model, ["time_s <= 6 ms"], axes):
        changes = {axis["path"]: row[axis["path"]] for axis in axes}
        names = ("tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches", "expert_parallel", "dtype")
        changes |= {f"plan.{name}": row[f"plan.{name}"] for name in names}
        changes |= {f"scenario.{name}": row[f"scenario.{name}"] for name in ("batch", "context")}
        alone = estimate_request("decode", "asic-8", model, changes).to_row()
        assert row["feasible"]
        assert row["time_s"] <= 0.006
        for name in ("time_s", "energy_j", "memory_bytes.total", "tokens_per_s_per_chip"):
            assert row[name] == pytest.approx(alone[name], rel=1e-12)


@pytest.mark.parametrize(
    "plan",
    [{"tensor_parallel": 8}, {"tensor_parallel": 2, "data_parallel": 4}, {"pipeline_parallel": 2, "data_parallel": 4}],
)
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_a_search_is_never_worse_than_a_legal_plan_that_is_given(plan: Row, batch: int) -> None:
    axes = SYSTEMS["asic-8"]
    whole = batch * plan.get("data_parallel", 1)
    micro = min(plan.get("pipeline_parallel", 1), batch)
    case = {
        "workload": "llama-3.1-8b",
        "phase": "decode",
        "plan": {**plan, "dtype": "bf16", "micro_batches": micro},
        "scenario": {"batch": whole, "context": CONTEXT},
    }
    given = swept("asic-8", "llama-3.1-8b", [], axes, cases=[case], search=None)
    found = swept("asic-8", "llama-3.1-8b", [], axes)
    pairs = [(mine, theirs) for mine, theirs in zip(found, given, strict=True) if theirs["feasible"]]
    assert pairs
    for mine, theirs in pairs:
        assert mine["tokens_per_s_per_chip"] >= theirs["tokens_per_s_per_chip"] * (1.0 - 1e-12)


@pytest.mark.parametrize(("column", "bound"), [("time_s", 1.5e-3), ("memory_bytes.total", 7e9)])
def test_batches_between_powers_of_two_are_found_where_a_limit_lies_between_them(column: str, bound: float) -> None:
    axes = [{"path": "system.chip.matrix.rows", "values": [128]}]
    every = brute("asic-8", "llama-3.1-8b", {axes[0]["path"]: 128})
    found = every.result.time if column == "time_s" else every.result.memory["total"]
    (row,) = swept("asic-8", "llama-3.1-8b", [f"{column} <= {bound}"], axes)
    coarse = np.where(found <= bound, rate(every), -np.inf).max()
    assert row["tokens_per_s_per_chip"] > 1.1 * coarse > 0.0
    assert row[column] <= bound


def test_the_largest_batch_need_not_be_a_power_of_two() -> None:
    axes = [{"path": "system.chip.matrix.rows", "values": [128]}]
    (row,) = swept("asic-8", "llama-3.1-8b", [], axes, search={"max_batch": 24})
    assert row["scenario.batch"] == 24 * row["plan.data_parallel"]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_no_batch_per_replica_is_larger_than_asked(most: int) -> None:
    for row in swept("asic-8", "llama-3.1-8b", [], SYSTEMS["asic-8"], search={"max_batch": most}):
        assert row["scenario.batch"] <= most * row["plan.data_parallel"]
        assert row["feasible"]


@pytest.mark.parametrize("model", MODELS)
def test_what_fits_nowhere_is_told_by_the_plan_that_lacks_least_memory(model: str) -> None:
    axes = [{"path": "system.chip.memory.dram.stack_capacity", "values": ["0.8 GB", "0.9 GB"]}]
    for row in swept("asic-8", model, [], axes):
        every = brute("asic-8", model, {axes[0]["path"]: row[axes[0]["path"]]})
        assert {LIMITS[code].name for code in every.result.verdict.code} == {"memory"}
        assert (row["feasible"], row["limit"]) == (False, "memory")
        assert row["limit_by"] <= every.result.verdict.shortfall.min() * (1.0 + 1e-12)


@pytest.mark.parametrize("bound", [1e-6, 1e-4])
def test_what_is_too_slow_everywhere_is_told_by_the_fastest_plan(bound: float) -> None:
    axes = SYSTEMS["tpu-v5p-8"]
    for row in swept("tpu-v5p-8", "llama-3.1-8b", [f"time_s <= {bound}"], axes):
        every = brute("tpu-v5p-8", "llama-3.1-8b", {axis["path"]: row[axis["path"]] for axis in axes})
        assert (row["feasible"], row["limit"]) == (False, f"time_s <= {bound}")
        assert row["limit_by"] <= (np.nanmin(every.result.time) - bound) * (1.0 + 1e-12)


def test_what_breaks_a_constraint_alone_is_nearer_than_what_does_not_fit() -> None:
    axes = [{"path": "system.chip.memory.dram.stack_capacity", "values": ["1.2 GB"]}]
    (row,) = swept("asic-8", "llama-3.1-8b", ["time_s <= 1 us"], axes)
    every = brute("asic-8", "llama-3.1-8b", {axes[0]["path"]: 1.2e9})
    assert 0 < every.result.feasible.sum() < every.result.feasible.size
    assert row["limit"] == "time_s <= 1 us"


@pytest.mark.parametrize(
    "axes",
    [
        [{"path": "system.nodes", "values": [1, 2, 3]}],
        [{"path": "workload.layers", "values": [6, 32]}],
        [{"path": "workload.layers", "values": [4, 12]}, {"path": "system.nodes", "values": [1, 2]}],
    ],
)
def test_designs_of_other_chips_or_layers_have_plans_of_their_own(axes: list[Row]) -> None:
    seen = []
    for row in swept("asic-8", "llama-3.1-8b", [], axes):
        every = brute("asic-8", "llama-3.1-8b", {axis["path"]: row[axis["path"]] for axis in axes})
        degrees = [row[f"plan.{name}_parallel"] for name in ("tensor", "pipeline", "data")]
        assert np.prod(degrees) == row["chips"] == 8 * row.get("system.nodes", 1)
        assert row["plan.pipeline_parallel"] <= row.get("workload.layers", 32)
        assert row["plans_tried"] == every.plans
        assert row["tokens_per_s_per_chip"] >= rate(every).max() * (1.0 - 1e-12)
        seen.append(row["plans_tried"])
    assert len(set(seen)) > 1


def test_prefill_is_searched_too() -> None:
    axes = SYSTEMS["asic-8"]
    case = {"workload": "llama-3.1-8b", "phase": "prefill", "plan": {"dtype": "bf16"}, "scenario": {"context": CONTEXT}}
    for row in swept("asic-8", "llama-3.1-8b", [], axes, cases=[case]):
        every = brute("asic-8", "llama-3.1-8b", {axis["path"]: row[axis["path"]] for axis in axes}, "prefill")
        assert row["tokens_per_s_per_chip"] >= rate(every).max() * (1.0 - 1e-12)


def test_designs_at_once_are_designs_one_by_one() -> None:
    axes = SYSTEMS["asic-8"]
    together = swept("asic-8", "mixtral-8x7b", ["time_s <= 6 ms"], axes)
    for row in together:
        own = [{"path": axis["path"], "values": [row[axis["path"]]]} for axis in axes]
        (alone,) = swept("asic-8", "mixtral-8x7b", ["time_s <= 6 ms"], own)
        assert {**alone, "design": row["design"]} == row


def test_a_limit_on_time_of_the_case_holds_in_the_search() -> None:
    case = {"workload": "llama-3.1-8b", "phase": "decode", "scenario": {"context": CONTEXT, "tpot_limit": "4 ms"}}
    axes = SYSTEMS["asic-8"]
    limited = swept("asic-8", "llama-3.1-8b", [], axes, cases=[case], precision="bf16")
    assert all(row["feasible"] and row["time_s"] <= 0.004 for row in limited)
    free = swept("asic-8", "llama-3.1-8b", [], axes, search={"max_batch": 1024})
    slow = swept("asic-8", "llama-3.1-8b", [], axes, cases=[case], precision="bf16", search={"max_batch": 1024})
    assert any(row["time_s"] > 0.004 for row in free)
    assert all(row["time_s"] <= 0.004 for row in slow)


def test_the_score_decides_and_sees_the_design_of_each_point() -> None:
    machine, network = described("asic-8", "llama-3.1-8b")
    lowered = lower_system(vary_system(machine, {"chip.matrix.rows": np.array([64.0, 128.0])}))
    found = candidates_over(map_leaves(lower_model(network), lambda leaf: leaf.reshape(())), 8, np.array([1]), "decode")
    case = searched("decode", lowered, lower_model(network), lower_scenario(Varied(Scenario())), "bf16", found)
    seen: set[int] = set()

    def score(trial: Case, _result: Estimates, design: Any) -> Array:
        seen.update(design.tolist())
        wanted = np.where(design == 0, 8.0, 2.0)
        return np.where(trial.plan.tensor == wanted, 1.0, 0.0)

    best = best_plans(case, 2, 4, score)
    assert seen == {0, 1}
    assert best.case.plan.tensor.tolist() == [8.0, 2.0]
    assert best.result.time.shape == (2,)
