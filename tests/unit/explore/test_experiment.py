"""Study files: what they may say, in which units, and every fault told at its file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim import library
from cosim.errors import SpecError
from cosim.explore.experiment import Compare, Train, load_study
from cosim.explore.search_file import StrategySearch
from cosim.explore.serving.serve_file import Serve
from cosim.explore.sweep_file import Sweep


def write(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder / "mine.yaml")


def fault(folder: Path, text: str) -> SpecError:
    """The error of reading a study of this text."""
    with pytest.raises(SpecError) as caught:
        load_study(write(folder, text))
    return caught.value


@pytest.mark.parametrize("name", sorted(library.names("experiments")))
def test_every_shipped_experiment_reads_and_names_known_systems_and_workload(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    if isinstance(study.experiment, Sweep):
        assert set(study.experiment.system) <= set(library.names("systems"))
        assert {case.workload for case in study.experiment.cases} <= set(library.names("workloads"))
        return
    if isinstance(study.experiment, StrategySearch):
        assert study.experiment.system in library.names("systems")
        assert study.experiment.workload in library.names("workloads")
        assert study.experiment.software in library.names("software")
        return
    if isinstance(study.experiment, Serve):
        for deployment in study.experiment.merged().values():
            assert deployment.system in library.names("systems")
            assert deployment.workload in library.names("workloads")
            assert deployment.stack in library.names("serving")
        return
    assert set(study.experiment.systems) <= set(library.names("systems"))
    assert study.serving is None or set(study.serving.workload) <= set(library.names("workloads"))
    assert study.training is None or {run.workload for run in study.training.runs} <= set(library.names("workloads"))
    assert study.training is None or study.training.software in library.names("software")


def test_a_study_holds_what_its_file_says_in_si(study_file: Path, study_text: str) -> None:
    study = load_study(str(study_file))
    found = study.experiment
    assert (study.name, study.document.text) == ("small", study_text)
    assert found.systems == ("dgx-h100", "mi300x-8gpu")
    assert (found.scenario.input, found.scenario.output, found.max_batch) == (32768, 1024, 16)
    assert (found.decode.tpot_limits, found.prefill.ttft_limit) == ((0.020,), 10.0)
    assert found.equal_quality.launch_gap == pytest.approx(2e-6)
    assert found.equal_quality.collective_start == pytest.approx(5e-6)
    assert (found.equal_quality.memory, found.equal_quality.source) == (0.82, "ours")


def test_the_largest_batch_may_be_left_out(tmp_path: Path, study_text: str) -> None:
    short = study_text.replace("max_batch: 16\n", "")
    assert load_study(write(tmp_path, short)).experiment.max_batch == Compare.model_fields["max_batch"].default


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("llama-3.1-8b", ("llama-3.1-8b",)),
        ("[llama-3.1-8b]", ("llama-3.1-8b",)),
        ("[llama-3.1-8b, deepseek-v3]", ("llama-3.1-8b", "deepseek-v3")),
        ("\n  - deepseek-v3\n  - llama-3.1-8b", ("deepseek-v3", "llama-3.1-8b")),
    ],
)
def test_a_study_has_one_workload_or_several_in_their_order(
    tmp_path: Path, study_text: str, text: str, names: tuple[str, ...]
) -> None:
    found = load_study(write(tmp_path, study_text.replace("workload: llama-3.1-8b", f"workload: {text}"))).serving
    assert found is not None
    assert found.workload == names


def test_the_most_chips_are_those_of_each_system_unless_told(tmp_path: Path, study_text: str) -> None:
    assert load_study(write(tmp_path, study_text)).experiment.max_chips is None
    assert load_study(write(tmp_path, study_text + "max_chips: 32\n")).experiment.max_chips == 32


@settings(max_examples=40, deadline=None)
@given(milliseconds=st.integers(1, 10**7), unit=st.sampled_from([("us", 1000.0), ("ms", 1.0), ("s", 1e-3)]))
def test_a_limit_means_the_same_in_every_unit(
    tmp_path_factory: pytest.TempPathFactory, study_text: str, milliseconds: int, unit: tuple[str, float]
) -> None:
    name, per_millisecond = unit
    text = study_text.replace("20 ms", f"{milliseconds * per_millisecond!r} {name}")
    limit = load_study(write(tmp_path_factory.getbasetemp(), text)).experiment.decode.tpot_limits[0]
    assert limit == pytest.approx(milliseconds / 1e3, rel=1e-12)


def test_a_bare_number_is_seconds(tmp_path: Path, study_text: str) -> None:
    assert load_study(write(tmp_path, study_text.replace("20 ms", "0.02"))).experiment.decode.tpot_limits == (0.02,)


@pytest.mark.parametrize(
    ("old", "new", "field", "line", "said"),
    [
        ("compare", "comparison", "kind", 1, "nearest: compare"),
        ("kind: compare\n", "", "kind", None, "is missing"),
        ("workload: llama-3.1-8b\n", "", "workload", None, "is missing"),
        ("workload: llama-3.1-8b", "workload: []", "workload", 4, "at least 1 item"),
        ("workload: llama-3.1-8b", "workload: [llama-3.1-8b, 8]", "workload.1", 4, "string"),
        ("workload: llama-3.1-8b", "workload: {name: llama-3.1-8b}", "workload", 4, "tuple"),
        ("workload: llama-3.1-8b", "workload: [a, b, a]", "workload", 4, "is listed twice (got 'a'); name each once"),
        ("[dgx-h100, mi300x-8gpu]", "[a, b, a]", "systems", 3, "is listed twice (got 'a'); name each once"),
        ("[bf16]", "[bf16, native, native]", "precisions", 8, "is listed twice (got 'native'); name each once"),
        ("max_batch: 16", "max_chips: 0", "max_chips", 11, "greater than or equal to 1"),
        ("max_batch: 16", "max_chips: 1.5", "max_chips", 11, "integer"),
        ("max_batch: 16", "max_chip: 8", "max_chip", 11, "nearest: max_chips"),
        ("max_batch", "max_bach", "max_bach", 11, "nearest: max_batch"),
        ("[20 ms]", "[20 ms], ttft_limit: 3", "decode.ttft_limit", 6, "nearest: tpot_limits"),
        ("[dgx-h100, mi300x-8gpu]", "&a [*a]", "systems.0", 3, "systems"),
        ("{input: 32768, output: 1024}", "&a {input: *a, output: 1}", "scenario.input", 5, "scenario.input"),
        ("[dgx-h100, mi300x-8gpu]", "[]", "systems", 3, "at least 1 item"),
        ("[dgx-h100, mi300x-8gpu]", "dgx-h100", "systems", 3, "tuple"),
        ("20 ms", "20 GB", "decode.tpot_limits.0", 6, "a value in s is wanted"),
        ("20 ms", "soon", "decode.tpot_limits.0", 6, "is not a number with a unit"),
        ("20 ms", "0 ms", "decode.tpot_limits.0", 6, "greater than 0"),
        ("20 ms", "-20 ms", "decode.tpot_limits.0", 6, "greater than 0"),
        ("20 ms", ".nan", "decode.tpot_limits.0", 6, "finite"),
        ("10 s", "inf s", "prefill.ttft_limit", 7, "finite"),
        ("10 s", "true", "prefill.ttft_limit", 7, "is not a number"),
        ("bf16", "bf61", "precisions.0", 8, "bf16"),
        ("matmul: 0.75", "matmul: 1.75", "equal_quality.matmul", 10, "less than or equal to 1"),
        ("matmul: 0.75", "matmul: 0", "equal_quality.matmul", 10, "greater than 0"),
        ("launch_gap: 2 us", "launch_gap: 2 GB", "equal_quality.launch_gap", 10, "a value in s is wanted"),
        (", source: ours", "", "equal_quality.source", 9, "is missing"),
        ("input: 32768", "input: 0", "scenario.input", 5, "greater than or equal to 1"),
        ("input: 32768", "input: 1.5", "scenario.input", 5, "integer"),
        ("max_batch: 16", "max_batch: many", "max_batch", 11, "integer"),
    ],
)
def test_a_fault_is_told_with_file_line_field_and_what_would_be_right(
    tmp_path: Path, study_text: str, old: str, new: str, field: str, line: int | None, said: str
) -> None:
    assert old in study_text
    error = fault(tmp_path, study_text.replace(old, new, 1))
    assert (error.file, error.field, error.line) == (tmp_path / "mine.yaml", field, line)
    assert said in str(error)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("kind: [compare\n", "is not YAML"),
        ("kind: compare\nkind: compare\n", "duplicate key"),
        ("- kind: compare\n", "does not hold a mapping"),
        ("compare\n", "does not hold a mapping"),
        ("kind: compare\nquestion: " + "[" * 60 + "]" * 60 + "\n", "nested too deeply"),
    ],
)
def test_text_that_is_no_study_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    error = fault(tmp_path, text)
    assert problem in str(error)
    assert error.file == tmp_path / "mine.yaml"


def test_a_missing_file_a_folder_a_binary_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    (tmp_path / "folder.yaml").mkdir()
    cases = {"none.yaml": "no such file", "folder.yaml": "is a folder", "image.yaml": "is not text"}
    for name, problem in cases.items():
        with pytest.raises(SpecError, match=problem):
            load_study(str(tmp_path / name))
    with pytest.raises(SpecError, match=r"no experiment has this name.*nearest: gpu-vs-asic"):
        load_study("gpu-vs-asics")


# Studies that train.

TRAINS = """\
kind: train
question: How fast does it train?
systems: [dgx-h100]
chips: 16
runs: [{workload: llama-3.1-8b, global_batch: 64, length: 4096}]
equal_quality:
  {matmul: 0.75, attention: 0.5, memory: 0.82, collective: 0.8, launch_gap: 2 us, collective_start: 5 us, source: ours}
