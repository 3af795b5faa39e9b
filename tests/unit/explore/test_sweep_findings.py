"""Findings of a sweep against its own rows: the best, the front, what stopped the rest, steps, base, commands."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cosim.errors import SpecError
from cosim.explore.metrics import METRICS
from cosim.explore.request import estimate_request
from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment
from cosim.explore.sweep_findings import FRONT_SHOWN, points_of, read_results
from cosim.mapping.legal import LIMITS

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Row = dict[str, Any]
ROWS, STACKS, RATE = "system.chip.matrix.rows", "system.chip.memory.dram.stacks", "system.chip.links.scale_up.rate"
SWEEP = f"""\
kind: sweep
question: Which of a few designs?
system: [asic-8, tpu-v5p-8]
power: derived
axes:
  - {{path: {ROWS}, values: [32, 64, 128, 256]}}
  - {{path: {STACKS}, values: [1, 2, 4, 6, 9]}}
  - {{path: {RATE}, values: [12.5 GB/s, 50 GB/s, 200 GB/s]}}
cases:
  - workload: llama-3.1-8b
    phase: decode
    plan: {{tensor_parallel: 8, dtype: bf16}}
    scenario: {{batch: 64, context: 2048}}
  - workload: llama-3.1-8b
    phase: prefill
    plan: {{tensor_parallel: 8, dtype: bf16}}
    scenario: {{batch: 1, context: 2048}}
constraints: [tdp_w <= 800, time_s <= 40 ms]
"""
# tpu-v5p has no stacks of its own to vary.
ASIC = SWEEP.replace("[asic-8, tpu-v5p-8]", "asic-8")
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A sweep of this text without figures."""

    def _run(text: str, **overrides: Any) -> Path:
        folder = tmp_path_factory.mktemp("sweep")
        (folder / "mine.yaml").write_text(text, encoding="utf-8")
        changes = {path.replace("__", "."): value for path, value in overrides.items()}
        name = str(folder / "mine.yaml")
        return run_experiment(
            name, folder / "out", overrides=changes, progress=lambda *_: None, report=lambda each: each
        )

    return _run


@pytest.fixture(scope="module")
def folder(run: Run) -> Path:
    return run(ASIC)


@pytest.fixture(scope="module")
def found(folder: Path) -> Row:
    return read_run(folder)


def rows_of(folder: Path, case: int) -> list[Row]:
    return [row for row in pq.read_table(folder / "results.parquet").to_pylist() if row["case"] == case]


def number(row: Row, name: str) -> float:
    return float("-inf") if row[name] is None else float(row[name])


def test_what_was_asked_stands_beside_what_was_found(found: Row) -> None:
    assert [axis["paths"] for axis in found["axes"]] == [[ROWS], [STACKS], [RATE]]
    assert found["axes"][0]["levels"] == [32, 64, 128, 256]
    assert found["axes"][2]["levels"] == [12.5e9, 50e9, 200e9]
    assert [axis["shown"] for axis in found["axes"]] == [ROWS, STACKS, RATE]
    silicon_then_design = ["reticle", "memory_edge", "link_edge", "tdp_w <= 800"]
    assert found["limit_order"] == [*silicon_then_design, *(limit.name for limit in LIMITS[1:]), "time_s <= 40 ms"]
    assert (found["heat_map"], found["maximise"], found["searched"]) == ([ROWS, STACKS], "tokens_per_s_per_chip", False)
    assert (found["constraints"], found["power"]) == (["tdp_w <= 800", "time_s <= 40 ms"], "derived")
    assert found["units"][RATE] == "B/s"
    assert [(case["workload"], case["phase"], case["system"]) for case in found["cases"]] == [
        ("llama-3.1-8b", "decode", "asic-8"),
        ("llama-3.1-8b", "prefill", "asic-8"),
    ]


@pytest.mark.parametrize("case", [0, 1])
def test_the_best_is_the_most_of_what_is_feasible(folder: Path, found: Row, case: int) -> None:
    rows, best = rows_of(folder, case), found["cases"][case]["best"]
    feasible = [row for row in rows if row["feasible"]]
    assert found["cases"][case]["feasible"] == len(feasible) > 5
    assert found["cases"][case]["designs"] == len(rows) == 60
    assert best["tokens_per_s_per_chip"] == max(number(row, "tokens_per_s_per_chip") for row in feasible)
    own = next(row for row in rows if row["design"] == best["design"])
    assert {name: best[name] for name in METRICS} == pytest.approx({name: own[name] for name in METRICS})


