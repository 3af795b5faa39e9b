"""Sweeps from the command line: runs and their pages, every printed command, the shipped sweep whole."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cosim import library
from cosim.cli.main import main
from cosim.explore.metrics import DIE_METRICS, METRICS
from cosim.explore.store import read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Call = Callable[..., tuple[int, str, str]]
Row = dict[str, Any]
ROWS, STACKS, ARRAYS = "system.chip.matrix.rows", "system.chip.memory.dram.stacks", "system.chip.matrix.arrays"
SWEEP = f"""\
kind: sweep
question: Which of a few designs serves a small model best?
system: asic-8
axes:
  - {{path: {ROWS}, values: [64, 128]}}
  - {{path: {STACKS}, values: [4, 6]}}
cases:
  - workload: llama-3.1-8b
    phase: decode
    plan: {{tensor_parallel: 8, dtype: fp8}}
    scenario: {{batch: 64, context: 2048}}
"""
FIRST = f"path: {ROWS}, values: [64, 128]"
CASE = "{tensor_parallel: 8, dtype: fp8}\n    scenario: {batch: 64, context: 2048}"
# What is changed in the file, and what is asked beside it.
VARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "as it is": (),
    "derived power": (("system: asic-8", "system: asic-8\npower: derived"),),
    "a search": ((CASE, "{dtype: fp8}\n    scenario: {context: 2048}\nsearch: {max_batch: 32}\npower: derived"),),
    "a search with experts": (
        ("llama-3.1-8b", "mixtral-8x7b"),
        (CASE, "{dtype: fp8}\n    scenario: {context: 2048, expert_imbalance: 0.2}\nsearch: {max_batch: 8}"),
    ),
    "formats": ((FIRST, "path: plan.dtype, values: [bf16, fp8]"), (", dtype: fp8", "")),
    "a flag": ((FIRST, "path: system.chip.matrix.shadow_weights, values: [true, false]"),),
    "linked clocks": (
        (FIRST, "path: [system.chip.matrix.clock, system.chip.vector.clock], from: 1 GHz, to: 1.9 GHz, count: 3"),
    ),
    "nodes and tiers by name": (
        (FIRST, "path: system.nodes, values: [1, 2]"),
        (STACKS + ", values: [4, 6]", "system.tiers.node.latency, values: [1 us, 0.35 us]"),
    ),
    "layers and batch": (
        (FIRST, "path: workload.layers, values: [8, 20]"),
        (STACKS + ", values: [4, 6]", "scenario.batch, values: [8, 48]"),
    ),
    "a capacity beyond the context": ((FIRST, "path: scenario.capacity, values: [4096, 8192]"),),
    "prefill": (("decode", "prefill"), ("batch: 64", "batch: 2")),
    "training": (
        ("decode", "train"),
        (CASE, "{tensor_parallel: 2, data_parallel: 4, recompute: full}\n    scenario: {global_batch: 16}"),
    ),
    "a collective algorithm": (("dtype: fp8", "dtype: fp8, algorithm.all_reduce: ring"),),
    "collective algorithms": ((FIRST, "path: plan.algorithm.all_reduce, values: [ring, direct]"),),
    "a form of attention": (
        ("llama-3.1-8b", "deepseek-v3"),
        ("{tensor_parallel: 8, dtype: fp8}", "{tensor_parallel: 8, dtype: fp8, latent: expanded}"),
    ),
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sweep in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SWEEP, encoding="utf-8")
    return Path("mine.yaml")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a second."""
    monkeypatch.setattr("cosim.report.page.report_run", lambda folder: folder)


def alike(one: object, other: object) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)
    return one == other


def differences(call: Call, row: Row) -> list[str]:
    """Columns in which the command of a row gives another value than the row has."""
    words = shlex.split(row["command"])
    assert words[0] == "cosim"
    code, out, err = call(*words[1:], "--json", "-")
    assert code == 0, err
    again = json.loads(out)
    # What a sweep alone has, how it was found, and what it does not name.
    own = {"command", "design", "case", "point_id", "plans_tried", "quality", "system", "workload"}
    names = [name for name in again if name in row and name not in own]
    assert {*METRICS, *DIE_METRICS, "bottleneck", "memory_bytes.total"} <= set(names)
    return [name for name in names if not alike(row[name], again[name])]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_printed_command_makes_its_row_again(call: Call, mine: Path, variant: str) -> None:
    text = SWEEP
    for old, new in VARIANTS[variant]:
        assert old in text
        text = text.replace(old, new)
    mine.write_text(text, encoding="utf-8")
    code, out, err = call("run", mine, "--json", "-")
    assert code == 0, err
    for case in json.loads(out)["cases"]:
        assert case["best"] is not None
        for row in (case["best"], *case["front"][:2]):
            assert differences(call, row) == []


