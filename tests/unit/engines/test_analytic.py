"""The closed form: feasibility first, parts of a step by hand, energy, the power limit, chunks and cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.engines import analytic
from cosim.engines.analytic import evaluate, evaluate_cells, step_parts
from cosim.engines.case import Case, Phase, device_graph, stage_classes
from cosim.engines.step import StageCosts, Transfers, op_costs, stage_costs, transfers
from cosim.mapping.legal import CODES
from cosim.mapping.memory import HELD
from cosim.records import array, points

CaseOf = Callable[..., Case]
PHASES: tuple[Phase, ...] = ("prefill", "decode")
MILLI = st.integers(1, 4000).map(lambda number: number / 1000.0)


def costs_of(seconds: list[list[float]]) -> StageCosts:
    """Stages that only multiply matrices, [class][point], with a tenth of each as launches."""
    time = np.array(seconds)
    zero = np.zeros_like(time)
    return StageCosts(
        matmul=0.9 * time,
        attention=zero,
        vector=zero,
        launch=0.1 * time,
        collective=zero,
        energy=zero,
        clocked=zero,
        core_energy=zero,
    )


def moved_of(inside: float, across: float, inside_s: float, across_s: float) -> Transfers:
    return Transfers(array(inside), array(across), array(inside_s), array(across_s), array(0.0))


def parts_by_hand(case_of: CaseOf, phase: Phase, micro: int, host: float) -> dict[str, float]:
    """Four stages of 2, 5, 5 and 3 s, two transfers of 0.5 s inside nodes and one of 1 s across."""
    changes = {"plan.pipeline_parallel": 4, "workload.layers": 6, "plan.micro_batches": micro}
    case = case_of(phase, **changes, **{"scenario.batch": 12, "system.chip.launch.host_step": host})
    stage = stage_classes(case)
    np.testing.assert_array_equal(stage.count[:, 0], [1.0, 2.0, 0.0, 1.0])
    # The class without a stage is slow on purpose: nobody may look at it.
    parts = step_parts(case, costs_of([[2.0], [5.0], [99.0], [3.0]]), stage, moved_of(2.0, 1.0, 0.5, 1.0))
    return {name: float(value[0]) for name, value in parts.items()}


def test_a_prefill_is_once_through_and_the_slowest_stage_for_all_but_one(case_of: CaseOf) -> None:
    # 1 + (2 + 5 + 5 + 3) + (2 x 0.5 + 1) + 3 x 5 = 33 s, of which the slowest stage computes 4 x 5
    parts = parts_by_hand(case_of, "prefill", micro=4, host=1.0)
    assert sum(parts.values()) == pytest.approx(33.0, rel=1e-12)
    assert parts["matmul"] + parts["launch"] == pytest.approx(20.0, rel=1e-12)
    assert parts["host"] == pytest.approx(1.0, rel=1e-12)
    assert parts["bubble"] == pytest.approx(12.0, rel=1e-12)


@pytest.mark.parametrize(
    ("micro", "total", "bubble", "host"),
    [
        (1, 18.0, 12.0, 1.0),  # 1 + 15 + 2: everything waits for one micro-batch
        (3, 18.0, 2.0, 1.0),  # the stage computes 15 of the same 18 s
        (4, 20.0, 0.0, 0.0),  # 4 x 5: the pipeline is full and hides the host
        (12, 60.0, 0.0, 0.0),
    ],
)
def test_a_decode_is_a_round_of_one_micro_batch_or_the_slowest_stage_for_all(
    case_of: CaseOf, micro: int, total: float, bubble: float, host: float
) -> None:
    parts = parts_by_hand(case_of, "decode", micro=micro, host=1.0)
    assert sum(parts.values()) == pytest.approx(total, rel=1e-12)
    assert parts["bubble"] == pytest.approx(bubble, abs=1e-12)
    assert parts["host"] == pytest.approx(host, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(stage_s=st.tuples(MILLI, MILLI, MILLI, MILLI), host=MILLI, moved=MILLI, micro=st.sampled_from([1, 2, 3, 4, 6]))
def test_parts_add_up_to_the_formulas(
    case_of: CaseOf, stage_s: tuple[float, ...], host: float, moved: float, micro: int
) -> None:
    changes = {"plan.pipeline_parallel": 8, "workload.layers": 11, "plan.micro_batches": micro}
    changes |= {"scenario.batch": 12, "system.chip.launch.host_step": host}
    costs, hops = costs_of([[each] for each in stage_s]), moved_of(7.0, 0.0, moved, 99.0)
    stages = [stage_s[0], *[stage_s[1]] * 3, *[stage_s[2]] * 3, stage_s[3]]
    once = host + sum(stages) + 7.0 * moved
    totals = {}
    for phase in PHASES:
        case = case_of(phase, **changes)
        parts = step_parts(case, costs, stage_classes(case), hops)
        assert min(float(part[0]) for part in parts.values()) >= 0.0
        totals[phase] = sum(float(part[0]) for part in parts.values())
    assert totals["prefill"] == pytest.approx(once + (micro - 1) * max(stages), rel=1e-12)
    assert totals["decode"] == pytest.approx(max(micro * max(stages), once), rel=1e-12)


def test_the_host_is_hidden_before_the_bubble_goes(case_of: CaseOf) -> None:
    # Once through takes 17.6 s and the slowest stage 15 s: 2.6 s of slack, of which the host is at most its 0.6 s.
    parts = parts_by_hand(case_of, "decode", micro=3, host=0.6)
    assert (parts["host"], parts["bubble"]) == (pytest.approx(0.6, rel=1e-12), pytest.approx(2.0, rel=1e-12))


@pytest.mark.parametrize("phase", PHASES)
def test_one_stage_is_the_host_and_all_micro_batches(case_of: CaseOf, phase: Phase) -> None:
    case = case_of(phase, **{"plan.tensor_parallel": 8, "plan.micro_batches": 4, "scenario.batch": 8})
    device = device_graph(case)
    stage = stage_costs(case, device, op_costs(case, device), stage_classes(case)).time[0, 0]
    result = evaluate(case)
    host = float(case.system.chip.launch.host_step)
    # A single stage has nothing to hide a decode's host behind but the other micro-batches.
    expected = host + 4.0 * stage if phase == "prefill" else max(4.0 * stage, host + stage)
    assert result.time[0] == pytest.approx(expected, rel=1e-12)
    assert not transfers(case).inside


def test_energy_is_dynamic_over_all_chips_and_idle_power_for_the_time(case_of: CaseOf) -> None:
    plan = {"plan.tensor_parallel": 2, "plan.pipeline_parallel": 2, "plan.data_parallel": 2, "plan.micro_batches": 3}
    watts = {"system.chip.power.idle": 100.0, "system.server.power": 4600.0, "system.facility.pue": 1.2}
    case = case_of("decode", **plan, **watts, **{"scenario.batch": 12})
    device, stage = device_graph(case), stage_classes(case)
    costs, moved = stage_costs(case, device, op_costs(case, device), stage), transfers(case)
    first, last = costs.energy[0, 0], costs.energy[3, 0]
    # 3 micro-batches in 2 replicas of 2 ranks: each rank of both stages, and one transfer per rank
    dynamic = 3 * 2 * 2 * (first + last + float(moved.energy))
    result = evaluate(case)
    time = result.time[0]
    assert result.energy[0] == pytest.approx(dynamic + 8 * 100.0 * time, rel=1e-12)
    assert result.power[0] == pytest.approx(result.energy[0] / time / 8, rel=1e-12)
    assert result.server_energy[0] == pytest.approx(result.energy[0] + 4600.0 * time, rel=1e-12)
    assert result.facility_energy[0] == pytest.approx(1.2 * result.server_energy[0], rel=1e-12)


def test_a_chip_over_its_power_limit_waits_until_its_mean_power_is_the_limit(case_of: CaseOf) -> None:
    watts = {"system.chip.power.idle": 100.0, "system.chip.power.limit": [120.0, 2000.0]}
    fields = {**watts, "plan.tensor_parallel": 8, "scenario.batch": 8}
    # A voltage that does not fall with the clock leaves the energy of the work as it is.
    result = evaluate(case_of("prefill", **fields, **{"system.chip.power.floor_voltage": 1.0}))
    throttled, free = result.time
    assert result.breakdown["throttle"][1] == 0.0
    assert result.breakdown["throttle"][0] == pytest.approx(throttled - free, rel=1e-12)
    assert result.clock[0] < result.clock[1] == 1.0
    assert result.power[0] == pytest.approx(120.0, rel=1e-12)
    # The work's own energy is the same: what differs is 100 W of idling for longer, on eight chips.
    assert result.energy[0] - result.energy[1] == pytest.approx(800.0 * (throttled - free), rel=1e-9)
    # Where it falls, the work takes less energy and the chip waits less.
    lower = evaluate(case_of("prefill", **fields, **{"system.chip.power.floor_voltage": 0.6}))
    assert lower.energy[0] < result.energy[0]
    assert free < lower.time[0] < throttled
    assert lower.time[1] == free
    assert lower.power[0] == pytest.approx(120.0, rel=1e-9)


@pytest.mark.parametrize(("phase", "limit"), [("prefill", "ttft_limit"), ("decode", "tpot_limit")])
def test_a_limit_on_time_is_the_last_to_break(case_of: CaseOf, phase: Phase, limit: str) -> None:
    free = evaluate(case_of(phase, **{"plan.tensor_parallel": 8})).time[0]
    other = "tpot_limit" if phase == "prefill" else "ttft_limit"
    limits = {f"scenario.{limit}": [0.5 * free, free, 2.0 * free, 0.5 * free], f"scenario.{other}": free / 100.0}
    result = evaluate(case_of(phase, **limits, **{"plan.tensor_parallel": [8, 8, 8, 5]}))
    assert result.verdict.code.tolist() == [CODES[limit], 0, 0, CODES["tensor_parallel"]]
    assert result.verdict.shortfall[0] == pytest.approx(0.5 * free, rel=1e-12)
    np.testing.assert_allclose(result.time, [np.nan, free, free, np.nan], rtol=1e-12)
    for values in (result.energy, result.power, result.tokens, *result.breakdown.values()):
        assert np.isnan(values).tolist() == [True, False, False, True]


def test_memory_falls_short_by_what_is_missing(case_of: CaseOf) -> None:
    fields = {"scenario.batch": [1, 4096], "scenario.context": 8192, "system.chip.memory.dram.capacity": "80 GB"}
    result = evaluate(case_of("decode", **fields, **{"plan.tensor_parallel": 8}))
    assert result.verdict.code.tolist() == [0, CODES["memory"]]
    assert result.verdict.shortfall[1] == result.memory["total"][1] - 80e9
    assert set(result.memory) == set(HELD)
    assert result.memory["kv"][1] == 4096 * 8192 * 131_072 / 8  # every kind is listed where it does not fit, too


def test_infeasible_points_never_reach_timing(case_of: CaseOf, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    whole = analytic.op_costs

    def spy(case: Case, *rest: Any) -> Any:
        timed.append(points(case))
        return whole(case, *rest)

    monkeypatch.setattr(analytic, "op_costs", spy)
    evaluate(case_of("decode", **{"plan.tensor_parallel": [1, 3, 8, 16, 4, 7]}))
    assert timed == [3]
    assert not evaluate(case_of("decode", **{"plan.tensor_parallel": [3, 5]})).feasible.any()
    assert timed == [3]


def test_a_part_of_the_system_may_be_used(case_of: CaseOf) -> None:
    result = evaluate(case_of("decode", **{"plan.tensor_parallel": [1, 4, 8]}))
    np.testing.assert_array_equal(result.chips, [1.0, 4.0, 8.0])


def test_rows_of_cells_go_back_to_their_places(case_of: CaseOf) -> None:
    decode = case_of("decode", **{"scenario.batch": [1, 2, 3], "plan.tensor_parallel": 8})
    prefill = case_of("prefill", "tpu-v5p-8", **{"scenario.batch": [4, 5], "plan.tensor_parallel": 8})
    rows = [np.array([4, 0, 2], dtype=np.intp), np.array([3, 1], dtype=np.intp)]
    mixed = evaluate_cells([(decode, rows[0]), (prefill, rows[1])])
    np.testing.assert_array_equal(mixed.tokens, [2.0, 5 * 2048.0, 3.0, 4 * 2048.0, 1.0])
    np.testing.assert_array_equal(mixed.time[rows[0]], evaluate(decode).time)
    np.testing.assert_array_equal(mixed.breakdown["matmul"][rows[1]], evaluate(prefill).breakdown["matmul"])
