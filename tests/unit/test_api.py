"""The Python interface: its names, what importing it costs, handles, overrides of every form, plans."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cosim
from cosim.api import ChipHandle, SystemHandle, WorkloadHandle
from cosim.hardware.lower import lower_system

NAMES = {
    "CosimError", "InfeasibleError", "SimulationError", "SpecError", "Strategy", "__version__", "chip", "diff",
    "estimate_decode", "estimate_prefill", "estimate_training", "run", "search", "search_serving",
    "simulate_collective", "simulate_goodput", "simulate_serving", "simulate_training", "sweep", "system",
    "validate", "workload",
}  # fmt: skip
HEAVY = ("numpy", "pydantic", "matplotlib", "scipy", "pyarrow", "ruamel", "simpy", "typer", "jinja2")


def in_a_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_held() -> None:
    assert set(cosim.__all__) == NAMES
    assert dir(cosim) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    found = getattr(cosim, name)
    assert callable(found)
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cosim' has no attribute 'simulate'"):
        _ = cosim.simulate


def test_errors_have_one_base() -> None:
    for error in (cosim.SpecError, cosim.InfeasibleError, cosim.SimulationError):
        assert issubclass(error, cosim.CosimError)


def test_importing_cosim_loads_nothing_heavy() -> None:
    code = f"import sys, cosim; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_a_fresh_python(code) == "[]"


@pytest.mark.parametrize(
    "before",
    [
        "import cosim, cosim.workload.load",
        "import cosim; cosim.workload('llama-3.1-8b'); import cosim.workload.hub",
    ],
)
def test_workload_is_the_function_whatever_was_imported(before: str) -> None:
    code = f"{before}\nfrom cosim import workload\nimport cosim\n"
    code += "assert workload is cosim.workload\nprint(cosim.workload('llama-3.1-8b').spec.layers)"
    assert in_a_fresh_python(code) == "32"


def test_handles_show_what_they_describe() -> None:
    chip, system, workload = cosim.chip("h100-sxm"), cosim.system("dgx-h100"), cosim.workload("llama-3.1-70b")
    assert (type(chip), type(system), type(workload)) == (ChipHandle, SystemHandle, WorkloadHandle)
    assert chip.spec.cores.si == 132.0
    assert system.spec.chip == chip.spec
    assert workload.spec.layers == 80


def test_keywords_of_a_system_are_its_top_level_paths() -> None:
    assert cosim.system("dgx-h100", nodes=16).spec.chips == 128.0
    with pytest.raises(cosim.SpecError, match=r"system\.node: unknown path; nearest: system\.nodes"):
        cosim.system("dgx-h100", node=16)


@pytest.mark.parametrize("value", ["4 TB/s", "4000 GB/s", 4e12, np.float64(4e12), "4e12"])
def test_text_with_a_unit_and_bare_numbers_are_alike(value: Any) -> None:
    varied = cosim.chip("h100-sxm").vary({"memory.dram.bandwidth": value})
    assert varied.spec.memory["dram"].bandwidth is not None
    assert varied.spec.memory["dram"].bandwidth.si == 4e12


@pytest.mark.parametrize(
    ("handle", "path", "root"),
    [
        (lambda: cosim.chip("h100-sxm"), "memory.dram.stacks", "chip"),
        (lambda: cosim.system("dgx-h100"), "chip.memory.dram.stacks", "system"),
        (lambda: cosim.workload("llama-3.1-8b"), "layers", "workload"),
    ],
)
def test_a_path_may_begin_with_its_root(handle: Callable[[], Any], path: str, root: str) -> None:
    assert handle().vary({path: 7}) == handle().vary({f"{root}.{path}": 7})
    with pytest.raises(cosim.SpecError, match=rf"^{root}\.{path}z: unknown path; nearest: .*{path}"):
        handle().vary({f"{path}z": 7})


def test_varying_leaves_the_handle_as_it_was() -> None:
    before = cosim.workload("llama-3.1-8b")
    after = before.vary({"layers": 64}).vary({"hidden": 8192})
    assert (before.spec.layers, after.spec.layers, after.spec.hidden) == (32, 64, 8192)


@pytest.mark.parametrize("values", [[1, 2, 4], (1.0, 2.0, 4.0), np.array([1, 2, 4])])
def test_arrays_of_any_form_are_points(values: Any) -> None:
    system = cosim.system("dgx-h100").vary({"nodes": values})
    np.testing.assert_array_equal(lower_system(system.varied).chips, [8.0, 16.0, 32.0])


def test_arrays_on_every_handle_at_once() -> None:
    system = cosim.system("asic-8").vary({"chip.memory.dram.bandwidth": np.array([1e12, 2e12, 4e12])})
    model = cosim.workload("llama-3.1-8b").vary({"layers": [16, 32, 64]})
    found = cosim.estimate_decode(system, model, {"tensor_parallel": [1, 2, 8]}, batch=np.array([1.0, 2.0, 3.0]))
    rows = zip((1e12, "2 TB/s", 4e12), (16, 32, 64), (1, 2, 8), (1, 2, 3), strict=True)
    for index, (bandwidth, layers, tensor, batch) in enumerate(rows):
        one = cosim.estimate_decode(
            cosim.system("asic-8").vary({"chip.memory.dram.bandwidth": bandwidth}),
            cosim.workload("llama-3.1-8b").vary({"layers": layers}),
            cosim.Strategy(tensor_parallel=tensor),
            batch=batch,
        )
        assert one.result.time[0] == pytest.approx(found.result.time[index], rel=1e-12)
        assert one.result.memory["total"][0] == found.result.memory["total"][index]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1e12, -1.0], "is out of range"),
        ([1e12, float("nan")], "NaN or infinity"),
        ([], "not empty"),
        ([[1e12, 2e12]], "one dimension"),
        (["a", "b"], "must hold numbers"),
    ],
)
def test_arrays_pass_the_bounds_of_their_field(values: list[Any], message: str) -> None:
    with pytest.raises(cosim.SpecError, match=rf"^system\.chip\.memory\.dram\.bandwidth: .*{message}"):
        cosim.system("dgx-h100").vary({"chip.memory.dram.bandwidth": values})


def test_a_strategy_and_a_mapping_are_alike() -> None:
    system, model = cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b")
    fields = {"tensor_parallel": 4, "pipeline_parallel": 2, "dtype": "bf16", "micro_batches": 2}
    named = cosim.estimate_prefill(system, model, cosim.Strategy(**fields), batch=4).to_row()
    assert cosim.estimate_prefill(system, model, fields, batch=4).to_row() == named
    rooted = {f"plan.{name}": value for name, value in fields.items()}
    assert cosim.estimate_prefill(system, model, rooted, batch=4).to_row() == named
    # A strategy that says nothing leaves everything open.
    assert cosim.estimate_prefill(system, model, cosim.Strategy(), batch=4).plans_tried > 0
    assert cosim.estimate_prefill(system, model, batch=4).plans_tried > 0


def test_a_strategy_is_checked_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="tensor_parallel"):
        cosim.Strategy(tensor_parallel=0)


def test_phases_and_their_keywords() -> None:
    system, model = cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b")
    decode = cosim.estimate_decode(system, model, batch=3, context=100, capacity=5000, tpot_limit=0.1).to_row()
    prefill = cosim.estimate_prefill(system, model, batch=3, context=100, ttft_limit=1.0).to_row()
    assert (decode["phase"], decode["scenario.capacity"], prefill["phase"]) == ("decode", 5000, "prefill")
    assert decode["memory_bytes.kv"] == pytest.approx(50 * prefill["memory_bytes.kv"], rel=1e-12)
    with pytest.raises(cosim.SpecError, match=r"scenario\.batches: unknown path; nearest: scenario\.batch"):
        cosim.estimate_decode(system, model, batches=3)


def test_what_does_not_fit_is_an_error_that_a_script_can_catch() -> None:
    with pytest.raises(cosim.InfeasibleError, match="it fits with tensor 16") as caught:
        cosim.estimate_decode(cosim.system("dgx-h100"), cosim.workload("llama-3.1-405b"), {"dtype": "bf16"})
    assert caught.value.limit == "memory"


@pytest.mark.parametrize(("load", "name"), [("chip", "h100-sx"), ("system", "dgx-h10"), ("workload", "llama-3.1-8")])
def test_unknown_names_are_refused_with_the_nearest(load: str, name: str) -> None:
    with pytest.raises(cosim.SpecError, match=rf"\(got '{name}'\); nearest: .*{name}"):
        getattr(cosim, load)(name)


def test_a_study_runs_from_python(study_text: str, tmp_path: Path) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(
        study_text.replace("[dgx-h100, mi300x-8gpu]", "[asic-8]").replace("max_batch: 16", "max_batch: 1"),
        encoding="utf-8",
    )
    out = cosim.run(str(study), tmp_path / "run")
    assert out == tmp_path / "run"
    assert (out / "report.html").stat().st_size > 0


def test_a_study_that_is_not_there_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(cosim.SpecError, match="no experiment has this name"):
        cosim.run("no-such-study", tmp_path / "run")
    assert not list(tmp_path.iterdir())


# Training.

PLAN: dict[str, Any] = {
    "tensor_parallel": 2,
    "pipeline_parallel": 4,
    "data_parallel": 2,
    "micro_batch": 2,
    "virtual_pipeline": 4,
    "zero": 1,
    "recompute": "full",
    "sequence_parallel": True,
    "software": "megatron-2022",
}


def test_a_training_strategy_and_a_mapping_are_alike() -> None:
    system, model = cosim.system("dgx-h100", nodes=2), cosim.workload("llama-3.1-8b")
    named = cosim.estimate_training(system, model, cosim.Strategy(**PLAN), global_batch=32, context=1024).to_row()
    assert named["phase"] == "train"
    assert {name: named[f"plan.{name}"] for name in PLAN} == PLAN
    assert (named["plan.micro_batches"], named["scenario.global_batch"], named["scenario.context"]) == (8, 32, 1024)
    for plan in (PLAN, {f"plan.{name}": value for name, value in PLAN.items()}):
        assert cosim.estimate_training(system, model, plan, global_batch=32, context=1024).to_row() == named


def test_training_without_degrees_is_searched_and_what_is_set_stays() -> None:
    system, model = cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b")
    free = cosim.estimate_training(system, model, global_batch=16)
    kept = cosim.estimate_training(system, model, cosim.Strategy(recompute="full", zero=3), global_batch=16)
    assert cosim.estimate_training(system, model, cosim.Strategy(), global_batch=16).to_row() == free.to_row()
    assert (kept.to_row()["plan.recompute"], kept.to_row()["plan.zero"]) == ("full", 3)
    assert 0 < kept.plans_tried < free.plans_tried
    assert kept.to_row()["time_s"] >= free.to_row()["time_s"]


def test_arrays_of_training_points_are_each_alone() -> None:
    system = cosim.system("asic-8").vary({"chip.memory.dram.bandwidth": np.array([2e12, 4e12, 6e12])})
    model = cosim.workload("llama-3.1-8b").vary({"layers": [16, 32, 64]})
    plans = {"tensor_parallel": [8, 4, 2], "data_parallel": [1, 2, 4], "zero": [0, 1, 3], "micro_batch": [1, 2, 1]}
    found = cosim.estimate_training(system, model, plans, global_batch=np.array([8.0, 16.0, 32.0]))
    for index in range(3):
        one = cosim.estimate_training(
            cosim.system("asic-8").vary({"chip.memory.dram.bandwidth": (2e12, 4e12, 6e12)[index]}),
            cosim.workload("llama-3.1-8b").vary({"layers": (16, 32, 64)[index]}),
            {name: values[index] for name, values in plans.items()},
            global_batch=(8, 16, 32)[index],
        )
        assert one.result.time[0] == pytest.approx(found.result.time[index], rel=1e-12)
        assert one.result.memory["total"][0] == pytest.approx(found.result.memory["total"][index], rel=1e-12)


def test_training_refuses_keywords_of_serving_and_serving_those_of_training() -> None:
    system, model = cosim.system("dgx-h100"), cosim.workload("llama-3.1-8b")
    with pytest.raises(cosim.SpecError, match=r"^scenario\.batch: is not part of train"):
        cosim.estimate_training(system, model, batch=8)
    with pytest.raises(cosim.SpecError, match=r"^plan\.micro_batches: is not part of train"):
        cosim.estimate_training(system, model, cosim.Strategy(micro_batches=2), global_batch=8)
    with pytest.raises(cosim.SpecError, match=r"^scenario\.global_batch: is not part of decode"):
        cosim.estimate_decode(system, model, global_batch=8)
    with pytest.raises(cosim.SpecError, match=r"^plan\.zero: is not part of prefill; it belongs to 'estimate train'"):
        cosim.estimate_prefill(system, model, cosim.Strategy(zero=1))


def test_training_that_does_not_fit_is_an_error_that_a_script_can_catch() -> None:
    with pytest.raises(cosim.InfeasibleError, match=r"nearest strategy that fits is .*\(system\.nodes=16\)") as caught:
        cosim.estimate_training(cosim.system("dgx-h100"), cosim.workload("llama-3.1-405b"), global_batch=8)
    assert caught.value.limit == "memory"


def test_a_training_estimate_is_simulated_point_by_point() -> None:
    system, model = cosim.system("dgx-h100", nodes=2), cosim.workload("llama-3.1-8b")
    plans = {**PLAN, "virtual_pipeline": [1, 4], "micro_batch": [1, 2]}
    found = cosim.estimate_training(system, model, plans, global_batch=32)
    for index in range(2):
        run = cosim.simulate_training(found, index)
        row = found.to_row(index)
        assert run.time_s == pytest.approx(row["time_s"] - row["breakdown_s.throttle"], rel=5e-3)
        stages = {span.resource for span in run.spans if span.resource.startswith("stage")}
        assert stages == {f"stage {stage}" for stage in range(4)}
        passes = [s for s in run.spans if s.resource == "stage 0" and s.label.startswith("forward")]
        assert len(passes) == row["plan.micro_batches"] * row["plan.virtual_pipeline"]
    assert cosim.simulate_training(found) == cosim.simulate_training(found, 0)


def test_the_best_plan_is_simulated_as_it_was_found() -> None:
    found = cosim.estimate_training(cosim.system("tpu-v5p-8"), cosim.workload("llama-3.1-8b"), global_batch=16)
    run = cosim.simulate_training(found)
    row = found.to_row()
    assert run.time_s == pytest.approx(row["time_s"] - row["breakdown_s.throttle"], rel=6e-2)
