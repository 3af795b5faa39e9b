"""Evaluating a sweep: columns, the order of limits, silicon that binds, choices as cells, designs without a plan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import cosim
from cosim.errors import SpecError
from cosim.explore.constraints import parse_constraints
from cosim.explore.metrics import DIE_METRICS, METRICS
from cosim.explore.request import estimate_request
from cosim.explore.sweep import limit_names
from cosim.mapping.legal import LIMITS

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Row = dict[str, Any]
ROWS, STACKS, NODE = "system.chip.matrix.rows", "system.chip.memory.dram.stacks", "system.chip.die.node"
CASE = {
    "workload": "llama-3.1-8b",
    "phase": "decode",
    "plan": {"tensor_parallel": 8, "dtype": "fp8"},
    "scenario": {"batch": 64, "context": 2048},
}
SPACE = {
    "system": "asic-8",
    "cases": [CASE],
    "axes": [{"path": ROWS, "values": [64, 128]}, {"path": STACKS, "values": [4, 6, 12]}],
}
OUTPUTS = (*(set(METRICS) - {"chips"}), "breakdown_s.matmul", "breakdown_s.host")


def table(**changes: Any) -> pa.Table:
    return cosim.sweep({**SPACE, **changes})


def rows(**changes: Any) -> list[Row]:
    return list(table(**changes).to_pylist())


def axis(path: str | list[str], *values: Any) -> Row:
    return {"path": path, "values": list(values)}


def test_columns_start_with_the_design_and_its_axes_and_have_units() -> None:
    found = table()
    assert found.column_names[:4] == ["design", "case", ROWS, STACKS]
    assert found.num_rows == 6
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in found.schema}
    assert (units["time_s"], units["area_mm2"], units["tdp_w"]) == ("s", "mm2", "W")
    assert (units["system.chip.power.limit"], units["memory_bytes.kv"]) == ("W", "B")
    assert units[ROWS] == units["mfu"] == ""
    clocked = table(axes=[axis("system.chip.matrix.clock", "1 GHz", "2 GHz")])
    assert clocked.schema.field("system.chip.matrix.clock").metadata == {b"unit": b"Hz"}


def test_designs_come_in_the_order_of_the_grid_case_by_case() -> None:
    prefill = {**CASE, "phase": "prefill", "scenario": {"batch": 1, "context": 2048}}
    found = rows(
        cases=[CASE, prefill], system=["asic-8", "tpu-v5p-8"], axes=[axis(ROWS, 64, 128), axis("system.nodes", 1, 2)]
    )
    assert [row["design"] for row in found] == [0, 1, 2, 3] * 4
    assert [row["case"] for row in found] == [0] * 8 + [1] * 8
    assert [row["system"] for row in found] == (["asic-8"] * 4 + ["tpu-v5p-8"] * 4) * 2
    assert [(row[ROWS], row["system.nodes"]) for row in found[:4]] == [(64, 1), (64, 2), (128, 1), (128, 2)]
    assert {row["phase"] for row in found[8:]} == {"prefill"}


def test_no_axis_is_the_system_as_it_is() -> None:
    (row,) = rows(axes=[])
    asked = {"plan.tensor_parallel": 8, "plan.dtype": "fp8", "scenario.batch": 64, "scenario.context": 2048}
    alone = estimate_request("decode", "asic-8", "llama-3.1-8b", asked).to_row()
    for name in (*METRICS, *DIE_METRICS):
        assert row[name] == pytest.approx(alone[name], rel=1e-12), name
    assert (row["feasible"], row["limit"], row["limit_by"], row["plans_tried"]) == (True, "", None, 0)


def test_limits_are_silicon_then_constraints_then_those_of_a_plan() -> None:
    names = limit_names(parse_constraints(["tdp_w <= 900", "time_s <= 50 ms"]))
    assert names[:6] == (
        ("", ""),
        ("reticle", "mm2"),
        ("memory_edge", "mm"),
        ("link_edge", "mm"),
        ("tdp_w <= 900", "W"),
        ("time_s <= 50 ms", "s"),
    )
    assert names[6:] == tuple((limit.name, limit.unit) for limit in LIMITS[1:])


def test_a_die_beyond_the_field_is_refused_by_the_reticle_with_what_it_lacks() -> None:
    found = rows(axes=[axis("system.chip.matrix.arrays", 1, 2, 3, 4, 6), axis(STACKS, 4)])
    for row in found:
        assert (row["area_mm2"] > 858) == (row["limit"] == "reticle")
        if row["limit"] == "reticle":
            assert row["limit_by"] == pytest.approx(row["area_mm2"] - 858.0)
            assert row["limit_unit"] == "mm2"
    assert [row["limit"] for row in found] == ["", "", "", "reticle", "reticle"]


def test_two_dies_have_twice_the_field() -> None:
    one, two = rows(axes=[axis("system.chip.die.dies", 1, 2), axis("system.chip.matrix.arrays", 4)])
    assert (one["limit"], two["limit"]) == ("reticle", "")
    assert one["area_mm2"] == two["area_mm2"] > 858.0


def test_edges_bind_in_their_order() -> None:
    axes = [axis("system.chip.links.scale_up.count", 16, 64), axis(STACKS, 4, 8), axis(ROWS, 64)]
    plain, crowded, fast, both = rows(axes=axes)
    assert [row["limit"] for row in (plain, crowded, fast, both)] == ["", "memory_edge", "link_edge", "memory_edge"]
    short = math.sqrt(crowded["area_mm2"] / 1.27)
    assert crowded["limit_by"] == pytest.approx(80.0 - 2 * 1.27 * short)
    short = math.sqrt(fast["area_mm2"] / 1.27)
    assert fast["limit_by"] == pytest.approx(64 * 50e9 / 38e9 - 2 * short)
    assert fast["limit_unit"] == crowded["limit_unit"] == "mm"


def test_silicon_does_not_bind_where_it_is_told_not_to() -> None:
    free = rows(silicon=False)
    bound = rows()
    assert {row["limit"] for row in free} == {""}
    assert {row["limit"] for row in bound} == {"", "memory_edge"}
    assert [row["area_mm2"] for row in free] == [row["area_mm2"] for row in bound]


def test_the_first_limit_in_order_is_the_one_that_is_named() -> None:
    # 16 chips are too many, one stack of 1 GB too few: silicon, the design's constraint, the plan, then the result.
    tight = {**CASE, "plan": {"tensor_parallel": 8, "pipeline_parallel": 2}}
    axes = [axis(STACKS, 12)]
    texts = ["time_s <= 1 us", "tdp_w <= 1", "mfu >= 0.99"]
    (silicon,) = rows(cases=[tight], axes=axes, constraints=texts)
    (design,) = rows(cases=[tight], axes=axes, constraints=texts, silicon=False)
    (plan,) = rows(cases=[tight], axes=axes, constraints=["time_s <= 1 us"], silicon=False)
    (result,) = rows(axes=axes, constraints=texts[::2], silicon=False)
    found = [(row["limit"], row["limit_unit"]) for row in (silicon, design, plan, result)]
    assert found == [("memory_edge", "mm"), ("tdp_w <= 1", "W"), ("chips", "chips"), ("time_s <= 1 us", "s")]
    assert design["limit_by"] == pytest.approx(design["tdp_w"] - 1.0)
    assert plan["limit_by"] == 8


def test_what_is_infeasible_has_no_outputs_but_its_limit_shortfall_and_unit() -> None:
    found = rows(axes=[axis(STACKS, 1, 6, 12)], constraints=["tdp_w <= 860"])
    assert [row["limit"] for row in found] == ["", "tdp_w <= 860", "memory_edge"]
    for row in found[1:]:
        assert [name for name in OUTPUTS if row[name] is not None] == []
        assert not row["feasible"]
        assert row["limit_by"] > 0.0
        assert row["limit_unit"] in ("W", "mm")
    assert None not in [found[0][name] for name in OUTPUTS]


@pytest.mark.parametrize("constraints", [[], ["time_s <= 1.4 ms"], ["tdp_w <= 700"], ["memory_bytes.total <= 1 GB"]])
def test_what_is_infeasible_has_no_bottleneck(constraints: list[str]) -> None:
    found = rows(constraints=constraints)
    assert not all(row["feasible"] for row in found)
    assert {row["bottleneck"] == "" for row in found if not row["feasible"]} == {True}
    assert {row["bottleneck"] == "" for row in found if row["feasible"]} <= {False}


@pytest.mark.parametrize(
    "constraints",
    [
        ["time_s <= 1.4 ms"],
        ["tokens_per_s_per_user >= 700"],
        ["area_mm2 <= 600", "power_w <= 500"],
        ["mfu >= 0.05", "memory_bytes.total <= 6 GB", "breakdown_s.collective <= 1 ms"],
        ["tokens_per_s_per_mm2 >= 8.5"],
    ],
)
def test_feasible_rows_satisfy_every_constraint_and_the_rest_are_said_to_break_one(constraints: list[str]) -> None:
    free, bound = rows(), rows(constraints=constraints)
    parsed = parse_constraints(constraints)
    for before, after in zip(free, bound, strict=True):
        over = {c.text: float(c.excess(np.array(before[c.column], dtype=float))) for c in parsed}
        if not before["feasible"]:
            assert after["limit"] == before["limit"]
        elif max(over.values()) <= 0.0:
            assert after == before
        else:
            assert after["limit"] == next(text for text in constraints if over[text] > 0.0)
            assert after["limit_by"] == pytest.approx(over[after["limit"]])


def test_an_unknown_chip_sweeps_without_area_and_silicon() -> None:
    found = rows(system="tpu-v5p-8", axes=[axis("system.chip.matrix.arrays", 1, 64)])
    assert [row["feasible"] for row in found] == [True, True]
    assert {row[name] for row in found for name in ("area_mm2", "tdp_w", "tokens_per_s_per_mm2")} == {None}
    assert {row["system.chip.power.limit"] for row in found} == {cosim.system("tpu-v5p-8").spec.chip.power.limit.si}


TRAINING = {
    "workload": "llama-3.1-8b",
    "phase": "train",
    "plan": {"tensor_parallel": 2, "data_parallel": 4},
    "scenario": {"global_batch": 64, "context": 2048},
}


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"power": "derived"}, "system.chip.die", "has no known area: no area is known of ICI"),
        ({"constraints": ["time_s <= 1 s", "tdp_w <= 1000"]}, "constraints.1", "cannot be said"),
        ({"constraints": ["area_mm2 <= 800"]}, "constraints.0", "area_mm2 is unknown for this chip or phase"),
        ({"constraints": ["tokens_per_s_per_mm2 >= 1"]}, "constraints.0", "tokens_per_s_per_mm2 is unknown"),
        ({"maximise": "tokens_per_s_per_mm2"}, "maximise", "is unknown for this chip or phase"),
        ({"cases": [TRAINING], "maximise": "tokens_per_s_per_user"}, "maximise", "is unknown for this chip or phase"),
        ({"cases": [TRAINING], "constraints": ["tokens_per_s_per_user >= 1"]}, "constraints.0", "cannot be said"),
    ],
)
def test_what_is_unknown_of_a_chip_or_phase_cannot_be_asked_for(changes: Row, field: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        rows(system="tpu-v5p-8", axes=[axis("system.chip.matrix.arrays", 1)], **changes)
    assert caught.value.field == field
    assert problem in str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"silicon": False}, {"power": "derived"}])
def test_a_choice_that_makes_a_known_area_unknown_is_refused(changes: Row) -> None:
    known = rows(axes=[axis(NODE, "TSMC N3E", "TSMC N2"), axis(STACKS, 6)], **changes)
    assert [row["area_mm2"] > 0.0 for row in known] == [True, True]
    with pytest.raises(SpecError, match="nothing is known of node 'Intel 18A'") as caught:
        rows(axes=[axis(NODE, "TSMC N3E", "Intel 18A", "TSMC N2"), axis(STACKS, 6)], **changes)
    assert caught.value.field == "system.chip.die"


def test_derived_power_is_that_of_the_designs_own_silicon() -> None:
    given, derived = rows(), rows(power="derived")
    for before, after in zip(given, derived, strict=True):
        assert (before["system.chip.power.limit"], before["system.chip.power.idle"]) == (800.0, 120.0)
        assert after["system.chip.power.limit"] == pytest.approx(after["tdp_w"])
        assert after["system.chip.power.idle"] == pytest.approx(0.09 * after["area_mm2"] + 5.0 * after[STACKS])
        assert (before["area_mm2"], before["tdp_w"]) == (after["area_mm2"], after["tdp_w"])


def test_a_swept_power_limit_is_a_column_once_and_counts() -> None:
    low, high = rows(axes=[axis("system.chip.power.limit", 150, 900), axis(STACKS, 6)])
    assert (low["system.chip.power.limit"], high["system.chip.power.limit"]) == (150.0, 900.0)
    assert low["breakdown_s.throttle"] > high["breakdown_s.throttle"] == 0.0


def test_choices_of_plan_chip_and_flags_are_rows_of_their_own() -> None:
    axes = [
        axis("plan.dtype", "bf16", "fp8"),
        axis("system.chip.matrix.shadow_weights", True, False),
        axis(ROWS, 64, 128),
    ]
    case = {**CASE, "plan": {"tensor_parallel": 8}}
    found = rows(axes=axes, cases=[case])
    assert [row["plan.dtype"] for row in found] == ["bf16"] * 4 + ["fp8"] * 4
    assert [row["plan.kv_dtype"] for row in found] == ["bf16"] * 4 + ["fp8"] * 4
    assert [row["system.chip.matrix.shadow_weights"] for row in found] == ["True", "True", "False", "False"] * 2
    assert len({row["time_s"] for row in found}) > 4


def test_a_precision_holds_for_cases_that_name_none() -> None:
    open_case = {**CASE, "plan": {"tensor_parallel": 8}}
    found = rows(cases=[CASE, open_case], precision="bf16", axes=[axis(ROWS, 64)])
    assert [row["plan.dtype"] for row in found] == ["fp8", "bf16"]
    (native,) = rows(cases=[open_case], axes=[axis(ROWS, 64)])
    assert native["plan.dtype"] == "mxfp4"


def test_training_is_swept_with_a_given_plan() -> None:
    found = rows(cases=[TRAINING], axes=[axis("plan.micro_batch", 1, 2), axis(ROWS, 128)])
    assert [(row["limit"], row["plan.micro_batches"]) for row in found] == [("", 16), ("", 8)]
    assert [row["scenario.batch"] for row in found] == [None, None]
    assert all(row["feasible"] and row["tokens_per_s_per_user"] is None for row in found)


@pytest.mark.parametrize("stacks", [4, 12])
def test_a_search_in_training_is_refused_whether_silicon_lets_the_designs_pass_or_not(stacks: int) -> None:
    with pytest.raises(SpecError, match="is not searched in a sweep"):
        rows(cases=[{"workload": "llama-3.1-8b", "phase": "train"}], search={}, axes=[axis(STACKS, stacks)])


SEARCHED = {"cases": [{**CASE, "plan": {"dtype": "fp8"}, "scenario": {"context": 2048}}], "search": {"max_batch": 32}}


@pytest.mark.parametrize("stacks", [(4, 12), (12, 13)])
def test_what_silicon_refuses_has_no_plan_whoever_is_beside_it(stacks: tuple[int, ...]) -> None:
    for row in rows(**SEARCHED, axes=[axis(STACKS, *stacks)]):
        if row["limit"] == "memory_edge":
            assert row["plans_tried"] == 0
            assert {row[name] for name in ("plan.tensor_parallel", "plan.data_parallel", "scenario.batch")} == {None}
        else:
            assert row["plans_tried"] > 0
            assert row["scenario.batch"] >= 1


def test_a_searched_row_says_its_plan_and_how_many_were_tried() -> None:
    found = [row for row in rows(**SEARCHED) if row["feasible"]]
    assert found
    for row in found:
        degrees = [row[f"plan.{name}_parallel"] for name in ("tensor", "pipeline", "data")]
        assert math.prod(degrees) == row["chips"] == 8
        assert row["scenario.batch"] % (row["plan.data_parallel"] * row["plan.micro_batches"]) == 0
        assert row["scenario.batch"] <= 32 * row["plan.data_parallel"]
        assert row["plans_tried"] > 10


@pytest.mark.parametrize(("maximise", "sign"), [("tokens_per_s_per_user", 1), ("tokens_per_j_chip", 1), ("mfu", 1)])
def test_what_is_maximised_is_what_the_plan_has_most_of(maximise: str, sign: int) -> None:
    best = [row[maximise] for row in rows(**SEARCHED, maximise=maximise) if row["feasible"]]
    other = [row[maximise] for row in rows(**SEARCHED) if row["feasible"]]
    assert all(sign * mine >= sign * theirs for mine, theirs in zip(best, other, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": [axis("system.chip.matrix.row", 64)]},
        {"axes": [axis(ROWS, 64.5)]},
        {"cases": [{**CASE, "workload": "llama"}]},
        {"system": "asic"},
        {"constraints": ["area <= 3"]},
        {"axis": []},
        {"axes": "all"},
    ],
)
def test_a_wrong_space_is_one_error_in_python_too(changes: Row) -> None:
    with pytest.raises(SpecError) as caught:
        table(**changes)
    assert len(str(caught.value).splitlines()) == 1


LENGTHS = ["scenario.context", "scenario.capacity"]
POWERS = ["system.chip.power.limit", "system.chip.power.idle"]


@pytest.mark.parametrize(
    ("axes", "scenario"),
    [
        ([axis("scenario.capacity", 1024, 4096)], {"batch": 64, "context": 512}),
        ([axis(LENGTHS, [256, 512], [512, 1024])], {"batch": 64}),
        ([axis("scenario.context", 512, 1024)], {"batch": 64, "capacity": 1024}),
        ([axis(POWERS, [100, 50], [900, 200])], {"batch": 64}),
    ],
)
def test_what_is_set_together_is_read_together(axes: list[Row], scenario: Row) -> None:
    found = rows(axes=axes, cases=[{**CASE, "scenario": scenario}])
    assert [row["feasible"] for row in found] == [True, True]


@pytest.mark.parametrize(
    "axes",
    [
        # A step that reads 4,096 tokens of which memory holds 2,048; a chip that idles above its limit.
        [axis("scenario.context", 2048, 4096), axis("scenario.capacity", 4096, 2048)],
        [axis("system.chip.power.limit", 800, 130), axis("system.chip.power.idle", 50, 200)],
    ],
)
def test_a_combination_that_an_estimate_refuses_is_never_a_row(axes: list[Row]) -> None:
    with pytest.raises(SpecError):
        rows(axes=axes)


def test_progress_is_told_part_by_part() -> None:
    told: list[tuple[int, int, str]] = []
    cosim.sweep({**SPACE, "cases": [CASE, CASE]}, progress=lambda *step: told.append(step))
    assert told == [(0, 2, "llama-3.1-8b"), (1, 2, "llama-3.1-8b")]