def test_of_designs_that_are_worth_the_same_the_smallest_is_the_best(run: Run) -> None:
    text = ASIC.replace(f"path: {ROWS}, values: [32, 64, 128, 256]",
                        "path: system.chip.vector.registers, values: [512 KiB, 128 KiB, 256 KiB]")  # fmt: skip
    for case in read_run(run(text))["cases"]:
        assert case["best"]["system.chip.vector.registers"] == 128 * 1024
        step = next(step for step in case["steps"] if step["path"] == "system.chip.vector.registers")
        assert step["change"] == 0.0
        assert step["area_mm2"] > 0.0


@pytest.mark.parametrize("case", [0, 1])
def test_limits_are_counted_most_frequent_first(folder: Path, found: Row, case: int) -> None:
    counted = Counter(row["limit"] for row in rows_of(folder, case) if not row["feasible"])
    limits = found["cases"][case]["limits"]
    assert limits == dict(counted)
    assert list(limits.values()) == sorted(limits.values(), reverse=True)
    assert {"memory_edge", "link_edge", "tdp_w <= 800"} <= set(limits)


@pytest.mark.parametrize("case", [0, 1])
def test_the_front_is_what_no_feasible_design_beats_in_area_and_rate(folder: Path, found: Row, case: int) -> None:
    feasible = [row for row in rows_of(folder, case) if row["feasible"]]
    pairs = [(row["area_mm2"], row["tokens_per_s_per_chip"]) for row in feasible]
    front = [(row["area_mm2"], row["tokens_per_s_per_chip"]) for row in found["cases"][case]["front"]]
    for area, rate in front:
        assert not any(a <= area and r >= rate and (a < area or r > rate) for a, r in pairs)
    assert all(a < b and x < y for (a, x), (b, y) in itertools.pairwise(front))
    assert 2 <= len(front) <= FRONT_SHOWN
    best, smallest = found["cases"][case]["best"], min(pairs)
    assert front[-1][1] == best["tokens_per_s_per_chip"]
    assert front[0][0] == smallest[0]


def test_a_long_front_is_thinned_with_both_ends(run: Run) -> None:
    text = ASIC.replace("values: [32, 64, 128, 256]", "from: 32, to: 128, count: 33").replace("rows,", "columns,")
    content = read_run(run(text))
    for case in content["cases"]:
        areas = [row["area_mm2"] for row in case["front"]]
        assert len(areas) == FRONT_SHOWN
        assert areas == sorted(set(areas))
        assert case["front"][-1]["tokens_per_s_per_chip"] == case["best"]["tokens_per_s_per_chip"]


@pytest.mark.parametrize("case", [0, 1])
def test_steps_go_one_level_down_and_up_from_the_best(folder: Path, found: Row, case: int) -> None:
    rows, best = rows_of(folder, case), found["cases"][case]["best"]
    steps = found["cases"][case]["steps"]
    levels = {axis["paths"][0]: axis["levels"] for axis in found["axes"]}
    expected = []
    for path, values in levels.items():
        at = values.index(best[path])
        expected += [(path, values[at + side]) for side in (-1, 1) if 0 <= at + side < len(values)]
    assert [(step["path"], step["to"]) for step in steps] == expected
    for step in steps:
        there = next(
            row for row in rows if all(row[p] == (step["to"] if p == step["path"] else best[p]) for p in levels)
        )
        assert (step["from"], step["limit"]) == (best[step["path"]], there["limit"])
        assert step["up"] == (step["to"] > step["from"])
        assert step["area_mm2"] == pytest.approx(there["area_mm2"] - best["area_mm2"])
        if there["feasible"]:
            assert step["change"] == pytest.approx(there["tokens_per_s_per_chip"] / best["tokens_per_s_per_chip"] - 1)
            assert step["change"] <= 0.0
        else:
            assert step["change"] is None
    assert {step["limit"] for step in steps} > {""}


