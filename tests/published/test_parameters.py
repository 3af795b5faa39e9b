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
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x22b": 140_620_634_112,
    "gpt2-large": 774_030_080,
    # The benchmark states the parameters of every run; these are those of 2,048 tokens.
    "mpt-125m": 125_311_488,
    "mpt-350m": 355_985_408,
    "mpt-760m": 760_470_528,
    "mpt-1b": 1_315_950_592,
    "mpt-3b": 2_651_837_440,
    "mpt-7b": 6_658_859_008,
    "mpt-13b": 12_853_954_560,
    "mpt-30b": 29_975_214_080,
    "mpt-70b": 64_862_437_376,
}
# Checkpoints hold what these descriptions say that they leave out.
LEFT_OUT = {
    "gpt-j-6b": (6_050_882_784, 50_400),  # the bias of the head
    "bloom-176b": (176_247_271_424, 2 * 14_336),  # the norm of the embedding
    "opt-1.3b": (1_315_758_080, 2 * 2048),  # two positions before the first
}
# Counts that are stated so roundly that half of their last digit is more than the tolerance.
ROUNDED = {"gpt-1.7b": 0.05e9, "gpt-3.6b": 0.05e9, "falcon-180b": 5e9, "grok-1": 2e9, "nemotron-h-56b": 0.5e9}
ROUNDED |= {"nemotron-3-super-120b-a12b": 1e9}
# Workloads of measured runs whose size nobody states: their names are the size, or the shape.
UNSTATED = {
    *(f"gpt-h{hidden}-l{layers}" for hidden in (1024, 2048) for layers in (12, 16, 20, 24)),
    *(f"gpt-{size}" for size in ("350m", "1.3b", "6.7b", "20b", "89b")),
    "gpt3-xl-hidden-2048",  # its table's 1.3 B are fewer than its dimensions give
    "gemma4-31b",  # 30.1 B by its dimensions; what a layer has beside them is carried over
    *("llama3-70b-12layers", "llama3.1-405b-4layers", "deepseek2-236b-4layers", "deepseek3-671b-4layers"),
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


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - UNSTATED))
def test_a_shipped_model_has_the_published_number_of_parameters(name: str) -> None:
    model = load_model(str(SHIPPED[name]))
    assert model.published_parameters is not None
    published = model.published_parameters.si
    assert count(model) == pytest.approx(published, abs=max(0.005 * published, ROUNDED.get(name, 0.0)))


def test_a_model_without_a_published_count_says_none() -> None:
    assert {name for name in SHIPPED if load_model(str(SHIPPED[name])).published_parameters is None} == UNSTATED


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_a_description_leaves_out_is_all_that_its_checkpoint_has_more(name: str) -> None:
    checkpoint, missing = LEFT_OUT[name]
    assert count(load_model(str(SHIPPED[name]))) == checkpoint - missing


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


def gpt(layers: int, hidden: int, vocab: int, positions: int = 2048) -> int:
    """A GPT with biases, two shifts of layer norm, learned positions and one table for both ends."""
    layer = 12 * hidden**2 + (3 + 1 + 4 + 1) * hidden + 4 * hidden
    return layers * layer + 2 * hidden + (vocab + positions) * hidden


def experts(model: Model, layer: int, chosen: int, expert: int, *, dense: int = 0) -> tuple[int, int, int]:
    """Total, active without the input embedding, that embedding.

    `layer` weights of each layer beside its routed experts, `dense` more of each dense one; the last norm, and a head
    that is a table of its own or the same.
    """
    table, routed = model.vocab * model.hidden, model.layers - model.dense_layers
    common = model.layers * layer + model.dense_layers * dense + model.hidden + table
    extra = 0 if model.tied_embeddings else table
    total = common + extra + routed * (model.experts or 0) * expert
    return total, common + routed * chosen * expert, extra


def kimi() -> tuple[int, int, int]:
    """DeepSeek-V3's layers with 64 heads and 384 experts, one dense: Kimi K2, arXiv:2507.20534."""
    hidden, layers, table = 7168, 61, 163_840 * 7168
    query = 1536 * hidden + 1536 + 1536 * 64 * (128 + 64)
    keys = (512 + 64) * hidden + 512 + 512 * 64 * (128 + 128)
    expert = swiglu(hidden, 2048)
    common = layers * (query + keys + 64 * 128 * hidden + 2 * hidden) + swiglu(hidden, 18432)
    common += 60 * (384 * hidden + expert) + hidden + table
    return common + 60 * 384 * expert + table, common + 60 * 8 * expert, table


