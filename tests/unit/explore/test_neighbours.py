"""Neighbours of the best: never better, their parts add up, their limits are the engines', what follows follows."""

from __future__ import annotations

from typing import Any

import pytest

import cosim
from cosim.engines.analytic import evaluate
from cosim.explore.neighbours import Neighbour, limit_text, neighbours_of, stepped
from cosim.explore.search import Answer, answered, case_at, judged, parts_of, run_part, strategy_at
from cosim.explore.search_file import StrategySearch
from cosim.explore.search_inputs import searched_inputs
from cosim.mapping.legal import LIMITS
from cosim.schema import validated

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
GPT: dict[str, Any] = {
    "kind": "search",
    "question": "",
    "system": "dgx-a100",
    "nodes": 8,
    "workload": "gpt3-175b",
    "scenario": {"global_batch": 1536, "context": 2048},
    "space": {"micro_batch": [1, 2, 4], "virtual_pipeline": [1, 2, 3, 12], "zero": [0, 1, 3]},
    "objectives": ["time_s", "memory_bytes.total", "mfu"],
}


def searched(**more: Any) -> Answer:
    study = validated(StrategySearch, {**GPT, **more})
    inputs = searched_inputs(study, cosim.system(study.system).varied, cosim.workload(study.workload).varied)
    return answered(inputs, [(part, judged(inputs, part, run_part(inputs, part))) for part in parts_of(inputs)])


@pytest.fixture(scope="module")
def gpt() -> Answer:
    return searched()


@pytest.fixture(scope="module")
def steps(gpt: Answer) -> tuple[Neighbour, ...]:
    return neighbours_of(gpt, 0)


def named(steps: tuple[Neighbour, ...], dimension: str, after: object) -> Neighbour:
    return next(each for each in steps if (each.dimension, each.after) == (dimension, after))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_neighbour_of_the_best_is_better(gpt: Answer, place: int) -> None:
    found = neighbours_of(gpt, place)
    assert len(found) > 8
    for each in found:
        assert (each.change is None) == bool(each.limit)
        assert each.change is None or each.change >= -1e-12
        assert each.objective == gpt.inputs.goals[place].text
        assert each.why


def test_every_dimension_that_has_another_value_is_stepped(gpt: Answer, steps: tuple[Neighbour, ...]) -> None:
    best = gpt.best[0]
    assert best is not None
    here = strategy_at(gpt, best)
    assert (here["tensor"], here["pipeline"], here["data"]) == (8, 8, 1)
    stepped_on = {each.dimension for each in steps}
    # One replica has no states to share, one context rank exchanges nothing, and data follows.
    assert stepped_on == {
        "tensor",
        "pipeline",
        "context",
        "micro_batch",
        "virtual_pipeline",
        "recompute",
        "sequence_parallel",
        "schedule",
    }
    ordered = [each for each in steps if each.dimension == "micro_batch"]
    assert sorted(int(str(each.after)) for each in ordered) == [1, 4]


