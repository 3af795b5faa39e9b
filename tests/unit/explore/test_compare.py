"""Blocks, goals, kernel qualities and winners of a comparison."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cosim.datum import Datum
from cosim.engines.analytic import Estimates, evaluate
from cosim.explore.compare import (
    PHASES,
    QUALITIES,
    Block,
    Goal,
    blocks,
    goals,
    phases,
    scaled_quality,
    winner,
    with_quality,
)
from cosim.explore.experiment import Compare, DecodeStudy, load_study
from cosim.explore.run import Inputs
from cosim.hardware.load import load_system
from cosim.hardware.lower import COSTS, SHARES, SystemArrays, lower_system
from cosim.hardware.system import System
from cosim.hardware.vary import vary_system
from cosim.mapping.legal import Verdict
from cosim.overrides import Varied
from cosim.records import array, points
from cosim.workload.load import load_model, load_workload, lower_workload
from cosim.workload.model import lower_model

Runs = list[tuple[Block, Estimates]]
CLASSES = ("matmul", "attention", "memory", "collective")


def found(runs: Runs, system: str, phase: str, quality: str) -> tuple[Block, Estimates]:
    """The block of one system, phase and quality."""
    return next((b, r) for b, r in runs if (b.system, b.phase, b.quality) == (system, phase, quality))


def rates(result: Estimates) -> np.ndarray:
    return result.tokens / result.time / result.chips


@given(
    limits=st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=5),
    workloads=st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
)
def test_goals_of_each_workload_are_the_decode_limits_from_the_tightest_on_and_then_prefill(
    study: Compare, limits: list[float], workloads: list[str]
) -> None:
    decode = DecodeStudy(tpot_limits=tuple(limits))
    listed = goals(study.model_copy(update={"decode": decode, "workload": tuple(workloads)}))
    tiers = [*(("decode", limit) for limit in sorted(limits)), ("prefill", 10.0)]
    assert [(goal.workload, goal.phase, goal.limit_s) for goal in listed] == [
        (name, phase, limit) for name in workloads for phase, limit in tiers
    ]


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal("decode", 0.015, workload="llama-3.1-70b"), "llama-3.1-70b decode, TPOT <= 15 ms"),
        (Goal("decode", 0.0005, workload="llama-3.1-8b"), "llama-3.1-8b decode, TPOT <= 0.5 ms"),
        (Goal("prefill", 2.0, workload="deepseek-v3"), "deepseek-v3 prefill, TTFT <= 2 s"),
        (Goal("prefill", 0.25, workload="deepseek-v3"), "deepseek-v3 prefill, TTFT <= 250 ms"),
        (Goal("train", np.inf, "training a model, 8 chips each"), "training a model, 8 chips each"),
    ],
)
def test_a_goal_reads_as_people_say_it(goal: Goal, text: str) -> None:
    assert goal.text == text


def test_blocks_are_every_system_phase_and_quality_once_in_the_order_of_the_study(runs: Runs, study: Compare) -> None:
    keys = [(b.workload, b.system, b.label, b.phase, b.quality) for b, _ in runs]
    assert keys == [("llama-3.1-8b", s, "bf16", p, q) for s in study.systems for p in PHASES for q in QUALITIES]


def test_a_format_that_a_chip_has_not_leaves_its_blocks_out_and_native_is_its_best(
    inputs: Inputs, asic: Varied[System]
) -> None:
    systems = {"dgx-h100": inputs.systems["dgx-h100"], "asic-8": asic}
    asked = inputs.study.experiment.model_copy(update={"precisions": ("mxfp4", "native"), "max_batch": 1})
    models = {name: lower_model(model) for name, model in inputs.models.items()}
    listed = list(blocks(asked, systems, models))
    assert {b.system for b in listed if b.label == "mxfp4"} == {"asic-8"}
    native = {b.system: b.case.plan.dtype for b in listed if b.label == "native"}
    # The highest matrix rate among the serving formats: fp8 on an H100, 4-bit with block scales on the template.
    assert native == {"dgx-h100": "fp8", "asic-8": "mxfp4"}


def test_each_workload_has_the_blocks_that_it_has_alone(inputs: Inputs, study: Compare) -> None:
    both = study.model_copy(update={"workload": ("llama-3.1-8b", "mixtral-8x7b"), "max_batch": 2})
    models = {name: lower_model(Varied(load_model(name))) for name in both.workload}
    alone = {name: list(blocks(both, inputs.systems, {name: model})) for name, model in models.items()}
    found = list(blocks(both, inputs.systems, models))
    assert [block.workload for block in found] == [name for name in models for _ in alone[name]]
    for block, single in zip(found, [one for part in alone.values() for one in part], strict=True):
        assert replace(block, case=single.case) == single
        assert block.case.model.name == block.workload
        assert np.array_equal(block.case.scenario.batch, single.case.scenario.batch)
        assert np.array_equal(block.case.plan.expert, single.case.plan.expert)


def test_a_goal_is_answered_by_the_blocks_of_its_workload_phase_and_run_alone(runs: Runs) -> None:
    block = found(runs, "dgx-h100", "decode", "own")[0]
    assert Goal("decode", 0.02, workload="llama-3.1-8b").holds(block)
    assert not Goal("decode", 0.02, workload="llama-3.1-70b").holds(block)
    assert not Goal("prefill", 0.02, workload="llama-3.1-8b").holds(block)
    assert not Goal("decode", 0.02, "training a model", workload="llama-3.1-8b").holds(block)


# Numbers of nodes.


@functools.cache
def own(name: str, workload: str, max_chips: int | None, nodes: int = 1) -> list[tuple[Block, Estimates]]:
    """Blocks of a system of so many nodes and of a workload: its own kernels and native format, few sequences."""
    asked: dict[str, object] = {"systems": (name,), "workload": (workload,), "precisions": ("native",)}
    asked |= {"max_batch": 4, "max_chips": max_chips, "training": None}
    study = load_study("gpu-vs-asic").experiment.model_copy(update=asked)
    systems = {name: vary_system(Varied(load_system(name)), {"nodes": nodes})}
    listed = blocks(study, systems, {workload: lower_model(Varied(load_model(workload)))})
    return [(block, evaluate(block.case)) for block in listed if block.quality == "own"]


def most_within(result: Estimates, limit: float) -> float:
    """Most tokens/s per chip of a step within the limit; 0 where there is none."""
    best = winner(result, Goal("decode", limit))
    return 0.0 if best is None else float(rates(result)[best])


@pytest.mark.parametrize(
    ("name", "max_chips", "chips"),
    [
        ("dgx-h100", None, {8}),
        ("dgx-h100", 1, {8}),  # one node where it holds more
        ("dgx-h100", 15, {8}),
        ("dgx-h100", 16, {8, 16}),
        ("dgx-h100", 63, {8, 16, 32}),
        ("maia-200-4", 8, {4, 8}),
        ("tpu-v7x-64", 32, {64}),
        ("m4-max-1", 64, {1}),  # one computer, and no network to another
    ],
)
def test_nodes_are_doubled_up_to_the_chips_of_the_study(name: str, max_chips: int | None, chips: set[int]) -> None:
    for block, _ in own(name, "llama-3.1-8b", max_chips):
        plan = block.case.plan
        used = plan.tensor * plan.pipeline * plan.data
        assert set(used) == chips
        assert np.array_equal(np.broadcast_to(block.case.system.chips, used.shape), used)


@pytest.mark.parametrize("workload", ["llama-3.1-70b", "deepseek-v3"])
@pytest.mark.parametrize("name", ["dgx-h100", "asic-8", "tpu-v5p-8"])
def test_with_more_chips_a_system_serves_the_most_that_any_number_of_its_nodes_serves(name: str, workload: str) -> None:
    alone = [own(name, workload, None, nodes) for nodes in (1, 2, 4)]
    for place, (_, result) in enumerate(own(name, workload, 32)):
        for limit in np.geomspace(1e-3, 10.0, 30):
            best = max(most_within(each[place][1], limit) for each in alone)
            assert most_within(result, limit) == pytest.approx(best, rel=1e-12)


def test_a_model_too_large_for_a_node_is_served_by_two() -> None:
    # 671 B parameters in 8 bits are more than the 640 GB of eight H100.
    for max_chips, able in ((None, False), (15, False), (32, True)):
        for _, result in own("dgx-h100", "deepseek-v3", max_chips):
            assert result.feasible.any() == able
            assert set(result.chips[result.feasible]) <= {16.0, 32.0}


def test_decode_reads_the_mean_context_and_holds_the_whole_request(runs: Runs) -> None:
    decode, prefill = (found(runs, "dgx-h100", phase, "own")[0].case.scenario for phase in PHASES)
    # 32,768 in and 1,024 out: on average half of the answer is there; at the end all of it is.
    assert (float(decode.context), float(decode.capacity)) == (33280.0, 33792.0)
    assert (float(prefill.context), float(prefill.capacity)) == (32768.0, 32768.0)


@pytest.mark.parametrize("phase", PHASES)
def test_every_point_uses_all_chips_and_no_batch_per_replica_above_the_largest(runs: Runs, phase: str) -> None:
    case = found(runs, "dgx-h100", phase, "own")[0].case
    plan = case.plan
    assert set(plan.tensor * plan.pipeline * plan.data) == {8.0}
    each = case.scenario.batch / plan.data
    assert (each.min(), each.max()) == (1.0, 16.0)
    assert np.all(each % plan.micro_batches == 0.0)


def test_the_plans_of_a_block_are_counted_once_however_many_batches(runs: Runs) -> None:
    block, _ = found(runs, "dgx-h100", "decode", "own")
    plan = block.case.plan
    distinct = set(zip(plan.tensor, plan.pipeline, plan.data, plan.micro_batches, strict=True))
    assert block.plans == len(distinct)
    assert points(block.case) > block.plans


def software(machine: SystemArrays | None) -> dict[str, float]:
    """Kernel qualities, launch gap and start of a collective of a machine."""
    assert machine is not None
    found = {name: float(getattr(machine.chip.quality, name)) for name in CLASSES}
    found["launch_gap"] = float(machine.chip.launch.gap)
    found["collective_start"] = float(machine.tiers[0].protocols[0].start)
    return found


def test_equal_kernels_are_those_of_the_study_on_every_chip(
    study: Compare, inputs: Inputs, asic: Varied[System]
) -> None:
    for varied in (*inputs.systems.values(), asic):
        machine = with_quality(lower_system(varied), varied, "equal", study.equal_quality)
        given_ = software(machine)
        assert given_ == {name: getattr(study.equal_quality, name) for name in given_}


def test_own_kernels_change_nothing_and_low_and_high_are_the_ends_of_the_ranges(
    study: Compare, asic: Varied[System]
) -> None:
    lowered = lower_system(asic)
    assert with_quality(lowered, asic, "own", study.equal_quality) is lowered
    low, high = (software(with_quality(lowered, asic, side, study.equal_quality)) for side in ("low", "high"))
    chip = asic.spec.chip
    for name in CLASSES:
        assert (low[name], high[name]) == getattr(chip.quality, name).si_range
    # Of a time the long end is the low one.
    assert (high["launch_gap"], low["launch_gap"]) == chip.launch.gap.si_range
    assert (high["collective_start"], low["collective_start"]) == asic.spec.tiers[0].constants.protocols[
        "bulk"
    ].start.si_range
    assert low["matmul"] < software(lowered)["matmul"] < high["matmul"]


def test_low_and_high_are_the_ends_of_lent_kernel_constants_too(study: Compare) -> None:
    varied = Varied(load_system("dgx-b200"))
    constants = varied.spec.chip.calibration.constants if varied.spec.chip.calibration is not None else {}
    ends = [with_quality(lower_system(varied), varied, side, study.equal_quality) for side in ("low", "high")]
    low, high = (system.chip.kernel for system in ends if system is not None)
    for name, datum in constants.items():
        least, most = datum.si_range
        assert (least < most) == (name in (*COSTS, *SHARES)), name
        if name == "dram_share":
            continue
        expected = (most, least) if name in COSTS else (least, most)
        assert (float(low[name]), float(high[name])) == expected, name
    # The best share of DRAM with the best quality is no more than all of it.
    best = ends[1]
    assert best is not None
    assert float(high["dram_share"] * best.chip.quality.memory) <= 1.0 + 1e-12
    # What was measured on the chip itself has no range, and keeps its value at both ends.
    own = Varied(load_system("dgx-h100"))
    for side in ("low", "high"):
        system = with_quality(lower_system(own), own, side, study.equal_quality)
        assert system is not None
        assert float(system.chip.kernel["step_cycles"]) == float(lower_system(own).chip.kernel["step_cycles"])


def test_a_system_without_ranges_has_no_low_and_no_high(study: Compare, asic: Varied[System]) -> None:
    def sure(node: object) -> object:
        """The description with every range taken away."""
        if isinstance(node, Datum):
            return node.model_copy(update={"low": None, "high": None})
        if isinstance(node, BaseModel):
            return node.model_copy(update={name: sure(getattr(node, name)) for name in type(node).model_fields})
        if isinstance(node, tuple):
            return tuple(map(sure, node))
        return {key: sure(value) for key, value in node.items()} if isinstance(node, dict) else node

    spec = sure(asic.spec)
    assert isinstance(spec, System)
    for side in ("low", "high"):
        assert with_quality(lower_system(Varied(spec)), Varied(spec), side, study.equal_quality) is None


@settings(max_examples=40, deadline=None)
@given(factors=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6))
def test_scaled_qualities_are_in_proportion_and_never_above_one(inputs: Inputs, factors: list[float]) -> None:
    system = lower_system(inputs.systems["dgx-h100"])
    scaled = scaled_quality(system, array(factors)).chip.quality
    for name in CLASSES:
        own, values = float(getattr(system.chip.quality, name)), getattr(scaled, name)
        assert np.all(values <= 1.0)
        free = values < 1.0
        assert values[free] / own == pytest.approx(array(factors)[free], rel=1e-12)
        assert np.all(array(factors)[~free] * own >= 1.0 - 1e-12)


def test_better_kernels_serve_no_less(runs: Runs) -> None:
    for phase in PHASES:
        for system in ("dgx-h100", "mi300x-8gpu"):
            low, own, high = (found(runs, system, phase, side)[1] for side in ("low", "own", "high"))
            fine = own.feasible
            assert np.all(rates(low)[fine] <= rates(own)[fine] * (1 + 1e-12))
            assert np.all(rates(own)[fine] <= rates(high)[fine] * (1 + 1e-12))


@settings(max_examples=40, deadline=None)
@given(exponent=st.floats(-3.0, 1.0))
def test_a_winner_keeps_the_limit_and_no_point_within_it_serves_more(runs: Runs, exponent: float) -> None:
    _, result = found(runs, "dgx-h100", "decode", "own")
    limit = 10.0**exponent
    best = winner(result, Goal("decode", limit))
    within = result.feasible & (result.time <= limit)
    if best is None:
        assert not within.any()
    else:
        assert within[best]
        assert rates(result)[best] == rates(result)[within].max()


def test_a_looser_limit_never_serves_less_and_none_is_met_below_the_fastest_step(runs: Runs) -> None:
    _, result = found(runs, "mi300x-8gpu", "decode", "own")
    fastest = float(np.nanmin(result.time))
    assert winner(result, Goal("decode", fastest * 0.999)) is None
    chosen = [winner(result, Goal("decode", fastest * step)) for step in np.geomspace(1.0, 100.0, 30)]
    served = [rates(result)[best] for best in chosen if best is not None]
    assert len(served) == 30
    assert served == sorted(served)


def test_of_equal_points_the_first_wins_and_an_infeasible_one_never(runs: Runs) -> None:
    _, result = found(runs, "dgx-h100", "decode", "own")
    best = winner(result, Goal("decode", 1.0))
    assert best is not None
    copied = {name: getattr(result, name).copy() for name in ("time", "tokens", "chips")}
    twin = len(result.time) - 1
    for values in copied.values():
        values[twin] = values[best]
    same = replace(result, **copied)
    assert winner(same, Goal("decode", 1.0)) == best
    codes = result.verdict.code.copy()
    codes[best] = 1
    broken = replace(same, verdict=Verdict(codes, result.verdict.shortfall))
    assert winner(broken, Goal("decode", 1.0)) == twin


def test_a_block_does_not_depend_on_its_neighbours(study: Compare, runs: Runs, evaluated: Callable[..., Runs]) -> None:
    alone = evaluated(study.model_copy(update={"systems": ("mi300x-8gpu",)}))
    together = [(b, r) for b, r in runs if b.system == "mi300x-8gpu"]
    assert len(alone) == len(together)
    for (_, first), (block, second) in zip(alone, together, strict=True):
        assert np.array_equal(first.time, second.time, equal_nan=True)
        assert np.array_equal(second.time, evaluate(block.case).time, equal_nan=True)


def test_networks_have_no_decode_goals_and_a_study_may_leave_decode_out(study: Compare) -> None:
    both = study.model_copy(update={"workload": ("llama-3.1-8b", "resnet-50")})
    found = [(goal.workload, goal.phase) for goal in goals(both, {"resnet-50"})]
    assert found == [("llama-3.1-8b", "decode"), ("llama-3.1-8b", "prefill"), ("resnet-50", "prefill")]
    alone = study.model_copy(update={"decode": None})
    assert [goal.phase for goal in goals(alone)] == ["prefill"]
    assert phases(alone, network=False) == phases(study, network=True) == ("prefill",)


def test_a_network_is_tried_at_batches_of_powers_of_two_up_to_the_most(study: Compare) -> None:
    models = {"resnet-50": lower_workload(Varied(load_workload("resnet-50")))}
    systems = {"dgx-h100": Varied(load_system("dgx-h100"))}
    made = list(blocks(study.model_copy(update={"max_batch": 100}), systems, models))
    assert {block.phase for block in made} == {"prefill"}
    assert {batch / 8 for batch in made[0].case.scenario.batch.tolist()} == {1, 2, 4, 8, 16, 32, 64}
