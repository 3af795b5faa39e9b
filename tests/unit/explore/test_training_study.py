"""Studies that train: equal chips, equal power, what a run holds, and that its winners can be asked for again.

One file for one study: its goals, blocks, runs and refusals share their fixtures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.engines.analytic import Estimates
from cosim.errors import SpecError
from cosim.explore import compare
from cosim.explore.compare import QUALITIES, Block
from cosim.explore.experiment import Train, TrainingStudy, load_study
from cosim.explore.request import estimate_request
from cosim.explore.run import read_inputs
from cosim.explore.store import content_hash, read_run
from cosim.explore.training_study import (
    _round_count,
    nodes_of,
    provisioned_w,
    training_blocks,
    training_goals,
    with_nodes,
)
from cosim.hardware.load import load_system
from cosim.hardware.vary import vary_system
from cosim.overrides import Varied
from cosim.records import points
from cosim.workload.load import load_model
from cosim.workload.model import lower_model

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

STUDY = """\
kind: train
question: Which of two machines trains a small model?
systems: [dgx-h100, asic-8]
chips: 16
runs:
  - {workload: llama-3.1-8b, global_batch: 16, length: 2048}
equal_quality:
  {matmul: 0.75, attention: 0.5, memory: 0.82, collective: 0.8, launch_gap: 2 us, collective_start: 5 us, source: ours}
"""
PART = """\
training:
  systems: [dgx-a100, asic-8]
  chips: 8
  runs:
    - {workload: megatron-22b, global_batch: 8, length: 1024}
    - {workload: llama-3.1-8b, global_batch: 8, length: 1024}
  software: megatron-2022