def test_parts_of_a_step_add_up_to_what_it_is_slower(gpt: Answer, steps: tuple[Neighbour, ...]) -> None:
    best = gpt.best[0]
    assert best is not None
    base = float(gpt.number("time_s")[best])
    for each in steps:
        if each.change is None:
            assert not each.parts
            continue
        assert sum(each.parts.values()) == pytest.approx(each.change * base, rel=1e-9, abs=1e-9 * base)
        sizes = [abs(value) for value in each.parts.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert each.why.startswith(f"time_s {each.change:+.2%}: " if abs(each.change) > 1e-9 else "time_s is the same")
    slower = named(steps, "recompute", "full")
    assert next(iter(slower.parts)) == "matmul"
    assert "matmul +" in slower.why
    assert all(value >= 0.0 for value in slower.operators.values())
    assert slower.operators


def test_memory_that_fails_is_told_by_kind_against_what_there_is(gpt: Answer, steps: tuple[Neighbour, ...]) -> None:
    wide = named(steps, "pipeline", 4)
    assert (wide.limit, wide.change, wide.also) == ("memory", None, "data 1 to 2")
    result = evaluate(case_at(gpt.inputs, {**wide.strategy, "recompute": 0, "sequence_parallel": True}))
    assert LIMITS[int(result.verdict.code[0])].name == "memory"
    total = float(result.memory["total"][0]) / 1e9
    assert wide.why.startswith(f"memory: {total:.3g} GB of 80 GB (")
    assert "optimizer" in wide.why


def test_where_data_cannot_give_way_the_pipeline_does(steps: tuple[Neighbour, ...]) -> None:
    more = named(steps, "tensor", 16)
    assert more.also == "pipeline 8 to 4"
    assert more.strategy["tensor"] * more.strategy["pipeline"] * more.strategy["data"] == 64


def test_a_step_goes_past_values_that_do_not_divide(gpt: Answer) -> None:
    best = gpt.best[0]
    assert best is not None
    here = strategy_at(gpt, best)
    three = searched(space={**GPT["space"], "virtual_pipeline": [1, 12, 13], "schedule": "1f1b"})
    found = [each for each in neighbours_of(three, 0) if each.dimension == "virtual_pipeline"]
    tops = {12: 1, 1: 12}
    assert [each.after for each in found if not each.limit] == [tops[int(str(found[0].before))]]
    assert here["data"] == 1
    # Where none divides, the nearest is named with its limit.
    none = searched(space={**GPT["space"], "virtual_pipeline": [1, 13], "schedule": "1f1b", "micro_batch": 1})
    stuck = next(each for each in neighbours_of(none, 0) if each.dimension == "virtual_pipeline")
    assert (stuck.after, stuck.limit) == (13, "virtual_pipeline")
    assert "or pieces empty" in stuck.why


@pytest.mark.parametrize(("schedule", "pieces"), [("zb-v", 2), ("dualpipe", 2), ("gpipe", 1), ("zb-h1", 1)])
def test_pieces_follow_from_a_schedule(gpt: Answer, schedule: str, pieces: int) -> None:
    best = gpt.best[0]
    assert best is not None
    here = {**strategy_at(gpt, best), "schedule": "1f1b", "virtual": 12}
    there = stepped(gpt.inputs, here, "schedule", schedule)
    assert there["virtual"] == pieces
    assert stepped(gpt.inputs, there, "schedule", "1f1b")["virtual"] == 1


def test_replicas_that_vanish_take_their_zero_stage_with_them(gpt: Answer) -> None:
    best = gpt.best[0]
    assert best is not None
    here = {**strategy_at(gpt, best), "pipeline": 4, "data": 2, "zero": 3}
    assert stepped(gpt.inputs, here, "pipeline", 8)["zero"] == 0
    assert stepped(gpt.inputs, here, "pipeline", 2)["zero"] == 3


def test_degrees_that_no_other_can_make_room_for_break_the_chips() -> None:
    odd = searched(workload="llama-3.1-8b", nodes=3, space={"tensor": 8, "pipeline": [2, 3], "schedule": "1f1b"})
    found = next(each for each in neighbours_of(odd, 0) if each.dimension == "pipeline" and each.after == 2)
    assert found.limit == "chips"
    assert "16 ranks of tensor x pipeline x context do not divide 24 chips" in found.why


def test_a_neighbour_that_breaks_a_constraint_says_by_how_much(gpt: Answer) -> None:
    best = gpt.best[0]
    assert best is not None
    most = float(gpt.number("time_s")[best]) * 1.02
    found = neighbours_of(searched(constraints=[f"time_s <= {most:.1f} s"]), 0)
    late = next(each for each in found if each.dimension == "recompute")
    assert late.limit == f"time_s <= {most:.1f} s"
    assert late.why.startswith(f"{late.limit} is missed by ")


def test_of_memory_as_an_objective_the_kinds_of_memory_are_told(gpt: Answer) -> None:
    worse = [each for each in neighbours_of(gpt, 1) if each.change]
    assert worse
    assert all("a chip +" in each.why for each in worse)


def test_fewer_nodes_are_too_late_and_more_are_more_chips() -> None:
    finish = {"finish": {"tokens": 1e12, "days": 1200}}
    found = neighbours_of(searched(nodes=[4, 8, 16], objectives=[finish]), 0)
    nodes = {each.after: each for each in found if each.dimension == "nodes"}
    assert set(nodes) == {4, 16}
    assert nodes[4].limit == "memory"
    assert nodes[4].also == "pipeline 8 to 4"
    more = nodes[16]
    assert more.change == pytest.approx(1.0)
    assert "chips +100.00%, " in more.why


def test_the_record_is_plain_data(steps: tuple[Neighbour, ...]) -> None:
    plain = steps[0].as_json()
    assert plain["dimension"] == "tensor"
    assert set(plain["strategy"]) >= {"tensor", "data", "virtual_pipeline", "precision", "recompute"}
    assert plain["strategy"]["sequence_parallel"] in ("on", "off")


def test_a_limit_in_the_words_of_the_engines(gpt: Answer) -> None:
    best = gpt.best[0]
    assert best is not None
    there = {**strategy_at(gpt, best), "tensor": 5, "data": 1}
    case = case_at(gpt.inputs, there)
    result = evaluate(case)
    code = int(result.verdict.code[0])
    text = limit_text(gpt.inputs, case, result, code, float(result.verdict.shortfall[0]))
    assert text.startswith(f"{LIMITS[code].name}: tensor 5 x pipeline 8")


def test_listed_dimensions_are_stepped_and_layers_follow_from_what_recomputes() -> None:
    space = {
        "tensor": 8,
        "pipeline": 8,
        "micro_batch": 1,
        "virtual_pipeline": 1,
        "zero": 0,
        "schedule": "1f1b",
        "recompute_modules": ["", "norms"],
        "recompute_layers": [2, "all"],
        "offload_optimizer": [0, 0.5],
        "optimizer": ["adamw", "muon"],
    }
    answer = searched(space=space, objectives=["time_s"])
    found = neighbours_of(answer, 0)
    assert {"recompute_modules", "offload_optimizer", "optimizer"} <= {each.dimension for each in found}
    assert all(each.change is None or each.change >= -1e-12 for each in found)
    best = answer.best[0]
    assert best is not None
    here = strategy_at(answer, best)
    none = {**here, "recompute": 0, "recompute_modules": (), "recompute_layers": float("inf")}
    assert stepped(answer.inputs, none, "recompute", 2)["recompute_layers"] == 2.0
    full = {**none, "recompute": 2, "recompute_layers": 2.0}
    assert stepped(answer.inputs, full, "recompute", 0)["recompute_layers"] == float("inf")
    case = case_at(answer.inputs, here)
    assert case.software is not None
    assert case.software.update is not None
    assert case.software.update.name == here["optimizer"]
    assert float(evaluate(case).time[0]) == pytest.approx(float(answer.number("time_s")[best]), rel=1e-12)


def test_ranks_of_an_expert_are_stepped_where_they_are_listed() -> None:
    space = {"pipeline": 1, "context": 1, "micro_batch": 1, "zero": 1, "recompute": "none", "tensor": [1, 2, 4]}
    more = {"system": "dgx-h100", "workload": "mixtral-8x7b", "scenario": {"global_batch": 64, "context": 1024}}
    answer = searched(**more, space={**space, "expert_tensor": ["follows", 1, 2]}, objectives=["time_s"])
    steps = neighbours_of(answer, 0)
    stepped_on = [each for each in steps if each.dimension == "expert_tensor"]
    assert stepped_on
    assert {each.after for each in stepped_on} <= {"follows", 1, 2}
    assert all(each.limit or each.change >= -1e-12 for each in stepped_on if each.change is not None)


def test_other_orders_are_neighbours_where_they_are_listed() -> None:
    space = {"tensor": 2, "pipeline": 2, "context": 1, "micro_batch": 1, "zero": 1, "recompute": "none"}
    more = {"scenario": {"global_batch": 64, "context": 1024}, "workload": "gpt-22b", "objectives": ["time_s"]}
    answer = searched(**more, space={**space, "order": ["tp-cp-dp-pp", "tp-pp-cp-dp"]})
    best = answer.best[0]
    assert best is not None
    here = strategy_at(answer, best)["order"]
    (step,) = [each for each in neighbours_of(answer, 0) if each.dimension == "order"]
    assert {here, step.after} == {"tp-cp-dp-pp", "tp-pp-cp-dp"}
    assert step.change is not None
    assert step.change > 0.0


def test_recipes_are_neighbours_in_fp8_and_follow_the_precision() -> None:
    space = {"tensor": 8, "pipeline": 1, "context": 1, "micro_batch": 1, "zero": 1, "recompute": "none"}
    more = {"system": "dgx-h100", "workload": "llama-3.1-8b", "scenario": {"global_batch": 64, "context": 1024}}
    answer = searched(
        **more,
        precision="fp8",
        space={**space, "fp8_recipe": ["tensor", "block"]},
        objectives=["time_s"],
    )
    best = answer.best[0]
    assert best is not None
    here = strategy_at(answer, best)
    steps = {(each.dimension, each.after) for each in neighbours_of(answer, 0)}
    assert ("fp8_recipe", {"tensor": "block", "block": "tensor"}[here["fp8_recipe"]]) in steps
    wide = stepped(answer.inputs, here, "dtype", "bf16")
    assert "fp8_recipe" not in wide
    assert stepped(answer.inputs, wide, "dtype", "fp8")["fp8_recipe"] == "tensor"


def test_from_another_format_there_is_no_recipe_to_change() -> None:
    space = {"tensor": 8, "pipeline": 1, "context": 1, "micro_batch": 1, "zero": 1, "recompute": "none"}
    more = {"system": "dgx-h100", "workload": "llama-3.1-8b", "scenario": {"global_batch": 64, "context": 1024}}
    recipes = {**space, "fp8_recipe": ["tensor", "block"]}
    answer = searched(**more, precision=["bf16", "fp8"], space=recipes, objectives=["time_s"])
    best = answer.best[0]
    assert best is not None
    assert strategy_at(answer, best)["dtype"] == "bf16"
    steps = neighbours_of(answer, 0)
    assert not [each for each in steps if each.dimension == "fp8_recipe"]
    (narrow,) = [each for each in steps if each.dimension == "precision"]
    assert (narrow.after, narrow.strategy["fp8_recipe"]) == ("fp8", "tensor")
