"""Closed forms of schedules: published bubbles, against events of equal stages, and the split of a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.pipeline import Piece, Schedule
from cosim.engines.schedules import schedule_time, weight_seconds
from cosim.engines.train_events import StepSchedule, run_training
from cosim.engines.training import passes, step_table, with_micro_batches
from cosim.mapping.plan import SCHEDULES, Plan, PlanArrays, lower_plan
from cosim.mapping.schedules import PIECES
from cosim.mapping.stages import stages
from cosim.overrides import Varied, vary
from cosim.records import Array, array

Train = Callable[..., Case]
Durations = tuple[float, float, float]
NAMED = sorted(PIECES)
BUSY = st.integers(500, 1500).map(lambda number: number / 1000.0)


def plan_of(**fields: object) -> PlanArrays:
    return lower_plan(vary(Varied(Plan()), fields))


def shares(name: str) -> int:
    """Passes of a piece in a pass of a micro-batch on a stage: V-shaped pieces are half a stage."""
    return 2 if name == "zb-v" else 1


def events_of(name: str, count: int, micro: int, durations: Durations, transfer: float = 0.0) -> StepSchedule:
    """Equal stages with forward, input and weight gradient of these durations, and nothing else."""
    forward, back, weight = durations
    nothing, pieces = (0.0,) * count, int(PIECES.get(name, 1))
    each = tuple(value / shares(name) for value in (forward, back + weight, weight))
    return StepSchedule(
        forward_s=(forward,) * count,
        backward_s=(back + weight,) * count,
        transfer_s=(transfer,) * count,
        gather_s=nothing,
        reduce_s=nothing,
        optimizer_s=nothing,
        layers=(pieces,) * count,
        pieces=pieces,
        micro_batches=micro,
        cores=0.0,
        overlap=True,
        host_s=0.0,
        schedule=name,
        weight_s=(weight,) * count,
        pieces_s=((each,) * pieces,) * count if pieces > 1 else (),  # type: ignore[arg-type]  # three of them
    )


def closed_of(plan: PlanArrays, durations: Durations, transfer: float = 0.0) -> float:
    """The closed form of the same."""
    forward, back, weight = durations
    stage = stages(4.0 * plan.pipeline, plan.pipeline)

    def all_classes(value: float) -> Array:
        return np.full_like(stage.layers, value)

    share = shares(plan.schedule)
    each = Piece(*(all_classes(value / share) for value in (forward, back + weight, weight)))
    schedule = Schedule(
        stage,
        all_classes(forward),
        all_classes(back + weight),
        plan.pipeline - 1.0,
        array(0.0),
        array(transfer),
        array(transfer),
        all_classes(weight),
        (each, each) if PIECES.get(plan.schedule, 1.0) > 1.0 else (),
    )
    return float(schedule_time(schedule, plan).reshape(()))


def published(name: str, count: int, durations: Durations) -> float:
    """Bubble as published, B without W: GPipe, PipeDream, zero bubble, DeepSeek-V3."""
    forward, back, weight = durations
    if name == "zb-h1":
        return (count - 1) * (forward + back - weight)
    if name == "zb-v":
        # No bubble, once the first pass has come down.
        return (count - 1) * forward / 2
    if name == "dualpipe":
        pair, full = forward + back + weight, back + weight
        return (count / 2 - 1) * (pair + full - 3 * weight)
    return (count - 1) * (forward + back + weight)


@pytest.mark.parametrize("count", [2, 4, 6, 8])
@pytest.mark.parametrize("rounds", [2, 3, 5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_passes_leave_the_published_bubble_in_both_engines(name: str, count: int, rounds: int) -> None:
    micro, equal = rounds * count, (1.0, 1.0, 1.0)
    time = 3.0 * micro + published(name, count, equal)
    assert run_training(events_of(name, count, micro, equal)).time_s == time
    plan = plan_of(pipeline_parallel=count, micro_batches=micro, schedule=name)
    assert closed_of(plan, equal) == pytest.approx(time, rel=1e-12)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_last_stage_of_a_v_never_waits_once_it_has_begun(count: int) -> None:
    run = run_training(events_of("zb-v", count, 2 * count, (1.0, 1.0, 1.0)))
    own = [span for span in run.spans if span.resource == f"stage {count - 1}" and span.label != "optimizer"]
    assert max(span.end_s for span in own) - min(span.start_s for span in own) == 2 * count * 3.0


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMED),
    half=st.integers(1, 4),
    more=st.integers(0, 6),
    forward=BUSY,
    back=BUSY,
    weight=BUSY,
)
def test_any_durations_of_equal_stages_agree_exactly(
    name: str, half: int, more: int, forward: float, back: float, weight: float
) -> None:
    count, durations = 2 * half, (forward, back, weight)
    micro = 2 * count + 2 * more
    plan = plan_of(pipeline_parallel=count, micro_batches=micro, schedule=name)
    run = run_training(events_of(name, count, micro, durations))
    # Between the two longest ways of DualPipe lie others, that take parts of both.
    within = 5e-3 if name == "dualpipe" else 1e-9
    assert closed_of(plan, durations) == pytest.approx(run.time_s, rel=within)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMED), half=st.integers(1, 4), more=st.integers(0, 6), way=st.integers(0, 15))
def test_short_transfers_stay_close(name: str, half: int, more: int, way: int) -> None:
    count, durations, transfer = 2 * half, (1.0, 1.1, 0.9), 3e-3 * way
    micro = 2 * count + 2 * more
    plan = plan_of(pipeline_parallel=count, micro_batches=micro, schedule=name)
    run = run_training(events_of(name, count, micro, durations, transfer))
    assert closed_of(plan, durations, transfer) == pytest.approx(run.time_s, rel=5e-3)


@pytest.mark.parametrize("micro", [1, 2, 3, 5])
def test_fewer_micro_batches_than_stages_under_zero_bubble(micro: int) -> None:
    for durations in ((1.0, 1.2, 0.8), (0.7, 1.0, 1.4), (1.5, 0.9, 0.5)):
        plan = plan_of(pipeline_parallel=8, micro_batches=micro, schedule="zb-h1")
        run = run_training(events_of("zb-h1", 8, micro, durations))
        # Ways that go up and down again are not all looked at.
        assert closed_of(plan, durations) == pytest.approx(run.time_s, rel=2e-2)


def test_bubbles_by_hand() -> None:
    # Four stages, eight micro-batches; F 1, B 2 (recomputed), W 1: 32 s of passes.
    found = {
        name: closed_of(plan_of(pipeline_parallel=4, micro_batches=8, schedule=name), (1.0, 2.0, 1.0)) - 32.0
        for name in SCHEDULES
    }
    # 3 * 4; the same; 3 * max(2, 1, 2); 1.5 * max(3, 1, 0, 2, 1, 2); max(2, 3, 3, 2).
    assert found == pytest.approx({"1f1b": 12.0, "gpipe": 12.0, "zb-h1": 6.0, "zb-v": 4.5, "dualpipe": 3.0})


def test_a_single_stage_waits_for_nothing() -> None:
    for name in ("gpipe", "zb-h1"):
        assert closed_of(plan_of(micro_batches=5, schedule=name), (1.0, 2.0, 1.0)) == pytest.approx(20.0)


# Of a case.


def fields_of(name: str) -> dict[str, object]:
    return {"pipeline_parallel": 4, "micro_batches": 8, "schedule": name, "virtual_pipeline": int(PIECES.get(name, 1))}


@pytest.mark.parametrize("software", ["megatron", "megatron-2022"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_weight_gradients_are_about_a_third_of_the_products(train: Train, software: str, recompute: str) -> None:
    case = train(software=software, recompute=recompute, global_batch=8)
    every = passes(case)
    split = weight_seconds(case, every.forward, every.gradient_ops)
    named = {op.name: op for op in every.gradient_ops}
    gap = case.system.chip.launch.gap
    counted = ("qkv", "attention_out", "ffn_in", "ffn_out")
    products = sum((named[f"{name}.wgrad"].count * (named[f"{name}.wgrad"].cost.time + gap) for name in counted), 0.0)
    assert float(split["layer"].reshape(-1)[0]) >= float(np.reshape(products, -1)[0])
    # The scores' and the context's second products are input gradients: they go on to queries and keys.
    inputs = [name for name in named if name.endswith(".dgrad")]
    forward = sum(float(np.reshape(op.count * op.cost.time, -1)[0]) for op in every.forward_ops if op.group == "layer")
    assert inputs
    assert 0.2 * forward < float(split["layer"].reshape(-1)[0]) < 1.5 * forward


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_split_and_the_pieces_make_up_the_passes_of_a_stage(train: Train, name: str) -> None:
    case = with_micro_batches(train(**fields_of(name), global_batch=8))
    schedule = step_table(case).schedule
    present = schedule.stage.count > 0.0
    assert (schedule.weight > 0.0)[present].all()
    assert (schedule.weight < schedule.backward)[present].all()
    if not schedule.pieces:
        return
    first, second = schedule.pieces
    share = 2.0 if name == "dualpipe" else 1.0
    for kind in ("forward", "backward", "weight"):
        both, whole = getattr(first, kind) + getattr(second, kind), share * getattr(schedule, kind)
        np.testing.assert_allclose(both[present], whole[present], rtol=1e-12)


def test_work_of_all_stages_is_the_same_under_every_schedule(train: Train) -> None:
    found = []
    for name in SCHEDULES:
        schedule = step_table(with_micro_batches(train(**fields_of(name), global_batch=8))).schedule
        found.append(float(np.sum(schedule.stage.count * (schedule.forward + schedule.backward))))
    np.testing.assert_allclose(found, found[0], rtol=1e-12)


def test_an_unknown_schedule_has_no_form() -> None:
    with pytest.raises(KeyError):
        closed_of(replace(plan_of(pipeline_parallel=2), schedule="zb-h3"), (1.0, 1.0, 1.0))
