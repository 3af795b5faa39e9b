"""The space of strategies as arrays, against the loops of `cosim.explore.train` and against every combination tried."""

from __future__ import annotations

import functools
import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.explore import train
from cosim.explore.strategy_space import (
    EXCHANGES,
    LISTED,
    NUMBERS,
    Asked,
    Ground,
    Values,
    choices_of,
    grounded,
    legal_table,
    plan_of,
    size_of,
    values_on,
)
from cosim.hardware.load import load_system
from cosim.hardware.lower import SystemArrays, lower_system
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import divisibility
from cosim.mapping.order import ORDERS
from cosim.mapping.plan import RECOMPUTES, SCHEDULES, Plan, Scenario, ScenarioArrays, lower_plan, lower_scenario
from cosim.mapping.software import SoftwareArrays, load_software, lower_software
from cosim.overrides import Varied
from cosim.records import array
from cosim.workload.load import load_workload, lower_workload
from cosim.workload.model import ModelArrays

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

BASE = lower_plan(Varied(Plan()))


@functools.cache
def model_of(name: str) -> ModelArrays:
    return lower_workload(Varied(load_workload(name)))


@functools.cache
def system_of(name: str, nodes: int) -> SystemArrays:
    return lower_system(vary_system(Varied(load_system(name)), {"nodes": nodes}))


@functools.cache
def software_of(*, fused: bool) -> SoftwareArrays:
    return replace(lower_software(load_software("megatron")), fused=fused)


def scenario_of(batch: int, length: int) -> ScenarioArrays:
    return lower_scenario(Varied(Scenario(global_batch=batch, context=length)))


def ground_of(model: str, chips: int, batch: int, length: int = 2048, *, fused: bool = False) -> Ground:
    return grounded(model_of(model), chips, scenario_of(batch, length), fused=fused)


def every(ground: Ground, asked: Asked) -> list[tuple[Any, ...]]:
    """All legal strategies of a space: numbers in the order of NUMBERS, then choices."""
    values = values_on(ground, asked)
    found: list[tuple[Any, ...]] = []
    for choices in choices_of(values):
        table = legal_table(values, ground, choices, BASE, scenario_of(ground.batch, ground.length))
        rows = zip(*(table[name].tolist() for name in NUMBERS), strict=True)
        words = (choices.schedule, choices.sequence_parallel, choices.context_exchange)
        found += [(*row, *words) for row in rows]
    return found


