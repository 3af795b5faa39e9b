"""One point: the plan that is given, or the best of all legal ones; what is assumed and what is refused."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Phase
from cosim.errors import InfeasibleError, SpecError
from cosim.explore.estimate import Estimate, estimate
from cosim.hardware.load import load_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied, vary
from cosim.workload.load import load_model
from cosim.workload.model import Model

SYSTEMS = ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8")
PHASES: tuple[Phase, ...] = ("prefill", "decode")
NAMES = ("tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batches")


@functools.cache
def system(name: str, nodes: int = 1) -> Varied[System]:
    return vary_system(Varied(load_system(name)), {"nodes": nodes})


@functools.cache
def model(name: str) -> Varied[Model]:
    return Varied(load_model(name))


def ask(phase: Phase, plan: dict[str, Any], scenario: dict[str, Any], name: str = "dgx-h100") -> Estimate:
    return estimate(phase, system(name), model("llama-3.1-8b"), plan, scenario)


def every_plan(batch: int) -> list[tuple[int, ...]]:
    """All degrees whose product is eight chips and all micro-batches, legal or not."""
    return [
        (t, p, d, m)
        for t, p, d, m in itertools.product(range(1, 9), range(1, 9), range(1, 9), range(1, batch + 1))
        if t * p * d == 8 and batch % (d * m) == 0
    ]


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS),
    workload=st.sampled_from(["llama-3.1-8b", "qwen3-32b", "llama-3.1-70b"]),
    phase=st.sampled_from(PHASES),
    batch=st.sampled_from([1, 2, 6, 8, 24, 64]),
    context=st.integers(1, 9000),
)
def test_without_a_plan_the_best_of_brute_force_is_found(
    name: str, workload: str, phase: Phase, batch: int, context: int
) -> None:
    plans = every_plan(batch)
    columns = {field: list(column) for field, column in zip(NAMES, zip(*plans, strict=True), strict=True)}
    scenario = {"batch": batch, "context": context}
    tried = estimate(phase, system(name), model(workload), columns, scenario).result
    if not tried.feasible.any():
        with pytest.raises(InfeasibleError):
            estimate(phase, system(name), model(workload), {}, scenario)
        return
    best = estimate(phase, system(name), model(workload), {}, scenario)
    row = best.to_row()
    assert row["time_s"] == pytest.approx(np.nanmin(tried.time), rel=1e-12)
    given_again = {field: row[f"plan.{field}"] for field in NAMES}
    alone = estimate(phase, system(name), model(workload), given_again, scenario)
    assert alone.to_row() == row
    assert (best.plans_tried > 0, alone.plans_tried) == (True, 0)


def test_the_number_of_plans_tried_by_hand() -> None:
    # One sequence on eight chips: tensor x pipeline = 8, one replica, one micro-batch.
    assert ask("decode", {}, {"batch": 1}).plans_tried == 4
    # Two: tensor x pipeline of 8, one micro-batch on one stage, one or two on more (7), of 4 in two replicas (3).
    assert ask("decode", {}, {"batch": 2}).plans_tried == 10


def test_what_was_left_open_is_said() -> None:
    open_plan = ask("decode", {}, {})
    assert open_plan.defaults == {
        "scenario.batch": 1, "scenario.context": 2048, "plan.dtype": "fp8", "plan.kv_dtype": "fp8", "phase": "decode",
    }  # fmt: skip
    told = ask("prefill", {"dtype": "bf16", "kv_dtype": "fp8"}, {"batch": 3, "context": 100})
    assert told.defaults == {"phase": "prefill"}
    assert (told.case.plan.dtype, told.case.plan.kv_dtype, told.confidence) == ("bf16", "fp8", "measured")


@pytest.mark.parametrize(("name", "dtype", "cache"), [("tpu-v5p-8", "int8", "int8"), ("asic-8", "mxfp4", "fp8")])
def test_formats_left_open_are_the_best_that_the_chip_has(name: str, dtype: str, cache: str) -> None:
    found = ask("decode", {"tensor_parallel": 8}, {}, name)
    assert (found.case.plan.dtype, found.case.plan.kv_dtype) == (dtype, cache)


def test_the_cache_follows_the_weights_that_are_named() -> None:
    assert ask("decode", {"dtype": "bf16"}, {}).case.plan.kv_dtype == "bf16"
    assert ask("decode", {"dtype": "int8"}, {}).case.plan.kv_dtype == "int8"


def test_the_search_keeps_the_formats_and_the_algorithm_that_are_named() -> None:
    plan = {"dtype": "fp8", "kv_dtype": "bf16", "algorithm.all_reduce": "ring"}
    found = ask("prefill", plan, {"batch": 1, "context": 8000})
    assert (found.plans_tried, found.case.plan.kv_dtype, found.case.plan.all_reduce) == (4, "bf16", "ring")
    best = ask("prefill", {"dtype": "fp8", "kv_dtype": "bf16"}, {"batch": 1, "context": 8000})
    assert best.result.time[0] <= found.result.time[0]


def test_arrays_of_points_give_a_row_each_feasible_or_not() -> None:
    found = ask("decode", {"tensor_parallel": [1, 3, 8]}, {"batch": [1, 2, 3]})
    rows = [found.to_row(index) for index in range(3)]
    assert [(row["feasible"], row["limit"]) for row in rows] == [(True, ""), (False, "tensor_parallel"), (True, "")]
    assert [row["scenario.batch"] for row in rows] == [1, 2, 3]
    assert {name: len(column) for name, column in found.table().items()} == dict.fromkeys(found.table(), 3)


def test_arrays_of_a_chip_and_a_model() -> None:
    machine = vary_system(system("asic-8"), {"chip.memory.dram.stacks": [2, 4, 8]})
    network = vary(model("llama-3.1-8b"), {"layers": [16, 32, 64]})
    result = estimate("decode", machine, network, {"tensor_parallel": 8}, {}).result
    assert result.memory["weights"][2] > result.memory["weights"][0]
    assert result.time.shape == (3,)


@pytest.mark.parametrize(
    ("chip", "scenario"),
    [({"chip.matrix.clock": [1e9, 2e9]}, {}), ({}, {"batch": [1, 2]}), ({"nodes": [1, 2]}, {"context": [5, 6]})],
)
def test_arrays_without_a_plan_are_refused(chip: dict[str, Any], scenario: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"plan: a plan is needed for arrays of points; give plan\.tensor_parallel"):
        estimate("decode", vary_system(system("dgx-h100"), chip), model("llama-3.1-8b"), {}, scenario)


@pytest.mark.parametrize(
    ("plan", "scenario", "message"),
    [
        ({"tensor_paralel": 8}, {}, r"^plan\.tensor_paralel: unknown path; nearest: plan\.tensor_parallel"),
        ({}, {"contxt": 5}, r"^scenario\.contxt: unknown path; nearest: scenario\.context"),
        ({"tensor_parallel": 0}, {}, r"^plan\.tensor_parallel: .*greater than or equal to 1 \(got 0\)"),
        ({"tensor_parallel": 2.5}, {}, r"^plan\.tensor_parallel: .*integer"),
        ({}, {"batch": "many"}, r"^scenario\.batch: .*\(got 'many'\)"),
        ({"dtype": "bf61"}, {}, r"^plan\.dtype: .*\(got 'bf61'\)"),
        ({"algorithm.all_reduce": "rings"}, {}, r"^plan\.algorithm\.all_reduce: .*\(got 'rings'\)"),
        ({}, {"context": 100, "capacity": 50}, r"^scenario\.capacity: is less than context"),
    ],
)
def test_bad_input_names_the_path_and_what_would_be_right(
    plan: dict[str, Any], scenario: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        ask("decode", plan, scenario)


def test_a_format_that_the_chip_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(
        SpecError, match=r"plan\.dtype: h100-sxm has no matrix rate for this format \(got 'mxfp8'\).*fp8"
    ):
        ask("decode", {"dtype": "mxfp8"}, {})


def test_an_algorithm_that_the_tier_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(
        SpecError, match=r"tier 'node' has no such all-reduce for this group \(got 'tree'\); it has ring, in_network"
    ):
        ask("decode", {"tensor_parallel": 8, "algorithm.all_reduce": "tree"}, {})


@pytest.mark.parametrize(
    ("plan", "scenario", "limit", "message"),
    [
        ({"tensor_parallel": 3}, {}, "tensor_parallel", "tensor 3 .* the tensor degree must divide heads"),
        ({"tensor_parallel": 16}, {}, "chips", "tensor 16 .* use no more chips"),
        ({"micro_batches": 3}, {"batch": 8}, "batch", "must divide the batch"),
        ({"pipeline_parallel": 8}, {"tpot_limit": "1 us"}, "tpot_limit", "use more tensor parallelism"),
    ],
)
def test_a_plan_that_breaks_a_limit_is_an_error_for_one_point(
    plan: dict[str, Any], scenario: dict[str, Any], limit: str, message: str
) -> None:
    with pytest.raises(InfeasibleError, match=message) as caught:
        ask("decode", plan, scenario)
    assert caught.value.limit == limit


def test_a_model_that_does_not_fit_names_kinds_and_the_plan_that_fits() -> None:
    memory = {"chip.memory.dram.capacity": "80 GB", "chip.memory.dram.reserved": "4 GB"}
    with pytest.raises(InfeasibleError) as caught:
        estimate("decode", vary_system(system("dgx-h100"), memory), model("llama-3.1-405b"), {"dtype": "bf16"}, {})
    text = str(caught.value)
    assert caught.value.limit == "memory"
    # 405.85 G weights of 2 B over eight chips are 101 GB, with 4 GB of runtime on 80 GB
    assert "25.6 GB of 80 GB per chip (weights 101 GB, other 4 GB, kv 132 MB, activations" in text
    assert "it fits with tensor 16 x pipeline 1 x data 1, bf16 on 16 chips (system.nodes=2)" in text
    fits = estimate(
        "decode", system("dgx-h100", 2), model("llama-3.1-405b"), {"tensor_parallel": 16, "dtype": "bf16"}, {}
    )
    assert fits.result.feasible.all()


def test_no_legal_degrees_is_said() -> None:
    narrow = vary(model("llama-3.1-8b"), {"layers": 1, "kv_heads": 1, "heads": 1})
    with pytest.raises(
        InfeasibleError, match=r"no tensor x pipeline x data degrees on 8 chips divide llama-3\.1-8b and batch 1"
    ):
        estimate("decode", system("dgx-h100"), narrow, {}, {})


def test_a_point_carries_the_spread_of_its_chips_software() -> None:
    """Best and worst time of the same plan enclose its own; a chip with a named quality still has its other ranges."""
    for name in SYSTEMS:
        answer = ask_on(name)
        assert answer.spread is not None
        best, worst = answer.spread
        # A step that its power limits is no faster with better kernels.
        assert best <= float(answer.result.time[0]) * (1.0 + 1e-9) < worst


def test_arrays_have_no_spread() -> None:
    changed = vary_system(Varied(load_system("asic-8")), {"chip.memory.dram.stacks": np.array([4.0, 8.0])})
    plan = {"tensor_parallel": 8}
    assert estimate("decode", changed, model("llama-3.1-8b"), plan, {}).spread is None


def ask_on(name: str) -> Estimate:
    return estimate("decode", system(name), model("llama-3.1-8b"), {}, {"batch": 8})


# Training.


def train(plan: dict[str, Any], scenario: dict[str, Any], name: str = "dgx-h100", nodes: int = 1) -> Estimate:
    return estimate("train", system(name, nodes), model("llama-3.1-8b"), plan, scenario)


def test_what_training_takes_where_nothing_is_said() -> None:
    found = train({}, {})
    assert found.defaults == {
        "scenario.global_batch": 512,
        "scenario.context": 2048,
        "plan.dtype": "bf16",
        "plan.software": "megatron",
        "phase": "train",
        "scenario.bytes_per_sample": "unknown (loading is no bound)",
    }
    row = found.to_row()
    assert (row["scenario.global_batch"], row["scenario.context"], row["plan.dtype"]) == (512, 2048, "bf16")
    assert row["plan.software"] == "megatron"
    told = train({"dtype": "fp8", "software": "megatron-2022"}, {"global_batch": 8, "context": 100})
    assert told.defaults == {"phase": "train", "scenario.bytes_per_sample": "unknown (loading is no bound)"}
    assert (told.case.plan.dtype, told.to_row()["plan.software"]) == ("fp8", "megatron-2022")


def test_a_row_of_training_has_what_training_has_and_nothing_of_serving() -> None:
    row = train({"tensor_parallel": 2, "pipeline_parallel": 4, "micro_batch": 2}, {"global_batch": 64}).to_row()
    assert (row["phase"], row["plan.micro_batch"], row["plan.micro_batches"]) == ("train", 2, 32)
    assert [row[name] for name in ("scenario.batch", "scenario.capacity", "tokens_per_s_per_user")] == [None] * 3
    assert (row["plan.kv_dtype"], row["memory_bytes.kv"]) == ("", 0)
    assert row["tokens_per_s_per_chip"] == pytest.approx(64 * 2048 / row["time_s"] / 8, rel=1e-12)
    assert row["tokens_per_j_chip"] == pytest.approx(64 * 2048 / row["energy_j"], rel=1e-12)
    served = ask("prefill", {"tensor_parallel": 2}, {}).to_row()
    unknown = ("scenario.global_batch", "plan.micro_batch", "plan.virtual_pipeline", "plan.zero")
    assert [served[name] for name in unknown] == [None] * 4
    assert (served["plan.recompute"], served["plan.software"]) == ("", "")


def test_a_training_point_carries_the_spread_of_its_chips_software() -> None:
    for name in ("dgx-h100", "mi300x-8gpu", "tpu-v5p-8", "asic-8"):
        answer = train({}, {"global_batch": 16}, name)
        assert answer.spread is not None
        best, worst = answer.spread
        # A step that its power limits is no faster with better kernels.
        assert best <= float(answer.result.time[0]) * (1.0 + 1e-9) < worst


def test_arrays_of_training_plans_give_a_row_each_as_alone() -> None:
    plans: dict[str, list[Any]] = {
        "tensor_parallel": [1, 3, 8, 2, 1],
        "pipeline_parallel": [1, 1, 1, 4, 1],
        "data_parallel": [8, 1, 1, 1, 8],
        "micro_batch": [1, 1, 4, 2, 1],
        "virtual_pipeline": [1, 1, 1, 4, 1],
        "zero": [1, 0, 0, 0, 0],
    }
    batches = [16, 16, 16, 64, 16]
    found = train(plans, {"global_batch": batches})
    rows = [found.to_row(index) for index in range(5)]
    assert [row["limit"] for row in rows] == ["", "tensor_parallel", "", "", "memory"]
    assert [row["plan.micro_batches"] for row in rows] == [2, 16, 4, 32, 2]
    for index in (0, 2, 3):
        one = {name: values[index] for name, values in plans.items()}
        alone = train(one, {"global_batch": batches[index]}).to_row()
        for name, value in alone.items():
            assert rows[index][name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


@pytest.mark.parametrize(
    ("plan", "scenario"), [({}, {"global_batch": [8, 16]}), ({"zero": [1, 3]}, {}), ({"micro_batch": [1, 2]}, {})]
)
def test_arrays_of_training_points_without_degrees_are_refused(plan: dict[str, Any], scenario: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"plan: a plan is needed for arrays of points; give plan\.tensor_parallel"):
        train(plan, scenario)


TO_TRAINING = "it belongs to 'estimate train'"
TO_SERVING = "training has plan.micro_batch and scenario.global_batch"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("plan", "scenario", "path"),
    [
        ({"zero": 1}, {}, "plan.zero"),
        ({"recompute": "full"}, {}, "plan.recompute"),
        ({"micro_batch": 2}, {}, "plan.micro_batch"),
        ({"virtual_pipeline": 2}, {}, "plan.virtual_pipeline"),
        ({"sequence_parallel": True}, {}, "plan.sequence_parallel"),
        ({"software": "megatron"}, {}, "plan.software"),
        ({}, {"global_batch": 8}, "scenario.global_batch"),
    ],
)
def test_what_belongs_to_training_is_refused_in_serving(
    phase: Phase, plan: dict[str, Any], scenario: dict[str, Any], path: str
) -> None:
    with pytest.raises(SpecError) as caught:
        ask(phase, plan, scenario)
    assert str(caught.value) == f"{path}: is not part of {phase}; {TO_TRAINING}"


@pytest.mark.parametrize(
    ("plan", "scenario", "path"),
    [
        ({"micro_batches": 2}, {}, "plan.micro_batches"),
        ({"kv_dtype": "fp8"}, {}, "plan.kv_dtype"),
        ({}, {"batch": 8}, "scenario.batch"),
        ({}, {"capacity": 4096}, "scenario.capacity"),
        ({}, {"ttft_limit": 1.0}, "scenario.ttft_limit"),
        ({}, {"tpot_limit": 1.0}, "scenario.tpot_limit"),
    ],
)
def test_what_belongs_to_serving_is_refused_in_training(
    plan: dict[str, Any], scenario: dict[str, Any], path: str
) -> None:
    with pytest.raises(SpecError) as caught:
        train(plan, scenario)
    assert str(caught.value) == f"{path}: is not part of train; {TO_SERVING}"


@pytest.mark.parametrize(
    ("plan", "scenario", "message"),
    [
        ({"zero": 4}, {}, r"^plan\.zero: .*less than or equal to 3 \(got 4\)"),
        ({"recompute": "half"}, {}, r"^plan\.recompute: .*'none', 'selective' or 'full' \(got 'half'\)"),
        ({"recompute": ["none", "full"]}, {}, r"^plan\.recompute: is a choice: an array of points must hold numbers"),
        ({"software": "megatrn"}, {}, r"no software has this name \(got 'megatrn'\); nearest: megatron"),
        ({"micro_batch": 0}, {}, r"^plan\.micro_batch: .*greater than or equal to 1"),
        ({}, {"global_batch": 0}, r"^scenario\.global_batch: .*greater than or equal to 1"),
        ({}, {"global_bach": 8}, r"^scenario\.global_bach: unknown path; nearest: scenario\.global_batch"),
    ],
)
def test_bad_input_of_training_names_the_path(plan: dict[str, Any], scenario: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        train(plan, scenario)


@pytest.mark.parametrize(
    ("plan", "limit", "message"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel", "must divide heads"),
        ({"tensor_parallel": 16}, "chips", "use no more chips"),
        ({"pipeline_parallel": 4, "virtual_pipeline": 9}, "virtual_pipeline", "stages x pieces be at most layers"),
        ({"tensor_parallel": 8, "virtual_pipeline": 2}, "virtual_pipeline", "where stages hold several pieces"),
        ({"tensor_parallel": 8, "micro_batch": 3}, "batch", "in training data_parallel x micro_batch the global batch"),
        ({"data_parallel": 8, "zero": 0}, "memory", r"nearest strategy that fits is .*: zero 0 to 1"),
        (
            {"tensor_parallel": 2, "recompute": "none", "micro_batch": 16},
            "memory",
            r"nearest strategy that fits is .*: tensor 2 to 8",
        ),
    ],
)
def test_a_training_plan_that_breaks_a_limit_is_explained(plan: dict[str, Any], limit: str, message: str) -> None:
    with pytest.raises(InfeasibleError, match=message) as caught:
        train(plan, {"global_batch": 16})
    assert caught.value.limit == limit


def test_a_plan_that_does_not_fit_tells_what_takes_the_memory() -> None:
    with pytest.raises(InfeasibleError) as caught:
        train({"data_parallel": 8, "micro_batch": 1}, {"global_batch": 16})
    # 8.03 G parameters: 12 B of state, 4 B of gradient, 2 B of weight each, on every replica.
    assert "tensor 1 x pipeline 1 x data 8, 2 micro-batches, zero 0, recompute none, bf16 lacks" in str(caught.value)
    assert "(optimizer 96.4 GB, gradients 32.1 GB, weights 16.1 GB, activations" in str(caught.value)
