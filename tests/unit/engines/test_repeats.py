"""What repeats over points: the same numbers as one by one, whatever the chunks, at a fraction of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines import analytic, training
from cosim.engines.analytic import Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.repeats import Repeats, end_key, kernel_key, repeats, round_key
from cosim.engines.training import step_parts, step_table, with_micro_batches
from cosim.mapping.order import ORDERS, USUAL
from cosim.records import Array, array, leaves, points, take

Train = Callable[..., Case]
DEGREES = (1.0, 2.0, 4.0)
LISTS = st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=30)


def plans(seed: int, count: int = 10, *, moe: bool = False, context: bool = True) -> dict[str, Array]:
    """Arrays of plan degrees, legal ones and others."""
    rng = np.random.default_rng(seed)
    return {
        "tensor": rng.choice(DEGREES, count),
        "pipeline": rng.choice((1.0, 2.0, 3.0, 4.0), count),
        "data": rng.choice(DEGREES, count),
        "context": rng.choice((1.0, 1.0, 2.0) if context else (1.0,), count),
        "micro_batch": rng.choice((1.0, 2.0, 3.0), count),
        "virtual": rng.choice((1.0, 1.0, 2.0, 3.0), count),
        "zero": rng.choice((0.0, 1.0, 2.0, 3.0), count),
        "shard": rng.choice((np.inf, 2.0), count),
        "recompute": rng.choice((0.0, 1.0, 2.0), count),
        "expert": rng.choice((1.0, 2.0, 4.0) if moe else (1.0,), count),
        "expert_tensor": rng.choice((0.0, 1.0, 2.0) if moe else (0.0,), count),
    }


def many(train: Train, seed: int, software: str, model: str, count: int = 10, **more: Any) -> Case:
    case = train(software, model, **more)
    drawn = plans(seed, count, moe=case.model.is_moe, context=case.software is None or case.software.fused)
    return replace(case, plan=replace(case.plan, **drawn))


def numbers(result: Estimates) -> dict[str, Array]:
    named = {name: getattr(result, name) for name in analytic._TIMED} | {"chips": result.chips}
    named |= {"code": result.verdict.code.astype(float), "shortfall": result.verdict.shortfall}
    return named | {f"time {k}": v for k, v in result.breakdown.items()} | result.memory


def assert_same(found: Estimates, wanted: Estimates) -> None:
    expected = numbers(wanted)
    for name, values in numbers(found).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


KINDS = (
    ("megatron", "megatron-22b", {"sequence_parallel": True}),
    ("megatron-2022", "megatron-22b", {}),
    ("torchtitan", "llama-3.1-8b", {"context_exchange": "all_gather"}),
    ("megatron", "mixtral-8x7b", {"context_exchange": "all_to_all"}),
)


@pytest.mark.parametrize(("software", "model", "more"), KINDS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_points_together_are_what_each_is_alone(
    train: Train, software: str, model: str, more: dict[str, Any], seed: int
) -> None:
    case = many(train, seed, software, model, **more)
    together = evaluate(case)
    for index in range(points(case)):
        one = np.array([index], dtype=np.intp)
        assert_same(take(together, one), evaluate(take(case, one)))


@pytest.mark.parametrize("schedule", ["gpipe", "zb-h1", "zb-v", "dualpipe"])
def test_points_of_every_schedule_are_what_each_is_alone(train: Train, schedule: str) -> None:
    case = many(train, 3, "megatron", "megatron-22b", 12, schedule=schedule, global_batch=48)
    case = replace(case, plan=replace(case.plan, virtual=array(2.0 if schedule in ("zb-v", "dualpipe") else 1.0)))
    together = evaluate(case)
    assert np.any(together.feasible)
    for index in range(12):
        one = np.array([index], dtype=np.intp)
        assert_same(take(together, one), evaluate(take(case, one)))


CHANGES = {
    "tensor": 6.0,
    "pipeline": 4.0,
    "data": 16.0,
    "context": 2.0,
    "micro_batch": 2.0,
    "virtual": 3.0,
    "recompute": 2.0,
    "shard": 2.0,
}


@pytest.mark.parametrize("zero", [0.0, 1.0, 2.0, 3.0])
def test_points_that_differ_in_one_number_are_what_each_is_alone(train: Train, zero: float) -> None:
    # Three tensor ranks on nodes of eight: where they lie depends on how many such groups there are.
    odd = {"workload.heads": 48, "workload.kv_heads": 48, "tensor_parallel": 3, "global_batch": 48, "system.nodes": 12}
    case = train("megatron", **odd)
    base = {"tensor": 3.0, "pipeline": 2.0, "data": 4.0, "zero": zero} | dict.fromkeys(("context", "micro_batch"), 1.0)
    base |= {"virtual": 1.0, "recompute": 0.0, "shard": np.inf}
    rows = [base, *(base | {name: value} for name, value in CHANGES.items()), *(base | {"zero": z} for z in range(4))]
    case = replace(case, plan=replace(case.plan, **{name: array([row[name] for row in rows]) for name in base}))
    together = evaluate(case)
    assert np.all(together.feasible)
    for index in range(len(rows)):
        one = np.array([index], dtype=np.intp)
        assert_same(take(together, one), evaluate(take(case, one)))


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_chunks_and_what_shares_kernels_change_no_number(train: Train, seed: int, sizes: tuple[int, int]) -> None:
    case = many(train, seed, "megatron", "megatron-22b", 40)
    whole = evaluate(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analytic, "CHUNK_POINTS", sizes[0])
        patch.setattr(analytic, "TRAINING_POINTS", sizes[1])
        assert_same(evaluate(case), whole)


def test_the_step_is_the_table_that_the_events_read(train: Train) -> None:
    case = many(train, 11, "megatron", "megatron-22b", 30)
    result = evaluate(case)
    rows = np.flatnonzero(result.feasible)
    assert rows.size > 3
    part = with_micro_batches(take(case, rows))
    table = step_table(part)
    for name, seconds in step_parts(part, table).items():
        np.testing.assert_allclose(result.breakdown[name][rows], seconds, rtol=1e-12, err_msg=name)
    plan = part.plan
    dynamic = np.sum(table.stage.count * table.energy, axis=0) * plan.tensor * plan.replicas
    idle = case.system.chip.power.idle * result.time[rows] * plan.chips
    cool = result.clock[rows] == 1.0
    np.testing.assert_allclose((result.energy[rows] - idle)[cool], dynamic[cool], rtol=1e-12)


def test_kernels_are_costed_once_for_all_points_that_have_them_and_pass(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    costed = training.op_costs

    def counted(case: Case, device: Any) -> Any:
        asked.append(points(case))
        return costed(case, device)

    monkeypatch.setattr(training, "op_costs", counted)
    case = train("megatron", "megatron-22b")
    # 6 x 4 plans on 16 chips: pipeline and data change, the kernels of a tensor degree do not.
    pipeline, zero = np.array([1.0, 2.0, 4.0] * 8), np.repeat([0.0, 1.0, 2.0, 3.0], 6)
    tensor = np.tile(np.repeat([1.0, 4.0], 3), 4)
    plan = replace(case.plan, tensor=tensor, pipeline=pipeline, data=16.0 / (tensor * pipeline), zero=zero)
    result = evaluate(replace(case, plan=plan))
    assert np.all(result.feasible)
    # With one stage and with several, each for two tensor degrees.
    assert asked == [4]
    asked.clear()
    evaluate(replace(case, plan=replace(plan, tensor=np.where(tensor == 4.0, 5.0, tensor))))
    assert asked == [2]


def test_points_that_all_differ_share_nothing(train: Train) -> None:
    case = many(train, 5, "megatron", "megatron-22b", 12)
    chip = case.system.chip
    dram = replace(chip.memory["dram"], bandwidth=np.linspace(1e12, 2e12, 12))
    varied = replace(case, system=replace(case.system, chip=replace(chip, memory={**chip.memory, "dram": dram})))
    assert repeats(partial(kernel_key, varied), 12).same
    together = evaluate(varied)
    for index in range(12):
        one = np.array([index], dtype=np.intp)
        assert_same(take(together, one), evaluate(take(varied, one)))


@settings(max_examples=60, deadline=None)
@given(first=LISTS, seed=st.integers(0, 99))
def test_what_is_chosen_and_handed_back_is_what_it_was(first: list[float], seed: int) -> None:
    other = np.random.default_rng(seed).choice([0.0, 5.0], len(first))
    record = (array(first), {"other": other}, array(7.0))
    found = repeats(lambda: record, len(first))
    few = found.chosen(record)
    assert points(few) == max(len(set(zip(first, other, strict=True))), 1) or len(first) == 1
    for back, was in zip(leaves(found.handed(few)), leaves(record), strict=True):
        np.testing.assert_array_equal(back, was)
    rows = np.arange(len(first), dtype=np.intp)[::-1]
    for back, was in zip(leaves(found.at(rows).handed(few)), leaves(take(record, rows)), strict=True):
        np.testing.assert_array_equal(back, was)


def test_arrays_of_stages_are_handed_by_their_points() -> None:
    found = Repeats(np.array([0, 1], dtype=np.intp), np.array([1, 1, 0], dtype=np.intp))
    handed = found.handed((np.array([[1.0, 2.0], [3.0, 4.0]]), array([9.0]), array(8.0)))
    np.testing.assert_array_equal(handed[0], [[2.0, 2.0, 1.0], [4.0, 4.0, 3.0]])
    np.testing.assert_array_equal(handed[1], [9.0])
    assert handed[2].shape == ()


def test_one_point_and_points_without_arrays_need_no_key() -> None:
    def never() -> object:
        raise AssertionError

    assert repeats(never, 1).same
    alike = repeats(lambda: (array(1.0),), 4)
    assert alike.first.tolist() == [0]
    assert alike.place.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("field", "kernel", "rounds", "ends"),
    [
        # Whether two plans that differ in one number have different kernels, rounds and ends.
        ("virtual", False, False, False),
        ("zero", False, False, True),
        ("micro_batch", True, True, False),
        ("recompute", True, True, False),
        ("tensor", True, True, True),
        ("pipeline", True, True, True),
        ("context", True, True, True),
        ("shard", False, False, False),
    ],
)
def test_each_part_knows_what_it_reads(train: Train, field: str, kernel: bool, rounds: bool, ends: bool) -> None:
    case = train("megatron", "megatron-22b")
    low, high = (0.0, 1.0) if field in ("zero", "recompute") else (2.0, 4.0)
    case = with_micro_batches(replace(case, plan=replace(case.plan, **{field: np.array([low, high])})))
    kernels = repeats(partial(kernel_key, case), 2)
    found = (
        kernels.same,
        repeats(partial(round_key, case, kernels.place), 2).same,
        repeats(partial(end_key, case), 2).same,
    )
    assert found == (kernel, rounds, ends)


@pytest.mark.parametrize("order", [order for order in ORDERS if order != USUAL])
def test_points_of_every_order_are_what_each_is_alone(train: Train, order: str) -> None:
    case = many(train, 5, "megatron", "mixtral-8x7b", 16, order=order, global_batch=48)
    together = evaluate(case)
    assert np.any(together.feasible)
    for index in range(16):
        one = np.array([index], dtype=np.intp)
        assert_same(take(together, one), evaluate(take(case, one)))
