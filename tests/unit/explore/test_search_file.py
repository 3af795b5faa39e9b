"""The file of a search: what it may hold, and one message for what it may not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from cosim.errors import SpecError
from cosim.explore.search_file import FIXED, NOT_SEARCHED, SEARCHED, Space, StrategySearch
from cosim.explore.strategy_space import LISTED, Asked
from cosim.mapping.order import ORDERS
from cosim.mapping.plan import Plan
from cosim.schema import validated

LEAST: dict[str, Any] = {
    "kind": "search",
    "question": "Which?",
    "system": "dgx-a100",
    "workload": "gpt3-175b",
    "objectives": ["time_s"],
}


def read(**more: Any) -> StrategySearch:
    return validated(StrategySearch, {**LEAST, **more})


def test_what_is_left_out_is_everything() -> None:
    study = read()
    assert (study.phase, study.software, study.nodes, study.precision) == ("train", "megatron", None, None)
    assert study.space.asked() == Asked()
    endless = {"recompute_modules", "optimizer", "optimizer_dtype", "order", "fp8_recipe", *LISTED}
    whole = {name: "all" for name in Space.model_fields if name not in endless}
    assert read(space=whole).space.asked() == Asked()
    for name in endless - {"recompute_layers"}:
        with pytest.raises(SpecError, match=name) if name != "optimizer" else nullcontext():
            read(space={name: "all"})


def test_one_value_is_a_list_of_one() -> None:
    space = read(nodes=8, precision="bf16", objectives="time_s", space={"tensor": 8, "zero": 0, "schedule": "zb-v"})
    assert (space.nodes, space.precision) == ((8,), ("bf16",))
    assert space.space.asked() == Asked(tensor=(8,), zero=(0,), schedule=("zb-v",))


@pytest.mark.parametrize("word", ["on", True, [True], ["on"]])
def test_sequence_parallelism_is_on_or_off(word: object) -> None:
    assert read(space={"sequence_parallel": word}).space.sequence_parallel == (True,)
    assert read(space={"sequence_parallel": ["off", "on"]}).space.sequence_parallel == (False, True)


def test_a_bare_objective_is_minimised_unless_more_is_better() -> None:
    first, second, third = read(objectives=["time_s", "mfu", {"minimise": "mfu"}]).objectives
    assert (first.minimise, first.maximise) == ("time_s", None)
    assert (second.minimise, second.maximise) == (None, "mfu")
    assert (third.minimise, third.maximise) == ("mfu", None)


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"space": {"tensr": 8}}, "space.tensr", "unknown field .*nearest: tensor"),
        ({"space": {"tensor_parallel": 8}}, "space.tensor_parallel", "unknown field .*nearest: .*tensor"),
        ({"space": {"tensor": []}}, "space.tensor", "lists nothing"),
        ({"space": {"tensor": 0}}, "space.tensor", "greater than or equal to 1"),
        ({"space": {"zero": 4}}, "space.zero", "less than or equal to 3"),
        ({"space": {"schedule": "zbv"}}, "space.schedule", "is none of the names .*nearest: zb-v"),
        ({"space": {"recompute": "some"}}, "space.recompute", "is none of the names .*nearest: none"),
        ({"space": {"recompute_modules": "nrms"}}, "space.recompute_modules", "no module has this name .*norms"),
        ({"space": {"recompute_layers": 2.5}}, "space.recompute_layers", "valid integer"),
        ({"space": {"offload_weights": [0, 2]}}, "space.offload_weights", "less than or equal to 1"),
        ({"space": {"optimizer_dtype": "fp4"}}, "space.optimizer_dtype", "fp32"),
        ({"plan": {"offload_weights": 1}}, "plan.offload_weights", "dimension of the space.*space.offload_weights"),
        ({"objectives": []}, "objectives", "at least 1"),
        ({"objectives": ["tme_s"]}, "objectives.0.minimise", "names no number of a result .*nearest: time_s"),
        ({"objectives": ["tokens_per_s_per_user"]}, "objectives.0", "names no number of a result"),
        ({"objectives": [{"minimise": "time_s", "maximise": "mfu"}]}, "objectives.0", "needs one of minimise"),
        ({"objectives": [{}]}, "objectives.0", "needs one of minimise"),
        ({"objectives": ["time_s", "time_s"]}, "objectives", "is listed twice"),
        ({"objectives": [{"finish": {"tokens": 1e12}}]}, "objectives.0.finish.days", "is missing"),
        ({"objectives": [{"finish": {"tokens": 0, "days": 1}}]}, "objectives.0.finish.tokens", "greater than 0"),
        (
            {"objectives": [{"finish": {"tokens": 1, "days": 1}}, {"finish": {"tokens": 2, "days": 1}}]},
            "objectives",
            "has two dates",
        ),
        ({"constraints": ["memory_bytes.totl <= 72 GB"]}, "constraints.0", "nearest: memory_bytes.total"),
        ({"constraints": ["memory_bytes.total <= 72 s"]}, "constraints.0", "wrong unit"),
        ({"constraints": ["tokens_per_s_per_user >= 3"]}, "constraints.0", "unknown in training"),
        ({"precision": "int8"}, "precision", "is no format to train in"),
        ({"precision": ["bf16", "bf16"]}, "precision", "is listed twice"),
        ({"nodes": [8, 8]}, "nodes", "is listed twice"),
        ({"nodes": 0}, "nodes.0", "greater than or equal to 1"),
        ({"phase": "decode"}, "phase", "train"),
        ({"plan": {"tensor_parallel": 8}}, "plan.tensor_parallel", "dimension of the space.*space.tensor"),
        ({"rows": 0}, "rows", "greater than or equal to 1"),
        ({"colour": 1}, "colour", "unknown field"),
    ],
)
def test_what_a_file_may_not_hold_is_one_message(more: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        read(**more)
    assert str(caught.value.field).startswith(field)


def test_every_dimension_is_a_path_of_the_plan_and_every_training_path_has_a_place() -> None:
    assert set(SEARCHED.values()) == set(Space.model_fields)
    assert set(SEARCHED) <= set(Plan.model_fields)
    # What a plan learns later must be searched, said elsewhere, or left out for a reason.
    places = [*SEARCHED, *FIXED, *NOT_SEARCHED]
    assert sorted(places) == sorted(Plan.model_fields)
    assert all(len(reason) > 20 for reason in NOT_SEARCHED.values())


def test_listed_dimensions_are_read_as_a_plan_reads_them() -> None:
    space = {
        "recompute_modules": ["", "mlp, norms"],
        "recompute_layers": [4, "all"],
        "offload_optimizer": 0.5,
        "optimizer": "muon",
        "optimizer_dtype": ["fp32", "bf16"],
    }
    assert read(space=space).space.asked() == Asked(
        recompute_modules=("", "norms,mlp"),
        recompute_layers=(4.0, float("inf")),
        offload_optimizer=(0.5,),
        optimizer=("muon",),
        optimizer_dtype=("fp32", "bf16"),
    )


def test_the_schema_takes_one_value_a_list_or_all() -> None:
    schema = StrategySearch.model_json_schema()
    tensor = schema["$defs"]["Space"]["properties"]["tensor"]["anyOf"]
    whole = {"type": "integer", "minimum": 1}
    assert tensor == [{"const": "all"}, whole, {"type": "array", "items": whole, "minItems": 1}]
    assert schema["required"] == ["kind", "question", "system", "workload", "objectives"]
    assert "all" not in str(schema["properties"]["nodes"])


def test_ranks_of_an_expert_are_numbers_or_what_follows() -> None:
    assert read(space={"expert_tensor": ["follows", 2]}).space.asked() == Asked(expert_tensor=(0.0, 2.0))
    assert read(space={"expert_tensor": 1}).space.asked() == Asked(expert_tensor=(1.0,))
    with pytest.raises(SpecError, match="expert_tensor"):
        read(space={"expert_tensor": "all"})


def test_orders_are_read_as_a_plan_reads_them() -> None:
    assert read(space={"order": "tp-cp-ep-pp-dp"}).space.asked() == Asked(order=("tp-cp-pp-dp",))
    assert read(space={"order": list(ORDERS)}).space.asked().order == ORDERS
    assert read().space.asked().order is None
    with pytest.raises(SpecError, match="is no order of ranks"):
        read(space={"order": ["tp-cp"]})


def test_recipes_of_fp8_are_read_by_name() -> None:
    assert read(space={"fp8_recipe": "block"}).space.asked() == Asked(fp8_recipe=("block",))
    with pytest.raises(SpecError, match="fp8_recipe"):
        read(space={"fp8_recipe": ["rows"]})
