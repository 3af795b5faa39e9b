"""Parameter counts against those that the makers publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosim import library
from cosim.overrides import Varied
from cosim.workload.graph import parameters
from cosim.workload.load import load_model
from cosim.workload.model import Model, lower_model

SHIPPED = {path.stem: path for path in (library.shipped() / "workloads" / "models").rglob("*.yaml")}

# Elements of the tensors in the makers' checkpoints.
EXACT = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen3-32b": 32_762_123_264,
}
QWEN25_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
GPT2_XL: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_layer": 48,
    "n_embd": 1600,
    "n_head": 25,
    "n_positions": 1024,
    "n_ctx": 1024,
    "vocab_size": 50257,
}


def count(model: Model) -> float:
    return float(parameters(lower_model(Varied(model))))


def from_hub_file(folder: Path, name: str, config: dict[str, Any]) -> Model:
    path = folder / name / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config), encoding="utf-8")
    return load_model(str(path))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_model_has_the_published_number_of_parameters(name: str) -> None:
    model = load_model(str(SHIPPED[name]))
    assert model.published_parameters is not None
    assert count(model) == pytest.approx(model.published_parameters.si, rel=0.005)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_open_models_have_the_parameters_of_their_checkpoints(name: str) -> None:
    assert count(load_model(str(SHIPPED[name]))) == EXACT[name]


@pytest.mark.parametrize(
    ("name", "config", "published", "exact"),
    [("Qwen2.5-7B", QWEN25_7B, 7.6156e9, 7_615_616_512), ("gpt2-xl", GPT2_XL, 1.5576e9, 1_557_611_200)],
)
def test_hub_configurations_have_the_published_number_of_parameters(
    tmp_path: Path, name: str, config: dict[str, Any], published: float, exact: int
) -> None:
    model = from_hub_file(tmp_path, name, config)
    assert model.name == name
    assert count(model) == pytest.approx(published, rel=1e-4)
    assert count(model) == exact


def test_qwen_biases_and_the_window_that_is_switched_off_are_read(tmp_path: Path) -> None:
    model = from_hub_file(tmp_path, "Qwen2.5-7B", QWEN25_7B)
    unbiased = model.model_copy(update={"qkv_bias": False})
    assert count(model) - count(unbiased) == 28 * (28 + 2 * 4) * 128  # layers x (q, k and v heads) x head_dim
    assert (model.window, model.windowed_layers) == (None, 0)


def test_gpt2_counts_its_positions_once_and_its_table_once(tmp_path: Path) -> None:
    model = from_hub_file(tmp_path, "gpt2-xl", GPT2_XL)
    shorter = model.model_copy(update={"max_positions": 512})
    untied = model.model_copy(update={"tied_embeddings": False})
    assert count(model) - count(shorter) == 512 * 1600
    assert count(untied) - count(model) == 50257 * 1600
