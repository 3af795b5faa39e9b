"""What rows name: read once, as the library has it, or the reason why a row cannot be answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosim.hardware.load import load_system
from cosim.mapping.serving import load_serving, lower_serving
from cosim.overrides import Varied
from cosim.records import leaves, structure
from cosim.validation.named import lowered, named_model, named_stack, stack_arrays, system, workload
from cosim.validation.row_system import CannotAnswerError
from cosim.workload.load import load_workload, lower_workload


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "resnet-50"])
def test_a_workload_is_that_of_the_library_without_its_name(name: str) -> None:
    assert workload(name) == load_workload(name)
    plain = lower_workload(Varied(load_workload(name)))
    assert named_model(name) is lowered(name)
    assert lowered(name).name == ""
    assert [leaf.tolist() for leaf in leaves(lowered(name))] == [leaf.tolist() for leaf in leaves(plain)]


def test_models_of_one_family_have_one_structure() -> None:
    assert structure(lowered("llama-3.1-8b")) == structure(lowered("llama-3.1-70b"))
    assert structure(lowered("llama-3.1-8b")) != structure(lowered("mixtral-8x7b"))


def test_systems_and_stacks_are_those_of_the_library() -> None:
    assert system("dgx-h100") == load_system("dgx-h100")
    assert system("dgx-h100") is system("dgx-h100")
    assert named_stack("vllm") == load_serving("vllm")
    plain = lower_serving(load_serving("vllm"))
    assert [leaf.tolist() for leaf in leaves(stack_arrays("vllm"))] == [leaf.tolist() for leaf in leaves(plain)]


def test_what_is_not_there_has_its_reason() -> None:
    with pytest.raises(CannotAnswerError, match="workload none is not in the library"):
        named_model("none")
    with pytest.raises(CannotAnswerError, match=r"workload \(blank\) is not in the library"):
        named_model("")
    with pytest.raises(CannotAnswerError, match="serving stack none is not in the library"):
        named_stack("none")


def test_a_stack_that_cannot_be_read_is_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "accelerators" / "serving"
    folder.mkdir(parents=True)
    (folder / "broken-stack.yaml").write_text("name: broken-stack\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotAnswerError, match="title"):
        named_stack("broken-stack")