"""
PART = """\
training:
  systems: [asic-8]
  chips: 8
  runs: [{workload: llama-3.1-8b, global_batch: 64, length: 4096}]
  precision: fp8
"""


def test_a_study_that_trains_holds_what_its_file_says(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, TRAINS))
    found = study.experiment
    assert isinstance(found, Train)
    assert (study.serving, study.training) == (None, found)
    assert (found.systems, found.chips) == (("dgx-h100",), 16)
    assert [(run.workload, run.global_batch, run.length) for run in found.runs] == [("llama-3.1-8b", 64, 4096)]
    assert (found.precision, found.software) == ("bf16", "megatron")
    assert found.equal_quality.collective_start == pytest.approx(5e-6)


def test_a_comparison_trains_where_it_has_a_part_for_it(tmp_path: Path, study_text: str) -> None:
    without, with_ = (load_study(write(tmp_path, text)) for text in (study_text, study_text + PART))
    assert (without.training, without.serving) == (None, without.experiment)
    assert (with_.training is not None, with_.serving) == (True, with_.experiment)
    assert with_.training is not None
    assert (with_.training.systems, with_.training.precision) == (("asic-8",), "fp8")


@pytest.mark.parametrize(
    ("old", "new", "field", "line", "said"),
    [
        ("kind: train", "kind: training", "kind", 1, "nearest: train"),
        ("chips: 16\n", "", "chips", None, "is missing"),
        ("chips: 16", "chips: 0", "chips", 4, "greater than or equal to 1"),
        ("chips: 16", "chips: 1.5", "chips", 4, "integer"),
        ("[dgx-h100]", "[]", "systems", 3, "at least 1 item"),
        ("runs: [{workload: llama-3.1-8b, global_batch: 64, length: 4096}]", "runs: []", "runs", 5, "at least 1 item"),
        ("global_batch: 64", "global_batch: many", "runs.0.global_batch", 5, "integer"),
        ("global_batch: 64", "batch: 64", "runs.0.batch", 5, "nearest: global_batch"),
        ("length: 4096", "length: 0", "runs.0.length", 5, "greater than or equal to 1"),
        ("chips: 16", "chips: 16\nprecision: bf61", "precision", 5, "bf16"),
        ("chips: 16", "chips: 16\nsoftwares: megatron", "softwares", 5, "nearest: software"),
        ("chips: 16", "chips: 16\nscenario: {input: 1, output: 1}", "scenario", 5, "unknown field"),
        ("matmul: 0.75", "matmul: 1.75", "equal_quality.matmul", 7, "less than or equal to 1"),
    ],
)
def test_a_fault_in_a_study_that_trains_is_told_where_it_is(
    tmp_path: Path, old: str, new: str, field: str, line: int | None, said: str
) -> None:
    assert old in TRAINS
    error = fault(tmp_path, TRAINS.replace(old, new, 1))
    assert (error.file, error.field, error.line) == (tmp_path / "mine.yaml", field, line)
    assert said in str(error)


def test_a_fault_in_the_training_part_is_told_where_it_is(tmp_path: Path, study_text: str) -> None:
    lines = len(study_text.splitlines())
    error = fault(tmp_path, study_text + PART.replace("chips: 8", "chips: none"))
    assert (error.field, error.line) == ("training.chips", lines + 3)
    error = fault(tmp_path, study_text + PART.replace("length", "lengths"))
    assert (error.field, error.line) == ("training.runs.0.lengths", lines + 4)
