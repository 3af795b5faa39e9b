"""A training step as events: orders and timelines by hand, who occupies what when, what a stage holds, broken steps.

One file for one engine: orders, makespans and streams are checked against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case
from cosim.engines.events import EventRun, Span
from cosim.engines.train_events import Pass, StepSchedule, order_of, run_training, simulate_training, step_schedule
from cosim.engines.training import step_table, with_micro_batches
from cosim.errors import SimulationError
from cosim.mapping.plan import Plan, lower_plan
from cosim.mapping.stages import stages
from cosim.mapping.training import live_micro_batches
from cosim.overrides import Varied, vary
from cosim.records import array, at

Train = Callable[..., Case]
FORWARD, BACKWARD = 1.0, 2.0
EPSILON = 1e-9
MILLI = st.integers(0, 1000).map(lambda number: number / 1000.0)
BUSY = st.integers(1, 1000).map(lambda number: number / 1000.0)


def step(count: int, micro: int, pieces: int = 1, transfer: float = 0.0, **changes: Any) -> StepSchedule:
    """Equal stages of 1 s forward and 2 s back, with nothing before, beside or after them."""
    nothing = (0.0,) * count
    plain = StepSchedule(
        forward_s=(FORWARD,) * count,
        backward_s=(BACKWARD,) * count,
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
    )
    return replace(plain, **changes)


@st.composite
def schedules(draw: st.DrawFn, *, most_pieces: int = 3, traffic: bool = True) -> StepSchedule:
    """Up to five unequal stages with any transfers, and any traffic of the data ranks."""
    count = draw(st.integers(1, 5))
    pieces = draw(st.integers(1, most_pieces)) if count > 1 else 1
    micro = count * draw(st.integers(1, 3)) if pieces > 1 else draw(st.integers(1, 8))
    layers = draw(st.lists(st.integers(1, 4).map(lambda n: n * pieces), min_size=count, max_size=count))

    def each(durations: st.SearchStrategy[float]) -> tuple[float, ...]:
        return tuple(draw(st.lists(durations, min_size=count, max_size=count)))

    plain = step(
        count,
        micro,
        pieces,
        forward_s=each(BUSY),
        backward_s=each(BUSY),
        transfer_s=each(MILLI),
        layers=tuple(layers),
    )
    if not traffic:
        return plain
    return replace(
        plain,
        gather_s=each(MILLI),
        reduce_s=each(MILLI),
        optimizer_s=each(MILLI),
        cores=draw(st.sampled_from([0.0, 0.25])),
        overlap=draw(st.booleans()),
        host_s=draw(MILLI),
    )


def of_resource(run: EventRun) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for span in run.spans:
        found.setdefault(span.resource, []).append(span)
    return found


def passes_of(run: EventRun, stage: int) -> dict[Pass, Span]:
    """Spans of a stage by what they are."""
    found: dict[Pass, Span] = {}
    for span in run.spans:
        if span.resource != f"stage {stage}" or span.label == "optimizer":
            continue
        kind, micro, *piece = span.label.split()
        found[kind, int(piece[1]) if piece else 0, int(micro)] = span
    return found


def times(spans: list[Span]) -> list[tuple[str, float, float]]:
    return [(span.label, round(span.start_s, 9), round(span.end_s, 9)) for span in spans]


def written(order: list[Pass]) -> str:
    """F2 or B2 with one piece, F1.2 (piece, micro-batch) with several."""
    several = any(piece for _, piece, _ in order)
    return " ".join(f"{kind[0].upper()}{f'{piece}.' if several else ''}{micro}" for kind, piece, micro in order)


# The order of a stage.


@pytest.mark.parametrize(
    ("stage", "order"),
    [
        (0, "F0 F1 F2 F3 B0 F4 B1 F5 B2 F6 B3 F7 B4 B5 B6 B7"),
        (1, "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 B6 B7"),
        (2, "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 B7"),
        (3, "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7"),
    ],
)
def test_one_forward_one_backward_by_hand(stage: int, order: str) -> None:
    assert written(order_of(step(4, 8), stage)) == order


@pytest.mark.parametrize(
    ("stage", "order"),
    [
        # Four passes ahead (twice the stage behind, and a group of the next piece), then one of each in turn.
        (0, "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 F0.3 B1.1 F1.2 B0.0 F1.3 B0.1 B1.2 B1.3 B0.2 B0.3"),
        (1, "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3"),
    ],
)
def test_interleaved_pieces_by_hand(stage: int, order: str) -> None:
    assert written(order_of(step(2, 4, 2), stage)) == order


def test_fewer_micro_batches_than_stages_all_go_forward_first() -> None:
    assert written(order_of(step(4, 2), 0)) == "F0 F1 B0 B1"
    assert written(order_of(step(4, 2), 2)) == "F0 F1 B0 B1"
    assert written(order_of(step(4, 2), 3)) == "F0 B0 F1 B1"


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 8), pieces=st.integers(1, 4), rounds=st.integers(1, 5))
def test_a_stage_runs_every_pass_once_and_turns_only_what_it_has_passed(count: int, pieces: int, rounds: int) -> None:
    micro = count * rounds
    for stage in range(count):
        order = order_of(step(count, micro, pieces), stage)
        keys = [(piece, index) for piece in range(pieces) for index in range(micro)]
        assert sorted(order) == sorted((kind, *key) for kind in ("forward", "backward") for key in keys)
        place = {one: index for index, one in enumerate(order)}
        assert all(place["forward", *key] < place["backward", *key] for key in keys)
        for piece in range(pieces):
            for kind in ("forward", "backward"):
                turns = [place[kind, piece, index] for index in range(micro)]
                assert turns == sorted(turns)


# Timelines by hand.


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("micro", [1, 2, 3, 8])
def test_equal_stages_take_a_pass_for_each_micro_batch_and_each_other_stage(count: int, micro: int) -> None:
    run = run_training(step(count, micro))
    assert run.time_s == pytest.approx((micro + count - 1) * (FORWARD + BACKWARD), rel=1e-12)
    assert run.step_ends_s == (run.time_s,)


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 4])
def test_pieces_divide_the_bubble(count: int, pieces: int) -> None:
    # m passes of the whole stage, and of the other stages one piece each.
    time = (8 + (count - 1) / pieces) * (FORWARD + BACKWARD)
    assert run_training(step(count, 8, pieces)).time_s == pytest.approx(time, rel=1e-12)


def test_two_stages_and_two_micro_batches_by_hand() -> None:
    found = of_resource(run_training(step(2, 2, transfer=0.5)))
    assert times(found["stage 0"]) == [
        ("forward 0", 0.0, 1.0),
        ("forward 1", 1.0, 2.0),
        ("backward 0", 5.0, 7.0),
        ("backward 1", 8.0, 10.0),
        ("optimizer", 10.0, 10.0),
    ]
    assert times(found["stage 1"]) == [
        ("forward 0", 1.5, 2.5),
        ("backward 0", 2.5, 4.5),
        ("forward 1", 4.5, 5.5),
        ("backward 1", 5.5, 7.5),
        ("optimizer", 7.5, 7.5),
    ]
    assert times(found["link 0 to 1, forward"]) == [("forward 0", 1.0, 1.5), ("forward 1", 2.0, 2.5)]
    assert times(found["link 1 to 0, backward"]) == [("backward 0", 4.5, 5.0), ("backward 1", 7.5, 8.0)]


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 7, 8])
def test_two_stages_wait_for_a_transfer_there_and_back_in_every_second_micro_batch(micro: int) -> None:
    # Two micro-batches are under way at a time: while one returns, the other works.
    waits = 2 * 0.5 * -(-micro // 2)
    time = (micro + 1) * (FORWARD + BACKWARD) + waits
    assert run_training(step(2, micro, transfer=0.5)).time_s == pytest.approx(time, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_one_micro_batch_goes_there_and_back(count: int) -> None:
    there_and_back = count * (FORWARD + BACKWARD) + 2 * (count - 1) * 0.25
    assert run_training(step(count, 1, transfer=0.25)).time_s == pytest.approx(there_and_back, rel=1e-12)


TRAFFIC = {
    "forward_s": (2.0,),
    "backward_s": (4.0,),
    "gather_s": (1.0,),
    "reduce_s": (3.0,),
    "optimizer_s": (0.5,),
    "layers": (2,),
    "host_s": 0.25,
}


def test_traffic_goes_layer_by_layer_behind_the_passes() -> None:
    run = run_training(step(1, 1, **TRAFFIC))
    found = of_resource(run)
    # The first layer waits for its weights, 0.5 s; the last one's gradients leave when its backward pass ends.
    assert times(found["stage 0"]) == [("forward 0", 0.0, 2.5), ("backward 0", 2.5, 6.5), ("optimizer", 8.0, 8.5)]
    assert times(found["data ranks of stage 0"]) == [
        ("gather", 0.0, 0.5),
        ("gather", 0.5, 1.0),
        ("reduce", 4.5, 6.0),
        ("reduce", 6.5, 8.0),
    ]
    assert run.time_s == 8.75


def test_traffic_without_overlap_lies_before_and_after() -> None:
    run = run_training(step(1, 1, **TRAFFIC, overlap=False, cores=0.5))
    found = of_resource(run)
    assert [(span.start_s, span.end_s) for span in found["stage 0"]] == [(0.0, 3.0), (3.0, 7.0), (10.0, 10.5)]
    assert [(span.start_s, span.end_s) for span in found["data ranks of stage 0"]][2:] == [(7.0, 8.5), (8.5, 10.0)]
    assert run.time_s == 10.75


def test_a_pass_beside_traffic_gives_up_its_cores() -> None:
    found = of_resource(run_training(step(1, 1, **TRAFFIC, cores=0.5)))
    # Half of the 0.5 s that gathering lies beside the first layer, and of the 1.5 s beside the last backward one.
    assert times(found["stage 0"]) == [("forward 0", 0.0, 2.75), ("backward 0", 2.75, 7.5), ("optimizer", 9.0, 9.5)]


def test_only_the_last_micro_batch_lets_gradients_go() -> None:
    found = of_resource(run_training(step(1, 3, **TRAFFIC)))
    last = next(span for span in found["stage 0"] if span.label == "backward 2")
    leaving = [span for span in found["data ranks of stage 0"] if span.label == "reduce"]
    assert leaving[0].start_s == pytest.approx((last.start_s + last.end_s) / 2)  # its first layer of two


# Any schedule.


@settings(max_examples=60, deadline=None)
@given(plan=schedules())
def test_a_resource_does_one_thing_at_a_time(plan: StepSchedule) -> None:
    for resource, spans in of_resource(run_training(plan)).items():
        if resource.startswith("link") and len(plan.forward_s) == 2 and plan.pieces > 1:
            # Between two stages with pieces, forward and backward transfers leave on the same way.
            continue
        for before, after in pairwise(spans):
            assert after.start_s >= before.end_s - EPSILON, resource


@settings(max_examples=60, deadline=None)
@given(plan=schedules())
def test_a_stage_runs_its_passes_in_order_and_each_for_its_time_or_longer(plan: StepSchedule) -> None:
    run = run_training(plan)
    for stage, (forward, backward) in enumerate(zip(plan.forward_s, plan.backward_s, strict=True)):
        found = passes_of(run, stage)
        assert list(found) == order_of(plan, stage)
        for (kind, _, micro), span in found.items():
            needed = (forward if kind == "forward" else backward) / plan.pieces
            taken = span.end_s - span.start_s
            assert taken >= needed - EPSILON
            if plan.cores == 0.0 and micro not in (0, plan.micro_batches - 1):
                assert taken == pytest.approx(needed, abs=EPSILON)


@settings(max_examples=60, deadline=None)
@given(plan=schedules())
def test_nothing_starts_before_what_it_waits_for(plan: StepSchedule) -> None:
    run = run_training(plan)
    last = len(plan.forward_s) - 1
    every = [passes_of(run, stage) for stage in range(last + 1)]
    for stage, found in enumerate(every):
        for (kind, piece, micro), span in found.items():
            if kind == "forward":
                before = (stage - 1, piece) if stage else (last, piece - 1)
                if before[1] < 0:
                    continue
                ready = every[before[0]]["forward", before[1], micro]
                way = plan.transfer_s[before[0]] if last else 0.0
            elif (stage, piece) == (last, plan.pieces - 1):
                ready, way = found["forward", piece, micro], 0.0
            else:
                before = (stage + 1, piece) if stage < last else (0, piece + 1)
                ready = every[before[0]]["backward", before[1], micro]
                way = plan.transfer_s[stage] if last else 0.0
            assert span.start_s >= ready.end_s + way - EPSILON


@settings(max_examples=60, deadline=None)
@given(plan=schedules())
def test_an_update_follows_the_stages_reductions_and_a_step_the_last_update(plan: StepSchedule) -> None:
    run = run_training(plan)
    found = of_resource(run)
    ends = []
    for stage, time in enumerate(plan.optimizer_s):
        update = next(span for span in found[f"stage {stage}"] if span.label == "optimizer")
        traffic = found.get(f"data ranks of stage {stage}", [])
        assert update.start_s == max(span.end_s for span in [*passes_of(run, stage).values(), *traffic])
        assert update.end_s - update.start_s == pytest.approx(time, abs=EPSILON)
        for kind, whole in (("gather", plan.gather_s[stage]), ("reduce", plan.reduce_s[stage])):
            sent = [span.end_s - span.start_s for span in traffic if span.label == kind]
            assert len(sent) == (plan.layers[stage] if whole else 0)
            assert sum(sent) == pytest.approx(whole, abs=EPSILON)
        ends.append(update.end_s)
    assert run.time_s == pytest.approx(max(ends) + plan.host_s, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(plan=schedules(most_pieces=1, traffic=False))
def test_a_step_takes_at_least_any_stages_work_and_the_way_to_it_and_at_most_everything_in_turn(
    plan: StepSchedule,
) -> None:
    busy = [f + b for f, b in zip(plan.forward_s, plan.backward_s, strict=True)]
    moves = [2.0 * way for way in plan.transfer_s[:-1]]
    ways = [0.0, *accumulate(b + move for b, move in zip(busy, moves, strict=False))]
    least = max(way + plan.micro_batches * own for way, own in zip(ways, busy, strict=True))
    time = run_training(plan).time_s
    assert time >= least - EPSILON
    assert time >= sum(busy) + sum(moves) - EPSILON
    assert time <= plan.micro_batches * (sum(busy) + sum(moves)) + EPSILON


@settings(max_examples=60, deadline=None)
@given(plan=schedules(), longer=st.sampled_from(["forward_s", "backward_s", "transfer_s", "reduce_s"]), data=st.data())
def test_nothing_that_takes_longer_makes_a_step_shorter(plan: StepSchedule, longer: str, data: st.DataObject) -> None:
    assume(plan.cores == 0.0)
    values = list(getattr(plan, longer))
    values[data.draw(st.integers(0, len(values) - 1))] += data.draw(MILLI)
    assert run_training(replace(plan, **{longer: tuple(values)})).time_s >= run_training(plan).time_s - EPSILON


@settings(max_examples=60, deadline=None)
@given(plan=schedules())
def test_a_stage_holds_no_more_micro_batches_than_memory_counts(plan: StepSchedule) -> None:
    run, count = run_training(plan), len(plan.forward_s)
    classes = stages(array(float(sum(plan.layers))), array(float(count)))
    fields = {"pipeline_parallel": count, "virtual_pipeline": plan.pieces, "micro_batches": plan.micro_batches}
    counted = live_micro_batches(classes, lower_plan(vary(Varied(Plan()), fields)))[:, 0]
    last_of = np.cumsum(classes.count[:, 0]).astype(int)
    for stage in range(count):
        kind = int(np.searchsorted(last_of, stage, side="right"))
        # A pass holds from the start of its forward to the end of its backward one.
        changes = [
            (span.start_s, 1) if step_[0] == "forward" else (span.end_s, -1)
            for step_, span in passes_of(run, stage).items()
        ]
        held = max(accumulate(change for _, change in sorted(changes))) / plan.pieces
        assert held <= counted[kind] + EPSILON
        if stage == last_of[kind] - int(classes.count[kind, 0]):
            assert held == pytest.approx(counted[kind])


def test_the_same_schedule_gives_the_same_run() -> None:
    plan = step(3, 6, 2, transfer=0.1, gather_s=(0.5, 0.1, 0.2), reduce_s=(0.3, 0.2, 0.1), cores=0.25, layers=(4, 4, 2))
    assert run_training(plan) == run_training(plan)


# Steps that cannot finish, and steps of a case.


def test_a_step_without_micro_batches_stops_early() -> None:
    broken = step(2, 0, gather_s=(0.5, 0.25))
    with pytest.raises(
        SimulationError, match=r"the step stopped early \(clock 0\.5 s, waiting: 0 stages done"
    ) as caught:
        run_training(broken)
    assert caught.value.clock_s == 0.5


@pytest.mark.parametrize("software", ["megatron-2022", "megatron"])
@pytest.mark.parametrize(
    ("tensor", "pipeline", "data", "pieces"),
    [(4, 1, 2, 1), (4, 2, 1, 3), (4, 5, 1, 1), (8, 3, 1, 2), (2, 4, 2, 1), (16, 4, 2, 3), (1, 12, 2, 1), (2, 7, 1, 1)],
)
def test_durations_are_those_of_the_table(
    train: Train, software: str, tensor: int, pipeline: int, data: int, pieces: int
) -> None:
    fields = {"tensor_parallel": tensor, "data_parallel": data, "zero": 1, "global_batch": 4 * pipeline * data}
    many = {"pipeline_parallel": [1, pipeline], "virtual_pipeline": [1, pieces]}
    case = train(software, **fields, **many)
    found = step_schedule(case, 1)
    point = at(with_micro_batches(case), 1)
    table = step_table(point)
    counts, move = table.stage.count, table.schedule
    columns = {
        "forward_s": move.forward,
        "backward_s": move.backward,
        "gather_s": table.closing.gather,
        "reduce_s": table.closing.reduce,
        "optimizer_s": table.optimizer,
        "layers": table.stage.layers,
    }
    for name, values in columns.items():
        got = getattr(found, name)
        assert len(got) == pipeline
        assert sum(got) == pytest.approx(float(np.sum(counts * values)), rel=1e-12), name
        assert got[0] == np.ravel(values[0])[0]
    hops = float(np.ravel(move.inside * move.inside_time + move.across * move.across_time)[0])
    assert sum(found.transfer_s[:-1]) == pytest.approx(hops, rel=1e-12)
    assert (found.pieces, found.micro_batches) == (pieces, 4 * pipeline)
    assert found.overlap == (software == "megatron")
    assert simulate_training(case, 1) == run_training(found)


def test_a_step_of_a_case_has_a_track_for_every_stage_link_and_stream(train: Train) -> None:
    run = simulate_training(train("megatron", pipeline_parallel=2, data_parallel=2, zero=1))
    tracks = {f"stage {s}" for s in (0, 1)} | {f"data ranks of stage {s}" for s in (0, 1)}
    assert set(of_resource(run)) == tracks | {"link 0 to 1, forward", "link 1 to 0, backward"}
    assert set(of_resource(simulate_training(train()))) == {"stage 0"}
