"""Parameter counts against those that the makers publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosim import library
from cosim.overrides import Varied
from cosim.workload.graph import active_parameters, parameters
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


def swiglu(hidden: int, width: int) -> int:
    """Gate, up and down without bias."""
    return 3 * hidden * width


def grouped(hidden: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """Query, key, value and output projections without bias."""
    return hidden * head_dim * (2 * heads + 2 * kv_heads)


def mixtral() -> tuple[int, int, int]:
    """Total, active without the input embedding, that embedding. Jiang et al. 2024, table 1, and the vocabulary."""
    hidden, layers, table = 4096, 32, 32000 * 4096
    common = layers * (grouped(hidden, 32, 8, 128) + 8 * hidden + 2 * hidden) + hidden + table
    expert = swiglu(hidden, 14336)
    return common + layers * 8 * expert + table, common + layers * 2 * expert, table


def qwen3() -> tuple[int, int, int]:
    """The same of Qwen3-235B-A22B: 94 layers, 64 heads and 4 key/value heads of 128 with norms, 8 of 128 experts."""
    hidden, layers, table = 4096, 94, 151_936 * 4096
    common = layers * (grouped(hidden, 64, 4, 128) + 2 * 128 + 128 * hidden + 2 * hidden) + hidden + table
    expert = swiglu(hidden, 1536)
    return common + layers * 128 * expert + table, common + layers * 8 * expert, table


def gpt_oss() -> tuple[int, int, int]:
    """The same of gpt-oss-120b: 36 layers, 64 heads and 8 key/value heads of 64, 4 of 128 experts, all biased."""
    hidden, layers, table = 2880, 36, 201_088 * 2880
    attention = grouped(hidden, 64, 8, 64) + (64 + 2 * 8) * 64 + hidden + 64  # biases of q, k, v and output; sinks
    common = layers * (attention + 128 * hidden + 128 + 2 * hidden) + hidden + table
    expert = swiglu(hidden, 2880) + 2 * 2880 + hidden
    return common + layers * 128 * expert + table, common + layers * 4 * expert, table


def deepseek() -> tuple[int, int, int]:
    """The same of DeepSeek-V3, arXiv:2412.19437, section 4.2, without the multi-token prediction module."""
    hidden, layers, table = 7168, 61, 129_280 * 7168
    query = 1536 * hidden + 1536 + 1536 * 128 * (128 + 64)
    keys = (512 + 64) * hidden + 512 + 512 * 128 * (128 + 128)
    attention = query + keys + 128 * 128 * hidden
    expert = swiglu(hidden, 2048)
    common = layers * (attention + 2 * hidden) + 3 * swiglu(hidden, 18432) + 58 * (256 * hidden + expert)
    common += hidden + table
    return common + 58 * 256 * expert + table, common + 58 * 8 * expert, table


def gpt(layers: int, hidden: int, vocab: int) -> int:
    """A GPT with biases, two shifts of layer norm, 2048 learned positions and one table for both ends."""
    layer = 12 * hidden**2 + (3 + 1 + 4 + 1) * hidden + 4 * hidden
    return layers * layer + 2 * hidden + (vocab + 2048) * hidden


# Published: all weights, those of one token without the input embedding and with it [1e9].
ROUTED: dict[str, tuple[Callable[[], tuple[int, int, int]], float, float, float]] = {
    "mixtral-8x7b": (mixtral, 46.70, 12.75, 12.88),
    "deepseek-v3": (deepseek, 671.03, 36.63, 37.55),
    "qwen3-235b-a22b": (qwen3, 235.09, 21.57, 22.19),
    "gpt-oss-120b": (gpt_oss, 116.83, 5.13, 5.71),
}
GPTS = {
    "megatron-22b": (48, 6144, 51_200, 22e9),
    "gpt3-175b": (96, 12_288, 50_257, 174.6e9),
    "mt-nlg-530b": (105, 20_480, 51_200, 529.6e9),
    "megatron-1t": (128, 25_600, 51_200, 1008e9),
}


@pytest.mark.parametrize("name", sorted(ROUTED))
def test_a_mixture_of_experts_has_the_total_and_active_parameters_of_its_dimensions(name: str) -> None:
    by_hand, total, active, with_table = ROUTED[name]
    counted, used, table = by_hand()
    model = load_model(str(SHIPPED[name]))
    assert count(model) == counted
    assert float(active_parameters(lower_model(Varied(model)))) == used
    assert (counted / 1e9, used / 1e9) == pytest.approx((total, active), rel=0.005)
    assert (used + table) / 1e9 == pytest.approx(with_table, rel=0.005)


@pytest.mark.parametrize(
    ("name", "counts_table"),
    # Mixtral's 12.9 B and Qwen's 22 B hold the input embedding, gpt-oss's 5.13 B do not.
    [("mixtral-8x7b", True), ("gpt-oss-120b", False), ("qwen3-235b-a22b", True)],
)
def test_a_mixture_of_experts_has_the_published_active_parameters(name: str, counts_table: bool) -> None:
    model = load_model(str(SHIPPED[name]))
    assert model.published_active_parameters is not None
    used = float(active_parameters(lower_model(Varied(model)))) + counts_table * model.vocab * model.hidden
    # The makers round to two digits or three.
    assert used == pytest.approx(model.published_active_parameters.si, rel=0.01)


def test_the_37_billion_of_deepseek_v3_lie_between_its_two_counts() -> None:
    _, used, table = deepseek()
    published = load_model(str(SHIPPED["deepseek-v3"])).published_active_parameters
    assert published is not None
    assert used < published.si < used + table


@pytest.mark.parametrize("name", sorted(GPTS))
def test_a_gpt_has_the_parameters_of_its_dimensions(name: str) -> None:
    layers, hidden, vocab, published = GPTS[name]
    model = load_model(str(SHIPPED[name]))
    assert count(model) == gpt(layers, hidden, vocab)
    assert gpt(layers, hidden, vocab) == pytest.approx(published, rel=0.005)
    assert model.published_parameters is not None
    assert model.published_parameters.si == published


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(ROUTED)))
def test_a_dense_model_uses_all_of_itself_for_every_token(name: str) -> None:
    model = load_model(str(SHIPPED[name]))
    table = 0 if model.tied_embeddings else model.vocab * model.hidden
    assert count(model) - float(active_parameters(lower_model(Varied(model)))) == table
