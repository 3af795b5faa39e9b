"""The event engine: schedules by hand, who occupies what when, durations of a case, schedules that cannot finish."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines.case import Case, Phase, device_graph, stage_classes
from cosim.engines.events import EventRun, Schedule, Span, run_step, schedule, simulate
from cosim.engines.step import op_costs, stage_costs, transfers
from cosim.errors import SimulationError
from cosim.records import at

CaseOf = Callable[..., Case]
MILLI = st.integers(1, 1000).map(lambda number: number / 1000.0)


@st.composite
def pipelines(draw: st.DrawFn, *, repeats: bool) -> Schedule:
    """Up to five stages with any transfers between them, also longer ones than the stages."""
    stages = draw(st.lists(MILLI, min_size=1, max_size=5))
    between = draw(st.lists(MILLI, min_size=len(stages) - 1, max_size=len(stages) - 1))
    steps = 30 if repeats else 1
    return Schedule(tuple(stages), tuple(between), draw(st.integers(1, 6)), draw(MILLI), steps, repeats)


def of_resource(run: EventRun) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for span in run.spans:
        found.setdefault(span.resource, []).append(span)
    return found


def test_a_prefill_by_hand() -> None:
    # The host prepares for 1 s. Stage 0 works at 1-4, 4-7, 7-10; the link at 4-4.5, 7-7.5, 10-10.5; stage 1 for 2 s.
    run = run_step(Schedule((3.0, 2.0), (0.5,), 3, 1.0, 1, repeats=False))
    assert [(s.start_s, s.end_s) for s in of_resource(run)["stage 1"]] == [(4.5, 6.5), (7.5, 9.5), (10.5, 12.5)]
    assert (run.time_s, run.step_ends_s) == (12.5, (12.5,))


def test_a_slow_link_holds_up_the_pipeline() -> None:
    # Stages of 1 s, a link of 4 s: 1 + 3 x 4 + 1
    assert run_step(Schedule((1.0, 1.0), (4.0,), 3, 0.0, 1, repeats=False)).time_s == 14.0


@pytest.mark.parametrize(
    ("micro", "period"),
    [
        (1, 7.5),  # 1 + 3 + 0.5 + 3: a token of one micro-batch goes round
        (2, 7.5),
        (3, 9.0),  # stage 0 has 3 x 3 s of work
        (4, 12.0),
    ],
)
def test_the_period_of_a_decode_by_hand(micro: int, period: float) -> None:
    run = run_step(Schedule((3.0, 3.0), (0.5,), micro, 1.0, 20, repeats=True))
    assert run.time_s == pytest.approx(period, rel=1e-12)
    assert len(run.step_ends_s) == 20


@pytest.mark.parametrize("repeats", [False, True])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_resource_does_one_thing_at_a_time_in_order(repeats: bool, data: st.DataObject) -> None:
    plan = data.draw(pipelines(repeats=repeats))
    run = run_step(plan)
    found = of_resource(run)
    durations = {f"stage {i}": s for i, s in enumerate(plan.stage_s)}
    durations |= {f"link {i}": s for i, s in enumerate(plan.transfer_s)}
    assert found.keys() == durations.keys()
    for resource, spans in found.items():
        assert len(spans) == plan.steps * plan.micro_batches
        assert [span.label for span in spans] == [span.label for span in found["stage 0"]]
        assert all(span.end_s - span.start_s == pytest.approx(durations[resource], rel=1e-9) for span in spans)
        assert all(after.start_s >= before.end_s for before, after in pairwise(spans))


@pytest.mark.parametrize("repeats", [False, True])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_nothing_starts_before_what_it_waits_for(repeats: bool, data: st.DataObject) -> None:
    plan = data.draw(pipelines(repeats=repeats))
    found = of_resource(run_step(plan))
    chain = ["stage 0", *[name for i in range(len(plan.transfer_s)) for name in (f"link {i}", f"stage {i + 1}")]]
    for before, after in pairwise(chain):
        assert all(b.start_s >= a.end_s for a, b in zip(found[before], found[after], strict=True))
    first, last = found["stage 0"], found[chain[-1]]
    assert first[0].start_s == plan.host_s
    for job in range(plan.micro_batches, len(first)):
        # The next token of a micro-batch: after its last one has passed the last stage and the host.
        assert first[job].start_s >= last[job - plan.micro_batches].end_s + plan.host_s - 1e-12


@settings(max_examples=20, deadline=None)
@given(plan=pipelines(repeats=False))
def test_a_prefill_takes_at_least_its_work_and_at_most_one_after_the_other(plan: Schedule) -> None:
    run = run_step(plan)
    once = sum(plan.stage_s) + sum(plan.transfer_s)
    busiest = max(*plan.stage_s, *plan.transfer_s, 0.0)
    assert run.time_s >= plan.host_s + max(once, plan.micro_batches * busiest) - 1e-12
    assert run.time_s <= plan.host_s + plan.micro_batches * once + 1e-12
    assert run.time_s == max(span.end_s for span in run.spans)


@settings(max_examples=20, deadline=None)
@given(plan=pipelines(repeats=True))
def test_a_decode_settles(plan: Schedule) -> None:
    longer = Schedule(plan.stage_s, plan.transfer_s, plan.micro_batches, plan.host_s, 2 * plan.steps, repeats=True)
    assert run_step(longer).time_s == pytest.approx(run_step(plan).time_s, rel=1e-9)


def test_the_same_schedule_gives_the_same_run() -> None:
    plan = Schedule((0.3, 0.1, 0.7), (0.2, 0.05), 4, 0.1, 12, repeats=True)
    assert run_step(plan) == run_step(plan)


def test_a_schedule_without_a_link_stops_early() -> None:
    # Three stages and one link: the last stage never gets anything to do.
    broken = Schedule((1.0, 1.0, 1.0), (0.5,), 2, 0.25, 1, repeats=False)
    with pytest.raises(SimulationError, match=r"the pipeline stopped early \(clock 3.75 s, waiting: job 0\)") as caught:
        run_step(broken)
    assert caught.value.clock_s == 3.75  # 0.25 + 1 + 0.5 + 2 x 1


@pytest.mark.parametrize(
    ("nodes", "tensor", "pipeline"), [(1, 8, 1), (1, 2, 4), (2, 8, 2), (2, 4, 4), (2, 2, 7), (4, 16, 2), (4, 4, 8)]
)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_durations_are_those_of_the_table(
    case_of: CaseOf, phase: Phase, nodes: int, tensor: int, pipeline: int
) -> None:
    host = {"system.chip.launch.host_step": 0.4e-3}
    plan = {**host, "system.nodes": nodes, "plan.tensor_parallel": tensor, "plan.pipeline_parallel": [1, pipeline]}
    case = case_of(phase, **plan, **{"plan.micro_batches": 3, "scenario.batch": 12})
    found = schedule(case, 1)
    point = at(case, 1)
    device, stage, moved = device_graph(point), stage_classes(point), transfers(point)
    costs = stage_costs(point, device, op_costs(point, device), stage).time[:, 0]
    assert len(found.stage_s) == pipeline
    assert sum(found.stage_s) == pytest.approx(float(np.sum(stage.count[:, 0] * costs)), rel=1e-12)
    assert found.stage_s[0] == costs[0]
    assert found.stage_s[-1] == (costs[3] if pipeline > 1 else costs[0])
    hops = float(moved.inside * moved.inside_time + moved.across * moved.across_time)
    assert sum(found.transfer_s) == pytest.approx(hops, rel=1e-12)
    assert found.transfer_s.count(float(moved.across_time)) == int(moved.across)
    assert (found.micro_batches, found.host_s, found.repeats) == (3, 0.4e-3, phase == "decode")


def test_a_stage_that_opens_a_node_is_sent_to_across_it(case_of: CaseOf) -> None:
    # Stages of 4 ranks, two to a node of 8: the boundaries between stages 1|2 and 3|4 lie between nodes.
    changes = {"system.nodes": 3, "plan.tensor_parallel": 4, "plan.pipeline_parallel": 5}
    sent = schedule(case_of("prefill", **changes)).transfer_s
    near, far = min(sent), max(sent)
    assert sent == (near, far, near, far)
    assert far > near


def test_a_case_is_simulated_at_the_point_that_is_asked(case_of: CaseOf) -> None:
    case = case_of("prefill", **{"plan.tensor_parallel": 8, "scenario.batch": [1, 16]})
    assert simulate(case, 1).time_s > 4.0 * simulate(case, 0).time_s
    assert simulate(case).time_s == simulate(case, 0).time_s