"""
BLOCKS = 2 * 2 * 4  # two systems, equal chips and equal power, four qualities
CHANGING = {"elapsed_s", "points_per_s"}
PLAN = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "micro_batch",
    "virtual_pipeline",
    "zero",
    "recompute",
    "sequence_parallel",
    "dtype",
    "software",
)
Start = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "mine.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(file: Path, start: Start) -> Path:
    """The run of the study, never disturbed."""
    return start(file, file.parent / "whole")


@pytest.fixture(scope="module")
def ran(whole: Path) -> dict[str, Any]:
    return read_run(whole)


def changed(folder: Path, *pairs: tuple[str, str]) -> Path:
    """The study with these texts replaced."""
    text = STUDY
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder / "mine.yaml"


def study_of(folder: Path, *pairs: tuple[str, str]) -> Train:
    found = load_study(str(changed(folder, *pairs))).experiment
    assert isinstance(found, Train)
    return found


def blocks_of(study: Train) -> list[Block]:
    systems = {name: Varied(load_system(name)) for name in study.systems}
    models = {run.workload: lower_model(Varied(load_model(run.workload))) for run in study.runs}
    return list(training_blocks(study, systems, models, study.equal_quality))


# Chips and power.


@pytest.mark.parametrize(
    ("name", "chips", "nodes"), [("dgx-h100", 8, 1), ("dgx-h100", 1024, 128), ("tpu-v5p-64", 512, 8), ("asic-8", 24, 3)]
)
def test_chips_fill_whole_nodes(name: str, chips: int, nodes: int) -> None:
    varied = Varied(load_system(name))
    assert nodes_of(varied, chips) == nodes
    assert with_nodes(varied, nodes).spec.chips == chips
    # Whatever number of nodes the system is given with.
    assert nodes_of(with_nodes(varied, 5), chips) == nodes


@pytest.mark.parametrize(
    ("name", "chips", "said"), [("dgx-h100", 12, "8 chips a node"), ("tpu-v5p-64", 96, "64 chips")]
)
def test_chips_that_are_no_whole_nodes_are_refused(name: str, chips: int, said: str) -> None:
    with pytest.raises(SpecError, match=rf"^chips: is not a whole number of nodes \(got {chips}\); {name} has {said}"):
        nodes_of(Varied(load_system(name)), chips)


def test_provisioned_power_by_hand() -> None:
    # Eight chips of 700 W and 4.6 kW around them, and 0.2 W of cooling and conversion for each of these.
    assert provisioned_w(Varied(load_system("dgx-h100"))) == pytest.approx((8 * 700 + 4600) * 1.2)
    assert provisioned_w(with_nodes(Varied(load_system("dgx-h100")), 16)) == pytest.approx(16 * 12240.0)
    assert provisioned_w(Varied(load_system("dgx-a100"))) == pytest.approx((8 * 400 + 3300) * 1.2)
    assert provisioned_w(Varied(load_system("tpu-v5p-64"))) == pytest.approx((64 * 400 + 9600) * 1.2)
    other = vary_system(Varied(load_system("asic-8")), {"chip.power.limit": 500.0, "facility.pue": 1.5})
    assert provisioned_w(other) == pytest.approx((8 * 500 + other.spec.server.power.si) * 1.5)


@settings(max_examples=100, deadline=None)
@given(most=st.integers(1, 100_000))
def test_nodes_are_rounded_down_to_a_number_that_divides_well(most: int) -> None:
    def divides_well(number: int) -> bool:
        for prime in (2, 3):
            while number % prime == 0:
                number //= prime
        return number == 1

    found = _round_count(most)
    assert 1 <= found <= most
    assert divides_well(found)
    assert not any(divides_well(number) for number in range(found + 1, most + 1))


def test_a_run_has_a_goal_for_chips_and_one_for_power(tmp_path: Path) -> None:
    text = "llama-3.1-8b, global_batch: 16, length: 2048}"
    two = study_of(tmp_path, (text, text + "\n  - {workload: megatron-22b, global_batch: 8, length: 1024}"))
    goals = training_goals(two)
    assert [goal.per for goal in goals] == ["chip", "kW"] * 2
    assert len({goal.name for goal in goals}) == 4
    assert {(goal.phase, goal.limit_s) for goal in goals} == {("train", float("inf"))}
    assert all("llama-3.1-8b" in goal.text for goal in goals[:2])
    assert all("megatron-22b" in goal.text for goal in goals[2:])
    assert "16 chips" in goals[0].text


def test_blocks_are_every_system_boundary_and_quality_in_the_order_of_the_study(file: Path) -> None:
    study = load_study(str(file)).experiment
    assert isinstance(study, Train)
    found, goals = blocks_of(study), [goal.name for goal in training_goals(study)]
    expected = [(name, goal, quality) for name in study.systems for goal in goals for quality in QUALITIES]
    assert [(block.system, block.goal, block.quality) for block in found] == expected
    for block in found:
        assert (block.phase, block.label, block.case.plan.dtype) == ("train", "bf16", "bf16")
        assert block.plans == points(block.case)
        assert set(block.case.plan.chips) == {float(np.max(block.case.system.chips))}
        assert (float(block.case.scenario.global_batch), float(block.case.scenario.context)) == (16.0, 2048.0)
        assert block.case.software is not None
        assert block.case.software.name == "megatron"


@pytest.mark.parametrize(
    ("systems", "chips", "by_power"),
    [
        # 2 x 12.24 kW: a node of the ASIC takes 10.56 kW.
        ("[dgx-h100, asic-8]", 16, {"dgx-h100": 16, "asic-8": 16}),
        # 84.48 kW: six nodes of 12.24 kW.
        ("[asic-8, dgx-h100]", 64, {"asic-8": 64, "dgx-h100": 48}),
        # 195.84 kW: 25 nodes of 7.8 kW, rounded to 24; four cubes of 42.24 kW.
        ("[dgx-h100, dgx-a100, tpu-v5p-64]", 128, {"dgx-h100": 128, "dgx-a100": 192, "tpu-v5p-64": 256}),
        # Five nodes of the first are four where numbers must divide well.
        ("[dgx-h100]", 40, {"dgx-h100": 40}),
    ],
)
def test_equal_chips_and_equal_power_by_hand(
    tmp_path: Path, systems: str, chips: int, by_power: dict[str, int]
) -> None:
    study = study_of(tmp_path, ("[dgx-h100, asic-8]", systems), ("chips: 16", f"chips: {chips}"))
    same, power = training_goals(study)
    found = {
        goal.per: {b.system: b for b in blocks_of(study) if b.goal == goal.name and b.quality == "own"}
        for goal in (same, power)
    }
    assert {name: float(np.max(b.case.system.chips)) for name, b in found["chip"].items()} == dict.fromkeys(
        by_power, float(chips)
    )
    assert {name: float(np.max(b.case.system.chips)) for name, b in found["kW"].items()} == by_power
    budget = provisioned_w(with_nodes(Varied(load_system(study.systems[0])), chips // 8))
    for name, block in found["kW"].items():
        one = Varied(load_system(name))
        draws = provisioned_w(with_nodes(one, nodes_of(one, by_power[name])))
        assert draws <= budget * (1 + 1e-12)
        assert block.scale == pytest.approx(by_power[name] / (draws / 1e3))
        assert found["chip"][name].scale == 1.0


def test_a_node_that_takes_more_than_all_the_power_is_left_out(tmp_path: Path, start: Start) -> None:
    pairs = (("[dgx-h100, asic-8]", "[asic-8, dgx-h100]"), ("chips: 16", "chips: 8"))
    study = study_of(tmp_path, *pairs)
    power = training_goals(study)[1].name
    assert {block.system for block in blocks_of(study) if block.goal == power} == {"asic-8"}
    content = read_run(start(changed(tmp_path, *pairs), tmp_path / "out"))
    one, other = content["training"][1]["entries"]
    assert (one["system"], other["system"], other["row"], other["rate"]) == ("asic-8", "dgx-h100", None, None)
    assert other["why"]


def test_a_format_that_a_chip_has_not_is_left_out_and_said(tmp_path: Path, start: Start) -> None:
    pairs = (("[dgx-h100, asic-8]", "[dgx-a100, asic-8]"), ("equal_quality", "precision: fp8\nequal_quality"))
    study = study_of(tmp_path, *pairs)
    assert {block.system for block in blocks_of(study)} == {"asic-8"}
    content = read_run(start(changed(tmp_path, *pairs), tmp_path / "out"))
    for finding in content["training"]:
        entries = {entry["system"]: entry for entry in finding["entries"]}
        assert finding["precision"] == "fp8"
        assert "no rate in fp8" in entries["dgx-a100"]["why"]
        assert (entries["dgx-a100"]["row"], entries["dgx-a100"]["rate"]) == (None, None)
        assert entries["asic-8"]["row"]["plan.dtype"] == "fp8"


# What a run holds.


def test_a_run_of_training_alone_says_what_made_it(ran: dict[str, Any], file: Path) -> None:
    assert (ran["name"], ran["kind"], ran["experiment_text"]) == ("mine", "train", STUDY)
    assert set(ran["systems"]) == {"dgx-h100", "asic-8"}
    assert ran["workload"]["name"] == "llama-3.1-8b"
    assert (ran["findings"], ran["whole_requests"], ran["operators"]) == ([], [], {})
    files = [
        file,
        *(library.find("systems", name) for name in ("dgx-h100", "asic-8")),
        *(library.find("accelerators", name) for name in ("h100-sxm", "asic-template")),
        library.find("workloads", "llama-3.1-8b"),
        library.find("software", "megatron"),
        library.find("technology", "silicon"),
        library.find("kernels", "nvidia-hopper"),
        *(library.find("collectives", f"nccl-{of}") for of in ("nvlink4", "network")),
        *(library.find("collectives", f"generic-{of}") for of in ("fabric", "network")),
    ]
    assert set(ran["inputs"].values()) == {content_hash(path.read_text(encoding="utf-8")) for path in files}
    assert set(ran["assumptions"]) >= {"dgx-h100", "asic-8", "llama-3.1-8b"}


def test_findings_rank_by_the_rate_of_their_boundary(ran: dict[str, Any]) -> None:
    assert [finding["per"] for finding in ran["training"]] == ["chip", "kW"]
    for finding in ran["training"]:
        assert (finding["phase"], finding["limit_s"], finding["precision"]) == ("train", None, "bf16")
        rates = [entry["rate"] for entry in finding["entries"]]
        assert rates == sorted(rates, reverse=True)
        for entry in finding["entries"]:
            row = entry["row"]
            system = Varied(load_system(entry["system"]))
            kilowatt = provisioned_w(with_nodes(system, row["chips"] // 8)) / 1e3
            per = row["chips"] / kilowatt if finding["per"] == "kW" else 1.0
            assert entry["rate"] == pytest.approx(per * row["tokens_per_s_per_chip"], rel=1e-12)
            assert row["tokens_per_s_per_chip"] == pytest.approx(16 * 2048 / row["time_s"] / row["chips"], rel=1e-12)
            assert entry["rate_low"] <= entry["rate"] <= entry["rate_high"]
            assert entry["rate_equal"] > 0.0


def test_every_plan_is_a_row_with_what_training_has(whole: Path, ran: dict[str, Any]) -> None:
    table = pq.read_table(whole / "results.parquet")
    assert {f"plan.{name}" for name in PLAN} | {"scenario.global_batch"} <= set(table.column_names)
    rows = table.to_pylist()
    assert (len(rows), sum(row["feasible"] for row in rows)) == (ran["points"], ran["feasible_points"])
    assert {row["phase"] for row in rows} == {"train"}
    assert {row["plan.recompute"] for row in rows} == {"none", "full"}
    assert {row["plan.zero"] for row in rows} == {0, 1, 2, 3}
    assert {row["plan.software"] for row in rows} == {"megatron"}
    assert {row["scenario.global_batch"] for row in rows} == {16}
    assert {row["scenario.batch"] for row in rows} == {None}
    assert {row["quality"] for row in rows} == set(QUALITIES)
    for finding in ran["training"]:
        for entry in finding["entries"]:
            own = [r for r in rows if (r["system"], r["quality"]) == (entry["system"], "own") and r["feasible"]]
            same = [r["time_s"] for r in own if r["chips"] == entry["row"]["chips"]]
            assert entry["row"]["time_s"] == min(same)
    tried = {entry["system"]: entry["plans"] for entry in ran["training"][0]["entries"]}
    assert len(rows) == sum(tried.values()) * 2 * len(QUALITIES)  # as many chips with equal power here


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """What makes a row again, by path."""
    plan = {f"plan.{name}": row[f"plan.{name}"] for name in PLAN}
    scenario = {name: row[name] for name in ("scenario.global_batch", "scenario.context")}
    return {"system.nodes": row["chips"] // 8, **plan, **scenario}


def test_a_winner_is_the_estimate_of_its_plan_and_the_best_of_an_estimate(ran: dict[str, Any]) -> None:
    for finding in ran["training"]:
        for entry in finding["entries"]:
            row = entry["row"]
            settings = settings_of(row)
            again = estimate_request("train", entry["system"], "llama-3.1-8b", settings)
            assert again.to_row()["time_s"] == pytest.approx(row["time_s"], rel=1e-9)
            assert again.to_row()["energy_j"] == pytest.approx(row["energy_j"], rel=1e-9)
            given = ("system.nodes", "scenario.global_batch", "scenario.context")
            best = estimate_request("train", entry["system"], "llama-3.1-8b", {name: settings[name] for name in given})
            assert best.to_row()["time_s"] == pytest.approx(row["time_s"], rel=1e-9)
            assert best.plans_tried == entry["plans"]


@pytest.mark.parametrize("stop_at", [0, 5, BLOCKS])
def test_a_killed_run_is_resumed_without_doing_anything_twice(
    file: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, start: Start
) -> None:
    seen: list[tuple[str, str, str]] = []
    evaluate = compare.run_block

    def counted(block: Block) -> Estimates:
        seen.append((block.system, block.goal, block.quality))
        return evaluate(block)

    monkeypatch.setattr("cosim.explore.compare.run_block", counted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        start(file, out, stop_at=stop_at)
    assert {path.name for path in tmp_path.iterdir()} == {"out.partial"}
    assert len(seen) == stop_at
    assert start(file, out, resume=True) == out
    assert len(seen) == len(set(seen)) == BLOCKS
    one, other = ({k: v for k, v in read_run(f).items() if k not in CHANGING} for f in (out, whole))
    assert one == other
    tables = [pq.read_table(folder / "results.parquet") for folder in (out, whole)]
    assert tables[0].equals(tables[1])


def test_a_study_of_other_training_is_not_resumed_from(
    file: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(file, tmp_path / "out", stop_at=5)
    done: list[str] = []
    evaluate = compare.run_block
    monkeypatch.setattr(
        "cosim.explore.compare.run_block", lambda block: (done.append(block.system), evaluate(block))[1]
    )
    other = changed(tmp_path, ("global_batch: 16", "global_batch: 8"))
    start(other, tmp_path / "out", resume=True)
    assert len(done) == BLOCKS


def test_overrides_reach_the_systems_and_the_model(
    file: Path, ran: dict[str, Any], tmp_path: Path, start: Start
) -> None:
    settings = {"workload__layers": 16, "system__chip__power__limit": "600 W"}
    content = read_run(start(file, tmp_path / "out", **settings))
    assert content["overrides"] == {"workload.layers": 16, "system.chip.power.limit": "600 W"}
    for before, after in zip(ran["training"], content["training"], strict=True):
        rates = [{e["system"]: e["rate"] for e in found["entries"]} for found in (before, after)]
        assert all(rates[1][name] > rate for name, rate in rates[0].items())


def test_lengths_of_requests_are_no_part_of_a_study_that_trains(file: Path, tmp_path: Path, start: Start) -> None:
    with pytest.raises(SpecError, match=r"^scenario: is not part of a study of training; change global_batch"):
        start(file, tmp_path / "out", scenario__input=4096)
    with pytest.raises(SpecError, match=r"^plan\.zero: unknown path; a path starts with one of system, workload"):
        start(file, tmp_path / "out", plan__zero=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("asic-8]", "asic-9]", 3, r"no system has this name.*nearest: asic-8"),
        ("llama-3.1-8b", "llama-3.1-9b", 6, r"no workload has this name.*nearest: llama-3.1-8b"),
    ],
)
def test_an_unknown_name_is_told_at_its_line_before_anything_is_written(
    tmp_path: Path, start: Start, old: str, new: str, line: int, said: str
) -> None:
    mine = changed(tmp_path, (old, new))
    with pytest.raises(SpecError, match=said) as caught:
        start(mine, tmp_path / "out")
    assert (caught.value.file, caught.value.line) == (mine, line)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml"}


def test_a_study_where_nothing_fits_says_so(tmp_path: Path, start: Start) -> None:
    huge = changed(tmp_path, ("llama-3.1-8b", "llama-3.1-405b"))
    content = read_run(start(huge, tmp_path / "out"))
    assert (content["feasible_points"], content["points"] > 0) == (0, True)
    for finding in content["training"]:
        assert [(entry["row"], entry["why"]) for entry in finding["entries"]] == [(None, "infeasible: memory")] * 2


# Serving and training in one study.


@pytest.fixture(scope="module")
def both(study_text: str, tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """One system that serves and two that train two other models."""
    path = tmp_path_factory.mktemp("both") / "both.yaml"
    serving = study_text.replace("[dgx-h100, mi300x-8gpu]", "[dgx-h100]").replace("max_batch: 16", "max_batch: 1")
    path.write_text(serving + PART, encoding="utf-8")
    return start(path, path.parent / "run")


def test_a_comparison_may_have_both_parts(both: Path) -> None:
    content = read_run(both)
    assert content["kind"] == "compare"
    assert set(content["systems"]) == {"dgx-h100", "dgx-a100", "asic-8"}
    assert [{e["system"] for e in finding["entries"]} for finding in content["findings"]] == [{"dgx-h100"}] * 2
    trained = content["training"]
    assert [(finding["per"], "megatron-22b" in finding["goal"]) for finding in trained] == [
        ("chip", True),
        ("kW", True),
        ("chip", False),
        ("kW", False),
    ]
    assert {e["system"] for finding in trained for e in finding["entries"]} == {"dgx-a100", "asic-8"}
    for finding in trained:
        model = "megatron-22b" if "megatron-22b" in finding["goal"] else "llama-3.1-8b"
        rows = [entry["row"] for entry in finding["entries"] if entry["row"] is not None]
        assert {(row["workload"], row["plan.software"]) for row in rows} <= {(model, "megatron-2022")}
    names = {path.rpartition("/")[2] for path in content["inputs"]}
    assert {"megatron-2022.yaml", "a100-80gb-sxm.yaml", "megatron-22b.yaml", "llama-3.1-8b.yaml"} <= names


def test_rows_of_both_parts_share_a_table_and_leave_open_what_is_not_theirs(both: Path) -> None:
    rows = pq.read_table(both / "results.parquet").to_pylist()
    assert {row["phase"] for row in rows} == {"decode", "prefill", "train"}
    for row in rows:
        trains = row["phase"] == "train"
        assert (row["scenario.batch"] is None) == trains
        assert (row["scenario.global_batch"] is None) == (not trains)
        assert bool(row["plan.recompute"]) == bool(row["plan.software"]) == trains


def test_inputs_keep_the_two_parts_apart(both: Path) -> None:
    inputs = read_inputs(str(both.parent / "both.yaml"), {"workload.layers": 24})
    assert (list(inputs.systems), list(inputs.training_systems)) == (["dgx-h100"], ["dgx-a100", "asic-8"])
    assert {name: model.spec.layers for name, model in inputs.models.items()} == {"llama-3.1-8b": 24}
    assert {name: model.spec.layers for name, model in inputs.training_models.items()} == {
        "megatron-22b": 24,
        "llama-3.1-8b": 24,
    }
    assert [model.name for model in inputs.every_model] == ["llama-3.1-8b", "megatron-22b"]
    assert isinstance(inputs.study.training, TrainingStudy)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("  systems: [dgx-a100, asic-8]", "  systems: [dgx-a100, asic-9]", 13), ("megatron-22b", "megatron-23b", 16)],
)
def test_an_unknown_name_in_the_training_part_is_told_at_its_line(
    study_text: str, tmp_path: Path, start: Start, old: str, new: str, line: int
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(study_text + PART.replace(old, new), encoding="utf-8")
    with pytest.raises(SpecError, match="has this name") as caught:
        start(path, tmp_path / "out")
    assert (caught.value.file, caught.value.line) == (path, line)


# By the command.


def test_the_command_runs_a_study_and_its_winners_can_be_asked_for(
    call: Call, file: Path, ran: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("run", file)
    assert (code, "Traceback" in err) == (0, False)
    lines = out.splitlines()
    assert lines[0] == "Which of two machines trains a small model?"
    assert lines[1].startswith("Training, first of each: ")
    assert re.search(r"^[\d,]+ points, [\d,]+ feasible, ", lines[-2])
    assert lines[-1] == "page: runs/mine/report.html"
    content = read_run(Path("runs/mine"))
    assert {k: v for k, v in content.items() if k not in CHANGING} == {
        k: v for k, v in ran.items() if k not in CHANGING
    }
    for finding in content["training"]:
        assert any(line.strip().startswith(f"{finding['goal']}, bf16: ") for line in lines)
        row = finding["entries"][0]["row"]
        sets = [word for name, value in settings_of(row).items() for word in ("--set", f"{name}={value}")]
        asked = ("estimate", "train", "--system", row["system"], "--workload", row["workload"])
        code, out, _ = call(*asked, *sets, "--json", "-")
        assert code == 0
        assert json.loads(out)["time_s"] == pytest.approx(row["time_s"], rel=1e-9)
    inside = {str(path.relative_to("runs/mine")) for path in Path("runs/mine").rglob("*") if path.is_file()}
    assert inside == {"run.json", "results.parquet", "report.html", "figures/training.svg", "figures/training.png"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("chips: 16", "chips: 12", r"chips: is not a whole number of nodes \(got 12\); dgx-h100 has 8 chips a node"),
        ("chips: 16", "chips: 0", "mine.yaml:4: chips: Input should be greater than or equal to 1"),
        ("chips: 16", "chps: 16", r"mine.yaml:4: chps: unknown field \(got 16\); nearest: chips"),
        (
            "kind: train",
            "kind: trains",
            r"mine.yaml:1: kind: unknown kind of experiment \(got 'trains'\); nearest: train",
        ),
        ("[dgx-h100, asic-8]", "[]", "mine.yaml:3: systems: .*at least 1 item"),
        ("length: 2048", "length: 0", r"mine.yaml:6: runs\.0\.length: Input should be greater than or equal to 1"),
        ("global_batch: 16, ", "", r"mine.yaml:6: runs\.0\.global_batch: is missing"),
    ],
)
def test_a_faulty_study_is_one_message_that_names_its_file(
    refused: Callable[[tuple[str, ...]], str], tmp_path: Path, old: str, new: str, said: str
) -> None:
    mine = changed(tmp_path, (old, new))
    err = refused(("run", str(mine)))
    assert "mine.yaml" in err
    assert re.search(said, err)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml"}
