"""What `cosim diff` names: rows of a run as they were evaluated, systems and variants as they would be asked alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.errors import InfeasibleError, SpecError
from cosim.explore.difference import HEADLINES, Difference
from cosim.explore.difference_request import difference_of_run, difference_of_systems, difference_of_variants
from cosim.explore.request import estimate_request
from cosim.explore.run import run_study
from cosim.explore.store import read_run
from cosim.explore.studies import run_experiment
from cosim.explore.sweep_findings import read_results

pytestmark = pytest.mark.usefixtures("shipped_files_read_once", "no_mixtures")

EXACT = 1e-9
LLAMA = "llama-3.1-8b"
PLAN = {"plan.tensor_parallel": 8, "plan.dtype": "bf16", "scenario.batch": 64}
SWEEP = """\
kind: sweep
question: Which of a few designs?
system: {system}
power: {power}
axes:
{axes}
cases:
{cases}
"""
DENSE = """\
  - {workload: llama-3.1-8b, phase: decode, plan: {tensor_parallel: 8, dtype: fp8}, scenario: {batch: 64}}
"""
PREFILL = DENSE.replace("decode", "prefill")
TRAINED = """\
  - workload: llama-3.1-8b
    phase: train
    plan: {tensor_parallel: 4, data_parallel: 2, zero: 1}
    scenario: {global_batch: 32, context: 2048}
"""
LATENT = """\
  - workload: deepseek-v3
    phase: decode
    plan: {data_parallel: 8, expert_parallel: 8, dtype: mxfp4}
    scenario: {batch: 64}
"""
SEARCHED = """\
  - {workload: mixtral-8x7b, phase: decode, scenario: {context: 2000, capacity: 3000, expert_imbalance: 0.1}}
search: {max_batch: 16}
"""
ROWS = "{path: system.chip.matrix.rows, values: [64, 128]}"
STACKS = "{path: system.chip.memory.dram.stacks, values: [4, 5, 6]}"
Swept = Callable[..., Path]


@pytest.fixture(scope="module")
def no_mixtures() -> Iterator[None]:
    """Which points are compared is told by their headlines: spares most of the time, the mixtures of the machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosim.explore.difference.shares", lambda _a, _b: {})
        yield


@pytest.fixture
def swept(tmp_path: Path) -> Swept:
    """The run folder of a sweep of these axes and cases, without its page."""

    def _swept(
        *axes: str, system: str = "asic-8", power: str = "derived", cases: str = DENSE, **overrides: object
    ) -> Path:
        lines = "\n".join(f"  - {axis}" for axis in axes)
        text = SWEEP.format(system=system, power=power, axes=lines, cases=cases.rstrip("\n"))
        (tmp_path / "few.yaml").write_text(text, encoding="utf-8")
        return run_experiment(
            str(tmp_path / "few.yaml"),
            tmp_path / "run",
            overrides={path.replace("__", "."): value for path, value in overrides.items()},
            progress=lambda _done, _of, _what: None,
            report=lambda folder: folder,
            jobs=1,
        )

    return _swept


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_results(folder).to_pylist()
    return rows