@pytest.mark.parametrize(
    ("model", "system", "nodes", "batch", "length", "fused"),
    [
        ("gpt3-175b", "dgx-a100", 8, 1536, 2048, False),
        ("llama-3.1-70b", "dgx-h100", 3, 96, 32768, True),
        ("mixtral-8x7b", "dgx-h100", 4, 64, 4096, True),
        ("deepseek-v3", "dgx-h100", 2, 48, 4096, True),
        ("llama-3.1-8b", "dgx-h100", 1, 7, 2048, True),
    ],
)
def test_the_same_strategies_as_the_loops_of_the_training_search(
    model: str, system: str, nodes: int, batch: int, length: int, *, fused: bool
) -> None:
    machine, software = system_of(system, nodes), software_of(fused=fused)
    case = train.space(machine, model_of(model), scenario_of(batch, length), software, BASE, {})
    assert case is not None
    plan = case.plan
    looped = list(zip(*(np.broadcast_to(getattr(plan, n), plan.tensor.shape).tolist() for n in NUMBERS), strict=True))
    chips = int(machine.chips)
    ground = ground_of(model, chips, batch, length, fused=fused)
    asked = Asked(
        context=tuple(sorted(set(plan.context.astype(int).tolist()))),
        schedule=("1f1b",),
        sequence_parallel=(True,),
        context_exchange=("ring",),
    )
    at = {name: place for place, name in enumerate(NUMBERS)}
    arrays = [
        row[: len(NUMBERS)]
        for row in every(ground, asked)
        if row[at["virtual"]] <= train.MOST_PIECES
        and row[at["micro_batch"]] <= max(train.MOST_MICRO_BATCH, train.MOST_TOKENS * row[at["context"]] // length)
    ]
    assert len(set(looped)) == len(looped)
    assert len(set(arrays)) == len(arrays)
    # Sets of thousands, whose difference would be long to show.
    assert len(set(arrays) ^ set(looped)) == 0


def tried(ground: Ground, values: Values) -> list[tuple[Any, ...]]:
    """The same by trying every combination one after the other: what breaks no limit and is not said twice."""
    found = []
    first = values.schedule[0], values.sequence_parallel[0], values.context_exchange[0]
    lists = [values.tensor, values.pipeline, values.context, values.micro_batch, values.virtual, values.expert]
    for t, p, c, mb, v, e in itertools.product(*lists):
        data, left = divmod(ground.chips, t * p * c)
        if left or (values.data is not None and data not in values.data):
            continue
        for z, r, choices in itertools.product(values.zero, values.recompute, choices_of(values)):
            same = p == 1 and choices.schedule != first[0]
            same |= t == 1 and choices.sequence_parallel != first[1]
            same |= c == 1 and choices.context_exchange != first[2]
            same |= c * data == 1 and z != values.zero[0]
            if same:
                continue
            row = (t, p, c, data, mb, v, e, z, r)
            table = {name: array([value]) for name, value in zip(NUMBERS, row, strict=True)}
            plan = replace(plan_of(table, choices, BASE), micro_batches=array([ground.batch / (data * mb)]))
            scenario = scenario_of(ground.batch, ground.length)
            if int(divisibility(plan, scenario, ground.model, array(ground.chips), "train").code[0]) == 0:
                words = (choices.schedule, choices.sequence_parallel, choices.context_exchange)
                found.append((*map(float, row), *words))
    return found


@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from(["llama-3.1-8b", "mixtral-8x7b"]),
    st.sampled_from([2, 4, 6, 8]),
    st.sampled_from([4, 6, 8, 12]),
    st.sets(st.sampled_from(SCHEDULES), min_size=1, max_size=3),
    st.sampled_from([(False,), (True,), (False, True)]),
    st.sampled_from([EXCHANGES, ("all_gather",)]),
    st.sampled_from([None, (1, 2)]),
)
def test_as_many_as_every_combination_tried_alone(
    model: str,
    chips: int,
    batch: int,
    schedules: set[str],
    together: tuple[bool, ...],
    exchanges: tuple[str, ...],
    data: tuple[int, ...] | None,
) -> None:
    ground = ground_of(model, chips, batch, fused=True)
    asked = Asked(
        virtual_pipeline=(1, 2, 4),
        zero=(0, 3),
        recompute=("none", "full"),
        schedule=tuple(schedules),
        sequence_parallel=together,
        context_exchange=exchanges,
        data=data,
    )
    assert sorted(every(ground, asked)) == sorted(tried(ground, values_on(ground, asked)))


def test_half_a_million_strategies_are_enumerated_in_a_second() -> None:
    ground = ground_of("gpt3-175b", 512, 2304, fused=True)
    every_value = values_on(ground, Asked())
    scenario = scenario_of(ground.batch, ground.length)
    begun = time.process_time()
    tables = [legal_table(every_value, ground, each, BASE, scenario) for each in choices_of(every_value)]
    spent = time.process_time() - begun
    count = sum(len(table["tensor"]) for table in tables)
    assert count > 500_000
    assert spent / count * 500_000 < 1.0


def test_the_size_counts_every_combination_whose_degrees_multiply_to_the_chips() -> None:
    ground = ground_of("gpt3-175b", 4, 6)
    asked = Asked(virtual_pipeline=(1, 2), zero=(0, 1), recompute=("none",), schedule=("1f1b", "gpipe"))
    values = values_on(ground, asked)
    # (tensor, pipeline) of 4 chips: 1x1, 1x2, 1x4, 2x1, 2x2, 4x1; micro-batches 1, 2, 3, 6; two flags, three exchanges
    assert size_of(values, ground) == 6 * 4 * 2 * 2 * 1 * 2 * 2 * 3


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (Asked(recompute=("none", "selective", "full")), (0, 2)),
        (Asked(recompute=("selective",)), (1,)),
        (Asked(recompute=("full", "selective")), (1, 2)),
        (Asked(), (0, 2)),
    ],
)
def test_selective_recompute_is_none_where_attention_is_fused(asked: Asked, kept: tuple[int, ...]) -> None:
    assert values_on(ground_of("gpt3-175b", 8, 8, fused=True), asked).recompute == kept
    whole = tuple(sorted(RECOMPUTES.index(name) for name in asked.recompute or RECOMPUTES))
    assert values_on(ground_of("gpt3-175b", 8, 8), asked).recompute == whole


