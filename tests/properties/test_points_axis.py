"""The points axis: a batch equals its points one by one, in any order, chunk and mixture of cells."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.engines import analytic
from cosim.engines.analytic import Estimates, evaluate, evaluate_cells
from cosim.engines.case import Case, Phase
from cosim.hardware.load import load_system
from cosim.hardware.lower import lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import CODES
from cosim.mapping.plan import Plan, Scenario, lower_plan, lower_scenario
from cosim.overrides import Varied, vary
from cosim.records import at, map_leaves, points, take
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

SYSTEMS = ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8")
PHASES: tuple[Phase, ...] = ("prefill", "decode")
PLAIN = ("time", "tokens", "energy", "server_energy", "facility_energy", "power", "utilisation")
# What every chip has, and what only an array or a tile machine has: (path, least, most).
CHIP = (
    ("chip.matrix.clock", 0.5e9, 2.5e9),
    ("chip.memory.dram.pin_rate", 0.2e9, 1.2e9),
    ("chip.memory.dram.capacity", 60e9, 250e9),
    ("chip.links.scale_up.rate", 5e9, 100e9),
    ("chip.quality.matmul", 0.3, 1.0),
    ("chip.quality.memory", 0.5, 1.0),
    ("chip.launch.host_step", 1e-5, 1e-3),
    ("chip.power.limit", 300.0, 900.0),
)
KINDS = {
    "tpu-v5p-8": (("chip.matrix.rows", 64, 256), ("chip.matrix.columns", 64, 256)),
    "asic-8": (("chip.matrix.rows", 64, 256), ("chip.memory.cache.capacity", 1e6, 100e6)),
    "dgx-h100": (("chip.cores", 60, 160), ("chip.memory.cache.capacity", 10e6, 100e6)),
    "mi300x-8gpu": (("chip.cores", 100, 400), ("chip.memory.cache.capacity", 10e6, 300e6)),
}
WHOLE = ("chip.cores", "chip.matrix.rows", "chip.matrix.columns")
DEGREES = {
    "tensor_parallel": [1, 2, 3, 4, 8, 16],
    "pipeline_parallel": [1, 2, 3, 4],
    "data_parallel": [1, 2],
    "micro_batches": [1, 2, 4],
}
POOL = 28
PICKS = st.lists(st.integers(0, POOL - 1), min_size=1, max_size=12)
Values = dict[str, Any]


def chip_values(name: str, rng: np.random.Generator, count: int) -> Values:
    values = {path: rng.uniform(low, high, count) for path, low, high in CHIP + KINDS[name]}
    return {path: np.rint(value) if path in WHOLE else value for path, value in values.items()}


@functools.cache
def described(name: str) -> tuple[Varied[System], Varied[Model]]:
    return Varied(load_system(name)), Varied(load_model("llama-3.1-8b"))


def case_of(name: str, phase: Phase, chip: Values, model: Values, plan: Values, scenario: Values) -> Case:
    system, network = described(name)
    return Case(
        phase,
        lower_system(vary_system(system, {"nodes": 2, **chip})),
        lower_model(vary(network, model)),
        lower_plan(vary(Varied(Plan()), plan)),
        lower_scenario(vary(Varied(Scenario()), scenario)),
    )


@functools.cache
def drawn(name: str, phase: Phase) -> tuple[Values, Values, Values, Values]:
    """Chip, model, plan and scenario numbers that all differ from point to point."""
    rng = np.random.default_rng(len(name) + len(phase))
    plan = {field: rng.choice(legal, POOL) for field, legal in DEGREES.items()}
    scenario = {"batch": rng.choice([4, 8, 24, 256], POOL), "context": rng.integers(1, 20_000, POOL)}
    return chip_values(name, rng, POOL), {"layers": rng.integers(8, 90, POOL)}, plan, scenario


@functools.cache
def pool(name: str, phase: Phase) -> tuple[Case, Estimates]:
    """Points whose chip, model, degrees, batch and context differ all at once, and their estimates."""
    case = case_of(name, phase, *drawn(name, phase))
    return case, evaluate(case)


def numbers(result: Estimates) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of the result by name."""
    plain = {name: getattr(result, name) for name in (*PLAIN, "chips")}
    parts = {f"breakdown {name}": value for name, value in result.breakdown.items()}
    memory = {f"memory {name}": value for name, value in result.memory.items()}
    return {**plain, **parts, **memory, "code": result.verdict.code, "shortfall": result.verdict.shortfall}


def assert_same(result: Estimates, expected: Estimates, rows: Sequence[int]) -> None:
    """Points `rows` of `expected` are the points of `result`, to 1e-12 of each number (of the step for its parts)."""
    index = np.asarray(rows)
    scale = np.nan_to_num(expected.time[index])
    wanted = numbers(expected)
    for name, value in numbers(result).items():
        right = wanted[name][index]
        slack = 1e-12 * (scale if name.startswith("breakdown") else np.abs(np.nan_to_num(right)))
        assert np.array_equal(np.isnan(value), np.isnan(right)), name
        assert np.all(np.abs(np.nan_to_num(value) - np.nan_to_num(right)) <= slack), (name, value, right)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_batch_equals_its_points_one_by_one(name: str, phase: Phase) -> None:
    case, whole = pool(name, phase)
    assert 5 < whole.feasible.sum() < POOL - 5
    for index in range(POOL):
        assert_same(evaluate(at(case, index)), whole, [index])


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=15, deadline=None)
@given(phase=st.sampled_from(PHASES), picks=PICKS)
def test_any_points_in_any_order_give_the_same(name: str, phase: Phase, picks: list[int]) -> None:
    case, whole = pool(name, phase)
    assert_same(evaluate(take(case, np.asarray(picks, dtype=np.intp))), whole, picks)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("size", [1, 7, POOL - 1])
