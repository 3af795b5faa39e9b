"""From a file to cells: overrides, several nodes and formats, what cannot be searched as one message with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cosim
from cosim.errors import SpecError
from cosim.explore.experiment import load_study
from cosim.explore.search import SearchInputs
from cosim.explore.search_file import StrategySearch
from cosim.explore.search_inputs import goal_of, read_search, searched_inputs, with_overrides
from cosim.mapping.optimizers import optimized
from cosim.mapping.plan import StateDtype
from cosim.mapping.software import Software, SoftwareArrays
from cosim.overrides import ROOTS, split_overrides
from cosim.schema import validated

pytestmark = pytest.mark.usefixtures("shipped_files_read_once")
TEXT = """\
kind: search
question: Which?
system: dgx-h100
nodes: [1, 2]
workload: llama-3.1-8b
scenario: {global_batch: 16, context: 2048}
precision: [bf16, fp8]
space:
  micro_batch: [1, 2]
  schedule: [1f1b, zb-h1]
  sequence_parallel: on
  context_exchange: ring
objectives: [time_s, maximise: mfu]
constraints: [memory_bytes.total <= 60 GB]
"""


def read(tmp_path: Path, text: str, **overrides: Any) -> SearchInputs:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    study = load_study(str(path))
    assert isinstance(study.experiment, StrategySearch)
    changes = split_overrides({name.replace("__", "."): value for name, value in overrides.items()}, ROOTS)
    inputs, files = read_search(study.experiment, study.document, changes)
    assert files[0] == path
    assert len(files) > 4
    return inputs


def test_a_cell_for_every_number_of_nodes_format_and_choice(tmp_path: Path) -> None:
    inputs = read(tmp_path, TEXT)
    cells = {(cell.nodes, cell.dtype, cell.choices.schedule) for cell in inputs.cells}
    assert len(inputs.cells) == len(cells) == 8
    assert {cell.base.plan.dtype for cell in inputs.cells} == {"bf16", "fp8"}
    for cell in inputs.cells:
        degrees = cell.table["tensor"] * cell.table["pipeline"] * cell.table["context"] * cell.table["data"]
        assert set(degrees.tolist()) == {8.0 * cell.nodes}
    assert inputs.size > inputs.legal == sum(cell.count for cell in inputs.cells)
    assert [goal.text for goal in inputs.goals] == ["least time_s", "most mfu"]


def test_what_is_set_has_one_value(tmp_path: Path) -> None:
    inputs = read(
        tmp_path,
        TEXT,
        system__nodes=4,
        plan__tensor_parallel=2,
        plan__dtype="bf16",
        plan__recompute="full",
        plan__shard=2,
        scenario__global_batch=32,
        workload__layers=16,
    )
    assert list(inputs.systems) == [4]
    assert inputs.grounds[4].batch == 32
    assert {float(cell.base.model.layers) for cell in inputs.cells} == {16.0}
    assert {cell.dtype for cell in inputs.cells} == {"bf16"}
    for cell in inputs.cells:
        assert set(cell.table["tensor"].tolist()) == {2.0}
        assert set(cell.table["recompute"].tolist()) == {2.0}
        assert float(cell.base.plan.shard) == 2.0


def test_software_that_is_set_is_the_software(tmp_path: Path) -> None:
    inputs = read(tmp_path, TEXT, plan__software="nemo")
    assert inputs.study.software == "nemo"


def test_without_nodes_the_system_is_taken_as_it_is(tmp_path: Path) -> None:
    inputs = read(tmp_path, TEXT.replace("nodes: [1, 2]\n", "").replace("precision: [bf16, fp8]\n", ""))
    assert list(inputs.systems) == [1]
    assert {cell.dtype for cell in inputs.cells} == {"bf16"}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("system: dgx-h100", "system: dgx-h10", 3, "no system has this name .*nearest: dgx-h100"),
        ("workload: llama-3.1-8b", "workload: llama", 5, "no workload has this name"),
        ("  micro_batch: [1, 2]", "  micro_batches: [1, 2]", 9, "unknown field .*nearest: micro_batch"),
        ("  micro_batch: [1, 2]", "  tensor: 7", 8, "holds no legal strategy.*chips.*tensor 7"),
        ("  micro_batch: [1, 2]", "  tensor: [4, 8]\n  micro_batch: 32", 8, "holds no legal strategy.*break batch"),
        ("context: 2048", "context: 1048576", 8, "holds no legal strategy.*break positions"),
        ("[bf16, fp8]", "[bf16, nvfp4]", 7, "has no matrix rate on this chip .*nvfp4.*formats of h100"),
        ("global_batch: 16", "globl_batch: 16", 6, "unknown path.*nearest: scenario.global_batch"),
        ("global_batch: 16", "batch: 16", 6, "is not part of train"),
        ("60 GB", "60 s", 14, "wrong unit"),
        ("kind: search", "kind: serch", 1, "unknown kind of experiment .*nearest: search"),
        ("[time_s, maximise: mfu]", "[usd]", 13, "names no number of a result .*nearest: usd_per_token"),
    ],
)
def test_what_cannot_be_searched_is_one_message_at_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in TEXT
    with pytest.raises(SpecError, match=words) as caught:
        read(tmp_path, TEXT.replace(old, new))
    assert (caught.value.file, caught.value.line) == (tmp_path / "mine.yaml", line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plan__tensor_parallel": "all of them"}, "space.tensor"),
        ({"plan__micro_batches": 2}, "use space.micro_batch"),
        ({"plan__kv_dtype": "fp8"}, "is not part of train"),
        ({"plan__latent": "absorbed"}, "is not part of train"),
        ({"plan__nothing": 1}, "unknown path"),
        ({"system__nodes": 0}, "nodes"),
        ({"system__nose": 1}, "unknown path"),
    ],
)
def test_what_is_set_wrongly_is_one_message(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read(tmp_path, TEXT, **change)


def test_goals_on_what_is_unknown_of_a_chip_are_refused(tmp_path: Path) -> None:
    text = TEXT.replace("dgx-h100", "mi210-4gpu").replace("[bf16, fp8]", "bf16").replace("nodes: [1, 2]", "nodes: 2")
    spec = cosim.system("mi210-4gpu").spec
    assert spec.chip.price is None
    with pytest.raises(SpecError, match=r"usd_per_token.*its chip has no price") as caught:
        read(tmp_path, text.replace("[time_s, maximise: mfu]", "[time_s, usd_per_token]"))
    assert caught.value.line == 13
    with pytest.raises(SpecError, match=r"is unknown for this system.*its chip has no price"):
        read(tmp_path, text.replace("memory_bytes.total <= 60 GB", "usd_per_token <= 1"))


def test_arrays_are_not_searched() -> None:
    study = validated(
        StrategySearch,
        {"kind": "search", "question": "", "system": "a", "workload": "b", "objectives": "time_s"},
    )
    varied = cosim.system("dgx-h100").vary({"chip.memory.dram.bandwidth": [3e12, 4e12]})
    with pytest.raises(SpecError, match="no arrays"):
        searched_inputs(study, varied.varied, cosim.workload("llama-3.1-8b").varied)


def test_overrides_of_nothing_change_nothing(tmp_path: Path) -> None:
    inputs = read(tmp_path, TEXT)
    assert with_overrides(inputs.study, {root: {} for root in ROOTS}) == inputs.study


def test_a_date_is_said_in_words() -> None:
    study = {"kind": "search", "question": "", "system": "a", "workload": "b"}
    asked = validated(StrategySearch, {**study, "objectives": [{"finish": {"tokens": 15e12, "days": 60}}]})
    goal = goal_of(asked.objectives[0])
    assert (goal.text, goal.column) == ("fewest chips: 1.5e+13 tokens in 60 days", "chips")
    assert goal.date is not None
    assert goal.date.goodput == 1.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("recompute_modules: moe", "is no module of this model .*moe"),
        ("{recompute_layers: 4, recompute: none}", "says how many layers compute what again"),
        ("optimizer: muo", "no optimizer has this name .*nearest: muon"),
    ],
)
def test_what_the_listed_dimensions_cannot_have_is_one_message(tmp_path: Path, line: str, words: str) -> None:
    own = line if line.startswith("{") else "{" + line + "}"
    text = TEXT[: TEXT.index("space:")] + f"space: {own}\n" + TEXT[TEXT.index("objectives:") :]
    with pytest.raises(SpecError, match=words) as caught:
        read(tmp_path, text)
    assert caught.value.line == 8


def test_cells_have_the_software_with_their_optimizer(tmp_path: Path) -> None:
    text = TEXT.replace("  micro_batch: [1, 2]\n", "  micro_batch: 1\n  optimizer: [adamw, muon]\n")
    inputs = read(tmp_path, text, plan__offload_optimizer=0.5)
    for cell in inputs.cells:
        software = cell.case(slice(0, 1)).software
        assert software is not None
        assert software.update is not None
        assert software.update.name == cell.choices.optimizer
        assert set(cell.table["offload_optimizer"].tolist()) == {0.5}
    assert {cell.choices.optimizer for cell in inputs.cells} == {"adamw", "muon"}


def test_a_format_that_an_optimizer_has_not_is_no_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(software: Software, optimizer: str | None, dtype: StateDtype | None) -> SoftwareArrays:
        if (optimizer, dtype) == ("muon", "int8"):
            raise SpecError("has no bytes of this state", field="plan.optimizer_dtype", value=dtype)
        return optimized(software, optimizer, dtype)

    monkeypatch.setattr("cosim.explore.search_inputs.optimized", without)
    names = "  micro_batch: 1\n  optimizer: [adamw, muon]\n  optimizer_dtype: [fp32, int8]\n"
    text = TEXT.replace("  micro_batch: [1, 2]\n", names)
    inputs = read(tmp_path, text)
    assert set(inputs.updates) == {("adamw", "fp32"), ("adamw", "int8"), ("muon", "fp32")}
    assert {(cell.choices.optimizer, cell.choices.optimizer_dtype) for cell in inputs.cells} == set(inputs.updates)
    with pytest.raises(SpecError, match="has no bytes of this state") as caught:
        read(tmp_path, text.replace("[adamw, muon]", "muon").replace("[fp32, int8]", "int8"))
    assert caught.value.line == 8


def searched_of(**more: Any) -> SearchInputs:
    """Inputs of a small search of training steps."""
    asked = {"kind": "search", "question": "", "scenario": {"global_batch": 8}, "objectives": ["time_s"], **more}
    study = validated(StrategySearch, asked)
    return searched_inputs(study, cosim.system(study.system).varied, cosim.workload(study.workload).varied)


def test_recipes_of_fp8_make_cells_of_fp8_alone() -> None:
    space = {"tensor": 8, "micro_batch": 1, "zero": 1, "virtual_pipeline": 1, "fp8_recipe": ["tensor", "block"]}
    more = {"system": "dgx-h100", "workload": "llama-3.1-8b", "precision": ["bf16", "fp8"], "space": space}
    inputs = searched_of(**more)
    recipes = {(cell.dtype, cell.choices.fp8_recipe) for cell in inputs.cells}
    assert recipes == {("bf16", None), ("fp8", "tensor"), ("fp8", "block")}
    counts = [sum(cell.count for cell in inputs.cells if cell.dtype == dtype) for dtype in ("bf16", "fp8")]
    assert counts[1] == 2 * counts[0]
    for cell in inputs.cells:
        assert cell.case(slice(0, 1)).plan.fp8_recipe == (cell.choices.fp8_recipe or "tensor")


def test_recipes_without_fp8_are_refused() -> None:
    with pytest.raises(SpecError, match="are recipes of fp8"):
        searched_of(system="dgx-h100", workload="llama-3.1-8b", space={"fp8_recipe": "block"})