def test_without_fused_attention_no_context_ranks_are_tried() -> None:
    assert values_on(ground_of("gpt3-175b", 8, 8), Asked()).context == (1,)
    assert values_on(ground_of("gpt3-175b", 8, 8, fused=True), Asked()).context == (1, 2, 4, 8)


def test_values_are_rising_and_each_once_and_kinds_in_the_order_of_the_plan() -> None:
    asked = Asked(tensor=(8, 2, 8), schedule=("zb-v", "1f1b"), context_exchange=("all_to_all", "ring"), data=(4, 1))
    values = values_on(ground_of("gpt3-175b", 64, 64), asked)
    assert (values.tensor, values.data) == ((2, 8), (1, 4))
    assert (values.schedule, values.context_exchange) == (("1f1b", "zb-v"), ("ring", "all_to_all"))


def test_groups_that_share_states_must_divide_the_replicas_also_of_a_dense_model() -> None:
    ground = ground_of("llama-3.1-8b", 8, 8)
    base = replace(BASE, shard=array(4.0))
    values = values_on(ground, Asked(zero=(0, 1), schedule=("1f1b",), sequence_parallel=(False,)))
    table = legal_table(values, ground, choices_of(values)[0], base, scenario_of(8, 2048))
    sharing = table["zero"] == 1.0
    assert sharing.any()
    assert set((table["data"] * table["context"])[sharing].tolist()) <= {4.0, 8.0, 2.0}
    assert np.all(np.mod(table["data"], np.minimum(4.0, table["data"]))[sharing] == 0.0)


LISTS: dict[str, Any] = {
    "recompute": ("none", "full"),
    "zero": (0, 1),
    "micro_batch": (1,),
    "virtual_pipeline": (1,),
    "schedule": ("1f1b",),
    "sequence_parallel": (False,),
    "context": (1,),
    "context_exchange": ("ring",),
}


def listed(ground: Ground, **more: Any) -> list[tuple[Any, ...]]:
    """Strategies with the numbers and words that are listed beside the others."""
    values = values_on(ground, Asked(**LISTS, **more))
    found = []
    for choices in choices_of(values):
        table = legal_table(values, ground, choices, BASE, scenario_of(ground.batch, ground.length))
        plan = plan_of(table, choices, BASE)
        columns = [np.broadcast_to(getattr(plan, name), table["tensor"].shape).tolist() for name in (*NUMBERS, *LISTED)]
        words = (plan.recompute_modules, choices.optimizer, choices.optimizer_dtype)
        found += [(*row, *words) for row in zip(*columns, strict=True)]
    assert len(set(found)) == len(found)
    return found


def test_what_is_not_listed_is_as_the_plan_has_it() -> None:
    ground = ground_of("llama-3.1-8b", 4, 8, fused=True)
    plain = listed(ground)
    assert {row[-3:] for row in plain} == {((), None, None)}
    assert {row[len(NUMBERS) : -3] for row in plain} == {(0.0, np.inf, 0.0, 0.0, 0.0)}


def test_shares_and_optimizers_multiply_the_space_and_its_size() -> None:
    ground = ground_of("llama-3.1-8b", 4, 8, fused=True)
    more: dict[str, Any] = {"offload_optimizer": (0.5, 0.0), "optimizer": ("adamw", "muon", "adamw")}
    plain, wide = listed(ground), listed(ground, **more)
    assert len(wide) == 4 * len(plain)
    sizes = [size_of(values_on(ground, Asked(**LISTS, **each)), ground) for each in ({}, more)]
    assert sizes[1] == 4 * sizes[0]
    assert values_on(ground, Asked(**more)).offload_optimizer == (0.0, 0.5)


def test_modules_and_layers_count_once_where_they_make_no_difference() -> None:
    ground = ground_of("llama-3.1-8b", 4, 8, fused=True)
    plain = len(listed(ground)) // 2
    rows = listed(ground, recompute_modules=("", "norms", "mlp,norms"), recompute_layers=(2.0, 5.0, np.inf))
    level, layers, modules = NUMBERS.index("recompute"), len(NUMBERS) + LISTED.index("recompute_layers"), -3
    told = {(row[level], row[layers], row[modules]) for row in rows}
    some = {(0.0, number, own) for number in (2.0, 5.0, np.inf) for own in (("norms",), ("norms", "mlp"))}
    assert told == {(0.0, np.inf, ())} | some | {(2.0, number, ()) for number in (2.0, 5.0, np.inf)}
    assert len(rows) == len(told) * plain


