"""The search for a training plan: the best of brute force, how many were tried, what is set stays set."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.engines.analytic import evaluate
from cosim.engines.case import Case
from cosim.errors import InfeasibleError
from cosim.explore.estimate import Estimate, estimate
from cosim.explore.train import (
    MOST_MICRO_BATCH,
    MOST_PIECES,
    MOST_TOKENS,
    ZERO_STAGES,
    best_plan,
    space,
    training_dtype,
)
from cosim.hardware.load import load_chip, load_system
from cosim.hardware.lower import lower_chip, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import divisors
from cosim.mapping.plan import RECOMPUTES, Plan, Scenario, lower_plan, lower_scenario
from cosim.mapping.software import load_software, lower_software
from cosim.overrides import Varied, vary
from cosim.records import points
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

SYSTEMS = ("dgx-a100", "dgx-h100", "tpu-v5p-8", "asic-8")
MODELS = ("llama-3.1-8b", "megatron-22b", "mixtral-8x7b")
COLUMNS = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "micro_batch",
    "virtual_pipeline",
    "zero",
    "expert_parallel",
)
RECOMPUTED = {"megatron": ("none", "full"), "megatron-2022": RECOMPUTES}
"""With one kernel for attention there is no core of it to compute again."""
Row = dict[str, Any]


@functools.cache
def system(name: str, nodes: int = 1) -> Varied[System]:
    return vary_system(Varied(load_system(name)), {"nodes": nodes})


@functools.cache
def model(name: str) -> Varied[Model]:
    return Varied(load_model(name))


@functools.cache
def every_plan(chips: int, batch: int, workload: str) -> tuple[tuple[int, ...], ...]:
    """Rows of COLUMNS, legal or not: all degrees whose product is the chips, and what goes with them."""
    experts = range(1, chips + 1) if workload.startswith("mixtral") else (1,)
    return tuple(
        (tensor, pipeline, data, micro, pieces, zero, expert)
        for tensor, pipeline in itertools.product(divisors(chips), divisors(chips))
        if chips % (tensor * pipeline) == 0
        for data in [chips // (tensor * pipeline)]
        if batch % data == 0
        for micro in divisors(batch // data)
        for pieces in pieces_of(pipeline)
        for zero in ZERO_STAGES
        for expert in experts
    )


def pieces_of(pipeline: int) -> range:
    """Pieces up to the places of the deepest model of the test."""
    return range(1, min(MOST_PIECES, 50 // pipeline) + 1)


def is_even(layers: int, pieces: int) -> bool:
    return layers % pieces == 0 or (layers + 2) % pieces == 0


def brute_force(ask: dict[str, Any], fixed: dict[str, Any]) -> list[Row]:
    """Every plan that agrees with `fixed`, with its time (NaN where it does not fit) and its limit."""
    rows: list[Row] = []
    machine, workload = system(ask["system"]), ask["workload"]
    plans = [
        row
        for row in every_plan(8, ask["global_batch"], workload)
        if all(row[COLUMNS.index(name)] == value for name, value in fixed.items() if name in COLUMNS)
        and (row[3] <= max(MOST_MICRO_BATCH, MOST_TOKENS // ask["context"]) or "micro_batch" in fixed)
        # One replica has nobody to share with; what is asked for is tried all the same.
        and (row[2] > 1 or row[5] == 0 or "zero" in fixed)
        # A search keeps to pieces that hold alike: of the layers, or of these and the two ends.
        and ("virtual_pipeline" in fixed or row[4] == 1 or is_even(model(workload).spec.layers, row[1] * row[4]))
    ]
    if not plans:
        return []
    table = {name: list(column) for name, column in zip(COLUMNS, zip(*plans, strict=True), strict=True)}
    sharing = {"sequence_parallel": fixed.get("sequence_parallel", True), "software": ask["software"]}
    scenario = {name: ask[name] for name in ("global_batch", "context")}
    for again in [fixed["recompute"]] if "recompute" in fixed else RECOMPUTED[ask["software"]]:
        found = estimate("train", machine, model(workload), {**table, **sharing, "recompute": again}, scenario).table()
        for index, row in enumerate(plans):
            rows.append(
                {
                    **dict(zip(COLUMNS, row, strict=True)),
                    "recompute": again,
                    "time": float(found["time_s"][index]),
                    "limit": found["limit"][index],
                }
            )
    return rows


def searched(ask: dict[str, Any], fixed: dict[str, Any]) -> Estimate:
    scenario = {name: ask[name] for name in ("global_batch", "context")}
    return estimate(
        "train", system(ask["system"]), model(ask["workload"]), {**fixed, "software": ask["software"]}, scenario
    )


ASKED = st.fixed_dictionaries(
    {
        "system": st.sampled_from(SYSTEMS),
        "workload": st.sampled_from(MODELS),
        "software": st.sampled_from(sorted(RECOMPUTED)),
        "global_batch": st.sampled_from([1, 2, 6, 8, 24, 64]),
        "context": st.sampled_from([128, 1000, 2048]),
    }
)
FIXED = st.fixed_dictionaries(
    {},
    optional={
        "micro_batch": st.sampled_from([1, 2, 4, 32]),
        "virtual_pipeline": st.sampled_from([1, 2, 4]),
        "zero": st.sampled_from(ZERO_STAGES),
        "recompute": st.sampled_from(["none", "full"]),
        "sequence_parallel": st.booleans(),
    },
)


@settings(max_examples=20, deadline=None)
@given(ask=ASKED, fixed=FIXED)
def test_the_best_of_brute_force_is_found_and_what_is_set_stays(ask: dict[str, Any], fixed: dict[str, Any]) -> None:
    rows = brute_force(ask, fixed)
    times = [row["time"] for row in rows if not row["limit"]]
    if not times:
        with pytest.raises(InfeasibleError):
            searched(ask, fixed)
        return
    best = searched(ask, fixed)
    row = best.to_row()
    assert row["time_s"] == pytest.approx(min(times), rel=1e-12)
    assert {name: row[f"plan.{name}"] for name in fixed} == fixed
    assert row["plan.sequence_parallel"] == fixed.get("sequence_parallel", True)
    # Tried is what divides, whether it fits or not.
    assert best.plans_tried == sum(row["limit"] in ("", "memory", "positions") for row in rows)


@settings(max_examples=15, deadline=None)
@given(ask=ASKED)
def test_the_plan_that_was_found_takes_the_same_time_when_it_is_given(ask: dict[str, Any]) -> None:
    try:
        found = searched(ask, {})
    except InfeasibleError:
        assume(False)
    row = found.to_row()
    named = {name: row[f"plan.{name}"] for name in (*COLUMNS, "recompute", "sequence_parallel", "dtype")}
    again = searched(ask, named)
    assert again.to_row() == row
    assert (found.plans_tried > 0, again.plans_tried) == (True, 0)
    assert again.spread == found.spread


@pytest.mark.parametrize(
    ("batch", "software", "tried"),
    [
        # One sequence: one replica in stages of tensor ranks, 4 ways; computed again or not.
        (1, "megatron", 8),
        (1, "megatron-2022", 12),
        # Eight: degrees t p d with micro-batches and pieces for each, four ZeRO stages where there are replicas:
        # 118: 1 | 124: 7, 214: 2 | 142: 6, 222: 13, 412: 3, times 4; 181: 6, 241: 10, 421: 19, 811: 4.
        # Two stages have 1, 2, 4, 8, 16 pieces, or 17 with the ends; four have 1 to 8, eight 1 to 4.
        (8, "megatron", 2 * (4 * (1 + 7 + 2 + 6 + 13 + 3) + 6 + 10 + 19 + 4)),
        (8, "megatron-2022", 3 * (4 * 32 + 39)),
    ],
)
def test_the_number_of_plans_tried_by_hand(batch: int, software: str, tried: int) -> None:
    ask = {"system": "dgx-h100", "workload": "llama-3.1-8b", "software": software, "global_batch": batch}
    assert searched({**ask, "context": 512}, {}).plans_tried == tried


def case_of_space(fixed: dict[str, Any], workload: str = "llama-3.1-8b", batch: int = 16) -> Case | None:
    plan = lower_plan(vary(Varied(Plan()), fixed))
    scenario = lower_scenario(vary(Varied(Scenario()), {"global_batch": batch, "context": 512}))
    software = lower_software(load_software("megatron"))
    return space(lower_system(system("dgx-h100")), lower_model(model(workload)), scenario, software, plan, fixed)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tensor_parallel", 2), ("pipeline_parallel", 4), ("data_parallel", 2), ("expert_parallel", 4)],
)
def test_degrees_that_are_set_stay_in_the_space_of_plans(name: str, value: int) -> None:
    workload = "mixtral-8x7b" if name == "expert_parallel" else "llama-3.1-8b"
    some, every = case_of_space({name: value}, workload), case_of_space({}, workload)
    assert some is not None
    assert every is not None
    assert set(some.plan.chips) == {8.0}
    kept = {"tensor_parallel": some.plan.tensor, "pipeline_parallel": some.plan.pipeline}
    kept |= {"data_parallel": some.plan.data, "expert_parallel": some.plan.expert}
    assert set(kept[name]) == {float(value)}
    assert 0 < points(some) < points(every)


def test_the_space_of_plans_has_no_plan_twice() -> None:
    case = case_of_space({}, "mixtral-8x7b")
    assert case is not None
    plan = case.plan
    columns = (plan.tensor, plan.pipeline, plan.data, plan.micro_batch, plan.virtual, plan.zero, plan.expert)
    rows = list(zip(*columns, plan.recompute, strict=True))
    assert len(set(rows)) == len(rows) == points(case)
    assert set(plan.expert) == {1.0, 2.0, 4.0, 8.0}


def test_what_divides_nothing_has_no_space_and_is_said() -> None:
    assert case_of_space({"micro_batch": 3}) is None
    with pytest.raises(
        InfeasibleError,
        match=r"no degrees on 8 chips divide llama-3\.1-8b and global batch 16 as asked; change scenario\.global_batch",
    ) as caught:
        estimate("train", system("dgx-h100"), model("llama-3.1-8b"), {"micro_batch": 3}, {"global_batch": 16})
    assert caught.value.limit == "plan"


def test_a_micro_batch_beyond_the_usual_is_tried_when_it_is_asked_for() -> None:
    free, asked = case_of_space({}, batch=256), case_of_space({"micro_batch": 256}, batch=256)
    assert free is not None
    assert asked is not None
    # Sequences of 512 tokens.
    assert max(free.plan.micro_batch) == MOST_TOKENS / 512 > MOST_MICRO_BATCH
    assert set(asked.plan.micro_batch) == {256.0}


def test_less_memory_never_gives_a_faster_plan_and_at_last_none() -> None:
    times = []
    for capacity in ("1 TB", "80 GB", "50 GB", "30 GB"):
        machine = vary_system(system("dgx-h100"), {"chip.memory.dram.capacity": capacity})
        row = estimate("train", machine, model("llama-3.1-8b"), {}, {"global_batch": 64}).to_row()
        assert row["memory_bytes.total"] <= float(machine.spec.chip.memory["dram"].capacity.si)
        times.append(row["time_s"])
    assert times == sorted(times)
    assert times[0] < times[-1]
    short = vary_system(system("dgx-h100"), {"chip.memory.dram.capacity": "12 GB"})
    hint = r"the nearest strategy that fits is tensor .* on \d+ chips \(system\.nodes=\d+\): pipeline 1 to "
    with pytest.raises(InfeasibleError, match=rf"lacks .* of 12 GB per chip \(.*gradients .*\); {hint}") as caught:
        estimate("train", short, model("llama-3.1-8b"), {}, {"global_batch": 64})
    assert caught.value.limit == "memory"


def test_the_found_case_holds_one_point_and_its_estimates() -> None:
    plan, scenario = lower_plan(Varied(Plan())), lower_scenario(vary(Varied(Scenario()), {"global_batch": 8}))
    machine, network = lower_system(system("asic-8")), lower_model(model("llama-3.1-8b"))
    found = best_plan(machine, network, scenario, lower_software(load_software("megatron")), plan, {})
    assert points(found.case) == 1
    np.testing.assert_array_equal(found.result.time, evaluate(found.case).time)
    assert found.result.feasible.all()


@pytest.mark.parametrize("name", sorted(library.names("accelerators")))
def test_training_takes_16_bits_where_nothing_is_said(name: str) -> None:
    chip = lower_chip(load_chip(name))
    # A chip without 16 bits trains in the widest format that it has.
    wide = [dtype for dtype in ("bf16", "fp16") if dtype in chip.matrix.peak] or ["fp8"]
    assert training_dtype(chip) == wide[0]


def test_an_asked_width_of_experts_stays_in_the_space_of_plans() -> None:
    case = case_of_space({"expert_tensor_parallel": 2}, "mixtral-8x7b")
    assert case is not None
    plan = case.plan
    assert set(np.unique(plan.expert_tensor)) == {2.0}
    # Among them plans whose experts and tensor ranks do not divide each other's number as those without a width do.
    assert np.all(np.mod(plan.tensor * plan.replicas, plan.expert * 2.0) == 0.0)
    assert np.any(plan.expert * 2.0 < plan.tensor)