def glm_5() -> tuple[int, int, int]:
    """DeepSeek-V3's layers with 64 heads of 192 + 64 and values of 256, an index, 256 experts; three are dense."""
    hidden, layers, table = 6144, 78, 154_880 * 6144
    query = 2048 * hidden + 2048 + 2048 * 64 * (192 + 64)
    keys = (512 + 64) * hidden + 512 + 512 * 64 * (192 + 256)
    index = 2048 * 32 * 128 + hidden * 128 + 2 * 128 + hidden * 32
    expert = swiglu(hidden, 2048)
    common = layers * (query + keys + index + 64 * 256 * hidden + 2 * hidden) + 3 * swiglu(hidden, 12_288)
    common += 75 * (256 * hidden + expert) + hidden + table
    return common + 75 * 256 * expert + table, common + 75 * 8 * expert, table


def qwen35() -> tuple[int, int, int]:
    """Qwen3.5-397B-A17B: 45 layers of the gated delta rule, 15 of gated attention, 10 of 512 experts and a shared one.

    Its checkpoint has a gate of the shared expert besides: 60 x 4,096.
    """
    hidden, layers, table = 4096, 60, 248_320 * 4096
    keys, values = 16 * 128, 64 * 128
    linear = hidden * (2 * keys + 2 * values + 2 * 64) + values * hidden + 4 * (2 * keys + values) + 2 * 64 + 128
    attention = hidden * 256 * (2 * 32 + 2 * 2) + 32 * 256 * hidden + 2 * 256
    expert = swiglu(hidden, 1024)
    common = 45 * linear + 15 * attention + layers * (512 * hidden + expert + 2 * hidden) + hidden + table
    return common + layers * 512 * expert + table, common + layers * 10 * expert, table


# Weights of a layer beside its routed experts, of one expert, experts of a token, what a dense layer has more.
BY_HAND: dict[str, tuple[int, int, int, int]] = {
    "mixtral-8x22b": (grouped(6144, 48, 8, 128) + (8 + 2) * 6144, swiglu(6144, 16384), 2, 0),
    "grok-1": (grouped(6144, 48, 8, 128) + (8 + 4) * 6144, swiglu(6144, 32768), 2, 0),  # four norms
    "qwen3-30b-a3b": (grouped(2048, 32, 4, 128) + 256 + (128 + 2) * 2048, swiglu(2048, 768), 8, 0),
    "qwen3-coder-480b-a35b": (grouped(6144, 96, 8, 128) + 256 + (160 + 2) * 6144, swiglu(6144, 2560), 8, 0),
    "minimax-m2.5": (grouped(3072, 48, 8, 128) + 256 + (256 + 2) * 3072, swiglu(3072, 1536), 8, 0),
    # The shared expert, which every token passes.
    "llama-4-scout": (
        grouped(5120, 40, 8, 128) + 256 + (16 + 2) * 5120 + swiglu(5120, 8192), swiglu(5120, 8192), 1, 0,
    ),
    # Of 48 layers 24 are routed: their router and shared expert come on top of what all layers have.
    "llama-4-maverick": (
        grouped(5120, 40, 8, 128) + (128 + 2) * 5120 + swiglu(5120, 8192), swiglu(5120, 8192), 1,
        swiglu(5120, 16384) - swiglu(5120, 8192) - 128 * 5120,
    ),
    # Biases of q, k, v, output and router, and a sink a head; a bias of every expert's three products.
    "gpt-oss-20b": (
        grouped(2880, 64, 8, 64) + (64 + 16) * 64 + 2880 + 64 + 32 * 2880 + 32 + 2 * 2880,
        swiglu(2880, 2880) + 2 * 2880 + 2880, 4, 0,
    ),
}  # fmt: skip


