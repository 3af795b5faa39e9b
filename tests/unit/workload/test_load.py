"""From files to models: library names, descriptions in YAML and JSON, hub configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cosim.errors import SpecError
from cosim.overrides import Varied
from cosim.records import structure
from cosim.workload.load import load_model, load_workload, lower_workload
from cosim.workload.model import Model, lower_model
from cosim.workload.network import Network

HUB = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
YAML = """\
name: mine
title: Mine
source: a test
layers: 2
hidden: 64
ffn: 96
heads: 4
kv_heads: 2
head_dim: 16
vocab: 100
gated: true
norm: rms
position: rotary
max_positions: 128
"""


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_shipped_model_loads_by_its_name() -> None:
    model = load_model("llama-3.1-70b")
    assert (model.name, model.layers, model.heads, model.kv_heads) == ("llama-3.1-70b", 80, 64, 8)


def test_a_description_loads_from_yaml(tmp_path: Path) -> None:
    model = load_model(write(tmp_path / "mine.yaml", YAML))
    assert (model.name, model.layers, model.kv_heads, model.tied_embeddings) == ("mine", 2, 2, False)


def test_a_description_loads_from_json(tmp_path: Path, describe: Callable[..., Model]) -> None:
    wanted = describe()
    path = write(tmp_path / "small.json", wanted.model_dump_json(exclude_none=True))
    assert load_model(path) == wanted


def test_a_hub_configuration_is_named_after_its_file_or_folder(tmp_path: Path) -> None:
    text = json.dumps(HUB)
    assert load_model(write(tmp_path / "tiny-llama.json", text)).name == "tiny-llama"
    assert load_model(write(tmp_path / "Tiny-Llama-2" / "config.json", text)).name == "Tiny-Llama-2"


def test_the_users_own_folder_comes_before_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "workloads" / "llama-3.1-8b.yaml", YAML)
    assert load_model("llama-3.1-8b").layers == 32
    monkeypatch.setenv("COSIM_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_model("llama-3.1-8b").layers == 2


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SpecError, match="no workload has this name") as caught:
        load_model("llama-3.1-71b")
    assert "llama-3.1-70b" in str(caught.value.hint)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_model(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "message"),
    [
        ("kv_heads: 2", "kv_haeds: 2", 8, "kv_haeds", "unknown field.*nearest: kv_heads"),
        ("layers: 2", "layers: none", 4, "layers", "valid integer.*'none'"),
        ("heads: 4", "heads: 5", 7, "heads", "multiple of kv_heads"),
        ("norm: rms", "norm: root", 12, "norm", "'rms' or 'layer'"),
    ],
)
def test_a_fault_in_a_file_is_reported_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, field: str, message: str
) -> None:
    # the missing kv_heads also counts where its name is misspelt: the unknown field must not hide it
    text = YAML.replace(f"\n{old}\n", f"\n{new}\n")
    if field == "kv_haeds":
        text += "kv_heads: 2\n"
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(SpecError, match=message) as caught:
        load_model(path)
    assert (str(caught.value.file), caught.value.line, caught.value.field) == (path, line, field)


def test_a_hub_file_of_another_family_is_refused_by_file(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", json.dumps({**HUB, "model_type": "ministral"}))
    with pytest.raises(SpecError, match="nearest: mistral") as caught:
        load_model(path)
    assert str(caught.value.file) == path


def test_a_network_is_loaded_by_its_kind_and_is_no_model() -> None:
    found = load_workload("resnet-50")
    assert isinstance(found, Network)
    assert isinstance(load_workload("llama-3.1-8b"), Model)
    with pytest.raises(SpecError, match="is a network of layers"):
        load_model("resnet-50")


def test_an_unknown_kind_of_workload_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("name: odd\nkind: graph\n", encoding="utf-8")
    with pytest.raises(SpecError, match="unknown kind of workload") as caught:
        load_workload(str(path))
    assert (caught.value.line, caught.value.field, caught.value.value) == (2, "kind", "graph")


def test_both_kinds_of_workload_are_lowered() -> None:
    network = lower_workload(Varied(load_workload("resnet-50")))
    model = lower_workload(Varied(load_workload("llama-3.1-8b")))
    assert (bool(network.network), bool(model.network)) == (True, False)
    assert structure(model) == structure(lower_model(Varied(load_model("llama-3.1-8b"))))