def test_the_chunk_does_not_matter(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case, whole = pool(name, "prefill")
    monkeypatch.setattr(analytic, "CHUNK_POINTS", size)
    assert_same(evaluate(case), whole, range(POOL))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_cells_of_different_structure_give_the_rows_that_each_gives_alone(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(SYSTEMS), st.sampled_from(PHASES), PICKS), min_size=2))
    cases = [take(pool(name, phase)[0], np.asarray(picks, dtype=np.intp)) for name, phase, picks in chosen[:4]]
    sizes = [points(case) for case in cases]
    places = np.asarray(data.draw(st.permutations(range(sum(sizes)))), dtype=np.intp)
    cells = list(zip(cases, np.split(places, np.cumsum(sizes)[:-1]), strict=True))
    mixed = evaluate_cells(cells)
    for (name, phase, picks), (_, rows) in zip(chosen, cells, strict=False):
        assert_same(_rows(mixed, rows.tolist()), pool(name, phase)[1], picks)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("phase", PHASES)
def test_numbers_that_never_were_arrays_give_the_same(name: str, phase: Phase) -> None:
    _, whole = pool(name, phase)
    for index in (int(np.argmax(whole.feasible)), int(np.argmin(whole.feasible))):
        chip, *others = drawn(name, phase)
        scalars = [{key: int(values[index]) for key, values in part.items()} for part in others]
        one = {path: float(values[index]) for path, values in chip.items()}
        assert_same(evaluate(case_of(name, phase, one, *scalars)), whole, [index])


FINE = {"tensor_parallel": 4, "pipeline_parallel": 2, "data_parallel": 1, "micro_batches": 2}
SPOILED: dict[str, Values] = {
    "chips": {"tensor_parallel": 32},
    "tensor_parallel": {"tensor_parallel": 3},
    "pipeline_parallel": {"layers": 1},
    "batch": {"micro_batches": 5},
    "memory": {"batch": 4000, "context": 20_000},
    "ttft_limit": {"ttft_limit": 1e-9},
    "tpot_limit": {"tpot_limit": 1e-9},
}


def three_points(name: str, phase: Phase, middle: Values) -> Estimates:
    """Three points on one system of which the second is changed."""
    first = {**FINE, "batch": 24, "context": 2000, "layers": 32, "ttft_limit": 1e3, "tpot_limit": 1e3}
    rows = [first, {**first, "tensor_parallel": 8, "context": 900, **middle}, {**first, "batch": 4}]
    column = {field: [row[field] for row in rows] for field in first}
    scenario = {field: column.pop(field) for field in ("batch", "context", "ttft_limit", "tpot_limit")}
    chip = chip_values(name, np.random.default_rng(3), 3)
    return evaluate(case_of(name, phase, chip, {"layers": column.pop("layers")}, column, scenario))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("limit", SPOILED)
def test_one_infeasible_row_leaves_the_others_unchanged(name: str, limit: str) -> None:
    phase: Phase = "prefill" if limit == "ttft_limit" else "decode"
    before, after = three_points(name, phase, {}), three_points(name, phase, SPOILED[limit])
    assert before.feasible.all()
    assert_same(_rows(after, [0, 2]), before, [0, 2])
    assert after.verdict.code.tolist() == [0, CODES[limit], 0]
    assert after.verdict.shortfall[1] > 0.0
    lost = [getattr(after, field) for field in PLAIN] + list(after.breakdown.values())
    assert all(np.isnan(value[1]) for value in lost)
    assert all(np.isfinite(value[1]) for value in after.memory.values())


def _rows(result: Estimates, rows: list[int]) -> Estimates:
    return map_leaves(result, lambda leaf: leaf[rows])


def test_a_point_does_not_see_the_cores_of_its_neighbours() -> None:
    """The cuts that are tried follow a point's own arrays, not the largest number in the batch."""
    cores = np.array([3.0, 5.0, 6.0, 7.0, 20.0, 64.0, 12.0])
    model, plan = cosim.workload("llama-3.1-70b"), {"tensor_parallel": 8, "dtype": "fp8"}
    scenario = {"batch": 8, "context": 2048}
    together = cosim.estimate_prefill(cosim.system("asic-8").vary({"chip.cores": cores}), model, plan, **scenario)
    for index, number in enumerate(cores):
        alone = cosim.estimate_prefill(cosim.system("asic-8").vary({"chip.cores": number}), model, plan, **scenario)
        assert alone.result.time[0] == pytest.approx(together.result.time[index], rel=1e-12)