@pytest.mark.usefixtures("no_figures")
def test_overrides_of_a_run_are_in_its_commands(call: Call, mine: Path) -> None:
    sets = (
        "system.chip.memory.dram.pin_rate=8 Gb/s",
        "scenario.context=1000",
        "plan.tensor_parallel=4",
        "system.nodes=2",
    )
    code, out, _ = call("run", mine, *itertools.chain(*(("--set", each) for each in sets)), "--json", "-")
    best = json.loads(out)["cases"][0]["best"]
    assert code == 0
    assert (best["scenario.context"], best["plan.tensor_parallel"]) == (1000, 4)
    assert differences(call, best) == []


def test_a_run_tells_its_question_its_count_a_sentence_a_case_and_its_page(call: Call, mine: Path) -> None:
    code, out, err = call("run", mine)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "Which of a few designs serves a small model best?"
    assert lines[1] == "4 designs, 3 of 4 points feasible"
    best = "best of 3 feasible designs has tokens_per_s_per_chip"
    assert lines[2].startswith(f"  llama-3.1-8b decode, asic-8 (estimated): {best}")
    assert "asic-8 (estimated) as it is" in lines[2]
    assert lines[3].startswith("4 points, 3 feasible, ")
    assert lines[-1] == "page: runs/mine/report.html"
    assert lines[2].strip() in Path("runs/mine/report.html").read_text(encoding="utf-8")
    assert err.splitlines()[0].startswith("[0/1] 4 designs x 1 cases")
    assert {path.name for path in Path("runs/mine").iterdir()} == {
        "figures", "report.html", "results.parquet", "run.json"
    }  # fmt: skip
    code, again, _ = call("report", "runs/mine")
    assert (code, again) == (0, "page: runs/mine/report.html\n")


@pytest.mark.usefixtures("no_figures")
def test_a_run_as_json_goes_where_it_is_told(call: Call, mine: Path) -> None:
    code, out, _ = call("run", mine, "--out", "there", "--jobs", 1, "--json", "-")
    told, content = json.loads(out), read_run(Path("there"))
    assert code == 0
    assert {name: told[name] for name in content} == content
    assert (told["run"], told["page"]) == ("there", "there/report.html")
    assert told["bottom_line"] == "4 designs, 3 of 4 points feasible"


