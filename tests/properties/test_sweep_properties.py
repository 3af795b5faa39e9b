"""What must hold of every sweep: a row is the estimate of its design, however it is cut, ordered and constrained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cosim
from cosim.engines.analytic import BREAKDOWN
from cosim.errors import InfeasibleError
from cosim.explore.metrics import DIE_METRICS, METRICS
from cosim.explore.request import estimate_request
from cosim.mapping.legal import LIMITS

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Row = dict[str, Any]
NUMBERS = (
    *METRICS,
    *DIE_METRICS,
    *(f"breakdown_s.{name}" for name in BREAKDOWN),
    "memory_bytes.total",
    "memory_bytes.kv",
)
OF_PLAN = {limit.name for limit in LIMITS[1:]}
CLOCKS = ["system.chip.matrix.clock", "system.chip.vector.clock", "system.chip.memory.scratch.clock"]
Axis = tuple[str | list[str], list[Any]]
EVERY: list[Axis] = [
    ("system.chip.memory.dram.pin_rate", ["4 Gb/s", "8 Gb/s", 9e8]),
    ("system.chip.quality.matmul", [0.4, 0.8]),
    ("system.nodes", [1, 2]),
    ("system.chip.launch.gap", ["0.2 us", "2 us"]),
    ("workload.layers", [4, 32]),
    ("scenario.batch", [8, 24, 64]),
    ("scenario.context", [512, 4096, 300_000]),
    ("plan.tensor_parallel", [2, 3, 8]),
]
ARRAYS: list[Axis] = [
    ("system.chip.matrix.rows", [32, 96, 128, 256]),
    ("system.chip.matrix.arrays", [1, 2, 6]),
    ("system.chip.matrix.shadow_weights", [True, False]),
]
AXES: dict[str, list[Axis]] = {
    "asic-8": [
        *EVERY,
        *ARRAYS,
        (CLOCKS, ["1.25 GHz", "2 GHz"]),
        ("system.chip.memory.dram.stacks", [2, 6, 9]),
        ("system.chip.memory.scratch.capacity", ["2 MiB", "8 MiB"]),
        ("system.chip.links.scale_up.rate", ["12.5 GB/s", "100 GB/s"]),
        ("system.chip.die.node", ["TSMC N7", "TSMC N3E"]),
        ("plan.dtype", ["bf16", "fp8"]),
    ],
    "dgx-h100": [
        *EVERY,
        ("system.chip.cores", [96, 132]),
        ("system.chip.memory.cache.capacity", ["20 MiB", "80 MiB"]),
        ("plan.dtype", ["bf16", "fp8"]),
    ],
    "tpu-v5p-8": [*EVERY, *ARRAYS],
}
SERVING_ONLY = ("scenario.batch", "plan.dtype")
SOME = st.sampled_from([2, 8])
OF_SILICON = ("tdp_w", "area_mm2")
CONSTRAINTS = ["tdp_w <= 800", "area_mm2 <= 700", "time_s <= 20 ms", "tokens_per_s_per_user >= 30", "mfu >= 0.01"]


@st.composite
def spaces(draw: st.DrawFn) -> Row:
    """A sweep of one to three axes, each of some of its values, with a plan that is given."""
    system = draw(st.sampled_from(sorted(AXES)))
    phase = draw(st.sampled_from(["decode", "prefill", "train"]))
    trains = phase == "train"
    pool = [axis for axis in AXES[system] if not trains or axis[0] not in SERVING_ONLY]
    degrees = (
        {"tensor_parallel": 2, "data_parallel": 4} if trains else {"tensor_parallel": draw(SOME), "data_parallel": 1}
    )
    size = {"global_batch": 16} if trains else {"batch": draw(st.sampled_from([4, 32]))}
    chosen = draw(st.lists(st.sampled_from(range(len(pool))), unique=True, min_size=1, max_size=3))
    axes = [
        {
            "path": pool[at][0],
            "values": draw(st.lists(st.sampled_from(pool[at][1]), unique=True, min_size=1, max_size=3)),
        }
        for at in chosen
    ]
    # What is unknown of the chip or phase is refused: see the tests of `cosim.explore.sweep_inputs`.
    known = system != "tpu-v5p-8"
    constraints = [
        text
        for text in CONSTRAINTS
        if (known or not text.startswith(OF_SILICON)) and not (trains and text.startswith("tokens_per_s_per_user"))
    ]
    return {
        "system": system,
        "cases": [
            {
                "workload": draw(st.sampled_from(["llama-3.1-8b", "mixtral-8x7b"])),
                "phase": phase,
                "plan": degrees,
                "scenario": {**size, "context": 2048},
            }
        ],
        "axes": axes,
        "power": draw(st.sampled_from(["given", "derived"] if known else ["given"])),
        "silicon": draw(st.booleans()),
        "constraints": draw(st.lists(st.sampled_from(constraints), unique=True, max_size=2)),
    }


def rows(space: Row) -> list[Row]:
    return list(cosim.sweep(space).to_pylist())


def paths(space: Row) -> list[str]:
    names = [axis["path"] if isinstance(axis["path"], list) else [axis["path"]] for axis in space["axes"]]
    return [path for linked in names for path in linked]


def asked(space: Row, row: Row) -> Row:
    """The overrides of one design: its case, its axes, its own power."""
    case = space["cases"][row["case"]]
    changes = {f"{root}.{name}": value for root in ("plan", "scenario") for name, value in case[root].items()}
    changes |= {path: row[path] for path in paths(space)}
    changes |= {path: changes[path] == "True" for path in changes if path.endswith("shadow_weights")}
    if space["power"] == "derived":
        changes |= {f"system.chip.power.{name}": row[f"system.chip.power.{name}"] for name in ("limit", "idle")}
    return changes


def estimated(space: Row, row: Row) -> tuple[Row | None, str]:
    """The row that `cosim estimate` gives for the design of a row, or the limit that it breaks."""
    case = space["cases"][row["case"]]
    try:
        return estimate_request(case["phase"], space["system"], case["workload"], asked(space, row)).to_row(), ""
    except InfeasibleError as error:
        return None, error.limit


def same(one: object, other: object, rel: float = 1e-12) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=rel, abs_tol=1e-15)
    return one == other


def different(first: list[Row], second: list[Row]) -> Iterator[tuple[int, str, object, object]]:
    """Every value in which two lists of rows differ."""
    assert len(first) == len(second)
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        assert set(one) == set(other)
        yield from ((place, name, one[name], other[name]) for name in one if not same(one[name], other[name]))


@settings(max_examples=30, deadline=None)
@given(space=spaces(), data=st.data())
def test_every_row_is_the_estimate_of_its_design(space: Row, data: st.DataObject) -> None:
    found = rows(space)
    for row in data.draw(st.lists(st.sampled_from(found), min_size=1, max_size=3)):
        alone, limit = estimated(space, row)
        if alone is None:
            assert not row["feasible"]
            assert row["limit"] == limit or row["limit"] not in OF_PLAN
            continue
        assert row["limit"] not in OF_PLAN
        assert same(row["area_mm2"], alone["area_mm2"], 1e-9)
        if row["feasible"]:
            assert [name for name in NUMBERS if not same(row[name], alone[name], 1e-9)] == []
            assert row["bottleneck"] == alone["bottleneck"]


@settings(max_examples=20, deadline=None)
@given(space=spaces(), step=st.integers(1, 5))
def test_the_result_does_not_depend_on_how_it_is_cut(space: Row, step: int) -> None:
    whole = rows(space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosim.explore.sweep_run.ONE_PLAN_DESIGNS", step)
        assert next(different(whole, rows(space)), None) is None


@settings(max_examples=20, deadline=None)
@given(space=spaces(), data=st.data())
def test_the_order_of_axes_changes_the_order_of_rows_alone(space: Row, data: st.DataObject) -> None:
    axes = data.draw(st.permutations(space["axes"]))
    first, second = rows(space), rows({**space, "axes": axes})
    names = paths(space)

    def by_design(found: list[Row]) -> list[Row]:
        ordered = sorted(found, key=lambda row: [str(row[name]) for name in names])
        return [{name: value for name, value in row.items() if name != "design"} for row in ordered]

    assert next(different(by_design(first), by_design(second)), None) is None


@settings(max_examples=20, deadline=None)
@given(space=spaces())
def test_constraints_refuse_rows_and_change_no_other(space: Row) -> None:
    free, bound = rows({**space, "constraints": []}), rows(space)
    assert {row["limit"] for row in free}.isdisjoint(CONSTRAINTS)
    for before, after in zip(free, bound, strict=True):
        if after["limit"] in space["constraints"]:
            column, relation, bare = after["limit"].split()[:3]
            bound_at = 0.02 if column == "time_s" else float(bare)
            value = before[column]
            if value is not None:
                assert (value > bound_at) if relation == "<=" else (value < bound_at)
                assert after["limit_by"] == pytest.approx(abs(value - bound_at))
        elif after["feasible"]:
            assert after == before
        else:
            assert (after["limit"], after["limit_by"]) == (before["limit"], before["limit_by"])


@settings(max_examples=20, deadline=None)
@given(space=spaces())
def test_a_row_has_outputs_or_a_limit_with_its_shortfall(space: Row) -> None:
    for row in rows(space):
        known = set(METRICS) - {"chips", "tokens_per_s_per_mm2"}
        outputs = [row[name] for name in known]
        if row["feasible"]:
            assert {name for name in known if row[name] is None} == (
                {"tokens_per_s_per_user"} if row["phase"] == "train" else set()
            )
            assert (row["limit"], row["limit_unit"], row["limit_by"]) == ("", "", None)
        else:
            assert set(outputs) == {None}
            assert row["tokens_per_s_per_mm2"] is None
            assert row["limit"] != ""
            assert row["limit_by"] is None or row["limit_by"] > 0.0
        parts = sum(row[f"breakdown_s.{name}"] or 0.0 for name in BREAKDOWN)
        assert parts == pytest.approx(row["time_s"] or 0.0)


SEARCHED: Row = {
    "system": "asic-8",
    "cases": [{"workload": "mixtral-8x7b", "phase": "decode", "plan": {"dtype": "fp8"}, "scenario": {"context": 4096}}],
    "axes": [
        {"path": "system.chip.matrix.rows", "values": [64, 128]},
        {"path": "system.chip.memory.dram.stacks", "values": [1, 4, 6, 9]},
        {"path": "workload.layers", "values": [8, 32]},
    ],
    "search": {"max_batch": 16},
    "constraints": ["time_s <= 8 ms"],
    "power": "derived",
}


@pytest.mark.parametrize(("designs", "block"), [(1, 131_072), (5, 131_072), (512, 1), (512, 301), (7, 77)])
def test_a_search_does_not_depend_on_how_it_is_cut(designs: int, block: int) -> None:
    whole = rows(SEARCHED)
    assert {row["limit"] for row in whole} >= {"", "memory_edge"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosim.explore.sweep_run.SEARCHED_DESIGNS", designs)
        patch.setattr("cosim.explore.inner.BLOCK_POINTS", block)
        assert next(different(whole, rows(SEARCHED)), None) is None


@pytest.mark.parametrize("order", [(2, 1, 0, 3), (3, 0, 1, 2), (1, 3, 2, 0)])
def test_a_choice_may_be_the_first_axis_of_a_search_or_the_last(order: tuple[int, ...]) -> None:
    case = {**SEARCHED["cases"][0], "plan": {}}
    axes = [*SEARCHED["axes"], {"path": "plan.dtype", "values": ["bf16", "fp8"]}]
    space = {**SEARCHED, "cases": [case], "axes": axes}
    names = paths(space)
    found = []
    for each in (space, {**space, "axes": [axes[place] for place in order]}):
        ordered = sorted(rows(each), key=lambda row: [str(row[name]) for name in names])
        found.append([{name: value for name, value in row.items() if name != "design"} for row in ordered])
    assert next(different(*found), None) is None