# Published: all weights, those of one token without the input embedding and with it [1e9].
ROUTED: dict[str, tuple[Callable[[], tuple[int, int, int]], float, float, float]] = {
    "mixtral-8x7b": (mixtral, 46.70, 12.75, 12.88),
    "deepseek-v3": (deepseek, 671.03, 36.63, 37.55),
    "qwen3-235b-a22b": (qwen3, 235.09, 21.57, 22.19),
    "gpt-oss-120b": (gpt_oss, 116.83, 5.13, 5.71),
    "deepseek-r1": (deepseek, 671.03, 36.63, 37.55),
    "kimi-k2.5": (kimi, 1026.4, 31.69, 32.86),
    "glm-5": (glm_5, 743.9, 40.83, 41.78),
    "qwen3.5-397b-a17b": (qwen35, 396.35, 16.33, 17.35),
}
GPTS = {
    "megatron-22b": (48, 6144, 51_200, 22e9),
    "gpt3-175b": (96, 12_288, 50_257, 174.6e9),
    "mt-nlg-530b": (105, 20_480, 51_200, 529.6e9),
    "megatron-1t": (128, 25_600, 51_200, 1008e9),
    "gpt-22b": (48, 6144, 51_200, 22e9),
    "gpt-1t": (128, 25_600, 51_200, 1008e9),
    "gpt-7.5b": (36, 4096, 51_200, 7.5e9),
    "gpt-18.4b": (40, 6144, 51_200, 18.4e9),
    "gpt-39.1b": (48, 8192, 51_200, 39.1e9),
    "gpt-76.1b": (60, 10_240, 51_200, 76.1e9),
    "gpt-145.6b": (80, 12_288, 51_200, 145.6e9),
    "gpt-529.6b": (105, 20_480, 51_200, 529.6e9),
    "gpt-1008.0b": (128, 25_600, 51_200, 1008e9),
    "bloom-proto-176b": (70, 14_336, 250_000, 176e9),
    "bloom-proto-177b": (96, 12_288, 250_000, 177e9),
    "bloom-proto-178b": (82, 13_312, 250_000, 178e9),
    "bloom-proto-181b": (72, 14_336, 250_000, 181e9),
    "bloom-proto-182b": (78, 13_824, 250_000, 182e9),
    "bloom-proto-195b": (106, 12_288, 250_000, 195e9),
    "bloom-proto-203b": (94, 13_312, 250_000, 203e9),
}
# The same formula; of the first ones the size is a name, or rounder than its tolerance.
UNROUNDED: dict[str, tuple[int, ...]] = {
    "gpt-350m": (24, 1024, 51_200),
    "gpt-1.3b": (24, 2048, 51_200),
    "gpt-6.7b": (32, 4096, 51_200),
    "gpt-20b": (44, 6144, 51_200),
    "gpt-89b": (48, 12_288, 51_200),
    "gpt-1.7b": (24, 2304, 51_200),
    "gpt-3.6b": (30, 3072, 51_200),
    **{
        f"gpt-h{hidden}-l{layers}": (layers, hidden, 51_200, 1024)
        for hidden in (1024, 2048)
        for layers in (12, 16, 20, 24)
    },
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


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_a_mixture_of_experts_has_the_parameters_of_its_layers_by_hand(name: str) -> None:
    layer, expert, chosen, dense = BY_HAND[name]
    model = load_model(str(SHIPPED[name]))
    total, used, _ = experts(model, layer, chosen, expert, dense=dense)
    assert (count(model), float(active_parameters(lower_model(Varied(model))))) == (total, used)


@pytest.mark.parametrize(
    ("name", "counts_table"),
    # Mixtral's 12.9 B and Qwen's 22 B hold the input embedding, gpt-oss's 5.13 B do not.
    [
        ("mixtral-8x7b", True),
        ("mixtral-8x22b", True),
        ("gpt-oss-120b", False),
        ("gpt-oss-20b", False),
        ("qwen3-235b-a22b", True),
        ("kimi-k2.5", False),
    ],
)
def test_a_mixture_of_experts_has_the_published_active_parameters(name: str, counts_table: bool) -> None:
    model = load_model(str(SHIPPED[name]))
    assert model.published_active_parameters is not None
    used = float(active_parameters(lower_model(Varied(model)))) + counts_table * model.vocab * model.hidden
    # The makers round to two digits or three.
    assert used == pytest.approx(model.published_active_parameters.si, rel=0.01)


@pytest.mark.parametrize("name", ["llama-4-scout", "llama-4-maverick", "qwen3-30b-a3b", "qwen3-coder-480b-a35b"])
def test_active_parameters_that_are_published_roundly_lie_between_the_two_counts(name: str) -> None:
    model = load_model(str(SHIPPED[name]))
    assert model.published_active_parameters is not None
    used = float(active_parameters(lower_model(Varied(model))))
    assert used < model.published_active_parameters.si < used + model.vocab * model.hidden


@pytest.mark.parametrize(
    ("proxy", "whole", "left"),
    [
        ("llama3-70b-12layers", "llama-3-70b", 12),
        ("llama3.1-405b-4layers", "llama-3.1-405b", 4),
        ("deepseek3-671b-4layers", "deepseek-v3", 4),
    ],
)
def test_a_proxy_is_the_whole_model_with_fewer_layers(proxy: str, whole: str, left: int) -> None:
    cut, full = load_model(str(SHIPPED[proxy])), load_model(str(SHIPPED[whole]))
    kept = {"layers": left, "dense_layers": min(full.dense_layers, 1)}
    described = {"name", "title", "source", "quantised", "published_parameters", "published_active_parameters"}
    assert cut.model_dump(exclude=described) == {**full.model_dump(exclude=described), **kept}


def test_four_layers_of_deepseek_v2_by_hand() -> None:
    """arXiv:2405.04434, section 3.1: 160 experts of 1536, two shared, the first layer dense."""
    hidden, table = 5120, 102_400 * 5120
    query = 1536 * hidden + 1536 + 1536 * 128 * (128 + 64)
    keys = (512 + 64) * hidden + 512 + 512 * 128 * (128 + 128)
    layer = query + keys + 128 * 128 * hidden + 2 * hidden
    routed = 160 * hidden + (160 + 2) * swiglu(hidden, 1536)
    by_hand = 4 * layer + swiglu(hidden, 12_288) + 3 * routed + hidden + 2 * table
    assert count(load_model(str(SHIPPED["deepseek2-236b-4layers"]))) == by_hand


def test_palm_shares_one_key_and_value_head_and_one_norm_a_layer() -> None:
    """Table 1 of the paper; of its norms' shifts, which it has not, there is one a layer and the last."""
    hidden, layers = 18_432, 118
    layer = grouped(hidden, 48, 1, 256) + swiglu(hidden, 73_728) + 2 * hidden
    assert count(load_model(str(SHIPPED["palm-540b"]))) == layers * layer + 256_000 * hidden + 2 * hidden


def test_falcon_norms_each_block_of_a_layer_apart() -> None:
    hidden, layers = 14_848, 80
    layer = grouped(hidden, 232, 8, 64) + 2 * hidden * 59_392 + 2 * 2 * hidden
    assert count(load_model(str(SHIPPED["falcon-180b"]))) == layers * layer + 65_024 * hidden + 2 * hidden


def test_nemotron_has_its_published_embeddings_and_the_rest_apart() -> None:
    for name, embeddings, rest in (("nemotron4-15b", 3.2e9, 12.5e9), ("nemotron4-340b", 9.4e9, 331.6e9)):
        model = load_model(str(SHIPPED[name]))
        tables = 2 * model.vocab * model.hidden
        assert tables == pytest.approx(embeddings, rel=0.02)  # published with one digit
        assert count(model) - tables == pytest.approx(rest, rel=0.005)


def test_gemma_has_its_published_embedding_and_four_norms_a_layer() -> None:
    model = load_model(str(SHIPPED["gemma3-12b"]))
    table = model.vocab * model.hidden
    assert table == pytest.approx(1012e6, rel=0.01)
    layer = grouped(3840, 16, 8, 256) + 2 * 256 + swiglu(3840, 15_360) + 4 * 3840
    assert count(model) == table + 48 * layer + 3840


@pytest.mark.parametrize("name", sorted(UNROUNDED))
def test_a_gpt_whose_size_is_a_name_has_the_parameters_of_its_dimensions(name: str) -> None:
    assert count(load_model(str(SHIPPED[name]))) == gpt(*UNROUNDED[name])


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


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_dense_model_uses_all_of_itself_for_every_token_and_a_routed_one_does_not(name: str) -> None:
    model = load_model(str(SHIPPED[name]))
    table = 0 if model.tied_embeddings else model.vocab * model.hidden
    unused = count(model) - float(active_parameters(lower_model(Varied(model))))
    assert unused == table if model.experts is None else unused > table