@pytest.mark.usefixtures("no_figures")
def test_a_killed_run_is_resumed_by_the_command(call: Call, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosim.report.page.report_run", lambda _folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("run", mine, "--out", "there")
    assert not Path("there").exists()
    monkeypatch.setattr("cosim.report.page.report_run", lambda folder: folder)
    monkeypatch.setattr("cosim.explore.sweep_run.run_part", lambda *_: 1 / 0)
    code, out, _ = call("run", mine, "--out", "there", "--resume")
    assert (code, out.splitlines()[-1]) == (0, "page: there/report.html")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("matrix.rows", "matrix.row", "mine.yaml:5: system.chip.matrix.row: unknown path; nearest:"),
        ("[64, 128]", "[64, 100.5]", "must be a whole number"),
        ("asic-8", "maia-200-4", "is known by its peaks only"),
        ("cases:", "constraints: [time <= 1 s]\ncases:", "names no number of a result"),
        ("cases:", "heat_map: [a, b]\ncases:", "is on no axis"),
    ],
)
def test_a_bad_sweep_is_one_message_and_leaves_nothing(
    refused: Callable[[tuple[str, ...]], str], tmp_path: Path, old: str, new: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP.replace(old, new), encoding="utf-8")
    assert message in refused(("run", "mine.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_jobs_are_a_whole_number_of_processes(call: Call, mine: Path, jobs: str) -> None:
    code, out, err = call("run", mine, "--jobs", jobs)
    assert (code, out) == (2, "")
    assert "--jobs" in err
    assert not Path("runs").exists()


@pytest.mark.usefixtures("no_figures")
def test_the_shipped_search_runs_on_a_part_of_its_grid(call: Call, mine: Path) -> None:
    text = library.find("experiments", "asic-search").read_text(encoding="utf-8")
    for long, short in (
        ("[32, 64, 128, 256]", "[128]"),
        ("[1, 2, 4]", "[1, 2]"),
        ("from: 4, to: 7, count: 4", "values: [4, 6]"),
        ("from: 4 MiB, to: 16 MiB, scale: powers_of_two", "values: [8 MiB]"),
        ("[12.5 GB/s, 25 GB/s, 50 GB/s, 100 GB/s]", "[50 GB/s]"),
        ("from: 1.25 GHz\n    to: 2.25 GHz\n    count: 5", "values: [1.75 GHz]"),
    ):
        assert long in text
        text = text.replace(long, short)
    mine.write_text(text, encoding="utf-8")
    code, out, _ = call("run", mine, "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert (found["searched"], found["designs"], found["points"]) == (True, 4, 8)
    for case in found["cases"]:
        assert case["best"]["plans_tried"] > 10
        assert case["best"]["time_s"] <= 0.05
        assert differences(call, case["best"]) == []


def quietly(line: str, folder: Path) -> tuple[int, str]:
    """Exit code and standard output of a command, run in this process and in `folder`."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setattr(sys, "argv", shlex.split(line))
        with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as done:
            main()
    return int(done.value.code or 0), out.getvalue()


@pytest.fixture(scope="session")
def shipped_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """`cosim run asic-sweep` once for all workers: what it printed, and its run folder."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    answer = shared / "asic-sweep.json"
    with (shared / "asic-sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.is_file():
            code, out = quietly("cosim run asic-sweep --out asic-sweep", shared)
            answer.write_text(json.dumps([code, out]), encoding="utf-8")
    code, out = json.loads(answer.read_text(encoding="utf-8"))
    assert code == 0
    return out, shared / "asic-sweep"


@pytest.mark.slow
def test_the_shipped_sweep_evaluates_every_design_and_prints_what_it_found(shipped_sweep: tuple[str, Path]) -> None:
    out, folder = shipped_sweep
    content = read_run(folder)
    assert (content["designs"], content["points"]) == (112_500, 225_000)
    assert f"112,500 designs, {content['feasible_points']:,} of 225,000 points feasible" in out
    assert [case["designs"] for case in content["cases"]] == [112_500] * 2
    assert sum(case["feasible"] for case in content["cases"]) == content["feasible_points"] > 10_000
    page = (folder / "report.html").read_text(encoding="utf-8").replace("&lt;", "<")
    question, _, *sentences = out.splitlines()[:4]
    assert [line for line in (question, *sentences) if line.strip() not in page] == []
    assert len(page) < 3_000_000


@pytest.mark.slow
def test_rows_of_the_shipped_sweep_are_whole_where_they_are_feasible(shipped_sweep: tuple[str, Path]) -> None:
    table = pq.read_table(shipped_sweep[1] / "results.parquet")
    units = {field.name: (field.metadata or {}).get(b"unit") for field in table.schema}
    assert (units["time_s"], units["area_mm2"], units["tdp_w"], units["energy_j"]) == (b"s", b"mm2", b"W", b"J")
    assert units["system.chip.memory.scratch.capacity"] == b"B"
    assert units["system.chip.matrix.clock"] == units["system.chip.special.clock"] == b"Hz"
    feasible = table.filter(table["feasible"])
    missing = {name for name in feasible.column_names if feasible[name].null_count}
    plans = ("micro_batch", "context_parallel", "virtual_pipeline", "zero", "shard", "recompute_layers")
    plans += ("expert_tensor_parallel",)
    plans += tuple(f"offload_{name}" for name in ("activations", "weights", "optimizer"))
    training = {*(f"plan.{name}" for name in plans), "scenario.global_batch", "scenario.adapter_rank"}
    training.add("scenario.bytes_per_sample")
    training |= {f"mfu.{name}" for name in ("model_6n", "causal", "full", "hardware")}
    assert missing == {*training, "limit_by"}
    assert pc.all(pc.less_equal(feasible["tdp_w"], 1000.0)).as_py()
    assert pc.all(pc.less_equal(feasible["time_s"], 0.05)).as_py()
    assert pc.all(pc.less_equal(feasible["area_mm2"], 858.0)).as_py()
    assert set(feasible["limit"].unique().to_pylist()) == {""}
    refused = table.filter(pc.invert(table["feasible"]))
    assert [name for name in METRICS if name != "chips" and refused[name].null_count != refused.num_rows] == []
    assert refused["limit_by"].null_count == 0


@pytest.mark.slow
def test_silicon_of_the_shipped_sweep_does_not_depend_on_the_case(shipped_sweep: tuple[str, Path]) -> None:
    content = read_run(shipped_sweep[1])
    first, second = (case["limits"] for case in content["cases"])
    for name in ("reticle", "memory_edge", "link_edge", "tdp_w <= 1000"):
        assert first[name] == second[name] > 0
    table = pq.read_table(shipped_sweep[1] / "results.parquet", columns=["case", "area_mm2", "tdp_w"])
    for name in DIE_METRICS:
        values = table[name].to_numpy()
        assert np.array_equal(values[:112_500], values[112_500:])


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1])
def test_the_best_of_the_shipped_sweep_beats_its_base_and_every_step(
    shipped_sweep: tuple[str, Path], case: int
) -> None:
    found = read_run(shipped_sweep[1])["cases"][case]
    best, front = found["best"], found["front"]
    assert best["tokens_per_s_per_chip"] > found["base"]["tokens_per_s_per_chip"]
    assert best["area_mm2"] <= 858.0
    assert len(found["steps"]) >= 7
    assert all(step["limit"] or step["change"] <= 0.0 for step in found["steps"])
    assert all(one["area_mm2"] < other["area_mm2"] for one, other in itertools.pairwise(front))
    assert front[-1]["design"] == best["design"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1])
def test_commands_of_the_shipped_sweep_make_their_rows_again(
    call: Call, shipped_sweep: tuple[str, Path], case: int
) -> None:
    found = read_run(shipped_sweep[1])["cases"][case]
    for row in (found["best"], *found["front"][::4]):
        assert differences(call, row) == []