@pytest.mark.parametrize("widths", [(0.0,), (1.0,), (0.0, 1.0, 2.0, 8.0), (4.0, 2.0, 3.0)])
def test_ranks_of_an_expert_that_are_listed_are_crossed_with_the_expert_degrees(widths: tuple[float, ...]) -> None:
    ground = ground_of("mixtral-8x7b", 16, 16, fused=True)
    asked = Asked(pipeline=(1, 2), context=(1,), micro_batch=(1,), zero=(1,), recompute=("none",), expert_tensor=widths)
    values = values_on(ground, replace(asked, schedule=("1f1b",), sequence_parallel=(True,), virtual_pipeline=(1,)))
    (choices,) = [each for each in choices_of(values) if each.context_exchange == "ring"]
    scenario = scenario_of(ground.batch, ground.length)
    table = legal_table(values, ground, choices, BASE, scenario)
    found = set(zip(*(table[name].tolist() for name in ("tensor", "pipeline", "expert", "expert_tensor")), strict=True))
    assert len(found) == len(table["tensor"])
    wanted = set()
    for t, p, e, w in itertools.product((1, 2, 4, 8, 16), (1, 2), (1, 2, 4, 8), sorted(set(widths))):
        if t * p > 16:
            continue
        row = {"tensor": t, "pipeline": p, "data": 16 // (t * p), "expert": e, "expert_tensor": w}
        plan = replace(BASE, **{name: array([value]) for name, value in row.items()})
        plan = replace(plan, micro_batches=array([16 / (16 // (t * p))]))
        legal = int(divisibility(plan, scenario, ground.model, array(16), "train").code[0]) == 0
        # As what follows, and so no strategy of its own: whole experts beyond the tensor ranks, one rank of each.
        same = 0.0 in widths and ((e > t and w == 1.0) or (e == 1 and w == t))
        if legal and not same:
            wanted.add((float(t), float(p), float(e), w))
    assert found == wanted
    assert size_of(values, ground) == size_of(replace(values, expert_tensor=None), ground) * len(set(widths))


@pytest.mark.parametrize("orders", [("tp-cp-dp-pp",), ("tp-cp-pp-dp", "tp-cp-dp-pp", "tp-cp-pp-dp"), ORDERS])
def test_orders_that_are_listed_count_once_where_they_place_ranks_alike(orders: tuple[str, ...]) -> None:
    ground = ground_of("llama-3.1-8b", 8, 8, fused=True)
    lists: dict[str, Any] = {**LISTS, "tensor": (1, 2), "context": (1, 2), "pipeline": (1, 2), "order": orders}
    values = values_on(ground, Asked(**lists))
    found = []
    for choices in choices_of(values):
        table = legal_table(values, ground, choices, BASE, scenario_of(ground.batch, ground.length))
        assert plan_of(table, choices, BASE).order == choices.order
        degrees = zip(*(table[name].tolist() for name in ("tensor", "context", "data", "pipeline")), strict=True)
        kept = (table["zero"] == 0.0) & (table["recompute"] == 0.0)
        found += [(str(choices.order), row) for row, own in zip(degrees, kept, strict=True) if own]
    # Words with one rank say nothing: what is left must differ between orders of the same degrees.
    told = []
    for order, row in found:
        several = {word for word, count in zip(("tp", "cp", "dp", "pp"), row, strict=True) if count > 1}
        told.append((row, "-".join(word for word in order.split("-") if word in several)))
    assert len(set(told)) == len(told)
    every = set()
    for row, order in itertools.product({row for _, row in found}, orders):
        several = {word for word, count in zip(("tp", "cp", "dp", "pp"), row, strict=True) if count > 1}
        every.add((row, "-".join(word for word in order.split("-") if word in several)))
    assert set(told) == every
    assert size_of(values, ground) == len(set(orders)) * size_of(replace(values, order=None), ground)


def test_without_orders_the_plan_has_its_own() -> None:
    ground = ground_of("llama-3.1-8b", 8, 8, fused=True)
    values = values_on(ground, Asked(**LISTS))
    other = replace(BASE, order="tp-pp-cp-dp")
    for choices in choices_of(values):
        table = legal_table(values, ground, choices, other, scenario_of(ground.batch, ground.length))
        assert plan_of(table, choices, other).order == "tp-pp-cp-dp"
