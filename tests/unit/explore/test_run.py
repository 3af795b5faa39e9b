"""A study from its file to its folder: what is in it, that it is the same each time, and what a kill leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cosim
from cosim import library
from cosim.errors import SpecError
from cosim.explore.run import ROOTS, read_inputs, run_study, split_overrides
from cosim.explore.store import SCHEMA_VERSION, content_hash, read_run

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")

Start = Callable[..., Path]


def results(folder: Path) -> pa.Table:
    return pq.read_table(folder / "results.parquet")


def test_a_run_says_what_made_it(content: dict[str, Any], study_file: Path, study_text: str) -> None:
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["cosim_version"] == cosim.__version__
    assert content["experiment_text"] == study_text
    assert (content["name"], content["kind"]) == ("small", "compare")
    assert (content["overrides"], content["seed"]) == ({}, None)
    assert set(content["host"]) == {"machine", "cpus", "python"}
    files = [
        study_file,
        *(library.find("systems", name) for name in ("dgx-h100", "mi300x-8gpu")),
        *(library.find("accelerators", name) for name in ("h100-sxm", "mi300x")),
        library.find("workloads", "llama-3.1-8b"),
        library.find("technology", "silicon"),
        *(library.find("kernels", name) for name in ("nvidia-hopper", "generic-tile")),
        *(library.find("collectives", name) for name in ("nccl-nvlink4", "nccl-network", "rccl-xgmi")),
    ]
    assert set(content["inputs"].values()) == {content_hash(path.read_text(encoding="utf-8")) for path in files}


def test_a_run_counts_its_points_and_its_time(content: dict[str, Any], small_run: Path) -> None:
    feasible = results(small_run)["feasible"].to_pylist()
    assert (content["points"], content["feasible_points"]) == (len(feasible), sum(feasible))
    assert 0 < content["feasible_points"] < content["points"]
    assert content["elapsed_s"] > 0.0
    assert content["points_per_s"] == pytest.approx(content["points"] / content["elapsed_s"])


def test_a_run_warns_of_kernels_that_nobody_measured(study_text: str, tmp_path: Path, start: Start) -> None:
    other = tmp_path / "template.yaml"
    other.write_text(study_text.replace("mi300x-8gpu", "asic-8").replace("max_batch: 16", "max_batch: 1"))
    warnings = read_run(start(other, tmp_path / "out"))["warnings"]
    assert [w for w in warnings if w.startswith("asic-8: ") and "kernel" in w and "(estimated)" in w]
    assert not [w for w in warnings if w.startswith("dgx-h100") and "kernel" in w]


def test_the_folder_holds_what_is_promised_and_nothing_of_its_making(small_run: Path) -> None:
    inside = {str(path.relative_to(small_run)) for path in small_run.rglob("*") if path.is_file()}
    drawn = {f"figures/{name}.{kind}" for name in ("frontier", "breakdown", "roofline") for kind in ("svg", "png")}
    assert inside == {"run.json", "results.parquet", "report.html"} | drawn
    assert not small_run.with_name(small_run.name + ".partial").exists()


def test_results_have_the_promised_columns(small_run: Path) -> None:
    promised = "system workload phase chips feasible limit limit_by time_s tokens_per_s_per_chip tokens_per_s_per_user"
    promised += " mfu energy_j power_w bottleneck quality confidence point_id precision"
    parts = {
        "plan": "tensor_parallel pipeline_parallel data_parallel micro_batches dtype kv_dtype",
        "scenario": "batch context capacity",
        "memory_bytes": "weights kv activations gradients optimizer other total",
        "breakdown_s": "matmul attention vector launch collective bubble host",
    }
    wanted = set(promised.split()) | {f"{root}.{name}" for root, names in parts.items() for name in names.split()}
    assert wanted <= set(results(small_run).column_names)


def test_every_point_is_one_row_and_an_infeasible_one_tells_its_limit(small_run: Path) -> None:
    rows = results(small_run).to_pylist()
    assert [row["point_id"] for row in rows] == list(range(len(rows)))
    outputs = [name for name in rows[0] if name.startswith(("breakdown_s.", "tokens_per_")) or name == "mfu"]
    # The area of some dies is unknown.
    outputs = [name for name in outputs if not name.endswith("_per_mm2")]
    outputs += ["time_s", "energy_j", "power_w"]
    for row in rows:
        missing = {name for name in outputs if row[name] is None}
        if row["feasible"]:
            assert (row["limit"], row["limit_by"], missing) == ("", None, set())
            assert row["bottleneck"]
        else:
            assert missing == set(outputs)
            assert (row["limit"], row["limit_unit"]) == ("memory", "B")
            # An H100 has 80 GB; what is lacking is told, and memory is listed all the same.
            assert row["limit_by"] == pytest.approx(row["memory_bytes.total"] - 80e9)
            assert row["limit_by"] > 0.0


def test_the_parts_of_a_row_make_up_its_totals(small_run: Path) -> None:
    table = results(small_run)
    for prefix, total in (("breakdown_s.", "time_s"), ("memory_bytes.", "memory_bytes.total")):
        names = [n for n in table.column_names if n.startswith(prefix) and n != total]
        parts = sum(table[name].to_numpy() for name in names)
        assert parts == pytest.approx(table[total].to_numpy(), rel=1e-12, nan_ok=True)
    degrees = [table[f"plan.{name}_parallel"].to_numpy() for name in ("tensor", "pipeline", "data")]
    assert np.array_equal(np.prod(degrees, axis=0), table["chips"].to_numpy())


def test_overrides_reach_systems_workload_and_lengths(
    study_file: Path, small_run: Path, tmp_path: Path, start: Start
) -> None:
    changes = {"system__nodes": 2, "workload__layers": 16, "scenario__input": 1000, "scenario__output": 200}
    out = start(study_file, tmp_path / "out", **changes)
    table = results(out)
    assert set(table["chips"].to_pylist()) == {16.0}
    decode = table.filter(pa.compute.equal(table["phase"].cast("string"), "decode"))
    assert set(decode["scenario.context"].to_pylist()) == {1100.0}
    halved, whole = (min(results(f)["memory_bytes.weights"].to_pylist()) for f in (out, small_run))
    assert halved < whole
    assert read_run(out)["overrides"] == {"system.nodes": 2, "workload.layers": 16} | {
        "scenario.input": 1000,
        "scenario.output": 200,
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("mi300x-8gpu", "mi300x-8gpus", 3, r"no system has this name.*nearest: mi300x-8gpu"),
        ("mi300x-8gpu", "mi300x", 3, r"no system has this name.*nearest: mi300x-8gpu"),
        ("llama-3.1-8b", "llama-3.1-8", 4, r"no workload has this name.*nearest: llama-3.1-8b"),
    ],
)
def test_an_unknown_name_in_a_study_is_told_at_its_line_before_anything_is_written(
    tmp_path: Path, study_text: str, old: str, new: str, line: int, said: str, start: Start
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(study_text.replace(old, new))
    with pytest.raises(SpecError, match=said) as caught:
        start(mine, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml"}
    assert (caught.value.file, caught.value.line) == (mine, line)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("plan.tensor_parallel", 2, r"unknown path.*starts with one of system, workload, scenario"),
        ("sistem.nodes", 2, r"unknown path.*nearest: system"),
        ("system", 2, "unknown path"),
        ("scenario.inputs", 2, r"scenario\.inputs: unknown path.*nearest: scenario\.input"),
        ("scenario.input", 0, r"scenario\.input: .*greater than or equal to 1"),
        ("scenario.input", float("nan"), r"scenario\.input: .*finite"),
        ("system.chip.memory.dram.bandwith", "3 TB/s", r"unknown path.*memory.dram.bandwidth"),
        ("workload.heads", 7, r"workload\.heads: must be a multiple of kv_heads"),
    ],
)
def test_a_bad_override_is_told_before_anything_is_written(
    study_file: Path, tmp_path: Path, path: str, value: object, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        run_study(
            str(study_file), tmp_path / "out", overrides={path: value}, progress=lambda *_: None, report=lambda _: None
        )
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_a_list_of_workloads_is_told_at_its_own_line(tmp_path: Path, study_text: str, start: Start) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(study_text.replace("workload: llama-3.1-8b", "workload:\n  - llama-3.1-8b\n  - llama-3.1-9b"))
    with pytest.raises(SpecError, match=r"no workload has this name.*nearest: llama-3.1-8b") as caught:
        start(mine, tmp_path / "out")
    assert (caught.value.file, caught.value.line) == (mine, 6)


def test_systems_and_workloads_of_files_have_the_names_that_the_study_gives_them(
    tmp_path: Path, study_text: str, start: Start
) -> None:
    text = study_text.replace("max_batch: 16", "max_batch: 1")
    for kind, name, file in (("systems", "dgx-h100", "my-system.yaml"), ("workloads", "llama-3.1-8b", "my-model.yaml")):
        (tmp_path / file).write_text(library.find(kind, name).read_text(encoding="utf-8"), encoding="utf-8")
        text = text.replace(name, str(tmp_path / file))
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    out = start(tmp_path / "mine.yaml", tmp_path / "out")
    assert set(results(out)["system"].to_pylist()) == {str(tmp_path / "my-system.yaml"), "mi300x-8gpu"}
    # Figures look for the points of a finding by these.
    assert set(results(out)["workload"].to_pylist()) == {found["workload"] for found in read_run(out)["findings"]}
    assert {found["workload"] for found in read_run(out)["findings"]} == {str(tmp_path / "my-model.yaml")}


@pytest.fixture
def large(study_text: str, tmp_path: Path) -> Path:
    """DeepSeek-V3 in 8 bits on H100, up to 32 chips. One node of eight does not hold it."""
    text = study_text.replace("[dgx-h100, mi300x-8gpu]", "[dgx-h100]").replace("[bf16]", "[fp8]")
    text = (
        text.replace("llama-3.1-8b", "deepseek-v3").replace("20 ms", "200 ms").replace("max_batch: 16", "max_batch: 2")
    )
    (tmp_path / "large.yaml").write_text(text + "max_chips: 32\n", encoding="utf-8")
    return tmp_path / "large.yaml"


def test_a_study_takes_the_nodes_that_a_model_needs(large: Path, tmp_path: Path, start: Start) -> None:
    content = read_run(start(large, tmp_path / "out"))
    for finding in content["findings"]:
        (entry,) = finding["entries"]
        assert entry["row"]["chips"] in (16, 32)
        assert f"--set system.nodes={entry['row']['chips'] // 8} " in entry["command"]
    rows = results(tmp_path / "out").to_pylist()
    assert {row["chips"] for row in rows} == {8, 16, 32}
    assert {row["feasible"] for row in rows if row["chips"] == 8} == {False}
    # Without it as many nodes as the system has: one.
    large.write_text(large.read_text(encoding="utf-8").replace("max_chips: 32\n", ""), encoding="utf-8")
    for finding in read_run(start(large, tmp_path / "one"))["findings"]:
        assert [(entry["row"], entry["why"]) for entry in finding["entries"]] == [(None, "infeasible: memory")]


def test_nodes_are_chosen_by_the_study_or_by_the_user_and_never_by_both(
    large: Path, tmp_path: Path, start: Start
) -> None:
    with pytest.raises(SpecError, match=r"^system\.nodes: is chosen by the study; change max_chips in its file"):
        start(large, tmp_path / "out", system__nodes=2)
    assert {path.name for path in tmp_path.iterdir()} == {"large.yaml"}


def test_paths_are_split_at_their_root() -> None:
    given = {"system.chip.power.limit": "650 W", "system.nodes": 2, "scenario.input": 9}
    assert split_overrides(given, ROOTS) == {
        "system": {"chip.power.limit": "650 W", "nodes": 2},
        "workload": {},
        "scenario": {"input": 9},
    }


def test_inputs_are_read_with_their_overrides(study_file: Path) -> None:
    inputs = read_inputs(str(study_file), {"scenario.input": 77, "workload.layers": 3})
    assert list(inputs.systems) == ["dgx-h100", "mi300x-8gpu"]
    assert (inputs.study.experiment.scenario.input, inputs.study.experiment.scenario.output) == (77, 1024)
    assert {name: model.spec.layers for name, model in inputs.models.items()} == {"llama-3.1-8b": 3}