@pytest.mark.parametrize(
    "changes",
    [
        (("power: derived\n", ""), ("tdp_w <= 800, ", "")),
        (),
        (("tdp_w <= 800, time_s <= 40 ms", "tdp_w <= 780, time_s <= 1 s, area_mm2 <= 700"),),
    ],
)
def test_the_base_is_the_system_as_its_file_has_it(run: Run, changes: tuple[tuple[str, str], ...]) -> None:
    text = ASIC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    content = read_run(run(text))
    asked = {"plan.tensor_parallel": 8, "plan.dtype": "bf16", "scenario.batch": 64, "scenario.context": 2048}
    alone = estimate_request("decode", "asic-8", "llama-3.1-8b", asked).to_row()
    base = content["cases"][0]["base"]
    for name in METRICS:
        assert base[name] == pytest.approx(alone[name], rel=1e-12), name
    assert (base["system.chip.power.limit"], base["system.chip.power.idle"]) == (800, 120)
    assert (base["feasible"], base["limit"]) == (True, "")


def test_overrides_change_the_base_and_stand_in_the_commands(run: Run) -> None:
    content = read_run(run(ASIC, system__chip__memory__dram__pin_rate="8 Gb/s", scenario__context=1024))
    case = content["cases"][0]
    assert case["base"]["scenario.context"] == 1024
    assert "system.chip.memory.dram.pin_rate=8 Gb/s" in shlex.split(case["best"]["command"])


def test_a_base_whose_plan_does_not_fit_is_said_to_be_infeasible(run: Run) -> None:
    text = ASIC.replace("tensor_parallel: 8, ", "").replace("llama-3.1-8b", "llama-3.1-405b")
    for case in read_run(run(text))["cases"]:
        assert case["base"]["limit"] == "memory"
        assert case["base"]["tokens_per_s_per_chip"] is None
        assert (case["best"], case["front"], case["steps"]) == (None, [], [])


@pytest.mark.parametrize(
    "axis",
    ["plan.tensor_parallel, values: [8, 16]", "scenario.batch, values: [2, 4]", "workload.layers, values: [8, 16]"],
)
def test_axes_that_change_what_is_asked_leave_no_base(run: Run, axis: str) -> None:
    content = read_run(run(ASIC.replace(f"path: {ROWS}, values: [32, 64, 128, 256]", f"path: {axis}")))
    assert [case["base"] for case in content["cases"]] == [None, None]
    assert [case["best"] is not None for case in content["cases"]] == [True, True]
    if "tensor_parallel" in axis:
        assert {case["limits"].get("chips", 0) for case in content["cases"]} != {0}


def test_a_case_that_an_axis_completes_is_swept_though_the_base_is_not_whole_without_it(run: Run) -> None:
    text = ASIC.replace("{batch: 64, context: 2048}", "{batch: 64, capacity: 1024}").replace(
        f"path: {ROWS}, values: [32, 64, 128, 256]", "path: scenario.context, values: [512, 1024]"
    )
    content = read_run(run(text.replace("batch: 1, context: 2048", "batch: 1")))
    assert [case["feasible"] > 0 for case in content["cases"]] == [True, True]
    assert [case["base"] for case in content["cases"]] == [None, None]


def test_commands_name_every_axis_and_the_designs_own_power(found: Row) -> None:
    for case in found["cases"]:
        for row in (case["best"], *case["front"]):
            words = shlex.split(row["command"])
            assert words[:3] == ["cosim", "estimate", case["phase"]]
            sets = dict(word.split("=", 1) for flag, word in itertools.pairwise(words) if flag == "--set")
            for path in (ROWS, STACKS, RATE, "system.chip.power.limit", "system.chip.power.idle"):
                assert float(sets[path]) == row[path]
            assert sets["plan.dtype"] == "bf16"


def test_an_axis_of_one_design_has_no_steps(run: Run) -> None:
    text = ASIC.replace("values: [32, 64, 128, 256]", "values: [64]").replace("values: [1, 2, 4, 6, 9]", "values: [4]")
    content = read_run(run(text.replace("values: [12.5 GB/s, 50 GB/s, 200 GB/s]", "values: [50 GB/s]")))
    assert [case["steps"] for case in content["cases"]] == [[], []]
    assert [len(case["front"]) for case in content["cases"]] == [1, 1]