def assert_of_rows(found: Difference, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Headlines are those of the rows of the run."""
    for side, row in enumerate((first, second)):
        unknown = [name for name in HEADLINES if row[name] is None]
        told = {name: pair[side] for name, pair in found.headlines.items()}
        assert [name for name, value in told.items() if value is None] == unknown
        known = {name: row[name] for name in HEADLINES if name not in unknown}
        assert {name: told[name] for name in known} == pytest.approx(known, rel=EXACT)
    ratio = second["tokens_per_s_per_chip"] / first["tokens_per_s_per_chip"]
    assert found.ratio == pytest.approx(ratio, rel=EXACT)


def assert_all_made_again(folder: Path) -> None:
    """From the first feasible row to every other: both as the run has them."""
    feasible = [row for row in rows_of(folder) if row["feasible"]]
    first = feasible[0]
    comparable = [row for row in feasible if (row["case"], row["workload"]) == (first["case"], first["workload"])]
    assert len(comparable) > 1
    for row in comparable[1:]:
        found = difference_of_run(folder, str(first["point_id"]), str(row["point_id"]))
        assert_of_rows(found, first, row)


def test_systems_are_each_at_their_best_plan() -> None:
    changes = {"scenario.batch": 32, "plan.dtype": "bf16"}
    found = difference_of_systems("dgx-h100", "mi300x-8gpu", "decode", LLAMA, changes)
    rows = [estimate_request("decode", name, LLAMA, changes).to_row() for name in ("dgx-h100", "mi300x-8gpu")]
    assert found.labels == ("dgx-h100", "mi300x-8gpu")
    assert_of_rows(found, rows[0], rows[1])


def test_variants_are_each_asked_with_their_own_changes() -> None:
    variants = (PLAN, {**PLAN, "system.chip.memory.dram.bandwidth": "6 TB/s"})
    found = difference_of_variants("dgx-h100", variants, ("base", "fast"), "decode", LLAMA)
    rows = [estimate_request("decode", "dgx-h100", LLAMA, changes).to_row() for changes in variants]
    assert found.labels == ("base", "fast")
    assert_of_rows(found, rows[0], rows[1])
    assert found.ratio > 1.1


@pytest.mark.parametrize(
    ("phase", "names", "workload", "said"),
    [
        ("decode", ("dgx-h10", "mi300x-8gpu"), LLAMA, "no system has this name .* nearest: dgx-h100"),
        ("decode", ("dgx-h100", "mi300x"), LLAMA, "no system has this name .* nearest: mi300x-8gpu"),
        ("decode", ("dgx-h100", "mi300x-8gpu"), "lama-3.1-8b", "nearest: llama-3.1-8b"),
        ("decoding", ("dgx-h100", "mi300x-8gpu"), LLAMA, "unknown phase .* nearest: decode"),
    ],
)
def test_names_that_are_not_known_are_told_with_the_nearest(
    phase: str, names: tuple[str, str], workload: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        difference_of_systems(*names, phase, workload, {})


def test_a_system_that_does_not_hold_the_model_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="memory"):
        difference_of_systems("gb200-nvl72", "dgx-h100", "decode", "deepseek-v3", {})


@pytest.fixture(scope="module")
def own_rows(small_run: Path) -> dict[str, list[dict[str, Any]]]:
    """Feasible rows of the small comparison at the chips' own kernels, by phase."""
    rows = [row for row in rows_of(small_run) if row["feasible"] and row["quality"] == "own"]
    return {phase: [row for row in rows if row["phase"] == phase] for phase in ("decode", "prefill")}


@given(phase=st.sampled_from(["decode", "prefill"]), places=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=10, deadline=None)
def test_any_two_points_of_a_comparison_are_as_they_were_evaluated(
    small_run: Path, own_rows: dict[str, list[dict[str, Any]]], phase: str, places: tuple[float, float]
) -> None:
    rows = own_rows[phase]
    first, second = (rows[round(place * (len(rows) - 1))] for place in places)
    found = difference_of_run(small_run, str(first["point_id"]), str(second["point_id"]))
    assert_of_rows(found, first, second)


def test_a_system_of_a_comparison_is_its_best_plan(small_run: Path, content: dict[str, Any]) -> None:
    entries = {entry["system"]: entry["row"] for entry in content["findings"][0]["entries"]}
    found = difference_of_run(small_run, "dgx-h100", "mi300x-8gpu")
    assert found.labels == ("dgx-h100", "mi300x-8gpu")
    assert_of_rows(found, entries["dgx-h100"], entries["mi300x-8gpu"])


def test_a_point_and_a_system_are_compared(
    small_run: Path, content: dict[str, Any], own_rows: dict[str, list[dict[str, Any]]]
) -> None:
    row = own_rows["decode"][0]
    found = difference_of_run(small_run, str(row["point_id"]), "mi300x-8gpu")
    entries = {entry["system"]: entry["row"] for entry in content["findings"][0]["entries"]}
    assert_of_rows(found, row, entries["mi300x-8gpu"])


@pytest.mark.parametrize(
    "overrides",
    [
        {"system.chip.power.limit": "300 W", "workload.max_positions": 65536},
        {"system.nodes": 2},
        {"system.tiers.0.size": 4},
    ],
)
def test_changes_of_a_run_hold_for_its_points(study_file: Path, tmp_path: Path, overrides: dict[str, Any]) -> None:
    folder = run_study(
        str(study_file),
        tmp_path / "run",
        overrides=overrides,
        progress=lambda _done, _of, _what: None,
        report=lambda out: out,
    )
    entries = {entry["system"]: entry["row"] for entry in read_run(folder)["findings"][0]["entries"]}
    found = difference_of_run(folder, "dgx-h100", "mi300x-8gpu")
    assert_of_rows(found, entries["dgx-h100"], entries["mi300x-8gpu"])


def test_a_study_of_training_is_compared_by_its_first_finding(study_text: str, tmp_path: Path) -> None:
    quality = study_text.partition("equal_quality:")[2].partition("max_batch")[0]
    text = (
        "kind: train\nquestion: Who trains faster?\nsystems: [dgx-h100, asic-8]\nchips: 16\n"
        f"runs: [{{workload: {LLAMA}, global_batch: 32, length: 1024}}]\nequal_quality:{quality}"
    )
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    folder = run_study(
        str(tmp_path / "mine.yaml"), tmp_path / "run", overrides={}, progress=lambda *_: None, report=lambda out: out
    )
    entries = {entry["system"]: entry["row"] for entry in read_run(folder)["training"][0]["entries"]}
    found = difference_of_run(folder, "dgx-h100", "asic-8")
    assert_of_rows(found, entries["dgx-h100"], entries["asic-8"])


@pytest.mark.parametrize(
    ("axes", "asked"),
    [
        ([ROWS, STACKS], {}),
        ([STACKS], {"power": "given", "cases": PREFILL, "scenario__batch": 32}),
        (["{path: plan.dtype, values: [bf16, fp8]}", "{path: workload.layers, values: [16, 32]}"], {}),
        (["{path: system.nodes, values: [1, 2]}", "{path: plan.data_parallel, values: [1, 2]}"], {}),
        (["{path: plan.recompute, values: [full, none]}", "{path: scenario.context, values: [512, 2048]}"],
         {"system": "dgx-h100", "power": "given", "cases": TRAINED}),
        ([STACKS], {"cases": SEARCHED}),
        ([STACKS], {"power": "given", "cases": DENSE, "workload__layers": 16}),
        # Limit and energies of the chip are as given, and a path among them is swept or set.
        (["{path: system.chip.power.limit, values: [200 W, 1000 W]}"], {"power": "given", "cases": PREFILL}),
        ([STACKS], {"power": "given", "cases": PREFILL, "system__chip__power__limit": "200 W"}),
        # Choices of a plan that a row has no column for.
        (["{path: plan.algorithm.all_reduce, values: [ring, direct]}"], {}),
        ([STACKS], {"cases": DENSE.replace("dtype: fp8", "dtype: fp8, algorithm.all_reduce: ring")}),
        (["{path: plan.latent, values: [absorbed, expanded]}"], {"cases": LATENT}),
    ],
    ids=[
        "structure", "given power", "formats and layers", "nodes", "training", "searched", "overridden",
        "limit swept", "limit set", "algorithm swept", "algorithm of the case", "latent attention",
    ],
)  # fmt: skip
def test_points_of_a_sweep_are_as_they_were_evaluated(swept: Swept, axes: list[str], asked: dict[str, Any]) -> None:
    assert_all_made_again(swept(*axes, **asked))


def test_the_name_of_a_workload_is_the_best_design_of_a_sweep(swept: Swept) -> None:
    folder = swept(STACKS, cases=DENSE + DENSE.replace(LLAMA, "mixtral-8x7b"))
    rows = [row for row in rows_of(folder) if row["feasible"]]
    for workload in (LLAMA, "mixtral-8x7b"):
        own = [row for row in rows if row["workload"] == workload]
        best = max(own, key=lambda row: float(row["tokens_per_s_per_chip"]))
        assert best is not own[0]
        assert_of_rows(difference_of_run(folder, str(own[0]["point_id"]), workload), own[0], best)


@pytest.mark.parametrize("asked", [{"system": "[asic-8, dgx-h100]"}, {"cases": DENSE + PREFILL}])
def test_a_workload_of_several_systems_or_phases_names_no_design(swept: Swept, asked: dict[str, str]) -> None:
    folder = swept("{path: system.chip.launch.gap, values: [1 us, 2 us]}", power="given", **asked)
    with pytest.raises(SpecError, match=f"is asked in several cases .got '{LLAMA}'.; name points by their ids"):
        difference_of_run(folder, "0", LLAMA)
    assert_all_made_again(folder)


def test_what_a_sweep_has_not_is_refused(swept: Swept) -> None:
    folder = swept("{path: system.chip.memory.dram.stacks, values: [6, 12]}")
    dead = next(row for row in rows_of(folder) if not row["feasible"])
    with pytest.raises(SpecError, match=f"is infeasible .*its limit: {dead['limit']}"):
        difference_of_run(folder, "0", str(dead["point_id"]))
    with pytest.raises(SpecError, match=r"is no point of the run \(got '2'\); it has 2 points, from 0"):
        difference_of_run(folder, "0", "2")
    with pytest.raises(SpecError, match=r"is no point of the sweep .*nearest: llama-3\.1-8b"):
        difference_of_run(folder, "lama-3.1-8b", "0")


def test_a_sweep_without_a_feasible_design_has_no_best(swept: Swept) -> None:
    folder = swept("{path: system.chip.memory.dram.stacks, values: [12, 14]}")
    with pytest.raises(SpecError, match="is no point of the sweep"):
        difference_of_run(folder, LLAMA, LLAMA)
    with pytest.raises(SpecError, match="is infeasible"):
        difference_of_run(folder, "0", "0")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a run folder"):
        difference_of_run(tmp_path, "0", "1")
    (tmp_path / "run.json").write_text('{"schema_version": 0}', encoding="utf-8")
    with pytest.raises(SpecError, match="was written by another version"):
        difference_of_run(tmp_path, "0", "1")
