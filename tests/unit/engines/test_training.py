"""A training step in closed form: the sum of its parts, what runs again, what hides behind what, the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.analytic import BREAKDOWN, Estimates, evaluate
from cosim.engines.case import Case
from cosim.engines.pipeline import pipeline_time
from cosim.engines.step import CLASSES_OF_TIME
from cosim.engines.training import passes, software_of, step_parts, step_table, with_micro_batches
from cosim.mapping.backward import RECOMPUTED
from cosim.mapping.legal import CODES
from cosim.mapping.order import ORDERS
from cosim.records import array, at, take
from cosim.workload.graph import parameters

CaseOf = Callable[..., Case]
Train = Callable[..., Case]
SLACK = 1.0 + 1e-12
SOFTWARE = st.sampled_from(["megatron-2022", "megatron"])
APART = {"software.host_blend": array(np.inf)}
"""The longer of host and device alone makes a pass."""
RECOMPUTE = st.sampled_from(["none", "selective", "full"])


def seconds(result: Estimates) -> float:
    return float(result.time[0])


# The sum of a step.

DRAWN = st.fixed_dictionaries(
    {
        "tensor_parallel": st.sampled_from([1, 2, 4, 8, 16]),
        "pipeline_parallel": st.sampled_from([1, 2, 3, 4]),
        "data_parallel": st.sampled_from([1, 2, 4, 8]),
        "micro_batch": st.sampled_from([1, 2, 4]),
        "virtual_pipeline": st.sampled_from([1, 1, 2, 3]),
        "zero": st.integers(0, 3),
        "context": st.sampled_from([256, 1024, 2048]),
        "rounds": st.integers(1, 4),
        "depth": st.integers(1, 4),
    }
)
STRUCTURE = st.fixed_dictionaries({"sequence_parallel": st.booleans(), "recompute": RECOMPUTE, "software": SOFTWARE})
Point = dict[str, int]


def columns(points: list[Point]) -> dict[str, Any]:
    """Legal points as fields along the points axis: layers and global batch follow from the degrees."""
    rows = []
    for point in points:
        fields = dict(point)
        rounds, depth = fields.pop("rounds"), fields.pop("depth")
        pipeline = fields["pipeline_parallel"]
        fields["virtual_pipeline"] = 1 if pipeline == 1 else fields["virtual_pipeline"]
        pieces = fields["virtual_pipeline"]
        micro = rounds * (pipeline if pieces > 1 else 1)
        fields["global_batch"] = micro * fields["micro_batch"] * fields["data_parallel"]
        rows.append({**fields, "workload.layers": pipeline * pieces * depth})
    return {name: [row[name] for row in rows] for name in rows[0]}


POINTS = st.lists(DRAWN, min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(points=POINTS, structure=STRUCTURE)
def test_parts_add_up_to_the_pipeline_the_host_and_what_follows(
    train: Train, points: list[Point], structure: dict[str, Any]
) -> None:
    case = with_micro_batches(train(**structure, **columns(points)))
    table = step_table(case)
    parts = step_parts(case, table)
    assert set(parts) == set(BREAKDOWN) - {"throttle", "data_loading"}
    plan = case.plan
    whole = pipeline_time(table.schedule, plan.pipeline, plan.micro_batches, plan.virtual)
    after = parts["data_parallel"] + parts["optimizer"]
    rest = sum(value for name, value in parts.items() if name not in ("data_parallel", "optimizer"))
    np.testing.assert_allclose(rest, whole + software_of(case).host_step, rtol=1e-12)
    assert np.all(after >= 0.0)
    assert all(np.all(np.asarray(parts[name]) >= 0.0) for name in parts if name != "data_parallel")


@settings(max_examples=30, deadline=None)
@given(points=POINTS, structure=STRUCTURE)
def test_a_step_is_the_sum_of_its_breakdown(train: Train, points: list[Point], structure: dict[str, Any]) -> None:
    result = evaluate(train(**structure, **columns(points)))
    assert result.feasible.all()
    assert set(result.breakdown) == set(BREAKDOWN)
    np.testing.assert_allclose(sum(result.breakdown[name] for name in BREAKDOWN), result.time, rtol=1e-12)
    np.testing.assert_allclose(sum(v for k, v in result.memory.items() if k != "total"), result.memory["total"])
    assert np.all((result.utilisation > 0.0) & (result.utilisation < 1.0))
    assert np.all(np.isfinite(result.energy) & (result.energy > 0.0))


@settings(max_examples=20, deadline=None)
@given(points=POINTS, structure=STRUCTURE, data=st.data())
def test_a_batch_of_points_is_each_point_alone_in_any_order(
    train: Train, points: list[Point], structure: dict[str, Any], data: st.DataObject
) -> None:
    case = train(**structure, **columns(points))
    together = evaluate(case)
    order = data.draw(st.permutations(range(len(points))))
    mixed = evaluate(take(case, np.asarray(order, dtype=np.intp)))
    for name in ("time", "energy", "utilisation", "power", "chips", "tokens"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(together, name)[list(order)], rtol=1e-12)
    for index in range(len(points)):
        alone = evaluate(at(case, index))
        for name in ("time", "energy", "utilisation", "power", "chips", "tokens"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[index], rel=1e-12)
        scale = 1e-12 * seconds(alone)
        for name, values in together.breakdown.items():
            assert alone.breakdown[name][0] == pytest.approx(values[index], rel=1e-12, abs=scale), name
        for name, values in together.memory.items():
            assert alone.memory[name][0] == pytest.approx(values[index], rel=1e-12), name


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
def test_points_that_recompute_unlike_each_other_are_each_alone(train: Train, software: str) -> None:
    for parallel in (False, True):
        case = train(software, sequence_parallel=parallel, pipeline_parallel=2, data_parallel=2)
        mixed = replace(case, plan=replace(case.plan, recompute=array([2.0, 0.0, 1.0])))
        together = evaluate(mixed)
        for index, kept in enumerate(("full", "none", "selective")):
            fields = {"sequence_parallel": parallel, "pipeline_parallel": 2, "data_parallel": 2, "recompute": kept}
            alone = evaluate(train(software, **fields))
            assert together.time[index] == pytest.approx(seconds(alone), rel=1e-12)
            assert together.energy[index] == pytest.approx(float(alone.energy[0]), rel=1e-12)
            assert together.memory["total"][index] == pytest.approx(float(alone.memory["total"][0]), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(points=POINTS, structure=STRUCTURE)
def test_more_layers_take_longer(train: Train, points: list[Point], structure: dict[str, Any]) -> None:
    fields = columns(points)
    more = [
        layers + pipeline * pieces
        for layers, pipeline, pieces in zip(
            fields["workload.layers"], fields["pipeline_parallel"], fields["virtual_pipeline"], strict=True
        )
    ]
    before, after = (
        evaluate(train(**structure, **fields)),
        evaluate(train(**structure, **{**fields, "workload.layers": more})),
    )
    assert np.all(after.time > before.time)
    assert np.all(after.energy > before.energy)


@settings(max_examples=30, deadline=None)
@given(points=POINTS, structure=STRUCTURE, factor=st.integers(2, 5))
def test_more_micro_batches_take_longer_but_no_more_than_in_proportion(
    train: Train, points: list[Point], structure: dict[str, Any], factor: int
) -> None:
    fields = columns(points)
    few = evaluate(train(**structure, **fields))
    many = evaluate(
        train(**structure, **{**fields, "global_batch": [factor * batch for batch in fields["global_batch"]]})
    )
    assert np.all(many.time > few.time)
    assert np.all(many.time <= factor * few.time * SLACK)


BETTER = {
    "chip.links.scale_up.bandwidth": (10e9, 2e12),
    "chip.links.scale_out.bandwidth": (2e9, 400e9),
    "chip.quality.collective": (0.1, 1.0),
    "chip.memory.dram.bandwidth": (0.5e12, 12e12),
    "chip.matrix.clock": (0.5e9, 3e9),
}
WORSE = {
    "tiers.node.latency": (0.0, 2e-5),
    "tiers.node.constants.protocols.LL.hop": (0.0, 2e-5),
    "tiers.cluster.constants.protocols.Simple.start": (0.0, 1e-4),
    "chip.launch.gap": (0.0, 2e-5),
    "host_kernel": (0.0, 4e-4),
    "host_step": (0.0, 1.0),
}


@settings(max_examples=60, deadline=None)
@given(points=POINTS, structure=STRUCTURE, path=st.sampled_from([*BETTER, *WORSE]), data=st.data())
def test_a_better_number_never_slows_a_step(
    train: Train, points: list[Point], structure: dict[str, Any], path: str, data: st.DataObject
) -> None:
    low, high = sorted(data.draw(st.tuples(*[st.floats(*{**BETTER, **WORSE}[path])] * 2)))
    # Where another stage of an interleaved pipeline becomes the busiest, what it hides changes at once: ZeRO 2, whose
    # reductions make stages unequal, is left to pipelines of one piece a stage.
    points = [
        {**point, "zero": 1 if point["zero"] == 2 and point["virtual_pipeline"] > 1 else point["zero"]}
        for point in points
    ]
    fields, full = columns(points), f"software.{path}" if path.startswith("host") else f"system.{path}"
    at_low, at_high = (evaluate(train(**structure, **fields, **{full: array(each)})) for each in (low, high))
    slow, fast = (at_low, at_high) if path in BETTER else (at_high, at_low)
    # A chip at its power limit may wait longer for the same work.
    worked, less = (result.time - result.breakdown["throttle"] for result in (slow, fast))
    assert np.all(less <= worked * SLACK)


@settings(max_examples=30, deadline=None)
@given(points=POINTS, parallel=st.booleans(), software=SOFTWARE)
def test_the_more_is_computed_again_the_longer_it_takes(
    train: Train, points: list[Point], parallel: bool, software: str
) -> None:
    fields = columns(points)
    times = [
        evaluate(train(software, sequence_parallel=parallel, recompute=kept, **fields)).time
        for kept in ("none", "selective", "full")
    ]
    for less, more in itertools.pairwise(times):
        # Software that overlaps hides its reductions behind what it computes again.
        assert np.all(less < more if software == "megatron-2022" else less <= more * SLACK)


# What one micro-batch runs.


def test_what_runs_again_costs_what_it_cost_before(train: Train) -> None:
    for recompute in ("selective", "full"):
        every = passes(train(recompute=recompute, sequence_parallel=True))
        first = {op.name: op for op in every.forward_ops}
        kernels = (every.again.matmuls, every.again.attentions, every.again.vectors)
        names = [op.name for kind in kernels for op in kind]
        assert [op.name for op in every.again_ops] == names
        for op in every.again_ops:
            before = first[op.name.removesuffix(RECOMPUTED)]
            assert (np.ravel(op.cost.time)[0], np.ravel(op.energy)[0]) == (
                np.ravel(before.cost.time)[0],
                np.ravel(before.energy)[0],
            )
            assert (op.kind, op.group, float(op.count)) == (before.kind, before.group, float(before.count))


def test_each_kernel_belongs_to_one_pass(train: Train) -> None:
    every = passes(train("megatron"))
    forward, back = ({op.name for op in ops} for ops in (every.forward_ops, every.gradient_ops))
    assert not forward & back
    assert every.again_ops == ()
    assert len(forward) == len(every.forward_ops)
    assert len(back) == len(every.gradient_ops)


def test_a_serving_case_has_no_software(case_of: CaseOf) -> None:
    case = case_of("prefill")
    assert case.software is None
    with pytest.raises(ValueError, match="a training case needs its software"):
        software_of(case)
    with pytest.raises(ValueError, match="needs its software"):
        evaluate(replace(case, phase="train"))


def test_micro_batches_follow_from_the_global_batch(train: Train) -> None:
    case = train(data_parallel=[1, 2, 4], micro_batch=[1, 2, 4], global_batch=[16, 16, 64], micro_batches=99)
    np.testing.assert_array_equal(with_micro_batches(case).plan.micro_batches, [16.0, 4.0, 4.0])
    np.testing.assert_array_equal(evaluate(case).tokens, np.array([16.0, 16.0, 64.0]) * 2048)


def test_utilisation_is_the_flop_of_the_model_over_the_peak(train: Train) -> None:
    b, s, h, layers = 16, 2048, 6144, 12
    # Three times the forward pass, attention under its mask, whatever is run again and however it is fused.
    flop = 3.0 * (layers * (24 * b * s * h * h + 4 * b * h * s * (s + 1) / 2) + 2 * b * s * h * 51200)
    for software in ("megatron-2022", "megatron"):
        for recompute in ("none", "full"):
            result = evaluate(train(software, recompute=recompute))
            assert float(result.utilisation[0]) == pytest.approx(
                flop / (seconds(result) * 4 * 108 * 2048 * 1.41e9), rel=1e-12
            )


# The host.


def test_a_slow_host_is_what_a_layer_waits_for(train: Train) -> None:
    slow = {"software.host_kernel": array(1e-2), "software.host_collective": array(2e-2), **APART}
    case = with_micro_batches(train(recompute="full", **slow))
    every, table = passes(case), step_table(case)
    ops = (*every.forward_ops, *every.again_ops, *every.gradient_ops)
    sums = (*every.forward.collectives, *every.again.collectives, *every.gradients.collectives)
    issued = {
        group: sum(float(op.count) for op in ops if op.group == group)
        + 2.0 * sum(float(op.count) for op in sums if op.group == group)
        for group in ("layer", "embed", "head")
    }
    # 10 ms a kernel and twice that a collective is longer than any of them: the host alone sets the pace.
    whole = 1e-2 * (12 * issued["layer"] + issued["embed"] + issued["head"])
    assert float((table.schedule.forward + table.schedule.backward)[0, 0]) == pytest.approx(whole, rel=1e-12)
    parts = step_parts(case, table)
    device = sum(float(np.ravel(table.classes[name][0])[0]) for name in CLASSES_OF_TIME)
    assert float(np.ravel(parts["host"])[0]) == pytest.approx(
        16 * (whole - device) + float(software_of(case).host_step), rel=1e-12
    )


def test_a_host_without_cost_is_not_in_the_step(train: Train) -> None:
    free = {f"software.host_{each}": array(0.0) for each in ("kernel", "collective", "step")}
    assert float(evaluate(train(**free)).breakdown["host"][0]) == 0.0
    once = evaluate(train(**{**free, "software.host_step": array(0.25)}))
    assert seconds(once) - seconds(evaluate(train(**free))) == pytest.approx(0.25, rel=1e-9)
    assert float(once.breakdown["host"][0]) == 0.25


# What hides behind what.


def test_sums_behind_weight_gradients_are_exposed_only_where_they_take_longer(train: Train) -> None:
    for parallel in (False, True):
        apart, behind = (
            evaluate(train(sequence_parallel=parallel, **APART, **{"software.tensor_overlap": overlap}))
            for overlap in (False, True)
        )
        spared = float(apart.breakdown["collective"][0] - behind.breakdown["collective"][0])
        assert 0.0 < spared < float(apart.breakdown["collective"][0])
        assert seconds(apart) - seconds(behind) == pytest.approx(spared, rel=1e-9)
        for name in ("matmul", "attention", "vector", "launch", "optimizer", "host"):
            assert float(apart.breakdown[name][0]) == float(behind.breakdown[name][0])


def free_of_cores(case: Case) -> Case:
    """The case with collectives that take no cores from the kernels beside them."""
    return replace(case, system=replace(case.system, chip=replace(case.system.chip, collective_cores=array(0.0))))


@settings(max_examples=20, deadline=None)
@given(points=POINTS, structure=STRUCTURE, way=st.sampled_from(["tensor_overlap", "gradient_overlap"]))
def test_overlap_that_takes_no_cores_never_slows_a_step(
    train: Train, points: list[Point], structure: dict[str, Any], way: str
) -> None:
    fields = columns(points)
    apart, behind = (
        evaluate(free_of_cores(train(**structure, **fields, **{f"software.{way}": overlap})))
        for overlap in (False, True)
    )
    assert np.all(behind.time - behind.breakdown["throttle"] <= (apart.time - apart.breakdown["throttle"]) * SLACK)


# Energy, limits and memory.


def test_energy_is_that_of_the_work_and_of_idling_for_the_time(train: Train) -> None:
    watts = {"system.chip.power.idle": 100.0, "system.chip.power.limit": 2000.0}
    case = with_micro_batches(train(data_parallel=2, **watts))
    table, result = step_table(case), evaluate(case)
    dynamic = float(np.sum(table.stage.count * table.energy)) * 4 * 2
    assert float(result.energy[0]) == pytest.approx(dynamic + 8 * 100.0 * seconds(result), rel=1e-12)


def test_a_chip_over_its_power_limit_waits(train: Train) -> None:
    result = evaluate(train(**{"system.chip.power.limit": [100.0, 2000.0]}))
    assert float(result.power[0]) == pytest.approx(100.0, rel=1e-12)
    assert result.breakdown["throttle"][1] == 0.0
    assert float(result.time[0] - result.time[1]) == pytest.approx(float(result.breakdown["throttle"][0]), rel=1e-9)


def test_points_that_break_a_limit_have_a_reason_and_no_time(train: Train) -> None:
    fields = {
        "tensor_parallel": [4, 4, 4, 4, 1],
        "pipeline_parallel": [1, 2, 3, 1, 1],
        "virtual_pipeline": [1, 26, 1, 1, 1],
        "micro_batch": [1, 1, 1, 3, 1],
        "system.chip.memory.dram.capacity": [80e9, 80e9, 80e9, 80e9, 20e9],
    }
    result = evaluate(train(**fields))
    names = ["", "virtual_pipeline", "", "batch", "memory"]
    assert result.verdict.code.tolist() == [CODES[name] for name in names]
    assert np.isnan(result.time).tolist() == [bool(name) for name in names]
    assert np.isfinite(result.memory["total"]).all()


def test_training_has_no_limit_on_the_time_of_a_step(train: Train) -> None:
    limits = {"scenario.ttft_limit": 1e-9, "scenario.tpot_limit": 1e-9}
    assert seconds(evaluate(train(**limits))) == seconds(evaluate(train()))


def test_memory_of_a_step_is_parameters_times_bytes_and_saved_tensors(train: Train) -> None:
    result = evaluate(train(tensor_parallel=1, **{"workload.layers": 4}))
    total = float(parameters(train(**{"workload.layers": 4}).model))
    held = {name: float(values[0]) for name, values in result.memory.items()}
    assert (held["weights"], held["gradients"], held["optimizer"]) == (2 * total, 2 * total, 12 * total)
    saved = 2048 * (4 * (34 * 6144 + 5 * 64 * 2048) + 6144 + 4 * 6144 + 4 * 51200)
    assert held["activations"] == saved
    assert held["kv"] == 0.0


MOE = {"workload.layers": 4, "expert_parallel": 2, "tensor_parallel": 2, "data_parallel": 4, "sequence_parallel": True}


def moe_step(train: Train, **fields: Any) -> Estimates:
    return evaluate(train("megatron", "mixtral-8x7b", **{**MOE, **fields}))


@pytest.mark.parametrize(("tensor", "expert", "width"), [(1, 8, 1), (2, 8, 1), (2, 1, 2), (4, 1, 4)])
def test_a_width_of_experts_that_follows_anyway_changes_no_number(
    train: Train, tensor: int, expert: int, width: int
) -> None:
    degrees = {"tensor_parallel": tensor, "data_parallel": 8, "expert_parallel": expert}
    plain, asked = (moe_step(train, **degrees, **more) for more in ({}, {"expert_tensor_parallel": width}))
    assert float(asked.time[0]) == float(plain.time[0])
    assert {name: float(value[0]) for name, value in asked.memory.items()} == {
        name: float(value[0]) for name, value in plain.memory.items()
    }


def test_wider_experts_hold_less_of_each_and_gather_more(train: Train) -> None:
    degrees = {"tensor_parallel": 1, "data_parallel": 8, "expert_parallel": 2, "zero": 0}
    found = [moe_step(train, **degrees, expert_tensor_parallel=width) for width in (1, 2, 4)]
    assert np.all(np.diff([float(each.memory["weights"][0]) for each in found]) < 0.0)
    assert np.all(np.diff([float(each.breakdown["collective"][0]) for each in found]) > 0.0)


def test_copies_of_whole_experts_inside_a_tensor_group_sum_their_gradients(train: Train) -> None:
    # Eight tensor ranks, two of each expert's: four copies that hold a quarter less than the width that follows.
    degrees = {"tensor_parallel": 8, "data_parallel": 1, "expert_parallel": 2, "zero": 0}
    follows, whole = (moe_step(train, **degrees, **more) for more in ({}, {"expert_tensor_parallel": 1}))
    assert float(follows.breakdown["data_parallel"][0]) == 0.0 < float(whole.breakdown["data_parallel"][0])
    experts = 4 * 3 * 4096 * 14336 * 4 * 2.0  # of half the experts, three matrices, four layers, two bytes
    gained = float(whole.memory["weights"][0] - follows.memory["weights"][0])
    assert gained == pytest.approx(experts * (1.0 - 1.0 / 4.0))


PLACED = {"tensor_parallel": 2, "context_parallel": 2, "data_parallel": 4, "pipeline_parallel": 4, "zero": 1}


def test_a_pipeline_inside_the_replicas_sends_to_neighbours_and_sums_over_nodes(train: Train) -> None:
    usual, near = (train("megatron", order=order, **PLACED) for order in ("tp-cp-dp-pp", "tp-pp-cp-dp"))
    tables = [step_table(with_micro_batches(case)) for case in (usual, near)]
    # Sixteen chips of a stage are two nodes; two tensor ranks of four stages are one.
    assert [float(table.schedule.across) for table in tables] == [3.0, 0.0]
    assert [float(table.schedule.inside) for table in tables] == [0.0, 3.0]
    sent = [float(table.closing.reduce[0, 0]) for table in tables]
    assert sent[1] > sent[0]


def test_an_order_changes_nothing_where_no_two_kinds_with_ranks_change_places(train: Train) -> None:
    fields = {**PLACED, "tensor_parallel": 4, "context_parallel": 1, "data_parallel": 1, "zero": 0}
    times = {order: float(evaluate(train("megatron", order=order, **fields)).time[0]) for order in ORDERS}
    inside = {order for order in ORDERS if order.startswith("pp")}
    assert len({times[order] for order in ORDERS if order not in inside}) == 1
    assert {times[order] for order in inside} != {times["tp-cp-dp-pp"]}


def test_tensor_ranks_outside_the_pipeline_leave_their_node(train: Train) -> None:
    fields = {"tensor_parallel": 4, "pipeline_parallel": 8, "data_parallel": 1}
    usual, inner = (evaluate(train("megatron", order=order, **fields)) for order in ("tp-cp-dp-pp", "pp-tp-cp-dp"))
    assert float(inner.breakdown["collective"][0]) > 2.0 * float(usual.breakdown["collective"][0])
    assert float(inner.memory["total"][0]) == float(usual.memory["total"][0])