def test_steps_between_choices_have_no_direction(run: Run) -> None:
    text = ASIC.replace(", dtype: bf16", "").replace(f"path: {ROWS}, values: [32, 64, 128, 256]",
                                                     "path: plan.dtype, values: [bf16, fp8]")  # fmt: skip
    content = read_run(run(text))
    (step,) = [step for step in content["cases"][0]["steps"] if step["path"] == "plan.dtype"]
    assert (step["from"], step["to"], step["up"]) == ("fp8", "bf16", None)
    assert step["change"] < 0.0


def test_linked_paths_step_once_under_their_first_name(run: Run) -> None:
    linked = f"[{ROWS}, system.chip.matrix.columns]"
    content = read_run(run(ASIC.replace(f"path: {ROWS}", f"path: {linked}").replace("256]}", "[256, 64]]}")))
    assert content["axes"][0] == {
        "paths": [ROWS, "system.chip.matrix.columns"],
        "shown": ROWS,
        "levels": [32, 64, 128, 256],
    }
    steps = [step["path"] for step in content["cases"][0]["steps"]]
    assert set(steps) <= {ROWS, STACKS, RATE}
    sets = shlex.split(content["cases"][0]["best"]["command"])
    assert any(word.startswith("system.chip.matrix.columns=") for word in sets)


def test_linked_paths_are_named_by_the_first_that_changes(run: Run) -> None:
    columns = "system.chip.matrix.columns"
    text = ASIC.replace(f"path: {ROWS}, values: [32, 64, 128, 256]",
                        f"path: [{ROWS}, {columns}], values: [[64, 32], [64, 64], [64, 128]]")  # fmt: skip
    content = read_run(run(text))
    assert content["axes"][0] == {"paths": [ROWS, columns], "shown": columns, "levels": [32, 64, 128]}
    assert content["heat_map"] == [columns, STACKS]
    for case in content["cases"]:
        steps = [step for step in case["steps"] if step["path"] not in (STACKS, RATE)]
        assert {step["path"] for step in steps} == {columns}
        assert {step["from"] for step in steps} == {case["best"][columns]}
        assert all(step["up"] == (step["to"] > step["from"]) for step in steps)


def test_unknown_areas_are_warned_of_and_leave_no_front(run: Run) -> None:
    text = ASIC.replace("asic-8", "tpu-v5p-8").replace(f"path: {STACKS}, values: [1, 2, 4, 6, 9]",
                                                       "path: system.nodes, values: [1, 2]")  # fmt: skip
    content = read_run(run(text.replace("tdp_w <= 800, ", "").replace("power: derived\n", "")))
    assert any("no area is known of ICI" in warning and "tpu-v5p" in warning for warning in content["warnings"])
    for case in content["cases"]:
        assert case["best"]["area_mm2"] is None
        assert case["front"] == []
        assert case["feasible"] > 0
        assert {step["area_mm2"] for step in case["steps"]} == {None}


def test_every_assumption_is_listed_with_its_source(found: Row) -> None:
    assert set(found["assumptions"]) == {"asic-8", "llama-3.1-8b", "silicon"}
    assert [row for rows in found["assumptions"].values() for row in rows if not row["source"]] == []
    assert found["silicon"][0] == "reticle field 858 mm2"
    assert any("estimated" in warning for warning in found["warnings"])


def test_silicon_that_does_not_bind_is_not_said_to(run: Run) -> None:
    content = read_run(run(ASIC + "silicon: false\n"))
    assert content["silicon"] == []
    assert {"memory_edge", "link_edge", "reticle"}.isdisjoint(content["cases"][0]["limits"])


def test_points_are_those_of_one_case_and_system(folder: Path) -> None:
    table = read_results(folder)
    points = points_of(table, 1, "asic-8")
    assert points.rows.tolist() == list(range(60, 120))
    assert points.number("design").tolist() == list(range(60))
    assert set(points.words("phase")) == {"prefill"}
    assert points.at(3)["design"] == 3
    assert np.isnan(points.number("time_s")).sum() == (points.words("limit") != "").sum()
    assert points_of(table, 0, "another").rows.size == 0


def test_missing_results_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="run the experiment again"):
        read_results(tmp_path)
    (tmp_path / "results.parquet").write_text("not a table")
    with pytest.raises(SpecError, match="run the experiment again"):
        read_results(tmp_path)
